"""05: tumour shape against genomic clusters, as Buda et al. tested it, and how far each open definition matters."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import shape, statistics, volumes
from segkit.studies import common
from segkit.studies.lgg.layout import CLUSTERS, find, labelled, read

THRESHOLD = 0.005  # the published one: .05 after Bonferroni over ten tests
RULES = {"median": (0.5,), "tertiles": (1 / 3, 2 / 3), "quartiles": (0.25, 0.5, 0.75), "upper third": (2 / 3,)}
# what the published wording leaves open; the first is the default
VARIANTS: dict[str, dict] = {
    "default": {},
    "ellipsoid around corners": {"points": "corners"},
    "all components": {"component": "all"},
    "middle slice": {"area_slice": "middle"},
    "mean over slices": {"area_slice": "mean"},
    "smoothing 5 %": {"smoothing": 0.05},
    "smoothing 20 %": {"smoothing": 0.2},
    "8 angular bins": {"bins": 8},
    "12 angular bins": {"bins": 12},
}


def masks(data: str | os.PathLike) -> dict[str, np.ndarray]:
    """Manual masks of every patient at the largest size at hand: of ``masks_256``, else those beside the slices."""
    data, table = Path(data), find(data)
    folder = next((f for f in (data / "masks_256", data.parent / "masks_256") if f.is_dir()), data / "masks_256")
    found = {
        p.name.removesuffix(".nii.gz"): (volumes.array(volumes.load(p)) > 0).astype(np.uint8)
        for p in sorted(folder.glob("*.nii.gz"))
    }
    found |= {patient: read(table, patient)[1] for patient in labelled(table) if patient not in found}
    return dict(sorted(found.items()))


def features(masks: Mapping[str, np.ndarray], *, jobs: int = -1, **settings) -> pd.DataFrame:
    """:func:`segkit.shape.features` of every mask: index patient (folder name), columns :data:`segkit.shape.NAMES`."""
    rows = common.spread(functools.partial(shape.features, **settings), [(mask,) for mask in masks.values()], jobs=jobs)
    return pd.DataFrame(rows, index=pd.Index(masks, name="patient"))


def joined(table: pd.DataFrame, clinical: pd.DataFrame) -> pd.DataFrame:
    """Features with the clusters of ``data.csv``; ``attrs["excluded"]`` lists those left out and why.

    A patient is looked up by the folder's name, and by its first twelve characters (``TCGA_CS_4941``) where that is not there.
    Left out: patients without a row in ``data.csv``, rows of ``data.csv`` without features, patients whose mask is empty.
    """
    keys = [name if name in clinical.index else name[:12] for name in table.index]
    twice = sorted({k for k in keys if keys.count(k) > 1})
    if twice:
        raise ValueError(f"{twice[:5]} have two folders each; keep one a patient")
    numbers = table.set_axis(keys)
    empty = list(numbers.index[numbers[list(shape.NAMES)].isna().any(axis=1)])
    unknown = sorted(set(keys) - set(clinical.index))
    unseen = sorted(set(clinical.index) - set(keys))
    out = numbers.drop(index=[*{*empty, *unknown}]).join(clinical[list(CLUSTERS)])
    reasons = (("an empty mask", empty), ("not in data.csv", unknown), ("in data.csv, no mask here", unseen))
    out.attrs["excluded"] = [{"patient": p, "reason": why} for why, names in reasons for p in names]
    return out


def groups(values: pd.Series, rule: str = "median") -> pd.Series:
    """Number of the part (0, 1, …) that each value falls into; a value on a cut belongs to the lower part."""
    if rule not in RULES:
        raise ValueError(f"no rule is called {rule!r}; choose one of {', '.join(RULES)}")
    return pd.Series(np.searchsorted(np.quantile(values, RULES[rule]), values, side="left"), index=values.index)


def association(
    values: pd.Series, cluster: pd.Series, *, rule: str = "median", among: str = "all", seed: int = 0
) -> tuple[float, int]:
    """p of Fisher's exact test between a feature, cut after ``rule``, and a cluster; and the number of patients.

    The cut is made among all patients with the feature, and those without the cluster are then left out; or (``among="cluster"``) among
    those with both. Two parts are tested exactly, more
    by 20,000 drawn tables.
    """
    known = values.notna() & (cluster.notna() if among == "cluster" else True)
    part = groups(values[known], rule)
    both = cluster[known].notna()
    table = pd.crosstab(part[both], cluster[known][both]).to_numpy()
    return statistics.fisher_exact(table, seed=seed), int(both.sum())


def associations(table: pd.DataFrame, *, rule: str = "median", names: Sequence[str] = CLUSTERS) -> pd.DataFrame:
    """Every feature × cluster of :func:`joined`.

    Returns
    -------
    DataFrame
        feature, cluster, n, p, p_bonferroni_10 (ten tests, as published), p_bonferroni (over the cluster columns),
        significant (p ≤ .005), published (p, where one was printed; the ratio with *all subtypes* at .02 is printed without a table).
    """
    printed = common.published("lgg").query("table == 'abstract' and label != 'tumour' and label != 'all'")
    printed = {
        (m.removeprefix("p of "), c): v
        for m, c, v in zip(printed["metric"], printed["label"], printed["value"], strict=True)
    }
    if not len(table):
        why = pd.Series([e["reason"] for e in table.attrs.get("excluded", [])]).value_counts().to_dict()
        raise ValueError(f"no patient has both shape features and clusters ({why}); check the masks and data.csv")
    rows = []
    for feature in shape.NAMES:
        for cluster in names:
            p, n = association(table[feature], table[cluster], rule=rule)
            rows.append({
                "feature": feature, "cluster": cluster, "n": n, "p": p, "p_bonferroni_10": statistics.bonferroni([p], 10)[0],
                "p_bonferroni": statistics.bonferroni([p], len(names))[0], "significant": p <= THRESHOLD,
                "published": printed.get((feature, cluster), np.nan),
            })  # fmt: skip
    return pd.DataFrame(rows)


def claims(manual: pd.DataFrame, predicted: pd.DataFrame | None, *, source: str | None) -> pd.DataFrame:
    """The report's sentences on genomics, quoted from Buda et al.: section, claim, verdict, evidence.

    Parameters
    ----------
    manual, predicted : DataFrame
        :func:`associations` of manual masks, and of predicted ones (the verdict stands on these, as the published one did, where
        they are given).
    """
    rows = []
    for row in manual[manual["published"].notna()].itertuples():
        p, told = row.p, f"manual masks p {row.p:.2g} (n {row.n})"
        if predicted is not None:
            p, n = predicted.set_index(["feature", "cluster"]).loc[(row.feature, row.cluster), ["p", "n"]]
            told = f"predicted masks p {p:.2g} (n {n:.0f}), {told}"
        verdict = "holds" if p <= THRESHOLD else "does not hold"
        rows.append({
            "section": "abstract",
            "claim": f"{row.cluster} is associated with {row.feature.replace('_', ' ')} (p {row.published:g})",
            "verdict": "cannot be told here" if source == "phantom" else verdict,
            "evidence": f"{told}; {'' if p <= THRESHOLD else 'not '}significant at the published {THRESHOLD:g}"
            + ("" if row.published <= THRESHOLD else f" (the published p is not: {row.published:g})"),
        })  # fmt: skip
    rows.append({
        "section": "abstract", "claim": "the bounding ellipsoid volume ratio is associated with all subtypes (p .02)",
        "verdict": "cannot be told here", "evidence": "printed without saying which test joins the subtypes",
    })  # fmt: skip
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


def sensitivity(
    masks: Mapping[str, np.ndarray], clinical: pd.DataFrame, *, cluster: str = "RNASeqCluster", jobs: int = -1
) -> pd.DataFrame:
    """p of each feature × ``cluster`` under each open definition: rows variant and rule, a column a feature."""
    rows = []
    for variant, settings in VARIANTS.items():
        table = joined(features(masks, jobs=jobs, **settings), clinical)
        cuts = [(rule, rule, "all") for rule in RULES] + [("median of patients with the cluster", "median", "cluster")]
        for name, rule, among in cuts if variant == "default" else cuts[:1]:
            rows.append(
                {"variant": variant, "cut": name}
                | {f: association(table[f], table[cluster], rule=rule, among=among)[0] for f in shape.NAMES}
            )
    return pd.DataFrame(rows).set_index(["variant", "cut"])


def null_rate(
    table: pd.DataFrame,
    *,
    repetitions: int = 2000,
    threshold: float = THRESHOLD,
    cluster: str = "RNASeqCluster",
    seed: int = 0,
) -> pd.DataFrame:
    """How often nothing is called something: clusters exchanged between patients at random, each feature tested again.

    Returns
    -------
    DataFrame
        Index feature; columns share, low, high (exact 95 % interval), hits, repetitions, expected (the test's own share over all
        tables with these margins, :func:`segkit.statistics.fisher_size`; nan where these are too many).
    """
    rng, labels = np.random.default_rng(seed), table[cluster].to_numpy()
    known = ~pd.isna(labels)
    codes = np.unique(labels[known], return_inverse=True)[1]
    parts = {f: groups(table[f]).to_numpy()[known] for f in shape.NAMES}
    hits, seen = dict.fromkeys(shape.NAMES, 0), {}
    for _ in range(repetitions):
        drawn = rng.permutation(codes)
        for feature, part in parts.items():
            counts = tuple(np.bincount(drawn[part == 0], minlength=codes.max() + 1))
            key = (feature, counts)
            if key not in seen:
                whole = np.bincount(codes)
                seen[key] = statistics.fisher_exact([counts, whole - counts])
            hits[feature] += seen[key] <= threshold
    rows = []
    for feature, n in hits.items():
        share, low, high = statistics.binomial_interval(n, repetitions)
        first = np.bincount(codes[parts[feature] == 0], minlength=codes.max() + 1)
        try:
            expected = statistics.fisher_size([first, np.bincount(codes) - first], level=threshold)
        except ValueError:  # too many tables to count
            expected = np.nan
        rows.append({
            "feature": feature, "share": share, "low": low, "high": high, "hits": n, "repetitions": repetitions, "expected": expected,
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("feature")
