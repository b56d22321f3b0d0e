"""01 padding and intensities, 02 downsampling: each writes files that the next one reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

import albumentations
import cv2
import nibabel as nib
import numpy as np
import pandas as pd
from skimage.filters import threshold_otsu
from tqdm.auto import tqdm

from segkit import files, intensity, volumes
from segkit.studies import common
from segkit.studies.lgg.layout import SIZE, read

LOW, HIGH = 10, 99  # percentiles that intensities are clipped to

# the report's augmentations (section on Albumentations; values of its code), each as it is at full strength for a gallery
TRANSFORMS: dict[str, Callable[[int], albumentations.BasicTransform]] = {
    "horizontal flip": lambda size: albumentations.HorizontalFlip(p=1),
    "vertical flip": lambda size: albumentations.VerticalFlip(p=1),
    "transpose": lambda size: albumentations.Transpose(p=1),
    "rotate by 90°": lambda size: albumentations.RandomRotate90(p=1),
    "shift, scale, rotate": lambda size: albumentations.Affine(
        translate_percent=(-0.01, 0.01), scale=(0.96, 1.04), rotate=(0, 0), p=1
    ),
    "random sized crop": lambda size: albumentations.RandomSizedCrop((size // 2, size), (size, size), p=1),
    "resize": lambda size: albumentations.Resize(size // 2, size // 2, p=1),
    "normalise": lambda size: albumentations.Normalize(p=1),
}


def pad_square(array: np.ndarray, *, fill: float = 0) -> np.ndarray:
    """Rows and columns padded on both sides to a square; further axes stay."""
    side = max(array.shape[:2])
    width = [((side - n) // 2, side - n - (side - n) // 2) for n in array.shape[:2]]
    return np.pad(array, width + [(0, 0)] * (array.ndim - 2), constant_values=fill)


def resize(array: np.ndarray, shape: Sequence[int], *, kind: str = "image") -> np.ndarray:
    """Rows and columns to ``shape``, slice by slice: images float32 by area mean (smaller) or linearly (larger).

    A mask (``kind="mask"``) is set where at least half of a pixel is.
    """
    if tuple(array.shape[:2]) == tuple(shape):
        return array.astype(np.uint8 if kind == "mask" else np.float32)
    smaller = shape[0] <= array.shape[0] and shape[1] <= array.shape[1]
    flat = np.asarray(array, np.float32).reshape(*array.shape[:2], -1)
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    planes = [cv2.resize(flat[..., k], (shape[1], shape[0]), interpolation=how) for k in range(flat.shape[2])]
    out = np.stack(planes, axis=-1).reshape(*shape, *array.shape[2:])
    return (out >= 0.5).astype(np.uint8) if kind == "mask" else out


def normalise(image: np.ndarray, *, how: str = "tissue", clip: tuple[float, float] = (LOW, HIGH)) -> np.ndarray:
    """Each channel of (rows, columns, slices, channels) clipped to its percentiles in the volume, then brought to one scale; float32.

    Parameters
    ----------
    how : {"tissue", "zscore"}
        "tissue": background -2 and the head's median 0, so that healthy tissue is the same number in every patient, however much air
        is around the head and however bright the fat; "zscore": mean and deviation of the volume.

    References
    ----------
    Buda et al. 2019 bring the histogram's peak to one value, which is the same thought (``preprocessing3D.m`` of their code).
    """
    scale = {"tissue": tissue_scale, "zscore": intensity.zscore}
    if how not in scale:
        raise ValueError(f"no normalisation is called {how!r}; choose tissue or zscore")
    clipped = (intensity.percentile_clip(image[..., c], *clip) for c in range(image.shape[-1]))
    return np.stack([scale[how](channel) for channel in clipped], axis=-1)


def tissue_scale(array: np.ndarray) -> np.ndarray:
    """2 · (value − median) / (median − darkest), the median taken over the head (voxels above .6 of Otsu's threshold); float32."""
    array = np.asarray(array, np.float32)
    dark = float(array.min())
    if float(array.max()) == dark:
        return np.zeros_like(array)
    above = array - dark
    middle = float(np.median(above[above > 0.6 * threshold_otsu(above.ravel())]))
    return 2 * (above / np.float32(middle) - 1)


def correct_bias(image: np.ndarray, *, shrink: int = 2) -> np.ndarray:
    """N4 on each channel of (rows, columns, slices, channels). Pixels are taken as cubes, since no voxel size is known."""
    out = [
        volumes.array(
            intensity.n4(
                nib.Nifti1Image(np.ascontiguousarray(image[..., c], dtype=np.float32), np.eye(4)), shrink=shrink
            )
        )
        for c in range(image.shape[-1])
    ]
    return np.stack(out, axis=-1)


def standardise(table: pd.DataFrame, results: Path, *, n4: bool = False) -> pd.DataFrame:
    """Write every patient's slices as one square stack, ``padded/<patient>.npz``: image (uint8, or float32 after N4) and mask.

    Returns
    -------
    DataFrame
        A row a patient: slices, size on disk, size, slices and pixels with tumour.
    """
    rows = []
    for patient in tqdm(list(dict.fromkeys(table["patient"])), desc="padding"):
        image, mask = read(table, patient)
        square = pad_square(correct_bias(image) if n4 else image)
        parts = {"image": square, "shape": image.shape[:2]}
        row = {"patient": patient, "slices": image.shape[2], "size on disk": image.shape[:2], "size": square.shape[:2]}
        if mask is not None:
            parts["mask"] = pad_square(mask)
            row |= {"with tumour": int(mask.any(axis=(0, 1)).sum()), "tumour pixels": int(mask.sum())}
        with files.atomic(results / "padded" / f"{patient}.npz") as temporary:
            np.savez_compressed(temporary, **parts)
        rows.append(row)
    return pd.DataFrame(rows).set_index("patient")


def downsample(patients: Sequence[str], results: Path, *, size: int = SIZE) -> pd.DataFrame:
    """Write ``downsampled/<patient>.npz`` for stacks of :func:`standardise`: ``size`` pixels a side, normalised float16, and the mask.

    Returns
    -------
    DataFrame
        A row a patient: size before and after, Dice of the mask brought back to its own size with the mask itself: what no model
        on this grid can pass.
    """
    rows = []
    for patient in tqdm(patients, desc="downsampling"):
        image, mask = load(results, patient, step="padded")
        small = normalise(resize(image, (size, size)))
        parts = {"image": small.astype(np.float16), "made": made(size)}
        row = {"patient": patient, "size before": image.shape[:2], "size": small.shape[:2]}
        if mask is not None:
            parts["mask"] = resize(mask, (size, size), kind="mask")
            back = resize(parts["mask"], mask.shape[:2], kind="mask")
            row["ceiling"] = float(2 * (back & mask).sum() / max(1, back.sum() + mask.sum()))
        with files.atomic(results / "downsampled" / f"{patient}.npz") as temporary:
            np.savez_compressed(temporary, **parts)
        rows.append(row)
    return pd.DataFrame(rows).set_index("patient")


def made(size: int) -> str:
    """What :func:`downsample` writes beside a stack: the settings that it was made with."""
    return f"{size} pixels, percentiles {LOW} to {HIGH}, tissue"


def is_current(path: Path, size: int) -> bool:
    """Whether ``path`` was written by :func:`downsample` with the present settings."""
    if not path.is_file():
        return False
    with np.load(path, allow_pickle=False) as part:
        return "made" in part and str(part["made"]) == made(size)


def load(results: Path, patient: str, *, step: str = "downsampled") -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask (None where there is none) that a step wrote."""
    first = {"padded": "01_padding", "downsampled": "02_downsampling"}[step]
    with np.load(common.need(results / step / f"{patient}.npz", first), allow_pickle=False) as part:
        return part["image"], part.get("mask")


def upright(array: np.ndarray) -> np.ndarray:
    """Rows and columns as the pictures of :mod:`segkit.plots` want them: first axis to the right, second up."""
    return np.swapaxes(array, 0, 1)[:, ::-1]
