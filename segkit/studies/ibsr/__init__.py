"""IBSR18: ventricular CSF, grey and white matter on skull-stripped T1.

Report: Archit and Adilina, Brain tissue segmentation using U-Net, Girona 2022. Layout of the data::

    Training_Set/<subject>/<subject>.nii.gz, <subject>_seg.nii.gz
    Validation_Set/<subject>/…            (labelled, scored once a recipe)
    Test_Set/<subject>/<subject>.nii.gz   (no labels)

Label 1 is the ventricles' CSF only; sulcal fluid is background within the head.

``layout`` holds the facts and finds the data, ``steps`` writes what notebooks 00 to 02 do, ``networks`` trains, predicts and
segments a user's own scan, ``tables`` scores; ``recipe`` is our own network, ``experiments`` the long runs, ``uncertainty``
and ``nnunet`` what their names say. All of it is at hand here: ``ibsr.segment("scan.nii.gz")``.
"""

from segkit.studies import common
from segkit.studies.ibsr.claims import claims
from segkit.studies.ibsr.layout import GRID, LABELS, PROFILES, SETS, SPACING_MM, Profile, find, read, split, start
from segkit.studies.ibsr.networks import (
    build,
    measure,
    methods,
    mixture_baseline,
    predict,
    release,
    released,
    segment,
    threshold_baseline,
    train,
)
from segkit.studies.ibsr.steps import (
    cut,
    extract,
    load_corrected,
    load_padded,
    load_patches,
    normalise,
    preprocess,
    standardise,
)
from segkit.studies.ibsr.tables import (
    NOTE,
    evaluate,
    table_1,
    tables_2_and_3,
    tables_4_to_6,
    three_columns,
    what_steps_bring,
)

__all__ = [
    "GRID", "LABELS", "NOTE", "PROFILES", "SETS", "SPACING_MM", "Profile", "build", "claims", "cut", "evaluate", "extract",
    "find", "load_corrected", "load_padded", "load_patches", "measure", "methods", "mixture_baseline", "normalise",
    "predict", "preprocess", "read", "release", "released", "segment", "split", "standardise", "start", "table_1",
    "tables_2_and_3", "tables_4_to_6", "three_columns", "threshold_baseline", "train", "what_steps_bring",
]  # fmt: skip

__getattr__ = common.lazily(__name__, "experiments", "nnunet", "uncertainty")
