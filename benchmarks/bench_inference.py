"""Blended inference of a large volume: memory at 512³ with many classes, time at 256³, beside MONAI's sliding window.

    python benchmarks/bench_inference.py [--side 512]

Memory: patches of 64³ by half, a one-convolution network (so that the network's own memory does not count), labels out; every case in
a process of its own, whose peak memory is read at its end. MONAI's ``sliding_window_inference`` (Gaussian, overlap .5, the label map
taken by argmax afterwards, as its examples do) holds the volume's sums, so it is measured at 2 and 8 classes. Targets: under 4 GB, at
most 1.5 times as much at 32 classes as at 2; what patches are computed twice for it is counted in ``tests/test_inference.py``.
Time: the report's U-Net (5.6 M) on 256³ in both frameworks (MONAI's BasicUNet of the same widths), two threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import peers

PEER = r"""
import json, resource, sys, time
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet
what, side, classes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(2)
torch.manual_seed(0)
net = torch.nn.Conv3d(1, classes, 3, padding=1) if what == "memory" else BasicUNet(3, 1, classes, (16, 32, 64, 128, 256, 16))
net.eval()
x = torch.randn(1, 1, side, side, side)
begin = time.perf_counter()
with torch.no_grad():
    out = sliding_window_inference(x, (64, 64, 64), 2, net, overlap=0.5, mode="gaussian").argmax(1).to(torch.uint8)
seconds, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps({"seconds": round(seconds, 1), "peak_GB": round(peak, 2)}))
"""


def child(what: str, side: int, classes: int) -> None:
    """One case of ours."""
    import keras
    import nibabel as nib

    from segkit import inference, models

    keras.utils.set_random_seed(0)
    if what == "memory":
        inputs = keras.Input((None, None, None, 1))
        model = keras.Model(inputs, keras.layers.Conv3D(classes, 3, padding="same")(inputs))
    else:
        model = models.build("qsm_unet3d", classes=classes, head="softmax")
    volume = nib.Nifti1Image(np.random.default_rng(0).standard_normal((side,) * 3, dtype=np.float32), np.eye(4))
    begin = time.perf_counter()
    inference.predict(model, volume, output="labels", patch=(64, 64, 64), batch_size=2)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": round(seconds, 1), "peak_GB": round(peak, 2)}))


def run_ours(what: str, side: int, classes: int) -> dict:
    """:func:`child` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, str(side), str(classes)], capture_output=True, text=True,
        env=os.environ | {"TF_NUM_INTRAOP_THREADS": "2"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """All cases, into ``results/inference.csv``."""
    parser = argparse.ArgumentParser(description="Memory and time of blended inference beside MONAI.")
    parser.add_argument("--child", nargs=3)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], int(options.child[1]), int(options.child[2]))
    python = peers.environment("monai", "torch==2.13.0", "monai", "numpy", "einops")
    rows = []
    for what, side, classes in (
        ("memory", options.side, 2), ("memory", options.side, 8), ("memory", options.side, 32), ("time", options.side // 2, 2)
    ):  # fmt: skip
        found = run_ours(what, side, classes)
        row = {"what": what, "side": side, "classes": classes, "seconds": found["seconds"], "peak_GB": found["peak_GB"]}
        peer = peers.call(python, PEER, what, str(side), str(classes)) if classes < 32 else {}
        row |= {"monai_seconds": peer.get("seconds", ""), "monai_peak_GB": peer.get("peak_GB", "")}
        least = next((r["peak_GB"] for r in rows if r["what"] == "memory"), found["peak_GB"])
        met = (found["peak_GB"] < 4 and found["peak_GB"] <= 1.5 * least) if what == "memory" else ""
        rows.append(row | {"times_least": round(found["peak_GB"] / least, 2) if what == "memory" else "", "met": met})
        print(rows[-1], flush=True)
    peers.write("inference", rows)
    return None


if __name__ == "__main__":
    main()
