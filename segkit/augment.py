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
    *,
    flips: tuple[int, ...] = (0, 1),
    rotate: float = 15,
    scale: float = 0.1,
    bend: float = 0.0,
    gain: float = 0.1,
    gamma: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
    sequences: int = 1,
) -> Transform:
    """Random flips, one affine map and a change of brightness and contrast for 2D images.

    Parameters
    ----------
    flips : axes
        Array axes that may be flipped (each with probability ½).
    rotate, scale : float
        Largest angle in degrees, largest relative change of size along each axis; applied to three images in four.
    bend : float
        Standard deviation in pixels of a displacement that changes over some 8 pixels; applied to three images in ten.
    gain : float
        Largest relative change of contrast, and of brightness in units of the image's own scale.
    gamma : float
        Largest relative change of the exponent of intensities, between the image's own ends; three in ten.
    noise : float
        Largest standard deviation of added Gaussian noise.
    blur : float
        Largest standard deviation in pixels of a Gaussian; two in ten.
    sequences : int
        Channels c, c + sequences, c + 2 · sequences, … are one MR sequence; intensities of each change by themselves.
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
    if bend:
        sigma = 8.0  # uniform numbers in ±1, smoothed by it, have a standard deviation of 1 / (2 √(3 π) · 8)
        alpha = bend * 2 * np.sqrt(3 * np.pi) * sigma
        moves.append(
            albumentations.ElasticTransform(
                alpha=alpha, sigma=sigma, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_REPLICATE, noise_distribution="uniform", p=0.3,
            )
        )  # fmt: skip
    compose = albumentations.Compose(moves)

    def transform(image, label, rng):
        compose.set_random_seed(int(rng.integers(2**31)))
        out = compose(image=np.ascontiguousarray(image, dtype=np.float32), mask=np.ascontiguousarray(label))
        image, label = out["image"].reshape(image.shape), out["mask"]
        if sequences == 1 and not gamma and not blur:
            return _intensities(image, rng, gain, noise), label
        image = image.astype(np.float32)
        for first in range(sequences):
            chosen = [bool(share) and rng.random() < often for share, often in ((gamma, 0.3), (blur, 0.2))]
            if any(chosen):
                part = np.ascontiguousarray(image[..., first::sequences])
                if chosen[0]:
                    part = _gamma(part, rng.uniform(1 - gamma, 1 + gamma))
                if chosen[1]:
                    part = cv2.GaussianBlur(part, (0, 0), rng.uniform(0.1, blur)).reshape(part.shape)
                image[..., first::sequences] = part
        return _intensities(image, rng, gain, noise, sequences), label

    transform.settings = {"flips": list(flips), "rotate": rotate, "scale": scale, "gain": gain, "noise": noise}
    further = {"bend": bend, "gamma": gamma, "blur": blur}
    transform.settings |= {k: v for k, v in further.items() if v} | ({"sequences": sequences} if sequences > 1 else {})
    return transform


def _gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    """Intensities between the image's own ends to the power of ``exponent``."""
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return image
    return ((image - low) / (high - low)) ** np.float32(exponent) * np.float32(high - low) + np.float32(low)


