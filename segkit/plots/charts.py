"""Bars and boxes of tables: counts, a score a patient, a feature by group."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from segkit.plots.figures import COLOURS, _headed


def bars(counts: pd.DataFrame, *, ylabel: str, title: str = "", source: str | None = None) -> Figure:
    """Stacked bars: one a row of ``counts``, a colour a column, the numbers written in where few bars leave room."""
    figure = Figure(figsize=(min(11, 2.2 + 0.42 * len(counts)), 3.6), layout="constrained")
    ax = figure.subplots()
    foot = np.zeros(len(counts))
    for (name, column), colour in zip(counts.items(), COLOURS, strict=False):
        drawn = ax.bar(range(len(counts)), column, 0.75, bottom=foot, color=colour, label=str(name))
        if len(counts) <= 12:
            ax.bar_label(drawn, label_type="center", fontsize=8)
        foot += column.to_numpy(float)
    _names(ax, counts.index)
    ax.set_ylabel(ylabel)
    ax.grid(axis="y", alpha=0.3)
    if counts.shape[1] > 1:
        figure.legend(loc="outside lower center", ncols=counts.shape[1], frameon=False, fontsize=8)
    return _headed(figure, title, source)


def ranked(values: pd.Series, *, ylabel: str, title: str = "", source: str | None = None) -> Figure:
    """A bar a subject, from the lowest value to the highest, with lines at mean and median; undefined values are counted."""
    finite = values[np.isfinite(values)].sort_values()
    figure = Figure(figsize=(min(13, 2.5 + 0.22 * len(finite)), 3.8), layout="constrained")
    ax = figure.subplots()
    ax.bar(range(len(finite)), finite, 0.8, color=COLOURS[1], alpha=0.6)
    for value, name, colour, style in (
        (finite.mean(), "mean", COLOURS[4], "-"),
        (finite.median(), "median", COLOURS[2], "--"),
    ):
        ax.axhline(value, color=colour, ls=style, lw=1.3, label=f"{name} {value:.3f}")
    _names(ax, finite.index)
    left_out = len(values) - len(finite)
    ax.set_ylabel(ylabel + (f" ({left_out} undefined left out)" if left_out else ""))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _headed(figure, title, source)


def boxes(
    table: pd.DataFrame, columns: Sequence[str], *, by: str, title: str = "", source: str | None = None
) -> Figure:
    """A box plot a column, split by the groups of ``by`` (numbers, text, or categories in their order), each subject a dot.

    Subjects without a group are left out.
    """
    known = table[table[by].notna()]
    groups = (
        sorted(known[by].unique())
        if known[by].dtype != "category"
        else list(known[by].cat.remove_unused_categories().cat.categories)
    )
    figure = Figure(figsize=(max(2.9, 0.85 * len(groups)) * len(columns) + 0.4, 3.4), layout="constrained")
    for ax, column in zip(np.atleast_1d(figure.subplots(1, len(columns))), columns, strict=True):
        parts = [known.loc[known[by] == g, column].dropna().to_numpy(float) for g in groups]
        ax.boxplot(parts, widths=0.55, showfliers=False, medianprops={"color": "black"})
        for k, part in enumerate(parts):
            spread = np.linspace(-0.18, 0.18, part.size) if part.size > 1 else np.zeros(part.size)
            ax.plot(k + 1 + spread, part, "o", ms=3, alpha=0.6, color=COLOURS[k % len(COLOURS)])
        whole = [isinstance(g, float) and g.is_integer() for g in groups]
        labels = [f"{int(g) if w else g}\nn {p.size}" for g, w, p in zip(groups, whole, parts, strict=True)]
        ax.set_xticks(range(1, len(groups) + 1), labels)
        ax.set_title(column.replace("_", " "), fontsize=9)
        ax.grid(axis="y", alpha=0.3)
    return _headed(figure, title, source)


def reliability(points: dict[str, pd.DataFrame], *, title: str = "", source: str | None = None) -> Figure:
    """Calibration curves: accuracy over confidence (:func:`segkit.statistics.reliability`), a line a method, and the diagonal."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":", label="calibrated")
    for (name, line), colour in zip(points.items(), COLOURS, strict=False):
        ax.plot(line["confidence"], line["accuracy"], "o-", ms=4, color=colour, label=name)
    ax.set(xlabel="confidence", ylabel="accuracy", aspect="equal")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _headed(figure, title, source)


def _names(ax, names) -> None:
    many = len(names) > 8
    ax.set_xticks(
        range(len(names)), [str(n) for n in names], rotation=90 if many else 0, fontsize=6 if len(names) > 30 else 8
    )
    ax.margins(x=0.01)
