"""03 training, prediction, two baselines without learning, the released model and a user's own scan."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from skimage.filters import threshold_multiotsu
from sklearn.mixture import GaussianMixture

from segkit import files, volumes
from segkit.studies import common, releases
from segkit.studies.ibsr.layout import LABELS, RELEASED, SPACING_MM, Profile
from segkit.studies.ibsr.recipe import NETWORK, cubes, predict_recipe
from segkit.studies.ibsr.steps import correct, load_patches, normalise

TURNS = {"flips": (), "rotate": 15, "scale": 0.15, "gain": 0.1}  # of the samples, ours


def build(network: str, profile: Profile, **settings):
    """The report's network by name; the smoke profile makes it slim."""
    from segkit import models

    return models.build(network, **(({"filters": profile.filters} if profile.filters else {}) | settings))


def box_steps(profile: Profile) -> int:
    """Batches an epoch of a 3D network."""
    return min(30, profile.recipe_steps)


def train(
    network: str,
    results: Path,
    subjects: dict[str, list[str]],
    profile: Profile,
    *,
    name: str | None = None,
    minutes: float | None = None,
    loss: str | None = None,
    loss_settings: dict | None = None,
    optimizer: str = "adam",
    learning_rate: float | None = None,
    schedule: str = "cosine",
    batch_size: int | None = None,
    augmented: bool = True,
    intensities: str = "zscore",
    seed: int = 0,
    verbose="auto",
    **settings,
):
    """Train ``network`` on the patches, or go on with an interrupted run; ``(model, history)``.

    Categorical cross-entropy, Adam 1e-3, batch 64 and dropout .4 as in the report's code (the quick profile adds a Dice
    term and takes larger steps); z-score, small rotations and scalings on the fly, a cosine schedule and dropout off at
    inference are ours. A 3D network sees random boxes of 64³ instead (the report does not give their size).

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection``.
    name : str, optional
        Of the run folder; default the network's.
    minutes, loss, learning_rate, batch_size : optional
        Default the profile's.
    loss_settings : dict, optional
        Go to :func:`segkit.losses.get`.
    schedule : {"cosine", "plateau", "constant"}
    augmented : bool
        Rotate and scale samples, and change their contrast.
    intensities : {"zscore", "raw"}
        Of the brain, or as they are, as the report's code has them.
    **settings
        Go to :func:`segkit.models.build`, such as ``dropout=``, ``normalization=`` or ``filters=``.
    """
    import keras

    from segkit import augment, data, losses, training

    keras.utils.set_random_seed(seed)
    training.precision()
    model = build(network, profile, **settings)
    volumetric = len(model.inputs[0].shape) == 5
    own = {"classes": 4, "batch_size": batch_size or (2 if volumetric else profile.batch_size), "seed": seed}
    sets: dict = {}
    for side, chosen in (("train", subjects["train"]), ("validation", subjects["selection"])):
        learns = side == "train"
        if volumetric:
            known = cubes(results, chosen)
            moves = {"augment": augment.volumes(**TURNS)} if learns and augmented else {}
            # an epoch of minutes, not of a quarter of an hour
            steps = box_steps(profile) if learns else 10 * len(chosen)
            patch = [min(64, n) for n in next(iter(known.values()))[1].shape]
            sets[side] = data.Patches(known, patch=patch, foreground=0.8, steps=steps, **own, **moves)
            continue
        images, maps = load_patches(results, chosen, raw=intensities == "raw")
        learn = {"shuffle": False} if not learns else {"augment": augment.slices(**TURNS)} if augmented else {}
        sets[side] = data.Arrays(images, maps, chosen, **own, **learn)
    history = training.fit(
        model, sets["train"], sets["validation"], run=results / "runs" / (name or network),
        loss=losses.get(loss or profile.loss, **(loss_settings or {})), epochs=profile.epochs,
        minutes=profile.minutes if minutes is None else minutes, optimizer=optimizer,
        learning_rate=learning_rate or profile.learning_rate, schedule=schedule, seed=seed, bfloat16=True, verbose=verbose,
        settings={
            "normalisation": {"zscore": "z-score in the brain", "raw": "none"}[intensities], "dropout at inference": False,
        },
    )  # fmt: skip
    return model, history


def predict(
    model, image: Nifti1Image, *, spacing_mm: Sequence[float] = SPACING_MM, raw: bool = False, **settings
) -> Nifti1Image:
    """Labels of a bias-corrected scan on the scan's own grid (``output="probabilities"``: those of the four classes).

    The scan is turned to RAS+, resampled where its voxels differ by more than a fifth from ``spacing_mm``, cut to the
    brain, z-scored (unless ``raw``), segmented slice by slice (first axis; a 3D network by blended boxes of 64³), and the labels
    are brought back with nearest neighbour. Several models are averaged.
    """
    from segkit import inference

    work = volumes.canonical(image)
    ratio = np.array(volumes.spacing(work)) / np.array(spacing_mm)
    if ratio.max() > 1.2 or ratio.min() < 1 / 1.2:
        work = volumes.resample(work, spacing_mm=spacing_mm, kind="image")
    start, shape = volumes.bounding_box(volumes.array(work) > 0, margin=8)
    values = volumes.array(work, np.float32) if raw else normalise(work)
    cropped = volumes.crop(volumes.like(values, work), shape, start=start)
    first = model[0] if isinstance(model, list) else model
    if len(first.inputs[0].shape) == 5:
        settings = {"patch": (64, 64, 64), "batch_size": 2} | settings
    found = inference.predict(model, cropped, axis=0, **settings)
    return volumes.resample(found, like=image, kind="image" if settings.get("output") == "probabilities" else "label")


