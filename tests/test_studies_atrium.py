"""The atrium study: its layout and guards, its steps and chain, a user's own scan."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import metrics, models, phantoms, splits, volumes
from segkit.studies import atrium, common


def write(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.uint8), np.diag([-2, -2, 3, 1]) if affine is None else affine), path)
    return path


def tiny(folder, names=("a", "b", "c"), test=()):
    rng = np.random.default_rng(0)
    for i, name in enumerate((*names, *test)):
        label = np.zeros((20 + i, 16, 8), np.uint8)
        label[6:14, 5:12, 2:6] = 1
        write(folder / "imagesTr" / f"{name}.nii.gz", 100 * label + rng.integers(0, 20, label.shape))
        if name in names:
            write(folder / "labelsTr" / f"{name}.nii.gz", label)
    pairs = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    listing = {"training": pairs, "test": [f"./imagesTr/{n}.nii.gz" for n in test]}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


# -- the data as they lie on disk


def test_find_reads_the_decathlons_layout(tmp_path):
    table = atrium.find(tiny(tmp_path, ("b", "a"), ("z",)))
    assert list(table.index) == ["a", "b", "z"]
    assert table["set"].to_dict() == {"a": "Tr", "b": "Tr", "z": "Ts"}
    assert table.loc["z", "label"] is None
    image, label = atrium.read(table.loc["a"])
    assert image.shape == label.shape
    assert atrium.read(table.loc["z"])[1] is None


def test_a_training_case_without_a_label(tmp_path):
    tiny(tmp_path)
    listing = json.loads((tmp_path / "dataset.json").read_text())
    del listing["training"][1]["label"]
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match="training case b has no label; add it, or move the case"):
        atrium.find(tmp_path)
    tiny(tmp_path)
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"b.nii.gz: missing, although dataset.json names it"):
        atrium.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "dataset.json: missing; the Decathlon's layout"),
        ("{", ValueError, "dataset.json: cannot be read"),
        ("[1]", ValueError, "dataset.json: cannot be read"),
        ('{"training": []}', ValueError, "names no case"),
        ('{"training": [{"label": "x"}]}', ValueError, "a case has no image"),
    ],
)
def test_listings_that_cannot_be_used(content, error, message, tmp_path):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(error, match=message):
        atrium.find(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder; give DATA"):
        atrium.find(tmp_path / "nowhere")


def test_a_case_that_stands_twice(tmp_path):
    tiny(tmp_path, ("a", "b", "a"))
    with pytest.raises(ValueError, match=r"cases \['a'\] stand twice"):
        atrium.find(tmp_path)


def test_labels_of_0_and_255_become_0_and_1(tmp_path):
    tiny(tmp_path)
    path = tmp_path / "labelsTr" / "a.nii.gz"
    before = volumes.array(volumes.load(path))
    write(path, 255 * before)
    np.testing.assert_array_equal(volumes.array(atrium.read(atrium.find(tmp_path).loc["a"])[1]), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: 0 * m, "holds no left atrium; give the right label"),
        (
            lambda m: m + (m > 0) * np.arange(m.shape[2]).astype(np.uint8),
            r"holds the values \[.*\], a mask has one besides 0",
        ),
        (lambda m: m[..., :-1], "has shape"),
    ],
)
def test_labels_that_cannot_be_used(change, message, tmp_path):
    tiny(tmp_path)
    path = tmp_path / "labelsTr" / "a.nii.gz"
    write(path, change(volumes.array(volumes.load(path))))
    with pytest.raises(ValueError, match=message) as error:
        atrium.read(atrium.find(tmp_path).loc["a"])
    assert "a.nii.gz" in str(error.value)


def test_one_slice_is_refused(tmp_path):
    tiny(tmp_path)
    for kind in ("imagesTr", "labelsTr"):
        path = tmp_path / kind / "a.nii.gz"
        write(path, volumes.array(volumes.load(path))[..., 3:4])
    with pytest.raises(ValueError, match=r"a.nii.gz.*(too few slices|three spatial axes)"):
        atrium.read(atrium.find(tmp_path).loc["a"])


def test_splits_are_the_studys_lists_where_all_cases_are_here(tmp_path):
    lists = {part: common.split("atrium", part) for part in ("train", "selection", "test")}
    assert [len(v) for v in lists.values()] == [14, 2, 4]
    assert lists["test"] == ["la_017", "la_018", "la_019", "la_020"]
    assert lists["selection"] == ["la_015", "la_016"]
    splits.check_disjoint(**lists)
    table = pd.DataFrame({"label": "x"}, index=sorted(sum(lists.values(), [])))
    assert atrium.split(table) == lists
    tested = []
    for fold in range(1, 6):
        parts = atrium.split(table, fold=fold)
        splits.check_disjoint(**parts)
        assert sorted(sum(parts.values(), [])) == list(table.index)
        tested += parts["test"]
    assert sorted(tested) == list(table.index)
    own = atrium.find(tiny(tmp_path))
    assert atrium.split(own) == {"train": ["a"], "selection": ["b"], "test": ["c"]}
    with pytest.raises(ValueError, match="folds are lists of twenty cases, of which"):
        atrium.split(own, fold=1)
    some = table.drop(["la_004", "la_018"])  # roles stay when a case is missing, and cases on no list train
    some.loc["extra"] = "x"
    parts = atrium.split(some)
    assert parts["test"] == ["la_017", "la_019", "la_020"]
    assert parts["selection"] == ["la_015", "la_016"]
    assert "extra" in parts["train"]
    with pytest.raises(ValueError, match=r"of which \['la_004', 'la_018'\] are not here"):
        atrium.split(some, fold=2)
    with pytest.raises(ValueError, match="2 labelled cases are too few"):
        atrium.split(own.iloc[:2])


# -- steps


def test_padding_keeps_every_voxel_in_place_and_halving_forgets_it(tmp_path):
    data = tiny(tmp_path / "d")
    shapes = atrium.standardise(data, tmp_path / "r")
    assert set(shapes["shape"]) == {(32, 32, 8)}
    assert set(shapes["axes"]) == {"RAS"}
    image, label = atrium.read(atrium.find(data).loc["b"])
    padded, padded_label = atrium.load_padded(tmp_path / "r", "b")
    back = volumes.resample(padded_label, like=label, kind="label")
    np.testing.assert_array_equal(volumes.array(back), volumes.array(label))
    assert volumes.array(padded).min() == volumes.array(image).min()
    sizes = atrium.halve(data, tmp_path / "r", spacing_mm=(2, 2, 3))
    assert sizes["shape"].tolist() == [(10, 8, 4), (11, 8, 4), (11, 8, 4)]  # 20, 21 and 22 columns, halved
    small, share = atrium.load_small(tmp_path / "r", ["a"])["a"]
    assert share.sum() * 8 == pytest.approx(volumes.array(label).sum())  # the share keeps the volume
    assert small.mean() == pytest.approx(0, abs=0.1)
    wide, wider = atrium.load_small(tmp_path / "r", ["a"], shape=(16, 16))["a"]
    assert wide.shape == wider.shape == (16, 16, 4)
    assert wider.sum() == pytest.approx(share.sum())


def test_training_and_prediction_see_the_same_grid_whatever_the_header(tmp_path):
    """A case of other spacing is resampled for training as predict resamples it."""
    data = tiny(tmp_path / "d")
    atrium.standardise(data, tmp_path / "r")
    sizes = atrium.halve(data, tmp_path / "r", spacing_mm=(1, 1, 1.5))
    assert set(sizes["spacing mm"]) == {(2.0, 2.0, 3.0)}
    seen = []

    class Probe:
        inputs = [type("I", (), {"shape": (None, None, None, None, 1)})]
        layers = []

        def predict_on_batch(self, batch):
            seen.append(batch[0, ..., 0])
            return np.zeros_like(batch)

    image, _ = atrium.read(atrium.find(data).loc["a"])
    atrium.predict(Probe(), image, spacing_mm=(1, 1, 1.5))
    np.testing.assert_allclose(seen[0], atrium.load_small(tmp_path / "r", ["a"])["a"][0], atol=1e-5)


def test_files_of_another_working_grid_are_refused(tmp_path):
    data = tiny(tmp_path / "d")
    atrium.standardise(data, tmp_path / "r")
    atrium.halve(data, tmp_path / "r", spacing_mm=(2, 2, 3))
    path = tmp_path / "r" / "downsampled" / "a.npz"
    with np.load(path) as part:
        parts = dict(part) | {"factor": (4, 4, 4)}
    np.savez(path, **parts)
    with pytest.raises(ValueError, match="made with another factor .* run 02_downsampling again"):
        atrium.load_small(tmp_path / "r", ["a"])


def test_odd_sizes_and_a_trailing_axis(tmp_path):
    data = tiny(tmp_path / "d")
    for kind in ("imagesTr", "labelsTr"):
        path = data / kind / "a.nii.gz"
        write(path, volumes.array(volumes.load(path))[:19, :15, :7, None])
    atrium.standardise(data, tmp_path / "r")
    atrium.halve(data, tmp_path / "r", spacing_mm=(2, 2, 3))
    assert atrium.load_small(tmp_path / "r", ["a"])["a"][0].shape == (10, 8, 4)


def test_steps_say_what_must_run_first(tmp_path):
    data = tiny(tmp_path / "d")
    with pytest.raises(FileNotFoundError, match="run 01_padding first"):
        atrium.halve(data, tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="run 02_downsampling first"):
        atrium.load_small(tmp_path / "r", ["a"])
    with pytest.raises(ValueError, match="already longer"):
        atrium.standardise(data, tmp_path / "r", shape=(16, 16))


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_exported_pictures_give_the_volume_back(kind, tmp_path, rng):
    array = (
        rng.integers(0, 200, (9, 7, 5)).astype(np.uint8) if kind == "bytes" else rng.normal(size=(9, 7, 5)).astype("f")
    )
    image = nib.Nifti1Image(array, np.eye(4))
    paths = atrium.export(image, tmp_path, "x")
    assert [p.name for p in paths] == [f"x_{k:03d}.png" for k in range(5)]
    back = atrium.read_export(paths)
    if kind == "bytes":
        np.testing.assert_array_equal(back, array)
    else:  # 16 bits, scaled once for the volume
        low, high = array.min(), array.max()
        np.testing.assert_allclose(low + back / 65535 * (high - low), array, atol=(high - low) / 65000)
    signed = nib.Nifti1Image(rng.integers(-500, 900, (9, 7, 5)).astype(np.int16), np.eye(4))
    back = atrium.read_export(atrium.export(signed, tmp_path, "s")).astype(int)
    np.testing.assert_array_equal(back + np.asarray(signed.dataobj).min(), np.asarray(signed.dataobj))
    mask = atrium.read_export(
        atrium.export(nib.Nifti1Image((array > 0).astype("u1"), np.eye(4)), tmp_path, "m", mask=True)
    )
    np.testing.assert_array_equal(mask, np.where(array > 0, 255, 0))


# -- the chain


def test_each_step_of_the_chain_by_hand():
    soft = np.zeros((30, 30, 9), np.float32)
    soft[5:20, 5:20, 2:7] = 0.9
    soft[10:12, 10:12, 4] = 0.1  # a hole
    soft[25:28, 25:28, 4] = 0.9  # a second component
    soft[5:20, 5:20, 7] = 0.6  # a slice in which the network is nowhere sure
    plain = atrium.enhance(soft, blank=None, close=0, largest=False, close_3d=0)
    np.testing.assert_array_equal(plain, soft >= 0.5)
    blank = atrium.enhance(soft, close=0, largest=False, close_3d=0)
    assert blank[..., 7].sum() == 0
    assert blank[..., 6].sum() == 225
    closed = atrium.enhance(soft, largest=False, close_3d=0)
    assert closed[10:12, 10:12, 4].min() == 1
    largest = atrium.enhance(soft, close_3d=0)
    assert largest[25:28, 25:28].sum() == 0
    gap = np.where(np.arange(9) == 4, 0, soft)  # a slice missing in the middle
    assert atrium.enhance(gap, close_3d=0, largest=False)[..., 4].sum() == 0
    assert atrium.enhance(gap, largest=False)[..., 4].sum() > 200
    assert atrium.enhance(0 * soft).sum() == 0


def test_dice_after_each_step_and_switches():
    truth = np.zeros((20, 20, 6), np.uint8)
    truth[5:15, 5:15, 1:5] = 1
    soft = truth * 0.9
    soft[0:2, 0:2, 2] = 0.9  # goes with the largest component
    steps = atrium.step_by_step(soft, truth)
    assert list(steps.index) == list(atrium.STEPS)
    assert steps["threshold"] == pytest.approx(800 / 804)
    assert steps["closing in 3D"] == 1
    assert list(atrium.step_by_step(soft, truth, blank=None, largest=False, close_3d=0).index) == [
        "threshold",
        "closing in the slice",
    ]


def test_slices_as_the_report_had_them():
    affine = np.diag([-0.625, -0.625, 0.625, 1])
    label = np.zeros((64, 48, 5), np.uint8)
    label[20:40, 10:30] = 1
    slices = atrium.as_the_report(nib.Nifti1Image(label, affine), kind="label")
    assert slices.shape == (320, 320, 5)
    assert slices.sum() == pytest.approx(label.sum() / 4)  # pixels of 1.25 mm
    wide = nib.Nifti1Image(np.ones((400, 400, 2), np.uint8), np.diag([1.25, 1.25, 2, 1]))
    assert atrium.as_the_report(wide, kind="label").shape == (320, 320, 2)


def test_what_surrounds_an_image_is_as_dark_as_its_slice():
    """Logits are negative nearly everywhere: a frame of 0 would be the brightest part of the picture."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(-9, -3, (40, 40, 3)).astype("f")
    image = nib.Nifti1Image(logits, np.diag([1.25, 1.25, 2, 1]))
    slices = atrium.as_the_report(image, kind="image")
    inside = slices[140:180, 140:180]
    np.testing.assert_allclose(inside, logits, atol=1e-5)
    for k in range(3):
        assert slices[0, 0, k] == logits[..., k].min()


