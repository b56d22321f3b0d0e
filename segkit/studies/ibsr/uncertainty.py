"""How sure a network is, and whether rightly: Monte-Carlo dropout, entropy, calibration.

The report's code leaves dropout on at inference and takes one sample (STUDIES 2b, 7). Here many samples are averaged, and their
entropy says where they disagree (Gal and Ghahramani, ICML 2016).
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import statistics, volumes
from segkit.studies import common
from segkit.studies.ibsr.layout import LABELS, SPACING_MM, find, read
from segkit.studies.ibsr.networks import measure, predict
from segkit.studies.ibsr.steps import load_corrected


def sample(
    model, image: Nifti1Image, *, samples: int = 10, seed: int = 0, spacing_mm: Sequence[float] = SPACING_MM
) -> tuple[Nifti1Image, Nifti1Image]:
    """Mean probabilities and entropy of ``samples`` predictions with dropout on, which ``seed`` decides.

    Returns
    -------
    probabilities : Nifti1Image
        float32, (x, y, z, 4) on the scan's grid.
    entropy : Nifti1Image
        float32, (x, y, z): of the mean probabilities, in units of log 4, so 0 is sure and 1 a guess.

    Raises
    ------
    ValueError
        When ``samples`` is not positive or the model has no dropout.
    """
    from segkit import models

    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    mean = predict(
        [models.with_dropout_on(model, seed=seed)] * samples, image, spacing_mm=spacing_mm, output="probabilities"
    )
    return mean, volumes.like(entropy(volumes.array(mean)), image)


def methods(model, *, samples: int, spacing_mm: Sequence[float] = SPACING_MM) -> dict[str, Callable]:
    """What :func:`calibration` compares: dropout off, one sample as in the report's code, and the mean of ``samples``."""
    own = {"spacing_mm": spacing_mm}
    out: dict[str, Callable] = {"dropout off": lambda image: predict(model, image, output="probabilities", **own)}
    for n in sorted({1, samples}):
        name = "one sample, as the report" if n == 1 else f"mean of {n} samples"
        out[name] = lambda image, n=n: sample(model, image, samples=n, **own)[0]
    return out


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy along the last axis in units of its maximum; (…, classes) to (…), float32."""
    p = np.clip(probabilities, 1e-12, 1)
    return (-(p * np.log(p)).sum(axis=-1) / np.log(p.shape[-1])).clip(0, 1).astype(np.float32)


def calibration(
    methods: dict[str, Callable[[Nifti1Image], Nifti1Image]],
    run: common.Run,
    subjects: Sequence[str],
    *,
    bins: int = 10,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Calibration of methods over all brain voxels of labelled subjects.

    Parameters
    ----------
    methods : dict
        Name to ``callable(bias-corrected image) -> probabilities`` (x, y, z, 4).

    Returns
    -------
    points : dict
        Name to :func:`segkit.statistics.reliability` of all subjects together.
    table : DataFrame
        A row a method and subject: expected calibration error, share of wrong voxels, and that share among the tenth of the voxels
        with the largest entropy and among the rest.
    """
    table, points, rows = find(run.data), {}, []
    for name, method in methods.items():
        parts = []
        for subject in subjects:
            _, label = read(table.loc[subject])
            image = load_corrected(run.results, subject)
            brain = volumes.array(image) > 0
            soft = volumes.array(method(image))[brain]
            correct = soft.argmax(axis=-1) == volumes.array(label)[brain]
            parts.append((soft.max(axis=-1), correct))
            unsure = entropy(soft)
            most = np.zeros(unsure.size, bool)
            most[np.argsort(unsure, kind="stable")[-max(1, unsure.size // 10) :]] = True
            rows.append({
                "method": name, "subject": subject, "ECE": statistics.calibration_error(statistics.reliability(*parts[-1], bins=bins)),
                "wrong": 1 - correct.mean(), "wrong among the least sure tenth": 1 - correct[most].mean(),
                "wrong among the rest": 1 - correct[~most].mean() if (~most).any() else np.nan,
            })  # fmt: skip
        points[name] = statistics.reliability(*(np.concatenate(p) for p in zip(*parts, strict=True)), bins=bins)
    return points, pd.DataFrame(rows)


def unlabelled(run: common.Run, method: Callable[[Nifti1Image], Nifti1Image]) -> pd.DataFrame:
    """Segment the subjects without labels (02, 10, 15) into ``predictions/unlabelled``; volumes in ml, a row a subject."""
    table, rows = find(run.data), {}
    for subject in table.index[table["label"].isna()]:
        found = method(load_corrected(run.results, subject))
        volumes.save(found, run.results / "predictions" / "unlabelled" / f"{subject}_seg.nii.gz")
        rows[subject] = measure(found)["ml"]
    return pd.DataFrame(rows, index=list(LABELS)).T.rename_axis("subject")