def volumes(
    *,
    flips: tuple[int, ...] = (0,),
    rotate: float | Sequence[float] = 10,
    scale: float = 0.1,
    stretch: float = 0.0,
    shear: float = 0.0,
    bend: float = 0.0,
    gain: float = 0.1,
    gamma: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
    shade: float = 0.0,
    shape: Sequence[int] | None = None,
    shift: float | None = None,
) -> Transform:
    """The same for 3D ``(x, y, z, c)``: flips along ``flips``, one map of space, other intensities.

    Parameters
    ----------
    rotate : float or three
        Largest angle in degrees, about each axis. The affine map is applied to three volumes in four.
    scale, stretch : float
        Largest relative change of size, of the whole and along each axis by itself.
    shear : float
        Largest shift along one axis for each voxel along another.
    bend : float
        Standard deviation in voxels of a displacement that changes over some 16 voxels; applied to three in ten.
    gain : float
        Largest relative change of contrast, and of brightness in units of the image's own scale.
    gamma : float
        Largest relative change of the exponent of intensities, between the image's own ends; three in ten.
    noise, blur : float
        Largest standard deviation of added Gaussian noise, and of smoothing in voxels (along each axis by itself); three in ten.
    shade : float
        Log standard deviation of a smooth factor over the volume; three in ten.
    shape : three ints, optional
        Cut a box of this shape out of the volume by the same map (one interpolation); default the volume's own shape. What lies
        outside the volume repeats its edge, and is 0 in the label.
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
        matrix = _affine(rng, angles, scale, stretch, shear) if rng.random() < 0.75 else np.eye(3)
        spare = np.array(label.shape) - size
        middle = (size - 1) / 2 + spare // 2
        if shape is not None and shift is not None:
            room = np.maximum(spare, 0) / 2 + shift
            middle = (np.array(label.shape) - 1) / 2 + rng.uniform(-room, room)
        field = rng.normal(0, bend, (3, *np.maximum(2, -(-size // 16)))) if bend and rng.random() < 0.3 else None
        if shape is not None or field is not None or not np.array_equal(matrix, np.eye(3)):
            soft = np.issubdtype(label.dtype, np.floating)
            outside = "nearest" if shape is None else "constant"
            move = _mover(matrix, middle - matrix @ ((size - 1) / 2), tuple(size), field)
            image = np.stack([move(c, 1, "nearest") for c in np.moveaxis(image, -1, 0)], axis=-1)
            label = move(label, 1 if soft else 0, outside)
        if blur and rng.random() < 0.3:
            image = ndimage.gaussian_filter(image, (*rng.uniform(0, blur, 3), 0))
        if shade and rng.random() < 0.3:
            image = image * np.exp(_spread(rng.normal(0, shade, (3, 3, 3)), image.shape[:3]))[..., None]
        if gamma and rng.random() < 0.3:
            image = _gamma(image, rng.uniform(1 - gamma, 1 + gamma))
        image = _intensities(np.ascontiguousarray(image), rng, gain, noise if rng.random() < 0.3 or not shape else 0.0)
        return image, np.ascontiguousarray(label)

    transform.settings = {
        "flips": list(flips), "rotate": angles.tolist(), "scale": scale, "stretch": stretch, "shear": shear, "bend": bend, "gain": gain,
        "gamma": gamma, "noise": noise, "blur": blur, "shade": shade, "shape": None if shape is None else list(shape), "shift": shift,
    }  # fmt: skip
    return transform


def _affine(rng: np.random.Generator, angles, scale: float, stretch: float, shear: float) -> np.ndarray:
    """Matrix from the output's voxels to the input's, about their middles."""
    size = rng.uniform(1 - scale, 1 + scale) * rng.uniform(1 - stretch, 1 + stretch, 3)
    slide = np.eye(3) + rng.uniform(-shear, shear, (3, 3)) * (1 - np.eye(3))
    return _rotation(np.deg2rad(rng.uniform(-angles, angles))) / size @ slide


def _mover(matrix: np.ndarray, offset: np.ndarray, size: tuple[int, ...], field: np.ndarray | None):
    """``move(array, order, mode)``: the affine map, after a displacement where there is a ``field`` (3, coarse grid)."""
    if field is None:
        return lambda array, order, mode: ndimage.affine_transform(
            array, matrix, offset, output_shape=size, order=order, mode=mode
        )
    voxels = np.indices(size, dtype=np.float32) + np.stack([_spread(f, size) for f in field])
    where = np.tensordot(matrix.astype(np.float32), voxels, 1) + offset.astype(np.float32)[:, None, None, None]
    return lambda array, order, mode: ndimage.map_coordinates(array, where, order=order, mode=mode)


def _spread(coarse: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A coarse grid stretched over ``shape``, linearly between its corners."""
    steps = [(n - 1) / max(m - 1, 1) for n, m in zip(coarse.shape, shape, strict=True)]
    return ndimage.affine_transform(
        coarse.astype(np.float32), steps, output_shape=tuple(shape), order=1, mode="nearest"
    )


def _intensities(image, rng, gain: float, noise: float, sequences: int = 1):
    if gain:
        spread = float(image.std())
        factor, offset = rng.uniform(1 - gain, 1 + gain, sequences), rng.uniform(-gain, gain, sequences) * spread
        # channels of a sequence lie ``sequences`` apart, so they repeat along the last axis
        repeats = image.shape[-1] // sequences if sequences > 1 else 1
        image = image * np.tile(factor, repeats).astype(np.float32) + np.tile(offset, repeats).astype(np.float32)
    if noise:
        image = image + np.float32(rng.uniform(0, noise)) * rng.standard_normal(image.shape, dtype=np.float32)
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
