"""IBSR18: ventricular CSF, grey and white matter on skull-stripped T1.

Report: Archit and Adilina, Brain tissue segmentation using U-Net, Girona 2022. Layout of the data::

    Training_Set/<subject>/<subject>.nii.gz, <subject>_seg.nii.gz
    Validation_Set/<subject>/…            (labelled, scored once a recipe)
    Test_Set/<subject>/<subject>.nii.gz   (no labels)

Label 1 is the ventricles' CSF only; sulcal fluid is background within the head.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from nibabel import Nifti1Image
from skimage.filters import threshold_multiotsu
from sklearn.mixture import GaussianMixture
from tqdm.auto import tqdm

from segkit import files, intensity, labels, legacy, metrics, patches, report, statistics, volumes
from segkit.studies import common

LABELS = {"CSF": 1, "GM": 2, "WM": 3}
SETS = ("Training_Set", "Validation_Set", "Test_Set")
GRID = (256, 128, 256)
# what the networks saw in training; scans of a quite different voxel size are resampled to it before prediction
SPACING_MM = (0.9375, 1.5, 0.9375)
RELEASED = "ibsr_unet2d_4level"


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Spacing, layout and steps are the same in all three."""

    name: str
    phantoms: dict[str, int] | None  # subjects a set; None: real data
    networks: tuple[str, ...]
    minutes: float | None
    epochs: int | None
    coarse: int = 1  # phantoms are made on a grid so many times coarser
    filters: tuple[int, ...] | None = None  # None: the preset's own
    batch_size: int = 64
    n4_shrink: int = 4

    @property
    def grid(self) -> tuple[int, ...]:
        """The common grid of 01_padding."""
        return tuple(n // self.coarse for n in GRID)


PROFILES = {
    "smoke": Profile(
        "smoke", {"Training_Set": 2, "Validation_Set": 2, "Test_Set": 1}, ("ibsr_unet2d_4level",),
        minutes=None, epochs=1, coarse=2, filters=(4, 8, 8, 8), batch_size=16, n4_shrink=2,
    ),
    "quick": Profile(
        "quick", {"Training_Set": 4, "Validation_Set": 2, "Test_Set": 1}, ("ibsr_unet2d_4level",), minutes=1.75, epochs=None,
    ),
    "full": Profile("full", None, ("ibsr_unet2d_4level", "ibsr_unet2d"), minutes=30, epochs=200),
}  # fmt: skip


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms or the real data, and where results go. See :func:`common.start`."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    return common.start(
        "ibsr", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse
    )


# -- the data as they lie on disk ------------------------------------------------------------------------------------


def find(folder: str | os.PathLike) -> pd.DataFrame:
    """Subjects of a data folder.

    Returns
    -------
    DataFrame
        Index subject; columns set, image, label (path or None).

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing or holds none of the sets, an image or a training label is missing, or a subject
        stands in two sets.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA the folder that holds {', '.join(SETS)}")
    rows = []
    for name in SETS:
        for place in sorted(p for p in (folder / name).glob("*") if p.is_dir()):
            image, label = place / f"{place.name}.nii.gz", place / f"{place.name}_seg.nii.gz"
            if not image.is_file():
                raise FileNotFoundError(f"{image}: missing; each subject's folder holds <subject>.nii.gz")
            if name == "Training_Set" and not label.is_file():
                raise FileNotFoundError(
                    f"{label}: missing; a training subject needs its label, or belongs into Test_Set"
                )
            rows.append(
                {"subject": place.name, "set": name, "image": image, "label": label if label.is_file() else None}
            )
    if not rows:
        raise ValueError(
            f"{folder}: no subject found; expected {'/<subject>/, '.join(SETS)}/<subject>/ (see segkit.studies.ibsr)"
        )
    table = pd.DataFrame(rows)
    twice = sorted(table["subject"][table["subject"].duplicated()].unique())
    if twice:
        raise ValueError(f"{folder}: subjects {twice} stand in two sets; keep each in one")
    return table.set_index("subject")


def read(row: pd.Series) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label of a row of :func:`find`, checked: same grid, label values of the table."""
    image = volumes.load(row["image"])
    if row["label"] is None:
        return image, None
    label = labels.as_labels(volumes.load(row["label"]), LABELS, row["label"])
    volumes.check_same_grid(image, label, (str(row["image"]), str(row["label"])))
    return image, label


