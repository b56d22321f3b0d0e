"""What every study does alike: where things lie, splits and published tables of the package, pieces of a run."""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import logging
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, cpu_count, delayed
from tqdm.auto import tqdm

from segkit import files, memory, phantoms, splits


@dataclasses.dataclass(frozen=True)
class Run:
    """What every notebook of a study starts from; made by :func:`start`."""

    study: str
    profile: Any
    data: Path
    results: Path
    seed: int
    source: str | None

    def __repr__(self) -> str:
        what = {
            "phantom": "phantoms", "real": "real data (pictures hidden)", None: "real data",
            "simulated phantom": "phantoms, simulated QSM", "simulated": "simulated QSM, real anatomy of the nuclei",
            "simulated real": "simulated QSM, real anatomy of the nuclei (pictures hidden)",
        }[self.source]  # fmt: skip
        return (
            f"{self.study}, profile {self.profile.name}, seed {self.seed}\n"
            f"  data     {shown(self.data)}  ({what})\n  results  {shown(self.results)}"
        )


def lazily(package: str, *modules: str) -> Callable[[str], object]:
    """``__getattr__`` of a package whose ``modules`` are imported when they are asked for, so that ``python -m`` can run them."""

    def get(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


def start(
    study: str,
    profile,
    *,
    data: str | os.PathLike | None,
    results: str | os.PathLike | None,
    seed: int,
    show_real: bool = False,
    **phantom_settings,
) -> Run:
    """Prepare a run: find the data, or write the profile's phantoms; choose where results go.

    Parameters
    ----------
    profile : dataclass with ``name`` and ``phantoms`` (subjects a set, or None)
    data, results : path, optional
        Relative paths count from the repository's root. Without ``data``, phantoms are written to
        ``data_dir/<study>/phantoms_<profile>_seed<seed>``.
    show_real : bool
        Draw pictures of real subjects (on your own machine).
    """
    quiet_keras()
    if data is None:
        if profile.phantoms is None:
            raise ValueError(
                f'PROFILE "{profile.name}" is for real data: set DATA to its folder, or PROFILE to "quick"'
            )
        folder = home() / "data_dir" / study / f"phantoms_{profile.name}_seed{seed}"
        phantoms.write(study, folder, subjects=profile.phantoms, seed=seed, **phantom_settings)
    else:
        folder = home() / Path(data).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"DATA {data}: no such folder (relative paths count from {home().name}, the repository)"
            )
    own = profile.phantoms is not None
    base = results_folder(study, profile.name, results=results, data=data, seed=seed, of_phantoms=own)
    source = "phantom" if is_phantom(folder) else None if show_real else "real"
    return Run(study, profile, folder, base, seed, source)


def quiet_keras() -> None:
    """Import keras without TensorFlow's start-up messages, which go past Python's logging to the file descriptor."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all
            nowhere = None
        if nowhere is not None:
            os.dup2(nowhere.fileno(), 2)
            stack.callback(lambda: (os.dup2(kept, 2), os.close(kept)))
        import keras  # noqa: F401
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # warns of each model that predicts after another


ROOT = Path(__file__).resolve().parents[2]  # the repository, in a checkout


def home() -> Path:
    """The repository, when segkit runs from a checkout; else the working folder."""
    return ROOT if (ROOT / "notebooks").is_dir() else Path.cwd()


def shown(path: str | os.PathLike) -> str:
    """``path`` as it is printed: relative to the repository or the working folder, else its name alone.

    Outputs are saved and committed, and the folders of a machine are nobody else's business.
    """
    path = Path(path).resolve()
    for root in (home().resolve(), Path.cwd().resolve()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return f"…/{path.name}"


def results_folder(
    study: str, profile: str, *, results=None, data=None, seed: int = 0, of_phantoms: bool | None = None
) -> Path:
    """``<results>/<study>/<profile>``; another seed, or own data in a profile that is ``of_phantoms``, get a folder of their own.

    By default every profile but "full" is.
    """
    own = data is not None and (profile != "full" if of_phantoms is None else of_phantoms)
    name = profile + ("_data" if own else "") + (f"_seed{seed}" if seed else "")
    return home() / Path("results_dir" if results is None else results).expanduser() / study / name


def split(study: str, name: str) -> list[str]:
    """A study's fixed subject list, from ``segkit/studies/splits/<study>/<name>.txt``."""
    return splits.read(Path(str(resources.files("segkit.studies") / "splits" / study / f"{name}.txt")))


def published(study: str) -> pd.DataFrame:
    """The report's tables as data, from ``segkit/studies/published/<study>.csv``."""
    return pd.read_csv(Path(str(resources.files("segkit.studies") / "published" / f"{study}.csv")))


