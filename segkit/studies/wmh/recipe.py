"""Our recipe: a small U-Net that learns from anatomies with lesions alone, painted with another contrast each time it sees them."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

from segkit import files, volumes
from segkit.phantoms import wmh as phantom
from segkit.studies import common
from segkit.studies.wmh.layout import RELEASED
from segkit.studies.wmh.networks import with_momentum

NUMBER = 3  # of the recipe: one more when its network, its anatomies or its training change
SPACING_MM = 1.0  # pixels that it sees
TILT = 30.0  # degrees: slices of a clinic's scan are seldom those of an atlas
THICK_MM = (1, 2, 3, 3, 5, 6, 7.5, 7.5, 8, 8)  # of its slices, each as likely; a clinic's FLAIR is seldom thin
SCALES = (0.9, 1.0, 1.1)  # at prediction
THICK_FROM_MM = 4.0  # slices in which a rater draws what fills less than half of them, too
MOVES = {"flips": (0,), "rotate": 15, "scale": 0.15, "bend": 1.0, "gain": 0}


def make_anatomies(
    folder: Path, count: int, *, seed: int = 0, coarse: float = 1.0, brains: Path | None = None, jobs: int = 2
) -> list[str]:
    """Write ``count`` anatomies with lesions for the recipe, ``<folder>/<k>.npz``: soft maps (x, y, z, parts) as bytes; names of all.

    Slices are 1 to 8 mm apart and averaged over two thirds of that or more, as by a scanner; heads nod, ventricles are wide, the outer
    fluid is stripped off in part. Half of them have up to 60 ml of lesions, half up to 220 ml.
    Anatomy comes from FreeSurfer label maps in ``brains`` in turn, every fourth from the MNI152 maps; those there are not made
    again.

    Raises
    ------
    ValueError
        When ``brains`` holds no label map.
    """
    sources = [] if brains is None else sorted(Path(brains).glob("*.nii.gz"))
    if brains is not None and not sources:
        raise ValueError(f"{brains}: holds no label map (*.nii.gz); leave it out to take the MNI152 maps")
    names = [f"{k:03d}" for k in range(count)]
    left = [name for name in names if not (folder / f"{name}.npz").is_file()]
    cases = [
        (
            folder / f"{name}.npz",
            seed,
            int(name),
            coarse,
            None if not sources or int(name) % 4 == 3 else sources[int(name) % len(sources)],
        )
        for name in left
    ]
    list(common.spread(_anatomy, cases, jobs=jobs))
    return names


def _anatomy(path: Path, seed: int, number: int, coarse: float, source: Path | None) -> None:
    rng = np.random.default_rng((seed, number, 2020))
    label_map = None if source is None else volumes.canonical(volumes.load(source))
    parts, affine = phantom.brain(rng, source=label_map, coarse=coarse, tilt=TILT)
    parts = phantom.aged(parts, (coarse,) * 3, rng)
    load_ml = float(np.exp(rng.uniform(np.log(0.5), np.log(60))) if rng.random() < 0.5 else rng.uniform(20, 220))
    parts = parts | phantom.lesions(parts, (coarse,) * 3, rng, load_ml=load_ml)
    stack = np.stack([parts[n] for n in phantom.PARTS], axis=-1)
    thick = float(rng.choice(THICK_MM)) * max(1.0, coarse)
    image = nib.Nifti1Image(stack, affine)
    if thick > coarse:
        image = phantom.slabs(
            image, every_mm=thick, thick_mm=rng.uniform(0.65, 1) * thick, first_mm=rng.uniform(0, thick)
        )
    data = np.clip(np.round(255 * volumes.array(image)), 0, 255).astype(np.uint8)
    inside = data[..., :6].any(axis=(0, 1, 3))
    with files.atomic(path) as temporary:
        np.savez_compressed(temporary, parts=data[:, :, inside], mm=(coarse, coarse, thick))


def painted(moves, *, spacing_mm: float):
    """A transform for anatomies: ``moves``, then a scan painted with a look drawn anew, brain-extracted, normalised."""

    def transform(image, label, rng):
        image, label = moves(image, label, rng)
        mm = (spacing_mm, spacing_mm)
        scan = phantom.paint(np.clip(image / 255, 0, 1), mm, rng, phantom.Look.drawn(rng))
        scan = phantom.badly_stripped(scan, mm, rng)
        return normalise_slice(scan)[..., None], label * (scan != 0)

    transform.settings = moves.settings | {"painted": (phantom.VERSION, NUMBER)}
    return transform


def rescored(moves):
    """``moves`` on slices whose last channel is 10 in the brain and 0 outside, then the outside 0 again and the inside normalised anew."""

    def transform(image, label, rng):
        image, label = moves(image, label, rng)
        inside = image[..., 1] > 5
        return normalise_slice(np.where(inside, image[..., 0], 0))[..., None], label

    transform.settings = moves.settings | {"rescored": True}
    return transform


def normalise_slice(scan: np.ndarray) -> np.ndarray:
    """A slice by median and interquartile range of its non-zero pixels, which lesions move less than mean and deviation; 0 outside.

    The range counts as 1.35, as of a normal distribution.
    """
    inside = scan != 0
    if inside.sum() < 10:
        return np.zeros_like(scan, np.float32)
    low, middle, high = np.percentile(scan[inside], (25, 50, 75))
    return np.where(inside, (scan - middle) / max((high - low) / 1.35, 1e-6), 0).astype(np.float32)


def drawn_from(slice_mm: float) -> float:
    """Share of a voxel that makes it lesion, in slices of so many mm."""
    return 0.5 if slice_mm < THICK_FROM_MM else 0.37


def train_recipe(
    run: common.Run,
    anatomies: Path,
    names: Sequence[str],
    *,
    name: str = RELEASED,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    verbose="auto",
):
    """Train ours on phantoms alone: slices of anatomies of :func:`make_anatomies`, painted with random contrast each time they are seen.

    Anatomies are drawn equally often, whatever their slices' thickness. All of them train, since what chooses a recipe are real scans;
    the last state is kept. Cross-entropy + Dice, AdamW with a cosine schedule, moving average of the weights.

    Returns
    -------
    model, history
    """

    from segkit import augment, data, losses, models, training

    profile = run.profile
    minutes, epochs, seed = common.begin(
        run, (profile.recipe_minutes, profile.recipe_epochs), minutes=minutes, epochs=epochs, seed=seed
    )
    chosen = {"filters": profile.recipe_filters} if profile.recipe_filters else {}
    model = with_momentum(models.build(RELEASED, **chosen), profile.momentum)
    known, lesion = {}, phantom.PARTS.index("lesion")
    for n in names:
        with np.load(common.need(anatomies / f"{n}.npz", "03_training")) as part:
            mm = float(part["mm"][0])
            share = drawn_from(float(part["mm"][2]) / max(1.0, mm))
            known[n] = part["parts"], (part["parts"][..., lesion] >= round(255 * share)).astype(np.uint8)
    drawn = 0.7 if any(mask.any() for _, mask in known.values()) else None
    slices = data.Slices(
        known, classes=1, batch_size=profile.batch_size, seed=seed, augment=painted(augment.slices(**MOVES), spacing_mm=mm),
        steps=profile.steps, foreground=drawn, groups={n: n for n in names},
    )  # fmt: skip
    history = training.fit(
        model, slices, None, run=run.results / "runs" / name, loss=losses.get("cross_entropy_dice"),
        metrics=(losses.soft_dice,), epochs=epochs, minutes=minutes, learning_rate=2e-3, seed=seed,
        bfloat16=True, monitor="last", verbose=verbose, **training.RECIPE,
    )  # fmt: skip
    return model, history


def predict_recipe(
    model,
    image: Nifti1Image,
    *,
    spacing_mm: float = SPACING_MM,
    mirror: bool = True,
    scales: Sequence[float] = SCALES,
    batch_size: int = 8,
) -> np.ndarray:
    """Probability of a lesion at every voxel of a RAS+, brain-extracted scan, on its own grid, with the recipe's model.

    ``spacing_mm`` is the pixel that the model learned from: 1 mm, in the quick profile 2. ``scales``: the mean of looks at the scan so
    many times as large.
    """
    looks = [_look(model, image, spacing_mm / scale, mirror, batch_size) for scale in scales]
    return np.mean(looks, axis=0, dtype=np.float32)


def _look(model, image: Nifti1Image, spacing_mm: float, mirror: bool, batch_size: int) -> np.ndarray:
    from segkit import inference

    spacing = volumes.spacing(image)
    small = image
    if not np.allclose(spacing[:2], spacing_mm, rtol=0.02):
        small = volumes.resample(image, spacing_mm=(spacing_mm, spacing_mm, spacing[2]), kind="image")
    data = volumes.array(small, np.float32)
    brain = (
        volumes.array(
            volumes.resample(
                volumes.like((volumes.array(image) != 0).astype(np.uint8), image), like=small, kind="label"
            )
        )
        > 0
    )
    ready = np.stack([normalise_slice(np.where(brain[..., k], data[..., k], 0)) for k in range(data.shape[2])], axis=-1)
    found = inference.predict(
        model,
        volumes.like(ready, small),
        output="probabilities",
        axis=2,
        mirror=(0,) if mirror else (),
        multiple=16,
        batch_size=batch_size,
    )
    soft = volumes.like(volumes.array(found)[..., 0] * brain, small)
    return volumes.array(volumes.resample(soft, like=image, kind="image"))
