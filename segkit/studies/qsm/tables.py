"""04 testing: scores a subject and nucleus, on the working cube and the own grid; the report's tables beside ours."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from scipy import ndimage
from tqdm.auto import tqdm

from segkit import legacy, metrics, report, statistics, volumes
from segkit.labels import merge
from segkit.studies import common
from segkit.studies.qsm.layout import LABELS, file_names
from segkit.studies.qsm.networks import to_labels
from segkit.studies.qsm.steps import check_registered, load_cube, read, reconstruct

NOTE = (
    "Reported: Table 1 of the report, on 20 subjects that are not public. Legacy: one reading of its scores, which it does not "
    "define: Dice as a soft coefficient over batches of four patches, the Hausdorff distance averaged over patches that hold "
    "both masks; cut from our own volumes, which are blended from patches that overlap and rid of small parts, where the report predicts "
    "patch by patch; the recipe's labels there are votes, 0 or 1. "
    "Corrected: Dice, HD95 and surface Dice at 1 mm of each subject's volume rebuilt on its own grid, against its own labels, 95 % "
    "bootstrap interval over n subjects; its HD in voxels counts those of the working cube. "
)


def evaluate(
    methods: Mapping[str, Callable[[str], np.ndarray]],
    results: Path,
    subjects: Sequence[str],
    *,
    dim: int,
    labels: Mapping[str, int] = LABELS,
    tidy: bool = True,
) -> pd.DataFrame:
    """Score methods on working cubes.

    Parameters
    ----------
    methods : dict
        Name to ``callable(subject) -> probabilities (x, y, z, classes)`` of a cube of ``dim``; one class for one label.
    labels : dict
        Name to value; ``{"brain": 1}`` scores the brain mask.
    tidy : bool
        See :func:`segkit.studies.qsm.to_labels`.

    Returns
    -------
    DataFrame
        A row a method, subject and label: dim, mm (its voxel's side), the columns of :func:`segkit.metrics.score`, mean susceptibility in
        ppm within truth and prediction, legacy_dice and legacy_hd_voxels. Label maps are written to
        ``predictions/<method>/<subject>.nii.gz``.
    """
    rows = []
    for name, subject in tqdm([(m, s) for m in methods for s in subjects], desc="scoring"):
        qsm, brain, known = load_cube(results, subject, dim)
        if known is None and "brain" not in labels:
            raise ValueError(f"{subject}: has no labels, so nothing can be scored; take it out of the list")
        truth = volumes.array(brain) if "brain" in labels else volumes.array(known)
        soft = methods[name](subject)
        single = soft.shape[-1] == 1
        found = to_labels(soft, tidy=tidy)
        if single and "brain" not in labels:
            found = found * np.uint8(next(iter(labels.values())))
        volumes.save(volumes.like(found, qsm), results / "predictions" / name / f"{subject}.nii.gz")
        scores = metrics.score(truth, found, spacing_mm=volumes.spacing(qsm), labels=labels)
        chi = volumes.array(qsm)
        for label, row in scores.iterrows():
            t, p = truth == labels[label], found == labels[label]
            probability = soft[..., 0] if single else soft[..., labels[label]]
            rows.append({
                "method": name, "subject": subject, "label": label, "dim": dim, "mm": volumes.spacing(qsm)[0], **row,
                **_mean_ppm(chi, t, p),
                "legacy_dice": legacy.qsm_soft_dice(t, probability), "legacy_hd_voxels": legacy.qsm_patch_hausdorff(t, p),
            })  # fmt: skip
    return pd.DataFrame(rows)


def on_original_grid(
    table: pd.DataFrame,
    results: Path,
    method: str,
    subjects: Sequence[str],
    *,
    values: Mapping[str, Sequence[int]],
    out: Path,
    labels: Mapping[str, int] = LABELS,
    finer: Callable[[str], Nifti1Image] | None = None,
) -> pd.DataFrame:
    """Rebuild predictions on each subject's own grid and score them there against its own labels.

    Parameters
    ----------
    table : DataFrame
        Of :func:`segkit.studies.qsm.find`.
    values : dict
        Left and right value of each nucleus.
    out : folder
        ``<subject>_<method>.nii.gz`` is written there (the report's ``reconstructed_predictions``).
    labels : dict
        As in :func:`evaluate`.
    finer : callable, optional
        Subject to its label map, of a method that knows a finer grid than that of :func:`evaluate`, whose files are taken without it.

    Returns
    -------
    DataFrame
        A row a subject and label: the columns of :func:`segkit.metrics.score`, truth_ppm and prediction_ppm, of the map as it came.
    """
    rows = []
    for subject in tqdm(subjects, desc="rebuilding"):
        qsm, masks = read(table.loc[subject], values)
        if not set(labels) <= set(masks):
            raise ValueError(f"{subject}: has no labels, so nothing can be scored; take it out of the list")
        written = results / "predictions" / method / f"{subject}.nii.gz"
        small = volumes.load(common.need(written, "04_testing")) if finer is None else finer(subject)
        found = reconstruct(small, volumes.load(table.loc[subject, "qsm"]))
        volumes.save(found, out / f"{subject}_{method}.nii.gz")
        truth, data = (
            merge({n: volumes.array(masks[n]) for n in labels}, labels),
            volumes.array(volumes.canonical(found)),
        )
        scores = metrics.score(truth, data, spacing_mm=volumes.spacing(qsm), labels=labels)
        for label, row in scores.iterrows():
            ppm = _mean_ppm(volumes.array(qsm), truth == labels[label], data == labels[label])
            rows.append({"method": method, "subject": subject, "label": label, **row, **ppm})
    return pd.DataFrame(rows)


def _mean_ppm(chi: np.ndarray, truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    sides = {"truth_ppm": truth, "prediction_ppm": found}
    return {name: float(chi[mask].mean()) if mask.any() else np.nan for name, mask in sides.items()}


def summary(
    scores: pd.DataFrame, *, by: Sequence[str] = ("method",), column: str = "dice", seed: int = 0
) -> pd.DataFrame:
    """Mean of a score a nucleus, and over all ("mean", of each subject's mean), with 95 % intervals over subjects."""
    each = scores[[*by, "label", "subject", column]]
    whole = each.groupby([*by, "subject"], sort=False)[column].mean().reset_index().assign(label="mean")
    return report.summarise(
        pd.concat([each, whole])[[*by, "label", "subject", column]].rename(columns={column: "value"}), seed=seed
    )


def told(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`summary` as text, ``mean [low, high]``, a column a nucleus; how many subjects are in it where not all are."""

    def cell(row) -> str:
        left = f" ({row['n']:.0f} of {row['n'] + row['excluded']:.0f})" if row["excluded"] else ""
        return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]{left}"

    text = table.apply(cell, axis=1)
    return text.unstack("label")[list(dict.fromkeys(table.index.get_level_values("label")))]


def pairs(scores: pd.DataFrame, *, by: str = "method", column: str = "dice", base=None) -> pd.DataFrame:
    """Every two methods (``base`` and each other one) over the same subjects, on each subject's mean: Wilcoxon, Holm
    (:func:`segkit.statistics.paired`). With eight subjects no p is below .0078, so ask few questions."""
    return statistics.paired(scores.pivot_table(index="subject", columns=by, values=column, sort=False), base=base)


def table_1(binary: pd.DataFrame) -> pd.DataFrame:
    """The report's Table 1 (one model a mask, at 128³) beside ours of :func:`segkit.studies.qsm.experiments.binary`.

    Columns: reported validation Dice, test Dice and HD; ours by its definitions (legacy, of patches), and of whole working cubes with
    95 % interval, empty predictions left out of HD95 and counted.
    """
    printed = common.published("qsm").query("table == 1").pivot(index="label", columns="metric", values="value")
    hd95 = summary(binary.assign(method="ours"), column="hd95_mm").loc["ours"].drop("mean")
    old = binary.groupby("label")[["legacy_dice", "legacy_hd_voxels"]].mean()
    whole = summary(binary.assign(method="ours")).loc["ours"].drop("mean")
    return pd.DataFrame({
        "reported validation Dice": printed["validation Dice"], "reported Dice": printed["test Dice"], "legacy Dice": old["legacy_dice"],
        "Dice of whole cubes": whole["mean"], "low": whole["low"], "high": whole["high"],
        "reported HD (voxels)": printed["test HD (voxels)"], "legacy HD (voxels)": old["legacy_hd_voxels"],
        "HD95 of whole cubes (mm)": hd95["mean"], "n": whole["n"], "without HD95": hd95["excluded"],
    }).reindex(["brain", *LABELS])  # fmt: skip


def table_2(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """The report's Table 2: Chai et al.'s Dice as it quotes it, and ours with intervals, a row a nucleus."""
    printed = common.published("qsm").query("table == 2").set_index("label")["value"].rename("Chai et al., as quoted")
    ours = told(summary(scores[scores["method"] == method])).iloc[0].rename(method)
    return pd.concat([printed, ours], axis=1).reindex(list(dict.fromkeys([*LABELS, *printed.index])))


def table_3(compared: pd.DataFrame, grids: pd.DataFrame | None = None) -> pd.DataFrame:
    """The report's Table 3 (hippocampus and caudate, two networks, two dimensions, mixed epochs) beside ours at equal subjects and minutes.

    The report's models are of one nucleus, ours of all five.

    Parameters
    ----------
    compared, grids : DataFrame
        Of :func:`segkit.studies.qsm.experiments.compare` and :func:`segkit.studies.qsm.experiments.resolution`.
    """
    printed = common.published("qsm").query("table == 3")
    ours = [compared.assign(network=compared["network"].map({"qsm_unet3d": "U-Net", "qsm_resunet3d": "ResUNet"}))]
    if grids is not None:
        ours.append(grids.assign(network="U-Net"))
    mean = pd.concat(ours).dropna(subset=["network"]).drop_duplicates(["network", "dim", "label", "subject"])
    mean = summary(mean, by=("network", "dim")).reset_index()[["network", "dim", "label", "mean", "low", "high", "n"]]
    out = printed[["network", "label", "dim", "epochs", "subjects", "value"]].rename(columns={"value": "reported"})
    out = out.astype({"dim": int, "epochs": int, "subjects": int})
    return out.merge(mean.rename(columns={"mean": "ours"}), on=["network", "label", "dim"], how="left").set_index(
        ["label", "network", "dim"]
    )


def three_columns(scores: pd.DataFrame, rebuilt: pd.DataFrame, method: str, *, dim: int = 128) -> pd.DataFrame:
    """Reported (Table 1, binary models at ``dim``), legacy and corrected for one method.

    Parameters
    ----------
    scores : DataFrame
        Of :func:`evaluate`: the legacy column, since the report scores working cubes.
    rebuilt : DataFrame
        Of :func:`on_original_grid`: the corrected column.
    """
    printed = common.published("qsm").query("table == 1 and metric != 'validation Dice'")
    printed = printed[printed["dim"] == dim][["label", "metric", "value"]]
    printed = printed.assign(metric=printed["metric"].map({"test Dice": "Dice", "test HD (voxels)": "HD (voxels)"}))
    working = scores[scores["method"] == method]
    own = rebuilt[rebuilt["method"] == method]
    own = own.assign(hd_voxels=own["hd_mm"] / working["mm"].iloc[0])  # of the working cube, as the report's
    printed = printed[printed["label"].isin(working["label"])]

    def long(chosen: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
        parts = [chosen[["label", "subject"]].assign(metric=metric, value=chosen[c]) for c, metric in columns.items()]
        return pd.concat(parts)[["label", "metric", "subject", "value"]].sort_values("label", kind="stable")

    old = long(working, {"legacy_dice": "Dice", "legacy_hd_voxels": "HD (voxels)"})
    new = long(own, {
        "dice": "Dice", "hd_voxels": "HD (voxels)", "hd_mm": "HD (mm)", "hd95_mm": "HD95 (mm)", "surface_dice": "surface Dice at 1 mm",
    })  # fmt: skip
    return report.three_columns(printed, old, new)


def measures_table(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """Volume in ml and mean susceptibility in ppm a nucleus, truth and prediction, with mean absolute errors and bias."""
    chosen = scores[scores["method"] == method]
    rows = []
    for label, group in chosen.groupby("label", sort=False):
        ml, ppm = group["prediction_ml"] - group["truth_ml"], group["prediction_ppm"] - group["truth_ppm"]
        rows.append({
            "label": label, "truth_ml": group["truth_ml"].mean(), "prediction_ml": group["prediction_ml"].mean(),
            "error_ml": ml.abs().mean(),
            "bias_ml": ml.mean(), "truth_ppm": group["truth_ppm"].mean(), "prediction_ppm": group["prediction_ppm"].mean(),
            "error_ppm": ppm.abs().mean(), "bias_ppm": ppm.mean(), "n": len(group),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("label")


def ceilings(results: Path, subjects: Sequence[str], *, dims: Sequence[int]) -> pd.DataFrame:
    """Dice on the first, finest dimension of each one's own labels, brought up again: what a network reaches that copies them."""
    rows = []
    for subject in subjects:
        _, _, truth = load_cube(results, subject, dims[0])
        for dim in dims:
            _, _, small = load_cube(results, subject, dim)
            back = volumes.array(reconstruct(small, truth))
            rows += [
                {
                    "subject": subject,
                    "dim": dim,
                    "label": name,
                    "ceiling": metrics.dice(volumes.array(truth) == v, back == v),
                }
                for name, v in LABELS.items()
            ]
    return pd.DataFrame(rows)


def atlas_vote(results: Path, training: Sequence[str], *, dim: int) -> np.ndarray:
    """Share (x, y, z, 6) of the training subjects' labels at each voxel: the baseline that knows no intensities.

    Raises
    ------
    ValueError
        When a subject has no labels, or the cubes do not share a grid, as those of registered maps do.
    """
    votes, first = None, None
    for subject in training:
        label_map = load_cube(results, subject, dim)[2]
        if label_map is None:
            raise ValueError(f"{subject}: has no labels, so it has no vote; take it out of the list")
        first = first or label_map
        check_registered(first, label_map, (training[0], subject))
        known = volumes.array(label_map)
        one = np.eye(len(LABELS) + 1, dtype=np.float32)[known]
        votes = one if votes is None else votes + one
    return votes / len(training)


def seams(probabilities: np.ndarray, patch: Sequence[int]) -> float:
    """Mean absolute jump of the probabilities across the borders of patches side by side, over that across other planes.

    1 where nothing is to be seen; what :func:`segkit.inference.predict` with overlap brings down.

    Raises
    ------
    ValueError
        When the volume is one patch, so that there is no border.
    """
    if all(n <= p for n, p in zip(probabilities.shape, patch, strict=False)):
        raise ValueError(f"a volume of {probabilities.shape[:3]} is a single patch of {tuple(patch)}: it has no seams")
    at, elsewhere = [], []
    for axis in range(3):
        jump = np.abs(np.diff(probabilities, axis=axis)).mean(
            axis=tuple(a for a in range(probabilities.ndim) if a != axis)
        )
        border = np.zeros(len(jump), bool)
        border[patch[axis] - 1 :: patch[axis]] = True
        wide = ndimage.binary_dilation(border, iterations=3)  # compared with planes nearby
        at.append(jump[border])
        elsewhere.append(jump[wide & ~border])
    return float(np.concatenate(at).mean() / max(np.concatenate(elsewhere).mean(), 1e-12))


def landmarks(table: pd.DataFrame, results: Path, subject: str, *, dims: Sequence[int], values) -> pd.DataFrame:
    """Centre of mass in mm of the brain and each nucleus in the original, in each cube, and in each cube's brought back to the original.

    Halving takes the thin ends of small nuclei, which moves their centres a little; the brain's stays.
    """
    qsm, masks = read(table.loc[subject], values)
    rows = [{"file": "original", **_centres(masks)}]
    for dim in dims:
        names = file_names(dim) | {"brain": file_names(dim)["brain_mask"]}
        cubes = {n: volumes.load(results / "padded" / subject / names[n]) for n in masks}
        rows.append({"file": f"dim{dim}", **_centres(cubes)})
        back = {n: reconstruct(cube, qsm) for n, cube in cubes.items()}
        rows.append({"file": f"dim{dim}, rebuilt", **_centres(back)})
    return pd.DataFrame(rows).set_index("file")


def _centres(masks: Mapping) -> dict[str, str]:
    out = {}
    for name, mask in masks.items():
        mm = nib.affines.apply_affine(mask.affine, np.argwhere(volumes.array(mask)).mean(axis=0))
        out[name] = ", ".join(f"{x:.1f}" for x in mm)
    return out
