"""The study's facts: nuclei, profiles, file names, subjects as they lie on disk, who trains and who is scored."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from segkit import labels, phantoms, splits
from segkit.studies import common

LABELS = {"amygdala": 1, "caudate": 2, "hippocampus": 3, "putamen": 4, "thalamus": 5}
MASKS = ("brain", *LABELS)  # what the report trained one binary model each for
ALL = "nuclei"  # the name of a model of all five
CUBE = 512  # voxels a side of the padded volume at 0.5 mm
PATCH = (64, 64, 64)
RELEASED = "qsm_nuclei"
# the report's networks, the pair of equal width, and the double branch
NETWORKS = ("qsm_unet3d", "qsm_resunet3d", "qsm_unet3d_base32", "qsm_resunet3d_base16", "qsm_double_branch")
SIMULATED = (
    "Simulated QSM, real anatomy of the nuclei (Harvard-Oxford Atlas 2.0 label maps placed in the MNI152 brain)."
)
PHANTOM = "Phantom: simulated QSM of solids placed in the MNI152 brain."
_MODEL = re.compile(
    r"^(?P<label>[a-z]+)_mask_dim(?P<dim>\d+)_sub(?P<subjects>\d+)_e(?P<epochs>\d+)(?:_(?P<network>qsm_\w+))?$"
)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Everything that differs between smoke, quick and full. Steps, layout and scores are the same in all three."""

    name: str
    phantoms: dict[str, int] | None  # None: label maps of real nuclei, from which subjects are simulated
    coarse: int  # maps are simulated on a grid so many times coarser than 0.5 mm
    dims: tuple[int, ...]  # voxels a side of the cubes, first the padded one
    dim: int  # of the cube that networks see
    subjects: int  # simulated where DATA is a folder of label maps
    minutes: float | None
    epochs: int | None = None
    filters: tuple[int, ...] | None = None  # None: the preset's own
    patch: tuple[int, ...] = PATCH
    fine: int = 256  # of the cube that the recipe sees
    stem: int = 2  # by which it coarsens first
    box: tuple[int, ...] = (96, 112, 96)  # what one of its samples holds
    steps: int = 100  # batches an epoch
    batch_size: int = 4
    learning_rate: float = 3e-4  # as reported; a quick run takes larger steps
    cell_minutes: float | None = None  # of comparisons
    brain_minutes: float | None = None  # of the brain's binary model; None: as of the others
    release_minutes: float | None = None  # None: as the recipe's
    cell_epochs: int | None = None
    compared: tuple[str, ...] = NETWORKS


PROFILES = {
    "smoke": Profile(
        "smoke", {"subjects": 5}, coarse=8, dims=(64, 32), dim=64, subjects=5, minutes=None, epochs=1, filters=(4, 8),
        patch=(32, 32, 32), fine=64, stem=1, box=(24, 28, 24), steps=2, batch_size=1, cell_epochs=1,
        compared=("qsm_unet3d", "qsm_double_branch"),
    ),
    "quick": Profile(
        "quick", {"subjects": 10}, coarse=4, dims=(128, 64), dim=64, subjects=10, minutes=0.5, filters=(8, 16, 32), patch=(32, 32, 32),
        fine=128, stem=1, box=(48, 56, 48), steps=25, batch_size=2, learning_rate=3e-3, cell_minutes=0.4,
        compared=("qsm_unet3d", "qsm_resunet3d"),
    ),
    "full": Profile(
        "full", None, coarse=2, dims=(256, 128, 64), dim=128, subjects=40, minutes=75, batch_size=2, cell_minutes=25, brain_minutes=15,
        release_minutes=50,
    ),
}  # fmt: skip


