"""04 testing: every sentence of result in the report, and what becomes of it."""

from pathlib import Path

import numpy as np
import pandas as pd

from segkit import statistics
from segkit.studies import common
from segkit.studies.ibsr.layout import LABELS
from segkit.studies.ibsr.tables import three_columns

UNKNOWN = "cannot be told here"
# section, claim, table of the experiments, cell a, cell b, tissues, what the report says of a's Dice minus b's
COMPARED = (
    ("3.1", "z-score gave no boost", "ablation", "as it is", "raw intensities", None, "no gain"),
    ("3.2", "denoising (Perona–Malik) made results extremely worse", "recipe", "Perona–Malik first", "ibsr_unet_slices", None, "lower"),
    ("3.3", "N4 improved the results", "ablation", "as it is", "without N4", None, "higher"),
    ("3.4", "augmentation improved the results", "ablation", "as it is", "not augmented", None, "higher"),
    ("4.1.1", "batch normalisation is the most effective", "ablation", "batch normalisation", "as it is", None, "higher"),
    ("4.2", "dropout .4 is better than .25", "ablation", "as it is", "dropout .25", None, "higher"),
    ("4.2", "dropout .4 is better than .3", "ablation", "as it is", "dropout .3", None, "higher"),
    ("4.2", "dropout .4 is better than .5", "ablation", "as it is", "dropout .5", None, "higher"),
    ("4.3", "five levels are better than four", "networks", "2D U-Net, five levels", "2D U-Net", None, "higher"),
    ("4.3", "a batch of 32 is better than one of 16", "ablation", "batch of 32", "batch of 16", None, "higher"),
    ("4.4.1", "SGD brings no benefit", "ablation", "SGD", "as it is", None, "no gain"),
    ("4.4.3", "Adam is better than Adadelta", "ablation", "as it is", "Adadelta", None, "higher"),
    ("4.5", "ReduceLROnPlateau works fairly well", "ablation", "plateau schedule", "as it is", None, "higher"),
    ("4.6.1", "a weight on CSF raises the Dice of CSF", "losses", "CSF-weighted", "cross-entropy", ("CSF",), "higher"),
    ("4.6.1", "… and lowers that of GM and WM", "losses", "CSF-weighted", "cross-entropy", ("GM", "WM"), "lower"),
    ("4.6.2", "Dice loss suits unbalanced classes (no number given)", "losses", "Dice", "cross-entropy", ("CSF",), "higher"),
    ("4.6.3, Table 4", "cross-entropy gives CSF more than focal loss", "losses", "cross-entropy", "focal", ("CSF",), "higher"),
    ("4.6.4, Table 4", "cross-entropy gives CSF more than Tversky loss", "losses", "cross-entropy", "Tversky", ("CSF",), "higher"),
    ("4.6.5, Table 4", "cross-entropy gives CSF more than focal Tversky loss", "losses", "cross-entropy", "focal Tversky", ("CSF",),
     "higher"),
    ("8.1, Table 1", "residual blocks raise GM and WM", "networks", "ResUNet", "2D U-Net", ("GM", "WM"), "higher"),
    ("8.1, Table 1", "dense blocks raise GM and WM", "networks", "DenseUNet", "2D U-Net", ("GM", "WM"), "higher"),
    ("8.1, Table 1", "the 3D U-Net is best in GM and WM", "networks", "3D U-Net", "2D U-Net", ("GM", "WM"), "higher"),
    ("8.1, Table 1", "the 3D U-Net is worst in CSF", "networks", "3D U-Net", "2D U-Net", ("CSF",), "lower"),
    ("9", "an ensemble could help", "recipe", "ibsr_unet_slices", "coronal only, no mirroring", None, "higher"),
)  # fmt: skip
CONTRADICTED = {
    ("3.1", "z-score gave no boost"): "its code normalises nothing",
    (
        "3.2",
        "denoising (Perona–Malik) made results extremely worse",
    ): "the same paragraph says that the data benefited a lot",
    ("4.1.1", "batch normalisation is the most effective"): "its code has none",
    ("4.3", "five levels are better than four"): "its code made Table 1 with four",
    ("4.3", "a batch of 32 is better than one of 16"): "its code trains with 64",
    ("4.5", "ReduceLROnPlateau works fairly well"): "its code has no schedule",
    (
        "8.1, Table 1",
        "residual blocks raise GM and WM",
    ): "its notebook prints .9055 and .8355, not Table 1's .9488 and .9234",
    (
        "8.1, Table 1",
        "dense blocks raise GM and WM",
    ): "its notebook prints .7517 and .4736, not Table 1's .9412 and .9187",
}


