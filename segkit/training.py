"""Training with a run folder: provenance, resume after a kill at any moment, wall-clock budget, best state kept.

A run folder holds ``run.json`` (settings, data, versions, machine, times), ``history.csv`` (a row an epoch),
``best.keras`` and ``last.keras`` (with the optimiser's state).
"""

import contextlib
import datetime
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from segkit import files, splits

SCHEDULES = ("constant", "cosine", "plateau")
# what our own recipes share, whatever the study
RECIPE: dict = {
    "optimizer": {"class_name": "adamw", "config": {"weight_decay": 1e-3, "clipnorm": 1.0}}, "schedule": "cosine", "ema": 0.99,
}  # fmt: skip


def fit(
    model: keras.Model,
    train,
    validation=None,
    *,
    run: str | os.PathLike,
    loss=None,
    metrics: Sequence = (),
    epochs: int | None = None,
    minutes: float | None = None,
    optimizer: str | dict = "adam",
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    ema: float | None = None,
    patience: int | None = None,
    monitor: str | None = None,
    seed: int = 0,
    settings: dict | None = None,
    allow_leakage: bool = False,
    bfloat16: bool = False,
    verbose: int | str = "auto",
    callbacks: tuple = (),
) -> pd.DataFrame:
    """Train ``model``, or go on where the same call was interrupted, and leave the best weights in it.

    Parameters
    ----------
    model : keras.Model
    train, validation : datasets of :mod:`segkit.data`
        Or any ``keras.utils.PyDataset``; if they carry ``subjects``, both are compared.
    run : path
        The run folder.
    loss : keras.losses.Loss, optional
        Default: the loss that the model was compiled with.
    metrics : sequence
        Keras metrics or functions of (truth, prediction) that the history shall hold as well.
    epochs, minutes
        Number of epochs, wall-clock budget, or both (whichever ends first). The schedule scales to them. The clock starts
        when the first step, which compiles, is done. A budget that ends within an epoch cuts that epoch, evaluates and
        saves it like any other.
    optimizer : str or dict
        A Keras optimiser's name, or ``{"class_name": name, "config": {…}}`` with its further settings.
    schedule : {"constant", "cosine", "plateau"}
        Cosine falls to 1 % of ``learning_rate``; plateau multiplies by 0.2 after 5 epochs without improvement (at least 1 %).
    ema : float, optional
        Keep an exponential moving average of the weights with this momentum (such as 0.99); it is what is validated and kept as
        the best state. ``last.keras`` holds the raw weights and the average, so an interrupted run goes on with both.
    patience : int, optional
        Stop after so many epochs without improvement.
    monitor : str, optional
        What the best epoch is chosen by (smallest): ``val_loss``, or ``loss`` without validation; ``last`` keeps the last epoch, for a
        loss whose scale moves while it is trained.
    seed : int
        Recorded; call ``keras.utils.set_random_seed`` before building the model.
    settings : dict, optional
        Further things to record (JSON types). A later call with other settings refuses to resume.
    allow_leakage : bool
        Accept a subject on both sides; recorded.
    bfloat16 : bool
        Let TensorFlow compute convolutions in bfloat16 where the processor has instructions for it and the network allows it (see
        :func:`bfloat16_here`): a fifth to a quarter less time a step. Weights, losses and predictions after the training stay float32.
    verbose : 0, 1, 2 or "auto"
        Keras's bar (1), or one line an epoch (2) with the share of the epochs or the budget that is spent.

    Returns
    -------
    DataFrame
        The history: epoch (from 1), seconds (since the start, summed over interruptions), learning_rate, losses.

    Raises
    ------
    ValueError
        For a subject on both sides, no ``epochs`` and no ``minutes``, or a run folder of other settings (says which).
    OSError
        When the run folder cannot be written; no half file is left.
    """
    run = Path(run)
    if epochs is None and minutes is None:
        raise ValueError("say how long to train: epochs=, minutes= or both")
    if schedule not in SCHEDULES:
        raise ValueError(f"no schedule is called {schedule!r}; choose one of {', '.join(SCHEDULES)}")
    loss = loss if loss is not None else getattr(model, "loss", None)
    if loss is None:
        raise ValueError("the model has no loss yet; give loss=, for example losses.get('dice')")
    loss = keras.losses.get(loss)
    both = [getattr(data, "subjects", ()) for data in (train, validation)]
    if not allow_leakage:
        splits.check_disjoint(train=both[0], validation=both[1])
    known = ("val_loss", "loss", "last") if validation is not None else ("loss", "last")
    monitor = monitor or known[0]
    if monitor not in known:
        raise ValueError(f"monitor {monitor!r} is not computed in this run; choose one of {', '.join(known)}")
    record = {
        "model": model.name, "parameters": model.count_params(), "architecture": _architecture(model),
        "loss": keras.saving.serialize_keras_object(loss),
        "epochs": epochs, "minutes": minutes, "optimizer": optimizer, "learning_rate": learning_rate,
        "schedule": schedule, "patience": patience, "monitor": monitor, "seed": seed, "allow_leakage": allow_leakage,
        **({} if ema is None else {"ema": ema}), **({"bfloat16": True} if bfloat16 else {}),
        "train": _describe(train), "validation": _describe(validation), **(settings or {}),
    }  # fmt: skip
    record = json.loads(json.dumps(record))
    earlier = _open(run, record)
    for leftover in run.glob(".writing-*"):  # of a process that was killed while it wrote
        leftover.unlink()

    named = {"class_name": optimizer, "config": {}} if isinstance(optimizer, str) else optimizer
    config = named["config"] | {"learning_rate": learning_rate}
    config |= {} if ema is None else {"use_ema": True, "ema_momentum": ema}
    model.compile(optimizer=keras.optimizers.get(named | {"config": config}), loss=loss, metrics=list(metrics))
    model.optimizer.build(model.trainable_variables)
    keeper = _Keeper(run, train, record, lines=verbose == 2)
    if (run / "last.keras").is_file():
        model.load_weights(run / "last.keras")
        keeper.restore(model)
    if earlier.get("finished") is not None:
        keeper.rows = pd.read_csv(run / "history.csv").to_dict("records")
    else:
        half = bfloat16 and bfloat16_here(model, selects=monitor != "last")
        state = {
            "settings": record,
            "started": earlier.get("started", _now()),
            "finished": None,
            "provenance": provenance() | ({"bfloat16": half} if bfloat16 else {}),
        }
        _write_json(run / "run.json", state)
        reason = keeper.reason_to_stop()
        averaged = [] if ema is None else [keras.callbacks.SwapEMAWeights()]  # validates the average
        if reason is None:
            last = epochs if epochs is not None else 10**6
            with _bfloat16_convolutions(half):
                model.fit(
                    train, validation_data=validation, initial_epoch=len(keeper.rows), epochs=last,
                    verbose=0 if keeper.lines else verbose,
                    shuffle=False, callbacks=[*averaged, keeper, *callbacks],
                )  # fmt: skip
            reason = keeper.reason_to_stop() or "epochs"
            if half and _normalised(model):
                model.load_weights(run / "best.keras")
                recalibrate(model, train)
                with files.atomic(run / "best.keras") as temporary:
                    keras.saving.save_model(model, temporary, include_optimizer=False)
        _write_json(
            run / "run.json", state | {"finished": _now(), "stopped_by": reason, "epochs_run": len(keeper.rows)}
        )
    model.load_weights(run / "best.keras")
    return pd.DataFrame(keeper.rows)


