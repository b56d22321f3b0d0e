"""How a threshold turns probabilities, or grey levels, into a mask: four panels, still or with sliders."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from segkit import metrics
from segkit.plots.figures import FOUND, TRUTH, _card, _draw, _headed
from segkit.plots.sources import hidden


def thresholds(
    image: np.ndarray,
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    source: str | None,
    at: Sequence[float] = (0.3, 0.5, 0.7),
    aspect: float = 1.0,
    title: str = "",
) -> Figure:
    """Four panels a threshold: image, truth, the image where its probability reaches it, the image where its grey level does.

    Parameters
    ----------
    image, truth, probabilities : arrays (x, y)
    at : floats from 0 to 1
        Probability, and share of the way from the image's smallest to its largest value.

    References
    ----------
    Left-atrium report, Figure 5.2.
    """
    if hidden(source):
        return _card(title or "threshold explorer")
    grey = _unit(image)
    height = 2.1 * image.shape[1] * aspect / image.shape[0]
    figure = Figure(figsize=(8.4, (height + 0.3) * len(at) + 0.4), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(at), 4))
    for row, level in zip(axes, at, strict=True):
        mask = probabilities >= level
        pictures = (image, truth, np.where(mask, image, image.min()), np.where(grey >= level, image, image.min()))
        names = (
            "image",
            "truth",
            f"probability ≥ {level:.2f}, Dice {metrics.dice(truth, mask):.3f}",
            f"grey ≥ {level:.2f}, Dice {metrics.dice(truth, grey >= level):.3f}",
        )
        for ax, picture, name in zip(row, pictures, names, strict=True):
            _draw(ax, picture, None, aspect, None, None)
            ax.set_title(name, fontsize=8)
        for mask_, colour in ((truth != 0, TRUTH), (mask, FOUND)):
            if mask_.any() and not mask_.all():
                row[0].contour(mask_.T, [0.5], colors=colour, linewidths=0.8)
    return _headed(figure, title, source)


def threshold_explorer(
    image: np.ndarray,
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    source: str | None,
    aspect: float = 1.0,
    title: str = "",
):
    """:func:`thresholds` with sliders for slice and threshold, for a live notebook; an ipywidgets box.

    Parameters
    ----------
    image, truth, probabilities : arrays (x, y, z)
    """
    import ipywidgets

    middle = int((truth != 0).sum(axis=(0, 1)).argmax())
    k = ipywidgets.IntSlider(middle, 0, image.shape[2] - 1, description="slice", continuous_update=False)
    level = ipywidgets.FloatSlider(0.5, min=0.01, max=0.99, step=0.01, description="threshold", continuous_update=False)
    picture = ipywidgets.Image(format="png")

    def draw(_=None):
        figure = thresholds(
            image[..., k.value], truth[..., k.value], probabilities[..., k.value],
            source=source, at=(level.value,), aspect=aspect, title=title,
        )  # fmt: skip
        picture.value = _png(figure)

    k.observe(draw, "value")
    level.observe(draw, "value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([k, level]), picture])


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90, facecolor="white")
    return out.getvalue()


def _unit(image: np.ndarray) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-12)
