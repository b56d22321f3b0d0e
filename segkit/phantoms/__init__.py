"""Subjects that need no download, in each study's own layout and file names."""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from segkit import files

STUDIES = ("atrium", "ibsr", "lgg", "qsm", "wmh")
MARK = "phantom.json"


def write(
    study: str, folder: str | os.PathLike, *, subjects: Mapping[str, int] | int, seed: int = 0, **settings
) -> list[Path]:
    """Write phantom subjects of a study.

    Parameters
    ----------
    study : str
        One of ``STUDIES``.
    folder : path
        Becomes the study's data folder; a ``phantom.json`` in it says what made it. An existing one of the same
        settings is left as it is, a half-written one is finished; real data are never written over.
    subjects : dict or int
        Set (the study's own folder names) to number of subjects; or how many in all, which the study shares out.
    seed : int
        The same seed gives the same voxels.
    **settings
        The study's own, for example ``coarse=2`` (twice the spacing, an eighth of the voxels).

    Returns
    -------
    list of Path
        The files written; empty when all were there.

    Raises
    ------
    ValueError
        For an unknown study or set, a number the set cannot hold, or a folder with other data in it.
    """
    if study not in STUDIES:
        raise ValueError(f"no phantoms for a study called {study!r}; choose one of {', '.join(STUDIES)}")
    module = importlib.import_module(f"segkit.phantoms.{study}")
    if isinstance(subjects, int):
        subjects = module.share(subjects)
    if not isinstance(subjects, Mapping):
        raise ValueError(f"subjects must be a number, or numbers by set such as {module.share(3)}, not {subjects!r}")
    folder = Path(folder)
    # of a folder its name alone is recorded, so that data may move
    named = {k: v.name if isinstance(v, Path) else v for k, v in settings.items()}
    version = {"version": module.VERSION} if hasattr(module, "VERSION") else {}
    wanted = json.loads(json.dumps({"phantom": study, "subjects": dict(subjects), "seed": seed, **named, **version}))
    mark = folder / MARK
    if mark.is_file():
        found = json.loads(mark.read_text())
        if found == wanted:
            return []
        raise ValueError(f"{folder}: holds other phantoms ({found}); choose an empty folder, or delete this one")
    part, text = folder / f"{MARK}.part", json.dumps(wanted, indent=1) + "\n"
    if part.is_file():
        if part.read_text() != text:
            raise ValueError(
                f"{folder}: holds other phantoms, half written; choose an empty folder, or delete this one"
            )
    elif folder.is_dir() and any(p for p in folder.iterdir() if not p.name.startswith(".")):
        raise ValueError(
            f"{folder}: is not empty and holds no phantoms; choose an empty folder, nothing is written over"
        )
    module.names(dict(subjects))  # refuse before anything is written
    files.write_text(part, text)
    written = module.write(folder, dict(subjects), seed, **settings)
    files.write_text(mark, text)
    part.unlink()
    return written
