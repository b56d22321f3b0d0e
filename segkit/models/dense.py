"""The WMH report's generator: a U-Net of dense blocks."""

from collections.abc import Sequence

import keras
from keras import layers

from segkit.models import blocks


def dense_generator(
    input_shape: Sequence[int | None] = (None, None, 3),
    classes: int = 1,
    *,
    filters: Sequence[int] = (32, 64, 128, 256, 512),
    slope: float = 0.1,
    dropout: float = 0.0,
    head: str | None = "sigmoid",
    name: str = "dense_generator",
) -> keras.Model:
    """Encoder and decoder of dense blocks: two 3 × 3 convolutions that see all before them, then a 1 × 1 that joins the three.

    Every convolution has a bias, batch normalisation and a leaky ReLU; 2 × 2 maximum pooling down, transposed convolutions up.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, c)``; None for any size that is a multiple of 2 to the power of levels − 1.
    filters : sequence of int
        Channels a level, the last is the bottom.
    slope : float
        Of the leaky ReLU.
    head : {"softmax", "sigmoid", None}

    References
    ----------
    WMH report, section 2.1 (Mac et al., MIDL 2020); Huang et al., DenseNet, CVPR 2017. The depth of its blocks is not
    printed; two convolutions and a transition are what its number of parameters allows.
    """

    def unit(x, width, kernel, tag):
        x = blocks.conv(x, width, kernel, activation=None, normalization="batch", name=tag)
        return layers.LeakyReLU(negative_slope=slope, name=f"{tag}_leaky")(x)

    def dense(x, width, tag):
        first = unit(x, width, 3, f"{tag}_conv1")
        second = unit(layers.Concatenate(name=f"{tag}_concat1")([x, first]), width, 3, f"{tag}_conv2")
        return unit(layers.Concatenate(name=f"{tag}_concat2")([x, first, second]), width, 1, f"{tag}_join")

    x = inputs = keras.Input(tuple(input_shape), name="image")
    skips = []
    for i, width in enumerate(filters[:-1]):
        x = dense(x, width, f"down{i + 1}")
        skips.append(x)
        x = blocks.pool(x, name=f"down{i + 1}_pool")
    x = blocks.dropout(dense(x, filters[-1], "bottom"), dropout, name="bottom_dropout")
    for i in reversed(range(len(filters) - 1)):
        x = blocks.upsample(x, filters[i], "transpose", name=f"up{i + 1}_upsample")
        x = dense(layers.Concatenate(name=f"up{i + 1}_skip")([skips[i], x]), filters[i], f"up{i + 1}")
    x = blocks.conv(x, classes, 1, activation=None, name="head")
    return keras.Model(inputs, layers.Activation(head or "linear", dtype="float32", name="output")(x), name=name)
