"""Released models: ``.keras`` files in half the size, float16 at rest and float32 in memory."""

import json
import os
import zipfile
from pathlib import Path

import keras

from segkit import files
from segkit.models.blocks import MonteCarloDropout


def save(model: keras.Model, path: str | os.PathLike) -> Path:
    """Save a copy of ``model`` in float16, packed (architecture and weights, no optimiser); the model itself is unchanged."""
    with files.atomic(path) as temporary:
        _in_type(model, "float16").save(temporary)
        _pack(temporary)
    return Path(path)


def load(path: str | os.PathLike) -> keras.Model:
    """Load a ``.keras`` file in safe mode, uncompiled; one in half or mixed precision comes back in float32.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, or is not a Keras model that safe mode accepts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model; train one first (notebook 03), or check the path")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ValueError(
            f"{path}: not a Keras model that can be loaded ({error}); save it again or train anew"
        ) from error
    policies = {layer.dtype_policy.name for layer in model.layers}
    return _in_type(model, "float32") if policies & {"float16", "mixed_float16"} else model


def with_dropout_on(model: keras.Model, *, seed: int = 0) -> keras.Model:
    """A copy of ``model`` whose dropout stays on at inference, so that each call is one sample of the prediction.

    ``seed`` decides the samples, one after the other. ValueError when the model has no dropout: all its samples would be the same.
    """
    if not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers):
        raise ValueError(f"{model.name}: has no dropout, so nothing can be sampled; build it with dropout=")

    places = {layer.name: k for k, layer in enumerate(model.layers)}

    def exchange(layer):
        if not isinstance(layer, keras.layers.Dropout):
            return type(layer).from_config(layer.get_config())
        return MonteCarloDropout.from_config(layer.get_config() | {"seed": 7919 * seed + places[layer.name]})

    twin = keras.models.clone_model(model, clone_function=exchange)
    twin.set_weights(model.get_weights())
    return twin


def _pack(path: Path) -> None:
    """Compress the members of a ``.keras`` archive, which Keras stores as they are."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED, 9)


def _in_type(model: keras.Model, dtype: str) -> keras.Model:
    """The same network with every layer's float type exchanged."""
    config = json.dumps(keras.saving.serialize_keras_object(model))
    for other in ("float16", "float32", "mixed_float16"):
        config = config.replace(f'"{other}"', f'"{dtype}"')
    twin = keras.saving.deserialize_keras_object(json.loads(config), safe_mode=True)
    twin.set_weights(model.get_weights())
    return twin
