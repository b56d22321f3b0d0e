"""Long runs, in cells that resume: five folds, networks at equal minutes, the leakage lesson, a learning curve, sites.

    python -m segkit.studies.lgg.experiments folds --data DIR       five times the profile's budget
    python -m segkit.studies.lgg.experiments compare --data DIR     U-Net, BU-Net, ResNet50-U-Net (--weights FILE: pretrained as well)
    python -m segkit.studies.lgg.experiments leakage --data DIR     one network, split by slices and by patients
    python -m segkit.studies.lgg.experiments curve --data DIR       more and more training patients
    python -m segkit.studies.lgg.experiments sites --data DIR       leave one site out
    python -m segkit.studies.lgg.experiments thresholds --data DIR  which rule chooses the threshold best, on selection patients
    python -m segkit.studies.lgg.experiments sequences --data DIR   the folds again, with pre, post or both taken away
    python -m segkit.studies.lgg.experiments release --data DIR     the recipe on every patient, into saved_models

Each cell ends with rows of a CSV in ``tables/``; what is there is not run again.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from segkit import metrics, models, training
from segkit.studies import common
from segkit.studies.lgg.layout import RELEASED, find, labelled, lacking, leave_site_out, read, split, start
from segkit.studies.lgg.lesson import leakage
from segkit.studies.lgg.networks import (
    REPORT_RATE,
    choose_threshold,
    load_run,
    middle,
    predict,
    release,
    to_mask,
    train,
    within_error,
)  # fmt: skip
from segkit.studies.lgg.recipes import curve_minutes, recipe_for, rows  # noqa: F401 (notebooks read tables with it)
from segkit.studies.lgg.steps import downsample, is_current, load, standardise
from segkit.studies.lgg.tables import evaluate

CURVE = (1 / 4, 1 / 2, 1.0)  # shares of the training patients
# ways to choose a threshold from selection patients' Dice; the first is ours
RULES: dict[str, Callable[[pd.DataFrame], float]] = {
    "in the middle of those within one standard error": middle,
    "of those the nearest to .5": lambda table: min(within_error(table), key=lambda at: (abs(at - 0.5), at)),
    "the best mean": lambda table: table.mean().idxmax(),
    "always .5": lambda table: 0.5,
}
CHANNEL = {"pre": 0, "post": 2}
LEFT_OUT: tuple[tuple[str, ...], ...] = ((), ("pre",), ("post",), ("pre", "post"))  # FLAIR stands in


def cross_validate(run: common.Run, *, folds: Sequence[int] = (1, 2, 3, 4, 5), verbose=2) -> pd.DataFrame:
    """Train and score the recipe on each fold; the threshold is the selection patients'. Rows of ``tables/folds.csv`` are kept.

    Returns the rows of :func:`segkit.studies.lgg.evaluate` with fold, threshold and recipe.
    """
    patients, recipe, path = labelled(find(run.data)), recipe_for(run, "folds"), run.results / "tables" / "folds.csv"
    done = common.read_rows(path, recipe)
    for fold in folds:
        if len(done) and (done["fold"] == fold).any():
            continue
        chosen, name = split(patients, fold=fold), f"fold{fold}_{RELEASED}"
        model, _ = train(run, chosen, name=name, verbose=verbose)
        done = common.add_rows(path, done, _scored(run, model, name, chosen).assign(fold=fold, recipe=recipe))
    return done


def _scored(run: common.Run, model, name: str, patients: dict[str, list[str]]) -> pd.DataFrame:
    """Rows of :func:`segkit.studies.lgg.evaluate` for the test patients, at the threshold that the selection patients choose."""
    threshold, _ = choose_threshold(model, run, patients["selection"])
    method = functools.partial(predict, model, size=run.profile.size)
    scores = evaluate({name: method}, run.data, run.results, patients["test"], threshold=threshold)
    return scores.assign(threshold=threshold)


def threshold_rules(run: common.Run, *, folds: Sequence[int] = (1, 2, 3, 4, 5), verbose=2) -> pd.DataFrame:
    """Ways to choose a threshold, tried on the folds' selection patients: ``tables/thresholds.csv``.

    Each fold's selection patients are left out one by one: the others choose, and the one is scored. Test patients have no part in it.

    Returns
    -------
    DataFrame
        A row a fold, rule and patient left out: threshold, dice.
    """
    del verbose
    patients, path = labelled(find(run.data)), run.results / "tables" / "thresholds.csv"
    recipe = recipe_for(run, "thresholds")
    done = common.read_rows(path, recipe)
    for fold in folds:
        if len(done) and (done["fold"] == fold).any():
            continue
        model, found = load_run(run, f"fold{fold}_{RELEASED}"), []
        _, table = choose_threshold(model, run, split(patients, fold=fold)["selection"])
        for rule, choose in RULES.items():
            for patient in table.index:
                at = float(choose(table.drop(patient)))
                found.append(
                    {"fold": fold, "rule": rule, "subject": patient, "threshold": at, "dice": table.loc[patient, at]}
                )
        done = common.add_rows(path, done, pd.DataFrame(found).assign(recipe=recipe))
    return done


def sequences(run: common.Run, *, folds: Sequence[int] = (1, 2, 3, 4, 5), verbose=2) -> pd.DataFrame:
    """The folds' networks on their test patients without pre, post or both (FLAIR stands in): ``tables/sequences.csv``.

    Returns
    -------
    DataFrame
        A row a fold, patient and what is left out (of those that the patient has): dice, at the fold's own threshold.
    """
    del verbose
    table, path, recipe = find(run.data), run.results / "tables" / "sequences.csv", recipe_for(run, "sequences")
    done, known = common.read_rows(path, recipe), cross_validate(run, folds=folds).set_index("subject")
    for fold in folds:
        if len(done) and (done["fold"] == fold).any():
            continue
        model, found = load_run(run, f"fold{fold}_{RELEASED}"), []
        for patient in split(labelled(table), fold=fold)["test"]:
            image, truth = read(table, patient)
            for names in LEFT_OUT:
                if set(names) & set(lacking(image)):
                    continue  # the patient never had it
                less = image.copy()
                for name in names:
                    less[..., CHANNEL[name]] = image[..., 1]
                mask = to_mask(predict(model, less, size=run.profile.size), threshold=known.loc[patient, "threshold"])
                found.append(
                    {
                        "subject": patient,
                        "left_out": " and ".join(names) or "nothing",
                        "dice": metrics.dice(truth, mask),
                    }
                )
        done = common.add_rows(path, done, pd.DataFrame(found).assign(fold=fold, recipe=recipe))
    return done


def compare(
    run: common.Run, *, networks: Sequence[str] | None = None, weights: str | None = None, fold: int = 1, verbose=2
) -> pd.DataFrame:
    """The report's networks and ours at equal minutes on one fold, scored on its test patients: ``tables/compare.csv``.

    Where the budgets agree, ours is the fold's own run, from ``tables/folds.csv``. Full width first: a network that sees less than
    two epochs' worth of slices in the budget is followed by its half-width twin.

    Parameters
    ----------
    weights : path or "imagenet", optional
        Adds a row: the ResNet50 encoder from these weights (version 1.5 for an ``.npz``).

    Returns
    -------
    DataFrame
        A row a network and patient: network, width, encoder (where its weights came from), parameters, steps, epochs (slices seen /
        slices), seconds, machine (equal minutes are equal on one machine only), subject, dice, hd95_pixels, threshold (that the
        selection patients choose, as for the folds).
    """
    profile = run.profile
    minutes, epochs = profile.cell_minutes, profile.cell_epochs
    recipe = recipe_for(run, "compare", fold=fold)
    path, chosen = run.results / "tables" / "compare.csv", split(labelled(find(run.data)), fold=fold)
    done = common.read_rows(path, recipe)
    if weights is not None:  # before hours are spent
        encoder_source(weights)
    cells = [(network, "full", None) for network in (*(networks or profile.compared), RELEASED)]
    if weights is not None:
        cells.append(("lgg_resnet50_unet", "full", str(weights)))
    while cells:
        network, width, encoder = cells.pop(0)
        said = "random" if encoder is None else encoder_source(encoder)
        here = (
            done[(done["network"] == network) & (done["width"] == width) & (done["encoder"] == said)]
            if len(done)
            else done
        )
        if not len(here):
            settings = _half(network) if width == "half" else {}
            if network == "lgg_resnet50_unet" and str(weights).endswith(".npz"):
                settings |= {"version": "v1.5"}  # of the weights, so that its random twin differs in nothing else
            if encoder is not None:
                settings |= {"weights": encoder}
            if network != RELEASED:
                settings |= {"learning_rate": REPORT_RATE}
            name = f"compare_{network}_{width}" + ("" if encoder is None else "_pretrained")
            if network == RELEASED and (profile.minutes, profile.epochs) == (minutes, epochs):
                scores = cross_validate(run, folds=(fold,), verbose=verbose).query("fold == @fold")
                name = f"fold{fold}_{RELEASED}"
                slim = {"filters": profile.filters} if profile.filters else {}
                parameters = models.build(RELEASED, **slim).count_params()
            else:
                model, history = train(
                    run, chosen, network=network, name=name, minutes=minutes, epochs=epochs, verbose=verbose, **settings
                )
                if not np.isfinite(history["loss"]).all():
                    raise ValueError(
                        f"{name}: the loss is not a number; choose a smaller learning rate, and remove the run's folder"
                    )
                scores, parameters = _scored(run, model, name, chosen), model.count_params()
            here = scores[["subject", "dice", "hd95_pixels", "threshold"]].assign(
                network=network, width=width, encoder=said, parameters=parameters, **_spent(run, chosen, name), recipe=recipe,
            )  # fmt: skip
            done = common.add_rows(path, done, here)
        seldom = here["epochs"].iloc[0] < 2 and not profile.filters
        if width == "full" and encoder is None and seldom and _half(network):
            cells.insert(0, (network, "half", None))
    return done


def _spent(run: common.Run, chosen: dict[str, list[str]], name: str) -> dict:
    """Steps, epochs (slices seen / slices), seconds and machine of a run; unknown where its record is not here any more."""
    folder = run.results / "runs" / name
    if not folder.is_dir():
        return {"steps": np.nan, "epochs": np.nan, "seconds": np.nan, "machine": ""}
    record, history = training.read_run(folder)
    count = sum(load(run.results, p)[0].shape[2] for p in chosen["train"])
    steps = int(history["iterations"].iloc[-1])
    return {
        "steps": steps,
        "epochs": steps * run.profile.batch_size / count,
        "seconds": float(history["seconds"].iloc[-1]),
        "machine": record["provenance"]["machine"],
    }


@functools.cache
def encoder_source(weights: str) -> str:
    """What of the ResNet50 encoder comes from ``weights``, as it stands in tables; raises where they cannot be had."""
    from segkit.models.pretrained import load_encoder, resnet50_unet

    return load_encoder(resnet50_unet(), weights)


def _half(network: str) -> dict:
    halves: dict[str, dict] = {
        "lgg_unet": {"filters": (32, 64, 128, 256)}, "lgg_bunet": {"filters": (8, 16, 32, 64, 128)},
        "lgg_resnet50_unet": {"filters": (256, 128, 64, 32), "encoder_width": 0.5},
    }  # fmt: skip
    return halves.get(network, {})


def learning_curve(run: common.Run, *, fold: int = 1, verbose=2) -> pd.DataFrame:
    """The recipe with a quarter, half and all of a fold's training patients, at equal minutes: ``tables/curve.csv``.

    Twenty minutes a point, or the profile's budget where that is less; then the last is the fold's own run, which is not trained twice.
    """
    path, recipe = run.results / "tables" / "curve.csv", recipe_for(run, "curve", fold=fold)
    done = common.read_rows(path, recipe)
    chosen = split(labelled(find(run.data)), fold=fold)
    order = list(np.random.default_rng(run.seed).permutation(chosen["train"]))
    minutes = curve_minutes(run.profile.minutes)
    for n in dict.fromkeys(max(1, round(share * len(order))) for share in CURVE):
        if len(done) and (done["patients"] == n).any():
            continue
        if n < len(order) or minutes != run.profile.minutes:
            name = f"curve_{n}"
            model, _ = train(run, chosen | {"train": sorted(order[:n])}, name=name, minutes=minutes, verbose=verbose)
            scores = _scored(run, model, name, chosen)
        else:
            scores = cross_validate(run, folds=(fold,), verbose=verbose).query("fold == @fold")
        done = common.add_rows(
            path, done, scores[["subject", "dice", "hd95_pixels", "threshold"]].assign(patients=n, recipe=recipe)
        )
    return done


def sites(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """The recipe trained without one site and scored on it, a cell a site, as the folds are: ``tables/sites.csv``."""
    path, table = run.results / "tables" / "sites.csv", find(run.data)
    table = table[table["patient"].isin(labelled(table))]
    recipe = recipe_for(run, "sites")
    done = common.read_rows(path, recipe)
    for site in sorted(table["site"].unique()):
        if len(done) and (done["site"] == site).any():
            continue
        chosen, name = leave_site_out(table, site), f"without_{site}"
        model, _ = train(run, chosen, name=name, verbose=verbose)
        scores = _scored(run, model, name, chosen)
        done = common.add_rows(
            path, done, scores[["subject", "site", "dice", "hd95_pixels", "threshold"]].assign(recipe=recipe)
        )
    return done


def release_all(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """Train the recipe on every patient, nothing held out, and release it; the scores beside it are the five folds', which must be whole.

    Raises
    ------
    ValueError
        When ``tables/folds.csv`` is of another recipe or lacks patients.
    """
    patients, name = labelled(find(run.data)), f"all_{RELEASED}"
    path = common.need(run.results / "tables" / "folds.csv", "python -m segkit.studies.lgg.experiments folds")
    scores = common.read_rows(path, recipe_for(run, "folds"))
    tested = {p for fold in range(1, 6) for p in split(patients, fold=fold)["test"]}  # patients on no list only train
    left = sorted(tested - set(scores["subject"]))
    if left:
        raise ValueError(
            f"{path}: {len(left)} patients are not scored yet ({left[0]}, …); run the folds to their end first"
        )
    train(run, {"train": patients, "selection": []}, name=name, verbose=verbose)
    written = release(run, name, scores)
    return pd.DataFrame({"file": [p.name for p in written], "MB": [round(p.stat().st_size / 1e6, 2) for p in written]})


WHAT = {
    "folds": cross_validate, "compare": compare, "leakage": leakage, "curve": learning_curve, "sites": sites, "thresholds": threshold_rules,
    "sequences": sequences,
    "release": release_all,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = common.command_line("glioma", WHAT)
    parser.add_argument("--fold", type=int, help="one fold only (folds, compare, curve)")
    parser.add_argument("--weights", help="of the pretrained encoder, for compare")
    options = parser.parse_args()
    run = start(options.profile, data=options.data, results=options.results)
    prepare(run)
    one = {"fold": options.fold} if options.fold else {}
    extra = {
        "folds": {"folds": (options.fold,)} if options.fold else {}, "compare": one | {"weights": options.weights}, "curve": one,
    }  # fmt: skip
    print(WHAT[options.what](run, **extra.get(options.what, {})).to_string())


def prepare(run: common.Run) -> None:
    """Do what 01 and 02 do, for the patients whose files are not there or were made with other settings."""
    table, size = find(run.data), run.profile.size
    left = [p for p in table["patient"].unique() if not is_current(run.results / "downsampled" / f"{p}.npz", size)]
    if left:
        standardise(table[table["patient"].isin(left)], run.results)
        downsample(left, run.results, size=size)


if __name__ == "__main__":
    main()
