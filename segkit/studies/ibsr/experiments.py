"""Runs of an hour or more, in cells that resume: networks, losses, ablations, our own recipe.

    python -m segkit.studies.ibsr.experiments networks --data DIR   the report's networks at equal minutes (Table 1)
    python -m segkit.studies.ibsr.experiments losses --data DIR     the loss comparison on the four-level net (Tables 4 to 6)
    python -m segkit.studies.ibsr.experiments ablation --data DIR   one setting changed at a time
    python -m segkit.studies.ibsr.experiments select --data DIR     our own recipe and its steps on the selection subjects alone
    python -m segkit.studies.ibsr.experiments recipe --data DIR     our own recipe, trained, scored and taken apart
    python -m segkit.studies.ibsr.experiments ensemble --data DIR   the mean of several that differ in their seed
    python -m segkit.studies.ibsr.experiments folds --data DIR      the recipe on five folds over all labelled subjects
    python -m segkit.studies.ibsr.experiments release --data DIR    the recipe into saved_models, with its scores

``--cells NAME …`` takes some of the networks, losses or ablations; ``--epochs N`` gives each N epochs instead of minutes. Each cell ends
with rows of a CSV in ``tables/`` and its curve in ``tables/histories/``; what is there is not run again. Recipes are chosen on the
selection subjects; the validation volumes are scored once a cell.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import files, intensity, training, volumes
from segkit.studies import common
from segkit.studies.ibsr.layout import N4_ITERATIONS, find, read, split, start
from segkit.studies.ibsr.networks import TURNS, box_steps, predict, release, segment, train
from segkit.studies.ibsr.recipe import CHOSEN, NETWORK, PLAIN, learning, predict_recipe, train_recipe
from segkit.studies.ibsr.steps import extract, preprocess, standardise
from segkit.studies.ibsr.tables import evaluate

# network and settings of each cell; the four-level net is that of the report's Table 1
NETWORKS: dict[str, dict] = {
    "2D U-Net": {"network": "ibsr_unet2d_4level"}, "2D U-Net, five levels": {"network": "ibsr_unet2d"},
    "ResUNet": {"network": "ibsr_resunet2d"}, "DenseUNet": {"network": "ibsr_denseunet2d"}, "3D U-Net": {"network": "ibsr_unet3d"},
}  # fmt: skip
# as the code has them; there Tversky and focal Tversky are the same, here γ is above 1, as the report's text asks
LOSSES: dict[str, dict] = {
    "cross-entropy": {}, "CSF-weighted": {"loss": "weighted_cross_entropy", "loss_settings": {"class_weights": [1, 3, 1, 1]}},
    "focal": {"loss": "focal", "loss_settings": {"alpha": 0.8, "gamma": 2.0}},
    "Tversky": {"loss": "tversky", "loss_settings": {"alpha": 0.5, "beta": 0.5}},
    "focal Tversky": {"loss": "focal_tversky", "loss_settings": {"alpha": 0.5, "beta": 0.5, "gamma": 4 / 3}},
    "Dice": {"loss": "dice"}, "weighted Dice": {"loss": "generalized_dice"},
}  # fmt: skip
ABLATION: dict[str, dict] = {
    "as it is": {}, "another seed": {"seed": 1}, "third seed": {"seed": 2}, "not augmented": {"augmented": False},
    "raw intensities": {"intensities": "raw"}, "without N4": {"images": "without_n4"},
    "N4 as the report": {"images": "report_n4"}, "Perona–Malik first": {"images": "smoothed"},
    "five levels": {"network": "ibsr_unet2d"}, "batch of 32": {"batch_size": 32}, "batch of 16": {"batch_size": 16},
    "no dropout": {"dropout": 0.0}, "dropout .25": {"dropout": 0.25}, "dropout .3": {"dropout": 0.3}, "dropout .5": {"dropout": 0.5},
    "dropout on at inference": {"monte_carlo": True}, "batch normalisation": {"normalization": "batch"},
    "batch normalisation in the encoder": {"normalization": "batch", "normalize_decoder": False},
    "plateau schedule": {"schedule": "plateau"}, "constant schedule": {"schedule": "constant"},
    "SGD": {"optimizer": {"class_name": "sgd", "config": {"momentum": 0.9}}, "learning_rate": 1e-2},
    "Adadelta": {"optimizer": "adadelta", "learning_rate": 1.0},
    # the report's nets as its code has them, and as their names say
    "ResUNet": {"network": "ibsr_resunet2d"}, "ResUNet, added": {"network": "ibsr_resunet2d", "add": True},
    "DenseUNet": {"network": "ibsr_denseunet2d"}, "DenseUNet, truly dense": {"network": "ibsr_denseunet2d_full"},
}  # fmt: skip
# the recipe, and the same with one step left out, changed or added at prediction
STEPS: dict[str, dict] = {
    NETWORK: {}, "coronal slices only": {"planes": (1,)}, "no mirroring": {"mirror": False},
    "largest component": {"tidy": True}, "brain mask": {"within": True},
    "Perona–Malik at prediction": {"smooth": True}, "without N4 at prediction": {"images": "without_n4"},
    "N4 as the report at prediction": {"images": "report_n4"},
}  # fmt: skip
# tried on the selection subjects alone
TRIED: dict[str, dict] = {
    "no sagittal slices": {"planes": (1, 2)}, "coronal twice": {"planes": (0, 1, 1, 2)},
    "coronal only, no mirroring": {"planes": (1,), "mirror": False},
    **{f"CSF parts of {n} voxels and more": {"smallest_csf": n} for n in (15, 30, 60)},
    **{f"CSF × {w}": {"weights": (1, w, 1, 1)} for w in (0.8, 1.25, 1.5)},
    **{f"WM × {w}": {"weights": (1, 1, 1, w)} for w in (0.95, 1.05)},
}  # fmt: skip
# … and trainings: what the profile sets otherwise
VARIANTS: dict[str, dict] = {"whole slices": {"recipe_crop": None}, "batch of 8": {"recipe_batch": 8}}
CELLS = ("networks", "losses", "ablation")
SCORES = ["subject", "label", "dice", "hd95_mm", "avd_percent", "legacy_dice", "legacy_hausdorff_voxels", "legacy_avd"]


def recipe_of(run: common.Run, what: str, minutes: float | None) -> str:
    """What a row was made with; the last word changes with what the profile sets for it, and the subjects."""
    p = run.profile
    own: tuple = ()  # rows of the selection say one by one what they were made with
    if what.startswith(NETWORK) and "selection" not in what:
        own = (learning(p), sorted(CHOSEN.items()))
    elif not what.startswith(NETWORK):
        own = (sorted(TURNS.items()), p.loss, p.learning_rate, p.batch_size, p.filters, box_steps(p))
    mark = common.mark(own, p.coarse, p.epochs, p.n4_shrink, N4_ITERATIONS, sorted(split(find(run.data)).items()))
    budget = f"{minutes:g} minutes" if minutes else f"{run.profile.epochs} epochs"
    return f"{what}, {budget}, seed {run.seed}, settings {mark}"


def recipe_for(run: common.Run, what: str, *, count: int = 5) -> str:
    """:func:`recipe_of` the rows of ``tables/<what>.csv``: networks, losses, ablation, selection, recipe, ensemble or folds."""
    said = {"recipe": NETWORK, "ensemble": f"{NETWORK}, several", "folds": f"{NETWORK}, {count} folds",
            "selection": f"{NETWORK}, on the selection subjects"}  # fmt: skip
    minutes = run.profile.recipe_minutes if what in ("recipe", "ensemble") else run.profile.cell_minutes[what]
    return recipe_of(run, said.get(what, what), minutes)


def by_epochs(run: common.Run, what: str, epochs: int | None) -> common.Run:
    """``run``, whose cells of networks, losses or ablation take so many epochs instead of the profile's minutes (None: as it is)."""
    if epochs is None:
        return run
    minutes = run.profile.cell_minutes | {what: None}
    return dataclasses.replace(
        run, profile=dataclasses.replace(run.profile, epochs=epochs, minutes=None, cell_minutes=minutes)
    )


