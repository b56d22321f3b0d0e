"""04 testing: every sentence of result in the report, and what becomes of it."""

import pandas as pd

from segkit.studies.qsm.tables import pairs, summary

UNKNOWN = "cannot be told here"
ALIKE = 0.02  # Dice within which two networks are "almost alike"


def claims(
    scores: pd.DataFrame,
    *,
    source: str | None,
    best: str,
    unet: str | None = None,
    resunet: str | None = None,
    double: str | None = None,
    grids: pd.DataFrame | None = None,
    curve: pd.DataFrame | None = None,
    ceilings: pd.DataFrame | None = None,
    shares: pd.Series | None = None,
) -> pd.DataFrame:
    """The report's sentences of result: section, claim, verdict, evidence.

    Parameters
    ----------
    scores : DataFrame
        Of :func:`evaluate`, of several methods; what is said of 128³ is told from rows of that dim alone.
    best, unet, resunet, double : str
        Methods: our best, and the report's two networks and the double branch at an equal budget (None: not compared).
    grids, curve, ceilings : DataFrame, optional
        Of :func:`segkit.studies.qsm.experiments.resolution`, of :func:`segkit.studies.qsm.experiments.learning_curve`, and of
        :func:`segkit.studies.qsm.ceilings`.
    shares : Series, optional
        Of each subject the putamen's share of the brain, on its own grid.
    """
    mean, real = summary(scores)["mean"], source != "simulated phantom"
    rows = [
        ("Table 2", "the networks beat Chai et al.'s on caudate and thalamus with QSM alone", UNKNOWN,
         "other subjects and nuclei's definitions; the caudate's .81 is of Table 1, Table 3 has .76 below Chai's .782; here, best: "
         f"caudate {mean[best, 'caudate']:.3f}, thalamus {mean[best, 'thalamus']:.3f}{_simulated(source)}"),
        ("Table 1", "the whole brain has a Hausdorff distance of .04 voxels at a Dice of .97", "does not hold",
         "a distance between voxels that is not 0 is at least 1, so it is an average of something; not a volume's maximum"),
        ("Table 1", "the hippocampus has a Dice of .82", "does not hold", "Table 3 has .80 for the same network and dimension"),
        ("below Table 3", "the U-Net has 5.5 million parameters", "does not hold", "as described it has 5,644,913"),
        ("section 8.2", "YY in a model's name counts the subjects that it was trained on", UNKNOWN,
         "no name of a model is printed; Tables 1 and 3 count 100, of whom 56 train, 24 select and 20 test"),
        ("below Table 3", "ResUNet converges faster", UNKNOWN, "no curve of both is shown; at equal minutes it takes fewer steps"),
    ]  # fmt: skip
    if shares is not None:
        share = shares.mean()
        rows.append(("above Figure 6", "the putamen is .5 to 1.0 % of the brain", "holds" if real and 0.005 <= share <= 0.01 else UNKNOWN,
                     f"here {100 * share:.2f} %, both sides"))  # fmt: skip
    nets = None if unet is None or resunet is None else scores[scores["method"].isin([unet, resunet])]
    for section, claim, label, says in (
        ("section 5.3", "ResUNet has no better Dice than U-Net at four times the parameters", None, "higher"),
        ("below Table 3", "U-Net does better than ResUNet on the hippocampus at 128³", "hippocampus", "higher"),
        ("below Table 3", "U-Net and ResUNet are almost alike on the caudate at 128³", "caudate", "alike"),
    ):
        if nets is None:
            rows.append((section, claim, UNKNOWN, "not run here: experiments compare"))
            continue
        chosen = nets if label is None else nets[nets["label"] == label]
        if label is not None and set(nets["dim"]) != {128}:
            rows.append((section, claim, UNKNOWN, "not run here at 128³"))
            continue
        rows.append((section, claim, *_verdict(chosen, "method", unet, resunet, ("U-Net", "ResUNet"), says, source)))
    section, claim = (
        "below Table 3",
        "U-Net and ResUNet (.76) come close to a double branch (Chai et al.: .78) on the caudate",
    )
    if double is None or nets is None:
        rows.append((section, claim, UNKNOWN, "not run here: experiments compare"))
    else:
        three = scores[scores["method"].isin([unet, resunet, double]) & (scores["label"] == "caudate")]
        better = max((unet, resunet), key=lambda m: three.loc[three["method"] == m, "dice"].mean())
        names = ("double branch", "the better of both")
        rows.append((section, claim, *_verdict(three, "method", double, better, names, "alike", source)))
    rows.append(_more_subjects(curve, source))
    if ceilings is not None:
        low = ceilings.groupby("dim")["ceiling"].mean()
        told = ", ".join(f"{v:.3f} at {k}³" for k, v in low.items())
        rows.append((
            "section 5, conversion loss", "downsampling loses information", "holds" if low.min() < 0.99 else UNKNOWN,
            f"labels brought down and up again have a Dice of {told}",
        ))  # fmt: skip
    claim = "at 256³ the caudate's Dice falls to .64 from .76 at 128³"
    if grids is None or not {256, 128} <= set(grids["dim"]):
        rows.append(("below Table 3", claim, UNKNOWN, "not run here: experiments resolution"))
    else:
        for label, says, sentence in (
            ("caudate", "higher", claim),
            ("hippocampus", "alike", "on the hippocampus 256³ against 128³ is not conclusive"),
        ):
            chosen = grids[grids["label"] == label]
            verdict, evidence = _verdict(chosen, "dim", 128, 256, ("128³", "256³"), says, source)
            own, fine = (chosen.groupby("dim")[column].mean() for column in ("dice", "dice_fine"))
            evidence += f"; on the finest grid {fine[128]:.3f} and {fine[256]:.3f}"
            if says == "higher" and (own[128] - own[256]) * (fine[128] - fine[256]) < 0:
                verdict, evidence = UNKNOWN, evidence + ", the other way round"
            evidence += "; the same patches of 64³ see an eighth of the volume at 256³"
            rows.append(("below Table 3", sentence, verdict, evidence))
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


