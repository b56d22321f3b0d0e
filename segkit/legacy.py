"""The originals' scores, quirks included, each with its source. For comparison with the reports, never for new work."""

import re
from collections.abc import Mapping, Sequence

import cc3d
import cv2
import edt
import numpy as np
import pandas as pd

from segkit import metrics, patches


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


ATRIUM_BLANK = 4.5  # mean grey above which a predicted slice was emptied
ATRIUM_PREDICTION = 77  # greys above it were foreground
ATRIUM_TRUTH = 200
ATRIUM_VOLUME = 240  # greys above it were counted
ATRIUM_KERNEL = 5


def atrium_grey(slices: np.ndarray, *, jpeg: bool = False) -> np.ndarray:
    """8-bit greys as the left-atrium study's export made them: each slice stretched between its own smallest and largest value.

    min(255, floor(256 (x − min) / (max − min))), a constant slice 0.

    Parameters
    ----------
    slices : array (x, y, n)
        Images, masks or a network's raw outputs; the last axis numbers the slices.
    jpeg : bool
        Also write and read each slice as JPEG of quality 75, as the original did, which leaves ringing.

    Returns
    -------
    uint8 array of the same shape

    References
    ----------
    Left-atrium report, section 4.2.1; its code (STUDIES 1b, 2 and 4): matplotlib's grey colour map and PIL's JPEG.
    """
    slices = np.asarray(slices, np.float64)
    low, high = slices.min(axis=(0, 1)), slices.max(axis=(0, 1))
    span = np.where(high > low, high - low, 1)
    grey = np.minimum(255, np.floor(256 * (slices - low) / span)).astype(np.uint8)
    if jpeg:
        grey = np.stack([_through_jpeg(grey[..., k]) for k in range(grey.shape[-1])], axis=-1)
    return grey


def atrium_enhance(
    prediction: np.ndarray, truth: np.ndarray, *, blank: bool = True, threshold: bool = True, closing: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The left-atrium study's chain on 8-bit greys, slice by slice, in its order.

    (i) a prediction whose mean is above 4.5 becomes all 0; (ii) prediction 255 where above 77, truth 255 where above 200, else 0;
    (iii) closing of *both* with a box of 5 × 5: the truth is altered, too. For slices of 320 × 320, where a mean of 4.5 is
    1,807 white pixels: larger cross-sections of the atrium are emptied.

    Parameters
    ----------
    prediction, truth : uint8 arrays (320, 320, n)
    blank, threshold, closing : bool
        Leave steps out; the original's "without enhancement" was the threshold alone.

    References
    ----------
    Left-atrium report, sections 4.2.2 and 5.0.1; its code (STUDIES 1b, 5).
    """
    prediction, truth = np.array(prediction, np.uint8), np.array(truth, np.uint8)
    if blank:
        prediction[..., prediction.mean(axis=(0, 1)) > ATRIUM_BLANK] = 0
    if threshold:
        prediction = np.where(prediction > ATRIUM_PREDICTION, 255, 0).astype(np.uint8)
        truth = np.where(truth > ATRIUM_TRUTH, 255, 0).astype(np.uint8)
    if closing:
        box = np.ones((ATRIUM_KERNEL, ATRIUM_KERNEL), np.uint8)
        # a list of slices rather than channels: OpenCV takes at most a few of those
        both = [
            [cv2.morphologyEx(np.ascontiguousarray(m[..., k]), cv2.MORPH_CLOSE, box) for k in range(m.shape[-1])]
            for m in (prediction, truth)
        ]
        prediction, truth = (np.stack(m, axis=-1) for m in both)
    return prediction, truth


def atrium_slice_dice(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of each slice of 8-bit greys: 2 Σ prediction[truth = 255] / (Σ prediction + Σ truth), 1 where both are empty.

    The study's score is the plain mean over all slices of its test patients: empty slices, about half of them, count 1.

    References
    ----------
    Left-atrium report, Figure 3.1; its code (STUDIES 1b, 6).
    """
    p, t = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    total = p.sum(axis=(0, 1)) + t.sum(axis=(0, 1))
    shared = np.where(t == 255, p, 0).sum(axis=(0, 1))
    return np.where(total > 0, 2 * shared / np.where(total > 0, total, 1), 1.0)


def atrium_volume_mm3(mask: np.ndarray) -> float:
    """Number of greys above 240 times 1 mm³, whatever the header says.

    References
    ----------
    Left-atrium report, section 3.2.1 and Figure 5.7; its code (STUDIES 1b, 7).
    """
    return float((np.asarray(mask) > ATRIUM_VOLUME).sum())


def _through_jpeg(grey: np.ndarray) -> np.ndarray:
    ok, coded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 75])
    if not ok:
        raise ValueError(f"a slice of shape {grey.shape} cannot be coded as JPEG")
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


LGG_BATCH = 40


