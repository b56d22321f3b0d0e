"""A brain without download: the MNI152 maps of nilearn's wheel, deformed and given the look of a scanner.

Every function is pure: what is random comes from the ``rng`` passed in.

References
----------
Fonov et al., Unbiased average age-appropriate atlases, NeuroImage 54 (2011): the MNI152 template and its tissue maps.
"""

import functools
from collections.abc import Sequence

import cc3d
import nibabel as nib
import numpy as np
from scipy import ndimage

# boxes in MNI mm that hold ventricles and no cistern: bodies and frontal horns of the lateral ventricles, their atria
# (left and right, so that the cisterns between stay out), the third, the fourth
_VENTRICLES_MM = (
    ((-38, 38), (-27, 42), (2, 38)),
    ((-42, -13), (-62, -26), (-6, 32)),
    ((13, 42), (-62, -26), (-6, 32)),
    ((-6, 6), (-30, 12), (-14, 6)),
    ((-12, 12), (-54, -33), (-44, -18)),
)


@functools.cache
def mni() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Soft maps (0 … 1, float32) ``grey``, ``white``, ``ventricles``, ``sulci`` of the MNI152 brain, and their affine.

    The four sum to 1 inside the brain. 1 mm voxels, cut to the brain.
    """
    from nilearn import datasets

    sources = [load(resolution=1) for load in (
        datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template,
    )]  # fmt: skip
    t1, grey, white = (np.asarray(s.dataobj, np.float32) for s in sources)
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    brain = cc3d.largest_k(ndimage.binary_opening(brain, iterations=2), k=1).astype(bool)
    total = grey + white
    scale = np.where(total > 1, 1 / np.maximum(total, 1e-6), 1) * brain
    grey, white = grey * scale, white * scale
    fluid = brain * np.maximum(1 - grey - white, 0)
    affine = sources[0].affine
    ventricles = fluid * _ventricle_region(fluid > 0.5, affine)
    maps = {"grey": grey, "white": white, "ventricles": ventricles, "sulci": fluid - ventricles}
    hits = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    box = tuple(slice(h[0], h[-1] + 1) for h in hits)
    return (
        {name: np.ascontiguousarray(m[box], dtype=np.float32) for name, m in maps.items()},
        affine @ nib.affines.from_matvec(np.eye(3), [s.start for s in box]),
    )


def _ventricle_region(fluid: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The larger connected parts of fluid in each of the ventricles' boxes, a voxel wider to take in their soft edge."""
    region = np.zeros(fluid.shape, bool)
    inverse = np.linalg.inv(affine)
    for box in _VENTRICLES_MM:
        low, high = np.sort(np.round(nib.affines.apply_affine(inverse, np.array(box).T)).astype(int), axis=0)
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        parts = cc3d.connected_components(np.ascontiguousarray(fluid[inside]), connectivity=6)
        sizes = np.bincount(parts.ravel())
        region[inside] |= (sizes[parts] >= 300) & (parts > 0)
    return ndimage.binary_dilation(region)


def smooth_noise(
    shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator, *, scale_mm: float
) -> np.ndarray:
    """Gaussian random field of standard deviation 1 that varies over about ``scale_mm``; float32."""
    every = [max(1, int(scale_mm / 2 / s)) for s in spacing_mm]
    coarse = [-(-n // e) + 5 for n, e in zip(shape, every, strict=True)]
    sigma = [scale_mm / (e * s) for e, s in zip(every, spacing_mm, strict=True)]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse).astype(np.float32), sigma, mode="reflect")
    field = (field - field.mean()) / max(float(field.std()), 1e-12)
    matrix = [1 / e for e in every]
    return ndimage.affine_transform(
        field, matrix, [1.5] * len(shape), output_shape=tuple(shape), order=1, mode="nearest"
    )


def placement(rng: np.random.Generator, *, rotate: float = 4, scale: float = 0.06, shift_mm: float = 4) -> np.ndarray:
    """A random 4 × 4 map from a subject's mm to the template's: small turns (degrees), stretch and shift."""
    matrix = np.diag(rng.uniform(1 - scale, 1 + scale, 3))
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-rotate, rotate, 3))):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return nib.affines.from_matvec(matrix, rng.uniform(-shift_mm, shift_mm, 3))


def warp(
    maps: dict[str, np.ndarray],
    affine: np.ndarray,
    target: np.ndarray,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    to_template: np.ndarray | None = None,
    bend_mm: float = 3,
    scale_mm: float = 18,
) -> dict[str, np.ndarray]:
    """Soft maps on a subject's grid, through ``to_template`` and a smooth displacement.

    Parameters
    ----------
    maps, affine : the template's maps and affine
    target, shape : affine and shape of the subject's grid
    to_template : 4 × 4, optional
        From the subject's mm to the template's.
    bend_mm, scale_mm : float
        Standard deviation of the displacement along each axis, and the length over which it changes.
    """
    spacing_mm = nib.affines.voxel_sizes(target)
    matrix, offset = nib.affines.to_matvec(
        np.linalg.inv(affine) @ (np.eye(4) if to_template is None else to_template) @ target
    )
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    mm = nib.affines.voxel_sizes(affine)
    where = [
        (sum(m * g for m, g in zip(row, grids, strict=True)) + start).astype(np.float32)
        + np.float32(bend_mm / mm[a]) * smooth_noise(shape, spacing_mm, rng, scale_mm=scale_mm)
        for a, (row, start) in enumerate(zip(matrix, offset, strict=True))
    ]
    where = np.stack(where)
    return {name: ndimage.map_coordinates(m, where, order=1, mode="constant") for name, m in maps.items()}


def bias_field(
    shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator, *, strength: float = 0.15
) -> np.ndarray:
    """Multiplicative field around 1 with a log standard deviation of ``strength``, smooth over some 60 mm."""
    return np.exp(strength * smooth_noise(shape, spacing_mm, rng, scale_mm=60))


def rician(image: np.ndarray, rng: np.random.Generator, *, sd: float) -> np.ndarray:
    """Magnitude of ``image`` with Gaussian noise of ``sd`` in both channels (Gudbjartsson and Patz, MRM 34, 1995)."""
    real, other = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sd)
    return np.hypot(image + real, other)
