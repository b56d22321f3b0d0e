"""Quantitative susceptibility mapping in simulation: the field of a susceptibility, and a map back from a field.

Values in ppm throughout; the field is relative to the main field, which lies along ``b0``.

References
----------
Salomir et al., Concepts in Magnetic Resonance 19B (2003); Marques and Bowtell, 25B (2005): the field as a convolution.
Shmueli, de Zwart et al., Magnetic Resonance in Medicine 62 (2009): thresholded division in k-space.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft


def dipole_kernel(shape: Sequence[int], spacing_mm: Sequence[float], *, b0: Sequence[float] = (0, 0, 1)) -> np.ndarray:
    """Unit dipole in k-space, D = 1/3 − (k · b0)² / k², 0 at the origin.

    Returns
    -------
    float32 array (x, y, z // 2 + 1)
        The half grid of a real transform of an array of ``shape``.
    """
    b0 = np.asarray(b0, float)
    if b0.shape != (3,) or not np.linalg.norm(b0) > 0:
        raise ValueError(f"b0 must be a direction (three numbers, not all 0), not {b0}")
    b0 = b0 / np.linalg.norm(b0)
    axes = [fft.fftfreq(n, s) for n, s in zip(shape[:2], spacing_mm[:2], strict=True)]
    axes.append(fft.rfftfreq(shape[2], spacing_mm[2]))
    k = [a.astype(np.float32) for a in np.meshgrid(*axes, indexing="ij", sparse=True)]
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    along = sum(np.float32(b) * a for a, b in zip(k, b0, strict=True)) ** 2
    square[0, 0, 0] = 1
    kernel = np.float32(1 / 3) - along / square
    kernel[0, 0, 0] = 0
    return kernel


def field(
    susceptibility: np.ndarray, spacing_mm: Sequence[float], *, pad: float = 0.5, b0: Sequence[float] = (0, 0, 1)
) -> np.ndarray:
    """Relative field (ppm, float32) of a ``susceptibility`` (ppm, (x, y, z)).

    ``pad`` widens each axis by this share of its length with zeros, so that the field does not wrap around; the sphere of
    Lorentz is taken off, so a uniform body's own field is that of its shape.
    """
    return _through(susceptibility, spacing_mm, pad, b0, lambda d: d)


def invert(
    field_ppm: np.ndarray, spacing_mm: Sequence[float], *, threshold: float = 0.15, pad: float = 0.0, b0: Sequence[float] = (0, 0, 1)
) -> np.ndarray:  # fmt: skip
    """Susceptibility map (ppm, float32) by thresholded k-space division of a field (ppm, (x, y, z)).

    Divides by D where it is larger than ``threshold``, by ± ``threshold`` elsewhere; so values come out smaller than they
    are by :func:`recovered_share`, with streaks along the directions in between.

    Raises
    ------
    ValueError
        For a threshold outside (0, 2/3), the range of the dipole.
    """
    if not 0 < threshold < 2 / 3:
        raise ValueError(f"the threshold must lie between 0 and 2/3 (the dipole's largest value), not {threshold}")
    return _through(field_ppm, spacing_mm, pad, b0, lambda d: 1 / truncated(d, threshold))


def truncated(kernel: np.ndarray, threshold: float) -> np.ndarray:
    """``kernel`` with values nearer to 0 than ``threshold`` moved out to it, their sign kept (0 counts as positive)."""
    return np.where(np.abs(kernel) > threshold, kernel, np.where(kernel < 0, -threshold, threshold)).astype(
        kernel.dtype
    )


def recovered_share(threshold: float) -> float:
    """Mean over directions of D / truncated D: the share of a susceptibility that :func:`invert` gives back.

    >>> round(recovered_share(0.15), 3), round(recovered_share(0.2), 3)
    (0.868, 0.822)
    """
    cosine = (np.arange(200_000) + 0.5) / 200_000
    kernel = 1 / 3 - cosine**2
    return float(np.mean(kernel / truncated(kernel, threshold)))


def sphere_check(threshold: float, *, side: int = 96, radius: float = 9.0) -> dict[str, float]:
    """The simulation against what is known of a sphere of 1 ppm, on a grid of ``side`` voxels of 1 mm.

    Returns
    -------
    dict
        field_error: largest difference from the analytic field outside it, (R / r)³ (3 cos² θ − 1) / 3, as a share of that field's
        maximum, 1.5 voxels and more from its surface and 4 from the grid's end; recovered: mean of the inverted map within it;
        expected: :func:`recovered_share`.
    """
    grid = np.indices((side,) * 3, dtype=np.float32) - np.float32((side - 1) / 2)
    share = np.zeros((side,) * 3, np.float32)
    for shift in np.stack(np.meshgrid(*[np.linspace(-0.4, 0.4, 5)] * 3), -1).reshape(-1, 3):
        share += sum((g + s) ** 2 for g, s in zip(grid, shift, strict=True)) <= radius**2
    square = np.maximum((grid**2).sum(axis=0), 1e-6)
    known = radius**3 / square**1.5 * (3 * grid[2] ** 2 / square - 1) / 3
    found = field(share / 125, (1, 1, 1), pad=1.0)
    outside = (square > (radius + 1.5) ** 2) & (np.abs(grid).max(axis=0) < side / 2 - 4)
    inside = square < (radius - 2) ** 2
    return {
        "field_error": float(np.abs(found - known)[outside].max() / np.abs(known[outside]).max()),
        "recovered": float(invert(found, (1, 1, 1), threshold=threshold)[inside].mean()), "expected": recovered_share(threshold),
    }  # fmt: skip


def _through(array, spacing_mm, pad: float, b0, factor: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``array`` times ``factor(dipole)`` in k-space."""
    if np.ndim(array) != 3 or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(
            f"a volume (x, y, z) and three positive spacings are needed, not shape {np.shape(array)} and {spacing_mm}"
        )
    shape = [fft.next_fast_len(int(np.ceil(n * (1 + pad))), real=True) for n in np.shape(array)]
    spectrum = fft.rfftn(np.asarray(array, np.float32), shape, workers=-1)
    spectrum *= factor(dipole_kernel(shape, spacing_mm, b0=b0))
    return fft.irfftn(spectrum, shape, workers=-1)[tuple(slice(n) for n in np.shape(array))].astype(np.float32)
