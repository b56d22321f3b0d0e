"""The WMH study and its phantoms: layout, grids there and back, losses, the challenge's scores, errors by size, a user's scan."""

import dataclasses
import json
import warnings

import edt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import models, phantoms, volumes
from segkit.phantoms import wmh as phantom
from segkit.studies import common, wmh


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Phantoms of the smoke profile through 01 and 02."""
    run = wmh.start("smoke", results=tmp_path_factory.mktemp("wmh") / "results_dir")
    wmh.experiments.prepare(run)
    return run


def put(folder, subject, data, mask=None, *, affine=None, mask_affine=None):
    """One subject in the challenge's layout."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine
    volumes.save(nib.Nifti1Image(np.asarray(data, "f"), affine), folder / subject / "pre" / "FLAIR.nii.gz")
    if mask is not None:
        image = nib.Nifti1Image(np.asarray(mask), affine if mask_affine is None else mask_affine)
        volumes.save(image, folder / subject / "wmh.nii.gz")
    return folder


# -- phantoms


def test_phantoms_lie_in_the_challenges_layout(done):
    table = wmh.find(done.data)
    assert list(table["centre"].unique()) == ["CentreA", "CentreB", "CentreD"]
    assert (table["mask"].notna()).all()
    for subject, row in table.iterrows():
        image, mask = wmh.read(row)
        assert set(np.unique(volumes.array(mask))) <= {0, 1, 2}
        site = phantom.CENTRES[row["centre"]]
        assert volumes.spacing(image)[2] == pytest.approx(site.spacing_mm[2]), subject
    assert json.loads((done.data / "phantom.json").read_text())["phantom"] == "wmh"
    assert done.source == "phantom"


def test_centres_differ_in_stripping_and_slices():
    a = phantom.subject("CentreA", "1", 0, coarse=4)[0]
    b = phantom.subject("CentreB", "1", 0, coarse=4)[0]
    assert (b == 0).mean() > (a == 0).mean() + 0.2  # A has a skull and noise around it
    np.testing.assert_array_equal(a, phantom.subject("CentreA", "1", 0, coarse=4)[0])
    assert phantom.share(6) == {"CentreA": 2, "CentreB": 2, "CentreC": 1, "CentreD": 1}
    with pytest.raises(ValueError, match="centres are CentreA"):
        phantoms.write("wmh", "x", subjects={"Utrecht": 2})


def test_lesions_have_the_load_asked_for_and_lie_in_white_matter():
    rng = np.random.default_rng(0)
    parts, _ = phantom.brain(rng, coarse=2)
    for load in (3.0, 30.0):
        drawn = phantom.lesions(parts, (2, 2, 2), np.random.default_rng(1), load_ml=load)
        assert drawn["lesion"].sum() * 0.008 == pytest.approx(load, rel=0.4)
        inside = drawn["lesion"] > 0.5
        assert (parts["white"] + parts["deep"])[inside].mean() > 0.6
        near = edt.edt(parts["ventricles"] < 0.5, anisotropy=(2, 2, 2))
        assert np.median(near[inside]) < np.median(near[parts["white"] > 0.5])  # around the ventricles
        assert drawn["halo"].max() <= 1


def test_a_painted_scan_has_the_contrasts_of_its_look():
    rng = np.random.default_rng(0)
    parts, _ = phantom.brain(rng, coarse=4)
    parts = parts | phantom.lesions(parts, (4, 4, 4), rng, load_ml=60)
    stack = np.stack([parts[n] for n in phantom.PARTS], axis=-1)
    look = phantom.Look(texture=0, bias=0, noise=1e-6, blur_mm=0.0)
    scan = phantom.paint(stack, (4, 4, 4), rng, look)
    for name in ("cortex", "ventricles", "lesion"):
        pure = parts[name] > 0.98
        assert pure.any()
        if name != "ventricles":
            assert np.median(scan[pure]) == pytest.approx(getattr(look, name), abs=0.12)
    assert scan[stack[..., :6].sum(-1) < 0.2].max() == 0
    drawn = [phantom.Look.drawn(np.random.default_rng(k)) for k in range(50)]
    assert np.ptp([d.lesion for d in drawn]) > 0.7


def test_phantoms_take_real_anatomy(tmp_path):
    data = np.zeros((60, 70, 60), np.int16)
    data[10:50, 10:60, 10:50] = 3
    data[14:46, 14:56, 14:46] = 2
    data[26:34, 30:45, 28:34] = 4
    volumes.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), tmp_path / "brains" / "one.nii.gz")
    phantoms.write("wmh", tmp_path / "out", subjects={"CentreB": 1}, seed=0, coarse=4, brains=tmp_path / "brains")
    assert json.loads((tmp_path / "out" / "phantom.json").read_text())["brains"] == "brains"
    with pytest.raises(ValueError, match="holds no label map"):
        phantoms.write(
            "wmh", tmp_path / "no", subjects={"CentreB": 1}, seed=0, coarse=4, brains=tmp_path / "out" / "CentreB"
        )


# -- the data as they lie on disk


