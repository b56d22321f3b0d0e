"""What 04 scores: the report's networks and the recipe as callables of a subject, and maps as a user would bring them."""

from collections.abc import Callable, Mapping, Sequence

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from scipy.spatial.transform import Rotation

from segkit import labels, metrics, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import LABELS
from segkit.studies.qsm.networks import load_training, predict_patches, to_labels
from segkit.studies.qsm.recipe import Nuclei, on_cube, predict
from segkit.studies.qsm.steps import load_cube, read
from segkit.studies.qsm.user import segment


def patch_method(model, run: common.Run, *, label: str, dim: int) -> Callable[[str], np.ndarray]:
    """What :func:`evaluate` calls for one of the report's networks."""
    patch = tuple(min(p, dim) for p in run.profile.patch)

    def probabilities(subject: str) -> np.ndarray:
        image = load_training(run, [subject], label=label, dim=dim)[subject][0]
        return predict_patches(model, image, patch=patch, context=model.inputs[0].shape[-1] > 1)

    return probabilities


def recipe_method(nuclei: Nuclei, run: common.Run, *, dim: int, registered: bool = True) -> Callable[[str], np.ndarray]:
    """What :func:`evaluate` calls for the recipe: probabilities on its fine cube, or on one of ``dim``.

    ``registered``: subjects lie in the atlas's space and have its voxels; otherwise each goes through
    :func:`segkit.studies.qsm.segment`, which finds its place, and labels stand for probabilities.

    On the cube of ``dim`` the mask of each nucleus is voted down by the rule by which 02 made the masks
    (:func:`segkit.volumes.downsample`: a block that is half nucleus or less is none), which makes nuclei some 8 % smaller at 2 mm; means
    of probabilities would not.
    """
    profile = run.profile

    def probabilities(subject: str) -> np.ndarray:
        qsm, brain, _ = load_cube(run.results, subject, profile.fine)
        if registered:
            soft = on_cube(predict(nuclei, qsm, brain, registered=True), qsm)
        else:
            labels_ = volumes.array(segment(qsm, model=nuclei, brain_mask=brain))
            soft = np.eye(len(LABELS) + 1, dtype=np.float32)[labels_]
        if dim == profile.fine:
            return soft
        found, factor = soft.argmax(axis=-1), profile.fine // dim
        whole = [volumes.like((found == value).astype(np.uint8), qsm) for value in LABELS.values()]
        masks = np.stack([volumes.array(volumes.downsample(m, factor, kind="label")) for m in whole], axis=-1)
        return np.concatenate([1 - masks.max(axis=-1, keepdims=True), masks], axis=-1).astype(np.float32)

    return probabilities


def recipe_labels(nuclei: Nuclei, run: common.Run, *, registered: bool = True) -> Callable[[str], Nifti1Image]:
    """A subject's label map on the recipe's own, fine cube; see :func:`recipe_method`."""
    soft = recipe_method(nuclei, run, dim=run.profile.fine, registered=registered)

    def label_map(subject: str) -> Nifti1Image:
        return volumes.like(to_labels(soft(subject)), load_cube(run.results, subject, run.profile.fine)[0])

    return label_map


def segmented(
    nuclei: Nuclei, table: pd.DataFrame, *, values: Mapping[str, Sequence[int]], seed: int = 0
) -> pd.DataFrame:
    """What a user gets from a map of his own: each map turned, shifted, of another size and other voxels, segmented and scored there.

    Parameters
    ----------
    table : DataFrame
        Of :func:`segkit.studies.qsm.find`.
    values : dict
        Left and right value of each nucleus.

    Returns
    -------
    DataFrame
        A row a subject and nucleus: the columns of :func:`segkit.metrics.score`, and voxel, the map's voxel in mm.
    """
    rows = []
    for k, subject in enumerate(table.index):
        qsm, masks = read(table.loc[subject], values)
        known = labels.merge({name: volumes.array(masks[name]) for name in LABELS}, LABELS)
        qsm, label_map = moved([qsm, volumes.like(known, qsm)], ["image", "label"], np.random.default_rng((seed, k)))
        found = segment(qsm, model=nuclei)
        spacing = volumes.spacing(qsm)
        scores = metrics.score(volumes.array(label_map), volumes.array(found), spacing_mm=spacing, labels=LABELS)
        said = " × ".join(f"{s:.2f}" for s in spacing)
        rows += [{"subject": subject, "label": label, "voxel": said, **row} for label, row in scores.iterrows()]
    return pd.DataFrame(rows)


def moved(images: Sequence[Nifti1Image], kinds: Sequence[str], rng: np.random.Generator) -> list[Nifti1Image]:
    """Images of one grid, in RAS+, as if taken with the head otherwise: turned by up to 10° about each axis, in voxels of .7 to 1.2 mm
    and slices of .8 to 2 mm, their middle up to 20 mm off, and .85 to 1 times as large: the MNI152 brain is larger than most."""
    first, size = images[0], rng.uniform(0.85, 1)
    spacing = np.array([*[rng.uniform(0.7, 1.2)] * 2, rng.uniform(0.8, 2)]) / size  # of the head as large as it is now
    turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    shape = np.ceil(np.array(first.shape) * volumes.spacing(first) / spacing).astype(int)
    middle = nib.affines.apply_affine(first.affine, (np.array(first.shape) - 1) / 2)
    matrix = turn * spacing
    grid = nib.Nifti1Image(
        np.zeros(shape, np.uint8), nib.affines.from_matvec(matrix, middle - matrix @ ((shape - 1) / 2))
    )
    spacing = spacing * size
    header = nib.affines.from_matvec(np.diag(spacing), rng.uniform(-20, 20, 3) - spacing * (shape - 1) / 2)
    out = [volumes.resample(image, like=grid, kind=kind) for image, kind in zip(images, kinds, strict=True)]
    return [nib.Nifti1Image(volumes.array(image), header) for image in out]
