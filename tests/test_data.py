"""Datasets: who is in them, what a batch holds, and that it depends on seed, epoch and number alone."""

import numpy as np
import pytest

from segkit import augment, data


def arrays(n=10, **settings):
    x = np.arange(n, dtype="f")[:, None, None, None] * np.ones((n, 4, 4, 1), "f")
    y = (np.arange(n)[:, None, None] % 3 * np.ones((n, 4, 4))).astype(np.uint8)
    return data.Arrays(x, y, [f"s{i % 2}" for i in range(n)], **({"classes": 3, "batch_size": 4} | settings))


def volumes(rng, shapes=((5, 6, 7), (5, 6, 9))):
    return {
        f"s{i}": (rng.normal(size=s).astype("f"), rng.integers(0, 3, s).astype(np.uint8)) for i, s in enumerate(shapes)
    }


def seen(dataset):
    return [int(v) for i in range(len(dataset)) for v in dataset[i][0][:, 0, 0, 0]]


def test_an_epoch_sees_every_sample_once_and_the_next_in_another_order():
    d = arrays()
    assert len(d) == 3
    first = seen(d)
    assert sorted(first) == list(range(10))
    assert first != list(range(10))
    d.epoch = 1
    assert sorted(seen(d)) == list(range(10))
    assert seen(d) != first
    d.epoch = 0
    assert seen(d) == first
    assert seen(arrays(seed=1)) != first
    assert seen(arrays(shuffle=False)) == list(range(10))


def test_fixed_number_of_batches_goes_round():
    d = arrays(steps=8)
    values = seen(d)
    assert len(values) == 32
    assert min(values.count(i) for i in range(10)) == 3
    assert len(seen(arrays(steps=1))) == 4


def test_targets_are_one_hot_or_one_channel():
    x, y = arrays()[0]
    assert y.shape == (4, 4, 4, 3)
    np.testing.assert_array_equal(y.argmax(-1)[:, 0, 0], x[:, 0, 0, 0] % 3)
    binary = data.Arrays(np.zeros((2, 4, 4, 1), "f"), np.ones((2, 4, 4), "u1"), ["a", "b"], classes=1, batch_size=2)
    assert binary[0][1].shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        arrays(classes=2, shuffle=False)[0]


def test_subjects_and_description():
    d = arrays()
    assert d.subjects == ("s0", "s1")
    assert d.describe() == arrays().describe()
    other = arrays()
    other.images[5] += 1
    assert other.describe()["fingerprint"] != d.describe()["fingerprint"]


def test_the_record_tells_apart_what_gives_other_batches(rng):
    v = {"a": (rng.normal(size=(9, 9, 9)).astype("f"), np.ones((9, 9, 9), "u1"))}
    w = {"a": (v["a"][0] * np.where(np.arange(9) == 4, 5, 1)[:, None, None].astype("f"), v["a"][1])}
    made = [
        data.Patches(v, patch=(4, 4, 4), steps=1, classes=2, batch_size=1),
        data.Patches(w, patch=(4, 4, 4), steps=1, classes=2, batch_size=1),
        data.Patches(v, patch=(4, 4, 4), steps=1, classes=2, batch_size=1, foreground=0.6),
        data.Patches(v, patch=(4, 4, 4), steps=1, classes=2, batch_size=1, seed=2),
        data.Patches(v, patch=(4, 4, 4), steps=1, classes=2, batch_size=1, augment=augment.volumes()),
        data.Patches(v, patch=(4, 4, 4), steps=1, classes=2, batch_size=1, augment=augment.volumes(rotate=5)),
        data.Slices(v, classes=2, batch_size=1),
        data.Slices(v, classes=2, batch_size=1, axis=1),
        data.Slices(v, classes=2, batch_size=1, neighbours=1),
        data.Slices(v, classes=2, batch_size=1, shuffle=False),
    ]
    records = [str(d.describe()) for d in made]
    assert len(set(records)) == len(records)


