"""04 testing: every sentence of result in the report, and what becomes of it."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from segkit import statistics
from segkit.studies import common
from segkit.studies.ibsr.layout import LABELS
from segkit.studies.ibsr.tables import MODELS, table_1, tables_4_to_6, three_columns

UNKNOWN = "cannot be told here"
MARGIN = 0.005  # Dice within which a setting brings "no boost"
SEEDS = ("as it is", "another seed", "third seed")  # cells of the ablation that differ in their seed alone


class Compared(NamedTuple):
    """A sentence that compares settings: what it says of the Dice of cell ``a`` beside that of each cell in ``b``."""

    section: str
    claim: str
    table: str  # of the experiments
    a: str
    b: tuple[str, ...]
    says: str = "higher"  # or "lower", "no gain"
    tissues: tuple[str, ...] | None = None
    remark: str = ""
    patient: bool = False  # a has more to learn: what it does not reach in these minutes it may reach in more


_PLAIN, _BRAIN = ("as it is",), ("GM", "WM")
COMPARED = (
    Compared("3.1", "z-score gave no boost", "ablation", "as it is", ("raw intensities",), "no gain", remark="its code normalises nothing"),
    Compared("3.2", "denoising (Perona–Malik) made results extremely worse", "ablation", "Perona–Malik first", _PLAIN, "lower",
             remark="the same paragraph says that the data benefited a lot"),
    Compared("3.3", "N4 improved the results", "ablation", "as it is", ("without N4",)),
    Compared("3.4", "augmentation improved the results", "ablation", "as it is", ("not augmented",), patient=True,
             remark="its code appends one batch, 199 to 12,747 patches; ours turns and scales every sample, and flips none"),
    Compared("4.1.1", "batch normalisation in the encoder improves", "ablation", "batch normalisation in the encoder", _PLAIN,
             remark="its code has none"),
    Compared("4.2", "dropout .4 is the best of .25, .3, .4 and .5", "ablation", "as it is", ("dropout .25", "dropout .3", "dropout .5"),
             patient=True),
    Compared("4.3", "five levels are better than four", "networks", "2D U-Net, five levels", ("2D U-Net",), patient=True,
             remark="its code made Table 1 with four"),
    Compared("4.3", "a batch of 32 is better than one of 16", "ablation", "batch of 32", ("batch of 16",),
             remark="its code trains with 64"),
    Compared("4.4.1", "SGD brings no benefit", "ablation", "SGD", _PLAIN, "no gain"),
    Compared("4.4.3", "Adam gives the best performance of the three", "ablation", "as it is", ("SGD", "Adadelta")),
    Compared("4.5", "ReduceLROnPlateau works fairly well", "ablation", "plateau schedule", ("constant schedule",),
             remark="its code has no schedule"),
    Compared("4.6.1", "a weight on CSF raises the Dice of CSF", "losses", "CSF-weighted", ("cross-entropy",), tissues=("CSF",)),
    Compared("4.6.1", "… and lowers that of GM and WM", "losses", "CSF-weighted", ("cross-entropy",), "lower", _BRAIN),
    Compared("8.1, Table 4", "cross-entropy has the best Dice of CSF", "losses", "cross-entropy", ("focal", "Tversky", "focal Tversky"),
             tissues=("CSF",), remark="in its code Tversky and focal Tversky are one loss, whose two values differ by .017"),
    Compared("8.1, Table 4", "focal loss has the best Dice of WM", "losses", "focal", ("cross-entropy", "Tversky", "focal Tversky"),
             tissues=("WM",)),
    Compared("4.6.2", "individual Dice loss is worth a try", "losses", "Dice", ("cross-entropy",), remark="no number is given"),
    Compared("4.6.2", "weighted Dice loss is worth a try", "losses", "weighted Dice", ("cross-entropy",), remark="no number is given"),
    Compared("8.1, Table 1", "residual blocks raise GM and WM", "networks", "ResUNet", ("2D U-Net",), tissues=_BRAIN, patient=True,
             remark="they concatenate, and its notebook prints .9055 and .8355, not .9488 and .9234"),
    Compared("8.1, Table 1", "dense blocks raise GM and WM", "networks", "DenseUNet", ("2D U-Net",), tissues=_BRAIN, patient=True,
             remark="its notebook prints .7517 and .4736, not .9412 and .9187"),
    Compared("8.1, Table 1", "the 3D U-Net is best in GM and WM", "networks", "3D U-Net", ("2D U-Net", "ResUNet", "DenseUNet"),
             tissues=_BRAIN, patient=True, remark="its code is not there"),
    Compared("8.1, Table 1", "the 3D U-Net is worst in CSF", "networks", "3D U-Net", ("2D U-Net", "ResUNet", "DenseUNet"), "lower",
             ("CSF",), remark="its code is not there"),
    Compared("8.2", "the 2D U-Nets look best", "networks", "2D U-Net", ("3D U-Net",), remark="Table 1 has the 3D U-Net first in GM and WM"),
)  # fmt: skip


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
    rows = _scored(scores, network, real) + _untold()
    if tables is not None:
        known = {
            path.stem: pd.read_csv(path)
            for path in sorted(tables.glob("*.csv"))
            if path.stem in {c.table for c in COMPARED}
        }
        rows += _reached(known, real)
        rows += [_compared(c, known, real=real) for c in COMPARED] + _gap_of_losses(known.get("ablation"), real)
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


def _scored(scores: pd.DataFrame, network: str, real: bool) -> list[tuple[str, str, str, str]]:
    """Rows for the sentences about Table 1's first column."""
    table = three_columns(scores, network)
    dice, avd = table.xs("Dice", level="metric"), table.xs("AVD", level="metric")

    def shown(rows, column="corrected"):
        limits = {k: f" [{r['low']:.3f}, {r['high']:.3f}]" if column == "corrected" else "" for k, r in rows.iterrows()}
        return ", ".join(f"{k} {rows.loc[k, column]:.3f}{limits[k]}" for k in LABELS)

    reached = (dice["legacy"] >= dice["reported"]).all()
    copied = (avd["reported"] - (1 - dice["reported"])).abs().max() < 2e-4
    lowest = dice.loc["CSF", "high"] < dice.drop("CSF")["low"].min()
    return [
        ("8.1, Table 1", "the 2D U-Net reaches Dice .8220 (CSF), .9163 (GM), .8814 (WM)",
         ("holds" if reached else "does not hold") if real else UNKNOWN,
         f"legacy {shown(dice, 'legacy')}; corrected {shown(dice)}" if real
         else f"phantoms, which are easier or harder than the real set: {shown(dice)}"),
        ("9, Table 3", "the average Dice of ResUNet, DenseUNet and 3D U-Net is .9012, .8994 and .9025", "does not hold",
         "the means of their columns in Table 1 are .8952, .8871 and .8860"),
        ("9, Table 3", "the average Dice is .9184", "does not hold",
         f"the mean of Table 1's own column is .8732, with background .9041; ours over the three tissues {dice['corrected'].mean():.3f}"),
        ("4.7.3, Table 1", "AVD is |truth − prediction| / truth", "does not hold" if copied else UNKNOWN,
         f"the three values of the report's own 2D U-Net column are 1 − Dice; corrected, ours are {shown(avd)}"),
        ("9", "CSF has the lowest Dice of the three", ("holds" if lowest else UNKNOWN) if real else UNKNOWN, shown(dice)),
    ]  # fmt: skip


