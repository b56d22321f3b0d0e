"""From a model to a volume on the image's own grid: slices with neighbours, blended patches, mirroring, ensembles.

The volume is finished plane by plane while windows sweep along its first axis, so memory holds a window's depth of
sums besides the result; labels need the result's one byte a voxel. Where even that depth is too much (many classes), the
sweep goes in columns, whose windows overlap: at most 15 % of them are then computed twice.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np
from nibabel import Nifti1Image
from tqdm.auto import tqdm

from segkit import data, patches, volumes

_BUDGET = 2**28  # bytes of sums that are held before the sweep is cut into columns
_EXTRA = 0.15  # share of windows that columns may cost
_BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}]"


def predict(
    model: keras.Model | Sequence[keras.Model],
    image: Nifti1Image,
    *,
    output: str = "labels",
    axis: int = 2,
    neighbours: int = 0,
    patch: Sequence[int] | None = None,
    step: Sequence[int] | int | None = None,
    window: str = "gaussian",
    context: bool = False,
    mirror: Sequence[int] = (),
    activation: str | None = None,
    threshold: float = 0.5,
    batch_size: int = 8,
    multiple: int | None = None,
    progress: bool = False,
) -> Nifti1Image:
    """Segment a preprocessed volume.

    Parameters
    ----------
    model : keras.Model or several
        2D (slices along ``axis``) or 3D (patches); the mean of several is taken.
    image : Nifti1Image
        (x, y, z) or (x, y, z, c), prepared as in training.
    output : {"labels", "probabilities"}
        uint8 of shape (x, y, z), or float32 of shape (x, y, z, classes).
    axis, neighbours
        For 2D models: the axis that numbers the slices, and how many slices from each side are channels.
    patch, step
        For 3D models: window in voxels (default: the whole volume at once, whose probabilities are then held) and its
        step (default: half a window). The last window is moved inwards; a volume shorter than the window is padded with
        its edge.
    window : {"gaussian", "mean"}
        Weights of a window in the mean of overlapping ones.
    context : bool
        For 3D models that also see what lies around a window at half resolution, as further channels
        (:func:`segkit.patches.surroundings`).
    mirror : axes
        Array axes of the image that are also flipped; all combinations are averaged.
    activation : {"sigmoid", "softmax"}, optional
        For models that give logits.
    threshold : float
        For models of one channel.
    batch_size : int
        Slices or patches a call of the model; at most as many as one slab has.
    multiple : int, optional
        Sides are padded to multiples of it; default 2 to the number of the model's pooling layers. Give it for models that
        halve by strides.

    Returns
    -------
    Nifti1Image
        On the grid of ``image``.
    """
    if output not in ("labels", "probabilities"):
        raise ValueError(f'output must be "labels" or "probabilities", not {output!r}')
    members = list(model) if isinstance(model, Sequence) else [model]
    if not members:
        raise ValueError("no model given; an ensemble needs at least one member")
    if activation not in (None, "sigmoid", "softmax"):
        raise ValueError(f'activation must be "sigmoid", "softmax" or None, not {activation!r}')
    rank = len(members[0].inputs[0].shape) - 2
    array = volumes.array(image, np.float32)
    array = array if array.ndim == 4 else array[..., None]
    if any(a not in (0, 1, 2) for a in (axis, *mirror)):
        raise ValueError(f"axes are 0, 1 or 2, not axis={axis}, mirror={tuple(mirror)}")
    run = _Ensemble(members, activation, batch_size, multiple)
    lead = axis if rank == 2 else 0
    turned = np.moveaxis(array, lead, 0)
    order = [lead, *(a for a in range(3) if a != lead)]
    flips = [order.index(a) for a in mirror]
    if rank == 2 and patch is not None:
        raise ValueError("patch is for 3D models; a 2D model takes whole slices along axis")
    if rank == 2:
        slabs = _slices(run, turned, neighbours, flips)
    else:
        size = array.shape[:3] if patch is None else tuple(patch)
        slabs = _patches(run, turned, size, step, window, flips, context)

    out = None
    with tqdm(total=len(turned), unit="slice", disable=not progress, leave=False, bar_format=_BAR) as bar:
        for box, probabilities in slabs:
            slab = _to_labels(probabilities, threshold) if output == "labels" else probabilities
            if out is None:
                out = np.empty((*turned.shape[:3], *slab.shape[3:]), slab.dtype)
            out[box] = slab
            bar.update(np.prod(slab.shape[:3]) / np.prod(turned.shape[1:3]))
    return volumes.like(np.ascontiguousarray(np.moveaxis(out, 0, lead)), image)


def _to_labels(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] >= threshold).astype(np.uint8)
    return probabilities.argmax(axis=-1).astype(np.uint8)


class _Ensemble:
    """Mean of several models on a batch of fixed size (one compiled graph)."""

    def __init__(self, members, activation: str | None, batch_size: int, multiple: int | None):
        self.members, self.batch_size = members, batch_size
        self.activation = getattr(keras.ops, activation) if activation else None
        self.multiple = [multiple or 2 ** _pools(m) for m in members]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        n = len(batch)
        if n < self.batch_size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.batch_size - n, axis=0)])
        return _mean(self._one(member, batch)[:n] for member in self.members)

    def _one(self, member, batch: np.ndarray) -> np.ndarray:
        out = member.predict_on_batch(batch)
        if self.activation is not None:
            out = keras.ops.convert_to_numpy(self.activation(keras.ops.convert_to_tensor(out)))
        return np.asarray(out, np.float32)

    def side(self, n: int, axis: int) -> int:
        """The length to which an axis of ``n`` voxels is padded so that every member takes it."""
        for member, multiple in zip(self.members, self.multiple, strict=True):
            fixed = member.inputs[0].shape[1 + axis]
            n = fixed if fixed is not None else -(-n // multiple) * multiple
        return n


def _mean(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of arrays that come one at a time; a single one as it is."""
    total, n = None, 0
    for array in arrays:
        total, n = array if total is None else total + array, n + 1
    return total if n == 1 else total / np.float32(n)


