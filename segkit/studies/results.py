"""``python -m segkit.studies.results``: gather every study's tables and claims into ``results_dir/README.md``."""

from pathlib import Path

import pandas as pd

from segkit import files, report
from segkit.studies import common

HEAD = """# Results

Made by `make results` from the tables on disk and nothing else; do not edit. *Reported* is the number that the report printed,
*legacy* our model scored by the report's own definition, *corrected* our model scored per subject in 3D on the native grid,
with its 95 % bootstrap interval (low, high) over n subjects. Quick is phantoms; full is real data, for
QSM maps simulated on real anatomy of the nuclei, for white-matter hyperintensities phantoms.
"""
MADE = {"qsm": " (simulated)", "wmh": " (phantom)"}  # full profiles that are not real data


def gather(folder: Path) -> str:
    """The page's text: for each study and profile the three-column tables, then the claims."""
    parts = [HEAD]
    for study in sorted(
        p for p in (folder.iterdir() if folder.is_dir() else ()) if p.is_dir() and p.name not in ("demo",)
    ):
        for profile in ("full", "quick"):
            tables = study / profile / "tables"
            found = sorted(tables.glob("three_columns*.csv"))
            if not found and not any(tables.glob("claims*.csv")):
                continue
            parts.append(
                f"## {study.name}, {profile}" + (" (phantom)" if profile == "quick" else MADE.get(study.name, ""))
            )
            for path in found:
                note = (
                    path.with_suffix(".md").read_text().partition("\n\n")[2].strip()
                    if path.with_suffix(".md").is_file()
                    else ""
                )
                parts += [
                    report.markdown(pd.read_csv(path)),
                    note,
                    f"Source: `{path.relative_to(folder.parent).as_posix()}`",
                ]
            for name, said in (
                ("recipes", "Recipes scored on the held-out subjects so far"),
                ("openings", "Scans that tune nothing were opened for"),
            ):
                if (tables / f"{name}.csv").is_file():
                    recipes = pd.read_csv(tables / f"{name}.csv")
                    parts += [f"{said}: {len(recipes)}", report.markdown(recipes)]
            told = sorted(p for p in tables.glob("claims*.csv") if not p.stem.endswith("_released"))
            if told:
                parts += ["### Claims of the report", report.markdown(pd.concat([pd.read_csv(p) for p in told]))]
    if len(parts) == 1:
        parts.append("No table yet: run `make notebooks`.")
    return "\n\n".join(p for p in parts if p) + "\n"


def main() -> None:
    """Write the page."""
    folder = common.home() / "results_dir"
    page = files.write_text(folder / "README.md", gather(folder))
    print(f"wrote {common.shown(page)}")


if __name__ == "__main__":
    main()
