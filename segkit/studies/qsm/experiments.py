"""Long runs, in cells that resume: networks at equal minutes, binary models, resolutions, a learning curve, the recipe.

    python -m segkit.studies.qsm.experiments compare --data DIR      five-label models of the report's networks
    python -m segkit.studies.qsm.experiments binary --data DIR       the report's binary models: brain, hippocampus, caudate
    python -m segkit.studies.qsm.experiments resolution --data DIR   the U-Net at each dimension
    python -m segkit.studies.qsm.experiments curve --data DIR        the recipe with a quarter, half and all training subjects
    python -m segkit.studies.qsm.experiments best --data DIR         the recipe, for the profile's minutes

Each cell ends with rows of a CSV in ``tables/``; what is there is not run again.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import metrics, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import ALL, LABELS, RELEASED, find, label_values, split, start
from segkit.studies.qsm.networks import (
    AUGMENTATION,
    load_training,
    predict,
    predict_patches,
    to_labels,
    train,
    train_recipe,
)
from segkit.studies.qsm.steps import downsample_all, load_cube, pad_all, reconstruct
from segkit.studies.qsm.tables import evaluate

BINARY = ("brain", "hippocampus", "caudate")
CURVE = (1 / 4, 1 / 2, 1.0)  # shares of the training subjects
KEPT = ("subject", "label", "dim", "dice", "hd95_mm", "surface_dice", "legacy_dice", "legacy_hd_voxels")


def prepare(run: common.Run) -> None:
    """Do what 01 and 02 do, for the subjects whose files are not there."""
    profile, table = run.profile, find(run.data)
    last = f"QSM_masked_dim{profile.dims[-1]}.nii.gz"
    left = [s for s in table.index if not (run.results / "padded" / s / last).is_file()]
    if left:
        pad_all(table.loc[left], run.results, dim=profile.dims[0], values=label_values(run.data))
        downsample_all(left, run.results, dims=profile.dims)


def recipe_of(run: common.Run, what: str, *, minutes: float | None = None, epochs: int | None = None) -> str:
    """What a row was made with; the last word changes with the profile, the augmentation and the subjects."""
    budget = f"{minutes:g} minutes" if minutes else f"{epochs} epochs"
    subjects = list(find(run.data).index)
    mark = hashlib.sha256(repr((run.profile, sorted(AUGMENTATION.items()), subjects)).encode()).hexdigest()[:6]
    return f"{what}, {budget}, {len(subjects)} subjects, seed {run.seed}, settings {mark}"


def sides(run: common.Run, *, train: int | None = None) -> dict[str, list[str]]:
    """:func:`segkit.studies.qsm.split` of the run's subjects."""
    return split(list(find(run.data).index), train=train)


def patch_method(model, run: common.Run, *, network: str, label: str, dim: int) -> Callable[[str], np.ndarray]:
    """What :func:`evaluate` calls for one of the report's networks."""
    patch = tuple(min(p, dim) for p in run.profile.patch)

    def probabilities(subject: str) -> np.ndarray:
        image = load_training(run, [subject], label=label, dim=dim)[subject][0]
        return predict_patches(model, image, patch=patch, context=network == "qsm_double_branch")

    return probabilities


