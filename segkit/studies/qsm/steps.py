"""01 padding and 02 downsampling under the report's file names, and the way back; what 03 and 04 load."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import LABELS, file_names

JOBS = 2
CUBES = 2  # of a subject that are written at a time: of 512 voxels a side a map takes half a gigabyte
BIG = 512  # voxels a side of cubes that are worked on one at a time, so that a laptop's memory holds them


def pad_all(
    table: pd.DataFrame, results: Path, *, dim: int, values: Mapping[str, Sequence[int]], jobs: int = JOBS
) -> pd.DataFrame:
    """Step 01: write each subject as cubes of ``dim`` voxels a side, ``padded/<subject>/`` with the report's file names.

    Map with background, brain mask, masked map, and a binary mask a nucleus (left and right merged).

    Parameters
    ----------
    table : DataFrame
        Of :func:`segkit.studies.qsm.find`.
    values : dict
        Left and right value of each nucleus.

    Returns
    -------
    DataFrame
        A row a subject: shape and spacing before, shape after, ml of the brain and of each nucleus.
    """
    cases = [(subject, row, results, dim, values) for subject, row in table.iterrows()]
    rows = common.spread(_pad_one, cases, jobs=jobs if dim < BIG else 1, desc="padding")
    return pd.DataFrame(rows).set_index("subject")


def _pad_one(subject: str, row: pd.Series, results: Path, dim: int, values) -> dict:
    qsm, masks = read(row, values)
    if max(qsm.shape) > dim:
        raise ValueError(
            f"{row['qsm']}: {qsm.shape} voxels do not fit a cube of {dim}; choose a larger one, or crop the map"
        )
    ml = float(np.prod(volumes.spacing(qsm))) / 1000
    sizes = {f"{name}_ml": round(float(volumes.array(mask).sum()) * ml, 2) for name, mask in masks.items()}
    told = {"subject": subject, "shape": qsm.shape, "mm": volumes.spacing(qsm)[0], "cube": dim, **sizes}
    parts = {"w_bg": qsm, "masked": volumes.like(volumes.array(qsm) * volumes.array(masks["brain"]), qsm)}
    parts |= {"brain_mask" if name == "brain" else name: mask for name, mask in masks.items()}
    del qsm, masks

    def write(name: str) -> None:
        volumes.save(
            volumes.pad(parts.pop(name), (dim, dim, dim)), results / "padded" / subject / file_names(dim)[name]
        )

    with ThreadPoolExecutor(CUBES) as pool:
        list(pool.map(write, list(parts)))
    return told


def read(row: pd.Series, values: Mapping[str, Sequence[int]]) -> tuple[Nifti1Image, dict[str, Nifti1Image]]:
    """Map (float32, ppm) and masks (brain, and each nucleus where there are labels) of a subject, in RAS+.

    Raises
    ------
    ValueError
        When the files lie on different grids, the brain mask is not of 0 and 1 or empty, or a label of the list is missing (names
        the file).
    """
    qsm = volumes.canonical(volumes.load(row["qsm"]))
    brain = volumes.canonical(labels.as_labels(volumes.load(row["brain_mask"]), {"brain": 1}, row["brain_mask"]))
    volumes.check_same_grid(qsm, brain, (row["qsm"], row["brain_mask"]))
    if not volumes.array(brain).any():
        raise ValueError(f"{row['brain_mask']}: is empty; make it anew (00_registration)")
    masks = {"brain": brain}
    if row["labels"] is not None:
        image = volumes.canonical(labels.as_labels(volumes.load(row["labels"]), None, row["labels"]))
        volumes.check_same_grid(qsm, image, (row["qsm"], row["labels"]))
        data = volumes.array(image)
        labels.check_values(data, values, row["labels"])
        masks |= {name: volumes.like(mask, image) for name, mask in labels.split(data, values).items()}
    return volumes.like(volumes.array(qsm, np.float32), qsm), masks


def downsample_all(subjects: Sequence[str], results: Path, *, dims: Sequence[int], jobs: int = JOBS) -> pd.DataFrame:
    """Step 02: a half, a quarter, an eighth of the cubes of step 01: maps by mean, masks by majority of each block, ``padded/<subject>/``.

    Returns
    -------
    DataFrame
        A row a subject and dimension: voxel size in mm, and each nucleus's volume in ml.
    """
    cases = [(s, results, tuple(dims)) for s in subjects]
    rows = common.spread(_downsample_one, cases, jobs=jobs if dims[0] < BIG else 1, desc="downsampling")
    return pd.DataFrame([row for part in rows for row in part]).set_index(["subject", "dim"])


def _downsample_one(subject: str, results: Path, dims: tuple[int, ...]) -> list[dict]:
    folder = results / "padded" / subject
    first = {name: folder / file for name, file in file_names(dims[0]).items() if (folder / file).is_file()}
    common.need(folder / file_names(dims[0])["w_bg"], "01_padding")

    def write(name: str) -> dict[int, dict]:
        cube, told = volumes.load(first[name]), {}
        for dim in dims:
            kind = "image" if name in ("w_bg", "masked") else "label"
            small = cube if dim == dims[0] else volumes.downsample(cube, dims[0] // dim, kind=kind)
            if dim != dims[0]:
                volumes.save(small, folder / file_names(dim)[name])
            told[dim] = {"mm": round(volumes.spacing(small)[0], 3)}
            if name in LABELS:
                ml = float(volumes.array(small).sum() * np.prod(volumes.spacing(small))) / 1000
                told[dim][f"{name}_ml"] = round(ml, 3)
        return told

    rows: dict[int, dict] = {dim: {"subject": subject, "dim": dim} for dim in dims}
    with ThreadPoolExecutor(CUBES) as pool:
        for told in pool.map(write, first):
            for dim, row in told.items():
                rows[dim] |= row
    return list(rows.values())


def reconstruct(label_map: Nifti1Image, original: Nifti1Image) -> Nifti1Image:
    """A label map (or mask) of a working cube on the grid of the ``original``: each voxel a block again, the padding cut off.

    Any grid will do; where the cube's voxels are blocks of the original's, this is exact.
    """
    return volumes.resample(label_map, like=original, kind="label")


def load_cube(results: Path, subject: str, dim: int) -> tuple[Nifti1Image, Nifti1Image, Nifti1Image | None]:
    """Masked map, brain mask and label map (1 amygdala … 5 thalamus; None where there is none) of a working cube."""
    folder, names = results / "padded" / subject, file_names(dim)
    qsm = volumes.load(common.need(folder / names["masked"], "02_downsampling"))
    brain = volumes.load(common.need(folder / names["brain_mask"], "02_downsampling"))
    masks = {
        name: volumes.array(volumes.load(folder / names[name])) for name in LABELS if (folder / names[name]).is_file()
    }
    if not masks:
        return qsm, brain, None
    missing = [names[name] for name in LABELS if name not in masks]
    if missing:
        raise FileNotFoundError(f"{common.shown(folder)} lacks {missing}: run 01_padding and 02_downsampling again")
    # masks of your own may overlap: the first in the table keeps the voxel
    out = np.zeros(qsm.shape, np.uint8)
    for name, value in reversed(LABELS.items()):
        out[masks[name] > 0] = value
    return qsm, brain, volumes.like(out, qsm)


def check_registered(first: Nifti1Image, other: Nifti1Image, subjects: tuple[str, str]) -> None:
    """ValueError when the cubes of two subjects do not lie on one grid, as what votes voxel by voxel must."""
    try:
        volumes.check_same_grid(first, other, subjects)
    except ValueError as error:
        raise ValueError(
            f"an atlas is made of maps in one space, register them first (00_registration): {error}"
        ) from error


def normalise(qsm: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """ppm to what networks see: minus the brain's median, over a robust spread (half the range of the 2nd to 98th percentile), masked.

    The reference of a map (whole brain, CSF) moves its zero and the inversion scales it; both are taken out.
    """
    inside = np.asarray(brain) > 0
    if not inside.any():
        raise ValueError("the brain mask is empty")
    low, middle, high = np.percentile(qsm[inside], (2, 50, 98))
    return (np.where(inside, qsm - middle, 0) / max((high - low) / 2, 1e-6)).astype(np.float32)


def centre_box(brain: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """A box of ``shape`` voxels around the brain mask's middle, within the volume where it fits."""
    start, size = volumes.bounding_box(brain)
    first = [
        max(0, min(s + n // 2 - b // 2, m - b)) for s, n, b, m in zip(start, size, shape, brain.shape, strict=True)
    ]
    return tuple(slice(f, min(f + b, m)) for f, b, m in zip(first, shape, brain.shape, strict=True))
