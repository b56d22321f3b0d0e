"""Run a study's notebooks top to bottom.

python notebooks/run.py ibsr --profile quick            refreshes the committed notebooks/ibsr/*.ipynb
python notebooks/run.py ibsr --profile full --data DIR   writes results_dir/ibsr/full/notebooks/
python notebooks/run.py ibsr --demo                      the same as quick, all output under results_dir/demo/
python notebooks/run.py ibsr --only 03 04                some of them (what they read must be there from a run before)
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def notebooks(study: str, only: list[str] | None = None) -> list[Path]:
    """The study's notebooks in order; of some of them, where their numbers are given."""
    found = sorted((HERE / study).glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise SystemExit(f"no study is called {study!r}; choose one of {', '.join(studies())} or all")
    numbers = [path.name[:2] for path in found]
    unknown = sorted(set(only or ()) - set(numbers))
    if unknown:
        raise SystemExit(f"{study} has no notebook {unknown[0]}; its numbers are {', '.join(numbers)}")
    return [path for path in found if not only or path.name[:2] in only]


def studies() -> list[str]:
    """Studies in place: the folders that hold numbered notebooks."""
    return sorted({p.parent.name for p in HERE.glob("*/[0-9][0-9]_*.ipynb")})


def needs_data(study: str) -> bool:
    """Whether the full profile of a study (or of any, for "all") knows no phantoms."""
    from importlib import import_module

    chosen = studies() if study == "all" else [study]
    return any(import_module(f"segkit.studies.{s}").PROFILES["full"].phantoms is None for s in chosen if s in studies())


def of_phantoms(study: str, profile: str) -> bool:
    """Whether the study's profile has phantoms, beside which own data get a folder of results of their own."""
    from importlib import import_module

    return import_module(f"segkit.studies.{study}").PROFILES[profile].phantoms is not None


def clean(notebook, parameters: dict) -> None:
    """Keep code, text and outputs; drop times, papermill's notes and what differs from machine to machine."""
    from segkit.studies import common

    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        for name in ("DATA", "RESULTS"):
            if name in parameters:
                cell.source = cell.source.replace(parameters[name], common.shown(ROOT / parameters[name]))
        if cell.cell_type == "code":
            cell.outputs = _joined([o for o in cell.outputs if not _is_progress(o)])


def _joined(outputs: list) -> list:
    """Lines that a cell printed one after another, as one output."""
    out: list = []
    for output in outputs:
        before = out[-1] if out else None
        if before is not None and output.get("name") == "stdout" == before.get("name"):
            before["text"] = "".join(before["text"]) + "".join(output["text"])
        else:
            out.append(output)
    return out


def _is_progress(output) -> bool:
    """tqdm's bars: on stderr, or as a widget that no saved notebook can show."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def run(path: Path, target: Path, parameters: dict) -> float:
    """Execute one notebook with its folder as working folder; the result replaces ``target`` when all cells passed."""
    import nbformat
    import papermill

    from segkit import files

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / path.name
        papermill.execute_notebook(
            str(path), str(work), parameters=parameters, kernel_name="python3", cwd=str(path.parent), progress_bar=True,
            stdout_file=sys.stdout, autosave_cell_every=0, extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
        notebook = nbformat.read(work, as_version=4)
        clean(notebook, parameters)
        with files.atomic(target) as temporary:
            nbformat.write(notebook, temporary)
    return time.perf_counter() - begin


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run a study's notebooks top to bottom.")
    parser.add_argument("study", help=f"{', '.join(studies())} or all")
    parser.add_argument("--profile", default="quick", choices=("smoke", "quick", "full"))
    parser.add_argument("--data", help="folder with the real data (full)")
    parser.add_argument("--only", nargs="+", metavar="NUMBER", help="some of the notebooks, such as 03 04")
    parser.add_argument("--results", help="folder for results; default results_dir")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", action="store_true", help="write everything under results_dir/demo")
    options = parser.parse_args()
    if options.profile == "full" and not options.data and needs_data(options.study):
        parser.error("PROFILE=full needs DATA=<folder with the real data>")

    if options.only and options.study == "all":
        parser.error("--only goes with one study")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    results = "results_dir/demo" if options.demo else options.results
    parameters = {}
    if options.profile != "quick":
        parameters["PROFILE"] = options.profile
    if options.data:
        parameters["DATA"] = str(Path(options.data).expanduser().resolve())
    if results:
        parameters["RESULTS"] = str((ROOT / results).resolve())
    if options.seed:
        parameters["SEED"] = options.seed

    from segkit.studies import common

    begin = time.perf_counter()
    for study in studies() if options.study == "all" else [options.study]:
        chosen = notebooks(study, options.only)
        own = of_phantoms(study, options.profile)
        base = common.results_folder(
            study, options.profile, results=results, data=options.data, seed=options.seed, of_phantoms=own
        )
        in_place = options.profile == "quick" and not results and not options.seed and not options.data
        for path in chosen:
            target = path if in_place else base / "notebooks" / path.name
            print(f"\n== {study}: {path.stem} ({options.profile})", flush=True)
            seconds = run(path, target, parameters)
            print(f"== {path.stem} took {seconds:.0f} s", flush=True)
        tables = sorted((base / "tables").glob("three_columns*.md"))
        for table in tables:
            print(f"\n{study}: {table.stem}\n\n{table.read_text()}")
        print("wrote:")
        for place in (base / "notebooks" if not in_place else HERE / study, base / "tables", base / "figures"):
            for file in sorted(place.glob("*")) if place.is_dir() else []:
                if file.suffix in (".ipynb", ".csv", ".png"):
                    print(f"  {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}")
    print(f"\ndone in {(time.perf_counter() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
