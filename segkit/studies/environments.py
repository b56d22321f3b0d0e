"""Virtual environments for what segkit compares itself with and never requires."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_of(place: Path, packages: Sequence[str]) -> Path:
    """Python of the environment in ``place`` that holds ``packages``; made at the first call, and anew when ``packages`` change.

    Raises
    ------
    RuntimeError
        When it cannot be made, with the last lines of what failed.
    """
    python, ready = place / ("Scripts" if os.name == "nt" else "bin") / "python", place / ".ready"
    if ready.is_file() and ready.read_text().split() == list(packages):
        return python
    print(f"making the environment {place.name} ({', '.join(packages)})", flush=True)
    call([sys.executable, "-m", "venv", "--clear", str(place)], "making the environment")
    # in one call, so that what one package pulls in does not exchange another
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, *packages], f"installing {', '.join(packages)}")
    ready.write_text("\n".join(packages))
    return python


def call(command: Sequence[str], what: str, **settings) -> str:
    """Run a command; its output. RuntimeError with its last lines where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeError(f"{what} failed; its last lines:\n{last}")
    return done.stdout
