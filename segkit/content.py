"""The Siamese content loss: masked images compared by the features of a frozen VGG19.

The features' weights are constants of the computation, not variables of any model: no gradient reaches them and nothing saves them. A
saved loss holds its settings only; the weights are read when it is first computed.

References
----------
WMH report (Mac, Moody and Khademi, MIDL 2020), equation (1); Gatys et al., arXiv:1508.06576; Simonyan and Zisserman, ICLR 2015.
"""

import functools
import os
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from segkit.models import weights as stored

MEANS = (103.939, 116.779, 123.68)  # of ImageNet, blue, green, red: Keras's "caffe" preprocessing
BLOCKS = (
    ("block1_conv1", "block1_conv2"),
    ("block2_conv1", "block2_conv2"),
    tuple(f"block3_conv{k}" for k in (1, 2, 3, 4)),
)
WIDTHS = (64, 128, 256)


@functools.cache
def vgg19(
    source: str = "imagenet", *, pools: int = 2, seed: int = 0
) -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], ...]:
    """Kernels and biases of VGG19's first ``pools`` blocks (1 to 3), for grey images.

    Parameters
    ----------
    source : "imagenet", "random" or path
        Keras's download, seeded random weights (He), or a local ``.h5`` or ``.npz`` (``layer/kernel``, ``layer/bias``).

    Returns
    -------
    tuple a block of (kernel, bias) a layer

    Raises
    ------
    OSError
        When the download cannot be reached, or there is no such file.
    ValueError
        For weights of another network (names the layer and shapes).
    """
    if pools not in (1, 2, 3):
        raise ValueError(f"features come from one to three pooling layers, not {pools}")
    found = _random(seed) if source == "random" else stored.read(source, "VGG19")[0]
    out, channels = [], 3
    for names, width in zip(BLOCKS[:pools], WIDTHS, strict=False):
        block = []
        for name in names:
            pair = []
            for key, shape in (("kernel", (3, 3, channels, width)), ("bias", (width,))):
                value = found.get(name, {}).get(key)
                if value is None or tuple(value.shape) != shape:
                    said = "missing" if value is None else tuple(value.shape)
                    raise ValueError(f"{source}: {name}/{key} is {said}, VGG19 has {shape}; give weights of VGG19")
                pair.append(np.asarray(value, np.float32))
            block.append(tuple(pair))
            channels = width
        out.append(tuple(block))
    return tuple(out)


def source_of(features: str) -> str:
    """What stands in tables for ``features`` of :class:`Content`."""
    return {"imagenet": "ImageNet (Keras)", "random": "random"}.get(features, os.path.basename(features))


def pyramid(images, blocks) -> list:
    """Feature maps of (n, x, y, 3) at each block's pooling layer; ``blocks`` of :func:`vgg19`, arrays or tensors."""
    x, out = images, []
    for block in blocks:
        for kernel, bias in block:
            x = ops.conv(x, ops.convert_to_tensor(kernel), padding="same", data_format="channels_last")
            x = ops.relu(x + ops.convert_to_tensor(bias))
        x = ops.max_pool(x, 2, strides=2, padding="valid", data_format="channels_last")
        out.append(x)
    return out


def prepared(images, *, low: float, high: float):
    """Grey (n, x, y, 1) from ``low`` … ``high`` to what VGG19 was trained on: 0 … 255 in three channels, minus ImageNet's means."""
    grey = (images - low) / (high - low) * 255.0
    return ops.concatenate([grey - mean for mean in MEANS], axis=-1)


