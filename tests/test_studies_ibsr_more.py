"""IBSR: Monte-Carlo dropout and its calibration, subjects without labels, the export to nnU-Net."""

import json
import sys

import numpy as np
import pytest

from segkit import models, volumes
from segkit.studies import environments, ibsr
from segkit.studies.ibsr import nnunet, uncertainty


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    run = ibsr.start("smoke", results=tmp_path_factory.mktemp("ibsr"))
    ibsr.preprocess(run.data, run.results, n4=False, jobs=1)
    return run


def truth_as_method(run, *, sure=0.97, wrong_above=1.1):
    """Probabilities that name the true class with confidence ``sure``; where chance exceeds ``wrong_above``, all classes alike."""
    table, known = ibsr.find(run.data), {}
    for subject in table.index[table["label"].notna()]:
        image, label = ibsr.read(table.loc[subject])
        known[volumes.array(image).tobytes()] = volumes.array(label)

    def method(image):
        label = known[volumes.array(image).tobytes()]
        soft = np.full((*label.shape, 4), (1 - sure) / 3, np.float32)
        np.put_along_axis(soft, label[..., None].astype(int), sure, axis=-1)
        soft[np.random.default_rng(0).random(label.shape) > wrong_above] = 0.25
        return volumes.like(soft, image)

    return method


# -- uncertainty


def test_entropy_of_a_sure_and_of_a_guessed_voxel():
    soft = np.array([[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]], np.float32)
    assert uncertainty.entropy(soft).tolist() == pytest.approx([0, 1, 0.5], abs=1e-6)


def test_samples_average_to_probabilities_on_the_grid_of_the_scan(done):
    image = volumes.load(next((done.results / "preprocessed").glob("*.nii.gz")))
    model = models.build("ibsr_unet2d_4level", filters=(4, 8))
    mean, unsure = uncertainty.sample(model, image, samples=3, spacing_mm=volumes.spacing(image))
    assert mean.shape == (*image.shape, 4)
    brain = volumes.array(image) > 0
    np.testing.assert_allclose(volumes.array(mean).sum(axis=-1)[brain], 1, atol=1e-4)
    assert unsure.shape == image.shape
    assert 0 < volumes.array(unsure)[brain].mean() <= 1
    with pytest.raises(ValueError, match="samples must be at least 1, not 0"):
        uncertainty.sample(model, image, samples=0)


def test_a_method_that_is_always_right_errs_by_its_modesty(done):
    subjects = ibsr.split(ibsr.find(done.data))["validation"]
    points, table = uncertainty.calibration({"truth": truth_as_method(done, sure=0.8)}, done, subjects)
    assert table["ECE"].tolist() == pytest.approx([0.2] * len(subjects), abs=1e-4)
    assert (table["wrong"] == 0).all()
    assert points["truth"]["accuracy"].tolist() == [1]


def test_what_is_wrong_lies_where_the_entropy_is_largest(done):
    subjects = ibsr.split(ibsr.find(done.data))["validation"]
    _, table = uncertainty.calibration({"unsure": truth_as_method(done, wrong_above=0.95)}, done, subjects)
    # guesses are called background, which no brain voxel of these labels mostly is
    assert (table["wrong among the rest"] == 0).all()
    assert (table["wrong among the least sure tenth"] > 0.2).all()
    assert (table["wrong"] < table["wrong among the least sure tenth"]).all()


def test_subjects_without_labels_are_segmented_and_measured(done):
    table = uncertainty.unlabelled(done, ibsr.threshold_baseline)
    assert list(table.index) == list(ibsr.find(done.data).query("set == 'Test_Set'").index)
    assert (table > 0).all(axis=None)
    written = volumes.load(done.results / "predictions" / "unlabelled" / f"{table.index[0]}_seg.nii.gz")
    assert set(np.unique(volumes.array(written))) == {0, 1, 2, 3}


# -- nnU-Net


def test_the_export_has_nnunets_layout_and_all_four_classes(done):
    table = nnunet.export(done)
    raw = nnunet.folder(done) / "nnUNet_raw" / nnunet.DATASET
    said = json.loads((raw / "dataset.json").read_text())
    assert said["labels"] == {"background": 0, "CSF": 1, "GM": 2, "WM": 3}
    training = table.index[table["set"] == "Training_Set"]
    assert said["numTraining"] == len(training)
    assert sorted(p.name for p in (raw / "imagesTr").iterdir()) == [f"{s}_0000.nii.gz" for s in training]
    assert sorted(p.name for p in (raw / "labelsTr").iterdir()) == [f"{s}.nii.gz" for s in training]
    assert len(list((raw / "imagesTs").iterdir())) == len(table) - len(training)
    for subject in training:
        image, label = (
            volumes.load(raw / place) for place in (f"imagesTr/{subject}_0000.nii.gz", f"labelsTr/{subject}.nii.gz")
        )
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_array_equal(
            volumes.array(label), volumes.array(ibsr.read(ibsr.find(done.data).loc[subject])[1])
        )
        assert table.loc[subject, "labels"] == [0, 1, 2, 3]


def test_a_step_that_fails_says_which_and_shows_its_last_lines(done, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match=r"planning failed; its last lines:\nno such thing"):
        environments.call([sys.executable, "-c", "import sys; sys.exit('no such thing')"], "planning")
    with pytest.raises(FileNotFoundError, match=r"progress.png is missing: run nnunet.train first"):
        nnunet.predict(done, volumes.load(next((done.results / "preprocessed").glob("*.nii.gz"))))


def test_the_trainer_is_python_and_reads_its_numbers():
    compile(nnunet._TRAINER, "trainer", "exec")
    assert nnunet.TRAINER in nnunet._TRAINER
