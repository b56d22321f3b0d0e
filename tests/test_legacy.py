"""The originals' definitions on cases worked by hand."""

import math

import numpy as np
import pytest
import SimpleITK as sitk

from segkit import legacy, metrics


def pair():
    t, p = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    t[2:4, 2:4, 2:4] = 1  # 8 voxels
    p[3:5, 2:4, 2:4] = 1  # 8 voxels, 4 in common
    p[9, 2, 2] = 1  # a stray one
    return t, p


def test_ibsr_dice_by_hand():
    t, p = pair()
    assert legacy.ibsr_dice(t, p) == 2 * 4 / (8 + 9)
    assert math.isnan(legacy.ibsr_dice(t * 0, p * 0))


def test_ibsr_avd_is_one_minus_dice_not_a_volume_difference(rng):
    t, p = pair()
    assert legacy.ibsr_avd(t, p) == 9 / 17
    assert metrics.avd(t, p) == 12.5  # what the report's equation says: |8 − 9| / 8
    for _ in range(50):
        t, p = rng.integers(0, 2, (2, 6, 6, 6))
        assert legacy.ibsr_avd(t, p) == pytest.approx(1 - legacy.ibsr_dice(t, p))


def test_ibsr_hausdorff_is_decided_by_one_voxel_and_knows_no_spacing():
    t, p = pair()
    assert legacy.ibsr_hausdorff(t, p) == 6  # from the stray voxel (9, 2, 2) to (3, 2, 2)
    assert math.isnan(legacy.ibsr_hausdorff(t, p * 0))


def test_ibsr_hausdorff_is_simpleitks(rng):
    """The report's code called this filter on arrays without spacing."""
    for _ in range(20):
        t, p = (rng.random((2, 9, 11, 7)) < 0.05).astype(np.uint8)
        t[0, 0, 0] = p[-1, -1, -1] = 1
        peer = sitk.HausdorffDistanceImageFilter()
        peer.Execute(sitk.GetImageFromArray(t), sitk.GetImageFromArray(p))
        assert legacy.ibsr_hausdorff(t, p) == pytest.approx(peer.GetHausdorffDistance(), abs=1e-4)


def test_ibsr_score_has_a_row_a_label():
    t, p = pair()
    out = legacy.ibsr_score(2 * t, 2 * p, {"CSF": 1, "GM": 2})
    assert out.loc["GM"].round(6).tolist() == [round(8 / 17, 6), 6.0, round(9 / 17, 6)]
    assert out.loc["CSF"].isna().all()
