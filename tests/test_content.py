"""The content loss: by hand on a small stack of features, frozen features, what a saved model holds. Runs on each backend."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from segkit import content, losses, models


def stack():
    """Two blocks of one layer each: a kernel that doubles the mean of the three channels, then one that halves; no bias."""
    first, second = np.zeros((3, 3, 3, 1), "f"), np.zeros((3, 3, 1, 1), "f")
    first[1, 1, :, 0], second[1, 1, 0, 0] = 2 / 3, 0.5
    return (((first, np.zeros(1, "f")),), ((second, np.ones(1, "f")),))


def target(mask, image):
    return np.stack([mask, image], axis=-1)[None].astype("f")


def number(value):
    return float(ops.convert_to_numpy(value))


SETTINGS = {"low": 0.0, "high": 1.0, "reduction_of_features": "concatenated"}


def test_a_stack_of_features_by_hand():
    """Image 1 everywhere (255 before the means): channels 255 − means; the first kernel gives twice their mean."""
    image, mask = np.ones((4, 4)), np.zeros((4, 4))
    mask[:2, :2] = 1
    prediction = np.zeros((1, 4, 4, 1), "f")
    value = 2 * np.mean([255 - m for m in content.MEANS])  # of a pixel inside the mask, after the first layer
    # block 1 pools 4 × 4 to 2 × 2: truth (v, 0, 0, 0), prediction 0; block 2: .5 v + 1 against 1 after pooling to 1 × 1
    one, two = value**2 / 4, (0.5 * value) ** 2
    found = content.content_distance(
        ops.convert_to_tensor(target(mask, image)), ops.convert_to_tensor(prediction), stack(), SETTINGS
    )
    assert number(found) == pytest.approx((4 * one + two) / 5, rel=1e-5)
    by_layer = SETTINGS | {"reduction_of_features": "per_layer"}
    found = content.content_distance(
        ops.convert_to_tensor(target(mask, image)), ops.convert_to_tensor(prediction), stack(), by_layer
    )
    assert number(found) == pytest.approx(one + two, rel=1e-5)


@pytest.mark.parametrize("pools", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["concatenated", "per_layer"])
def test_zero_for_equal_masks_and_above_for_others(pools, reduction, rng):
    loss = losses.get("content", features="random", pools=pools, reduction_of_features=reduction)
    mask, image = rng.random((16, 16)), rng.random((16, 16))
    same = loss(target(mask, image), mask[None, ..., None].astype("f"))
    assert number(same) == 0
    assert number(loss(target(mask, image), 1 - mask[None, ..., None].astype("f"))) > 0


def test_masked_background_is_zero_after_preprocessing():
    """What lies outside both masks does not matter."""
    loss = content.Content("random")
    mask = np.zeros((8, 8))
    mask[2:5, 2:5] = 1
    prediction = 0.5 * mask[None, ..., None].astype("f")
    plain, other = np.full((8, 8), 0.7), np.full((8, 8), 0.7)
    other[mask == 0] = 0.1
    assert number(loss(target(mask, plain), prediction)) == pytest.approx(
        number(loss(target(mask, other), prediction)), rel=1e-6
    )


def test_the_image_window_is_worked_in(rng):
    mask, image, prediction = rng.random((8, 8)), rng.random((8, 8)), rng.random((1, 8, 8, 1)).astype("f")
    plain = content.Content("random")(target(mask, image), prediction)
    shifted = content.Content("random", low=-1, high=3)(target(mask, 4 * image - 1), prediction)
    assert number(plain) == pytest.approx(number(shifted), rel=1e-4)


def test_the_hybrid_is_the_sum(rng):
    mask, image, prediction = rng.integers(0, 2, (8, 8)), rng.random((8, 8)), rng.random((1, 8, 8, 1)).astype("f")
    t = target(mask, image)
    both = number(content.Content("random", dice_weight=0.5)(t, prediction))
    apart = number(content.Content("random")(t, prediction)) + 0.5 * number(
        losses.Dice(smooth=1.0, squared=True)(t[..., :1], prediction)
    )
    assert both == pytest.approx(apart, rel=1e-5)


def train_once(model, loss, rng):
    model.compile(optimizer="adam", loss=loss)
    x = rng.random((2, 8, 8, 1)).astype("f")
    y = np.concatenate([(x > 0.6).astype("f"), x], axis=-1)
    before = [w.copy() for w in model.get_weights()]
    model.fit(x, y, epochs=2, verbose=0)
    return [float(np.abs(a - b).max()) for a, b in zip(before, model.get_weights(), strict=True)]


def small():
    keras.utils.set_random_seed(0)
    return models.build("wmh_generator", input_shape=(None, None, 1), filters=(4, 6))


def test_gradients_reach_the_generator_and_never_the_features(rng, tmp_path):
    start = [v.copy() for block in content.vgg19("random", pools=2) for pair in block for v in pair]
    model = small()
    names = {w.path for w in model.weights}
    moved = train_once(model, content.Content("random"), rng)
    assert sum(m > 0 for m in moved) > 0.8 * len(moved)
    now = [v for block in content.vgg19("random", pools=2) for pair in block for v in pair]
    for a, b in zip(start, now, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {w.path for w in model.weights} == names  # nothing was added to the model
    model.save(tmp_path / "m.keras")
    assert (tmp_path / "m.keras").stat().st_size < 400_000
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects={})
    assert {tuple(w.shape) for w in again.weights} == {tuple(w.shape) for w in model.weights}


def test_a_saved_loss_holds_settings_and_needs_no_weights_to_load(tmp_path):
    """A file of features that is gone: the model still loads, with the loss's settings; computing it then says what is missing."""
    gone = str(tmp_path / "gone.npz")
    settings = {"features": gone, "pools": 1, "reduction_of_features": "per_layer", "high": 2.0, "dice_weight": 0.25}
    model = small()
    model.compile(loss=content.Content(**settings))
    model.save(tmp_path / "m.keras")
    loss = keras.models.load_model(tmp_path / "m.keras").loss
    assert isinstance(loss, content.Content)
    assert {k: loss.get_config()[k] for k in settings} == settings
    assert json.loads(json.dumps(loss.get_config()))["pools"] == 1
    with pytest.raises(FileNotFoundError, match="gone.npz: no such file"):
        loss(target(np.ones((4, 4)), np.ones((4, 4))), np.ones((1, 4, 4, 1), "f"))


