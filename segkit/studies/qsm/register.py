"""00 registration: a native map to the atlas, with ANTs where it is installed, or with a transform that is at hand."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import metrics, volumes

MAP = "QSM_w_bg"  # of a subject's files the one that is measured; others are masks and labels, never blended
KINDS = {"rigid": "Rigid", "affine": "Affine", "syn": "SyN"}


def has_ants() -> bool:
    """Whether antspyx is installed (``pip install antspyx``)."""
    return find_spec("ants") is not None


def prepare(qsm: Nifti1Image, brain: Nifti1Image, atlas: Nifti1Image, atlas_brain: Nifti1Image) -> Nifti1Image:
    """The report's step 1a and b: mask the map, bring its values to the atlas's mean and deviation, mask again.

    After normalising, the background is no longer 0, hence the second masking.
    """
    volumes.check_same_grid(qsm, brain, ("map", "brain mask"))
    data, inside = volumes.array(qsm, np.float32), volumes.array(brain) > 0
    wanted = volumes.array(atlas, np.float32)[volumes.array(atlas_brain) > 0]
    if not inside.any() or not wanted.size:
        raise ValueError("the brain mask of the map or of the atlas is empty")
    masked = data * inside
    here = masked[inside]
    scaled = (masked - here.mean()) / max(float(here.std()), 1e-12) * wanted.std() + wanted.mean()
    return volumes.like((scaled * inside).astype(np.float32), qsm)


def with_transform(image: Nifti1Image, to_atlas: np.ndarray, atlas: Nifti1Image, *, kind: str) -> Nifti1Image:
    """``image`` on the atlas's grid through a 4 × 4 map from its mm to the atlas's; labels are never blended."""
    to_atlas = np.asarray(to_atlas, float)
    if to_atlas.shape != (4, 4) or abs(np.linalg.det(to_atlas[:3, :3])) < 1e-6:
        raise ValueError("the transform must be an invertible 4 × 4 matrix from native mm to atlas mm")
    return volumes.resample(nib.Nifti1Image(volumes.array(image), to_atlas @ image.affine), like=atlas, kind=kind)


def with_ants(
    moving: Nifti1Image, atlas: Nifti1Image, carried: dict[str, Nifti1Image], *, kind: str = "syn", seed: int = 0
) -> tuple[Nifti1Image, dict[str, Nifti1Image]]:
    """Register ``moving`` to ``atlas`` with ANTs, and carry other images along: maps blended, masks and labels with nearest neighbours.

    Parameters
    ----------
    carried : dict
        Name to image on the grid of ``moving``; all but :data:`MAP` are masks or labels.
    kind : {"rigid", "affine", "syn"}

    Returns
    -------
    registered map, dict of carried images (of the type that they had), on the atlas's grid

    Raises
    ------
    ImportError
        Without antspyx.
    ValueError
        For an unknown kind.

    References
    ----------
    Avants et al., Advanced normalization tools, Insight Journal (2009); QSM report, section 4.1, step 1.
    """
    if kind not in KINDS:
        raise ValueError(f"no registration is called {kind!r}; choose one of {', '.join(KINDS)}")
    if not has_ants():
        raise ImportError("antspyx is not installed; pip install antspyx, or use with_transform")
    import ants

    with tempfile.TemporaryDirectory() as folder:  # files are what ANTs and nibabel read alike, affine included

        def given(image):
            return ants.image_read(str(volumes.save(image, Path(folder) / "image.nii")))

        fixed, move = given(atlas), given(moving)
        done = ants.registration(
            fixed, move, type_of_transform=KINDS[kind], random_seed=seed, outprefix=f"{folder}/map"
        )

        def carry(name, image):
            how = "linear" if name == MAP else "nearestNeighbor"
            out = ants.apply_transforms(fixed, given(image), done["fwdtransforms"], interpolator=how).numpy()
            return volumes.like(
                out.astype(np.float32) if name == MAP else np.round(out).astype(image.get_data_dtype()), atlas
            )

        return carry(MAP, moving), {name: carry(name, image) for name, image in carried.items()}


def register(
    home: Path, atlas: Mapping[str, Nifti1Image], out: Path, *, kind: str = "syn", seed: int = 0
) -> dict[str, Nifti1Image]:
    """One subject of ``native`` in the atlas's space, as :func:`segkit.studies.qsm.find` reads it: its map still in ppm.

    With ANTs, where it is installed, driven by the normalised map (:func:`prepare`); without by ``<home>/native_to_atlas.txt``.

    Parameters
    ----------
    home : folder
        Holds ``QSM_w_bg_native.nii.gz``, ``QSM_brain_mask_native.nii.gz`` and, where there are labels, ``labels_native.nii.gz``.
    atlas : dict
        QSM and QSM_brain_mask.
    out : folder
        ``QSM_w_bg.nii.gz``, … are written there.

    Returns
    -------
    dict
        What was written, by name.
    """
    files = {part: home / f"{part}_native.nii.gz" for part in (MAP, "QSM_brain_mask", "labels")}
    native = {part: volumes.load(path) for part, path in files.items() if part != "labels" or path.is_file()}
    if has_ants():
        ready = prepare(native[MAP], native["QSM_brain_mask"], atlas["QSM"], atlas["QSM_brain_mask"])
        carried = with_ants(ready, atlas["QSM"], native, kind=kind, seed=seed)[1]
    else:
        matrix = read_transform(home / "native_to_atlas.txt")
        carried = {
            part: with_transform(image, matrix, atlas["QSM"], kind="image" if part == MAP else "label")
            for part, image in native.items()
        }
    for part, image in carried.items():
        volumes.save(image, out / f"{part}.nii.gz")
    return carried


def overlap(
    before: Nifti1Image, after: Nifti1Image, atlas_labels: Nifti1Image, values: dict[str, Sequence[int]]
) -> pd.DataFrame:
    """Dice of each nucleus with the atlas's, before (by the headers alone) and after registration."""
    truth = volumes.array(atlas_labels)
    moved = {
        "before": volumes.array(volumes.resample(before, like=atlas_labels, kind="label")),
        "after": volumes.array(after),
    }
    return pd.DataFrame({
        when: {name: metrics.dice(np.isin(truth, v), np.isin(found, v)) for name, v in values.items()} for when, found in moved.items()
    }).rename_axis("nucleus")  # fmt: skip


def read_transform(path: str | Path) -> np.ndarray:
    """4 × 4 matrix from a text file; ValueError for another shape."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such transform; register with ANTs, or write a 4 × 4 matrix")
    matrix = np.loadtxt(path)
    if matrix.shape != (4, 4):
        raise ValueError(f"{path}: holds {matrix.shape}, a 4 × 4 matrix is expected")
    return matrix
