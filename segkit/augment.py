"""Augmentation: albumentations in two dimensions, a small set of our own in three.

A transform is a callable ``(image, label, rng) -> (image, label)`` on ``(x, y, c)`` or ``(x, y, z, c)`` float32 images
and integer labels without channel axis. Labels are moved with nearest neighbours, never blended.
"""

from collections.abc import Callable

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
    *, flips: tuple[int, ...] = (0,), rotate: float = 10, scale: float = 0.1, gain: float = 0.1, noise: float = 0.0
) -> Transform:
    """The same for 3D patches ``(x, y, z, c)``: flips along ``flips``, one rotation and scaling, contrast and noise."""

    def transform(image, label, rng):
        for axis in flips:
            if rng.random() < 0.5:
                image, label = np.flip(image, axis), np.flip(label, axis)
        if (rotate or scale) and rng.random() < 0.75:
            matrix = _rotation(np.deg2rad(rng.uniform(-rotate, rotate, 3))) / rng.uniform(1 - scale, 1 + scale)
            middle = (np.array(label.shape) - 1) / 2
            place = {"matrix": matrix, "offset": middle - matrix @ middle, "mode": "nearest"}
            channels = [ndimage.affine_transform(c, order=1, **place) for c in np.moveaxis(image, -1, 0)]
            image, label = np.stack(channels, axis=-1), ndimage.affine_transform(label, order=0, **place)
        return _intensities(np.ascontiguousarray(image), rng, gain, noise), np.ascontiguousarray(label)

    transform.settings = {"flips": list(flips), "rotate": rotate, "scale": scale, "gain": gain, "noise": noise}
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
