"""QSM: our recipe, its atlas and release, and a user's own map."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from segkit import models, training, volumes
from segkit.studies import common, qsm


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Phantoms of the smoke profile through 01 and 02."""
    run = qsm.start("smoke", results=tmp_path_factory.mktemp("qsm"))
    qsm.experiments.prepare(run)
    return run


@pytest.fixture(scope="module")
def network():
    """Untrained, with an empty atlas."""
    atlas = nib.Nifti1Image(np.zeros((48, 64, 48, 5), np.uint8), np.eye(4))
    return qsm.Nuclei(models.build("qsm_nuclei", filters=(4, 8), stem=1), atlas)


# -- a user's own map


def test_segment_keeps_the_grid_whatever_orientation_and_voxels(done, network, tmp_path):
    row = qsm.find(done.data).iloc[0]
    image = volumes.load(row["qsm"])
    found = qsm.segment(row["qsm"], model=network, out=tmp_path)
    volumes.check_same_grid(found, image)
    assert found.get_data_dtype() == np.uint8
    assert set(np.unique(volumes.array(found))) <= set(range(6))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"QSM_w_bg_{e}" for e in ("measures.csv", "overlay.png", "seg.nii.gz")
    ]
    turned = nib.Nifti1Image(volumes.array(image)[::-1].swapaxes(0, 2), image.affine @ np.array(
        [[0, 0, -1, image.shape[0] - 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]))  # fmt: skip
    other = qsm.segment(turned, model=network)
    np.testing.assert_array_equal(volumes.array(volumes.canonical(other)), volumes.array(volumes.canonical(found)))


def test_nuclei_at_the_border_of_the_box_are_looked_at_once_more(rng):
    import keras

    inputs = keras.Input((None, None, None, 6))
    bright = keras.layers.Conv3D(6, 1, activation="softmax")
    model = keras.Model(inputs, bright(inputs))
    weights = np.zeros((1, 1, 1, 6, 6), "f")
    weights[..., 0, 3] = 9  # of the map's own channel
    bright.set_weights([weights, np.array([0, -99, -99, -30, -99, -99], "f")])
    nuclei = qsm.Nuclei(model, nib.Nifti1Image(np.zeros((32, 32, 32, 5), np.uint8), np.eye(4)))
    brain = volumes.like(np.ones((64, 64, 64), np.uint8), nib.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4)))
    # in the box, across its border, beyond
    for where, wanted in ((slice(28, 38), 1000), (slice(42, 52), 1000), (slice(54, 64), 0)):
        data = rng.uniform(-1, 1, (64, 64, 64)).astype("f")
        data[where, 20:30, 20:30] = 20
        found = qsm.predict(nuclei, volumes.like(data, brain), brain)
        assert (volumes.array(found).argmax(axis=-1) == 3).sum() == wanted


def test_segment_takes_a_brain_mask_and_refuses_what_is_no_map(done, network):
    row = qsm.find(done.data).iloc[0]
    image, brain = volumes.load(row["qsm"]), volumes.load(row["brain_mask"])
    found = qsm.segment(image, brain_mask=brain, model=network)
    assert found.shape == image.shape
    with pytest.raises(ValueError, match="every voxel is 0"):
        qsm.segment(volumes.like(np.zeros(image.shape, "f"), image), model=network)
    with pytest.raises(ValueError, match="not one 3D map"):
        qsm.segment(nib.Nifti1Image(np.indices((4, 4, 4, 2)).sum(0).astype("f"), np.eye(4)), model=network)
    with pytest.raises(ValueError, match="no brain was found"):
        qsm.segment(image, brain_mask=volumes.like(0 * volumes.array(brain), brain), model=network)
    with pytest.raises(ValueError, match="different grids"):
        qsm.segment(image, brain_mask=nib.Nifti1Image(volumes.array(brain), np.eye(4)), model=network)
    with pytest.warns(UserWarning, match="unlike an adult's brain"):
        qsm.segment(nib.Nifti1Image(volumes.array(image), np.diag([0.5, 0.5, 0.5, 1])), model=network)


