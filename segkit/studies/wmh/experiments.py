"""Long runs, in cells that resume: losses × seeds, features, the full-size net, the recipe, a few real scans.

    python -m segkit.studies.wmh.experiments losses --features FILE --real DIR     six losses, three seeds, on phantoms
    python -m segkit.studies.wmh.experiments features --features FILE --real DIR   ImageNet against random, reductions, pools
    python -m segkit.studies.wmh.experiments full_net --features FILE              the 12.1 M generator at 224² for one cell
    python -m segkit.studies.wmh.experiments recipe --brains DIR --real DIR        ours, on phantoms alone; scored on real scans
    python -m segkit.studies.wmh.experiments finetune --real DIR                   the same network, three real scans more
    python -m segkit.studies.wmh.experiments release                               the recipe into saved_models

``--real`` holds ``openms`` (for tuning) and ``clinical`` (of the recipe opened with ``--final`` alone); ``--brains`` FreeSurfer label
maps. Each cell ends with rows of a CSV in ``tables/``; what is there is not run again.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import files, metrics, models, volumes
from segkit.phantoms import wmh as phantom
from segkit.studies import common
from segkit.studies.wmh.layout import RELEASED, SIZE, find, read, split, start
from segkit.studies.wmh.networks import (
    SPACING_MM,
    make_anatomies,
    predict,
    predict_recipe,
    rescored,
    to_mask,
    train,
    train_recipe,
    zscore_slice,
)
from segkit.studies.wmh.steps import downsample, how_of, standardise
from segkit.studies.wmh.tables import evaluate, missed_by_size, result_as_method, threshold_as_method
from segkit.studies.wmh.user import release

SETS = {"test": "internal", "external": "external"}
TUNED_ON = "openms"  # real scans that recipes are tuned on; all others are opened once a recipe
THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))
PLAIN: dict = {"pools": 2, "reduction": "concatenated", "soft": True}  # of the content loss, as reported
COMMAND = {  # that writes a table whose rows may be of several recipes
    "real": "recipe --real DIR --final", "real_missed": "recipe --real DIR --final", "tuning": "recipe --real DIR",
    "openings": "recipe --real DIR --final", "finetune": "finetune --real DIR", "full_net": "full_net --features FILE",
}  # fmt: skip
THRESHOLD_K = 1.35  # of the intensity baseline: the best fixed multiple on ``openms``


def prepare(run: common.Run, *, size: int | None = None) -> None:
    """Do what 01 and 02 do, for the subjects whose files are not there."""
    table, size = find(run.data), size or run.profile.size
    left = [s for s in table.index if not (run.results / "downsampled" / f"{s}.npz").is_file()]
    if left:
        standardise(table.loc[left], run.results)
        downsample(left, run.results, size=size)


def recipe_of(run: common.Run, what: str, *, minutes: float | None = None, epochs: int | None = None) -> str:
    """What a row was made with; the last word changes with the profile and the subjects."""
    budget = f"{minutes:g} minutes" if minutes else f"{epochs} epochs"
    mark = common.mark(run.profile, list(find(run.data).index))
    return f"{what}, {budget}, {run.profile.size}², settings {mark}"


def rows(run: common.Run, what: str) -> pd.DataFrame | None:
    """``tables/<what>.csv`` for a notebook; None, and a line that says why, where there is none or it is of another recipe."""
    if what in ("losses", "features"):
        return common.rows_or_why(run, what, _generator(run), arguments="--features FILE --real DIR")
    path = run.results / "tables" / f"{what}.csv"
    if not path.is_file():
        print(f"{what}: python -m segkit.studies.wmh.experiments {COMMAND[what]}")
        return None
    return pd.read_csv(path)


def _generator(run: common.Run) -> str:
    return recipe_of(run, "generator", minutes=run.profile.minutes, epochs=run.profile.epochs)


def cell_name(cell: dict) -> str:
    """Folder in ``runs`` of a loss, seed, features, pools, reduction and kind of targets."""
    words = (cell["loss"], f"seed{cell['seed']}", str(cell["features"]).split(".")[0], cell["pools"], cell["reduction"])
    return "_".join(map(str, (*words, "soft" if cell["soft"] else "hard")))


def load_cell(run: common.Run, loss: str, *, features: str = "imagenet", seed: int = 0):
    """The trained generator of a cell of :func:`losses_table`; None, and a line that says so, where its run is not here."""
    from segkit import content

    source = content.source_of(features) if "content" in loss else "none"
    name = cell_name({"loss": loss, "seed": seed, "features": source} | PLAIN)
    path = run.results / "runs" / name / "best.keras"
    if not path.is_file():
        print(f"{common.shown(path)} is not here: train it with experiments losses")
        return None
    return models.load(path)


def losses_table(
    run: common.Run,
    *,
    features: str = "imagenet",
    real: Path | None = None,
    losses: Sequence[str] | None = None,
    verbose=2,
) -> pd.DataFrame:
    """Each loss and seed on the phantoms, tested on the same centres, an unseen one and real scans: ``tables/losses.csv``."""
    profile = run.profile
    cells = [{"loss": loss, "seed": seed, "features": features} | PLAIN
             for loss in (losses or profile.losses) for seed in profile.seeds]  # fmt: skip
    return _cells(run, "losses", cells, real, verbose)


def features_table(run: common.Run, *, features: str = "imagenet", real: Path | None = None, verbose=2) -> pd.DataFrame:
    """The content loss with random features, per layer, with one and three pools, and with hard targets: ``tables/features.csv``."""
    plain = {"loss": "content", "seed": run.seed, "features": features} | PLAIN
    changes: list[dict] = [
        {},
        {"features": "random"},
        {"reduction": "per_layer"},
        {"pools": 1},
        {"pools": 3},
        {"soft": False},
    ]
    return _cells(run, "features", [plain | change for change in changes], real, verbose)


def _cells(run: common.Run, what: str, cells: Sequence[dict], real: Path | None, verbose) -> pd.DataFrame:
    from segkit import content

    profile, table = run.profile, find(run.data)
    recipe = _generator(run)
    path, parts = run.results / "tables" / f"{what}.csv", split(table)
    done = common.read_rows(path, recipe)
    for cell in cells:
        said = cell | {"features": content.source_of(cell["features"]) if "content" in cell["loss"] else "none"}
        here = done[(done[list(said)] == pd.Series(said)).all(axis=1)] if len(done) else done
        wanted = {named for side, named in SETS.items() if parts[side]} | ({"real"} if real is not None else set())
        wanted -= set(here["set"]) if len(here) else set()
        if not wanted:
            continue
        name = cell_name(said)
        model, history = train(run, parts, name=name, verbose=verbose, **cell)
        how = how_of(run.results, parts["train"][0])
        method = {cell["loss"]: functools.partial(predict, model, size=profile.size, how=how)}
        scores = [
            evaluate(method, table, parts[side], legacy_size=SIZE).assign(set=named)
            for side, named in SETS.items()
            if named in wanted
        ]
        if "real" in wanted:
            other = find(real)
            other = other[other["mask"].notna()]
            scores.append(evaluate(method, other, list(other.index), legacy_size=SIZE).assign(set="real"))
            opened = pd.DataFrame([{"recipe": f"{what}: {name}", "scans": int((other["centre"] != TUNED_ON).sum())}])
            _add_once(run.results / "tables" / "openings.csv", opened)
        rows = pd.concat(scores).assign(**said, steps=int(history["iterations"].iloc[-1]), recipe=recipe)
        done = common.add_rows(path, done, rows)
    return done


def full_net(run: common.Run, *, features: str = "imagenet", minutes: float | None = None, verbose=2) -> pd.DataFrame:
    """The report's own generator at 224² with the content loss, for one cell: ``tables/full_net.csv``.

    A cell has some hundred steps on two cores: they are validated every twenty, and the batch statistics forget faster.
    """
    whole = dataclasses.replace(
        run.profile,
        size=SIZE,
        filters=None,
        minutes=minutes or run.profile.minutes,
        steps=min(20, run.profile.steps),
        momentum=0.9,
    )
    large = dataclasses.replace(run, profile=whole, results=run.results / "full_net")
    prepare(large, size=SIZE)
    path, table = run.results / "tables" / "full_net.csv", find(run.data)
    recipe = recipe_of(large, "12.1 M generator, content", minutes=whole.minutes, epochs=whole.epochs)
    done = common.read_rows(path, recipe)
    if not len(done):
        parts = split(table)
        model, history = train(large, parts, loss="content", features=features, name="content", verbose=verbose)
        scores = evaluate(
            {"content": functools.partial(predict, model, size=SIZE)}, table, parts["test"] + parts["external"]
        )
        done = common.add_rows(path, done, scores.assign(steps=int(history["iterations"].iloc[-1]), recipe=recipe))
    return done


def anatomies(run: common.Run, brains: Path | None) -> tuple[Path, list[str]]:
    """Folder and names of the anatomies that the recipe learns from; made where they are not there."""
    folder = run.results / "padded" / f"anatomies_{'mni' if brains is None else brains.name}_{phantom.mark()}"
    return folder, make_anatomies(
        folder, run.profile.recipe_subjects, seed=run.seed, coarse=float(run.profile.coarse), brains=brains
    )


def recipe(
    run: common.Run, *, brains: Path | None = None, real: Path | None = None, final: bool = False, verbose=2
) -> pd.DataFrame:
    """Ours on phantoms alone, and what stands beside it on the real scans: ``tables/real.csv``.

    Scans of ``openms`` tune: the threshold is the one of the best mean Dice there (``tables/thresholds.csv``, a row a recipe). Those of
    ``clinical`` are opened only with ``final``; how often that was done is counted, recipe by recipe, in ``tables/openings.csv``.

    Returns
    -------
    DataFrame
        Scores of :func:`segkit.studies.wmh.evaluate`, with cell (method and threshold's origin), threshold and recipe.
    """
    profile, tables = run.profile, run.results / "tables"
    named = recipe_of(run, f"{RELEASED}, anatomy {'MNI152' if brains is None else brains.name}, phantoms {phantom.mark()}",
                      minutes=profile.recipe_minutes, epochs=profile.recipe_epochs)  # fmt: skip
    name = f"{RELEASED}_{common.mark(named)}"
    model, _ = train_recipe(run, *anatomies(run, brains), name=name, verbose=verbose)
    if real is None:
        return pd.DataFrame()
    table, method = find(real), functools.partial(predict_recipe, model, spacing_mm=float(profile.coarse))
    table = table[table["mask"].notna()]
    tuning = list(table.index[table["centre"] == TUNED_ON])
    if not tuning:
        raise ValueError(f"{real}: has no scans of {TUNED_ON} with masks, which choose the threshold")
    by = threshold_table(method, table, tuning)
    if by.isna().all(axis=None):
        raise ValueError(f"{real}: no scan of {TUNED_ON} has a lesion, so none can choose the threshold")
    threshold = float(by.mean().idxmax())
    _add_once(
        tables / "thresholds.csv", pd.DataFrame([{"recipe": named, "threshold": threshold, **by.mean().rename(str)}])
    )
    chosen = tuning + (list(table.index[table["centre"] != TUNED_ON]) if final else [])
    scores = score_real({RELEASED: method}, table.loc[chosen], threshold=threshold)
    if final:
        _add_once(tables / "openings.csv", pd.DataFrame([{"recipe": named, "scans": len(chosen) - len(tuning)}]))
        files.write_text(
            tables / "real_missed.csv", missed_table(method, table.loc[chosen], threshold).to_csv(index=False)
        )
    path = tables / ("real.csv" if final else "tuning.csv")
    return _add_once(path, scores.assign(recipe=named))


def last_recipe(run: common.Run) -> Path:
    """The model of the recipe that was trained last; FileNotFoundError where there is none."""
    runs = sorted((run.results / "runs").glob(f"{RELEASED}*/best.keras"), key=lambda p: p.stat().st_mtime)
    runs = [p for p in runs if not p.parent.name.endswith("finetuned")]
    if not runs:
        raise FileNotFoundError("no trained recipe is there: run 03_training or experiments recipe first")
    return runs[-1]


def release_recipe(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """Put the recipe that was trained last into ``saved_models``, with the scores of ``tables/real.csv`` (or ``tuning.csv``)."""
    del verbose
    tables, source = run.results / "tables", last_recipe(run)
    path = next((p for p in (tables / "real.csv", tables / "tuning.csv") if p.is_file()), tables / "real.csv")
    scores = pd.read_csv(common.need(path, "experiments recipe --real"))
    own = scores[(scores["method"] == RELEASED) & (scores["recipe"] == scores["recipe"].iloc[-1])]
    (written,) = release(run, source.parent.name, own)
    return pd.DataFrame({"file": [written.name], "MB": [round(written.stat().st_size / 1e6, 2)]})


def _add_once(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of all recipes so far, those of this one replaced."""
    before = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["recipe"])
    return common.add_rows(path, before[~before["recipe"].isin(rows["recipe"])], rows)


