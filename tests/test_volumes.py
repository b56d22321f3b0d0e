"""World coordinates are the test: whatever is done to a grid, a landmark stays where it was in mm."""

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.affines import apply_affine

from segkit import metrics, volumes
from tests.conftest import AFFINES

SHAPE, LANDMARK = (20, 24, 16), (13, 5, 9)


def landmark(affine):
    """A volume with one bright voxel, and its place in mm."""
    data = np.zeros(SHAPE, np.float32)
    data[LANDMARK] = 100
    return Nifti1Image(data, affine), apply_affine(affine, LANDMARK)


def brightest(image):
    data = volumes.array(image)
    return apply_affine(image.affine, np.unravel_index(data.argmax(), data.shape))


def centre_of_mass(image):
    data = volumes.array(image).astype(float)
    where = np.argwhere(data > 0)
    return apply_affine(image.affine, np.average(where, axis=0, weights=data[data > 0]))


EXACT = {
    "canonical": volumes.canonical,
    "pad": lambda i: volumes.pad(i, (32, 25, 17)),
    "crop": lambda i: volumes.crop(i, (17, 22, 14)),
    "crop from a voxel": lambda i: volumes.crop(i, (8, 9, 7), start=(10, 1, 5)),
    "pad, then crop": lambda i: volumes.crop(volumes.pad(i, (31, 40, 27)), SHAPE),
}


@pytest.mark.parametrize("change", EXACT)
def test_landmark_is_found_where_it_was(affine, change):
    image, place = landmark(affine)
    np.testing.assert_allclose(brightest(EXACT[change](image)), place, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_landmark_survives_a_file(affine, suffix, tmp_path):
    image, place = landmark(affine)
    path = volumes.save(image, tmp_path / f"a{suffix}")
    np.testing.assert_allclose(brightest(volumes.load(path)), place, atol=1e-4)


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("factor", [2, 4, (2, 4, 1)])
def test_landmark_survives_downsampling_within_half_a_voxel(affine, factor, kind):
    image, place = landmark(affine)
    block = np.zeros(SHAPE, np.float32)
    block[12:16, 4:8, 8:12] = 1  # a whole number of blocks, so that its centre is kept exactly
    image = Nifti1Image(block, affine)
    small = volumes.downsample(image, factor, kind=kind)
    np.testing.assert_allclose(centre_of_mass(small), centre_of_mass(image), atol=1e-4)
    assert np.linalg.norm(centre_of_mass(small) - place) < 3 * max(volumes.spacing(small))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.6, 0.7), (2.0, 2.5, 1.9)])
@pytest.mark.parametrize("kind", ["image", "label"])
def test_landmark_survives_resampling_within_half_a_voxel(affine, spacing_mm, kind):
    data = np.zeros(SHAPE, np.float32)
    data[11:16, 3:8, 7:12] = 1
    image = Nifti1Image(data, affine)
    out = volumes.resample(image, spacing_mm=spacing_mm, kind=kind)
    half = np.linalg.norm(np.maximum(spacing_mm, volumes.spacing(image))) / 2
    assert np.linalg.norm(centre_of_mass(out) - centre_of_mass(image)) < half
    np.testing.assert_allclose(volumes.spacing(out), spacing_mm, rtol=1e-6)


@pytest.mark.parametrize("other", AFFINES)
def test_resampling_onto_another_grid_keeps_the_place(affine, other):
    data = np.zeros((30, 30, 30), np.float32)
    data[12:19, 12:19, 12:19] = 1
    image = Nifti1Image(data, affine)
    target = AFFINES[other]
    middle = centre_of_mass(image)
    shift = middle - apply_affine(target, (14.5, 14.5, 14.5))  # the grids share their middle
    grid = Nifti1Image(np.zeros((30, 30, 30), np.uint8), nib.affines.from_matvec(np.eye(3), shift) @ target)
    out = volumes.resample(image, like=grid, kind="image")
    assert np.linalg.norm(centre_of_mass(out) - middle) < np.linalg.norm(volumes.spacing(grid)) / 2
    np.testing.assert_array_equal(out.affine, grid.affine)


def test_pad_then_crop_is_exact_for_any_shape(rng):
    for _ in range(100):
        shape = tuple(rng.integers(1, 12, 3))
        larger = tuple(np.array(shape) + rng.integers(0, 9, 3))
        image = Nifti1Image(rng.normal(size=shape).astype(np.float32), AFFINES["oblique"])
        back = volumes.crop(volumes.pad(image, larger), shape)
        np.testing.assert_array_equal(volumes.array(back), volumes.array(image))
        np.testing.assert_allclose(back.affine, image.affine, atol=1e-12)


