"""Long runs, in cells that resume: losses × seeds, features, the full-size net, the recipe, a few real scans.

    python -m segkit.studies.wmh.experiments losses --features FILE --real DIR     six losses, three seeds, on phantoms
    python -m segkit.studies.wmh.experiments features --features FILE --real DIR   ImageNet against random, reductions, pools
    python -m segkit.studies.wmh.experiments full_net --features FILE              the 12.1 M generator at 224² for one cell
    python -m segkit.studies.wmh.experiments recipe --brains DIR --real DIR        ours, on phantoms alone; scored on real scans
    python -m segkit.studies.wmh.experiments finetune --real DIR                   the same network, three real scans more
    python -m segkit.studies.wmh.experiments release                               the recipe into saved_models

``--real`` holds ``openms`` (for tuning) and ``clinical`` (of the recipe opened with ``--final`` alone); ``--brains`` FreeSurfer label
maps. Each cell ends with rows of a CSV in ``tables/``; what is there is not run again. ``--jobs 2`` runs two cells of losses or features
at a time, each in a process of its own; with ``TF_NUM_INTRAOP_THREADS=1`` before the command each keeps to one core, which takes a third
less time than one after the other.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import content, models, phantoms, training
from segkit.studies import common
from segkit.studies.wmh.layout import EXTERNAL, HARD, LOSSES, SIZE, find, split, start
from segkit.studies.wmh.networks import predict, train
from segkit.studies.wmh.real import TUNED_ON, finetune, opened, recipe, release_recipe
from segkit.studies.wmh.steps import downsample, how_of, standardise
from segkit.studies.wmh.tables import evaluate

SETS = {"test": "internal", "external": "external"}
# the content loss as in losses_table, and with one thing changed
FEATURES: list[dict] = [
    {}, {"features": "random"}, {"reduction": "per_layer"}, {"pools": 1}, {"pools": 3}, {"soft": False},
]  # fmt: skip
PLAIN: dict = {"pools": 2, "reduction": "concatenated"}  # of the content loss, as reported
COMMAND = {  # that writes a table whose rows may be of several recipes
    "real": "recipe --real DIR --final", "real_missed": "recipe --real DIR --final", "tuning": "recipe --real DIR",
    "openings": "recipe --real DIR --final", "thresholds": "recipe --real DIR",
    "finetune": "finetune --real DIR", "full_net": "full_net --features FILE",
}  # fmt: skip


def prepare(run: common.Run, *, size: int | None = None) -> None:
    """Do what 01 and 02 do, for the subjects whose files are not there."""
    table, size = find(run.data), size or run.profile.size
    left = [s for s in table.index if _side(run.results / "downsampled" / f"{s}.npz") != size]
    if left:
        standardise(table.loc[left], run.results)
        downsample(left, run.results, size=size)


def _side(path: Path) -> int | None:
    """Pixels a side of the slices that 02 wrote; None where it did not."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as part:
        return part["image"].shape[0]


def recipe_of(
    run: common.Run,
    what: str,
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    external: Sequence[str] | None = None,
) -> str:
    """What a row of the generator was made with; the last word changes with its part of the profile, the data and the subjects."""
    budget = f"{minutes:g} minutes" if minutes else f"{epochs} epochs"
    p, made, subjects = run.profile, run.data / phantoms.MARK, list(find(run.data).index)
    used = (
        p.size,
        p.filters,
        p.batch_size,
        p.steps,
        p.learning_rate,
        p.momentum,
        HARD,
        sorted(map(str, LOSSES.items())),
    )
    here = [s for s in subjects if (run.results / "downsampled" / f"{s}.npz").is_file()]
    how = how_of(run.results, here[0]) if here else "maximum"
    outside = EXTERNAL if external is None else tuple(external)
    apart = () if outside == EXTERNAL else (sorted(outside),)
    mark = common.mark(used, how, made.read_text() if made.is_file() else "", subjects, *apart)
    return f"{what}, {budget}, {run.profile.size}², settings {mark}"


def rows(run: common.Run, what: str, *, external: Sequence[str] | None = None) -> pd.DataFrame | None:
    """``tables/<what>.csv`` for a notebook; None, and a line that says why, where there is none or it is of another recipe.

    Of losses trained with several features those of :func:`features_of`.
    """
    if what in ("losses", "features"):
        done = common.rows_or_why(run, what, _generator(run, external), arguments="--features FILE --real DIR")
        return done if done is None or what == "features" else done[done["features"].isin(["none", features_of(run)])]
    path = run.results / "tables" / f"{what}.csv"
    if not path.is_file():
        print(f"{what}: python -m segkit.studies.wmh.experiments {COMMAND[what]}")
        return None
    return pd.read_csv(path)


