"""The glioma study: slices as they lie on disk, its steps, leakage, shape against clusters, a user's own slices."""

import dataclasses
import json
import sys

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import legacy, metrics, models, phantoms, shape
from segkit.studies import common, lgg
from segkit.studies.lgg import radiogenomics
from segkit.studies.lgg.networks import hollow


def put(home, number, image=None, mask=None, *, name=None, end=""):
    """One slice's files, named as Kaggle names them."""
    home.mkdir(parents=True, exist_ok=True)
    stem = f"{name or home.name}_{number}"
    if image is not None:
        cv2.imwrite(
            str(home / f"{stem}{end}.tif"),
            np.asarray(image, np.uint8)[..., ::-1] if np.ndim(image) == 3 else np.uint8(image),
        )
    if mask is not None:
        cv2.imwrite(str(home / f"{stem}_mask{end}.tif"), np.uint8(mask))
    return home


def tiny(folder, name="TCGA_CS_0001_20000101", count=4, size=16):
    rng = np.random.default_rng(0)
    for k in range(1, count + 1):
        mask = np.zeros((size, size))
        mask[3:9, 4 : 6 + k] = 255 * (k > 1)
        put(folder / name, k, rng.integers(1, 255, (size, size, 3)), mask)
    return folder / name


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Phantoms of the smoke profile through 01 and 02."""
    run = lgg.start("smoke", results=tmp_path_factory.mktemp("lgg") / "results_dir")
    lgg.experiments.prepare(run)
    return run


# -- the data as they lie on disk


def test_find_pairs_by_name_in_numeric_order(tmp_path):
    home = tiny(tmp_path, count=11)
    table = lgg.find(tmp_path)
    assert list(table["slice"]) == list(range(1, 12))
    assert [p.name for p in table["image"]][8:] == [f"{home.name}_{k}.tif" for k in (9, 10, 11)]
    assert [p.name for p in table["mask"]][10] == f"{home.name}_11_mask.tif"
    assert set(table["site"]) == {"CS"}
    assert lgg.excluded(table).empty
    assert len(pd.concat([table, table])) == 22  # pandas compares what a table carries
    image, mask = lgg.read(table, home.name)
    assert image.shape == (16, 16, 11, 3)
    np.testing.assert_array_equal(mask[..., 10], lgg.read_mask(table["mask"][10]))


def test_find_looks_into_the_shared_layout(tmp_path):
    tiny(tmp_path / "kaggle_3m", "TCGA_CS_0001_20000101")
    assert lgg.find(tmp_path)["patient"].nunique() == 1
    tiny(tmp_path / "kaggle_3m_128", "TCGA_DU_0002_20000101")
    assert set(lgg.find(tmp_path)["site"]) == {"DU"}
    assert set(lgg.find(tmp_path, kind="kaggle_3m")["site"]) == {"CS"}
    with pytest.raises(FileNotFoundError, match=r"kaggle_4m: no such folder; .* holds kaggle_3m, kaggle_3m_128"):
        lgg.find(tmp_path, kind="kaggle_4m")


def test_what_is_left_out_is_named_and_counted(tmp_path):
    home = tiny(tmp_path, count=7)
    (home / f"{home.name}_2.tif").unlink()  # a mask without image
    (home / f"{home.name}_3_mask.tif").unlink()  # an image without mask
    put(home, 4, np.ones((16, 16, 3)), np.zeros((16, 16)), end=" (1)")
    put(home, 4, np.ones((16, 16, 3)), name="TCGA_XX_0009_20000101")
    (home / "notes.txt").write_text("")
    table = lgg.find(tmp_path)
    assert list(table["slice"]) == [1, 4, 5, 6, 7]
    reasons = lgg.excluded(table).groupby("reason")["file"].apply(list).to_dict()
    assert reasons["a mask without image"] == [f"{home.name}_2_mask.tif"]
    assert reasons["an image without mask"] == [f"{home.name}_3.tif"]
    assert len(reasons["a copy"]) == 2
    assert reasons["not named <patient>_<n>.tif"] == ["notes.txt"]
    assert reasons[f"another patient's name in folder {home.name}"] == ["TCGA_XX_0009_20000101_4.tif"]
    assert reasons["numbers missing in between (2, 3); the others are kept as neighbours"] == [home.name]


def test_a_patient_without_any_mask_is_kept_and_refused_where_masks_are_needed(tmp_path):
    home = tiny(tmp_path)
    for path in home.glob("*_mask.tif"):
        path.unlink()
    table = lgg.find(tmp_path)
    assert list(table["mask"]) == [None] * 4
    assert lgg.read(table, home.name)[1] is None
    with pytest.raises(ValueError, match="has no mask, so nothing can be scored"):
        lgg.evaluate({"a": lambda image: image[..., 0]}, tmp_path, tmp_path, [home.name])


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; give DATA the folder kaggle_3m"):
        lgg.find(tmp_path / "none")
    with pytest.raises(ValueError, match="no slice found; expected <patient>/<patient>_<n>.tif"):
        lgg.find(tmp_path)


def test_the_same_number_twice_is_an_error(tmp_path):
    home = tiny(tmp_path)
    put(home, "02", np.ones((16, 16, 3)))
    with pytest.raises(ValueError, match=r"slice 2 stands twice"):
        lgg.find(tmp_path)


@pytest.mark.parametrize("white", [1, 255, 7])
def test_masks_of_any_one_value_become_0_and_1(tmp_path, white):
    mask = np.zeros((8, 8))
    mask[2:4] = white
    put(tmp_path / "p", 1, mask=mask)
    found = lgg.read_mask(tmp_path / "p" / "p_1_mask.tif")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask > 0)


def test_masks_and_images_that_cannot_be_meant(tmp_path):
    home = tmp_path / "p"
    put(home, 1, mask=np.arange(64).reshape(8, 8))
    put(home, 2, mask=np.random.default_rng(0).integers(0, 255, (8, 8, 3)))
    with pytest.raises(ValueError, match=r"p_1_mask.tif: holds the values \[1, 2, .* binarise it first"):
        lgg.read_mask(home / "p_1_mask.tif")
    with pytest.raises(ValueError, match=r"p_2_mask.tif: the channels differ; .* exchanged with an image"):
        lgg.read_mask(home / "p_2_mask.tif")
    (home / "p_3.tif").write_bytes(b"no picture")
    cv2.imwrite(str(home / "p_4.tif"), np.ones((8, 8, 3), np.uint16))
    cv2.imwrite(str(home / "p_5.tif"), np.ones((8, 8, 4), np.uint8))
    for number, message in ((3, "cannot be read as an image"), (4, "has uint16 pixels"), (5, "has 4 channels")):
        with pytest.raises(ValueError, match=message):
            lgg.read_image(home / f"p_{number}.tif")


def test_channels_are_pre_flair_post_and_a_grey_image_is_flair(tmp_path):
    image = np.zeros((4, 4, 3))
    image[..., 0], image[..., 1], image[..., 2] = 10, 20, 30
    put(tmp_path / "p", 1, image)
    put(tmp_path / "p", 2, image[..., 1])
    assert lgg.read_image(tmp_path / "p" / "p_1.tif")[0, 0].tolist() == [10, 20, 30]
    assert lgg.read_image(tmp_path / "p" / "p_2.tif")[0, 0].tolist() == [20, 20, 20]
    found = lgg.overview(lgg.find(tmp_path))
    assert found.loc["p", ["has_pre", "has_post"]].tolist() == [True, True]
    put(tmp_path / "p", 1, np.stack([image[..., 1], image[..., 1], image[..., 2]], -1))
    found = lgg.overview(lgg.find(tmp_path))
    assert found.loc["p", ["has_pre", "has_post"]].tolist() == [False, True]


def test_slices_of_several_sizes_name_the_first(tmp_path):
    home = tiny(tmp_path)
    put(home, 3, np.ones((20, 16, 3)), np.zeros((20, 16)))
    with pytest.raises(ValueError, match=r"_3.tif: \(20, 16\) pixels, the patient's first slice has \(16, 16\)"):
        lgg.read(lgg.find(tmp_path), home.name)
    with pytest.raises(ValueError, match="patient 'nobody' is not here"):
        lgg.read(lgg.find(tmp_path), "nobody")


def test_diagnoses_have_the_right_names(tmp_path):
    tiny(tmp_path, count=5)  # the first slice is empty
    assert lgg.diagnoses(lgg.find(tmp_path))["diagnosis"].tolist() == [0, 1, 1, 1, 1]


def table_of_clusters(patients, **columns):
    rows = pd.DataFrame({"Patient": patients} | dict.fromkeys(lgg.CLUSTERS, 1) | columns)
    return rows


def test_clinical_table_and_what_may_be_wrong_with_it(tmp_path):
    path = tmp_path / "data.csv"
    with pytest.raises(FileNotFoundError, match=r"data.csv: missing, and neither in kaggle_3m nor a folder above"):
        lgg.clinical(tmp_path)
    for text, message in (
        ("", "is empty"),
        ("Patient,race\nA,1\n", "lacks the columns"),
        (",".join(["Patient", *lgg.CLUSTERS]), "names no patient"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            lgg.clinical(tmp_path)
    table_of_clusters(["A", "A"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"names \['A'\] twice"):
        lgg.clinical(tmp_path)
    table_of_clusters(["A", "B"], RNASeqCluster=[2, None]).to_csv(path, index=False)
    found = lgg.clinical(tmp_path)
    assert found.loc["A", "RNASeqCluster"] == 2
    assert np.isnan(found.loc["B", "RNASeqCluster"])


# -- who trains


def test_the_five_folds_test_each_of_a_hundred_patients_once():
    everyone = []
    for fold in range(1, 6):
        parts = [common.split("lgg", f"fold{fold}_{part}") for part in ("train", "selection", "test")]
        assert [len(p) for p in parts] == [72, 8, 20]
        assert len({p for part in parts for p in part}) == 100
        everyone += parts[2]
        assert lgg.split([p for part in parts for p in part], fold=fold)["test"] == parts[2]
    assert len(set(everyone)) == 100
    hidden = {
        "CS_4944",
        "CS_6667",
        "CS_6668",
        "DU_5851",
        "DU_6404",
        "DU_6408",
        "DU_7014",
        "HT_7616",
        "HT_7692",
        "HT_7879",
    }
    assert not hidden & {p[5:12] for p in everyone}


def test_other_patients_are_split_by_fifths():
    for n in (5, 8, 9, 12, 20, 24):
        names = [f"p{i:02d}" for i in range(n)]
        folds = [lgg.split(names, fold=fold) for fold in range(1, 6)]
        assert sorted(p for parts in folds for p in parts["test"]) == names
        for parts in folds:
            assert sorted(p for part in parts.values() for p in part) == names
            assert all(parts.values())
    assert lgg.split(names) == lgg.split(names[::-1], fold=1)
    with pytest.raises(ValueError, match="4 patients are too few"):
        lgg.split(names[:4])
    with pytest.raises(ValueError, match="fold 6 does not exist"):
        lgg.split(names, fold=6)


def test_a_few_of_the_hundred_never_change_sides():
    """With some of them only, roles stay; a fold without a patient for a role is refused, not drawn anew."""
    from segkit.studies import common

    lists = {part: common.split("lgg", f"fold3_{part}") for part in ("train", "selection", "test")}
    few = [lists["train"][0], *lists["selection"][:1], *lists["test"][:2], "another"]
    found = lgg.split(few, fold=3)
    assert found == {
        "train": sorted([lists["train"][0], "another"]),
        "selection": lists["selection"][:1],
        "test": lists["test"][:2],
    }
    with pytest.raises(ValueError, match="fold 3: none of its selection patients is here; choose another fold"):
        lgg.split([p for p in few if p not in lists["selection"]], fold=3)


def test_a_site_is_left_out_whole(done):
    table = lgg.find(done.data)
    for site in ("CS", "DU", "FG", "HT"):
        chosen = lgg.leave_site_out(table, site)
        assert all(p.startswith(f"TCGA_{site}_") for p in chosen["test"])
        others = [*chosen["train"], *chosen["selection"]]
        assert not any(p.startswith(f"TCGA_{site}_") for p in others)
        assert len({*others, *chosen["test"]}) == 8
        assert chosen["selection"]
    with pytest.raises(ValueError, match="no patient is of site 'XX'; there are CS, DU, FG, HT"):
        lgg.leave_site_out(table, "XX")


def test_training_refuses_a_patient_on_both_sides(done):
    names = sorted(lgg.find(done.data)["patient"].unique())
    with pytest.raises(ValueError, match=f"subjects \\['{names[1]}'\\] stand in both train and validation"):
        lgg.train(done, {"train": names[:2], "selection": names[1:3]}, name="leak", verbose=0)
    assert not (done.results / "runs" / "leak").exists()


# -- steps


def test_padding_to_a_square_and_back_by_the_affine_free_grid():
    image = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    square = lgg.pad_square(image)
    assert square.shape == (5, 5, 3)
    np.testing.assert_array_equal(square[1:3], image)
    assert square[0].sum() + square[3:].sum() == 0


def test_halving_takes_the_mean_and_at_least_half_of_the_mask():
    image = np.array([[1, 3, 0, 0], [5, 7, 0, 8]], float)[..., None]
    np.testing.assert_array_equal(lgg.resize(image, (1, 2))[..., 0], [[4, 2]])
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]])[..., None]
    assert lgg.resize(mask, (1, 2), kind="mask")[..., 0].tolist() == [[1, 0]]
    same = np.random.default_rng(0).random((6, 6, 2, 3))
    np.testing.assert_allclose(lgg.resize(same, (6, 6)), same, rtol=1e-6)


def test_normalised_channels_have_mean_0_and_deviation_1_whatever_the_scanner():
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 20, (24, 24, 12, 3))
    found = lgg.normalise(image, how="zscore")
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), 1, atol=1e-4)
    for how in ("zscore", "tissue"):
        found = lgg.normalise(image, how=how)
        np.testing.assert_allclose(lgg.normalise(image * [2, 3, 0.5] + 7, how=how), found, atol=1e-4)
        bright = image.copy()
        bright[0, 0, 0] = 1e6  # one bright pixel changes next to nothing
        assert np.abs(lgg.normalise(bright, how=how) - found)[1:].max() < 0.05
    with pytest.raises(ValueError, match="choose tissue or zscore"):
        lgg.normalise(image, how="other")


def test_tissue_is_0_whatever_surrounds_it():
    def head(air, fat):
        image = np.zeros((40, 40, 4, 1), np.float32)
        image[air:-air, air:-air] = 100
        image[air : air + 2, air:-air] = fat
        image[20:23, 20:23] = 150
        return lgg.normalise(image, clip=(0, 100))[..., 0]

    for air, fat in ((4, 180), (10, 250), (12, 400)):
        scaled = head(air, fat)
        assert scaled[0, 0, 0] == -2
        assert scaled[18, 18, 0] == 0
        assert scaled[21, 21, 0] == 1
    assert not lgg.normalise(np.full((8, 8, 2, 1), 7.0)).any()


def test_steps_write_what_the_next_reads(done):
    table = lgg.find(done.data)
    patient = table["patient"][0]
    image, mask = lgg.load(done.results, patient)
    raw, truth = lgg.read(table, patient)
    assert image.dtype == np.float16
    np.testing.assert_array_equal(mask, truth)  # the phantoms of the smoke profile are as small as its networks' slices
    np.testing.assert_allclose(image, lgg.normalise(raw), atol=0.01)
    ceiling = lgg.downsample([patient], done.results, size=16)["ceiling"]
    assert 0.6 < ceiling[patient] < 1
    lgg.downsample([patient], done.results, size=done.profile.size)
    with pytest.raises(FileNotFoundError, match="run 02_downsampling first"):
        lgg.load(done.results, "nobody")


def test_n4_flattens_a_field():
    rng = np.random.default_rng(0)
    field = np.exp(np.linspace(-0.5, 0.5, 32))[:, None, None, None]
    image = np.pad((100 + rng.normal(0, 2, (32, 32, 12, 3))) * field, ((8, 8), (8, 8), (2, 2), (0, 0)))
    flat = lgg.correct_bias(image)
    assert flat.shape == image.shape
    inside = image > 0
    assert flat[inside].std() < 0.5 * image[inside].std()


def test_weights_of_the_cross_entropy_are_measured(done):
    names = sorted(lgg.find(done.data)["patient"].unique())[:3]
    masks = [lgg.load(done.results, p)[1] for p in names]
    share = sum(m.sum() for m in masks) / sum(m.size for m in masks)
    back, front = lgg.class_weights(done.results, names)
    assert back * (1 - share) == pytest.approx(0.5)
    assert front * share == pytest.approx(0.5)


def test_hollow_tumours_change_inside_only():
    label = np.zeros((40, 40), np.uint8)
    label[8:32, 8:32] = 1

    def still(image, label, rng):
        return image.copy(), label

    still.settings = {}
    image = np.full((40, 40, 9), 2.0, np.float32)
    always, never = hollow(still, 1.0), hollow(still, 0.0)
    changed, same = always(image, label, np.random.default_rng(0))
    np.testing.assert_array_equal(same, label)
    assert np.abs(changed - 2)[:5].max() == 0
    assert np.abs(changed - 2)[20, 20].min() > 0.05
    np.testing.assert_allclose(changed[..., 0], changed[..., 3], atol=1e-5)  # a sequence's neighbours alike
    np.testing.assert_array_equal(never(image, label, np.random.default_rng(0))[0], image)
    np.testing.assert_array_equal(always(image, 0 * label, np.random.default_rng(0))[0], image)
    assert always.settings == {"hollow": 1.0}


def test_dropped_sequences_become_flair_in_every_slice_of_the_sample():
    from segkit.studies.lgg.networks import drop_sequences

    def same(image, label, rng):
        return image.copy(), label

    same.settings = {}
    image = np.arange(2 * 2 * 9, dtype=float).reshape(2, 2, 9)
    rng = np.random.default_rng(0)
    both, _ = drop_sequences(same, 1.0)(image, None, rng)
    for k in range(3):
        for c in range(3):
            np.testing.assert_array_equal(both[..., 3 * k + c], image[..., 3 * k + 1])
    none, _ = drop_sequences(same, 0.0)(image, None, rng)
    np.testing.assert_array_equal(none, image)


# -- scores


def test_a_perfect_method_scores_one_and_the_legacy_score_is_the_original_definition(done, tmp_path):
    table = lgg.find(done.data)
    names = sorted(table["patient"].unique())[:3]
    truths = {lgg.read(table, p)[0].tobytes(): lgg.read(table, p)[1] for p in names}

    def perfect(image):
        return truths[image.tobytes()].astype(float)

    scores = lgg.evaluate({"perfect": perfect}, done.data, tmp_path, names)
    assert scores["dice"].tolist() == [1, 1, 1]
    assert scores["hd95_pixels"].tolist() == [0, 0, 0]
    for row, name in zip(scores.to_dict("records"), names, strict=True):
        assert {k: row[k] for k in shape.NAMES} == pytest.approx(shape.features(lgg.read(table, name)[1]))
    old = lgg.legacy_scores(done.data, tmp_path, "perfect", names)
    count = int(table["patient"].isin(names).sum())
    batches = -(-count // legacy.LGG_BATCH)
    assert old["train_dice"] == 1
    assert old["validation_dice"] == pytest.approx(batches / (batches - 1))  # above 1: the quirk
    three = lgg.three_columns(scores, "perfect", old)
    assert three.loc[("tumour", "Dice"), "reported"] == 0.82
    assert three.loc[("tumour", "Dice"), "corrected"] == 1
    found = lgg.summary(scores)
    assert found.loc["perfect", ["mean", "median", "n"]].tolist() == [1, 1, 3]
    claims = lgg.claims(scores, "perfect", source="phantom")
    assert set(claims["verdict"]) <= {"holds", "does not hold", "cannot be told here"}


def test_masks_of_256_are_scored_where_they_lie_beside(tmp_path):
    home = tiny(tmp_path / "kaggle_3m_128", size=16)
    truth = lgg.read(lgg.find(tmp_path), home.name)[1]
    large = truth.repeat(2, 0).repeat(2, 1)
    (tmp_path / "masks_256").mkdir()
    nib.save(nib.Nifti1Image(large, np.eye(4)), tmp_path / "masks_256" / f"{home.name}.nii.gz")
    scores = lgg.evaluate({"a": lambda image: truth.astype(float)}, tmp_path, tmp_path / "r", [home.name])
    assert scores["dice"][0] == 1
    assert 0.9 < scores["dice_256"][0] <= 1
    assert set(radiogenomics.masks(tmp_path)) == {home.name}
    tiny(tmp_path / "kaggle_3m_128", name="TCGA_CS_0002_20000101", size=16)  # has masks beside its slices alone
    assert {name: mask.shape[0] for name, mask in radiogenomics.masks(tmp_path).items()} == {
        home.name: 32, "TCGA_CS_0002_20000101": 16,
    }  # fmt: skip


def test_chain_from_probabilities_to_a_mask():
    soft = np.zeros((6, 6, 3))
    soft[:3, :3], soft[5, 5, 0], soft[4, 4, 2] = 0.6, 0.9, 0.4
    assert lgg.to_mask(soft).sum() == 27
    assert lgg.to_mask(soft, largest=False).sum() == 28
    assert lgg.to_mask(soft, threshold=0.7).sum() == 1
    assert lgg.to_mask(np.zeros((3, 3, 3))).sum() == 0


def test_summary_counts_what_it_leaves_out():
    scores = pd.DataFrame({"method": "a", "dice": [0.2, 0.4, 0.9, np.nan]})
    row = lgg.summary(scores).loc["a"]
    assert row[["mean", "median", "n", "excluded"]].tolist() == pytest.approx([0.5, 0.4, 3, 1])
    assert row["median_low"] == pytest.approx(0.2)
    assert row["median_high"] == pytest.approx(0.9)


# -- the lesson and other experiments, on the smoke profile


def test_the_leakage_lesson_has_both_splits_and_their_gap(done):
    rows = lgg.experiments.leakage(done, verbose=0)
    assert list(rows["split"]) == ["slices", "patients"]
    assert rows["shared_patients"].tolist()[1] == 0
    assert rows["shared_patients"].tolist()[0] >= 2
    gap = lgg.leakage_gap(rows).loc["gap"]
    assert gap["dice"] == pytest.approx(rows["dice"][0] - rows["dice"][1], nan_ok=True)
    assert rows["same_slices"].nunique() == 1
    assert (rows["same_slices"] <= rows["slices"]).all()
    before = (done.results / "tables" / "leakage.csv").read_text()
    pd.testing.assert_frame_equal(
        lgg.experiments.leakage(done, verbose=0), pd.read_csv(done.results / "tables" / "leakage.csv")
    )
    assert (done.results / "tables" / "leakage.csv").read_text() == before


def test_slices_and_patients_are_drawn_as_the_report_cut_them():
    from segkit.studies.lgg.lesson import _drawn

    index = [(f"p{i:02d}", k) for i in range(40) for k in range(25)]
    for seed in range(20):
        slices, patients = (_drawn(index, kind, seed) for kind in ("slices", "patients"))
        for side in (slices, patients):
            shares = [(side == s).mean() for s in ("train", "selection", "test")]
            np.testing.assert_allclose(shares, [0.765, 0.1, 0.135], atol=0.015)
        of = np.array([p for p, _ in index])
        assert not set(of[patients == "test"]) & set(of[patients != "test"])
        assert len(set(of[slices == "test"]) & set(of[slices == "train"])) > 35
    with pytest.raises(ValueError, match="2 patients are too few"):
        _drawn([("a", 0), ("b", 0)], "patients", 0)


def test_files_made_with_other_settings_are_made_again(done, monkeypatch):
    from segkit.studies.lgg import steps

    patient = lgg.find(done.data)["patient"][0]
    path = done.results / "downsampled" / f"{patient}.npz"
    before = path.stat().st_mtime_ns
    lgg.experiments.prepare(done)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(steps, "HIGH", 98)
    assert not steps.is_current(path, done.profile.size)
    lgg.experiments.prepare(done)
    assert path.stat().st_mtime_ns > before
    assert steps.is_current(path, done.profile.size)
    monkeypatch.undo()
    lgg.experiments.prepare(done)
    assert steps.is_current(path, done.profile.size)


def test_rows_of_another_recipe_are_not_gone_on_with(done, tmp_path):
    path = done.results / "tables" / "curve.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"patients": [1], "recipe": ["another"]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="holds rows of another recipe"):
        lgg.experiments.learning_curve(done, verbose=0)
    path.unlink()


def test_folds_resume_and_know_their_threshold(done):
    first = lgg.experiments.cross_validate(done, folds=(1,), verbose=0)
    both = lgg.experiments.cross_validate(done, folds=(1, 2), verbose=0)
    assert list(both["fold"].unique()) == [1, 2]
    pd.testing.assert_frame_equal(both[both["fold"] == 1][["subject", "dice"]], first[["subject", "dice"]].round(5))
    assert {*shape.NAMES} <= set(both.columns)


def test_folds_are_scored_without_the_sequences_that_a_patient_may_lack(done, monkeypatch):
    folds = lgg.experiments.cross_validate(done, verbose=0).set_index("subject")
    rows = lgg.experiments.sequences(done, folds=(1, 2))
    whole = rows[rows["left_out"] == "nothing"].set_index("subject")["dice"]
    np.testing.assert_allclose(whole, folds.loc[whole.index, "dice"], atol=0.01)  # which were rounded to a 255th
    for patient, part in rows.groupby("subject"):
        facts = lgg.overview(lgg.find(done.data).query("patient == @patient")).loc[patient]
        assert ("pre" in set(part["left_out"])) == facts["has_pre"]
        assert ("post" in set(part["left_out"])) == facts["has_post"]
    monkeypatch.setattr(lgg.experiments, "predict", None)  # nothing is run again
    assert len(lgg.experiments.sequences(done, folds=(1, 2))) == len(rows)


def test_rows_of_other_patients_or_recipes_are_not_shown(done, tmp_path, capsys):
    run = dataclasses.replace(done, results=tmp_path)
    assert lgg.experiments.rows(run, "folds") is None
    assert "experiments folds --data DIR" in capsys.readouterr().out
    (tmp_path / "tables").mkdir()
    told = pd.DataFrame({"subject": ["a"], "recipe": [lgg.experiments.recipe_for(run, "folds")]})
    told.to_csv(tmp_path / "tables" / "folds.csv", index=False)
    assert list(lgg.experiments.rows(run, "folds")["subject"]) == ["a"]
    told.assign(recipe="another").to_csv(tmp_path / "tables" / "folds.csv", index=False)
    assert lgg.experiments.rows(run, "folds") is None
    assert "not shown: " in capsys.readouterr().out


def test_a_rule_for_the_threshold_never_sees_the_patient_it_is_scored_on(done, monkeypatch):
    lgg.experiments.cross_validate(done, folds=(1,), verbose=0)
    table = pd.DataFrame({0.2: [0.9, 0.2, 0.2], 0.5: [0.5, 0.5, 0.5]}, index=["a", "b", "c"])
    monkeypatch.setattr(lgg.experiments, "choose_threshold", lambda *given: (0.2, table))
    rows = lgg.experiments.threshold_rules(done, folds=(1,))
    best = rows[rows["rule"] == "the best mean"].set_index("subject")["threshold"]
    assert best.to_dict() == {"a": 0.5, "b": 0.2, "c": 0.2}  # a alone makes .2 the best, and is not asked about itself
    assert (rows[rows["rule"] == "always .5"]["dice"] == 0.5).all()
    monkeypatch.setattr(lgg.experiments, "choose_threshold", None)  # nothing is run again
    assert len(lgg.experiments.threshold_rules(done, folds=(1,))) == len(rows) == 4 * 3


def test_features_of_the_table_are_those_of_the_mask_written(done):
    cells = lgg.experiments.cross_validate(done, folds=(1,), verbose=0)
    for row in cells[cells["fold"] == 1].itertuples():
        mask = lgg.predicted_mask(done.data, done.results, row.method, row.subject, threshold=row.threshold)
        ratio = shape.features(mask)[shape.NAMES[0]]
        assert ratio == pytest.approx(getattr(row, shape.NAMES[0]), abs=0.05, nan_ok=True)


def test_networks_are_compared_on_the_same_patients_and_cells_resume(done, monkeypatch):
    rows = lgg.experiments.compare(done, verbose=0)
    assert list(rows["network"].unique()) == ["lgg_unet", "lgg_bunet", lgg.RELEASED]
    test = set(lgg.split(lgg.labelled(lgg.find(done.data)), fold=1)["test"])
    assert all(set(group["subject"]) == test for _, group in rows.groupby("network"))
    assert set(rows["encoder"]) == {"random"}
    assert (rows["epochs"] > 0).all()
    monkeypatch.setattr(lgg.experiments, "train", None)  # nothing is run again
    pd.testing.assert_frame_equal(
        lgg.experiments.compare(done, verbose=0)[["network", "dice"]], rows[["network", "dice"]].round(5)
    )


def test_encoder_weights_that_cannot_be_had_are_told_before_hours_are_spent(done, tmp_path, monkeypatch):
    monkeypatch.setattr(lgg.experiments, "train", None)
    with pytest.raises((FileNotFoundError, ValueError), match="none.npz"):
        lgg.experiments.compare(done, weights=str(tmp_path / "none.npz"), verbose=0)


def test_each_site_is_scored_by_a_network_without_it(done, monkeypatch):
    seen = {}
    real = lgg.experiments.train

    def spy(run, patients, **settings):
        seen[settings["name"]] = patients
        return real(run, patients, **settings)

    monkeypatch.setattr(lgg.experiments, "train", spy)
    rows = lgg.experiments.sites(done, verbose=0)
    table = lgg.find(done.data).drop_duplicates("patient").set_index("patient")["site"]
    assert sorted(rows["subject"]) == sorted(table.index)
    for site in set(table):
        chosen = seen[f"without_{site}"]
        assert not {table[p] for p in chosen["train"] + chosen["selection"]} & {site}


def test_a_release_needs_all_folds_of_its_own_recipe(done, monkeypatch, tmp_path):
    rows = lgg.experiments.cross_validate(done, verbose=0)
    monkeypatch.setattr(lgg.experiments, "train", None)
    part = dataclasses.replace(done, results=tmp_path / "results_dir" / "lgg" / "smoke")
    with pytest.raises(FileNotFoundError, match="experiments folds first"):
        lgg.experiments.release_all(part, verbose=0)
    (part.results / "tables").mkdir(parents=True)
    rows[rows["fold"] < 5].to_csv(part.results / "tables" / "folds.csv", index=False)
    with pytest.raises(ValueError, match="are not scored yet .*run the folds to their end first"):
        lgg.experiments.release_all(part, verbose=0)
    rows.assign(recipe="another").to_csv(part.results / "tables" / "folds.csv", index=False)
    with pytest.raises(ValueError, match="holds rows of another recipe"):
        lgg.experiments.release_all(part, verbose=0)


def test_the_release_is_trained_on_everybody_and_beside_it_stand_the_folds_scores(done, monkeypatch):
    lgg.experiments.cross_validate(done, verbose=0)
    folder = done.results.parent / "saved_models"
    monkeypatch.setattr(common, "home", lambda: done.results.parents[2])
    row = lgg.experiments.release_all(done, verbose=0).iloc[0]
    assert row["MB"] < 5
    record = json.loads((folder / f"{lgg.RELEASED}.run.json").read_text())
    assert record["settings"]["train"]["subjects"] == lgg.labelled(lgg.find(done.data))
    scores = pd.read_csv(folder / f"{lgg.RELEASED}.scores.csv")
    assert sorted(scores["subject"]) == lgg.labelled(lgg.find(done.data))
    at = scores.groupby("fold")["threshold"].first().mean()
    assert lgg.networks.MODEL.threshold() == pytest.approx(at, abs=0.006)
    assert [p.name for p in lgg.released()] == [f"{lgg.RELEASED}.keras"]
    image, _ = lgg.read(lgg.find(done.data), lgg.find(done.data)["patient"][0])
    assert lgg.predict(lgg.load_model(), image, size=32).shape == image.shape[:3]


def test_experiments_are_called_from_the_command_line(done, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["experiments", "folds", "--data", str(done.data), "--profile", "smoke", "--fold", "1"]
    )
    monkeypatch.setattr(lgg.experiments, "start", lambda *given, **more: done)
    lgg.experiments.cross_validate(done, verbose=0)  # all five are there
    lgg.experiments.main()
    assert "bounding_ellipsoid_volume_ratio" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["experiments", "everything", "--data", str(done.data)])
    with pytest.raises(SystemExit):
        lgg.experiments.main()


def test_a_weighted_loss_uses_the_weights_of_the_training_patients(done):
    chosen = lgg.split(lgg.labelled(lgg.find(done.data)))
    _, plain = lgg.train(done, chosen, name="plain", verbose=0)
    _, weighted = lgg.train(done, chosen, name="weighted", weighted=True, verbose=0)
    assert weighted["loss"].iloc[0] != pytest.approx(plain["loss"].iloc[0], rel=1e-3)
    record = json.loads((done.results / "runs" / "weighted" / "run.json").read_text())
    given = lgg.class_weights(done.results, chosen["train"])
    assert record["settings"]["loss"]["config"]["class_weights"] == pytest.approx(list(given), rel=1e-4)


# -- shape against clusters


def planted(patients=60, seed=0):
    """Features of which the first goes with RNASeqCluster; all else is chance."""
    rng = np.random.default_rng(seed)
    names = [f"TCGA_AA_{i:04d}" for i in range(patients)]
    cluster = rng.integers(1, 4, patients)
    table = pd.DataFrame(rng.normal(size=(patients, 3)), columns=shape.NAMES, index=[f"{n}_x" for n in names])
    table[shape.NAMES[0]] += 2 * (cluster == 2)
    columns = {c: rng.integers(1, 4, patients) for c in lgg.CLUSTERS} | {"RNASeqCluster": cluster}
    return table, pd.DataFrame(columns, index=names)


def test_the_planted_association_is_found_and_nothing_else():
    table, clinical = planted()
    found = radiogenomics.associations(radiogenomics.joined(table, clinical))
    hits = found[found["significant"]]
    assert hits[["feature", "cluster"]].to_numpy().tolist() == [[shape.NAMES[0], "RNASeqCluster"]]
    assert (found["p_bonferroni"] == np.minimum(1, 7 * found["p"])).all()
    published = found.set_index(["feature", "cluster"])["published"]
    assert published[shape.NAMES[0], "RNASeqCluster"] == 0.0002
    assert published[shape.NAMES[2], "RNASeqCluster"] == 0.005
    assert found["published"].notna().sum() == 3


def test_claims_on_genomics_are_told_on_real_data_only():
    table, clinical = planted()
    manual = radiogenomics.associations(radiogenomics.joined(table, clinical))
    shuffled = table.sample(frac=1, random_state=1).set_axis(table.index)
    predicted = radiogenomics.associations(radiogenomics.joined(shuffled, clinical))
    told = radiogenomics.claims(manual, None, source="real").set_index("claim")["verdict"]
    assert told["RNASeqCluster is associated with bounding ellipsoid volume ratio (p 0.0002)"] == "holds"
    assert told["RNASeqCluster is associated with margin fluctuation (p 0.005)"] == "does not hold"
    both = radiogenomics.claims(manual, predicted, source="real").set_index("claim")
    row = both.loc["RNASeqCluster is associated with bounding ellipsoid volume ratio (p 0.0002)"]
    assert row["verdict"] == "does not hold"
    assert "predicted masks p" in row["evidence"]
    assert set(radiogenomics.claims(manual, None, source="phantom")["verdict"]) == {"cannot be told here"}
    nobody = radiogenomics.joined(table.set_axis([f"X{i}" for i in range(len(table))]), clinical)
    with pytest.raises(ValueError, match=r"no patient has both shape features and clusters \(.*not in data.csv"):
        radiogenomics.associations(nobody)


def test_null_repetitions_are_called_something_as_rarely_as_said():
    table, clinical = planted(seed=1)
    rates = radiogenomics.null_rate(radiogenomics.joined(table, clinical), repetitions=2000)
    assert (rates["share"] <= 0.005).all()
    assert (rates["low"] <= rates["share"]).all()
    assert (rates["share"] <= rates["high"]).all()
    assert rates["high"].max() < 0.01


def test_patients_that_do_not_match_are_named():
    table, clinical = planted(12)
    table.iloc[0, 1] = np.nan
    clinical = clinical.drop(index=clinical.index[1])
    clinical.loc["TCGA_ZZ_9999"] = 1
    found = radiogenomics.joined(table, clinical)
    assert len(found) == 10
    excluded = pd.DataFrame(found.attrs["excluded"]).set_index("patient")["reason"].to_dict()
    assert excluded == {
        "TCGA_AA_0000": "an empty mask", "TCGA_AA_0001": "not in data.csv", "TCGA_ZZ_9999": "in data.csv, no mask here",
    }  # fmt: skip
    with pytest.raises(ValueError, match="have two folders each"):
        radiogenomics.joined(table.set_axis(["TCGA_AA_0001_x"] * 12), clinical)


def test_cuts_by_hand():
    values = pd.Series([1.0, 2, 3, 4, 5, 6])
    assert radiogenomics.groups(values).tolist() == [0, 0, 0, 1, 1, 1]
    assert radiogenomics.groups(values[:5]).tolist() == [0, 0, 0, 1, 1]  # the median belongs to the lower half
    assert radiogenomics.groups(values, "tertiles").tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="no rule is called 'mean'"):
        radiogenomics.groups(values, "mean")
    half_known = pd.Series([np.nan, np.nan, 1, 1, 2, 2])
    assert radiogenomics.association(values, half_known)[0] == pytest.approx(1)  # 1, 0 / 1, 2: any way is as likely
    assert radiogenomics.association(values, half_known, among="cluster")[0] == pytest.approx(1 / 3)  # 2, 0 / 0, 2
    p, n = radiogenomics.association(values, pd.Series([1, 1, 1, 2, 2, np.nan]))
    assert (p, n) == (pytest.approx(1 / 10), 5)  # 3, 0 / 0, 2: one of ten ways


def test_each_open_definition_has_its_row(done):
    masks = radiogenomics.masks(done.data)
    table = radiogenomics.sensitivity(masks, lgg.clinical(done.data), jobs=1)
    assert set(table.index.get_level_values("variant")) == set(radiogenomics.VARIANTS)
    assert set(table.loc["default"].index) == {*radiogenomics.RULES, "median of patients with the cluster"}
    assert ((table > 0) & (table <= 1)).all().all()


# -- a user's own slices


@pytest.fixture(scope="module")
def network():
    import keras

    keras.utils.set_random_seed(0)
    return models.build("lgg_unet_slices", filters=(4, 8))


def test_segment_keeps_the_grid_and_ignores_masks(tmp_path, network):
    home = tiny(tmp_path, count=11, size=40)
    with_masks = lgg.segment(home, model=network, threshold=0.3)
    for path in home.glob("*_mask.tif"):
        path.unlink()
    found = lgg.segment(home, model=network, threshold=0.3)
    assert found.shape == (40, 40, 11)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, np.eye(4))
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(with_masks.dataobj))


def test_segment_writes_mask_overlay_and_measures(tmp_path, network):
    home = tiny(tmp_path / "in", size=32)
    lgg.segment(home, model=network, out=tmp_path / "out", threshold=0.01, largest=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{home.name}_measures.csv", f"{home.name}_overlay.png", f"{home.name}_seg.nii.gz",
    ]  # fmt: skip
    row = pd.read_csv(tmp_path / "out" / f"{home.name}_measures.csv", index_col=0).loc["tumour"]
    mask = nib.load(tmp_path / "out" / f"{home.name}_seg.nii.gz")
    assert row["pixels"] == np.asarray(mask.dataobj).sum()


def test_segment_takes_slices_that_miss_a_sequence_and_any_size(tmp_path, network):
    rng = np.random.default_rng(0)
    for name, shape_ in (("grey", (50, 40)), ("colour", (50, 40, 3))):
        for k in (1, 2, 3):
            put(tmp_path / name, k, rng.integers(0, 255, shape_))
    with pytest.warns(UserWarning, match="no pre and no post; FLAIR stands in"):
        assert lgg.segment(tmp_path / "grey", model=network).shape == (50, 40, 3)
    assert lgg.segment(tmp_path / "colour", model=network).shape == (50, 40, 3)


def test_segment_refuses_what_it_cannot_see(tmp_path, network):
    slices = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    for k in (1, 2):
        put(tmp_path / "dark", k, slices[0] * np.array([1, 0, 1], np.uint8))
    with pytest.raises(ValueError, match="dark: FLAIR, the second channel, is black"):
        lgg.segment(tmp_path / "dark", model=network)
    put(tmp_path / "pages", 1, slices[0])
    (path,) = (tmp_path / "pages").iterdir()
    assert cv2.imwritemulti(str(path), list(slices))
    with pytest.raises(ValueError, match="holds 2 pages, a slice is one"):
        lgg.segment(tmp_path / "pages", model=network)
    path.unlink()
    put(tmp_path / "pages", 1, slices[0])
    path.rename(path.with_stem(f"{path.stem} (1)"))
    with pytest.raises(ValueError, match="holds copies .* alone"):
        lgg.segment(tmp_path / "pages", model=network)


def test_segment_says_what_is_wrong(tmp_path, network):
    with pytest.raises(FileNotFoundError, match="give the folder that holds one patient's slices"):
        lgg.segment(tmp_path / "none", model=network)
    with pytest.raises(ValueError, match="holds no slice; give a folder with one patient's"):
        lgg.segment(tmp_path, model=network)
    put(tmp_path / "two", 1, np.ones((16, 16, 3)), name="a")
    put(tmp_path / "two", 1, np.ones((16, 16, 3)), name="b")
    with pytest.raises(ValueError, match=r"slices of several patients \(a, b\)"):
        lgg.segment(tmp_path / "two", model=network)


def test_segment_does_not_mind_the_folders_name_and_warns_of_what_it_leaves_out(tmp_path, network, monkeypatch):
    home = tiny(tmp_path, size=32)
    moved = home.rename(tmp_path / "case 7")
    put(moved, 2, np.ones((32, 32, 3)), name=home.name, end=" (1)")
    with pytest.warns(UserWarning, match=r"1 left out or remarked \(.*_2 \(1\).tif: a copy\)"):
        assert lgg.segment(moved, model=network).shape == (32, 32, 4)
    (moved / f"{home.name}_2 (1).tif").unlink()
    monkeypatch.chdir(moved)
    lgg.segment(".", model=network, out=tmp_path / "out")
    assert (tmp_path / "out" / f"{home.name}_seg.nii.gz").is_file()


def test_the_order_of_slices_reaches_the_mask(tmp_path):
    """Slice 10 comes after slice 9, and rows and columns come back where they were, also from a picture that is no square."""
    import keras

    inputs = keras.Input((None, None, 3))
    bright = keras.layers.Conv2D(1, 1, use_bias=False, activation="sigmoid")
    model = keras.Model(inputs, bright(inputs))
    bright.kernel.assign(np.reshape([0, 9.0, 0], (1, 1, 3, 1)))  # tumour where FLAIR is above its mean
    for k in range(1, 12):
        image = np.full((60, 40, 3), 20)
        image[4 * k : 4 * k + 12, 5:20, 1] = 200
        put(tmp_path / "p", k, image)
    with pytest.warns(UserWarning, match="FLAIR stands in"):
        mask = np.asarray(lgg.segment(tmp_path / "p", model=model).dataobj)
    for k in range(1, 12):
        truth = np.zeros((60, 40), bool)
        truth[4 * k : 4 * k + 12, 5:20] = True
        assert metrics.dice(truth, mask[..., k - 1]) > 0.8


def test_measure_by_hand():
    mask = np.zeros((9, 9, 4), np.uint8)
    mask[2:5, 2:5, 1:3] = 1
    mask[8, 8, 0] = 1
    row = lgg.measure(nib.Nifti1Image(mask, np.eye(4))).loc["tumour"]
    assert row[["pixels", "slices", "components"]].tolist() == [19, 3, 2]
    assert row[shape.NAMES[1]] == pytest.approx(shape.features(mask)[shape.NAMES[1]])


def test_the_best_threshold_is_found(done, monkeypatch):
    from segkit.studies.lgg import networks

    names = sorted(lgg.find(done.data)["patient"].unique())[:2]
    soft = {lgg.load(done.results, p)[0].tobytes(): np.where(lgg.load(done.results, p)[1], 0.4, 0.3) for p in names}
    monkeypatch.setattr(networks, "predict_small", lambda model, image: soft[image.tobytes()])
    threshold, found = lgg.choose_threshold(None, done, names)
    assert threshold == 0.4  # of .35 and .4, which are as good, the right one
    assert list(found.index) == names
    assert (found[[0.35, 0.4]] == 1).all(axis=None)
    assert (found[0.45] == 0).all()


def test_one_patient_does_not_decide_the_threshold():
    from segkit.studies.lgg.networks import middle, within_error

    rest = pd.DataFrame({0.05: [0.8] * 7, 0.3: [0.81] * 7, 0.5: [0.82] * 7})
    odd = pd.concat([rest, pd.DataFrame({0.05: [0.5], 0.3: [0.3], 0.5: [0.1]})])
    assert odd.mean().idxmax() == 0.05
    assert within_error(odd) == [0.05, 0.3, 0.5]
    assert within_error(rest) == [0.5]  # all agree
    assert within_error(rest.iloc[:1]) == [0.5]
    assert middle(odd) == 0.3
    assert middle(rest) == 0.5


def test_networks_that_take_no_slices_of_three_sequences_are_refused():
    from segkit.studies.lgg.networks import neighbours_of

    assert [
        neighbours_of(models.build("lgg_unet", filters=(2, 2), input_shape=(None, None, c))) for c in (3, 9, 15)
    ] == [0, 1, 2]
    for channels in (1, 2, 4, 6):
        with pytest.raises(ValueError, match=f"lgg_unet: takes {channels} channels"):
            neighbours_of(models.build("lgg_unet", filters=(2, 2), input_shape=(None, None, channels)))


def test_a_sequence_left_black_is_missing(tmp_path):
    rng = np.random.default_rng(0)
    for k in (1, 2, 3):
        image = rng.integers(1, 255, (16, 16, 3))
        image[..., 2] = 0
        put(tmp_path / "p", k, image)
    image, _ = lgg.read(lgg.find(tmp_path), "p")
    np.testing.assert_array_equal(image[..., 2], image[..., 1])
    assert not lgg.overview(lgg.find(tmp_path)).loc["p", "has_post"]


def test_an_empty_prediction_goes_through_all_tables(done, tmp_path):
    names = sorted(lgg.find(done.data)["patient"].unique())[:3]
    scores = lgg.evaluate({"none": lambda image: np.zeros(image.shape[:3])}, done.data, tmp_path, names)
    assert scores["dice"].tolist() == [0, 0, 0]
    assert np.isinf(scores["hd95_pixels"]).all()
    table = lgg.three_columns(scores, "none", lgg.legacy_scores(done.data, tmp_path, "none", names))
    assert table.loc[("tumour", "HD95 (pixels)"), "excluded"] == 3
    predicted = scores.set_index("subject")[list(shape.NAMES)]
    left = radiogenomics.joined(predicted, lgg.clinical(done.data))
    assert len(left) == 0
    assert sum(e["reason"] == "an empty mask" for e in left.attrs["excluded"]) == 3


def test_bunet_against_unet_is_told_at_equal_width_and_only_where_it_is_clear():
    scores = pd.DataFrame({"method": "a", "subject": range(20), "label": "tumour", "dice": 0.8})
    rng = np.random.default_rng(0)

    def rows(network, width, mean, encoder="random"):
        return pd.DataFrame({
            "network": network, "width": width, "encoder": encoder, "subject": range(20), "dice": mean + rng.normal(0, 0.01, 20)
        })  # fmt: skip

    compared = pd.concat([
        rows("lgg_unet", "full", 0.3), rows("lgg_unet", "half", 0.7), rows("lgg_bunet", "full", 0.5), rows("lgg_bunet", "half", 0.6),
    ])  # fmt: skip
    claim = lgg.claims(scores, "a", source="real", compared=compared).set_index("claim").loc["BU-Net improves on U-Net"]
    assert claim["verdict"] == "does not hold"
    assert "half width" in claim["evidence"]
    same = pd.concat([rows("lgg_unet", "full", 0.7), rows("lgg_bunet", "full", 0.7)])
    claim = lgg.claims(scores, "a", source="real", compared=same).set_index("claim").loc["BU-Net improves on U-Net"]
    assert claim["verdict"] == "cannot be told here"


@pytest.mark.parametrize(
    ("dice", "verdict"),
    [
        ([0.9] * 6, "holds"),
        ([0.7, 0.9] * 3, "cannot be told here"),
        ([0.8, 0.9] * 3, "holds"),
        ([0.7] * 6, "does not hold"),
    ],
)
def test_a_claim_of_82_percent_is_judged_by_the_interval(dice, verdict):
    scores = pd.DataFrame({"method": "a", "subject": range(6), "dice": dice})
    told = lgg.claims(scores, "a", source="real").set_index("claim").loc["an average Dice of 82 percent"]
    assert told["verdict"] == verdict


def test_prediction_is_the_same_for_a_picture_twice_as_large(done, network):
    """256² slices are halved, segmented and brought back."""
    table = lgg.find(done.data)
    image, _ = lgg.read(table, table["patient"][0])
    small = lgg.predict(network, image, size=32)
    large = lgg.predict(network, image.repeat(2, 0).repeat(2, 1), size=32)
    assert large.shape == (64, 64, image.shape[2])
    back = lgg.resize(large, (32, 32))
    assert metrics.dice(back >= np.median(small), small >= np.median(small)) > 0.9


def test_phantoms_of_the_profile_are_marked(done):
    assert done.source == "phantom"
    assert (done.data / phantoms.MARK).is_file()