def test_a_ball_survives_a_finer_grid_and_back(affine):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 40, 40)], indexing="ij"), -1)
    mm = (grid - 19.5) * nib.affines.voxel_sizes(affine)
    ball = (np.linalg.norm(mm, axis=-1) <= 12).astype(np.uint8)
    image = Nifti1Image(ball, affine)
    fine = volumes.resample(image, spacing_mm=tuple(s / 2.3 for s in volumes.spacing(image)), kind="label")
    back = volumes.resample(fine, like=image, kind="label")
    assert metrics.dice(ball, volumes.array(back)) >= 0.99


def test_resampling_a_constant_gives_the_constant_up_to_the_border(affine):
    image = Nifti1Image(np.full((9, 8, 7), 3.5, np.float32), affine)
    for spacing_mm in ((0.4, 0.5, 0.6), (2.5, 2.5, 4.0)):
        out = volumes.array(volumes.resample(image, spacing_mm=spacing_mm, kind="image"))
        np.testing.assert_allclose(out, 3.5, rtol=1e-6)


def test_outside_the_field_of_view_is_zero():
    image = Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    far = Nifti1Image(np.zeros((4, 4, 4)), nib.affines.from_matvec(np.eye(3), (100, 0, 0)))
    assert not volumes.array(volumes.resample(image, like=far, kind="image")).any()


def test_identity_resampling_changes_nothing(affine, rng):
    image = Nifti1Image(rng.normal(size=(6, 7, 8)).astype(np.float32), affine)
    np.testing.assert_allclose(
        volumes.array(volumes.resample(image, like=image, kind="image")), volumes.array(image), atol=1e-5
    )


def test_resampling_onto_permuted_axes_only_permutes(rng):
    image = Nifti1Image(rng.normal(size=(6, 7, 8)).astype("f"), AFFINES["PSR"])
    turned = volumes.canonical(image)
    assert volumes.spacing(turned) != volumes.spacing(image)
    out = volumes.resample(image, like=turned, kind="image")
    np.testing.assert_allclose(volumes.array(out), volumes.array(turned), atol=1e-5)


def test_a_coarser_grid_is_smoothed_against_aliasing(rng):
    image = Nifti1Image(rng.normal(size=(60, 8, 8)).astype("f"), np.eye(4))
    coarse = volumes.resample(image, spacing_mm=(4, 1, 1), kind="image")
    assert volumes.array(coarse).std() < 0.7 * volumes.array(image).std()
    assert np.abs(np.corrcoef(volumes.array(coarse)[:, 1:].ravel(), volumes.array(coarse)[:, :-1].ravel())[0, 1]) < 0.2


def test_labels_are_never_blended(rng, affine):
    image = Nifti1Image(rng.choice([0, 7, 200], (10, 10, 10)).astype(np.uint8), affine)
    out = volumes.resample(image, spacing_mm=(0.63, 1.7, 0.9), kind="label")
    assert out.get_data_dtype() == np.uint8
    assert set(np.unique(volumes.array(out))) <= {0, 7, 200}
    assert set(np.unique(volumes.array(volumes.downsample(image, 2, kind="label")))) <= {0, 7, 200}


def test_downsample_by_hand():
    data = np.zeros((2, 2, 2), np.uint8)
    data[0] = 5
    image = Nifti1Image(data, np.eye(4))
    assert volumes.array(volumes.downsample(image, 2, kind="image")).item() == 2.5
    assert volumes.array(volumes.downsample(image, 2, kind="label")).item() == 0  # a tie: the smallest
    data[1, 0, 0] = 5
    assert volumes.array(volumes.downsample(Nifti1Image(data, np.eye(4)), 2, kind="label")).item() == 5
    np.testing.assert_allclose(volumes.downsample(image, 2, kind="label").affine[:3, 3], 0.5)


def test_channels_travel_along(affine, rng):
    image = Nifti1Image(rng.normal(size=(6, 8, 4, 3)).astype(np.float32), affine)
    for out, shape in (
        (volumes.pad(image, (8, 8, 8)), (8, 8, 8, 3)), (volumes.crop(image, (4, 4, 4)), (4, 4, 4, 3)),
        (volumes.downsample(image, 2, kind="image"), (3, 4, 2, 3)),
    ):  # fmt: skip
        assert out.shape == shape
    same = volumes.resample(image, like=image, kind="image")
    np.testing.assert_allclose(volumes.array(same), volumes.array(image), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: volumes.pad(i, (4, 30, 30)), r"cannot pad .* already longer; crop it"),
        (lambda i: volumes.crop(i, (30, 4, 4)), r"does not fit in .*pad first"),
        (lambda i: volumes.crop(i, (4, 4, 4), start=(18, 0, 0)), r"does not fit"),
        (lambda i: volumes.downsample(i, 3, kind="image"), r"not a multiple of \(3, 3, 3\); pad it first"),
        (lambda i: volumes.downsample(i, 2, kind="mask"), r'"image" or "label"'),
        (lambda i: volumes.resample(i, kind="image"), r"either spacing_mm or like"),
        (lambda i: volumes.resample(i, kind="image", spacing_mm=(1, 0, 1)), r"three positive lengths"),
        (lambda i: volumes.like(np.zeros((2, 2, 2)), i), r"does not fit the grid"),
        (lambda i: volumes.bounding_box(np.zeros((3, 3))), r"mask is empty"),
    ],
)
def test_requests_that_cannot_be_met_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(landmark(np.eye(4))[0])


