"""Augmentation: albumentations in two dimensions, a small set of our own in three.

A transform is a callable ``(image, label, rng) -> (image, label)`` on ``(x, y, c)`` or ``(x, y, z, c)`` float32 images
and integer labels without channel axis. Labels are moved with nearest neighbours, never blended.
"""

from collections.abc import Callable, Sequence

import albumentations
import cv2
import numpy as np
from scipy import ndimage

Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def slices(
    *, flips: tuple[int, ...] = (0, 1), rotate: float = 15, scale: float = 0.1, gain: float = 0.1, noise: float = 0.0
) -> Transform:
    """Random flips, one affine map and a change of brightness and contrast for 2D images.

    Parameters
    ----------
    flips : axes
        Array axes that may be flipped (each with probability ½).
    rotate, scale : float
        Largest angle in degrees, largest relative change of size; applied to three images in four.
    gain : float
        Largest relative change of contrast, and of brightness in units of the image's own scale.
    noise : float
        Largest standard deviation of added Gaussian noise.
    """
    steps = [
        step for axis, step in ((0, albumentations.VerticalFlip), (1, albumentations.HorizontalFlip)) if axis in flips
    ]
    moves = [step(p=0.5) for step in steps]
    if rotate or scale:
        moves.append(
            albumentations.Affine(
                rotate=(-rotate, rotate), scale=(1 - scale, 1 + scale), interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_REPLICATE, p=0.75,
            )
        )  # fmt: skip
    compose = albumentations.Compose(moves)

    def transform(image, label, rng):
        compose.set_random_seed(int(rng.integers(2**31)))
        out = compose(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(label))
        image, label = out["image"].reshape(image.shape), out["mask"]
        return _intensities(image, rng, gain, noise), label

    transform.settings = {"flips": list(flips), "rotate": rotate, "scale": scale, "gain": gain, "noise": noise}
    return transform


def volumes(
    *,
    flips: tuple[int, ...] = (0,),
    rotate: float | Sequence[float] = 10,
    scale: float = 0.1,
    gain: float = 0.1,
    noise: float = 0.0,
    gamma: float = 0.0,
    shape: Sequence[int] | None = None,
    shift: float | None = None,
) -> Transform:
    """The same for 3D ``(x, y, z, c)``: flips along ``flips``, one affine map, contrast and noise.

    Parameters
    ----------
    rotate : float or three
        Largest angle in degrees, about each axis.
    scale : float
        Largest relative change of size, along each axis by itself.
    gamma : float
        Largest relative change of the exponent of intensities, between the image's own ends.
    shape : three ints, optional
        Cut a box of this shape out of the volume by the same affine map (one interpolation); default the volume's own shape.
        What lies outside the volume repeats its edge, and is 0 in the label.
    shift : float or None
        With ``shape``: the box lies anywhere in the volume, and up to so many voxels beyond. None: in the middle, to a whole
        voxel.

    Notes
    -----
    An integer label is moved with nearest neighbours. A float label (the share of a coarse voxel that is foreground) is
    interpolated like an image.
    """  # fmt: skip
    angles = np.broadcast_to(np.asarray(rotate, float), 3)

    def transform(image, label, rng):
        for axis in flips:
            if rng.random() < 0.5:
                image, label = np.flip(image, axis), np.flip(label, axis)
        size = np.array(label.shape if shape is None else shape)
        moved = (angles.any() or scale) and rng.random() < 0.75
        if moved or shape is not None:
            turn = _rotation(np.deg2rad(rng.uniform(-angles, angles))) if moved else np.eye(3)
            matrix = turn / rng.uniform(1 - scale, 1 + scale, 3) if moved else turn
            spare = np.array(label.shape) - size
            middle = (size - 1) / 2 + spare // 2
            if shift is not None:
                room = np.maximum(spare, 0) / 2 + shift
                middle = (np.array(label.shape) - 1) / 2 + rng.uniform(-room, room)
            place = {"matrix": matrix, "offset": middle - matrix @ ((size - 1) / 2), "output_shape": tuple(size)}
            channels = [
                ndimage.affine_transform(c, order=1, mode="nearest", **place) for c in np.moveaxis(image, -1, 0)
            ]
            image = np.stack(channels, axis=-1)
            soft = np.issubdtype(label.dtype, np.floating)
            label = ndimage.affine_transform(
                label, order=1 if soft else 0, mode="constant" if shape else "nearest", **place
            )
        if gamma:
            low, high = float(image.min()), float(image.max())
            unit = (image - low) / max(high - low, 1e-12)
            image = low + (high - low) * unit ** rng.uniform(1 - gamma, 1 + gamma)
        return _intensities(np.ascontiguousarray(image), rng, gain, noise), np.ascontiguousarray(label)

    transform.settings = {
        "flips": list(flips), "rotate": angles.tolist(), "scale": scale, "gain": gain, "noise": noise, "gamma": gamma,
        "shape": None if shape is None else list(shape), "shift": shift,
    }  # fmt: skip
    return transform


def _intensities(image, rng, gain: float, noise: float):
    if gain:
        spread = float(image.std())
        image = image * np.float32(rng.uniform(1 - gain, 1 + gain)) + np.float32(rng.uniform(-gain, gain) * spread)
    if noise:
        image = image + rng.normal(0, rng.uniform(0, noise), image.shape)
    return image.astype(np.float32, copy=False)


def _rotation(angles) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix
