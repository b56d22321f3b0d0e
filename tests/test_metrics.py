"""Scores against integer counts, brute force, the table of edge cases and cases worked by hand."""

import math

import numpy as np
import pytest

from segkit import metrics

NAN, INF = float("nan"), float("inf")


def brute_surface(mask):
    """Voxels with a face neighbour outside the mask; beyond the array is outside."""
    padded = np.pad(mask, 1)
    out = []
    for v in np.argwhere(mask):
        around = [v + 1 + s * np.eye(mask.ndim, dtype=int)[a] for a in range(mask.ndim) for s in (-1, 1)]
        if not all(padded[tuple(n)] for n in around):
            out.append(v)
    return np.array(out, float).reshape(-1, mask.ndim)


def brute(truth, prediction, spacing_mm):
    a, b = (brute_surface(m) * spacing_mm for m in (truth, prediction))
    d = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return d.min(axis=1), d.min(axis=0)


def random_pair(rng):
    d = int(rng.integers(2, 4))
    shape = rng.integers(1, 17, d)
    density = rng.uniform(0.005, 0.7, 2)
    pair = [rng.random(shape) < p for p in density]
    for m in pair:
        m[tuple(rng.integers(0, n) for n in shape)] = True
    return *pair, tuple(rng.uniform(0.3, 4, d))


def test_dice_is_exact_against_integer_counts(rng):
    for _ in range(200):
        t, p, _ = random_pair(rng)
        hit = sum(bool(a and b) for a, b in zip(t.ravel(), p.ravel(), strict=True))
        assert metrics.dice(t, p) == 2 * hit / (int(t.sum()) + int(p.sum()))


def test_distances_equal_brute_force(rng):
    for _ in range(150):
        t, p, spacing_mm = random_pair(rng)
        a, b = brute(t, p, spacing_mm)
        close = {"rel": 0, "abs": 1e-5}
        both = np.concatenate([a, b])
        s = {"spacing_mm": spacing_mm}
        assert metrics.hausdorff(t, p, **s) == pytest.approx(max(a.max(), b.max()), **close)
        assert metrics.hd95(t, p, **s) == pytest.approx(max(np.percentile(a, 95), np.percentile(b, 95)), **close)
        assert metrics.hd95(t, p, **s, pooled=True) == pytest.approx(np.percentile(both, 95), **close)
        assert metrics.assd(t, p, **s) == pytest.approx(both.mean(), **close)
        tolerance = float(rng.uniform(0.1, 4))
        if np.abs(both - tolerance).min() > 1e-4:
            assert metrics.surface_dice(t, p, **s, tolerance_mm=tolerance) == pytest.approx((both <= tolerance).mean())


def test_two_points_two_millimetres_apart():
    t, p = np.zeros((5, 5, 5)), np.zeros((5, 5, 5))
    t[1, 2, 2] = p[2, 2, 2] = 1
    s = {"spacing_mm": (2.0, 1.0, 1.0)}
    assert metrics.dice(t, p) == 0
    for distance in (metrics.hausdorff, metrics.hd95, metrics.assd):
        assert distance(t, p, **s) == 2
    assert metrics.surface_dice(t, p, **s, tolerance_mm=1.9) == 0
    assert metrics.surface_dice(t, p, **s, tolerance_mm=2.0) == 1


def test_a_stray_voxel_moves_the_maximum_but_not_the_percentile():
    t = np.zeros((40, 40))
    t[5:25, 5:25] = 1
    p = t.copy()
    p[39, 5] = 1
    assert metrics.hausdorff(t, p, spacing_mm=(1, 1)) == 15
    assert metrics.hd95(t, p, spacing_mm=(1, 1)) == 0


EMPTY, FULL = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
EDGE = [
    # truth, prediction, dice, distances, surface dice, avd, what is said
    (EMPTY, EMPTY, 1.0, NAN, NAN, NAN, "both"),
    (EMPTY, FULL, 0.0, INF, 0.0, INF, "truth"),
    (FULL, EMPTY, 0.0, INF, 0.0, 100.0, "prediction"),
    (FULL, FULL, 1.0, 0.0, 1.0, 0.0, ""),
]


@pytest.mark.parametrize(("truth", "prediction", "dice", "distance", "surface", "avd", "empty"), EDGE)
def test_edge_cases_cell_by_cell(truth, prediction, dice, distance, surface, avd, empty):
    s = {"spacing_mm": (1, 1, 1)}

    def same(a, b):
        return (math.isnan(a) and math.isnan(b)) or a == b

    assert same(metrics.dice(truth, prediction), dice)
    for function in (metrics.hausdorff, metrics.hd95, metrics.assd):
        assert same(function(truth, prediction, **s), distance)
    assert same(metrics.hd95(truth, prediction, pooled=True, **s), distance)
    assert same(metrics.surface_dice(truth, prediction, tolerance_mm=1, **s), surface)
    assert same(metrics.avd(truth, prediction), avd)
    row = metrics.score(truth.astype(int), prediction.astype(int), labels={"x": 1}, **s).loc["x"]
    expected = {
        "dice": dice, "hd_mm": distance, "hd95_mm": distance, "assd_mm": distance, "surface_dice": surface, "avd_percent": avd,
    }  # fmt: skip
    for name, value in expected.items():
        assert same(row[name], value), name
    assert row["empty"] == empty


