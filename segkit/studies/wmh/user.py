"""The released model on a user's own FLAIR, and what can be read off a mask."""

import os

import cc3d
import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, volumes
from segkit.studies import releases
from segkit.studies.wmh.layout import LABELS, OTHER, RELEASED, check_flair
from segkit.studies.wmh.networks import to_mask
from segkit.studies.wmh.recipe import predict_recipe

MODEL = releases.Release("wmh", RELEASED, phantoms=True)
released, release, load_model = MODEL.files, MODEL.save, MODEL.load


def segment(
    scan,
    *,
    model=None,
    brain_mask=None,
    out: str | os.PathLike | None = None,
    threshold: float | None = None,
    smallest: int = 0,
) -> Nifti1Image:
    """White-matter hyperintensities in a FLAIR scan, with the released model (which learned from phantoms alone).

    Parameters
    ----------
    scan : path or Nifti1Image
        One 3D FLAIR, brain-extracted (0 outside the brain), any orientation, voxel size and intensity scale.
    model : keras.Model or path, or several, optional
        Default :func:`released`.
    brain_mask : path or Nifti1Image, optional
        0 and 1 on the scan's grid; takes the brain out of a scan with its skull on.
    out : folder, optional
        Also write ``<scan>_seg.nii.gz``, ``<scan>_overlay.png`` and ``<scan>_measures.csv``.
    threshold, smallest
        See :func:`segkit.studies.wmh.to_mask`; the threshold's default is the released model's own.

    Returns
    -------
    Nifti1Image
        uint8 on the scan's grid and affine: 0 background, 1 lesion.

    Raises
    ------
    ValueError
        When the scan is not one 3D volume or is constant, or the mask lies on another grid or is empty.
    """
    name = releases.case_name(scan)
    image = check_flair(volumes.read(scan, "scan"), name)
    if brain_mask is not None:
        brain = volumes.read(brain_mask, "brain mask")
        volumes.check_same_grid(image, brain, (name, "brain mask"))
        inside = volumes.array(labels.as_labels(brain, {"brain": 1}, "brain mask")) > 0
        if not inside.any():
            raise ValueError(f"{name}: the brain mask is empty; make it anew")
        image = volumes.like(np.where(inside, volumes.array(image), 0), image)
    turned = volumes.canonical(image)
    members = load_model(model)
    soft = sum(predict_recipe(m, turned) for m in members) / len(members)
    threshold = MODEL.threshold() if threshold is None else threshold
    mask = volumes.like(to_mask(soft, threshold=threshold, smallest=smallest), turned)
    mask = volumes.resample(mask, like=image, kind="label")
    if out is not None:
        releases.write_outputs(mask, measure(mask, image), releases.slices_overlay(image, mask, name), out, name)
    return mask


def measure(mask, scan=None) -> pd.DataFrame:
    """What a user reads off a mask: number of lesions, volumes in ml and how they are spread.

    Parameters
    ----------
    mask : path or Nifti1Image
        0 background, 1 lesion, 2 other pathology (left out).
    scan : path or Nifti1Image, optional
        Adds the lesions' mean intensity over that of the rest of the brain (the non-zero voxels).

    Returns
    -------
    DataFrame
        One row, index "wmh": lesions (26-connected), volume_ml, and a lesion's smallest, median, mean and largest volume in ml.
    """
    mask = volumes.read(mask, "mask")
    data = volumes.array(labels.as_labels(mask, {"wmh": 1, "other pathology": OTHER}, "mask"))
    ml = float(np.prod(volumes.spacing(mask))) / 1000
    parts, n = cc3d.connected_components(data == 1, connectivity=26, return_N=True)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:] * ml
    row = {"lesions": int(n), "volume_ml": float(sizes.sum())}
    row |= {
        f"{k}_ml": float(f(sizes)) if n else np.nan
        for k, f in (("smallest", np.min), ("median", np.median), ("mean", np.mean), ("largest", np.max))
    }
    if scan is not None:
        scan = volumes.read(scan, "scan")
        volumes.check_same_grid(mask, scan, ("mask", "scan"))
        values = volumes.array(scan, np.float32)
        rest = values[(values != 0) & (data == 0)]
        row["contrast"] = float(values[data == 1].mean() / rest.mean()) if n and rest.size else np.nan
    return pd.DataFrame([row], index=pd.Index(list(LABELS), name="structure"))
