"""Atrium phantoms: the Decathlon's layout, one atrium with its veins, neighbours of like intensity."""

import json

import cc3d
import nibabel as nib
import numpy as np
import pytest

from segkit import phantoms
from segkit.phantoms import atrium as made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("phantom") / "atrium"
    phantoms.write("atrium", path, subjects=3, seed=4, coarse=2)
    return path


def test_layout_is_the_decathlons(folder):
    listing = json.loads((folder / "dataset.json").read_text())
    assert listing["labels"] == {"0": "background", "1": "left atrium"}
    assert len(listing["training"]) == listing["numTraining"] == 3
    for pair in listing["training"]:
        image, label = (nib.load(folder / pair[k]) for k in ("image", "label"))
        assert image.shape == label.shape == (128, 104, 32)
        assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, label.affine)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def test_one_atrium_of_a_size_that_people_have(folder):
    volumes = []
    for path in sorted((folder / "labelsTr").glob("*.nii.gz")):
        label = nib.load(path)
        mask = np.asarray(label.dataobj)
        volumes.append(mask.sum() * np.prod(label.header.get_zooms()) / 1000)
        _, parts = cc3d.connected_components(mask, return_N=True)
        assert parts <= 3  # veins may be cut off by the slab's end
        assert 30 < volumes[-1] < 200
        slices = mask.any(axis=(0, 1))
        assert 0.1 < slices.mean() < 0.95  # slices without atrium are part of the task
    assert len({round(v) for v in volumes}) == 3


def test_neighbours_are_as_bright_as_the_atrium(folder):
    """A threshold cannot solve it: there is more blood outside the label than in it."""
    for path in sorted((folder / "imagesTr").glob("*.nii.gz")):
        image = np.asarray(nib.load(path).dataobj).astype(float)
        mask = np.asarray(nib.load(folder / "labelsTr" / path.name).dataobj) > 0
        low, high = np.percentile(image[mask], (10, 90))
        alike = (image >= low) & (image <= high) & ~mask
        assert alike.sum() > mask.sum()


def test_seeds_and_numbers(folder):
    a, b, c = (made.subject("la_002", seed, coarse=4)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    with pytest.raises(ValueError, match="0 phantoms of 'Tr' cannot be made; give \"Tr\" from 1 to 40"):
        phantoms.write("atrium", folder / "new", subjects=0)
    assert not (folder / "new").exists()
