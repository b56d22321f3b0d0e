"""The three-column table: reported, legacy, corrected; and tables as csv, markdown and html."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import files, statistics


def summarise(scores: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean over subjects with its interval.

    Parameters
    ----------
    scores : DataFrame
        Columns ``subject``, ``value`` and any keys (label, metric, …).

    Returns
    -------
    DataFrame
        Index: the keys, in order of appearance; columns mean, low, high (bootstrap 95 %), n (finite values in the mean)
        and excluded (nan and inf, left out of it).
    """
    keys = [c for c in scores.columns if c not in ("subject", "value")]
    rows = []
    for key, group in scores.groupby(keys, sort=False):
        values = group["value"].to_numpy(float)
        finite = int(np.isfinite(values).sum())
        mean, low, high = statistics.bootstrap_mean(values, seed=seed)
        row = {"mean": mean, "low": low, "high": high, "n": finite, "excluded": len(values) - finite}
        rows.append(dict(zip(keys, key, strict=True)) | row)
    return pd.DataFrame(rows).set_index(keys)


def three_columns(reported: pd.DataFrame, legacy: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """What the report printed, our model under the report's definition, our model scored properly.

    Parameters
    ----------
    reported : DataFrame
        Key columns (such as label, metric) and ``value``.
    legacy, corrected : DataFrame
        The same key columns, ``subject`` and ``value``; a row a subject.

    Returns
    -------
    DataFrame
        Index: the keys, in the order of ``corrected``, then keys that only another has; columns reported, legacy,
        corrected, low, high (bootstrap 95 % interval of corrected), n and excluded (subjects in and left out of it).
        What a column does not have is nan.

    Raises
    ------
    ValueError
        When the key columns differ, or a key is reported twice.
    """
    keys = [c for c in reported.columns if c != "value"]
    for name, table in (("legacy", legacy), ("corrected", corrected)):
        found = [c for c in table.columns if c not in ("subject", "value")]
        if sorted(found) != sorted(keys) or "value" not in table or "subject" not in table:
            raise ValueError(f"{name} has the columns {list(table.columns)}; needed are {[*keys, 'subject', 'value']}")
    if reported.duplicated(keys).any():
        raise ValueError(
            f"reported holds {reported[reported.duplicated(keys)][keys].values.tolist()} twice; keep one value each"
        )
    ours, old = summarise(corrected[[*keys, "subject", "value"]]), summarise(legacy[[*keys, "subject", "value"]])
    printed = reported.set_index(keys)["value"]
    index = ours.index.append(old.index.difference(ours.index, sort=False))
    index = index.append(printed.index.difference(index, sort=False))
    out = pd.DataFrame(index=index)
    out["reported"], out["legacy"] = printed, old["mean"]
    out["corrected"] = ours["mean"]
    out[["low", "high", "n", "excluded"]] = ours[["low", "high", "n", "excluded"]]
    return out.astype({"n": "Int64", "excluded": "Int64"})


def markdown(table: pd.DataFrame, *, digits: int = 3) -> str:
    """``table`` with its index as a markdown table; numbers with ``digits`` decimals, nan as a dash."""
    flat = table.reset_index() if table.index.names != [None] else table
    lines = ["| " + " | ".join(str(c) for c in flat.columns) + " |", "|" + " --- |" * flat.shape[1]]
    for _, row in flat.iterrows():
        lines.append("| " + " | ".join(_cell(v, digits) for v in row) + " |")
    return "\n".join(lines) + "\n"


def save(table: pd.DataFrame, path: str | os.PathLike, *, note: str = "") -> Path:
    """Write ``<path>.csv``, ``<path>.md`` and ``<path>.html`` (``path`` without suffix); return the csv's path."""
    path = Path(path)
    keep = table.index.names != [None]
    base = path.parent / path.name
    files.write_text(f"{base}.csv", table.to_csv(index=keep))
    files.write_text(f"{base}.md", markdown(table) + (f"\n{note}\n" if note else ""))
    html = table.to_html(index=keep, float_format=lambda v: f"{v:.3f}", na_rep="–", border=0)
    files.write_text(
        f"{base}.html", f"<!doctype html><meta charset='utf-8'><title>{path.name}</title>\n{html}\n<p>{note}</p>\n"
    )
    return Path(f"{base}.csv")


def _cell(value, digits: int) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
