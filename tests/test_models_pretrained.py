"""Encoders that may start from ImageNet, and BU-Net's blocks; on TensorFlow."""

import keras
import numpy as np
import pytest

from segkit import models


def layer_weights(model, name):
    return {w.path.rsplit("/", 1)[-1]: np.asarray(w) for w in model.get_layer(name).weights}


def test_bunet_blocks_take_any_kernels_and_count_by_hand():
    model = models.build("lgg_bunet", filters=(2, 4), skip_kernels=(3,), context_kernel=5, dropout=0)

    def conv(kernel, a, b):  # with bias and the four vectors of batch normalisation
        return kernel * a * b + b + 4 * b

    context = 2 * 2 * conv(5, 4, 4)
    skip = 2 * conv(3, 2, 2) + 2 * conv(9, 2, 2) + conv(1, 2, 2)
    down, bottom, up = conv(9, 3, 2) + conv(9, 2, 2), conv(9, 2, 4) + conv(9, 4, 4), conv(9, 4, 2) + conv(9, 2, 2)
    assert model.count_params() == down + bottom + context + (4 * 4 * 2 + 2) + skip + up + (2 + 1)


def test_resnet_encoder_is_keras_own():
    """Weights of Keras's ResNet50 by layer name, the same picture: the same features at the end of conv4."""
    keras.utils.set_random_seed(0)
    own = keras.applications.ResNet50(weights=None, include_top=False)
    mine = models.build("lgg_resnet50_unet")
    for layer in mine.layers:
        if layer.name.startswith("conv") and layer.weights:
            layer.set_weights(own.get_layer(layer.name).get_weights())
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("f")
    ends = [keras.Model(m.inputs, m.get_layer("conv4_block6_out").output).predict_on_batch(x) for m in (own, mine)]
    assert ends[0].shape == (1, 2, 2, 1024)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-4 * np.abs(ends[0]).max())


def npz_of(model, path, stages=("conv1", "conv2"), drop=("bias",)):
    parts = {
        f"{layer.name}/{k}": v
        for layer in model.layers
        if layer.name.split("_")[0] in stages and layer.weights
        for k, v in layer_weights(model, layer.name).items()
        if k not in drop
    }
    np.savez(path, **parts)
    return path


def test_weights_from_a_file_reach_their_layers_and_no_other(tmp_path):
    from segkit.models import pretrained

    keras.utils.set_random_seed(3)
    source = models.build("lgg_resnet50_unet")
    path = npz_of(source, tmp_path / "part.npz")
    keras.utils.set_random_seed(4)
    model = models.build("lgg_resnet50_unet", weights=path, version="v1.5")
    np.testing.assert_array_equal(
        layer_weights(model, "conv2_block3_1_conv")["kernel"], layer_weights(source, "conv2_block3_1_conv")["kernel"]
    )
    assert not layer_weights(model, "conv2_block1_1_conv")["bias"].any()  # the file has none
    assert not np.array_equal(
        layer_weights(model, "conv3_block1_1_conv")["kernel"], layer_weights(source, "conv3_block1_1_conv")["kernel"]
    )
    assert pretrained.load_encoder(model, path) == "part.npz: conv1, conv2"


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pretrained_encoders_take_one_to_four_channels(tmp_path, channels):
    """A grey picture in every channel gives the same first features as in three colours."""
    keras.utils.set_random_seed(3)
    path = npz_of(models.build("lgg_resnet50_unet"), tmp_path / "part.npz")
    grey = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype("f")
    firsts = []
    for n in (3, channels):
        model = models.build("lgg_resnet50_unet", weights=path, input_shape=(None, None, n), version="v1.5")
        first = keras.Model(model.inputs, model.get_layer("conv1_relu").output)
        firsts.append(np.asarray(first.predict_on_batch(np.repeat(grey, n, axis=-1))))
    np.testing.assert_allclose(firsts[1], firsts[0], atol=1e-4)


def test_weights_for_blue_first_grey_levels_are_turned(tmp_path):
    """Keras's own weights expect BGR of 0 … 255 minus the means; ours are fed RGB of mean 0 and deviation 1."""
    from segkit.models import pretrained

    keras.utils.set_random_seed(3)
    source = models.build("lgg_resnet50_unet")
    model = models.build("lgg_resnet50_unet")
    pretrained.load_encoder(model, npz_of(source, tmp_path / "part.npz"), caffe=True)
    rgb = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("f")
    bgr = rgb[..., ::-1] * pretrained.CAFFE_SCALE
    first = [keras.Model(m.inputs, m.get_layer("conv1_relu").output) for m in (model, source)]
    np.testing.assert_allclose(
        np.asarray(first[0].predict_on_batch(rgb)), np.asarray(first[1].predict_on_batch(bgr)), atol=1e-3
    )