def test_find_takes_centres_with_scanners_of_their_own(tmp_path):
    x = np.random.default_rng(0).random((6, 6, 3))
    put(tmp_path, "Amsterdam/GE3T/100", x, np.zeros((6, 6, 3), "u1"))
    put(tmp_path, "Utrecht/0", x)
    table = wmh.find(tmp_path)
    assert dict(table["centre"]) == {"Amsterdam/GE3T/100": "Amsterdam/GE3T", "Utrecht/0": "Utrecht"}
    assert table.loc["Utrecht/0", "mask"] is None
    with pytest.raises(ValueError, match="no FLAIR found"):
        wmh.find(tmp_path / "Utrecht" / "0" / "pre")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        wmh.find(tmp_path / "nowhere")


def test_broken_subjects_are_named(tmp_path):
    x = np.random.default_rng(0).random((6, 6, 3))
    good = np.zeros((6, 6, 3), "u1")
    put(tmp_path, "a/grid", x, good, mask_affine=np.diag([1.0, 1, 4, 1]))
    put(tmp_path, "a/labels", x, good + 3)
    put(tmp_path, "a/bytes", x, np.where(x > 0.5, 255, 0).astype("u1"))
    put(tmp_path, "a/zeros", 0 * x, good)
    put(tmp_path, "a/four", np.repeat(x[..., None], 2, -1), good)
    table = wmh.find(tmp_path)
    for subject, message in (
        ("a/grid", "different grids"), ("a/labels", r"label values \[3\] are not in the table"), ("a/bytes", "divide by 255"),
        ("a/zeros", "every voxel is 0"), ("a/four", "not one 3D scan"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            wmh.read(table.loc[subject])
        assert subject.split("/")[1] in str(error.value)


def test_split_is_even_over_centres_and_keeps_the_external_one_out():
    names = [f"{c}/{k}" for c in ("A", "B", "C") for k in range(20)] + [f"CentreD/{k}" for k in range(5)]
    table = pd.DataFrame({"centre": [n.split("/")[0] for n in names], "mask": "m"}, index=names)
    parts = wmh.split(table)
    assert [len(parts[k]) for k in ("train", "selection", "test", "external")] == [48, 6, 6, 5]
    for side in ("train", "selection", "test"):
        assert len({sum(s.startswith(c) for s in parts[side]) for c in "ABC"}) == 1
    assert all(s.startswith("CentreD") for s in parts["external"])
    with pytest.raises(ValueError, match="is external, so nobody trains"):
        wmh.split(table, external=["A", "B", "C", "CentreD"])
    with pytest.raises(ValueError, match="A: 2 subjects with masks are too few"):
        wmh.split(table.iloc[:2])


# -- grids and intensities


@pytest.mark.parametrize("shape", [(20, 14, 3), (14, 20, 3), (16, 16, 2)])
def test_padding_to_a_square_and_back_to_the_native_grid(shape, rng):
    ramp = np.indices(shape).sum(0) / 40 + 0.1 * rng.random()
    image = nib.Nifti1Image(ramp.astype("f"), np.diag([0.9, 0.9, 3, 1]))
    square = wmh.pad_square(image)
    assert square.shape[0] == square.shape[1] == max(shape[:2])
    np.testing.assert_allclose(wmh.back(volumes.array(square), image), volumes.array(image), atol=1e-6)
    small = wmh.resize(volumes.array(square), 2 * max(shape[:2]), kind="image")
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(wmh.back(small, image)[inner], volumes.array(image)[inner], atol=0.02)


def test_masks_are_resized_by_nearest_neighbour(rng):
    mask = rng.integers(0, 3, (20, 20, 2)).astype("u1")
    for size in (10, 32, 224):
        assert set(np.unique(wmh.resize(mask, size, kind="label"))) <= {0, 1, 2}
    np.testing.assert_array_equal(wmh.resize(wmh.resize(mask, 60, kind="label"), 20, kind="label"), mask)


def test_three_scalings_by_hand():
    x = np.zeros((2, 2, 2), np.float32)
    x[0] = [[1, 2], [3, 10]]
    np.testing.assert_allclose(wmh.scale(x, "maximum"), x / 10)
    assert wmh.scale(x, "percentile").max() == 1
    z = wmh.scale(x, "zscore")
    assert z[1].max() == 0
    assert z[0].mean() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="every voxel is 0"):
        wmh.scale(0 * x)
    with pytest.raises(ValueError, match="no scaling is called 'minmax'"):
        wmh.scale(x, "minmax")


# -- training and experiments


@pytest.mark.parametrize("name", ["dice", "tversky", "generalized_dice"])
def test_few_lesions_are_a_better_answer_than_all_or_nothing(name):
    """With the report's targets of .1 and .9 a plain Dice or Tversky index would be largest for lesions everywhere."""
    from segkit import losses

    truth = np.zeros((1, 50, 50, 1), np.float32)
    truth[0, 3, :10] = 1  # .4 % of the slice
    target = truth if name in wmh.layout.HARD else 0.1 + 0.8 * truth
    loss = losses.get(name, **wmh.LOSSES[name])
    right = float(loss(target, target))
    assert right < float(loss(target, np.ones_like(truth) - 1e-3))
    assert right < float(loss(target, np.zeros_like(truth) + 1e-3))


def test_slices_of_a_scanner_are_means_over_slabs():
    ramp = np.broadcast_to(np.arange(24.0), (2, 2, 24)).astype("f")
    image = nib.Nifti1Image(ramp, np.diag([1.0, 1, 1, 1]))
    for thick in (6, 5, None):
        found = phantom.slabs(image, every_mm=6, thick_mm=thick)
        np.testing.assert_allclose(volumes.array(found)[0, 0], [2.5, 8.5, 14.5, 20.5], atol=1e-5)
        assert volumes.spacing(found) == (1, 1, 6)
        np.testing.assert_allclose(found.affine[:3, 3], (0, 0, 2.5))  # where the values of the ramp are
    later = phantom.slabs(image, every_mm=6, first_mm=3)
    np.testing.assert_allclose(volumes.array(later)[0, 0], [5.5, 11.5, 17.5], atol=1e-5)
    np.testing.assert_allclose(later.affine[2, 3], 5.5)
    spike = np.zeros((1, 1, 24), "f")
    spike[..., 9] = 1
    assert volumes.array(phantom.slabs(nib.Nifti1Image(spike, np.eye(4)), every_mm=6)).max() == pytest.approx(1 / 6)


def test_seeds_of_the_same_subjects_do_not_narrow_an_interval():
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"method": "content", "subject": list("abcdef"), **{k: rng.random(6) for k in wmh.SCORES}})
    three = pd.concat([one.assign(seed=k) for k in range(3)])
    pd.testing.assert_frame_equal(wmh.summary(one), wmh.summary(three))
    assert set(wmh.summary(three)["n"]) == {6}