def mark(*settings) -> str:
    """Six letters that change with any of ``settings``: the end of what a table's rows were made with."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:6]


def begin(
    run: Run, default: tuple[float | None, int | None], *, minutes: float | None, epochs: int | None, seed: int | None
) -> tuple[float | None, int | None, int]:
    """First lines of every training: the budget and the seed it goes by; Keras is seeded and its precision set.

    ``default`` (minutes, epochs) stands where the call gives neither, the run's seed where it gives none.
    """
    import keras

    from segkit import training

    if minutes is None and epochs is None:
        minutes, epochs = default
    seed = run.seed if seed is None else seed
    keras.utils.set_random_seed(seed)
    training.precision()
    return minutes, epochs, seed


def spread(function: Callable, cases: Iterable[tuple], *, jobs: int = 2, desc: str | None = None) -> Iterator:
    """``function(*case)`` for each case, in ``jobs`` processes (at most as many as there are processors, or ``LOKY_MAX_CPU_COUNT`` says);
    the results in the order of ``cases``, each as soon as it is there.

    Inside ``joblib.parallel_config(backend="dask")`` the processes are those of the cluster, however many these are.
    """
    cases = list(cases)
    # bound, not passed: joblib would put larger arguments on one worker of the cluster, and they would be lost with it
    bound = (delayed(functools.partial(function, *case))() for case in cases)
    results = Parallel(n_jobs=min(jobs, cpu_count()), return_as="generator")(bound)
    yield from tqdm(results, total=len(cases), desc=desc, disable=desc is None)


def alone(function: Callable, *given):
    """``function(*given)`` in a Python process of its own, which ends with this one; both must be picklable.

    For trainings beside others: Keras draws its initial weights from Python's one random state, and on a cluster a thread of Dask's draws
    from it, too. The process gives its memory back.

    Raises
    ------
    RuntimeError
        When the process fails, with its last lines.
    """
    if function.__module__ == "__main__":
        raise ValueError(
            f"{function.__name__}: another process cannot find what a script defines; import it from a module"
        )
    with tempfile.TemporaryDirectory() as place:
        asked, told, errors = (Path(place) / name for name in ("asked", "told", "errors"))
        asked.write_bytes(pickle.dumps((function, given)))
        command = [sys.executable, "-c", _CHILD, str(asked), str(told)]
        with errors.open("w") as log, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as child:
            code = child.wait()
        if code:
            last = "\n".join(errors.read_text().strip().splitlines()[-15:])
            raise RuntimeError(
                f"{function.__name__} ended with code {code} in its own process; its last lines:\n{last}"
            )
        return pickle.loads(told.read_bytes())


_CHILD = """
import os, pickle, sys, threading

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # the pipe closes when the parent ends
with open(sys.argv[1], "rb") as file:
    function, given = pickle.load(file)
result = function(*given)
with open(sys.argv[2], "wb") as file:
    pickle.dump(result, file)
"""


def command_line(study: str, what: Iterable[str], *, data: str | None = None) -> argparse.ArgumentParser:
    """Arguments that the experiments of every study take; folders become absolute paths. Memory is kept: :func:`segkit.memory.keep`.

    ``data`` is the help of ``--data`` where it may be left out.
    """
    memory.keep()
    parser = argparse.ArgumentParser(description=f"Long runs of the {study} study, in cells that resume.")
    parser.add_argument("what", choices=sorted(what))
    parser.add_argument("--data", required=data is None, type=folder, help=data)
    parser.add_argument("--profile", default="full")
    parser.add_argument("--results")
    return parser


def folder(text: str) -> Path:
    """A path of the command line, which counts from the working folder."""
    return Path(text).expanduser().resolve()


def read_rows(path: Path, recipe: str) -> pd.DataFrame:
    """Rows that the cells of an experiment wrote so far (none: empty); ValueError when another recipe wrote them."""
    if not path.is_file():
        return pd.DataFrame()
    done = pd.read_csv(path, dtype={"settings": str})  # hexadecimal digits, which may look like a number
    others = sorted(set(done["recipe"]) - {recipe})
    if others:
        raise ValueError(
            f"{path}: holds rows of another recipe ({others[0]}; now {recipe}); "
            "give RESULTS (--results) a folder of your own, or move the file away"
        )
    return done


def rows_or_why(
    run: Run, what: str, recipe: str, *, command: str | None = None, arguments: str = "--data DIR"
) -> pd.DataFrame | None:
    """Rows of ``tables/<what>.csv`` for a notebook; None, and a line that says why, where there are none or of another recipe.

    ``command`` of the study's experiments writes them (default: it is called like the table), with these ``arguments``.
    """
    path = run.results / "tables" / f"{what}.csv"
    if not path.is_file():
        only = "" if run.profile.name == "full" else "hours of work, of the full profile: "
        print(f"{what}: {only}python -m segkit.studies.{run.study}.experiments {command or what} {arguments}")
        return None
    try:
        return read_rows(path, recipe)
    except ValueError as error:
        print(f"not shown: {error}")
        return None


def add_rows(path: Path, done: pd.DataFrame, rows: pd.DataFrame, *, digits: int = 5) -> pd.DataFrame:
    """``done`` and ``rows`` together, written to ``path``."""
    done = pd.concat([done, rows], ignore_index=True)
    files.write_text(path, done.round(digits).to_csv(index=False))
    return done


def is_phantom(folder: str | os.PathLike) -> bool:
    """Whether :func:`segkit.phantoms.write` made this data folder (then pictures of it may be shown and committed)."""
    return (Path(folder) / phantoms.MARK).is_file()


def need(path: Path, first: str) -> Path:
    """``path`` if it exists; else FileNotFoundError that says which notebook writes it."""
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)} is missing: run {first} first (same PROFILE, RESULTS and SEED)")
    return path


def network_table(model) -> pd.DataFrame:
    """A network by block (down1, …, bottom, …, up1, head): layers, output shape and parameters."""
    rows: dict[str, dict] = {}
    for layer in model.layers:
        block = re.match(r"[a-z]+\d*", layer.name).group()
        row = rows.setdefault(block, {"layers": [], "output": "", "parameters": 0})
        row["layers"].append(re.sub(r"\d+D?$", "", type(layer).__name__))
        row["output"] = " × ".join("·" if n is None else str(n) for n in layer.output.shape[1:])
        row["parameters"] += layer.count_params()
    table = pd.DataFrame([{"block": k, **v, "layers": ", ".join(v["layers"])} for k, v in rows.items()]).set_index(
        "block"
    )
    table.loc["all"] = ["", "", int(table["parameters"].sum())]
    return table
