"""Constant in, the same constant out, corners included; slices, patches, mirrors and ensembles. Runs on each backend."""

import keras
import nibabel as nib
import numpy as np
import pytest
from keras import layers

from segkit import inference, volumes
from tests.conftest import AFFINES


def image(data, affine=None):
    return nib.Nifti1Image(np.asarray(data, np.float32), AFFINES["oblique"] if affine is None else affine)


def network(rank, channels=1, kernel=1, weights=None, classes=1, pools=0):
    """A linear network: a sum over channels and a neighbourhood, or what ``weights`` says."""
    x = inputs = keras.Input((*[None] * rank, channels))
    for _ in range(pools):
        x = (layers.MaxPooling2D if rank == 2 else layers.MaxPooling3D)(2)(x)
    for _ in range(pools):
        x = (layers.UpSampling2D if rank == 2 else layers.UpSampling3D)(2)(x)
    conv = (layers.Conv2D if rank == 2 else layers.Conv3D)(classes, kernel, padding="same", use_bias=False)
    model = keras.Model(inputs, conv(x))
    shape = conv.kernel.shape
    conv.set_weights([np.ones(shape, "f") if weights is None else np.asarray(weights, "f").reshape(shape)])
    return model


@pytest.fixture(scope="module")
def same3d():
    return network(3)


def test_a_constant_comes_out_as_it_went_in_everywhere(same3d):
    """200 random shapes, patch sizes and steps, both windows; the sharpest test there is of blending."""
    rng = np.random.default_rng(7)
    fast = _Compiled(same3d)
    for i in range(200):
        shape = rng.integers(1, 20, 3)
        patch = rng.integers(1, 13, 3)
        step = [int(rng.integers(1, p + 1)) for p in patch]
        value = float(rng.uniform(0.1, 1))
        out = inference.predict(
            fast, image(np.full(shape, value)), output="probabilities", patch=patch, step=step,
            window=("gaussian", "mean")[i % 2], batch_size=4,
        )  # fmt: skip
        got = volumes.array(out)
        assert got.shape == (*shape, 1)
        assert np.abs(got - np.float32(value)).max() <= 1e-6, (shape, patch, step)


class _Compiled:
    """The identity without a graph for every patch size, which 200 sizes would compile 200 times."""

    def __init__(self, model):
        self.inputs, self.layers = model.inputs, model.layers

    def predict_on_batch(self, batch):
        return batch


def test_the_stand_in_is_what_the_network_does(same3d, rng):
    x = rng.normal(size=(2, 5, 6, 7, 1)).astype("f")
    np.testing.assert_allclose(np.asarray(same3d.predict_on_batch(x)), _Compiled(same3d).predict_on_batch(x), atol=1e-6)


def test_patches_of_the_identity_rebuild_the_volume(same3d, rng):
    x = rng.normal(size=(17, 9, 12)).astype("f")
    out = inference.predict(same3d, image(x), output="probabilities", patch=(8, 8, 8), step=5, batch_size=3)
    np.testing.assert_allclose(volumes.array(out)[..., 0], x, atol=1e-5)
    np.testing.assert_array_equal(out.affine, AFFINES["oblique"])


