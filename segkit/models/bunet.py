"""BU-Net: a U-Net with residual extended skips and a wide-context bottom."""

from collections.abc import Sequence

import keras
from keras import layers

from segkit.models import blocks


def bunet(
    input_shape: Sequence[int | None] = (None, None, 3),
    classes: int = 1,
    *,
    filters: Sequence[int] = (16, 32, 64, 128, 256),
    skip_kernels: Sequence[int] = (9, 11, 13, 15),
    context_kernel: int = 15,
    dropout: float = 0.3,
    head: str | None = "sigmoid",
    name: str = "bunet",
) -> keras.Model:
    """BU-Net as the LGG report describes it, at base 16; not the 81-million network of its authors' code.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, c)``; None for any size that is a multiple of 2 to the power of levels − 1.
    filters : sequence of int
        Channels a level, the last is the bottom.
    skip_kernels : sequence of odd ints
        Lengths of the skip blocks' separated convolutions (N × 1, then 1 × N).
    context_kernel : odd int
        The same of the wide-context block at the bottom.
    dropout : float
        Rate after each level on the way down.
    head : {"sigmoid", "softmax", None}

    Returns
    -------
    keras.Model

    References
    ----------
    Rehman et al., BU-Net, Electronics 9 (2020). LGG report, sections on RES and WC blocks (STUDIES 3c).
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (x, y, c), not {tuple(input_shape)}")
    x = inputs = keras.Input(tuple(input_shape), name="image")
    skips = []
    for i, width in enumerate(filters[:-1], 1):
        x = _double(x, width, f"down{i}")
        skips.append(x)
        x = blocks.dropout(blocks.pool(x, name=f"down{i}_pool"), dropout, name=f"down{i}_dropout")
    x = wide_context(_double(x, filters[-1], "bottom"), context_kernel, name="bottom_context")
    for i in reversed(range(1, len(filters))):
        x = blocks.upsample(x, filters[i - 1], "transpose", name=f"up{i}_upsample")
        skip = extended_skip(skips[i - 1], skip_kernels, name=f"up{i}_skip")
        x = layers.Concatenate(name=f"up{i}_concat")([x, skip])
        x = _double(x, filters[i - 1], f"up{i}")
    x = blocks.conv(x, classes, 1, activation=None, name="head")
    outputs = layers.Activation(head or "linear", dtype="float32", name="output")(x)
    return keras.Model(inputs, outputs, name=name)


def extended_skip(x, kernels: Sequence[int], *, name: str):
    """RES block: the input plus a pair of separated convolutions a length, then 3 × 3, 3 × 3 and 1 × 1."""
    width = x.shape[-1]
    parts = [x] + [_separated(x, width, n, True, f"{name}_{n}") for n in kernels]
    x = layers.Add(name=f"{name}_sum")(parts)
    for i, kernel in enumerate((3, 3, 1), 1):
        x = blocks.conv(x, width, kernel, normalization="batch", name=f"{name}_conv{i}")
    return x


def wide_context(x, kernel: int, *, name: str):
    """WC block: N × 1 then 1 × N, plus 1 × N then N × 1."""
    width = x.shape[-1]
    return layers.Add(name=f"{name}_sum")([
        _separated(x, width, kernel, True, f"{name}_a"), _separated(x, width, kernel, False, f"{name}_b"),
    ])  # fmt: skip


def _separated(x, width: int, n: int, tall_first: bool, name: str):
    for i, kernel in enumerate([(n, 1), (1, n)] if tall_first else [(1, n), (n, 1)], 1):
        x = blocks.conv(x, width, kernel, normalization="batch", name=f"{name}_conv{i}")
    return x


def _double(x, width: int, tag: str):
    for i in (1, 2):
        x = blocks.conv(x, width, normalization="batch", name=f"{tag}_conv{i}")
    return x
