"""Phantom subjects in IBSR18's layout: its file names, grid, three spacings, trailing fourth axis and sform only.

Label 1 is ventricular CSF only; sulcal fluid is background within the head, as in the real set.
"""

from pathlib import Path

import nibabel as nib
import numpy as np

from segkit import files
from segkit.phantoms import anatomy

GRID = (256, 128, 256)
# in this order subjects are made, so that few of them still have all three spacings
ORDER = {
    "Training_Set": ("01", "07", "16", "03", "08", "18", "04", "09", "05", "06"),
    "Validation_Set": ("12", "13", "17", "11", "14"),
    "Test_Set": ("02", "10", "15"),
}
_ONE_MM = {"07", "08", "09", "10", "11", "12"}
_FINE = {"15", "16", "17", "18"}


def share(n: int) -> dict[str, int]:
    """``n`` subjects in all: one without label where there are five or more, a third to validate, the others to train."""
    test = int(n >= 5)
    validation = min(len(ORDER["Validation_Set"]), (n - test) // 3)
    out = {"Training_Set": n - test - validation, "Validation_Set": validation, "Test_Set": test}
    return {kind: count for kind, count in out.items() if count}


def names(subjects: dict[str, int]) -> dict[str, list[str]]:
    """Subject names a set, for the numbers asked for."""
    for kind, n in subjects.items():
        if kind not in ORDER or not 0 <= n <= len(ORDER[kind]):
            raise ValueError(
                f"{n} phantoms of {kind!r} cannot be made; the sets hold { {k: len(v) for k, v in ORDER.items()} }"
            )
    return {kind: [f"IBSR_{i}" for i in ORDER[kind][:n]] for kind, n in subjects.items()}


def spacing_mm(name: str) -> tuple[float, float, float]:
    """Voxel spacing of the real subject of that name."""
    number = name[-2:]
    side = 1.0 if number in _ONE_MM else 0.8370536 if number in _FINE else 0.9375
    return (side, 1.5, side)


def subject(name: str, seed: int, *, coarse: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (int16), label (uint8), both of shape GRID / coarse, and affine."""
    rng = np.random.default_rng((seed, int(name[-2:]), 18))
    spacing = np.array(spacing_mm(name)) * coarse
    shape = tuple(n // coarse for n in GRID)
    maps, template = anatomy.mni()
    # the brain's centre lies in the middle of the grid
    affine = nib.affines.from_matvec(np.diag(spacing), -spacing * (np.array(shape) - 1) / 2)
    centre = nib.affines.apply_affine(template, (np.array(maps["grey"].shape) - 1) / 2)
    to_template = nib.affines.from_matvec(np.eye(3), centre) @ anatomy.placement(rng)
    # only the box that the brain can reach is computed
    half = np.minimum(np.ceil(np.array((88, 108, 92)) / spacing).astype(int), np.array(shape) // 2)
    start = np.array(shape) // 2 - half
    box = tuple(slice(s, s + 2 * h) for s, h in zip(start, half, strict=True))
    size = tuple(2 * half)
    here = affine @ nib.affines.from_matvec(np.eye(3), start)
    soft = anatomy.warp(maps, template, here, size, rng, to_template=to_template)

    fluid, grey, white = rng.uniform(0.18, 0.32), rng.uniform(0.58, 0.66), rng.uniform(0.84, 0.94)
    look = fluid * (soft["ventricles"] + soft["sulci"]) + grey * soft["grey"] + white * soft["white"]
    inside = sum(soft.values())
    look += inside * 0.025 * anatomy.smooth_noise(size, spacing, rng, scale_mm=3.0 * coarse)
    look *= anatomy.bias_field(size, spacing, rng, strength=rng.uniform(0.05, 0.12))
    look = anatomy.rician(look, rng, sd=rng.uniform(0.03, 0.05))
    bright = np.exp(rng.uniform(np.log(90), np.log(250)))
    brain = inside > 0.5

    image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    image[box] = np.where(brain, np.maximum(1, np.round(bright * look)), 0)
    order = np.stack([1 - inside + soft["sulci"], soft["ventricles"], soft["grey"], soft["white"]])
    label[box] = order.argmax(axis=0)
    return image, label, affine


def write(folder: Path, subjects: dict[str, int], seed: int, *, coarse: int = 1) -> list[Path]:
    """Write the files; see :func:`segkit.phantoms.write`."""
    written = []
    for kind, chosen in names(subjects).items():
        for name in chosen:
            image, label, affine = subject(name, seed, coarse=coarse)
            pairs = {f"{name}.nii.gz": image} | ({} if kind == "Test_Set" else {f"{name}_seg.nii.gz": label})
            for file, data in pairs.items():
                with files.atomic(folder / kind / name / file) as temporary:
                    nib.save(_as_on_disk(data, affine), temporary)
                written.append(folder / kind / name / file)
    return written


def _as_on_disk(data: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data[..., None], affine)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(None, code=0)
    return image
