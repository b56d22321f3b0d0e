"""The released model on a user's own map, and what can be read off a label map."""

import os
import warnings
from collections.abc import Sequence

import cc3d
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from scipy import ndimage

from segkit import intensity, labels, volumes
from segkit.studies import common, releases
from segkit.studies.qsm.layout import LABELS, RELEASED
from segkit.studies.qsm.networks import to_labels
from segkit.studies.qsm.recipe import MM, Nuclei, atlas_beside, load, predict

MODEL = releases.Release("qsm", RELEASED, phantoms=True)
released = MODEL.files


def load_model(model: Nuclei | str | os.PathLike | None = None) -> Nuclei:
    """The released network with its atlas, one from a file, or what is given."""
    if isinstance(model, Nuclei):
        return model
    if model is None:
        model = (released() or MODEL.load())[0]  # where there is none, the second says so
    return load(model)


def steps_of_released() -> int:
    """Steps that the released model was trained for, those of the models that it began with included."""
    first = pd.read_csv(released()[0].with_suffix(".scores.csv")).iloc[0]
    return int(first["steps"] + first.get("steps_before", 0))


def release(run: common.Run, name: str, scores: pd.DataFrame) -> None:
    """Save a trained run and its atlas as the released model: :meth:`segkit.studies.releases.Release.save`."""
    atlas = volumes.load(common.need(atlas_beside(run.results / "runs" / name / "best.keras"), "03_training"))
    for path in MODEL.save(run, name, scores):
        volumes.save(atlas, atlas_beside(path))


def segment(
    scan,
    *,
    model=None,
    brain_mask=None,
    out: str | os.PathLike | None = None,
) -> Nifti1Image:
    """Five sub-cortical nuclei in a susceptibility map, with the released model.

    It looks three times: for where the nuclei are, then twice with the atlas laid over them (:func:`segkit.studies.qsm.predict`).

    Parameters
    ----------
    scan : path or Nifti1Image
        3D map in ppm (or another unit: only contrast counts), whole head or brain, any orientation and voxel size; the head upright
        in the scanner's mm, as an affine says.
    model : path or Nuclei, optional
        Default :func:`released`.
    brain_mask : path or Nifti1Image, optional
        0 and 1 on the map's grid. Without it, the mask is what is not background (:func:`brain_of`).
    out : folder, optional
        Also write ``<scan>_seg.nii.gz``, ``<scan>_overlay.png`` and ``<scan>_measures.csv``.

    Returns
    -------
    Nifti1Image
        uint8 on the map's grid and affine: 0 background, 1 amygdala, 2 caudate, 3 hippocampus, 4 putamen, 5 thalamus, left and right
        merged.

    Raises
    ------
    ValueError
        When the map is not one 3D volume or is constant, or the mask lies on another grid or is empty.
    """
    name = releases.case_name(scan)
    image = volumes.read(scan, "scan")
    if image.ndim != 3:
        raise ValueError(f"{name}: shape {image.shape} is not one 3D map; give one volume")
    data = volumes.array(image, np.float32)
    if data.min() == data.max():
        raise ValueError(f"{name}: every voxel is {data.flat[0]:g}, so there is nothing to see; check the file")
    if brain_mask is None:
        brain = volumes.like(brain_of(data, volumes.spacing(image)), image)
    else:
        brain = volumes.read(brain_mask, "brain mask")
        volumes.check_same_grid(image, brain, (name, "brain mask"))
        brain = volumes.like(volumes.array(labels.as_labels(brain, {"brain": 1}, "brain mask")), image)
    if not volumes.array(brain).any():
        raise ValueError(f"{name}: no brain was found; give brain_mask=")
    extent = np.array(volumes.bounding_box(volumes.array(brain))[1]) * volumes.spacing(image)
    if not (extent.min() >= 60 and extent.max() <= 260):
        warnings.warn(
            f"{name}: the brain mask measures {' × '.join(f'{e:.0f}' for e in extent)} mm, unlike an adult's brain; give brain_mask=",
            stacklevel=2,
        )
    small, inside = (_working(i, kind) for i, kind in ((volumes.like(data, image), "image"), (brain, "label")))
    soft = predict(load_model(model), small, inside)
    found = volumes.like(_on_grid(soft, image), image)
    if out is not None:
        from segkit import plots

        figure = plots.three_planes(
            volumes.canonical(image), volumes.canonical(found), labels=LABELS, source=None, title=name
        )
        releases.write_outputs(found, measure(found, image), figure, out, name)
    return found