def precision() -> str:
    """Compute in half precision where Keras sees a GPU; call before building a model. Returns the policy's name.

    Weights, losses and the networks' outputs stay float32. ``SEGKIT_PRECISION=float32`` in the environment leaves all in float32, as on a
    processor.
    """
    if os.environ.get("SEGKIT_PRECISION") == "float32":
        return keras.mixed_precision.global_policy().name
    try:
        gpus = keras.distribution.list_devices("gpu")
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):  # a backend that cannot list them
        gpus = []
    if gpus:
        keras.mixed_precision.set_global_policy("mixed_float16")
    return keras.mixed_precision.global_policy().name


def bfloat16_here(model: keras.Model, *, selects: bool = False) -> bool:
    """Whether :func:`fit` can use bfloat16: TensorFlow, and Linux says ``avx512_bf16`` or ``amx_bf16``.

    Not where a network with batch normalisation ``selects`` its best epoch: TensorFlow's rewritten graph updates the moving mean and
    variance in bfloat16 too, whose eight bits drop the small steps of a moving average, so that it would be validated with wrong ones.
    Where the last epoch is kept, they are taken anew at its end (:func:`recalibrate`).
    """
    if selects and _normalised(model):
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return keras.backend.backend() == "tensorflow" and bool(words & {"avx512_bf16", "amx_bf16"})


