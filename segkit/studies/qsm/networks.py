"""03 training, prediction, and a user's own map."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from scipy import ndimage

from segkit import postprocessing, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import ALL, LABELS, MASKS, RELEASED, Profile, model_name
from segkit.studies.qsm.steps import centre_box, load_cube, normalise

# the report's optimiser (section 4.2), at 3e-4; its Keras had no weight decay in Adam, so AdamW takes it
OPTIMIZER = {"class_name": "adamw", "config": {"beta_1": 0.9, "beta_2": 0.99, "weight_decay": 3e-5}}
AUGMENTATION = {
    "flips": (0,), "rotate": 12, "scale": 0.15, "stretch": 0.1, "shear": 0.05, "bend": 2.0, "gain": 0.2, "gamma": 0.15, "noise": 0.3,
    "blur": 0.7,
}  # fmt: skip
# for the released model, which shall bear maps that another program made
WIDE = AUGMENTATION | {"scale": 0.25, "gain": 0.3, "gamma": 0.3, "blur": 1.2, "noise": 0.4}
RECOLOUR = 0.35  # standard deviation of what is added to a nucleus, in units of normalise (some .02 ppm)
MM = 1.0  # voxels that the released model sees
MARGIN = 1.35  # a user's brain is at most so much larger or smaller than those it learned from


def build(network: str, profile: Profile, *, classes: int = 1, **settings):
    """A network of :func:`segkit.models.names` for one mask (``classes=1``) or all nuclei (6); slim in smoke and quick."""
    from segkit import models

    chosen = {"classes": classes, "head": "sigmoid" if classes == 1 else "softmax"}
    if network == RELEASED:
        chosen["stem"] = profile.stem
    if profile.filters:
        chosen["filters"] = profile.filters
        if network.startswith("qsm_unet3d"):
            chosen["dropout"] = 0.1
    return models.build(network, **(chosen | settings))


def load_training(
    run: common.Run, subjects: Sequence[str], *, label: str, dim: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Subject to (image, label): normalised maps float32 (x, y, z), and 0/1 of one mask or 0 … 5 of all nuclei.

    Raises
    ------
    ValueError
        For an unknown mask, or a subject without labels.
    """
    if label not in (*MASKS, ALL):
        raise ValueError(f"no mask is called {label!r}; choose one of {', '.join((*MASKS, ALL))}")
    out = {}
    for subject in subjects:
        qsm, brain, known = load_cube(run.results, subject, dim)
        inside = volumes.array(brain)
        if known is None and label != "brain":
            raise ValueError(f"{subject}: has no labels, so nothing can be learnt from it; take it out of the list")
        if label == "brain":  # the mask itself is wanted, so the map keeps its background
            image, target = volumes.array(background(run.results, subject, dim)) / np.float32(0.05), inside
        else:
            image, target = normalise(volumes.array(qsm), inside), volumes.array(known)
            target = target if label == ALL else (target == LABELS[label]).astype(np.uint8)
        out[subject] = image.astype(np.float32), target
    return out


def background(results: Path, subject: str, dim: int) -> Nifti1Image:
    """The map with background of a working cube."""
    from segkit.studies.qsm.layout import file_names

    return volumes.load(common.need(results / "padded" / subject / file_names(dim)["w_bg"], "02_downsampling"))


