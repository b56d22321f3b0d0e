"""Our recipe: one network of all five nuclei that knows the atlas, and how it finds its way there in a map that is not registered.

The network sees the map and, as five more channels, the share of training subjects who have each nucleus at a voxel. A registered map is
looked at once, in the atlas's box. Any other map is looked at three times: first without the atlas, anywhere around the middle of the
brain; then twice beside the atlas, each time moved by the affine that brings the nuclei found to the atlas's.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from scipy import ndimage

from segkit import volumes
from segkit.studies import common
from segkit.studies.qsm.layout import LABELS, RELEASED, Profile
from segkit.studies.qsm.networks import AUGMENTATION, build, drop_fragments
from segkit.studies.qsm.steps import centre_box, check_registered, load_cube, normalise

# registered maps lie where the atlas says, but for what registration leaves
REGISTERED = {
    "flips": (0,), "rotate": 2, "scale": 0.03, "stretch": 0.02, "shear": 0.01, "bend": 1.0, "gain": 0.1, "gamma": 0.1, "noise": 0.1,
    "blur": 0.3, "jitter": 1,
}  # fmt: skip
# of the released model, which shall bear maps that another program made, anywhere
WIDE = {"gain": 0.3, "gamma": 0.3, "blur": 1.2, "noise": 0.4}
NEAR = REGISTERED | WIDE | {"rotate": 3, "scale": 0.04}  # as place_in_atlas leaves them: a mm off, at the mean
FAR = AUGMENTATION | WIDE | {"scale": 0.25}
NUMBER = (
    3  # of the recipe (tables/recipes.csv): one more when its network, its training or the rule of its scoring changes
)
FIRST = 0.35  # share of its samples that are of the first look
MM = 1.0  # voxels that the released model sees
RECOLOUR = 0.35  # standard deviation of what is added to a nucleus, in units of normalise (some .02 ppm)
MARGIN = 1.35  # the first look's samples come from a box so much wider


class Nuclei(NamedTuple):
    """A trained network and the atlas that it saw: percent (uint8, box × 5) of the training subjects, left and right made alike."""

    model: object
    atlas: Nifti1Image


def load(path: Path) -> Nuclei:
    """A saved network and its atlas, ``<name>.keras`` and ``<name>.atlas.nii.gz`` beside it.

    Raises
    ------
    FileNotFoundError
        When one of them is missing: networks of 03_training other than the recipe have no atlas, and do not segment maps.
    """
    from segkit import models

    if Path(path).is_file() and not atlas_beside(path).is_file():
        raise FileNotFoundError(
            f"{path}: has no atlas beside it ({atlas_beside(path).name}), so it is not our recipe; leave model out for the released one"
        )
    return Nuclei(models.load(Path(path)), volumes.load(common.need(atlas_beside(path), "03_training")))


def atlas_beside(path: Path) -> Path:
    """Where the atlas of a saved network lies."""
    return Path(path).with_suffix(".atlas.nii.gz")


def votes(label_maps: Sequence[Nifti1Image], box: Sequence[int]) -> Nifti1Image:
    """How many label maps have each nucleus at each voxel of the atlas's box: uint16 (*box, 5).

    The maps share a grid. The box lies around all of their nuclei, its middle between left and right.
    """
    first = label_maps[0]
    count = np.zeros((*first.shape, len(LABELS)), np.uint16)
    for label_map in label_maps:
        for k, value in enumerate(LABELS.values()):
            count[..., k] += volumes.array(label_map) == value
    any_ = count.any(axis=-1)
    start, size = volumes.bounding_box(any_)
    middle = np.array(start) + (np.array(size) - 1) / 2
    middle[0] = np.average(np.arange(len(any_)), weights=any_.sum(axis=(1, 2)))
    begin = np.round(middle - (np.array(box) - 1) / 2).astype(int)
    affine = first.affine @ nib.affines.from_matvec(np.eye(3), begin)
    return nib.Nifti1Image(cut(count, begin, box), affine)


def cut(array: np.ndarray, begin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A box of ``shape`` from voxel ``begin``, 0 where it reaches out of ``array``."""
    out = np.zeros((*shape, *array.shape[3:]), array.dtype)
    from_, to = np.maximum(begin, 0), np.minimum(np.add(begin, shape), array.shape[:3])
    if (to > from_).all():
        inside = tuple(slice(a - b, c - b) for a, b, c in zip(from_, begin, to, strict=True))
        out[inside] = array[tuple(slice(a, c) for a, c in zip(from_, to, strict=True))]
    return out


