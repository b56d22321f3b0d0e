"""Cutting arrays into patches and putting them together again, in any dimension."""

from collections.abc import Iterator
from itertools import product

import numpy as np


def patchify(array: np.ndarray, size, step=None) -> np.ndarray:
    """Cut ``array`` into patches on a regular grid.

    Parameters
    ----------
    array : ndarray of d dimensions
    size, step : int or d ints
        Voxels; ``step`` defaults to ``size`` (patches side by side).

    Returns
    -------
    ndarray of 2d dimensions
        Grid dimensions first, then patch dimensions.

    Raises
    ------
    ValueError
        Unless array − patch is a multiple of the step along every axis: nothing is dropped in silence.

    >>> patchify(np.arange(6), 4, 2).tolist()
    [[0, 1, 2, 3], [2, 3, 4, 5]]
    """
    array = np.asarray(array)
    size, step = _per_axis(size, array.ndim, "size"), _per_axis(size if step is None else step, array.ndim, "step")
    for n, p, s in zip(array.shape, size, step, strict=True):
        if p > n or (n - p) % s:
            raise ValueError(
                f"patches of {size} every {step} do not fit an array of shape {array.shape}: array − patch must be a "
                f"multiple of the step along every axis; pad or crop the array, or choose another step"
            )
    view = np.lib.stride_tricks.sliding_window_view(array, size)
    return view[tuple(slice(None, None, s) for s in step)].copy()