def _generator(run: common.Run, external: Sequence[str] | None = None) -> str:
    p = run.profile
    return recipe_of(run, "generator", minutes=p.minutes, epochs=p.epochs, external=external)


def cell_name(cell: dict) -> str:
    """Folder in ``runs`` of a loss, seed, features, pools, reduction and kind of targets."""
    words = (cell["loss"], f"seed{cell['seed']}", str(cell["features"]).split(".")[0], cell["pools"], cell["reduction"])
    return "_".join(map(str, (*words, "soft" if cell["soft"] else "hard")))


def plain(loss: str, seed: int, features: str) -> dict:
    """The cell of a loss as reported."""
    return {"loss": loss, "seed": seed, "features": features, "soft": loss not in HARD} | PLAIN


def features_of(run: common.Run) -> str:
    """Where the features in ``tables/losses.csv`` came from, the last ones where there are several; "random" where it has none."""
    path = run.results / "tables" / "losses.csv"
    known = pd.read_csv(path)["features"] if path.is_file() else pd.Series(dtype=str)
    return next((f for f in known.dropna()[::-1] if f != "none"), "random")


def features_here(run: common.Run, given: str | None = None) -> str:
    """What :class:`segkit.content.Content` takes: ``given`` (relative paths count from the repository), else those of
    :func:`features_of`, or random ones, and a line that says so, where their file is not here.

    Raises
    ------
    FileNotFoundError
        When ``given`` is no file.
    """
    source = str(given or features_of(run))
    if source in ("imagenet", "random"):
        return source
    if source == content.source_of("imagenet"):
        return "imagenet"
    path = common.home() / Path(source).expanduser()
    if path.is_file():
        return str(path.resolve())
    if given:
        raise FileNotFoundError(f"FEATURES {given}: no such file (relative paths count from the repository)")
    print(f"{source}, the features of tables/losses.csv, is not here: below are random ones; give FEATURES the file")
    return "random"


def load_cell(run: common.Run, loss: str, *, features: str | None = None, seed: int = 0):
    """The trained generator of a cell of :func:`losses_table`; None, and a line that says so, where its run is not here.

    ``features``: as they were given there; default those of :func:`features_of`.
    """
    source = content.source_of(features or features_of(run)) if "content" in loss else "none"
    name = cell_name(plain(loss, seed, source))
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
    external: Sequence[str] | None = None,
    jobs: int = 1,
    verbose=2,
) -> pd.DataFrame:
    """Each loss and seed on the phantoms, tested on the same centres, an unseen one and real scans: ``tables/losses.csv``."""
    profile = run.profile
    cells = [plain(loss, run.seed + seed, features) for seed in profile.seeds for loss in (losses or profile.losses)]
    return _cells(run, "losses", cells, real, external, jobs, verbose)


def features_table(
    run: common.Run,
    *,
    features: str = "imagenet",
    real: Path | None = None,
    external: Sequence[str] | None = None,
    jobs: int = 1,
    verbose=2,
) -> pd.DataFrame:
    """The content loss with random features, per layer, with one and three pools, and with hard targets: ``tables/features.csv``."""
    base = plain("content", run.seed, features)
    return _cells(run, "features", [base | change for change in FEATURES], real, external, jobs, verbose)


def _cells(
    run: common.Run, what: str, cells: Sequence[dict], real: Path | None, external, jobs: int, verbose
) -> pd.DataFrame:
    """Rows of ``cells`` in ``tables/<what>.csv``, ``jobs`` of them at a time."""
    parts, recipe = split(find(run.data), external=external), _generator(run, external)
    for cell in cells:  # read now: an error before hours are spent
        if "content" in cell["loss"]:
            content.vgg19(cell["features"], pools=cell["pools"], seed=cell["seed"])
    path = run.results / "tables" / f"{what}.csv"
    done = common.read_rows(path, recipe)
    left = []
    for cell in cells:
        said = cell | {"features": content.source_of(cell["features"]) if "content" in cell["loss"] else "none"}
        here = done[(done[list(said)] == pd.Series(said)).all(axis=1)] if len(done) else done
        wanted = {named for side, named in SETS.items() if parts[side]} | ({"real"} if real is not None else set())
        wanted -= set(here["set"]) if len(here) else set()
        if wanted and said not in [s for _, _, s, *_ in left]:
            left.append((run, cell, said, wanted, real, external, verbose))
    one = functools.partial(common.alone, _cell) if jobs > 1 else _cell
    for (_, _, said, wanted, *_), rows in zip(left, common.spread(one, left, jobs=jobs), strict=True):
        if "real" in wanted:
            held_out = rows[(rows["set"] == "real") & (rows["centre"] != TUNED_ON)]
            opened(run, f"{what}: {cell_name(said)}", len(held_out))
        done = common.add_rows(path, done, rows.assign(recipe=recipe))
    return done