def claims(scores: pd.DataFrame, network: str, *, source: str | None, tables: Path | None = None) -> pd.DataFrame:
    """The report's sentences of result: section, claim, verdict, evidence.

    Parameters
    ----------
    scores : DataFrame
        Of :func:`segkit.studies.ibsr.evaluate`, with the method ``network``.
    tables : path, optional
        Folder of the experiments' tables; without it the sentences that compare settings are left out.
    """
    real = source != "phantom"
    table = three_columns(scores, network)

    def line(label, metric, column):
        row = table.loc[(label, metric)]
        return f"{label} {row[column]:.3f}" + (
            f" [{row['low']:.3f}, {row['high']:.3f}]" if column == "corrected" else ""
        )

    dice_ours = ", ".join(line(k, "Dice", "corrected") for k in LABELS)
    means = {k: table.loc[(k, "Dice"), "corrected"] for k in LABELS}
    printed = (
        common.published("ibsr")
        .query("table == 1 and model == '2D U-Net'")
        .pivot(index="label", columns="metric", values="value")
    )
    same = np.allclose(printed["AVD"], 1 - printed["Dice"], atol=2e-4)
    average = float(np.mean(list(means.values())))
    reached = all(table.loc[(k, "Dice"), "legacy"] >= table.loc[(k, "Dice"), "reported"] - 0.02 for k in LABELS)
    rows = [
        ("8.1, Table 1", "the 2D U-Net reaches Dice .8220 (CSF), .9163 (GM), .8814 (WM)",
         ("holds" if reached else "does not hold") if real else UNKNOWN,
         f"legacy {', '.join(line(k, 'Dice', 'legacy') for k in LABELS)}; corrected {dice_ours}" if real
         else f"phantoms, which are easier or harder than the real set: {dice_ours}"),
        ("9", "the average Dice is .9184", "does not hold",
         f"the mean of Table 1's own column is .8732; ours over the three tissues {average:.3f}"),
        ("4.7.3, Table 1", "AVD is |truth − prediction| / truth", "does not hold" if same else UNKNOWN,
         "the three values of the report's own 2D U-Net column are 1 − Dice; corrected, ours are "
         + ", ".join(line(k, "AVD", "corrected") for k in LABELS)),
        ("9", "CSF has the lowest Dice of the three", ("holds" if means["CSF"] == min(means.values()) else "does not hold")
            if real else UNKNOWN,
         dice_ours),
    ]  # fmt: skip
    rows += untold() + ([] if tables is None else compared(tables, real=real))
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


def compared(tables: Path, *, real: bool) -> list[tuple[str, str, str, str]]:
    """Rows for the sentences that compare two settings, from the tables that :mod:`segkit.studies.ibsr.experiments` wrote.

    A verdict needs real subjects, an interval of the mean difference over them that leaves out 0, and a difference larger than the one
    between two seeds (the ablation's "another seed").
    """
    known = {
        path.stem: pd.read_csv(path) for path in sorted(tables.glob("*.csv")) if path.stem in {c[2] for c in COMPARED}
    }
    noise = _difference(known.get("ablation"), "as it is", "another seed", None)
    rows = []
    for section, claim, name, a, b, tissues, wants in COMPARED:
        said, gap = CONTRADICTED.get((section, claim)), _difference(known.get(name), a, b, tissues)
        if gap is None:
            evidence, verdict = f"not run here: experiments {name}", UNKNOWN
        else:
            mean, low, high, n = gap
            floor = abs(noise[0]) if noise else 0.0
            up, down = low > 0 and mean > floor, high < 0 and -mean > floor
            holds, fails = (up, down) if wants == "higher" else (down, up)
            verdict = UNKNOWN if not real else "holds" if holds else "does not hold" if fails else UNKNOWN
            seeds = f"two seeds differ by {floor:.4f}" if noise else "one seed"
            evidence = (
                f"Dice{'' if tissues is None else ' of ' + ', '.join(tissues)}: {a} − {b} {mean:+.4f} [{low:+.4f}, {high:+.4f}], "
                f"n {n}, {seeds}"
            )
        rows.append((section, claim, verdict, evidence + (f"; {said}" if said else "")))
    return rows


def _difference(table: pd.DataFrame | None, a: str, b: str, tissues) -> tuple[float, float, float, int] | None:
    """Mean difference of Dice a − b over subjects with its interval, and how many they are; None where a cell is missing."""
    if table is None or not {a, b} <= set(table["cell"]):
        return None
    chosen = table if tissues is None else table[table["label"].isin(tissues)]
    wide = chosen.groupby(["subject", "cell"])["dice"].mean().unstack("cell")
    return (*statistics.bootstrap_mean(wide[a] - wide[b]), len(wide))


def untold() -> list[tuple[str, str, str, str]]:
    """Sentences that no run of ours can speak to, or that the report's own tables or code settle."""
    return [
        ("4.4.3", "a learning rate of 1e-4, then 1e-5", "does not hold", "its code names Adam without a rate: Keras's 1e-3 throughout"),
        ("4.8", "more than one scheduler is not effective", UNKNOWN, "no setting is given"),
        ("5.1", "patches are cut from axial slices", "does not hold",
         "its code reshapes along the first array axis, and 12,747 patches are those of sagittal planes"),
        ("5.5.2", "nnU-Net: 25 hours a fold, then binary labels by mistake", UNKNOWN,
         "notebook 05 exports all four classes and reads four back"),
        ("7.2, Table 2", "17 to 72 seconds an epoch", UNKNOWN, "other machines; ours are in tables/networks.csv"),
        ("8.2", "the 3D U-Net's volumes have missing tissue", UNKNOWN, "no figure of it; its HD in Table 1 is the lowest in GM and WM"),
    ]  # fmt: skip
