"""Keras datasets that know their subjects: ready arrays, slices with neighbours, random patches, whole volumes.

Each is a ``keras.utils.PyDataset`` with ``subjects`` (a sorted tuple, compared by :func:`segkit.training.fit`),
``epoch`` (set by ``fit``) and ``describe()`` (what goes into the run's record). What a batch holds depends on seed,
epoch and number of the batch alone, so a run that was interrupted goes on with the very batches it would have seen.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from segkit import labels as label_maps
from segkit import patches
from segkit.augment import Transform


class Samples(keras.utils.PyDataset):
    """Batches of ``(image, one-hot label)`` out of a numbered list of samples; base of the datasets here.

    A subclass gives ``_sample(index, rng) -> (image (…, c), label (…))``.

    Parameters
    ----------
    size : int
        Number of samples.
    subjects : sequence of str
        Whom the samples come from.
    classes : int
        Channels of the one-hot label; 1 keeps the 0/1 label as a single channel.
    steps : int, optional
        Batches an epoch; default as many as see every sample once.
    shuffle : bool
        A new order each epoch.
    """

    def __init__(
        self, size: int, subjects: Sequence[str], *, classes: int, batch_size: int, seed: int = 0,
        shuffle: bool = True, steps: int | None = None, augment: Transform | None = None,
    ):  # fmt: skip
        super().__init__(workers=1, use_multiprocessing=False)
        if isinstance(subjects, str):
            raise ValueError(f"subjects must be a list of names, not the text {subjects!r}")
        if size < 1:
            raise ValueError("the dataset has no sample; check the subjects and the rule that keeps patches")
        self.size, self.classes, self.batch_size, self.seed = size, classes, batch_size, seed
        self.subjects = tuple(sorted(set(subjects)))
        self.shuffle, self.augment, self.epoch = shuffle, augment, 0
        self.steps = steps or math.ceil(size / batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = step * self.batch_size
        if self.steps * self.batch_size > self.size + self.batch_size - 1:  # more batches than samples: begin again
            numbers = [self._order((first + i) // self.size)[(first + i) % self.size] for i in range(self.batch_size)]
        else:
            numbers = self._order(0)[first : first + self.batch_size]
        images, maps = [], []
        for i, number in enumerate(numbers):
            rng = np.random.default_rng((self.seed, self.epoch, first + i))
            image, label = self._sample(int(number), rng)
            if self.augment is not None:
                image, label = self.augment(image, label, rng)
            images.append(image)
            maps.append(label)
        labels = np.stack(maps)
        if self.classes == 1 and labels.max(initial=0) > 1:
            raise ValueError(
                f"label value {labels.max()} does not fit one channel of 0 and 1; binarise the labels first"
            )
        target = labels[..., None].astype(np.float32) if self.classes == 1 else label_maps.one_hot(labels, self.classes)
        return np.stack(images).astype(np.float32, copy=False), target

    def describe(self) -> dict:
        """What identifies this dataset in a run's record."""
        return {
            "kind": type(self).__name__, "samples": self.size, "steps": self.steps, "batch_size": self.batch_size,
            "subjects": list(self.subjects), "seed": self.seed, "shuffle": self.shuffle, "classes": self.classes,
            "augment": None if self.augment is None else getattr(self.augment, "settings", "unnamed"), "fingerprint": self._fingerprint(),
            **self._settings(),
        }  # fmt: skip

    def _order(self, round_: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng((self.seed, self.epoch, round_, 1)).permutation(self.size)

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        raise TypeError(f"{type(self).__name__} must say how a sample is made: _sample(index, rng)")

    def _settings(self) -> dict:
        """Further settings of a subclass, for the record."""
        return {}

    def _contents(self) -> Iterable[np.ndarray]:
        """All arrays that samples are made of."""
        return ()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in self._contents():
            digest.update(str((part.shape, part.dtype)).encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


class Arrays(Samples):
    """Samples that lie ready in memory: ``images (n, …, c)`` and integer ``labels (n, …)``."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, subjects: Sequence[str], **settings):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels; give one label an image")
        self.images, self.labels = images, labels
        super().__init__(len(images), subjects, **settings)

    def _sample(self, index, rng):
        return self.images[index], self.labels[index]

    def _contents(self):
        return self.images, self.labels


class Slices(Samples):
    """2D slices with neighbouring slices as channels.

    Parameters
    ----------
    volumes : dict
        Subject to ``(image, label)``: arrays of shape (x, y, z) or (x, y, z, c), and (x, y, z); all slices of one shape.
    axis : int
        Axis that numbers the slices.
    neighbours : int
        Slices taken from each side; the image has (2 · neighbours + 1) · c channels. The volume's ends are repeated.
    keep : callable, optional
        ``keep(label_slice) -> bool``: which slices take part.
    foreground : float, optional
        Share of samples drawn at random from the slices with foreground; the others come in turn from all slices.
    groups : dict, optional
        Subject to group, such as its centre: each sample first draws a group, then one of its subjects, then a slice, so that
        groups (and subjects within them) are seen equally often, whatever their numbers of slices.
    image_in_target : bool
        Add the slice's own first channel to the target, behind the label's: for losses that mask the image
        (:class:`segkit.content.Content`).
    soft : (float, float), optional
        Values that stand for 0 and 1 in the target's label.
    """

    def __init__(
        self,
        volumes: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        axis: int = 2,
        neighbours: int = 0,
        keep=None,
        foreground: float | None = None,
        groups: Mapping[str, str] | None = None,
        image_in_target: bool = False,
        soft: tuple[float, float] | None = None,
        **settings,
    ):
        self.axis, self.neighbours, self.foreground = axis, neighbours, foreground
        self.image_in_target, self.soft = image_in_target, soft
        _check_pairs(volumes)
        self.volumes = {s: (np.moveaxis(i, axis, 0), np.moveaxis(m, axis, 0)) for s, (i, m) in volumes.items()}
        shapes = {image.shape[1:] for image, _ in self.volumes.values()}
        if len(shapes) > 1:
            raise ValueError(
                f"slices of several shapes {sorted(shapes)} cannot share a batch; pad the volumes to one shape"
            )
        self.index = [(s, k) for s, (_, m) in self.volumes.items() for k in range(len(m)) if keep is None or keep(m[k])]
        self.filled = [i for i, (s, k) in enumerate(self.index) if self.volumes[s][1][k].any()] if foreground else []
        if foreground and not self.filled:
            raise ValueError(
                "no slice holds foreground, so none can be drawn; check the labels, or leave foreground out"
            )
        self.groups: dict[str, list[str]] = {}
        for subject, group in (groups or {}).items():
            self.groups.setdefault(group, []).append(subject)
        if groups is not None and set(groups) != set(volumes):
            raise ValueError(
                f"groups name {sorted(set(groups) ^ set(volumes))[:5]} otherwise than the volumes do; give each subject one"
            )
        self.of: dict[str, tuple[list[int], list[int]]] = {}  # slices of a subject, and those of them with foreground
        if groups:
            filled, of = set(self.filled), {s: [] for s in volumes}
            for i, (subject, _) in enumerate(self.index):
                of[subject].append(i)
            self.of = {s: (every, [i for i in every if i in filled] or every) for s, every in of.items() if every}
            kept = ([s for s in names if s in self.of] for names in self.groups.values())
            self.groups = dict(zip(self.groups, kept, strict=True))
        super().__init__(len(self.index), list(volumes), **settings)

    def _drawn(self, rng) -> int:
        """A slice of a group drawn evenly."""
        chosen = [names for names in self.groups.values() if names]
        names = chosen[rng.integers(len(chosen))]
        every, filled = self.of[names[rng.integers(len(names))]]
        slices = filled if self.foreground and rng.random() < self.foreground else every
        return slices[rng.integers(len(slices))]

    def _sample(self, index, rng):
        if self.groups:
            index = self._drawn(rng)
        elif self.foreground and rng.random() < self.foreground:
            index = self.filled[rng.integers(len(self.filled))]
        subject, k = self.index[index]
        image, label = self.volumes[subject]
        return stack_neighbours(image, k, self.neighbours), label[k]

    def __getitem__(self, step):
        images, target = super().__getitem__(step)
        if self.soft is not None:
            target = np.float32(self.soft[0]) + np.float32(self.soft[1] - self.soft[0]) * target
        if self.image_in_target:
            own = self.neighbours * images.shape[-1] // (2 * self.neighbours + 1)
            target = np.concatenate([target, images[..., own : own + 1]], axis=-1)
        return images, target

    def _contents(self):
        return [part for subject in sorted(self.volumes) for part in self.volumes[subject]]

    def _settings(self):
        further = {
            "foreground": self.foreground,
            "groups": sorted(self.groups) or None,
            "image_in_target": self.image_in_target or None,
            "soft": self.soft and list(self.soft),
        }
        return {"axis": self.axis, "neighbours": self.neighbours} | {k: v for k, v in further.items() if v is not None}


class Patches(Samples):
    """Random patches of 2D or 3D, a share of them centred on foreground.

    Parameters
    ----------
    volumes : dict
        Subject to ``(image, label)``: arrays (x, y, z) or (x, y, z, c), and (x, y, z). Subjects take turns.
    patch : ints
    foreground : float
        Share of patches centred on a non-zero voxel.
    steps : int
        Batches an epoch.
    context : bool
        Add what lies around the patch at half resolution as further channels (:func:`segkit.patches.surroundings`; 3D).
    """

    def __init__(
        self,
        volumes: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        patch,
        foreground: float = 0.5,
        steps: int,
        context: bool = False,
        **settings,
    ):
        self.volumes, self.patch, self.foreground = dict(volumes), tuple(patch), foreground
        self.names = sorted(self.volumes)
        _check_pairs(self.volumes, self.patch)
        self.halved = {
            s: patches.halve(i if i.ndim == 4 else i[..., None]) for s, (i, _) in self.volumes.items() if context
        }
        super().__init__(steps * settings["batch_size"], self.names, steps=steps, **settings)

    def _sample(self, index, rng):
        name = self.names[index % len(self.names)]
        image, label = self.volumes[name]
        corner = patches.sample_corners(label, self.patch, 1, rng, foreground=self.foreground)[0]
        box = tuple(slice(c, c + p) for c, p in zip(corner, self.patch, strict=True))
        image = image[box] if image.ndim > label.ndim else image[box][..., None]
        if self.halved:
            image = np.concatenate([image, patches.surroundings(self.halved[name], corner, self.patch)], axis=-1)
        return image, label[box]

    def _contents(self):
        return [part for subject in self.names for part in self.volumes[subject]]

    def _settings(self):
        around = {"context": True} if self.halved else {}
        return {"patch": list(self.patch), "foreground": self.foreground} | around


class Volumes(Samples):
    """Whole 3D volumes, one a sample; ``augment`` (:func:`segkit.augment.volumes` with ``shape``) cuts boxes of one shape.

    Parameters
    ----------
    volumes : dict
        Subject to ``(image, label)``: arrays (x, y, z) or (x, y, z, c), and (x, y, z): integers, or floats that say which
        share of a coarse voxel is foreground.
    steps : int, optional
        Batches an epoch; default as many as see every volume once.
    """

    def __init__(self, volumes: Mapping[str, tuple[np.ndarray, np.ndarray]], **settings):
        _check_pairs(volumes)
        self.volumes, self.names = dict(volumes), sorted(volumes)
        super().__init__(len(self.names), self.names, **settings)

    def _sample(self, index, rng):
        image, label = self.volumes[self.names[index]]
        return image if image.ndim > label.ndim else image[..., None], label

    def _contents(self):
        return [part for subject in self.names for part in self.volumes[subject]]


def _check_pairs(volumes: Mapping, patch: tuple[int, ...] | None = None) -> None:
    for subject, (image, label) in volumes.items():
        if image.shape[: label.ndim] != label.shape:
            raise ValueError(
                f"{subject}: image of shape {image.shape} and label of shape {label.shape} do not belong together"
            )
        if patch is not None and (
            len(patch) != label.ndim or any(p > n for p, n in zip(patch, label.shape, strict=True))
        ):
            raise ValueError(
                f"{subject}: a patch of {patch} does not fit shape {label.shape}; choose a smaller one, or pad"
            )


def stack_neighbours(image: np.ndarray, k: int, neighbours: int) -> np.ndarray:
    """Slice ``k`` of ``image (slices, x, y[, c])`` with its neighbours as channels: (x, y, (2 · neighbours + 1) · c)."""
    numbers = np.clip(np.arange(k - neighbours, k + neighbours + 1), 0, len(image) - 1)
    chosen = image[numbers] if image.ndim == 4 else image[numbers][..., None]
    return np.concatenate(list(chosen), axis=-1)