def _simulated(source: str | None) -> str:
    return "; maps are simulated" if "simulated" in (source or "") else ""


def _more_subjects(curve: pd.DataFrame | None, source: str | None) -> tuple[str, str, str, str]:
    section, claim = "section 5, small labels", "more training subjects give better results"
    if curve is None or curve["subjects"].nunique() < 2:
        return section, claim, UNKNOWN, "not run here: experiments curve"
    few, many = curve["subjects"].min(), curve["subjects"].max()
    names = (f"{many} subjects", f"{few} subjects")
    return section, claim, *_verdict(curve, "subjects", many, few, names, "higher", source)


def _verdict(
    scores: pd.DataFrame, by: str, a, b, names: tuple[str, str], says: str, source: str | None
) -> tuple[str, str]:
    """Is ``a`` "higher" than ``b``, beyond chance, or "alike" (within :data:`ALIKE`)? Verdict and evidence, equal minutes.

    Nothing is told where training ended early: of the report's networks when minutes ended it (their rows say so), which the report
    trains for 50 epochs and more, and of a nucleus that one of them did not find at all.
    """
    test = pairs(scores[scores[by].isin([a, b])], by=by).iloc[0]
    mean = summary(scores, by=(by,)).xs("mean", level="label")
    gap, clear = mean.loc[a, "mean"] - mean.loc[b, "mean"], test["p"] <= 0.05
    if says == "alike":
        verdict = "holds" if abs(gap) <= ALIKE else "does not hold" if clear else UNKNOWN
    else:
        verdict = UNKNOWN if not clear else "holds" if gap > 0 else "does not hold"
    text = ", ".join(
        f"{name} {mean.loc[k, 'mean']:.3f} [{mean.loc[k, 'low']:.3f}, {mean.loc[k, 'high']:.3f}]"
        for name, k in zip(names, (a, b), strict=True)
    )
    nothing = [name for name, k in zip(names, (a, b), strict=True) if mean.loc[k, "mean"] == 0]
    labels = scores["label"].unique()
    what = "mean of five nuclei" if len(labels) > 1 else labels[0]
    evidence = f"equal minutes, {what}: {text}, n {int(test['n'])}, Wilcoxon p {test['p']:.2g}{_simulated(source)}"
    evidence += f"; not learned yet: {', '.join(nothing)}" if nothing else ""
    short = by != "subjects" and "recipe" in scores and scores["recipe"].astype(str).str.contains(" minutes").any()
    if short and "steps" in scores:
        steps = scores.groupby(by)["steps"].first()
        evidence += f"; after {steps[a]:.0f} and {steps[b]:.0f} steps, too few to tell"
    return UNKNOWN if nothing or short or source == "simulated phantom" else verdict, evidence
