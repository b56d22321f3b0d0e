"""The double-branch residual U-Net: a patch, and what lies around it at half resolution."""

from collections.abc import Sequence

import keras
from keras import layers

from segkit.models import blocks


def double_branch(
    input_shape: Sequence[int | None] = (None, None, None, 2),
    classes: int = 1,
    *,
    filters: Sequence[int] = (16, 32, 64, 128, 256),
    head: str | None = "sigmoid",
    dropout: float = 0.0,
    name: str = "double_branch",
) -> keras.Model:
    """Two residual encoders, joined at the bottom and decoded together.

    The local branch sees the patch and gives the skips; the context branch sees a patch of as many voxels of the volume at half
    resolution around the same centre. Each is the report's ResUNet encoder at half width.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, z, 2 c)``: the patch's channels, then those of its surroundings (:func:`segkit.patches.with_context`).
    filters : sequence of int
        Channels a level of each branch; the joined bottom has twice the last.
    head : {"softmax", "sigmoid", None}

    References
    ----------
    Chai et al., arXiv:2008.00901 (2020), which the QSM report names as its model. No code of it is public and its layers are not all
    given; this is our reading of its figure, on one contrast instead of two.
    """
    if input_shape[-1] is None or input_shape[-1] % 2:
        raise ValueError(
            f"the last axis holds a patch and its surroundings, an even number of channels, not {input_shape[-1]}"
        )

    def block(x, width, tag):
        shortcut = blocks.conv(x, width, 1, activation=None, normalization="batch", name=f"{tag}_shortcut")
        x = blocks.conv(x, width, normalization="batch", name=f"{tag}_conv1")
        x = blocks.conv(x, width, activation=None, normalization="batch", name=f"{tag}_conv2")
        return layers.Activation("relu", name=f"{tag}_relu")(layers.Add(name=f"{tag}_add")([x, shortcut]))

    def encode(x, tag):
        skips = []
        for i, width in enumerate(filters[:-1]):
            x = block(x, width, f"{tag}{i + 1}")
            skips.append(x)
            x = blocks.pool(x, name=f"{tag}{i + 1}_pool")
        return block(x, filters[-1], f"{tag}{len(filters)}"), skips

    inputs = keras.Input(tuple(input_shape), name="image")
    half = input_shape[-1] // 2
    local, skips = encode(inputs[..., :half], "local")
    around, _ = encode(inputs[..., half:], "context")
    x = blocks.dropout(layers.Concatenate(name="bottom_concat")([local, around]), dropout, name="bottom_dropout")
    for i in reversed(range(len(filters) - 1)):
        x = blocks.upsample(x, filters[i], "transpose", name=f"up{i + 1}_upsample")
        x = block(layers.Concatenate(name=f"up{i + 1}_concat")([skips[i], x]), filters[i], f"up{i + 1}")
    x = blocks.conv(x, classes, 1, activation=None, name="head")
    return keras.Model(inputs, layers.Activation(head or "linear", dtype="float32", name="output")(x), name=name)