def lgg_batch_dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice over all pixels of a batch of slices together, 1 where both are empty; no smoothing.

    References
    ----------
    LGG report's code (STUDIES 3b, 8).
    """
    t, p = np.asarray(truth) != 0, np.asarray(prediction) != 0
    total = t.sum() + p.sum()
    return float(2 * (t & p).sum() / total) if total else 1.0


def lgg_train_dice(truth: np.ndarray, probabilities: np.ndarray, *, batch: int = LGG_BATCH) -> float:
    """The report's training score: mean of :func:`lgg_batch_dice` over batches of slices, at a threshold of .5.

    The last batch holds what is left (two of 162 slices, often empty, hence 1): so a network that finds nothing scores .2, one of
    five batches, in Figure 13.

    Parameters
    ----------
    truth, probabilities : arrays (n, rows, columns)
        Slices in the order of the batches.

    References
    ----------
    LGG report, Figure 13; its code (STUDIES 3b, 8).
    """
    return float(np.mean(_lgg_batches(truth, probabilities, batch, 0.5)))


def lgg_validation_dice(truth: np.ndarray, probabilities: np.ndarray, *, batch: int = LGG_BATCH) -> float:
    """The report's validation score: the sum over batches at a threshold of .3, divided by the last batch's index.

    One batch divides by 0 (inf, or nan where its Dice is 0); two divide by 1, so that the score reaches 2.

    References
    ----------
    LGG report's code (STUDIES 3b, 9).
    """
    scores = _lgg_batches(truth, probabilities, batch, 0.3)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(sum(scores)) / np.float64(len(scores) - 1))


def lgg_soft_dice(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """(2 Σ t p + .1) / (Σ t + Σ p + .1) over a flattened batch, of the study's other notebook (Keras).

    References
    ----------
    LGG study's notebook A (STUDIES 3b).
    """
    t, p = np.asarray(truth, np.float64), np.asarray(probabilities, np.float64)
    return float((2 * (t * p).sum() + 0.1) / (t.sum() + p.sum() + 0.1))


def lgg_slice_order(names: Sequence[str]) -> list[int]:
    """The order in which the study's code put the files of all patients: by the slice's number as text, nothing else.

    >>> lgg_slice_order(["a_2.tif", "a_10.tif", "b_1.tif", "a_1.tif"])
    [2, 3, 1, 0]

    References
    ----------
    LGG report's code (STUDIES 3b, 3): images and patients no longer match.
    """
    numbers = [re.search(r"_(\d+)(?:_mask)?\.tif", name, re.IGNORECASE).group(1) for name in names]
    return sorted(range(len(names)), key=lambda i: numbers[i])


def _lgg_batches(truth, probabilities, batch: int, threshold: float) -> list[float]:
    truth, found = np.asarray(truth), np.asarray(probabilities) > threshold
    return [lgg_batch_dice(truth[i : i + batch], found[i : i + batch]) for i in range(0, len(truth), batch)]


def qsm_soft_dice(
    truth: np.ndarray, probabilities: np.ndarray, *, patch: int = 64, batch: int = 4, smooth: float = 1.0
) -> float:
    """One reading of the QSM report's Dice: soft, with ``smooth``, over batches of patches side by side, and their mean.

    (2 Σ t p + s) / (Σ t + Σ p + s) over all voxels of a batch, so a batch without the nucleus counts 1 where nothing is predicted.

    References
    ----------
    QSM report, section 5.1 (the set formula) and Table 1; the code behind it is not public. Its cited source (bnsreenu,
    215_3d_unet) has this coefficient as its metric.
    """
    t, p = (_qsm_patches(a, patch) for a in (truth, probabilities))
    scores = []
    for first in range(0, len(t), batch):
        a, b = (np.asarray(x[first : first + batch], float) for x in (t, p))
        scores.append((2 * (a * b).sum() + smooth) / (a.sum() + b.sum() + smooth))
    return float(np.mean(scores))


def qsm_patch_hausdorff(truth: np.ndarray, prediction: np.ndarray, *, patch: int = 64) -> float:
    """One reading of the QSM report's Hausdorff distance: in voxels, the mean over patches in which both masks are; nan without any.

    References
    ----------
    QSM report, section 5.1 and Table 1: .04 voxels for the brain at a Dice of .97 cannot be a maximum over a volume.
    """
    values = [
        metrics.hausdorff(a, b, spacing_mm=(1, 1, 1))
        for a, b in zip(_qsm_patches(truth, patch), _qsm_patches(prediction, patch), strict=True)
        if a.any() and b.any()
    ]
    return float(np.mean(values)) if values else float("nan")


def _qsm_patches(array: np.ndarray, patch: int) -> np.ndarray:
    size = tuple(min(patch, n) for n in array.shape)
    return patches.patchify(array, size).reshape(-1, *size)


def wmh_old_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Lesion F1 of the WMH challenge's script before August 2017: its precision counted *detected truth lesions* over detections.

    One detection that covers several lesions gives a "precision" above 1; nan where nothing is in the truth or found.

    References
    ----------
    The 2017 WMH challenge's evaluation.py as spread with wmh_ibbmTum; mended 2017-08-11.
    """
    t, n = cc3d.connected_components(np.asarray(truth) == 1, connectivity=26, return_N=True)
    found = (np.asarray(prediction) > 0) & (np.asarray(truth) != 2)
    _, m = cc3d.connected_components(found, connectivity=26, return_N=True)
    if not n or not m:
        return float("nan")
    detected = np.setdiff1d(np.unique(t[found]), 0).size
    recall, precision = detected / n, detected / m
    return float(2 * recall * precision / (recall + precision)) if detected else 0.0


def wmh_positive_class_density(truth: np.ndarray) -> float:
    """Positive class density in per cent: 100 · positives / voxels of the volume (WMH report, section 3.2.3)."""
    truth = np.asarray(truth)
    return float(100 * np.count_nonzero(truth == 1) / truth.size)
