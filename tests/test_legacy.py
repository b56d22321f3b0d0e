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


# -- left atrium: each rule on slices small enough for a pencil


def test_atrium_grey_stretches_each_slice_by_itself():
    slices = np.zeros((2, 2, 3))
    slices[..., 0] = [[0, 1], [2, 4]]  # floor(256 x / 4), 256 becomes 255
    slices[..., 1] = [[-8, -6], [-7, -8]]  # logits of a slice without atrium: the least negative becomes white
    slices[..., 2] = 7  # constant
    grey = legacy.atrium_grey(slices)
    assert grey.dtype == np.uint8
    assert grey[..., 0].tolist() == [[0, 64], [128, 255]]
    assert grey[..., 1].tolist() == [[0, 255], [128, 0]]
    assert grey[..., 2].tolist() == [[0, 0], [0, 0]]


def test_atrium_jpeg_leaves_ringing():
    mask = np.zeros((32, 32, 1))
    mask[10:21, 9:20] = 1
    plain, ringing = legacy.atrium_grey(mask), legacy.atrium_grey(mask, jpeg=True)
    assert set(np.unique(plain)) == {0, 255}
    assert len(np.unique(ringing)) > 2
    assert (legacy.atrium_grey(mask, jpeg=True) == ringing).all()


def test_atrium_blank_rule_by_the_mean_of_320_squared():
    prediction = np.zeros((320, 320, 2), np.uint8)
    prediction.reshape(-1, 2)[:1807, 0] = 255  # mean 4.49985, as STUDIES has it
    prediction.reshape(-1, 2)[:1808, 1] = 255  # mean 4.50234
    found, _ = legacy.atrium_enhance(prediction, np.zeros_like(prediction), closing=False)
    assert (found[..., 0] == 255).sum() == 1807
    assert found[..., 1].max() == 0
    kept, _ = legacy.atrium_enhance(prediction, np.zeros_like(prediction), blank=False, closing=False)
    assert (kept[..., 1] == 255).sum() == 1808


def test_atrium_thresholds_are_77_and_200():
    prediction, truth = np.zeros((320, 320, 1), np.uint8), np.zeros((320, 320, 1), np.uint8)
    prediction[0, :3, 0] = 77, 78, 255
    truth[0, :3, 0] = 200, 201, 255
    found, true = legacy.atrium_enhance(prediction, truth, closing=False)
    assert found[0, :3, 0].tolist() == [0, 255, 255]
    assert true[0, :3, 0].tolist() == [0, 255, 255]


def test_atrium_closing_alters_the_truth_as_well():
    prediction, truth = np.zeros((320, 320, 1), np.uint8), np.zeros((320, 320, 1), np.uint8)
    prediction[100:120, 100:120] = truth[100:120, 100:120] = 255
    prediction[108:112, 108:112] = 0  # a hole of 4 x 4, which a box of 5 closes
    truth[105:111, 105:111] = 0  # one of 6 x 6, which it does not
    truth[100:120, 121] = 255  # a line one pixel apart: the gap is closed
    found, true = legacy.atrium_enhance(prediction, truth)
    assert found[108:112, 108:112].min() == 255
    assert true[105:111, 105:111].max() == 0
    assert true[100:120, 120].min() == 255


def test_atrium_slice_dice_by_hand():
    prediction, truth = np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 4), np.uint8)
    prediction[..., 0], truth[..., 0] = [[255, 255], [0, 0]], [[255, 0], [0, 0]]  # 2 · 255 / (510 + 255) = 2 / 3
    truth[0, 0, 1] = 255  # missed
    prediction[0, 0, 2] = 255  # invented; slice 3 is empty in both
    assert legacy.atrium_slice_dice(prediction, truth) == pytest.approx([2 / 3, 0, 0, 1])
    prediction[0, 0, 0] = 51  # grey levels count as weights before the threshold: 2 · 51 / (51 + 255 + 255)
    assert legacy.atrium_slice_dice(prediction, truth)[0] == pytest.approx(102 / 561)


def test_atrium_volume_counts_greys_above_240():
    assert legacy.atrium_volume_mm3(np.array([[240, 241], [255, 0]])) == 2


# -- glioma


