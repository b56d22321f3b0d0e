"""03 training of the report's generator with any of the losses, and its prediction."""

from pathlib import Path

import numpy as np
from nibabel import Nifti1Image

from segkit import postprocessing, volumes
from segkit.studies import common
from segkit.studies.wmh.layout import HARD, LOSSES, SOFT, Profile
from segkit.studies.wmh.steps import as_image, back, how_of, load, pad_square, resize, scale

ROTATE = 30  # degrees: the report's only augmentation


def build(profile: Profile, **settings):
    """The report's generator on grey slices in three channels; slimmer where the profile says so."""
    from segkit import models

    chosen = {"filters": profile.filters} if profile.filters else {}
    return with_momentum(models.build("wmh_generator", **(chosen | settings)), profile.momentum)


def with_momentum(model, momentum: float):
    """``model``, whose batch normalisation remembers so much of its statistics from step to step."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    return model


def window(run: common.Run, subject: str) -> dict[str, float]:
    """What is black and what is white to VGG, where 02 scaled intensities other than to 0 … 1: ``low`` and ``high`` of the content loss."""
    return {"low": -1.0, "high": 3.0} if how_of(run.results, subject) == "zscore" else {}


def train(
    run: common.Run,
    subjects: dict[str, list[str]],
    *,
    loss: str = "content",
    features: str = "imagenet",
    pools: int = 2,
    reduction: str = "concatenated",
    soft: bool | None = None,
    name: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    start: Path | None = None,
    verbose="auto",
):
    """Train the generator with one loss, or go on with an interrupted run.

    Slices of all centres equally often, half of them drawn from those with lesions and half from all (label 2, other pathology,
    counts as background); rotations of up to 30°, as in the report; Adam 10⁻³. The state with the smallest loss on the selection
    subjects is kept; with trained features, which raise that loss, the last one.

    Parameters
    ----------
    subjects : dict
        ``train`` and ``selection``.
    loss : str
        One of :data:`segkit.studies.wmh.LOSSES`, or another of :func:`segkit.losses.get`.
    features, pools, reduction
        Of the content loss; see :class:`segkit.content.Content`.
    soft : bool, optional
        Targets of .1 and .9 instead of 0 and 1, as in the report; default for every loss but those of
        :data:`segkit.studies.wmh.layout.HARD`.
    start : path, optional
        Model whose weights training starts from.

    Returns
    -------
    model (the generator), history
    """

    from segkit import augment, content, data, losses, models, training

    profile, soft = run.profile, loss not in HARD if soft is None else soft
    minutes, epochs, seed = common.begin(
        run, (profile.minutes, profile.epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    generator = build(profile)
    if start is not None:
        generator.set_weights(models.load(start).get_weights())
    settings = dict(LOSSES.get(loss, {}))
    own = {"features": str(features), "pools": pools, "reduction_of_features": reduction}
    masked = "content" in loss
    if masked:
        own |= window(run, subjects["train"][0])
        content.vgg19(own["features"], pools=pools, seed=seed)  # read now: an error before hours are spent
        own["seed"] = seed
    if loss == "trained_content":
        model, objective = content.with_trained_features(generator, **(own | settings))
    else:
        model, objective = (
            generator,
            losses.get("content" if masked else loss, **(own | settings if masked else settings)),
        )
    sides = {}
    for side in ("train", "selection"):
        more: dict = {"shuffle": False}
        if side == "train":
            centres = {s: s.rpartition("/")[0] for s in subjects["train"]}
            more = {"steps": profile.steps, "foreground": 0.5, "groups": centres}
        known = {}
        for subject in subjects[side]:
            image, mask = load(run.results, subject)
            if mask is None:
                raise ValueError(f"{subject}: has no mask, so nothing can be learnt from it; take it out of the list")
            known[subject] = np.repeat(image[..., None], 3, axis=-1), (mask == 1).astype(np.uint8)
        moves = augment.slices(flips=(), rotate=ROTATE, scale=0, gain=0) if side == "train" else None
        keep = None if side == "train" else (lambda m: m.any())
        sides[side] = data.Slices(
            known, classes=1, batch_size=profile.batch_size, seed=seed, augment=moves, image_in_target=masked, soft=SOFT if soft else None,
            keep=keep, **more,
        )  # fmt: skip
    history = training.fit(
        model, sides["train"], sides["selection"], run=run.results / "runs" / (name or f"{loss}_seed{seed}"), loss=objective,
        epochs=epochs, minutes=minutes, optimizer="adam", learning_rate=profile.learning_rate, seed=seed, bfloat16=True, verbose=verbose,
        monitor="last" if loss == "trained_content" else None,
        settings={"loss": loss, **(own if masked else {})},
    )  # fmt: skip
    return generator, history


def predict(model, image: Nifti1Image, *, size: int, how: str = "maximum", batch_size: int = 8) -> np.ndarray:
    """Probability of a lesion at every voxel of a RAS+ scan, on its own grid, with a generator of :func:`train`."""
    from segkit import inference

    small = resize(scale(volumes.array(pad_square(image), np.float32), how), size, kind="image")
    found = inference.predict(
        model, as_image(np.repeat(small[..., None], 3, axis=-1)), output="probabilities", axis=2, batch_size=batch_size
    )
    return back(volumes.array(found)[..., 0], image)


def to_mask(soft: np.ndarray, *, threshold: float = 0.5, smallest: int = 0) -> np.ndarray:
    """uint8 mask; connected parts (26 neighbours) of fewer than ``smallest`` voxels are dropped."""
    mask = postprocessing.threshold(soft, threshold)
    return postprocessing.remove_small(mask, smallest, connectivity=26) if smallest else mask
