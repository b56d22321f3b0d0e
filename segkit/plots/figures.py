"""Matplotlib figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from nibabel import Nifti1Image

from segkit import files, postprocessing, volumes
from segkit.plots.sources import hidden, remark

# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")  # lines and dots
TRUTH, FOUND = "#E69F00", "#56B4E9"  # contours of truth and prediction, told apart by colour-blind readers
LABELS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#0072B2", "#E69F00")  # label 1, 2, …, over grey


def save(figure: Figure, path: str | os.PathLike, *, dpi: int = 110) -> Path:
    """Write ``figure`` as PNG, whole or not at all; return the path."""
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", bbox_inches="tight", facecolor="white")
    return Path(path)


def panels(
    images: Mapping[str, np.ndarray],
    *,
    masks: Mapping[str, np.ndarray] | None = None,
    source: str | None,
    title: str = "",
    aspect: float = 1.0,
    columns: int = 4,
    vmin: float | None = None,
    vmax: float | None = None,
    labels: Mapping[str, int] | None = None,
) -> Figure:
    """A grid of 2D arrays (first axis to the right, second axis up), each titled by its key, masks laid over by key.

    ``vmin`` and ``vmax`` are the grey values of black and white, by default each array's own; ``labels`` name mask values in a legend.
    """
    if hidden(source):
        return _card(title or "panels")
    masks = masks or {}
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    shape = next(iter(images.values())).shape
    height = 2.5 * shape[1] * aspect / shape[0]
    figure = Figure(figsize=(2.5 * columns, (min(height, 4.5) + 0.35) * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes[len(images) :]:
        ax.remove()
    for ax, (name, image) in zip(axes, images.items(), strict=False):
        _draw(ax, image, masks.get(name), aspect, vmin, vmax)
        ax.set_title(name, fontsize=9)
    if labels:
        _legend(figure, labels, LABELS)
    return _headed(figure, title, source)


def three_planes(
    image: Nifti1Image,
    mask: Nifti1Image | None = None,
    *,
    labels: Mapping[str, int] | None = None,
    title: str = "",
    source: str | None = None,
    at: Sequence[int] | None = None,
    window: tuple[float, float] | None = None,
    colours: Sequence[str] | None = None,
    truth: Nifti1Image | None = None,
) -> Figure:
    """Sagittal, coronal and axial slice through voxel ``at`` (of the RAS+ image; default the mask's centre), in true proportion.

    ``window`` holds the values of black and white; ``colours`` those of mask values 1, 2, … (default :data:`LABELS`). With ``truth``
    both are outlined, truth yellow and mask red, at the centre of the truth's largest part; ``labels`` and ``colours`` are not used then.
    """
    if hidden(source):
        return _card(title or "three planes")
    image = volumes.canonical(image)
    data = volumes.array(image, np.float32)
    over, true = (None if m is None else volumes.array(volumes.canonical(m)) for m in (mask, truth))
    where = np.argwhere(data > 0 if over is None or not over.any() else over > 0)
    if true is not None and true.any():
        where = np.argwhere(postprocessing.largest_component(true > 0))
    if at is None:
        at = np.round(where.mean(axis=0)) if len(where) else np.array(data.shape) // 2
    at = tuple(int(v) for v in at)
    start, size = volumes.bounding_box(data > 0, margin=6) if (data > 0).any() else ((0, 0, 0), data.shape)
    box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    spacing = volumes.spacing(image)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    vmin, vmax = window or (None, float(np.percentile(data[data > 0], 99.5)) if (data > 0).any() else 1.0)
    for axis, (ax, name) in enumerate(zip(figure.subplots(1, 3), ("sagittal", "coronal", "axial"), strict=True)):
        a, b = [i for i in range(3) if i != axis]
        cut = np.take(data, at[axis], axis=axis)[box[a], box[b]]
        _draw(
            ax,
            cut,
            None if over is None or true is not None else np.take(over, at[axis], axis=axis)[box[a], box[b]],
            spacing[b] / spacing[a],
            vmin,
            vmax,
            colours or LABELS,
        )
        for outlined, colour in () if true is None else ((true, "yellow"), (over, "red")):
            here = None if outlined is None else np.take(outlined, at[axis], axis=axis)[box[a], box[b]]
            for value in () if here is None else np.unique(here[here > 0]):
                ax.contour((here == value).T, [0.5], colors=colour, linewidths=1)
        ax.set_title(name, fontsize=9)
    if true is not None:
        handles = [
            figure.axes[0].plot([], [], color=c, label=n)[0] for n, c in (("truth", "yellow"), ("prediction", "red"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    elif labels:
        _legend(figure, labels, colours or LABELS)
    return _headed(figure, title, source)


def curves(
    histories: Mapping[str, pd.DataFrame],
    *,
    column: str = "loss",
    monitor: str = "val_loss",
    title: str = "",
    source: str | None = None,
) -> Figure:
    """Training (dashed) and validation loss, or another column of the histories, by epoch, one colour a run.

    A star marks the epoch of the smallest ``monitor``, the one whose weights :func:`segkit.training.fit` keeps.
    """
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    for colour, (name, history) in zip(COLOURS, histories.items(), strict=False):
        ax.plot(history["epoch"], history[column], "--", color=colour, lw=1, label=f"{name}, training")
        if "val_loss" in history:
            best = history[monitor].idxmin()
            ax.plot(history["epoch"], history[f"val_{column}"], "-o", ms=2.5, color=colour, label=f"{name}, selection")
            ax.plot(history["epoch"][best], history[f"val_{column}"][best], "*", ms=12, color=colour)
    ax.set(xlabel="epoch", ylabel=column.replace("_", " "))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
    return _headed(figure, title, source)


def histograms(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    xlabels: Sequence[str],
    title: str = "",
    source: str | None = None,
) -> Figure:
    """One axis a group; in it the distribution of each named array as a line."""
    figure = Figure(figsize=(4.2 * len(groups), 2.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(groups)))
    for ax, xlabel, (group, arrays) in zip(axes, xlabels, groups.items(), strict=True):
        for name, values in arrays.items():
            density, edges = np.histogram(
                values, bins=80, range=tuple(np.percentile(values, (0.5, 99.5))), density=True
            )
            ax.plot((edges[1:] + edges[:-1]) / 2, density, lw=1, label=name)
        ax.set(xlabel=xlabel, title=group, yticks=[])
        ax.title.set_fontsize(9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=7)
    return _headed(figure, title, source)


def by_subject(scores: pd.DataFrame, column: str, *, ylabel: str, title: str = "", source: str | None = None) -> Figure:
    """Dots a subject and the mean as a bar, a group a label, a colour a method; infinite values are left out and counted."""
    labels, methods = list(dict.fromkeys(scores["label"])), list(dict.fromkeys(scores["method"]))
    figure = Figure(figsize=(1.6 + 1.8 * len(labels), 3.6), layout="constrained")
    ax = figure.subplots()
    left_out = 0
    for m, (method, colour) in enumerate(zip(methods, COLOURS, strict=False)):
        for k, label in enumerate(labels):
            chosen = (scores["method"] == method) & (scores["label"] == label)
            values = scores.loc[chosen, column].to_numpy(float)
            left_out += int((~np.isfinite(values)).sum())
            values = values[np.isfinite(values)]
            x = k + (m - (len(methods) - 1) / 2) * 0.8 / len(methods)
            if values.size:
                ax.bar(x, values.mean(), 0.7 / len(methods), color=colour, alpha=0.35, label=method if k == 0 else None)
                ax.plot(np.full(values.size, x), values, "o", ms=3.5, color=colour)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_ylabel(ylabel + (f" ({left_out} undefined left out)" if left_out else ""))
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(3, len(methods)), frameon=False, fontsize=8)
    return _headed(figure, title, source)


def contours(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    *,
    source: str | None,
    title: str = "",
    columns: int = 8,
    axis: int = 2,
    aspect: float = 1.0,
    slices: Sequence[int] | None = None,
    colours: tuple[str, str] = (TRUTH, FOUND),
) -> Figure:
    """Every slice of a volume with the outlines of truth and prediction over it, in ``colours`` (default orange and blue).

    Parameters
    ----------
    image, truth, prediction : arrays (x, y, z)
        ``truth`` may be None.
    slices : ints, optional
        Default: those that hold one of the masks, and one more at each end.
    """
    if hidden(source):
        return _card(title or "contours")
    image, found = np.moveaxis(image, axis, 0), np.moveaxis(prediction, axis, 0) != 0
    true = np.zeros(found.shape, bool) if truth is None else np.moveaxis(truth, axis, 0) != 0
    if slices is None:
        hit = np.flatnonzero((found | true).any(axis=(1, 2)))
        slices = range(max(0, hit[0] - 1), min(len(image), hit[-1] + 2)) if hit.size else range(len(image))
    slices = list(slices)
    columns = min(columns, len(slices))
    rows = -(-len(slices) // columns)
    figure = Figure(
        figsize=(1.5 * columns, 1.5 * rows * aspect * image.shape[2] / image.shape[1] + 0.5), layout="constrained"
    )
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    vmax = float(np.percentile(image, 99.8))
    for ax in axes[len(slices) :]:
        ax.remove()
    for ax, k in zip(axes, slices, strict=False):
        _draw(ax, image[k], None, aspect, None, vmax)
        for mask, colour in zip((true[k], found[k]), colours, strict=True):
            if mask.any():
                ax.contour(mask.T, [0.5], colors=colour, linewidths=0.8)
        ax.text(0.03, 0.97, str(k), transform=ax.transAxes, color="white", fontsize=6, va="top")
    handles = [axes[0].plot([], [], color=c, label=n)[0] for n, c in zip(("truth", "prediction"), colours, strict=True)]
    figure.legend(handles=handles[truth is None :], loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _headed(figure, title, source)


def agreement(
    truth: Sequence[float], found: Sequence[float], *, unit: str, title: str = "", source: str | None = None
) -> Figure:
    """Bland–Altman: difference found − truth against their mean, with bias and limits of agreement (± 1.96 sd).

    References
    ----------
    Bland and Altman, Lancet 327 (1986) 307.
    """
    truth, found = np.asarray(truth, float), np.asarray(found, float)
    middle, difference = (truth + found) / 2, found - truth
    bias, sd = difference.mean(), difference.std(ddof=1) if len(difference) > 1 else 0.0
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(middle, difference, "o", color=COLOURS[1])
    for value, style, name in ((bias, "-", "bias"), (bias - 1.96 * sd, "--", "limits"), (bias + 1.96 * sd, "--", None)):
        ax.axhline(value, ls=style, color=COLOURS[0], lw=1, label=None if name is None else f"{name}")
        ax.annotate(
            f"{value:+.1f}", (1, value), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", ha="right"
        )
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set(xlabel=f"mean of truth and prediction ({unit})", ylabel=f"prediction − truth ({unit})")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _headed(figure, title, source)


def _draw(
    ax, image: np.ndarray, mask: np.ndarray | None, aspect: float, vmin, vmax, colours: Sequence[str] = LABELS
) -> None:
    ax.imshow(
        np.asarray(image).T, origin="lower", cmap="gray", aspect=aspect, vmin=vmin, vmax=vmax, interpolation="nearest"
    )
    if mask is not None and np.any(mask):
        shown = np.ma.masked_equal(np.asarray(mask).T, 0)
        ax.imshow(shown, origin="lower", cmap=ListedColormap(colours), vmin=1, vmax=len(colours), aspect=aspect, alpha=0.55,
                  interpolation="nearest")  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])


def _legend(figure: Figure, labels: Mapping[str, int], colours: Sequence[str]) -> None:
    first = figure.axes[0]
    handles = [first.plot([], [], "s", color=colours[(v - 1) % len(colours)], label=k)[0] for k, v in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)


def _headed(figure: Figure, title: str, source: str | None) -> Figure:
    said = remark(source)
    text = " · ".join(t for t in (title, said) if t)
    if text:
        figure.suptitle(text, fontsize=10)
    return figure


def _card(title: str) -> Figure:
    figure = Figure(figsize=(6, 1.2), layout="constrained")
    figure.text(0.5, 0.5, f"{title}\nnot shown: a real subject (or a map simulated on one): the data's terms let no picture be published\n"
                "(set SHOW_REAL_SUBJECTS = True to see it on your own machine)", ha="center", va="center", fontsize=9)  # fmt: skip
    return figure
