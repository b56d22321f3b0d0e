"""Losses by hand, as pairs of equal expressions, and through a file. Runs on each backend."""

import keras
import numpy as np
import pytest
from keras import ops

from segkit import losses

SETTINGS = {"weighted_cross_entropy": {"class_weights": [1, 2, 3]}}


def value(loss, t, p):
    return float(ops.convert_to_numpy(loss(ops.convert_to_tensor(t, "float32"), ops.convert_to_tensor(p, "float32"))))


def example(rng, classes=3, shape=(2, 4, 5)):
    t = np.eye(classes)[rng.integers(0, classes, shape)]
    p = rng.dirichlet(np.ones(classes), shape)
    return t.astype("f"), p.astype("f")


def one_channel(rng):
    return rng.integers(0, 2, (2, 4, 5, 1)).astype("f"), rng.uniform(0.05, 0.95, (2, 4, 5, 1)).astype("f")


# grey_bce has no smallest value; content has a target of its own (test_content.py)
BOUNDED = [name for name in losses.names() if name not in ("grey_bce", "content")]


@pytest.mark.parametrize("name", BOUNDED)
def test_contract_of_every_loss(name, rng):
    """A finite scalar, smaller for the truth than for a guess, and back from its configuration."""
    loss = losses.get(name, **SETTINGS.get(name, {}))
    t, p = one_channel(rng) if name == "bce_logits" else example(rng)
    perfect = np.where(t > 0.5, 30.0, -30.0) if name == "bce_logits" else t
    assert 0 <= value(loss, t, perfect) < value(loss, t, p)
    assert np.isfinite(value(loss, t * 0, p))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert value(again, t, p) == pytest.approx(value(loss, t, p), rel=1e-6)


@pytest.mark.parametrize("name", BOUNDED)
def test_half_precision_predictions_do_not_overflow(name, rng):
    loss = losses.get(name, **SETTINGS.get(name, {}))
    t, p = one_channel(rng) if name == "bce_logits" else example(rng, shape=(2, 200, 200))
    half = ops.cast(ops.convert_to_tensor(p), "float16")
    out = float(ops.convert_to_numpy(loss(ops.convert_to_tensor(t), half)))
    assert out == pytest.approx(value(loss, t, p), rel=5e-3)


def test_dice_by_hand():
    # one channel: TP = 0.5, |T| = 1, |P| = 1
    t, p = np.array([[[1.0], [0.0]]]), np.array([[[0.5], [0.5]]])
    assert value(losses.Dice(smooth=0), t, p) == pytest.approx(1 - 2 * 0.5 / 2)
    assert value(losses.Dice(smooth=1), t, p) == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1))
    assert value(losses.Dice(smooth=1, squared=True), t, p) == pytest.approx(
        1 - (2 * 0.5 + 1) / (1 + 0.5 + 1)
    )  # |P|² = .5


def test_tversky_by_hand():
    t, p = np.array([[[1.0], [0.0], [1.0]]]), np.array([[[1.0], [1.0], [0.0]]])  # TP 1, FP 1, FN 1
    assert value(losses.Tversky(alpha=0.3, beta=0.7, smooth=0), t, p) == pytest.approx(1 - 1 / 2)
    assert value(losses.Tversky(alpha=0.3, beta=0.2, smooth=0), t, p) == pytest.approx(1 - 1 / 1.5)


def test_tversky_of_one_half_is_dice(rng):
    t, p = example(rng)
    a, b = losses.Tversky(0.5, 0.5, smooth=0.5), losses.Dice(smooth=1)
    assert value(a, t, p) == pytest.approx(value(b, t, p), rel=1e-6)


def test_focal_tversky_is_the_power_of_tversky(rng):
    t, p = one_channel(rng)
    plain = value(losses.Tversky(), t, p)
    assert value(losses.FocalTversky(gamma=1.0), t, p) == pytest.approx(plain, rel=1e-5)
    assert value(losses.FocalTversky(gamma=2.0), t, p) == pytest.approx(plain**2, rel=1e-5)


def test_cross_entropy_with_equal_weights_is_keras_own(rng):
    t, p = example(rng)
    plain = value(keras.losses.CategoricalCrossentropy(), t, p)
    assert value(losses.WeightedCrossEntropy([1, 1, 1]), t, p) == pytest.approx(plain, rel=1e-5)
    assert value(losses.WeightedCrossEntropy([2, 2, 2]), t, p) == pytest.approx(2 * plain, rel=1e-5)


