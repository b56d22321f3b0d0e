"""Shape features: analytic bodies, hand-worked outlines, invariances over random masks, degenerate and bad input."""

import math

import numpy as np
import pytest
from scipy import ndimage

from segkit import shape

RATIO, ANGULAR, MARGIN = shape.NAMES


def ball(radius: float, size: int | None = None, axes=(1.0, 1.0, 1.0)) -> np.ndarray:
    size = size or 2 * math.ceil(radius * max(axes)) + 3
    grid = np.indices((size,) * 3) - (size - 1) / 2
    return sum((g / a) ** 2 for g, a in zip(grid, axes, strict=True)) <= radius**2


def blob(rng: np.random.Generator, shape_=(48, 40, 14)) -> np.ndarray:
    """A smooth random lump that does not touch the border."""
    field = ndimage.gaussian_filter(rng.normal(size=shape_), (4, 4, 2))
    grid = np.stack(np.indices(shape_), -1)
    inside = (((grid - np.array(shape_) / 2) / (np.array(shape_) * 0.33)) ** 2).sum(-1)
    return shape.largest_component(inside + 2.5 * field / field.std() * 0.2 < 1) != 0


# --- the smallest ellipsoid ---


def test_smallest_ellipsoid_around_the_corners_of_a_cube_is_their_ball():
    corners = np.array([[x, y, z] for x in (0, 2) for y in (0, 2) for z in (0, 2)])
    centre, matrix, volume = shape.minimum_ellipsoid(corners)
    assert centre == pytest.approx([1, 1, 1], abs=1e-6)
    assert matrix == pytest.approx(np.eye(3) / 3, abs=1e-6)
    assert volume == pytest.approx(4 / 3 * math.pi * 3**1.5, rel=1e-6)


def test_smallest_ellipse_around_a_triangle_is_steiners():
    triangle = np.array([[0, 0], [6, 0], [0, 4]])
    centre, _, area = shape.minimum_ellipsoid(triangle)
    assert centre == pytest.approx([2, 4 / 3], abs=1e-6)
    assert area == pytest.approx(4 * math.pi / (3 * math.sqrt(3)) * 12, rel=1e-6)


def test_smallest_ellipsoid_holds_every_point_and_no_smaller_scaled_one_does():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.normal(size=(rng.integers(5, 200), 3)) @ rng.normal(size=(3, 3)) + rng.normal(size=3) * 50
        centre, matrix, volume = shape.minimum_ellipsoid(points)
        reach = np.einsum("ij,jk,ik->i", points - centre, matrix, points - centre)
        assert reach.max() == pytest.approx(1, abs=1e-6)
        assert (reach > 1 - 1e-4).sum() >= 4  # touched by at least d + 1 points
        around = np.linalg.inv(np.cov(points.T)) / 3
        offset = points - points.mean(0)
        around /= np.einsum("ij,jk,ik->i", offset, around, offset).max()
        assert volume <= 4 / 3 * math.pi / math.sqrt(np.linalg.det(around)) * (1 + 1e-9)  # as the one of principal axes


def test_smallest_ellipsoid_follows_any_affine_map():
    rng = np.random.default_rng(1)
    for _ in range(30):
        points = rng.normal(size=(60, 3))
        change = rng.normal(size=(3, 3))
        before, after = shape.minimum_ellipsoid(points)[2], shape.minimum_ellipsoid(points @ change.T + 7)[2]
        assert after / abs(np.linalg.det(change)) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(
    "points", [np.zeros((10, 3)), np.eye(3), np.c_[np.random.default_rng(0).random((9, 2)), np.zeros(9)]]
)
def test_points_in_a_plane_are_refused(points):
    with pytest.raises(ValueError, match="lie in a plane"):
        shape.minimum_ellipsoid(points)


def test_points_in_a_slanted_plane_are_refused():
    rng = np.random.default_rng(0)
    flat = rng.random((40, 2)) @ np.array([[1.0, 0, 1], [0, 1.0, 1]])
    with pytest.raises(ValueError, match="lie in a plane"):
        shape.minimum_ellipsoid(flat)


# --- the ratio ---


def test_ratio_of_a_ball_and_of_an_ellipsoid_is_one():
    assert shape.bounding_ellipsoid_volume_ratio(ball(20)) == pytest.approx(1, abs=0.02)
    assert shape.bounding_ellipsoid_volume_ratio(ball(12, 64, (1, 2, 1.5))) == pytest.approx(1, abs=0.03)


def test_ratio_of_a_box_is_two_over_root_three_pi():
    box = np.zeros((34, 24, 14), bool)
    box[2:32, 2:22, 2:12] = True
    exact = 2 / (math.sqrt(3) * math.pi)
    assert shape.bounding_ellipsoid_volume_ratio(box, points="corners") == pytest.approx(exact, rel=1e-5)
    by_hand = exact * (30 * 20 * 10) / (29 * 19 * 9)  # the ellipsoid around voxel centres
    assert shape.bounding_ellipsoid_volume_ratio(box) == pytest.approx(by_hand, rel=1e-5)