def test_the_brain_is_found_in_masked_maps_and_in_maps_with_background(done):
    from segkit import metrics

    row = qsm.find(done.data).iloc[0]
    image, brain = volumes.load(row["qsm"]), volumes.array(volumes.load(row["brain_mask"]))
    masked = volumes.array(image) * brain
    assert metrics.dice(brain, qsm.brain_of(masked, volumes.spacing(image))) > 0.97
    assert metrics.dice(brain, qsm.brain_of(masked + 0.3, volumes.spacing(image))) > 0.97  # another zero
    assert metrics.dice(brain, qsm.brain_of(volumes.array(image), volumes.spacing(image))) > 0.8


def test_measures_by_hand():
    data = np.zeros((10, 10, 10), np.uint8)
    data[:2, 0, 0] = 1
    data[5, 5, :5] = 4
    chi = np.where(data == 4, 0.06, 0.01).astype("f")
    affine = np.diag([1, 2, 2.5, 1])
    table = qsm.measure(nib.Nifti1Image(data, affine), nib.Nifti1Image(chi, affine))
    assert list(table.index) == list(qsm.LABELS)
    assert table.loc["putamen", "volume_ml"] == pytest.approx(5 * 5 / 1000)
    assert table.loc["putamen", "mean_ppm"] == pytest.approx(0.06)
    assert table.loc["amygdala", "voxels"] == 2
    assert np.isnan(table.loc["caudate", "mean_ppm"])
    assert list(qsm.measure(nib.Nifti1Image(data, affine)).columns) == ["volume_ml", "voxels"]
    with pytest.raises(ValueError, match="different grids"):
        qsm.measure(nib.Nifti1Image(data, affine), nib.Nifti1Image(chi, np.eye(4)))


def test_the_recipes_labels_are_voted_down_as_the_masks_were(done, monkeypatch):
    from segkit.studies.qsm import methods

    subject = qsm.find(done.data).index[0]
    cube = qsm.load_cube(done.results, subject, 64)[0]
    soft = np.zeros((*cube.shape, 6), "f")
    soft[..., 0] = 0.4
    soft[20:25, 20:24, 20:24, 2] = 0.6  # five voxels wide: the last block is half nucleus
    soft[40:42, 40:42, 40:42, 5] = 0.6
    soft[30:32, 30:32, 30, 1] = soft[30:32, 30:32, 31, 3] = 0.6  # two nuclei share a block: neither has more than half
    soft[30:32, 30:32, 50, 1] = soft[30:32, 30, 51, 3] = soft[30, 31, 51, 3] = 0.6  # four voxels, and three
    soft[30:32, 30:32, 40, 1] = soft[30:32, 30, 41, 1] = 0.6  # six
    monkeypatch.setattr(methods, "predict", lambda *a, **k: volumes.like(soft, cube))
    fine = qsm.recipe_method(None, done, dim=64)(subject)
    np.testing.assert_array_equal(fine, soft)
    small = qsm.recipe_method(None, done, dim=32)(subject)
    assert small.shape == (32, 32, 32, 6)
    found = small.argmax(axis=-1)
    assert (found[10:12, 10:12, 10:12] == 2).all()
    assert ((found == 2).sum(), (found == 5).sum()) == (8, 1)  # half a block is background, as in the masks
    assert (found[15, 15, 15], found[15, 15, 25], found[15, 15, 20], (found == 3).sum()) == (0, 0, 1, 0)


