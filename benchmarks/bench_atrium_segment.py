"""``atrium.segment`` with the released model: seconds a volume, and whether copies of a scan give the same mask.

    python benchmarks/bench_atrium_segment.py --data ../shared/data/left_atrium

Copies of each test case: every axis flipped, axes exchanged, resampled to 0.8 × 0.8 × 1 mm and to 0.5 × 0.7 × 0.625 mm, set into a field of
view twice as wide. For each copy the Dice between its mask, brought back to the scan's grid, and the scan's own mask (bringing a mask to
the copy's grid and back costs some of it: "… there and back"); and how far its Dice against the truth is from that of the scan itself. The
model has learned from these cases: the scores are no test, their differences are.
"""

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import peers

from segkit import metrics, volumes
from segkit.studies import atrium


def copies(image: nib.Nifti1Image) -> dict[str, nib.Nifti1Image]:
    """The same scan in other guises."""

    def turned(axes: str) -> nib.Nifti1Image:
        want = nib.orientations.axcodes2ornt(axes)
        return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), want))

    low = float(volumes.array(image).min())
    return {
        "flipped": turned("RAI"), "axes exchanged": turned("SLP"),
        "0.8 × 0.8 × 1 mm": volumes.resample(image, spacing_mm=(0.8, 0.8, 1.0), kind="image"),
        "0.5 × 0.7 × 0.625 mm": volumes.resample(image, spacing_mm=(0.5, 0.7, 0.625), kind="image"),
        "wide field of view": volumes.pad(image, (2 * image.shape[0], 2 * image.shape[1], image.shape[2]), fill=low),
    }  # fmt: skip


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/left_atrium")
    options = parser.parse_args()
    if not Path(options.data).is_dir():
        print(f"  {options.data}: no such folder; this benchmark needs the real cases (--data), it is left out")
        return
    table, model = atrium.find(options.data), atrium.load_model()
    rows = []
    for subject in atrium.split(table)["test"]:
        image, label = atrium.read(table.loc[subject])
        truth = volumes.array(label)
        begin = time.perf_counter()
        own = atrium.segment(image, model=model)
        row = {
            "subject": subject,
            "shape": "×".join(map(str, image.shape)),
            "seconds": round(time.perf_counter() - begin, 2),
        }
        for name, copy in copies(image).items():
            begin = time.perf_counter()
            found = volumes.resample(atrium.segment(copy, model=model), like=image, kind="label")
            row[name] = round(metrics.dice(volumes.array(own), volumes.array(found)), 4)
            there = volumes.resample(volumes.resample(own, like=copy, kind="label"), like=image, kind="label")
            row[f"{name}, there and back"] = round(metrics.dice(volumes.array(own), volumes.array(there)), 4)
            scores = [metrics.dice(truth, volumes.array(m)) for m in (own, found)]
            row[f"{name}, score difference"] = round(scores[1] - scores[0], 4)
            row["slowest_copy_seconds"] = round(max(row.get("slowest_copy_seconds", 0), time.perf_counter() - begin), 2)
        rows.append(row)
    numbers = [k for k in rows[0] if k not in ("subject", "shape")]
    rows.append({"subject": "mean", "shape": ""} | {k: round(float(np.mean([r[k] for r in rows])), 4) for k in numbers})
    peers.write("atrium_segment", rows)


if __name__ == "__main__":
    main()