def _cell(run: common.Run, cell: dict, said: dict, wanted: set, real: Path | None, external, verbose) -> pd.DataFrame:
    """Train one cell and score it on the ``wanted`` sets."""
    table, profile = find(run.data), run.profile
    parts = split(table, external=external)
    model, history = train(run, parts, name=cell_name(said), verbose=verbose, **cell)
    method = {
        cell["loss"]: functools.partial(predict, model, size=profile.size, how=how_of(run.results, parts["train"][0]))
    }
    scores = [
        evaluate(method, table, parts[side], legacy_size=SIZE).assign(set=named)
        for side, named in SETS.items()
        if named in wanted
    ]
    if "real" in wanted:
        other = find(real)
        other = other[other["mask"].notna()]
        scores.append(evaluate(method, other, list(other.index), legacy_size=SIZE).assign(set="real"))
    return pd.concat(scores).assign(
        **said, steps=int(history["iterations"].iloc[-1]), seconds=float(history["seconds"].iloc[-1]),
        machine=training.provenance()["machine"],
    )  # fmt: skip


def full_net(
    run: common.Run,
    *,
    features: str = "imagenet",
    minutes: float | None = None,
    external: Sequence[str] | None = None,
    verbose=2,
) -> pd.DataFrame:
    """The report's own generator at 224² with the content loss, for one cell: ``tables/full_net.csv``.

    It has some hundred steps on two cores: they are validated every fifty, and the batch statistics forget faster. ``minutes``: default
    the profile's budget.
    """
    whole = dataclasses.replace(
        run.profile,
        size=SIZE,
        filters=None,
        minutes=run.profile.minutes if minutes is None else minutes,
        epochs=run.profile.epochs if minutes is None else None,
        steps=min(50, run.profile.steps),
        momentum=0.9,
    )
    large = dataclasses.replace(run, profile=whole, results=run.results / "full_net")
    prepare(large, size=SIZE)
    path, table = run.results / "tables" / "full_net.csv", find(run.data)
    named = "12.1 M generator, content"
    recipe = recipe_of(large, named, minutes=whole.minutes, epochs=whole.epochs, external=external)
    done = common.read_rows(path, recipe)
    if not len(done):
        parts = split(table, external=external)
        model, history = train(large, parts, loss="content", features=features, name="content", verbose=verbose)
        method = {"content": functools.partial(predict, model, size=SIZE)}
        scores = pd.concat(
            [evaluate(method, table, parts[side]).assign(set=named) for side, named in SETS.items() if parts[side]]
        )
        done = common.add_rows(path, done, scores.assign(steps=int(history["iterations"].iloc[-1]), recipe=recipe))
    return done


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
    parser.add_argument(
        "--external", nargs="+", help="centres of --data that never train (default: the phantoms' CentreD)"
    )
    parser.add_argument("--final", action="store_true", help="recipe: open the scans that do not tune, too")
    parser.add_argument("--minutes", type=float, default=30, help="full_net: of its one cell")
    parser.add_argument("--jobs", type=int, default=1, help="losses, features: cells at a time")
    options = parser.parse_args()
    real = options.real
    if Path(options.features).is_file():  # under one name, or a run would not go on when it is called from elsewhere
        options.features = str(Path(options.features).resolve())
    run = start(options.profile, data=options.data, results=options.results)
    if options.what in ("losses", "features", "full_net"):
        prepare(run)
    generator = {"features": options.features, "external": options.external}
    cells = generator | {"real": real, "jobs": options.jobs}
    given = {
        "losses": cells, "features": cells, "full_net": generator | {"minutes": options.minutes},
        "recipe": {"brains": options.brains, "real": real, "final": options.final}, "finetune": {"real": real}, "release": {},
    }  # fmt: skip
    if options.what == "finetune" and real is None:
        parser.error("finetune needs --real: the folder that holds openms and the scans to score")
    print(WHAT[options.what](run, **given[options.what]).to_string())


if __name__ == "__main__":
    from segkit.studies.wmh import experiments  # under its own name, by which cells find it in other processes

    experiments.main()
