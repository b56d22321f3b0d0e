"""Long runs, in cells that resume: the report's rotation experiment, five folds, its own network for an epoch.

    python -m segkit.studies.atrium.experiments rotation --data DIR     12 cells of up to 3 minutes
    python -m segkit.studies.atrium.experiments folds --data DIR        five times the profile's budget
    python -m segkit.studies.atrium.experiments longer --data DIR       the fixed split with three times the budget
    python -m segkit.studies.atrium.experiments report_net --data DIR   one epoch of the 31-million net
    python -m segkit.studies.atrium.experiments release --data DIR      the longer recipe on all cases, into saved_models

Each cell ends with a row of a CSV in ``tables/``; a row that is there is not run again. Training cases only, but for the folds.
"""

import functools
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from segkit import files, metrics, report
from segkit.studies import common
from segkit.studies.atrium.enhance import enhance, legacy_scores
from segkit.studies.atrium.layout import FACTOR, find, read, split, start
from segkit.studies.atrium.networks import predict, release, run_name, train
from segkit.studies.atrium.steps import halve, load_small, standardise
from segkit.studies.atrium.tables import NOTE, evaluate, three_columns, untimed

SLIM = "atrium_unet_slim"
LONGER = 3  # budgets, of the run that is not held to the headline's
LEARNING_RATE, BATCH = 1e-4, 5  # the report's


def recipe_of(run: common.Run, network: str, minutes: float | None = None) -> str:
    """What a row of a table was made with; rows of another recipe are not gone on with."""
    grid = "×".join(map(str, FACTOR))
    budget = f", {minutes:g} minutes" if minutes else ""
    return f"{network}{budget}, working grid {grid} of {run.profile.spacing_mm} mm, {len(find(run.data))} cases"


def cells(run: common.Run) -> list[dict]:
    """Rotation off and on × few and many epochs × seeds."""
    return [
        {"rotation": rotation, "epochs": epochs, "seed": seed}
        for seed in run.profile.cell_seeds
        for epochs in dict.fromkeys(run.profile.cell_epochs)
        for rotation in ("off", "on")
    ]


