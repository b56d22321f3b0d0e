"""IBSR: our own recipe of slices in three planes."""

import nibabel as nib
import numpy as np
import pytest

from segkit import models, volumes
from segkit.studies import ibsr
from segkit.studies.ibsr import recipe


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    run = ibsr.start("smoke", results=tmp_path_factory.mktemp("results"))
    ibsr.preprocess(run.data, run.results, n4=False, jobs=1)
    ibsr.standardise(run.data, run.results, shape=run.profile.grid)
    return run


def test_cubes_hold_the_brain_and_its_labels(done):
    names = ibsr.split(ibsr.find(done.data))["train"]
    known = recipe.cubes(done.results, names)
    image, label = known[names[0]]
    assert image.shape == label.shape
    assert len(set(label.shape)) == 1
    assert label.shape[0] % recipe.MULTIPLE == 0
    whole = volumes.array(ibsr.load_padded(done.results, names[0])[1])
    assert np.bincount(label.ravel())[1:].tolist() == np.bincount(whole.ravel())[1:].tolist()
    assert (image[label > 0] > image.min()).all()
    unlabelled = ibsr.find(done.data).query("set == 'Test_Set'").index[0]
    with pytest.raises(ValueError, match=f"{unlabelled}: has no labels"):
        recipe.cubes(done.results, [unlabelled])


def test_views_are_the_planes_and_their_mirror_images():
    image, label = np.arange(24.0).reshape(2, 3, 4), np.zeros((2, 3, 4), np.uint8)
    label[0, 1, 2] = 3
    found = recipe.views({"a": (image, label)}, (0, 2))
    assert list(found) == ["a plane 0", "a plane 0 mirrored", "a plane 2", "a plane 2 mirrored"]
    np.testing.assert_array_equal(found["a plane 0"][0][..., 1], image[1])
    np.testing.assert_array_equal(found["a plane 0 mirrored"][0][..., 1], image[0])
    assert found["a plane 2 mirrored"][1][1, 1, 2] == 3


def test_the_recipe_trains_on_planes_and_labels_any_orientation(done):
    parts = ibsr.split(ibsr.find(done.data))
    model, history = recipe.train_recipe(done, parts, verbose=0)
    assert np.isfinite(history["loss"]).all()
    assert model.count_params() < models.build(recipe.NETWORK).count_params()
    image, _ = ibsr.load_padded(done.results, parts["validation"][0])
    found = recipe.predict_recipe(model, image, spacing_mm=volumes.spacing(image))
    assert volumes.array(found).dtype == np.uint8
    volumes.check_same_grid(image, found)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("PSL"))
    back = recipe.predict_recipe(model, image.as_reoriented(turn), spacing_mm=volumes.spacing(image))
    assert (volumes.array(volumes.canonical(back)) == volumes.array(found)).mean() > 0.999
    one = recipe.predict_recipe(model, image, planes=(1,), mirror=False, spacing_mm=volumes.spacing(image))
    assert (volumes.array(one) != volumes.array(found)).any()


def test_mirroring_makes_the_labels_of_a_mirrored_head_the_mirrored_labels(done):
    parts = ibsr.split(ibsr.find(done.data))
    model = models.build(recipe.NETWORK, filters=done.profile.filters)
    image, _ = ibsr.load_padded(done.results, parts["validation"][0])
    flipped = volumes.like(np.ascontiguousarray(volumes.array(image)[::-1]), image)
    both = [
        volumes.array(recipe.predict_recipe(model, i, planes=(1,), spacing_mm=volumes.spacing(i)))
        for i in (image, flipped)
    ]
    assert (both[0] == both[1][::-1]).mean() > 0.99  # not all: sides are padded at one end