@keras.saving.register_keras_serializable("segkit")
class Content(keras.losses.Loss):
    """Mean squared difference of VGG19's features of the image masked by truth and by prediction.

    The target holds two channels: the mask (soft or not) and the grey image (:class:`segkit.data.Slices` with ``image_in_target``).
    The mask multiplies what the features see after their preprocessing, so masked background is exactly 0.

    Parameters
    ----------
    features : "imagenet", "random" or path
        See :func:`vgg19`.
    pools : int
        Pooling layers that are compared, 1 to 3; the report took two.
    reduction_of_features : {"concatenated", "per_layer"}
        Mean over one long vector of all features (equation (1)), or the sum of each layer's mean.
    low, high : float
        Image values that become black and white.
    dice_weight : float
        Adds so much of V-Net's Dice loss between the masks: the hybrid that the report did not try.
    relative : bool
        Divide by what an empty prediction would cost (each layer by its own where they are summed), so that content is about 1 at
        most, on one scale with Dice; without it it is some 10⁴ times larger.
    seed : int
        Of random features.
    """

    def __init__(
        self, features: str = "imagenet", pools: int = 2, reduction_of_features: str = "concatenated", low: float = 0.0, high: float = 1.0,
        dice_weight: float = 0.0, relative: bool = False, seed: int = 0, name: str = "content", **kwargs,
    ):  # fmt: skip
        super().__init__(name=name, **kwargs)
        if reduction_of_features not in ("concatenated", "per_layer"):
            raise ValueError(f'features are reduced "concatenated" or "per_layer", not {reduction_of_features!r}')
        if not high > low:
            raise ValueError(f"white ({high}) must lie above black ({low})")
        self.settings = {
            "features": str(features), "pools": int(pools), "reduction_of_features": reduction_of_features, "low": float(low),
            "high": float(high), "dice_weight": float(dice_weight), "relative": bool(relative), "seed": int(seed),
        }  # fmt: skip

    def call(self, y_true, y_pred):
        """One number a batch."""
        s = self.settings
        return content_distance(y_true, y_pred, vgg19(s["features"], pools=s["pools"], seed=s["seed"]), s) + _dice(
            y_true, y_pred, s["dice_weight"]
        )

    def get_config(self):
        return super().get_config() | self.settings


def content_distance(y_true, y_pred, blocks, settings):
    """Equation (1) for feature weights ``blocks``; ``settings`` are those of :class:`Content`."""
    if y_true.shape[-1] != 2:
        raise ValueError(
            f"the target needs two channels, mask and image, not {y_true.shape[-1]}; use Slices(image_in_target=True)"
        )
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    seen = prepared(y_true[..., 1:], low=settings["low"], high=settings["high"])
    a, b = (pyramid(seen * mask, blocks) for mask in (y_true[..., :1], y_pred))
    layers = settings["reduction_of_features"] == "per_layer"
    if settings.get("relative"):
        nothing = pyramid(ops.zeros_like(seen[:1]), blocks)  # the same for every slice of the batch
        groups = [([x], [y], [z]) for x, y, z in zip(a, b, nothing, strict=True)] if layers else [(a, b, nothing)]
        # 1 is little beside squared features of 0 … 255, and is not where the truth is empty
        return sum(_apart(x, y) / (_apart(x, z) + 1.0) for x, y, z in groups)
    if layers:
        return sum(ops.mean(ops.square(x - y)) for x, y in zip(a, b, strict=True))
    return _apart(a, b) / sum(ops.cast(ops.size(x), "float32") for x in a)


def _apart(a, b):
    """Squared difference of two stacks of features, summed."""
    return sum(ops.sum(ops.square(x - y)) for x, y in zip(a, b, strict=True))


def _dice(y_true, y_pred, weight: float):
    """Dice loss over the batch with squares and 1 added above and below (:class:`segkit.losses.Dice`, ``squared``)."""
    if not weight:
        return 0.0
    t, p = ops.cast(y_true[..., :1], "float32"), ops.cast(y_pred, "float32")
    return weight * (1 - (2 * ops.sum(t * p) + 1) / (ops.sum(t * t) + ops.sum(p * p) + 1))


