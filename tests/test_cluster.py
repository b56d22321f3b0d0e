"""More than one process, machine or device: the same calls on a Dask cluster and under a TensorFlow strategy."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config

from segkit import volumes
from segkit.studies import common, ibsr
from segkit.studies.ibsr import experiments, steps


@pytest.fixture(scope="module")
def cluster():
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as machines,
        Client(machines) as client,
    ):
        yield client


def _work(results):
    """Preprocess and score phantoms, as notebooks 00 to 04 do."""
    run = ibsr.start("smoke", results=results)
    made = ibsr.preprocess(run.data, run.results, shrink=2)
    labelled = list(ibsr.find(run.data).query("label.notna()").index)
    scores = ibsr.evaluate({"threshold (Otsu)": ibsr.threshold_baseline}, run.data, run.results, labelled)
    return run, made.drop(columns="seconds"), scores


def test_a_cluster_gives_the_tables_of_one_machine_to_the_last_digit(cluster, tmp_path):
    run, *here = _work(tmp_path / "here")
    with parallel_config(backend="dask"):
        other, *there = _work(tmp_path / "there")
        ibsr.standardise(other.data, other.results, shape=other.profile.grid)
        folds = experiments.folds(other, count=2, verbose=0)
    for one, two in zip(here, there, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert np.isfinite(here[1]["dice"]).all()
    ibsr.standardise(run.data, run.results, shape=run.profile.grid)
    pd.testing.assert_frame_equal(experiments.folds(run, count=2, verbose=0), folds, check_exact=True)
    labelled = ibsr.find(run.data).query("label.notna()").index  # each is scored once
    assert sorted(folds[folds["label"] == "GM"]["subject"]) == sorted(labelled)


def test_a_killed_worker_loses_nothing(cluster, tmp_path):
    run = ibsr.start("smoke", results=tmp_path)
    table, mark = ibsr.find(run.data), tmp_path / "killed"
    cases = [(row, run.results / f"{subject}.nii.gz", False, 2) for subject, row in table.iterrows()]

    def work(row, path, n4, shrink):
        if path.name == f"{table.index[1]}.nii.gz" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return steps._preprocess(row, path, n4, shrink)

    with parallel_config(backend="dask"):
        done = pd.DataFrame(common.spread(work, cases), index=table.index)
    assert mark.exists()
    elsewhere = [(row, path.parent / "expected" / path.name, *more) for row, path, *more in cases]
    expected = pd.DataFrame(common.spread(steps._preprocess, elsewhere, jobs=1), index=table.index)
    pd.testing.assert_frame_equal(done.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)
    for (_, path, *_), (_, other, *_) in zip(cases, elsewhere, strict=True):
        np.testing.assert_array_equal(volumes.array(volumes.load(path)), volumes.array(volumes.load(other)))


def test_a_worker_killed_while_it_trains_a_fold_loses_nothing(cluster, tmp_path):
    run = ibsr.start("smoke", results=tmp_path)
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, epochs=8))
    experiments.prepare(run)
    mark, history = tmp_path / "killed", run.results / "runs" / f"fold1_{experiments.NETWORK}" / "history.csv"

    def work(run):
        def kill():
            while not history.is_file() or len(history.read_text().splitlines()) < 3:
                time.sleep(0.005)
            shutil.copy(history, mark)
            os.kill(os.getpid(), signal.SIGKILL)

        if not mark.exists():
            threading.Thread(target=kill, daemon=True).start()
        return common.alone(experiments._fold, run, 1, 2, 0)

    with parallel_config(backend="dask"):
        (done,) = common.spread(work, [(run,)])
    before, after = pd.read_csv(mark), pd.read_csv(history)
    assert 2 <= len(before) < len(after) == 8  # in the middle
    pd.testing.assert_frame_equal(before[:1], after[:1])  # gone on with, not begun anew: an epoch's seconds are its own
    shutil.rmtree(history.parent)
    pd.testing.assert_frame_equal(done, work(run), check_exact=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_spread_keeps_the_order_of_its_cases(jobs, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    assert list(common.spread(divmod, [(7, 2), (9, 4), (5, 5)], jobs=jobs)) == [(3, 1), (2, 1), (1, 0)]
    with pytest.raises(ZeroDivisionError):
        list(common.spread(divmod, [(7, 2), (9, 0)], jobs=jobs))
    (name,) = common.spread(os.getpid, [()], jobs=jobs)
    assert (name == os.getpid()) == (jobs == 1)


def test_mirrored_devices_reach_the_loss_of_one(tmp_path):
    code = """
        import sys
        import keras, numpy as np, tensorflow as tf
        from segkit import data, losses, models, training

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        rng = np.random.default_rng(0)
        images, maps = rng.normal(size=(16, 32, 32, 1)).astype("float32"), rng.integers(0, 4, (16, 32, 32)).astype("uint8")

        def train(name):
            keras.utils.set_random_seed(0)
            model = models.build("ibsr_unet2d_4level", filters=(4, 8), dropout=0.0)
            batches = data.Arrays(images, maps, list("ab"), classes=4, batch_size=8)
            history = training.fit(model, batches, run=sys.argv[1] + "/" + name, loss=losses.get("cross_entropy"), epochs=3, verbose=0)
            return history["loss"].to_numpy()

        one = train("one")
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            two = train("two")
        print(strategy.num_replicas_in_sync, np.abs(one - two).max(), one[0] - one[-1])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True,
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    devices, apart, fell = done.stdout.split()[-3:]
    assert devices == "2"
    assert float(apart) < 1e-4
    assert float(fell) > 1e-3