def _budget_of(run: common.Run, what: str) -> int | None:
    """Epochs that the rows of ``tables/<what>.csv`` were given; None where it was minutes, or there are no rows."""
    path = run.results / "tables" / f"{what}.csv"
    if what not in CELLS or not path.is_file():
        return None
    said = re.search(r", (\d+) epochs, seed", str(pd.read_csv(path, nrows=1)["recipe"].iloc[0]))
    return int(said.group(1)) if said else None


def rows(run: common.Run, what: str) -> pd.DataFrame | None:
    """``tables/<what>.csv`` where it is of this run's recipe; None, and a line that says why, where not.

    Networks, losses and ablation may have had epochs instead of the profile's minutes (``--epochs``).
    """
    run = by_epochs(run, what, _budget_of(run, what))
    return common.rows_or_why(run, what, recipe_for(run, what), command="select" if what == "selection" else None)


def networks(run: common.Run, *, cells: Sequence[str] | None = None, verbose=2) -> pd.DataFrame:
    """The report's networks at equal minutes: ``tables/networks.csv``, a row a network, subject and tissue."""
    return _cells(run, "networks", NETWORKS, cells, verbose)


def losses(run: common.Run, *, cells: Sequence[str] | None = None, verbose=2) -> pd.DataFrame:
    """The losses of the report's Tables 4 to 6, and Dice, on the four-level net: ``tables/losses.csv``."""
    return _cells(run, "losses", LOSSES, cells, verbose)


