"""Layers and blocks that the networks share, in two and three dimensions."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("segkit")
class MonteCarloDropout(layers.Dropout):
    """Dropout that stays on at inference, so that each call is one sample of the prediction.

    References
    ----------
    Gal and Ghahramani, Dropout as a Bayesian approximation, ICML 2016. The IBSR report's code runs so (STUDIES 2b, 7).
    """

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


@keras.saving.register_keras_serializable("segkit")
class LinearUpsampling(layers.Layer):
    """Twice as many voxels an axis, linearly between their centres; the edge goes on beyond the border. No weights.

    The LGG report's PyTorch layer keeps the corners' positions instead (``align_corners``), which moves values by less than a voxel.

    Keras's own bilinear layer fails on TensorFlow once a second image size comes by.
    """

    def call(self, inputs):
        x = inputs
        for axis in range(1, len(x.shape) - 1):
            x = ops.repeat(x, 2, axis=axis)

            def cut(start, stop, axis=axis, x=x):
                return x[(slice(None),) * axis + (slice(start, stop),)]

            before = ops.concatenate([cut(0, 1), cut(0, -1)], axis=axis)
            behind = ops.concatenate([cut(1, None), cut(-1, None)], axis=axis)
            x = 0.5 * x + 0.25 * (before + behind)
        return x

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *(n and 2 * n for n in input_shape[1:-1]), input_shape[-1])


def conv(x, filters: int, kernel: int = 3, *, strides=1, activation="relu", bias=True, normalization=None, name=None):
    """Convolution, then normalisation ("batch" or "instance") where asked, then the activation."""
    layer = {2: layers.Conv2D, 3: layers.Conv3D}[_rank(x)]
    x = layer(filters, kernel, strides, padding="same", use_bias=bias, kernel_initializer="he_normal", name=name)(x)
    if normalization == "instance":  # one group a channel: the statistics of this very sample, also at inference
        x = layers.GroupNormalization(-1, name=name and f"{name}_in")(x)
    elif normalization == "batch":
        x = layers.BatchNormalization(name=name and f"{name}_bn")(x)
    elif normalization:
        raise ValueError(f'normalization must be "batch", "instance" or None, not {normalization!r}')
    return layers.Activation(activation, name=name and f"{name}_{activation}")(x) if activation else x


def pool(x, name=None):
    """Maximum of 2 × 2 (× 2) voxels."""
    return {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}[_rank(x)](2, name=name)(x)


def upsample(x, filters: int, how: str, *, kernel: int = 2, strides: int = 2, name=None):
    """Twice as many voxels an axis: "nearest" or "linear" (no weights), or "transpose" (to ``filters``; ``kernel``, ``strides``)."""
    rank = _rank(x)
    if how == "transpose":
        return {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[rank](
            filters, kernel, strides=strides, padding="same", name=name
        )(x)
    if how == "nearest":
        return {2: layers.UpSampling2D, 3: layers.UpSampling3D}[rank](2, name=name)(x)
    if how == "linear":
        return LinearUpsampling(name=name)(x)
    raise ValueError(f'upsampling {how!r} is not known; choose "nearest", "transpose" or "linear"')


def dropout(x, rate: float, *, monte_carlo: bool = False, name=None):
    """Dropout where ``rate`` > 0; see :class:`MonteCarloDropout`."""
    if not rate:
        return x
    return (MonteCarloDropout if monte_carlo else layers.Dropout)(rate, name=name)(x)


def _rank(x) -> int:
    return len(x.shape) - 2