def test_scans_with_few_lesions_do_not_choose_a_threshold(done, tmp_path, monkeypatch):
    data, mask = np.full((24, 24, 4), 5.0), np.zeros((24, 24, 4), np.uint8)
    data[:3] = 0
    few, many = mask.copy(), mask.copy()
    few[8, 8, 1], many[8:14, 8:14, 1:3] = 1, 1
    for name, truth in (("openms/few", few), ("openms/many", many)):
        put(tmp_path, name, data, truth, affine=np.diag([4.0, 4.0, 8.0, 1.0]))
    seen = {}

    def spy(method, scans, **settings):
        seen.update(scans)
        raise InterruptedError

    monkeypatch.setattr(wmh.real, "threshold_table", spy)
    with pytest.raises(InterruptedError):
        wmh.experiments.recipe(done, real=tmp_path, verbose=0)
    assert list(seen) == ["openms/many"]  # 9.2 ml; the other has .1


def test_every_loss_trains_the_same_generator(done, tmp_path):
    parts = wmh.split(wmh.find(done.data))
    counts = set()
    for loss in wmh.LOSSES:
        model, history = wmh.train(done, parts, loss=loss, features="random", pools=1, name=f"{loss}_test", verbose=0)
        counts.add(model.count_params())
        assert np.isfinite(history["loss"]).all()
        record = json.loads((done.results / "runs" / f"{loss}_test" / "run.json").read_text())["settings"]
        assert record["train"].get("soft") == (None if loss in wmh.layout.HARD else [0.1, 0.9])
        assert (record.get("features") == "random") == ("content" in loss)  # the source is saved with the result
    assert len(counts) == 1
    with pytest.raises(FileNotFoundError, match="none.npz: no such file"):
        wmh.train(done, parts, loss="content", features=str(tmp_path / "none.npz"), verbose=0)


def test_cells_resume_and_say_where_features_came_from(done, monkeypatch, capsys):
    rows = wmh.experiments.losses_table(done, features="random", verbose=0)
    assert list(rows["loss"].unique()) == ["dice", "content"]
    assert set(rows["set"]) == {"internal", "external"}
    assert set(rows.loc[rows["loss"] == "content", "features"]) == {"random"}
    assert set(rows.loc[rows["loss"] == "dice", "features"]) == {"none"}
    monkeypatch.setattr(wmh.experiments, "train", None)
    again = wmh.experiments.losses_table(done, features="random", verbose=0)
    np.testing.assert_allclose(again["dice"], rows["dice"], atol=1e-5)
    np.testing.assert_allclose(wmh.experiments.rows(done, "losses")["dice"], rows["dice"], atol=1e-5)
    # its network is found by the loss, and none is made up where there is none
    assert wmh.experiments.load_cell(done, "content", features="random").count_params() > 0
    assert wmh.experiments.load_cell(done, "content", features="random", seed=9) is None
    # another external centre is another experiment
    assert wmh.experiments.rows(done, "losses", external=["CentreD"]) is not None
    assert wmh.experiments.rows(done, "losses", external=["CentreA"]) is None
    assert "train it with experiments losses" in capsys.readouterr().out