def test_votes_and_shares_by_hand(rng):
    from segkit.studies.qsm import recipe

    maps = []
    for k in range(3):  # left and right of the middle plane between voxels 9 and 10
        data = np.zeros((20, 20, 20), np.uint8)
        data[4 + k : 8, 8:12, 8:12] = data[12 : 16 - k, 8:12, 8:12] = 2
        maps.append(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1])))
    count = recipe.votes(maps, (14, 8, 8))
    assert count.affine[:3, 3].tolist() == [6, 12, 12]  # the box begins at voxel 3, 6, 6
    assert volumes.array(count)[:, 4, 4, 1].tolist() == [0, 1, 2, 3, 3, 0, 0, 0, 0, 3, 3, 2, 1, 0]
    whole = recipe.shares(volumes.array(count), 3)
    np.testing.assert_allclose(whole[1:5, 4, 4, 1], [1 / 3, 2 / 3, 1, 1])
    own = recipe.cut(
        volumes.array(maps[0]), (3, 6, 6), (14, 8, 8)
    )  # its vote alone is out: the first voxel has none left
    np.testing.assert_allclose(recipe.shares(volumes.array(count), 3, own)[1:5, 4, 4, 1], [0, 1 / 2, 1, 1])
    random = rng.integers(0, 4, (6, 5, 4, 5))
    np.testing.assert_array_equal(recipe.shares(random, 3), recipe.shares(random, 3)[::-1])


def test_a_box_may_reach_out_of_the_volume():
    from segkit.studies.qsm import recipe

    data = np.arange(27).reshape(3, 3, 3)
    assert recipe.cut(data, (1, 1, 1), (1, 1, 1)).item() == 13
    out = recipe.cut(data, (-1, 0, 2), (3, 3, 3))
    assert out.shape == (3, 3, 3)
    assert not out[0].any()
    assert not out[:, :, 1:].any()
    np.testing.assert_array_equal(out[1:, :, 0], data[:2, :, 2])
    assert not recipe.cut(data, (9, 9, 9), (2, 2, 2)).any()


BOX = (96, 112, 96)
IN_BOX = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in BOX), indexing="ij"), axis=-1)  # mm


def balls(mm):
    """Ten nuclei as balls of 6 mm, in atlas mm."""
    out = np.zeros(mm.shape[:3], np.uint8)
    for value, (x, y, z) in {
        1: (23, 6, -18),
        2: (14, 19, 10),
        3: (28, -16, -14),
        4: (26, 11, 0),
        5: (11, -9, 7),
    }.items():
        for sign in (-1, 1):
            out[((mm - (sign * x, y, z)) ** 2).sum(axis=-1) < 36] = value
    return out


def atlas_of_balls():
    shares = np.stack([100 * (balls(IN_BOX) == v) for v in range(1, 6)], axis=-1).astype(np.uint8)
    return nib.Nifti1Image(shares, nib.affines.from_matvec(np.eye(3), IN_BOX[0, 0, 0]))


def test_a_box_of_probabilities_is_laid_into_its_cube(rng):
    from segkit.studies.qsm import recipe

    cube = nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), nib.affines.from_matvec(np.eye(3), [-4, -4, -4]))
    soft = rng.dirichlet(np.ones(6), (4, 4, 4)).astype("f")
    out = recipe.on_cube(
        nib.Nifti1Image(soft, nib.affines.from_matvec(np.eye(3), [-5, 0, 2])), cube
    )  # begins at voxel -1, 4, 6
    np.testing.assert_array_equal(out[:3, 4:8, 6:8], soft[1:, :, :2])
    np.testing.assert_allclose(out.sum(axis=-1), 1, rtol=1e-5)
    beyond = np.ones(cube.shape, bool)
    beyond[:3, 4:8, 6:8] = False
    assert (out[beyond] == [1, 0, 0, 0, 0, 0]).all()