def test_scans_stored_in_another_axis_order_score_the_same():
    truth = np.zeros((60, 50, 6), np.uint8)
    truth[20:40, 10:30, 1:5] = 1
    image = nib.Nifti1Image(truth, np.diag([1.25, 1.25, 3, 1]))
    want = nib.orientations.axcodes2ornt("SPR")
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), want))
    assert turned.shape == (6, 50, 60)
    soft, soft_turned = (nib.Nifti1Image(np.asarray(v.dataobj, np.float32) * 0.9, v.affine) for v in (image, turned))
    assert atrium.legacy_scores(soft_turned, turned, jpeg=False) == atrium.legacy_scores(soft, image, jpeg=False)


def test_legacy_scores_by_hand():
    """A perfect small square scores 1; a larger one than 1,807 pixels is emptied and its slice scores 0."""
    affine = np.diag([1.25, 1.25, 2, 1])
    truth = np.zeros((320, 320, 4), np.uint8)
    truth[100:140, 100:140, 1] = 1  # 1,600 pixels
    truth[100:150, 100:150, 2] = 1  # 2,500 pixels: the mean is 6.2
    image = nib.Nifti1Image(truth, affine)
    found = atrium.legacy_scores(nib.Nifti1Image(truth.astype("f"), affine), image, jpeg=False)
    assert found["network"] == found["threshold"] == 1
    assert found["enhanced"] == pytest.approx(3 / 4)
    assert found["prediction mm3"] == 1600
    assert found["truth mm3"] == 4100
    coded = atrium.legacy_scores(nib.Nifti1Image(truth.astype("f"), affine), image)
    assert coded["enhanced"] == pytest.approx(3 / 4, abs=0.01)


