"""One U-Net builder for two and three dimensions."""

from collections.abc import Sequence

import keras
from keras import layers

from segkit.models import blocks


def unet(
    input_shape: Sequence[int | None] = (None, None, 1),
    classes: int = 4,
    *,
    filters: Sequence[int] = (32, 64, 128, 256),
    convs: int = 1,
    bias: bool = True,
    normalization: str | None = None,
    normalize_decoder: bool = True,
    upsampling: str = "nearest",
    dropout: float | Sequence[float] = 0.0,
    dropout_between: bool = False,
    monte_carlo: bool = False,
    activation: str = "relu",
    head: str | None = "softmax",
    stem: int = 1,
    residual: bool = False,
    log_prior: bool = False,
    name: str = "unet",
) -> keras.Model:
    """U-Net with one entry of ``filters`` a level.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, c)`` or ``(x, y, z, c)``; None for any size that is a multiple of 2 to the power of levels − 1.
    classes : int
        Channels of the output.
    filters : sequence of int
        Channels a level, the last is the bottom.
    convs : int
        3 × 3 (× 3) convolutions a level.
    bias, normalization
        Biases of these convolutions; normalisation after each: "batch", "instance" (for batches of one or two) or None.
    normalize_decoder : bool
        False: normalise on the way down and at the bottom alone, as the IBSR report says of its net.
    upsampling : {"nearest", "transpose", "linear"}
    dropout : float or sequence
        Rate after each level, or one a level (2 · levels − 1 of them, downwards, then upwards).
    dropout_between : bool
        Put it between the two convolutions of a level instead of after the last.
    monte_carlo : bool
        Keep dropout on at inference.
    head : {"softmax", "sigmoid", None}
        None gives logits. The output is float32 also under mixed precision.
    stem : int
        Factor by which a first convolution with stride coarsens the image, and a last transposed one refines it again: the
        costly full resolution is left to these two.
    residual : bool
        Each level adds a 1 × 1 convolution of what it was given (with the same normalisation) before its last activation.
    log_prior : bool
        The input's last ``classes`` − 1 channels are shares (0 … 1) of an atlas for the classes after background: the logarithm of
        them, and of what they leave for background, is added to the logits, none below log .01. So an untrained network is close
        to the atlas, and learns what the image tells beyond it.

    Returns
    -------
    keras.Model

    References
    ----------
    Ronneberger et al., U-Net, MICCAI 2015; Çiçek et al., 3D U-Net, MICCAI 2016; Zhang et al., residual U-Net, GRSL 2018.
    """
    if len(input_shape) not in (3, 4):
        raise ValueError(f"input_shape must be (x, y, c) or (x, y, z, c), not {tuple(input_shape)}")
    depth = len(filters)
    rates = list(dropout) if isinstance(dropout, Sequence) else [dropout] * (2 * depth - 1)
    if len(rates) != 2 * depth - 1:
        raise ValueError(f"{depth} levels take {2 * depth - 1} dropout rates, not {len(rates)}")
    for n in input_shape[:-1]:
        if n is not None and n % (stem * 2 ** (depth - 1)):
            raise ValueError(
                f"input of {n} voxels cannot be halved {depth - 1} times; use a multiple of {stem * 2 ** (depth - 1)}"
            )

    def level(x, width, rate, tag, how=normalization):
        given, same = x, {"bias": bias, "normalization": how}
        for i in range(convs):
            last = residual and i == convs - 1
            x = blocks.conv(x, width, activation=None if last else activation, name=f"{tag}_conv{i + 1}", **same)
            if dropout_between and i == 0:
                x = blocks.dropout(x, rate, monte_carlo=monte_carlo, name=f"{tag}_dropout")
        if residual:
            shortcut = blocks.conv(given, width, 1, activation=None, name=f"{tag}_shortcut", **same)
            x = layers.Activation(activation, name=f"{tag}_{activation}")(layers.Add(name=f"{tag}_add")([x, shortcut]))
        return x

    def after(x, rate, tag):
        return x if dropout_between else blocks.dropout(x, rate, monte_carlo=monte_carlo, name=f"{tag}_dropout")

    x = inputs = keras.Input(tuple(input_shape), name="image")
    if stem > 1:
        x = blocks.conv(
            x,
            filters[0],
            2 * stem,
            strides=stem,
            activation=activation,
            bias=bias,
            normalization=normalization,
            name="stem",
        )
    skips = []
    for i, width in enumerate(filters[:-1]):
        x = level(x, width, rates[i], f"down{i + 1}")
        skips.append(x)  # before dropout, as in the IBSR report's code
        x = blocks.pool(after(x, rates[i], f"down{i + 1}"), name=f"down{i + 1}_pool")
    x = after(level(x, filters[-1], rates[depth - 1], "bottom"), rates[depth - 1], "bottom")
    for i in reversed(range(depth - 1)):
        rate = rates[2 * depth - 2 - i]
        x = blocks.upsample(x, filters[i], upsampling, name=f"up{i + 1}_upsample")
        x = layers.Concatenate(name=f"up{i + 1}_concat")([skips[i], x])
        how = normalization if normalize_decoder else None
        x = after(level(x, filters[i], rate, f"up{i + 1}", how), rate, f"up{i + 1}")
    if stem > 1:
        x = blocks.upsample(x, classes, "transpose", kernel=2 * stem, strides=stem, name="head")
    else:
        x = blocks.conv(x, classes, 1, activation=None, name="head")
    if log_prior:
        shares = inputs[..., 1 - classes :]
        background = 1 - keras.ops.sum(shares, axis=-1, keepdims=True)
        shares = keras.ops.concatenate([background, shares], axis=-1)
        x = layers.Add(name="with_prior")([x, keras.ops.log(keras.ops.clip(shares, 0.01, 1))])
    outputs = layers.Activation(head or "linear", dtype="float32", name="output")(x)
    return keras.Model(inputs, outputs, name=name)
