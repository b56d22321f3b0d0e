"""QSM: training of the report's networks, experiments, scores, tables and claims."""

import dataclasses

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import legacy, volumes
from segkit.studies import qsm


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Phantoms of the smoke profile through 01 and 02."""
    run = qsm.start("smoke", results=tmp_path_factory.mktemp("qsm"))
    qsm.experiments.prepare(run)
    return run


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
    assert set(first["best"]["method"]) == {qsm.RELEASED, "atlas"}
    assert qsm.experiments.own_recipe(done) is not None
    own = pd.read_csv(done.results / "tables" / "best_original_grid.csv")
    assert set(own["subject"]) == set(qsm.experiments.sides(done)["test"])
    assert {"dice", "hd95_mm", "prediction_ppm", "recipe"} <= set(own.columns)
    assert list(first["compare"]["network"].unique()) == list(done.profile.compared)
    assert list(first["resolution"]["dim"].unique()) == [d for d in done.profile.dims if d < qsm.CUBE]
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
        "resolution": qsm.experiments.resolution(done),
        "binary": qsm.experiments.binary(done, labels=("brain",)),
    }
    for name, table in again.items():
        np.testing.assert_allclose(table["dice"], first[name]["dice"], atol=1e-5)


def test_rows_of_another_recipe_are_not_shown(done, tmp_path, capsys):
    run = dataclasses.replace(done, results=tmp_path)
    assert qsm.experiments.rows(run, "binary") is None
    assert "experiments binary --data DIR" in capsys.readouterr().out
    (tmp_path / "tables").mkdir()
    longer = dataclasses.replace(run, profile=dataclasses.replace(run.profile, cell_epochs=50))  # such as on a GPU
    written = pd.DataFrame({"label": ["brain"], "recipe": [qsm.experiments.recipe_for(longer, "binary")]})
    written.to_csv(tmp_path / "tables" / "binary.csv", index=False)
    assert len(qsm.experiments.rows(run, "binary")) == 1
    assert "binary: made otherwise than this profile would: qsm_unet3d, 50 epochs" in capsys.readouterr().out
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
    table = pd.DataFrame(rows).assign(dim=128)
    told = qsm.claims(
        table, source="simulated real", best="c", unet="a", resunet="b", shares=pd.Series([0.007, 0.009])
    ).set_index("section")
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
    other = grids.assign(dice_fine=grids["dim"] / 1000)  # on the common grid the other way round
    told = qsm.claims(table, source="simulated real", best="c", grids=other).set_index("claim")
    assert told.loc[falls, "verdict"] == "cannot be told here"
    assert "0.128 and 0.256, the other way round" in told.loc[falls, "evidence"]
    short = table.assign(steps=400, recipe="five labels, 25 minutes, 40 simulated maps")
    told = qsm.claims(short, source="simulated real", best="c", unet="a", resunet="b").set_index("section")
    assert told.loc["section 5.3", "verdict"] == "cannot be told here"
    assert "after 400 and 400 steps, too few to tell" in told.loc["section 5.3", "evidence"]
    long = short.assign(recipe="five labels, 50 epochs, 40 simulated maps")
    told = qsm.claims(long, source="simulated real", best="c", unet="a", resunet="b").set_index("section")
    assert told.loc["section 5.3", "verdict"] == "holds"
    none = grids.assign(dice=grids["dice"] * (grids["dim"] == 128))
    told = qsm.claims(table, source="simulated real", best="c", grids=none).set_index("claim")
    assert told.loc[falls, "verdict"] == "cannot be told here"
    assert "not learned yet: 256³" in told.loc[falls, "evidence"]
    told = qsm.claims(table, source="simulated real", best="c", unet="a", resunet="b").set_index("section")
    assert told.loc["section 5.3", "verdict"] == "holds"
    assert (told.loc["Table 1", "verdict"] == "does not hold").all()
    near = "U-Net and ResUNet (.76) come close to a double branch (Chai et al.: .78) on the caudate"
    told = qsm.claims(table, source="simulated real", best="c", unet="a", resunet="b", double="c").set_index("claim")
    assert told.loc[near, "verdict"] == "does not hold"
    curve = pd.concat([table[table["method"] == m].assign(subjects=n) for m, n in (("a", 28), ("b", 7))])
    low = pd.DataFrame({"dim": [128, 64], "ceiling": [0.95, 0.9]})
    told = qsm.claims(table, source="simulated real", best="c", curve=curve, ceilings=low).set_index("claim")
    assert told.loc["more training subjects give better results", "verdict"] == "holds"
    assert told.loc["downsampling loses information", "verdict"] == "holds"
    assert "0.950 at 128³" in told.loc["downsampling loses information", "evidence"]
    small = qsm.claims(table.assign(dim=64), source="real", best="c", unet="a", resunet="b").set_index("claim")
    assert small.loc["U-Net does better than ResUNet on the hippocampus at 128³", "evidence"] == "not run here at 128³"
    phantom = qsm.claims(table, source="simulated phantom", best="c", unet="a", resunet="b").set_index("section")
    assert phantom.loc["section 5.3", "verdict"] == "cannot be told here"


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
    assert first.loc["hippocampus", "Dice of whole cubes"] == pytest.approx(0.735)
    assert first.loc["hippocampus", ["reported Dice", "legacy Dice", "reported HD (voxels)"]].tolist() == [
        0.82,
        0.8,
        1.24,
    ]
    assert first.loc["brain", "reported validation Dice"] == 0.99
    assert np.isnan(first.loc["brain", "Dice of whole cubes"])
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


def test_seams_are_measured_where_overlapping_patches_begin_too():
    """Of a network that knows where in its patch it is: side by side it jumps at borders, blended it does not."""
    import keras
    from keras import ops

    inputs = keras.Input((8, 8, 8, 1))

    def ramp(x):  # 0 to 1 along the first axis of a patch
        place = ops.reshape(ops.arange(8, dtype="float32") / 7, (1, 8, 1, 1, 1))
        return ops.zeros_like(x) + place

    model = keras.Model(inputs, keras.layers.Lambda(ramp)(inputs))
    image = np.zeros((24, 24, 24), "f")
    image[3:17, 3:17, 3:17] = 1
    both = {o: qsm.predict_patches(model, image, patch=(8, 8, 8), overlap=o, whole=True) for o in (True, False)}
    seams = {o: qsm.seams(soft[..., :1], (8, 8, 8)) for o, soft in both.items()}
    assert seams[False] > 4
    assert seams[True] < seams[False] / 2


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