def threshold_baseline(image: Nifti1Image) -> Nifti1Image:
    """No learning: the brain's intensities cut in three by multi-level Otsu (dark CSF, grey, white)."""
    values = volumes.array(image, np.float32)
    brain = values > 0
    out = np.zeros(values.shape, np.uint8)
    out[brain] = 1 + np.digitize(values[brain], threshold_multiotsu(values[brain], classes=3))
    return volumes.like(out, image)


def mixture_baseline(image: Nifti1Image, *, seed: int = 0, sample: int = 50_000) -> Nifti1Image:
    """No learning: a Gaussian mixture of three classes on the brain's intensities, ordered by mean."""
    values = volumes.array(image, np.float32)
    brain = values > 0
    inside = values[brain][:, None].astype(np.float64)
    chosen = np.random.default_rng(seed).choice(len(inside), min(sample, len(inside)), replace=False)
    mixture = GaussianMixture(3, random_state=seed, n_init=2).fit(inside[chosen])
    rank = np.empty(3, np.uint8)
    rank[np.argsort(mixture.means_.ravel())] = (1, 2, 3)
    out = np.zeros(values.shape, np.uint8)
    out[brain] = rank[mixture.predict(inside)]
    return volumes.like(out, image)


def methods(run: common.Run) -> dict:
    """What 04_testing compares: name to ``callable(bias-corrected image) -> labels``: baselines, the networks, our recipe.

    The recipe is the run's own; in the full profile that of ``experiments recipe``, or where its run is not here the released one.
    """
    from segkit import models

    out = {"threshold (Otsu)": threshold_baseline, "Gaussian mixture": mixture_baseline}
    for name in run.profile.networks:
        model = models.load(common.need(run.results / "runs" / name / "best.keras", "03_training"))
        out[name] = functools.partial(predict, model, spacing_mm=run.profile.spacing_mm)
    full = run.profile.name == "full"
    own = run.results / "runs" / ("recipe" if full else NETWORK) / "best.keras"
    if full and not own.is_file():
        own = run.results.parent / "saved_models" / f"{NETWORK}.keras"
    if own.is_file():
        out[NETWORK] = functools.partial(predict_recipe, models.load(own), spacing_mm=run.profile.spacing_mm)
    return out


def released() -> Path:
    """Where the released model lies."""
    return common.home() / "results_dir" / "ibsr" / "saved_models" / f"{RELEASED}.keras"


def release(run: common.Run, network: str, scores: pd.DataFrame, *, trained_as: str | None = None) -> Path:
    """Save the trained ``network`` in float16 to ``results_dir/ibsr/saved_models``, with its record and its scores.

    ``trained_as``: its folder in ``runs``; default the network's name.
    """
    own = scores[scores["method"] == network]
    (path,) = releases.Release("ibsr", network).save(run, trained_as or network, own)
    return path


def segment(scan, *, model=None, out: str | os.PathLike | None = None, n4: bool = True) -> Nifti1Image:
    """Tissue labels of a skull-stripped T1 scan, with the released model.

    Parameters
    ----------
    scan : path or Nifti1Image
        3D, 0 outside the brain, any orientation and voxel size.
    model : keras.Model or path, optional
        Default :func:`released`.
    out : folder, optional
        Also write ``<scan>_seg.nii.gz``, ``<scan>_overlay.png`` and ``<scan>_volumes.csv``.
    n4 : bool
        Correct the bias field first, as in training.

    Returns
    -------
    Nifti1Image
        uint8 on the scan's grid and affine: 0 background, 1 CSF (ventricles), 2 grey matter, 3 white matter.

    Raises
    ------
    ValueError
        When the scan is not one 3D volume, is empty, or is not skull-stripped (no voxel is 0 or below).
    """
    from segkit import models

    name = releases.case_name(scan)
    image = volumes.read(scan, "scan")
    array = volumes.array(image, np.float32)
    if array.ndim != 3:
        raise ValueError(f"{name}: shape {array.shape} is not one 3D volume; give a single T1, not a series")
    if not (array > 0).any():
        raise ValueError(f"{name}: no voxel is above 0; the brain must be brighter than its background")
    if (array > 0).all():
        raise ValueError(
            f"{name}: every voxel is above 0, so the scan is not skull-stripped; strip it first (HD-BET, SynthStrip, BET)"
        )
    if model is None or isinstance(model, str | os.PathLike):
        model = models.load(released() if model is None else model)
    array = np.maximum(array, 0)
    corrected = correct(volumes.like(array, image), n4=n4)
    slices = model.inputs[0].shape[-1] > 1  # neighbours: our recipe
    found = (predict_recipe if slices else predict)(model, corrected)
    if out is not None:
        from segkit import plots

        out = Path(out)
        volumes.save(found, out / f"{name}_seg.nii.gz")
        files.write_text(out / f"{name}_volumes.csv", measure(found).to_csv())
        plots.save(
            plots.three_planes(image, found, labels=LABELS, title=f"{name}: segkit, research use only"),
            out / f"{name}_overlay.png",
        )
    return found


def measure(mask: Nifti1Image, scan: Nifti1Image | None = None) -> pd.DataFrame:
    """Volume in ml of each tissue (and, with ``scan``, its mean intensity); index tissue."""
    array = volumes.array(mask)
    ml = float(np.prod(volumes.spacing(mask))) / 1000
    rows = []
    for name, value in LABELS.items():
        inside = array == value
        row = {"tissue": name, "voxels": int(inside.sum()), "ml": inside.sum() * ml}
        if scan is not None:
            volumes.check_same_grid(mask, scan, ("mask", "scan"))
            row["mean intensity"] = (
                float(volumes.array(scan, np.float32)[inside].mean()) if inside.any() else float("nan")
            )
        rows.append(row)
    return pd.DataFrame(rows).set_index("tissue")