def threshold_table(method, table: pd.DataFrame, subjects: Sequence[str], *, among=THRESHOLDS) -> pd.DataFrame:
    """Dice of each subject (rows) at each threshold (columns)."""
    rows = {}
    for subject in subjects:
        image, mask = read(table.loc[subject])
        soft, truth = method(image), volumes.array(mask)
        rows[subject] = {
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


def finetune(run: common.Run, *, real: Path, epochs: int = 10, verbose=2) -> pd.DataFrame:
    """The recipe's network trained on with the ``openms`` scans, scored on the others: ``tables/finetune.csv``."""
    import keras

    from segkit import augment, data, losses, training

    path, table = run.results / "tables" / "finetune.csv", find(real)
    named = recipe_of(run, f"{RELEASED} and {TUNED_ON}", epochs=epochs)
    done = common.read_rows(path, named)
    if len(done):
        return done
    if not (table["centre"] == TUNED_ON).any():
        raise ValueError(f"{real}: has no scans of {TUNED_ON} to learn from")
    keras.utils.set_random_seed(run.seed)
    model = models.load(last_recipe(run))
    known = {}
    for subject in table.index[table["centre"] == TUNED_ON]:
        image, mask = (volumes.resample(i, spacing_mm=(SPACING_MM, SPACING_MM, volumes.spacing(i)[2]), kind=k)
                       for i, k in zip(read(table.loc[subject]), ("image", "label"), strict=True))  # fmt: skip
        side = [-(-n // 16) * 16 for n in image.shape[:2]]
        square, truth = (volumes.array(volumes.pad(i, (*side, i.shape[2]))) for i in (image, mask))
        ready = np.stack([zscore_slice(square[..., k]) for k in range(square.shape[2])], axis=-1)
        known[subject] = np.stack([ready, 10 * (square != 0)], axis=-1), (truth == 1).astype(np.uint8)
    moves = augment.slices(flips=(0,), rotate=15, scale=0.15, bend=1.0, gain=0.2, gamma=0.2, noise=0.1, sequences=2)
    chosen = data.Slices(known, classes=1, batch_size=run.profile.batch_size, seed=run.seed, augment=rescored(moves), foreground=0.7,
                         steps=run.profile.steps)  # fmt: skip
    training.fit(
        model, chosen, None, run=run.results / "runs" / f"{RELEASED}_finetuned", loss=losses.get("cross_entropy_dice"), epochs=epochs,
        learning_rate=3e-4, seed=run.seed, bfloat16=True, verbose=verbose, **training.RECIPE,
    )  # fmt: skip
    rest = list(table.index[(table["centre"] != TUNED_ON) & table["mask"].notna()])
    scores = evaluate({f"{RELEASED}, fine-tuned": functools.partial(predict_recipe, model)}, table, rest)
    return common.add_rows(path, done, scores.assign(recipe=named))


WHAT = {
    "losses": losses_table,
    "features": features_table,
    "full_net": full_net,
    "recipe": recipe,
    "finetune": finetune,
    "release": release_recipe,
}


def main() -> None:
    """Command line."""
    parser = common.command_line("WMH", WHAT, data="the challenge's folder; default phantoms")
    parser.add_argument("--real", type=common.folder, help="scans that are only scored")
    parser.add_argument("--brains", type=common.folder, help="FreeSurfer label maps for the recipe's anatomies")
    parser.add_argument("--features", default="imagenet", help="weights of VGG19: imagenet, random or a file")
    parser.add_argument("--final", action="store_true", help="recipe: open the scans that do not tune, too")
    parser.add_argument("--minutes", type=float, help="full_net: of its one cell")
    options = parser.parse_args()
    real = options.real
    run = start(options.profile, data=options.data, results=options.results)
    prepare(run)
    given = {
        "losses": {"features": options.features, "real": real}, "features": {"features": options.features, "real": real},
        "full_net": {"features": options.features, "minutes": options.minutes},
        "recipe": {"brains": options.brains, "real": real, "final": options.final}, "finetune": {"real": real}, "release": {},
    }  # fmt: skip
    if options.what == "finetune" and real is None:
        parser.error("finetune needs --real: the folder that holds openms and the scans to score")
    print(WHAT[options.what](run, **given[options.what]).to_string())


if __name__ == "__main__":
    main()
