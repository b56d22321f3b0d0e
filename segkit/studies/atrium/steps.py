"""01 padding and picture export, 02 downsampling: each writes files that the next one reads."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from tqdm.auto import tqdm

from segkit import files, intensity, volumes
from segkit.studies import common
from segkit.studies.atrium.layout import FACTOR, SPACING_MM, find, read

MULTIPLE = 32  # in-plane: half of it is divisible by 16, which five levels need


def standardise(data: str | os.PathLike, results: Path, *, shape: Sequence[int] | None = None) -> pd.DataFrame:
    """Write every case in RAS+ order with slices of one shape: ``padded/<case>.nii.gz`` and ``…_label.nii.gz``.

    Nothing is interpolated; slices are padded with the volume's smallest value, labels with 0, and the number of slices stays.

    Parameters
    ----------
    shape : two ints, optional
        Rows and columns, such as the report's (320, 320); default the smallest multiples of 32 that hold every case.

    Returns
    -------
    DataFrame
        A row a case: set, shapes, axis order and spacing on disk and after, volume of the label in ml.
    """
    table = find(data)
    if shape is None:
        sides = np.array([nib.as_closest_canonical(nib.load(p)).shape[:2] for p in table["image"]])
        shape = tuple(int(-(-n // MULTIPLE) * MULTIPLE) for n in sides.max(axis=0))
    rows = []
    for subject, row in tqdm(table.iterrows(), total=len(table), desc="padding"):
        image, label = read(row)
        padded = fit_slices(volumes.canonical(image), shape)
        volumes.save(padded, results / "padded" / f"{subject}.nii.gz")
        ml = float("nan")
        if label is not None:
            volumes.save(fit_slices(volumes.canonical(label), shape), results / "padded" / f"{subject}_label.nii.gz")
            ml = float(volumes.array(label).sum()) * float(np.prod(volumes.spacing(label))) / 1000
        rows.append({
            "subject": subject, "set": row["set"], "shape on disk": tuple(image.shape),
            "axes on disk": "".join(nib.aff2axcodes(image.affine)), "shape": tuple(padded.shape),
            "axes": "".join(nib.aff2axcodes(padded.affine)), "spacing mm": tuple(round(s, 3) for s in volumes.spacing(padded)),
            "atrium ml": round(ml, 1),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("subject")


def fit_slices(image: Nifti1Image, shape: Sequence[int]) -> Nifti1Image:
    """Pad slices to ``shape`` with the volume's smallest value; larger ones are refused by :func:`segkit.volumes.pad`."""
    return volumes.pad(image, (*shape, image.shape[2]), fill=float(volumes.array(image).min()))


def halve(data: str | os.PathLike, results: Path, *, spacing_mm: Sequence[float] = SPACING_MM) -> pd.DataFrame:
    """Write ``downsampled/<case>.npz``: image (float32 z-score) and label (share of each coarse voxel that is atrium).

    The padding is cropped off again: a network that takes any size need not see it, and
    :func:`load_small` puts it back for one that does. Images take the mean of each block. The label's share keeps the border
    finer than a voxel; its majority is what a label on the coarse grid would be.

    Returns
    -------
    DataFrame
        A row a case: shape, spacing in mm, slices with atrium, share of atrium among the voxels.
    """
    table, rows = find(data), []
    for subject, row in tqdm(table.iterrows(), total=len(table), desc="downsampling"):
        own = nib.as_closest_canonical(nib.load(row["image"])).shape[:3]
        image, label = load_padded(results, subject)
        small = working_grid(volumes.crop(image, own), spacing_mm)
        with files.atomic(results / "downsampled" / f"{subject}.npz") as temporary:
            parts = {"image": normalise(volumes.array(small)), "affine": small.affine, "factor": FACTOR}
            if label is not None:
                parts["label"] = volumes.array(working_grid(volumes.crop(label, own), spacing_mm, kind="label"))
            np.savez_compressed(temporary, **parts)
        row = {
            "subject": subject,
            "shape": small.shape,
            "spacing mm": tuple(round(s, 3) for s in volumes.spacing(small)),
        }
        if label is not None:
            row["slices with atrium"] = int((parts["label"] >= 0.5).any(axis=(0, 1)).sum())
            row["share of atrium"] = float((parts["label"] >= 0.5).mean())
        rows.append(row)
    return pd.DataFrame(rows).set_index("subject")