# -- a user's own scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    phantoms.write("atrium", folder / "d", subjects=1, seed=0, coarse=2)
    return folder / "d" / "imagesTr" / "la_001.nii.gz"


def blood_model():
    """A stand-in with the real one's interface: voxels brighter than 1.5 standard deviations."""
    import keras

    x = keras.Input((None, None, None, 1))
    return keras.Model(x, keras.layers.Activation("sigmoid")(keras.layers.Rescaling(20.0, -30.0)(x)))


SPACING = (2.5, 2.5, 3.5)


def centre(mask):
    """Centre of a mask in mm."""
    return nib.affines.apply_affine(mask.affine, np.argwhere(volumes.array(mask)).mean(axis=0))


def test_the_mask_lies_on_the_scans_grid_whatever_it_is(scan):
    """Flips, axis order, voxel size and field of view are the user's; the mask follows the atrium, in mm."""
    image, model = volumes.load(scan), blood_model()
    plain = atrium.segment(scan, model=model, spacing_mm=SPACING)
    assert plain.get_data_dtype() == np.uint8
    assert plain.shape == image.shape
    assert volumes.array(plain).any()
    for axes in ("RAS", "PSR", "LAI"):
        want = nib.orientations.axcodes2ornt(axes)
        other = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), want))
        found = atrium.segment(other, model=model, spacing_mm=SPACING)
        np.testing.assert_allclose(found.affine, other.affine)
        back = volumes.resample(found, like=plain, kind="label")
        assert metrics.dice(volumes.array(back), volumes.array(plain)) > 0.98
    fine = volumes.resample(image, spacing_mm=(1.7, 2.1, 3.0), kind="image")
    found = atrium.segment(fine, model=model, spacing_mm=SPACING)
    assert found.shape == fine.shape
    back = volumes.resample(found, like=plain, kind="label")
    assert metrics.dice(volumes.array(back), volumes.array(plain)) > 0.9  # an edge of one voxel is much here, at 2.5 mm
    wide = volumes.pad(
        image, tuple(n + 60 for n in image.shape[:2]) + (image.shape[2],), fill=float(volumes.array(image).min())
    )
    found = atrium.segment(wide, model=model, spacing_mm=SPACING)
    assert found.shape == wide.shape
    back = volumes.resample(found, like=plain, kind="label")
    assert metrics.dice(volumes.array(back), volumes.array(plain)) > 0.95