def test_features_are_found_again_or_said_to_be_missing(done, tmp_path, capsys):
    run = dataclasses.replace(done, results=tmp_path)
    here = wmh.experiments.features_here
    assert here(run) == "random"
    assert here(run, "imagenet") == "imagenet"
    (tmp_path / "tables").mkdir()
    named = pd.DataFrame({"features": ["none", "ImageNet (Keras)", "vgg.npz"], "recipe": "r"})
    named[:2].to_csv(tmp_path / "tables" / "losses.csv", index=False)
    assert here(run) == "imagenet"
    named.to_csv(tmp_path / "tables" / "losses.csv", index=False)
    assert here(run) == "random"
    assert "vgg.npz, the features of tables/losses.csv, is not here" in capsys.readouterr().out
    (tmp_path / "vgg.npz").touch()
    assert here(run, str(tmp_path / "vgg.npz")) == str(tmp_path / "vgg.npz")
    with pytest.raises(FileNotFoundError, match="FEATURES nowhere.npz: no such file"):
        here(run, "nowhere.npz")


def test_rows_of_another_recipe_are_not_shown(done, tmp_path, capsys):
    run = dataclasses.replace(done, results=tmp_path)
    assert wmh.experiments.rows(run, "real") is None
    assert "experiments recipe --real DIR --final" in capsys.readouterr().out
    (tmp_path / "tables").mkdir()
    pd.DataFrame({"loss": ["dice"], "recipe": ["another"]}).to_csv(tmp_path / "tables" / "losses.csv", index=False)
    assert wmh.experiments.rows(run, "losses") is None
    assert "not shown: " in capsys.readouterr().out


