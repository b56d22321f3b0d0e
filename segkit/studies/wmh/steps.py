"""01 padding, 02 downsampling and intensities: what networks see, and the way back to the native grid."""

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
from segkit.studies.wmh.layout import OTHER, SIZE, read

INTENSITIES = ("maximum", "percentile", "zscore")


def scale(data: np.ndarray, how: str = "maximum") -> np.ndarray:
    """Intensities of a volume, float32.

    "maximum": divided by the largest value, as reported (one bright vessel darkens all else); "percentile": 0 … 1 between 0 and the
    99.5th percentile of the non-zero voxels, clipped; "zscore": by mean and deviation of the non-zero voxels, 0 outside of them.
    """
    if how not in INTENSITIES:
        raise ValueError(f"no scaling is called {how!r}; choose one of {', '.join(INTENSITIES)}")
    data = np.asarray(data, np.float32)
    inside = data != 0
    if not inside.any():
        raise ValueError("every voxel is 0; check the scan")
    if how == "maximum":
        return data / max(float(data.max()), 1e-6)
    if how == "percentile":
        return np.clip(data / max(float(np.percentile(data[inside], 99.5)), 1e-6), 0, 1)
    return np.where(inside, intensity.zscore(data, inside), 0).astype(np.float32)


def pad_square(image: Nifti1Image) -> Nifti1Image:
    """Slices padded with zeros to a square; the affine moves along."""
    side = max(image.shape[:2])
    return volumes.pad(image, (side, side, image.shape[2]))


def resize(data: np.ndarray, size: int, *, kind: str) -> np.ndarray:
    """Slices of (x, y, z) to ``size`` × ``size``: images by area mean (smaller) or linearly (larger), masks by nearest neighbour."""
    smaller = size <= min(data.shape[:2])
    how = cv2.INTER_NEAREST_EXACT if kind == "label" else cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    planes = [
        cv2.resize(np.ascontiguousarray(data[..., k]), (size, size), interpolation=how) for k in range(data.shape[2])
    ]
    return np.stack(planes, axis=-1)


def back(soft: np.ndarray, original: Nifti1Image) -> np.ndarray:
    """Probabilities (size, size, z) of :func:`resize`'s slices on the native grid of the RAS+ ``original``: enlarged, padding cut off."""
    side = max(original.shape[:2])
    large = resize(np.asarray(soft, np.float32), side, kind="image")
    start = [(side - n) // 2 for n in original.shape[:2]]
    return large[start[0] : start[0] + original.shape[0], start[1] : start[1] + original.shape[1]]


def standardise(table: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Step 01: write every subject in RAS+ with square slices, ``padded/<centre>/<subject>.nii.gz`` and ``…_wmh.nii.gz``.

    Returns
    -------
    DataFrame
        A row a subject: centre, shape and voxel size before, side after, lesion ml, positive class density in per cent, other_ml.
    """
    rows = []
    for subject, row in tqdm(list(table.iterrows()), desc="padding"):
        image, mask = read(row)
        square = pad_square(image)
        volumes.save(square, results / "padded" / f"{subject}.nii.gz")
        facts = {
            "subject": subject, "centre": row["centre"], "shape": image.shape,
            "mm": tuple(round(s, 2) for s in volumes.spacing(image)), "side": square.shape[0],
        }  # fmt: skip
        if mask is not None:
            volumes.save(pad_square(mask), results / "padded" / f"{subject}_wmh.nii.gz")
            data, ml = volumes.array(mask), float(np.prod(volumes.spacing(mask))) / 1000
            facts |= {
                "lesion_ml": round(float((data == 1).sum() * ml), 2), "pcd_percent": round(100 * float((data == 1).mean()), 4),
                "other_ml": round(float((data == OTHER).sum() * ml), 2),
            }  # fmt: skip
        rows.append(facts)
    return pd.DataFrame(rows).set_index("subject")


def downsample(subjects: Sequence[str], results: Path, *, size: int = SIZE, how: str = "maximum") -> pd.DataFrame:
    """Step 02: write ``downsampled/<centre>/<subject>.npz``: slices of ``size`` pixels, scaled, float16, and the mask (0, 1, 2).

    Returns
    -------
    DataFrame
        A row a subject: side before and after, and the ceiling: Dice with itself of the mask brought down and back, as a prediction
        travels (missing where there is no lesion).
    """
    rows = []
    for subject in tqdm(subjects, desc="downsampling"):
        image = volumes.load(common.need(results / "padded" / f"{subject}.nii.gz", "01_padding"))
        small = resize(scale(volumes.array(image, np.float32), how), size, kind="image")
        parts = {"image": small.astype(np.float16), "how": how}
        row = {"subject": subject, "side before": image.shape[0], "side": size}
        path = results / "padded" / f"{subject}_wmh.nii.gz"
        if path.is_file():
            mask = volumes.array(volumes.load(path))
            parts["mask"] = resize(mask, size, kind="label")
            again = resize((parts["mask"] == 1).astype(np.float32), image.shape[0], kind="image") >= 0.5
            both = again.sum() + (mask == 1).sum()
            row["ceiling"] = float(2 * (again & (mask == 1)).sum() / both) if both else np.nan
        with files.atomic(results / "downsampled" / f"{subject}.npz") as temporary:
            np.savez_compressed(temporary, **parts)
        rows.append(row)
    return pd.DataFrame(rows).set_index("subject")


def load(results: Path, subject: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Slices (size, size, z) and mask (None where there is none) that 02 wrote."""
    with np.load(
        common.need(results / "downsampled" / f"{subject}.npz", "02_downsampling"), allow_pickle=False
    ) as part:
        return part["image"], part.get("mask")


def how_of(results: Path, subject: str) -> str:
    """The scaling that 02 used."""
    with np.load(
        common.need(results / "downsampled" / f"{subject}.npz", "02_downsampling"), allow_pickle=False
    ) as part:
        return str(part["how"])


def as_image(data: np.ndarray) -> Nifti1Image:
    """An array as an image without a place in mm."""
    return nib.Nifti1Image(np.asarray(data), np.eye(4))
