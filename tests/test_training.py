"""Runs: resumed after SIGKILL, refused when settings differ, guarded against leakage, kept within a budget."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from segkit import data, training


def network(seed=0, dropout=0.3):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, activation="softmax")(x), name="tiny")


def dataset(names, seed=0, n=24, batch_size=8):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, 8, 8)).astype("u1")
    x = (y + rng.normal(0, 0.5, y.shape))[..., None].astype("f")
    return data.Arrays(x, y, names, classes=2, batch_size=batch_size, seed=seed)


def fit(run, model=None, **settings):
    model = network(dropout=settings.pop("dropout", 0.3)) if model is None else model
    chosen = {"epochs": 3, "loss": keras.losses.CategoricalCrossentropy(), "verbose": 0} | settings
    train = chosen.pop("train", dataset(["a", "b"]))
    return model, training.fit(model, train, chosen.pop("validation", dataset(["c"], 1)), run=run, **chosen)


def test_a_run_folder_holds_all_that_is_promised(tmp_path):
    model, history = fit(tmp_path / "r", settings={"note": 1})
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["best.keras", "history.csv", "last.keras", "run.json"]
    assert list(history["epoch"]) == [1, 2, 3]
    assert {"loss", "val_loss", "seconds", "learning_rate"} <= set(history.columns)
    record, same = training.read_run(tmp_path / "r")
    pd.testing.assert_frame_equal(same, history)
    assert record["stopped_by"] == "epochs"
    assert record["settings"]["note"] == 1
    assert record["settings"]["train"]["subjects"] == ["a", "b"]
    assert {"git", "versions", "backend", "machine", "python"} <= set(record["provenance"])
    best = keras.saving.load_model(tmp_path / "r" / "best.keras")
    for a, b in zip(best.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    model, history = fit(tmp_path / "r", epochs=8, learning_rate=3.0)
    best = float(history["val_loss"].min())
    model.compile(loss=keras.losses.CategoricalCrossentropy())
    assert model.evaluate(dataset(["c"], 1), verbose=0) == pytest.approx(best, rel=1e-4)
    assert history["val_loss"].iloc[-1] > best


def test_a_finished_run_is_read_not_run_again(tmp_path):
    _, first = fit(tmp_path / "r")
    before = (tmp_path / "r" / "last.keras").stat().st_mtime_ns
    model, second = fit(tmp_path / "r")
    pd.testing.assert_frame_equal(first, second)
    assert (tmp_path / "r" / "last.keras").stat().st_mtime_ns == before


def test_bfloat16_is_recorded_learns_the_same_and_ends_with_the_training(tmp_path):
    _, plain = fit(tmp_path / "plain", epochs=4, learning_rate=0.02)
    model, half = fit(tmp_path / "half", epochs=4, learning_rate=0.02, bfloat16=True)
    record, _ = training.read_run(tmp_path / "half")
    assert record["settings"]["bfloat16"] is True
    assert record["provenance"]["bfloat16"] is training.bfloat16_here(model)
    assert half["val_loss"].iloc[-1] == pytest.approx(plain["val_loss"].iloc[-1], rel=0.05)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        assert not tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16", False)
    assert {str(w.dtype) for w in model.weights} == {"float32"}


def normalised():
    """A network whose batch normalisation sees what no training changes (learning rate 0), and the model of what it sees."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    moving = keras.layers.BatchNormalization(momentum=0.99)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, activation="softmax")(moving(x)))
    return model, moving, keras.Model(inputs, x)


def bright(names):
    train = dataset(names)
    train.images = train.images * 0.3 + 5
    return train


def check_statistics(moving, before, train, tolerance):
    seen = keras.ops.convert_to_numpy(before(train.images)).reshape(-1, 4)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(moving.moving_mean), seen.mean(axis=0), rtol=tolerance)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(moving.moving_variance), seen.var(axis=0), rtol=0.1)


@pytest.mark.parametrize("monitor", ["val_loss", "last"])
def test_moving_statistics_follow_the_batches_whatever_bfloat16_asks(tmp_path, monitor):
    """In bfloat16 a moving average loses its small steps: learnt, but useless at prediction."""
    model, moving, before = normalised()
    train = bright(["a"])
    fit(tmp_path / "r", model, train=train, learning_rate=0.0, epochs=2, monitor=monitor, bfloat16=True)
    fit(tmp_path / "s", model, train=train, learning_rate=0.0, epochs=300, monitor="last", bfloat16=True)
    check_statistics(moving, before, train, 0.02)
    record, _ = training.read_run(tmp_path / "r")
    assert record["provenance"]["bfloat16"] is training.bfloat16_here(model, selects=monitor != "last")
    assert not training.bfloat16_here(model, selects=True)


def test_after_bfloat16_the_statistics_are_taken_anew_and_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "bfloat16_here", lambda model, selects: not selects)
    model, moving, before = normalised()
    train = bright(["a"])
    fit(tmp_path / "r", model, train=train, learning_rate=0.0, epochs=1, monitor="last", bfloat16=True)
    check_statistics(moving, before, train, 0.001)  # three steps of a moving average would not be there
    assert moving.momentum == 0.99
    saved = keras.saving.load_model(tmp_path / "r" / "best.keras")
    for a, b in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    import keras
    from tests.test_training import dataset, fit, network

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == {at}:
                os.kill(os.getpid(), signal.SIGKILL)

    fit({run!r}, epochs=5, callbacks=(Kill(),))
