"""The IBSR study: its layout and guards, its patches, a user's own scan."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import models, phantoms, volumes
from segkit.studies import common, ibsr


def write(path, data, affine=None, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, dtype), np.diag([1, 1.5, 1, 1]) if affine is None else affine), path)
    return path


def tiny(folder, sets=("Training_Set", "Training_Set", "Validation_Set"), shape=(32, 32, 32, 1)):
    rng = np.random.default_rng(0)
    for i, kind in enumerate(sets):
        label = rng.integers(0, 4, shape)
        write(folder / kind / f"S{i}" / f"S{i}.nii.gz", 20 * label + 1)
        write(folder / kind / f"S{i}" / f"S{i}_seg.nii.gz", label)
    return folder


# -- the data as they lie on disk


def test_find_reads_the_layout(tmp_path):
    table = ibsr.find(tiny(tmp_path))
    assert table["set"].to_dict() == {"S0": "Training_Set", "S1": "Training_Set", "S2": "Validation_Set"}
    image, label = ibsr.read(table.loc["S0"])
    assert image.shape == label.shape == (32, 32, 32)


def test_hidden_folders_are_no_subjects(tmp_path):
    tiny(tmp_path)
    (tmp_path / "Training_Set" / ".ipynb_checkpoints").mkdir()
    assert list(ibsr.find(tmp_path).index) == ["S0", "S1", "S2"]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; give DATA the folder"):
        ibsr.find(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no subject found; expected Training_Set"):
        ibsr.find(tmp_path)
    (tmp_path / "Training_Set" / "S0").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"S0.nii.gz: missing"):
        ibsr.find(tmp_path)
    write(tmp_path / "Training_Set" / "S0" / "S0.nii.gz", np.ones((4, 4, 4)))
    with pytest.raises(FileNotFoundError, match=r"S0_seg.nii.gz: missing; a training subject needs its label"):
        ibsr.find(tmp_path)


def test_a_subject_in_two_sets(tmp_path):
    tiny(tmp_path)
    write(tmp_path / "Test_Set" / "S0" / "S0.nii.gz", np.ones((4, 4, 4)))
    with pytest.raises(ValueError, match=r"\['S0'\] stand in two sets"):
        ibsr.find(tmp_path)


def test_image_and_label_on_different_grids(tmp_path):
    tiny(tmp_path)
    place = tmp_path / "Training_Set" / "S0" / "S0_seg.nii.gz"
    write(place, np.zeros((32, 32, 32)), affine=np.diag([1, 1.5, 1.1, 1]))
    with pytest.raises(ValueError, match=r"S0.nii.gz and .*S0_seg.nii.gz lie on different grids") as error:
        ibsr.read(ibsr.find(tmp_path).loc["S0"])
    assert "1.1" in str(error.value)
    write(place, np.zeros((32, 32, 31)))
    with pytest.raises(ValueError, match="has shape"):
        ibsr.read(ibsr.find(tmp_path).loc["S0"])


def test_label_values_outside_the_table(tmp_path):
    tiny(tmp_path)
    write(tmp_path / "Training_Set" / "S0" / "S0_seg.nii.gz", np.full((32, 32, 32), 9))
    with pytest.raises(ValueError, match=r"S0_seg.nii.gz: label values \[9\] are not in the table"):
        ibsr.read(ibsr.find(tmp_path).loc["S0"])


def test_a_bad_file_stops_a_step_before_anything_is_written(tmp_path):
    tiny(tmp_path / "data", ("Training_Set", "Training_Set"))
    bad = tmp_path / "data" / "Training_Set" / "S0" / "S0.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"S0.nii.gz: not a readable NIfTI file"):
        ibsr.preprocess(tmp_path / "data", tmp_path / "out", jobs=1)
    assert not list((tmp_path / "out").rglob("S0*"))


def test_selection_subjects_are_the_studys_own_or_the_last(tmp_path):
    table = ibsr.find(tiny(tmp_path))
    assert ibsr.split(table) == {"train": ["S0"], "selection": ["S1"], "validation": ["S2"]}
    real = pd.DataFrame(
        {"set": "Training_Set", "label": "x"}, index=common.split("ibsr", "training")
    )  # fmt: skip
    parts = ibsr.split(real)
    assert parts["selection"] == ["IBSR_16", "IBSR_18"]
    assert len(parts["train"]) == 8
    with pytest.raises(ValueError, match="too few"):
        ibsr.split(table.iloc[:1])


def test_the_published_splits_do_not_overlap():
    from segkit import splits

    lists = {name: common.split("ibsr", name) for name in ("training", "validation", "test")}
    splits.check_disjoint(**lists)
    assert [len(v) for v in lists.values()] == [10, 5, 3]
    assert set(common.split("ibsr", "selection")) < set(lists["training"])


# -- steps


def test_cut_by_hand():
    """Two slices of 64 × 32; patches with exactly 30 % foreground are dropped, one pixel more is kept."""
    label = np.zeros((2, 64, 32), np.uint8)
    label[0, :32].flat[:307] = 1  # 307 of 1024 is below 30 %
    label[1, 32:].flat[:308] = 2
    image = np.arange(label.size).reshape(label.shape)
    x, y = ibsr.cut(image, label, axis=0)
    assert y.shape == (1, 32, 32)
    np.testing.assert_array_equal(x[0], image[1, 32:])
    assert ibsr.cut(image, label, axis=0, above=0)[1].shape[0] == 2
    with pytest.raises(ValueError, match="do not fit an array"):
        ibsr.cut(image, label, axis=0, size=48, step=48)


def test_cut_along_another_axis_gives_its_planes(rng):
    label = np.ones((32, 32, 5), np.uint8)
    x, _ = ibsr.cut(rng.normal(size=label.shape), label, axis=2)
    assert x.shape == (5, 32, 32)


def test_steps_say_what_must_run_first(tmp_path):
    tiny(tmp_path / "data")
    for step, first in ((ibsr.standardise, "00_preprocessing"), (ibsr.extract, "01_padding")):
        with pytest.raises(FileNotFoundError, match=f"run {first} first"):
            step(tmp_path / "data", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="run 02_downsampling first"):
        ibsr.load_patches(tmp_path / "out", ["S0"])


def test_corrected_files_of_another_source_or_setting_are_made_again(tmp_path):
    first, second = tiny(tmp_path / "a"), tiny(tmp_path / "b")
    write(second / "Training_Set" / "S0" / "S0.nii.gz", np.full((32, 32, 32, 1), 7))
    path = tmp_path / "out" / "preprocessed" / "S0_bias_corrected.nii.gz"
    ibsr.preprocess(first, tmp_path / "out", n4=False, jobs=1)
    before, time = volumes.array(volumes.load(path)), path.stat().st_mtime_ns
    ibsr.preprocess(first, tmp_path / "out", n4=False, jobs=1)
    assert path.stat().st_mtime_ns == time
    ibsr.preprocess(second, tmp_path / "out", n4=False, jobs=1)
    assert (volumes.array(volumes.load(path)) == 7).all()
    assert not (before == 7).all()


def test_volumes_larger_than_the_common_grid_are_refused(tmp_path):
    tiny(tmp_path / "data")
    ibsr.preprocess(tmp_path / "data", tmp_path / "out", n4=False, jobs=1)
    with pytest.raises(ValueError, match="already longer; crop it, or choose a larger shape"):
        ibsr.standardise(tmp_path / "data", tmp_path / "out", shape=(32, 16, 32))


def test_profiles():
    with pytest.raises(ValueError, match="no profile is called 'huge'; choose one of smoke, quick, full"):
        ibsr.start("huge")
    with pytest.raises(ValueError, match='"full" is for real data: set DATA'):
        ibsr.start("full")
    with pytest.raises(FileNotFoundError, match="DATA nowhere: no such folder"):
        ibsr.start("full", data="nowhere")


# -- a user's own scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    phantoms.write("ibsr", folder / "d", subjects={"Test_Set": 1}, seed=0, coarse=2)
    return next((folder / "d").rglob("*.nii.gz"))


@pytest.fixture(scope="module")
def small():
    return ibsr.build("ibsr_unet2d_4level", ibsr.PROFILES["smoke"])


def turned(image, axes="LPS"):
    want = nib.orientations.axcodes2ornt(axes)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), want))


def test_labels_come_back_on_the_scans_grid_whatever_it_is(scan, small):
    """Axis order, voxel size and a trailing axis are the user's; the labels follow the brain, in mm."""
    image = volumes.load(scan)
    plain = ibsr.segment(scan, model=small, n4=False)
    assert plain.get_data_dtype() == np.uint8
    assert plain.shape == image.shape
    np.testing.assert_allclose(plain.affine, image.affine)
    other = turned(image)
    back = ibsr.segment(other, model=small, n4=False)
    assert back.shape == other.shape
    np.testing.assert_allclose(back.affine, other.affine)
    same = volumes.array(volumes.canonical(back)) == volumes.array(plain)
    assert same.mean() > 0.999
    raw = nib.load(scan)  # with its trailing axis
    assert raw.ndim == 4
    np.testing.assert_array_equal(volumes.array(ibsr.segment(raw, model=small, n4=False)), volumes.array(plain))
    fine = volumes.resample(image, spacing_mm=(1.2, 1.2, 1.2), kind="image")
    assert ibsr.segment(fine, model=small, n4=False).shape == fine.shape


