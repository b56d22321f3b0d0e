"""ImageNet weights by layer name, from Keras's download or a local file."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np


def read(source: str | os.PathLike, application: str) -> tuple[Mapping[str, dict[str, np.ndarray]], str]:
    """Weights of a network of ``keras.applications``, and what they are, for tables and captions.

    Parameters
    ----------
    source : "imagenet" or path
        "imagenet": Keras's download. A file: Keras's ``.h5``, or an ``.npz`` keyed ``layer/variable``.
    application : str
        Such as "ResNet50" or "VGG19".

    Returns
    -------
    dict, str
        Layer to variable to array.

    Raises
    ------
    OSError
        When the download cannot be reached (says what to give instead), or there is no such file.
    ValueError
        For a file that cannot be read.
    """
    if source == "imagenet":
        return _download(application), "ImageNet (Keras)"
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights; give Keras's .h5, an .npz, or a random start")
    return (_read_npz(path) if path.suffix == ".npz" else _read_h5(path)), path.name


def _download(application: str) -> dict[str, dict[str, np.ndarray]]:
    try:
        source = getattr(keras.applications, application)(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises a plain Exception where the connection fails
        raise OSError(
            f"ImageNet weights could not be downloaded ({error}); give weights= a local .h5 or .npz, or None for a random start"
        ) from None
    return {
        layer.name: {v.path.rsplit("/", 1)[-1]: np.asarray(v) for v in layer.weights}
        for layer in source.layers
        if layer.weights
    }


def _read_npz(path: Path) -> Mapping[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as part:
        for key in part.files:
            layer, _, variable = key.partition("/")
            found.setdefault(layer, {})[variable] = part[key]
    return found


def _read_h5(path: Path) -> Mapping[str, dict[str, np.ndarray]]:
    import h5py

    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)

            def take(name, item):
                if isinstance(item, h5py.Dataset):
                    found.setdefault(name.split("/")[0], {})[name.rsplit("/", 1)[-1].removesuffix(":0")] = np.asarray(
                        item
                    )

            root.visititems(take)
        if "layers" in found or "layers" in file:
            raise ValueError(
                f"{path}: is in Keras 3's own .weights.h5 format, which has no layer names; give the .h5 of keras.applications, or an .npz"
            )
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error}); download it again, or give an .npz") from None
    return found