def sides(run: common.Run) -> dict[str, list[str]]:
    """Cases of the experiment: the study's training and selection cases alone; the last quarter of them is scored."""
    chosen = split(find(run.data))
    pool = [*chosen["train"], *chosen["selection"]]
    scored = max(1, len(pool) // 4)
    return {"train": pool[:-scored], "scored": pool[-scored:]}


def slices(run: common.Run, subjects: Sequence[str], *, rotate: bool, seed: int, shuffle: bool = True):
    """Slices of the working grid as the report feeds them: one channel, batch 5, a small rotation or none."""
    from segkit import augment, data

    sizes = [image.shape[:2] for image, _ in load_small(run.results, subjects).values()]
    shape = tuple(int(-(-n // 16) * 16) for n in np.max(sizes, axis=0))
    pairs = {
        s: (i, (m >= 0.5).astype(np.uint8)) for s, (i, m) in load_small(run.results, subjects, shape=shape).items()
    }
    return data.Slices(
        pairs, classes=1, batch_size=BATCH, seed=seed, shuffle=shuffle,
        augment=augment.slices(flips=(), rotate=10, scale=0, gain=0) if rotate else None,
    )  # fmt: skip


def train_slices(
    run: common.Run,
    subjects: Sequence[str],
    *,
    network: str = SLIM,
    epochs: int,
    rotate: bool,
    seed: int,
    grey: bool = False,
    name: str,
    verbose=2,
):
    """The report's recipe on slices: BCE on logits, Adam 1e-4, batch 5; ``grey``: its targets of 0 and 255. ``(model, history)``."""
    import keras

    from segkit import losses, models, training

    keras.utils.set_random_seed(seed)
    training.precision()
    # the smoke profile has slices of a few voxels only
    model = models.build(network, **({"filters": (4, 8, 8)} if run.profile.name == "smoke" else {}))
    history = training.fit(
        model, slices(run, subjects, rotate=rotate, seed=seed), run=run.results / "runs" / name,
        loss=losses.get("grey_bce" if grey else "bce_logits"), epochs=epochs, learning_rate=LEARNING_RATE, monitor="loss",
        seed=seed, verbose=verbose, settings={"rotation": rotate},
    )  # fmt: skip
    return model, history


def score_slices(
    model, run: common.Run, subjects: Sequence[str], *, activation: str | None = "sigmoid"
) -> dict[str, float]:
    """Mean over cases of the corrected 3D Dice (after our chain) and of the report's slice Dice after each of its steps.

    ``activation=None`` hands the raw logits to the report's chain, as the original did; the 3D Dice then has no meaning and is nan.
    """
    rows, table = [], find(run.data)
    for subject in subjects:
        image, label = read(table.loc[subject])
        found = predict(
            model,
            image,
            spacing_mm=run.profile.spacing_mm,
            zoom_in=False,
            activation=activation,
            batch_size=8,
            multiple=16,
        )
        row = legacy_scores(found, label)
        if activation:
            row["dice"] = metrics.dice(np.asarray(label.dataobj), enhance(np.asarray(found.dataobj)))
        rows.append(row)
    return pd.DataFrame(rows).mean().reindex(["dice", "network", "threshold", "enhanced"]).to_dict()


def rotation_table(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The report's main experiment, Tables 5.1 and 5.2, with the slim net: a row a cell, resumed from ``tables/rotation.csv``.

    Columns rotation, epochs, seed, seconds, dice (3D, our chain), legacy_threshold (as Table 5.1: no morphology), legacy_enhanced
    (as Table 5.2). Scored on training cases that the cell did not train on.
    """
    recipe = recipe_of(run, SLIM)
    path = run.results / "tables" / "rotation.csv"
    done = common.read_rows(path, recipe)
    chosen = sides(run)
    for cell in cells(run):
        if len(done) and (done[list(cell)] == pd.Series(cell)).all(axis=1).any():
            continue
        name = "rotation_" + "_".join(f"{k}{v}" for k, v in cell.items())
        model, history = train_slices(
            run, chosen["train"], epochs=cell["epochs"], rotate=cell["rotation"] == "on", seed=cell["seed"], name=name, verbose=verbose,
        )  # fmt: skip
        score = score_slices(model, run, chosen["scored"])
        row = cell | {
            "seconds": round(float(history["seconds"].iloc[-1]), 1), "dice": score["dice"],
            "legacy_threshold": score["threshold"], "legacy_enhanced": score["enhanced"],
            "trained_on": len(chosen["train"]), "scored_on": " ".join(chosen["scored"]), "recipe": recipe,
        }  # fmt: skip
        done = common.add_rows(path, done, pd.DataFrame([row]), digits=4)
    return done


def rotation_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of :func:`rotation_table`, beside the means that the report's tables give."""
    groups = table.groupby(["rotation", "epochs"], sort=False)
    columns = {
        "seconds": "seconds",
        "dice": "3D Dice",
        "legacy_threshold": "legacy, threshold",
        "legacy_enhanced": "legacy, enhanced",
    }
    out = groups[list(columns)].mean().rename(columns=columns)
    out["sd of 3D Dice"] = groups["dice"].std()
    out["seeds"] = groups["seed"].nunique()
    printed = common.published("atrium")
    means = {
        "on": printed.query("table == '5.1'")["value"].mean(),
        "off": printed.query("table == '5.2'")["value"].mean(),
    }
    out["reported (all epochs)"] = [means[rotation] for rotation, _ in out.index]
    return out


def targets_table(run: common.Run, *, epochs: int | None = None, verbose=2) -> pd.DataFrame:
    """What targets of 0 and 255, raw logits and stretching slice by slice do: a row a kind of target and output.

    Columns: the report's slice Dice after each of its steps, 3D Dice of our chain, mean logit inside and outside the atrium.
    """
    chosen, epochs, rows = sides(run), epochs or run.profile.cell_epochs[0], []
    for grey in (False, True):
        name = f"targets_{255 if grey else 1}"
        model, _ = train_slices(
            run, chosen["train"], epochs=epochs, rotate=False, seed=run.seed, grey=grey, name=name, verbose=verbose
        )
        inside, outside = _logits(model, run, chosen["scored"])
        for output, activation in (("probability", "sigmoid"), ("logit", None)):
            score = score_slices(model, run, chosen["scored"], activation=activation)
            rows.append({
                "targets": "0 and 255" if grey else "0 and 1", "output": output, "3D Dice": score["dice"],
                "legacy, grey levels": score["network"], "legacy, threshold": score["threshold"], "legacy, enhanced": score["enhanced"],
                "logit inside": inside, "logit outside": outside,
            })  # fmt: skip
    return pd.DataFrame(rows).set_index(["targets", "output"])


def _logits(model, run: common.Run, subjects: Sequence[str]) -> tuple[float, float]:

    inside, outside = [], []
    source = slices(run, subjects, rotate=False, seed=0, shuffle=False)
    for k in range(len(source)):
        images, truth = source[k]
        logits = np.asarray(model.predict_on_batch(images))
        inside.append(logits[truth > 0])
        outside.append(logits[truth == 0])
    inside, outside = np.concatenate(inside), np.concatenate(outside)
    return float(inside.mean()) if inside.size else float("nan"), float(outside.mean())


def report_net(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """One epoch of the report's own 31-million network on the training slices; writes and returns ``tables/report_net.csv``."""
    chosen = sides(run)
    begin = time.perf_counter()
    model, history = train_slices(
        run,
        chosen["train"],
        network="atrium_unet",
        epochs=1,
        rotate=False,
        seed=run.seed,
        name="report_net",
        verbose=verbose,
    )
    count = len(slices(run, chosen["train"], rotate=False, seed=0).index)
    score = score_slices(model, run, chosen["scored"])
    row = {
        "network": "atrium_unet", "parameters": model.count_params(), "epochs": 1, "slices": count,
        "seconds": round(float(history["seconds"].iloc[-1]), 1), "with_scoring": round(time.perf_counter() - begin, 1),
        "dice": score["dice"], "legacy_threshold": score["threshold"], "legacy_enhanced": score["enhanced"],
    }  # fmt: skip
    out = pd.DataFrame([row])
    files.write_text(run.results / "tables" / "report_net.csv", out.round(4).to_csv(index=False))
    return out


def cross_validate(
    run: common.Run, *, minutes: float | None = None, verbose=2, folds: Sequence[int] = (1, 2, 3, 4, 5)
) -> pd.DataFrame:
    """Train and score the recipe on each fold over all twenty cases; rows of ``tables/folds.csv`` are kept."""
    minutes = minutes or run.profile.minutes
    path, table = run.results / "tables" / "folds.csv", find(run.data)
    recipe = recipe_of(run, run.profile.network, minutes)
    done = common.read_rows(path, recipe)
    for fold in folds:
        if len(done) and (done["fold"] == fold).any():
            continue
        subjects = split(table, fold=fold)
        name = f"fold{fold}_{run_name(run.profile, minutes)}"
        model, _ = train(run, subjects, name=name, minutes=minutes, verbose=verbose)
        method = functools.partial(predict, model, spacing_mm=run.profile.spacing_mm)
        scores = evaluate({name: method}, run.data, run.results, subjects["test"]).assign(
            fold=fold, minutes=minutes, recipe=recipe
        )
        done = common.add_rows(path, done, untimed(scores))
    return done


def longer(run: common.Run, *, minutes: float | None = None, verbose=2) -> pd.DataFrame:
    """The recipe on the fixed split with three times the budget, scored on the test cases.

    Writes ``tables/scores_longer.csv`` and ``tables/three_columns_longer``; returns the scores.
    """
    subjects, minutes = split(find(run.data)), LONGER * (minutes or run.profile.minutes)
    name = run_name(run.profile, minutes)
    model, _ = train(run, subjects, name=name, minutes=minutes, verbose=verbose)
    call = functools.partial(predict, model, spacing_mm=run.profile.spacing_mm)
    scores = evaluate({name: call}, run.data, run.results, subjects["test"])
    files.write_text(run.results / "tables" / "scores_longer.csv", untimed(scores).round(4).to_csv(index=False))
    note = f"Trained for {minutes:g} minutes. {NOTE}"
    report.save(three_columns(scores, name), run.results / "tables" / "three_columns_longer", note=note)
    return scores


def release_all(run: common.Run, *, minutes: float | None = None, verbose=2) -> pd.DataFrame:
    """Train the recipe of :func:`longer` on every labelled case, nothing held out, and release it.

    The scores beside the model are those of :func:`longer`: the same recipe without the test cases.
    """
    scores = pd.read_csv(
        common.need(run.results / "tables" / "scores_longer.csv", "python -m segkit.studies.atrium.experiments longer")
    )
    minutes, table = LONGER * (minutes or run.profile.minutes), find(run.data)
    subjects = {"train": list(table.index[table["label"].notna()]), "selection": []}
    name = "all_" + run_name(run.profile, minutes)
    train(run, subjects, name=name, minutes=minutes, verbose=verbose)
    (path,) = release(run, name, scores)
    return pd.DataFrame({"file": [path.name], "MB": [round(path.stat().st_size / 1e6, 2)]})


WHAT = {
    "rotation": rotation_table, "folds": cross_validate, "longer": longer, "report_net": report_net, "release": release_all,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = common.command_line("atrium", WHAT)
    options = parser.parse_args()
    run = start(options.profile, data=options.data, results=options.results)
    standardise(run.data, run.results)
    halve(run.data, run.results, spacing_mm=run.profile.spacing_mm)
    print(WHAT[options.what](run).to_string())


if __name__ == "__main__":
    main()