"""


@pytest.mark.parametrize("at", [2, 8])
def test_killed_within_an_epoch_it_goes_on_to_the_same_end(tmp_path, at):
    """SIGKILL in the first epoch and in the third; three batches an epoch."""
    root = str(Path(__file__).parents[1])
    code = textwrap.dedent(SCRIPT.format(root=root, run=str(tmp_path / "r"), at=at))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["finished"] is None
    resumed, history = fit(tmp_path / "r", epochs=5)
    assert list(history["epoch"]) == [1, 2, 3, 4, 5]
    assert list(history["iterations"]) == [3, 6, 9, 12, 15]
    assert (history["seconds"].diff().dropna() > 0).all()
    # and to the same numbers as a run that nobody killed: the order of batches and the dropout go on as well
    straight, expected = fit(tmp_path / "whole", epochs=5)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-4)
    assert not [p for p in os.listdir(tmp_path / "r") if p.startswith(".writing")]


def test_killed_between_history_and_last_state_the_epoch_is_run_again(tmp_path):
    fit(tmp_path / "r", epochs=3)
    record, history = training.read_run(tmp_path / "r")
    (tmp_path / "r" / "run.json").write_text(json.dumps(record | {"finished": None}))
    extra = history.iloc[[-1]].assign(epoch=4, iterations=12)
    pd.concat([history, extra]).to_csv(tmp_path / "r" / "history.csv", index=False)
    record["settings"]["epochs"] = 4
    (tmp_path / "r" / "run.json").write_text(json.dumps(record | {"finished": None}))
    _, out = fit(tmp_path / "r", epochs=4)
    assert list(out["epoch"]) == [1, 2, 3, 4]
    assert list(out["iterations"]) == [3, 6, 9, 12]
    assert out["loss"].iloc[-1] != history["loss"].iloc[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.01}, "learning_rate: 0.001 then, 0.01 now"),
        ({"epochs": 4}, "epochs: 3 then, 4 now"),
        ({"optimizer": "sgd"}, "optimizer: 'adam' then, 'sgd' now"),
        ({"train": dataset(["a", "z"])}, "train: .*'z'"),
        ({"train": dataset(["a", "b"], seed=9)}, "train: .*fingerprint"),
        ({"dropout": 0.1}, "architecture: "),
        ({"settings": {"n4": False}}, "n4: None then, False now"),
        ({"loss": keras.losses.CategoricalFocalCrossentropy()}, "loss: "),
    ],
)
def test_changed_settings_refuse_to_resume_and_say_which(tmp_path_factory, change, said):
    run = tmp_path_factory.getbasetemp() / "settings_run"
    fit(run)
    kept = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(ValueError, match=f"cannot resume, the settings differ .*{said}.*another run name"):
        fit(run, **change)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == kept


def test_a_subject_on_both_sides_is_refused_unless_allowed_and_then_recorded(tmp_path):
    both = {"train": dataset(["a", "c"]), "validation": dataset(["c"], 1)}
    with pytest.raises(ValueError, match=r"subjects \['c'\] stand in both train and validation"):
        fit(tmp_path / "r", **both)
    assert not (tmp_path / "r").exists()
    fit(tmp_path / "r", epochs=1, allow_leakage=True, **both)
    assert training.read_run(tmp_path / "r")[0]["settings"]["allow_leakage"] is True


def test_a_budget_ends_the_run_and_the_schedule_scales_to_it(tmp_path):
    begin = time.monotonic()
    _, history = fit(tmp_path / "r", epochs=None, minutes=0.04, schedule="cosine")
    assert time.monotonic() - begin < 60
    record, _ = training.read_run(tmp_path / "r")
    assert record["stopped_by"] == "minutes"
    assert history["learning_rate"].iloc[0] == pytest.approx(1e-3, rel=0.05)
    assert history["learning_rate"].is_monotonic_decreasing
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


def test_a_budget_shorter_than_an_epoch_still_saves_what_it_has(tmp_path):
    _, history = fit(tmp_path / "r", epochs=None, minutes=1e-12)
    assert len(history) == 1
    assert history["iterations"].iloc[0] == 1
    assert (tmp_path / "r" / "best.keras").is_file()


def test_patience_counts_from_the_best_epoch(tmp_path):
    _, history = fit(tmp_path / "r", epochs=50, patience=2, learning_rate=0.5)
    record, _ = training.read_run(tmp_path / "r")
    assert record["stopped_by"] == "patience"
    assert len(history) - 1 - history["val_loss"].argmin() == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs), name="linear")
    broken = dataset(["a"])
    broken.images[:] = np.nan
    _, history = fit(tmp_path / "r", model, train=broken, validation=None, loss=keras.losses.MeanSquaredError())
    assert len(history) == 1
    assert training.read_run(tmp_path / "r")[0]["stopped_by"] == "loss is not finite"


def test_half_precision_on_a_gpu_only_and_it_resumes(tmp_path, monkeypatch):
    before = keras.mixed_precision.global_policy().name
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: [])
    assert training.precision() == before == "float32"
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0"])
    try:
        assert training.precision() == "mixed_float16"
        _, history = fit(tmp_path / "r", epochs=2)
        record, _ = training.read_run(tmp_path / "r")
        record["settings"]["epochs"] = 3
        (tmp_path / "r" / "run.json").write_text(json.dumps(record | {"finished": None}))
        _, longer = fit(tmp_path / "r", epochs=3)
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert longer["iterations"].tolist() == [3, 6, 9]
    assert longer["loss"].iloc[:2].tolist() == pytest.approx(history["loss"].tolist())


def test_schedules_by_hand():
    rate = training.learning_rate_at
    assert rate("constant", 0.1, 0.7) == 0.1
    assert rate("cosine", 0.1, 0) == pytest.approx(0.1)
    assert rate("cosine", 0.1, 0.5) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert rate("cosine", 0.1, 1) == pytest.approx(0.001)
    assert rate("plateau", 0.1, 0, [3, 2, 2, 2, 2, 2]) == 0.1
    assert rate("plateau", 0.1, 0, [3, 2, 2, 2, 2, 2, 2]) == pytest.approx(0.02)
    assert rate("plateau", 0.1, 0, [2.0] * 40) == pytest.approx(0.001)
    assert math.isclose(rate("plateau", 0.1, 0, []), 0.1)


def test_the_models_own_loss_serves_where_none_is_given(tmp_path):
    model = network()
    with pytest.raises(ValueError, match="the model has no loss yet"):
        fit(tmp_path / "r", model, loss=None)
    model.compile(loss="categorical_crossentropy")
    assert len(fit(tmp_path / "r", model, loss=None)[1]) == 3


def test_a_finished_run_without_its_last_state_is_still_read(tmp_path):
    _, first = fit(tmp_path / "r")
    (tmp_path / "r" / "last.keras").unlink()
    pd.testing.assert_frame_equal(fit(tmp_path / "r")[1], first)


KILL_IN_SAVE = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from segkit import files
    from tests.test_training import fit

    rename = files.os.replace

    def replace(old, new):
        if str(new).endswith("last.keras"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)

    files.os.replace = replace
    fit({run!r}, epochs=5)
"""