def recalibrate(model: keras.Model, train, *, batches: int = 50) -> None:
    """Take the moving mean and variance of each batch normalisation anew: their means over ``batches`` of ``train``, in float32.

    References
    ----------
    Izmailov et al., UAI 2018, section 3.2: averaged weights need statistics of their own.
    """
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    kept = [x.momentum for x in layers]
    for k in range(batches):
        for layer in layers:
            layer.momentum = k / (k + 1)  # the first batch replaces what was there
        model(train[k % len(train)][0], training=True)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum


def _normalised(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


@contextlib.contextmanager
def _bfloat16_convolutions(wanted: bool):
    """Within, TensorFlow's graphs compute what is safe to in bfloat16."""
    if not wanted:
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})


def learning_rate_at(
    schedule: str,
    base: float,
    progress: float,
    values: list[float] | None = None,
    *,
    factor: float = 0.2,
    wait: int = 5,
) -> float:
    """Learning rate for the coming epoch.

    Parameters
    ----------
    progress : float
        0 at the start, 1 at the end of the epochs or of the budget.
    values : list of float
        The monitored value of each epoch so far, for "plateau".
    """
    if schedule == "cosine":
        return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    if schedule == "plateau":
        best, since, drops = math.inf, 0, 0
        for value in values or []:
            best, since = (value, 0) if value < best else (best, since + 1)
            if since == wait:
                drops, since = drops + 1, 0
        return max(base * factor**drops, base * 0.01)
    return base


def read_run(run: str | os.PathLike) -> tuple[dict, pd.DataFrame]:
    """``run.json`` and the history of a run folder; FileNotFoundError when it has none."""
    run = Path(run)
    if not (run / "run.json").is_file() or not (run / "history.csv").is_file():
        raise FileNotFoundError(f"{run}: no training run here; train first (notebook 03)")
    return json.loads((run / "run.json").read_text()), pd.read_csv(run / "history.csv")


def provenance() -> dict:
    """Git revision, versions, backend and machine of this process."""
    try:
        here = Path(__file__).parent
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=10
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        revision = ""
    versions = {}
    for name in ("segkit", "keras", keras.backend.backend(), "numpy", "nibabel"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "git": revision or "unknown", "python": platform.python_version(), "versions": versions,
        "backend": keras.backend.backend(), "machine": ", ".join([*_gpus(), _processor(), f"{os.cpu_count()} cores", platform.system()]),
    }  # fmt: skip


def _gpus() -> list[str]:
    """Names of the GPUs, where NVIDIA's tool says them and Keras computes on one."""
    try:
        if not keras.distribution.list_devices("gpu"):
            return []
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip().splitlines()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, OSError, subprocess.SubprocessError):
        return []


