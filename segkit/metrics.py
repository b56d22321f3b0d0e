"""Overlap, distance, volume and lesion scores. Distances in mm, definitions after Metrics Reloaded.

Edge cases, in every function: both masks empty gives Dice 1, distances nan; one empty gives Dice 0, distances inf.

A surface is the mask minus its erosion by the face neighbours, with background outside the array. Distances run
between voxel centres of the two surfaces and are exact Euclidean ones. HD95 is the larger of the two directed 95th
percentiles (numpy's linear interpolation); ``pooled=True`` is MedPy's one percentile of all distances together.

References
----------
Maier-Hein, Reinke et al., Metrics reloaded, Nature Methods 21 (2024).
"""

from collections.abc import Mapping, Sequence

import cc3d
import edt
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from segkit.volumes import bounding_box


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice coefficient 2|T∩P| / (|T| + |P|) of two masks; 1 when both are empty.

    >>> dice([1, 1, 0], [0, 1, 0])
    0.6666666666666666
    """
    truth, prediction = _masks(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    return float(2 * np.count_nonzero(truth & prediction) / total) if total else 1.0


def hausdorff(truth: np.ndarray, prediction: np.ndarray, *, spacing_mm) -> float:
    """Hausdorff distance in mm: the largest distance from one surface to the other."""
    return _distance(truth, prediction, spacing_mm, lambda a, b: max(a.max(), b.max()))


def hd95(truth: np.ndarray, prediction: np.ndarray, *, spacing_mm, pooled: bool = False) -> float:
    """95th percentile Hausdorff distance in mm; see the module for the two definitions."""
    return _distance(truth, prediction, spacing_mm, _pooled95 if pooled else _directed95)


def assd(truth: np.ndarray, prediction: np.ndarray, *, spacing_mm) -> float:
    """Average symmetric surface distance in mm: the mean over the voxels of both surfaces."""
    return _distance(truth, prediction, spacing_mm, _assd)


def surface_dice(truth: np.ndarray, prediction: np.ndarray, *, spacing_mm, tolerance_mm: float) -> float:
    """Share of both surfaces' voxels within ``tolerance_mm`` of the other surface; nan if both empty, 0 if one is."""
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm must not be negative, not {tolerance_mm}")
    value = _distance(truth, prediction, spacing_mm, lambda a, b: _within(a, b, tolerance_mm))
    return 0.0 if np.isinf(value) else value


