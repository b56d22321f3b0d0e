"""IBSR: our own recipe of slices in three planes."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from segkit import models, volumes
from segkit.studies import ibsr
from segkit.studies.ibsr import recipe

FEW = (recipe.NETWORK, "no mirroring", "without N4 at prediction")  # steps of the recipe, where each would be scored


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    run = ibsr.start("smoke", results=tmp_path_factory.mktemp("ibsr") / "results_dir")
    ibsr.preprocess(run.data, run.results, n4=False, jobs=1)
    ibsr.standardise(run.data, run.results, shape=run.profile.grid)
    ibsr.extract(run.data, run.results)
    return run


def test_cubes_hold_the_brain_and_its_labels(done):
    names = ibsr.split(ibsr.find(done.data))["train"]
    known = recipe.cubes(done.results, names)
    image, label = known[names[0]]
    assert image.shape == label.shape
    assert len(set(label.shape)) == 1
    assert label.shape[0] % recipe.MULTIPLE == 0
    whole = volumes.array(ibsr.load_padded(done.results, names[0])[1])
    assert np.bincount(label.ravel())[1:].tolist() == np.bincount(whole.ravel())[1:].tolist()
    assert (image[label > 0] > image.min()).all()
    unlabelled = ibsr.find(done.data).query("set == 'Test_Set'").index[0]
    with pytest.raises(ValueError, match=f"{unlabelled}: has no labels"):
        recipe.cubes(done.results, [unlabelled])


def test_views_are_the_planes_and_their_mirror_images():
    image, label = np.arange(24.0).reshape(2, 3, 4), np.zeros((2, 3, 4), np.uint8)
    label[0, 1, 2] = 3
    found = recipe.views({"a": (image, label)}, (0, 2))
    assert list(found) == ["a plane 0", "a plane 0 mirrored", "a plane 2", "a plane 2 mirrored"]
    np.testing.assert_array_equal(found["a plane 0"][0][..., 1], image[1])
    np.testing.assert_array_equal(found["a plane 0 mirrored"][0][..., 1], image[0])
    assert found["a plane 2 mirrored"][1][1, 1, 2] == 3


def test_the_recipe_trains_on_planes_and_labels_any_orientation(done):
    parts = ibsr.split(ibsr.find(done.data))
    model, history = recipe.train_recipe(done, parts, verbose=0)
    assert np.isfinite(history["loss"]).all()
    assert model.count_params() < models.build(recipe.NETWORK).count_params()
    image, _ = ibsr.load_padded(done.results, parts["validation"][0])
    found = recipe.predict_recipe(model, image, spacing_mm=volumes.spacing(image))
    assert volumes.array(found).dtype == np.uint8
    volumes.check_same_grid(image, found)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("PSL"))
    back = recipe.predict_recipe(model, image.as_reoriented(turn), spacing_mm=volumes.spacing(image))
    assert (volumes.array(volumes.canonical(back)) == volumes.array(found)).mean() > 0.999
    own = ibsr.segment(image, model=model, n4=False)
    np.testing.assert_array_equal(volumes.array(own), volumes.array(recipe.predict_recipe(model, image)))
    one = recipe.predict_recipe(model, image, planes=(1,), mirror=False, spacing_mm=volumes.spacing(image))
    assert (volumes.array(one) != volumes.array(found)).any()


def test_mirroring_makes_the_labels_of_a_mirrored_head_the_mirrored_labels(done):
    parts = ibsr.split(ibsr.find(done.data))
    model = models.build(recipe.NETWORK, filters=done.profile.filters)
    image, _ = ibsr.load_padded(done.results, parts["validation"][0])
    flipped = volumes.like(np.ascontiguousarray(volumes.array(image)[::-1]), image)
    both = [
        volumes.array(recipe.predict_recipe(model, i, planes=(1,), spacing_mm=volumes.spacing(i)))
        for i in (image, flipped)
    ]
    assert (both[0] == both[1][::-1]).mean() > 0.99  # not all: sides are padded at one end


# -- experiments


def test_cells_resume_and_rows_of_another_recipe_are_refused(done, monkeypatch):
    from segkit.studies.ibsr import experiments

    cells = {
        "as it is": {},
        "raw intensities": {"intensities": "raw"},
        "smoothed": {"images": "smoothed"},
        "without N4": {"images": "without_n4"},
    }
    monkeypatch.setattr(experiments, "ABLATION", cells)
    rows = experiments.ablation(done, verbose=0)
    assert list(rows["cell"].unique()) == list(cells)
    parts = ibsr.split(ibsr.find(done.data))
    for _, group in rows.groupby("cell"):
        assert set(group["subject"]) == set(parts["validation"])
        assert len(group) == len(parts["validation"]) * len(ibsr.LABELS)
    calls = []
    monkeypatch.setattr(experiments, "train", lambda *a, **k: calls.append(k))
    again = experiments.ablation(done, verbose=0)
    assert calls == []
    assert len(again) == len(rows)
    other = dataclasses.replace(done, seed=1)
    with pytest.raises(ValueError, match="holds rows of another recipe"):
        experiments.ablation(other, verbose=0)
    # what concerns our recipe alone leaves them as they are
    tuned = dataclasses.replace(done, profile=dataclasses.replace(done.profile, recipe_minutes=7, recipe_batch=3))
    assert len(experiments.ablation(tuned, verbose=0)) == len(rows)
    assert calls == []
    with pytest.raises(ValueError, match="ablation has no cell 'colour'; choose of as it is, raw"):
        experiments.ablation(done, cells=["colour"], verbose=0)
    assert (done.results / "tables" / "histories" / "ablation_as_it_is.csv").is_file()


def test_some_cells_alone_are_run_from_the_command_line(done, monkeypatch, capsys):
    from segkit.studies.ibsr import experiments

    given = []
    monkeypatch.setattr(experiments, "start", lambda *a, **k: done)
    monkeypatch.setattr(
        experiments,
        "WHAT",
        {k: lambda run, **more: given.append(more) or ibsr.find(run.data) for k in experiments.WHAT},
    )
    monkeypatch.setattr("sys.argv", ["experiments", "losses", "--data", ".", "--cells", "Dice", "focal"])
    experiments.main()
    assert given == [{"cells": ["Dice", "focal"]}]
    monkeypatch.setattr("sys.argv", ["experiments", "recipe", "--data", ".", "--cells", "Dice"])
    with pytest.raises(SystemExit):
        experiments.main()
    assert "recipe has no cells to choose from" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["ibsr_resunet2d", "ibsr_denseunet2d", "ibsr_unet3d"])
def test_every_network_of_the_report_trains_and_labels_a_scan(network, done):
    slim = dataclasses.replace(done.profile, filters=(4, 8), recipe_steps=2)
    parts = ibsr.split(ibsr.find(done.data))
    model, history = ibsr.train(network, done.results, parts, slim, verbose=0)
    assert np.isfinite(history["loss"]).all()
    image, _ = ibsr.load_padded(done.results, parts["validation"][0])
    found = ibsr.predict(model, image, spacing_mm=volumes.spacing(image))
    volumes.check_same_grid(image, found)


def test_every_cell_names_settings_that_exist():
    from segkit import losses as known
    from segkit.studies.ibsr import experiments

    for cells in (experiments.NETWORKS, experiments.LOSSES, experiments.ABLATION):
        for name, settings in cells.items():
            known.get(settings.get("loss", "cross_entropy"), **settings.get("loss_settings", {}))
            own = {k: v for k, v in settings.items() if k in ("dropout", "normalization", "normalize_decoder", "add")}
            assert models.build(settings.get("network", "ibsr_unet2d_4level"), filters=(2, 2), **own), name


def test_the_recipe_is_chosen_on_the_selection_subjects_and_then_learns_from_them(done, monkeypatch):
    from segkit import training
    from segkit.studies.ibsr import experiments

    monkeypatch.setattr(experiments, "STEPS", {k: experiments.STEPS[k] for k in FEW})
    monkeypatch.setattr(experiments, "TRIED", {"CSF × 0.8": experiments.TRIED["CSF × 0.8"]})
    monkeypatch.setattr(experiments, "VARIANTS", {"whole slices": experiments.VARIANTS["whole slices"]})
    parts = ibsr.split(ibsr.find(done.data))
    chosen = experiments.select(done, verbose=0)
    assert set(chosen["subject"]) == set(parts["selection"])
    cells = [*experiments.STEPS, *experiments.TRIED, *experiments.VARIANTS]
    assert list(chosen["cell"].unique()) == cells
    assert chosen.groupby("cell")["model"].first()[list(experiments.STEPS)].nunique() == 1
    assert chosen["model"].nunique() == 1 + len(experiments.VARIANTS)
    learned = training.read_run(done.results / "runs" / "selection")[0]["settings"]["train"]["subjects"]
    assert {s.split()[0] for s in learned} == set(parts["train"])
    rows = experiments.recipe(done, verbose=0)
    assert set(rows["subject"]) == set(parts["validation"])
    learned = training.read_run(done.results / "runs" / "recipe")[0]["settings"]["train"]["subjects"]
    assert {s.split()[0] for s in learned} == {*parts["train"], *parts["selection"]}
    monkeypatch.setattr(experiments, "train_recipe", None)  # not trained again, even where its run folder is gone
    assert len(experiments.recipe(done, verbose=0)) == len(rows)
    assert len(experiments.select(done, verbose=0)) == len(chosen)
    # what was chosen by them leaves the rows of the selection as they are, and voids those of the recipe
    monkeypatch.setattr(experiments, "CHOSEN", recipe.CHOSEN | {"tidy": True})
    assert len(experiments.rows(done, "selection")) == len(chosen)
    with pytest.raises(ValueError, match="holds rows of another recipe"):
        experiments.recipe(done, verbose=0)


def test_squares_lie_around_labelled_pixels():
    from segkit import augment

    still = augment.slices(flips=(), rotate=0, scale=0, gain=0)
    image, label = np.arange(80.0 * 96).reshape(80, 96, 1).astype(np.float32), np.zeros((80, 96), np.uint8)
    label[5, 90] = 2
    square, found = recipe.cut_around(still, 16, margin=4)(image, label, np.random.default_rng(0))
    assert square.shape == (16, 16, 1)
    row, column = (int(v) for v in np.argwhere(found)[0])
    assert square[row, column, 0] == 5 * 96 + 90
    larger, _ = recipe.cut_around(still, 88)(image, label, np.random.default_rng(0))
    assert larger.shape == (80, 88, 1)  # as much as there is


def test_small_parts_of_csf_become_what_is_next_likely(done):
    import keras

    inputs = keras.Input((None, None, 3))

    def guess(x):  # the middle slice's own value tells: bright is CSF, then grey matter
        bright = keras.ops.cast(x[..., 1:2] > 1, "float32")
        return keras.ops.concatenate([0 * bright, 0.6 * bright, 0.4 * bright + 0.1, 0.3 * (1 - bright)], axis=-1)

    model = keras.Model(inputs, keras.layers.Lambda(guess)(inputs))
    data = np.ones((32, 32, 32), np.float32)
    data[4:8, 4:8, 4:8], data[20, 20, 20:22] = 9, 9
    image = nib.Nifti1Image(data, np.diag([*ibsr.SPACING_MM, 1]))
    plain = volumes.array(recipe.predict_recipe(model, image))
    kept = volumes.array(recipe.predict_recipe(model, image, smallest_csf=10))
    assert ((plain == 1).sum(), (kept == 1).sum()) == (66, 64)
    assert (kept[20, 20, 20:22] == 2).all()
    weighed = volumes.array(recipe.predict_recipe(model, image, weights=(1, 0.8, 1, 1)))
    assert (weighed[data > 1] == 2).all()
    twice = volumes.array(recipe.predict_recipe(model, image, planes=(0, 0, 2)))
    np.testing.assert_array_equal(twice, plain)


def test_every_step_labels_a_scan(done):
    from segkit.studies.ibsr import experiments

    model = models.build(recipe.NETWORK, filters=(4, 8))
    name = ibsr.split(ibsr.find(done.data))["validation"][0]
    for cell, settings in (experiments.STEPS | experiments.TRIED).items():
        method, results = experiments.step(done, model, **(recipe.PLAIN | settings))
        image, _ = ibsr.load_padded(results, name)
        found = method(image)
        volumes.check_same_grid(image, found)
        assert volumes.array(found).max() <= 3, cell


def test_the_recipe_is_taken_apart_and_released(done, monkeypatch):
    from segkit.studies.ibsr import experiments

    monkeypatch.setattr(experiments, "STEPS", {k: experiments.STEPS[k] for k in FEW})
    rows = experiments.recipe(done, verbose=0)
    assert set(rows["cell"]) == set(FEW)
    means = experiments.ensemble(done, members=2, verbose=0)
    both = means[means["members"] == 1]["dice"].tolist(), rows[rows["cell"] == recipe.NETWORK]["dice"].tolist()
    assert both[0] == pytest.approx(both[1], abs=1e-4)
    assert means[means["members"] == 2]["dice"].tolist() != both[0]
    table = experiments.release_recipe(done, verbose=0)
    assert table["MB"].iloc[0] < 5
    assert set(table["subject"]) == set(rows["subject"])
    assert (done.results.parent / "saved_models" / f"{recipe.NETWORK}.scores.csv").is_file()


def test_a_network_that_was_not_scored_is_not_released(done, monkeypatch):
    from segkit.studies.ibsr import experiments

    rows = experiments.recipe(done, verbose=0).assign(model="sha256 of another")
    monkeypatch.setattr(experiments, "recipe", lambda *a, **k: rows)
    with pytest.raises(ValueError, match=r"best.keras: is not the network that was scored in tables/recipe.csv"):
        experiments.release_recipe(done, verbose=0)


def test_members_of_an_ensemble_have_the_minutes_of_the_recipe(done, monkeypatch):
    """The full profile gives minutes; the recipe is then its first member."""
    from segkit.studies.ibsr import experiments

    profile = dataclasses.replace(done.profile, recipe_minutes=0.02, epochs=200)
    run = dataclasses.replace(done, profile=profile, results=done.results.with_name("members"))
    monkeypatch.setattr(experiments, "STEPS", {recipe.NETWORK: {}})
    experiments.prepare(run)
    rows = experiments.recipe(run, verbose=0)
    means = experiments.ensemble(run, members=1, verbose=0)
    assert means["dice"].tolist() == pytest.approx(rows["dice"].tolist(), abs=1e-4)