def _reached(known: dict[str, pd.DataFrame], real: bool) -> list[tuple[str, str, str, str]]:
    """A row for each further network of Table 1 and each loss of Table 4: does ours reach its Dice, under the report's definition?

    What a network does not reach in these minutes it may reach in more: then it cannot be told.
    """
    out = []
    for number, table, key, columns, what in (
        (1, "networks", "model", table_1, "the {}"), (4, "losses", "loss", tables_4_to_6, "the 2D U-Net with {} loss"),
    ):  # fmt: skip
        printed = common.published("ibsr").query(f"table == {number} and metric == 'Dice' and label in {list(LABELS)}")
        ours, spent = None, None
        if table in known:
            ours = columns(known[table]).xs("Dice", level="metric")
            spent = (
                known[table]
                .assign(**{key: known[table]["cell"].replace(MODELS)})
                .groupby(key)[["epochs", "seconds"]]
                .first()
            )
        for name, rows in printed.groupby(key, sort=False):
            if name == "2D U-Net":
                continue  # 04_testing trains and scores it itself
            said = rows.set_index("label")["value"]
            claim = (
                f"{what.format(name)} reaches Dice {', '.join(f'{v:.4f} ({k})'.lstrip('0') for k, v in said.items())}"
            )
            if spent is None or name not in spent.index:
                out.append((f"8.1, Table {number}", claim, UNKNOWN, f"not run here: experiments {table}"))
                continue
            legacy, corrected = ours.loc[name, "legacy"], ours.loc[name, "corrected"]
            text = "; ".join(
                f"{side} {', '.join(f'{k} {v[k]:.3f}' for k in LABELS)}"
                for side, v in (("legacy", legacy), ("corrected", corrected))
            )
            epochs, minutes = spent.loc[name, "epochs"], spent.loc[name, "seconds"] / 60
            verdict = "holds" if real and (legacy[said.index] >= said).all() else UNKNOWN
            out.append((f"8.1, Table {number}", claim, verdict, f"{text}; {minutes:.0f} minutes, {epochs:.0f} epochs"))
    return out


