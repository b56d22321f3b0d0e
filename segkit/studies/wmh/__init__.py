"""White-matter hyperintensities on FLAIR, and the Siamese content loss.

Report: Mac, Moody and Khademi, MIDL 2020. Data in the layout of the 2017 WMH challenge; label 1 is a lesion, 2 other
pathology, which is neither learned nor scored.

``layout`` finds subjects, ``steps`` writes what notebooks 01 and 02 do, ``networks`` trains the report's generator and predicts,
``recipe`` is ours, ``real`` tunes and scores it on real scans, ``tables`` scores, ``experiments`` holds the long runs, ``user``
segments your own scan. What a user needs is at hand here:
``wmh.segment("flair.nii.gz")``, ``wmh.measure(mask)``.
"""

from segkit.studies import common
from segkit.studies.wmh.layout import (
    EXTERNAL,
    LABELS,
    LOSSES,
    OTHER,
    PROFILES,
    RELEASED,
    SIZE,
    SOFT,
    Profile,
    find,
    read,
    split,
    start,
)
from segkit.studies.wmh.networks import build, predict, to_mask, train, window
from segkit.studies.wmh.real import best_recipe
from segkit.studies.wmh.recipe import make_anatomies, normalise_slice, painted, predict_recipe, train_recipe
from segkit.studies.wmh.steps import INTENSITIES, back, downsample, load, pad_square, resize, scale, standardise
from segkit.studies.wmh.tables import (
    NOTE,
    SCORES,
    claims,
    compare,
    density_bins,
    evaluate,
    false_by_distance,
    missed_by_size,
    result_as_method,
    save_scores,
    summary,
    three_columns,
    threshold_as_method,
)
from segkit.studies.wmh.user import load_model, measure, release, released, segment

__getattr__ = common.lazily(__name__, "experiments")

__all__ = [
    "EXTERNAL", "INTENSITIES", "LABELS", "LOSSES", "NOTE", "OTHER", "PROFILES", "RELEASED", "SCORES", "SIZE", "SOFT", "Profile",
    "back", "best_recipe", "build", "claims", "compare", "density_bins", "downsample", "evaluate", "experiments",
    "false_by_distance", "find", "load", "load_model", "make_anatomies", "measure", "missed_by_size", "normalise_slice",
    "pad_square", "painted", "predict", "predict_recipe", "read", "release", "released", "resize", "result_as_method",
    "save_scores", "scale", "segment", "split", "standardise", "start", "summary", "three_columns", "threshold_as_method",
    "to_mask", "train", "train_recipe", "window",
]  # fmt: skip
