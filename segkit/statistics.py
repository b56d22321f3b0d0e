"""Intervals and tests over subjects."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


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


def paired(table: pd.DataFrame, *, base: str | None = None) -> pd.DataFrame:
    """Compare every pair of recipes over the same subjects: Wilcoxon signed rank, p-values corrected after Holm.

    Parameters
    ----------
    table : DataFrame
        A row a subject, a column a recipe. A pair uses the subjects with finite values in both.
    base : str, optional
        Compare this recipe alone with each of the others, which leaves fewer p-values to correct.

    Returns
    -------
    DataFrame
        Columns a, b, n, difference (mean of a − b), p, p_holm. p is nan for fewer than two subjects, and 1 when all
        differences are 0.
    """
    if table.shape[1] < 2:
        raise ValueError(f"comparing needs at least two columns (recipes), not {list(table.columns)}")
    rows = []
    if base is not None and base not in table:
        raise ValueError(f"there is no recipe {base!r} to compare with; choose one of {list(table.columns)}")
    pairs = (
        combinations(table.columns, 2) if base is None else ((base, other) for other in table.columns if other != base)
    )
    for a, b in pairs:
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


COUNTED = 3e6  # tables that are enumerated; of more, some are drawn


def fisher_exact(table, *, resamples: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value of Fisher's exact test of independence in a table of any size.

    Of two rows (or columns) it sums the probabilities of all tables with the same margins that are no likelier than this one; for
    more rows, or millions of such tables, ``resamples`` of them are drawn.

    Parameters
    ----------
    table : array (r, k) of counts
        Rows or columns without a count do not matter; with fewer than two of either, p is 1.

    Raises
    ------
    ValueError
        For something else than a table, or counts that are not whole numbers from 0 up.

    References
    ----------
    Freeman and Halton, Biometrika 38 (1951).
    """
    table = np.asarray(table)
    if table.ndim != 2:
        raise ValueError(f"a table of rows and columns is needed, not of shape {table.shape}")
    if np.any(table < 0) or np.any(table != np.round(table)):
        raise ValueError(f"counts are whole numbers from 0 up, not {table.tolist()}")
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(int)
    if min(table.shape) < 2:
        return 1.0
    if table.shape[1] == 2:
        table = table.T
    columns = table.sum(axis=0)
    if len(table) > 2 or np.prod(columns[:-1] + 1.0) > COUNTED:
        margins = stats.random_table(table.sum(axis=1), table.sum(axis=0), seed=np.random.default_rng(seed))
        drawn = margins.logpmf(margins.rvs(resamples))
        return float((1 + np.sum(drawn <= margins.logpmf(table) + 1e-7)) / (1 + resamples))
    ways, logs = _two_rows(int(table[0].sum()), columns)
    own = sum(way[x] for way, x in zip(ways, table[0], strict=True))
    shares = np.exp(logs - logs.max())
    return float(min(1.0, shares[logs <= own + 1e-7].sum() / shares.sum()))


def fisher_size(table, *, level: float) -> float:
    """How often :func:`fisher_exact` gives p of at most ``level`` where nothing is there, over all tables with the margins of this one.

    Never above ``level``, and below it since tables are countable.

    Raises
    ------
    ValueError
        For a table that has not two rows, or more than millions of others with its margins.
    """
    table = np.asarray(table)
    columns = table.sum(axis=0)
    if len(table) != 2 or np.prod(columns[:-1] + 1.0) > COUNTED:
        raise ValueError(f"two rows and at most millions of tables are needed; columns of {columns.tolist()} have more")
    _, logs = _two_rows(int(table[0].sum()), columns)
    shares = np.sort(np.exp(logs - logs.max()))
    shares /= shares.sum()
    upto = np.append(0, np.cumsum(shares))[np.searchsorted(shares, shares * (1 + 1e-7), side="right")]
    return float(shares[upto <= level * (1 + 1e-9)].sum())


def _two_rows(first: int, columns: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Log of the ways to fill each cell of the first row, and of every table of two rows whose first has ``first`` counts."""
    ways = [
        special.gammaln(n + 1) - special.gammaln(np.arange(n + 1) + 1) - special.gammaln(n - np.arange(n + 1) + 1)
        for n in columns
    ]
    sums, logs = np.zeros(1, int), np.zeros(1)  # of every start of a first row
    for n, way in zip(columns[:-1], ways[:-1], strict=True):
        sums, logs = np.add.outer(sums, np.arange(n + 1)).ravel(), np.add.outer(logs, way).ravel()
        sums, logs = sums[sums <= first], logs[sums <= first]
    last = first - sums
    possible = last <= columns[-1]
    return ways, logs[possible] + ways[-1][last[possible]]


def reliability(confidence, correct, *, bins: int = 10) -> pd.DataFrame:
    """How often predictions of a confidence are right: the points of a calibration curve.

    Parameters
    ----------
    confidence : array
        Probability of the predicted class, 0 to 1.
    correct : array of bool
        Whether the prediction was right; same size.
    bins : int
        Of equal width; one without a prediction is left out.

    Returns
    -------
    DataFrame
        Columns confidence and accuracy (means in the bin) and count.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    confidence, correct = np.asarray(confidence, float).ravel(), np.asarray(correct, bool).ravel()
    if confidence.size != correct.size:
        raise ValueError(
            f"{confidence.size} confidences and {correct.size} outcomes; one of each a prediction is needed"
        )
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise ValueError(f"confidences are probabilities, not {confidence.min():.3g} … {confidence.max():.3g}")
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = pd.DataFrame({"bin": place, "confidence": confidence, "accuracy": correct.astype(float)}).groupby("bin")
    return rows.mean().assign(count=rows.size()).reset_index(drop=True)


def calibration_error(points: pd.DataFrame) -> float:
    """Expected calibration error of :func:`reliability`'s points: mean of |confidence − accuracy|, weighted by count."""
    return float(np.average((points["confidence"] - points["accuracy"]).abs(), weights=points["count"]))


def bonferroni(p_values, tests: int | None = None) -> np.ndarray:
    """p-values times the number of tests (default: how many are not nan), at most 1; nan stays."""
    p_values = np.asarray(p_values, float)
    return np.minimum(p_values * (np.isfinite(p_values).sum() if tests is None else tests), 1.0)


def binomial_interval(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of hits with its exact (Clopper–Pearson) interval: ``(share, low, high)``."""
    low, high = proportion_confint(hits, trials, alpha=1 - confidence, method="beta")
    return hits / trials, float(low), float(high)
