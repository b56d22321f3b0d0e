"""What the rows of an experiment's table were made with, and the tables themselves."""

import functools

import pandas as pd

from segkit import training
from segkit.studies import common
from segkit.studies.lgg.layout import RELEASED, find, labelled
from segkit.studies.lgg.networks import AUGMENTATION, DROPPED, HOLLOW
from segkit.studies.lgg.steps import made

CURVE_MINUTES = 20  # a point of the learning curve, at most
RECIPE = f"{RELEASED}, threshold in the middle"  # of those that choose_threshold finds as good as the best


def recipe_of(run: common.Run, what: str, *, minutes: float | None = None, epochs: int | None = None) -> str:
    """What a row was made with; the last word changes with the profile, what training and 02 set, our network and the patients."""
    budget = f"{minutes:g} minutes" if minutes else f"{epochs} epochs"
    patients = labelled(find(run.data))
    settings = (
        run.profile, sorted(AUGMENTATION.items()), DROPPED, HOLLOW, patients, made(run.profile.size), _parameters(run.profile.filters),
        sorted(map(str, training.RECIPE.items())),
    )  # fmt: skip
    mark = common.mark(*settings)
    return f"{what}, {budget}, {run.profile.size}², {len(patients)} patients, seed {run.seed}, settings {mark}"


def recipe_for(run: common.Run, what: str, *, fold: int = 1) -> str:
    """:func:`recipe_of` the rows of ``tables/<what>.csv``: folds, thresholds, compare, leakage, curve, sites or sequences."""
    p = run.profile
    whole, cell = {"minutes": p.minutes, "epochs": p.epochs}, {"minutes": p.cell_minutes, "epochs": p.cell_epochs}
    said: dict[str, tuple[str, dict]] = {
        "folds": (RECIPE, whole), "thresholds": (f"{RELEASED}, selection patients", whole), "compare": (f"fold {fold}", cell),
        "leakage": ("lgg_unet, a quarter of its width", cell | {"minutes": p.lesson_minutes}),
        "curve": (f"{RECIPE}, fold {fold}", whole | {"minutes": curve_minutes(p.minutes)}), "sites": (f"{RECIPE}, a site left out", whole),
        "sequences": (f"{RECIPE}, sequences left out", whole),
    }  # fmt: skip
    return recipe_of(run, said[what][0], **said[what][1])


def curve_minutes(minutes: float | None) -> float | None:
    """Of each point of the learning curve, where the profile trains for so long."""
    return minutes and min(minutes, CURVE_MINUTES)


def rows(run: common.Run, what: str, *, fold: int = 1) -> pd.DataFrame | None:
    """``tables/<what>.csv`` where it is of this run's recipe and patients; None, and a line that says why, where not."""
    return common.rows_or_why(run, what, recipe_for(run, what, fold=fold))


@functools.cache
def _parameters(filters: tuple[int, ...] | None) -> int:
    from segkit import models

    return models.build(RELEASED, **({"filters": filters} if filters else {})).count_params()
