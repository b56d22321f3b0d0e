"""Phantoms: the study's layout, the same voxels for the same seed, anatomy that makes sense."""

import json

import nibabel as nib
import numpy as np
import pytest

from segkit import phantoms
from segkit.phantoms import anatomy
from segkit.phantoms import ibsr as made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("phantom") / "ibsr"
    phantoms.write("ibsr", path, subjects={"Training_Set": 3, "Validation_Set": 1, "Test_Set": 1}, seed=4, coarse=2)
    return path


def test_layout_and_names_are_the_real_ones(folder):
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.nii.gz"))
    expected = [f"Test_Set/IBSR_02/IBSR_02{s}.nii.gz" for s in ("",)]
    expected += [f"Training_Set/IBSR_{i}/IBSR_{i}{s}.nii.gz" for i in ("01", "07", "16") for s in ("", "_seg")]
    expected += [f"Validation_Set/IBSR_12/IBSR_12{s}.nii.gz" for s in ("", "_seg")]
    assert found == sorted(expected)
    assert json.loads((folder / "phantom.json").read_text())["seed"] == 4


def test_headers_are_like_the_real_ones(folder):
    spacings = set()
    for path in folder.rglob("IBSR_??.nii.gz"):
        image = nib.load(path)
        assert image.shape == (128, 64, 128, 1)
        assert image.get_data_dtype() == np.int16
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        spacings.add(round(float(nib.affines.voxel_sizes(image.affine)[0]) / 2, 4))
    assert spacings == {0.9375, 1.0, 0.8371}


def test_labels_are_ventricles_grey_and_white(folder):
    for path in folder.rglob("*_seg.nii.gz"):
        label = np.asarray(nib.load(path).dataobj)[..., 0]
        image = np.asarray(nib.load(str(path).replace("_seg", "")).dataobj)[..., 0]
        ml = np.bincount(label.ravel(), minlength=4) * np.prod(nib.load(path).header.get_zooms()[:3]) / 1000
        assert set(np.unique(label)) == {0, 1, 2, 3}
        assert 8 < ml[1] < 60
        assert 600 < ml[2] < 1600
        assert 350 < ml[3] < 1100
        means = [image[label == v].mean() for v in (1, 2, 3)]
        assert means[0] < means[1] < means[2]
        sulci = (image > 0) & (label == 0)
        assert sulci.sum() > (label == 1).sum()  # fluid without a label is what makes CSF hard
        assert abs(image[sulci].mean() - means[0]) < means[1] - means[0]
        head = np.argwhere(label > 0).mean(0)
        assert np.linalg.norm(np.argwhere(label == 1).mean(0) - head) < 12  # ventricles lie in the middle


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others():
    a, b, c = (made.subject("IBSR_07", seed, coarse=4)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    other = made.subject("IBSR_08", 1, coarse=4)[1]
    assert (other != made.subject("IBSR_07", 1, coarse=4)[1]).mean() > 0.02  # each subject has its own shape


def test_written_once_and_never_over_other_data(folder, tmp_path):
    settings = {"subjects": {"Training_Set": 3, "Validation_Set": 1, "Test_Set": 1}, "seed": 4, "coarse": 2}
    assert phantoms.write("ibsr", folder, **settings) == []
    with pytest.raises(ValueError, match="holds other phantoms"):
        phantoms.write("ibsr", folder, **(settings | {"seed": 5}))
    (tmp_path / "real.nii").write_text("real")
    with pytest.raises(ValueError, match="nothing is written over"):
        phantoms.write("ibsr", tmp_path, **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["real.nii"]


def test_an_interrupted_writing_is_finished_by_the_next_call(tmp_path):
    settings = {"subjects": {"Test_Set": 1}, "seed": 0, "coarse": 4}
    assert len(phantoms.write("ibsr", tmp_path, **settings)) == 1
    (tmp_path / "phantom.json").rename(tmp_path / "phantom.json.part")  # as it lies there until all is written
    next((tmp_path / "Test_Set").rglob("*.nii.gz")).unlink()
    with pytest.raises(ValueError, match="holds other phantoms, half written"):
        phantoms.write("ibsr", tmp_path, **(settings | {"seed": 1}))
    assert len(phantoms.write("ibsr", tmp_path, **settings)) == 1
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 1
    assert not (tmp_path / "phantom.json.part").exists()


def test_a_number_of_subjects_is_shared_out(tmp_path):
    assert made.share(3) == {"Training_Set": 2, "Validation_Set": 1}
    assert made.share(7) == {"Training_Set": 4, "Validation_Set": 2, "Test_Set": 1}
    assert sum(made.share(18).values()) == 18
    phantoms.write("ibsr", tmp_path / "n", subjects=1, coarse=8)
    assert len(list((tmp_path / "n").rglob("*.nii.gz"))) == 2


@pytest.mark.parametrize(
    ("study", "subjects", "message"),
    [
        ("nose", {"Test_Set": 1}, "no phantoms for a study called 'nose'"),
        ("ibsr", {"Test_Set": 4}, "4 phantoms of 'Test_Set' cannot be made"),
        ("ibsr", {"Tests": 1}, "'Tests' cannot be made"),
        ("ibsr", ["IBSR_01"], "subjects must be a number, or numbers by set"),
    ],
)
def test_bad_requests_write_nothing(tmp_path, study, subjects, message):
    with pytest.raises(ValueError, match=message):
        phantoms.write(study, tmp_path / "new", subjects=subjects)
    assert not (tmp_path / "new").exists()


def test_the_templates_maps_sum_to_one_inside_the_brain():
    maps, affine = anatomy.mni()
    total = sum(maps.values())
    inside = total > 0
    np.testing.assert_allclose(total[inside], 1, atol=1e-5)
    assert all(m.min() >= 0 for m in maps.values())
    ml = {k: m.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000 for k, m in maps.items()}
    assert 10 < ml["ventricles"] < 50
    # left and right alike, within a tenth
    x = nib.affines.apply_affine(affine, np.argwhere(maps["ventricles"] > 0.5))[:, 0]
    assert 0.8 < (x < 0).sum() / (x > 0).sum() < 1.25


def test_smooth_noise_has_unit_variance_and_the_length_asked_for(rng):
    short, long = (anatomy.smooth_noise((60, 60, 60), (1, 1, 1), rng, scale_mm=s) for s in (4, 12))
    for field in (short, long):
        assert 0.6 < field.std() < 1.3
        assert abs(field.mean()) < 0.5
    assert np.abs(np.diff(long, axis=0)).mean() < 0.6 * np.abs(np.diff(short, axis=0)).mean()


def test_rician_noise_is_never_negative_and_lifts_the_dark(rng):
    out = anatomy.rician(np.zeros((40, 40, 40), "f"), rng, sd=2.0)
    assert out.min() >= 0
    assert out.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.02)