def working_grid(image: Nifti1Image, spacing_mm: Sequence[float], *, kind: str = "image") -> Nifti1Image:
    """What a network sees: voxels of ``spacing_mm`` (resampled where they differ by more than 2 %), joined in blocks of ``FACTOR``.

    Images take the mean of each block; of a label the result is the share of each block that is foreground.
    """
    ratio = np.array(volumes.spacing(image)) / np.array(spacing_mm)
    if np.abs(ratio - 1).max() > 0.02:
        image = volumes.resample(image, spacing_mm=tuple(spacing_mm), kind=kind)
    return volumes.downsample(whole_blocks(image, FACTOR), FACTOR, kind="image")


def whole_blocks(image: Nifti1Image, factor: Sequence[int]) -> Nifti1Image:
    """Pad by a voxel or so, with the smallest value, to a multiple of ``factor``."""
    whole = tuple(-(-n // f) * f for n, f in zip(image.shape, factor, strict=True))
    return volumes.pad(image, whole, fill=float(volumes.array(image).min()))


def load_padded(results: Path, subject: str) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label (None where there is none) that :func:`standardise` wrote."""
    image = volumes.load(common.need(results / "padded" / f"{subject}.nii.gz", "01_padding"))
    label = results / "padded" / f"{subject}_label.nii.gz"
    return image, volumes.load(label) if label.is_file() else None


def load_small(
    results: Path, subjects: Sequence[str], *, shape: Sequence[int] | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image (x, y, z) and label share (x, y, z) of several cases that :func:`halve` wrote.

    ``shape`` (two ints) pads slices to one shape, images with their edge and labels with 0.
    """
    out = {}
    for subject in subjects:
        path = common.need(results / "downsampled" / f"{subject}.npz", "02_downsampling")
        with np.load(path, allow_pickle=False) as part:
            if tuple(part.get("factor", ())) != FACTOR:
                raise ValueError(f"{path}: made with another factor than {FACTOR}; run 02_downsampling again")
            image, label = part["image"], part["label"]
        if shape is not None:
            width = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(shape, image.shape, strict=False)] + [(0, 0)]
            image, label = np.pad(image, width, mode="edge"), np.pad(label, width)
        out[subject] = image, label
    return out


def normalise(array: np.ndarray) -> np.ndarray:
    """z-score with mean and standard deviation of the voxels above the smallest value (the padding has that value)."""
    array = np.asarray(array, np.float32)
    return intensity.zscore(array, array > array.min())


def export(image: Nifti1Image, folder: str | os.PathLike, name: str, *, mask: bool = False) -> list[Path]:
    """Write a volume as one lossless PNG a slice: ``<folder>/<name>_000.png``, …; rows run down, columns to the right.

    Scaled once for the volume, not slice by slice: whole numbers within 0 … 255 are kept as they are (8 bits), so are those within
    0 … 65535 (16 bits); whole numbers from below 0 are moved up so that the smallest is 0; other images are stretched from
    smallest to largest value over 16 bits. A mask becomes 0 and 255.
    """
    array = volumes.array(image)
    if mask:
        array = np.where(array > 0, 255, 0).astype(np.uint8)
    elif np.array_equal(array, np.round(array)) and np.ptp(array.astype(np.float64)) <= 65535 and array.max() <= 65535:
        array = array.astype(np.int64) - min(0, int(array.min()))
        array = array.astype(np.uint8 if array.max() <= 255 else np.uint16)
    else:
        low, high = float(array.min()), float(array.max())
        array = np.round((array - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16)
    written = []
    for k in range(array.shape[2]):
        with files.atomic(Path(folder) / f"{name}_{k:03d}.png") as temporary:
            if not cv2.imwrite(str(temporary), np.ascontiguousarray(array[:, :, k].T[::-1])):
                raise OSError(f"slice {k} could not be written as PNG")
        written.append(Path(folder) / f"{name}_{k:03d}.png")
    return written


def read_export(paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """The array (x, y, slices) of files that :func:`export` wrote."""
    return np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED)[::-1].T for p in paths], axis=-1)
