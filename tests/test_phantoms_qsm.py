"""Phantom susceptibility maps: the study's layout and file names, nuclei where they belong, ppm as the inversion gives them."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from segkit import labels, phantoms, susceptibility, volumes
from segkit.phantoms import qsm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("qsm")
    phantoms.write("qsm", home, subjects=2, seed=0, coarse=4)
    return home


def test_layout_grid_and_types(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "atlas",
        "label_list.txt",
        "native",
        "phantom.json",
        "sub-001",
        "sub-002",
    ]
    image, brain, label = (
        volumes.load(folder / "sub-001" / f"{n}.nii.gz") for n in ("QSM_w_bg", "QSM_brain_mask", "labels")
    )
    assert image.shape == (95, 110, 95)
    assert volumes.spacing(image) == (2, 2, 2)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    for other in (brain, label):
        volumes.check_same_grid(image, other)
    assert image.get_data_dtype() == np.float32
    assert set(np.unique(volumes.array(brain))) == {0, 1}
    listed = labels.read_list(folder / "label_list.txt", tuple(qsm.FREESURFER))
    assert listed == qsm.FREESURFER
    assert set(np.unique(volumes.array(label))) == {0, *(v for pair in listed.values() for v in pair)}


def test_an_interrupted_simulation_keeps_the_subjects_that_are_whole(tmp_path):
    phantoms.write("qsm", tmp_path, subjects=2, seed=0, coarse=8)
    (tmp_path / "phantom.json").rename(tmp_path / "phantom.json.part")
    whole = (tmp_path / "sub-001" / "labels.nii.gz").stat().st_mtime_ns
    (tmp_path / "sub-002" / "labels.nii.gz").unlink()
    phantoms.write("qsm", tmp_path, subjects=2, seed=0, coarse=8)
    assert (tmp_path / "sub-002" / "labels.nii.gz").is_file()
    assert (tmp_path / "sub-001" / "labels.nii.gz").stat().st_mtime_ns == whole


def test_full_size_grid_is_the_reports():
    shape, affine = qsm.grid()
    assert shape == (380, 440, 380)
    assert nib.affines.voxel_sizes(affine).tolist() == [0.5, 0.5, 0.5]
    for coarse in (2, 4):  # the same box in mm
        small, there = qsm.grid(coarse)
        middle = nib.affines.apply_affine(there, (np.array(small) - 1) / 2)
        np.testing.assert_allclose(middle, nib.affines.apply_affine(affine, (np.array(shape) - 1) / 2))


def test_nuclei_lie_where_they_belong(folder):
    label = volumes.load(folder / "sub-001" / "labels.nii.gz")
    data = volumes.array(label)
    for name, sides in qsm.FREESURFER.items():
        for value, sign in zip(sides, (-1, 1), strict=True):
            where = np.argwhere(data == value)
            centre = nib.affines.apply_affine(label.affine, where.mean(0))
            assert np.sign(centre[0]) == sign
            assert np.linalg.norm(centre - (sign * qsm.CENTRES[name][0], *qsm.CENTRES[name][1:])) < 12
    ml = {name: np.isin(data, sides).sum() * 0.008 for name, sides in qsm.FREESURFER.items()}
    assert ml["thalamus"] > ml["putamen"] > ml["amygdala"] > 1


def test_values_follow_the_susceptibilities_and_the_background_is_not_zero(folder):
    image, brain, label = (
        volumes.array(volumes.load(folder / "sub-002" / f"{n}.nii.gz"))
        for n in ("QSM_w_bg", "QSM_brain_mask", "labels")
    )
    means = {name: image[np.isin(label, sides)].mean() for name, sides in qsm.FREESURFER.items()}
    assert means["pallidum"] > means["putamen"] > means["thalamus"]
    assert means["caudate"] > means["hippocampus"]
    assert 0 < np.abs(image[brain == 0]).mean() < 0.5 * np.abs(image[brain > 0]).mean()


def test_a_simulated_nucleus_has_the_contrast_that_the_inversion_leaves():
    """A ball of .1 ppm in a large head without noise, texture or veins: its contrast is the share that truncation leaves."""
    grid = np.indices((64, 64, 64)) - 31.5
    r = np.sqrt((grid**2).sum(0))
    ball, rest = (r < 8).astype("f"), ((r >= 8) & (r < 28)).astype("f")
    calm = qsm.Difficulty(spread=0, sides=0, texture=0, noise=0, veins=0, threshold=0.15)
    found = qsm.simulate(
        {"pallidum_left": ball, "ventricles": rest}, (1, 1, 1), np.random.default_rng(0), difficulty=calm
    )
    contrast = found[r < 6].mean() - found[(r > 14) & (r < 22)].mean()
    assert contrast / qsm.PPM["pallidum"] == pytest.approx(susceptibility.recovered_share(0.15), rel=0.1)


def test_difficulty_is_in_the_map():
    grid = np.indices((40, 40, 40)) - 19.5
    head = (np.sqrt((grid**2).sum(0)) < 17).astype("f")

    def sd(**changes):
        calm = {"spread": 0, "sides": 0, "texture": 0, "noise": 0, "veins": 0}
        chosen = qsm.Difficulty(**(calm | changes))
        return qsm.simulate({"sulci": 0 * head, "grey": head}, (1, 1, 1), np.random.default_rng(0), difficulty=chosen)[
            head > 0
        ].std()

    assert sd(noise=0.01) > 5 * sd()
    assert sd(texture=0.02) > 3 * sd()
    assert sd(veins=40) > 3 * sd()


def test_a_mask_may_be_too_small_or_too_large(monkeypatch):
    sizes = {}
    for mm in (-8.0, 0.0, 8.0):  # a voxel is 4 mm here
        chosen = qsm.Difficulty(mask_mm=mm)
        monkeypatch.setattr(qsm.Difficulty, "drawn", classmethod(lambda cls, rng, chosen=chosen: chosen))
        sizes[mm] = int(qsm.subject("sub-001", 0, coarse=8, vary=True)[1].sum())
    assert sizes[8.0] < 0.9 * sizes[0.0] < sizes[0.0] < 0.9 * sizes[-8.0]


def test_drawn_difficulties_hold_the_default_within():
    drawn = [qsm.Difficulty.drawn(np.random.default_rng(k)) for k in range(200)]
    for field in dataclasses.fields(qsm.Difficulty):
        values = [getattr(d, field.name) for d in drawn]
        assert min(values) < max(values), field.name
        reach = 0.05 * (max(values) - min(values))
        assert min(values) - reach <= field.default <= max(values) + reach, field.name


def test_veins_are_thin_and_stay_inside():
    inside = np.zeros((40, 40, 40), bool)
    inside[5:35, 5:35, 5:35] = True
    out = qsm.veins(inside, (1, 1, 1), np.random.default_rng(0), count=10)
    assert out[~inside].max() == 0
    assert out.max() <= 1
    assert 10 * 15 < out.sum() < 10 * 60 * np.pi * 1.5**2
    assert qsm.veins(np.zeros((4, 4, 4), bool), (1, 1, 1), np.random.default_rng(0), count=3).sum() == 0


def test_freesurfers_label_maps_are_taken_as_well(hoa_map):
    given = hoa_map()
    data = np.zeros(given.shape, np.uint8)
    for name in qsm.NUCLEI:
        for old, new in zip(qsm._HOA_PARTS[name], qsm._FREESURFER_PARTS[name], strict=True):
            data[volumes.array(given) == old] = new
    other = volumes.like(data, given)
    np.testing.assert_allclose(qsm.fit_to_mni(other), qsm.fit_to_mni(given))
    data[data == 50] = 0
    with pytest.raises(ValueError, match=r"no voxel of 50 \(caudate\); a map of FreeSurfer has all fourteen nuclei"):
        qsm.parts_of(volumes.like(data, given))


def test_a_label_map_is_placed_by_its_nuclei(tmp_path, hoa_map):
    label_map = hoa_map
    fit = qsm.fit_to_mni(label_map(shift=(5, -8, 3)))
    np.testing.assert_allclose(fit[:3, 3], (-5, 8, -3), atol=1.5)
    np.testing.assert_allclose(fit[:3, :3], np.eye(3), atol=0.05)
    data = volumes.array(label_map()).copy()
    data[data == 9] = 0
    with pytest.raises(ValueError, match=r"no voxel of 9 \(caudate\)"):
        qsm.fit_to_mni(nib.Nifti1Image(data, np.eye(4)))
    volumes.save(label_map(), tmp_path / "maps" / "100.nii.gz")
    phantoms.write("qsm", tmp_path / "out", subjects=1, seed=0, coarse=8, nuclei=tmp_path / "maps")
    assert json.loads((tmp_path / "out" / "phantom.json").read_text())["nuclei"] == "maps"  # no path of a machine
    assert (tmp_path / "out" / "100" / "QSM_w_bg.nii.gz").is_file()
    assert not (tmp_path / "out" / "native").exists()
    with pytest.raises(ValueError, match="holds 1 label maps, 2 are asked for"):
        phantoms.write("qsm", tmp_path / "more", subjects=2, seed=0, coarse=8, nuclei=tmp_path / "maps")


def test_the_native_subject_comes_back_through_its_transform(folder):
    from segkit import metrics
    from segkit.studies.qsm import register

    native, atlas = folder / "native" / "sub-001", volumes.load(folder / "sub-001" / "labels.nii.gz")
    moved = volumes.load(native / "labels_native.nii.gz")
    back = register.with_transform(moved, register.read_transform(native / "native_to_atlas.txt"), atlas, kind="label")
    truth = volumes.array(atlas) > 0
    assert metrics.dice(truth, volumes.array(back) > 0) > 0.8
    assert metrics.dice(truth, volumes.array(volumes.resample(moved, like=atlas, kind="label")) > 0) < 0.7


def test_wrong_requests(tmp_path):
    with pytest.raises(ValueError, match="the only set is 'subjects'"):
        phantoms.write("qsm", tmp_path / "a", subjects={"Tr": 3})
    for seed in (0, 1):
        one = qsm.subject("sub-003", seed, coarse=8)[0]
        np.testing.assert_array_equal(one, qsm.subject("sub-003", seed, coarse=8)[0])
    assert not np.array_equal(one, qsm.subject("sub-003", 0, coarse=8)[0])
    assert not np.array_equal(one, qsm.subject("sub-003", 1, coarse=8, vary=True)[0])