def test_anatomies_are_soft_maps_as_bytes(done, tmp_path, monkeypatch):
    folder, names = wmh.real.anatomies(done, None)
    with np.load(folder / f"{names[0]}.npz") as part:
        assert part["parts"].dtype == np.uint8
        assert part["parts"].shape[-1] == len(phantom.PARTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no label map"):
        wmh.real.anatomies(done, tmp_path / "empty")
    monkeypatch.setattr(phantom, "VERSION", 0)
    assert wmh.real.anatomies(done, None)[0] != folder  # made anew


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two scans as if they were real: one to tune on, one held out with somebody's result."""
    folder = tmp_path_factory.mktemp("real")
    seeds = iter(range(5, 100))
    for name in ("openms/1", "clinical/1"):
        mask = np.zeros(1)
        while (mask == 1).sum() < 50:  # on so coarse a grid small lesions vanish
            scan, mask, affine = phantom.subject("CentreB", "1", next(seeds), coarse=4)
        put(folder, name, scan, mask, affine=affine)
    volumes.save(nib.Nifti1Image((mask == 1).astype("u1"), affine), folder / "clinical" / "1" / "result.nii.gz")
    return folder


def test_features_are_varied_and_real_scans_are_scored_and_counted_once(done, real, tmp_path, monkeypatch):
    run = dataclasses.replace(done, results=tmp_path / "wmh" / "smoke")
    wmh.experiments.prepare(run)
    known = set(wmh.experiments.plain("content", 0, "random"))
    assert all(len(change) <= 1 and set(change) <= known for change in wmh.experiments.FEATURES)
    assert len({str(change) for change in wmh.experiments.FEATURES}) == 6
    few = [{}, {"features": "random"}, {"reduction": "per_layer"}, {"pools": 1, "soft": False}]
    monkeypatch.setattr(wmh.experiments, "FEATURES", few)
    rows = wmh.experiments.features_table(run, features="random", verbose=0)
    cells = rows[["pools", "reduction", "soft"]].drop_duplicates()
    assert list(map(tuple, cells.to_numpy())) == [
        (2, "concatenated", True), (2, "per_layer", True), (1, "concatenated", False),
    ]  # fmt: skip
    monkeypatch.setattr(wmh.experiments, "SETS", {})
    for _ in range(2):  # the second time nothing is left to do
        more = wmh.experiments.features_table(run, features="random", real=real, verbose=0)
        assert len(more[more["set"] == "real"]) == len(cells) * 2
        opened = pd.read_csv(run.results / "tables" / "openings.csv")
        assert opened["scans"].tolist() == [1] * len(cells)  # the tuning centre's are not counted


def test_the_command_line_says_what_it_lacks_and_calls_what_it_names(done, real, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(wmh.experiments, "start", lambda *a, **k: done)
    monkeypatch.setattr(
        wmh.experiments, "WHAT", {k: lambda run, k=k, **more: given.append((k, more)) or pd.DataFrame() for k in wmh.experiments.WHAT}
    )  # fmt: skip

    def call(*words):
        monkeypatch.setattr("sys.argv", ["experiments", *map(str, words)])
        wmh.experiments.main()

    with pytest.raises(SystemExit):
        call("finetune")
    assert "finetune needs --real: the folder that holds openms" in capsys.readouterr().err
    call("recipe", "--real", real, "--final")
    call("full_net", "--features", "random", "--minutes", 5)
    assert given == [
        ("recipe", {"brains": None, "real": real, "final": True}), ("full_net", {"features": "random", "external": None, "minutes": 5.0}),
    ]  # fmt: skip


def test_the_recipe_tunes_on_one_centre_and_opens_the_other_when_told(done, real, monkeypatch):
    tables = done.results / "tables"
    tuned = wmh.experiments.recipe(done, real=real, verbose=0)
    assert set(tuned["subject"]) == {"openms/1"}
    assert not (tables / "openings.csv").exists()
    scores = wmh.experiments.recipe(done, real=real, final=True, verbose=0)
    assert set(scores["subject"]) == {"openms/1", "clinical/1"}
    assert set(scores["method"]) == {wmh.RELEASED, "intensity threshold", "published network"}
    assert scores.set_index("method").loc["published network", "dice"] == 1
    again = wmh.experiments.recipe(done, real=real, final=True, verbose=0)
    assert len(again) == len(scores)
    opened = pd.read_csv(tables / "openings.csv")
    assert opened["scans"].tolist() == [1]
    chosen = pd.read_csv(tables / "thresholds.csv").iloc[0]
    assert chosen[[str(t) for t in wmh.real.THRESHOLDS]].astype(float).idxmax() == str(chosen["threshold"])
    missed = pd.read_csv(tables / "real_missed.csv")
    assert missed.groupby("subject")["lesions"].sum().gt(0).all()
    with pytest.raises(ValueError, match="has no scans of openms"):
        wmh.experiments.recipe(done, real=real / "clinical", verbose=0)
    wmh.experiments.release_recipe(done)
    saved = done.results.parent / "saved_models"
    kept = pd.read_csv(saved / f"{wmh.RELEASED}.scores.csv")
    assert set(kept["subject"]) == {"openms/1", "clinical/1"}
    monkeypatch.setattr(common, "home", lambda: done.results.parents[2])
    assert wmh.user.MODEL.threshold() == chosen["threshold"]


def test_recipes_are_also_tuned_on_thick_slices(tmp_path):
    data, mask = np.full((4, 4, 16), 5.0), np.zeros((4, 4, 16), np.uint8)
    data[0] = 0
    mask[1, 1, :5] = mask[2, 2, :3] = 1
    put(tmp_path, "openms/1", data, mask, affine=np.eye(4))
    put(tmp_path, "openms/2", data, mask, affine=np.diag([1.0, 1.0, 6.0, 1.0]))
    scans = wmh.real.tuning_scans(wmh.find(tmp_path))
    assert list(scans) == ["openms/1", "openms/1, 8 mm", "openms/2"]
    thick, truth = scans["openms/1, 8 mm"]
    assert volumes.spacing(thick) == (1, 1, 8)
    assert truth[..., 0].nonzero() == ([1], [1])  # five of seven slices; three, half of them at an end, are too few
    assert not truth[..., 1].any()
    assert not volumes.array(thick)[0].any()
    np.testing.assert_allclose(volumes.array(thick)[1:], 5, rtol=1e-5)


def test_the_best_tuned_recipe_is_released_and_none_other(done, real, tmp_path):
    run = dataclasses.replace(done, results=tmp_path / "wmh" / "smoke")
    with pytest.raises(FileNotFoundError, match="thresholds.csv is missing"):
        wmh.best_recipe(run)
    rows = pd.DataFrame({"recipe": ["good", "last"], "threshold": [0.4, 0.7], "dice": [0.6, 0.5]})
    wmh.real.put(run.results / "tables" / "thresholds.csv", rows)
    scores = pd.DataFrame(
        {"method": wmh.RELEASED, "recipe": ["good", "last"], "subject": ["a", "b"], "threshold": [0.4, 0.7]}
    )
    wmh.real.put(run.results / "tables" / "tuning.csv", scores)
    with pytest.raises(FileNotFoundError, match="best.keras is missing"):  # the better one's own model, not another's
        wmh.best_recipe(run)
    home = wmh.real.run_folder(run, "good")
    models.save(models.build(wmh.RELEASED, filters=(4, 8)), home / "best.keras")
    (home / "run.json").write_text("{}")
    wmh.experiments.release_recipe(run)
    kept = pd.read_csv(run.results.parent / "saved_models" / f"{wmh.RELEASED}.scores.csv")
    assert kept["threshold"].tolist() == [0.4]


def test_a_few_real_scans_more(done, real):
    wmh.experiments.recipe(done, real=real, verbose=0)
    rows = wmh.experiments.finetune(done, real=real, epochs=1, verbose=0)
    assert rows["subject"].tolist() == ["clinical/1"]
    tables = done.results / "tables"
    assert rows["threshold"].tolist() == [pd.read_csv(tables / "thresholds.csv")["threshold"].iloc[0]]
    assert (
        pd.read_csv(tables / "openings.csv")["recipe"].str.contains(f"and {wmh.real.TUNED_ON} for 1 epochs").sum() == 1
    )
    assert len(wmh.experiments.finetune(done, real=real, epochs=1, verbose=0)) == 1  # not scored once more
    (tables / "finetune.csv").unlink()
    with pytest.raises(ValueError, match="has no scans of openms to learn from"):
        wmh.experiments.finetune(done, real=real / "clinical", epochs=1, verbose=0)


def test_a_rescored_slice_keeps_its_background_at_zero():
    from segkit import augment
    from segkit.studies.wmh.recipe import rescored

    rng = np.random.default_rng(0)
    image = np.zeros((24, 24, 2), np.float32)
    image[4:20, 4:20, 0], image[4:20, 4:20, 1] = rng.normal(size=(16, 16)), 10
    moves = augment.slices(flips=(), rotate=0, scale=0, gain=0.3, noise=0.3, sequences=2)
    for seed in range(5):
        out, _ = rescored(moves)(image, np.zeros((24, 24), np.uint8), np.random.default_rng(seed))
        assert out.shape == (24, 24, 1)
        assert not out[:4].any()
        low, middle, high = np.percentile(out[4:20, 4:20], (25, 50, 75))
        assert middle == pytest.approx(0, abs=1e-4)
        assert high - low == pytest.approx(1.35, abs=1e-3)


def test_aged_brains_have_wider_ventricles_or_less_fluid_outside():
    parts, _ = phantom.brain(np.random.default_rng(3), coarse=2)
    changes = []
    for seed in range(6):
        old = phantom.aged(parts, (2, 2, 2), np.random.default_rng(seed))
        total = sum(old.values())
        assert total.max() < 1.05
        changes.append([old[k].sum() / parts[k].sum() for k in ("ventricles", "sulci")])
    changes = np.array(changes)
    assert (changes[:, 0] >= 0.999).all()
    assert changes[:, 0].max() > 1.2
    assert (changes[:, 1] <= 1.001).all()
    assert changes[:, 1].min() < 0.9


def test_drawn_lesions_are_brighter_than_white_matter_and_than_their_surroundings():
    over_cortex = []
    for seed in range(300):
        look = phantom.Look.drawn(np.random.default_rng(seed))
        shown = {k: getattr(look, k) ** look.gamma for k in ("lesion", "halo", "rim")}
        assert 1.149 < shown["lesion"] < 2.001
        assert max(shown["halo"], shown["rim"]) <= 1 + 0.6 * (shown["lesion"] - 1) + 1e-6
        over_cortex.append(shown["lesion"] / look.cortex**look.gamma)
    assert 0.9 <= np.mean(np.array(over_cortex) > 1.069) < 1  # of the rest, some are darker


def test_a_bad_stripping_adds_outside_or_takes_inside():
    scan = np.zeros((64, 64), np.float32)
    scan[16:48, 16:48] = 1
    same = added = bitten = 0
    for seed in range(200):
        out = phantom.badly_stripped(scan, (1.0, 1.0), np.random.default_rng(seed))
        more, less = bool((out[scan == 0] > 0.05).any()), bool((out[scan > 0] == 0).any())
        assert not (more and less)
        assert not out[:8].any()  # dura lies close to the brain
        assert (out[28:36, 28:36] == 1).all()
        same, added, bitten = same + (not more and not less), added + more, bitten + less
    assert same > 120
    assert min(added, bitten) > 10


def test_a_painted_slice_is_new_each_time_and_its_background_is_zero():
    from segkit import augment

    still = wmh.painted(augment.slices(flips=(), rotate=0, scale=0, gain=0), spacing_mm=1.0)
    parts = np.zeros((24, 24, len(phantom.PARTS)), np.uint8)
    parts[4:20, 4:20, 0] = 255
    label = np.zeros((24, 24), np.uint8)
    a, _ = still(parts, label, np.random.default_rng(0))
    b, _ = still(parts, label, np.random.default_rng(1))
    assert a.shape == (24, 24, 1)
    assert np.abs(a - b).max() > 0.1
    assert not a[0].any()
    assert np.median(a[a != 0]) == pytest.approx(0, abs=0.02)


# -- scores


def test_scores_of_a_perfect_and_an_empty_method(done):
    table = wmh.find(done.data)
    some = list(table.index[:2])
    truth = {volumes.array(wmh.read(table.loc[s])[0]).tobytes(): volumes.array(wmh.read(table.loc[s])[1]) for s in some}

    def perfect(image):
        return (truth[volumes.array(image).tobytes()] == 1).astype("f")

    scores = wmh.evaluate({"perfect": perfect, "none": lambda i: np.zeros(i.shape, "f")}, table, some)
    good = scores[scores["method"] == "perfect"]
    filled = good["truth_ml"] > 0
    assert (good.loc[filled, ["dice", "recall", "f1"]] == 1).all(axis=None)
    assert (good.loc[filled, "avd"] == 0).all()
    assert (scores.loc[scores["method"] == "none", "prediction_ml"] == 0).all()
    assert good["legacy_dice"].dropna().min() > 0.7
    table_ = wmh.summary(scores)
    assert {"mean", "sd", "median", "low", "high", "n", "excluded"} <= set(table_.columns)


def test_three_columns_stand_beside_the_reports():
    rng = np.random.default_rng(0)
    rows = [
        {"method": m, "subject": f"s{k}", "centre": "A", **{c: rng.random() for c in wmh.SCORES}, "legacy_dice": 0.5, "legacy_f1": 0.4,
         "legacy_avd": 20, "legacy_recall": 0.3}
        for m in ("dice", "content") for k in range(5)
    ]  # fmt: skip
    table = wmh.three_columns(pd.DataFrame(rows), dataset="external", names={"dice": "dice", "content": "content"})
    assert table.loc[("content", "Dice"), "reported"] == 0.52
    assert table.loc[("dice", "lesion F1"), "reported"] == 0.47
    assert table.loc[("content", "Dice"), "legacy"] == 0.5
    assert table.loc[("content", "AVD (%)"), "legacy"] == 20
    assert np.isfinite(table.loc[("content", "HD95 (mm)"), "corrected"])
    assert table.loc[("trained_content", "Dice"), "reported"] == 0.26


def test_missed_lesions_by_size_and_false_ones_by_distance():
    truth, found = np.zeros((40, 40, 1), int), np.zeros((40, 40, 1), int)
    truth[0, 0] = 1  # 1 voxel of 10 mm³: .01 ml, missed
    truth[10:15, 10:15] = 1  # .25 ml, found in part
    found[12, 12] = 1
    found[18, 12] = 1  # false, 4 mm from the lesion
    found[35, 35] = 1  # false, far away
    missed = wmh.missed_by_size(truth, found, spacing_mm=(1, 1, 10))
    assert missed.loc["< 0.02 ml", ["lesions", "found"]].tolist() == [1, 0]
    assert missed.loc["0.1 to 0.5 ml", ["lesions", "found"]].tolist() == [1, 1]
    assert missed["ml"].sum() == pytest.approx(0.26)
    false = wmh.false_by_distance(truth, found, spacing_mm=(1, 1, 10))
    assert false["detections"].tolist() == [0, 1, 0, 1]
    assert wmh.false_by_distance(0 * truth, found, spacing_mm=(1, 1, 10))["detections"].tolist() == [0, 0, 0, 3]
    assert wmh.missed_by_size(0 * truth, found, spacing_mm=(1, 1, 1))["lesions"].sum() == 0


def test_density_bins_and_the_baseline_by_hand():
    bins = wmh.density_bins(pd.DataFrame({"pcd": [0.0, 0.02, 0.05, 5.0]}))
    assert bins.tolist() == ["0–0.03", "0–0.03", "0.03–0.1", "> 1"]
    x = np.zeros((3, 3, 3))
    x[1] = [[1, 1, 1], [1, 1, 1], [1, 1, 10]]
    out = wmh.threshold_as_method(nib.Nifti1Image(x.astype("f"), np.eye(4)), 1.5)
    assert out.sum() == 1
    assert out[1, 2, 2] == 1


def test_claims_need_a_clear_difference():
    def rows(method, mean, sd, seed):
        rng = np.random.default_rng(seed)
        return [
            {
                "method": method,
                "subject": f"s{k}",
                "dice": (d := mean + sd * rng.normal()),
                "recall": d,
                "avd": 100 * (1 - d),
                "pcd": k / 10,
            }
            for k in range(12)
        ]

    internal = pd.DataFrame(
        rows("content", 0.7, 0.01, 0) + rows("dice", 0.7, 0.01, 1) + rows("trained_content", 0.4, 0.01, 2)
    )
    external = pd.DataFrame(rows("content", 0.6, 0.01, 3) + rows("dice", 0.5, 0.01, 4))
    told = wmh.claims(internal, external, real=True).set_index("section")["verdict"]
    assert told["abstract"] == "holds"
    assert told["section 5, Table 2"] == "holds"
    assert told["Figure 5"] == "holds"
    by_claim = wmh.claims(internal, external, real=True).set_index("claim")["verdict"]
    assert by_claim["on the same centres the content loss is level with the best"] == "holds"
    assert by_claim["the content loss finds more lesions, an unseen centre"] == "holds"
    assert by_claim["the content loss finds more lesions, the same centres"] == "cannot be told here"
    pools = pd.concat([
        pd.DataFrame(rows("content", mean, 0.01, k)).assign(pools=k, set="internal", reduction="concatenated", soft=True, features="f")
        for k, mean in ((1, 0.5), (2, 0.6), (3, 0.55))
    ])  # fmt: skip
    for given, verdict in ((pools, "holds"), (pools[pools["pools"] < 3], "cannot be told here")):
        told = wmh.claims(internal, external, real=True, features=given).set_index("section")["verdict"]
        assert told["section 2.2"] == verdict
    worse = wmh.claims(
        internal, external.assign(method=external["method"].map({"content": "dice", "dice": "content"})), real=True
    )
    assert worse.set_index("section").loc["abstract", "verdict"] == "does not hold"
    both = wmh.claims(internal, external, real=True, scans=external[external["subject"] < "s2"])
    assert "real scans: content" in both.set_index("section").loc["abstract", "evidence"]
    assert "[+0" in both.set_index("section").loc["abstract", "evidence"]
    seeds = pd.concat([internal.assign(seed=k) for k in range(3)])  # the same subjects again do not narrow an interval
    told_3 = wmh.claims(seeds, pd.concat([external.assign(seed=k) for k in range(3)]), real=True)
    pd.testing.assert_frame_equal(told_3, wmh.claims(internal, external, real=True))
    six = wmh.claims(internal, external[external["subject"].isin([f"s{k}" for k in range(6)])], real=True)  # p of .031
    assert six.set_index("section").loc["abstract", "verdict"] == "holds"
    inside, two = (pd.concat([t, t[t["method"] == "dice"].assign(method="tversky")]) for t in (internal, external))
    two = wmh.claims(inside, two[two["subject"].isin([f"s{k}" for k in range(6)])], real=True)  # .0625 after Holm
    assert two.set_index("section").loc["abstract", "verdict"] == "cannot be told here"
    few = wmh.claims(internal, external[external["subject"] < "s2"], real=True)  # s0, s1, s10, s11
    assert set(few["verdict"]) == {"cannot be told here"}
    assert few["evidence"].str.endswith("; too few subjects").all()
    unclear = pd.DataFrame(rows("content", 0.52, 0.2, 3) + rows("dice", 0.5, 0.2, 4))
    told = wmh.claims(internal, unclear, real=False).set_index("section")
    assert told.loc["abstract", "verdict"] == "cannot be told here (phantoms)"


# -- a user's own scan


@pytest.fixture(scope="module")
def network():
    return models.build("wmh_unet_slices", filters=(4, 8))


def test_segment_keeps_grid_and_orientation(done, network, tmp_path):
    row = wmh.find(done.data).iloc[0]
    image = volumes.load(row["flair"])
    found = wmh.segment(row["flair"], model=network, out=tmp_path)
    volumes.check_same_grid(found, image)
    assert found.get_data_dtype() == np.uint8
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{row.name.rpartition('/')[2]}_FLAIR_{e}" for e in ("measures.csv", "overlay.png", "seg.nii.gz")
    ]
    ornt = nib.orientations.axcodes2ornt("SAL")  # slices along another axis, two axes the other way round
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), ornt))
    assert turned.shape != image.shape
    other = wmh.segment(turned, model=network)
    assert other.shape == turned.shape
    np.testing.assert_array_equal(volumes.array(volumes.canonical(other)), volumes.array(volumes.canonical(found)))


