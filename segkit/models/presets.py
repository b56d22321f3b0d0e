"""The reports' networks by name, with the parameter counts that the reports (or their code) give."""

import keras

from segkit.models.bunet import bunet
from segkit.models.concatenated import concatenated_unet
from segkit.models.dense import dense_generator
from segkit.models.double_branch import double_branch
from segkit.models.pretrained import backbone_unet, resnet50_unet
from segkit.models.unet import unet

_IBSR = {"convs": 1, "upsampling": "nearest", "dropout": 0.4, "head": "softmax", "classes": 4}
_CONCATENATED = {"filters": (32, 64, 128, 256, 512), "classes": 4, "dropout": 0.4}
_QSM = {
    "input_shape": (None, None, None, 1),
    "classes": 1,
    "convs": 2,
    "upsampling": "transpose",
    "head": "sigmoid",
    "dropout": (0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1),
    "dropout_between": True,
}
_RESIDUAL = {
    "input_shape": (None, None, None, 1), "classes": 1, "convs": 2, "normalization": "batch", "upsampling": "transpose",
    "head": "sigmoid", "residual": True,
}  # fmt: skip
_ATRIUM = {
    "classes": 1, "convs": 2, "bias": False, "normalization": "batch", "upsampling": "transpose", "head": None,
}  # fmt: skip
_LGG = {"input_shape": (None, None, 3), "classes": 1, "convs": 2, "head": "sigmoid"}
_PRESETS = {
    "ibsr_unet2d": (unet, _IBSR | {"filters": (32, 64, 128, 256, 512)}),
    "ibsr_unet2d_4level": (unet, _IBSR | {"filters": (32, 64, 128, 256)}),
    "ibsr_resunet2d": (concatenated_unet, _CONCATENATED),
    "ibsr_denseunet2d": (concatenated_unet, _CONCATENATED | {"dense": True, "skips": "deepest"}),
    "ibsr_denseunet2d_full": (concatenated_unet, _CONCATENATED | {"dense": True, "keep_first": True, "skips": "given"}),
    # ours: a slice and its two neighbours
    "ibsr_unet_slices": (unet, {
        "input_shape": (None, None, 3), "classes": 4, "filters": (16, 32, 64, 128, 256), "convs": 2, "bias": False,
        "normalization": "batch", "upsampling": "transpose",
    }),
    "ibsr_unet3d": (unet, _IBSR | {"filters": (32, 64, 128, 256, 512), "input_shape": (None, None, None, 1)}),
    "qsm_unet3d": (unet, _QSM | {"filters": (16, 32, 64, 128, 256)}),
    "qsm_unet3d_base32": (unet, _QSM | {"filters": (32, 64, 128, 256, 512)}),
    "qsm_resunet3d": (unet, _RESIDUAL | {"filters": (32, 64, 128, 256, 512)}),
    "qsm_resunet3d_base16": (unet, _RESIDUAL | {"filters": (16, 32, 64, 128, 256)}),
    # ours: boxes of 1 mm voxels, the map and five nuclei of the atlas, six classes
    "qsm_nuclei": (unet, {
        "input_shape": (None, None, None, 6), "classes": 6, "filters": (20, 40, 80, 160), "convs": 2, "bias": False,
        "normalization": "instance", "upsampling": "transpose", "stem": 2, "log_prior": True,
    }),
    "qsm_double_branch": (double_branch, {}),  # our reading of Chai et al. (2020)
    "atrium_unet": (unet, _ATRIUM | {"filters": (64, 128, 256, 512, 1024)}),
    "atrium_unet_slim": (unet, _ATRIUM | {"filters": (16, 32, 64, 128, 256)}),  # ours: a quarter of the width
    # ours: whole volumes, normalised each by itself since a batch holds one of them
    "atrium_unet3d": (unet, _ATRIUM | {
        "filters": (16, 32, 64, 128), "input_shape": (None, None, None, 1), "normalization": "instance", "head": "sigmoid",
    }),
    "wmh_generator": (dense_generator, {}),
    # ours: single slices of 1 mm, brain-extracted
    "wmh_unet_slices": (unet, {
        "input_shape": (None, None, 1), "classes": 1, "filters": (32, 64, 128, 256), "convs": 2, "bias": False, "normalization": "batch",
        "upsampling": "transpose", "stem": 2, "head": "sigmoid",
    }),
    "lgg_unet": (unet, _LGG | {"filters": (64, 128, 256, 512), "upsampling": "linear"}),
    "lgg_bunet": (bunet, {}),
    "lgg_resnet50_unet": (resnet50_unet, {}),
    "lgg_backbone_unet": (backbone_unet, {}),  # what the report's code trained: ResNeXt50
    # ours: three slices of three sequences
    "lgg_unet_slices": (unet, _LGG | {
        "input_shape": (None, None, 9), "filters": (32, 64, 128, 256), "stem": 2, "bias": False, "normalization": "batch",
        "upsampling": "transpose",
    }),
}  # fmt: skip


def names() -> list[str]:
    """Names that :func:`build` knows."""
    return sorted(_PRESETS)


def build(name: str, **settings) -> keras.Model:
    """A report's network.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    **settings
        Whatever differs from the report: ``input_shape``, ``classes``, ``dropout``, ``monte_carlo``, ``filters``, … of
        the preset's builder. Without any, ``count_params()`` is the number in the report or of its code.

    Raises
    ------
    ValueError
        For a name or a setting that does not exist.
    """
    if name not in _PRESETS:
        raise ValueError(f"no network is called {name!r}; choose one of {', '.join(names())}")
    builder, defaults = _PRESETS[name]
    try:
        return builder(**({"name": name} | defaults | settings))
    except TypeError as error:
        raise ValueError(
            f"{name} does not take these settings ({error}); see help(segkit.models.{builder.__name__})"
        ) from None
