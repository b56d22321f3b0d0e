"""03 training, prediction, the released model and a user's own slices."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import labels, postprocessing, shape, volumes
from segkit.studies import common, releases
from segkit.studies.lgg.layout import RELEASED, SIZE, Profile, lacking, pair, patients_in, read
from segkit.studies.lgg.steps import load, normalise, pad_square, resize, upright

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 16))
COLOURS = ("#00C000", "#E00000")  # truth, prediction: as the report draws them
AUGMENTATION = {"flips": (1,), "rotate": 20, "scale": 0.15, "gain": 0.1, "noise": 0.15}
HOLLOW = 0.25  # share of samples whose tumour is given another intensity inside
DROPPED = 0.08  # share of samples in which pre, and post, are replaced by FLAIR, as where a sequence is missing
REPORT_RATE = 1e-3  # of the report's networks, one of which has no normalisation and does not bear ours

MODEL = releases.Release("lgg", RELEASED)
released, load_model = MODEL.files, MODEL.load


def build(network: str, profile: Profile, **settings):
    """A network of :func:`segkit.models.names`; the smoke and quick profiles make these slim."""
    from segkit import models

    slim = {"filters": profile.filters} if profile.filters and network in (RELEASED, "lgg_unet") else {}
    if profile.filters and network == "lgg_bunet":
        slim = {"filters": (*profile.filters, profile.filters[-1])[:3], "skip_kernels": (3, 5), "context_kernel": 5}
    return models.build(network, **(slim | settings))


def neighbours_of(model) -> int:
    """Neighbouring slices on each side that a model takes, by its channels (three a slice)."""
    channels = model.inputs[0].shape[-1]
    if channels % 6 != 3:
        raise ValueError(
            f"{model.name}: takes {channels} channels; slices are pre, FLAIR and post with as many neighbours on each side (3, 9, 15, …)"
        )
    return (channels // 3 - 1) // 2


def class_weights(results: Path, patients: Sequence[str]) -> tuple[float, float]:
    """Weights of background and tumour for the cross-entropy: 1 / (2 · share of each), from the training masks alone."""
    masks = {p: load(results, p)[1] for p in patients}
    without = [p for p, mask in masks.items() if mask is None]
    if without:
        raise ValueError(f"{without[:5]} have no mask, so nothing can be measured; take them out of the list")
    masks = list(masks.values())
    share = sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)
    if not 0 < share < 1:
        raise ValueError(f"{share:.0%} of the training pixels are tumour; there is nothing to weigh")
    return 1 / (2 * (1 - share)), 1 / (2 * share)


def slices(
    run: common.Run, patients: Sequence[str], *, neighbours: int, augment=None, seed: int = 0, shuffle: bool = True, **settings
):  # fmt: skip
    """A :class:`segkit.data.Slices` of patients that 02 wrote; a patient without a mask is refused."""
    from segkit import data

    known = {}
    for patient in patients:
        image, mask = load(run.results, patient)
        if mask is None:
            raise ValueError(f"{patient}: has no mask, so nothing can be learnt from it; take it out of the list")
        known[patient] = image, mask
    return data.Slices(
        known, classes=1, neighbours=neighbours, batch_size=run.profile.batch_size, seed=seed, shuffle=shuffle, augment=augment,
        **settings,
    )  # fmt: skip


def train(
    run: common.Run,
    patients: dict[str, list[str]],
    *,
    network: str = RELEASED,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    loss: str = "cross_entropy_dice",
    weighted: bool = False,
    learning_rate: float | None = None,
    verbose="auto",
    **settings,
):
    """Train a network on slices, or go on with an interrupted run.

    Half of the samples are slices with tumour; flips between left and right, turns, scaling, other contrast and noise; pre or post is at
    times replaced by FLAIR; cross-entropy + Dice over the batch; AdamW with a cosine schedule that scales to the budget; moving
    average of the weights. The state with the smallest training loss is kept, which under this schedule is one of the last: with eight
    selection patients one that fails decides their loss, so they choose the threshold only (:func:`choose_threshold`).

    Parameters
    ----------
    patients : dict
        ``train`` and ``selection`` (lists; a patient on both sides is refused).
    network : str
        Ours takes one neighbouring slice on each side, the report's networks none.
    name : str, optional
        Of the run folder; default the network's.
    minutes, epochs : optional
        Budget; default the profile's.
    loss : str
        Of :func:`segkit.losses.get`.
    learning_rate : float, optional
        Default the profile's.
    weighted : bool
        Weigh the cross-entropy by :func:`class_weights` of the training patients, as the report's WCE + DLC.
    **settings
        Go to :func:`segkit.models.build`.

    Returns
    -------
    model, history
    """

    from segkit import augment, losses, training

    profile = run.profile
    minutes, epochs, seed = common.begin(
        run, (profile.minutes, profile.epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    model = build(network, profile, **settings)
    neighbours = neighbours_of(model)
    moves = augment.slices(**AUGMENTATION)
    sets = {
        "train": slices(
            run, patients["train"], neighbours=neighbours, augment=drop_sequences(hollow(moves, HOLLOW), DROPPED), seed=seed,
            foreground=0.5, steps=profile.steps,
        ),
        "selection": slices(run, patients["selection"], neighbours=neighbours, shuffle=False) if patients.get("selection") else None,
    }  # fmt: skip
    weights = {"class_weights": class_weights(run.results, patients["train"])} if weighted else {}
    history = training.fit(
        model, sets["train"], sets["selection"], run=run.results / "runs" / (name or network), loss=losses.get(loss, **weights),
        epochs=epochs, minutes=minutes, learning_rate=learning_rate or profile.learning_rate, monitor="loss", seed=seed,
        bfloat16=True, verbose=verbose,
        **training.RECIPE, settings={"network": settings},
    )  # fmt: skip
    return model, history


def load_run(run: common.Run, name: str):
    """The model that :func:`train` left under ``name``."""
    from segkit import models

    return models.load(common.need(run.results / "runs" / name / "best.keras", "03_training"))


def drop_sequences(transform, share: float):
    """``transform``, and with probability ``share`` each, pre or post replaced by FLAIR in every slice of the sample."""

    def both(image, label, rng):
        image, label = transform(image, label, rng)
        for channel in (0, 2):
            if rng.random() < share:
                image[..., channel::3] = image[..., 1::3]
        return image, label

    both.settings = transform.settings | {"dropped": share}
    return both


def hollow(transform, share: float):
    """``transform``, and with probability ``share`` the inside of the tumour takes another intensity, in each sequence its own.

    Large tumours may be dark inside (cysts, necrosis, surgery), while most that a network learns from are bright throughout.
    """

    def both(image, label, rng):
        image, label = transform(image, label, rng)
        if rng.random() < share and label.any():
            depth = cv2.distanceTransform(np.ascontiguousarray(label, np.uint8), cv2.DIST_L2, 3)
            edge = rng.uniform(0.1, 0.6) * depth.max()
            inside = cv2.GaussianBlur(np.float32(depth > edge), (0, 0), 1.0)[..., None]
            inside *= np.float32(rng.uniform(0.5, 1.0))
            grain = cv2.GaussianBlur(rng.standard_normal(label.shape, dtype=np.float32), (0, 0), rng.uniform(1, 3))[
                ..., None
            ]
            for channel in range(3):
                level = np.float32(rng.uniform(-0.5, 1.5)) + grain
                image[..., channel::3] = image[..., channel::3] * (1 - inside) + level * inside
        return image, label

    both.settings = transform.settings | {"hollow": share}
    return both


def predict(model, image: np.ndarray, *, size: int = SIZE, mirror: bool = True, batch_size: int = 16) -> np.ndarray:
    """Probability of tumour at every pixel of a patient's slices.

    Parameters
    ----------
    model : keras.Model or several
    image : array (rows, columns, slices, 3)
        As read, of any size: padded to a square, brought to ``size``, normalised, segmented and brought back.
    mirror : bool
        Average with the prediction on slices flipped between left and right.

    Returns
    -------
    float32 array (rows, columns, slices)
    """
    square = pad_square(image)
    small = predict_small(model, normalise(resize(square, (size, size))), mirror=mirror, batch_size=batch_size)
    large = resize(small, square.shape[:2])
    start = [(s - n) // 2 for s, n in zip(square.shape[:2], image.shape[:2], strict=True)]
    return large[start[0] : start[0] + image.shape[0], start[1] : start[1] + image.shape[1]]


def predict_small(model, image: np.ndarray, *, mirror: bool = True, batch_size: int = 16) -> np.ndarray:
    """:func:`predict` on slices that 02 wrote."""
    from segkit import inference

    members = list(model) if isinstance(model, list | tuple) else [model]
    found = inference.predict(
        members, nib.Nifti1Image(np.asarray(image, np.float32), np.eye(4)), output="probabilities", axis=2,
        neighbours=neighbours_of(members[0]), mirror=(1,) if mirror else (), batch_size=batch_size, multiple=16,
    )  # fmt: skip
    return volumes.array(found)[..., 0]


def to_mask(probabilities: np.ndarray, *, threshold: float = 0.5, largest: bool = True) -> np.ndarray:
    """uint8 mask: ``threshold``, then the largest 3D component (26 neighbours) where asked."""
    mask = postprocessing.threshold(probabilities, threshold)
    return postprocessing.largest_component(mask) if largest else mask


def choose_threshold(
    model, run: common.Run, patients: Sequence[str], *, among: Sequence[float] = THRESHOLDS
) -> tuple[float, pd.DataFrame]:
    """The threshold for a model, by selection patients: :func:`middle` of their Dice.

    Returns
    -------
    threshold, DataFrame of Dice (a row a patient, a column a threshold)
    """
    from segkit import metrics

    rows = []
    for patient in patients:
        image, mask = load(run.results, patient)
        found = predict_small(model, image)
        rows.append({at: metrics.dice(mask, to_mask(found, threshold=at)) for at in among})
    table = pd.DataFrame(rows, index=list(patients))
    return middle(table), table


def middle(table: pd.DataFrame):
    """The column in the middle of those that :func:`within_error` gives (of two, the right one)."""
    chosen = within_error(table)
    return chosen[len(chosen) // 2]


def within_error(table: pd.DataFrame) -> list:
    """Columns whose mean is not lower than the best column's by more than the standard error of the difference over the rows.

    With few patients, the one of the highest mean may owe it to a single patient (the one-standard-error rule: Breiman et al.,
    Classification and regression trees, 1984, section 3.4.3).
    """
    behind = -table.sub(table[table.mean().idxmax()], axis=0)
    error = behind.std(ddof=1).fillna(0) / np.sqrt(len(table))
    return list(table.columns[behind.mean() <= error + 1e-12])


def release(run: common.Run, name: str, scores: pd.DataFrame) -> list[Path]:
    """Save the trained run ``name`` in float16 to ``results_dir/lgg/saved_models``, with its record and scores."""
    return MODEL.save(run, name, scores)


def segment(
    scan,
    *,
    model=None,
    out: str | os.PathLike | None = None,
    threshold: float | None = None,
    largest: bool = True,
    size: int = SIZE,
) -> Nifti1Image:
    """Tumour mask of a patient's slices, with the released model.

    Parameters
    ----------
    scan : path
        Folder of one patient's ``<patient>_<n>.tif`` as in ``kaggle_3m`` (8-bit RGB: pre, FLAIR, post; or grey FLAIR alone), whatever
        the folder's own name. Masks in it are ignored; a warning names what else was left out.
    model : keras.Model or path, or several, optional
        Default :func:`released`.
    out : folder, optional
        Also write ``<patient>_seg.nii.gz``, ``<patient>_overlay.png`` and ``<patient>_measures.csv``.
    threshold, largest
        See :func:`to_mask`; the threshold's default is the released model's own.
    size : int
        Pixels a side that the model learned from.

    Returns
    -------
    Nifti1Image
        uint8 (rows, columns, slices in numeric order), 0 background, 1 tumour; the affine is the identity, since the slices have no
        header.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing, holds no slice or slices of several sizes or patients.
    """
    table = _own(Path(scan))
    name = table["patient"].iloc[0]
    image, _ = read(table, name)
    without = lacking(image)
    if without:
        warnings.warn(f"{scan}: no {' and no '.join(without)}; FLAIR stands in", stacklevel=2)
    threshold = MODEL.threshold() if threshold is None else threshold
    mask = nib.Nifti1Image(
        to_mask(predict(load_model(model), image, size=size), threshold=threshold, largest=largest), np.eye(4)
    )
    if out is not None:
        from segkit import plots

        figure = plots.contours(
            upright(image[..., 1]), None, upright(volumes.array(mask)), source=None, title=name, colours=COLOURS
        )
        releases.write_outputs(mask, measure(mask), figure, out, name)
    return mask


def _own(folder: Path) -> pd.DataFrame:
    """Slices of one patient's folder, masks left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder that holds one patient's slices")
    names = patients_in(folder)
    if len(names) != 1:
        found = f"slices of several patients ({', '.join(names[:4])})" if names else "no slice"
        raise ValueError(
            f"{folder}: holds {found}; give a folder with one patient's <patient>_1.tif, <patient>_2.tif, …"
        )
    rows, notes = pair(folder, name=names[0], with_masks=False)
    if not rows:
        raise ValueError(f'{folder}: holds copies ("(1)") alone; name them <patient>_<n>.tif')
    if notes:
        text = "; ".join(f"{n['file']}: {n['reason']}" for n in notes[:5])
        warnings.warn(f"{folder}: {len(notes)} left out or remarked ({text})", stacklevel=3)
    return pd.DataFrame(rows)


def measure(mask, scan=None) -> pd.DataFrame:
    """What a user reads off a mask: its size in pixels and the three shape features.

    Parameters
    ----------
    mask : path or Nifti1Image
        0 background; one other value. ``scan`` is not needed: the slices have no header, so there is no volume in ml.

    Returns
    -------
    DataFrame
        One row, index "tumour": pixels, slices, components, and :data:`segkit.shape.NAMES`.
    """
    import cc3d

    del scan
    mask = volumes.read(mask, "mask")
    inside = volumes.array(labels.as_labels(mask, None, "mask")) > 0
    row = {
        "pixels": int(inside.sum()), "slices": int(inside.any(axis=(0, 1)).sum()),
        "components": int(cc3d.connected_components(inside, connectivity=26).max()),
    }  # fmt: skip
    return pd.DataFrame([row | shape.features(inside)], index=pd.Index(["tumour"], name="structure"))
