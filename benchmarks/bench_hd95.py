"""HD95 on 256³ against MedPy: the same value with ``pooled=True``, and how much faster.

Two balls of 60 voxels radius, shifted by (9, 5, 3) voxels, 0.9 × 0.9 × 2.5 mm; MedPy as its users call it, on whole arrays.
"""

import tempfile
from pathlib import Path

import numpy as np
import peers

from segkit import metrics

SPACING_MM = (0.9, 0.9, 2.5)
PEER = """
import json, sys, time
import numpy as np
from medpy.metric.binary import hd95
with np.load(sys.argv[1]) as masks:
    truth, prediction = masks["truth"], masks["prediction"]
times = []
for _ in range(3):
    begin = time.perf_counter()
    value = hd95(prediction, truth, voxelspacing=json.loads(sys.argv[2]))
    times.append(time.perf_counter() - begin)
print(json.dumps({"seconds": sorted(times)[1], "value": float(value)}))
"""


def ball(centre) -> np.ndarray:
    """Ball of 60 voxels radius in 256³."""
    grids = np.ogrid[:256, :256, :256]
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= 60**2


def main() -> None:
    """Run both and write the table."""
    truth, prediction = ball((120, 125, 128)), ball((129, 130, 131))
    python = peers.environment("medpy", "medpy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.npz"
        np.savez(path, truth=truth, prediction=prediction)
        peer = peers.call(python, PEER, str(path), str(list(SPACING_MM)))
    rows = [
        {
            "what": "MedPy hd95",
            "value_mm": f"{peer['value']:.6f}",
            "seconds": f"{peer['seconds']:.3f}",
            "times_faster": 1,
        }
    ]
    for name, pooled in (("segkit hd95(pooled=True)", True), ("segkit hd95", False)):
        seconds, value = peers.median_seconds(
            lambda p=pooled: metrics.hd95(truth, prediction, spacing_mm=SPACING_MM, pooled=p)
        )
        faster = f"{peer['seconds'] / seconds:.1f}"
        rows.append({"what": name, "value_mm": f"{value:.6f}", "seconds": f"{seconds:.3f}", "times_faster": faster})
        if pooled and abs(value - peer["value"]) > 1e-4:
            raise SystemExit(f"the values differ: {value} and {peer['value']} mm")
    peers.write("hd95", rows)


if __name__ == "__main__":
    main()
