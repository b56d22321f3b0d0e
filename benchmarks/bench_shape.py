"""Radiogenomics: shape features of all manual masks in seconds, and the smallest ellipsoid beside Khachiyan's plain algorithm.

    python benchmarks/bench_shape.py --data ../shared/data/lgg

The peer is the textbook loop (steps towards the farthest point only, all boundary voxels); ours starts from the convex hull and also
steps away from needless points.
Both stop at 1e-4; ours goes on to 1e-7 in the package, as the last row says. Without the data, 40 phantoms of 128 pixels a side are taken.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import peers
from scipy import ndimage

from segkit import shape
from segkit.phantoms import lgg as phantoms
from segkit.studies.lgg import radiogenomics


def plain(points: np.ndarray, tolerance: float) -> float:
    """Volume by Khachiyan's algorithm as textbooks print it."""
    n, d = points.shape
    lifted = np.c_[points, np.ones(n)].T
    weights = np.full(n, 1 / n)
    while True:
        distance = np.einsum("ij,ji->i", lifted.T @ np.linalg.inv(lifted * weights @ lifted.T), lifted)
        far = distance.argmax()
        if distance[far] / (d + 1) - 1 < tolerance:
            break
        step = (distance[far] - d - 1) / ((d + 1) * (distance[far] - 1))
        weights *= 1 - step
        weights[far] += step
    centre = points.T @ weights
    matrix = np.linalg.inv((points.T * weights) @ points - np.outer(centre, centre)) / d
    return 4 / 3 * math.pi / math.sqrt(np.linalg.det(matrix))


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/lgg")
    options = parser.parse_args()
    real = Path(options.data).is_dir()
    if real:
        masks = radiogenomics.masks(options.data)
    else:
        names = phantoms.names({"patients": 40})["patients"]
        masks = {name: phantoms.subject(name, 0)[1] for name in names}
    begin = time.perf_counter()
    radiogenomics.features(masks, jobs=2)
    rows = [{
        "what": "three features of every mask, two processes", "masks": len(masks), "pixels": next(iter(masks.values())).shape[0],
        "data": "manual masks of kaggle_3m" if real else "phantom", "seconds": round(time.perf_counter() - begin, 1),
    }]  # fmt: skip
    some = list(masks.values())[:20]
    edges = [np.argwhere(m & ~ndimage.binary_erosion(m)).astype(float) for m in some]
    ours, _ = peers.median_seconds(lambda: [shape.minimum_ellipsoid(e, tolerance=1e-4)[2] for e in edges], 3)
    tight, exact = peers.median_seconds(lambda: [shape.minimum_ellipsoid(e)[2] for e in edges], 3)
    theirs, loose = peers.median_seconds(lambda: [plain(e, 1e-4) for e in edges], 1)
    shared = {"masks": len(edges), "pixels": rows[0]["pixels"], "data": rows[0]["data"]}
    difference = float(np.max(np.abs(np.divide(loose, exact) - 1)))
    rows += [
        {"what": "smallest ellipsoid, segkit, 1e-4", **shared, "seconds": round(ours, 2)},
        {"what": "smallest ellipsoid, plain Khachiyan, 1e-4", **shared, "seconds": round(theirs, 2)},
        {"what": "smallest ellipsoid, 1e-7 as in the package", **shared, "seconds": round(tight, 2)},
    ]
    summary = {"times_faster": round(theirs / ours, 1), "largest_volume_difference": round(difference, 4)}
    peers.write("shape", [row | (summary if "segkit," in row["what"] else dict.fromkeys(summary, "")) for row in rows])


if __name__ == "__main__":
    main()
