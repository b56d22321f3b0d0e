"""Glioma phantoms: the layout of kaggle_3m, tumours inside the brain, missing sequences, a planted association."""

import cv2
import numpy as np
import pandas as pd
import pytest

from segkit import phantoms, shape, statistics
from segkit.phantoms import lgg as made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("phantom") / "lgg"
    phantoms.write("lgg", path, subjects=6, seed=1, coarse=2)
    return path


def test_layout_is_kaggles(folder):
    homes = sorted(p for p in folder.iterdir() if p.is_dir())
    assert [p.name[:8] for p in homes] == ["TCGA_CS_", "TCGA_CS_", "TCGA_DU_", "TCGA_DU_", "TCGA_FG_", "TCGA_HT_"]
    for home in homes:
        count = len(list(home.glob("*_mask.tif")))
        assert sorted(p.name for p in home.iterdir()) == sorted(
            f"{home.name}_{k}{end}.tif" for k in range(1, count + 1) for end in ("", "_mask")
        )
        image = cv2.imread(str(home / f"{home.name}_3.tif"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(home / f"{home.name}_3_mask.tif"), cv2.IMREAD_UNCHANGED)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((64, 64, 3), np.uint8, (64, 64), np.uint8)
        masks = np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in home.glob("*_mask.tif")])
        assert set(np.unique(masks)) == {0, 255}
    table = pd.read_csv(folder / "data.csv")
    assert list(table.columns) == list(made.COLUMNS)
    assert list(table["Patient"]) == [n[:12] for n in made.names({"patients": 6})["patients"]]


def test_the_tumour_is_bright_on_flair_and_dark_before_contrast():
    for name in made.names({"patients": 4})["patients"]:
        image, mask, _ = made.subject(name, 0, coarse=2)
        brain = ~mask.astype(bool) & (image[..., 1] > 40)
        assert image[..., 1][mask > 0].mean() > 1.2 * image[..., 1][brain].mean()
        assert 0.001 < mask.mean() < 0.05
        assert 3 <= mask.any(axis=(0, 1)).sum() <= 12


def test_some_lack_a_sequence_and_flair_stands_in():
    missing = []
    for name in made.names({"patients": 40})["patients"]:
        image, _, _ = made.subject(name, 2, coarse=8)
        missing.append([np.array_equal(image[..., c], image[..., 1]) for c in (0, 2)])
    pre, post = np.sum(missing, axis=0)
    assert 0 < pre < 8
    assert 0 < post < 12
    assert not np.all(missing, axis=1).any()


def test_shape_goes_with_the_first_cluster_and_with_no_other():
    rows, ratio = [], []
    for name in made.names({"patients": 60})["patients"]:
        _, mask, row = made.subject(name, 0, coarse=2)
        rows.append(row)
        ratio.append(shape.features(mask)[shape.NAMES[0]])
    table, high = pd.DataFrame(rows).replace("", np.nan), np.array(ratio) > np.median(ratio)
    p = {
        c: statistics.fisher_exact(pd.crosstab(high, table[c]).to_numpy())
        for c in (*made.CODES, "RNASeqCluster", "RPPACluster")
    }
    assert p.pop("RNASeqCluster") < 1e-5
    assert min(p.values()) > 0.005
    assert 0 < table["RNASeqCluster"].isna().sum() < 15


def test_same_seed_same_pixels_other_seed_others():
    name = made.names({"patients": 1})["patients"][0]
    first, again, other = (made.subject(name, seed, coarse=4)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).mean() > 0.3


@pytest.mark.parametrize("subjects", [{"patients": 0}, {"patients": 121}, {"Tr": 3}])
def test_numbers_that_cannot_be_made(tmp_path, subjects):
    with pytest.raises(ValueError, match='give "patients" from 1 to 120'):
        phantoms.write("lgg", tmp_path / "x", subjects=subjects)
    assert not (tmp_path / "x").exists()