def recipe_method(model, run: common.Run, *, dim: int) -> Callable[[str], np.ndarray]:
    """What :func:`evaluate` calls for the recipe: probabilities on its fine cube, averaged to cubes of ``dim``."""
    profile = run.profile

    def probabilities(subject: str) -> np.ndarray:
        qsm, brain, _ = load_cube(run.results, subject, profile.fine)
        soft = predict(model, qsm, brain, box=profile.box)
        return volumes.array(
            soft if dim == profile.fine else volumes.downsample(soft, profile.fine // dim, kind="image")
        )

    return probabilities


def compare(run: common.Run, *, networks: Sequence[str] | None = None, verbose=2) -> pd.DataFrame:
    """One five-label model a network at equal minutes, tested: ``tables/compare.csv``."""
    profile = run.profile
    recipe = recipe_of(run, "five labels", minutes=profile.cell_minutes, epochs=profile.cell_epochs)
    path = run.results / "tables" / "compare.csv"
    done = common.read_rows(path, recipe)
    for network in networks or profile.compared:
        if len(done) and (done["network"] == network).any():
            continue
        row, scores, _ = _cell(run, network, ALL, profile.dim, verbose)
        done = common.add_rows(path, done, scores.assign(network=network, **row, recipe=recipe))
    return done


def binary(run: common.Run, *, labels: Sequence[str] = BINARY, network: str = "qsm_unet3d", verbose=2) -> pd.DataFrame:
    """The report's binary models of one mask each: ``tables/binary.csv``."""
    profile = run.profile
    recipe = recipe_of(run, network, minutes=profile.brain_minutes, epochs=profile.cell_epochs)
    path = run.results / "tables" / "binary.csv"
    done = common.read_rows(path, recipe)
    for label in labels:
        if len(done) and (done["label"] == label).any():
            continue
        row, scores, _ = _cell(run, network, label, profile.dim, verbose, minutes=profile.brain_minutes)
        done = common.add_rows(path, done, scores.assign(network=network, **row, recipe=recipe))
    return done


def resolution(run: common.Run, *, network: str = "qsm_unet3d", verbose=2) -> pd.DataFrame:
    """The same network and minutes at each dimension: ``tables/resolution.csv``.

    ``dice`` is on the working grid, ``dice_fine`` on the finest cube, where all dimensions can be compared.
    """
    profile = run.profile
    recipe = recipe_of(run, f"{network}, five labels", minutes=profile.cell_minutes, epochs=profile.cell_epochs)
    path = run.results / "tables" / "resolution.csv"
    done = common.read_rows(path, recipe)
    for dim in profile.dims:
        if len(done) and (done["dim"] == dim).any():
            continue
        row, scores, method = _cell(run, network, ALL, dim, verbose)
        fine = pd.DataFrame(_on_the_finest(run, method, sides(run)["test"], dim))
        done = common.add_rows(path, done, scores.merge(fine, on=["subject", "label"]).assign(**row, recipe=recipe))
    return done


def _on_the_finest(
    run: common.Run, method: Callable[[str], np.ndarray], subjects: Sequence[str], dim: int
) -> list[dict]:
    rows = []
    for subject in subjects:
        small = load_cube(run.results, subject, dim)[0]
        truth = load_cube(run.results, subject, run.profile.dims[0])[2]
        back = volumes.array(reconstruct(volumes.like(to_labels(method(subject)), small), truth))
        rows += [
            {"subject": subject, "label": name, "dice_fine": metrics.dice(volumes.array(truth) == v, back == v)}
            for name, v in LABELS.items()
        ]
    return rows


def learning_curve(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The recipe with a quarter, half and all training subjects at equal minutes: ``tables/curve.csv``."""
    profile = run.profile
    recipe = recipe_of(run, RELEASED, minutes=profile.cell_minutes, epochs=profile.cell_epochs)
    path = run.results / "tables" / "curve.csv"
    done = common.read_rows(path, recipe)
    whole = len(sides(run)["train"])
    for n in dict.fromkeys(max(1, round(share * whole)) for share in CURVE):
        if len(done) and (done["subjects"] == n).any():
            continue
        chosen, name = sides(run, train=n), f"curve_{n}"
        model, _ = train_recipe(
            run, chosen, name=name, minutes=profile.cell_minutes, epochs=profile.cell_epochs, verbose=verbose
        )
        scores = evaluate(
            {name: recipe_method(model, run, dim=profile.dim)}, run.results, chosen["test"], dim=profile.dim
        )
        done = common.add_rows(path, done, scores[list(KEPT)].assign(subjects=n, recipe=recipe))
    return done


def best(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The recipe for the profile's minutes: ``tables/best.csv``, every column of :func:`evaluate`."""
    profile = run.profile
    recipe = recipe_of(run, RELEASED, minutes=profile.minutes, epochs=profile.epochs)
    path = run.results / "tables" / "best.csv"
    done = common.read_rows(path, recipe)
    if not len(done):
        chosen = sides(run)
        model, _ = train_recipe(run, chosen, verbose=verbose)
        scores = evaluate(
            {RELEASED: recipe_method(model, run, dim=profile.dim)}, run.results, chosen["test"], dim=profile.dim
        )
        done = common.add_rows(path, done, scores.assign(recipe=recipe))
    return done


def _cell(run: common.Run, network: str, label: str, dim: int, verbose, *, minutes: float | None = None):
    """Train one model and test it: facts of the run, scores, and the method that :func:`evaluate` called."""
    profile, chosen, name = run.profile, sides(run), f"{network}_{label}_dim{dim}"
    minutes = profile.cell_minutes if minutes is None else minutes
    model, history = train(
        run,
        chosen,
        network=network,
        label=label,
        dim=dim,
        name=name,
        minutes=minutes,
        epochs=profile.cell_epochs,
        verbose=verbose,
    )
    wanted = {"brain": 1} if label == "brain" else LABELS if label == ALL else {label: LABELS[label]}
    method = patch_method(model, run, network=network, label=label, dim=dim)
    scores = evaluate({name: method}, run.results, chosen["test"], dim=dim, labels=wanted)[list(KEPT)]
    facts = {
        "parameters": model.count_params(), "steps": int(history["iterations"].iloc[-1]), "seconds": float(history["seconds"].iloc[-1]),
    }  # fmt: skip
    return facts, scores, method


WHAT = {"compare": compare, "binary": binary, "resolution": resolution, "curve": learning_curve, "best": best}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Long runs of the QSM study, in cells that resume.")
    parser.add_argument("what", choices=sorted(WHAT))
    parser.add_argument("--data", required=True)
    parser.add_argument("--profile", default="full")
    parser.add_argument("--results")
    options = parser.parse_args()
    run = start(options.profile, data=Path(options.data).expanduser().resolve(), results=options.results)
    prepare(run)
    print(WHAT[options.what](run).to_string())


if __name__ == "__main__":
    main()
