"""The dipole field against its analytic form, the inversion against the share that it must lose."""

import numpy as np
import pytest

from segkit import susceptibility as qsm


def sphere(n=96, radius=9.0, centre=None):
    """Share of each voxel inside a sphere, by 5³ points a voxel; and the offsets from its centre."""
    centre = (np.array([n, n, n]) - 1) / 2 if centre is None else np.asarray(centre, float)
    grid = np.indices((n, n, n), dtype=np.float32) - centre[:, None, None, None].astype(np.float32)
    share = np.zeros((n, n, n), np.float32)
    for shift in np.stack(np.meshgrid(*[np.linspace(-0.4, 0.4, 5)] * 3), -1).reshape(-1, 3):
        share += sum((g + s) ** 2 for g, s in zip(grid, shift, strict=True)) <= radius**2
    return share / 125, grid


def analytic(grid, radius, b0=(0, 0, 1)):
    """Outside a sphere of susceptibility 1: (R / r)³ (3 cos² θ − 1) / 3."""
    square = np.maximum((grid**2).sum(0), 1e-6)
    along = sum(b * g for b, g in zip(b0, grid, strict=True)) ** 2
    return radius**3 / square**1.5 * (3 * along / square - 1) / 3


def test_the_field_outside_a_sphere_is_the_analytic_one():
    share, grid = sphere()
    found, expected = qsm.field(share, (1, 1, 1), pad=1.0), analytic(grid, 9.0)
    r = np.sqrt((grid**2).sum(0))
    outside = (r > 9 + 1.5) & (np.abs(grid).max(0) < 44)
    assert np.abs(found - expected)[outside].max() < 0.05 * np.abs(expected[outside]).max()
    assert abs(found[r < 7].mean()) < 0.01  # the sphere of Lorentz is taken off


@pytest.mark.parametrize("threshold", [0.15, 0.2])
def test_the_inverted_map_gives_back_what_truncation_leaves(threshold):
    share, grid = sphere()
    found = qsm.invert(qsm.field(share, (1, 1, 1), pad=1.0), (1, 1, 1), threshold=threshold)
    inside = np.sqrt((grid**2).sum(0)) < 7
    assert found[inside].mean() / qsm.recovered_share(threshold) == pytest.approx(1, abs=0.1)


def test_the_sphere_that_a_notebook_prints_is_within_what_is_claimed():
    check = qsm.sphere_check(0.2, side=64, radius=6.0)
    assert check["field_error"] < 0.05
    assert check["recovered"] / check["expected"] == pytest.approx(1, abs=0.1)
    assert check["expected"] == pytest.approx(0.822, abs=1e-3)


def test_recovered_share_by_hand():
    """Without truncation all comes back; with the largest threshold ∫ D / ±⅔ over cos θ remains: 3/2 · 2 · 2/(9 √3) = .385."""
    assert qsm.recovered_share(1e-9) == pytest.approx(1, abs=1e-4)
    assert qsm.recovered_share(0.15) == pytest.approx(0.868, abs=1e-3)
    assert qsm.recovered_share(0.2) == pytest.approx(0.822, abs=1e-3)
    assert qsm.recovered_share(2 / 3) == pytest.approx(1.5 * 4 / (9 * np.sqrt(3)), abs=1e-3)


def test_the_kernel_by_hand():
    kernel = qsm.dipole_kernel((8, 8, 8), (1, 1, 1))
    assert kernel.shape == (8, 8, 5)
    assert kernel[0, 0, 0] == 0
    assert kernel[3, 0, 0] == pytest.approx(1 / 3)  # across the field
    assert kernel[0, 0, 2] == pytest.approx(-2 / 3)  # along it
    assert kernel[2, 0, 2] == pytest.approx(1 / 3 - 1 / 2)
    stretched = qsm.dipole_kernel((8, 8, 8), (2, 1, 1))
    assert stretched[2, 0, 1] == pytest.approx(1 / 3 - 1 / 2)  # twice the spacing, half the frequency
    np.testing.assert_allclose(
        qsm.dipole_kernel((6, 6, 6), (1, 1, 1), b0=(1, 0, 0))[:4, :, 0],
        np.moveaxis(kernel_full(6), 2, 0)[:4, :, 0],
        atol=1e-6,
    )


def kernel_full(n):
    """The whole grid, from the half of a real transform."""
    k = np.meshgrid(*[np.fft.fftfreq(n)] * 3, indexing="ij")
    square = sum(a**2 for a in k)
    square[0, 0, 0] = 1
    out = 1 / 3 - k[2] ** 2 / square
    out[0, 0, 0] = 0
    return out


def test_field_is_linear_and_turns_with_the_main_field(rng):
    a, b = rng.normal(size=(2, 12, 12, 12))
    both = qsm.field(2 * a + b, (1, 1, 1))
    np.testing.assert_allclose(both, 2 * qsm.field(a, (1, 1, 1)) + qsm.field(b, (1, 1, 1)), atol=1e-4)
    turned = qsm.field(np.swapaxes(a, 0, 2), (1, 1, 1), b0=(1, 0, 0))
    np.testing.assert_allclose(np.swapaxes(turned, 0, 2), qsm.field(a, (1, 1, 1)), atol=1e-5)


def test_inversion_with_a_tiny_threshold_undoes_the_field_up_to_the_magic_angle(rng):
    x = rng.normal(size=(16, 18, 20))
    back = qsm.invert(qsm.field(x, (1, 1, 1), pad=0), (1, 1, 1), threshold=1e-5)
    np.testing.assert_allclose(np.fft.fftn(back)[1:5, 0, 0], np.fft.fftn(x)[1:5, 0, 0], rtol=1e-3)


def test_requests_that_make_no_sense():
    x = np.zeros((4, 4, 4))
    for threshold in (0, -0.1, 0.7, np.nan):
        with pytest.raises(ValueError, match="between 0 and 2/3"):
            qsm.invert(x, (1, 1, 1), threshold=threshold)
    with pytest.raises(ValueError, match="three positive spacings"):
        qsm.field(np.zeros((4, 4)), (1, 1))
    with pytest.raises(ValueError, match="direction"):
        qsm.field(x, (1, 1, 1), b0=(0, 0, 0))
