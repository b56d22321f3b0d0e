"""The study's facts: label, profiles, slices and clinical table as they lie on disk, who trains and who is scored."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from segkit.studies import common

LABELS = {"tumour": 1}
CHANNELS = ("pre", "FLAIR", "post")
SITES = {
    "CS": "Thomas Jefferson", "DU": "Henry Ford", "EZ": "North Carolina", "FG": "Case Western", "HT": "Case Western St Joseph's",
}  # fmt: skip
CLUSTERS = (
    "RNASeqCluster", "MethylationCluster", "CNCluster", "miRNACluster", "RPPACluster", "OncosignCluster", "COCCluster",
)  # fmt: skip
RELEASED = "lgg_unet_slices"
SIZE = 128  # pixels a side that networks see
KINDS = ("kaggle_3m_128", "kaggle_3m")  # of a data folder that holds several, in this order
_NAME = re.compile(r"^(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?(?P<copy> ?\(\d+\))?\.tiff?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Steps, layout and scores are the same in all three."""

    name: str
    phantoms: dict[str, int] | None  # None: real data
    minutes: float | None
    epochs: int | None = None
    size: int = SIZE  # pixels a side
    coarse: int = 1  # phantoms are made on a grid so many times coarser
    filters: tuple[int, ...] | None = None  # None: the preset's own
    steps: int = 150  # batches an epoch
    batch_size: int = 16
    learning_rate: float = 2e-3
    cell_minutes: float | None = None  # of comparisons
    lesson_minutes: float | None = None  # of each half of the leakage lesson
    cell_epochs: int | None = None
    compared: tuple[str, ...] = ("lgg_unet", "lgg_bunet", "lgg_resnet50_unet")


PROFILES = {
    "smoke": Profile(
        "smoke", {"patients": 8}, minutes=None, epochs=1, size=32, coarse=4, filters=(4, 8), steps=4, batch_size=8,
        cell_epochs=1, compared=("lgg_unet", "lgg_bunet"),
    ),
    "quick": Profile(
        "quick", {"patients": 24}, minutes=2, size=64, coarse=2, filters=(16, 32, 64), steps=40, cell_minutes=1, lesson_minutes=1,
        compared=("lgg_unet", "lgg_bunet"),
    ),
    "full": Profile("full", None, minutes=45, cell_minutes=45, lesson_minutes=12, steps=300),
}  # fmt: skip


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms or the real data, and where results go. See :func:`common.start`."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    return common.start("lgg", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse)


def slices_folder(folder: str | os.PathLike, kind: str | None = None) -> Path:
    """The folder that holds the patients: ``folder`` itself, or ``kaggle_3m_128`` or ``kaggle_3m`` in it.

    ``kind`` names one of the latter; FileNotFoundError where it is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA the folder kaggle_3m, or the one above it")
    if kind is not None:
        if not (folder / kind).is_dir():
            raise FileNotFoundError(f"{folder / kind}: no such folder; {folder.name} holds {_folders(folder)}")
        return folder / kind
    return next((folder / k for k in KINDS if (folder / k).is_dir()), folder)


def find(folder: str | os.PathLike, *, kind: str | None = None) -> pd.DataFrame:
    """Slices of ``kaggle_3m`` as it lies on disk, paired by name, in numeric order.

    Parameters
    ----------
    folder : path
        ``kaggle_3m`` (``<patient>/<patient>_<n>.tif`` and ``…_<n>_mask.tif``), or a folder that holds it.

    Returns
    -------
    DataFrame
        A row a slice: patient, site, slice (its number), image, mask (paths; None where a patient has no mask at all).
        :func:`excluded` says what was left out (copies "(1)", a mask without image, an image
        without mask in a patient with masks, other files) and of gaps in the numbering, which are kept.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing or holds no slice, or one number stands twice under two spellings.
    """
    place, rows, notes = slices_folder(folder, kind), [], []
    for home in sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")):
        found, left = pair(home)
        rows += found
        notes += left
    if not rows:
        raise ValueError(
            f"{place}: no slice found; expected <patient>/<patient>_<n>.tif, for example TCGA_CS_4941_19960909"
        )
    table = pd.DataFrame(rows)
    table.attrs["excluded"] = notes  # a list, since pandas compares attrs
    return table


def excluded(table: pd.DataFrame) -> pd.DataFrame:
    """What :func:`find` left out or remarked: file, reason."""
    return pd.DataFrame(table.attrs.get("excluded", []), columns=["file", "reason"])


def labelled(table: pd.DataFrame) -> list[str]:
    """Patients of :func:`find` that have masks, sorted."""
    return sorted(table.loc[table["mask"].notna(), "patient"].unique())


def patients_in(folder: Path) -> list[str]:
    """Patients whose slices lie in a folder, by the files' names."""
    found = [_NAME.match(p.name) for p in sorted(folder.iterdir()) if p.is_file()]
    return sorted({m["patient"] for m in found if m is not None and not m["mask"]})