def test_generalized_dice_by_hand():
    t = np.array([[[1, 0], [1, 0], [1, 0], [0, 1]]], float)  # volumes 3 and 1, weights 1/9 and 1
    p = np.array([[[1, 0], [1, 0], [0, 1], [0, 1]]], float)
    hit = 2 / 9 + 1
    total = (3 + 2) / 9 + (1 + 2)
    assert value(losses.GeneralizedDice(smooth=0), t, p) == pytest.approx(1 - 2 * hit / total, rel=1e-6)


def test_sum_of_cross_entropy_and_dice(rng):
    t, p = example(rng)
    parts = value(keras.losses.CategoricalCrossentropy(), t, p) + value(losses.Dice(smooth=1), t, p)
    assert value(losses.CrossEntropyDice(), t, p) == pytest.approx(parts, rel=1e-5)
    t, p = one_channel(rng)
    parts = value(keras.losses.BinaryCrossentropy(), t, p) + 0.5 * value(losses.Dice(smooth=1), t, p)
    assert value(losses.CrossEntropyDice(dice_weight=0.5), t, p) == pytest.approx(parts, rel=1e-5)


def test_logits_and_probabilities_agree(rng):
    t, p = one_channel(rng)
    logits = np.log(p / (1 - p))
    a, b = losses.CrossEntropyDice(from_logits=True), losses.CrossEntropyDice()
    assert value(a, t, logits) == pytest.approx(value(b, t, p), rel=1e-4)
    t, p = example(rng)
    assert value(a, t, np.log(p)) == pytest.approx(value(b, t, p), rel=1e-4)


def test_background_can_be_left_out():
    t = np.array([[[1, 0], [1, 0], [0, 1]]], float)
    p = np.array([[[0, 1], [1, 0], [0, 1]]], float)
    assert value(losses.Dice(smooth=0, background=False), t, p) == pytest.approx(1 - 2 / 3)
    assert value(losses.Dice(smooth=0), t, p) == pytest.approx(1 - (2 / 3 + 2 / 3) / 2)


def test_sample_by_sample_or_over_the_batch():
    t = np.array([[[1.0]], [[0.0]]])
    p = np.array([[[1.0]], [[1.0]]])
    assert value(losses.Dice(smooth=1e-6), t, p) == pytest.approx(1 - 2 / 3, abs=1e-5)
    assert value(losses.Dice(smooth=1e-6, over_batch=False), t, p) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["dice", "focal_tversky", "generalized_dice", "cross_entropy_dice", "weighted_cross_entropy"]
)
def test_a_network_learns_with_it(name, rng):
    """Gradients flow: a few steps on one batch make the loss smaller."""
    keras.utils.set_random_seed(3)
    x = rng.normal(size=(4, 6, 6, 1)).astype("f")
    t = np.eye(3)[np.digitize(x[..., 0], (-0.5, 0.5))].astype("f")
    inputs = keras.Input((6, 6, 1))
    hidden = keras.layers.Conv2D(8, 1, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(0.05), losses.get(name, **SETTINGS.get(name, {})))
    history = model.fit(x, t, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_grey_targets_are_bce_without_a_floor(rng):
    """With white = 1 it is Keras's BCE on logits; with 255 a larger logit on the foreground always gains."""
    t, p = one_channel(rng)
    logits = 6 * p - 3
    same = keras.losses.BinaryCrossentropy(from_logits=True)
    assert value(losses.get("grey_bce", white=1), t, logits) == pytest.approx(value(same, t, logits), rel=1e-5)
    grey = losses.get("grey_bce")
    values = [value(grey, np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), x)) for x in (1.0, 10.0, 1000.0)]
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(1000 - 255 * 1000)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(losses.get("grey_bce", white=9)))
    assert again.white == 9


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="no loss is called 'jaccard'; choose one of bce_logits"):
        losses.get("jaccard")


def test_weighted_cross_entropy_of_one_channel_by_hand():
    """Weights of background and foreground: −(2 log .8 + 3 log .5) / 2, and no Dice."""
    loss = losses.get("cross_entropy_dice", class_weights=(2, 3), dice_weight=0)
    y, p = np.array([0.0, 1.0]).reshape(1, 2, 1), np.array([0.2, 0.5]).reshape(1, 2, 1)
    value = float(keras.ops.convert_to_numpy(loss(y, p)))
    assert value == pytest.approx(-(2 * np.log(0.8) + 3 * np.log(0.5)) / 2, rel=1e-5)
    even = float(keras.ops.convert_to_numpy(losses.get("cross_entropy_dice", class_weights=(1, 1))(y, p)))
    assert even == pytest.approx(float(keras.ops.convert_to_numpy(losses.get("cross_entropy_dice")(y, p))), rel=1e-5)