def train(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    network: str = "qsm_unet3d",
    label: str = ALL,
    dim: int | None = None,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    loss: str = "cross_entropy_dice",
    augmented: bool = False,
    seed: int | None = None,
    verbose="auto",
    **settings,
):
    """Train one of the report's networks on patches, or go on with an interrupted run.

    64³ patches, two in three around foreground; Adam as in the report; cross-entropy + Dice (the report names no loss). The state with
    the smallest loss on the selection subjects is kept.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection``.
    network : str
        One of :data:`segkit.studies.qsm.NETWORKS`.
    label : str
        "brain", a nucleus, or "nuclei" for all five at once.
    dim : int, optional
        Voxels a side of the cube; default the profile's.
    loss : str
        Of :func:`segkit.losses.get`, such as "dice" (soft Dice).
    augmented : bool
        Turn, scale, bend and change the patches; the report did not.

    Returns
    -------
    model, history
    """

    from segkit import augment, data, losses, training

    profile = run.profile
    dim = profile.dim if dim is None else dim
    minutes, epochs, seed = common.begin(
        run, (profile.cell_minutes, profile.cell_epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    classes = len(LABELS) + 1 if label == ALL else 1
    model = build(network, profile, classes=classes, **settings)
    patch = tuple(min(p, dim) for p in profile.patch)
    common_settings = {
        "patch": patch, "classes": classes, "batch_size": profile.batch_size, "seed": seed, "context": network == "qsm_double_branch",
    }  # fmt: skip
    sides = {}
    for side, steps in (("train", profile.steps), ("selection", max(4, 2 * len(subjects["selection"])))):
        known = load_training(run, subjects[side], label=label, dim=dim)
        moves = augment.volumes(**AUGMENTATION) if augmented and side == "train" else None
        sides[side] = data.Patches(known, foreground=2 / 3, steps=steps, augment=moves, **common_settings)
    history = training.fit(
        model, sides["train"], sides["selection"], run=run.results / "runs" / (name or f"{network}_{label}_dim{dim}"),
        loss=losses.get(loss), metrics=(losses.soft_dice,), epochs=epochs, minutes=minutes, optimizer=OPTIMIZER,
        learning_rate=profile.learning_rate, seed=seed, bfloat16=True, verbose=verbose,
        settings={"network": network, "label": label, "dim": dim, **settings},
    )  # fmt: skip
    return model, history


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
    verbose="auto",
):
    """Train ours: one network of all five nuclei on boxes around the middle of the brain.

    A 3D U-Net with instance normalisation that coarsens first; boxes flipped between left and right, turned, scaled, sheared, bent, with
    other contrast, noise and blur; cross-entropy + Dice; AdamW with a cosine schedule that scales to the budget; moving average of the
    weights.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection`` (which may be empty: then the training loss decides).
    results : folders, optional
        Where cubes are looked up: each that has a subject gives a sample of it; default the run's.
    wide : bool
        Augment more, and give each nucleus another mean each time, as the released model is trained.

    Returns
    -------
    model, history
    """

    from segkit import augment, data, losses, training

    profile = run.profile
    minutes, epochs, seed = common.begin(
        run, (profile.minutes, profile.epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    model = build(RELEASED, profile, classes=len(LABELS) + 1)
    places = list(results or [run.results])
    moves = {
        "train": augment.volumes(
            **(WIDE if wide else AUGMENTATION), shape=profile.box, shift=max(1.0, min(profile.box) / 16)
        ),
        "selection": augment.volumes(flips=(), rotate=0, scale=0, gain=0, shape=profile.box),
    }
    if wide:
        moves["train"] = recoloured(moves["train"], RECOLOUR)
    sets: dict = {"train": None, "selection": None}
    for side in sets:
        if not subjects[side]:
            continue
        known = {}
        for subject in subjects[side]:
            found = [p for p in places if (p / "padded" / subject).is_dir()] or places[:1]
            known |= {subject + "*" * k: _boxed(subject, place, profile) for k, place in enumerate(found)}
        steps = {"steps": profile.steps} if side == "train" else {"shuffle": False}
        sets[side] = data.Volumes(known, classes=len(LABELS) + 1, batch_size=1, seed=seed, augment=moves[side], **steps)
    history = training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / (name or RELEASED),
        loss=losses.get("cross_entropy_dice"), metrics=(losses.soft_dice,), epochs=epochs, minutes=minutes, learning_rate=2e-3,
        seed=seed, bfloat16=True, verbose=verbose, **training.RECIPE, settings={"fine": profile.fine},
    )  # fmt: skip
    return model, history


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


def _boxed(subject: str, place: Path, profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Normalised map and labels of a subject's cube, cut to a box a third wider than the recipe's samples."""
    qsm, brain, known = load_cube(place, subject, profile.fine)
    if known is None:
        raise ValueError(f"{subject}: has no labels, so nothing can be learnt from it; take it out of the list")
    inside = volumes.array(brain)
    box = centre_box(inside, [2 * round(b * MARGIN / 2) for b in profile.box])
    return normalise(volumes.array(qsm), inside)[box], volumes.array(known)[box]


def predict(model, qsm: Nifti1Image, brain: Nifti1Image, *, box: Sequence[int], mirror: bool = True) -> Nifti1Image:
    """Probabilities of background and five nuclei with the recipe's model, on the grid of ``qsm``.

    Parameters
    ----------
    model : keras.Model or several
    qsm, brain : Nifti1Image
        RAS+, of the voxel size that the model knows.
    box : three ints
        Voxels around the brain's middle that are looked at; all else is background. Where nuclei are found close to its border, as when
        a mask holds the cerebrum alone, it is laid around them and looked at once more.

    Returns
    -------
    Nifti1Image
        float32 (x, y, z, 6).
    """
    from segkit import inference

    inside = volumes.array(brain)
    whole = normalise(volumes.array(qsm, np.float32), inside)

    def look(place: tuple[slice, ...]) -> np.ndarray:
        part = whole[place]
        short = [(0, b - n) for b, n in zip(box, part.shape, strict=True)]
        found = inference.predict(
            model, nib.Nifti1Image(np.pad(part, short), np.eye(4)), output="probabilities", mirror=(0,) if mirror else (), multiple=16,
            batch_size=1,
        )  # fmt: skip
        return volumes.array(found)[tuple(slice(n) for n in part.shape)]

    place = centre_box(inside, box)
    soft = look(place)
    nuclei = np.zeros(whole.shape, bool)
    nuclei[place] = drop_fragments(soft.argmax(axis=-1).astype(np.uint8)) > 0
    again = centre_box(nuclei, box) if nuclei.any() else place
    if again != place and _is_close_to_border(nuclei[place]):
        place = again
        soft = look(place)
    out = np.zeros((*whole.shape, len(LABELS) + 1), np.float32)
    out[..., 0] = 1
    out[place] = soft
    return volumes.like(out, qsm)


def _is_close_to_border(found: np.ndarray, voxels: int = 4) -> bool:
    """Whether a mask reaches to less than ``voxels`` from a face of its box."""
    middle = tuple(slice(voxels, -voxels) for _ in range(found.ndim))
    return bool(found.sum() > found[middle].sum())


def predict_patches(
    model,
    image: np.ndarray,
    *,
    patch: Sequence[int],
    overlap: bool = True,
    window: str = "gaussian",
    context: bool = False,
) -> np.ndarray:
    """Probabilities (x, y, z, classes) of a cube prepared as in :func:`load_training`, from patches.

    ``overlap`` by half a patch and blended, or side by side as in the report.
    """
    from segkit import inference

    found = inference.predict(
        model, nib.Nifti1Image(np.asarray(image, np.float32), np.eye(4)), output="probabilities", patch=patch,
        step=None if overlap else tuple(patch), window=window if overlap else "mean", context=context, batch_size=2,
    )  # fmt: skip
    return volumes.array(found)


def to_labels(probabilities: np.ndarray, *, threshold: float = 0.5, tidy: bool = True) -> np.ndarray:
    """uint8 label map (of several classes) or mask (of one), parts of less than a fifth of each label's largest one dropped."""
    if probabilities.shape[-1] == 1:
        out = postprocessing.threshold(probabilities[..., 0], threshold)
    else:
        out = probabilities.argmax(axis=-1).astype(np.uint8)
    return drop_fragments(out) if tidy else out


def drop_fragments(label_map: np.ndarray, *, share: float = 0.2) -> np.ndarray:
    """``label_map`` without connected parts (26 neighbours) smaller than ``share`` of their label's largest part.

    A nucleus lies on both sides, so two large parts are kept.
    """
    import cc3d

    out = np.zeros_like(label_map)
    for value in np.unique(label_map[label_map > 0]):
        parts = cc3d.connected_components(label_map == value, connectivity=26)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        out[np.isin(parts, np.flatnonzero(sizes >= share * sizes.max())) & (parts > 0)] = value
    return out


def save_model(run: common.Run, model, *, label: str, dim: int, subjects: int, epochs: int) -> Path:
    """Write a trained model as ``saved_models/<label>_mask_dim…_sub…_e….keras`` of the run's results."""
    from segkit import models

    return models.save(model, run.results / "saved_models" / f"{model_name(label, dim, subjects, epochs)}.keras")


def load_model_for(path: Path, *, label: str, dim: int):
    """A saved model of :func:`save_model`; ValueError when its name says another label or dimension than asked for."""
    from segkit import models
    from segkit.studies.qsm.layout import parse_model_name

    facts = parse_model_name(Path(path).stem)
    if (facts["label"], facts["dim"]) != (label, dim):
        raise ValueError(
            f"{path}: is a model of {facts['label']} at dimension {facts['dim']}, {label} at {dim} is asked for; choose another file"
        )
    return models.load(common.need(Path(path), "03_training"))
