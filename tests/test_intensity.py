import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from segkit import intensity, volumes


def test_zscore_measures_inside_the_mask_and_maps_everything(rng):
    x = np.concatenate([rng.normal(100, 7, 1000), np.zeros(500)])
    out = intensity.zscore(x, x > 0)
    np.testing.assert_allclose((out[:1000].mean(), out[:1000].std()), (0, 1), atol=1e-4)
    assert out[1000:].max() < out[:1000].min()
    assert out.dtype == np.float32
    assert not intensity.zscore(np.full((3, 3), 7.0)).any()
    with pytest.raises(ValueError, match="mask is empty"):
        intensity.zscore(x, x > 1e9)


def test_min_max_and_percentile_clip():
    np.testing.assert_allclose(intensity.min_max(np.array([-1, 0, 3])), [0, 0.25, 1])
    assert not intensity.min_max(np.ones(4)).any()
    x = np.arange(101)
    out = intensity.percentile_clip(x, 10, 90)
    assert (out.min(), out.max()) == (10, 90)
    assert intensity.percentile_clip(x, 0, 50, mask=x > 49).max() == 75
    with pytest.raises(ValueError, match="mask is empty"):
        intensity.percentile_clip(x, mask=x > 1000)
    with pytest.raises(ValueError, match="0 ≤ low < high"):
        intensity.percentile_clip(x, 90, 10)


def test_otsu_parts_two_levels(rng):
    x = rng.normal(10, 1, (20, 20, 20))
    x[5:15, 5:15, 5:15] += 50
    mask = intensity.otsu_mask(x)
    assert 1000 <= mask.sum() <= 1005  # the threshold is a bin's middle, so a voxel of the noise's tail may pass
    assert mask[5:15, 5:15, 5:15].all()
    assert not intensity.otsu_mask(np.full((3, 3), 5)).any()


def bright_ball(n=40):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n)] * 3, indexing="ij"))
    ball = (np.linalg.norm(grid, axis=0) < 0.8).astype(np.float32)
    return 100 * ball, np.exp(0.4 * grid[0] + 0.2 * grid[1]).astype(np.float32), ball > 0


@pytest.mark.parametrize("shrink", [1, 3])
def test_n4_takes_a_planted_field_away(shrink, rng):
    flat, field, inside = bright_ball()
    image = nib.Nifti1Image(flat * field + rng.normal(0, 1, flat.shape).astype("f") * inside, np.diag([2, 2, 3, 1]))
    out, found = intensity.n4(image, inside, shrink=shrink, return_field=True)
    before, after = (volumes.array(i)[inside].std() / volumes.array(i)[inside].mean() for i in (image, out))
    assert after < 0.35 * before
    np.testing.assert_array_equal(out.affine, image.affine)
    np.testing.assert_allclose(volumes.array(out) * volumes.array(found), volumes.array(image), rtol=1e-4, atol=1e-3)
    assert np.corrcoef(np.log(volumes.array(found)[inside]), np.log(field[inside]))[0, 1] > 0.97


def test_n4_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="one 3D volume"):
        intensity.n4(nib.Nifti1Image(np.ones((4, 4, 4, 2), "f"), np.eye(4)))
    with pytest.raises(ValueError, match="at least 4 voxels along each axis"):
        intensity.n4(nib.Nifti1Image(np.ones((9, 9, 1), "f"), np.eye(4)))
    with pytest.raises(ValueError, match=r"the mask has shape \(4, 4, 4\)"):
        intensity.n4(nib.Nifti1Image(np.ones((8, 8, 8), "f"), np.eye(4)), np.ones((4, 4, 4)))
    with pytest.raises(ValueError, match="mask is empty"):
        intensity.n4(nib.Nifti1Image(np.ones((8, 8, 8), "f"), np.eye(4)))


def test_perona_malik_one_step_by_hand():
    # a step of 10 with κ 10 conducts exp(−1): 0.25 · 10 / e flows from one side to the other
    flow = 0.25 * 10 * np.exp(-1)
    out = intensity.perona_malik(np.array([0.0, 10.0]), iterations=1, kappa=10, gamma=0.25)
    np.testing.assert_allclose(out, [flow, 10 - flow], rtol=1e-6)


def test_perona_malik_keeps_the_sum_and_strong_edges(rng):
    x = rng.normal(0, 3, (20, 20, 10)).astype(np.float32)
    x[10:] += 1000
    out = intensity.perona_malik(x)
    np.testing.assert_allclose(out.sum(dtype=float), x.sum(dtype=float), rtol=1e-5)
    assert out[:10].std() < 0.6 * x[:10].std()
    assert abs((out[10:].mean() - out[:10].mean()) - (x[10:].mean() - x[:10].mean())) < 1e-2
    # with a huge κ it is the heat equation
    heat = intensity.perona_malik(x, iterations=1, kappa=1e9, gamma=0.1)
    np.testing.assert_allclose(heat, x + 0.1 * ndimage.laplace(x, mode="nearest"), atol=1e-2)
    with pytest.raises(ValueError, match="unstable in 3D"):
        intensity.perona_malik(x, gamma=0.3)
