"""Long runs, in cells that resume: networks at equal minutes, binary models, resolutions, a learning curve, the recipe.

    python -m segkit.studies.qsm.experiments compare --data DIR      five-label models of the report's networks
    python -m segkit.studies.qsm.experiments binary --data DIR       the report's binary models: brain, hippocampus, caudate
    python -m segkit.studies.qsm.experiments resolution --data DIR   the U-Net at each dimension
    python -m segkit.studies.qsm.experiments curve --data DIR        the recipe with a quarter, half and all training subjects
    python -m segkit.studies.qsm.experiments best --data DIR         the recipe, for the profile's minutes
    python -m segkit.studies.qsm.experiments release --data DIR      the recipe on varied simulations, into saved_models

``release --onwards`` begins with the model that is released now. Each cell ends with rows of a CSV in ``tables/``; what is
there is not run again.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segkit import metrics, phantoms, training, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import ALL, CUBE, LABELS, RELEASED, file_names, find, label_values, split, start
from segkit.studies.qsm.methods import patch_method, recipe_labels, recipe_method, segmented
from segkit.studies.qsm.networks import (
    OPTIMIZER,
    run_name,
    to_labels,
    train,
)
from segkit.studies.qsm.recipe import FAR, NEAR, NUMBER, REGISTERED, Nuclei, load, train_recipe
from segkit.studies.qsm.steps import downsample_all, load_cube, pad_all, reconstruct
from segkit.studies.qsm.tables import atlas_vote, evaluate, on_original_grid
from segkit.studies.qsm.user import load_model, release, steps_of_released

BINARY = ("brain", "hippocampus", "caudate")
CURVE = (1 / 4, 1 / 2, 1.0)  # shares of the training subjects
KEPT = ("subject", "label", "dim", "dice", "hd_mm", "hd95_mm", "surface_dice", "legacy_dice", "legacy_hd_voxels")


def prepare(run: common.Run) -> None:
    """Do what 01 and 02 do, for the subjects whose files are not all there, or are older than what they are made from."""
    profile, table = run.profile, find(run.data)
    left = [s for s, row in table.iterrows() if not _is_current(run.results / "padded" / s, row, profile.dims)]
    if left:
        pad_all(table.loc[left], run.results, dim=profile.dims[0], values=label_values(run.data))
        downsample_all(left, run.results, dims=profile.dims)


def _is_current(folder: Path, row: pd.Series, dims: Sequence[int]) -> bool:
    sources = [row["qsm"], row["brain_mask"]] + ([] if row["labels"] is None else [row["labels"]])
    wanted = [
        folder / file
        for dim in dims
        for name, file in file_names(dim).items()
        if row["labels"] is not None or name not in LABELS
    ]
    if not all(p.is_file() for p in wanted):
        return False
    return min(p.stat().st_mtime for p in wanted) >= max(Path(s).stat().st_mtime for s in sources)


def recipe_of(run: common.Run, what: str, *, minutes: float | None = None, epochs: int | None = None) -> str:
    """What a row was made with; the last word changes with what the profile sets for it, how the maps were made, and the subjects."""
    budget = ", ".join(([f"{minutes:g} minutes"] if minutes else []) + ([f"{epochs} epochs"] if epochs else []))
    p, subjects, made = run.profile, list(find(run.data).index), run.data / phantoms.MARK
    used = (p.dims, p.dim, p.filters, p.steps, made.read_text() if made.is_file() else "", subjects)
    if what.startswith(RELEASED):
        used += (
            NUMBER,
            p.box,
            p.fine,
            p.stem,
            sorted(REGISTERED.items()),
            sorted(map(str, training.RECIPE.items())),
        )
        used += (sorted(NEAR.items()), sorted(FAR.items())) if "varied" in what else ()
    else:
        used += (p.patch, p.batch_size, p.learning_rate, sorted(map(str, OPTIMIZER.items())))
    mark = common.mark(*used)
    kind = "simulated maps" if "simulated" in (run.source or "") else "subjects"
    return f"{what}, {budget}, {len(subjects)} {kind}, seed {run.seed}, settings {mark}"


def recipe_for(run: common.Run, what: str, *, network: str = "qsm_unet3d") -> str:
    """:func:`recipe_of` the rows of ``tables/<what>.csv``: compare, binary, resolution, curve, best or release."""
    p = run.profile
    cell, whole = {"minutes": p.cell_minutes, "epochs": p.cell_epochs}, {"minutes": p.minutes, "epochs": p.epochs}
    said: dict[str, tuple[str, dict]] = {
        "compare": ("five labels", cell),
        "binary": (network + (f", the brain {p.brain_minutes:g} minutes" if p.brain_minutes else ""), cell),
        "resolution": (f"{network}, five labels", cell), "curve": (RELEASED, cell), "best": (RELEASED, whole),
        "release": (f"{RELEASED}, varied", whole | {"minutes": p.release_minutes or p.minutes}),
    }  # fmt: skip
    return recipe_of(run, said[what][0], **said[what][1])


def rows(run: common.Run, what: str) -> pd.DataFrame | None:
    """``tables/<what>.csv`` where it is of this run's recipe, or of one that differs from it in its minutes or epochs alone, which it
    then says; None, and a line that says why, where not."""
    path, wanted = run.results / "tables" / f"{what}.csv", recipe_for(run, what)
    if path.is_file():
        found = set(pd.read_csv(path, usecols=["recipe"])["recipe"])
        if len(found) == 1 and wanted not in found and _but_for_budget(*found) == _but_for_budget(wanted):
            (wanted,) = found
            print(f"{what}: made otherwise than this profile would: {wanted}")
    return common.rows_or_why(run, what, wanted)


def _but_for_budget(recipe: str) -> str:
    return re.sub(r"(, the brain|,) [\d.]+ (minutes|epochs)", "", recipe)


def sides(run: common.Run, *, train: int | None = None) -> dict[str, list[str]]:
    """:func:`segkit.studies.qsm.split` of the run's subjects."""
    return split(list(find(run.data).index), train=train)


