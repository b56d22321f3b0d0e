"""03 training and prediction of the report's networks."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

from segkit import postprocessing, volumes
from segkit.studies import common
from segkit.studies.qsm.layout import (
    ALL,
    LABELS,
    MASKS,
    NETWORKS,
    RELEASED,
    Profile,
    file_names,
    model_name,
    parse_model_name,
)
from segkit.studies.qsm.steps import centre_box, load_cube, normalise

# the report's optimiser (section 4.2), at 3e-4; its Keras had no weight decay in Adam, so AdamW takes it
OPTIMIZER = {"class_name": "adamw", "config": {"beta_1": 0.9, "beta_2": 0.99, "weight_decay": 3e-5}}
AUGMENTATION = {
    "flips": (0,), "rotate": 12, "scale": 0.15, "stretch": 0.1, "shear": 0.05, "bend": 2.0, "gain": 0.2, "gamma": 0.15, "noise": 0.3,
    "blur": 0.7,
}  # fmt: skip


LOSS = "cross_entropy_dice"  # the report names none


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
    return volumes.load(common.need(results / "padded" / subject / file_names(dim)["w_bg"], "02_downsampling"))


def run_name(
    network: str,
    label: str,
    dim: int,
    subjects: int,
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    augmented: bool = False,
    loss: str = LOSS,
    batch_size: int | None = None,
) -> str:
    """Folder in ``runs`` of a training: all that 03_training lets a user change, so that one does not run into another.

    >>> run_name("qsm_unet3d", "nuclei", 128, 28, minutes=25)
    'qsm_unet3d_nuclei_dim128_sub28_25min'
    """
    budget = ([f"e{epochs}"] if epochs else []) + ([f"{minutes:g}min"] if minutes else [])
    changed = ["augmented"] * augmented + [loss] * (loss != LOSS) + ([f"batch{batch_size}"] if batch_size else [])
    return "_".join([network, label, f"dim{dim}", f"sub{subjects}", *budget, *changed])


def train(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    network: str = NETWORKS[0],
    label: str = ALL,
    dim: int | None = None,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    loss: str = LOSS,
    batch_size: int | None = None,
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
    name : str, optional
        Of the run folder; default :func:`run_name`.
    loss : str
        Of :func:`segkit.losses.get`, such as "dice" (soft Dice).
    batch_size : int, optional
        Patches a step (the report: 4); default the profile's.
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
    own = {
        "patch": patch, "classes": classes, "batch_size": batch_size or profile.batch_size, "seed": seed,
        "context": network == "qsm_double_branch",
    }  # fmt: skip
    sets = {}
    for side, steps in (("train", profile.steps), ("selection", max(4, 2 * len(subjects["selection"])))):
        known = load_training(run, subjects[side], label=label, dim=dim)
        moves = augment.volumes(**AUGMENTATION) if augmented and side == "train" else None
        sets[side] = data.Patches(known, foreground=2 / 3, steps=steps, augment=moves, **own)
    name = name or run_name(
        network,
        label,
        dim,
        len(subjects["train"]),
        minutes=minutes,
        epochs=epochs,
        augmented=augmented,
        loss=loss,
        batch_size=batch_size,
    )
    history = training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / name,
        loss=losses.get(loss), metrics=(losses.soft_dice,), epochs=epochs, minutes=minutes, optimizer=OPTIMIZER,
        learning_rate=profile.learning_rate, seed=seed, bfloat16=True, verbose=verbose,
        settings={"network": network, "label": label, "dim": dim, **settings},
    )  # fmt: skip
    return model, history


def predict_patches(
    model,
    image: np.ndarray,
    *,
    patch: Sequence[int],
    overlap: bool = True,
    whole: bool = False,
    window: str = "gaussian",
    context: bool = False,
) -> np.ndarray:
    """Probabilities (x, y, z, classes) of a cube prepared as in :func:`load_training`, from patches.

    ``overlap`` by half a patch and blended, or side by side as in the report. Overlapping ones are cut from the box of what is not 0, which
    is half of a padded cube; beyond it all is background. With ``whole`` they are cut from the whole cube, so that every second one begins
    where one side by side does; with ``context``, too, since training saw the cube's rim.
    """
    from segkit import inference

    image = np.asarray(image, np.float32)
    box: tuple[slice, ...] = (...,)
    if overlap and not whole and not context and image.any():
        box = centre_box(image, np.maximum(volumes.bounding_box(image)[1], patch))
    found = inference.predict(
        model, nib.Nifti1Image(image[box], np.eye(4)), output="probabilities", patch=patch,
        step=None if overlap else tuple(patch), window=window if overlap else "mean", context=context, batch_size=2,
    )  # fmt: skip
    out = np.zeros((*image.shape, found.shape[3]), np.float32)
    if found.shape[3] > 1:
        out[..., 0] = 1
    out[box] = volumes.array(found)
    return out


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


def save_model(
    run: common.Run, model, *, label: str, dim: int, subjects: int, epochs: int, network: str = NETWORKS[0]
) -> Path:
    """Write a trained model to ``saved_models`` of the run's results under :func:`segkit.studies.qsm.model_name`."""
    from segkit import models

    return models.save(
        model, run.results / "saved_models" / f"{model_name(label, dim, subjects, epochs, network)}.keras"
    )


def load_model_for(path: Path, *, label: str, dim: int):
    """A saved model of :func:`save_model`; ValueError when its name or its output is of another label or dimension than asked for."""
    from segkit import models

    facts = parse_model_name(Path(path).stem)
    if (facts["label"], facts["dim"]) != (label, dim):
        raise ValueError(
            f"{path}: is a model of {facts['label']} at dimension {facts['dim']}, {label} at {dim} is asked for; choose another file"
        )
    model = models.load(common.need(Path(path), "03_training"))
    wanted = len(LABELS) + 1 if label == ALL else 1
    if model.output_shape[-1] != wanted:
        raise ValueError(
            f"{path}: gives {model.output_shape[-1]} classes where {label} needs {wanted}; choose another file"
        )
    return model
