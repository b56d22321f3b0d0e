"""NIfTI volumes in and out, and changes of grid under which every voxel keeps its world position.

The currency is ``nibabel.Nifti1Image``: voxels and affine travel together. Spatial axes are the first three; a
fourth axis holds channels. Spacings are in mm, in array order.
"""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel import Nifti1Image
from nibabel.arrayproxy import ArrayProxy
from scipy import ndimage

from segkit import files

# deflate cannot expand by more than about 1032; a header that promises more than this is broken, not compressed
_MOST_GZIP = 1100
_TO_MM = {"meter": 1000.0, "micron": 0.001}


def load(path: str | os.PathLike) -> Nifti1Image:
    """Read a NIfTI file into memory and check it.

    Trailing axes of length 1 (beyond the third) are dropped. Integers stay integers; all else becomes float32.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.

    Returns
    -------
    Nifti1Image
        At least 3D, finite, with an invertible affine in mm.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is not NIfTI, is truncated, is 2D, holds NaN or infinity, or has a singular affine. The message
        names the file, what is wrong and the mend.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path, or write phantoms with segkit.phantoms.write")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: not a NIfTI file name; convert it to .nii or .nii.gz (for DICOM: dcm2niix)")
    try:
        source = nib.load(path)
        _check_promise(source, path)
        data = _voxels(source, path)
        affine = np.array(source.affine, dtype=float)
        affine[:3] *= _TO_MM.get(source.header.get_xyzt_units()[0], 1.0)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # nibabel, gzip and zlib raise a dozen kinds for a broken file
        raise ValueError(f"{path}: not a readable NIfTI file ({error}); copy or convert it again") from error
    data = _squeeze(data)
    _check_arrays(data, affine, path)
    try:
        return _image(data, affine)
    except Exception as error:  # an affine that no header can hold
        raise ValueError(f"{path}: its header cannot be used ({error}); mend or convert it again") from error


def _voxels(source: Nifti1Image, path: Path) -> np.ndarray:
    """The voxels in memory, never a map of the file; gzip by ISA-L, which unpacks noise twice as fast as zlib."""
    if not path.name.endswith(".gz"):
        return np.array(source.dataobj)
    proxy = source.dataobj
    with igzip.open(path, "rb") as plain:
        said = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
        return np.asarray(ArrayProxy(plain, said))


def read(image: str | os.PathLike | Nifti1Image, name: object = "image") -> Nifti1Image:
    """What a user gives, a path or an image in memory: :func:`load` or :func:`check`."""
    return check(image, name) if isinstance(image, Nifti1Image) else load(image)


def check(image: Nifti1Image, name: object = "image") -> Nifti1Image:
    """Return ``image``, trailing axes of length 1 dropped, if it is usable (see :func:`load`); ``name`` stands in the errors."""
    data = np.asanyarray(image.dataobj)
    squeezed = _squeeze(data)
    _check_arrays(squeezed, image.affine, name)
    return image if squeezed.shape == data.shape else _image(squeezed, image.affine)


def save(image: Nifti1Image, path: str | os.PathLike) -> Path:
    """Write ``image`` to ``path`` (``.nii`` or ``.nii.gz``), whole or not at all; return the path.

    Bool becomes uint8; int64 (which most viewers refuse) becomes int32; float64 becomes float32.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: a volume is saved as .nii or .nii.gz; change the file name")
    data = np.asanyarray(image.dataobj)
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{path}: voxels of type {data.dtype} cannot be saved; convert to a scalar number type")
    narrow = {"b": np.uint8, "i": np.int32, "u": np.uint16, "f": np.float32}
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    if data.dtype == bool or data.dtype.itemsize == 8:
        kind = narrow[data.dtype.kind]
        if (
            data.dtype.kind in "iu"
            and data.size
            and (data.max() > np.iinfo(kind).max or data.min() < np.iinfo(kind).min)
        ):
            raise ValueError(f"{path}: values up to {data.max()} do not fit {np.dtype(kind)}; store smaller integers")
        data = data.astype(kind)
    with files.atomic(path) as temporary:
        image = _image(data, image.affine)
        if path.name.endswith(".gz"):  # gzip by ISA-L, which writes noise twenty times as fast as zlib and as small
            with open(temporary, "wb") as plain, igzip.IGzipFile("", "wb", 1, plain, mtime=0) as packed:
                image.to_stream(packed)
        else:
            nib.save(image, temporary)
    return path


