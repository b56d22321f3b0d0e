"""The QSM study: names, padding and halving under which points stay, patches, scores, registration, a user's own map."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import labels, legacy, models, volumes
from segkit.studies import common, qsm
from segkit.studies.qsm import register


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


# -- training, scores


def test_a_label_trains_and_is_found_by_name(done):
    parts = qsm.experiments.sides(done)
    model, history = qsm.train(done, parts, label="caudate", epochs=1, verbose=0)
    assert {"soft_dice", "val_soft_dice"} <= set(history.columns)
    assert model.output_shape[-1] == 1
    path = qsm.save_model(done, model, label="caudate", dim=64, subjects=len(parts["train"]), epochs=len(history))
    assert path.name == f"caudate_mask_dim64_sub{len(parts['train'])}_e1.keras"
    assert qsm.find_model(path.parent, label="caudate", dim=64) == path
    assert qsm.load_model_for(path, label="caudate", dim=64).output_shape[-1] == 1
    five = qsm.save_model(done, model, label="nuclei", dim=64, subjects=1, epochs=1)
    with pytest.raises(ValueError, match="gives 1 classes where nuclei needs 6"):
        qsm.load_model_for(five, label="nuclei", dim=64)
    five.unlink()
    fewer = parts | {"train": parts["train"][:1]}
    qsm.train(
        done, fewer, label="caudate", epochs=1, verbose=0
    )  # each choice has a run of its own, none runs into another's
    qsm.train(done, parts, label="caudate", epochs=2, verbose=0)
    runs = {p.name for p in (done.results / "runs").glob("qsm_unet3d_caudate_*")}
    n = len(parts["train"])
    assert runs == {f"qsm_unet3d_caudate_dim64_sub{k}_e{e}" for k, e in ((n, 1), (1, 1), (n, 2))}
    with pytest.raises(ValueError, match="no mask is called 'pons'"):
        qsm.train(done, parts, label="pons", epochs=1, verbose=0)
    with pytest.raises(ValueError, match="stand in both"):
        qsm.train(done, {"train": parts["train"], "selection": parts["train"][:1]}, epochs=1, name="leak", verbose=0)


def test_experiments_resume_and_hold_what_they_promise(done, monkeypatch):
    first = {
        "compare": qsm.experiments.compare(done, verbose=0), "curve": qsm.experiments.learning_curve(done, verbose=0),
        "best": qsm.experiments.best(done, verbose=0), "resolution": qsm.experiments.resolution(done, verbose=0),
        "binary": qsm.experiments.binary(done, labels=("brain",), verbose=0),
    }  # fmt: skip
    assert set(first["binary"]["label"]) == {"brain"}
    assert qsm.experiments.own_recipe(done) is not None
    assert list(first["compare"]["network"].unique()) == list(done.profile.compared)
    assert list(first["resolution"]["dim"].unique()) == list(done.profile.dims)
    coarse = first["resolution"].query("dim == 32")
    assert coarse["dice_fine"].notna().all()
    test = set(qsm.experiments.sides(done)["test"])
    assert all(set(t["subject"]) == test for t in first.values())
    for what, table in first.items():  # what notebooks show is what was just written
        assert len(qsm.experiments.rows(done, what)) == len(table)
    monkeypatch.setattr(qsm.experiments, "train", None)
    monkeypatch.setattr(qsm.experiments, "train_recipe", None)
    again = {
        "compare": qsm.experiments.compare(done),
        "curve": qsm.experiments.learning_curve(done),
        "best": qsm.experiments.best(done),
    }
    for name, table in again.items():
        np.testing.assert_allclose(table["dice"], first[name]["dice"], atol=1e-5)


def test_rows_of_another_recipe_are_not_shown(done, tmp_path, capsys):
    run = dataclasses.replace(done, results=tmp_path)
    assert qsm.experiments.rows(run, "binary") is None
    assert "experiments binary --data DIR" in capsys.readouterr().out
    (tmp_path / "tables").mkdir()
    pd.DataFrame({"label": ["brain"], "recipe": ["another"]}).to_csv(tmp_path / "tables" / "binary.csv", index=False)
    assert qsm.experiments.rows(run, "binary") is None
    assert "not shown: " in capsys.readouterr().out


def test_a_perfect_method_scores_one_and_its_susceptibility_is_right(done, tmp_path):
    results = done.results

    def perfect(subject):
        return np.eye(6, dtype="f")[volumes.array(qsm.load_cube(results, subject, 64)[2])]

    scores = qsm.evaluate({"perfect": perfect}, results, ["sub-001", "sub-002"], dim=64, tidy=False)
    assert (scores["dice"] == 1).all()
    assert (scores["hd95_mm"] == 0).all()
    assert (scores["legacy_hd_voxels"] == 0).all()
    np.testing.assert_allclose(scores["truth_ppm"], scores["prediction_ppm"])
    np.testing.assert_allclose(scores["legacy_dice"], 1, atol=1e-6)
    values = qsm.label_values(done.data)
    own = qsm.on_original_grid(
        qsm.find(done.data), results, "perfect", ["sub-001", "sub-002"], values=values, out=tmp_path / "two"
    )
    np.testing.assert_allclose(own["truth_ppm"], own["prediction_ppm"])
    table = qsm.three_columns(
        scores, own.assign(dice=0.5, hd_mm=8.0), "perfect"
    )  # legacy of the cube, corrected of the own grid
    assert table.loc[("hippocampus", "Dice"), "reported"] == 0.82
    assert table.loc[("amygdala", "HD (voxels)"), "reported"] == 0.94
    assert table.loc[("hippocampus", "Dice"), ["legacy", "corrected"]].tolist() == [pytest.approx(1), 0.5]
    assert table.loc[("hippocampus", "HD (voxels)"), "corrected"] == 8 / scores["mm"].iloc[0]
    measures = qsm.measures_table(scores, "perfect")
    assert (measures["error_ml"] == 0).all()
    assert (measures["error_ppm"] == 0).all()
    whole = qsm.summary(scores)
    assert whole.loc[("perfect", "mean"), "mean"] == 1
    rebuilt = qsm.on_original_grid(qsm.find(done.data), results, "perfect", ["sub-001"], values=values, out=tmp_path)
    assert (rebuilt["dice"] == 1).all()  # the padded cube has the original's voxels
    assert (tmp_path / "sub-001_perfect.nii.gz").is_file()


def test_a_rebuilt_volume_has_the_axes_of_its_map(done, tmp_path):
    """A subject stored as LIA: padded, rebuilt and scored in its own order of axes."""
    table = qsm.find(done.data).loc[["sub-001"]]
    turn = nib.orientations.axcodes2ornt("LIA")
    for column in ("qsm", "brain_mask", "labels"):
        image = volumes.load(table.loc["sub-001", column])
        path = tmp_path / "data" / "sub-001" / table.loc["sub-001", column].name
        volumes.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), turn)), path)
    values, own = qsm.label_values(done.data), qsm.find(tmp_path / "data")
    qsm.pad_all(own, tmp_path, dim=64, values=values)
    cubes = {s: qsm.load_cube(tmp_path, s, 64)[2] for s in own.index}
    rebuilt = qsm.on_original_grid(
        own, tmp_path, "m", ["sub-001"], values=values, out=tmp_path / "out", finer=cubes.get
    )
    assert (rebuilt["dice"] == 1).all()
    written = volumes.load(tmp_path / "out" / "sub-001_m.nii.gz")
    assert nib.aff2axcodes(written.affine) == ("L", "I", "A")
    volumes.check_same_grid(written, volumes.load(own.loc["sub-001", "qsm"]))


def test_the_double_branch_sees_in_testing_what_it_saw_in_training(monkeypatch):
    """Its second input is the surroundings of a patch; of the brain's box they would be its repeated edge, not the cube's 0."""
    from segkit import inference

    seen = []

    def predict(model, image, **settings):
        seen.append((image.shape, settings["context"]))
        return nib.Nifti1Image(np.zeros((*image.shape, 1), "f"), image.affine)

    monkeypatch.setattr(inference, "predict", predict)
    image = np.zeros((48, 48, 48), "f")
    image[16:32, 16:32, 16:32] = 5
    for context in (True, False):
        assert qsm.predict_patches(None, image, patch=(16, 16, 16), context=context).shape == (48, 48, 48, 1)
    assert seen == [((48, 48, 48), True), ((16, 16, 16), False)]


def test_ceilings_fall_with_the_grid(done):
    table = qsm.ceilings(done.results, ["sub-001"], dims=done.profile.dims)
    by = table.groupby("dim")["ceiling"].mean()
    assert by[64] == 1
    assert 0.3 < by[32] < 0.95


def test_the_atlas_vote_of_one_subject_is_its_labels(done):
    vote = qsm.atlas_vote(done.results, ["sub-001"], dim=64)
    np.testing.assert_array_equal(vote.argmax(-1), volumes.array(qsm.load_cube(done.results, "sub-001", 64)[2]))
    two = qsm.atlas_vote(done.results, ["sub-001", "sub-002"], dim=64)
    np.testing.assert_allclose(two.sum(-1), 1)


def test_seams_are_seen_where_patches_meet(rng):
    smooth = np.add.outer(np.add.outer(np.arange(32.0), np.arange(32.0)), np.arange(32.0))[..., None]
    assert qsm.seams(smooth, (8, 8, 8)) == pytest.approx(1)
    broken = smooth + np.kron(rng.normal(size=(4, 4, 4)) * 20, np.ones((8, 8, 8)))[..., None]
    assert qsm.seams(broken, (8, 8, 8)) > 3


def test_fragments_are_dropped_and_both_sides_kept():
    x = np.zeros((20, 20, 20), np.uint8)
    x[2:6, 2:6, 2:6] = 2  # left
    x[12:16, 2:6, 2:5] = 2  # right, a little smaller
    x[9, 15, 15] = 2  # a crumb
    x[9, 18, 18] = 3  # all there is of another label
    out = qsm.drop_fragments(x)
    assert (out == 2).sum() == 64 + 48
    assert (out == 3).sum() == 1
    assert not qsm.drop_fragments(np.zeros((3, 3, 3), np.uint8)).any()


def test_legacy_scores_by_hand():
    t, p = np.zeros((4, 4, 8)), np.zeros((4, 4, 8))
    t[0, 0, 0] = 1
    p[0, 0, 0] = 0.5
    # patches of 4: the first holds (2 · .5 + 1) / (1 + .5 + 1) = .8, the second is empty: 1
    assert legacy.qsm_soft_dice(t, p, patch=4, batch=1) == pytest.approx((0.8 + 1) / 2)
    assert legacy.qsm_soft_dice(t, p, patch=4, batch=2) == pytest.approx(0.8)
    q = np.zeros((4, 4, 8))
    q[0, 0, 2] = 1
    q[0, 0, 6] = 1  # in a patch without truth: not counted
    assert legacy.qsm_patch_hausdorff(t, q, patch=4) == 2
    assert np.isnan(legacy.qsm_patch_hausdorff(t, 0 * q, patch=4))


def test_claims_are_told_with_care():
    rows = [
        {"method": m, "subject": f"s{s}", "label": label, "dice": d}
        for m, d in (("a", 0.8), ("b", 0.7), ("c", 0.9)) for s in range(8) for label in qsm.LABELS
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(truth_ml=8.0)
    told = qsm.claims(table, source="simulated real", best="c", unet="a", resunet="b", brain_ml=1000).set_index(
        "section"
    )
    assert told.loc["above Figure 6", "verdict"] == "holds"
    assert "here 0.80 %" in told.loc["above Figure 6", "evidence"]
    below = told.loc["below Table 3"].set_index("claim")["verdict"]
    assert below["U-Net does better than ResUNet on the hippocampus at 128³"] == "holds"
    assert below["U-Net and ResUNet are almost alike on the caudate at 128³"] == "does not hold"
    falls = "at 256³ the caudate's Dice falls to .64 from .76 at 128³"
    assert below[falls] == "cannot be told here"
    grids = pd.concat([table[table["method"] == m].assign(dim=d, dice_fine=0.7) for m, d in (("a", 128), ("b", 256))])
    told = qsm.claims(table, source="simulated real", best="c", grids=grids).set_index("claim")
    assert told.loc[falls, "verdict"] == "holds"
    assert "on the finest grid 0.700 and 0.700" in told.loc[falls, "evidence"]
    told = qsm.claims(table, source="simulated real", best="c", unet="a", resunet="b").set_index("section")
    assert told.loc["section 5.3", "verdict"] == "holds"
    assert told.loc["Table 1", "verdict"] == "does not hold"
    phantom = qsm.claims(pd.DataFrame(rows), source="simulated phantom", best="c", unet="a", resunet="b").set_index(
        "section"
    )
    assert phantom.loc["section 5.3", "verdict"] == "cannot be told here"


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


def test_registration_by_transform_raises_the_overlap(done, tmp_path):
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
    if not register.has_ants():
        written = register.register(native, atlas, tmp_path / "registered" / "sub-001")
        row = qsm.find(tmp_path / "registered").loc["sub-001"]  # what 01_padding reads
        image, masks = qsm.read(row, values)
        assert set(masks) == {"brain", *qsm.LABELS}
        chi, original = (
            volumes.array(written["QSM_w_bg"]),
            volumes.array(volumes.load(native / "QSM_w_bg_native.nii.gz")),
        )
        assert chi.std() == pytest.approx(original.std(), rel=0.5)  # ppm still, not the atlas's values
    (tmp_path / "t.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="4 × 4 matrix is expected"):
        register.read_transform(tmp_path / "t.txt")
    with pytest.raises(FileNotFoundError, match="no such transform"):
        register.read_transform(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="invertible"):
        register.with_transform(moving, np.zeros((4, 4)), atlas_labels, kind="label")
    with pytest.raises(ValueError, match="no registration is called 'bspline'"):
        register.with_ants(moving, atlas_labels, {}, kind="bspline")


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


def cells(values):
    """A row a network, subject and nucleus; a network's Dice is given, subjects add a little."""
    rows = [
        {
            "network": n,
            "method": n,
            "subject": f"s{k}",
            "label": label,
            "dim": 128,
            "dice": dice + 0.01 * k,
            "hd_mm": 4.0,
        }
        for n, dice in values.items()
        for k in range(8)
        for label in qsm.LABELS
    ]
    return pd.DataFrame(rows)


