"""Our recipe on real scans: what tunes it, what is opened once, a few real scans more, and its release."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import metrics, models, training, volumes
from segkit.phantoms import wmh as phantom
from segkit.studies import common
from segkit.studies.wmh import recipe as ours
from segkit.studies.wmh.layout import RELEASED, find, read
from segkit.studies.wmh.networks import to_mask
from segkit.studies.wmh.tables import evaluate, missed_by_size, result_as_method, threshold_as_method
from segkit.studies.wmh.user import release

TUNED_ON = "openms"  # real scans that recipes are tuned on; all others are opened once a recipe
EVERY_MM = 8.0  # those are tuned on as they are, and in slices so far apart and so thick, as clinics take them
THICK_MM = 7.0
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(2, 19))
ENOUGH_ML = 5.0  # of lesions: the Dice of a scan with less says little
THRESHOLD_K = 1.35  # of the intensity baseline: the best fixed multiple on ``openms``


def anatomies(run: common.Run, brains: Path | None) -> tuple[Path, list[str]]:
    """Folder and names of the anatomies that the recipe learns from; made where they are not there."""
    made = common.mark(phantom.VERSION, ours.NUMBER, ours.TILT, ours.THICK_MM, run.seed, run.profile.coarse)
    folder = run.results / "padded" / f"anatomies_{'mni' if brains is None else brains.name}_{made}"
    return folder, ours.make_anatomies(
        folder, run.profile.recipe_subjects, seed=run.seed, coarse=float(run.profile.coarse), brains=brains
    )


def name_of(run: common.Run, brains: Path | None) -> str:
    """The recipe in a row of a table; the last word changes with the phantoms and with what the profile sets for it."""
    p = run.profile
    used = (ours.NUMBER, phantom.VERSION, ours.TILT, ours.THICK_MM, ours.MOVES, ours.SCALES, p.coarse, p.steps, p.batch_size,
            p.recipe_subjects, p.recipe_filters, p.momentum, training.RECIPE, run.seed)  # fmt: skip
    budget = f"{p.recipe_minutes:g} minutes" if p.recipe_minutes else f"{p.recipe_epochs} epochs"
    return f"{RELEASED}, anatomy {'MNI152' if brains is None else brains.name}, {budget}, settings {common.mark(*used)}"


def recipe(
    run: common.Run, *, brains: Path | None = None, real: Path | None = None, final: bool = False, verbose=2
) -> pd.DataFrame:
    """Ours on phantoms alone, and what stands beside it on the real scans: ``tables/real.csv``.

    Scans of ``openms`` tune, as they are and averaged to thick slices: the threshold is the one of the best mean Dice over those with
    :data:`ENOUGH_ML` of lesions (``tables/thresholds.csv``, a row a recipe). Those of ``clinical`` are opened only with ``final``; how
    often that was done is counted, recipe by recipe, in ``tables/openings.csv``.

    Returns
    -------
    DataFrame
        Scores of :func:`segkit.studies.wmh.evaluate`, with cell (method and threshold's origin), threshold and recipe.
    """
    profile, tables, named = run.profile, run.results / "tables", name_of(run, brains)
    folder = run_folder(run, named)
    model, _ = ours.train_recipe(run, *anatomies(run, brains), name=folder.name, verbose=verbose)
    if real is None:
        return pd.DataFrame()
    table, method = find(real), functools.partial(ours.predict_recipe, model, spacing_mm=float(profile.coarse))
    table = table[table["mask"].notna()]
    tuning = list(table.index[table["centre"] == TUNED_ON])
    if not tuning:
        raise ValueError(f"{real}: has no scans of {TUNED_ON} with masks, which choose the threshold")
    scans = tuning_scans(table.loc[tuning])
    ml = {s: float((truth == 1).sum() * np.prod(volumes.spacing(image)) / 1000) for s, (image, truth) in scans.items()}
    if not any(ml.values()):
        raise ValueError(f"{real}: no scan of {TUNED_ON} has a lesion, so none can choose the threshold")
    known = [s for s in scans if ml[s] >= ENOUGH_ML] or [s for s in scans if ml[s]]
    by = threshold_table(method, {s: scans[s] for s in known})
    threshold = float(by.mean().idxmax())
    of_each = by[threshold].groupby(by.index.str.contains(" mm")).mean().rename({False: "as they are", True: "thick"})
    row = {"recipe": named, "threshold": threshold, "dice": by[threshold].mean(), **of_each, **by.mean().rename(str)}
    put(tables / "thresholds.csv", pd.DataFrame([row]))
    chosen = tuning + (list(table.index[table["centre"] != TUNED_ON]) if final else [])
    scores = score_real({RELEASED: method}, table.loc[chosen], threshold=threshold)
    if final:
        opened(run, named, len(chosen) - len(tuning))
        missed = missed_table(method, table.loc[chosen], threshold).assign(recipe=named)
        put(tables / "real_missed.csv", missed)
    return put(tables / ("real.csv" if final else "tuning.csv"), scores.assign(recipe=named))


def run_folder(run: common.Run, named: str) -> Path:
    """Where the recipe of this name is trained."""
    return run.results / "runs" / f"{RELEASED}_{common.mark(named)}"


def put(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of all recipes so far, those of this one replaced."""
    before = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["recipe"])
    return common.add_rows(path, before[~before["recipe"].isin(rows["recipe"])], rows)


