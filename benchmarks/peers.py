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


# how a MONAI peer begins: called with folder, minutes, threads and cases (JSON); its own part follows and ends with ``told``
MONAI = r"""
import json, sys, time
import monai, numpy as np, torch
from monai import transforms as T
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import set_determinism

folder, minutes, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
cases = json.loads(sys.argv[4])
torch.set_num_threads(threads)
set_determinism(0)
keys = ["image", "label"]
def load(side):
    out = []
    for name in cases[side]:
        with np.load(f"{folder}/{name}.npz") as part:
            out.append({"image": torch.as_tensor(part["image"])[None], "label": torch.as_tensor(part["label"])[None].float()})
    return out
def training(net, items, turn):
    # step, seconds and loss, as long as the minutes last
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    begin, step, order = time.perf_counter(), 0, np.random.default_rng(0)
    while (spent := time.perf_counter() - begin) < 60 * minutes:
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(1, spent / (60 * minutes)))))
        item = turn(items[order.integers(len(items))])[0]
        optimizer.zero_grad()
        value = loss(net(item["image"][None]), item["label"][None])
        value.backward()
        optimizer.step()
        step += 1
        yield step, spent, float(value)
def told(net, steps, **more):
    versions = f"monai {monai.__version__}, torch {torch.__version__}"
    print(json.dumps({"steps": steps, "parameters": sum(p.numel() for p in net.parameters()), "versions": versions} | more))
"""


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