def _compared(said: Compared, known: dict[str, pd.DataFrame], *, real: bool) -> tuple[str, str, str, str]:
    """The row of one comparison.

    A difference counts when every subject has it and its mean is larger than what three seeds of one network differ by (ablation).
    Five subjects show no more: the smallest p of a Wilcoxon test is .0625.
    """
    table, remark = known.get(said.table), f"; {said.remark}" if said.remark else ""
    if table is None or not {said.a, *said.b} <= set(table["cell"]):
        return said.section, said.claim, UNKNOWN, f"not run here: experiments {said.table}{remark}"
    wide, chance = _dice(table, said.tissues), _chance(known.get("ablation"), said.tissues)
    tests = pd.concat([statistics.paired(wide[[said.a, b]]) for b in said.b], ignore_index=True)
    sides = [(wide[said.a] > wide[b]).sum() for b in said.b]
    up = [d > chance and k == n for d, k, n in zip(tests["difference"], sides, tests["n"], strict=True)]
    down = [-d > chance and k == 0 for d, k in zip(tests["difference"], sides, strict=True)]
    if said.says == "higher":
        holds, fails = all(up), any(down)
    elif said.says == "lower":
        holds, fails = all(down), any(up)
    else:
        holds, fails = bool((tests["difference"] < max(MARGIN, chance)).all()), any(up)
    verdict = "holds" if holds else "does not hold" if fails and not said.patient else UNKNOWN
    parts = [
        f"{said.a} − {b} {test['difference']:+.4f} (higher in {k} of {test['n']}, p {test['p']:.3f})"
        for b, k, (_, test) in zip(said.b, sides, tests.iterrows(), strict=True)
    ]
    spent = table.groupby("cell")[["epochs", "seconds"]].first().loc[[said.a, *said.b]]
    evidence = (
        f"Dice{' of ' + ' and '.join(said.tissues) if said.tissues else ''}: {'; '.join(parts)}; "
        f"{spent['seconds'].max() / 60:.0f} minutes, {spent['epochs'].min():.0f} to {spent['epochs'].max():.0f} epochs"
    )
    if chance:
        evidence += f"; three seeds of the four-level net differ by up to {chance:.4f}"
    if fails and said.patient:
        evidence += "; it may need more minutes than these"
    return said.section, said.claim, verdict if real else UNKNOWN, evidence + remark


