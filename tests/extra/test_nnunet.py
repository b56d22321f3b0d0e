"""nnU-Net in its own environment (made at the first call: some minutes and some GB): checked, trained, read back."""

import functools

import numpy as np
import pytest

from segkit import volumes
from segkit.studies import ibsr
from segkit.studies.ibsr import nnunet


@pytest.mark.extra
def test_nnunet_checks_the_export_trains_and_gives_four_labels(tmp_path):
    run = ibsr.start("smoke", results=tmp_path)
    ibsr.preprocess(run.data, run.results, n4=False, jobs=1)
    nnunet.export(run)
    row = nnunet.train(run, epochs=2, iterations=20, validation=1, batch_size=2).iloc[0]
    assert row["iterations"] == 40
    assert nnunet.progress(run).stat().st_size > 10_000
    subject = ibsr.split(ibsr.find(run.data))["validation"][0]
    image = volumes.load(run.results / "preprocessed" / f"{subject}_bias_corrected.nii.gz")
    found = nnunet.predict(run, image)
    volumes.check_same_grid(image, found)
    name = f"nnU-Net 2D, {row['iterations']} iterations"
    scores = ibsr.evaluate({name: functools.partial(nnunet.predict, run)}, run.data, run.results, [subject])
    assert scores["label"].tolist() == list(ibsr.LABELS)
    assert np.bincount(volumes.array(found).ravel(), minlength=4).size == 4
    assert volumes.array(found).any()
