"""Whatever lies in a file: an image, or one of two errors that name the file. Never another exception."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit import volumes


def good(path, shape=(5, 6, 7), dtype=np.int16):
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(0, 100, shape).astype(dtype), np.diag([1, 1.5, 2, 1])), path)
    return path


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.nii: no such file; check the path"):
        volumes.load(tmp_path / "nothing.nii")


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        volumes.load(tmp_path)


@pytest.mark.parametrize("name", ["scan.mgz", "scan.dcm", "scan.nii.bz2", "scan.txt"])
def test_other_formats(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{name}: not a NIfTI file name; convert"):
        volumes.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x1f\x8b\x08\x00 broken gzip"])
def test_bytes_that_are_no_image(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad{suffix}: not a readable NIfTI file .* copy or convert it again"):
        volumes.load(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, suffix, share):
    path = good(tmp_path / f"cut{suffix}", (20, 20, 20))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=f"cut{suffix}"):
        volumes.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    data = np.zeros((3, 3, 3), np.float32)
    data[1, 1, 1] = value
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "n.nii")
    with pytest.raises(ValueError, match="n.nii: 1 voxels are NaN or infinite; replace them"):
        volumes.load(tmp_path / "n.nii")


def test_flat_file(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.int16), np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(ValueError, match=r"flat.nii: shape \(8, 8\) is not a volume"):
        volumes.load(tmp_path / "flat.nii")


def test_singular_affine(tmp_path):
    path = good(tmp_path / "s.nii")
    raw = bytearray(path.read_bytes())
    raw[312:328] = bytes(16)  # the third row of the sform
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="s.nii: the affine is not invertible"):
        volumes.load(path)


def test_colour_and_complex_voxels(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(ValueError, match="c.nii: voxels of type complex64 cannot be used"):
        volumes.load(tmp_path / "c.nii")


def test_a_header_that_promises_more_than_the_file_can_hold_is_refused_at_once(tmp_path):
    path = good(tmp_path / "bomb.nii.gz")
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[40:56] = np.array([7, 30000, 30000, 30000, 30, 30, 1, 1], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(ValueError, match="promises .* bytes"):
        volumes.load(path)


def test_trailing_axes_of_length_one_are_dropped_and_others_kept(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1, 1), np.int16), np.eye(4)), tmp_path / "a.nii")
    assert volumes.load(tmp_path / "a.nii").shape == (4, 5, 6)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.eye(4)), tmp_path / "b.nii")
    assert volumes.load(tmp_path / "b.nii").shape == (4, 5, 6, 2)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 1), np.int16), np.eye(4)), tmp_path / "c.nii")
    assert volumes.load(tmp_path / "c.nii").shape == (4, 5, 1)


def outcome(path):
    try:
        image = volumes.load(path)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert path.name in message
        return
    data = volumes.array(image)
    assert data.ndim >= 3
    assert np.isfinite(data).all()
    assert np.isfinite(np.linalg.inv(image.affine)).all()


FUZZ = settings(max_examples=1000, deadline=10_000, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = good(tmp_path_factory.mktemp("sound") / "a.nii", (4, 4, 4), np.float32)
    return path.read_bytes()


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=12))
@pytest.mark.filterwarnings("ignore")
def test_fuzzed_headers(sound, tmp_path_factory, edits):
    raw = bytearray(sound)
    for place, value in edits:
        raw[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzz_header.nii"
    path.write_bytes(bytes(raw))
    outcome(path)


# fields of the NIfTI-1 header: offset, type, count
FIELDS = {
    "sizeof_hdr": (0, "<i4", 1), "dim": (40, "<i2", 8), "datatype": (70, "<i2", 1), "bitpix": (72, "<i2", 1),
    "pixdim": (76, "<f4", 8), "vox_offset": (108, "<f4", 1), "scl": (112, "<f4", 2), "units": (123, "<u1", 1),
    "qform": (252, "<i2", 2), "quatern": (256, "<f4", 6), "srow": (280, "<f4", 12), "magic": (344, "<u1", 4),
}  # fmt: skip
ODD = [0, 1, -1, 2, 3, 4, 7, 16, 64, 255, 512, 1024, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), 32767, -32768]


@FUZZ
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(sorted(FIELDS)), st.integers(0, 11), st.sampled_from(ODD)), min_size=1, max_size=4
    )
)
@pytest.mark.filterwarnings("ignore")
def test_fuzzed_fields(sound, tmp_path_factory, edits):
    raw = bytearray(sound)
    for field, number, value in edits:
        offset, kind, count = FIELDS[field]
        with np.errstate(all="ignore"):
            one = np.array([np.clip(np.nan_to_num(value), -3e4, 255)] if kind != "<f4" else [value]).astype(kind)
        place = offset + one.itemsize * (number % count)
        raw[place : place + one.itemsize] = one.tobytes()
    path = tmp_path_factory.getbasetemp() / "fuzz_fields.nii"
    path.write_bytes(bytes(raw))
    outcome(path)


@FUZZ
@given(
    cut=st.integers(0, 700),
    edits=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=6),
    packed=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")
def test_fuzzed_bytes(sound, tmp_path_factory, cut, edits, packed):
    raw = bytearray(gzip.compress(sound, mtime=0) if packed else sound)
    for place, value in edits:
        if place < len(raw):
            raw[place] = value
    path = tmp_path_factory.getbasetemp() / ("fuzz_bytes.nii.gz" if packed else "fuzz_bytes.nii")
    path.write_bytes(bytes(raw[: max(1, cut)] if cut < 600 else raw))
    outcome(path)