def test_ratio_of_a_cylinder_of_one_slice():
    rows, columns = np.indices((61, 61)) - 30
    disc = (rows**2 + columns**2 <= 25**2)[..., None]
    # height 2h and radius r need half axes √3·h and √1.5·r: 2/(4/3·1.5·√3) of the ellipsoid
    assert shape.bounding_ellipsoid_volume_ratio(disc) == pytest.approx(1 / math.sqrt(3), abs=0.04)


def test_two_balls_fill_less_of_their_ellipsoid_than_one():
    both = np.zeros((25, 25, 60), bool)
    both[2:23, 2:23, 2:23] = ball(10, 21)
    both[2:23, 2:23, 35:56] = ball(10, 21)
    one = shape.features(both)[RATIO]
    assert one == pytest.approx(1, abs=0.06)
    assert shape.features(both, component="all")[RATIO] < 0.75 * one


def test_ratio_does_not_depend_on_the_voxels_size_and_shear():
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask, spacing = blob(rng), rng.uniform(0.3, 6, 3)
        plain = shape.bounding_ellipsoid_volume_ratio(mask)
        assert shape.bounding_ellipsoid_volume_ratio(mask, spacing_mm=spacing) == pytest.approx(plain, rel=1e-5)
        sheared = np.zeros((90, 40, 14), bool)
        for k in range(14):  # whole voxels a slice: an affine map that keeps every voxel
            sheared[3 * k : 3 * k + 48, :, k] = mask[:, :, k]
        corners = [shape.bounding_ellipsoid_volume_ratio(m, points="centres") for m in (mask, sheared)]
        assert corners[1] == pytest.approx(corners[0], rel=1e-5)


def test_a_dented_ball_has_a_lower_ratio_but_its_hull_counts():
    whole = ball(20)
    dented = whole.copy()
    dented[22:, 20:26, 20:26] = False
    ratio = shape.bounding_ellipsoid_volume_ratio(dented)
    assert ratio == pytest.approx(dented.sum() / whole.sum() * shape.bounding_ellipsoid_volume_ratio(whole), rel=0.01)


# --- the outline ---


def star(points: int, depth: float, radius: float = 60, size: int = 181) -> np.ndarray:
    y, x = np.indices((size, size)) - size // 2
    return np.hypot(y, x) <= radius * (1 + depth * np.cos(points * np.arctan2(x, y)))


def test_outline_of_one_pixel_by_hand():
    one = np.zeros((5, 5), bool)
    one[2, 2] = True
    angles, distances = shape.outline(one)
    assert sorted(np.round(np.degrees(angles)) % 360) == [0, 90, 180, 270]
    assert distances == pytest.approx([1, 1, 1, 1])


def test_outline_goes_around_in_order_and_leaves_holes_and_crumbs_out():
    disc = star(0, 0)
    disc[85:95, 85:95] = False
    disc[0:3, 0:3] = True
    angles, distances = shape.outline(disc)
    steps = np.abs(np.angle(np.exp(1j * np.diff(np.r_[angles, angles[:1]]))))
    assert steps.max() < 0.03
    assert abs(np.unwrap(angles)[-1] - angles[0]) == pytest.approx(2 * math.pi, abs=0.05)
    assert distances == pytest.approx(1, abs=0.02)


def test_a_disc_has_next_to_no_fluctuation():
    outline = shape.outline(star(0, 0))
    assert shape.angular_standard_deviation(*outline) < 0.01
    assert shape.margin_fluctuation(*outline) < 0.01


def test_angular_deviation_by_hand():
    angles = np.array([-3.0, -2.9, 0.1, 0.2, 0.3, 3.0])
    distances = np.array([1.0, 3.0, 2.0, 2.0, 5.0, 9.0])
    # bins of 36° from -180°: {1, 3} sd 1, {2, 2, 5} sd √2, {9} sd 0; from -198°: {1, 3, 9} sd √104/3, {2, 2, 5}
    first, second = (1 + math.sqrt(2) + 0) / 3, (math.sqrt(104) / 3 + math.sqrt(2)) / 2
    assert shape.angular_standard_deviation(angles, distances) == pytest.approx((first + second) / 2)
    whole = np.std(distances)
    assert shape.angular_standard_deviation(angles, distances, bins=1) == pytest.approx(whole)


def test_margin_fluctuation_by_hand():
    distances = np.array([1.0, 1, 1, 1, 1, 4, 1, 1, 1, 1])
    # a tenth of ten points is one, three are the least: moving average 2 at and beside the spike
    rest = np.array([0, 0, 0, 0, -1, 2, -1, 0, 0, 0.0])
    assert shape.margin_fluctuation(np.zeros(10), distances) == pytest.approx(rest.std())
    spike_at_the_seam = np.roll(distances, 5)
    assert shape.margin_fluctuation(np.zeros(10), spike_at_the_seam) == pytest.approx(rest.std())