def test_the_way_to_the_atlas_is_found_from_the_nuclei(rng):
    from segkit.studies.qsm import recipe

    atlas = atlas_of_balls()
    affine = atlas.affine
    for _ in range(5):
        truth = nib.affines.from_matvec(
            np.diag(rng.uniform(0.9, 1.15, 3)) + rng.uniform(-0.08, 0.08, (3, 3)), rng.uniform(-15, 15, 3)
        )
        there = nib.affines.from_matvec(np.eye(3), np.linalg.inv(truth)[:3, 3]) @ affine
        mm = nib.affines.apply_affine(truth @ there, np.argwhere(np.ones(BOX))).reshape(*BOX, 3)
        found = recipe.place_in_atlas(nib.Nifti1Image(balls(mm), there), atlas)
        np.testing.assert_allclose(found[:3, :3], truth[:3, :3], atol=0.02)
        np.testing.assert_allclose(found[:3, 3], truth[:3, 3], atol=0.6)
    one_side = balls(IN_BOX)
    one_side[48:] *= one_side[48:] != 5  # no right thalamus
    assert recipe.place_in_atlas(nib.Nifti1Image(one_side, affine), atlas) is None
    assert (
        recipe.place_in_atlas(nib.Nifti1Image(balls(IN_BOX), np.diag([2.0, 2, 2, 1])), atlas) is None
    )  # half the size
    assert recipe.place_in_atlas(nib.Nifti1Image(0 * one_side, affine), atlas) is None


def test_the_second_look_lays_the_atlas_over_what_the_first_found(rng):
    import keras

    atlas, label = atlas_of_balls(), balls(IN_BOX)
    affine = atlas.affine
    inputs = keras.Input((None, None, None, 6))

    def copy(x):  # the map's value tells the nucleus; with the atlas at hand, the atlas alone is believed
        of_map = -100 * keras.ops.square(x[..., :1] / 10 - keras.ops.arange(6, dtype="float32"))
        of_atlas = keras.ops.concatenate([0 * x[..., :1] + 0.5, x[..., 1:]], axis=-1) * 50
        blind = keras.ops.cast(keras.ops.max(x[..., 1:]) == 0, "float32")
        return keras.ops.softmax(blind * of_map + (1 - blind) * of_atlas)

    nuclei = qsm.Nuclei(keras.Model(inputs, keras.layers.Lambda(copy)(inputs)), atlas)
    padded = np.pad(label, 20)
    for shift in ((0, 0, 0), (9, -6, 12)):
        moved = np.roll(padded, shift, (0, 1, 2))
        noise = rng.uniform(-1, 1, moved.shape)  # its percentiles are what the map is divided by
        image = nib.Nifti1Image(np.where(moved, 10 * moved, noise).astype("f"), affine)
        soft = qsm.predict(nuclei, image, nib.Nifti1Image(np.ones(moved.shape, np.uint8), affine))
        assert soft.shape == (*BOX, 6)
        found = nib.Nifti1Image(volumes.array(soft).argmax(axis=-1).astype(np.uint8), soft.affine)
        np.testing.assert_allclose(
            soft.affine[:3, 3], affine[:3, 3] + 20 + np.array(shift), atol=0.05
        )  # the atlas's box
        back = volumes.array(volumes.resample(found, like=image, kind="label"))
        assert (back == moved).mean() > 0.999


def test_the_third_look_mends_where_the_first_misplaced_the_atlas(rng):
    import keras

    atlas, label = atlas_of_balls(), balls(IN_BOX)
    inputs = keras.Input((None, None, None, 6))

    def of_map(x):  # the map's value tells the nucleus; without the atlas, three voxels astray
        soft = keras.ops.softmax(-100 * keras.ops.square(x[..., :1] / 10 - keras.ops.arange(6, dtype="float32")))
        blind = keras.ops.cast(keras.ops.max(x[..., 1:]) == 0, "float32")
        return blind * keras.ops.roll(soft, 3, axis=2) + (1 - blind) * soft

    nuclei = qsm.Nuclei(keras.Model(inputs, keras.layers.Lambda(of_map)(inputs)), atlas)
    moved = np.pad(label, 20)
    noise = rng.uniform(-1, 1, moved.shape)
    image = nib.Nifti1Image(np.where(moved, 10 * moved, noise).astype("f"), atlas.affine)
    soft = qsm.predict(nuclei, image, nib.Nifti1Image(np.ones(moved.shape, np.uint8), atlas.affine))
    np.testing.assert_allclose(soft.affine[:3, 3], atlas.affine[:3, 3] + 20, atol=0.3)


