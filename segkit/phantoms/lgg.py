"""Phantom glioma patients in the layout of ``kaggle_3m``: folders of 8-bit RGB slices with masks, and ``data.csv``.

Channels are pre-contrast, FLAIR and post-contrast; where a sequence is missing FLAIR stands in its channel. Brains come from the
MNI152 maps, in 20 to 26 thick axial slices. Half of the tumours are smooth, half are lobed, and ``RNASeqCluster`` follows that in
nine patients of ten (cluster 2 is the smooth one): the one association that is planted. All other columns are drawn at random.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from segkit import files
from segkit.phantoms import anatomy

SIZE, FIELD_MM = 128, 232  # pixels and mm a side
SITES = ("CS", "DU", "FG", "HT")
MOST = 120
PLANTED = 0.9  # share of patients whose RNASeqCluster follows the shape
COLUMNS = (
    "Patient", "RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster", "OncosignCluster", "COCCluster",
    "histological_type", "neoplasm_histologic_grade", "tumor_tissue_site", "laterality", "tumor_location", "gender",
    "age_at_initial_pathologic", "race", "ethnicity", "death01",
)  # fmt: skip
CODES = {
    "MethylationCluster": 5, "miRNACluster": 4, "CNCluster": 3, "RPPACluster": 4, "OncosignCluster": 3, "COCCluster": 3,
    "histological_type": 3, "neoplasm_histologic_grade": 2, "laterality": 3, "tumor_location": 6, "gender": 2, "ethnicity": 2,
}  # fmt: skip


def share(n: int) -> dict[str, int]:
    """All ``n`` patients are alike; the study splits them by name."""
    return {"patients": n}


def names(subjects: Mapping[str, int]) -> dict[str, list[str]]:
    """Folder names, for the number asked for; sites take turns."""
    for kind, n in subjects.items():
        if kind != "patients" or not 1 <= n <= MOST:
            raise ValueError(f'{n} phantoms of {kind!r} cannot be made; give "patients" from 1 to {MOST}')
    return {k: [f"TCGA_{SITES[i % 4]}_9{i:03d}_20000101" for i in range(n)] for k, n in subjects.items()}


def subject(name: str, seed: int, *, coarse: int = 1) -> tuple[np.ndarray, np.ndarray, dict]:
    """Slices (rows, columns, slices, 3) and mask (rows, columns, slices), both uint8, and a row of ``data.csv``.

    ``coarse`` divides the number of pixels a side. The mask is 0 and 1.
    """
    number = int(name.split("_")[2])
    rng = np.random.default_rng((seed, number, 3))
    size = SIZE // coarse
    side, thick = FIELD_MM / size, rng.uniform(5.5, 7)
    count = int(np.ceil(142 / thick))
    shape, spacing = (size, size, count), np.array((side, side, thick))
    # rows run to the back, columns to the patient's left
    turn = np.array([[0, -side, 0], [-side, 0, 0], [0, 0, thick]])
    affine = nib.affines.from_matvec(turn, -turn @ ((np.array(shape) - 1) / 2))
    maps, template = anatomy.mni()
    centre = nib.affines.apply_affine(template, (np.array(maps["grey"].shape) - 1) / 2)
    to_template = nib.affines.from_matvec(np.eye(3), centre) @ anatomy.placement(rng)
    soft = anatomy.warp(maps, template, affine, shape, rng, to_template=to_template)
    brain = sum(soft.values())

    lobed = bool(number // 4 % 2)  # four sites take turns: half of each is lobed
    tumour = _tumour(soft["white"], brain, spacing, rng, lobed=lobed)
    mask = (tumour > 0.5) & (brain > 0.5)
    fluid = soft["ventricles"] + soft["sulci"]
    looks = {
        "pre": (0.2, 0.5, 0.68, rng.uniform(0.3, 0.45)), "flair": (0.15, 0.52, 0.44, rng.uniform(0.72, 0.95)),
    }  # fmt: skip
    channels = {}
    scalp = _scalp(brain > 0.5, spacing) * rng.uniform(0.4, 0.8) * (rng.random() < 0.6)
    for channel, (csf, grey, white, lesion) in looks.items():
        look = csf * fluid + grey * soft["grey"] + white * soft["white"]
        inside = lesion * (1 + 0.12 * anatomy.smooth_noise(shape, spacing, rng, scale_mm=6))
        look = look * (1 - tumour) + inside * tumour * brain
        look *= 1 + 0.06 * anatomy.smooth_noise(shape, spacing, rng, scale_mm=8)
        channels[channel] = look + scalp
    rim = np.clip(1 - np.abs(tumour - 0.5) * 4, 0, 1) * (rng.uniform(0.2, 0.6) if rng.random() < 0.5 else 0)
    channels["post"] = channels["pre"] + rim * brain
    missing = rng.choice(["none", "pre", "post"], p=[0.84, 0.06, 0.1])
    field, gain = anatomy.bias_field(shape, spacing, rng, strength=0.12), rng.uniform(90, 190)
    grey = {
        channel: np.clip(gain * anatomy.rician(look * field, rng, sd=0.03), 0, 255).astype(np.uint8)
        for channel, look in channels.items()
    }
    order = ("pre", "flair", "post")
    image = np.stack([grey["flair" if channel == missing else channel] for channel in order], axis=-1)
    return image, mask.astype(np.uint8), _clinical(name, rng, lobed)


def write(folder: Path, subjects: dict[str, int], seed: int, *, coarse: int = 1) -> list[Path]:
    """Write the files; see :func:`segkit.phantoms.write`."""
    written, rows = [], []
    for name in names(subjects)["patients"]:
        image, mask, row = subject(name, seed, coarse=coarse)
        rows.append(row)
        for k in range(image.shape[2]):
            pair = {f"{name}_{k + 1}.tif": image[:, :, k, ::-1], f"{name}_{k + 1}_mask.tif": 255 * mask[:, :, k]}
            for file, data in pair.items():
                with files.atomic(folder / name / file) as temporary:
                    if not cv2.imwrite(str(temporary), np.ascontiguousarray(data)):
                        raise OSError(f"{file} could not be written as TIFF")
                written.append(folder / name / file)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return [*written, files.write_text(folder / "data.csv", table.to_csv(index=False))]


def _tumour(white: np.ndarray, brain: np.ndarray, spacing: np.ndarray, rng, *, lobed: bool) -> np.ndarray:
    """Soft map (0 … 1) of a tumour around a point of white matter, at least 18 mm from the brain's surface."""
    deep = ndimage.distance_transform_edt(brain > 0.5, sampling=spacing) > 18
    places = np.argwhere(deep & (white > 0.5))
    centre = places[rng.integers(len(places))]
    radius = rng.uniform(15, 24) * rng.uniform(0.85, 1.15, 3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    arms = [(np.arange(n) - c) * s for n, c, s in zip(brain.shape, centre, spacing, strict=True)]
    mm = np.stack(np.meshgrid(*arms, indexing="ij"))
    distance = np.sqrt((np.tensordot(rotation, mm, 1) ** 2 / (radius**2)[:, None, None, None]).sum(0))
    rough = 0.32 if lobed else 0.04
    edge = 1 + rough * anatomy.smooth_noise(brain.shape, spacing, rng, scale_mm=7) - distance
    return np.clip(0.5 + edge * float(radius.mean()) / (1.5 * float(spacing[0])), 0, 1)


def _scalp(brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    away = ndimage.distance_transform_edt(~brain, sampling=spacing)
    return ((away > 8) & (away < 14)).astype(np.float32)


def _clinical(name: str, rng, lobed: bool) -> dict:
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {column: int(rng.integers(1, n + 1)) for column, n in CODES.items()}
    smooth = lobed != (rng.random() < PLANTED)
    row["RNASeqCluster"] = 2 if smooth else int(rng.choice([1, 3, 4]))
    for column in ("RNASeqCluster", "RPPACluster", "race"):  # some are not known, as in the real table
        row[column] = "" if rng.random() < 0.08 else row[column] or 3
    row |= {"Patient": name[:12], "tumor_tissue_site": 1, "age_at_initial_pathologic": int(rng.integers(20, 75))}
    return row | {"death01": int(rng.random() < 0.25)}