def test_the_released_model_is_used_without_being_asked(scan):
    path = ibsr.released()
    assert path.stat().st_size < 5e6
    assert models.load(path).count_params() == 968_804
    found = ibsr.segment(scan)
    table = ibsr.measure(found)
    assert list(table.index) == ["CSF", "GM", "WM"]
    assert table.loc["GM", "ml"] > table.loc["CSF", "ml"] > 0


def test_out_writes_mask_overlay_and_table(scan, small, tmp_path):
    ibsr.segment(scan, model=small, out=tmp_path / "o", n4=False)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "IBSR_02_overlay.png", "IBSR_02_seg.nii.gz", "IBSR_02_volumes.csv",
    ]  # fmt: skip
    ibsr.segment(str(scan), model=small, n4=False)  # a string is as good as a path


def test_measure_by_hand():
    mask = nib.Nifti1Image(np.array([1, 1, 2, 0], np.uint8).reshape(4, 1, 1), np.diag([2, 5, 10, 1]))
    image = nib.Nifti1Image(np.array([1, 3, 7, 9], np.float32).reshape(4, 1, 1), mask.affine)
    table = ibsr.measure(mask, image)
    assert table["ml"].tolist() == [0.2, 0.1, 0]
    assert table.loc["CSF", "mean intensity"] == 2
    assert np.isnan(table.loc["WM", "mean intensity"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((8, 8, 8)), "not skull-stripped; strip it first"),
        (np.zeros((8, 8, 8)), "no voxel is above 0"),
        (np.zeros((8, 8, 8, 3)), "not one 3D volume"),
    ],
)
def test_scans_that_cannot_be_segmented(data, message, small, tmp_path):
    with pytest.raises(ValueError, match=message):
        ibsr.segment(nib.Nifti1Image(data.astype("f"), np.eye(4)), model=small, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_baselines_order_the_tissues(scan):
    image = volumes.load(scan)
    for baseline in (ibsr.threshold_baseline, ibsr.mixture_baseline):
        label = volumes.array(baseline(image))
        data = volumes.array(image)
        means = [data[label == v].mean() for v in (1, 2, 3)]
        assert means[0] < means[1] < means[2]
        assert (label > 0).sum() == (data > 0).sum()


# -- tables


def scores(values, method="m"):
    rows = []
    for subject, dice in values.items():
        for k, label in enumerate(ibsr.LABELS):
            rows.append({
                "method": method, "subject": subject, "label": label, "dice": dice - 0.1 * (k == 0), "hd95_mm": 2.0,
                "avd_percent": 10.0, "legacy_dice": dice, "legacy_hausdorff_voxels": 50.0, "legacy_avd": 1 - dice,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_three_columns_leave_11_out_of_legacy_as_the_report_did():
    values = {f"IBSR_{i}": d for i, d in zip((11, 12, 13, 14, 17), (0.0, 0.8, 0.8, 0.8, 0.8), strict=True)}
    table = ibsr.three_columns(scores(values, "ibsr_unet2d"), "ibsr_unet2d")
    assert table.loc[("GM", "Dice"), ["reported", "legacy", "corrected"]].round(4).tolist() == [0.9163, 0.8, 0.64]
    assert table.loc[("GM", "AVD"), ["reported", "legacy", "corrected"]].round(4).tolist() == [0.0837, 0.2, 0.1]
    assert table.loc[("CSF", "Hausdorff"), ["reported", "legacy", "corrected"]].tolist() == [136.11, 50, 2]


def experiment(*names, **more):
    """Rows as the experiments write them: five subjects of Dice .8 in each cell."""
    values = {f"IBSR_{i}": 0.8 for i in (11, 12, 13, 14, 17)}
    own = {"epochs": 10, "seconds": 600.0, "loss": 0.2, "val_loss": 0.3} | more
    return pd.concat([scores(values, name).assign(cell=name, **own) for name in names])


def test_tables_1_to_6_stand_beside_the_published_ones():
    networks = experiment("2D U-Net", "ResUNet", "2D U-Net, five levels")
    table = ibsr.table_1(networks)
    assert table.loc[("2D ResUNet", "GM", "Dice"), ["reported", "legacy", "corrected"]].tolist() == pytest.approx(
        [0.9488, 0.8, 0.8]
    )
    assert table.loc[("3D U-Net", "CSF", "Hausdorff"), "reported"] == 165.54  # not run: reported alone
    assert np.isnan(table.loc[("3D U-Net", "CSF", "Hausdorff"), "corrected"])
    assert np.isnan(table.loc[("2D U-Net, five levels", "CSF", "Dice"), "reported"])
    times = ibsr.tables_2_and_3(networks)
    assert times.loc["2D U-Net"].loc[("seconds per epoch", ["reported", "ours"])].tolist() == [17, 60]
    assert times.loc["2D ResUNet", ("validation loss", "reported")] == 0.2763
    assert times.loc["2D U-Net", ("average Dice", "ours")] == pytest.approx((0.7 + 0.8 + 0.8) / 3)
    losses = ibsr.tables_4_to_6(experiment("cross-entropy", "focal"))
    assert losses.loc[("focal", "CSF", "Hausdorff"), ["reported", "legacy", "corrected"]].tolist() == [139.0899, 50, 2]
    assert losses.loc[("Tversky", "WM", "AVD"), "reported"] == 0.1622


def test_what_a_step_brings_is_a_difference_over_the_same_subjects():
    own, other = experiment("own"), experiment("without")
    other["dice"] += 0.01 * (other["label"] == "WM") - 0.02 * (other["label"] == "CSF")
    table = ibsr.what_steps_bring(pd.concat([own, other]), "own")
    assert table.loc["own"].tolist() == ["0.7000", "0.8000", "0.8000"]
    assert table.loc["without"].tolist() == [
        "-0.0200 [-0.0200, -0.0200]",
        "+0.0000 [+0.0000, +0.0000]",
        "+0.0100 [+0.0100, +0.0100]",
    ]


def test_a_baseline_has_nothing_reported():
    table = ibsr.three_columns(scores({"a": 0.5}, "threshold"), "threshold")
    assert table["reported"].isna().all()
    assert len(table) == 9


def verdict(table, source, begins):
    out = ibsr.claims(table, "ibsr_unet2d_4level", source=source)
    assert set(out["verdict"]) <= {"holds", "does not hold", "cannot be told here"}
    assert out["evidence"].str.len().min() > 10
    return out[out["claim"].str.startswith(begins)].iloc[0]["verdict"]


def both(five, four, n=8):
    subjects = [f"s{i}" for i in range(n)]
    noise = np.linspace(0, 0.01, n)
    return pd.concat([
        scores(dict(zip(subjects, four + noise, strict=True)), "ibsr_unet2d_4level"),
        scores(dict(zip(subjects, five + 2 * noise, strict=True)), "ibsr_unet2d"),
    ])  # fmt: skip


def test_claims_follow_the_scores():
    assert verdict(both(0.9, 0.95), "real", "the 2D U-Net reaches") == "holds"  # beating the number is reaching it
    assert verdict(both(0.9, 0.7), "real", "the 2D U-Net reaches") == "does not hold"
    assert verdict(both(0.9, 0.9), "real", "CSF has the lowest") == "holds"
    assert verdict(both(0.9, 0.9), "real", "AVD is") == "does not hold"


def test_phantoms_decide_nothing_about_the_reports_scores():
    for begins in ("the 2D U-Net reaches", "CSF has the lowest"):
        assert verdict(both(0.95, 0.9), "phantom", begins) == "cannot be told here"


def cells(**dice):
    """Rows of an experiment's table: five subjects a cell, three tissues, each about as good as the cell says."""
    wobble = dict(zip((11, 12, 13, 14, 17), (0, 0.001, -0.001, 0.002, -0.002), strict=True))
    own = {"epochs": 18, "seconds": 480.0, "loss": 0.2, "val_loss": 0.3}
    return pd.DataFrame([
        {"cell": name.replace("_", " "), "subject": f"IBSR_{s}", "label": label, "dice": value + w * (1 + (name == "without_N4")), **own}
        for name, value in dice.items() for s, w in wobble.items() for label in ibsr.LABELS
    ])  # fmt: skip


def test_a_comparison_is_told_only_where_every_subject_has_it_and_seeds_do_not_explain_it(tmp_path):
    from segkit.studies.ibsr.claims import COMPARED

    def told(claim, *, source="real", **dice):
        cells(**dice).to_csv(tmp_path / "ablation.csv", index=False)
        rows = ibsr.claims(both(0.9, 0.9), "ibsr_unet2d_4level", source=source, tables=tmp_path)
        assert {c.claim for c in COMPARED} <= set(rows["claim"])
        return rows.set_index("claim").loc[claim, ["verdict", "evidence"]].tolist()

    n4, seeds = "N4 improved the results", {"as_it_is": 0.92, "another_seed": 0.915, "third_seed": 0.922}
    verdict, evidence = told(n4, **seeds, without_N4=0.90)
    assert verdict == "holds"
    assert "as it is − without N4 +0.0200 (higher in 5 of 5, p 0.062)" in evidence
    assert "8 minutes, 18 to 18 epochs; three seeds of the four-level net differ by up to 0.0070" in evidence
    assert told(n4, **seeds, without_N4=0.94)[0] == "does not hold"
    assert told(n4, **seeds, without_N4=0.915)[0] == "cannot be told here"  # less than between seeds
    assert told(n4, as_it_is=0.92, without_N4=0.919)[0] == "cannot be told here"  # one subject has it the other way
    assert told(n4, source="phantom", **seeds, without_N4=0.90)[0] == "cannot be told here"
    assert told(n4, **seeds) == ["cannot be told here", "not run here: experiments ablation"]


def test_no_boost_holds_for_no_difference_and_the_best_must_beat_all_others(tmp_path):
    def told(claim, **dice):
        cells(**dice).to_csv(tmp_path / "ablation.csv", index=False)
        rows = ibsr.claims(both(0.9, 0.9), "ibsr_unet2d_4level", source="real", tables=tmp_path)
        return rows.set_index("claim").loc[claim, "verdict"]

    boost, best = "z-score gave no boost", "Adam gives the best performance of the three"
    assert told(boost, as_it_is=0.92, raw_intensities=0.80) == "does not hold"
    assert told(boost, as_it_is=0.92, raw_intensities=0.92) == "holds"
    assert told(boost, as_it_is=0.80, raw_intensities=0.92) == "holds"
    assert told(best, as_it_is=0.92, SGD=0.90, Adadelta=0.80) == "holds"
    assert told(best, as_it_is=0.92, SGD=0.92, Adadelta=0.80) == "cannot be told here"
    assert told(best, as_it_is=0.92, SGD=0.93, Adadelta=0.80) == "does not hold"
    dropout = {"dropout .25": 0.95, "dropout .3": 0.95, "dropout .5": 0.9}
    assert (
        told("dropout .4 is the best of .25, .3, .4 and .5", as_it_is=0.92, **dropout) == "cannot be told here"
    )  # minutes may tell


def test_the_dice_of_table_1_and_4_is_reached_under_the_reports_definition_or_cannot_be_told(tmp_path):
    def told(network, *, source="real", **changed):
        experiment("2D U-Net", "ResUNet").assign(**changed).to_csv(tmp_path / "networks.csv", index=False)
        rows = ibsr.claims(both(0.9, 0.9), "ibsr_unet2d_4level", source=source, tables=tmp_path)
        return rows.set_index("claim").loc[network, ["verdict", "evidence"]].tolist()

    residual = "the 2D ResUNet reaches Dice .8133 (CSF), .9488 (GM), .9234 (WM)"
    assert told(residual) == [
        "cannot be told here",
        "legacy CSF 0.800, GM 0.800, WM 0.800; corrected CSF 0.700, GM 0.800, WM 0.800; 10 minutes, 10 epochs",
    ]
    assert told(residual, legacy_dice=0.95)[0] == "holds"
    assert told(residual, legacy_dice=0.95, source="phantom")[0] == "cannot be told here"
    assert (
        told("the 3D U-Net reaches Dice .7245 (CSF), .9771 (GM), .9563 (WM)")[1] == "not run here: experiments networks"
    )
    focal = "the 2D U-Net with focal loss reaches Dice .8450 (CSF), .9117 (GM), .8603 (WM)"
    assert told(focal)[1] == "not run here: experiments losses"
    experiment("focal").assign(legacy_dice=0.92).to_csv(tmp_path / "losses.csv", index=False)
    assert told(focal)[0] == "holds"


def test_every_sentence_that_compares_names_cells_that_are_run():
    from segkit.studies.ibsr import experiments
    from segkit.studies.ibsr.claims import COMPARED, SEEDS

    run = {"networks": experiments.NETWORKS, "losses": experiments.LOSSES, "ablation": experiments.ABLATION}
    for said in COMPARED:
        assert said.says in ("higher", "lower", "no gain")
        assert {said.a, *said.b} <= set(run[said.table]), said
        assert set(said.tissues or ()) <= set(ibsr.LABELS)
    assert set(SEEDS) <= set(experiments.ABLATION)
