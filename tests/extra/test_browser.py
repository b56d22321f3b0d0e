"""Saved notebooks as a reader sees them: rendered to HTML and opened in headless Chromium."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*/[0-9][0-9]_*.ipynb"))


@pytest.mark.extra
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_rendered_notebook_shows_its_text_figures_and_no_error(path, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "no Chromium here; install it (Debian: apt-get install chromium)"
    convert = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path), str(path)]
    subprocess.run(convert, check=True, capture_output=True)
    page = tmp_path / f"{path.stem}.html"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    text = re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.S)
    assert "Traceback" not in text
    assert len(re.findall(r"<img[^>]+src=\"data:image/png", done.stdout)) >= 1
    assert re.search(r"<h1[^>]*>(IBSR18|Left atrium|Lower-grade glioma|QSM|White-matter)", text)
