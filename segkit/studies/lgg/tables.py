"""04 testing: scores a patient, the three columns, and the report's claims."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from segkit import files, legacy, metrics, report, shape, statistics, volumes
from segkit.studies import common
from segkit.studies.lgg.layout import LABELS, find, read
from segkit.studies.lgg.networks import to_mask
from segkit.studies.lgg.steps import resize

NOTE = (
    "Reported: the abstract's .82, which is Buda et al.'s (2019) and not of the report's own networks; those have the train Dice of "
    "Figure 13 alone (epoch 8: 0). Legacy: the report's definitions on our probabilities of the test slices, in its order by the slice "
    "number's text, in batches of 40: mean of the batches' Dice at .5 (an empty batch counts 1), and the validation sum at .3 "
    "divided by the last batch's index. Corrected: Dice of each patient's volume on the slices' own grid "
    "(of the five folds where they are done), "
    "95 % bootstrap interval over "
    "n patients; distances in pixels (a slice counts as one), since no voxel size is known."
)


def evaluate(
    methods: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    data: str | os.PathLike,
    results: Path,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    largest: bool = True,
) -> pd.DataFrame:
    """Score methods on patients, per volume.

    Parameters
    ----------
    methods : dict
        Name to ``callable(slices (rows, columns, slices, 3)) -> probabilities (rows, columns, slices)``.
    threshold, largest
        See :func:`segkit.studies.lgg.to_mask`.

    Returns
    -------
    DataFrame
        A row a method and patient: method, subject, label, site, slices, dice, hd95_pixels, assd_pixels, truth_pixels,
        prediction_pixels, empty, dice_all_components, and the shape features of the predicted mask. Where ``masks_256`` lies beside
        the slices: dice_256, on the mask of 256 pixels a side, and the features are of the prediction at that size.
        Probabilities are written to ``predictions/<method>/<patient>.npz``.
    """
    table, rows = find(data), []
    for name, patient in tqdm([(m, p) for m in methods for p in patients], desc="scoring"):
        image, truth = read(table, patient)
        if truth is None:
            raise ValueError(f"{patient}: has no mask, so nothing can be scored; take it out of the list")
        stored = np.round(255 * np.asarray(methods[name](image), np.float32)).astype(np.uint8)
        with files.atomic(results / "predictions" / name / f"{patient}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=stored)
        found = stored.astype(np.float32) / 255  # what is scored is what is written
        mask = to_mask(found, threshold=threshold, largest=largest)
        scores = metrics.score(truth, mask, spacing_mm=(1, 1, 1), labels=LABELS).reset_index().iloc[0]
        row = {
            "method": name, "subject": patient, "label": scores["label"], "site": table.loc[table["patient"] == patient, "site"].iloc[0],
            "slices": truth.shape[2], "dice": scores["dice"], "hd95_pixels": scores["hd95_mm"], "assd_pixels": scores["assd_mm"],
            "truth_pixels": int(truth.sum()), "prediction_pixels": int(mask.sum()), "empty": scores["empty"],
            "dice_all_components": metrics.dice(truth, to_mask(found, threshold=threshold, largest=False)),
        }  # fmt: skip
        large = large_mask(data, patient)
        if large is not None:
            mask = to_mask(resize(found, large.shape[:2]), threshold=threshold, largest=largest)
            row["dice_256"] = metrics.dice(large, mask)
        rows.append(row | shape.features(mask))
    return pd.DataFrame(rows)


def large_mask(data: str | os.PathLike, patient: str) -> np.ndarray | None:
    """Manual mask (rows, columns, slices), uint8, of ``masks_256/<patient>.nii.gz`` in or beside the data; None where there is none."""
    for folder in (Path(data) / "masks_256", Path(data).parent / "masks_256"):
        path = folder / f"{patient}.nii.gz"
        if path.is_file():
            return (volumes.array(volumes.load(path)) > 0).astype(np.uint8)
    return None


def load_probabilities(results: Path, method: str, patient: str) -> np.ndarray:
    """Probabilities that :func:`evaluate` wrote, to a 255th."""
    path = common.need(results / "predictions" / method / f"{patient}.npz", "04_testing")
    with np.load(path, allow_pickle=False) as part:
        return part["probabilities"].astype(np.float32) / 255


def predicted_mask(
    data: str | os.PathLike, results: Path, method: str, patient: str, *, threshold: float = 0.5, largest: bool = True
) -> np.ndarray:
    """The mask whose features :func:`evaluate` gave, from the probabilities that it wrote: of ``masks_256``'s size where that is."""
    found, large = load_probabilities(results, method, patient), large_mask(data, patient)
    return to_mask(found if large is None else resize(found, large.shape[:2]), threshold=threshold, largest=largest)


