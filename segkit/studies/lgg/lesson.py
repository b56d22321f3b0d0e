"""The leakage lesson: one network, split by slices and by patients."""

import numpy as np
import pandas as pd

from segkit import legacy, metrics, training
from segkit.studies import common
from segkit.studies.lgg.layout import find, labelled, split
from segkit.studies.lgg.networks import REPORT_RATE, build
from segkit.studies.lgg.recipes import recipe_for
from segkit.studies.lgg.steps import load

BOTH = {"slices": True, "patients": False}  # whether the lesson's split lets a patient stand on both sides


def leakage(run: common.Run, *, verbose=2) -> pd.DataFrame:
    """One network trained twice on the training and selection patients of fold 1: slices split at random, and patients.

    76.5 % train, 10 % select, 13.5 % are scored, as the report's code cut its slices. Both are also scored on the same slices: those
    that neither trained on, which are the slices drawn for scoring of the patients drawn for scoring.

    Returns
    -------
    DataFrame
        ``tables/leakage.csv``, a row a split: dice (mean over the patients that have tumour on their scored slices), patients (so many),
        batch_dice (all scored slices as one), same_dice, same_batch_dice, same_patients (on the same slices), shared_patients (scored
        patients that also train), slices, same_slices.
    """
    profile, path = run.profile, run.results / "tables" / "leakage.csv"
    minutes, epochs = profile.lesson_minutes, profile.cell_epochs
    recipe = recipe_for(run, "leakage")
    done = common.read_rows(path, recipe)
    chosen = split(labelled(find(run.data)))
    pool = sorted([*chosen["train"], *chosen["selection"]])
    known = {p: load(run.results, p) for p in pool}
    index = [(p, k) for p, (_, mask) in known.items() for k in range(mask.shape[2])]
    sides = {kind: _drawn(index, kind, run.seed) for kind in BOTH}
    same = np.all([side == "test" for side in sides.values()], axis=0)
    for kind, side in sides.items():
        if len(done) and (done["split"] == kind).any():
            continue
        row = _lesson(run, known, index, kind, side, same, minutes=minutes, epochs=epochs, verbose=verbose)
        done = common.add_rows(path, done, pd.DataFrame([row | {"recipe": recipe}]))
    return done


def _drawn(index: list[tuple[str, int]], kind: str, seed: int) -> np.ndarray:
    """Side of each slice (patient, number) when slices, or patients, are drawn at random."""
    units = index if kind == "slices" else sorted({p for p, _ in index})
    if len(units) < 3:
        raise ValueError(f"{len(units)} {kind} are too few for the lesson: one trains, one selects, one is scored")
    order = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    test, selection = max(1, round(0.135 * len(order))), max(1, round(0.1 * len(order)))
    side_of = dict.fromkeys(order, "train") | dict.fromkeys(order[-test - selection :], "selection")
    side_of |= dict.fromkeys(order[-test:], "test")
    return np.array([side_of[i if kind == "slices" else i[0]] for i in index])


def _lesson(run: common.Run, known: dict, index: list, kind: str, side: np.ndarray, same: np.ndarray, **how) -> dict:
    """One row of :func:`leakage`."""
    import keras

    from segkit import augment, data, losses

    profile, of = run.profile, np.array([p for p, _ in index])
    images = np.stack([known[p][0][:, :, k] for p, k in index])
    truth = np.stack([known[p][1][:, :, k] for p, k in index])
    keras.utils.set_random_seed(run.seed)
    model = build("lgg_unet", profile, **({} if profile.filters else {"filters": (16, 32, 64, 128)}))
    settings = {"classes": 1, "batch_size": profile.batch_size, "seed": run.seed}
    more = {
        "train": {"augment": augment.slices(flips=(1,), rotate=15, scale=0.1, gain=0.1), "steps": profile.steps},
        "selection": {"shuffle": False},
    }  # fmt: skip
    sets = {
        s: data.Arrays(images[side == s], truth[side == s], list(of[side == s]), **settings, **more[s]) for s in more
    }
    training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / f"leakage_{kind}", loss=losses.get("cross_entropy_dice"),
        learning_rate=REPORT_RATE, schedule="cosine", ema=0.99, seed=run.seed, allow_leakage=BOTH[kind], bfloat16=True, **how,
    )  # fmt: skip
    scored = {"": side == "test", "same_": same}
    row: dict = {
        "split": kind, "shared_patients": len(set(of[side == "test"]) & set(of[side == "train"])), "slices": int((side == "test").sum()),
    }  # fmt: skip
    for prefix, here in scored.items():
        found = [model.predict_on_batch(images[here][i : i + 32].astype(np.float32)) for i in range(0, here.sum(), 32)]
        mask = np.concatenate(found)[..., 0] >= 0.5 if found else np.zeros((0, *truth.shape[1:]), bool)
        with_tumour = [p for p in sorted(set(of[here])) if truth[here][of[here] == p].any()]
        by = [metrics.dice(truth[here][of[here] == p], mask[of[here] == p]) for p in with_tumour]
        row |= {
            f"{prefix}dice": float(np.mean(by)) if by else np.nan, f"{prefix}patients": len(by),
            f"{prefix}batch_dice": legacy.lgg_batch_dice(truth[here], mask) if len(mask) else np.nan,
        }  # fmt: skip
    return row | {"same_slices": int(same.sum())}
