"""Encoders that may start from ImageNet: ResNet50 with a U-Net's decoder, and any backbone of segmentation-models.

Inputs of :func:`resnet50_unet` are images of mean 0 and standard deviation 1 a channel. What a set of weights wants instead (BGR
in 0 … 255 minus the means, or RGB over ImageNet's deviations) is worked into the first convolution, so that no further step is to
be remembered. Backbones of segmentation-models take what its own ``get_preprocessing`` gives.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from segkit.models import blocks
from segkit.models import weights as stored

STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6))  # inner channels, outer channels, blocks of conv2 … conv4
CAFFE_SCALE = 58.0  # grey levels a standard deviation of natural images, for weights that expect 0 … 255


def resnet50_unet(
    input_shape: Sequence[int | None] = (None, None, 3),
    classes: int = 1,
    *,
    filters: Sequence[int] = (512, 256, 128, 64),
    encoder_width: float = 1.0,
    version: str | None = None,
    weights: str | os.PathLike | None = None,
    head: str | None = "sigmoid",
    name: str = "resnet50_unet",
) -> keras.Model:
    """ResNet50 up to the end of conv4 with a decoder of transposed convolutions; skips from the input to conv3.

    Parameters
    ----------
    input_shape : tuple
        ``(x, y, c)``, x and y None or multiples of 16. Three channels in the report; with ``weights`` 1 to 4.
    filters : sequence of four ints
        Channels of the decoder, from the bottom up.
    encoder_width : float
        Share of the encoder's channels (½ for a lighter twin; no weights fit it then).
    version : {"v1", "v1.5"}, optional
        Where a stage's stride is: in the first 1 × 1 convolution (Keras) or in the 3 × 3 (torchvision; epsilon 1e-5). Default: the
        one that ``weights`` were trained with, v1.5 for an ``.npz``, else v1.
    weights : None, "imagenet" or path
        Of the encoder; see :func:`load_encoder`.

    Returns
    -------
    keras.Model

    References
    ----------
    He et al., CVPR 2016; Alam et al. 2020 (ResNet50 U-Net for polyps). LGG report (STUDIES 3c).
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (x, y, c), not {tuple(input_shape)}")
    version = version or ("v1.5" if str(weights).endswith(".npz") else "v1")
    if version not in ("v1", "v1.5"):
        raise ValueError(f'version must be "v1" or "v1.5", not {version!r}')
    if weights is not None and encoder_width != 1:
        raise ValueError("ImageNet weights fit an encoder of full width only; leave encoder_width at 1")
    if weights == "imagenet" and version != "v1":
        raise ValueError("Keras's ImageNet weights are of version v1; leave version out, or give a file of v1.5")
    epsilon = 1.001e-5 if version == "v1" else 1e-5

    def wide(n):
        return max(1, round(n * encoder_width))

    def unit(x, width, kernel, tag, stride=1, relu=True):
        x = layers.Conv2D(
            width, kernel, stride, padding="same" if stride == 1 or kernel == 1 else "valid", name=f"{tag}_conv"
        )(x)
        x = layers.BatchNormalization(epsilon=epsilon, name=f"{tag}_bn")(x)
        return layers.ReLU(name=f"{tag}_relu")(x) if relu else x

    def bottleneck(x, inner, outer, stride, tag, first):
        short = unit(x, outer, 1, f"{tag}_0", stride, relu=False) if first else x
        y = unit(x, inner, 1, f"{tag}_1", stride if version == "v1" else 1)
        if version == "v1.5" and stride > 1:
            y = layers.ZeroPadding2D(1, name=f"{tag}_pad")(y)
            y = unit(y, inner, 3, f"{tag}_2", stride)
        else:
            y = unit(y, inner, 3, f"{tag}_2")
        y = unit(y, outer, 1, f"{tag}_3", relu=False)
        return layers.ReLU(name=f"{tag}_out")(layers.Add(name=f"{tag}_add")([short, y]))

    inputs = keras.Input(tuple(input_shape), name="image")
    x = unit(layers.ZeroPadding2D(3, name="conv1_pad")(inputs), wide(64), 7, "conv1", 2)
    skips = [inputs, x]
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(layers.ZeroPadding2D(1, name="pool1_pad")(x))
    for i, (inner, outer, count) in enumerate(STAGES, 2):
        for b in range(1, count + 1):
            stride = 2 if b == 1 and i > 2 else 1
            x = bottleneck(x, wide(inner), wide(outer), stride, f"conv{i}_block{b}", b == 1)
        skips.append(x)
    x = skips.pop()
    for level, width in zip(range(len(filters), 0, -1), filters, strict=True):
        x = blocks.upsample(x, width, "transpose", name=f"up{level}_upsample")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips.pop()])
        for k in (1, 2):
            x = blocks.conv(x, width, normalization="batch", name=f"up{level}_conv{k}")
    x = blocks.conv(x, classes, 1, activation=None, name="head")
    outputs = layers.Activation(head or "linear", dtype="float32", name="output")(x)
    model = keras.Model(inputs, outputs, name=name)
    if weights is not None:
        load_encoder(model, weights)
    return model