def array(image: Nifti1Image, dtype=None) -> np.ndarray:
    """The voxels of ``image`` as an array, converted to ``dtype`` where given."""
    return np.asarray(image.dataobj, dtype=dtype)


def spacing(image: Nifti1Image) -> tuple[float, float, float]:
    """Voxel spacing in mm along the three array axes, read from the affine.

    >>> spacing(Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([-1.0, 1.5, 2.0, 1.0])))
    (1.0, 1.5, 2.0)
    """
    return tuple(float(s) for s in nib.affines.voxel_sizes(image.affine))


def like(data: np.ndarray, image: Nifti1Image) -> Nifti1Image:
    """``data`` on the grid of ``image``."""
    data = np.asarray(data)
    if data.shape[:3] != image.shape[:3]:
        raise ValueError(f"array of shape {data.shape} does not fit the grid {image.shape[:3]}; resample it first")
    return _image(data, image.affine)


def check_same_grid(a: Nifti1Image, b: Nifti1Image, names=("first", "second"), *, tolerance_mm: float = 0.05) -> None:
    """Raise ValueError unless ``a`` and ``b`` share shape and place.

    The largest distance in mm between the same corner voxel of both may be ``tolerance_mm``: headers that differ in
    the fifth digit describe the same grid.
    """
    if a.shape[:3] != b.shape[:3]:
        raise ValueError(
            f"{names[0]} has shape {a.shape[:3]}, {names[1]} has {b.shape[:3]}; resample one onto the other"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape[:3]])).reshape(3, -1).T
    away = np.linalg.norm(
        nib.affines.apply_affine(a.affine, corners) - nib.affines.apply_affine(b.affine, corners), axis=1
    )
    if away.max() > tolerance_mm:
        raise ValueError(
            f"{names[0]} and {names[1]} lie on different grids, up to {away.max():.4g} mm apart (largest difference of the "
            f"affines {np.abs(a.affine - b.affine).max():.4g}); resample one onto the other with volumes.resample(like=)\n"
            f"{names[0]}:\n{a.affine}\n{names[1]}:\n{b.affine}"
        )


def canonical(image: Nifti1Image) -> Nifti1Image:
    """Flip and permute the axes to the closest RAS+ order; no voxel is interpolated."""
    turned = nib.as_closest_canonical(image)
    return _image(np.asanyarray(turned.dataobj), turned.affine)