def test_a_nucleus_gets_another_mean_and_the_rest_stays():
    from segkit import augment
    from segkit.studies.qsm.recipe import recoloured

    label = np.zeros((24, 24, 24), np.uint8)
    label[4:12, 4:12, 4:12] = 2
    image = np.zeros((24, 24, 24, 1), np.float32)
    still = augment.volumes(flips=(), rotate=0, scale=0, gain=0)
    added = []
    for seed in range(30):
        out, same = recoloured(still, 0.3)(image, label, np.random.default_rng(seed))
        np.testing.assert_array_equal(same, label)
        assert np.abs(out[16:]).max() < 1e-6
        assert out[6:10, 6:10, 6:10].std() < 1e-2
        added.append(out[8, 8, 8, 0])
    assert 0.15 < np.std(added) < 0.5


def test_a_map_in_no_atlas_is_scored_as_segment_finds_it(done, network):
    """As 04_testing does with the released model, whose atlas has other voxels than the quick profile's cubes."""
    subject = qsm.find(done.data).index[0]
    soft = qsm.recipe_method(network, done, dim=32, registered=False)(subject)
    assert soft.shape == (32, 32, 32, 6)
    cube, brain, _ = qsm.load_cube(done.results, subject, 64)
    own = qsm.segment(cube, model=network, brain_mask=brain)
    whole = qsm.recipe_method(network, done, dim=64, registered=False)(subject)
    np.testing.assert_array_equal(whole.argmax(axis=-1), volumes.array(own))
    with pytest.raises(ValueError, match="voxels are not the atlas's"):
        qsm.recipe_method(network, done, dim=32)(subject)


def test_a_network_without_an_atlas_does_not_segment_maps(done, tmp_path):
    path = models.save(
        models.build("qsm_unet3d", filters=(2, 4), dropout=0), tmp_path / "nuclei_mask_dim128_sub28_e5.keras"
    )
    with pytest.raises(FileNotFoundError, match="has no atlas beside it .*so it is not our recipe"):
        qsm.segment(qsm.find(done.data).iloc[0]["qsm"], model=path)


def test_a_moved_map_and_its_labels_stay_together_and_shrink_alike(rng):
    from segkit.studies.qsm import methods

    grids = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in (60, 70, 50)), indexing="ij"), axis=-1)
    known = np.zeros((60, 70, 50), np.uint8)
    for value, centre in ((1, (20, 25, 20)), (4, (40, 45, 30))):
        known[((grids - centre) ** 2).sum(axis=-1) < 64] = value
    affine = nib.affines.from_matvec(np.eye(3), (-30, -40, -20))
    for k in range(3):
        image, label_map = methods.moved(
            [nib.Nifti1Image(known.astype("f"), affine), nib.Nifti1Image(known, affine)],
            ["image", "label"],
            np.random.default_rng(k),
        )
        volumes.check_same_grid(image, label_map)
        assert volumes.spacing(image) != (1, 1, 1)
        found, ml = volumes.array(label_map), np.prod(volumes.spacing(image))
        ends = [nib.affines.apply_affine(image.affine, np.argwhere(found == v).mean(axis=0)) for v in (1, 4)]
        size = np.linalg.norm(ends[1] - ends[0]) / np.linalg.norm([20, 20, 10])
        assert 0.84 < size < 1.01
        assert (found == 4).sum() * ml == pytest.approx((known == 4).sum() * size**3, rel=0.06)
        assert volumes.array(image)[found == 4].mean() == pytest.approx(4, abs=0.5)
        direction = ends[1] - ends[0]
        assert not np.allclose(
            direction / np.linalg.norm(direction), np.array((2, 2, 1)) / 3, atol=0.01
        )  # it was turned


