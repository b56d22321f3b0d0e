"""``ibsr.segment`` with the released model: seconds and peak memory of a subject.

    python benchmarks/bench_ibsr_segment.py --data ../shared/data/ibsr18

A process of its own for each validation subject, from the NIfTI file to the written label map. Imports come before the clock; the first
subject of a process pays for the graphs that TensorFlow makes, so the second subject's seconds are given beside it. Dice of the mean of the
three tissues stands in the table as a check that it is the released model that was timed. Targets: 30 seconds on two cores, 3 GB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import peers

TARGET_S, TARGET_GB = 30, 3


def child(folder: str, subjects: list[str]) -> None:
    """Segment two subjects, one after the other; print the first's row."""
    import keras  # noqa: F401  (its import is not what is timed)

    from segkit import metrics, volumes
    from segkit.studies import ibsr

    table, seconds = ibsr.find(folder), []
    for subject in subjects:
        with tempfile.TemporaryDirectory() as out:
            begin = time.perf_counter()
            found = ibsr.segment(table.loc[subject, "image"], out=out)
            seconds.append(time.perf_counter() - begin)
        if subject == subjects[0]:
            truth = volumes.array(ibsr.read(table.loc[subject])[1])
            mask = volumes.array(found)
            dice = float(np.mean([metrics.dice(truth == v, mask == v) for v in ibsr.LABELS.values()]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({
        "subject": subjects[0], "seconds": round(seconds[0], 1), "seconds_of_the_next": round(seconds[1], 1), "peak_GB": round(peak, 2),
        "mean_dice": round(dice, 4),
    }))  # fmt: skip


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/ibsr18")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.data, options.child)
        return
    if not Path(options.data).is_dir():
        print(f"  {options.data}: no such folder; this benchmark needs the real subjects (--data), it is left out")
        return
    from segkit.studies import ibsr
    from segkit.studies.ibsr import layout

    subjects = ibsr.split(ibsr.find(options.data))["validation"]
    rows = []
    for one, next_ in zip(subjects, subjects[1:] + subjects[:1], strict=True):
        call = [sys.executable, __file__, "--data", options.data, "--child", one, next_]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{one} failed:\n{done.stderr[-3000:]}")
        row = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append(row | {"model": layout.RELEASED, "met": row["seconds"] < TARGET_S and row["peak_GB"] < TARGET_GB})
    peers.write("ibsr_segment", rows)


if __name__ == "__main__":
    main()