def load_encoder(model: keras.Model, weights: str | os.PathLike, *, caffe: bool | None = None) -> str:
    """Put ImageNet weights into the layers of the same names; layers without an entry stay as they are.

    Parameters
    ----------
    model : keras.Model
        Of :func:`resnet50_unet`.
    weights : "imagenet" or path
        "imagenet": Keras's download (v1). A file: Keras's ``.h5`` of ResNet50, or an ``.npz`` keyed ``layer/variable``
        (kernel, bias, gamma, beta, moving_mean, moving_variance); a missing bias is 0.
    caffe : bool, optional
        Whether the first convolution expects BGR of 0 … 255 minus the means. Default: ``.npz`` no, else yes.

    Returns
    -------
    str
        What was loaded, for tables and captions.

    Raises
    ------
    OSError
        When the download cannot be reached; says what to give instead.
    ValueError
        For a file without a layer of this network, or with another shape (names it).
    """
    found, source = stored.read(weights, "ResNet50")
    if weights == "imagenet":
        caffe = True
    elif caffe is None:
        caffe = Path(weights).suffix != ".npz"
    used, stages = 0, set()
    for layer in model.layers:
        if not layer.weights or layer.name not in found:
            continue
        values = []
        for variable in layer.weights:
            key = variable.path.rsplit("/", 1)[-1].removesuffix(":0")
            value = found[layer.name].get(key)
            if value is None and key == "bias":
                value = np.zeros(variable.shape, np.float32)
            if layer.name == "conv1_conv" and key == "kernel" and value is not None:
                value = _first_kernel(value, variable.shape[2], caffe)
            if value is None or tuple(value.shape) != tuple(variable.shape):
                shape = "missing" if value is None else tuple(value.shape)
                raise ValueError(
                    f"{weights}: {layer.name}/{key} is {shape}, the network has {tuple(variable.shape)}; give weights of ResNet50"
                )
            values.append(value)
        layer.set_weights(values)
        used += 1
        stages.add(layer.name.split("_")[0])
    if not used:
        raise ValueError(f"{weights}: holds no layer of {model.name}; give weights of ResNet50")
    return f"{source}: {', '.join(sorted(stages))}"


def backbone_unet(
    input_shape: Sequence[int | None] = (None, None, 3),
    classes: int = 1,
    *,
    backbone: str = "resnext50",
    weights: str | None = None,
    head: str | None = "sigmoid",
    name: str = "backbone_unet",
) -> keras.Model:
    """U-Net on a backbone of segmentation-models (resnext50, efficientnetb0, …); TensorFlow backend only.

    ``weights="imagenet"`` downloads; with 1, 2 or 4 channels the first layers are the mean over colours. Some of its backbones
    (ResNeXt) hold Lambda layers: train and predict in one session, or build again and ``load_weights``.

    Raises
    ------
    ValueError
        Under another backend than TensorFlow, or for a backbone that does not exist (names those that do).
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"segmentation-models needs the TensorFlow backend, not {keras.backend.backend()}; set KERAS_BACKEND=tensorflow"
        )
    os.environ.setdefault("SM_FRAMEWORK", "tf.keras")
    import segmentation_models as sm

    known = sorted(sm.get_available_backbone_names())
    if backbone not in known:
        raise ValueError(f"no backbone is called {backbone!r}; choose one of {', '.join(known)}")
    settings = {"classes": classes, "activation": head or "linear"}
    model = sm.Unet(backbone, input_shape=tuple(input_shape), encoder_weights=None, **settings)
    if weights is not None:
        source = sm.Unet(backbone, input_shape=(None, None, 3), encoder_weights=weights, **settings)
        values = [_spread_colours(v, tuple(t.shape)) for v, t in zip(source.get_weights(), model.weights, strict=True)]
        model.set_weights(values)
    model.name = name
    return model


def _first_kernel(kernel: np.ndarray, channels: int, caffe: bool) -> np.ndarray:
    """For inputs of mean 0 and deviation 1 in RGB order; for another number of channels the mean over colours."""
    if caffe:
        kernel = kernel[:, :, ::-1] * np.float32(CAFFE_SCALE)
    return _spread_colours(kernel, (*kernel.shape[:2], channels, kernel.shape[3]))


def _spread_colours(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution from three colours as one from ``shape[2]`` channels whose sum answers a grey picture alike."""
    if tuple(value.shape) == shape:
        return value
    if value.shape == (3,):  # a normalisation of the picture itself
        return np.full(shape, value.mean(), value.dtype)
    if value.ndim != 4 or value.shape[2] != 3:
        raise ValueError(f"a weight of shape {value.shape} cannot be fitted to {shape}")
    return np.repeat(value.mean(axis=2, keepdims=True), shape[2], axis=2) * np.float32(3 / shape[2])