def split(table: pd.DataFrame) -> dict[str, list[str]]:
    """Subjects that train, select (epochs and recipes) and validate.

    The selection subjects are the fixed ones of the study where present (IBSR_16 and IBSR_18), else the last of the
    training set.
    """
    training = list(table.index[table["set"] == "Training_Set"])
    validation = list(table.index[(table["set"] == "Validation_Set") & table["label"].notna()])
    if len(training) < 2:
        raise ValueError(f"{len(training)} training subject is too few: one trains and one selects; add subjects")
    fixed = [s for s in training if s in common.split("ibsr", "selection")]
    selection = fixed if fixed and len(fixed) < len(training) else training[-1:]
    return {"train": [s for s in training if s not in selection], "selection": selection, "validation": validation}


# -- 00 preprocessing, 01 padding, 02 downsampling -------------------------------------------------------------------


def preprocess(
    data: str | os.PathLike, results: Path, *, n4: bool = True, shrink: int = 4, jobs: int = 2
) -> pd.DataFrame:
    """Write ``preprocessed/<subject>_bias_corrected.nii.gz`` for every subject (as the report names them).

    Without ``n4`` the image is copied. Files that exist are kept. Returns a row a subject: seconds, coefficient of
    variation of the white matter before and after (labelled subjects).
    """
    table = find(data)
    call = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_preprocess)(row, results / "preprocessed" / f"{subject}_bias_corrected.nii.gz", n4, shrink)
        for subject, row in table.iterrows()
    )
    return pd.DataFrame(tqdm(call, total=len(table), desc="N4" if n4 else "copy"), index=table.index)


def _preprocess(row: pd.Series, path: Path, n4: bool, shrink: int) -> dict:
    image, label = read(row)
    begin = time.perf_counter()
    if not path.is_file():
        volumes.save(intensity.n4(image, shrink=shrink) if n4 else image, path)
    out = {"set": row["set"], "seconds": time.perf_counter() - begin}
    if label is not None:
        white = volumes.array(label) == LABELS["WM"]
        for when, source in (("before", image), ("after", volumes.load(path))):
            values = volumes.array(source, np.float32)[white]
            out[f"WM variation {when}"] = float(values.std() / values.mean()) if values.size else float("nan")
    return out


