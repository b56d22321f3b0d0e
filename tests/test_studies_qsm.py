"""QSM: names and lists, padding and halving under which points stay, registration."""

import nibabel as nib
import numpy as np
import pytest

from segkit import labels, volumes
from segkit.studies import common, qsm
from segkit.studies.qsm import register


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Phantoms of the smoke profile through 01 and 02."""
    run = qsm.start("smoke", results=tmp_path_factory.mktemp("qsm"))
    qsm.experiments.prepare(run)
    return run


# -- names and lists


def test_the_reports_file_names():
    names = qsm.file_names(128)
    assert names["w_bg"] == "QSM_dim128_w_bg.nii.gz"
    assert names["brain_mask"] == "QSM_brain_mask_dim128.nii.gz"
    assert names["masked"] == "QSM_masked_dim128.nii.gz"
    assert names["hippocampus"] == "hippocampus_mask_down_by_4.nii.gz"
    assert [qsm.file_names(d)["putamen"] for d in (512, 256, 64)] == [
        f"putamen_mask_down_by_{n}.nii.gz" for n in (1, 2, 8)
    ]


def test_model_names_there_and_back(tmp_path):
    for label in (*qsm.MASKS, qsm.ALL):
        name = qsm.model_name(label, 128, 28, 50)
        known = {"label": label, "dim": 128, "subjects": 28, "epochs": 50, "network": "qsm_unet3d"}
        assert qsm.parse_model_name(name) == known
        for network in qsm.NETWORKS:
            other = qsm.parse_model_name(qsm.model_name(label, 128, 28, 50, network))
            assert other == known | {"network": network}
    with pytest.raises(ValueError, match="no mask is called 'pons'"):
        qsm.model_name("pons", 128, 1, 1)
    with pytest.raises(ValueError, match="not a model's name"):
        qsm.parse_model_name("model")
    for n, e in ((28, 50), (32, 10), (32, 20)):
        (tmp_path / f"caudate_mask_dim128_sub{n}_e{e}.keras").touch()
    (tmp_path / "another_mask_dimX.keras").touch()
    residual = (
        tmp_path / "caudate_mask_dim128_sub40_e20_qsm_resunet3d.keras"
    )  # another network is never taken for the U-Net
    residual.touch()
    assert qsm.find_model(tmp_path, label="caudate", dim=128, network="qsm_resunet3d") == residual
    assert qsm.find_model(tmp_path, label="caudate", dim=128).stem == "caudate_mask_dim128_sub32_e20"
    with pytest.raises(FileNotFoundError, match="no model of label caudate, dim 64, network qsm_unet3d in"):
        qsm.find_model(tmp_path, label="caudate", dim=64)
    assert qsm.find_model(tmp_path, label="caudate", dim=128, epochs=10).stem == "caudate_mask_dim128_sub32_e10"
    assert qsm.find_model(tmp_path, label="caudate", dim=128, subjects=28).stem == "caudate_mask_dim128_sub28_e50"
    with pytest.raises(ValueError, match="is a model of caudate at dimension 128, putamen at 128 is asked for"):
        qsm.load_model_for(tmp_path / "caudate_mask_dim128_sub32_e20.keras", label="putamen", dim=128)


def test_the_forty_subjects_are_split_as_the_lists_say():
    learning, test = common.split("qsm", "filename_sub32"), common.split("qsm", "filename_testing8")
    assert (len(learning), len(test)) == (32, 8)
    parts = qsm.split([*learning, *test])
    assert [len(parts[k]) for k in ("train", "selection", "test")] == [28, 4, 8]
    assert not set(parts["train"]) & {*parts["selection"], *parts["test"]}
    assert parts["test"] == test
    assert qsm.split([*learning, *test], train=7)["train"] == parts["train"][:7]
    with pytest.raises(ValueError, match="29 training subjects are asked for, there are 28"):
        qsm.split([*learning, *test], train=29)


def test_other_subjects_are_split_by_fifths(tmp_path):
    parts = qsm.split([f"s{k}" for k in range(20)])
    assert [len(parts[k]) for k in ("train", "selection", "test")] == [14, 2, 4]
    assert len({s for part in parts.values() for s in part}) == 20
    with pytest.raises(ValueError, match="2 subjects are too few"):
        qsm.split(["a", "b"])
    written = qsm.write_lists(parts, tmp_path)
    assert [p.name for p in written] == ["filename_sub16.txt", "filename_testing4.txt"]


def test_label_lists_of_freesurfer_and_hoa(tmp_path):
    free = tmp_path / "free.txt"
    free.write_text(
        "#No. Label\n10  Left-Thalamus-Proper*   0 118 14 0\n49  Right-Thalamus-Proper  0 118 14 0\n17 Left-Hippocampus 1 2 3 0\n"
    )
    assert labels.read_list(free, ["thalamus"]) == {"thalamus": (10, 49)}
    hoa = tmp_path / "hoa.tsv"
    hoa.write_text(
        "value\tname\themisphere\tstructure\n16\tThalamus Left\tleft\tthalamus\n17\tThalamus Right\tright\tthalamus\n"
    )
    assert labels.read_list(hoa, ["thalamus"]) == {"thalamus": (16, 17)}
    whole = [
        "value\tname\themisphere\tstructure",
        "0\tbackground\tnone\tbackground",
        "15\tBrainstem\tmidline\tbrain_stem",
    ]
    parts = {
        "Caudate": 9,
        "Putamen": 11,
        "Globus Pallidus": 13,
        "Thalamus": 16,
        "Hippocampal Formation": 20,
        "Amygdala": 22,
    }
    for name, value in parts.items():
        whole += [f"{value + k}\t{name} {side}\t{side.lower()}\tx" for k, side in enumerate(("Left", "Right"))]
    hoa.write_text("\n".join(whole))
    full = tmp_path / "FreeSurferColorLUT.txt"  # names beside which the structure's own stands
    rows = {9: "Left-Thalamus-unused", 10: "Left-Thalamus", 48: "Right-Thalamus-unused", 49: "Right-Thalamus", 17: "Left-Hippocampus",
            53: "Right-Hippocampus", 193: "Left-hippocampal_fissure", 18: "Left-Amygdala", 54: "Right-Amygdala",
            96: "Left-Amygdala-Anterior"}  # fmt: skip
    full.write_text("\n".join(f"{value:<4d}{name:<40s}0   118 14  0" for value, name in rows.items()))
    found = labels.read_list(full, ["thalamus", "hippocampus", "amygdala"])
    assert found == {n: labels.FREESURFER[n] for n in found}
    assert labels.read_list(hoa, list(qsm.LABELS)) == {n: labels.HOA[n] for n in qsm.LABELS}
    with pytest.raises(ValueError, match="no value for the right hippocampus"):
        labels.read_list(free, ["hippocampus"])
    with pytest.raises(FileNotFoundError, match="no such label list"):
        labels.read_list(tmp_path / "none.txt", ["thalamus"])
    with pytest.raises(ValueError, match="lacks the values"):
        labels.check_values(np.array([0, 10]), {"thalamus": (10, 49)}, "labels.nii.gz")


# -- padding, halving and back


def test_steps_write_the_reports_files(done):
    folder = done.results / "padded" / "sub-001"
    expected = {name for dim in done.profile.dims for name in qsm.file_names(dim).values()}
    assert {p.name for p in folder.iterdir()} == expected
    for dim in done.profile.dims:  # every file of a dimension lies on one grid, maps and masks alike
        first, *others = (volumes.load(folder / name) for name in qsm.file_names(dim).values())
        for other in others:
            volumes.check_same_grid(first, other, ("first", "other"))
    masked, brain, known = qsm.load_cube(done.results, "sub-001", 64)
    assert masked.shape == (64, 64, 64)
    assert not volumes.array(masked)[volumes.array(brain) == 0].any()
    assert set(np.unique(volumes.array(known))) <= set(range(6))
    with pytest.raises(FileNotFoundError, match="run 02_downsampling first"):
        qsm.load_cube(done.results, "nobody", 64)


def test_a_point_keeps_its_place_in_every_file(tmp_path):
    """Maps whose values are mm: each voxel of each derived file holds its own world coordinate."""
    affine = nib.affines.from_matvec(np.diag([1.0, 1.0, 1.0]), (-20.5, 3.25, 7))
    shape = (22, 26, 20)
    mm = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    for axis in range(3):
        original = nib.Nifti1Image(mm[..., axis].astype("f"), affine)
        cube = volumes.pad(original, (32, 32, 32))
        inside = volumes.array(volumes.pad(nib.Nifti1Image(np.ones(shape, "u1"), affine), (32, 32, 32))) > 0
        for image, kept in (
            (cube, inside),
            (volumes.downsample(cube, 2, kind="image"), inside[::2, ::2, ::2] & inside[1::2, 1::2, 1::2]),
        ):
            where = nib.affines.apply_affine(image.affine, np.argwhere(kept))[:, axis]
            np.testing.assert_allclose(volumes.array(image)[kept], where, atol=1e-4)
    label = nib.Nifti1Image(np.random.default_rng(0).integers(0, 6, (32, 32, 32)).astype("u1"), cube.affine)
    back = qsm.reconstruct(label, original)
    np.testing.assert_array_equal(volumes.array(volumes.pad(back, (32, 32, 32)))[inside], volumes.array(label)[inside])
    np.testing.assert_allclose(back.affine, affine)


def test_landmarks_agree_between_files(done):
    table = qsm.find(done.data)
    centres = qsm.landmarks(table, done.results, "sub-001", dims=done.profile.dims, values=qsm.label_values(done.data))
    assert list(centres.index) == ["original", "dim64", "dim64, rebuilt", "dim32", "dim32, rebuilt"]
    assert centres.loc["original"].equals(centres.loc["dim64"])
    assert centres.loc["original"].equals(centres.loc["dim64, rebuilt"])
    brain = np.array([[float(x) for x in text.split(",")] for text in centres["brain"]])
    assert np.linalg.norm(brain - brain[0], axis=1).max() < 1  # mm, in voxels of 4 and 8


def test_a_volume_larger_than_the_cube_and_other_broken_subjects(done, tmp_path):
    table, values = qsm.find(done.data), qsm.label_values(done.data)
    with pytest.raises(ValueError, match=r"QSM_w_bg.nii.gz: .* voxels do not fit a cube of 32; choose a larger one"):
        qsm.pad_all(table.iloc[:1], tmp_path, dim=32, values=values, jobs=1)
    row = table.iloc[0]
    with pytest.raises(ValueError, match="lacks the values .*99"):
        qsm.read(row, {"thalamus": (10, 99)})
    empty = volumes.like(np.zeros(volumes.load(row["brain_mask"]).shape, "u1"), volumes.load(row["brain_mask"]))
    volumes.save(empty, tmp_path / "empty.nii.gz")
    with pytest.raises(ValueError, match="empty.nii.gz: is empty"):
        qsm.read(row.to_dict() | {"brain_mask": tmp_path / "empty.nii.gz"}, values)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        qsm.find(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no subject found"):
        qsm.find(tmp_path)
    (tmp_path / "s1").mkdir()
    volumes.save(empty, tmp_path / "s1" / "QSM_w_bg.nii.gz")
    with pytest.raises(FileNotFoundError, match="every subject needs its map and its brain mask"):
        qsm.find(tmp_path)


def test_normalising_takes_zero_and_scale_out(rng):
    brain = np.zeros((12, 12, 12), "u1")
    brain[2:10, 2:10, 2:10] = 1
    x = rng.normal(size=brain.shape).astype("f")
    a, b = qsm.normalise(x, brain), qsm.normalise(0.03 * x + 5, brain)
    np.testing.assert_allclose(a, b, atol=1e-3)
    assert not a[brain == 0].any()
    with pytest.raises(ValueError, match="empty"):
        qsm.normalise(x, 0 * brain)


def test_a_box_around_the_brain(rng):
    brain = np.zeros((40, 40, 40), bool)
    brain[20:38, 10:20, 0:9] = True
    for shape in ((10, 10, 10), (60, 20, 16)):
        box = qsm.centre_box(brain, shape)
        size = [s.stop - s.start for s in box]
        assert size == [min(n, 40) for n in shape]
        assert all(s.start >= 0 and s.stop <= 40 for s in box)
    assert qsm.centre_box(brain, (18, 10, 9)) == (slice(20, 38), slice(10, 20), slice(0, 9))


def test_ceilings_fall_with_the_grid(done):
    table = qsm.ceilings(done.results, ["sub-001"], dims=done.profile.dims)
    by = table.groupby("dim")["ceiling"].mean()
    assert by[64] == 1
    assert 0.3 < by[32] < 0.95


# -- registration


def test_preparing_a_map_for_registration(done):
    row = qsm.find(done.data).iloc[0]
    image, masks = qsm.read(row, qsm.label_values(done.data))
    atlas = volumes.like(3 * volumes.array(image) + 1, image)
    ready = volumes.array(register.prepare(image, masks["brain"], atlas, masks["brain"]))
    inside = volumes.array(masks["brain"]) > 0
    assert ready[inside].mean() == pytest.approx(volumes.array(atlas)[inside].mean(), abs=1e-4)
    assert ready[inside].std() == pytest.approx(volumes.array(atlas)[inside].std(), rel=1e-3)
    assert not ready[~inside].any()


def test_registration_by_transform_raises_the_overlap(done, tmp_path, monkeypatch):
    native, values = done.data / "native" / "sub-001", qsm.label_values(done.data)
    atlas_labels = volumes.load(done.data / "sub-001" / "labels.nii.gz")
    moving = volumes.load(native / "labels_native.nii.gz")
    moved = register.with_transform(
        moving, register.read_transform(native / "native_to_atlas.txt"), atlas_labels, kind="label"
    )
    assert set(np.unique(volumes.array(moved))) <= set(np.unique(volumes.array(moving)))  # never blended
    table = register.overlap(moving, moved, atlas_labels, values)
    assert table["after"].mean() > table["before"].mean() + 0.1
    atlas = {"QSM": volumes.load(done.data / "atlas" / "QSM_atlas.nii.gz")}
    atlas["QSM_brain_mask"] = volumes.load(done.data / "atlas" / "QSM_brain_mask_atlas.nii.gz")
    monkeypatch.setattr(register, "has_ants", lambda: False)
    floats = tmp_path / "native" / "sub-001"  # masks and labels stored as float are not blended either
    for path in native.glob("*_native.nii.gz"):
        image = volumes.load(path)
        volumes.save(volumes.like(volumes.array(image, np.float32), image), floats / path.name)
    (floats / "native_to_atlas.txt").write_text((native / "native_to_atlas.txt").read_text())
    for home in (native, floats):
        written = register.register(home, atlas, tmp_path / home.parent.parent.name / "sub-001")
        row = qsm.find(tmp_path / home.parent.parent.name).loc["sub-001"]  # what 01_padding reads
        assert set(qsm.read(row, values)[1]) == {"brain", *qsm.LABELS}
        original = volumes.load(home / "QSM_w_bg_native.nii.gz")  # carried over in ppm
        plain = register.with_transform(
            original, register.read_transform(home / "native_to_atlas.txt"), atlas["QSM"], kind="image"
        )
        np.testing.assert_allclose(volumes.array(written["QSM_w_bg"]), volumes.array(plain), atol=1e-6)
    assert (
        qsm.start("smoke", data=tmp_path, results=tmp_path / "r").profile == done.profile
    )  # native alone: 00 can begin
    (tmp_path / "t.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="4 × 4 matrix is expected"):
        register.read_transform(tmp_path / "t.txt")
    with pytest.raises(FileNotFoundError, match="no such transform"):
        register.read_transform(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="invertible"):
        register.with_transform(moving, np.zeros((4, 4)), atlas_labels, kind="label")
    with pytest.raises(ValueError, match="no registration is called 'bspline'"):
        register.with_ants(moving, atlas_labels, {}, kind="bspline")


def test_start_tells_phantoms_simulations_and_a_users_maps_apart(done, tmp_path):
    assert done.source == "simulated phantom"
    assert qsm.note_of(done) == qsm.layout.PHANTOM
    maps = done.data  # as a user's own, without the mark
    own = tmp_path / "own" / "s1"
    own.mkdir(parents=True)
    for name in ("QSM_w_bg", "QSM_brain_mask", "labels"):
        (own / f"{name}.nii.gz").write_bytes((maps / "sub-001" / f"{name}.nii.gz").read_bytes())
    run = qsm.start("smoke", data=tmp_path / "own", results=tmp_path / "r")
    assert run.source == "real"
    assert qsm.start("smoke", data=tmp_path / "own", results=tmp_path / "r", show_real=True).source is None
    with pytest.raises(ValueError, match="no profile is called"):
        qsm.start("fast")
    assert run.profile.dims == qsm.PROFILES["smoke"].dims
    image = volumes.load(own / "QSM_w_bg.nii.gz")
    volumes.save(volumes.pad(image, (100, 100, 100)), own / "QSM_w_bg.nii.gz")  # larger than the profile's first cube
    assert qsm.start("smoke", data=tmp_path / "own", results=tmp_path / "r").profile.dims == (128, *run.profile.dims)


def test_what_03_lets_a_user_change_has_a_run_and_a_dimension_of_its_own(done):
    names = [
        qsm.networks.run_name("qsm_unet3d", "nuclei", 64, 3, epochs=1, **more)
        for more in ({}, {"loss": "dice"}, {"batch_size": 4}, {"augmented": True})
    ]
    assert names == ["qsm_unet3d_nuclei_dim64_sub3_e1" + end for end in ("", "_dice", "_batch4", "_augmented")]
    assert (qsm.dim_of(done, None), qsm.dim_of(done, 32)) == (64, 32)
    with pytest.raises(ValueError, match="DIM 256 is none of the smoke profile's dimensions 64, 32; choose one"):
        qsm.dim_of(done, 256)
    parts = qsm.split(list(qsm.find(done.data).index))
    for more in ({"loss": "dice"}, {"augmented": True, "batch_size": 2}):
        _, history = qsm.train(done, parts, network="qsm_unet3d", label="putamen", dim=32, epochs=1, verbose=0, **more)
        assert np.isfinite(history["loss"]).all()