def ablation(run: common.Run, *, cells: Sequence[str] | None = None, verbose=2) -> pd.DataFrame:
    """One setting of the report's changed at a time, on the four-level net: ``tables/ablation.csv``."""
    return _cells(run, "ablation", ABLATION, cells, verbose)


def _cells(run: common.Run, what: str, known: dict[str, dict], chosen: Sequence[str] | None, verbose) -> pd.DataFrame:
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise ValueError(f"{what} has no cell {unknown[0]!r}; choose of {', '.join(known)}")
    path, recipe = run.results / "tables" / f"{what}.csv", recipe_for(run, what)
    minutes = run.profile.cell_minutes[what]
    done, parts = common.read_rows(path, recipe), split(find(run.data))
    for name, given in known.items():
        if chosen and name not in chosen:
            continue
        mark = common.mark(sorted(given.items()))
        if len(done) and ((done["cell"] == name) & (done["settings"] == mark)).any():
            continue
        settings = {"network": "ibsr_unet2d_4level"} | given
        settings["seed"] = run.seed + settings.get("seed", 0)
        results = made_otherwise(run, settings.pop("images", None))
        network, raw = settings.pop("network"), settings.get("intensities") == "raw"
        folder = (
            network if what == "networks" else f"{what}_{name}".replace(" ", "_")
        )  # 03_training trains two of the networks
        model, history = train(
            network, results, parts, run.profile, name=folder, minutes=minutes, verbose=verbose, **settings
        )
        method = functools.partial(predict, model, raw=raw, spacing_mm=run.profile.spacing_mm)
        scores = evaluate({f"{what} {name}": method}, run.data, results, parts["validation"])
        finite = history["val_loss"].dropna()  # none of a loss that ran away in its first epoch
        best = history.loc[finite.idxmin() if len(finite) else history.index[-1]]  # the epoch that is kept
        keep_history(run, f"{what} {name}", history)
        cell = scores[SCORES].assign(
            cell=name, network=network, parameters=model.count_params(), epochs=len(history),
            seconds=float(history["seconds"].iloc[-1]), loss=float(best["loss"]), val_loss=float(best["val_loss"]),
            machine=training.provenance()["machine"], settings=mark, recipe=recipe,
        )  # fmt: skip
        others = done[done["cell"] != name] if len(done) else done
        done = common.add_rows(path, others, cell)
    return done


