"""One QSM subject through padding to 512³ and three downsamplings: ours beside nibabel + scipy.ndimage.zoom.

    python benchmarks/bench_padding.py

Two images, a brain mask and five labels of 380 × 440 × 380 voxels (a phantom: balls in noise), each way in a process of its own, whose
peak memory is read at its end, without and with the writing of the files (.nii.gz). The peer pads with numpy and
zooms each volume by ½, ¼ and ⅛ (order 3 for images, 0 for masks), as notebooks of that time do.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import peers

SHAPE, CUBE = (380, 440, 380), 512


def subject() -> tuple[dict, dict, np.ndarray]:
    """Two images, and six masks, and the affine."""
    rng = np.random.default_rng(0)
    affine = nib.affines.from_matvec(np.eye(3) * 0.5, (-95, -110, -95))
    grids = np.ogrid[tuple(slice(n) for n in SHAPE)]

    def ball(centre, radius):
        return (sum((g - c * n) ** 2 for g, c, n in zip(grids, centre, SHAPE, strict=True)) < radius**2).astype(
            np.uint8
        )

    brain = ball((0.5, 0.5, 0.5), 180)
    qsm = rng.standard_normal(SHAPE, dtype=np.float32) * np.float32(0.03)
    masks = {"brain_mask": brain} | {
        name: ball((0.3 + 0.08 * k, 0.5, 0.5), 20 + 2 * k) for k, name in enumerate("abcde")
    }
    return {"w_bg": qsm, "masked": qsm * brain}, masks, affine


def ours(folder: Path | None) -> None:
    """As steps 01 and 02 do it."""
    from segkit import volumes

    images, masks, affine = subject()
    for kind, parts in (("image", images), ("label", masks)):
        while parts:
            name, data = parts.popitem()
            cube = volumes.pad(nib.Nifti1Image(data, affine), (CUBE,) * 3)
            del data
            for factor in (1, 2, 4, 8):
                small = cube if factor == 1 else volumes.downsample(cube, factor, kind=kind)
                if folder is not None:
                    volumes.save(small, folder / f"{name}_{CUBE // factor}.nii.gz")


def theirs(folder: Path | None) -> None:
    """nibabel and scipy.ndimage.zoom."""
    from scipy import ndimage

    images, masks, affine = subject()
    width = [((CUBE - n) // 2, CUBE - n - (CUBE - n) // 2) for n in SHAPE]
    for order, parts in ((3, images), (0, masks)):
        while parts:
            name, data = parts.popitem()
            cube = np.pad(data, width)
            del data
            for factor in (1, 2, 4, 8):
                small = cube if factor == 1 else ndimage.zoom(cube, 1 / factor, order=order)
                if folder is not None:
                    nib.save(
                        nib.Nifti1Image(small, affine @ np.diag([factor] * 3 + [1])),
                        folder / f"{name}_{CUBE // factor}.nii.gz",
                    )


def child(which: str, writes: bool) -> None:
    """One way, once; prints seconds (the subject's making taken off) and peak memory."""
    begin = time.perf_counter()
    subject()
    making = time.perf_counter() - begin
    folder = Path(tempfile.mkdtemp()) if writes else None
    begin = time.perf_counter()
    {"ours": ours, "theirs": theirs}[which](folder)
    seconds = time.perf_counter() - begin - making
    if folder is not None:
        shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": round(seconds, 1), "peak_GB": round(peak, 2)}))


def main() -> None:
    """Run all four, each in a process of its own, and keep the table."""
    if len(sys.argv) > 1:
        return child(sys.argv[1], sys.argv[2] == "1")
    rows = []
    for writes in (False, True):
        found = {}
        for which in ("ours", "theirs"):
            done = subprocess.run(
                [sys.executable, __file__, which, str(int(writes))], capture_output=True, text=True, check=True
            )
            found[which] = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append({
            "files": "written" if writes else "not written", **{f"{k}_{w}": v for w, f in found.items() for k, v in f.items()},
            "times_faster": round(found["theirs"]["seconds"] / found["ours"]["seconds"], 1),
        })  # fmt: skip
    peers.write("padding", rows)
    return None


if __name__ == "__main__":
    main()