def unpatchify(patches: np.ndarray, shape, step=None, *, window: str = "mean") -> np.ndarray:
    """Put the patches of :func:`patchify` together; overlaps are averaged.

    Parameters
    ----------
    patches : ndarray of 2d dimensions
        Grid dimensions first, then patch dimensions.
    shape : d ints
        Shape of the array to rebuild.
    window : {"mean", "gaussian"}
        Equal weights, or weights that fall off towards the patch's border.

    Returns
    -------
    ndarray
        In the patches' own type (integers are rounded).
    """
    patches, shape = np.asarray(patches), tuple(int(n) for n in np.atleast_1d(shape))
    d = len(shape)
    if patches.ndim != 2 * d:
        raise ValueError(
            f"patches of {patches.ndim} dimensions do not rebuild a {d}D array: {2 * d} are needed (grid, patch)"
        )
    grid, size = patches.shape[:d], patches.shape[d:]
    step = _per_axis(size if step is None else step, d, "step")
    expected = tuple((n - p) // s + 1 for n, p, s in zip(shape, size, step, strict=True))
    if grid != expected or any((n - p) % s or p > n for n, p, s in zip(shape, size, step, strict=True)):
        raise ValueError(
            f"a grid of {grid} patches {size} every {step} does not make shape {shape}; it needs {expected}"
        )
    # float64 sums give back float32 and integers exactly
    weights = np.ones(size) if window == "mean" else gaussian_window(size) if window == "gaussian" else None
    if weights is None:
        raise ValueError(f'window must be "mean" or "gaussian", not {window!r}')
    total, weight = np.zeros(shape), np.zeros(shape)
    for index in np.ndindex(grid):
        place = tuple(slice(i * s, i * s + p) for i, s, p in zip(index, step, size, strict=True))
        total[place] += weights * patches[index]
        weight[place] += weights
    # between patches further apart than their size no value is known: 0
    out = np.divide(total, weight, out=np.zeros(shape), where=weight > 0)
    return (np.round(out) if patches.dtype.kind in "iu" else out).astype(patches.dtype)


def gaussian_window(size, *, sigma: float = 0.125, floor: float = 1e-3) -> np.ndarray:
    """Weights of a patch: a Gaussian of ``sigma`` patch lengths around the middle, 1 there and nowhere below ``floor``."""
    window = np.ones(())
    for p in np.atleast_1d(size):
        x = (np.arange(p) - (p - 1) / 2) / (sigma * p)
        window = np.multiply.outer(window, np.exp(-0.5 * x**2))
    return np.maximum(window / window.max(), floor).astype(np.float32)


def starts(length: int, size: int, step: int) -> list[int]:
    """First voxels of the windows that cover an axis; the last one is moved inwards so that it fits.

    >>> starts(10, 4, 4)
    [0, 4, 6]
    """
    if size < 1 or step < 1 or step > size:
        raise ValueError(f"windows of {size} every {step} leave gaps or do not move; choose 1 ≤ step ≤ size")
    if size > length:
        raise ValueError(f"a window of {size} is longer than the axis of {length}; pad the array first")
    last = length - size
    return [*range(0, last, step), last]


def windows(shape, size, step) -> Iterator[tuple[slice, ...]]:
    """Overlapping windows that cover an array of ``shape`` (at least ``size``), ordered by the first axis."""
    d = len(shape)
    axes = [
        starts(n, p, s) for n, p, s in zip(shape, _per_axis(size, d, "size"), _per_axis(step, d, "step"), strict=True)
    ]
    size = _per_axis(size, d, "size")
    for corner in product(*axes):
        yield tuple(slice(c, c + p) for c, p in zip(corner, size, strict=True))


def foreground_fraction(patches: np.ndarray, dimensions: int) -> np.ndarray:
    """Share of non-zero voxels in each patch; ``dimensions`` trailing axes are the patch."""
    return (np.asarray(patches) != 0).mean(axis=tuple(range(-dimensions, 0)))


def sample_corners(label: np.ndarray, size, n: int, rng: np.random.Generator, *, foreground: float = 0.5) -> np.ndarray:
    """First voxels of ``n`` random patches, a share of which is centred on a non-zero voxel of ``label``.

    Parameters
    ----------
    label : ndarray
    size : int or ints
        Patch size; at most the array's shape.
    foreground : float
        Share (0 … 1) of patches centred on foreground; without any foreground all are placed anywhere.

    Returns
    -------
    int array of shape (n, d)
    """
    size = np.asarray(_per_axis(size, label.ndim, "size"))
    room = np.asarray(label.shape) - size
    if (room < 0).any():
        raise ValueError(f"patches of {tuple(size)} do not fit an array of shape {label.shape}; pad it first")
    corners = rng.integers(0, room + 1, (n, label.ndim))
    inside = np.flatnonzero(label)
    if inside.size:
        chosen = rng.random(n) < foreground
        centres = np.stack(np.unravel_index(rng.choice(inside, n), label.shape), axis=1)
        corners = np.where(chosen[:, None], np.clip(centres - size // 2, 0, room), corners)
    return corners


def halve(volume: np.ndarray) -> np.ndarray:
    """Mean of blocks of 2 × 2 × 2 voxels of (x, y, z, c), float32; an odd side's last voxel is repeated.

    >>> halve(np.arange(3.0).reshape(3, 1, 1, 1)).ravel().tolist()
    [0.5, 2.0]
    """
    volume = np.pad(volume, [(0, n % 2) for n in volume.shape[:3]] + [(0, 0)], mode="edge")
    blocks = volume.reshape(*(m for n in volume.shape[:3] for m in (n // 2, 2)), volume.shape[3])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def surroundings(halved: np.ndarray, corner, size) -> np.ndarray:
    """As many voxels of :func:`halve`'s volume around the same centre as the patch at ``corner`` has; beyond its ends they repeat.

    Parameters
    ----------
    halved : (x, y, z, c)
    corner, size : three ints
        First voxel and size of the patch, at full resolution.
    """
    index = [
        np.clip((c + p // 2) // 2 - p // 2 + np.arange(p), 0, n - 1)
        for c, p, n in zip(corner, size, halved.shape, strict=False)
    ]
    return halved[np.ix_(*index)]


def _per_axis(value, dimensions: int, name: str) -> tuple[int, ...]:
    values = (value,) * dimensions if np.isscalar(value) else tuple(value)
    if len(values) != dimensions or any(int(v) != v or v < 1 for v in values):
        raise ValueError(f"{name} must be a positive whole number or {dimensions} of them, not {value}")
    return tuple(int(v) for v in values)