def _processor() -> str:
    """The processor's name where Linux says it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} ({named[0]})" if named else platform.machine()


class _Keeper(keras.callbacks.Callback):
    """Saves each epoch and decides, from what is saved alone, how to go on. Order of writing: best, history, last.

    ``last.keras`` makes an epoch count: a row of the history without it (killed in between) is run again.
    """

    def __init__(self, run: Path, train, record: dict, *, lines: bool = False):
        super().__init__()
        self.run, self.train, self.record, self.lines = run, train, record, lines
        self.rows: list[dict] = []
        self.begin = self.spent = 0.0
        self.out_of_time = False

    def restore(self, model) -> None:
        rows = pd.read_csv(self.run / "history.csv").to_dict("records")
        done = int(np.asarray(keras.ops.convert_to_numpy(model.optimizer.iterations)))
        while rows and int(rows[-1]["iterations"]) > done:
            rows.pop()
        self.rows, self.spent = rows, rows[-1]["seconds"] if rows else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.train.epoch = epoch
        # a .keras file does not hold dropout's random state; seed and epoch decide it, as they decide the batches
        for i, variable in enumerate(v for v in self.model.non_trainable_variables if "seed_generator" in v.path):
            variable.assign(np.array([(self.record["seed"] + 7919 * i) % 2**31, epoch * 2**20 % 2**32], "uint32"))
        r = self.record
        self.model.optimizer.learning_rate = self.rate = learning_rate_at(
            r["schedule"], r["learning_rate"], self._progress(), self._values()
        )

    def on_train_batch_end(self, batch, logs=None):
        self.begin = self.begin or time.monotonic()
        minutes = self.record["minutes"]
        if minutes is not None and self._seconds() >= 60 * minutes:
            self.out_of_time = self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "seconds": round(self._seconds(), 2), "learning_rate": self.rate}
        row |= {name: float(value) for name, value in (logs or {}).items() if name != "learning_rate"}
        row["iterations"] = int(np.asarray(keras.ops.convert_to_numpy(self.model.optimizer.iterations)))
        best = min(self._values(), default=math.inf)
        self.rows.append(row)
        if self._values()[-1] < best or not (self.run / "best.keras").is_file():
            self._save("best.keras", include_optimizer=False)
        files.write_text(self.run / "history.csv", pd.DataFrame(self.rows).to_csv(index=False))
        self._save("last.keras")
        if self.lines:  # Keras's own line would count up to an epoch that a budget never reaches
            values = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k.endswith("loss"))
            print(
                f"epoch {epoch + 1:3d}  {values}  {row['seconds']:.0f} s ({min(1, self._progress()):.0%})", flush=True
            )
        if self.reason_to_stop():
            self.model.stop_training = True

    def reason_to_stop(self) -> str | None:
        r, values = self.record, self._values()
        if not all(math.isfinite(v) for v in [*values, *(row["loss"] for row in self.rows)]):
            return "loss is not finite"
        if r["epochs"] is not None and len(values) >= r["epochs"]:
            return "epochs"
        if r["minutes"] is not None and values and self._seconds() >= 60 * r["minutes"]:
            return "minutes"
        if r["patience"] is not None and values and len(values) - 1 - int(np.argmin(values)) >= r["patience"]:
            return "patience"
        return None

    def _values(self) -> list[float]:
        if self.record["monitor"] == "last":
            return [-float(row["epoch"]) for row in self.rows]
        return [row[self.record["monitor"]] for row in self.rows]

    def _seconds(self) -> float:
        return self.spent + (time.monotonic() - self.begin if self.begin else 0.0)

    def _progress(self) -> float:
        r = self.record
        by_epochs = len(self.rows) / r["epochs"] if r["epochs"] else 0.0
        by_time = self._seconds() / (60 * r["minutes"]) if r["minutes"] else 0.0
        return max(by_epochs, by_time)

    def _save(self, name: str, **options) -> None:
        raw = None
        # under half precision Keras wraps the optimiser that holds the average
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if name == "best.keras" and optimizer.use_ema:
            raw = self.model.get_weights()
            optimizer.finalize_variable_values(self.model.trainable_variables)
        with files.atomic(self.run / name) as temporary:
            keras.saving.save_model(self.model, temporary, **options)
        if raw is not None:
            self.model.set_weights(raw)


def _open(run: Path, record: dict) -> dict:
    """The earlier ``run.json`` if it is of the same settings, {} if there is none."""
    path = run / "run.json"
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text())
    old = earlier["settings"]
    differ = [
        f"{k}: {old.get(k)!r} then, {record.get(k)!r} now"
        for k in sorted({*old, *record})
        if old.get(k) != record.get(k)
    ]
    if differ:
        raise ValueError(
            f"{run}: cannot resume, the settings differ ({'; '.join(differ)}); use another run name, or delete the folder"
        )
    return earlier


def _architecture(model: keras.Model) -> str:
    """Hash of all layers and their settings, names left out (Keras numbers them through a process)."""
    layers = [
        (type(layer).__name__, {k: v for k, v in layer.get_config().items() if k != "name"}) for layer in model.layers
    ]
    text = re.sub(r'"shared_object_id": \d+', "", json.dumps(layers, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(data) -> dict | None:
    if data is None:
        return None
    return data.describe() if hasattr(data, "describe") else {"kind": type(data).__name__, "steps": len(data)}


def _write_json(path: Path, content: dict) -> None:
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
