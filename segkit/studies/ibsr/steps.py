"""00 preprocessing, 01 padding, 02 downsampling: each writes files that the next one reads."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import files, intensity, labels, patches, volumes
from segkit.studies import common
from segkit.studies.ibsr.layout import GRID, LABELS, N4_ITERATIONS, find, read


def preprocess(
    data: str | os.PathLike, results: Path, *, n4: bool | str = True, shrink: int = 4, jobs: int = 2
) -> pd.DataFrame:
    """Write ``preprocessed/<subject>_bias_corrected.nii.gz`` for every subject (as the report names them).

    ``n4``: :func:`correct`'s; without, the image is copied. Files that exist are kept if they were made from the
    same source (path, size, time) with the same settings. Returns a row a subject: seconds, coefficient of
    variation of the white matter before and after (labelled subjects).
    """
    table = find(data)
    cases = [
        (row, results / "preprocessed" / f"{subject}_bias_corrected.nii.gz", n4, shrink)
        for subject, row in table.iterrows()
    ]
    rows = common.spread(_preprocess, cases, jobs=jobs, desc="N4" if n4 else "copy")
    return pd.DataFrame(rows, index=table.index)


def correct(image: Nifti1Image, *, n4: bool | str = True, shrink: int = 4) -> Nifti1Image:
    """The bias-corrected scan.

    Parameters
    ----------
    image : Nifti1Image
        3D, skull-stripped.
    n4 : bool or "report"
        Three levels of N4 in the brain; "report": four in Otsu's mask, as the report's code (SimpleITK's default), whose
        finest spline follows the tissue itself; False: the scan as it is.
    """
    if n4 not in (True, False, "report"):
        raise ValueError(f'n4 is {n4!r}; choose of True, False and "report"')
    if n4 == "report":
        return intensity.n4(image, shrink=shrink)
    return intensity.n4(image, volumes.array(image) > 0, shrink=shrink, iterations=N4_ITERATIONS) if n4 else image


def _preprocess(row: pd.Series, path: Path, n4: bool | str, shrink: int) -> dict:
    image, label = read(row)
    begin = time.perf_counter()
    status = Path(row["image"]).stat()
    made = json.dumps(
        [str(Path(row["image"]).resolve()), status.st_size, status.st_mtime_ns, n4, shrink, N4_ITERATIONS]
    )
    note = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    if not path.is_file() or not note.is_file() or note.read_text() != made:
        note.unlink(missing_ok=True)
        volumes.save(correct(image, n4=n4, shrink=shrink), path)
        files.write_text(note, made)
    out = {"set": row["set"], "seconds": time.perf_counter() - begin}
    if label is not None:
        white = volumes.array(label) == LABELS["WM"]
        for when, source in (("before", image), ("after", volumes.load(path))):
            values = volumes.array(source, np.float32)[white]
            out[f"WM variation {when}"] = float(values.std() / values.mean()) if values.size else float("nan")
    return out


def standardise(data: str | os.PathLike, results: Path, *, shape: Sequence[int] = GRID, jobs: int = 2) -> pd.DataFrame:
    """Write images and labels in RAS+ order on one common grid: ``padded/<subject>.nii.gz`` and ``…_seg.nii.gz``.

    Volumes are padded with 0 to ``shape``, the brain where it was in mm; nothing is interpolated. A volume larger than
    ``shape`` is refused.

    Returns
    -------
    DataFrame
        A row a subject: shapes, axis order and spacing on disk and after.
    """
    cases = [(subject, row, results, tuple(shape)) for subject, row in find(data).iterrows()]
    return pd.DataFrame(common.spread(_standardise, cases, jobs=jobs, desc="padding")).set_index("subject")


def _standardise(subject: str, row: pd.Series, results: Path, shape: tuple[int, ...]) -> dict:
    image, label = read(row)
    padded = volumes.pad(volumes.canonical(load_corrected(results, subject)), shape)
    volumes.save(padded, results / "padded" / f"{subject}.nii.gz")
    if label is not None:
        volumes.save(volumes.pad(volumes.canonical(label), shape), results / "padded" / f"{subject}_seg.nii.gz")
    return {
        "subject": subject, "set": row["set"], "shape on disk": _raw_shape(row["image"]), "axes on disk": _axes(image),
        "shape": padded.shape, "axes": _axes(padded), "spacing mm": tuple(round(s, 4) for s in volumes.spacing(padded)),
    }  # fmt: skip


def cut(image: np.ndarray, label: np.ndarray, *, axis: int = 0, size: int = 32, step: int = 32, above: float = 0.3):
    """Patches of slices: those with more than ``above`` of their pixels labelled.

    The defaults are the ``notebook`` preset: planes perpendicular to the first axis, 32 × 32 side by side, more than
    30 % foreground (STUDIES 2b, 2 and 3).

    Returns
    -------
    images (n, size, size), labels (n, size, size)
    """
    box, every = [size] * 3, [step] * 3
    box[axis] = every[axis] = 1
    pieces = [patches.patchify(a, box, every).reshape(-1, size, size) for a in (image, label)]
    keep = patches.foreground_fraction(pieces[1], 2) > above
    return pieces[0][keep], pieces[1][keep]


def extract(data: str | os.PathLike, results: Path, *, jobs: int = 2, **preset) -> pd.DataFrame:
    """Write ``patches/<subject>.npz`` (z-scored float32 patches, uint8 labels) for the labelled subjects.

    ``preset`` goes to :func:`cut`. Returns a row a subject: set, patches, and the share of each tissue.
    """
    table = find(data)
    cases = [(subject, row["set"], results, preset) for subject, row in table[table["label"].notna()].iterrows()]
    return pd.DataFrame(common.spread(_extract, cases, jobs=jobs, desc="patches")).set_index("subject")


def _extract(subject: str, side: str, results: Path, preset: dict) -> dict:
    image, label = load_padded(results, subject)
    x, y = cut(normalise(image), volumes.array(label), **preset)
    with files.atomic(results / "patches" / f"{subject}.npz") as temporary:
        np.savez(temporary, images=x, labels=y)
    share = {name: float((y == value).mean()) if y.size else float("nan") for name, value in LABELS.items()}
    return {"subject": subject, "set": side, "patches": len(y), **share}


def load_corrected(results: Path, subject: str) -> Nifti1Image:
    """The bias-corrected scan that :func:`preprocess` wrote."""
    return volumes.load(common.need(results / "preprocessed" / f"{subject}_bias_corrected.nii.gz", "00_preprocessing"))


def load_padded(results: Path, subject: str) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label (None where there is none) that :func:`standardise` wrote."""
    image = volumes.load(common.need(results / "padded" / f"{subject}.nii.gz", "01_padding"))
    label = results / "padded" / f"{subject}_seg.nii.gz"
    return image, labels.as_labels(volumes.load(label), LABELS, label) if label.is_file() else None


def load_patches(results: Path, subjects: Sequence[str], *, raw: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Patches of several subjects: images (n, size, size, 1) and labels (n, size, size).

    ``raw`` cuts them anew without the z-score, as the report's code has them.
    """
    parts = []
    for subject in subjects:
        if raw:
            image, label = load_padded(results, subject)
            parts.append(cut(volumes.array(image, np.float32), volumes.array(label)))
            continue
        with np.load(
            common.need(results / "patches" / f"{subject}.npz", "02_downsampling"), allow_pickle=False
        ) as part:
            parts.append((part["images"], part["labels"]))
    images, maps = (np.concatenate(p) for p in zip(*parts, strict=True))
    return images[..., None], maps


def normalise(image: Nifti1Image) -> np.ndarray:
    """z-score with mean and standard deviation of the brain (voxels above 0).

    The original fed raw intensities; one real subject is ten times brighter than the rest.
    """
    array = volumes.array(image, np.float32)
    return intensity.zscore(array, array > 0)


def _axes(image: Nifti1Image) -> str:
    return "".join(nib.aff2axcodes(image.affine))


def _raw_shape(path: Path) -> tuple[int, ...]:
    return nib.load(path).shape
