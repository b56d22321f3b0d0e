"""A training step on the CPU as glibc does by itself, and with freed memory kept (:mod:`segkit.memory`).

    python benchmarks/bench_memory.py

The QSM report's U-Net on two patches of 64³, and IBSR's slice network on sixteen slices of 256², six steps each after one that
traces, in processes of their own, in turn and twice over; the faster of the two counts.
"""

import json
import os
import resource
import subprocess
import sys
import time

import peers

CASES = {"qsm_unet3d": (2, 64, 64, 64), "ibsr_unet2d": (16, 256, 256)}
KEPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": "4000000000"}  # as in the Makefile


def child(network: str) -> None:
    """Seconds a step, page faults a step and peak memory of this process."""
    import numpy as np

    from segkit import losses, models

    model = models.build(network)
    model.compile(optimizer="adam", loss=losses.get("cross_entropy_dice"))
    rng, shape = np.random.default_rng(0), CASES[network]
    x = rng.standard_normal((*shape, model.input_shape[-1]), dtype=np.float32)
    y = (rng.random((*shape, 1)) > 0.9).astype(np.float32)
    classes = model.output_shape[-1]
    y = y if classes == 1 else np.eye(classes, dtype=np.float32)[y[..., 0].astype(int)]
    model.train_on_batch(x, y)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    for _ in range(6):
        model.train_on_batch(x, y)
    used, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begin
    told = {"s_per_step": round(seconds / 6, 3), "faults_per_step": (used.ru_minflt - before) // 6}
    print(json.dumps(told | {"peak_GB": round(used.ru_maxrss * 1024 / 1e9, 2)}))


def main() -> None:
    """Each network each way, and the table."""
    if len(sys.argv) > 1:
        return child(sys.argv[1])
    clean = {k: v for k, v in os.environ.items() if k not in KEPT}
    rows = []
    for network in CASES:
        found: dict[str, list] = {"usual": [], "kept": []}
        for way in ("usual", "kept", "usual", "kept"):
            surroundings = clean | (KEPT if way == "kept" else {})
            command = [sys.executable, __file__, network]
            done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
        fastest = {way: min(runs, key=lambda r: r["s_per_step"]) for way, runs in found.items()}
        faster = round(fastest["usual"]["s_per_step"] / fastest["kept"]["s_per_step"], 2)
        rows.append(
            {
                "network": network,
                **{f"{k}_{w}": v for w, f in fastest.items() for k, v in f.items()},
                "times_faster": faster,
            }
        )
    peers.write("memory", rows)
    return None


if __name__ == "__main__":
    main()