def test_segment_refuses_another_studys_network(done):
    scan = wmh.find(done.data)["flair"].iloc[0]
    for other in ("atrium_unet3d", "ibsr_unet_slices", "wmh_generator"):
        with pytest.raises(ValueError, match="is no network of this study's recipe"):
            wmh.segment(scan, model=models.build(other, filters=(2, 4)))


def test_segment_warns_where_the_skull_may_be_on(network):
    x = np.ones((16, 16, 4), "f")
    x[8:] = 2
    image, brain = (nib.Nifti1Image(a, np.eye(4)) for a in (x, (x == 2).astype("u1")))
    with pytest.warns(UserWarning, match="scan: 100 % of its voxels are not 0, so it may have its skull on"):
        wmh.segment(image, model=network)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        wmh.segment(image, brain_mask=brain, model=network)


def test_segment_refuses_what_is_no_scan(network):
    x = np.random.default_rng(0).random((16, 16, 4)).astype("f")
    image = nib.Nifti1Image(x, np.eye(4))
    with pytest.raises(ValueError, match="every voxel is 0"):
        wmh.segment(nib.Nifti1Image(0 * x, np.eye(4)), model=network)
    with pytest.raises(ValueError, match="not one 3D scan"):
        wmh.segment(nib.Nifti1Image(np.stack([x, x], -1), np.eye(4)), model=network)
    with pytest.raises(ValueError, match="brain mask is empty"):
        wmh.segment(image, brain_mask=nib.Nifti1Image(np.zeros(x.shape, "u1"), np.eye(4)), model=network)
    with pytest.raises(ValueError, match="different grids"):
        wmh.segment(image, brain_mask=nib.Nifti1Image(np.ones(x.shape, "u1"), 2 * np.eye(4)), model=network)


