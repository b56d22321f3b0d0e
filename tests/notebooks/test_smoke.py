"""Every notebook of every study, top to bottom in the smoke profile, in order."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STUDIES = sorted({p.parent.name for p in ROOT.glob("notebooks/*/[0-9][0-9]_*.ipynb")})


def changed() -> str:
    """What git sees as changed; nothing where there is no git."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize("study", STUDIES)
def test_notebooks_run_in_order_and_leave_a_table(study, tmp_path):
    before = changed()
    done = subprocess.run(
        [sys.executable, "notebooks/run.py", study, "--profile", "smoke", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    base = tmp_path / study / "smoke"
    ran = sorted(p.name for p in (base / "notebooks").glob("*.ipynb"))
    assert ran == sorted(p.name for p in (ROOT / "notebooks" / study).glob("[0-9][0-9]_*.ipynb"))
    table = pd.read_csv(next((base / "tables").glob("three_columns*.csv")))
    assert {"reported", "legacy", "corrected", "low", "high"} <= set(table.columns)
    assert "reported" in done.stdout
    assert "wrote:" in done.stdout
    assert changed() == before


def test_an_unknown_study_is_refused_with_the_list():
    done = subprocess.run([sys.executable, "notebooks/run.py", "nose"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no study is called 'nose'; choose one of atrium, ibsr, lgg, qsm" in done.stderr


def test_full_needs_data():
    done = subprocess.run(
        [sys.executable, "notebooks/run.py", "ibsr", "--profile", "full"], cwd=ROOT, capture_output=True, text=True
    )
    assert "PROFILE=full needs DATA=" in done.stderr
