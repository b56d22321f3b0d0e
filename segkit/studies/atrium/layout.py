"""The study's facts: label, profiles, the data as they lie on disk, who trains and who is scored."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, volumes
from segkit.studies import common

LABELS = {"left atrium": 1}
# the header of the volumes that the released model learned from; other scans are resampled to it
SPACING_MM = (0.625, 0.625, 0.625)
FACTOR = (2, 2, 2)  # networks see a grid of half the resolution
REPORT_GRID, REPORT_MM = (320, 320), 1.25  # slices of the report, and (from memory of Task02_Heart) their pixels
RELEASED = "atrium_unet3d"
CHALLENGE = (
    "2018 Atrial Segmentation Challenge, volumes cropped around the atrium (with the help of the truth), not the report's "
    "2013 scans: easier than full scans."
)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Steps, layout and scores are the same in all three."""

    name: str
    phantoms: dict[str, int] | None  # None: real data
    network: str  # the recipe that is trained and scored
    minutes: float | None
    epochs: int | None = None
    spacing_mm: tuple[float, ...] = SPACING_MM
    filters: tuple[int, ...] | None = None  # None: the preset's own
    box: tuple[int, ...] = (96, 80, 40)  # what a training sample holds, in voxels of the working grid
    steps: int = 84  # batches an epoch
    learning_rate: float = 2e-3
    coarse: int = 1
    cell_epochs: tuple[int, int] = (3, 20)  # few and many, in the rotation experiment
    cell_seeds: tuple[int, ...] = (0, 1, 2)


PROFILES = {
    "smoke": Profile(
        "smoke", {"Tr": 4}, RELEASED, minutes=None, epochs=2, spacing_mm=(5.0, 5.0, 7.0), filters=(4, 8),
        box=(24, 24, 8), steps=3, coarse=4, cell_epochs=(1, 1), cell_seeds=(0,),
    ),
    "quick": Profile(
        "quick", {"Tr": 10}, RELEASED, minutes=1.5, spacing_mm=(1.25, 1.25, 1.75), filters=(8, 16, 32, 64),
        box=(80, 64, 32), steps=28, cell_epochs=(1, 3), cell_seeds=(0,),
    ),
    "full": Profile("full", None, RELEASED, minutes=9),
}  # fmt: skip


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms or the real data, and where results go. See :func:`common.start`."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    return common.start(
        "atrium", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse
    )


def find(folder: str | os.PathLike) -> pd.DataFrame:
    """Cases of a folder in the Medical Segmentation Decathlon's layout.

    Returns
    -------
    DataFrame
        Index subject; columns set ("Tr" or "Ts"), image, label (path or None), in the order of the names.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder or ``dataset.json`` is missing or unreadable, a file that it names is missing, a training case has
        no label, a case stands twice.

    References
    ----------
    Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022).
    """
    folder = Path(folder)
    listing = folder / "dataset.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA the folder that holds dataset.json and imagesTr")
    if not listing.is_file():
        raise FileNotFoundError(f"{listing}: missing; the Decathlon's layout has it beside imagesTr and labelsTr")
    try:
        content = json.loads(listing.read_text(encoding="utf-8-sig"))
        pairs = [(entry.get("image"), entry.get("label"), "Tr") for entry in content["training"]]
        pairs += [
            (entry if isinstance(entry, str) else entry["image"], None, "Ts") for entry in content.get("test", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{listing}: cannot be read ({error}); it needs "training": [{{"image": …, "label": …}}, …]'
        ) from None
    rows = []
    for image, label, kind in pairs:
        if not image:
            raise ValueError(f"{listing}: a case has no image; give each entry one")
        name = Path(image).name.removesuffix(".gz").removesuffix(".nii")
        if kind == "Tr" and not label:
            raise ValueError(f'{listing}: training case {name} has no label; add it, or move the case to "test"')
        paths = [folder / image, None if label is None else folder / label]
        for path in paths:
            if path is not None and not path.is_file():
                raise FileNotFoundError(
                    f"{path}: missing, although {listing.name} names it; restore it or drop the case"
                )
        rows.append({"subject": name, "set": kind, "image": paths[0], "label": paths[1]})
    if not rows:
        raise ValueError(f"{listing}: names no case; add them under training")
    table = pd.DataFrame(rows).sort_values("subject", kind="stable")
    twice = sorted(table["subject"][table["subject"].duplicated()].unique())
    if twice:
        raise ValueError(f"{listing}: cases {twice} stand twice; keep one entry each")
    return table.set_index("subject")


def read(row: pd.Series) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label of a row of :func:`find`, checked: three axes, more than one slice, same grid, a mask of two values.

    A mask of 0 and one other value (255, as exported pictures have it) becomes 0 and 1.

    Raises
    ------
    ValueError
        Names the file, what is wrong and the mend.
    """
    image = check_scan(volumes.load(row["image"]), row["image"])
    if row["label"] is None:
        return image, None
    label = labels.as_labels(volumes.load(row["label"]), None, row["label"])
    values = [int(v) for v in np.unique(volumes.array(label)) if v]
    if len(values) > 1:
        raise ValueError(
            f"{row['label']}: holds the values {values[:8]}, a mask has one besides 0; binarise it first (grey > 127)"
        )
    if not values:
        raise ValueError(
            f"{row['label']}: holds no left atrium; give the right label, or take the case out of training"
        )
    volumes.check_same_grid(image, label, (str(row["image"]), str(row["label"])))
    return image, volumes.like(labels.binarise(volumes.array(label), values), label)


def check_scan(image: Nifti1Image, name: object) -> Nifti1Image:
    """The scan itself, when it is one volume of several slices."""
    if len(image.shape) != 3:
        raise ValueError(f"{name}: shape {image.shape} is not one 3D volume; give a single scan, not a series")
    if min(image.shape) < 4:
        raise ValueError(
            f"{name}: shape {image.shape} has too few slices to find an atrium in; give the whole stack, at least 4 slices"
        )
    array = volumes.array(image)
    if array.min() == array.max():
        raise ValueError(f"{name}: all voxels are {array.flat[0]}; the scan is empty")
    return image


def split(table: pd.DataFrame, *, fold: int | None = None) -> dict[str, list[str]]:
    """Cases that train, select (epochs, recipes) and test.

    Without ``fold``: the study's fixed roles where each role has a case here, and cases on no list train; else (phantoms,
    other data) the last fifth tests and the case before selects. ``fold`` 1 to 5: the folds over all twenty cases.

    Raises
    ------
    ValueError
        For fewer than three labelled cases, or a fold of data without the twenty cases (names those that are missing).
    """
    known = list(table.index[table["label"].notna()])
    parts = ("train", "selection", "test")
    names = parts if fold is None else tuple(f"fold{fold}_{p}" for p in parts)
    fixed = {part: common.split("atrium", name) for part, name in zip(parts, names, strict=True)}
    listed = [s for chosen in fixed.values() for s in chosen]
    if fold is not None:
        missing = [s for s in listed if s not in known]
        if missing:
            raise ValueError(
                f"the folds are lists of twenty cases, of which {sorted(missing)[:8]} are not here; add them"
            )
        return fixed
    here = {part: [s for s in chosen if s in known] for part, chosen in fixed.items()}
    if all(here.values()):
        here["train"] += [s for s in known if s not in listed]
        return here
    if len(known) < 3:
        raise ValueError(f"{len(known)} labelled cases are too few: at least one trains, one selects, one tests")
    test = max(1, len(known) // 5)
    return {"train": known[: -test - 1], "selection": known[-test - 1 : -test], "test": known[-test:]}
