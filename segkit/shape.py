"""Radiogenomics: three numbers for how irregular a tumour's outline is.

The authors' code is not public. Each open point of their definitions is an argument here, and its default is said.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage import measure

from segkit.postprocessing import largest_component

NAMES = ("bounding_ellipsoid_volume_ratio", "angular_standard_deviation", "margin_fluctuation")
BINS = 10  # equal angles, of the angular standard deviation
SMOOTHING = 0.1  # share of the outline's points that the margin is averaged over


def features(
    mask: np.ndarray,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    component: str = "largest",
    points: str = "centres",
    area_slice: str = "largest",
    smoothing: float = SMOOTHING,
    bins: int = BINS,
) -> dict[str, float]:
    """The three shape features of a tumour.

    Parameters
    ----------
    mask : array (rows, columns, slices)
        Non-zero is tumour.
    spacing_mm : three floats
        The ellipsoid's ratio does not depend on it; the other two depend on the ratio of the two in-plane ones alone.
    component : {"largest", "all"}
        The largest 3D component (26 neighbours), or every voxel.
    points : {"centres", "corners"}
        What of the boundary voxels the ellipsoid encloses; see :func:`bounding_ellipsoid_volume_ratio`.
    area_slice : {"largest", "middle", "mean"}
        Where the two outline features are taken: the slice with the largest area (of equal ones the first), the middle one
        of those with tumour, or their mean over all slices with tumour.
    smoothing, bins
        See :func:`margin_fluctuation` and :func:`angular_standard_deviation`.

    Returns
    -------
    dict
        ``NAMES`` to float; all nan for an empty mask.

    Raises
    ------
    ValueError
        For a mask that is not 3D, or an option that does not exist.

    References
    ----------
    Buda, Saha, Mazurowski, Computers in Biology and Medicine 109 (2019); Mazurowski et al., J Neuro-Oncol 133 (2017).
    """
    mask = np.asarray(mask) != 0
    if mask.ndim != 3:
        raise ValueError(f"shape features need a 3D mask, not {mask.ndim}D; stack the slices along the last axis")
    _choose("component", component, ("largest", "all"))
    _choose("area_slice", area_slice, ("largest", "middle", "mean"))
    spacing = _spacing(spacing_mm)
    if not mask.any():
        return dict.fromkeys(NAMES, float("nan"))
    if component == "largest":
        mask = largest_component(mask) != 0
    areas = mask.sum(axis=(0, 1))
    filled = np.flatnonzero(areas)
    chosen = {"largest": [int(areas.argmax())], "middle": [int(filled[len(filled) // 2])], "mean": list(filled)}
    outlines = [outline(mask[:, :, k], spacing_mm=spacing[:2]) for k in chosen[area_slice]]
    return {
        NAMES[0]: bounding_ellipsoid_volume_ratio(mask, spacing_mm=spacing, points=points),
        NAMES[1]: float(np.mean([angular_standard_deviation(*o, bins=bins) for o in outlines])),
        NAMES[2]: float(np.mean([margin_fluctuation(*o, smoothing=smoothing) for o in outlines])),
    }


def bounding_ellipsoid_volume_ratio(
    mask: np.ndarray, *, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0), points: str = "centres"
) -> float:
    """Volume of the mask divided by that of the smallest ellipsoid around it: about 1 for an ellipsoid, lower when irregular.

    Any affine map, so any voxel size, leaves it as it is. The mask's volume is its voxels'.

    Parameters
    ----------
    points : {"centres", "corners"}
        The ellipsoid encloses the centres of the boundary voxels, which is closest for a large round mask (a ball of radius
        20 voxels: 1.00; with corners .89) but can pass 1 for one of a few slices; or the corners of all voxels, which is exact
        for a box and never passes 1. Centres that lie in one plane (a single slice) have no volume; their corners are taken.
    """
    _choose("points", points, ("centres", "corners"))
    mask, spacing = np.asarray(mask) != 0, _spacing(spacing_mm)
    if not mask.any():
        return float("nan")
    inner = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))
    centres = np.argwhere(mask & ~inner).astype(float)
    around = centres
    if points == "corners" or np.linalg.matrix_rank(centres - centres[0]) < 3:
        offsets = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), -1).reshape(-1, 3)
        around = np.unique((centres[:, None] + offsets).reshape(-1, 3), axis=0)
    return float(mask.sum() * np.prod(spacing) / minimum_ellipsoid(around * spacing)[2])


def minimum_ellipsoid(points: np.ndarray, *, tolerance: float = 1e-7) -> tuple[np.ndarray, np.ndarray, float]:
    """The ellipsoid of least volume around points: Khachiyan's algorithm with steps away (Todd and Yıldırım 2007).

    Parameters
    ----------
    points : array (n, d)
    tolerance : float
        Of the optimality conditions; the volume is within about this share of the smallest, and every point is inside.

    Returns
    -------
    centre (d,), matrix (d, d), volume
        The ellipsoid is ``(x − centre)ᵀ matrix (x − centre) ≤ 1``.

    Raises
    ------
    ValueError
        For points that lie in a plane (a line in 2D), around which the smallest ellipsoid has no volume.
    """
    points = np.asarray(points, float)
    n, d = points.shape
    shift, scale = points.mean(axis=0), np.ptp(points, axis=0)
    if n <= d or not np.all(scale > 0):
        raise ValueError(f"{n} points in {d}D lie in a plane; no ellipsoid with a volume is smallest around them")
    try:
        hull = (points[ConvexHull((points - shift) / scale).vertices] - shift) / scale
    except QhullError:
        raise ValueError(
            f"{n} points in {d}D lie in a plane; no ellipsoid with a volume is smallest around them"
        ) from None
    lifted = np.c_[hull, np.ones(len(hull))]
    weights = np.full(len(hull), 1 / len(hull))
    for _ in range(100_000):
        inverse = np.linalg.inv(lifted.T @ (weights[:, None] * lifted))
        distance = np.einsum("ij,jk,ik->i", lifted, inverse, lifted) / (d + 1)  # 1 on the ellipsoid
        far, near = int(distance.argmax()), int(np.where(weights > 0, distance, np.inf).argmin())
        above, below = distance[far] - 1, 1 - distance[near]
        if max(above, below) < tolerance:
            break
        if above >= below:
            step = (distance[far] - 1) / ((d + 1) * distance[far] - 1)
            weights *= 1 - step
            weights[far] += step
        else:
            most = weights[near] / (1 - weights[near])
            spare = (d + 1) * distance[near] - 1
            step = min(most, (1 - distance[near]) / spare) if spare > 0 else most
            weights *= 1 + step
            weights[near] = 0.0 if step == most else weights[near] - step
    centre = weights @ hull
    matrix = np.linalg.inv(hull.T @ (weights[:, None] * hull) - np.outer(centre, centre)) / d
    matrix /= np.einsum("ij,jk,ik->i", hull - centre, matrix, hull - centre).max()
    matrix = matrix / np.outer(scale, scale)
    unit = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
    return centre * scale + shift, matrix, float(unit / math.sqrt(np.linalg.det(matrix)))


def outline(mask: np.ndarray, *, spacing_mm: Sequence[float] = (1.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """Outer outline of the largest part of a 2D mask, in order: angle (radians) and distance to the mask's centroid.

    Points lie midway between pixels inside and outside (marching squares). Distances are divided by their mean, so that
    size does not count.

    Returns
    -------
    angles (n,), distances (n,)
        Neighbours in the arrays are neighbours on the outline; the last is followed by the first.
    """
    part = largest_component(mask)
    if not part.any():
        raise ValueError("an empty slice has no outline")
    part = ndimage.binary_fill_holes(part)
    spacing = np.asarray(spacing_mm, float)
    ways = measure.find_contours(np.pad(part, 1).astype(float), 0.5, fully_connected="high")
    line = (max(ways, key=len)[:-1] - 1) * spacing
    arms = line - np.argwhere(part).mean(axis=0) * spacing
    distances = np.hypot(*arms.T)
    return np.arctan2(arms[:, 1], arms[:, 0]), distances / distances.mean()


def angular_standard_deviation(angles: np.ndarray, distances: np.ndarray, *, bins: int = BINS) -> float:
    """Mean over ``bins`` equal angles of the standard deviation of the distances within each.

    Not the standard deviation of the whole signature: an ellipse's slow change hardly counts. Where the first bin begins is not
    said; the mean is taken over two beginnings half a bin apart, so that ten bins give the same after a quarter turn. Bins without
    points are left out (an outline that does not go around its centroid).
    """
    turns, deviations = (np.asarray(angles) + math.pi) / (2 * math.pi) * bins, []
    for begin in (0.0, 0.5):
        number = np.floor(np.round(turns + begin, 9)).astype(int) % bins
        deviations.append(np.mean([np.std(distances[number == b]) for b in np.unique(number)]))
    return float(np.mean(deviations))


def margin_fluctuation(angles: np.ndarray, distances: np.ndarray, *, smoothing: float = SMOOTHING) -> float:
    """Standard deviation of the distances minus their moving average along the outline.

    The average is circular, over an odd number of points, the one nearest to the share ``smoothing`` of them (at least 3).
    ``angles`` does not count.
    """
    del angles
    width = max(3, 2 * round((smoothing * len(distances) - 1) / 2) + 1)
    return float(np.std(distances - ndimage.uniform_filter1d(np.asarray(distances, float), width, mode="wrap")))


def _spacing(spacing_mm: Sequence[float]) -> np.ndarray:
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"spacing_mm must be three positive numbers, not {spacing_mm!r}")
    return spacing


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} does not exist; choose one of {', '.join(known)}")