def test_maps_that_share_no_grid_have_no_atlas(tmp_path):
    for subject, shift in (("a", 0), ("b", 3)):
        folder = tmp_path / "padded" / subject
        affine = nib.affines.from_matvec(np.eye(3), (shift, 0, 0))
        for name in qsm.file_names(64).values():
            volumes.save(nib.Nifti1Image(np.ones((64, 64, 64), np.uint8), affine), folder / name)
    with pytest.raises(ValueError, match="register them first .*: a and b lie on different grids"):
        qsm.atlas_vote(tmp_path, ["a", "b"], dim=64)


def test_the_release_learns_from_varied_maps_and_is_scored_on_others(tmp_path, monkeypatch, hoa_map):
    maps, others = tmp_path / "maps", tmp_path / "others"
    for k in range(7):
        volumes.save(hoa_map(shift=(k, 0, 0), half=3), maps / f"{k}.nii.gz")
    volumes.save(hoa_map(half=3), others / "another.nii.gz")
    monkeypatch.setattr(common, "home", lambda: tmp_path)
    run = qsm.start("smoke", data=maps, results=tmp_path / "results_dir")
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, batch_size=1))
    qsm.experiments.prepare(run)
    (test,) = qsm.experiments.sides(run)["test"]
    with pytest.raises(ValueError, match=f"has no label map of the test subject {test}"):
        qsm.experiments.release_all(run, maps=others, verbose=0)
    scores = qsm.experiments.release_all(run, maps=maps, verbose=0)
    assert set(scores["subject"]) == {test}
    assert set(scores["simulation"]) == {"study", "varied", "moved"}
    assert scores[scores["simulation"] == "moved"]["voxel"].str.match(r"[\d.]+ × [\d.]+ × [\d.]+").all()
    (path,) = qsm.released()
    record = json.loads(path.with_suffix(".run.json").read_text())
    learned = record["settings"]["train"]["subjects"]
    assert test not in learned
    assert {s.rstrip("*") for s in learned} == {str(k) for k in range(7)} - {test}
    assert sum(s.endswith("*") for s in learned) == 4  # those of the run, simulated as in the study too
    assert record["settings"]["train"]["augment"]["near"]["recoloured"] > 0
    assert record["settings"]["train"]["augment"]["far"]["recoloured"] > 0
    atlas = qsm.load_model().atlas
    assert atlas.shape == (*run.profile.box, 5)
    assert volumes.array(atlas).max() == 100
    path.unlink()
    again = qsm.experiments.release_all(
        run, maps=maps, verbose=0
    )  # what is there is neither trained nor released again
    assert not path.is_file()
    np.testing.assert_allclose(again["dice"], scores["dice"], atol=1e-5)

    table, steps = run.results / "tables" / "release.csv", scores["steps"].iloc[0]
    table.unlink()
    qsm.experiments.release_all(run, maps=maps, verbose=0)  # the finished run, released again
    for _ in range(2):  # and on from it, twice
        table.unlink()
        shutil.rmtree(run.results / "runs" / "released_qsm_nuclei")
        wanted, fit = qsm.load_model().model.get_weights(), training.fit

        def begins_with(model, *args, wanted=wanted, fit=fit, **settings):
            for found, here in zip(model.get_weights(), wanted, strict=True):
                np.testing.assert_array_equal(found, here)
            return fit(model, *args, **settings)

        monkeypatch.setattr(training, "fit", begins_with)
        further = qsm.experiments.release_all(run, maps=maps, onwards=True, verbose=0)
        monkeypatch.setattr(training, "fit", fit)
    assert set(further["steps_before"]) == {2 * steps}
    assert "start" in json.loads(path.with_suffix(".run.json").read_text())["settings"]