def own_recipe(run: common.Run) -> Nuclei | None:
    """The recipe of this run with its atlas; None, and a line that says why, where :func:`best` has not ended or its files are gone
    (they are too large to be committed)."""
    path = run.results / "runs" / RELEASED / "best.keras"
    if rows(run, "best") is None:
        return None
    if not path.is_file():
        csv = common.shown(run.results / "tables" / "best.csv")
        print(f"{common.shown(path)} is not here, only its scores: remove {csv}, and experiments best trains it again")
        return None
    return load(path)


def compare(run: common.Run, *, networks: Sequence[str] | None = None, verbose=2) -> pd.DataFrame:
    """One five-label model a network at equal minutes, tested: ``tables/compare.csv``."""
    profile = run.profile
    recipe = recipe_for(run, "compare")
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
    recipe = recipe_for(run, "binary", network=network)
    path = run.results / "tables" / "binary.csv"
    done = common.read_rows(path, recipe)
    for label in labels:
        if len(done) and (done["label"] == label).any():
            continue
        minutes = profile.brain_minutes if label == "brain" else None
        row, scores, _ = _cell(run, network, label, profile.dim, verbose, minutes=minutes)
        done = common.add_rows(path, done, scores.assign(network=network, **row, recipe=recipe))
    return done


def resolution(run: common.Run, *, network: str = "qsm_unet3d", verbose=2) -> pd.DataFrame:
    """The same network and minutes at each dimension below 512: ``tables/resolution.csv``.

    ``dice`` is on the working grid, ``dice_fine`` on the finest cube, where all dimensions can be compared.
    """
    profile = run.profile
    recipe = recipe_for(run, "resolution", network=network)
    path = run.results / "tables" / "resolution.csv"
    done = common.read_rows(path, recipe)
    for dim in (d for d in profile.dims if d < CUBE):
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
    recipe = recipe_for(run, "curve")
    path = run.results / "tables" / "curve.csv"
    done = common.read_rows(path, recipe)
    whole = len(sides(run)["train"])
    for n in dict.fromkeys(max(1, round(share * whole)) for share in CURVE):
        if len(done) and (done["subjects"] == n).any():
            continue
        chosen, name = sides(run, train=n), f"curve_{n}"
        model, history = train_recipe(
            run, chosen, name=name, minutes=profile.cell_minutes, epochs=profile.cell_epochs, verbose=verbose
        )
        scores = evaluate(
            {name: recipe_method(model, run, dim=profile.dim)}, run.results, chosen["test"], dim=profile.dim
        )
        done = common.add_rows(
            path, done, scores[list(KEPT)].assign(subjects=n, **_spent(run, name, history), recipe=recipe)
        )
    return done


