"""Clean-up of masks: threshold, largest component, small parts, closing, holes. Pure functions on arrays."""

import cc3d
import numpy as np
from scipy import ndimage


def threshold(probabilities: np.ndarray, at: float = 0.5) -> np.ndarray:
    """uint8 mask of the voxels of at least ``at``."""
    return (np.asarray(probabilities) >= at).astype(np.uint8)


def largest_component(mask: np.ndarray, *, connectivity: int | None = None) -> np.ndarray:
    """Keep the largest connected component (of equally large ones the first); an empty mask stays empty.

    ``connectivity`` is 4 or 8 in 2D, 6, 18 or 26 in 3D; default the fullest.
    """
    mask = np.asarray(mask) != 0
    parts = _components(mask, connectivity)
    sizes = np.bincount(parts.ravel())[1:]
    return (parts == sizes.argmax() + 1).astype(np.uint8) if sizes.size else mask.astype(np.uint8)


def remove_small(mask: np.ndarray, voxels: int, *, connectivity: int | None = None) -> np.ndarray:
    """Drop connected components of fewer than ``voxels`` voxels."""
    parts = _components(np.asarray(mask) != 0, connectivity)
    keep = np.bincount(parts.ravel()) >= voxels
    keep[0] = False
    return keep[parts].astype(np.uint8)


def closing(mask: np.ndarray, size) -> np.ndarray:
    """Closing with a full box of ``size`` voxels (a number or one an axis); the border does not erode the mask."""
    mask = np.asarray(mask) != 0
    size = (size,) * mask.ndim if np.isscalar(size) else tuple(size)
    width = [(s, s) for s in size]
    closed = ndimage.binary_closing(np.pad(mask, width), np.ones(size, bool))
    return closed[tuple(slice(s, -s) for s in size)].astype(np.uint8)


def fill_holes(mask: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """Fill enclosed background, in all dimensions together or slice by slice along ``axis``."""
    mask = np.asarray(mask) != 0
    if axis is None:
        return ndimage.binary_fill_holes(mask).astype(np.uint8)
    slices = [ndimage.binary_fill_holes(s) for s in np.moveaxis(mask, axis, 0)]
    return np.moveaxis(np.stack(slices), 0, axis).astype(np.uint8)


def keep_largest_of_each(label_map: np.ndarray, values) -> np.ndarray:
    """Keep, for each of ``values``, its largest component; what falls away becomes 0."""
    out = np.array(label_map)
    for value in values:
        mask = out == value
        out[mask & (largest_component(mask) == 0)] = 0
    return out


def _components(mask: np.ndarray, connectivity: int | None) -> np.ndarray:
    full = {2: 8, 3: 26}
    if mask.ndim not in full:
        raise ValueError(f"components are found in 2D or 3D masks, not in {mask.ndim}D")
    return cc3d.connected_components(np.ascontiguousarray(mask), connectivity=connectivity or full[mask.ndim])