def test_a_file_of_npz_brings_the_version_that_it_was_trained_with(tmp_path):
    keras.utils.set_random_seed(3)
    path = npz_of(models.build("lgg_resnet50_unet"), tmp_path / "part.npz")
    stride = {
        weights: [
            models.build("lgg_resnet50_unet", weights=weights).get_layer(f"conv3_block1_{k}_conv").strides[0]
            for k in (1, 2)
        ]
        for weights in (None, path)
    }
    assert stride == {None: [2, 1], path: [1, 2]}


def test_keras_h5_is_read_by_layer(tmp_path):
    from segkit.models import pretrained

    keras.utils.set_random_seed(5)
    own = keras.applications.ResNet50(weights=None, include_top=False)
    own.save(tmp_path / "resnet50.h5")
    model = models.build("lgg_resnet50_unet")
    assert (
        pretrained.load_encoder(model, tmp_path / "resnet50.h5", caffe=False)
        == "resnet50.h5: conv1, conv2, conv3, conv4"
    )
    kernel = np.asarray(own.get_layer("conv4_block6_2_conv").kernel)
    np.testing.assert_array_equal(layer_weights(model, "conv4_block6_2_conv")["kernel"], kernel)


def test_weights_that_do_not_fit_say_why(tmp_path, monkeypatch):
    from segkit.models import pretrained

    np.savez(tmp_path / "other.npz", **{"dense/kernel": np.ones((2, 2))})
    np.savez(tmp_path / "wrong.npz", **{"conv1_conv/kernel": np.ones((3, 3, 3, 64), "f")})
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    cases = [
        ({"weights": tmp_path / "none.npz"}, FileNotFoundError, "none.npz: no such file of weights"),
        ({"weights": tmp_path / "other.npz"}, ValueError, "holds no layer of lgg_resnet50_unet"),
        (
            {"weights": tmp_path / "wrong.npz"},
            ValueError,
            r"conv1_conv/kernel is \(3, 3, 3, 64\), the network has \(7, 7, 3, 64\)",
        ),
        ({"weights": tmp_path / "bad.h5"}, ValueError, "bad.h5: cannot be read as HDF5"),
        ({"weights": tmp_path / "x", "encoder_width": 0.5}, ValueError, "full width only"),
        ({"weights": "imagenet", "version": "v1.5"}, ValueError, "weights are of version v1"),
        ({"version": "v2"}, ValueError, 'version must be "v1" or "v1.5"'),
        ({"input_shape": (32, 3)}, ValueError, "input_shape must be"),
    ]
    for settings, kind, message in cases:
        with pytest.raises(kind, match=message):
            models.build("lgg_resnet50_unet", **settings)

    def refused(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "ResNet50", refused)
    with pytest.raises(OSError, match=r"could not be downloaded .*give weights= a local .h5 or .npz"):
        pretrained.load_encoder(models.build("lgg_resnet50_unet", encoder_width=1 / 16), "imagenet")


def test_backbones_of_segmentation_models():
    model = models.build("lgg_backbone_unet", backbone="mobilenetv2", input_shape=(None, None, 2))
    y = np.asarray(model.predict_on_batch(np.zeros((1, 32, 32, 2), "f")))
    assert y.shape == (1, 32, 32, 1)
    assert 0 <= y.min() <= y.max() <= 1
    source = models.build("lgg_backbone_unet", backbone="resnet34", input_shape=(None, None, 3))
    from segkit.models.pretrained import _spread_colours

    model = models.build(
        "lgg_backbone_unet", backbone="resnet34", input_shape=(None, None, 2)
    )  # begins with a normalisation
    for value, variable in zip(source.get_weights(), model.weights, strict=True):
        assert _spread_colours(value, tuple(variable.shape)).shape == tuple(variable.shape)
    with pytest.raises(ValueError, match="no backbone is called 'resnet51'; choose one of"):
        models.build("lgg_backbone_unet", backbone="resnet51")
