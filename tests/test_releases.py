"""Released models: members together, replaced as a whole, never half."""

import types

import keras
import numpy as np
import pandas as pd
import pytest

from segkit import models
from segkit.studies import common, releases

SCORES = pd.DataFrame({"subject": ["a"], "dice": [0.123456789]})


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "home", lambda: tmp_path)
    home = tmp_path / "results_dir" / "lgg" / "full"
    for k in range(3):
        keras.utils.set_random_seed(k)
        folder = home / "runs" / f"m{k}"
        folder.mkdir(parents=True)
        models.unet((None, None, 1), 1, filters=(2, 2)).save(folder / "best.keras")
        (folder / "run.json").write_text(f'{{"seed": {k}}}')
    return releases.Release("lgg", "net"), types.SimpleNamespace(
        results=home, source=None, profile=types.SimpleNamespace(name="full")
    )


def test_members_are_released_together_and_replaced_by_the_next(release):
    net, run = release
    with pytest.raises(
        FileNotFoundError, match="no released model in results_dir/lgg/saved_models; run from a checkout"
    ):
        net.load()
    assert [p.name for p in net.save(run, ["m0", "m1", "m2"], SCORES)] == ["net_1.keras", "net_2.keras", "net_3.keras"]
    assert len(net.load()) == 3
    assert net.files()[1].with_suffix(".run.json").read_text() == '{"seed": 1}'
    assert pd.read_csv(net.scores)["dice"].tolist() == [0.12346]
    (written,) = net.save(run, "m2", SCORES)
    assert net.files() == [written]
    assert sorted(p.name for p in net.folder.iterdir()) == ["net.keras", "net.run.json", "net.scores.csv"]
    kept = models.load(run.results / "runs" / "m2" / "best.keras").get_weights()
    for given, here in zip(net.load()[0].get_weights(), kept, strict=True):
        np.testing.assert_allclose(given, here, rtol=1e-3, atol=1e-4)


def test_a_missing_member_leaves_what_was_released(release):
    net, run = release
    net.save(run, ["m0", "m1"], SCORES)
    with pytest.raises(FileNotFoundError, match="run 03_training first"):
        net.save(run, ["m2", "missing"], SCORES)
    assert [p.name for p in net.files()] == ["net_1.keras", "net_2.keras"]


def test_phantoms_do_not_replace_the_repositorys_models(release):
    net, run = release
    run.source, run.results = "phantom", common.ROOT / "results_dir" / "lgg" / "smoke"
    with pytest.raises(ValueError, match="full is a run on phantoms; give RESULTS another folder"):
        net.save(run, "m0", SCORES)


def test_what_learns_from_phantoms_on_purpose_is_released_in_full_only(release, monkeypatch):
    net, run = release
    chosen = releases.Release("wmh", "net", phantoms=True)
    run.source, run.results = "phantom", common.ROOT / "results_dir" / "wmh" / "full"
    with pytest.raises(FileNotFoundError, match="run 03_training first"):  # goes past the refusal, to the missing run
        chosen.save(run, "m0", SCORES)
    run.profile.name = "quick"
    with pytest.raises(ValueError, match="quick is a run on phantoms"):
        chosen.save(run, "m0", SCORES)


def test_models_of_a_user_are_taken_as_they_come(release):
    net, run = release
    path = run.results / "runs" / "m0" / "best.keras"
    model = models.load(path)
    assert net.load(model) == [model]
    assert len(net.load([path, model])) == 2
    assert releases.case_name("somewhere/p1.nii.gz") == "p1"