def test_one_patch_is_the_whole_volume_by_default(rng):
    model = network(3, kernel=3)
    x = rng.normal(size=(6, 5, 4)).astype("f")
    out = volumes.array(inference.predict(model, image(x), output="probabilities"))
    np.testing.assert_allclose(out, np.asarray(model.predict_on_batch(x[None, ..., None]))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_slices_see_their_neighbours_in_order(axis, neighbours, rng):
    """Weights 1, 10, 100, … on the channels read the neighbours' values off the result; the ends are repeated."""
    width = 2 * neighbours + 1
    model = network(2, channels=width, weights=10.0 ** np.arange(width))
    x = rng.integers(1, 9, (4, 5, 6)).astype("f")
    out = volumes.array(
        inference.predict(model, image(x), axis=axis, neighbours=neighbours, output="probabilities", batch_size=3)
    )[..., 0]
    turned = np.moveaxis(x, axis, 0)
    padded = np.pad(turned, [(neighbours, neighbours), (0, 0), (0, 0)], mode="edge")
    expected = sum(10.0**k * padded[k : k + len(turned)] for k in range(width))
    np.testing.assert_allclose(np.moveaxis(out, axis, 0), expected, rtol=1e-5)


def test_slices_of_any_size_are_padded_and_cut_again(rng):
    model = network(2, pools=2)
    out = inference.predict(model, image(np.full((7, 5, 3), 0.25)), output="probabilities")
    assert out.shape == (7, 5, 3, 1)
    np.testing.assert_allclose(volumes.array(out), 0.25, atol=1e-6)


def test_channels_of_the_image_are_kept_apart(rng):
    model = network(2, channels=6, weights=[1, 10, 1e2, 1e3, 1e4, 1e5])
    x = rng.integers(1, 9, (4, 4, 3, 2)).astype("f")
    out = volumes.array(inference.predict(model, image(x), neighbours=1, output="probabilities"))[..., 0]
    expected = sum(
        10.0 ** (2 * k + c) * x[:, :, [0, 0, 1, 2, 2], c][:, :, k : k + 3] for k in range(3) for c in range(2)
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5)


@pytest.mark.parametrize("mirror", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_mirroring_makes_the_result_independent_of_the_side(mirror, rng):
    """With an asymmetric kernel, predicting a flipped image and flipping back gives the same only with mirroring."""
    x = rng.normal(size=(8, 8, 8)).astype("f")
    for model, settings in (
        (network(2, channels=3, kernel=3, weights=rng.normal(size=27)), {"axis": 1, "neighbours": 1}),
        (network(3, kernel=3, weights=rng.normal(size=27)), {"patch": (8, 8, 8)}),
    ):
        settings = settings | {"output": "probabilities"}
        flipped = np.flip(x, mirror).copy()
        plain = [volumes.array(inference.predict(model, image(i), **settings)) for i in (x, flipped)]
        assert np.abs(plain[0] - np.flip(plain[1], mirror)).max() > 0.1
        with_it = [volumes.array(inference.predict(model, image(i), mirror=mirror, **settings)) for i in (x, flipped)]
        np.testing.assert_allclose(with_it[0], np.flip(with_it[1], mirror), atol=2e-5)


def test_the_mean_of_several_models(rng):
    x = rng.normal(size=(4, 4, 4)).astype("f")
    pair = [network(2, weights=[2.0]), network(2, weights=[4.0])]
    out = inference.predict(pair, image(x), output="probabilities")
    np.testing.assert_allclose(volumes.array(out)[..., 0], 3 * x, rtol=1e-5)


def test_labels_are_the_likeliest_class_and_one_byte(rng):
    model = network(2, classes=3, weights=[-1.0, 0.0, 1.0])
    x = np.array([-2.0, 3.0, 0.0, 1.0]).reshape(1, 4, 1)
    out = inference.predict(model, image(x))
    assert out.get_data_dtype() == np.uint8
    assert volumes.array(out).ravel().tolist() == [0, 2, 0, 2]


def test_threshold_and_activation():
    x = np.array([-1.0, 0.1, 1.0]).reshape(1, 3, 1)
    model = network(2)
    assert volumes.array(inference.predict(model, image(x), activation="sigmoid")).ravel().tolist() == [0, 1, 1]
    assert volumes.array(inference.predict(model, image(x), activation="sigmoid", threshold=0.6)).ravel().tolist() == [
        0,
        0,
        1,
    ]
    out = inference.predict(model, image(x), activation="sigmoid", output="probabilities")
    np.testing.assert_allclose(volumes.array(out).ravel(), 1 / (1 + np.exp(-x.ravel())), rtol=1e-5)


def test_labels_never_hold_the_volumes_probabilities(same3d):
    """The largest array alive while labels are made stays near one slab, far below classes × volume."""
    import tracemalloc

    shape, classes = (400, 40, 40), 12

    class Many(_Compiled):
        def predict_on_batch(self, batch):
            return np.repeat(batch, classes, axis=-1)

    tracemalloc.start()
    inference.predict(Many(same3d), image(np.zeros(shape)), patch=(8, 40, 40), step=8, batch_size=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * np.prod(shape) * classes * 4


def test_a_window_alone_is_predicted_once():
    class Counting(_Compiled):
        seen = 0

        def predict_on_batch(self, batch):
            Counting.seen += len(batch)
            return batch

    inference.predict(Counting(network(3)), image(np.zeros((6, 6, 6))), batch_size=8)
    assert Counting.seen == 1


def test_sides_follow_nested_pooling_or_what_is_asked():
    inner = network(2, pools=2)
    outer = keras.Model(inner.inputs, inner(inner.inputs[0]))
    for settings in ({}, {"multiple": 8}):
        out = inference.predict(outer, image(np.full((9, 9, 2), 0.5)), output="probabilities", **settings)
        np.testing.assert_allclose(volumes.array(out), 0.5, atol=1e-6)


def test_requests_that_no_model_can_meet():
    with pytest.raises(ValueError, match="at least one member"):
        inference.predict([], image(np.zeros((4, 4, 4))))
    with pytest.raises(ValueError, match="patch is for 3D models"):
        inference.predict(network(2), image(np.zeros((4, 4, 4))), patch=(4, 4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "mask"}, '"labels" or "probabilities"'),
        ({"axis": 3}, "axes are 0, 1 or 2"),
        ({"mirror": (5,)}, "axes are 0, 1 or 2"),
        ({"window": "hann", "patch": (4, 4, 4)}, '"gaussian" or "mean"'),
        ({"patch": (4, 4)}, "three lengths"),
        ({"patch": (4, 4, 4), "step": 5}, "leave gaps"),
        ({"activation": "sofmax"}, '"sigmoid", "softmax" or None, not \'sofmax\''),
    ],
)
def test_bad_requests_say_why(settings, message, same3d):
    with pytest.raises(ValueError, match=message):
        inference.predict(same3d, image(np.zeros((6, 6, 6))), **settings)


def test_context_is_what_lies_around_at_half_resolution(rng):
    """A network that returns the context channel alone: a ramp's context at a patch's centre is the ramp itself."""
    model = network(3, channels=2, weights=[0.0, 1.0])
    ramp = np.indices((24, 24, 16)).sum(0).astype("f")
    out = volumes.array(
        inference.predict(model, image(ramp), output="probabilities", patch=(8, 8, 8), step=8, context=True)
    )[..., 0]
    # at (4, 4, 4) of the first patch lies voxel 2 + … of the halved volume: the mean of voxels 4 and 5 along each axis
    assert out[4, 4, 4] == pytest.approx(3 * 4.5)
    assert out[12, 12, 4] == pytest.approx(12.5 + 12.5 + 4.5)
    # two voxels on within the patch is four on in the volume
    assert out[6, 4, 4] == pytest.approx(8.5 + 4.5 + 4.5)


def test_columns_give_the_same_with_less_memory_and_few_windows_more(rng, monkeypatch):
    """60 random volumes: cut into columns or not, the same labels and probabilities; at most 15 % more windows."""

    class Counting(_Compiled):
        seen = 0

        def predict_on_batch(self, batch):
            self.seen += len(batch)
            return np.concatenate([batch, 1 - batch], axis=-1)

    net = network(3)
    cut = 0
    for _ in range(60):
        shape, patch = rng.integers(1, 60, 3), rng.integers(1, 9, 3)
        x = image(rng.random(shape))
        settings = {"patch": patch, "step": [int(rng.integers((p + 1) // 2, p + 1)) for p in patch], "batch_size": 1}
        settings |= {"output": ("labels", "probabilities")[int(rng.integers(2))]}
        results, counts = [], []
        for budget in (2**40, 1):
            monkeypatch.setattr(inference, "_BUDGET", budget)
            model = Counting(net)
            results.append(volumes.array(inference.predict(model, x, **settings)))
            counts.append(model.seen)
        np.testing.assert_allclose(results[0], results[1], atol=2e-6)
        assert counts[0] <= counts[1] <= 1.15 * counts[0] + 1e-6
        cut += counts[1] > counts[0]
    assert cut > 6