def start(profile: str, *, data=None, results=None, seed: int = 0, show_real: bool = False) -> common.Run:
    """The first call of each notebook: phantoms, or subjects simulated with real nuclei, or a user's own maps.

    ``data`` may be a folder of subjects in the report's layout (:func:`find`), or one of label maps
    of the Harvard-Oxford Atlas 2.0 (``<subject>.nii.gz``): from these, ``profile.subjects`` maps are simulated once, into
    ``data_dir/qsm/simulated_<profile>_seed<seed>``.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    nuclei = None if data is None else common.home() / Path(data).expanduser()
    if nuclei is not None and nuclei.is_dir() and is_label_maps(nuclei):
        folder = common.home() / "data_dir" / "qsm" / f"simulated_{profile}_seed{seed}"
        phantoms.write("qsm", folder, subjects=chosen.subjects, seed=seed, coarse=chosen.coarse, nuclei=nuclei)
        run = common.start("qsm", chosen, data=folder, results=results, seed=seed, show_real=show_real)
    else:
        run = common.start(
            "qsm", chosen, data=data, results=results, seed=seed, show_real=show_real, coarse=chosen.coarse
        )
        if data is not None:
            run = dataclasses.replace(run, profile=_wide_enough(chosen, run.data))
    return dataclasses.replace(run, source=source_of(run, show_real))


def _wide_enough(profile: Profile, folder: Path) -> Profile:
    """``profile`` with larger cubes before its own where a subject's own map needs them: 380 × 440 × 380 voxels go to 512³ first.

    A folder of maps that are to be registered (``native``) has no subjects yet.
    """
    if (folder / "native").is_dir() and not any(folder.glob("*/QSM_w_bg.nii.gz")):
        return profile
    largest = max(max(nib.load(path).shape[:3]) for path in find(folder)["qsm"])
    dims = profile.dims
    while dims[0] < min(largest, CUBE):
        dims = (2 * dims[0], *dims)
    return dataclasses.replace(profile, dims=dims)


def is_label_maps(folder: Path) -> bool:
    """Whether a folder holds label maps of the Harvard-Oxford Atlas 2.0 rather than subjects."""
    return any(folder.glob("*.nii.gz")) and not any(folder.glob("*/QSM*.nii.gz"))


def source_of(run: common.Run, show_real: bool = False) -> str | None:
    """What figures of a run say: phantoms and maps simulated on real nuclei are told apart; pictures of the latter stay hidden."""
    mark = run.data / phantoms.MARK
    if not mark.is_file():
        return None if show_real else "real"
    if json.loads(mark.read_text()).get("nuclei") is None:
        return "simulated phantom"
    return "simulated" if show_real else "simulated real"


def note_of(run: common.Run) -> str:
    """The sentence that goes with every table of a run."""
    return {"simulated phantom": PHANTOM, "simulated": SIMULATED, "simulated real": SIMULATED}.get(run.source or "", "")


def noted(run: common.Run, table: pd.DataFrame):
    """``table`` as a notebook shows it, headed by :func:`note_of` the run."""
    return table.style.format(precision=3, na_rep="–").set_caption(note_of(run))


def find(folder: str | os.PathLike) -> pd.DataFrame:
    """Subjects of a folder in the report's layout.

    ``<subject>/QSM_w_bg.nii.gz`` (ppm), ``QSM_brain_mask.nii.gz``, ``labels.nii.gz`` (values of ``label_list.txt``, beside the
    subjects; without it FreeSurfer's).

    Returns
    -------
    DataFrame
        Index subject; columns qsm, brain_mask, labels (paths; labels None where missing).

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing, holds no subject, or a subject lacks its map or brain mask (names the file).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give DATA a folder with one folder a subject")
    rows = []
    for home in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        paths = {
            "qsm": home / "QSM_w_bg.nii.gz",
            "brain_mask": home / "QSM_brain_mask.nii.gz",
            "labels": home / "labels.nii.gz",
        }
        if not any(p.is_file() for p in paths.values()):
            continue
        for key in ("qsm", "brain_mask"):
            if not paths[key].is_file():
                raise FileNotFoundError(
                    f"{paths[key]}: missing; every subject needs its map and its brain mask (00_registration writes both)"
                )
        rows.append({"subject": home.name, **paths, "labels": paths["labels"] if paths["labels"].is_file() else None})
    if not rows:
        raise ValueError(f"{folder}: no subject found; expected <subject>/QSM_w_bg.nii.gz and QSM_brain_mask.nii.gz")
    return pd.DataFrame(rows).set_index("subject")


def label_values(folder: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Values of each nucleus, left and right, from ``label_list.txt`` in the data folder; FreeSurfer's without it."""
    path = Path(folder) / "label_list.txt"
    return labels.read_list(path, tuple(LABELS)) if path.is_file() else labels.FREESURFER


def file_names(dim: int) -> dict[str, str]:
    """The report's names (section 8.2) of a cube of ``dim`` voxels a side: w_bg, brain_mask, masked, and each nucleus."""
    factor = CUBE // dim
    return {
        "w_bg": f"QSM_dim{dim}_w_bg.nii.gz", "brain_mask": f"QSM_brain_mask_dim{dim}.nii.gz", "masked": f"QSM_masked_dim{dim}.nii.gz",
        **{name: f"{name}_mask_down_by_{factor}.nii.gz" for name in LABELS},
    }  # fmt: skip


def model_name(label: str, dim: int, subjects: int, epochs: int, network: str = NETWORKS[0]) -> str:
    """The report's name of a model: ``<label>_mask_dim<dim>_sub<training subjects>_e<epochs>``, and another network than its U-Net.

    >>> model_name("hippocampus", 128, 28, 50)
    'hippocampus_mask_dim128_sub28_e50'
    >>> model_name("hippocampus", 128, 28, 50, "qsm_resunet3d")
    'hippocampus_mask_dim128_sub28_e50_qsm_resunet3d'
    """
    if label not in (*MASKS, ALL):
        raise ValueError(f"no mask is called {label!r}; choose one of {', '.join((*MASKS, ALL))}")
    return f"{label}_mask_dim{dim}_sub{subjects}_e{epochs}" + (f"_{network}" if network != NETWORKS[0] else "")


def parse_model_name(name: str) -> dict:
    """label, dim, subjects, epochs and network out of :func:`model_name`; ValueError for another name."""
    match = _MODEL.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not a model's name; expected <label>_mask_dim<dim>_sub<subjects>_e<epochs>")
    numbers = {k: int(match[k]) for k in ("dim", "subjects", "epochs")}
    return {"label": match["label"], **numbers, "network": match["network"] or NETWORKS[0]}


def dim_of(run: common.Run, dim: int | None) -> int:
    """``dim`` if 02_downsampling makes it in this profile (default the profile's own); else ValueError that names those that it makes."""
    if dim is not None and dim not in run.profile.dims:
        raise ValueError(
            f"DIM {dim} is none of the {run.profile.name} profile's dimensions {', '.join(map(str, run.profile.dims))}; choose one of them"
        )
    return dim or run.profile.dim


def find_model(
    folder: Path,
    *,
    label: str,
    dim: int,
    subjects: int | None = None,
    epochs: int | None = None,
    network: str = NETWORKS[0],
) -> Path:
    """The model of a mask, dimension and network in ``saved_models``; of several that of most subjects, then epochs, unless given.

    Raises
    ------
    FileNotFoundError
        When there is none; names those that are there.
    """
    found = {}
    for path in sorted(folder.glob("*_mask_dim*.keras")):
        try:
            found[path] = parse_model_name(path.stem)
        except ValueError:
            continue
    wanted = {"label": label, "dim": dim, "subjects": subjects, "epochs": epochs, "network": network}
    wanted = {k: v for k, v in wanted.items() if v is not None}
    fitting = [p for p, facts in found.items() if all(facts[k] == v for k, v in wanted.items())]
    if not fitting:
        there = ", ".join(p.stem for p in found) or "none"
        asked = ", ".join(f"{k} {v}" for k, v in wanted.items())
        raise FileNotFoundError(
            f"no model of {asked} in {common.shown(folder)} (there: {there}); run 03_training with these"
        )
    return max(fitting, key=lambda p: (found[p]["subjects"], found[p]["epochs"]))


def split(subjects: Sequence[str], *, train: int | None = None) -> dict[str, list[str]]:
    """Subjects that train, select and test.

    The lists of the forty simulated subjects (``filename_sub32.txt``, of which the last four select, ``filename_testing8.txt``) where
    all of them are here. Of others a fifth tests and a tenth selects, in an order that is drawn once.

    Parameters
    ----------
    train : int, optional
        Train on the first so many only.

    Raises
    ------
    ValueError
        For fewer than three subjects, or more training subjects than there are.
    """
    subjects = sorted(set(subjects))
    known, test = common.split("qsm", "filename_sub32"), common.split("qsm", "filename_testing8")
    if set(known + test) == set(subjects):
        parts = {"train": known[:-4], "selection": known[-4:], "test": test}
    else:
        if len(subjects) < 3:
            raise ValueError(f"{len(subjects)} subjects are too few: one trains, one selects, one is scored")
        drawn = [str(s) for s in np.random.default_rng(0).permutation(subjects)]
        tests, selects = max(1, len(drawn) // 5), max(1, len(drawn) // 10)
        parts = {"test": sorted(drawn[:tests]), "selection": sorted(drawn[tests : tests + selects])}
        parts = {"train": drawn[tests + selects :], **parts}
    if train is not None:
        if not 1 <= train <= len(parts["train"]):
            raise ValueError(f"{train} training subjects are asked for, there are {len(parts['train'])}")
        parts["train"] = parts["train"][:train]
    return parts


def write_lists(parts: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """The report's lists: ``filename_subYY.txt`` (training and selection) and ``filename_testingYY.txt``."""
    learning = [*parts["train"], *parts["selection"]]
    return [
        splits.write(learning, folder / f"filename_sub{len(learning)}.txt"),
        splits.write(parts["test"], folder / f"filename_testing{len(parts['test'])}.txt"),
    ]