def opened(run: common.Run, named: str, scans: int) -> None:
    """Count, recipe by recipe, how often scans which do not tune were scored: ``tables/openings.csv``."""
    path = run.results / "tables" / "openings.csv"
    before = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["recipe", "times"])
    times = 1 + int(before.loc[before["recipe"] == named, "times"].sum())
    put(path, pd.DataFrame([{"recipe": named, "scans": scans, "times": times}]))


def tuning_scans(table: pd.DataFrame) -> dict[str, tuple[Nifti1Image, np.ndarray]]:
    """Scan and truth of each subject, and once more in slices :data:`EVERY_MM` apart where its own are less than half as far.

    A thick voxel is brain where half of it is, and lesion from the share on that the recipe learns.
    """
    out = {}
    for subject in table.index:
        image, mask = read(table.loc[subject])
        truth = volumes.array(mask)
        out[subject] = image, truth
        spacing = volumes.spacing(image)
        if spacing[2] < EVERY_MM / 2:
            data = volumes.array(image, np.float32)
            parts = (data, (data != 0).astype(np.float32), (truth == 1).astype(np.float32))
            thick, brain, lesion = (
                phantom.slabs(volumes.like(p, image), every_mm=EVERY_MM, thick_mm=THICK_MM) for p in parts
            )
            inside, lesion = volumes.array(brain) >= 0.5, volumes.array(lesion) >= ours.drawn_from(EVERY_MM)
            out[f"{subject}, {EVERY_MM:g} mm"] = (
                volumes.like(np.where(inside, volumes.array(thick), 0), thick), lesion.astype(np.uint8)
            )  # fmt: skip
    return out


