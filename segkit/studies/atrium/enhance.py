"""The enhancement chain: from probabilities to a mask, each step a switch; and the original's chain for the legacy column."""

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import legacy, metrics, postprocessing, volumes
from segkit.studies.atrium.layout import REPORT_GRID, REPORT_MM

STEPS = ("threshold", "blank slices", "closing in the slice", "largest component", "closing in 3D")


def enhance(
    probabilities: np.ndarray,
    *,
    threshold: float = 0.5,
    blank: float | None = 0.8,
    close: int = 5,
    largest: bool = True,
    close_3d: int = 3,
) -> np.ndarray:
    """Mask from the network's probabilities; the truth is never altered.

    Parameters
    ----------
    probabilities : array (x, y, z)
        The last axis numbers the slices.
    threshold : float
    blank : float or None
        Empty a slice in which no probability reaches this value (the network is nowhere sure). None: off.
    close : int
        Side of the box that closes each slice; 0: off. The report's is 5.
    largest : bool
        Keep the largest connected component.
    close_3d : int
        Side of the cube that closes the volume; 0: off.

    Returns
    -------
    uint8 array (x, y, z)

    References
    ----------
    Left-atrium report, sections 4.2.2 and 5.0.1: blank-slice rule, threshold and closing; the rest is ours.
    """  # fmt: skip
    return _chain(probabilities, threshold, blank, close, largest, close_3d)[-1]


def step_by_step(probabilities: np.ndarray, truth: np.ndarray, **switches) -> pd.Series:
    """3D Dice after each step of :func:`enhance` that is on; index: the steps."""
    settings = {"threshold": 0.5, "blank": 0.8, "close": 5, "largest": True, "close_3d": 3} | switches
    on = (True, settings["blank"] is not None, settings["close"], settings["largest"], settings["close_3d"])
    masks = _chain(probabilities, **settings)
    return pd.Series({name: metrics.dice(truth, m) for name, m, used in zip(STEPS, masks, on, strict=True) if used})


def _chain(probabilities, threshold, blank, close, largest, close_3d) -> list[np.ndarray]:
    probabilities = np.asarray(probabilities)
    masks = [postprocessing.threshold(probabilities, threshold)]
    mask = masks[0].copy()
    if blank is not None:
        mask[..., probabilities.max(axis=(0, 1)) < blank] = 0
    masks.append(mask)
    masks.append(postprocessing.closing(mask, (close, close, 1)) if close else mask)
    masks.append(postprocessing.largest_component(masks[-1]) if largest else masks[-1])
    masks.append(postprocessing.closing(masks[-1], close_3d) if close_3d else masks[-1])
    return masks


def as_the_report(image: Nifti1Image, *, kind: str) -> np.ndarray:
    """Slices as the report's files were: pixels of 1.25 mm, 320 × 320, the number of slices as it is.

    Around an image each slice is filled with its own smallest value (a logit of 0 would be a probability of one half), around
    a label with 0.
    """
    image = volumes.canonical(image)
    z = volumes.spacing(image)[2]
    if not np.allclose(volumes.spacing(image)[:2], REPORT_MM, rtol=0.01):
        image = volumes.resample(image, spacing_mm=(REPORT_MM, REPORT_MM, z), kind=kind)
    shape = (*REPORT_GRID, image.shape[2])
    image = volumes.crop(image, tuple(min(a, b) for a, b in zip(shape, image.shape, strict=True)))
    slices = volumes.array(image)
    width = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(shape, slices.shape, strict=True)]
    edge = slices.min(axis=(0, 1)) if kind == "image" else 0
    return np.pad(slices - edge, width) + edge


def legacy_scores(output: Nifti1Image, label: Nifti1Image, *, jpeg: bool = True) -> dict[str, float]:
    """The report's scores of one patient, from a network's output and the truth.

    Parameters
    ----------
    output : Nifti1Image
        Probabilities, or the raw logits that the original saved; each slice is stretched over 0 … 255 by itself.

    Returns
    -------
    dict
        Mean slice Dice "network", "threshold" and "enhanced" (all of the chain), and the volumes of prediction and truth
        in mm³ at the report's 1 mm³ a pixel, "prediction mm3" and "truth mm3".
    """
    prediction = legacy.atrium_grey(as_the_report(output, kind="image"), jpeg=jpeg)
    truth = legacy.atrium_grey(as_the_report(label, kind="label"), jpeg=jpeg)
    out = {"network": float(legacy.atrium_slice_dice(prediction, truth).mean())}
    plain = legacy.atrium_enhance(prediction, truth, blank=False, closing=False)
    out["threshold"] = float(legacy.atrium_slice_dice(*plain).mean())
    found, true = legacy.atrium_enhance(prediction, truth)
    out["enhanced"] = float(legacy.atrium_slice_dice(found, true).mean())
    # the original wrote its masks back as JPEG and counted what it read from there
    found, true = (legacy.atrium_grey(m, jpeg=jpeg) for m in (found, true))
    return out | {"prediction mm3": legacy.atrium_volume_mm3(found), "truth mm3": legacy.atrium_volume_mm3(true)}