def test_tables_2_and_3_stand_beside_ours():
    scores = cells({"qsm_unet3d": 0.7, "qsm_resunet3d": 0.6})
    text = qsm.told(qsm.summary(scores))
    assert list(text.columns) == [*qsm.LABELS, "mean"]
    assert text.loc["qsm_unet3d", "mean"].startswith("0.735 [")
    second = qsm.table_2(scores, "qsm_unet3d")
    assert second.loc["caudate", "Chai et al., as quoted"] == 0.782
    assert second.loc["caudate", "qsm_unet3d"].startswith("0.735 [")
    assert np.isnan(second.loc["hippocampus", "Chai et al., as quoted"])
    third = qsm.table_3(scores, cells({"x": 0.5}).assign(dim=256))
    assert third.loc[("hippocampus", "U-Net", 128), "ours"] == pytest.approx(0.735)
    assert third.loc[("hippocampus", "U-Net", 256), "ours"] == pytest.approx(0.535)
    assert third.loc[("hippocampus", "ResUNet", 128), "reported"] == 0.71
    binary = cells({"qsm_unet3d": 0.7}).query("label in ('hippocampus', 'caudate')")
    first = qsm.table_1(binary.assign(hd95_mm=2.0, legacy_dice=0.8, legacy_hd_voxels=1.5))
    assert first.index[0] == "brain"
    assert first.loc["hippocampus", "corrected Dice"] == pytest.approx(0.735)
    assert first.loc["hippocampus", ["reported Dice", "legacy Dice", "reported HD (voxels)"]].tolist() == [
        0.82,
        0.8,
        1.24,
    ]
    assert first.loc["brain", "reported validation Dice"] == 0.99
    assert np.isnan(first.loc["brain", "corrected Dice"])
    test = qsm.pairs(scores).iloc[0]
    assert test["difference"] == pytest.approx(0.1)
    assert test["p"] < 0.01


