"""Sub-cortical nuclei on susceptibility maps, in 3D.

Report: Abid and Saifullah, IIT CS512, 2023, after Chai et al. 2020. Its data are private; maps here are simulated, on phantoms
or on label maps of real nuclei. Labels: 1 amygdala, 2 caudate, 3 hippocampus, 4 putamen, 5 thalamus, left and right merged.

``layout`` holds names, profiles and subjects, ``register`` and ``steps`` do what notebooks 00 to 02 do, ``networks`` trains the report's
networks and predicts, ``recipe`` is ours, ``methods`` are what is scored, ``tables`` scores, ``claims`` judges the report's sentences,
``experiments`` holds the long runs, ``user`` segments your own map.
What a user needs is at hand here:
``qsm.segment("map.nii.gz")``, ``qsm.measure(mask, "map.nii.gz")``.
"""

from segkit.studies import common
from segkit.studies.qsm import register
from segkit.studies.qsm.claims import claims
from segkit.studies.qsm.layout import (
    ALL,
    CUBE,
    LABELS,
    MASKS,
    NETWORKS,
    PROFILES,
    RELEASED,
    Profile,
    dim_of,
    file_names,
    find,
    find_model,
    label_values,
    model_name,
    note_of,
    noted,
    parse_model_name,
    split,
    start,
    write_lists,
)
from segkit.studies.qsm.methods import patch_method, recipe_labels, recipe_method
from segkit.studies.qsm.networks import (
    AUGMENTATION,
    build,
    drop_fragments,
    load_model_for,
    load_training,
    predict_patches,
    save_model,
    to_labels,
    train,
)
from segkit.studies.qsm.recipe import Nuclei, predict, train_recipe
from segkit.studies.qsm.steps import (
    centre_box,
    downsample_all,
    load_cube,
    normalise,
    pad_all,
    read,
    reconstruct,
)
from segkit.studies.qsm.tables import (
    NOTE,
    atlas_vote,
    ceilings,
    evaluate,
    landmarks,
    measures_table,
    on_original_grid,
    pairs,
    seams,
    summary,
    table_1,
    table_2,
    table_3,
    three_columns,
    told,
)
from segkit.studies.qsm.user import brain_of, load_model, measure, release, released, segment

__getattr__ = common.lazily(__name__, "experiments")

__all__ = [
    "ALL", "AUGMENTATION", "CUBE", "LABELS", "MASKS", "NETWORKS", "NOTE", "Nuclei", "Profile", "PROFILES", "RELEASED", "atlas_vote",
    "brain_of", "build", "ceilings", "centre_box", "claims", "dim_of", "downsample_all", "drop_fragments", "evaluate", "experiments",
    "file_names", "find", "find_model", "label_values", "landmarks", "load_cube", "load_model", "load_model_for", "load_training",
    "measure", "measures_table", "model_name", "normalise", "note_of", "noted", "on_original_grid", "pad_all", "pairs",
    "parse_model_name", "patch_method", "predict", "predict_patches", "read", "recipe_labels", "recipe_method", "reconstruct",
    "register", "release", "released", "save_model", "seams", "segment", "split", "start", "summary", "table_1", "table_2", "table_3",
    "three_columns", "to_labels", "told", "train", "train_recipe", "write_lists",
]  # fmt: skip