def atlas_of(count: Nifti1Image, subjects: int) -> Nifti1Image:
    """Percent (uint8) of the votes of so many subjects, left and right made alike."""
    return nib.Nifti1Image(np.round(100 * shares(volumes.array(count), subjects)).astype(np.uint8), count.affine)


def shares(count: np.ndarray, subjects: int, own: np.ndarray | None = None) -> np.ndarray:
    """Votes (x, y, z, 5) as shares of the ``subjects``, float32, left and right made alike; without the vote of ``own``, a label map."""
    count = count.astype(np.float32)
    if own is not None:
        count = count - np.stack([own == value for value in LABELS.values()], axis=-1)
        subjects = subjects - 1
    return np.clip((count + count[::-1]) / (2 * max(subjects, 1)), 0, 1)


def beside_the_atlas(
    count: np.ndarray, subjects: int, *, near, far=None, jitter: int = 0, first: float = FIRST, own: bool = True
):
    """Transform for :class:`segkit.data.Volumes`: ``near`` with the atlas's channels, or, in ``first`` of the samples, ``far`` with zeros.

    ``near`` is given ``jitter`` voxels more on each side than the atlas's box has, and cuts its own box from them.
    ``own``: the sample's subject is among those who voted; its vote is taken out, or the network would learn to copy it.
    """

    def transform(image, label, rng):
        if far is not None and rng.random() < first:
            image, label = far(image, label, rng)
            prior = np.zeros((*label.shape, len(LABELS)), np.float32)
        else:
            box = count.shape[:3]
            margin = [(n - b) // 2 for n, b in zip(label.shape, box, strict=True)]
            truth = cut(label, margin, box)
            around = tuple(slice(max(0, m - jitter), m + b + jitter) for m, b in zip(margin, box, strict=True))
            prior = shares(count, subjects, truth if own else None)
            image, label = near(image[around], label[around], rng)
        return np.concatenate([image, prior], axis=-1), label

    transform.settings = {
        "near": near.settings, "far": None if far is None else far.settings, "first": first, "own": own, "jitter": jitter,
    }  # fmt: skip
    return transform


def recoloured(transform, sd: float):
    """``transform``, and to each nucleus of the sample a number of standard deviation ``sd`` is added, its edge blurred a little.

    An inversion is linear but for its noise, so this is what another susceptibility of the nucleus would look like, less its streaks.
    """

    def both(image, label, rng):
        image, label = transform(image, label, rng)
        added = np.zeros(label.shape, np.float32)
        for value in LABELS.values():
            added[label == value] = rng.normal(0, sd)
        return image + ndimage.gaussian_filter(added, 0.6)[..., None], label

    both.settings = transform.settings | {"recoloured": sd}
    return both


def place_in_atlas(found: Nifti1Image, atlas: Nifti1Image) -> np.ndarray | None:
    """4 × 4 from a label map's mm to the atlas's, by least squares over the centres of its ten nuclei (five, left and right).

    None where one of them is missing, or the fit would stretch the head by more than a third.
    """
    data, wanted = volumes.array(found), volumes.array(atlas).astype(np.float32)
    if not data.any():
        return None
    mm = nib.affines.apply_affine(found.affine, np.argwhere(data))
    values = data[data > 0]
    there = nib.affines.apply_affine(atlas.affine, np.argwhere(np.ones(wanted.shape[:3], bool)))
    # between left and right: the median over nuclei, so that one of them may be astray
    ends = [mm[values == v, 0] for v in np.unique(values)]
    middle, centre = np.median([(x.min() + x.max()) / 2 for x in ends]), there[:, 0].mean()
    points, targets = [], []
    for k, value in enumerate(LABELS.values()):
        weights = wanted[..., k].ravel()
        for sign in (-1, 1):
            mine = mm[(values == value) & (sign * (mm[:, 0] - middle) > 0)]
            side = np.where(sign * (there[:, 0] - centre) > 0, weights, 0)
            if not len(mine) or not side.any():
                return None
            points.append([*mine.mean(axis=0), 1])
            targets.append(np.average(there, axis=0, weights=side))
    matrix = np.linalg.lstsq(np.array(points), np.array(targets), rcond=None)[0].T
    stretch = np.linalg.svd(matrix[:, :3], compute_uv=False)
    if stretch.min() < 0.7 or stretch.max() > 1.4:
        return None
    return np.vstack([matrix, (0, 0, 0, 1)])


def train_recipe(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    results: Sequence[Path] | None = None,
    wide: bool = False,
    start: Nuclei | None = None,
    verbose="auto",
) -> tuple[Nuclei, object]:
    """Train ours, or go on with an interrupted run.

    A 3D U-Net with instance normalisation that coarsens first, its logits added to the logarithm of the atlas's shares, from which the
    sample's own vote is left out; flipped between left and right, turned, scaled, sheared, bent, with other contrast, noise and blur;
    cross-entropy + Dice; AdamW with a cosine schedule that scales to the budget; moving average of the weights.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection`` (which may be empty: then the training loss decides). All lie in one atlas's space.
    results : folders, optional
        Where cubes are looked up: each that has a subject gives a sample of it; default the run's.
    wide : bool
        As the released model is trained: also for the first look, with more augmentation, and each nucleus with another mean each time.
    start : Nuclei, optional
        Whose weights training begins with, at half the rate; default random ones.

    Returns
    -------
    Nuclei, history
        The atlas is saved beside the network.
    """
    from segkit import augment, data, losses, training

    profile = run.profile
    minutes, epochs, seed = common.begin(
        run, (profile.minutes, profile.epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    model = build(RELEASED, profile, classes=len(LABELS) + 1)
    rate, begun = 2e-3, {}
    if start is not None:
        model.set_weights(start.model.get_weights())
        rate, begun = 1e-3, {"start": common.mark(*(float(w.sum()) for w in start.model.get_weights()))}
    places = list(results or [run.results])
    folders = {s: [p for p in places if (p / "padded" / s).is_dir()] or places[:1] for s in sum(subjects.values(), [])}
    label_maps = {s: _cube(s, folders[s][0], profile)[2] for s in subjects["train"]}
    for subject, label_map in label_maps.items():
        check_registered(label_maps[subjects["train"][0]], label_map, (subjects["train"][0], subject))
    count = votes(list(label_maps.values()), profile.box)
    del label_maps
    atlas = atlas_of(count, len(subjects["train"]))
    more = {"shape": profile.box, "shift": 0}
    settings = NEAR if wide else REGISTERED
    near = augment.volumes(**{k: v for k, v in settings.items() if k != "jitter"}, **more)
    far = augment.volumes(**FAR, **(more | {"shift": max(1.0, min(profile.box) / 16)})) if wide else None
    if wide:
        near, far = recoloured(near, RECOLOUR), recoloured(far, RECOLOUR)
    still = augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=profile.box)
    votes_ = (volumes.array(count), len(subjects["train"]))
    moves = {
        "train": beside_the_atlas(*votes_, near=near, far=far, jitter=settings["jitter"]),
        "selection": beside_the_atlas(*votes_, near=still, own=False),
    }
    sets: dict = {"train": None, "selection": None}
    for side in sets:
        if not subjects[side]:
            continue
        known = {s + "*" * k: _boxed(s, p, profile, count) for s in subjects[side] for k, p in enumerate(folders[s])}
        steps = {"steps": profile.steps} if side == "train" else {"shuffle": False}
        sets[side] = data.Volumes(known, classes=len(LABELS) + 1, batch_size=1, seed=seed, augment=moves[side], **steps)
    folder = run.results / "runs" / (name or RELEASED)
    history = training.fit(
        model, sets["train"], sets["selection"], run=folder, loss=losses.get("cross_entropy_dice"), metrics=(losses.soft_dice,),
        epochs=epochs, minutes=minutes, learning_rate=rate, seed=seed, bfloat16=True, verbose=verbose, **training.RECIPE,
        settings={"fine": profile.fine} | begun,
    )  # fmt: skip
    volumes.save(atlas, atlas_beside(folder / "best.keras"))
    return Nuclei(model, atlas), history


def _cube(subject: str, place: Path, profile: Profile) -> tuple[Nifti1Image, Nifti1Image, Nifti1Image]:
    """Map, brain mask and labels; ValueError where it has none."""
    qsm, brain, known = load_cube(place, subject, profile.fine)
    if known is None:
        raise ValueError(f"{subject}: has no labels, so nothing can be learnt from it; take it out of the list")
    return qsm, brain, known


def _boxed(subject: str, place: Path, profile: Profile, count: Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    """Normalised map and labels of a subject's cube, cut to a box a third wider than the atlas's, with the same middle."""
    qsm, brain, known = _cube(subject, place, profile)
    shape = [b + 2 * round(b * (MARGIN - 1) / 2) for b in profile.box]
    begin = _begin(qsm, count) - (np.array(shape) - profile.box) // 2
    image = normalise(volumes.array(qsm), volumes.array(brain))
    return cut(image, begin, shape), cut(volumes.array(known), begin, shape)


def _begin(cube: Nifti1Image, box: Nifti1Image) -> np.ndarray:
    """First voxel of a box in a cube of the same voxels."""
    there = np.linalg.inv(cube.affine) @ box.affine
    if not np.allclose(there[:3, :3], np.eye(3), atol=1e-3):
        raise ValueError("the map's voxels are not the atlas's; resample it, or register it (00_registration)")
    return np.round(there[:3, 3]).astype(int)


def predict(
    nuclei: Nuclei, qsm: Nifti1Image, brain: Nifti1Image, *, registered: bool = False, mirror: bool = True
) -> Nifti1Image:
    """Probabilities of background and five nuclei in a box around them.

    Parameters
    ----------
    nuclei : Nuclei
    qsm, brain : Nifti1Image
        RAS+, of the voxel size that the network knows.
    registered : bool
        The map lies in the atlas's space; otherwise the network finds its place there first (:func:`place_in_atlas`), and where it
        cannot, it warns, and its first look is what is returned.

    Returns
    -------
    Nifti1Image
        float32 (*box, 6); outside of the box all is background. Its affine places the box in the map's mm.
    """
    model, atlas = nuclei
    box, inside = atlas.shape[:3], volumes.array(brain)
    whole = normalise(volumes.array(qsm, np.float32), inside)
    prior = volumes.array(atlas).astype(np.float32) / 100
    if registered:
        return nib.Nifti1Image(_look(model, cut(whole, _begin(qsm, atlas), box), prior, mirror), atlas.affine)
    middle = centre_box(inside, box)
    for _ in range(2):  # once more around what was found, where that lies close to a side
        begin = [s.start for s in middle]
        soft = _look(model, cut(whole, begin, box), np.zeros_like(prior), mirror)
        found = drop_fragments(soft.argmax(axis=-1).astype(np.uint8))
        if not _is_close_to_border(found > 0):
            break
        middle = tuple(
            slice(b + round(c - (n - 1) / 2), None) for b, c, n in zip(begin, _middle(found), box, strict=True)
        )
    affine = qsm.affine @ nib.affines.from_matvec(np.eye(3), begin)
    for look in (2, 3):
        to_atlas = place_in_atlas(nib.Nifti1Image(found, affine), atlas)
        if to_atlas is None:
            if look == 2:
                warnings.warn(
                    "not all nuclei were found on both sides, so the atlas was not used; look at the result",
                    stacklevel=2,
                )
            break
        moved = volumes.resample(
            nib.Nifti1Image(whole, to_atlas @ qsm.affine), like=nib.Nifti1Image(found, atlas.affine), kind="image"
        )
        soft = _look(model, volumes.array(moved), prior, mirror)
        affine = np.linalg.inv(to_atlas) @ atlas.affine
        found = drop_fragments(soft.argmax(axis=-1).astype(np.uint8))
    return nib.Nifti1Image(soft, affine)


def _look(model, part: np.ndarray, prior: np.ndarray, mirror: bool) -> np.ndarray:
    from segkit import inference

    channels = nib.Nifti1Image(np.concatenate([part[..., None], prior], axis=-1), np.eye(4))
    return volumes.array(inference.predict(
        model, channels, output="probabilities", mirror=(0,) if mirror else (), multiple=16, batch_size=1,
    ))  # fmt: skip


def _middle(mask: np.ndarray) -> np.ndarray:
    start, size = volumes.bounding_box(mask > 0)
    return np.array(start) + (np.array(size) - 1) / 2


def _is_close_to_border(found: np.ndarray, voxels: int = 4) -> bool:
    """Whether a mask reaches to less than ``voxels`` from a face of its box."""
    middle = tuple(slice(voxels, -voxels) for _ in range(found.ndim))
    return bool(found.sum() > found[middle].sum())


def on_cube(soft: Nifti1Image, cube: Nifti1Image) -> np.ndarray:
    """Probabilities of a registered map (:func:`predict`) on its whole cube, background around the box."""
    begin, shape = -_begin(cube, soft), cube.shape[:3]
    out = cut(volumes.array(soft), begin, shape)
    out[..., 0] += ~cut(np.ones(soft.shape[:3], bool), begin, shape)
    return out