def test_misfits_name_the_subject(rng):
    v = {"s7": (np.zeros((4, 5, 5)), np.zeros((6, 5, 5), "u1"))}
    with pytest.raises(ValueError, match="s7: image of shape .* do not belong together"):
        data.Slices(v, classes=2, batch_size=1)
    with pytest.raises(ValueError, match=r"s8: a patch of \(9, 9, 9\) does not fit"):
        data.Patches(
            {"s8": (np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))}, patch=(9, 9, 9), steps=1, classes=2, batch_size=1
        )
    with pytest.raises(ValueError, match="list of names, not the text"):
        data.Arrays(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4)), "IBSR_04", classes=2, batch_size=1)
    with pytest.raises(ValueError, match="does not fit one channel"):
        data.Arrays(np.zeros((2, 4, 4, 1)), np.full((2, 4, 4), 2), ["a"], classes=1, batch_size=1)[0]


def test_an_empty_dataset_is_refused(rng):
    with pytest.raises(ValueError, match="no sample; check the subjects"):
        arrays(0)
    with pytest.raises(ValueError, match="no sample"):
        data.Slices(volumes(rng), classes=3, batch_size=2, keep=lambda m: False)
    with pytest.raises(ValueError, match="3 images and 2 labels"):
        data.Arrays(np.zeros((3, 2, 2, 1)), np.zeros((2, 2, 2)), ["a"], classes=2, batch_size=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_carry_their_neighbours(axis, rng):
    v = {"a": volumes(rng)["s0"]}
    d = data.Slices(v, axis=axis, neighbours=1, classes=3, batch_size=100, shuffle=False)
    x, y = d[0]
    image, label = (np.moveaxis(a, axis, 0) for a in v["a"])
    assert len(x) == len(image)
    np.testing.assert_array_equal(x[2], np.stack([image[1], image[2], image[3]], -1))
    np.testing.assert_array_equal(x[0], np.stack([image[0], image[0], image[1]], -1))
    np.testing.assert_array_equal(y.argmax(-1), label)


def test_slices_can_be_chosen_and_must_share_a_shape(rng):
    v = volumes(rng)
    kept = data.Slices(v, classes=3, batch_size=2, keep=lambda m: m.sum() > m.size)
    assert 0 < kept.size <= 16
    with pytest.raises(ValueError, match="pad the volumes to one shape"):
        data.Slices(v, axis=0, classes=3, batch_size=2)


def test_patches_are_cut_alike_from_image_and_label(rng):
    label = rng.integers(0, 3, (9, 10, 11)).astype(np.uint8)
    d = data.Patches({"a": (label * 10.0, label)}, patch=(4, 5, 6), steps=3, classes=3, batch_size=2)
    for i in range(3):
        x, y = d[i]
        assert x.shape == (2, 4, 5, 6, 1)
        np.testing.assert_array_equal(x[..., 0], 10 * y.argmax(-1))
    d.epoch = 1
    assert not np.array_equal(d[0][0], (setattr(d, "epoch", 0), d[0][0])[1])


def test_patches_take_the_subjects_in_turn(rng):
    v = {k: (np.full((6, 6, 6), float(i), "f"), np.ones((6, 6, 6), "u1")) for i, k in enumerate("abc")}
    d = data.Patches(v, patch=(2, 2, 2), steps=5, classes=2, batch_size=3)
    values = np.concatenate([d[i][0][:, 0, 0, 0, 0] for i in range(5)])
    assert [int((values == i).sum()) for i in range(3)] == [5, 5, 5]


@pytest.mark.parametrize(("make", "shape"), [(augment.slices, (16, 16)), (augment.volumes, (10, 11, 12))])
def test_augmentation_is_repeatable_and_never_blends_labels(make, shape, rng):
    transform = make(flips=(0, 1), rotate=20, scale=0.2, gain=0.2, noise=0.1)
    image, label = rng.normal(size=(*shape, 2)).astype("f"), rng.choice([0, 3], shape).astype(np.uint8)
    kept = image.copy(), label.copy()
    a, b = (transform(image, label, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert a[0].shape == image.shape
    assert a[0].dtype == np.float32
    assert set(np.unique(a[1])) <= {0, 3}
    assert not np.array_equal(a[0], transform(image, label, np.random.default_rng(6))[0])
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(label, kept[1])


@pytest.mark.parametrize(("make", "shape"), [(augment.slices, (24, 24)), (augment.volumes, (14, 14, 14))])
def test_image_and_label_move_together(make, shape, rng):
    """The image is the label: after any move they agree but for the interpolated rim."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    label[tuple(slice(0, n // 3) for n in shape)] = 1
    transform = make(flips=tuple(range(len(shape))), rotate=25, scale=0.2, gain=0)
    for seed in range(20):
        image, moved = transform(label[..., None].astype("f"), label, np.random.default_rng(seed))
        assert ((image[..., 0] > 0.5) != moved).mean() < 0.04


def test_without_any_change_augmentation_is_the_identity(rng):
    image, label = rng.normal(size=(8, 8, 1)).astype("f"), rng.integers(0, 2, (8, 8)).astype("u1")
    out = augment.slices(flips=(), rotate=0, scale=0, gain=0)(image, label, rng)
    np.testing.assert_array_equal(out[0], image)
    np.testing.assert_array_equal(out[1], label)


def test_volumes_of_any_size_give_boxes_of_one_shape(rng):
    v = {
        k: (rng.normal(size=n).astype("f"), (rng.random(n) > 0.5).astype("f"))
        for k, n in (("a", (9, 8, 7)), ("b", (6, 12, 7)))
    }
    d = data.Volumes(v, classes=1, batch_size=2, steps=3, augment=augment.volumes(shape=(8, 8, 8), shift=1))
    x, y = d[0]
    assert x.shape == y.shape == (2, 8, 8, 8, 1)
    assert d.subjects == ("a", "b")
    assert len(d) == 3
    again = data.Volumes(v, classes=1, batch_size=2, steps=3, augment=augment.volumes(shape=(8, 8, 8), shift=1))
    np.testing.assert_array_equal(again[2][0], d[2][0])
    assert d.describe() == again.describe()
    assert d.describe()["augment"]["shape"] == [8, 8, 8]
    whole, label = data.Volumes({"a": v["a"]}, classes=1, batch_size=1, shuffle=False)[0]
    np.testing.assert_array_equal(whole[0, ..., 0], v["a"][0])
    np.testing.assert_array_equal(label[0, ..., 0], v["a"][1])


def test_a_box_without_any_change_is_the_middle_of_the_volume(rng):
    image, label = rng.normal(size=(9, 8, 7, 1)).astype("f"), rng.integers(0, 2, (9, 8, 7)).astype("u1")
    still = augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=(5, 8, 11))
    box, mask = still(image, label, rng)
    assert box.shape == (5, 8, 11, 1)
    # 2 voxels cut off at each end of the first axis, 2 added at each end of the last: the edge repeats, the label is 0
    np.testing.assert_allclose(box[:, :, 2:9], image[2:7], atol=1e-6)
    np.testing.assert_array_equal(mask[:, :, 2:9], label[2:7])
    assert mask[..., :2].max() == mask[..., 9:].max() == 0
    np.testing.assert_allclose(box[:, :, 0], image[2:7, :, 0], atol=1e-6)
    odd, _ = augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=(6, 8, 7))(image, label, rng)
    np.testing.assert_allclose(odd, image[1:7], atol=1e-6)  # to a whole voxel: nothing is smoothed
    moved = augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=(5, 8, 7), shift=0)
    places = {round(float(moved(image, label, np.random.default_rng(k))[0][0, 0, 0, 0]), 5) for k in range(8)}
    assert len(places) == 8


@pytest.mark.parametrize(
    "settings", [{"bend": 2.0}, {"stretch": 0.2, "shear": 0.1}, {"bend": 1.5, "shape": (12, 16, 11), "shift": 2}]
)
def test_image_and_label_bend_together(settings):
    """The image is the distance to a centre and the label its inside: after any move they agree but for the rim."""
    grids = np.ogrid[:14, :14, :14]
    distance = np.sqrt(sum((g - 6.5) ** 2 for g in grids)).astype("f")
    label = (distance < 4).astype(np.uint8)
    transform = augment.volumes(flips=(), rotate=15, scale=0.1, gain=0, **settings)
    changed = 0
    for seed in range(20):
        image, moved = transform(distance[..., None], label, np.random.default_rng(seed))
        assert ((image[..., 0] < 4) != moved).mean() < 0.05
        changed += moved.shape != label.shape or not np.array_equal(moved, label)
    assert changed > 10


def test_blur_and_shade_change_the_image_and_not_the_label(rng):
    image, label = rng.normal(5, 1, (12, 12, 12, 1)).astype("f"), rng.integers(0, 2, (12, 12, 12)).astype("u1")
    for settings in ({"blur": 2.0}, {"shade": 0.3}):
        transform = augment.volumes(flips=(), rotate=0, scale=0, gain=0, **settings)
        out = [transform(image, label, np.random.default_rng(s)) for s in range(30)]
        changed = [x for x, _ in out if not np.array_equal(x, image)]
        assert 2 < len(changed) < 20  # three in ten
        assert all(np.array_equal(y, label) for _, y in out)
        if "blur" in settings:
            assert min(x.std() for x in changed) < 0.8 * image.std()


def test_soft_labels_are_interpolated_and_keep_their_range(rng):
    share = np.clip(rng.normal(0.5, 0.4, (10, 10, 10)), 0, 1).astype("f")
    move = augment.volumes(flips=(), rotate=20, scale=0.2, gain=0.1, gamma=0.3, shape=(10, 10, 10))
    seen = [move(share[..., None], share, np.random.default_rng(s)) for s in range(10)]
    assert all(y.min() >= 0 and y.max() <= 1 and np.isfinite(x).all() for x, y in seen)
    assert any(len(np.setdiff1d(y, share)) for _, y in seen)


def test_slices_draw_the_share_of_foreground_that_is_asked_for():
    image, label = np.zeros((4, 4, 20), "f"), np.zeros((4, 4, 20), np.uint8)
    label[1, 1, 7] = 1
    image[..., 7] = 1
    settings = {"classes": 1, "batch_size": 10, "steps": 100}
    shares = {}
    for share in (None, 0.5, 1.0):
        batches = data.Slices({"a": (image, label)}, foreground=share, **settings)
        shares[share] = np.mean([batches[i][1].any(axis=(1, 2, 3)) for i in range(100)])
        for images, truth in (batches[3], batches[99]):
            np.testing.assert_array_equal(images.any(axis=(1, 2, 3)), truth.any(axis=(1, 2, 3)))
    assert shares[None] == pytest.approx(1 / 20)
    assert shares[0.5] == pytest.approx(0.5 + 0.5 / 20, abs=0.05)
    assert shares[1.0] == 1
    with pytest.raises(ValueError, match="no slice holds foreground"):
        data.Slices({"a": (image, 0 * label)}, foreground=0.5, **settings)


def test_patches_bring_their_surroundings(rng):
    image = rng.normal(size=(12, 12, 12)).astype("f")
    label = np.zeros((12, 12, 12), "u1")
    label[6, 6, 6] = 1
    settings = {"patch": (4, 4, 4), "steps": 3, "batch_size": 2, "classes": 1, "seed": 3}
    plain = data.Patches({"a": (image, label)}, **settings)
    both = data.Patches({"a": (image, label)}, context=True, **settings)
    assert both[1][0].shape == (2, 4, 4, 4, 2)
    np.testing.assert_array_equal(both[1][0][..., :1], plain[1][0])  # the same patches, something added
    np.testing.assert_array_equal(both[1][1], plain[1][1])
    assert both.describe()["context"] is True
    assert "context" not in plain.describe()


def ramp(n=64):
    """An image whose two channels are its own coordinates."""
    return np.ascontiguousarray(np.moveaxis(np.indices((n, n)), 0, -1).astype("f"))


def test_bending_moves_pixels_by_the_deviation_asked_for():
    move = augment.slices(flips=(), rotate=0, scale=0, gain=0, bend=1.5)
    away = []
    for seed in range(80):
        moved, _ = move(ramp(128), np.zeros((128, 128), "u1"), np.random.default_rng(seed))
        away.append((moved - ramp(128))[24:-24, 24:-24].std())
    bent = [a for a in away if a > 0]
    assert 0.15 < len(bent) / 80 < 0.45
    assert np.mean(bent) == pytest.approx(1.5, rel=0.25)


def test_sequences_change_by_themselves_and_neighbouring_slices_together(rng):
    """Channels 0, 2 are one sequence, 1, 3 another: brightness differs between them, not within."""
    plain = np.repeat(rng.normal(size=(16, 16, 1)).astype("f"), 4, axis=2)
    change = augment.slices(flips=(), rotate=0, scale=0, gain=0.3, gamma=0.3, blur=1.0, sequences=2)
    differ = 0
    for seed in range(20):
        image, label = change(plain, np.zeros((16, 16), "u1"), np.random.default_rng(seed))
        np.testing.assert_allclose(image[..., 0], image[..., 2], atol=1e-5)
        np.testing.assert_allclose(image[..., 1], image[..., 3], atol=1e-5)
        differ += np.abs(image[..., 0] - image[..., 1]).max() > 0.01
        assert label.sum() == 0
        assert image.dtype == np.float32
    assert differ >= 19


def test_gamma_keeps_the_ends_of_an_image(rng):
    change = augment.slices(flips=(), rotate=0, scale=0, gain=0, gamma=0.5)
    x = rng.normal(size=(16, 16, 1)).astype("f")
    changed = 0
    for seed in range(30):
        y, _ = change(x, np.zeros((16, 16), "u1"), np.random.default_rng(seed))
        assert y.min() == pytest.approx(x.min(), abs=1e-4)
        assert y.max() == pytest.approx(x.max(), abs=1e-4)
        assert (np.argsort(y.ravel()) == np.argsort(x.ravel())).mean() > 0.95
        changed += np.abs(y - x).max() > 1e-3
    assert 3 <= changed <= 18


def test_slices_bring_their_own_image_and_soft_labels_in_the_target(rng):
    image = rng.random((6, 6, 5)).astype("f")
    label = rng.integers(0, 2, (6, 6, 5)).astype("u1")
    settings = {"classes": 1, "batch_size": 5, "neighbours": 1, "shuffle": False}
    plain = data.Slices({"a": (image, label)}, **settings)
    both = data.Slices({"a": (image, label)}, image_in_target=True, soft=(0.1, 0.9), **settings)
    x, y = both[0]
    np.testing.assert_array_equal(x, plain[0][0])
    np.testing.assert_allclose(y[..., 0], 0.1 + 0.8 * plain[0][1][..., 0], atol=1e-6)
    np.testing.assert_array_equal(y[..., 1], np.moveaxis(image, 2, 0))  # the middle slice, not a neighbour
    assert both.describe()["soft"] == [0.1, 0.9]
    assert "soft" not in plain.describe()


def test_groups_are_seen_equally_often_whatever_their_size():
    rng = np.random.default_rng(0)
    sizes = {"a/1": 40, "a/2": 4, "b/1": 10}
    volumes = {
        s: (np.full((4, 4, n), k, np.float32), (rng.random((4, 4, n)) < 0.02).astype(np.uint8))
        for k, (s, n) in enumerate(sizes.items())
    }
    for _, mask in volumes.values():
        mask[..., 0] = 1
    chosen = data.Slices(volumes, classes=1, batch_size=50, steps=40, groups={s: s[0] for s in volumes}, foreground=0.5)
    seen = np.concatenate([chosen[i][0][:, 0, 0, 0] for i in range(40)])
    share = [(seen == k).mean() for k in range(3)]
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.04)
    np.testing.assert_array_equal(chosen[3][0], chosen[3][0])
    filled = np.concatenate([chosen[i][1].any(axis=(1, 2, 3)) for i in range(40)])
    assert filled.mean() > 0.55
    with pytest.raises(ValueError, match="groups name"):
        data.Slices(volumes, classes=1, batch_size=2, groups={"a/1": "a"})
