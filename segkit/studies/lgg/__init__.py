"""Lower-grade glioma on slices of three sequences, and its link to genomics.

Report: Tooprani and Veerannagari, Concordia 2022, after Buda et al. 2019. Data in the layout of ``kaggle_3m``; label 1 is the
FLAIR abnormality.

``layout`` finds slices and patients, ``steps`` writes what notebooks 01 and 02 do, ``networks`` trains, predicts and segments a
user's own slices, ``tables`` scores, ``radiogenomics`` tests shape against clusters, ``experiments`` holds the long runs, ``lesson`` the
leak, ``recipes`` what a table's rows were made with. What a user needs is at hand here: ``lgg.segment("folder of slices")``,
``lgg.measure(mask)``.
"""

from segkit.studies import common
from segkit.studies.lgg import radiogenomics
from segkit.studies.lgg.layout import (
    CHANNELS,
    CLUSTERS,
    LABELS,
    PROFILES,
    RELEASED,
    SITES,
    SIZE,
    Profile,
    clinical,
    diagnoses,
    excluded,
    find,
    labelled,
    leave_site_out,
    overview,
    read,
    read_image,
    read_mask,
    split,
    start,
)
from segkit.studies.lgg.networks import (
    COLOURS,
    build,
    choose_threshold,
    class_weights,
    load_model,
    load_run,
    measure,
    predict,
    predict_small,
    release,
    released,
    segment,
    slices,
    to_mask,
    train,
)
from segkit.studies.lgg.steps import (
    TRANSFORMS,
    correct_bias,
    downsample,
    load,
    normalise,
    pad_square,
    resize,
    standardise,
    upright,
)
from segkit.studies.lgg.tables import (
    NOTE,
    claims,
    evaluate,
    large_mask,
    leakage_gap,
    legacy_scores,
    load_probabilities,
    predicted_mask,
    save_mask,
    summary,
    three_columns,
)

__getattr__ = common.lazily(__name__, "experiments")

__all__ = [
    "CHANNELS", "CLUSTERS", "COLOURS", "LABELS", "NOTE", "PROFILES", "RELEASED", "SITES", "SIZE", "TRANSFORMS", "Profile",
    "build", "choose_threshold", "claims", "class_weights", "clinical", "correct_bias", "diagnoses", "downsample", "evaluate",
    "excluded", "experiments", "find", "labelled", "large_mask", "leakage_gap", "leave_site_out", "legacy_scores", "load",
    "load_model", "load_probabilities", "load_run", "measure", "normalise", "overview", "pad_square",
    "predict", "predict_small", "predicted_mask", "radiogenomics", "read", "read_image", "read_mask", "release", "released",
    "resize", "save_mask", "segment", "slices", "split", "standardise", "start", "summary", "three_columns", "to_mask", "train",
    "upright",
]  # fmt: skip
