"""Our own recipe: a slice network that sees its neighbours and knows all three planes; their mean is the prediction."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel import Nifti1Image

from segkit import postprocessing, volumes
from segkit.studies import common
from segkit.studies.ibsr.layout import LABELS, SPACING_MM, Profile
from segkit.studies.ibsr.steps import load_padded, normalise

NETWORK = "ibsr_unet_slices"
PLANES = (0, 1, 2)  # sagittal, coronal, axial in RAS+
NEIGHBOURS = 1
MULTIPLE = 16
RATE = 2e-3
AUGMENTATION = {
    "flips": (), "rotate": 12, "scale": 0.12, "bend": 1.5, "gain": 0.15, "gamma": 0.2, "noise": 0.1, "blur": 0.7,
}  # fmt: skip
# how labels come of what the network says: as `experiments select` found it, and as it chose
PLAIN: dict = {"planes": PLANES, "mirror": True, "tidy": False, "smallest_csf": 0, "weights": (1.0, 1.0, 1.0, 1.0)}
CHOSEN: dict = PLAIN | {}


def cubes(results: Path, subjects: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Subject to (image, label): the brain's box of what 01 wrote, z-scored, in a cube that holds the largest of them."""
    found = {}
    for subject in subjects:
        image, label = load_padded(results, subject)
        if label is None:
            raise ValueError(f"{subject}: has no labels, so nothing can be learnt from it; take it out of the list")
        start, shape = volumes.bounding_box(volumes.array(image) > 0, margin=2)
        box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        found[subject] = normalise(image)[box], volumes.array(label)[box]
    side = -(-max(max(label.shape) for _, label in found.values()) // MULTIPLE) * MULTIPLE
    return {s: (_cube(i, side, i.min()), _cube(m, side, 0)) for s, (i, m) in found.items()}


def _cube(array: np.ndarray, side: int, fill) -> np.ndarray:
    """``array`` in the middle of a cube."""
    width = [((side - n) // 2, side - n - (side - n) // 2) for n in array.shape]
    return np.pad(array, width, constant_values=fill)


def views(known: dict[str, tuple[np.ndarray, np.ndarray]], planes: Sequence[int], *, mirrored: bool = True) -> dict:
    """What a slice dataset takes: each cube once a plane, its slices along the last axis; ``mirrored`` adds left–right flips."""
    out = {}
    for subject, pair in known.items():
        for plane in planes:
            out[f"{subject} plane {plane}"] = tuple(np.moveaxis(a, plane, 2) for a in pair)
            if mirrored:
                out[f"{subject} plane {plane} mirrored"] = tuple(np.moveaxis(a[::-1], plane, 2) for a in pair)
    return out


def cut_around(moves, side: int, *, margin: int = 16):
    """``moves`` on a square around a random labelled pixel of a slice: ``side`` pixels of it, turned with ``margin`` more on each side.

    Half or more of a slice is background; a network of convolutions sees whole slices at prediction all the same.
    """

    def transform(image, label, rng):
        filled = np.flatnonzero(label)
        at = np.unravel_index(filled[rng.integers(len(filled))], label.shape)
        wide = [min(side + 2 * margin, n) for n in label.shape]
        start = [int(np.clip(a - w // 2, 0, n - w)) for a, w, n in zip(at, wide, label.shape, strict=True)]
        box = tuple(slice(s, s + w) for s, w in zip(start, wide, strict=True))
        image, label = moves(image[box], label[box], rng)
        middle = tuple(slice((w - min(side, w)) // 2, (w - min(side, w)) // 2 + min(side, w)) for w in wide)
        return image[middle], label[middle]

    transform.settings = moves.settings | {"side": side, "margin": margin}
    return transform


def learning(profile: Profile) -> tuple:
    """All that a training of the recipe depends on but its minutes, its seed and its subjects."""
    from segkit import training

    own = (NEIGHBOURS, RATE, profile.recipe_batch, profile.recipe_steps, profile.recipe_crop, profile.filters)
    return (sorted(AUGMENTATION.items()), *own, sorted(map(str, training.RECIPE.items())))


def train_recipe(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    planes: Sequence[int] = PLANES,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    verbose="auto",
):
    """Train the recipe, or go on with an interrupted run.

    Squares from slices of the brain's box along ``planes`` with a neighbour on each side, mirrored left to right, turned, scaled, bent,
    with other contrast, noise and blur; cross-entropy + Dice; AdamW with a cosine schedule that scales to the budget; moving average of
    the weights.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection`` (which may be empty: then the last epoch is kept).
    name : str, optional
        Of the run folder; default the network's.

    Returns
    -------
    model, history
    """

    from segkit import augment, data, losses, models, training

    profile = run.profile
    minutes, epochs, seed = common.begin(
        run, (profile.recipe_minutes, profile.epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    model = models.build(NETWORK, **({"filters": profile.filters} if profile.filters else {}))
    everyone = cubes(run.results, [*subjects["train"], *subjects["selection"]])
    settings = {
        "classes": len(LABELS) + 1, "neighbours": NEIGHBOURS, "batch_size": profile.recipe_batch, "seed": seed, "keep": np.any,
    }  # fmt: skip
    moves = augment.slices(**AUGMENTATION)
    if profile.recipe_crop:
        moves = cut_around(moves, profile.recipe_crop)
    sets: dict = {"train": None, "selection": None}
    for side in sets:
        if not subjects[side]:
            continue
        learns = side == "train"
        here = views({s: everyone[s] for s in subjects[side]}, planes, mirrored=learns)
        more = {"augment": moves, "steps": profile.recipe_steps} if learns else {"shuffle": False}
        sets[side] = data.Slices(here, **settings, **more)
    history = training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / (name or NETWORK),
        loss=losses.get("cross_entropy_dice"), metrics=(losses.soft_dice,), epochs=epochs, minutes=minutes, learning_rate=RATE,
        seed=seed, bfloat16=True, monitor=None if subjects["selection"] else "last", verbose=verbose, **training.RECIPE,
        settings={"planes": list(planes), "normalisation": "z-score in the brain"},
    )  # fmt: skip
    return model, history


def predict_recipe(
    model,
    image: Nifti1Image,
    *,
    planes: Sequence[int] = CHOSEN["planes"],
    mirror: bool = CHOSEN["mirror"],
    tidy: bool = CHOSEN["tidy"],
    smallest_csf: int = CHOSEN["smallest_csf"],
    weights: Sequence[float] = CHOSEN["weights"],
    spacing_mm: Sequence[float] = SPACING_MM,
) -> Nifti1Image:
    """Labels of a bias-corrected scan on the scan's own grid, from the mean over planes, mirrored copies and members.

    Parameters
    ----------
    model : keras.Model or several
    planes : sequence of int
        Axes (of RAS+) along which slices are looked at; one that is named twice counts twice.
    mirror : bool
        Average with the prediction on the scan flipped between left and right.
    tidy : bool
        Keep the largest connected part of the brain's tissue.
    smallest_csf : int
        Connected parts of CSF (26 neighbours) with fewer voxels become what is next likely.
    weights : four floats
        Of the classes' probabilities, before the largest is taken.
    spacing_mm : three floats
        Voxel size that the network knows; a scan that differs by more than a fifth is resampled.
    """
    from segkit import inference

    work = volumes.canonical(image)
    ratio = np.array(volumes.spacing(work)) / np.array(spacing_mm)
    if ratio.max() > 1.2 or ratio.min() < 1 / 1.2:
        work = volumes.resample(work, spacing_mm=spacing_mm, kind="image")
    start, shape = volumes.bounding_box(volumes.array(work) > 0, margin=2)
    ready = volumes.crop(volumes.like(normalise(work), work), shape, start=start)
    soft = sum(
        times * volumes.array(
            inference.predict(
                model, ready, output="probabilities", axis=plane, neighbours=NEIGHBOURS, mirror=(0,) if mirror else (),
                multiple=MULTIPLE,
            )
        )
        for plane, times in Counter(planes).items()
    ) * np.asarray(weights, np.float32)  # fmt: skip
    found = soft.argmax(axis=-1).astype(np.uint8)
    if smallest_csf:
        csf = found == LABELS["CSF"]
        dropped = csf & (postprocessing.remove_small(csf, smallest_csf, connectivity=26) == 0)
        soft[dropped, LABELS["CSF"]] = -1
        found[dropped] = soft[dropped].argmax(axis=-1)
    if tidy:
        found *= postprocessing.largest_component(found > 0).astype(np.uint8)
    return volumes.resample(volumes.like(found, ready), like=image, kind="label")
