"""03 training, prediction, the released model and a user's own scan."""

import os
import time
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, postprocessing, volumes
from segkit.studies import common, releases
from segkit.studies.atrium.enhance import enhance
from segkit.studies.atrium.layout import FACTOR, LABELS, RELEASED, SPACING_MM, Profile, check_scan
from segkit.studies.atrium.steps import load_small, normalise, working_grid

LARGE, PART = 6_000_000, (192, 192, 64)  # voxels of the working grid
MARGIN_MM = 25  # around the atrium, when a scan is larger than the cropped ones that the network knows
# largest whole ml/m² of each class, as the report quotes them (echocardiography)
INDEX_CLASSES = ((28, "normal"), (33, "mild"), (39, "moderate"), (np.inf, "severe"))

MODEL = releases.Release("atrium", RELEASED)
released, release, load_model = MODEL.files, MODEL.save, MODEL.load


def build(network: str, profile: Profile, **settings):
    """A network of :func:`segkit.models.names`; the smoke and quick profiles make it slim."""
    from segkit import models

    slim = {"filters": profile.filters} if profile.filters and network == RELEASED else {}
    return models.build(network, **(slim | settings))


def train(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    name: str | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    verbose="auto",
):
    """Train the recipe on whole volumes within a wall-clock budget, or go on with an interrupted run.

    A 3D U-Net with instance normalisation on the working grid; boxes turned by up to 20° about the body's axis and 12° about
    the others, scaled, sheared, bent, with other contrast, shade and noise; cross-entropy + Dice; AdamW with a cosine schedule
    that scales to the budget; moving average of the weights. The state with the smallest loss on the selection cases is kept.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection``; with no case that selects, the epoch of the smallest training loss is kept.
    name : str, optional
        Of the run folder; default the network and the budget.
    minutes : float, optional
        Wall-clock budget; default the profile's.

    Returns
    -------
    model, history
    """
    import keras

    from segkit import augment, data, losses, training

    profile, seed = run.profile, run.seed if seed is None else seed
    minutes = profile.minutes if minutes is None else minutes
    keras.utils.set_random_seed(seed)
    training.precision()
    model = build(profile.network, profile)
    boxes = augment.volumes(
        flips=(), rotate=(12, 12, 20), scale=0.22, stretch=0.12, shear=0.1, bend=2.5, gain=0.22, gamma=0.22, noise=0.15, blur=1.0,
        shade=0.15, shape=profile.box, shift=4,
    )  # fmt: skip
    known = load_small(run.results, [*subjects["train"], *subjects["selection"]])
    largest = np.max([image.shape for image, _ in known.values()], axis=0)
    every = 2 ** (len(profile.filters or (0,) * 4) - 1)
    whole = tuple(int(-(-n // every) * every) for n in largest)
    still = augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=whole)
    sides = {
        "train": {"steps": profile.steps, "augment": boxes},
        "selection": {"shuffle": False, "augment": still},
    }
    sets: dict = dict.fromkeys(sides) | {
        side: data.Volumes({s: known[s] for s in subjects[side]}, classes=1, batch_size=1, seed=seed, **settings)
        for side, settings in sides.items()
        if subjects[side]
    }
    history = training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / (name or run_name(profile, minutes)),
        loss=losses.get("cross_entropy_dice"), epochs=profile.epochs, minutes=minutes,
        learning_rate=profile.learning_rate, seed=seed, verbose=verbose, **training.RECIPE,
        settings={"normalisation": "z-score", "factor": list(FACTOR)},
    )  # fmt: skip
    return model, history


def run_name(profile: Profile, minutes: float | None) -> str:
    """Folder of a run under ``runs/``."""
    return profile.network + (f"_{minutes:g}min" if minutes else "")


def predict(
    model, image: Nifti1Image, *, spacing_mm: Sequence[float] = SPACING_MM, zoom_in: bool = True, **settings
) -> Nifti1Image:
    """Probability of the left atrium at every voxel of a scan, on the scan's own grid.

    The scan is turned to RAS+, resampled where its voxels differ by more than 2 % from ``spacing_mm``, halved,
    z-scored and segmented. Where the scan is much larger than what lies within 25 mm of the atrium found, that part is cut
    out, z-scored by itself and segmented anew, since the network knows cropped scans only.

    Parameters
    ----------
    model : keras.Model or several
    zoom_in : bool
        Whether to look a second time.
    **settings
        Go to :func:`segkit.inference.predict`.

    Returns
    -------
    Nifti1Image
        float32 (x, y, z).
    """
    small = working_grid(volumes.canonical(image), spacing_mm)
    found = _probabilities(model, small, settings)
    mask = postprocessing.largest_component(volumes.array(found) >= 0.5)
    if zoom_in and mask.any():
        margin = [max(1, round(MARGIN_MM / s)) for s in volumes.spacing(small)]
        boxes = [volumes.bounding_box(mask, margin=m) for m in margin]
        start = tuple(box[0][a] for a, box in enumerate(boxes))
        size = tuple(box[1][a] for a, box in enumerate(boxes))
        if np.prod(size) < 0.5 * mask.size:
            part = _probabilities(model, volumes.crop(small, size, start=start), settings)
            inside = np.zeros(mask.shape, np.float32)
            inside[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = volumes.array(part)
            found = volumes.like(inside, small)
    return volumes.resample(found, like=image, kind="image")


def _probabilities(model, small: Nifti1Image, settings: dict) -> Nifti1Image:
    from segkit import inference

    ready = volumes.like(normalise(volumes.array(small)), small)
    if np.prod(small.shape) > LARGE:  # in overlapping parts, so that memory stays small
        settings = {"patch": PART} | settings
    found = inference.predict(model, ready, output="probabilities", **settings)
    return volumes.like(volumes.array(found)[..., 0], small)


def segment(
    scan, *, model=None, out: str | os.PathLike | None = None, spacing_mm: Sequence[float] = SPACING_MM, **chain
) -> Nifti1Image:
    """Mask of the left atrium's cavity in a late-enhancement scan, with the released model.

    Parameters
    ----------
    scan : path or Nifti1Image
        3D, any orientation, voxel size and field of view.
    model : keras.Model or path, or several, optional
        Default :func:`released`.
    out : folder, optional
        Also write ``<scan>_seg.nii.gz``, ``<scan>_overlay.png`` and ``<scan>_measures.csv``.
    spacing_mm : three floats
        Voxel size (by the header) of the scans that the model learned from. Their header says 0.625 mm between slices, but 1.25
        is more likely: where your header is right about such slices, give (0.625, 0.625, 1.25).
    **chain
        Switches of :func:`segkit.studies.atrium.enhance.enhance`.

    Returns
    -------
    Nifti1Image
        uint8 on the scan's grid and affine: 0 background, 1 left atrium. Empty when none is found.

    Raises
    ------
    ValueError
        When the scan is not one 3D volume of at least four slices, or is constant.
    """
    name = releases.case_name(scan)
    image = check_scan(volumes.read(scan, "scan"), name)
    probabilities = predict(load_model(model), image, spacing_mm=spacing_mm)
    mask = volumes.like(to_mask(probabilities, **chain), image)
    if out is not None:
        releases.write_outputs(mask, measure(mask, image), releases.slices_overlay(image, mask, name), out, name)
    return mask


def to_mask(probabilities: Nifti1Image, **chain) -> np.ndarray:
    """:func:`enhance` on an image of any orientation: slices are those along the foot–head axis."""
    turned = volumes.canonical(probabilities)
    mask = volumes.like(enhance(volumes.array(turned), **chain), turned)
    return volumes.array(volumes.resample(mask, like=probabilities, kind="label"))


def measure(mask, scan=None, *, bsa_m2: float | None = None) -> pd.DataFrame:
    """What a user reads off a mask: the volume in mm³ and ml by the header's spacing.

    Parameters
    ----------
    mask : path or Nifti1Image
        0 background; one other value.
    scan : path or Nifti1Image, optional
        Adds the mean intensity inside the mask.
    bsa_m2 : float, optional
        Body surface area; adds the volume index in ml/m² and its class as the report quotes it (rounded to whole ml/m²:
        up to 28 normal, 29 to 33 mild, 34 to 39 moderate, from 40 severe). The classes are for echocardiography; volumes from
        MRI come out larger, and a wrong slice spacing in the header scales them. Not for diagnosis.

    Returns
    -------
    DataFrame
        One row, index "left atrium": volume_mm3, volume_ml, voxels, spacing_mm, slices, and what was asked for.
    """
    mask = volumes.read(mask, "mask")
    inside = volumes.array(labels.as_labels(mask, None, "mask")) > 0
    spacing = volumes.spacing(mask)
    volume = float(inside.sum() * np.prod(spacing))
    axis = int(np.flatnonzero(nib.io_orientation(mask.affine)[:, 0] == 2)[0])  # the one that runs from foot to head
    others = tuple(a for a in range(3) if a != axis)
    row = {
        "volume_mm3": volume, "volume_ml": volume / 1000, "voxels": int(inside.sum()),
        "spacing_mm": " × ".join(f"{s:.4g}" for s in spacing), "slices": int(inside.any(axis=others).sum()),
    }  # fmt: skip
    if scan is not None:
        scan = volumes.read(scan, "scan")
        volumes.check_same_grid(mask, scan, ("mask", "scan"))
        row["mean_intensity"] = float(volumes.array(scan, np.float32)[inside].mean()) if inside.any() else float("nan")
    if bsa_m2 is not None:
        if not 0.2 <= bsa_m2 <= 4:
            raise ValueError(f"body surface area {bsa_m2} m² is not a person's; give it in m², for example 1.9")
        row["index_ml_m2"] = row["volume_ml"] / bsa_m2
        row["caveat"] = "classes are for echocardiography, MRI gives larger volumes; not for diagnosis"
        row["class"] = next(name for top, name in INDEX_CLASSES if round(row["index_ml_m2"]) <= top)
    return pd.DataFrame([row], index=pd.Index(list(LABELS), name="structure"))


def timed(function, *arguments, **settings) -> tuple[object, float]:
    """What a call returns, and its seconds."""
    begin = time.perf_counter()
    return function(*arguments, **settings), time.perf_counter() - begin