def made_otherwise(run: common.Run, images: str | None) -> Path:
    """The run's results folder, or one in it whose files were made "without_n4", with "report_n4" or from "smoothed" images."""
    if images is None:
        return run.results
    other = dataclasses.replace(run, results=run.results / images)
    if images == "smoothed":
        for path in sorted((run.results / "preprocessed").glob("*_bias_corrected.nii.gz")):
            target = other.results / "preprocessed" / path.name
            if not target.is_file():
                volumes.save(smoothed(volumes.load(path)), target)
    prepare(other, n4={"without_n4": False, "report_n4": "report"}.get(images, True))
    return other.results


def keep_history(run: common.Run, name: str, history: pd.DataFrame) -> Path:
    """A cell's curve beside the tables, since its run folder is not committed."""
    path = run.results / "tables" / "histories" / f"{name.replace(' ', '_').replace(',', '')}.csv"
    return files.write_text(path, history.round(6).to_csv(index=False))


def select(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The recipe, trained without the selection subjects, its steps, and what it was trained otherwise, scored on them alone:
    ``tables/selection.csv``.

    They are the only training subjects of .837 mm, so that these networks have not seen such voxels; the recipe itself learns from them.
    """
    parts, said = split(find(run.data)), recipe_for(run, "selection")
    steps = {name: PLAIN | given for name, given in (STEPS | TRIED).items()}
    for variant, changes in ({"": {}} | VARIANTS).items():
        changed = dataclasses.replace(run, profile=dataclasses.replace(run.profile, **changes))
        done = _taken_apart(
            changed, "selection", {"train": parts["train"], "selection": []}, parts["selection"], {variant: PLAIN} if variant else steps,
            name=f"selection {variant}".strip(), minutes=run.profile.cell_minutes["selection"], said=said, verbose=verbose,
        )  # fmt: skip
    return done


def recipe(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """Train our own recipe on all training subjects, those that select among them (:func:`select` has chosen by then), score it on the
    validation subjects and take it apart: ``tables/recipe.csv``."""
    parts = split(find(run.data))
    return _taken_apart(
        run, "recipe", _all_learn(parts), parts["validation"], STEPS, name="recipe", minutes=run.profile.recipe_minutes,
        said=recipe_for(run, "recipe"), verbose=verbose,
    )  # fmt: skip


def _all_learn(parts: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those that selected among those that train, nobody selects."""
    return {"train": sorted(parts["train"] + parts["selection"]), "selection": []}


def _taken_apart(
    run: common.Run, what: str, chosen: dict, scored: Sequence[str], steps: dict[str, dict], *, name: str, minutes: float | None, said: str,
    verbose,
) -> pd.DataFrame:  # fmt: skip
    """Rows of ``steps`` in ``tables/<what>.csv``, by one training in the run folder ``name``."""
    path, mark = run.results / "tables" / f"{what}.csv", common.mark(learning(run.profile))
    done = common.read_rows(path, said)
    here = set(done.loc[done["settings"] == mark, "cell"]) if len(done) else set()
    left = [cell for cell in steps if cell not in here]
    if not left:  # nor trained again where its run folder is gone
        return done
    folder = name.replace(" ", "_")
    model, history = train_recipe(run, chosen, name=folder, minutes=minutes, verbose=verbose)
    keep_history(run, name, history)
    made = {
        "epochs": len(history), "minutes": minutes, "steps": int(history["iterations"].iloc[-1]), "settings": mark,
        "model": fingerprint(run.results / "runs" / folder / "best.keras"), "machine": training.provenance()["machine"], "recipe": said,
    }  # fmt: skip
    for cell in left:
        method, results = step(run, model, **steps[cell])
        scores = evaluate({f"{what} {cell}": method}, run.data, results, scored)
        others = done[done["cell"] != cell] if len(done) else done
        done = common.add_rows(path, others, scores.assign(cell=cell, **made))
    return done


def fingerprint(path: Path) -> str:
    """What tells a saved network from another training of the same settings."""
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def ensemble(run: common.Run, *, members: int = 2, verbose=2) -> pd.DataFrame:
    """The mean of recipes that differ in their seed, from one to ``members`` of them: ``tables/ensemble.csv``."""
    path, said = run.results / "tables" / "ensemble.csv", recipe_for(run, "ensemble")
    done, parts, trained = common.read_rows(path, said), split(find(run.data)), []
    if len(done) and done["members"].max() >= members:
        return done
    for k in range(1, members + 1):
        name, seed = "recipe" if k == 1 else f"recipe_{k}", run.seed + k - 1
        minutes = run.profile.recipe_minutes
        trained.append(train_recipe(run, _all_learn(parts), name=name, minutes=minutes, seed=seed, verbose=verbose)[0])
        if len(done) and (done["members"] == k).any():
            continue
        method = functools.partial(predict_recipe, list(trained), spacing_mm=run.profile.spacing_mm)
        scores = evaluate({f"mean of {k}": method}, run.data, run.results, parts["validation"])
        done = common.add_rows(path, done, scores.assign(members=k, recipe=said))
    return done


def step(
    run: common.Run, model, *, within: bool = False, smooth: bool = False, images: str | None = None, **settings
) -> tuple[Callable[[Nifti1Image], Nifti1Image], Path]:
    """The recipe with one of its :data:`STEPS`: a callable, and the results folder whose images it is given."""
    own = functools.partial(predict_recipe, model, spacing_mm=run.profile.spacing_mm, **(CHOSEN | settings))

    def method(image: Nifti1Image) -> Nifti1Image:
        found = own(smoothed(image) if smooth else image)
        return inside(found, image) if within else found

    return method, made_otherwise(run, images)


def inside(found: Nifti1Image, image: Nifti1Image) -> Nifti1Image:
    """``found`` without what lies outside the brain (voxels of ``image`` above 0)."""
    return volumes.like(np.where(volumes.array(image) > 0, volumes.array(found), 0).astype(np.uint8), found)


def smoothed(image: Nifti1Image) -> Nifti1Image:
    """Perona–Malik with the report's settings on an image brought to 0 … 255; the background stays 0."""
    data = volumes.array(image, np.float32)
    out = intensity.perona_malik(255 * intensity.min_max(data))
    return volumes.like(np.where(data > 0, out, 0).astype(np.float32), image)


def folds(run: common.Run, *, count: int = 5, jobs: int = 1, verbose=2) -> pd.DataFrame:
    """The recipe on folds over all labelled subjects, each scored by a network that did not see it: ``tables/folds.csv``.

    ``jobs`` folds at a time, or as many as a cluster takes (:func:`segkit.studies.common.spread`). A fold that is stopped goes on from
    its last epoch.
    """
    path = run.results / "tables" / "folds.csv"
    said = recipe_for(run, "folds", count=count)
    done = common.read_rows(path, said)
    missing = [k for k in range(1, count + 1) if not len(done) or not (done["fold"] == k).any()]
    cells = [(_fold, run, k, count, verbose) for k in missing]
    for rows in common.spread(common.alone, cells, jobs=jobs):
        done = common.add_rows(path, done, rows.assign(recipe=said))
    return done


def _fold(run: common.Run, number: int, count: int, verbose) -> pd.DataFrame:
    """Train and score one fold."""
    everyone = sorted(find(run.data).query("label.notna()").index)
    test = everyone[number - 1 :: count]
    chosen = {"train": [s for s in everyone if s not in test], "selection": []}
    minutes = run.profile.cell_minutes["folds"]
    model, _ = train_recipe(run, chosen, name=f"fold{number}_{NETWORK}", minutes=minutes, verbose=verbose)
    method = functools.partial(predict_recipe, model, spacing_mm=run.profile.spacing_mm)
    scores = evaluate({f"fold{number} {NETWORK}": method}, run.data, run.results, test)
    return scores.assign(method=NETWORK, fold=number)


def release_recipe(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """Put the recipe's network, which never saw the validation subjects, into ``saved_models``: ``tables/release.csv``.

    Its scores are those of the released file through :func:`segkit.studies.ibsr.segment`, on the validation subjects' own scans.

    Raises
    ------
    ValueError
        When the network in ``runs/recipe`` is not the one whose scores stand in ``tables/recipe.csv``.
    """
    rows, trained = recipe(run, verbose=verbose), run.results / "runs" / "recipe" / "best.keras"
    own = rows[rows["cell"] == NETWORK].assign(method=NETWORK)
    if fingerprint(common.need(trained, "experiments recipe")) != own["model"].iloc[0]:
        raise ValueError(
            f"{common.shown(trained)}: is not the network that was scored in tables/recipe.csv; move that table away to score this one"
        )
    path, table = release(run, NETWORK, own, trained_as="recipe"), find(run.data)
    scores = evaluate(
        {NETWORK: functools.partial(segment, model=path)}, run.data, run.results, split(table)["validation"],
        load=lambda _, subject: read(table.loc[subject])[0],
    ).assign(MB=round(path.stat().st_size / 1e6, 2), model=own["model"].iloc[0], recipe=own["recipe"].iloc[0])  # fmt: skip
    for place in (run.results / "tables" / "release.csv", path.with_name(f"{NETWORK}.scores.csv")):
        files.write_text(place, scores.round(5).to_csv(index=False))
    return scores


WHAT = {
    "networks": networks, "losses": losses, "ablation": ablation, "select": select, "recipe": recipe, "ensemble": ensemble,
    "folds": folds, "release": release_recipe,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = common.command_line("IBSR", WHAT)
    parser.add_argument("--cells", nargs="+", help="of networks, losses or ablation: these alone")
    parser.add_argument(
        "--epochs", type=int, help="of networks, losses or ablation: a cell's budget instead of minutes (with a GPU)"
    )
    options = parser.parse_args()
    if (options.cells or options.epochs) and options.what not in CELLS:
        parser.error(f"{options.what} has no cells to choose from, and takes no epochs")
    run = by_epochs(start(options.profile, data=options.data, results=options.results), options.what, options.epochs)
    prepare(run)
    more = {"cells": options.cells} if options.cells else {}
    print(WHAT[options.what](run, **more).to_string())


def prepare(run: common.Run, *, n4: bool | str = True) -> None:
    """Do what 00 to 02 do, where their files are not all there."""
    table, results = find(run.data), run.results
    wanted = {
        "preprocessed": [f"{s}_bias_corrected.nii.gz" for s in table.index], "padded": [f"{s}.nii.gz" for s in table.index],
        "patches": [f"{s}.npz" for s in table.index[table["label"].notna()]],
    }  # fmt: skip
    missing = {step for step, names in wanted.items() if not all((results / step / n).is_file() for n in names)}
    if "preprocessed" in missing:
        preprocess(run.data, results, n4=n4, shrink=run.profile.n4_shrink)
    if missing & {"preprocessed", "padded"}:
        standardise(run.data, results, shape=run.profile.grid)
    if missing:
        extract(run.data, results)


if __name__ == "__main__":
    from segkit.studies.ibsr import experiments  # under its own name, by which folds find it in other processes

    experiments.main()