def _dice(table: pd.DataFrame, tissues: tuple[str, ...] | None) -> pd.DataFrame:
    """Mean Dice over ``tissues`` (all), a row a subject, a column a cell."""
    chosen = table if tissues is None else table[table["label"].isin(tissues)]
    return chosen.groupby(["subject", "cell"])["dice"].mean().unstack("cell")


def _chance(ablation: pd.DataFrame | None, tissues: tuple[str, ...] | None) -> float:
    """By how much the means of cells differ that differ in their seed alone; 0 where fewer than two are there."""
    if ablation is None:
        return 0.0
    means = _dice(ablation, tissues).mean().reindex(SEEDS).dropna()
    return float(means.max() - means.min()) if len(means) > 1 else 0.0


def _gap_of_losses(ablation: pd.DataFrame | None, real: bool) -> list[tuple[str, str, str, str]]:
    section, claim, cells = (
        "4.2",
        "dropout shrinks the gap between training and validation loss",
        ["as it is", "no dropout"],
    )
    if ablation is None or not set(cells) <= set(ablation["cell"]):
        return [(section, claim, UNKNOWN, "not run here: experiments ablation")]
    first = ablation.groupby("cell")[["loss", "val_loss"]].first()
    gaps = (first["val_loss"] - first["loss"]).loc[cells]
    verdict = ("holds" if gaps.iloc[0] < gaps.iloc[1] else "does not hold") if real else UNKNOWN
    text = ", ".join(f"{name} {gap:+.4f}" for name, gap in zip(("with", "without"), gaps, strict=True))
    return [
        (
            section,
            claim,
            verdict,
            f"validation − training loss {text}; training loss is taken with dropout on, one seed",
        )
    ]


def _untold() -> list[tuple[str, str, str, str]]:
    """Sentences that no run of ours can speak to, or that the report's own tables or code settle."""
    return [
        ("4.4.2", "Adadelta performed fairly well", UNKNOWN, "no number is given; ours are in tables/ablation.csv where it was run"),
        ("4.4.3", "a learning rate of 1e-4, then 1e-5", "does not hold", "its code names Adam without a rate: Keras's 1e-3 throughout"),
        ("4.4.3", "Adam takes less time to converge than Adadelta", UNKNOWN, "no time is given"),
        ("4.8", "more than one scheduler is not effective", UNKNOWN, "no setting is given"),
        ("5.1", "patches are cut from axial slices", "does not hold",
         "its code reshapes along the first array axis, and 12,747 patches are those of sagittal planes"),
        ("5.4", "2D and 3D results are comparable", "does not hold", "its own 2D and 3D U-Net are .061 to .098 apart in Table 1"),
        ("5.5.2", "nnU-Net: 25 hours a fold; binary labels by mistake", UNKNOWN, "no score is given; 05_nnunet exports all four classes"),
        ("5.5.2, Table 2", "3D nnU-Net: 5000 epochs in 6.94 days", "does not hold", "the text says that it was stopped midway"),
        ("7.2, Table 2", "2D U-Net: 17 s an epoch, 200 epochs, 28 minutes", "does not hold",
         "200 times 17 s are 57 minutes; its code's run stopped after 71 epochs"),
        ("7.2, Table 2", "2D ResUNet: 23 s an epoch, 40 minutes; 2D DenseUNet: 34 s, 49 minutes", "does not hold",
         "200 epochs of them are 77 and 113 minutes"),
        ("8.2", "the 3D U-Net's volumes lack tissue", UNKNOWN, "no figure of them; its HD in Table 1 is the smallest in GM and WM"),
        ("8.2", "a 2D U-Net on full images never mistakes a CSF outside the centre", UNKNOWN, "no such run is described"),
    ]  # fmt: skip