def best(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The recipe for the profile's minutes, beside the atlas alone: ``tables/best.csv``, every column of :func:`evaluate`; and the
    recipe on the subjects' own grids, ``tables/best_original_grid.csv``, every column of :func:`on_original_grid`."""
    dim, chosen = run.profile.dim, sides(run)
    recipe = recipe_for(run, "best")
    path = run.results / "tables" / "best.csv"
    done = common.read_rows(path, recipe)
    if not len(done):
        model, history = train_recipe(run, chosen, verbose=verbose)
        spent = _spent(run, RELEASED, history)
        scores = evaluate({RELEASED: recipe_method(model, run, dim=dim)}, run.results, chosen["test"], dim=dim)
        rebuilt = on_original_grid(
            find(run.data), run.results, RELEASED, chosen["test"], values=label_values(run.data),
            out=run.results / "reconstructed_predictions", finer=recipe_labels(model, run),
        )  # fmt: skip
        own = path.with_name("best_original_grid.csv")
        common.add_rows(own, pd.DataFrame(), rebuilt.assign(**spent, recipe=recipe))
        done = common.add_rows(path, done, scores.assign(**spent, recipe=recipe))
    if not (done["method"] == "atlas").any():
        votes = atlas_vote(run.results, chosen["train"], dim=dim)
        scores = evaluate({"atlas": lambda subject: votes}, run.results, chosen["test"], dim=dim)
        done = common.add_rows(path, done, scores.assign(recipe=recipe))
    return done


def release_all(run: common.Run, *, maps: Path, onwards: bool = False, verbose=2) -> pd.DataFrame:
    """Train the recipe on widely varied simulations of all label maps but the test subjects', and release it: ``tables/release.csv``.

    What is there is neither trained nor released again.

    Parameters
    ----------
    maps : folder
        Label maps of the Harvard-Oxford Atlas 2.0, ``<subject>.nii.gz``. One map is simulated of each, into
        ``data_dir/qsm/varied_<profile>_seed<seed>``; each draws its own susceptibilities, noise, texture, veins, field direction, mask and
        inversion (:class:`segkit.phantoms.qsm.Difficulty`). The run's own training subjects are learned from as well.
    onwards : bool
        Begin with the weights of the model that is released now; its steps stand in the column steps_before.

    Returns
    -------
    DataFrame
        Scores of the test subjects (column simulation): as the run has them, "study"; varied, "varied"; both as registered maps. And
        "moved": the varied maps turned, shifted and of other voxels, through :func:`segkit.studies.qsm.segment`, without a brain mask.
        They stand beside the released model.
    """
    path, recipe = run.results / "tables" / "release.csv", recipe_for(run, "release")
    done = common.read_rows(path, recipe)
    if len(done):
        return done
    profile, test = run.profile, sides(run)["test"]
    sources = sorted(p.name.removesuffix(".nii.gz") for p in maps.glob("*.nii.gz"))
    lacking = sorted(set(test) - set(sources))
    if lacking:
        raise ValueError(f"{maps}: has no label map of the test subject {lacking[0]}, who could not be kept out")
    folder = common.home() / "data_dir" / "qsm" / f"varied_{profile.name}_seed{run.seed}"
    phantoms.write(
        "qsm", folder, subjects=len(sources), seed=run.seed + 1, coarse=profile.coarse, nuclei=maps, vary=True
    )
    varied = dataclasses.replace(run, data=folder, results=run.results / "varied")
    prepare(varied)
    chosen = {"train": [s for s in sources if s not in test], "selection": []}
    name = f"released_{RELEASED}"
    places, minutes = [varied.results, run.results], profile.release_minutes or profile.minutes
    begun, before = (load_model(), steps_of_released()) if onwards else (None, 0)
    model, history = train_recipe(
        run, chosen, name=name, results=places, wide=True, start=begun, minutes=minutes, epochs=profile.epochs, verbose=verbose
    )  # fmt: skip
    parts = [
        segmented(model, find(folder).loc[test], values=label_values(folder), seed=run.seed).assign(simulation="moved")
    ]
    for said, here in (("study", run), ("varied", varied)):
        method = recipe_method(model, here, dim=profile.dim)
        scores = evaluate({name: method}, here.results, test, dim=profile.dim)
        parts.append(scores.assign(simulation=said))
    spent = _spent(run, name, history) | {"steps_before": before}
    scores = pd.concat(parts[::-1]).assign(method=RELEASED, **spent, recipe=recipe)
    release(run, name, scores)
    return common.add_rows(path, pd.DataFrame(), scores)


def _cell(run: common.Run, network: str, label: str, dim: int, verbose, *, minutes: float | None = None):
    """Train one model and test it: facts of the run, scores, and the method that :func:`evaluate` called."""
    profile, chosen = run.profile, sides(run)
    minutes = profile.cell_minutes if minutes is None else minutes
    model, history = train(
        run,
        chosen,
        network=network,
        label=label,
        dim=dim,
        minutes=minutes,
        epochs=profile.cell_epochs,
        verbose=verbose,
    )
    name = run_name(network, label, dim, len(chosen["train"]), minutes=minutes, epochs=profile.cell_epochs)
    wanted = {"brain": 1} if label == "brain" else LABELS if label == ALL else {label: LABELS[label]}
    method = patch_method(model, run, label=label, dim=dim)
    scores = evaluate({name: method}, run.results, chosen["test"], dim=dim, labels=wanted)[list(KEPT)]
    return {"parameters": model.count_params()} | _spent(run, name, history), scores, method


def _spent(run: common.Run, name: str, history: pd.DataFrame) -> dict:
    """Steps and seconds of a training, and the machine that it ran on."""
    record, last = training.read_run(run.results / "runs" / name)[0], history.iloc[-1]
    return {
        "steps": int(last["iterations"]), "seconds": float(last["seconds"]), "machine": record["provenance"]["machine"],
    }  # fmt: skip


WHAT = {
    "compare": compare, "binary": binary, "resolution": resolution, "curve": learning_curve, "best": best, "release": release_all,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = common.command_line("QSM", WHAT)
    parser.add_argument("--epochs", type=int, help="of each network, instead of the profile's minutes (on a GPU: 50)")
    parser.add_argument("--minutes", type=float, help="of each training, instead of the profile's")
    parser.add_argument("--onwards", action="store_true", help="release: go on from the model that is released now")
    parser.add_argument("--batch-size", type=int, help="of patches (the report: 4)")
    options = parser.parse_args()
    run = start(options.profile, data=options.data, results=options.results)
    changed: dict = {}
    if options.epochs:
        changed |= {"epochs": options.epochs, "minutes": None, "cell_epochs": options.epochs}
        changed |= {"cell_minutes": None, "brain_minutes": None, "release_minutes": None}
    if options.minutes:
        changed |= dict.fromkeys(("minutes", "release_minutes", "cell_minutes", "brain_minutes"), options.minutes)
    if options.batch_size:
        changed["batch_size"] = options.batch_size
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, **changed))
    prepare(run)
    if options.onwards and options.what != "release":
        parser.error("--onwards goes with release")
    more = {"maps": options.data, "onwards": options.onwards} if options.what == "release" else {}
    print(WHAT[options.what](run, **more).to_string())


if __name__ == "__main__":
    main()