def test_margin_fluctuation_of_a_star_is_its_cosine_with_the_average_taken_off():
    # a cosine of 20 periods a turn, averaged over a tenth of the outline (two periods), is nearly 0
    angles = np.linspace(-math.pi, math.pi, 2001)[:-1]
    assert shape.margin_fluctuation(angles, 1 + 0.1 * np.cos(20 * angles)) == pytest.approx(
        0.1 / math.sqrt(2), rel=0.01
    )
    # of 2 periods a turn, a tenth of the outline is 72° of the cosine: sin(36°)/36° of it is averaged
    left = 1 - math.sin(math.pi / 5) / (math.pi / 5)
    assert shape.margin_fluctuation(angles, 1 + 0.1 * np.cos(2 * angles)) == pytest.approx(
        0.1 * left / math.sqrt(2), rel=0.02
    )


def test_a_more_jagged_star_has_more_of_both():
    outlines = [shape.outline(star(18, depth)) for depth in (0, 0.05, 0.15)]
    for feature in (shape.angular_standard_deviation, shape.margin_fluctuation):
        values = [feature(*o) for o in outlines]
        assert values[0] < values[1] < values[2]
        assert values[2] > 3 * values[0]


def test_a_slow_ellipse_hardly_counts_beside_the_whole_signature():
    y, x = np.indices((181, 181)) - 90
    angles, distances = shape.outline((y / 80) ** 2 + (x / 45) ** 2 <= 1)
    assert shape.angular_standard_deviation(angles, distances) < 0.5 * distances.std()


# --- all three ---


def test_invariant_under_quarter_turns_translation_and_mirror():
    rng = np.random.default_rng(3)
    for _ in range(15):
        mask = blob(rng)
        plain = shape.features(mask)
        others = {
            "turned": np.rot90(mask, 1, (0, 1)), "mirrored": mask[::-1], "moved": np.pad(mask, ((5, 9), (2, 0), (1, 1))),
        }  # fmt: skip
        for how, other in others.items():
            found = shape.features(other)
            assert found[RATIO] == pytest.approx(plain[RATIO], rel=1e-5), how
            assert found[MARGIN] == pytest.approx(plain[MARGIN], rel=1e-6, abs=1e-9), how
            assert found[ANGULAR] == pytest.approx(plain[ANGULAR], rel=1e-6), how


def test_invariant_under_scaling():
    for points, depth in ((7, 0.1), (12, 0.2), (3, 0.3)):
        small, large = (np.stack([star(points, depth, r, 2 * r + 60)] * 5, -1) for r in (40, 80))
        a, b = shape.features(small), shape.features(large)
        assert b[ANGULAR] == pytest.approx(a[ANGULAR], rel=0.05)
        assert b[MARGIN] == pytest.approx(a[MARGIN], rel=0.1)
        assert b[RATIO] == pytest.approx(a[RATIO], rel=0.05)
        assert shape.features(small, spacing_mm=(3, 3, 3)) == pytest.approx(a)


def test_slices_and_components_that_are_chosen():
    mask = np.zeros((181, 181, 6), bool)
    mask[..., 0], mask[..., 1], mask[..., 2] = star(9, 0.2, 40), star(0, 0, 60), star(5, 0.1, 50)
    mask[..., 5] = star(0, 0, 80)  # another component, larger in area
    alone = [shape.margin_fluctuation(*shape.outline(mask[..., k])) for k in (0, 1, 2)]
    assert shape.features(mask)[MARGIN] == pytest.approx(alone[1])
    assert shape.features(mask[..., :3], area_slice="mean")[MARGIN] == pytest.approx(np.mean(alone))
    assert shape.features(mask[..., [0, 2, 3]], area_slice="middle")[MARGIN] == pytest.approx(alone[2])
    whole = shape.margin_fluctuation(*shape.outline(mask[..., 5]))
    assert shape.features(mask, component="all")[MARGIN] == pytest.approx(whole)


def test_tiny_masks_have_finite_features():
    for size in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 1, 3), (2, 2, 2)):
        mask = np.zeros((7, 7, 7), bool)
        mask[tuple(slice(2, 2 + s) for s in size)] = True
        assert all(np.isfinite(v) for v in shape.features(mask).values()), size
    assert shape.features(np.ones((4, 4, 4)))[RATIO] > 0  # fills the field of view


def test_an_empty_mask_has_none():
    assert all(math.isnan(v) for v in shape.features(np.zeros((4, 4, 4))).values())
    assert math.isnan(shape.bounding_ellipsoid_volume_ratio(np.zeros((4, 4, 4))))
    with pytest.raises(ValueError, match="empty slice"):
        shape.outline(np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mask": np.ones((4, 4))}, "3D mask"),
        ({"spacing_mm": (1, 1)}, "three positive"),
        ({"spacing_mm": (1, 0, 1)}, "three positive"),
        ({"component": "biggest"}, "choose one of largest, all"),
        ({"area_slice": "first"}, "choose one of largest, middle, mean"),
        ({"points": "edges"}, "choose one of centres, corners"),
    ],
)
def test_bad_input_is_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        shape.features(**({"mask": np.ones((3, 3, 3))} | arguments))
