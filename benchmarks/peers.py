"""Peers to compare with: each lives in an environment of its own under ``benchmarks/.peers``, never in the requirements."""

import csv
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from segkit.studies import environments

HERE = Path(__file__).resolve().parent


def environment(name: str, *packages: str) -> Path:
    """Python of the peer's environment, made at the first call."""
    return environments.python_of(HERE / ".peers" / name, packages)


def call(python: Path, code: str, *arguments: str) -> dict:
    """Run ``code`` with the peer's Python; its last printed line is JSON."""
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median_seconds(function: Callable, repeats: int = 5) -> tuple[float, object]:
    """Median wall-clock seconds of ``function()`` and its last result."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), result


def write(name: str, rows: list[dict]) -> None:
    """Print ``rows`` and keep them in ``benchmarks/results/<name>.csv``, with the machine."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    rows = [row | {"machine": machine} for row in rows]
    path = HERE / "results" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  " + ", ".join(f"{k} {v}" for k, v in row.items()))
    print(f"wrote benchmarks/results/{path.name}")