@pytest.mark.parametrize(("resunet", "verdict"), [(0.6, "holds"), (0.8, "does not hold"), (0.7, "cannot be told here")])
def test_the_claim_on_resunet_needs_a_clear_difference(resunet, verdict):
    scores = cells({"qsm_unet3d": 0.7, "qsm_resunet3d": resunet, "best": 0.9})
    names = {"best": "best", "unet": "qsm_unet3d", "resunet": "qsm_resunet3d"}
    told = qsm.claims(scores, source="simulated", **names).set_index("section")
    assert told.loc["section 5.3", "verdict"] == verdict
    assert "Wilcoxon p" in told.loc["section 5.3", "evidence"]
    phantom = qsm.claims(scores, source="simulated phantom", **names).set_index("section")
    assert phantom.loc["section 5.3", "verdict"] == "cannot be told here"


@pytest.mark.parametrize("classes", [1, 3])
def test_patches_are_spent_on_what_is_not_zero(rng, classes):
    import keras

    inputs = keras.Input((None, None, None, 1))
    asked = keras.layers.Conv3D(
        classes, 1, activation="sigmoid" if classes == 1 else "softmax", bias_initializer="ones"
    )
    model = keras.Model(inputs, asked(inputs))
    image = np.zeros((32, 32, 32), "f")
    image[3:21, 10:25, 14:20] = rng.normal(size=(18, 15, 6))
    whole = qsm.predict_patches(model, image, patch=(16, 16, 16), overlap=False)
    part = qsm.predict_patches(model, image, patch=(16, 16, 16))
    inside = (slice(3, 21), slice(9, 25), slice(9, 25))  # no narrower than a patch
    np.testing.assert_allclose(part[inside], whole[inside], atol=1e-5)
    beyond = np.ones(image.shape, bool)
    beyond[inside] = False
    assert (part[beyond] == np.eye(classes)[0] * (classes > 1)).all()
    empty = qsm.predict_patches(model, 0 * image, patch=(16, 16, 16))
    np.testing.assert_allclose(
        empty, qsm.predict_patches(model, 0 * image, patch=(16, 16, 16), overlap=False), atol=1e-5
    )


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


def test_a_moved_map_and_its_labels_stay_together_and_keep_their_size(rng):
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
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(np.linalg.norm([20, 20, 10]), abs=0.3)
        assert (found == 4).sum() * ml == pytest.approx((known == 4).sum(), rel=0.05)
        assert volumes.array(image)[found == 4].mean() == pytest.approx(4, abs=0.5)
        direction = ends[1] - ends[0]
        assert not np.allclose(direction / 10, (2, 2, 1), atol=0.05)  # it was turned


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
