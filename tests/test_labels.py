import nibabel as nib
import numpy as np
import pytest

from segkit import labels

TABLE = {"CSF": 1, "GM": 2, "WM": 3}


def image(data):
    return nib.Nifti1Image(np.asarray(data, np.float32).reshape(-1, 1, 1), np.eye(4))


def test_split_and_merge_are_inverse(rng):
    x = rng.integers(0, 4, (6, 7, 8)).astype(np.uint8)
    np.testing.assert_array_equal(labels.merge(labels.split(x, TABLE), TABLE), x)


def test_split_joins_left_and_right():
    x = np.array([10, 49, 11, 0])
    out = labels.split(x, labels.FREESURFER)
    assert out["thalamus"].tolist() == [1, 1, 0, 0]
    assert out["caudate"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("table", [labels.FREESURFER, labels.HOA])
def test_no_value_of_an_atlas_list_belongs_to_two_structures(table):
    values = [v for pair in table.values() for v in pair]
    assert len(values) == len(set(values)) == 10


def test_merge_refuses_overlap_and_unknown_names():
    with pytest.raises(ValueError, match="overlaps another in 1 voxels"):
        labels.merge({"GM": np.array([1, 1]), "WM": np.array([0, 1])}, TABLE)
    with pytest.raises(ValueError, match="no mask to merge"):
        labels.merge({}, TABLE)
    assert labels.merge({"a": np.array([0, 1])}, {"a": 1035}).tolist() == [0, 1035]
    with pytest.raises(ValueError, match="not in the table"):
        labels.merge({"bone": np.array([1])}, TABLE)


def test_one_hot_sums_to_one(rng):
    x = rng.integers(0, 4, (5, 6))
    out = labels.one_hot(x, 4)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out.sum(-1), 1)
    np.testing.assert_array_equal(out.argmax(-1), x)
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        labels.one_hot(np.array([3]), 3)
    with pytest.raises(ValueError, match="do not fit"):
        labels.one_hot(np.array([-1]), 3)


def test_as_labels_narrows_and_guards():
    assert labels.as_labels(image([0, 1, 3]), TABLE).get_data_dtype() == np.uint8
    assert labels.as_labels(image([0, 1035])).get_data_dtype() == np.uint16
    with pytest.raises(ValueError, match=r"seg.nii: label values \[7\] are not in the table"):
        labels.as_labels(image([0, 7]), TABLE, "seg.nii")
    for bad in ([np.nan], [np.inf]):
        with pytest.raises(ValueError, match=r"seg.nii: 1 voxels are NaN or infinite"):
            labels.as_labels(image(bad), TABLE, "seg.nii")
    for bad in ([0.5], [-1], [70000]):
        with pytest.raises(ValueError, match="not label values"):
            labels.as_labels(image(bad))
