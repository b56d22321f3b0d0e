"""What every study does alike: where things lie, splits and published tables of the package, pieces of a run."""

import os
from importlib import resources
from pathlib import Path

import pandas as pd

from segkit import splits

PHANTOM_MARK = "phantom.json"


def home() -> Path:
    """The repository, when segkit runs from a checkout; else the working folder."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "notebooks").is_dir() else Path.cwd()


def shown(path: str | os.PathLike) -> str:
    """``path`` as it is printed: relative to the repository or the working folder, never a path of this machine."""
    path = Path(path).resolve()
    for root in (home().resolve(), Path.cwd().resolve()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return Path(os.path.relpath(path, home())).as_posix()


def split(study: str, name: str) -> list[str]:
    """A study's fixed subject list, from ``segkit/studies/splits/<study>/<name>.txt``."""
    return splits.read(Path(str(resources.files("segkit.studies") / "splits" / study / f"{name}.txt")))


def published(study: str) -> pd.DataFrame:
    """The report's tables as data, from ``segkit/studies/published/<study>.csv``."""
    return pd.read_csv(Path(str(resources.files("segkit.studies") / "published" / f"{study}.csv")))


def is_phantom(folder: str | os.PathLike) -> bool:
    """Whether :func:`segkit.phantoms.write` made this data folder (then pictures of it may be shown and committed)."""
    return (Path(folder) / PHANTOM_MARK).is_file()


def need(path: Path, first: str) -> Path:
    """``path`` if it exists; else FileNotFoundError that says which notebook writes it."""
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)} is missing: run {first} first (same PROFILE, RESULTS and SEED)")
    return path