def pair(home: Path, *, name: str | None = None, with_masks: bool = True) -> tuple[list[dict], list[dict]]:
    """Rows (as of :func:`find`) of a folder's patient, and what is left out of it; without masks these are passed over.

    ``name`` is the patient's, by default the folder's.
    """
    name = home.name if name is None else name
    images, masks, notes = {}, {}, []
    for path in sorted(p for p in home.iterdir() if p.is_file() and not p.name.startswith(".")):
        match = _NAME.match(path.name)
        if match is None:
            notes.append({"file": path.name, "reason": "not named <patient>_<n>.tif"})
        elif match["copy"]:
            notes.append({"file": path.name, "reason": "a copy"})
        elif match["patient"] != name:
            notes.append({"file": path.name, "reason": f"another patient's name in folder {home.name}"})
        elif with_masks or not match["mask"]:
            kept, number = masks if match["mask"] else images, int(match["number"])
            if number in kept:
                raise ValueError(f"{path}: slice {number} stands twice ({kept[number].name}); keep one of them")
            kept[number] = path
    for number in sorted(masks.keys() - images.keys()):
        notes.append({"file": masks.pop(number).name, "reason": "a mask without image"})
    if masks:
        for number in sorted(images.keys() - masks.keys()):
            notes.append({"file": images.pop(number).name, "reason": "an image without mask"})
    numbers = sorted(images)
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    if gaps:
        text = ", ".join(map(str, gaps[:8])) + (" …" if len(gaps) > 8 else "")
        notes.append(
            {"file": name, "reason": f"numbers missing in between ({text}); the others are kept as neighbours"}
        )
    site = name.split("_")[1] if name.count("_") >= 2 else ""
    rows = [{"patient": name, "site": site, "slice": n, "image": images[n], "mask": masks.get(n)} for n in numbers]
    return rows, notes


def read_image(path: str | os.PathLike) -> np.ndarray:
    """uint8 (rows, columns, 3): pre, FLAIR, post. A grey image is taken as FLAIR, which then stands in all three channels.

    Raises
    ------
    ValueError
        For a file that cannot be read, is not of 8 bits, or has two or four channels.
    """
    array = _read(path)
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=2)
    if array.shape[2] != 3:
        raise ValueError(f"{path}: has {array.shape[2]} channels; pre, FLAIR and post (or FLAIR alone) are expected")
    return array[..., ::-1]  # OpenCV reads blue first


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """uint8 (rows, columns) of 0 and 1, from 0 and 1 or 0 and 255 (or another single value).

    Raises
    ------
    ValueError
        For several values besides 0, or channels that differ.
    """
    array = _read(path)
    if array.ndim == 3:
        if not all(np.array_equal(array[..., 0], array[..., c]) for c in range(array.shape[2])):
            raise ValueError(f"{path}: the channels differ; a mask is grey. Was it exchanged with an image?")
        array = array[..., 0]
    values = [int(v) for v in np.unique(array) if v]
    if len(values) > 1:
        raise ValueError(
            f"{path}: holds the values {values[:8]}, a mask has one besides 0; binarise it first (grey > 127)"
        )
    return (array > 0).astype(np.uint8)


def _read(path: str | os.PathLike) -> np.ndarray:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError(f"{path}: cannot be read as an image; copy it again")
    if cv2.imcount(str(path)) > 1:
        raise ValueError(f"{path}: holds {cv2.imcount(str(path))} pages, a slice is one; write a file a slice")
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: has {array.dtype} pixels, 8 bits are expected; convert it (0 … 255)")
    return array


