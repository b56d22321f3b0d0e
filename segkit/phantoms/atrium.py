"""Phantom late-enhancement scans of the heart in the Medical Segmentation Decathlon's layout.

``dataset.json``, ``imagesTr/la_XXX.nii.gz`` and ``labelsTr/la_XXX.nii.gz`` (0 background, 1 left atrial cavity). A thorax
with the four chambers, aorta, pulmonary artery, spine, oesophagus, lungs and liver; the left atrium has four pulmonary veins
and an appendage. Its neighbours are blood as well, of like intensity, and thin dark walls are all that separates them; scar
enhances in speckles along the atrial wall. Everything is drawn from shapes: no template, no subject.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from segkit import files, volumes
from segkit.phantoms import anatomy, solids

SHAPE = (256, 208, 64)
SPACING_MM = (1.25, 1.25, 1.75)
ORDER = tuple(f"la_{i:03d}" for i in range(1, 41))
STUB_MM = 9  # so far do pulmonary veins belong to the label
# shape in mm from the centre of the left atrium; axes point to the patient's right, front and head
_BLOOD = {
    "left_ventricle": ((-42, 42, -48), (24, 36, 27)),
    "right_ventricle": ((8, 62, -44), (34, 24, 26)),
    "right_atrium": ((50, 26, -16), (21, 25, 30)),
}


def share(n: int) -> dict[str, int]:
    """All ``n`` subjects train; the study splits them by name."""
    return {"Tr": n}


def names(subjects: Mapping[str, int]) -> dict[str, list[str]]:
    """Subject names a set, for the numbers asked for."""
    for kind, n in subjects.items():
        if kind != "Tr" or not 1 <= n <= len(ORDER):
            raise ValueError(f'{n} phantoms of {kind!r} cannot be made; give "Tr" from 1 to {len(ORDER)}')
    return {kind: list(ORDER[:n]) for kind, n in subjects.items()}


def subject(name: str, seed: int, *, coarse: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (uint8) and label (uint8), both of shape SHAPE / coarse, and the affine (voxel order LPS, as the real files)."""
    rng = np.random.default_rng((seed, int(name[-3:]), 2018))
    shape = tuple(n // coarse for n in SHAPE)
    spacing = np.array(SPACING_MM) * coarse
    affine = nib.affines.from_matvec(np.diag(spacing * (-1, -1, 1)), spacing * (1, 1, -1) * (np.array(shape) - 1) / 2)
    where = _coordinates(shape, spacing, rng)
    soft = float(spacing.mean()) / 2

    def paint(image, distance, value):
        share = solids.share(distance, soft)
        image *= 1 - share
        image += share * value

    atrium, stubs, veins = _left_atrium(where, rng)
    body = solids.box(where, (0, -12, 0), (165, 105, 400), power=2.6)
    image = np.zeros(shape, np.float32)
    image += 0.02
    paint(image, body, rng.uniform(0.5, 0.75))  # fat under the skin
    paint(image, body + rng.uniform(9, 16), rng.uniform(0.22, 0.32))  # muscle
    for side in (-1, 1):
        paint(image, solids.box(where, (side * 88, 0, 10), (54, 80, 160), power=2.4), 0.05)  # lungs
    paint(image, solids.ellipsoid(where, (8, 22, -16), (82, 74, 84)), rng.uniform(0.3, 0.42))  # fat around the heart
    paint(image, solids.ellipsoid(where, (70, 10, -120), (95, 85, 62)), rng.uniform(0.3, 0.45))  # liver
    paint(image, solids.capsule(where, (0, -72, -200), (0, -72, 200), 19), rng.uniform(0.3, 0.45))  # spine
    blood = rng.uniform(0.5, 0.72)
    myocardium = rng.uniform(0.12, 0.24)
    for centre, radii in _BLOOD.values():
        wall = 10 if centre[0] < 0 else 3
        paint(image, solids.ellipsoid(where, centre, np.array(radii) + wall), myocardium)
    near = lambda: blood * rng.uniform(0.88, 1.1)  # noqa: E731
    for centre, radii in _BLOOD.values():
        paint(image, solids.ellipsoid(where, centre, radii), near())
    aorta, artery = near(), near()
    root, arch = (14, 36, 2), (22, 34, 90)
    descending = (-22 + rng.uniform(-4, 4), -46, 0)
    for start, stop, radius, value in (
        (root, arch, rng.uniform(14, 18), aorta),
        ((*descending[:2], -150), (*descending[:2], 150), rng.uniform(10, 13), aorta),
        ((-14, 46, 22), (-8, 4, 48), 13, artery),
        ((-50, -4, 44), (55, 2, 42), 9, artery),
        ((56, 18, 10), (56, 18, 120), 9, near()),  # superior vena cava
    ):
        paint(image, solids.capsule(where, start, stop, radius + 2), myocardium)
        paint(image, solids.capsule(where, start, stop, radius), value)
    paint(image, solids.capsule(where, (-6, -36, -120), (-4, -38, 120), 6), 0.28)  # oesophagus
    cavity = np.minimum(atrium, stubs)
    paint(image, np.minimum(cavity, veins) - rng.uniform(1.8, 2.8), myocardium)
    paint(image, np.minimum(cavity, veins), blood)
    scar = np.exp(-((np.abs(cavity - 1.2) / 1.2) ** 2)) * np.clip(
        anatomy.smooth_noise(shape, spacing, rng, scale_mm=7) - rng.uniform(0.6, 1.2), 0, 1
    )
    image += 0.5 * scar
    image *= 1 + 0.06 * anatomy.smooth_noise(shape, spacing, rng, scale_mm=max(6.0, 2 * spacing.max()))
    image *= anatomy.bias_field(shape, spacing, rng, strength=rng.uniform(0.08, 0.2))
    image = anatomy.rician(image, rng, sd=rng.uniform(0.03, 0.06))
    peak = rng.uniform(110, 240) / np.percentile(image, 99.9)
    return np.clip(np.round(image * peak), 0, 255).astype(np.uint8), (cavity < 0).astype(np.uint8), affine


def write(folder: Path, subjects: Mapping[str, int], seed: int, *, coarse: int = 1) -> list[Path]:
    """Write the files; see :func:`segkit.phantoms.write`."""
    written, pairs = [], []
    for name in names(subjects)["Tr"]:
        image, label, affine = subject(name, seed, coarse=coarse)
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            path = folder / kind / f"{name}.nii.gz"
            volumes.save(nib.Nifti1Image(array, affine), path)
            written.append(path)
        pairs.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    description = {
        "name": "Left atrium (phantom)", "description": "phantom late-enhancement scans, drawn from shapes by segkit",
        "tensorImageSize": "3D", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"},
        "numTraining": len(pairs), "numTest": 0, "training": pairs, "test": [],
    }  # fmt: skip
    written.append(files.write_text(folder / "dataset.json", json.dumps(description, indent=1) + "\n"))
    return written


def _coordinates(shape, spacing, rng: np.random.Generator) -> np.ndarray:
    """mm from the left atrium's centre in the heart's own frame (3, x, y, z): moved, turned, stretched and bent."""
    to_heart = anatomy.placement(rng, rotate=9, scale=0.12, shift_mm=12)
    where = np.empty((3, *shape), np.float32)
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    # voxel order LPS: the index grows to the left and to the back, the frame's axes to the right and to the front
    mm = [sign * (g - (n - 1) / 2) * s for sign, g, n, s in zip((-1, -1, 1), grids, shape, spacing, strict=True)]
    for a in range(3):
        turned = sum(to_heart[a, b] * mm[b] for b in range(3)) + to_heart[a, 3]
        where[a] = turned + rng.uniform(1, 3) * anatomy.smooth_noise(shape, spacing, rng, scale_mm=25)
    return where


def _left_atrium(where: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distances in mm: body with appendage, the veins' stubs that belong to the label, and the whole veins."""
    radii = np.array((34, 21, 25)) * rng.uniform(0.82, 1.18) * rng.uniform(0.9, 1.1, 3)
    body = solids.ellipsoid(where, (0, 0, 0), radii)
    side = radii[0] * 0.72
    appendage = solids.union(
        solids.capsule(where, (-side, 12, 8), (-side - 14, 26, 10), rng.uniform(6.5, 9)),
        solids.capsule(where, (-side - 14, 26, 10), (-side - 4, 40, 4), rng.uniform(4, 7)),
    )
    atrium = solids.union(body, appendage, blend=3)
    veins = np.full(body.shape, np.inf, np.float32)
    for x in (-1, 1):
        for z in (-1, 1):
            start = np.array((x * radii[0] * 0.6, -radii[1] * 0.45, z * radii[2] * 0.45))
            stop = start + np.array((x * rng.uniform(30, 42), -rng.uniform(6, 16), z * rng.uniform(2, 20)))
            veins = np.minimum(veins, solids.capsule(where, start, stop, rng.uniform(5.5, 8.5)))
    stubs = np.maximum(veins, body - STUB_MM)
    return atrium, stubs, veins
