"""One QSM subject through padding to 512³ and three downsamplings: ours beside nibabel + scipy.ndimage.zoom.

    python benchmarks/bench_padding.py

Two images, a brain mask and five labels of 380 × 440 × 380 voxels (a phantom: balls in noise). Written: both read the subject's files and
write every derived one (.nii.gz); ours are the study's own steps, ``qsm.pad_all`` and ``qsm.downsample_all``, as the notebooks call
them. Not written: the same operations in memory. Each way runs in a process of its own, whose peak memory is read at its end. The
peer pads with numpy and zooms each volume by ½, ¼ and ⅛ (order 3 for images, 0 for masks), as notebooks of that time do.
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
DIMS = (512, 256, 128, 64)
VALUES = {"amygdala": (18, 54), "caudate": (11, 50), "hippocampus": (17, 53), "putamen": (12, 51), "thalamus": (10, 49)}


def write_subject(folder: Path) -> None:
    """``sub-001`` in the study's layout: a map, a brain mask, and a label map with ten balls."""
    rng, affine = np.random.default_rng(0), nib.affines.from_matvec(np.eye(3) * 0.5, (-95, -110, -95))
    grids = np.ogrid[tuple(slice(n) for n in SHAPE)]

    def ball(centre, radius):
        return sum((g - c * n) ** 2 for g, c, n in zip(grids, centre, SHAPE, strict=True)) < radius**2

    brain, known = ball((0.5, 0.5, 0.5), 180), np.zeros(SHAPE, np.uint8)
    for k, sides in enumerate(VALUES.values()):
        for at, value in zip((0.35, 0.65), sides, strict=True):
            known[ball((at, 0.3 + 0.1 * k, 0.5), 20 + 2 * k)] = value
    parts = {"QSM_w_bg": rng.standard_normal(SHAPE, dtype=np.float32) * np.float32(0.03),
             "QSM_brain_mask": brain.astype(np.uint8), "labels": known}  # fmt: skip
    (folder / "sub-001").mkdir(parents=True)
    for name, data in parts.items():
        nib.save(nib.Nifti1Image(data, affine), folder / "sub-001" / f"{name}.nii.gz")


def read_subject(folder: Path) -> tuple[dict, dict, np.ndarray]:
    """Two images, six masks, and the affine, by nibabel alone."""
    files = {n: nib.load(folder / "sub-001" / f"{n}.nii.gz") for n in ("QSM_w_bg", "QSM_brain_mask", "labels")}
    qsm, brain = np.asarray(files["QSM_w_bg"].dataobj, np.float32), np.asarray(files["QSM_brain_mask"].dataobj)
    known = np.asarray(files["labels"].dataobj)
    masks = {"brain_mask": brain} | {name: np.isin(known, sides).astype(np.uint8) for name, sides in VALUES.items()}
    return {"w_bg": qsm, "masked": qsm * brain}, masks, files["QSM_w_bg"].affine


def ours(folder: Path, out: Path | None) -> float:
    """Steps 01 and 02 of the study; in memory what they compute. Seconds."""
    from segkit import volumes
    from segkit.studies import qsm

    begin = time.perf_counter()
    if out is not None:
        table = qsm.find(folder)
        qsm.pad_all(table, out, dim=CUBE, values=VALUES)
        qsm.downsample_all(list(table.index), out, dims=DIMS)
        return time.perf_counter() - begin
    images, masks, affine = read_subject(folder)
    begin = time.perf_counter()
    for kind, parts in (("image", images), ("label", masks)):
        while parts:
            _, data = parts.popitem()
            cube = volumes.pad(nib.Nifti1Image(data, affine), (CUBE,) * 3)
            del data
            for factor in (2, 4, 8):
                volumes.downsample(cube, factor, kind=kind)
    return time.perf_counter() - begin


def theirs(folder: Path, out: Path | None) -> float:
    """nibabel and scipy.ndimage.zoom. Seconds."""
    from scipy import ndimage

    begin = time.perf_counter()
    images, masks, affine = read_subject(folder)
    if out is None:
        begin = time.perf_counter()
    width = [((CUBE - n) // 2, CUBE - n - (CUBE - n) // 2) for n in SHAPE]
    for order, parts in ((3, images), (0, masks)):
        while parts:
            name, data = parts.popitem()
            cube = np.pad(data, width)
            del data
            for factor in (1, 2, 4, 8):
                small = cube if factor == 1 else ndimage.zoom(cube, 1 / factor, order=order)
                if out is not None:
                    image = nib.Nifti1Image(small, affine @ np.diag([factor] * 3 + [1]))
                    nib.save(image, out / f"{name}_{CUBE // factor}.nii.gz")
    return time.perf_counter() - begin


def child(which: str, folder: Path, writes: bool) -> None:
    """One way, once; prints seconds and peak memory."""
    out = Path(tempfile.mkdtemp()) if writes else None
    seconds = {"ours": ours, "theirs": theirs}[which](folder, out)
    if out is not None:
        shutil.rmtree(out)
    # of this process and of its largest worker, if it had any
    peak = (
        sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024 / 1e9
    )
    print(json.dumps({"seconds": round(seconds, 1), "peak_GB": round(peak, 2)}))


def main() -> None:
    """Run all four, each in a process of its own, and keep the table."""
    if len(sys.argv) > 1:
        return child(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "1")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        write_subject(Path(place))
        for writes in (False, True):
            found = {}
            for which in ("ours", "theirs"):
                command = [sys.executable, __file__, which, place, str(int(writes))]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr[-3000:])
                found[which] = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append({
                "files": "read and written" if writes else "in memory",
                **{f"{k}_{w}": v for w, f in found.items() for k, v in f.items()},
                "times_faster": (faster := round(found["theirs"]["seconds"] / found["ours"]["seconds"], 1)),
                "target": "5 times faster, under 3 GB", "met": faster >= 5 and found["ours"]["peak_GB"] < 3,
            })  # fmt: skip
    peers.write("padding", rows)
    return None


if __name__ == "__main__":
    main()
