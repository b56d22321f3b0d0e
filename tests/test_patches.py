"""Every (size, patch, step) returns or raises at once; what is cut comes back."""

from itertools import product

import numpy as np
import pytest

from segkit import patches


def test_patchify_by_hand():
    x = np.arange(16).reshape(4, 4)
    out = patches.patchify(x, 2)
    assert out.shape == (2, 2, 2, 2)
    np.testing.assert_array_equal(out[1, 0], [[8, 9], [12, 13]])
    assert patches.patchify(x, 2, 1).shape == (3, 3, 2, 2)
    assert patches.patchify(x, (4, 2), (1, 2)).shape == (1, 2, 4, 2)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_every_size_patch_and_step_up_to_16_returns_or_raises(d, rng):
    """In 2D and 3D the combination stands on the first axis and another on the others."""
    fits = 0
    for n, p, s in product(range(1, 17), range(1, 17), range(1, 17)):
        shape, size, step = (n, 7, 4)[:d], (p, 3, 2)[:d], (s, 2, 2)[:d]
        x = rng.integers(0, 99, shape)
        if p <= n and (n - p) % s == 0:
            out = patches.patchify(x, size, step)
            assert out.shape[:d] == ((n - p) // s + 1, 3, 2)[:d]
            back = patches.unpatchify(out, shape, step)
            if s <= p:
                np.testing.assert_array_equal(back, x)
                np.testing.assert_array_equal(patches.unpatchify(out, shape, step, window="gaussian"), x)
            fits += 1
        else:
            with pytest.raises(ValueError, match="multiple of the step"):
                patches.patchify(x, size, step)
    assert fits > 300


def test_unpatchify_undoes_patchify_exactly_for_floats(rng):
    for _ in range(200):
        d = int(rng.integers(1, 4))
        step = rng.integers(1, 4, d)
        size = step + rng.integers(0, 4, d)
        shape = size + step * rng.integers(0, 4, d)
        x = rng.normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(patches.unpatchify(patches.patchify(x, size, step), shape, step), x)


def test_a_patch_is_a_copy():
    x = np.zeros((4, 4))
    patches.patchify(x, 2)[...] = 1
    assert not x.any()


def test_gaps_between_patches_are_zero():
    out = patches.unpatchify(patches.patchify(np.ones(7), 2, 5), 7, 5)
    np.testing.assert_array_equal(out, [1, 1, 0, 0, 0, 1, 1])


def test_overlaps_are_averaged():
    pieces = np.array([[1.0, 1, 1], [4, 4, 4]])
    np.testing.assert_array_equal(patches.unpatchify(pieces, 5, 2), [1, 1, 2.5, 4, 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches.patchify(np.zeros((4, 4)), (2, 2, 2)), "size must be a positive whole number or 2"),
        (lambda: patches.patchify(np.zeros(4), 0), "size must be"),
        (lambda: patches.patchify(np.zeros(4), 2, -1), "step must be"),
        (lambda: patches.patchify(np.zeros(4), 1.5), "size must be"),
        (lambda: patches.patchify(np.zeros(4), 5), "pad or crop the array"),
        (lambda: patches.unpatchify(np.zeros((2, 3)), (7,), 2), "does not make shape"),
        (lambda: patches.unpatchify(np.zeros((2, 3)), (5, 5), 2), "do not rebuild a 2D array"),
        (lambda: patches.unpatchify(np.zeros((2, 3)), 5, 2, window="hann"), '"mean" or "gaussian"'),
        (lambda: patches.starts(4, 5, 1), "pad the array first"),
        (lambda: patches.starts(9, 3, 4), "leave gaps"),
        (lambda: patches.sample_corners(np.ones((4, 4)), 5, 1, np.random.default_rng(0)), "pad it first"),
    ],
)
def test_bad_requests_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_windows_cover_everything_and_stay_inside(rng):
    for _ in range(200):
        d = int(rng.integers(1, 4))
        shape = rng.integers(1, 17, d)
        size = np.array([rng.integers(1, n + 1) for n in shape])
        step = np.array([rng.integers(1, p + 1) for p in size])
        seen = np.zeros(shape, int)
        first = 0
        for box in patches.windows(shape, size, step):
            assert all(b.start >= 0 and b.stop <= n for b, n in zip(box, shape, strict=True))
            assert box[0].start >= first
            first = box[0].start
            seen[box] += 1
        assert seen.min() >= 1


def test_gaussian_window_is_symmetric_and_positive():
    w = patches.gaussian_window((7, 8))
    np.testing.assert_allclose(w, w[::-1, ::-1])
    assert w.max() == 1
    assert w.min() >= 1e-3


def test_foreground_fraction_by_hand():
    x = np.zeros((2, 2, 2))
    x[1, 0] = 3
    np.testing.assert_array_equal(patches.foreground_fraction(x, 2), [0, 0.5])


def test_sampled_patches_hold_foreground_when_asked(rng):
    label = np.zeros((30, 30, 30), np.uint8)
    label[27, 2, 14] = 1
    for corner in patches.sample_corners(label, 8, 50, rng, foreground=1.0):
        assert label[tuple(slice(c, c + 8) for c in corner)].any()
    corners = patches.sample_corners(label, 8, 4000, rng, foreground=0.5)
    hits = np.mean([label[tuple(slice(c, c + 8) for c in corner)].any() for corner in corners])
    assert 0.45 < hits < 0.57
    assert patches.sample_corners(np.zeros((9, 9)), 8, 10, rng, foreground=1.0).max() <= 1


def test_surroundings_lie_around_the_same_centre(rng):
    """On a smooth ramp in mm, patch and surroundings agree at the centre to half a voxel, wherever the patch is."""
    x = np.indices((30, 26, 33)).astype(np.float32)
    halved = patches.halve(np.moveaxis(x, 0, -1))
    assert halved.shape == (15, 13, 17, 3)
    for _ in range(200):
        size = 2 * rng.integers(1, 6, 3)
        corner = [int(rng.integers(0, n - s + 1)) for n, s in zip(x.shape[1:], size, strict=True)]
        around = patches.surroundings(halved, corner, size)
        assert around.shape == (*size, 3)
        centre = around[tuple(size // 2)]
        assert np.abs(centre - (np.array(corner) + size // 2)).max() <= 1


def test_halving_by_hand():
    block = np.arange(8.0).reshape(2, 2, 2, 1)
    assert patches.halve(block).ravel().tolist() == [3.5]
    assert patches.halve(np.full((3, 5, 1, 2), 7.0)).shape == (2, 3, 1, 2)
    assert (patches.halve(np.full((3, 5, 1, 2), 7.0)) == 7).all()