def _pools(model) -> int:
    """Pooling layers of a model and of the models in it."""
    return sum(_pools(x) if hasattr(x, "layers") else "Pooling" in type(x).__name__ for x in model.layers)


def _flipped(run: _Ensemble, batch: np.ndarray, flips: Sequence[int]) -> np.ndarray:
    """Mean over all combinations of flips; ``flips`` are spatial axes, counted from 0 behind the batch axis."""
    chosen = itertools.chain.from_iterable(itertools.combinations(flips, k) for k in range(len(flips) + 1))
    turns = (tuple(a + 1 for a in axes) for axes in chosen)
    return _mean(np.flip(run(np.flip(batch, axes)), axes) for axes in turns)


def _slices(run: _Ensemble, volume: np.ndarray, neighbours: int, flips) -> Iterator[tuple[tuple, np.ndarray]]:
    """(where, probabilities there) for slices along the first axis."""
    shape = volume.shape[1:3]
    width = [(0, 0)] + [(0, run.side(n, i) - n) for i, n in enumerate(shape)] + [(0, 0)]
    if min(w[1] for w in width) < 0:
        raise ValueError(
            f"slices of {shape} are larger than the model's input {run.members[0].inputs[0].shape[1:3]}; use patches"
        )
    volume = np.pad(volume, width, mode="edge")
    inside = [f - 1 for f in flips if f > 0]
    turns = (False, True) if 0 in flips else (False,)
    for first in range(0, len(volume), run.batch_size):
        numbers = range(first, min(first + run.batch_size, len(volume)))
        stacked = np.stack([data.stack_neighbours(volume, k, neighbours) for k in numbers])
        shaped = stacked.reshape(
            *stacked.shape[:3], 2 * neighbours + 1, -1
        )  # flipping the slice axis exchanges the neighbours
        batches = (np.flip(shaped, 3).reshape(stacked.shape) if turned else stacked for turned in turns)
        mean = _mean(_flipped(run, batch, inside) for batch in batches)
        yield (slice(first, first + len(numbers)),), mean[:, : shape[0], : shape[1]]


