"""The study's facts: labels, profiles, the data as they lie on disk, who trains and who is scored."""

import dataclasses
import os
from pathlib import Path

import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, volumes
from segkit.studies import common

LABELS = {"CSF": 1, "GM": 2, "WM": 3}
SETS = ("Training_Set", "Validation_Set", "Test_Set")
GRID = (256, 128, 256)
# what the networks saw in training; scans of a quite different voxel size are resampled to it before prediction
SPACING_MM = (0.9375, 1.5, 0.9375)
N4_ITERATIONS = (50, 50, 50)  # a level each; benchmarks/bench_ibsr_n4.py has what chose them
RELEASED = "ibsr_unet2d_4level"


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Spacing, layout and steps are the same in all three."""

    name: str
    phantoms: dict[str, int] | None  # subjects a set; None: real data
    networks: tuple[str, ...]
    minutes: float | None
    epochs: int | None
    coarse: int = 1  # phantoms are made on a grid so many times coarser
    filters: tuple[int, ...] | None = None  # None: the preset's own
    loss: str = "cross_entropy"  # as the report; see segkit.losses
    learning_rate: float = 1e-3
    batch_size: int = 64
    n4_shrink: int = 4
    recipe_minutes: float | None = None  # of our own recipe
    cell_minutes: dict[str, float | None] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("networks", "losses", "ablation", "selection", "folds"))
    )
    recipe_batch: int = 16
    recipe_steps: int = 40  # batches an epoch; the schedule steps once an epoch
    recipe_crop: int | None = 128  # pixels a side of what it learns from; None: whole slices

    @property
    def grid(self) -> tuple[int, ...]:
        """The common grid of 01_padding."""
        return tuple(n // self.coarse for n in GRID)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxels that the profile's networks see."""
        return tuple(s * self.coarse for s in SPACING_MM)


PROFILES = {
    "smoke": Profile(
        "smoke", {"Training_Set": 2, "Validation_Set": 2, "Test_Set": 1}, ("ibsr_unet2d_4level",),
        minutes=None, epochs=1, coarse=2, filters=(4, 8, 8, 8), batch_size=16, n4_shrink=2, recipe_batch=4, recipe_steps=3, recipe_crop=32,
    ),
    # a few hundred steps: the Dice term finds the ventricles in them, which cross-entropy alone does not
    "quick": Profile(
        "quick", {"Training_Set": 4, "Validation_Set": 2, "Test_Set": 1}, ("ibsr_unet2d_4level",), minutes=2, epochs=None,
        loss="cross_entropy_dice", learning_rate=2e-3, batch_size=32, recipe_minutes=1.5, recipe_steps=10,
    ),
    "full": Profile(
        "full", None, ("ibsr_unet2d_4level", "ibsr_unet2d"), minutes=60, epochs=None, recipe_minutes=90,
        cell_minutes={"networks": 60, "losses": 25, "ablation": 8, "selection": 20, "folds": 30},
    ),
}  # fmt: skip


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms or the real data, and where results go. See :func:`common.start`."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    return common.start(
        "ibsr", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse
    )


def find(folder: str | os.PathLike) -> pd.DataFrame:
    """Subjects of a data folder.

    Returns
    -------
    DataFrame
        Index subject; columns set, image, label (path or None).

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing or holds none of the sets, an image or a training label is missing, or a subject
        stands in two sets.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA the folder that holds {', '.join(SETS)}")
    rows = []
    for name in SETS:
        for place in sorted(p for p in (folder / name).glob("[!.]*") if p.is_dir()):
            image, label = place / f"{place.name}.nii.gz", place / f"{place.name}_seg.nii.gz"
            if not image.is_file():
                raise FileNotFoundError(f"{image}: missing; each subject's folder holds <subject>.nii.gz")
            if name == "Training_Set" and not label.is_file():
                raise FileNotFoundError(
                    f"{label}: missing; a training subject needs its label, or belongs into Test_Set"
                )
            rows.append(
                {"subject": place.name, "set": name, "image": image, "label": label if label.is_file() else None}
            )
    if not rows:
        raise ValueError(
            f"{folder}: no subject found; expected {'/<subject>/, '.join(SETS)}/<subject>/ (see segkit.studies.ibsr)"
        )
    table = pd.DataFrame(rows)
    twice = sorted(table["subject"][table["subject"].duplicated()].unique())
    if twice:
        raise ValueError(f"{folder}: subjects {twice} stand in two sets; keep each in one")
    return table.set_index("subject")


def read(row: pd.Series) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label of a row of :func:`find`, checked: same grid, label values of the table."""
    image = volumes.load(row["image"])
    if row["label"] is None:
        return image, None
    label = labels.as_labels(volumes.load(row["label"]), LABELS, row["label"])
    volumes.check_same_grid(image, label, (str(row["image"]), str(row["label"])))
    return image, label


def split(table: pd.DataFrame) -> dict[str, list[str]]:
    """Subjects that train, select (epochs and recipes) and validate.

    The selection subjects are the fixed ones of the study where present (IBSR_16 and IBSR_18), else the last of the
    training set.
    """
    training = list(table.index[table["set"] == "Training_Set"])
    validation = list(table.index[(table["set"] == "Validation_Set") & table["label"].notna()])
    if len(training) < 2:
        raise ValueError(f"{len(training)} training subject is too few: one trains and one selects; add subjects")
    fixed = [s for s in training if s in common.split("ibsr", "selection")]
    selection = fixed if fixed and len(fixed) < len(training) else training[-1:]
    return {"train": [s for s in training if s not in selection], "selection": selection, "validation": validation}
