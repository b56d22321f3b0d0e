"""The originals' scores, quirks included, each with its source. For comparison with the reports, never for new work."""

from collections.abc import Mapping

import edt
import numpy as np
import pandas as pd


def ibsr_dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice without smoothing: 2|T∩P| / (|T| + |P|), nan when both are empty.

    References
    ----------
    IBSR report, equation (6); its code (STUDIES 2b, 13).
    """
    t, p = np.asarray(truth) != 0, np.asarray(prediction) != 0
    total = t.sum() + p.sum()
    return float(2 * (t & p).sum() / total) if total else float("nan")


def ibsr_hausdorff(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Largest distance in *voxels* from a voxel of one mask to the other mask; nan when one is empty.

    The code called SimpleITK's filter on arrays, so the header's spacing played no part and one stray voxel decides.

    References
    ----------
    IBSR report, equations (7) and (8); its code (STUDIES 2b, 12).
    """
    t, p = np.asarray(truth) != 0, np.asarray(prediction) != 0
    if not t.any() or not p.any():
        return float("nan")
    to_p, to_t = (edt.edt(np.ascontiguousarray(~m)) for m in (p, t))
    return float(max(to_p[t].max(), to_t[p].max()))


def ibsr_avd(truth: np.ndarray, prediction: np.ndarray) -> float:
    """What the report calls average volumetric distance: differing voxels / (|T| + |P|), which is 1 − Dice.

    References
    ----------
    IBSR report, equation (9) says |T − P| / T; its code counts differing voxels (STUDIES 2b, 11).
    """
    t, p = np.asarray(truth) != 0, np.asarray(prediction) != 0
    total = t.sum() + p.sum()
    return float((t != p).sum() / total) if total else float("nan")


def ibsr_score(truth: np.ndarray, prediction: np.ndarray, labels: Mapping[str, int]) -> pd.DataFrame:
    """The three scores of the IBSR report for one volume: index label; columns dice, hausdorff_voxels, avd."""
    rows = [
        {
            "label": name,
            "dice": ibsr_dice(truth == value, prediction == value),
            "hausdorff_voxels": ibsr_hausdorff(truth == value, prediction == value),
            "avd": ibsr_avd(truth == value, prediction == value),
        }
        for name, value in labels.items()
    ]
    return pd.DataFrame(rows).set_index("label")
