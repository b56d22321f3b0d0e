"""Intervals and tests over subjects."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests


def bootstrap_mean(
    values, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of the finite values with a percentile bootstrap interval over subjects.

    nan and inf are left out (count them beside the mean). Without a finite value all three are nan; with one, the
    interval is nan.

    Returns
    -------
    (mean, low, high)
    """
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values)]
    nan = float("nan")
    if values.size < 2:
        return (float(values[0]), nan, nan) if values.size else (nan, nan, nan)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, (resamples, values.size))].mean(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(values.mean()), float(low), float(high)


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """Compare every pair of recipes over the same subjects: Wilcoxon signed rank, p-values corrected after Holm.

    Parameters
    ----------
    table : DataFrame
        A row a subject, a column a recipe. A pair uses the subjects with finite values in both.

    Returns
    -------
    DataFrame
        Columns a, b, n, difference (mean of a − b), p, p_holm. p is nan for fewer than two subjects, and 1 when all
        differences are 0.
    """
    if table.shape[1] < 2:
        raise ValueError(f"comparing needs at least two columns (recipes), not {list(table.columns)}")
    rows = []
    for a, b in combinations(table.columns, 2):
        both = table[[a, b]].astype(float)
        both = both[np.isfinite(both).all(axis=1)]
        difference = (both[a] - both[b]).to_numpy()
        p = float("nan")
        if difference.size >= 2:
            p = float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0
        mean = float(difference.mean()) if difference.size else float("nan")
        rows.append({"a": a, "b": b, "n": difference.size, "difference": mean, "p": p})
    out = pd.DataFrame(rows)
    known = out["p"].notna()
    out["p_holm"] = float("nan")
    if known.any():
        out.loc[known, "p_holm"] = multipletests(out.loc[known, "p"], method="holm")[1]
    return out