@keras.saving.register_keras_serializable("segkit")
class TrainedFeatures(keras.layers.Layer):
    """Passes its input on and owns VGG19's weights, which training changes so as to *raise* the loss (min–max, Table 2 of the report).

    The gradient is turned around: a weight is w₀ + s · (2 · v̄ − v), where v̄ is v without gradient; its value is w₀ + s · v. So
    one optimiser lowers the loss by the generator and raises it by the features, these at ``rate`` (s) times its learning rate.

    Parameters
    ----------
    features, pools, seed : see :func:`vgg19`
    rate : float
        Learning rate of the features over that of the generator; the report: 10⁻⁵ over 10⁻³.
    """

    def __init__(self, features: str = "imagenet", pools: int = 2, seed: int = 0, rate: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        self.chosen = {"features": str(features), "pools": int(pools), "seed": int(seed), "rate": float(rate)}

    def build(self, input_shape):
        """One variable a kernel and bias, at 0; a saved model is loaded without VGG19's file."""
        shapes = [
            value.shape for block in vgg19("random", pools=self.chosen["pools"]) for pair in block for value in pair
        ]
        self.moved = [
            self.add_weight(shape=shape, initializer="zeros", name=f"features_{i}") for i, shape in enumerate(shapes)
        ]

    def call(self, inputs):
        """The input."""
        return inputs

    def blocks(self) -> list:
        """Kernels and biases as they are now, gradient turned around."""
        values, rate = iter(self.moved), self.chosen["rate"]
        first = vgg19(self.chosen["features"], pools=self.chosen["pools"], seed=self.chosen["seed"])

        def now(start):
            v = ops.convert_to_tensor(next(values))
            return ops.convert_to_tensor(start) + rate * (2 * ops.stop_gradient(v) - v)

        return [[tuple(now(value) for value in pair) for pair in block] for block in first]

    def get_config(self):
        return super().get_config() | self.chosen


class TrainedContent(keras.losses.Loss):
    """:class:`Content` on the features of a :class:`TrainedFeatures` layer of the model that is trained."""

    def __init__(self, layer: TrainedFeatures, name: str = "trained_content", **settings):
        super().__init__(name=name)
        self.layer = layer
        self.settings = Content(**(settings | {k: layer.chosen[k] for k in ("features", "pools", "seed")})).settings

    def call(self, y_true, y_pred):
        """One number a batch."""
        return content_distance(y_true, y_pred, self.layer.blocks(), self.settings) + _dice(
            y_true, y_pred, self.settings["dice_weight"]
        )

    def get_config(self):
        return super().get_config() | self.settings | {"rate": self.layer.chosen["rate"]}


def with_trained_features(generator: keras.Model, **settings) -> tuple[keras.Model, TrainedContent]:
    """``generator`` with features that learn against it, and the loss to train both with.

    ``settings`` are those of :class:`TrainedFeatures` and of :class:`Content`.
    """
    own = {k: settings.pop(k) for k in ("features", "pools", "seed", "rate") if k in settings}
    layer = TrainedFeatures(**own, name="features")
    model = keras.Model(generator.inputs, layer(generator.outputs[0]), name=f"{generator.name}_trained_features")
    return model, TrainedContent(layer, **settings)


def _random(seed: int) -> dict[str, dict[str, np.ndarray]]:
    """He-normal kernels and zero biases, keyed as ImageNet's."""
    rng, out, channels = np.random.default_rng(seed), {}, 3
    for names, width in zip(BLOCKS, WIDTHS, strict=True):
        for name in names:
            kernel = rng.normal(0, np.sqrt(2 / (9 * channels)), (3, 3, channels, width))
            out[name] = {"kernel": kernel.astype(np.float32), "bias": np.zeros(width, np.float32)}
            channels = width
    return out


def parameters(blocks: Sequence) -> int:
    """Numbers in the feature network: 260,160 for two pooling layers."""
    return sum(value.size for block in blocks for pair in block for value in pair)
