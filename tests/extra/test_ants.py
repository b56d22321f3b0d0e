"""Registration with ANTs (``pip install -e ".[ants]"`` into .venv first)."""

import nibabel as nib
import numpy as np
import pytest

from segkit import volumes
from segkit.studies.qsm import register

GRIDS = np.meshgrid(*[np.arange(48.0)] * 3, indexing="ij")


def ball(centre, radius):
    return sum((g - c) ** 2 for g, c in zip(GRIDS, centre, strict=True)) < radius**2


@pytest.fixture
def pair():
    """A head with two nuclei of different values, and the same head turned by 8° and moved by (4, -3, 2) mm."""
    labels = ball((24, 24, 24), 20).astype(np.uint8)
    labels[ball((16, 26, 24), 5)], labels[ball((31, 20, 27), 4)] = 2, 3
    soft = np.array([0.0, 1.0, 2.0, 3.0], np.float32)[labels]
    atlas = nib.Nifti1Image(soft, np.eye(4)), nib.Nifti1Image(labels, np.eye(4))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.14), -np.sin(0.14)], [np.sin(0.14), np.cos(0.14)]]
    centre = np.eye(4)
    centre[:3, 3] = 24
    shift = np.eye(4)
    shift[:3, 3] = 4, -3, 2
    native = [
        volumes.resample(nib.Nifti1Image(volumes.array(image), shift @ centre @ turn @ np.linalg.inv(centre)), like=image, kind=kind)
        for image, kind in zip(atlas, ("image", "label"), strict=True)
    ]  # fmt: skip
    return atlas, [nib.Nifti1Image(volumes.array(n), np.eye(4)) for n in native]


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["rigid", "affine", "syn"])
def test_ants_brings_the_nuclei_onto_the_atlas_without_blending(pair, kind):
    assert register.has_ants(), 'antspyx is missing; pip install -e ".[ants]"'
    (atlas, atlas_labels), (native, native_labels) = pair
    moved, carried = register.with_ants(native, atlas, {"labels": native_labels}, kind=kind)
    volumes.check_same_grid(moved, atlas)
    assert set(np.unique(volumes.array(carried["labels"]))) <= {0, 1, 2, 3}
    table = register.overlap(native_labels, carried["labels"], atlas_labels, {"first": (2,), "second": (3,)})
    assert (table["before"] < 0.7).all()
    assert (table["after"] > 0.85).all()
    again = register.with_ants(native, atlas, {register.MAP: native}, kind=kind)[1][
        register.MAP
    ]  # a map is blended, in its own values
    assert len(np.unique(volumes.array(again))) > 100
    error = np.abs(volumes.array(moved) - volumes.array(atlas)).mean()
    assert error < 0.5 * np.abs(volumes.array(native) - volumes.array(atlas)).mean()