def test_grids_are_compared_with_a_tolerance():
    image = Nifti1Image(np.zeros((50, 50, 50), np.uint8), AFFINES["RAS"])
    almost = AFFINES["RAS"].copy()
    almost[0, 0] += 2e-5
    volumes.check_same_grid(image, Nifti1Image(np.zeros((50, 50, 50), np.uint8), almost))
    moved = AFFINES["RAS"].copy()
    moved[2, 3] += 0.5
    with pytest.raises(ValueError, match="scan.nii and seg.nii lie on different grids, up to 0.5 mm") as error:
        volumes.check_same_grid(image, Nifti1Image(np.zeros((50, 50, 50), np.uint8), moved), ("scan.nii", "seg.nii"))
    assert str(AFFINES["RAS"]) in str(error.value)
    assert str(moved) in str(error.value)
    with pytest.raises(ValueError, match="shape"):
        volumes.check_same_grid(image, Nifti1Image(np.zeros((50, 50, 49), np.uint8), AFFINES["RAS"]))


def test_saving_narrows_types_that_viewers_refuse(tmp_path):
    for dtype, stored in ((bool, np.uint8), (np.int64, np.int32), (np.float64, np.float32), (np.uint16, np.uint16)):
        data = np.ones((2, 2, 2), dtype)
        image = Nifti1Image(data, np.eye(4), dtype=data.dtype) if dtype is not bool else volumes.like(
            data, Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
        )  # fmt: skip
        assert volumes.load(volumes.save(image, tmp_path / "a.nii.gz")).get_data_dtype() == stored
    huge = Nifti1Image(np.full((2, 2, 2), 2**40, np.int64), np.eye(4), dtype=np.int64)
    with pytest.raises(ValueError, match="do not fit int32"):
        volumes.save(huge, tmp_path / "b.nii.gz")
    assert not (tmp_path / "b.nii.gz").exists()


def test_units_of_the_header_become_mm(tmp_path):
    image = Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.diag([0.002, 0.002, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "m.nii.gz")
    np.testing.assert_allclose(volumes.spacing(volumes.load(tmp_path / "m.nii.gz")), 2.0, rtol=1e-5)


def test_a_joined_block_has_its_most_frequent_value_whatever_the_type(rng):
    for _ in range(60):
        factor = tuple(int(f) for f in rng.integers(1, 4, 3))
        kind = rng.choice([np.uint8, np.int16, np.float32, np.int32])
        data = (rng.integers(0, rng.integers(1, 5), [3 * f for f in factor]) * rng.choice([1, 85])).astype(kind)
        data = np.asarray(data, order=rng.choice(["C", "F"]))  # as numpy makes it, as a file gives it
        found = volumes.array(volumes.downsample(nib.Nifti1Image(data, np.eye(4)), factor, kind="label"))
        assert found.dtype == data.dtype
        mean = volumes.array(volumes.downsample(nib.Nifti1Image(data, np.eye(4)), factor, kind="image"))
        np.testing.assert_allclose(mean[0, 0, 0], data[tuple(map(slice, factor))].mean(), rtol=1e-5)
        for at in np.ndindex(found.shape):
            block = data[tuple(slice(a * f, (a + 1) * f) for a, f in zip(at, factor, strict=True))]
            values, counts = np.unique(block, return_counts=True)
            assert found[at] == values[counts.argmax()]


@pytest.mark.parametrize("name", ["scaled.nii", "scaled.nii.gz"])
def test_a_file_with_slope_and_intercept_gives_the_values_they_mean(tmp_path, rng, name):
    stored = rng.integers(0, 1000, (4, 5, 6)).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / name)
    proxy = nib.load(tmp_path / name).dataobj
    assert (proxy.slope, proxy.inter) == (0.5, -3)
    np.testing.assert_array_equal(proxy.get_unscaled(), stored)
    np.testing.assert_allclose(volumes.array(volumes.load(tmp_path / name)), stored * 0.5 - 3)
