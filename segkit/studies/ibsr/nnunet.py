"""05: nnU-Net as a peer. Export to its raw layout, train it briefly in an environment of its own, read its labels back.

nnU-Net (Isensee et al., Nature Methods 18, 2021) and PyTorch are never requirements of segkit: :func:`environment` makes a virtual
environment for them, and everything of theirs runs in processes of that one.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel import Nifti1Image

from segkit import files, volumes
from segkit.studies import common, environments
from segkit.studies.ibsr.layout import LABELS, find, read, split
from segkit.studies.ibsr.steps import load_corrected

DATASET = "Dataset018_IBSR"
TRAINER = "nnUNetTrainer_brief"
PACKAGES = ("torch==2.13.0", "nnunetv2==2.8.1")
# nnU-Net's own trainer with few and small steps; its defaults (250 + 50 iterations an epoch) are hours on a CPU
_TRAINER = f'''"""Written by segkit: a training that proves the path, not the method."""

import json
import os

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class {TRAINER}(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        brief = json.loads(os.environ["SEGKIT_NNUNET"])
        self.num_epochs = brief["epochs"]
        self.num_iterations_per_epoch = brief["iterations"]
        self.num_val_iterations_per_epoch = brief["validation"]
        self.configuration_manager.configuration["batch_size"] = brief["batch_size"]

    def perform_actual_validation(self, save_probabilities=False):
        """Whole scans are scored by segkit."""
'''


def folder(run: common.Run) -> Path:
    """Where nnU-Net's folders of this run lie."""
    return run.results / "nnunet"


def export(run: common.Run) -> pd.DataFrame:
    """Write the bias-corrected scans and all four classes in nnU-Net's raw layout; a row a subject.

    ``imagesTr`` and ``labelsTr`` hold the training set (its own split file names who selects), ``imagesTs`` the validation and test
    subjects, whose labels nnU-Net never sees.
    """
    table, raw, rows = find(run.data), folder(run) / "nnUNet_raw" / DATASET, []
    for subject, row in table.iterrows():
        _, label = read(row)
        image, trains = load_corrected(run.results, subject), row["set"] == "Training_Set"
        path = raw / ("imagesTr" if trains else "imagesTs") / f"{subject}_0000.nii.gz"
        volumes.save(volumes.like(volumes.array(image, np.float32), image), path)
        if trains:
            values = volumes.array(label).astype(
                np.uint8
            )  # on the very grid of the image, whose affine may differ in a late digit
            volumes.save(volumes.like(values, image), raw / "labelsTr" / f"{subject}.nii.gz")
        rows.append({
            "subject": subject, "set": row["set"], "file": path.relative_to(raw).as_posix(),
            "labels": sorted(int(v) for v in np.unique(values)) if trains else None,
        })  # fmt: skip
    names = {"background": 0} | LABELS
    content = {
        "channel_names": {"0": "T1"}, "labels": names, "numTraining": int((table["set"] == "Training_Set").sum()),
        "file_ending": ".nii.gz",
    }  # fmt: skip
    files.write_text(raw / "dataset.json", json.dumps(content, indent=1) + "\n")
    return pd.DataFrame(rows).set_index("subject")


def ready() -> bool:
    """Whether :func:`environment` has been made."""
    return (_place() / ".checked").is_file()


def environment() -> Path:
    """Python of nnU-Net's environment (``.nnunet`` in the repository), made at the first call: some minutes, some GB."""
    place = _place()
    python = environments.python_of(place, PACKAGES)
    if not (place / ".checked").is_file():
        # nnU-Net's convolutional networks need neither, and built for another torch they cannot be imported
        if subprocess.run([str(python), "-c", "import timm"], capture_output=True).returncode:
            pip = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "timm", "torchvision"]
            environments.call(pip, "nnU-Net: removing timm")
        (place / ".checked").touch()
    return python


def _place() -> Path:
    return common.home() / ".nnunet"


def train(
    run: common.Run, *, epochs: int = 5, iterations: int = 10, validation: int = 2, batch_size: int = 4
) -> pd.DataFrame:
    """Check the export with nnU-Net's own integrity check, plan, and train its 2D configuration on the CPU.

    Parameters
    ----------
    epochs, iterations, validation, batch_size : int
        Epochs; batches an epoch to learn from and to watch; slices a batch. nnU-Net's own: 1000, 250, 50 and as planned.

    Returns
    -------
    DataFrame
        One row: epochs, iterations (all of them), batch size and the folder of the run, which holds ``progress.png``.

    Raises
    ------
    RuntimeError
        When a step of nnU-Net fails, with its last lines.
    """
    base, number = folder(run), str(int(DATASET[7:10]))
    common.need(base / "nnUNet_raw" / DATASET / "dataset.json", "nnunet.export")
    brief = {"epochs": epochs, "iterations": iterations, "validation": validation, "batch_size": batch_size}
    files.write_text(base / "brief.json", json.dumps(brief))
    # among nnU-Net's own trainers, where it is found before those that need timm are imported
    where = environments.call(
        [str(environment()), "-c", "import nnunetv2; print(nnunetv2.__path__[0])"], "nnU-Net: finding it"
    )
    files.write_text(Path(where.splitlines()[-1]) / "training" / "nnUNetTrainer" / f"{TRAINER}.py", _TRAINER)
    _call(
        run,
        "nnUNetv2_plan_and_preprocess",
        "-d",
        number,
        "--verify_dataset_integrity",
        "-c",
        "2d",
        "-np",
        "2",
        "-npfp",
        "2",
    )
    parts = split(find(run.data))
    own = [{"train": parts["train"], "val": parts["selection"]}]
    files.write_text(base / "nnUNet_preprocessed" / DATASET / "splits_final.json", json.dumps(own))
    _call(run, "nnUNetv2_train", number, "2d", "0", "-tr", TRAINER, "-device", "cpu")
    place = base / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__2d" / "fold_0"
    row = {"epochs": epochs, "iterations": epochs * iterations, "batch size": batch_size, "folder": common.shown(place)}
    return pd.DataFrame([row])


def progress(run: common.Run) -> Path:
    """nnU-Net's own figure of the training: losses, pseudo Dice, seconds an epoch, learning rate."""
    place = folder(run) / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__2d" / "fold_0" / "progress.png"
    return common.need(place, "nnunet.train")


def predict(run: common.Run, image: Nifti1Image) -> Nifti1Image:
    """Labels of a bias-corrected scan by the trained nnU-Net, on the scan's grid (no mirroring, for time)."""
    progress(run)
    with tempfile.TemporaryDirectory() as place:
        given, found = Path(place) / "in", Path(place) / "out"
        volumes.save(volumes.like(volumes.array(image, np.float32), image), given / "scan_0000.nii.gz")
        _call(
            run, "nnUNetv2_predict", "-i", str(given), "-o", str(found), "-d", str(int(DATASET[7:10])), "-c", "2d", "-tr", TRAINER,
            "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1",
        )  # fmt: skip
        labels = volumes.array(volumes.load(found / "scan.nii.gz"))
    return volumes.like(labels.astype(np.uint8), image)


def _call(run: common.Run, command: str, *arguments: str) -> str:
    """Run one of nnU-Net's commands in its environment, with this run's folders."""
    python, base = environment(), folder(run).resolve()
    places = {name: str(base / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for place in places.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    own = places | {"nnUNet_n_proc_DA": "2", "MPLBACKEND": "agg"}
    own["SEGKIT_NNUNET"] = common.need(base / "brief.json", "nnunet.train").read_text()
    return environments.call([str(python.with_name(command)), *arguments], f"nnU-Net: {command}", env=os.environ | own)
