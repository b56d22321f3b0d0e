"""04 testing: scores a subject, the three columns, and the report's claims."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from segkit import legacy, metrics, report, statistics, volumes
from segkit.studies import common
from segkit.studies.ibsr.layout import LABELS, find, read
from segkit.studies.ibsr.steps import load_corrected


def evaluate(
    methods: dict,
    data: str | os.PathLike,
    results: Path,
    subjects: Sequence[str],
    *,
    jobs: int = 2,
    load: Callable = load_corrected,
) -> pd.DataFrame:
    """Score methods on labelled subjects, per subject in 3D on the native grid.

    Parameters
    ----------
    methods : dict
        Name to ``callable(bias-corrected image) -> label image`` on the image's grid.
    subjects : sequence of str
    jobs : int
        Processes that score; the networks themselves use every core.
    load : callable
        ``load(results, subject)``: the image that methods are given.

    Returns
    -------
    DataFrame
        Columns method, subject, label, those of :func:`segkit.metrics.score`, and the report's own definitions as
        legacy_dice, legacy_hausdorff_voxels, legacy_avd. Predictions are written to ``predictions/<method>/``.
    """
    table, cases = find(data), []
    for name, subject in tqdm([(name, s) for name in methods for s in subjects], desc="predicting"):
        written = results / "predictions" / name / f"{subject}_seg.nii.gz"
        volumes.save(methods[name](load(results, subject)), written)
        cases.append((name, subject, table.loc[subject], written))
    out = pd.concat(common.spread(_score, cases, jobs=jobs, desc="scoring"), ignore_index=True)
    return out[["method", "subject", *[c for c in out.columns if c not in ("method", "subject")]]]


def _score(method: str, subject: str, row: pd.Series, written: Path) -> pd.DataFrame:
    """Scores of one prediction, a row a label."""
    label, found = read(row)[1], volumes.load(written)
    volumes.check_same_grid(label, found, (str(row["label"]), f"prediction of {method}"))
    truth, prediction = volumes.array(label), volumes.array(found)
    scores = metrics.score(truth, prediction, spacing_mm=volumes.spacing(label), labels=LABELS)
    scores = scores.join(legacy.ibsr_score(truth, prediction, LABELS).add_prefix("legacy_"))
    return scores.reset_index().assign(method=method, subject=subject)


def three_columns(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """Reported (Table 1, 2D U-Net; nothing for a baseline), legacy and corrected for one method of :func:`evaluate`.

    Rows are Dice, Hausdorff and AVD of each tissue. Legacy: mean over the volumes that the report's code scored (12, 13,
    14, 17, without 11) where they are present, Hausdorff distance in voxels (full maximum), "AVD" as 1 − Dice. Corrected:
    HD95 in mm, AVD as |ΔV| / V.
    """
    printed = common.published("ibsr").query("table == 1 and model == '2D U-Net'")[["label", "metric", "value"]]
    if not method.startswith("ibsr_unet2d"):  # a baseline or our recipe, which the report does not have
        printed = printed.iloc[:0]
    return _columns(printed, scores[scores["method"] == method], ())


def table_1(networks: pd.DataFrame) -> pd.DataFrame:
    """The report's Table 1, its networks by three columns, from ``experiments networks``: model, label, metric."""
    printed = common.published("ibsr").query("table == 1")[["model", "label", "metric", "value"]]
    return _columns(printed, networks.assign(model=networks["cell"].replace(MODELS)), ("model",))


def tables_2_and_3(networks: pd.DataFrame) -> pd.DataFrame:
    """Time and losses of each network, the report's and ours side by side, from ``experiments networks``."""
    ours = networks.assign(model=networks["cell"].replace(MODELS)).groupby("model", sort=False)
    first = ours[["epochs", "seconds", "loss", "val_loss"]].first()
    rows = pd.DataFrame({
        "seconds per epoch": first["seconds"] / first["epochs"], "epochs": first["epochs"], "minutes": first["seconds"] / 60,
        "training loss": first["loss"], "validation loss": first["val_loss"], "average Dice": ours["dice"].mean(),
    })  # fmt: skip
    printed = common.published("ibsr").query("table in (2, 3)").pivot(index="model", columns="metric", values="value")
    known = [*rows.index, *(m for m in printed.index if m not in rows.index)]
    both = pd.concat({"reported": printed[rows.columns].reindex(known), "ours": rows.reindex(known)}, axis=1)
    return both.swaplevel(axis=1)[[(c, k) for c in rows.columns for k in ("reported", "ours")]]


def tables_4_to_6(losses: pd.DataFrame) -> pd.DataFrame:
    """The report's Tables 4 to 6 (Dice, Hausdorff, AVD by loss) by three columns, from ``experiments losses``: loss, label, metric.

    The background is the report's alone: a score of it says nothing.
    """
    printed = common.published("ibsr").query("table in (4, 5, 6)")
    return _columns(printed[["loss", "label", "metric", "value"]], losses.assign(loss=losses["cell"]), ("loss",))


def what_steps_bring(rows: pd.DataFrame, base: str) -> pd.DataFrame:
    """Dice of each cell of ``experiments recipe`` minus that of ``base``, a tissue a column, with its 95 % interval over subjects."""
    out: dict = {}
    for label in LABELS:
        wide = rows[rows["label"] == label].pivot(index="subject", columns="cell", values="dice")
        for cell in rows["cell"].unique():
            mean, low, high = statistics.bootstrap_mean(wide[cell] - wide[base])
            text = f"{wide[cell].mean():.4f}" if cell == base else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
            out.setdefault(label, {})[cell] = text
    return pd.DataFrame(out).rename_axis("cell")


MODELS = {"ResUNet": "2D ResUNet", "DenseUNet": "2D DenseUNet"}  # cells of the experiments as Table 1 calls them


def _columns(printed: pd.DataFrame, scores: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The three columns of Dice, Hausdorff and AVD, split by ``keys`` and label."""
    chosen = scores.assign(avd=lambda t: t["avd_percent"] / 100)
    ours = _long(chosen, {"dice": "Dice", "hd95_mm": "Hausdorff", "avd": "AVD"}, keys)
    scored = set(common.split("ibsr", "validation_report"))
    known = chosen[chosen["subject"].isin(scored)] if scored <= set(chosen["subject"]) else chosen
    old = _long(known, {"legacy_dice": "Dice", "legacy_hausdorff_voxels": "Hausdorff", "legacy_avd": "AVD"}, keys)
    return report.three_columns(printed, old, ours)


def _long(scores: pd.DataFrame, columns: dict[str, str], keys: Sequence[str]) -> pd.DataFrame:
    kept = [*keys, "label", "subject"]
    parts = [scores[kept].assign(metric=name, value=scores[column]) for column, name in columns.items()]
    return pd.concat(parts)[[*keys, "label", "metric", "subject", "value"]]


NOTE = (
    "Reported: Table 1, 2D U-Net (the four-level net). Legacy: the report's definitions, mean over IBSR_12, 13, 14 and 17 "
    "where all are present: Hausdorff distance in voxels (full maximum), AVD = 1 − Dice. Corrected: per subject in 3D on the "
    "native grid: HD95 in mm (the larger of two directed percentiles), AVD = |ΔV| / V, 95 % bootstrap interval over n subjects."
)