def test_masks_of_resampled_scans_stay_where_they_are():
    """A bright ball: its centre and its volume do not depend on the voxel size in which it comes."""
    grids = np.ogrid[:60, :50, :40]
    ball = sum(((g - c) * m) ** 2 for g, c, m in zip(grids, (33, 22, 18), (2.5, 2.5, 3.5), strict=True)) < 30**2
    tissue = 10 + 5 * np.sin(0.2 * grids[0]) * np.ones(ball.shape)
    image = nib.Nifti1Image(
        np.where(ball, 100, tissue).astype("f"), nib.affines.from_matvec(np.diag(SPACING), (7, -20, 11))
    )
    plain = atrium.segment(image, model=blood_model(), spacing_mm=SPACING)
    assert (
        np.abs(centre(plain) - nib.affines.apply_affine(image.affine, (33, 22, 18))).max() < 0.9
    )  # mm: a quarter of a voxel
    for spacing in ((1.7, 2.1, 3.0), (3.3, 2.5, 2.0)):
        other = volumes.resample(image, spacing_mm=spacing, kind="image")
        found = atrium.segment(other, model=blood_model(), spacing_mm=SPACING)
        assert found.shape == other.shape
        assert np.abs(centre(found) - centre(plain)).max() < 0.9
        ml = [atrium.measure(m).loc["left atrium", "volume_ml"] for m in (plain, found)]
        assert ml[1] == pytest.approx(ml[0], rel=0.06)