def test_killed_while_it_saves_it_leaves_nothing_behind_after_the_next_call(tmp_path):
    code = textwrap.dedent(KILL_IN_SAVE.format(root=str(Path(__file__).parents[1]), run=str(tmp_path / "r")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [p for p in os.listdir(tmp_path / "r") if p.startswith(".writing")]
    _, history = fit(tmp_path / "r", epochs=5)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert not [p for p in os.listdir(tmp_path / "r") if p.startswith(".writing")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": None}, "say how long to train"),
        ({"monitor": "val_dice"}, "monitor 'val_dice' is not computed in this run"),
        ({"schedule": "warm"}, "no schedule is called 'warm'; choose one of constant"),
    ],
)
def test_bad_requests_say_why(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "r", **settings)


def test_the_last_epoch_is_kept_when_asked(tmp_path):
    model, history = fit(
        tmp_path / "r", monitor="last", optimizer="sgd", learning_rate=-0.1
    )  # uphill: each epoch is worse
    assert history["val_loss"].is_monotonic_increasing
    kept = [v.numpy() for v in keras.saving.load_model(tmp_path / "r" / "best.keras").weights]
    last = [v.numpy() for v in keras.saving.load_model(tmp_path / "r" / "last.keras").weights]
    for a, b, c in zip(kept, last, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*run.json"):
        fit(tmp_path / "file" / "r")
    with pytest.raises(FileNotFoundError, match="no training run here"):
        training.read_run(tmp_path)


def test_the_moving_average_is_validated_kept_and_resumed(tmp_path):
    """The best state is the average (its loss is the one in the history); an interrupted run goes on with it."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 8:
                raise KeyboardInterrupt

    settings = {"epochs": 4, "ema": 0.8, "learning_rate": 0.02, "dropout": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", callbacks=(Stop(),), **settings)
    _, resumed = fit(tmp_path / "cut", **settings)
    model, straight = fit(tmp_path / "whole", **settings)
    np.testing.assert_allclose(resumed["val_loss"], straight["val_loss"], rtol=1e-4)
    best = int(straight["val_loss"].idxmin())
    assert best == 3
    model.compile(loss=keras.losses.CategoricalCrossentropy())
    found = model.evaluate(dataset(["c"], 1), verbose=0)
    assert found == pytest.approx(straight["val_loss"][best], rel=1e-4)
    raw = keras.saving.load_model(tmp_path / "whole" / "last.keras", compile=False)
    gap = max(float(np.abs(a - b).max()) for a, b in zip(raw.get_weights(), model.get_weights(), strict=True))
    assert gap > 1e-3  # the raw weights of the same epoch are others
    with pytest.raises(ValueError, match="ema: 0.8 then, None now"):
        fit(tmp_path / "whole", **(settings | {"ema": None}))