def slices_of(counts):
    """Truth and probabilities (n, 1, 10): of each slice so many pixels true, found, shared."""
    truth, found = np.zeros((len(counts), 1, 10), np.uint8), np.zeros((len(counts), 1, 10))
    for k, (true, positive, shared) in enumerate(counts):
        truth[k, 0, :true] = 1
        found[k, 0, true - shared : true - shared + positive] = 0.9
    return truth, found


def test_lgg_batch_dice_by_hand():
    truth, found = slices_of([(4, 2, 1), (2, 4, 2), (0, 0, 0)])
    assert legacy.lgg_batch_dice(truth, found > 0.5) == pytest.approx(2 * 3 / 12)
    assert legacy.lgg_batch_dice(truth[2:], found[2:] > 0.5) == 1


def test_lgg_figure_13_is_the_empty_last_batch():
    """162 slices in batches of 40 leave two; a network that finds nothing scores 1/5 when those two are empty, else 0."""
    truth = np.zeros((162, 4, 4), np.uint8)
    truth[::3, 1, 1] = 1
    nothing = np.zeros(truth.shape)
    truth[160:] = 0
    assert legacy.lgg_train_dice(truth, nothing) == pytest.approx(0.2)
    truth[160, 0, 0] = 1
    assert legacy.lgg_train_dice(truth, nothing) == 0


def test_lgg_validation_divides_by_the_last_index():
    truth, found = slices_of([(4, 4, 2)] * 5)
    assert legacy.lgg_validation_dice(truth, found, batch=5) == np.inf  # one batch
    assert np.isnan(legacy.lgg_validation_dice(truth, np.zeros(found.shape), batch=5))
    assert legacy.lgg_validation_dice(truth, found, batch=3) == pytest.approx(2 * 0.5 / 1)
    assert legacy.lgg_validation_dice(truth, found, batch=1) == pytest.approx(5 * 0.5 / 4)
    found[found > 0] = 0.4  # between the thresholds of validation and training
    assert legacy.lgg_validation_dice(truth, found, batch=3) == pytest.approx(1)
    assert legacy.lgg_train_dice(truth, found, batch=3) == 0


def test_lgg_order_is_by_the_numbers_text_of_all_patients():
    names = ["a_2.tif", "a_10.tif", "b_1.TIF", "a_1_mask.tif", "b_20.tif"]
    assert [names[i] for i in legacy.lgg_slice_order(names)] == [
        "b_1.TIF",
        "a_1_mask.tif",
        "a_10.tif",
        "a_2.tif",
        "b_20.tif",
    ]


def test_lgg_soft_dice_by_hand():
    assert legacy.lgg_soft_dice([1, 1, 0], [0.5, 0, 0.25]) == pytest.approx((2 * 0.5 + 0.1) / (2 + 0.75 + 0.1))
    assert legacy.lgg_soft_dice([0], [0]) == 1


# -- WMH


def test_the_old_lesion_f1_by_hand():
    truth, found = np.zeros((9, 9, 1), int), np.zeros((9, 9, 1), int)
    truth[0:2, 0:2] = 1
    truth[0:2, 4:6] = 1
    truth[6, 6] = 1
    found[0:2, 0:6] = 1  # one detection over two lesions
    # recall 2/3; its "precision" is two detected lesions over one detection
    assert legacy.wmh_old_f1(truth, found) == pytest.approx(2 * (2 / 3) * 2 / (2 / 3 + 2))
    assert metrics.wmh_challenge(truth, found, spacing_mm=(1, 1, 1))["f1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    found[8, 0] = 1  # a false positive
    assert legacy.wmh_old_f1(truth, found) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert np.isnan(legacy.wmh_old_f1(0 * truth, found))
    assert np.isnan(legacy.wmh_old_f1(truth, 0 * found))
    other = truth.copy()
    other[8, 0] = 2  # other pathology: not counted as found
    assert legacy.wmh_old_f1(other, found) == pytest.approx(2 * (2 / 3) * 2 / (2 / 3 + 2))
    missed = np.zeros_like(truth)
    missed[8, 8] = 1
    assert legacy.wmh_old_f1(truth, missed) == 0


def test_positive_class_density_by_hand():
    truth = np.zeros((10, 10, 10), int)
    truth[0, 0, :5] = 1
    truth[1, 1, 1] = 2
    assert legacy.wmh_positive_class_density(truth) == pytest.approx(0.5)
