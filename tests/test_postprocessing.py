import numpy as np
import pytest

from segkit import postprocessing as post


def two_parts():
    m = np.zeros((10, 10, 10), np.uint8)
    m[1:4, 1:4, 1:4] = 1
    m[7, 7, 7] = 1
    return m


def test_largest_component_and_small_parts():
    m = two_parts()
    assert post.largest_component(m).sum() == 27
    assert post.remove_small(m, 2).sum() == 27
    assert post.remove_small(m, 1).sum() == 28
    assert post.remove_small(m, 28).sum() == 0
    assert post.largest_component(m * 0).sum() == 0
    assert post.largest_component(m[:, :, 2]).sum() == 9
    with pytest.raises(ValueError, match="2D or 3D"):
        post.largest_component(np.ones(4))


def test_connectivity_decides_what_touches():
    m = np.zeros((4, 4), np.uint8)
    m[0, 0] = m[1, 1] = 1
    assert post.largest_component(m).sum() == 2
    assert post.largest_component(m, connectivity=4).sum() == 1


def test_closing_and_holes():
    m = np.ones((9, 9), np.uint8)
    m[4, 4] = 0
    assert post.closing(m, 3).all()  # the border stays
    assert post.fill_holes(m).all()
    tube = np.repeat(m[:, :, None], 5, axis=2)
    assert post.fill_holes(tube).sum() == tube.sum()  # open at its ends in 3D
    assert post.fill_holes(tube, axis=2).all()
    gap = np.zeros((9, 9), np.uint8)
    gap[2:4, 4], gap[5:7, 4] = 1, 1
    assert post.closing(gap, 3)[4, 4] == 1
    assert post.closing(gap, (1, 3))[4, 4] == 0


def test_threshold_takes_the_border_in():
    assert post.threshold(np.array([0.49, 0.5, 0.51])).tolist() == [0, 1, 1]


def test_keep_largest_of_each():
    m = two_parts()
    m[5, 5, 5] = 2
    out = post.keep_largest_of_each(m, (1, 2))
    assert (out == 1).sum() == 27
    assert (out == 2).sum() == 1
    assert out[7, 7, 7] == 0


def test_nothing_is_written_into_the_input():
    m = two_parts()
    for call in (
        post.largest_component,
        post.fill_holes,
        lambda x: post.closing(x, 3),
        lambda x: post.keep_largest_of_each(x, (1,)),
    ):
        kept = m.copy()
        call(m)
        np.testing.assert_array_equal(m, kept)