def test_measures_by_hand():
    data = np.zeros((10, 10, 10), np.uint8)
    data[0, 0, 0] = 1
    data[5:7, 5, 5] = 1
    data[9, 9, 9] = 2
    scan = np.where(data == 1, 3.0, 1.0).astype("f")
    affine = np.diag([1, 1, 5, 1.0])
    row = wmh.measure(nib.Nifti1Image(data, affine), nib.Nifti1Image(scan, affine)).iloc[0]
    assert row["lesions"] == 2
    assert row["volume_ml"] == pytest.approx(0.015)
    assert row["largest_ml"] == pytest.approx(0.010)
    assert row["contrast"] == pytest.approx(3)
    empty = wmh.measure(nib.Nifti1Image(0 * data, affine)).iloc[0]
    assert empty["lesions"] == 0
    assert np.isnan(empty["mean_ml"])
    with pytest.raises(ValueError, match=r"label values \[3\]"):
        wmh.measure(nib.Nifti1Image(np.where(data == 2, 3, data).astype("u1"), affine))


def test_published_tables_are_complete():
    table = common.published("wmh")
    assert len(table) == 10 * 5 + 5
    assert (
        table.query("dataset == 'holdout' and loss == 'content' and metric == 'lesion recall'")["mean"].item() == 0.79
    )


def test_the_full_size_net_is_trained_as_the_report_has_it(done, monkeypatch):
    seen = {}

    def spy(run, parts, **settings):
        seen.update(profile=run.profile, **settings)
        raise InterruptedError  # a step of it takes seconds

    monkeypatch.setattr(wmh.experiments, "train", spy)
    with pytest.raises(InterruptedError):
        wmh.experiments.full_net(done, features="random", minutes=1, verbose=0)
    assert (seen["profile"].size, seen["profile"].filters, seen["loss"]) == (224, None, "content")
    assert wmh.build(seen["profile"]).count_params() == 12_134_241
    layers = [x for x in wmh.build(seen["profile"]).layers if type(x).__name__ == "BatchNormalization"]
    assert {x.momentum for x in layers} == {0.9}