def pad(image: Nifti1Image, shape: tuple[int, int, int], *, fill: float = 0) -> Nifti1Image:
    """Pad the spatial axes with ``fill`` to ``shape``, the image in the middle; :func:`crop` undoes it exactly."""
    shape, old = tuple(shape), image.shape[:3]
    if any(n < o for n, o in zip(shape, old, strict=True)):
        raise ValueError(f"cannot pad {old} to {shape}: an axis is already longer; crop it, or choose a larger shape")
    before = [(n - o) // 2 for n, o in zip(shape, old, strict=True)]
    width = [(b, n - o - b) for b, n, o in zip(before, shape, old, strict=True)] + [(0, 0)] * (image.ndim - 3)
    data = np.pad(array(image), width, constant_values=fill)
    return _image(data, _moved(image.affine, [-b for b in before]))


def crop(image: Nifti1Image, shape: tuple[int, int, int], *, start: tuple[int, int, int] | None = None) -> Nifti1Image:
    """Cut a box of ``shape`` voxels from the middle, or beginning at voxel ``start``."""
    shape, old = tuple(shape), image.shape[:3]
    start = tuple((o - n) // 2 for n, o in zip(shape, old, strict=True)) if start is None else tuple(start)
    if any(s < 0 or n < 1 or s + n > o for s, n, o in zip(start, shape, old, strict=True)):
        raise ValueError(f"box {shape} from voxel {start} does not fit in {old}; choose a smaller box, or pad first")
    data = array(image)[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]
    return _image(np.ascontiguousarray(data), _moved(image.affine, start))


def bounding_box(mask: np.ndarray, *, margin: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and shape of the smallest box around the non-zero voxels, ``margin`` voxels wider where there is room.

    >>> bounding_box(np.array([0, 0, 1, 1, 0]), margin=1)
    ((1,), (4,))
    """
    mask = np.asarray(mask) != 0
    if not mask.any():
        raise ValueError("the mask is empty, so there is no box around it")
    start, stop = [], []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start.append(max(0, int(hit[0]) - margin))
        stop.append(min(mask.shape[axis], int(hit[-1]) + 1 + margin))
    return tuple(start), tuple(b - a for a, b in zip(start, stop, strict=True))


def downsample(image: Nifti1Image, factor: int | tuple[int, int, int], *, kind: str) -> Nifti1Image:
    """Join blocks of ``factor`` voxels into one.

    Parameters
    ----------
    image : Nifti1Image
    factor : int or three ints
        Block size in voxels; must divide the shape.
    kind : {"image", "label"}
        Mean of the block (float32), or its most frequent value (of equally frequent ones the smallest).

    Returns
    -------
    Nifti1Image
        Voxel centres lie at the centres of the blocks: the affine moves by half a voxel for a factor of two.
    """
    _check_kind(kind)
    factor = (factor,) * 3 if np.isscalar(factor) else tuple(factor)
    if any(f < 1 or n % f for n, f in zip(image.shape[:3], factor, strict=True)):
        raise ValueError(f"shape {image.shape[:3]} is not a multiple of {factor}; pad it first with volumes.pad")
    data = array(image)
    mean = kind == "image"
    out = _block_sum(data, factor, np.float32) / np.float32(np.prod(factor)) if mean else _block_mode(data, factor)
    affine = image.affine @ nib.affines.from_matvec(np.diag(np.array(factor, float)), [(f - 1) / 2 for f in factor])
    return _image(out, affine)


def _block_sum(data: np.ndarray, factor: tuple[int, int, int], dtype) -> np.ndarray:
    """Sum of each block, axis by axis, the one that is farthest apart in memory first, so that what is added lies together; without a
    copy of ``data``."""
    for axis in sorted(range(len(factor)), key=lambda axis: -abs(data.strides[axis])):
        f = factor[axis]
        views = [data[(slice(None),) * axis + (slice(first, None, f),)] for first in range(f)]
        data = views[0].astype(dtype)
        for view in views[1:]:
            data += view
    return data


def _block_mode(data: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """Most frequent value of each block, of equally frequent ones the smallest."""
    values, count = _values(data), np.uint8 if np.prod(factor) < 256 else np.uint32
    if len(values) == 2:  # a mask: one count tells
        return np.where(_block_sum(data == values[1], factor, count) > np.prod(factor) // 2, values[1], values[0])
    most = _block_sum(data == values[0], factor, count)
    out = np.full(most.shape, values[0])
    for value in values[1:]:  # one at a time, so that memory holds two counts however many values there are
        here = _block_sum(data == value, factor, count)
        better = here > most
        out[better] = value
        np.maximum(most, here, out=most)
    return out


def _values(data: np.ndarray) -> np.ndarray:
    """The different values, in order; a mask of 0 and 1 is not sorted for it."""
    if data.dtype.kind in "bui" and data.size and int(low := data.min()) + 1 >= int(high := data.max()):
        return np.unique([low, high])
    return np.unique(data.ravel(order="K"))


def resample(
    image: Nifti1Image,
    *,
    kind: str,
    spacing_mm: tuple[float, float, float] | None = None,
    like: Nifti1Image | None = None,
) -> Nifti1Image:
    """Bring ``image`` to a new spacing (same axes and field of view) or onto the grid of ``like``.

    Parameters
    ----------
    image : Nifti1Image
    kind : {"image", "label"}
        Linear interpolation (smoothed first along axes that get coarser, against aliasing), or nearest voxel.
    spacing_mm : three floats, optional
    like : Nifti1Image, optional
        Exactly one of the two. Voxels of ``like`` outside the field of view of ``image`` become 0.
    """
    _check_kind(kind)
    if (spacing_mm is None) == (like is None):
        raise ValueError("give either spacing_mm or like, not both and not neither")
    if like is None:
        if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be three positive lengths, not {spacing_mm}")
        ratio = np.asarray(spacing_mm, float) / spacing(image)
        shape = tuple(max(1, int(np.ceil(n / r - 1e-3))) for n, r in zip(image.shape[:3], ratio, strict=True))
        affine = image.affine @ nib.affines.from_matvec(np.diag(ratio), (ratio - 1) / 2)
    else:
        shape, affine = like.shape[:3], like.affine
    to_source = np.linalg.inv(image.affine) @ affine
    matrix, offset = nib.affines.to_matvec(to_source)
    steps = np.abs(matrix).max(
        axis=1
    )  # voxels of the source passed along each of its axes from one new voxel to the next
    data = array(image)
    channels = data.reshape(*data.shape[:3], -1)
    out = np.empty((*shape, channels.shape[-1]), np.float32 if kind == "image" else data.dtype)
    for c in range(channels.shape[-1]):
        source = channels[..., c]
        if kind == "image":
            source = source.astype(np.float32)
            sigma = np.maximum(0, (steps - 1) / 2)
            if max(sigma) > 0.05:
                source = ndimage.gaussian_filter(source, sigma, mode="nearest")
        out[..., c] = ndimage.affine_transform(
            source,
            matrix,
            offset,
            output_shape=shape,
            output=out.dtype,
            order=1 if kind == "image" else 0,
            mode="nearest",
        )
    if like is not None:
        out[~_inside(matrix, offset, shape, image.shape[:3])] = 0
    return _image(out.reshape(*shape, *data.shape[3:]), affine)


def _image(data: np.ndarray, affine: np.ndarray) -> Nifti1Image:
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype == np.float16:  # which NIfTI does not have
        data = data.astype(np.float32)
    image = Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    return image


def _squeeze(data: np.ndarray) -> np.ndarray:
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.dtype.kind == "f":
        if data.dtype.itemsize > 4:
            with np.errstate(over="ignore", invalid="ignore"):
                data = data.astype(np.float32)
        return data.astype(np.float32, copy=False)
    return data


def _check_promise(source, path: Path) -> None:
    """Refuse a file whose class is not NIfTI or whose header promises more voxels than its bytes can hold."""
    if not isinstance(source, nib.Nifti1Pair):
        raise ValueError(f"it is {type(source).__name__}")
    promised = int(np.prod([int(n) for n in source.shape], dtype=object)) * source.header.get_data_dtype().itemsize
    held = path.stat().st_size * (_MOST_GZIP if path.name.endswith(".gz") else 1)
    if promised > held:
        raise ValueError(f"its header promises {promised} bytes of voxels, the file cannot hold more than {held}")


def _moved(affine: np.ndarray, voxels) -> np.ndarray:
    return affine @ nib.affines.from_matvec(np.eye(3), voxels)


def _inside(matrix, offset, shape, source_shape) -> np.ndarray:
    """True where a voxel centre of the new grid lies in the field of view of the source."""
    inside = np.ones(shape, bool)
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    for row, start, n in zip(matrix, offset, source_shape, strict=True):
        position = start + sum(m * g for m, g in zip(row, grids, strict=True))
        inside &= (position >= -0.5 - 1e-6) & (position <= n - 0.5 + 1e-6)
    return inside


def _check_kind(kind: str) -> None:
    if kind not in ("image", "label"):
        raise ValueError(f'kind must be "image" or "label", not {kind!r}')


def _check_arrays(data: np.ndarray, affine: np.ndarray, name: object) -> None:
    if data.ndim < 3 or 0 in data.shape:
        raise ValueError(f"{name}: shape {data.shape} is not a volume; give a file with three spatial axes")
    if data.dtype.kind not in "iufb":
        raise ValueError(f"{name}: voxels of type {data.dtype} cannot be used; convert to a scalar number type")
    if data.dtype.kind == "f":
        bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        if bad:
            raise ValueError(
                f"{name}: {bad} voxels are NaN or infinite; replace them, for example with numpy.nan_to_num"
            )
    if not np.isfinite(affine).all() or not 1e-12 < abs(np.linalg.det(affine[:3, :3])) < 1e12:
        raise ValueError(
            f"{name}: the affine is not invertible, so voxels have no place in mm; mend the header\n{affine}"
        )