def threshold_table(
    method, scans: Mapping[str, tuple[Nifti1Image, np.ndarray]], *, among: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Dice of each scan (rows) at each threshold (columns)."""
    rows = {}
    for name, (image, truth) in scans.items():
        soft = method(image)
        rows[name] = {
            at: metrics.wmh_challenge(truth, to_mask(soft, threshold=at), spacing_mm=volumes.spacing(image))["dice"]
            for at in among
        }
    return pd.DataFrame(rows).T


def score_real(methods: dict, table: pd.DataFrame, *, threshold: float = 0.5) -> pd.DataFrame:
    """Scores of ``methods``, of a fixed intensity threshold and of published results on the real scans of ``table``."""
    known = list(table.index)
    base = {"intensity threshold": functools.partial(threshold_as_method, k=THRESHOLD_K)}
    parts = [
        evaluate(methods, table, known, threshold=threshold).assign(threshold=threshold),
        evaluate(base, table, known),
    ]
    parts += [result_as_method(table, s) for s in known if table.loc[s, "result"] is not None]
    return pd.concat(parts, ignore_index=True)


def missed_table(method, table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Lesions by size, how many there are and how many were found, a row a scan and size."""
    parts = []
    for subject in table.index:
        image, mask = read(table.loc[subject])
        found = to_mask(method(image), threshold=threshold)
        rows = missed_by_size(volumes.array(mask), found, spacing_mm=volumes.spacing(image))
        parts.append(rows.reset_index().assign(subject=subject))
    return pd.concat(parts, ignore_index=True)


def best_recipe(run: common.Run) -> tuple[Path, pd.Series]:
    """Model and row of ``thresholds.csv`` of the recipe with the best mean Dice on the scans that tune.

    Raises
    ------
    FileNotFoundError
        Where no recipe was tuned, or the best one's model is not here.
    """
    rows = pd.read_csv(common.need(run.results / "tables" / "thresholds.csv", "experiments recipe --real DIR"))
    row = rows.loc[rows["dice"].idxmax()]
    return common.need(run_folder(run, row["recipe"]) / "best.keras", "experiments recipe"), row


def release_recipe(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """Put the best recipe (:func:`best_recipe`) into ``saved_models``, with its scores of ``tables/real.csv`` (or ``tuning.csv``)."""
    del verbose
    path, row = best_recipe(run)
    for name in ("real", "tuning"):
        table = run.results / "tables" / f"{name}.csv"
        scores = pd.read_csv(table) if table.is_file() else pd.DataFrame(columns=["method", "recipe"])
        own = scores[(scores["method"] == RELEASED) & (scores["recipe"] == row["recipe"])]
        if len(own):
            break
    (written,) = release(run, path.parent.name, own)
    return pd.DataFrame({"file": [written.name], "MB": [round(written.stat().st_size / 1e6, 2)]})


def finetune(run: common.Run, *, real: Path, epochs: int = 10, verbose=2) -> pd.DataFrame:
    """The best recipe's network trained on with the ``openms`` scans, scored on the others: ``tables/finetune.csv``."""
    import keras

    from segkit import augment, data, losses

    path, table = run.results / "tables" / "finetune.csv", find(real)
    start, base = best_recipe(run)
    named = f"{base['recipe']}, and {TUNED_ON} for {epochs} epochs"
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["recipe"])
    if (done["recipe"] == named).any():
        return done[done["recipe"] == named]
    if not (table["centre"] == TUNED_ON).any():
        raise ValueError(f"{real}: has no scans of {TUNED_ON} to learn from")
    keras.utils.set_random_seed(run.seed)
    model, spacing_mm = models.load(start), float(run.profile.coarse)
    pairs = {}
    for scan, (given, truth) in tuning_scans(table[table["centre"] == TUNED_ON]).items():
        pairs[scan] = [volumes.resample(i, spacing_mm=(spacing_mm, spacing_mm, volumes.spacing(i)[2]), kind=k)
                       for i, k in ((given, "image"), (volumes.like(truth, given), "label"))]  # fmt: skip
    side = max(max(image.shape[:2]) for image, _ in pairs.values())
    known = {}
    for scan, both in pairs.items():
        square, truth = (volumes.array(volumes.pad(i, (-(-side // 16) * 16,) * 2 + i.shape[2:])) for i in both)
        ready = np.stack([ours.normalise_slice(square[..., k]) for k in range(square.shape[2])], axis=-1)
        known[scan] = np.stack([ready, 10 * (square != 0)], axis=-1), (truth == 1).astype(np.uint8)
    moves = augment.slices(flips=(0,), rotate=15, scale=0.15, bend=1.0, gain=0, gamma=0.2, noise=0.1, sequences=2)
    chosen = data.Slices(known, classes=1, batch_size=run.profile.batch_size, seed=run.seed, augment=ours.rescored(moves), foreground=0.7,
                         groups={s: s for s in known}, steps=run.profile.steps)  # fmt: skip
    training.fit(
        model, chosen, None, run=start.parent.with_name(f"{start.parent.name}_finetuned"), loss=losses.get("cross_entropy_dice"),
        epochs=epochs, learning_rate=3e-4, seed=run.seed, bfloat16=True, monitor="last", verbose=verbose, **training.RECIPE,
    )  # fmt: skip
    rest = list(table.index[(table["centre"] != TUNED_ON) & table["mask"].notna()])
    threshold = float(base["threshold"])
    method = {f"{RELEASED}, fine-tuned": functools.partial(ours.predict_recipe, model, spacing_mm=spacing_mm)}
    opened(run, named, len(rest))
    scores = evaluate(method, table, rest, threshold=threshold).assign(threshold=threshold)
    put(path, scores.assign(recipe=named))
    return scores.assign(recipe=named)