def legacy_scores(data: str | os.PathLike, results: Path, method: str, patients: Sequence[str]) -> dict[str, float]:
    """The report's scores over the test slices of all patients, in its own order: train_dice, validation_dice, soft_dice."""
    table = find(data)
    rows = table[table["patient"].isin(patients)]
    truth, found = {}, {}
    for patient in patients:
        _, mask = read(table, patient)
        soft = load_probabilities(results, method, patient)
        numbers = rows.loc[rows["patient"] == patient, "slice"]
        for k, n in enumerate(sorted(numbers)):
            truth[patient, n], found[patient, n] = mask[..., k], soft[..., k]
    keys = list(zip(rows["patient"], rows["slice"], strict=True))
    keys = [keys[i] for i in legacy.lgg_slice_order([p.name for p in rows["image"]])]
    size = np.max([truth[k].shape for k in keys], axis=0)
    t, p = (
        np.stack([resize(part[k], size, kind=kind) for k in keys]) for part, kind in ((truth, "mask"), (found, "image"))
    )
    return {
        "train_dice": legacy.lgg_train_dice(t, p), "validation_dice": legacy.lgg_validation_dice(t, p),
        "soft_dice": legacy.lgg_soft_dice(t, p),
    }  # fmt: skip


def three_columns(scores: pd.DataFrame, method: str, old: Mapping[str, float]) -> pd.DataFrame:
    """Reported, legacy and corrected for one method of :func:`evaluate`; ``old`` of :func:`legacy_scores`."""
    label = next(iter(LABELS))
    table = common.published("lgg")
    mean = float(table.query("metric == 'mean Dice (Buda et al.)'")["value"].iloc[0])
    last = float(table.query("label == 'epoch 8'")["value"].iloc[0])
    printed = pd.DataFrame({"label": label, "metric": ["Dice", "train Dice, epoch 8"], "value": [mean, last]})
    values = {"Dice": old["validation_dice"], "train Dice, epoch 8": old["train_dice"]}
    before = pd.DataFrame(
        [{"label": label, "metric": m, "subject": "all slices", "value": v} for m, v in values.items()]
    )
    chosen = scores[scores["method"] == method]
    columns = {
        "dice": "Dice",
        "dice_256": "Dice at 256²",
        "hd95_pixels": "HD95 (pixels)",
        "assd_pixels": "ASSD (pixels)",
    }
    parts = [
        chosen[["label", "subject"]].assign(metric=name, value=chosen[column])
        for column, name in columns.items()
        if column in chosen
    ]
    out = report.three_columns(printed, before, pd.concat(parts)[["label", "metric", "subject", "value"]])
    for metric, value in values.items():  # also where the division by 0 made it infinite
        out.loc[(label, metric), "legacy"] = value
    return out


def summary(
    scores: pd.DataFrame, *, by: Sequence[str] = ("method",), column: str = "dice", seed: int = 0
) -> pd.DataFrame:
    """Mean and median of a score with bootstrap 95 % intervals, a row a group; n patients and how many are left out."""
    rows = []
    for key, group in scores.groupby(list(by), sort=False):
        values = group[column].to_numpy(float)
        finite = values[np.isfinite(values)]
        mean, low, high = statistics.bootstrap_mean(values, seed=seed)
        rng = np.random.default_rng(seed)
        medians = (
            np.median(finite[rng.integers(0, finite.size, (10_000, finite.size))], axis=1) if finite.size else [np.nan]
        )
        rows.append(dict(zip(by, key, strict=True)) | {
            "mean": mean, "low": low, "high": high, "median": float(np.median(finite)) if finite.size else float("nan"),
            "median_low": float(np.percentile(medians, 2.5)), "median_high": float(np.percentile(medians, 97.5)),
            "n": finite.size, "excluded": values.size - finite.size,
        })  # fmt: skip
    return pd.DataFrame(rows).set_index(list(by))


