"""Left atrium on late-enhancement MRI: a segmentation in minutes, its volume, and pictures of it.

Report: Craciun, Image segmentation for heart using deep learning, Sheffield 2022. Data in the Medical Segmentation
Decathlon's layout (``dataset.json``, ``imagesTr``, ``labelsTr``); label 1 is the left atrial cavity.

``layout`` holds the facts and finds the data, ``steps`` writes what notebooks 01 and 02 do, ``enhance`` is the chain from
probabilities to a mask, ``networks`` trains, predicts and segments a user's own scan, ``tables`` scores, ``experiments`` holds the
long runs. What a user needs is at hand here: ``atrium.segment("scan.nii.gz")``, ``atrium.measure(mask)``.
"""

from segkit.studies import common
from segkit.studies.atrium.enhance import STEPS, as_the_report, enhance, legacy_scores, step_by_step
from segkit.studies.atrium.layout import (
    CHALLENGE,
    FACTOR,
    LABELS,
    PROFILES,
    SPACING_MM,
    Profile,
    find,
    read,
    split,
    start,
)
from segkit.studies.atrium.networks import (
    build,
    load_model,
    measure,
    predict,
    release,
    released,
    run_name,
    segment,
    timed,
    to_mask,
    train,
)
from segkit.studies.atrium.steps import export, halve, load_padded, load_small, normalise, read_export, standardise
from segkit.studies.atrium.tables import (
    NOTE,
    chain_table,
    claims,
    evaluate,
    load_probabilities,
    stage_times,
    three_columns,
    untimed,
    volume_table,
)

__getattr__ = common.lazily(__name__, "experiments")

__all__ = [
    "CHALLENGE", "FACTOR", "LABELS", "NOTE", "PROFILES", "SPACING_MM", "STEPS", "Profile", "as_the_report", "build", "chain_table",
    "claims", "enhance", "evaluate", "experiments", "export", "find", "halve", "legacy_scores", "load_model", "load_padded",
    "load_probabilities", "load_small", "measure", "normalise", "predict", "read", "read_export", "release", "released", "run_name",
    "segment", "split", "stage_times", "standardise", "start", "step_by_step", "three_columns", "timed", "to_mask", "train", "untimed",
    "volume_table",
]  # fmt: skip