def _on_grid(soft: Nifti1Image, image: Nifti1Image) -> np.ndarray:
    """Labels on the grid of ``image``; probabilities are brought there only where some nucleus may be, since six of them fill memory."""
    out = np.zeros(image.shape, np.uint8)
    possible = np.argwhere(volumes.array(soft)[..., 0] < 0.99)
    if not len(possible):
        return out
    ends = np.stack([possible.min(axis=0) - 1, possible.max(axis=0) + 1])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
    there = nib.affines.apply_affine(np.linalg.inv(image.affine) @ soft.affine, corners)
    first = np.clip(np.floor(there.min(axis=0)), 0, np.array(image.shape) - 1).astype(int)
    last = np.clip(np.ceil(there.max(axis=0)) + 1, first + 1, image.shape).astype(int)
    part = volumes.crop(image, tuple(last - first), start=tuple(first))
    probabilities = volumes.array(volumes.resample(soft, like=part, kind="image"))
    outside = probabilities.sum(axis=-1) == 0  # beyond the working grid
    probabilities[outside, 0] = 1
    out[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = to_labels(probabilities)
    return out


def _working(image: Nifti1Image, kind: str) -> Nifti1Image:
    """RAS+ at the voxel size that the model knows."""
    turned = volumes.canonical(image)
    if np.allclose(volumes.spacing(turned), MM, rtol=0.02):
        return turned
    return volumes.resample(turned, spacing_mm=(MM, MM, MM), kind=kind)


def brain_of(data: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Brain mask (uint8) of a map: all that is not constant background; where there is none, where the map varies most.

    Without masking, the inversion leaves weak streaks outside, so the local spread tells the brain.
    """
    values, counts = np.unique(data[::2, ::2, ::2], return_counts=True)
    if counts.max() > 0.1 * counts.sum():
        inside = data != values[counts.argmax()]
    else:
        sigma = [4 / s for s in spacing_mm]
        spread = np.sqrt(ndimage.gaussian_filter((data - np.median(data)) ** 2, sigma))
        inside = intensity.otsu_mask(spread) > 0
    voxels = [max(1, round(3 / s)) for s in spacing_mm]
    inside = ndimage.binary_closing(
        np.pad(inside, [(v, v) for v in voxels]), np.ones([2 * (v // 2) + 1 for v in voxels])
    )
    inside = inside[tuple(slice(v, -v) for v in voxels)]
    parts = cc3d.largest_k(np.ascontiguousarray(inside), k=1, connectivity=6) > 0
    return ndimage.binary_fill_holes(parts).astype(np.uint8)


def measure(mask, scan=None) -> pd.DataFrame:
    """What a user reads off a label map: volume in ml and, with the map, mean susceptibility of each nucleus.

    Parameters
    ----------
    mask : path or Nifti1Image
        0 … 5 as :func:`segment` gives it.
    scan : path or Nifti1Image, optional
        The susceptibility map on the same grid. Values are as its inversion gives them: a thresholded one takes
        some 13 to 18 % off (:func:`segkit.susceptibility.recovered_share`), and its zero is its reference's.

    Returns
    -------
    DataFrame
        A row a nucleus: volume_ml, voxels, and mean_ppm, sd_ppm (in the map's own unit).
    """
    mask = volumes.read(mask, "mask")
    data = volumes.array(labels.as_labels(mask, LABELS, "mask"))
    ml = float(np.prod(volumes.spacing(mask))) / 1000
    chi = None
    if scan is not None:
        scan = volumes.read(scan, "scan")
        volumes.check_same_grid(mask, scan, ("mask", "scan"))
        chi = volumes.array(scan, np.float32)
    rows = {}
    for name, value in LABELS.items():
        inside = data == value
        rows[name] = {"volume_ml": float(inside.sum() * ml), "voxels": int(inside.sum())}
        if chi is not None:
            here = chi[inside]
            rows[name] |= {
                "mean_ppm": float(here.mean()) if here.size else np.nan,
                "sd_ppm": float(here.std()) if here.size else np.nan,
            }
    return pd.DataFrame(rows).T.rename_axis("structure").astype({"voxels": int})
