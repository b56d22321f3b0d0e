"""The models that a study releases, and what its ``segment`` writes."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import pandas as pd
from nibabel import Nifti1Image

from segkit import files, plots, volumes
from segkit.studies import common


@dataclasses.dataclass(frozen=True)
class Release:
    """Model files of one study: ``saved_models/<stem>.keras`` in its results, or ``<stem>_1.keras``, … where several are averaged.

    Beside each stands ``….run.json`` (how it was trained), and ``<stem>.scores.csv`` (the scores of the recipe).
    """

    study: str
    stem: str
    phantoms: bool = False  # it learns from phantoms or simulated maps alone, on purpose

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return common.home() / "results_dir" / self.study / "saved_models"

    @property
    def scores(self) -> Path:
        """Scores of the recipe, a row a case."""
        return self.folder / f"{self.stem}.scores.csv"

    def files(self) -> list[Path]:
        """Files of the released model's members."""
        return _members(self.folder, self.stem)

    def threshold(self, otherwise: float = 0.5) -> float:
        """The threshold that goes with the released model: the mean of those in its scores, one a fold where there are folds."""
        if not self.scores.is_file():
            return otherwise
        scores = pd.read_csv(self.scores)
        if "threshold" not in scores or scores["threshold"].isna().all():
            return otherwise
        by = scores.groupby("fold")["threshold"].first() if "fold" in scores else scores["threshold"].dropna()
        return round(float(by.mean()), 2)

    def load(self, model=None) -> list:
        """Models from what a user may give: None (the released ones), a path, a model, or several of either.

        Raises
        ------
        FileNotFoundError
            When nothing is released yet, or this is no checkout of the repository.
        """
        from segkit import models

        given = self.files() if model is None else model
        given = given if isinstance(given, list | tuple) else [given]
        if not given:
            raise FileNotFoundError(
                f"no released model in results_dir/{self.study}/saved_models; run from a checkout of the repository, or give model="
            )
        return [models.load(m) if isinstance(m, str | os.PathLike) else m for m in given]

    def save(self, run: common.Run, names: str | Sequence[str], scores: pd.DataFrame) -> list[Path]:
        """Save trained runs (folders under ``runs/``) in float16 beside the run's results, each with its record, and ``scores``; the files.

        What was released before is replaced.

        Raises
        ------
        ValueError
            For a run on phantoms in the repository's own results, whose models are of real data (or learn from phantoms on purpose, and
            then in the full profile).
        """
        from segkit import models

        folder = run.results.parent / "saved_models"
        small = run.profile.name != "full" if self.phantoms else run.source == "phantom"
        if small and folder.resolve() == (common.ROOT / "results_dir" / self.study / "saved_models"):
            raise ValueError(
                f"{run.profile.name} is a run on phantoms; give RESULTS another folder to release it there"
            )
        names = [names] if isinstance(names, str) else list(names)
        sources = [common.need(run.results / "runs" / name / "best.keras", "03_training") for name in names]
        trained = [models.load(source) for source in sources]  # all of them, before anything is replaced
        for old in _members(folder, self.stem):
            old.unlink()
            old.with_suffix(".run.json").unlink(missing_ok=True)
        written = []
        for k, (model, source) in enumerate(zip(trained, sources, strict=True), start=1):
            path = folder / (self.stem + (f"_{k}" if len(names) > 1 else "") + ".keras")
            written.append(models.save(model, path))
            files.write_text(path.with_suffix(".run.json"), source.with_name("run.json").read_text())
        files.write_text(folder / self.scores.name, scores.round(5).to_csv(index=False))
        return written


def _members(folder: Path, stem: str) -> list[Path]:
    return sorted(folder.glob(f"{stem}_[0-9]*.keras")) + sorted(folder.glob(f"{stem}.keras"))


def write_outputs(
    mask: Nifti1Image, measures: pd.DataFrame, figure: matplotlib.figure.Figure, out: str | os.PathLike, name: str
) -> list[Path]:
    """Write ``<name>_seg.nii.gz``, ``<name>_overlay.png`` and ``<name>_measures.csv``; their paths."""
    out = Path(out)
    written = [out / f"{name}_seg.nii.gz", plots.save(figure, out / f"{name}_overlay.png")]
    volumes.save(mask, written[0])
    return [*written, files.write_text(out / f"{name}_measures.csv", measures.to_csv())]


def slices_overlay(image: Nifti1Image, mask: Nifti1Image, name: str) -> matplotlib.figure.Figure:
    """Outlines of a user's mask on every slice along the foot–head axis."""
    turned, found = volumes.canonical(image), volumes.canonical(mask)
    spacing = volumes.spacing(turned)
    return plots.contours(
        volumes.array(turned, "float32"), None, volumes.array(found), source=None, title=name, aspect=spacing[1] / spacing[0]
    )  # fmt: skip


def case_name(scan) -> str:
    """What the outputs of a user's scan are called: its file's name without ``.nii.gz``, or "scan" for an image in memory."""
    return "scan" if isinstance(scan, Nifti1Image) else Path(scan).name.removesuffix(".gz").removesuffix(".nii")
