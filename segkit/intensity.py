"""Intensities: z-score, min–max, percentile clip, N4, Perona–Malik, Otsu's brain mask. Pure functions on arrays."""

import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Image
from skimage.filters import threshold_otsu

from segkit import volumes


def zscore(array: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation, both measured inside ``mask`` (default: everywhere).

    Every voxel is mapped, so a background of 0 stays darker than the tissue. A constant image becomes 0. float32 of the
    same shape.

    >>> zscore(np.array([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    array = np.asarray(array, np.float32)
    values = (array if mask is None else array[np.asarray(mask) > 0]).astype(np.float64)
    if not values.size:
        raise ValueError("the mask is empty, so there is no mean to subtract; check the brain mask")
    mean, sd = values.mean(), values.std()
    if sd <= 1e-9 * max(1.0, abs(mean)):
        return np.zeros_like(array)
    return ((array - mean) / sd).astype(np.float32)


def min_max(array: np.ndarray) -> np.ndarray:
    """Scale to 0 … 1; a constant image becomes 0. float32.

    >>> min_max(np.array([2, 4, 6])).tolist()
    [0.0, 0.5, 1.0]
    """
    array = np.asarray(array, np.float32)
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else np.zeros_like(array)


def percentile_clip(array: np.ndarray, low: float = 1, high: float = 99, mask: np.ndarray | None = None) -> np.ndarray:
    """Clip to the ``low`` and ``high`` percentiles of the values inside ``mask`` (default: everywhere)."""
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must satisfy 0 ≤ low < high ≤ 100, not {low} and {high}")
    array = np.asarray(array, np.float32)
    values = array if mask is None else array[np.asarray(mask) > 0]
    if not values.size:
        raise ValueError("the mask is empty, so there are no percentiles; check the brain mask")
    return np.clip(array, *np.percentile(values, (low, high)).astype(np.float32))


def otsu_mask(array: np.ndarray, bins: int = 200) -> np.ndarray:
    """bool mask of the voxels brighter than Otsu's threshold on a histogram of ``bins`` bins.

    References
    ----------
    IBSR report's code: N4 inside an Otsu mask of 200 bins (STUDIES 2b, 1).
    """
    array = np.asarray(array, np.float32)
    if array.min() == array.max():
        return np.zeros(array.shape, bool)
    return array > threshold_otsu(array, nbins=bins)


def n4(
    image: Nifti1Image,
    mask: np.ndarray | None = None,
    *,
    shrink: int = 4,
    iterations: tuple[int, ...] = (50, 50, 50, 50),
    return_field: bool = False,
):
    """N4 bias field correction, fitted on a grid ``shrink`` times coarser and applied at full resolution.

    The log field is smooth, so fitting it on fewer voxels changes little and saves most of the time
    (``benchmarks/bench_n4.py`` measures both).

    Parameters
    ----------
    image : Nifti1Image
        3D; voxels should be non-negative.
    mask : array, optional
        Where the field is fitted; default Otsu's mask.
    shrink : int
        Factor along each axis; 1 fits at full resolution.
    return_field : bool
        Return ``(corrected, field)`` with the multiplicative field.

    Returns
    -------
    Nifti1Image
        float32, ``image / field``.

    References
    ----------
    Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010). IBSR report, section 3.3.
    """
    data = volumes.array(image, np.float32)
    if data.ndim != 3:
        raise ValueError(f"N4 takes one 3D volume, not shape {data.shape}; correct each channel by itself")
    if min(data.shape) < 4:
        raise ValueError(
            f"N4 needs at least 4 voxels along each axis to fit a field, not shape {data.shape}; leave it out"
        )
    mask = otsu_mask(data) if mask is None else np.asarray(mask) > 0
    if mask.shape != data.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the image {data.shape}; give a mask on the image's grid")
    if not mask.any():
        raise ValueError("N4's mask is empty; the image is constant, or the given mask is")
    full, full_mask = _to_sitk(data, image), _to_sitk(mask.astype(np.uint8), image)
    factors = [max(1, min(shrink, n // 8)) for n in data.shape]
    small, small_mask = (sitk.Shrink(i, factors) for i in (full, full_mask))
    if not sitk.GetArrayViewFromImage(small_mask).any():
        small, small_mask = full, full_mask
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([int(i) for i in iterations])
    corrector.Execute(small, small_mask)
    log_field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(full)).T
    field = np.exp(log_field).astype(np.float32)
    corrected = volumes.like(data / field, image)
    return (corrected, volumes.like(field, image)) if return_field else corrected


def perona_malik(array: np.ndarray, iterations: int = 10, kappa: float = 50, gamma: float = 0.1) -> np.ndarray:
    """Anisotropic diffusion with the conduction exp(−(d/κ)²); explicit steps, no flow across the border.

    Parameters
    ----------
    array : array of any dimension
    iterations, kappa, gamma
        Steps, edge scale in intensity units, step size (stable up to 1 / (2 · dimensions)).

    References
    ----------
    Perona and Malik, IEEE PAMI 12 (1990). IBSR report, section 3.2 (10 iterations, κ 50, γ .1).
    """
    out = np.array(array, np.float32)
    if not 0 < gamma <= 0.5 / out.ndim + 1e-9:
        raise ValueError(f"gamma {gamma} is unstable in {out.ndim}D; choose at most {0.5 / out.ndim:.3f}")
    for _ in range(iterations):
        change = np.zeros_like(out)
        for axis in range(out.ndim):
            step = np.diff(out, axis=axis)
            flow = step * np.exp(-((step / kappa) ** 2))
            width = [(0, 0)] * out.ndim
            width[axis] = (1, 1)
            change += np.diff(np.pad(flow, width), axis=axis)
        out += gamma * change
    return out


def _to_sitk(array: np.ndarray, image: Nifti1Image) -> sitk.Image:
    # N4 fits its splines in index space scaled by spacing; the direction plays no part
    out = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    out.SetSpacing(volumes.spacing(image))
    return out