def leakage_gap(table: pd.DataFrame) -> pd.DataFrame:
    """The lesson's table: the same network, split by slices and by patients; ``gap`` is the first minus the second.

    ``same_dice`` compares the two on the same slices, ``dice`` each on its own.
    """
    columns = [
        "same_dice",
        "same_batch_dice",
        "same_patients",
        "dice",
        "batch_dice",
        "patients",
        "shared_patients",
        "slices",
    ]
    out = table.set_index("split")[columns]
    out.loc["gap"] = out.loc["slices"] - out.loc["patients"]
    return out


def claims(
    scores: pd.DataFrame,
    method: str,
    *,
    source: str | None,
    leakage: pd.DataFrame | None = None,
    compared: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The report's sentences of result: section, claim, verdict, evidence; those on genomics are
    :func:`segkit.studies.lgg.radiogenomics.claims`.

    Parameters
    ----------
    leakage, compared : DataFrame, optional
        Of :mod:`segkit.studies.lgg.experiments`.
    """
    real, unknown = source != "phantom", "cannot be told here"
    mean = summary(scores[scores["method"] == method]).iloc[0]
    interval = f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"
    numbers = f"mean Dice a patient {interval}, median {mean['median']:.3f}, n {mean['n']:.0f}"
    rows = [
        ("abstract", "an average Dice of 82 percent", _reaches(mean, 0.82) if real else unknown,
         f"quoted from Buda et al. 2019, not from the report's networks; ours: {numbers}"),
        ("Figure 3", "140 slices are positive and 73 negative", "does not hold",
         "the bars' names are exchanged: of those 213 slices 73 hold tumour and 140 do not (01_padding counts them)"),
        ("Figure 4", "share of diagnoses a patient", "does not hold",
         "images are sorted by the slice number's text and patients are not, so the patients' column belongs to other slices"),
        ("Figure 13", "the train Dice is 0 or .2", "does not hold",
         "an artefact: each epoch is the mean over five batches, and an empty last batch of two slices counts 1"),
        ("abstract, BU-Net", "BU-Net outperforms the state of the art", unknown,
         "BU-Net was not trained in the report's code; see 03_training for a comparison at equal minutes"),
    ]  # fmt: skip
    if compared is not None and len(compared):
        random = compared[compared["encoder"] == "random"]
        wide = random.pivot_table(index="subject", columns=["network", "width"], values="dice")
        widths = [w for w in ("full", "half") if {("lgg_unet", w), ("lgg_bunet", w)} <= set(wide.columns)]
        if widths:
            pair = wide[[("lgg_bunet", widths[-1]), ("lgg_unet", widths[-1])]].set_axis(
                ["lgg_bunet", "lgg_unet"], axis=1
            )
            test = statistics.paired(pair).iloc[0]
            by = pair.mean()
            text = f"lgg_bunet {by['lgg_bunet']:.3f}, lgg_unet {by['lgg_unet']:.3f}, {widths[-1]} width, p {test['p']:.2g} (Wilcoxon)"
            clear = real and test["p"] <= 0.05
            rows.append(("sections on BU-Net", "BU-Net improves on U-Net", unknown if not clear else
                         ("holds" if by["lgg_bunet"] > by["lgg_unet"] else "does not hold"),
                         f"at equal minutes on one fold, one seed: {text}"))  # fmt: skip
    if leakage is not None and set(leakage["split"]) == {"slices", "patients"}:
        gap = leakage_gap(leakage)
        rows.append(("notebook", "slices are split at random, the test is unseen", "does not hold",
                     f"{gap.loc['slices', 'shared_patients']:.0f} test patients are in training, too; Dice on the same slices "
                     f"{gap.loc['slices', 'same_dice']:.3f} split by slices, {gap.loc['patients', 'same_dice']:.3f} by patients "
                     f"(n {gap.loc['slices', 'same_patients']:.0f}); each on its own {gap.loc['slices', 'dice']:.3f} and "
                     f"{gap.loc['patients', 'dice']:.3f}"))  # fmt: skip
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


def _reaches(mean: pd.Series, value: float) -> str:
    """Verdict on a claim of at least ``value``, by the interval of a row of :func:`summary`."""
    if mean["low"] <= value <= mean["high"]:
        return "holds" if mean["mean"] >= value else "cannot be told here"
    return "holds" if mean["low"] > value else "does not hold"


def save_mask(mask: np.ndarray, path: Path) -> Path:
    """Write a mask (rows, columns, slices) as NIfTI with the identity as affine."""
    return volumes.save(nib.Nifti1Image(np.asarray(mask, np.uint8), np.eye(4)), path)