def avd(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Absolute volume difference in per cent of the truth; nan if both are empty, inf if the truth alone is."""
    truth, prediction = _masks(truth, prediction)
    t, p = np.count_nonzero(truth), np.count_nonzero(prediction)
    return float(100 * abs(p - t) / t) if t else (float("inf") if p else float("nan"))


def score(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing_mm,
    labels: Mapping[str, int] | Sequence[int],
    tolerance_mm: float = 1.0,
) -> pd.DataFrame:
    """Every score of one subject.

    Parameters
    ----------
    truth, prediction : integer arrays of the same shape
    spacing_mm : tuple of float
    labels : dict, or values
        Name to value; a row each, in this order. Plain values are named by themselves.
    tolerance_mm : float
        Of the surface Dice.

    Returns
    -------
    DataFrame
        Index ``label``; columns dice, hd_mm, hd95_mm, assd_mm, surface_dice, avd_percent, truth_ml, prediction_ml,
        and ``empty``: "", "truth", "prediction" or "both". nan and inf stay in the table.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _same_shape(truth, prediction)
    spacing_mm = _spacing(spacing_mm, truth.ndim)
    labels = labels if isinstance(labels, Mapping) else {str(value): value for value in labels}
    ml = float(np.prod(spacing_mm)) / 1000
    rows = []
    for name, value in labels.items():
        t, p = truth == value, prediction == value
        row = {"label": name, "dice": dice(t, p)}
        pair = _surface_distances(t, p, spacing_mm)
        if isinstance(pair, float):
            row |= dict.fromkeys(("hd_mm", "hd95_mm", "assd_mm"), pair)
            row["surface_dice"] = 0.0 if np.isinf(pair) else pair
        else:
            row |= {
                "hd_mm": float(max(pair[0].max(), pair[1].max())),
                "hd95_mm": _directed95(*pair),
                "assd_mm": _assd(*pair),
            }
            row["surface_dice"] = _within(*pair, tolerance_mm)
        empty = {(False, False): "", (True, False): "truth", (False, True): "prediction", (True, True): "both"}
        row |= {
            "avd_percent": avd(t, p),
            "truth_ml": t.sum() * ml,
            "prediction_ml": p.sum() * ml,
            "empty": empty[not t.any(), not p.any()],
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("label")


def wmh_challenge(truth: np.ndarray, prediction: np.ndarray, *, spacing_mm) -> dict[str, float]:
    """The five scores of the 2017 WMH challenge, as its evaluation script defines them.

    Parameters
    ----------
    truth : array (x, y, z)
        1 lesion, 2 other pathology (predictions there are not counted), 0 else.
    prediction : array (x, y, z)
        Non-zero integers, or floats of at least 0.5, are lesion.
    spacing_mm : tuple of float

    Returns
    -------
    dict
        dice, hd95 (mm; in-plane surfaces; nan if a mask is empty), avd (%), recall and f1 of lesions (26-connected).

    References
    ----------
    Kuijf et al., IEEE TMI 38 (2019); evaluation.py of the challenge (STUDIES 4b).
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _same_shape(truth, prediction)
    p = prediction >= (0.5 if prediction.dtype.kind == "f" else 1)
    p &= ~((truth > 1.5) & (truth <= 2.5))
    t = (truth > 0.5) & (truth <= 1.5)
    n_t, n_p = np.count_nonzero(t), np.count_nonzero(p)
    both = n_t + n_p
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {"dice": 2 * np.count_nonzero(t & p) / both if both else float("nan")}
        out["hd95"] = float("nan")
        if n_t and n_p:
            a, b = (np.argwhere(_inplane_surface(m)) * _spacing(spacing_mm, truth.ndim) for m in (t, p))
            if len(a) and len(b):
                out["hd95"] = _directed95(cKDTree(b).query(a)[0], cKDTree(a).query(b)[0])
        out["avd"] = float(100 * np.divide(abs(n_t - n_p), np.float64(n_t)))
    lesions_t, count_t = cc3d.connected_components(t, connectivity=26, return_N=True)
    lesions_p, count_p = cc3d.connected_components(p, connectivity=26, return_N=True)
    found = len(np.setdiff1d(np.unique(lesions_t[p]), 0))
    right = len(np.setdiff1d(np.unique(lesions_p[t]), 0))
    recall = found / count_t if count_t else 1.0
    precision = right / count_p if count_p else 1.0
    out["recall"] = recall
    out["f1"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return out


def _masks(truth, prediction) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _same_shape(truth, prediction)
    return truth != 0, prediction != 0


def _same_shape(truth, prediction) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}; score both on the same grid")


def _spacing(spacing_mm, dimensions: int) -> tuple[float, ...]:
    spacing_mm = tuple(float(s) for s in np.atleast_1d(spacing_mm))
    if len(spacing_mm) != dimensions or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must be {dimensions} positive lengths, not {spacing_mm}")
    return spacing_mm


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _inplane_surface(mask: np.ndarray) -> np.ndarray:
    square = np.ones((3, 3, 1), bool)
    return mask & ~ndimage.binary_erosion(mask, square, border_value=1)


def _surface_distances(truth: np.ndarray, prediction: np.ndarray, spacing_mm):
    """Distances (truth's surface to prediction's, and back), or nan / inf when both / one is empty."""
    if not truth.any() or not prediction.any():
        return float("inf") if truth.any() or prediction.any() else float("nan")
    start, shape = bounding_box(truth | prediction)
    box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    surfaces = [_surface(m[box]) for m in (truth, prediction)]
    maps = [edt.edt(np.ascontiguousarray(~s), anisotropy=spacing_mm, parallel=0) for s in surfaces]
    return maps[1][surfaces[0]], maps[0][surfaces[1]]


def _distance(truth, prediction, spacing_mm, summary) -> float:
    truth, prediction = _masks(truth, prediction)
    pair = _surface_distances(truth, prediction, _spacing(spacing_mm, truth.ndim))
    return pair if isinstance(pair, float) else float(summary(*pair))


def _directed95(a: np.ndarray, b: np.ndarray) -> float:
    return float(max(np.percentile(a, 95), np.percentile(b, 95)))


def _pooled95(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.percentile(np.concatenate([a, b]), 95))


def _assd(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.concatenate([a, b]).mean(dtype=np.float64))


def _within(a: np.ndarray, b: np.ndarray, tolerance_mm: float) -> float:
    return float((np.concatenate([a, b]) <= tolerance_mm + 1e-6).mean())