def standardise(data: str | os.PathLike, results: Path, *, shape: Sequence[int] = GRID) -> pd.DataFrame:
    """Write images and labels in RAS+ order on one common grid: ``padded/<subject>.nii.gz`` and ``…_seg.nii.gz``.

    Volumes are padded with 0 to ``shape``, the brain where it was in mm; nothing is interpolated. A volume larger than
    ``shape`` is refused.

    Returns
    -------
    DataFrame
        A row a subject: shapes, axis order and spacing on disk and after.
    """
    table, rows = find(data), []
    for subject, row in tqdm(table.iterrows(), total=len(table), desc="padding"):
        image, label = read(row)
        corrected = volumes.load(
            common.need(results / "preprocessed" / f"{subject}_bias_corrected.nii.gz", "00_preprocessing")
        )
        padded = volumes.pad(volumes.canonical(corrected), shape)
        volumes.save(padded, results / "padded" / f"{subject}.nii.gz")
        if label is not None:
            volumes.save(volumes.pad(volumes.canonical(label), shape), results / "padded" / f"{subject}_seg.nii.gz")
        rows.append({
            "subject": subject, "set": row["set"], "shape on disk": _raw_shape(row["image"]), "axes on disk": _axes(image),
            "shape": padded.shape, "axes": _axes(padded), "spacing mm": tuple(round(s, 4) for s in volumes.spacing(padded)),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("subject")


def cut(image: np.ndarray, label: np.ndarray, *, axis: int = 0, size: int = 32, step: int = 32, above: float = 0.3):
    """Patches of slices: those with more than ``above`` of their pixels labelled.

    The defaults are the ``notebook`` preset: planes perpendicular to the first axis, 32 × 32 side by side, more than
    30 % foreground (STUDIES 2b, 2 and 3).

    Returns
    -------
    images (n, size, size), labels (n, size, size)
    """
    box, every = [size] * 3, [step] * 3
    box[axis] = every[axis] = 1
    pieces = [patches.patchify(a, box, every).reshape(-1, size, size) for a in (image, label)]
    keep = patches.foreground_fraction(pieces[1], 2) > above
    return pieces[0][keep], pieces[1][keep]


def extract(data: str | os.PathLike, results: Path, **preset) -> pd.DataFrame:
    """Write ``patches/<subject>.npz`` (z-scored float32 patches, uint8 labels) for the labelled subjects.

    ``preset`` goes to :func:`cut`. Returns a row a subject: set, patches, and the share of each tissue.
    """
    table, rows = find(data), []
    chosen = table[table["label"].notna()]
    for subject, row in tqdm(chosen.iterrows(), total=len(chosen), desc="patches"):
        image, label = load_padded(results, subject)
        x, y = cut(normalise(image), volumes.array(label), **preset)
        with files.atomic(results / "patches" / f"{subject}.npz") as temporary:
            np.savez(temporary, images=x, labels=y)
        share = {name: float((y == value).mean()) if y.size else float("nan") for name, value in LABELS.items()}
        rows.append({"subject": subject, "set": row["set"], "patches": len(y), **share})
    return pd.DataFrame(rows).set_index("subject")


def load_padded(results: Path, subject: str) -> tuple[Nifti1Image, Nifti1Image | None]:
    """Image and label (None where there is none) that :func:`standardise` wrote."""
    image = volumes.load(common.need(results / "padded" / f"{subject}.nii.gz", "01_padding"))
    label = results / "padded" / f"{subject}_seg.nii.gz"
    return image, labels.as_labels(volumes.load(label), LABELS, label) if label.is_file() else None


def load_patches(results: Path, subjects: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Patches of several subjects: images (n, size, size, 1) and labels (n, size, size)."""
    parts = []
    for subject in subjects:
        with np.load(
            common.need(results / "patches" / f"{subject}.npz", "02_downsampling"), allow_pickle=False
        ) as part:
            parts.append((part["images"], part["labels"]))
    images, maps = (np.concatenate(p) for p in zip(*parts, strict=True))
    return images[..., None], maps


def normalise(image: Nifti1Image) -> np.ndarray:
    """z-score with mean and standard deviation of the brain (voxels above 0).

    The original fed raw intensities; one real subject is ten times brighter than the rest.
    """
    array = volumes.array(image, np.float32)
    return intensity.zscore(array, array > 0)


# -- 03 training -----------------------------------------------------------------------------------------------------


def build(network: str, profile: Profile, **settings):
    """The report's network by name; the smoke profile makes it slim."""
    from segkit import models

    return models.build(network, **(({"filters": profile.filters} if profile.filters else {}) | settings))


def train(
    network: str, results: Path, subjects: dict[str, list[str]], profile: Profile, *, seed: int = 0, verbose="auto"
):
    """Train ``network`` on the patches, or go on with an interrupted run; ``(model, history)``.

    Categorical cross-entropy, Adam 1e-3, batch 64 and dropout .4 as in the report's code; z-score, small rotations and
    scalings on the fly, a cosine schedule and dropout off at inference are ours.
    """
    import keras

    from segkit import augment, data, training

    keras.utils.set_random_seed(seed)
    model = build(network, profile)
    sets = {}
    for side, chosen in (("train", subjects["train"]), ("validation", subjects["selection"])):
        images, maps = load_patches(results, chosen)
        learn = (
            {"augment": augment.slices(flips=(), rotate=15, scale=0.15, gain=0.1)}
            if side == "train"
            else {"shuffle": False}
        )
        sets[side] = data.Arrays(images, maps, chosen, classes=4, batch_size=profile.batch_size, seed=seed, **learn)
    history = training.fit(
        model, sets["train"], sets["validation"], run=results / "runs" / network, loss=keras.losses.CategoricalCrossentropy(),
        epochs=profile.epochs, minutes=profile.minutes, schedule="cosine", seed=seed, verbose=verbose,
        settings={"normalisation": "z-score in the brain", "dropout at inference": False},
    )  # fmt: skip
    return model, history


# -- 04 testing ------------------------------------------------------------------------------------------------------


def predict(model, image: Nifti1Image, *, spacing_mm: Sequence[float] = SPACING_MM, **settings) -> Nifti1Image:
    """Labels of a bias-corrected scan on the scan's own grid.

    The scan is turned to RAS+, resampled where its voxels differ by more than a fifth from ``spacing_mm``, cut to the brain, z-scored, segmented slice by slice (first axis), and the labels are brought back with nearest neighbour.
    """
    from segkit import inference

    work = volumes.canonical(image)
    ratio = np.array(volumes.spacing(work)) / np.array(spacing_mm)
    if ratio.max() > 1.2 or ratio.min() < 1 / 1.2:
        work = volumes.resample(work, spacing_mm=spacing_mm, kind="image")
    brain = volumes.array(work) > 0
    box = volumes.bounding_box(brain, margin=8)
    values = normalise(work)[tuple(slice(start, start + n) for start, n in zip(*box, strict=True))]
    cropped = volumes.like(values, volumes.crop(work, box[1], start=box[0]))
    found = inference.predict(model, cropped, axis=0, **settings)
    return volumes.resample(found, like=image, kind="label")


def threshold_baseline(image: Nifti1Image) -> Nifti1Image:
    """No learning: the brain's intensities cut in three by multi-level Otsu (dark CSF, grey, white)."""
    values = volumes.array(image, np.float32)
    brain = values > 0
    out = np.zeros(values.shape, np.uint8)
    out[brain] = 1 + np.digitize(values[brain], threshold_multiotsu(values[brain], classes=3))
    return volumes.like(out, image)


def mixture_baseline(image: Nifti1Image, *, seed: int = 0, sample: int = 50_000) -> Nifti1Image:
    """No learning: a Gaussian mixture of three classes on the brain's intensities, ordered by mean."""
    values = volumes.array(image, np.float32)
    brain = values > 0
    inside = values[brain][:, None].astype(np.float64)
    chosen = np.random.default_rng(seed).choice(len(inside), min(sample, len(inside)), replace=False)
    mixture = GaussianMixture(3, random_state=seed, n_init=2).fit(inside[chosen])
    rank = np.empty(3, np.uint8)
    rank[np.argsort(mixture.means_.ravel())] = (1, 2, 3)
    out = np.zeros(values.shape, np.uint8)
    out[brain] = rank[mixture.predict(inside)]
    return volumes.like(out, image)


def evaluate(methods: dict, data: str | os.PathLike, results: Path, subjects: Sequence[str]) -> pd.DataFrame:
    """Score methods on labelled subjects, per subject in 3D on the native grid.

    Parameters
    ----------
    methods : dict
        Name to ``callable(bias-corrected image) -> label image`` on the image's grid.
    subjects : sequence of str

    Returns
    -------
    DataFrame
        Columns method, subject, label, those of :func:`segkit.metrics.score`, and the report's own definitions as
        legacy_dice, legacy_hausdorff_voxels, legacy_avd. Predictions are written to ``predictions/<method>/``.
    """
    table, rows = find(data), []
    jobs = [(name, subject) for name in methods for subject in subjects]
    for name, subject in tqdm(jobs, desc="scoring"):
        _, label = read(table.loc[subject])
        corrected = volumes.load(
            common.need(results / "preprocessed" / f"{subject}_bias_corrected.nii.gz", "00_preprocessing")
        )
        found = methods[name](corrected)
        volumes.check_same_grid(label, found, (str(table.loc[subject, "label"]), f"prediction of {name}"))
        volumes.save(found, results / "predictions" / name / f"{subject}_seg.nii.gz")
        truth, prediction = volumes.array(label), volumes.array(found)
        scores = metrics.score(truth, prediction, spacing_mm=volumes.spacing(label), labels=LABELS)
        scores = scores.join(legacy.ibsr_score(truth, prediction, LABELS).add_prefix("legacy_"))
        rows.append(scores.reset_index().assign(method=name, subject=subject))
    out = pd.concat(rows, ignore_index=True)
    return out[["method", "subject", *[c for c in out.columns if c not in ("method", "subject")]]]


def three_columns(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """Reported (Table 1, 2D U-Net), legacy and corrected for one method of :func:`evaluate`.

    Rows are Dice, Hausdorff and AVD of each tissue. Legacy: mean over the volumes that the report's code scored (12, 13,
    14, 17, without 11) where they are present, Hausdorff distance in voxels (full maximum), "AVD" as 1 − Dice. Corrected:
    HD95 in mm, AVD as |ΔV| / V.
    """
    printed = common.published("ibsr").query("table == 1 and model == '2D U-Net'")[["label", "metric", "value"]]
    chosen = scores[scores["method"] == method].assign(avd=lambda t: t["avd_percent"] / 100)
    ours = _long(chosen, {"dice": "Dice", "hd95_mm": "Hausdorff", "avd": "AVD"})
    scored = set(common.split("ibsr", "validation_report"))
    known = chosen[chosen["subject"].isin(scored)] if scored <= set(chosen["subject"]) else chosen
    old = _long(known, {"legacy_dice": "Dice", "legacy_hausdorff_voxels": "Hausdorff", "legacy_avd": "AVD"})
    return report.three_columns(printed, old, ours)


def _long(scores: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    parts = [scores[["label", "subject"]].assign(metric=name, value=scores[column]) for column, name in columns.items()]
    return pd.concat(parts)[["label", "metric", "subject", "value"]]


NOTE = (
    "Reported: Table 1, 2D U-Net (the four-level net). Legacy: the report's definitions, mean over IBSR_12, 13, 14 and 17 "
    "where all are present: Hausdorff distance in voxels (full maximum), AVD = 1 − Dice. Corrected: per subject in 3D on the "
    "native grid: HD95 in mm (the larger of two directed percentiles), AVD = |ΔV| / V, 95 % bootstrap interval over n subjects."
)


def claims(scores: pd.DataFrame, network: str, *, source: str | None) -> pd.DataFrame:
    """The report's sentences that these scores can speak to: section, claim, verdict, evidence."""
    real = source != "phantom"
    table = three_columns(scores, network)

    def line(label, metric, column):
        row = table.loc[(label, metric)]
        return f"{label} {row[column]:.3f}" + (
            f" [{row['low']:.3f}, {row['high']:.3f}]" if column == "corrected" else ""
        )

    dice_ours = ", ".join(line(k, "Dice", "corrected") for k in LABELS)
    means = {k: table.loc[(k, "Dice"), "corrected"] for k in LABELS}
    same = np.allclose(scores["legacy_avd"], 1 - scores["legacy_dice"], atol=1e-9, equal_nan=True)
    average = float(np.mean(list(means.values())))
    within = all(abs(table.loc[(k, "Dice"), "legacy"] - table.loc[(k, "Dice"), "reported"]) < 0.05 for k in LABELS)
    rows = [
        ("8.1, Table 1", "the 2D U-Net reaches Dice .8220 (CSF), .9163 (GM), .8814 (WM)",
         ("holds" if within else "does not hold") if real else "cannot be told here",
         f"legacy {', '.join(line(k, 'Dice', 'legacy') for k in LABELS)}; corrected {dice_ours}" if real
         else f"phantoms, which are easier or harder than the real set: {dice_ours}"),
        ("9", "the average Dice is .9184", "does not hold",
         f"the mean of Table 1's own column is .8732; ours over the three tissues {average:.3f}"),
        ("4.7.3, Table 1", "AVD is |truth − prediction| / truth", "does not hold" if same else "cannot be told here",
         "the code's value is 1 − Dice: so it is for every row of our legacy column, and for the report's 2D U-Net column"),
        ("9", "CSF has the lowest Dice of the three", "holds" if means["CSF"] == min(means.values()) else "does not hold", dice_ours),
    ]  # fmt: skip
    both = {"ibsr_unet2d", "ibsr_unet2d_4level"}
    if both <= set(scores["method"]):
        mean = scores.groupby(["method", "subject"])["dice"].mean().unstack("method")
        test = statistics.paired(mean[["ibsr_unet2d", "ibsr_unet2d_4level"]]).iloc[0]
        evidence = f"mean Dice five − four levels {test['difference']:+.4f} (n {test['n']}, Wilcoxon p {test['p']:.3f})"
        verdict = "does not hold" if test["difference"] <= 0 or not test["p"] < 0.05 else "holds"
        rows.append(
            ("4.3", "five levels are better than four", verdict, evidence + "; its code made Table 1 with four")
        )
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "evidence"])


# -- your own scan ---------------------------------------------------------------------------------------------------


def released() -> Path:
    """Where the released model lies."""
    return common.home() / "results_dir" / "ibsr" / "saved_models" / f"{RELEASED}.keras"


def release(run: common.Run, network: str, scores: pd.DataFrame) -> Path:
    """Save the trained ``network`` in float16 to ``results_dir/ibsr/saved_models``, with its record and its scores."""
    from segkit import models

    folder = released().parent
    source = run.results / "runs" / network
    path = models.save(models.load(common.need(source / "best.keras", "03_training")), folder / f"{network}.keras")
    files.write_text(folder / f"{network}.run.json", (source / "run.json").read_text())
    chosen = scores[scores["method"] == network]
    files.write_text(folder / f"{network}.scores.csv", chosen.round(5).to_csv(index=False))
    return path


def segment(scan, *, model=None, out: str | os.PathLike | None = None, n4: bool = True) -> Nifti1Image:
    """Tissue labels of a skull-stripped T1 scan, with the released model.

    Parameters
    ----------
    scan : path or Nifti1Image
        3D, 0 outside the brain, any orientation and voxel size.
    model : keras.Model or path, optional
        Default :func:`released`.
    out : folder, optional
        Also write ``<scan>_seg.nii.gz``, ``<scan>_overlay.png`` and ``<scan>_volumes.csv``.
    n4 : bool
        Correct the bias field first, as in training.

    Returns
    -------
    Nifti1Image
        uint8 on the scan's grid and affine: 0 background, 1 CSF (ventricles), 2 grey matter, 3 white matter.

    Raises
    ------
    ValueError
        When the scan is not one 3D volume, is empty, or is not skull-stripped (no voxel is 0 or below).
    """
    from segkit import models

    name = "scan" if isinstance(scan, Nifti1Image) else Path(scan).name.removesuffix(".gz").removesuffix(".nii")
    image = volumes.check(scan, "scan") if isinstance(scan, Nifti1Image) else volumes.load(scan)
    array = volumes.array(image, np.float32)
    if array.ndim != 3:
        raise ValueError(f"{name}: shape {array.shape} is not one 3D volume; give a single T1, not a series")
    if not (array > 0).any():
        raise ValueError(f"{name}: no voxel is above 0; the brain must be brighter than its background")
    if (array > 0).all():
        raise ValueError(
            f"{name}: every voxel is above 0, so the scan is not skull-stripped; strip it first (HD-BET, SynthStrip, BET)"
        )
    if model is None or isinstance(model, str | os.PathLike):
        model = models.load(released() if model is None else model)
    array = np.maximum(array, 0)
    corrected = intensity.n4(volumes.like(array, image)) if n4 else volumes.like(array, image)
    found = predict(model, corrected)
    if out is not None:
        from segkit import plots

        out = Path(out)
        volumes.save(found, out / f"{name}_seg.nii.gz")
        files.write_text(out / f"{name}_volumes.csv", measure(found).to_csv())
        plots.save(
            plots.three_planes(image, found, labels=LABELS, title=f"{name}: segkit, research use only"),
            out / f"{name}_overlay.png",
        )
    return found


def measure(mask: Nifti1Image, scan: Nifti1Image | None = None) -> pd.DataFrame:
    """Volume in ml of each tissue (and, with ``scan``, its mean intensity); index tissue."""
    array = volumes.array(mask)
    ml = float(np.prod(volumes.spacing(mask))) / 1000
    rows = []
    for name, value in LABELS.items():
        inside = array == value
        row = {"tissue": name, "voxels": int(inside.sum()), "ml": inside.sum() * ml}
        if scan is not None:
            volumes.check_same_grid(mask, scan, ("mask", "scan"))
            row["mean intensity"] = (
                float(volumes.array(scan, np.float32)[inside].mean()) if inside.any() else float("nan")
            )
        rows.append(row)
    return pd.DataFrame(rows).set_index("tissue")


def _axes(image: Nifti1Image) -> str:
    import nibabel as nib

    return "".join(nib.aff2axcodes(image.affine))


def _raw_shape(path: Path) -> tuple[int, ...]:
    import nibabel as nib

    return nib.load(path).shape
