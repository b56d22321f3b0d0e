"""The released model on a user's own FLAIR, and what can be read off a mask."""

import os
import warnings
from pathlib import Path

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
MOST_FILLED = 0.6  # share of non-zero voxels above which a scan may have its skull on
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
        When the scan is not one 3D volume or is constant, the mask lies on another grid or is empty, or the model is another study's.

    Warns
    -----
    UserWarning
        When the scan seems to have its skull on.
    """
    name = case_name(scan)
    image = check_flair(volumes.read(scan, "scan"), name)
    if brain_mask is not None:
        brain = volumes.read(brain_mask, "brain mask")
        volumes.check_same_grid(image, brain, (name, "brain mask"))
        inside = volumes.array(labels.as_labels(brain, {"brain": 1}, "brain mask")) > 0
        if not inside.any():
            raise ValueError(f"{name}: the brain mask is empty; make it anew")
        image = volumes.like(np.where(inside, volumes.array(image), 0), image)
    elif (filled := float((volumes.array(image) != 0).mean())) > MOST_FILLED:
        warnings.warn(
            f"{name}: {100 * filled:.0f} % of its voxels are not 0, so it may have its skull on, which the model never saw; extract the "
            "brain (HD-BET, SynthStrip) or give brain_mask=",
            stacklevel=2,
        )
    turned = volumes.canonical(image)
    members = load_model(model)
    for member in members:
        _check_model(member, str(model) if isinstance(model, str | os.PathLike) else member.name)
    soft = sum(predict_recipe(m, turned) for m in members) / len(members)
    threshold = MODEL.threshold() if threshold is None else threshold
    mask = volumes.like(to_mask(soft, threshold=threshold, smallest=smallest), turned)
    mask = volumes.resample(mask, like=image, kind="label")
    if out is not None:
        releases.write_outputs(mask, measure(mask, image), releases.slices_overlay(image, mask, name), out, name)
    return mask


def case_name(scan) -> str:
    """What the outputs of a scan are called: its file's name, in the challenge's layout (``<subject>/pre/FLAIR.nii.gz``) the subject's."""
    name = releases.case_name(scan)
    if not isinstance(scan, Nifti1Image) and (path := Path(scan).absolute()).parent.name == "pre":
        return f"{path.parent.parent.name}_{name}"
    return name


def _check_model(model, name: str) -> None:
    """A slice network of one channel in and one out, as the recipe's is."""
    sides = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if [len(side) for side in sides] != [4, 4] or [side[-1] for side in sides] != [1, 1]:
        raise ValueError(
            f"{name}: is no network of this study's recipe (slices of one channel to one probability): it takes {sides[0]} to {sides[1]}; "
            "leave model= out for the released one"
        )


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