def test_a_wide_scan_is_looked_at_twice():
    """Where the scan is much wider than the atrium, the part around it is normalised and segmented by itself."""
    calls = []

    class Probe:
        inputs = [type("I", (), {"shape": (None, None, None, None, 1)})]
        layers = []

        def predict_on_batch(self, batch):
            calls.append(batch.shape[1:4])
            return (batch > 3).astype(np.float32)

    array = np.zeros((160, 160, 24), np.float32)
    array[60:80, 70:90, 8:16] = 100
    array += np.random.default_rng(0).normal(size=array.shape)
    image = nib.Nifti1Image(array, np.diag([1.25, 1.25, 2, 1]))
    found = atrium.predict(Probe(), image, spacing_mm=(1.25, 1.25, 2))
    assert len(calls) == 2
    assert np.prod(calls[1]) < 0.5 * np.prod(calls[0])
    assert volumes.array(found)[64:76, 74:86, 10:14].min() > 0.5
    atrium.predict(Probe(), image, spacing_mm=(1.25, 1.25, 2), zoom_in=False)
    assert len(calls) == 3


def test_a_very_large_scan_is_done_in_parts(monkeypatch):
    """The same result from overlapping parts, none larger than the limit."""
    from segkit.studies.atrium import networks

    rng = np.random.default_rng(1)
    image = nib.Nifti1Image(rng.normal(size=(120, 100, 40)).astype("f"), np.diag([1.25, 1.25, 2, 1]))
    model = blood_model()
    whole = volumes.array(atrium.predict(model, image, spacing_mm=(1.25, 1.25, 2), zoom_in=False))
    monkeypatch.setattr(networks, "LARGE", 1000)
    monkeypatch.setattr(networks, "PART", (16, 16, 8))
    parts = volumes.array(atrium.predict(model, image, spacing_mm=(1.25, 1.25, 2), zoom_in=False))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_out_writes_mask_overlay_and_table(scan, tmp_path):
    atrium.segment(scan, model=blood_model(), spacing_mm=SPACING, out=tmp_path / "o")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "la_001_measures.csv", "la_001_overlay.png", "la_001_seg.nii.gz",
    ]  # fmt: skip


