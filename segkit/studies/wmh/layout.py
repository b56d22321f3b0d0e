"""The study's facts: profiles, the challenge's layout as it lies on disk, who trains and who is scored."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, volumes
from segkit.studies import common

LABELS = {"wmh": 1}
OTHER = 2  # other pathology in the challenge's masks: background to learn, not scored
SIZE = 224  # pixels a side of the report's slices
EXTERNAL = ("CentreD",)  # centres that never train, of the phantoms
RELEASED = "wmh_unet_slices"
# the report's losses with their settings, the trained features, and the hybrid that it did not try
LOSSES = {
    "dice": {"smooth": 1.0, "squared": True}, "tversky": {"alpha": 0.3, "beta": 0.7}, "generalized_dice": {}, "content": {},
    "content_dice": {"dice_weight": 1.0, "relative": True}, "trained_content": {},
}  # fmt: skip
SOFT = (0.1, 0.9)  # the report's targets for 0 and 1
# … but where these make the whole slice a better answer than its lesions, while they fill less than 4 % of it
HARD = ("tversky",)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Steps, layout and scores are the same in all three."""

    name: str
    phantoms: dict[str, int]  # subjects a centre
    size: int = 128  # pixels a side that the generator sees
    coarse: int = 1  # phantoms are made on a grid so many times coarser in the plane
    filters: tuple[int, ...] | None = None  # of the generator; None: the report's
    batch_size: int = 8
    steps: int = 100  # batches an epoch
    minutes: float | None = None  # of a cell: one loss, one seed
    epochs: int | None = None  # … or, as in the report, as many steps for every loss
    losses: tuple[str, ...] = tuple(LOSSES)
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rate: float = 1e-3
    momentum: float = 0.99  # of batch normalisation; less where there are few steps
    recipe_subjects: int = 80  # anatomies that the recipe learns from
    recipe_filters: tuple[int, ...] | None = None  # None: the preset's own
    recipe_minutes: float | None = None
    recipe_epochs: int | None = None


PROFILES = {
    "smoke": Profile(
        "smoke", {"CentreA": 3, "CentreB": 3, "CentreD": 1}, size=32, coarse=4, filters=(4, 8), steps=2, epochs=1, momentum=0.9,
        losses=("dice", "content"), seeds=(0,), recipe_subjects=2, recipe_filters=(4, 8), recipe_epochs=1,
    ),
    "quick": Profile(
        "quick", {"CentreA": 4, "CentreB": 4, "CentreC": 4, "CentreD": 3}, size=96, coarse=2, filters=(8, 16, 32, 64), steps=30,
        momentum=0.9, minutes=0.6, losses=("dice", "content"), seeds=(0,), recipe_subjects=8, recipe_filters=(8, 16, 32, 64),
        recipe_minutes=0.6,
    ),
    "full": Profile(
        "full", {"CentreA": 20, "CentreB": 20, "CentreC": 20, "CentreD": 12}, filters=(8, 16, 32, 64, 128), epochs=15, recipe_minutes=90,
    ),
}  # fmt: skip


def find(folder: str | os.PathLike) -> pd.DataFrame:
    """Subjects of a folder in the challenge's layout.

    ``<centre>/<subject>/pre/FLAIR.nii.gz`` (a centre may have folders of its own, as Amsterdam's scanners), ``wmh.nii.gz``, and
    where there is one ``result.nii.gz`` of somebody else's method.

    Returns
    -------
    DataFrame
        Index subject (``centre/subject``); columns centre, flair, mask, result (paths; None where missing).

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing or holds no FLAIR.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA the folder with one folder a centre")
    rows = []
    for path in sorted(folder.glob("**/pre/FLAIR.nii.gz")):
        home = path.parent.parent
        parts = home.relative_to(folder).parts
        beside = {name: home / f"{file}.nii.gz" for name, file in (("mask", "wmh"), ("result", "result"))}
        rows.append({
            "subject": "/".join(parts), "centre": "/".join(parts[:-1]) or folder.name, "flair": path,
            **{name: p if p.is_file() else None for name, p in beside.items()},
        })  # fmt: skip
    if not rows:
        raise ValueError(f"{folder}: no FLAIR found; expected <centre>/<subject>/pre/FLAIR.nii.gz and wmh.nii.gz")
    return pd.DataFrame(rows).set_index("subject")


def read(row: pd.Series) -> tuple[Nifti1Image, Nifti1Image | None]:
    """FLAIR (float32) and mask (uint8, 0, 1 and 2; None where there is none), RAS+, axial slices along the third axis.

    Raises
    ------
    ValueError
        When the FLAIR is not one 3D volume or is constant, the mask has other labels than 0, 1 and 2, or both lie on
        different grids (names the file).
    """
    image = check_flair(volumes.load(row["flair"]), row["flair"])
    if row["mask"] is None:
        return volumes.canonical(image), None
    mask = volumes.load(row["mask"])
    if np.array_equal(np.unique(volumes.array(mask)), (0, 255)):
        raise ValueError(f"{row['mask']}: holds 0 and 255; the challenge's masks hold 0, 1 and 2; divide by 255")
    mask = labels.as_labels(mask, {"wmh": 1, "other pathology": OTHER}, row["mask"])
    volumes.check_same_grid(image, mask, (row["flair"], row["mask"]))
    return volumes.canonical(image), volumes.canonical(mask)


def check_flair(image: Nifti1Image, name: object) -> Nifti1Image:
    """``image`` as float32 if it is one 3D volume with something in it."""
    if image.ndim != 3:
        raise ValueError(f"{name}: shape {image.shape} is not one 3D scan; give one volume")
    data = volumes.array(image, np.float32)
    if data.min() == data.max():
        raise ValueError(f"{name}: every voxel is {data.flat[0]:g}, so there is nothing to segment; check the file")
    return volumes.like(data, image)


def split(table: pd.DataFrame, *, external: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Subjects that train, select and test, even over the centres, and those of external centres, which only test.

    Of each internal centre a tenth (at least one) selects and a tenth (at least one) tests, as 48, 6 and 6 of the report's sixty; subjects
    without a mask are left out.

    Raises
    ------
    ValueError
        When an internal centre has fewer than three subjects with masks, or every centre is external.
    """
    external = list(EXTERNAL if external is None else external)
    known = table[table["mask"].notna()]
    parts: dict[str, list[str]] = {side: [] for side in ("train", "selection", "test")}
    inside = [c for c in dict.fromkeys(known["centre"]) if c not in external]
    if not inside:
        raise ValueError(f"every centre ({', '.join(sorted(set(known['centre'])))}) is external, so nobody trains")
    for centre in inside:
        names = sorted(known.index[known["centre"] == centre], key=lambda s: (len(s), s))
        if len(names) < 3:
            raise ValueError(
                f"{centre}: {len(names)} subjects with masks are too few: one trains, one selects, one is scored"
            )
        drawn = [names[i] for i in np.random.default_rng(len(names)).permutation(len(names))]
        n = max(1, len(drawn) // 10)
        parts["test"] += drawn[:n]
        parts["selection"] += drawn[n : 2 * n]
        parts["train"] += drawn[2 * n :]
    return {side: sorted(s) for side, s in parts.items()} | {
        "external": sorted(known.index[known["centre"].isin(external)])
    }


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms or the challenge's data, and where results go. See :func:`common.start`."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    return common.start("wmh", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse)
