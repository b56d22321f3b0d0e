"""The IBSR report's ResUNet and DenseUNet: each level joins what it was given to what it made of it."""

from collections.abc import Sequence

import keras
from keras import layers

from segkit.models import blocks


def concatenated_unet(
    input_shape: Sequence[int | None] = (None, None, 1),
    classes: int = 4,
    *,
    filters: Sequence[int] = (32, 64, 128, 256, 512),
    dense: bool = False,
    keep_first: bool = False,
    add: bool = False,
    skips: str = "made",
    normalization: str | None = None,
    dropout: float = 0.4,
    monte_carlo: bool = False,
    head: str | None = "softmax",
    name: str = "concatenated_unet",
) -> keras.Model:
    """U-Net of two 3 × 3 (× 3) convolutions a level, whose result is concatenated with the level's input.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, c)`` or ``(x, y, z, c)``; None for any size that can be halved ``len(filters) − 1`` times.
    filters : sequence of int
        Channels a level, the last is the bottom.
    dense : bool
        The second convolution sees the level's input too (DenseUNet); else the first one's result alone (ResUNet).
    keep_first : bool
        The first convolution's result is part of what the level gives, as in a dense block; the report's code drops it.
    add : bool
        Add the input (through a 1 × 1 convolution) instead of concatenating it: what "residual" means elsewhere.
    skips : {"made", "deepest", "given"}
        What levels hand across: what their convolutions made; the deepest of them that with its input (the code's DenseUNet); or all of
        them that.
    normalization : {"batch", "instance", None}
        After each convolution.
    dropout : float
        After each level.
    monte_carlo : bool
        Keep dropout on at inference, as the report's code does.

    Returns
    -------
    keras.Model

    References
    ----------
    IBSR report, section 3.5, and its code (STUDIES 2c), after Kolařík et al., Optimized high resolution 3D dense-U-Net network for brain
    and spine segmentation, Applied Sciences 9 (2019).
    """
    if skips not in ("made", "deepest", "given"):
        raise ValueError(f'skips must be "made", "deepest" or "given", not {skips!r}')
    depth = len(filters)
    for n in input_shape[:-1]:
        if n is not None and n % 2 ** (depth - 1):
            raise ValueError(
                f"input of {n} voxels cannot be halved {depth - 1} times; use a multiple of {2 ** (depth - 1)}"
            )

    def level(x, width, tag):
        """What the convolutions made, and what the level gives."""
        first = blocks.conv(x, width, normalization=normalization, name=f"{tag}_conv1")
        seen = layers.Concatenate(name=f"{tag}_dense")([x, first]) if dense else first
        made = blocks.conv(seen, width, normalization=normalization, name=f"{tag}_conv2")
        if add:
            shortcut = blocks.conv(x, width, 1, activation=None, name=f"{tag}_shortcut")
            return made, layers.Add(name=f"{tag}_add")([shortcut, made])
        return made, layers.Concatenate(name=f"{tag}_join")([x, first, made] if keep_first else [x, made])

    def after(x, tag):
        return blocks.dropout(x, dropout, monte_carlo=monte_carlo, name=f"{tag}_dropout")

    x = inputs = keras.Input(tuple(input_shape), name="image")
    across = []
    for i, width in enumerate(filters[:-1]):
        made, given = level(x, width, f"down{i + 1}")
        whole = skips == "given" or (skips == "deepest" and i == depth - 2)
        across.append(given if whole else made)
        x = blocks.pool(after(given, f"down{i + 1}"), name=f"down{i + 1}_pool")
    x = after(level(x, filters[-1], "bottom")[1], "bottom")
    for i in reversed(range(depth - 1)):
        x = blocks.upsample(x, filters[i], "transpose", name=f"up{i + 1}_upsample")
        x = layers.Concatenate(name=f"up{i + 1}_concat")([x, across[i]])
        x = after(level(x, filters[i], f"up{i + 1}")[1], f"up{i + 1}")
    x = blocks.conv(x, classes, 1, activation=None, name="head")
    outputs = layers.Activation(head or "linear", dtype="float32", name="output")(x)
    return keras.Model(inputs, outputs, name=name)