def test_a_scan_without_an_atrium_gives_an_empty_mask_and_zero_ml(rng):
    image = nib.Nifti1Image(rng.normal(size=(32, 32, 16)).astype("f"), np.diag([2.5, 2.5, 3.5, 1]))

    class Nothing:
        inputs = [type("I", (), {"shape": (None, None, None, None, 1)})]
        layers = []

        def predict_on_batch(self, batch):
            return np.zeros_like(batch)

    mask = atrium.segment(image, model=Nothing(), spacing_mm=SPACING)
    assert not volumes.array(mask).any()
    assert atrium.measure(mask).loc["left atrium", "volume_ml"] == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((8, 8, 8, 3)), "not one 3D volume"),
        (np.ones((8, 8, 8)), "the scan is empty"),
        (np.arange(64.0).reshape(8, 8, 1), "(too few slices|three spatial axes)"),
        (np.arange(128.0).reshape(8, 8, 2), "too few slices"),
    ],
)
def test_scans_that_cannot_be_segmented(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        atrium.segment(nib.Nifti1Image(data.astype("f"), np.eye(4)), model=blood_model(), out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_measure_by_hand():
    data = np.zeros((4, 5, 6), np.uint8)
    data[1:3, 1:4, 2:4] = 1  # 12 voxels in two slices
    mask = nib.Nifti1Image(data, np.diag([-10, -10, 20, 1]))
    row = atrium.measure(mask).loc["left atrium"]
    assert row["volume_mm3"] == 12 * 2000
    assert row["volume_ml"] == 24
    assert row["voxels"] == 12
    assert row["slices"] == 2
    assert "class" not in row
    turned = nib.Nifti1Image(
        np.moveaxis(data, 2, 0).copy(), np.array([[0, 10, 0, 0], [0, 0, 10, 0], [20, 0, 0, 0], [0, 0, 0, 1.0]])
    )
    assert atrium.measure(turned).loc["left atrium", "slices"] == 2
    scan = nib.Nifti1Image(np.where(data, 5, 1).astype("f"), mask.affine)
    assert atrium.measure(mask, scan).loc["left atrium", "mean_intensity"] == 5


@pytest.mark.parametrize(
    ("ml", "name"), [(28.4, "normal"), (28.6, "mild"), (33, "mild"), (34, "moderate"), (39, "moderate"), (40, "severe")]
)
def test_the_index_class_needs_a_body_surface(ml, name):
    mask = nib.Nifti1Image(np.ones((1, 1, 10), np.uint8), np.diag([10, ml * 2, 1, 1]))  # 2 m²: ml per m² is ml
    row = atrium.measure(mask, bsa_m2=2).loc["left atrium"]
    assert row["index_ml_m2"] == pytest.approx(ml / 10)
    mask = nib.Nifti1Image(np.ones((10, 10, 10), np.uint8), np.diag([1, ml * 2, 1, 1]))
    assert atrium.measure(mask, bsa_m2=2).loc["left atrium", "class"] == name
    with pytest.raises(ValueError, match="is not a person's; give it in m²"):
        atrium.measure(mask, bsa_m2=190)


# -- training and tables


def test_training_keeps_to_its_lists_and_resumes(tmp_path):
    run = atrium.start("smoke", results=tmp_path)
    atrium.standardise(run.data, run.results)
    atrium.halve(run.data, run.results, spacing_mm=run.profile.spacing_mm)
    subjects = atrium.split(atrium.find(run.data))
    _, history = atrium.train(run, subjects, verbose=0)
    _, again = atrium.train(run, subjects, verbose=0)
    pd.testing.assert_frame_equal(history, again)
    with pytest.raises(ValueError, match="stand in both train and validation"):
        atrium.train(run, subjects | {"selection": subjects["train"]}, name="other", verbose=0)
    table = atrium.experiments.rotation_table(run, verbose=0)
    before = (run.results / "tables" / "rotation.csv").stat().st_mtime_ns
    pd.testing.assert_frame_equal(
        atrium.experiments.rotation_table(run, verbose=0).round(3), table.round(3), check_dtype=False
    )
    assert (run.results / "tables" / "rotation.csv").stat().st_mtime_ns == before
    path = run.results / "tables" / "rotation.csv"
    path.write_text(path.read_text().replace("working grid 2×2×2", "working grid 4×4×4"))
    with pytest.raises(ValueError, match="holds rows of another recipe"):
        atrium.experiments.rotation_table(run, verbose=0)
    held = set(" ".join(table["scored_on"]).split())
    assert not held & set(subjects["test"])  # the experiment never looks at the test cases
    assert set(atrium.experiments.rotation_summary(table).index.get_level_values("rotation")) == {"on", "off"}


def scores():
    rows = [
        {
            "method": "m", "subject": s, "label": "left atrium", "dice": d, "hd95_mm": 3.0, "assd_mm": 1.0, "truth_ml": 50.0,
            "prediction_ml": 50.0 + e, "voxel_mm3": 0.25, "true_1mm_ml": 30.0, "found_1mm_ml": 29.0, "legacy_dice": 0.5,
        }
        for s, d, e in (("a", 0.9, 4), ("b", 0.92, -2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_three_columns_and_volumes():
    table = atrium.three_columns(scores(), "m")
    dice, volume = table.loc[("left atrium", "Dice")], table.loc[("left atrium", "volume error (ml)")]
    assert (dice["reported"], dice["legacy"], dice["corrected"]) == (0.8797, 0.5, pytest.approx(0.91))
    assert volume["reported"] == pytest.approx((5.681 + 0.604 + 1.039) / 3)  # Figure 5.7
    assert (volume["legacy"], volume["corrected"]) == (1, 3)
    found = atrium.volume_table(scores(), "m").loc["a"]
    assert found["error_percent"] == pytest.approx(8)
    assert found["true_at_1mm3_ml"] == 200  # 50 ml of voxels of 0.25 mm³, counted as 1 mm³ each
    assert found["true_slices_twice_as_far_ml"] == 100


def test_claims_are_verdicts_only_where_the_data_allow():
    rotation = pd.DataFrame({
        "rotation": ["on", "off"] * 4, "epochs": [3, 3, 12, 12] * 2, "seed": [0] * 4 + [1] * 4,
        "dice": [0.5, 0.8, 0.7, 0.9, 0.51, 0.81, 0.71, 0.91],
    })  # fmt: skip
    index = pd.MultiIndex.from_tuples([("0 and 1", "probability"), ("0 and 255", "probability")])
    targets = pd.DataFrame({"logit inside": [2.0, 90.0]}, index=index)
    real = atrium.claims(scores(), "m", source="real", rotation=rotation, targets=targets, minutes=9)
    real = real.set_index("claim")["verdict"]
    assert real["few epochs make the output a map of confidence"] == "does not hold"
    longer = atrium.claims(scores(), "m", source="real", minutes=60).set_index("claim")["verdict"]
    assert longer["a Dice of .8797 after nine minutes of training"] == "cannot be told here"
    assert real["a small rotation makes training worse"] == "holds"
    assert real["a Dice of .8797 after nine minutes of training"] == "holds"
    assert real["the volume is at most 3 ml off"] == "does not hold"
    close = rotation.assign(dice=[0.5, 0.51, 0.7, 0.69, 0.6, 0.59, 0.8, 0.81])  # the seeds differ more than the means
    unclear = atrium.claims(scores(), "m", source="real", rotation=close).set_index("claim")["verdict"]
    assert unclear["a small rotation makes training worse"] == "cannot be told here"
    phantom = atrium.claims(scores(), "m", source="phantom", rotation=rotation).set_index("claim")["verdict"]
    assert phantom["a Dice of .8797 after nine minutes of training"] == "cannot be told here"
    assert set(real) <= {"holds", "does not hold", "cannot be told here"}


# -- the released model


def test_released_model_is_small_and_used_without_being_asked():
    paths = atrium.released()
    assert paths
    assert sum(p.stat().st_size for p in paths) < 5e6
    for path in paths:
        assert models.load(path).count_params() < 2e6
        assert path.with_suffix("").with_suffix(".run.json").is_file()
    assert len(atrium.load_model()) == len(paths)