def read(table: pd.DataFrame, patient: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Slices (rows, columns, slices, 3) and mask (rows, columns, slices), uint8, of a patient of :func:`find`.

    The mask is None where the patient has none. A channel without any content is taken as a missing sequence, and FLAIR put in.

    Raises
    ------
    ValueError
        For an unknown patient, or slices and masks of different sizes (names the first that differs).
    """
    rows = table[table["patient"] == patient].sort_values("slice")
    if rows.empty:
        raise ValueError(f"patient {patient!r} is not here; there are {sorted(table['patient'].unique())[:5]} …")
    images = [read_image(p) for p in rows["image"]]
    masks = [read_mask(p) for p in rows["mask"] if p is not None]
    for path, array in [*zip(rows["image"], images, strict=True), *zip(rows["mask"], masks, strict=False)]:
        if array.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{path}: {array.shape[:2]} pixels, the patient's first slice has {images[0].shape[:2]}; resize to one size"
            )
    image = np.stack(images, axis=2)
    if not image[..., 1].any():
        raise ValueError(
            f"{rows['image'].iloc[0].parent}: FLAIR, the second channel, is black on every slice; nothing can be found without it"
        )
    for channel in (0, 2):
        if image[..., channel].min() == image[..., channel].max():  # left black: FLAIR stands in, as elsewhere
            image[..., channel] = image[..., 1]
    return image, np.stack(masks, axis=2) if masks else None


def lacking(image: np.ndarray) -> list[str]:
    """Which of pre and post are not there: FLAIR stands in on every slice of :func:`read`'s image."""
    return [said for said, channel in (("pre", 0), ("post", 2)) if np.array_equal(image[..., channel], image[..., 1])]


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """A row a patient: site, slices, with_tumour, size, has_pre, has_post (False where FLAIR stands in on every slice)."""
    rows = []
    for patient in tqdm(list(dict.fromkeys(table["patient"])), desc="reading", leave=False):
        image, mask = read(table, patient)
        without = lacking(image)
        rows.append({
            "patient": patient, "site": table.loc[table["patient"] == patient, "site"].iloc[0], "slices": image.shape[2],
            "with_tumour": None if mask is None else int(mask.any(axis=(0, 1)).sum()), "size": image.shape[:2],
            "has_pre": "pre" not in without, "has_post": "post" not in without,
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("patient")


def diagnoses(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with a column diagnosis: 1 where the slice's mask holds tumour, 0 where not, missing without a mask."""
    found = [None if path is None else int(read_mask(path).any()) for path in table["mask"]]
    return table.assign(diagnosis=pd.array(found, dtype="Int64"))


def clinical(folder: str | os.PathLike) -> pd.DataFrame:
    """``data.csv``: index patient (first twelve characters of a folder's name), the columns as they are; blanks are nan.

    Raises
    ------
    FileNotFoundError, ValueError
        When it is missing, empty, without the columns ``Patient`` and the clusters, or names a patient twice.
    """
    folder = Path(folder)
    places = [
        folder / "data.csv",
        folder / "kaggle_3m" / "data.csv",
        folder.parent / "data.csv",
        folder.parent / "kaggle_3m" / "data.csv",
    ]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{places[0]}: missing, and neither in kaggle_3m nor a folder above; it comes with the data on Kaggle"
        )
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path}: is empty; download it again") from None
    missing = [c for c in ("Patient", *CLUSTERS) if c not in table]
    if missing:
        raise ValueError(f"{path}: lacks the columns {missing}; is it the data.csv of kaggle_3m?")
    if table.empty:
        raise ValueError(f"{path}: names no patient; download it again")
    twice = sorted(table["Patient"][table["Patient"].duplicated()].astype(str).unique())
    if twice:
        raise ValueError(f"{path}: names {twice[:5]} twice; keep one row each")
    return table.set_index("Patient").rename_axis("patient")


def split(patients: Sequence[str], *, fold: int | None = None) -> dict[str, list[str]]:
    """Patients that train, select (epochs, threshold) and test; never slices.

    The study's five folds over the hundred patients (``fold`` 1 to 5; without it the first), where each role has a patient
    here; patients on no list train. Of other patients (phantoms, own data) a fifth tests, in an order that is drawn once, and a tenth of
    the others selects; over the five folds each is tested once.

    Raises
    ------
    ValueError
        For fewer than five patients, a fold outside 1 to 5, or a few of the hundred patients that leave a role without anybody.
    """
    if fold is not None and fold not in range(1, 6):
        raise ValueError(f"fold {fold} does not exist; there are 1 to 5")
    patients = sorted(set(patients))
    parts = ("train", "selection", "test")
    fixed = {part: common.split("lgg", f"fold{fold or 1}_{part}") for part in parts}
    listed = {p for chosen in fixed.values() for p in chosen}
    here = {part: [p for p in chosen if p in patients] for part, chosen in fixed.items()}
    if all(here.values()):
        return here | {"train": sorted([*here["train"], *(p for p in patients if p not in listed)])}
    if any(here.values()):
        empty = [part for part, chosen in here.items() if not chosen]
        raise ValueError(
            f"fold {fold or 1}: none of its {' and '.join(empty)} patients is here; choose another fold, or add them"
        )
    if len(patients) < 5:
        raise ValueError(
            f"{len(patients)} patients are too few: one tests in each of five folds, the others train and select"
        )
    parts = np.array_split(np.random.default_rng(0).permutation(patients), 5)
    test = sorted(map(str, parts[(fold or 1) - 1]))
    others = [str(p) for k, part in enumerate(parts) if k != (fold or 1) - 1 for p in part]
    selection = sorted(others[: max(1, len(patients) // 10)])
    return {"train": sorted(set(others) - set(selection)), "selection": selection, "test": test}


def leave_site_out(table: pd.DataFrame, site: str) -> dict[str, list[str]]:
    """Train on the other sites, test on one; a tenth of the others selects. ``table`` has columns patient and site."""
    by = table.drop_duplicates("patient").set_index("patient")["site"]
    if site not in set(by):
        raise ValueError(f"no patient is of site {site!r}; there are {', '.join(sorted(set(by)))}")
    others = sorted(by.index[by != site])
    if len(others) < 2:
        raise ValueError(f"only {len(others)} patient of another site than {site}: one trains and one selects")
    selection = others[:: max(2, min(10, len(others)))]
    return {
        "train": [p for p in others if p not in selection],
        "selection": selection,
        "test": sorted(by.index[by == site]),
    }


def _folders(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:8]) or "no folder"