def test_features_that_learn_raise_the_loss_while_the_generator_lowers_it(rng):
    model, loss = content.with_trained_features(small(), features="random", pools=1, rate=1.0)
    moved = train_once(model, loss, rng)
    assert moved[-1] > 0  # the features' own variables
    x = rng.random((2, 8, 8, 1)).astype("f")
    t = np.concatenate([(x > 0.6).astype("f"), x], axis=-1)
    y = np.asarray(model.predict(x, verbose=0))
    # with the generator held still, a step of the optimiser raises the loss
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(1e-9), loss=loss)
    before = number(loss(t, y))
    model.fit(x, t, epochs=1, verbose=0)
    assert number(loss(t, y)) > before


def test_features_that_learned_load_without_the_file_they_came_from(tmp_path):
    model, loss = content.with_trained_features(small(), features="random", pools=1, dice_weight=0.5)
    assert loss.settings["dice_weight"] == 0.5
    mask, image = np.eye(8), np.ones((8, 8))
    plain = content.TrainedContent(loss.layer)(target(mask, image), 0.5 * mask[None, ..., None].astype("f"))
    both = loss(target(mask, image), 0.5 * mask[None, ..., None].astype("f"))
    assert number(both - plain) == pytest.approx(0.5 * (1 - (8 + 1) / (8 + 2 + 1)), rel=1e-3)
    gone = content.TrainedFeatures(str(tmp_path / "gone.npz"), pools=1)
    net = small()
    keras.Model(net.inputs, gone(net.outputs[0])).save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.layers[-1].chosen["features"].endswith("gone.npz")
    with pytest.raises(FileNotFoundError, match="gone.npz: no such file"):
        again.layers[-1].blocks()


def test_weights_files(tmp_path, rng):
    good = {
        f"{name}/{key}": rng.normal(size=(3, 3, c, 64) if key == "kernel" else (64,)).astype("f")
        for name, c in (("block1_conv1", 3), ("block1_conv2", 64)) for key in ("kernel", "bias")
    }  # fmt: skip
    np.savez(tmp_path / "vgg.npz", **good)
    found = content.vgg19(str(tmp_path / "vgg.npz"), pools=1)
    np.testing.assert_array_equal(found[0][1][0], good["block1_conv2/kernel"])
    with pytest.raises(ValueError, match="block2_conv1/kernel is missing"):
        content.vgg19(str(tmp_path / "vgg.npz"), pools=2)
    np.savez(tmp_path / "other.npz", **(good | {"block1_conv1/kernel": np.zeros((7, 7, 3, 64), "f")}))
    with pytest.raises(ValueError, match=r"block1_conv1/kernel is \(7, 7, 3, 64\), VGG19 has \(3, 3, 3, 64\)"):
        content.vgg19(str(tmp_path / "other.npz"), pools=1)
    assert content.source_of(str(tmp_path / "vgg.npz")) == "vgg.npz"
    assert content.source_of("random") == "random"


def test_the_feature_network_has_as_many_numbers_as_vgg19s_first_blocks():
    assert content.parameters(content.vgg19("random", pools=2)) == 260_160
    assert content.parameters(content.vgg19("random", pools=3)) == 2_325_568
    a, b = (content.vgg19("random", pools=1, seed=s)[0][0][0] for s in (0, 1))
    assert np.abs(a - b).max() > 0


def test_requests_that_make_no_sense():
    with pytest.raises(ValueError, match="one to three pooling layers"):
        content.vgg19("random", pools=4)
    with pytest.raises(ValueError, match='"concatenated" or "per_layer"'):
        content.Content(reduction_of_features="sum")
    with pytest.raises(ValueError, match="must lie above black"):
        content.Content(low=1, high=1)
    with pytest.raises(ValueError, match="two channels, mask and image, not 1"):
        content.Content("random")(np.zeros((1, 4, 4, 1), "f"), np.zeros((1, 4, 4, 1), "f"))


def test_relative_content_is_one_for_an_empty_prediction_and_zero_for_the_truth():
    rng = np.random.default_rng(0)
    image = rng.uniform(0.2, 1, (2, 16, 16, 1)).astype("f")
    mask = (rng.random((2, 16, 16, 1)) < 0.3).astype("f")
    target = np.concatenate([mask, image], axis=-1)
    loss = content.Content("random", relative=True, seed=1)
    assert float(loss(target, mask)) == pytest.approx(0, abs=1e-6)
    assert float(loss(target, 0 * mask)) == pytest.approx(1, rel=1e-3)
    plain = float(content.Content("random", seed=1)(target, 0 * mask))
    assert plain != pytest.approx(1, rel=0.1)
    layers = content.Content("random", relative=True, reduction_of_features="per_layer", seed=1)
    assert float(layers(target, 0 * mask)) == pytest.approx(2, rel=1e-3)  # one a layer
    nowhere = np.concatenate([0 * mask, image], axis=-1)
    assert float(loss(nowhere, 0 * mask)) == 0
    assert np.isfinite(float(loss(nowhere, mask)))