def test_score_has_a_row_a_label_and_millilitres():
    truth = np.zeros((10, 10, 10), int)
    truth[:5], truth[5:] = 1, 2
    prediction = truth.copy()
    prediction[5] = 1
    out = metrics.score(truth, prediction, spacing_mm=(1, 2, 0.5), labels={"a": 1, "b": 2, "c": 3})
    assert list(out.index) == ["a", "b", "c"]
    assert out.loc["a", "dice"] == 2 * 500 / 1100
    assert out.loc["a", "truth_ml"] == 0.5
    assert out.loc["a", "prediction_ml"] == 0.6
    assert out.loc["a", "avd_percent"] == 20
    assert out.loc["a", "hd_mm"] == 1
    assert out.loc["c", "empty"] == "both"
    plain = metrics.score(truth, prediction, spacing_mm=(1, 2, 0.5), labels=[1, 2, 3])
    assert list(plain.index) == ["1", "2", "3"]
    assert plain.loc["1", "dice"] == out.loc["a", "dice"]


def test_scores_are_symmetric_and_do_not_depend_on_the_frame(rng):
    for _ in range(50):
        t, p, spacing_mm = random_pair(rng)
        s = {"spacing_mm": spacing_mm}
        assert metrics.hd95(t, p, **s) == pytest.approx(metrics.hd95(p, t, **s), abs=1e-6)
        wide = [(2, 3)] * t.ndim
        assert metrics.assd(np.pad(t, wide), np.pad(p, wide), **s) == pytest.approx(metrics.assd(t, p, **s), abs=1e-5)


def test_distances_grow_with_the_spacing(rng):
    for _ in range(30):
        t, p, spacing_mm = random_pair(rng)
        twice = tuple(2 * s for s in spacing_mm)
        assert metrics.hausdorff(t, p, spacing_mm=twice) == pytest.approx(
            2 * metrics.hausdorff(t, p, spacing_mm=spacing_mm), rel=1e-5
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.dice(np.ones(3), np.ones(4)), r"truth has shape \(3,\), prediction \(4,\)"),
        (lambda: metrics.hd95(FULL, FULL, spacing_mm=(1, 1)), "3 positive lengths"),
        (lambda: metrics.hd95(FULL, FULL, spacing_mm=(1, 1, 0)), "3 positive lengths"),
        (lambda: metrics.surface_dice(FULL, FULL, spacing_mm=(1, 1, 1), tolerance_mm=-1), "must not be negative"),
    ],
)
def test_bad_requests_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- the WMH challenge, worked by hand --------------------------------------------------------------------------------


def wmh(truth, prediction, spacing_mm=(1, 1, 3)):
    return metrics.wmh_challenge(np.array(truth), np.array(prediction), spacing_mm=spacing_mm)


def lesions():
    t, p = np.zeros((12, 12, 5)), np.zeros((12, 12, 5))
    t[1:3, 1:3, 1] = 1  # found
    t[8, 8, 3] = 1  # missed
    p[1:3, 1:3, 1] = 1
    p[5, 5, 0] = p[5, 9, 0] = 1  # two false
    return t, p


def test_wmh_lesions_by_hand():
    out = wmh(*lesions())
    assert out["dice"] == 2 * 4 / (5 + 6)
    assert out["avd"] == pytest.approx(20)
    assert out["recall"] == 0.5
    precision = 1 / 3
    assert out["f1"] == pytest.approx(2 * precision * 0.5 / (precision + 0.5))


def test_wmh_other_pathology_is_not_counted():
    t, p = lesions()
    t[5, 5, 0] = t[5, 9, 0] = 2
    out = wmh(t, p)
    assert out["dice"] == 2 * 4 / (5 + 4)
    assert out["f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_wmh_touching_lesions_are_one_by_26_neighbours():
    t = np.zeros((6, 6, 6))
    t[1, 1, 1] = t[2, 2, 2] = 1
    p = np.zeros((6, 6, 6))
    p[1, 1, 1] = 1
    out = wmh(t, p)
    assert (out["recall"], out["f1"]) == (1, 1)


def test_wmh_in_plane_surface_and_anisotropic_voxels():
    """A filled slab seen in plane has its rim as surface; its inside, although at the slab's face, is none."""
    t = np.zeros((9, 9, 3))
    t[2:7, 2:7, 1] = 1
    p = np.zeros((9, 9, 3))
    p[4, 4, 1] = 1  # the middle of the slab: 2 pixels from the rim
    assert wmh(t, p, (1.5, 1.5, 3))["hd95"] == pytest.approx(np.percentile(np.linalg.norm(rim() * 1.5, axis=1), 95))
    p2 = np.roll(t, 1, axis=2)
    assert wmh(t, p2, (1, 1, 7))["hd95"] == 7


def rim():
    return np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3) if max(abs(i), abs(j)) == 2], float)


def test_wmh_empty_masks():
    none, some = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    some[1, 1, 1] = 1
    both = wmh(none, none)
    assert math.isnan(both["dice"])
    assert math.isnan(both["hd95"])
    assert (both["recall"], both["f1"]) == (1, 1)
    missed = wmh(some, none)
    assert (missed["dice"], missed["avd"], missed["recall"], missed["f1"]) == (0, 100, 0, 0)
    assert math.isnan(missed["hd95"])
    invented = wmh(none, some)
    assert (invented["dice"], invented["avd"], invented["recall"], invented["f1"]) == (0, INF, 1, 0)


def test_wmh_probabilities_are_cut_at_one_half():
    t = np.zeros((4, 4, 4))
    t[1, 1, 1] = 1
    p = np.full((4, 4, 4), 0.49)
    p[1, 1, 1] = 0.5
    assert wmh(t, p)["dice"] == 1