def _patches(
    run: _Ensemble, volume: np.ndarray, size, step, window: str, flips, context: bool
) -> Iterator[tuple[tuple, np.ndarray]]:
    """(where, finished probabilities there) for blended patches; only the planes still in work are held."""
    if len(size) != 3:
        raise ValueError(f"patch must be three lengths, not {size}")
    shape = volume.shape[:3]
    size = tuple(run.side(p, i) for i, p in enumerate(size))
    step = tuple(max(1, p // 2) for p in size) if step is None else (step,) * 3 if np.isscalar(step) else tuple(step)
    weights = _weights(size, window)[..., None]
    if any(p > n for p, n in zip(size, shape, strict=True)):
        width = [(0, max(0, p - n)) for p, n in zip(size, shape, strict=True)]
        volume = np.pad(volume, [*width, (0, 0)], mode="edge")
    starts = [patches.starts(n, p, s) for n, p, s in zip(volume.shape[:3], size, step, strict=True)]
    classes = getattr(run.members[0], "outputs", [volume])[0].shape[-1]
    columns = list(itertools.product(*_columns(starts, size, volume.shape, 4 * classes)))
    run.batch_size = min(run.batch_size, max(len(a) * len(b) for (a, _), (b, _) in columns))
    halved = patches.halve(volume) if context else None

    def look(box):
        window = volume[box]
        if halved is None:
            return window
        return np.concatenate([window, patches.surroundings(halved, [s.start for s in box], size)], axis=-1)

    for rows in columns:
        here = [starts[0], *(chosen for chosen, _ in rows)]
        yield from _sweep(run, look, here, [reach for _, reach in rows], size, weights, flips, shape)


def _columns(starts, size, shape, item: int) -> list[list[tuple[list[int], tuple[int, int]]]]:
    """Pieces of the second and third axis: (windows' starts, range that they finish) each.

    As few as keep the sums (``item`` bytes a voxel) under the budget, or as many as cost no more than the extra share of windows.
    """

    def cut(axis: int, pieces: int):
        ends = [starts[axis][k * len(starts[axis]) // pieces] for k in range(pieces)][1:]
        ranges = zip([0, *ends], [*ends, shape[axis]], strict=True)
        return [
            ([s for s in starts[axis] if s < stop and s + size[axis] > first], (first, stop)) for first, stop in ranges
        ]

    def cost(pieces) -> float:
        return np.prod(
            [sum(len(s) for s, _ in cut(a, n)) / len(starts[a]) for a, n in zip((1, 2), pieces, strict=True)]
        )

    def held(pieces) -> int:
        widths = [max(s[-1] - s[0] + size[a] for s, _ in cut(a, n)) for a, n in zip((1, 2), pieces, strict=True)]
        return size[0] * int(np.prod(widths)) * item

    most = [min(8, len(starts[a])) for a in (1, 2)]
    all_ways = [(i, j) for i in range(1, most[0] + 1) for j in range(1, most[1] + 1)]
    affordable = [way for way in all_ways if cost(way) <= 1 + _EXTRA]
    small = [way for way in affordable if held(way) <= _BUDGET]
    best = min(small, key=cost) if small else min(affordable, key=held)
    return [cut(a, n) for a, n in zip((1, 2), best, strict=True)]


def _sweep(run: _Ensemble, look, starts, ranges, size, weights, flips, shape) -> Iterator[tuple[tuple, np.ndarray]]:
    """:func:`_patches` for one column: windows (``look(box)``) at ``starts``, finished within ``ranges`` of the other two axes."""
    origin = [s[0] for s in starts[1:]]
    wide = [s[-1] - s[0] + p for s, p in zip(starts[1:], size[1:], strict=True)]
    places = [slice(a, min(b, n)) for (a, b), n in zip(ranges, shape[1:], strict=True)]
    if any(place.start >= place.stop for place in places):  # nothing but padding
        return
    inner = tuple(slice(p.start - o, p.stop - o) for p, o in zip(places, origin, strict=True))
    total = weight = None
    for first, following in itertools.zip_longest(starts[0], starts[0][1:], fillvalue=starts[0][-1] + size[0]):
        boxes = (
            tuple(slice(c, c + p) for c, p in zip((first, *corner), size, strict=True))
            for corner in itertools.product(*starts[1:])
        )
        for chosen in _batched(boxes, run.batch_size):
            batch = _flipped(run, np.stack([look(box) for box in chosen]), flips)
            if total is None:
                # float64 sums where there is room, so that many overlaps of a constant give the constant
                room = size[0] * np.prod(wide) * batch.shape[-1] * 8 <= _BUDGET
                total = np.zeros((size[0], *wide, batch.shape[-1]), np.float64 if room else np.float32)
                weight = np.zeros((size[0], *wide, 1), total.dtype)
            for box, value in zip(chosen, batch, strict=True):
                here = tuple(slice(b.start - o, b.stop - o) for b, o in zip(box[1:], origin, strict=True))
                total[:, here[0], here[1]] += weights * value
                weight[:, here[0], here[1]] += weights
        for plane in range(first, min(following, shape[0])):  # no later window reaches these
            k = plane - first
            yield (slice(plane, plane + 1), *places), (total[k][inner] / weight[k][inner]).astype(np.float32)[None]
        _advance(total, following - first)
        _advance(weight, following - first)


def _weights(size, window: str) -> np.ndarray:
    if window == "gaussian":
        return patches.gaussian_window(size)
    if window == "mean":
        return np.ones(size, np.float32)
    raise ValueError(f'window must be "gaussian" or "mean", not {window!r}')


def _advance(buffer: np.ndarray, planes: int) -> None:
    """Move ``buffer`` up by so many planes in place; zeros follow."""
    for k in range(len(buffer)):
        buffer[k] = buffer[k + planes] if k + planes < len(buffer) else 0


def _batched(items, n: int):
    items = iter(items)
    while chunk := tuple(itertools.islice(items, n)):
        yield chunk
