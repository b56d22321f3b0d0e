"""Phantom susceptibility maps in the QSM study's layout, simulated from physics: anatomy, ppm, dipole field, noise, inversion.

The cerebrum is MNI152's; the nuclei are solids at their stereotaxic places, or those of a given label map. Susceptibilities and the
difficulty (texture, noise, veins, deformation) are those of the study's notes; ``vary`` draws them more widely, for a model that shall
meet maps which another program simulated. Every map is simulated, and says so.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from joblib import Parallel, cpu_count, delayed
from nibabel import Nifti1Image
from scipy import ndimage

from segkit import files, labels, susceptibility, volumes
from segkit.phantoms import anatomy, solids

GRID, SPACING_MM = (380, 440, 380), 0.5
# ppm relative to CSF
PPM = {
    "putamen": 0.06, "caudate": 0.05, "pallidum": 0.12, "thalamus": 0.01, "hippocampus": -0.01, "amygdala": -0.01,
    "accumbens": 0.03, "grey": 0.01, "white": -0.03, "ventricles": 0.0, "sulci": 0.0, "brain_stem": -0.02, "ventral_dc": 0.03,
    "vein": 0.3,
}  # fmt: skip
NUCLEI = ("amygdala", "caudate", "hippocampus", "putamen", "thalamus", "pallidum", "accumbens")
# centres of mass in MNI mm, right side (the left one mirrors x), after the Harvard-Oxford atlas
CENTRES = {
    "amygdala": (23, -4, -18), "caudate": (14, 9, 10), "hippocampus": (26, -22, -14), "putamen": (26, 1, 0),
    "thalamus": (11, -19, 7), "pallidum": (20, -5, -1), "accumbens": (10, 12, -7),
}  # fmt: skip
FREESURFER = labels.FREESURFER | {"pallidum": (13, 52), "accumbens": (26, 58)}
_HOA_PARTS = labels.HOA | {
    "pallidum": (13, 14), "accumbens": (7, 8), "ventricles": (1, 2, 3, 4, 5, 6, 18, 19), "brain_stem": (15,),
    "ventral_dc": (25, 26, 27, 28),
}  # fmt: skip
_FREESURFER_PARTS = FREESURFER | {"ventricles": (4, 5, 14, 15, 43, 44), "brain_stem": (16,), "ventral_dc": (28, 60)}


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard a map is; lengths in mm, standard deviations in ppm. The defaults are the study's."""

    spread: float = 0.2  # of a structure's susceptibility from subject to subject, relative
    jitter: float = 0.0  # the same, absolute: also of those that are near 0
    sides: float = 0.003  # between the left and the right nucleus
    texture: float = 0.008
    texture_mm: float = 2.5
    noise: float = 0.004  # of the field
    veins: int = 40
    threshold: float = 0.18  # of the inversion
    bend_mm: float = 1.6  # displacement of the cerebrum along each axis; some 4 mm at most
    surroundings: float = 1.0  # factor on grey matter
    white: float = 1.0  # factor on white matter
    vein_mm: float = 1.0  # factor on the veins' radius
    tilt: float = 0.0  # of the field against the third axis, degrees, to any side
    mask_mm: float = 0.0  # that the brain mask is too small (or, negative, too large)

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Difficulty":
        """Wider than the defaults on both sides."""
        return cls(
            spread=rng.uniform(0.15, 0.35), jitter=rng.uniform(0, 0.015), sides=rng.uniform(0, 0.008), texture=rng.uniform(0.003, 0.014),
            texture_mm=rng.uniform(1.5, 4), noise=rng.uniform(0.001, 0.009), veins=int(rng.integers(5, 80)),
            vein_mm=rng.uniform(0.7, 1.4), threshold=rng.uniform(0.06, 0.27), bend_mm=rng.uniform(1, 2),
            surroundings=rng.uniform(0.3, 1.8), white=rng.uniform(0.3, 1.6), tilt=rng.uniform(0, 25), mask_mm=rng.uniform(-1.5, 2.5),
        )  # fmt: skip


def share(n: int) -> dict[str, int]:
    """``n`` subjects in all."""
    return {"subjects": n}


def names(subjects: Mapping[str, int]) -> dict[str, list[str]]:
    """Subject names, as the report writes them: 1, 2, 3 and so on, here with leading zeros."""
    odd = {k: n for k, n in subjects.items() if k != "subjects" or not 0 <= n <= 999}
    if odd:
        raise ValueError(f"{odd} phantoms cannot be made; the only set is 'subjects', of at most 999")
    return {"subjects": [f"sub-{k:03d}" for k in range(1, subjects.get("subjects", 0) + 1)]}


def grid(coarse: int = 1) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (RAS+, MNI mm) of the atlas grid, ``coarse`` times coarser: 380 × 440 × 380 at 0.5 mm for 1."""
    shape = tuple(n // coarse for n in GRID)
    spacing = SPACING_MM * coarse
    centre = np.array((0.0, -18.0, 8.0))  # of the brain
    return shape, nib.affines.from_matvec(np.eye(3) * spacing, centre - spacing * (np.array(shape) - 1) / 2)


def simulate(
    parts: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    difficulty: Difficulty | None = None,
) -> np.ndarray:
    """A susceptibility map (ppm, float32, with background) of soft anatomy.

    Parameters
    ----------
    parts : dict
        Name to share of each voxel (x, y, z); names are those of :data:`PPM`, nuclei with ``_left`` or ``_right``. What the shares of a
        voxel lack to 1 is outside of the brain.
    difficulty : Difficulty, optional

    Returns
    -------
    array (x, y, z)
        What an inversion of the noisy field inside the brain gives; multiply by the brain mask for the masked map.
    """
    d = Difficulty() if difficulty is None else difficulty
    shape = next(iter(parts.values())).shape
    brain = np.clip(sum(parts.values()), 0, 1)
    chi = np.zeros(shape, np.float32)
    value = {name: ppm * rng.normal(1, d.spread) + rng.normal(0, d.jitter) for name, ppm in PPM.items()}
    factor = {"grey": d.surroundings, "white": d.white}
    for name, part in parts.items():
        structure = name.removesuffix("_left").removesuffix("_right")
        mean = value[structure] * factor.get(structure, 1)
        chi += part * np.float32(mean + (rng.normal(0, d.sides) if structure != name else 0))
    tissue = brain - parts.get("ventricles", 0) - parts.get("sulci", 0)
    chi += tissue * np.float32(d.texture) * anatomy.smooth_noise(shape, spacing_mm, rng, scale_mm=d.texture_mm)
    vein = veins(tissue > 0.5, spacing_mm, rng, count=d.veins, width=d.vein_mm)
    chi = chi * (1 - vein) + vein * np.float32(value["vein"])
    inside = brain > 0.5
    angle, turn = np.deg2rad(d.tilt), rng.uniform(0, 2 * np.pi)
    b0 = (np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle))
    seen = susceptibility.field(chi, spacing_mm, b0=b0)
    seen += rng.standard_normal(shape, dtype=np.float32) * np.float32(d.noise)
    return susceptibility.invert(seen * inside, spacing_mm, threshold=d.threshold, b0=b0)


def veins(
    inside: np.ndarray, spacing_mm: Sequence[float], rng: np.random.Generator, *, count: int, width: float = 1.0
) -> np.ndarray:
    """Share of each voxel that belongs to one of ``count`` winding veins of 0.5 to 1.2 mm radius (times ``width``), 20 to 60 mm long."""
    out = np.zeros(inside.shape, np.float32)
    places = np.flatnonzero(inside)
    if not places.size:
        return out
    spacing = np.asarray(spacing_mm, float)
    for start in rng.choice(places, count):
        at = np.array(np.unravel_index(start, inside.shape)) * spacing
        course, radius = rng.normal(size=3), width * rng.uniform(0.5, 1.2)
        for _ in range(int(rng.uniform(20, 60) / 0.7)):
            course = course / np.linalg.norm(course) + 0.25 * rng.normal(size=3)
            at = at + 0.7 * course / np.linalg.norm(course)
            reach = np.ceil((radius + spacing) / spacing).astype(int)
            middle = np.round(at / spacing).astype(int)
            box = tuple(slice(max(0, m - r), max(0, m + r + 1)) for m, r in zip(middle, reach, strict=True))
            if not out[box].size:
                break
            mm = [(np.arange(s.start, s.stop)[: out[box].shape[a]] * spacing[a] - at[a]) for a, s in enumerate(box)]
            away = np.sqrt(mm[0][:, None, None] ** 2 + mm[1][None, :, None] ** 2 + mm[2][None, None] ** 2)
            # a voxel wider than the vein is filled in part
            most = min(1.0, np.pi * radius**2 / float(np.prod(np.sort(spacing)[:2])))
            np.maximum(out[box], most * solids.share(away - radius, float(spacing.mean()) / 2), out=out[box])
    return out * inside


def nuclei_mni(where: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Share of each voxel in the fourteen nuclei, ``where`` in MNI mm; sizes and places differ by subject."""
    out: dict[str, np.ndarray] = {}
    size = rng.normal(1, 0.06)
    for side, sign in (("left", -1.0), ("right", 1.0)):
        mirrored = [sign * where[0], where[1], where[2]]
        taken = np.zeros(np.broadcast_shapes(*(w.shape for w in where)), np.float32)
        # in the order in which they hold a voxel that two claim
        for name in ("caudate", "thalamus", "pallidum", "putamen", "amygdala", "hippocampus", "accumbens"):
            moved = [w - s for w, s in zip(mirrored, rng.normal(0, 0.7, 3), strict=True)]
            distance = _solid(name, moved, size * rng.normal(1, 0.05))
            part = solids.share(distance, 0.6).astype(np.float32) * (1 - taken)
            out[f"{name}_{side}"] = part
            taken += part
    return out


def _solid(name: str, where, size: float) -> np.ndarray:
    """Signed distance to one right nucleus of about its textbook volume times ``size``³."""
    c = np.array(CENTRES[name], float)
    turn = {"putamen": -0.22, "pallidum": -0.35, "thalamus": -0.35}.get(
        name, 0.0
    )  # about the vertical: front ends point inwards
    if turn:
        x, y = where[0] - c[0], where[1] - c[1]
        where = [c[0] + np.cos(turn) * x - np.sin(turn) * y, c[1] + np.sin(turn) * x + np.cos(turn) * y, where[2]]
    radii = {"thalamus": (9.5, 15, 12), "putamen": (6.2, 16.5, 11), "pallidum": (4.6, 10, 7.5), "amygdala": (6.6, 7.4, 7),
             "accumbens": (4, 5, 4.2)}  # fmt: skip
    if name in radii:
        return solids.ellipsoid(where, c, np.array(radii[name]) * size)
    course = {
        "caudate": ((12, 19, 1, 5.6), (13.5, 14, 9, 5.2), (15.5, 3, 18, 3.8), (18, -12, 22, 2.8), (23, -26, 18, 2.2)),
        "hippocampus": ((21, -10, -21, 5.0), (26, -15, -19, 5.6), (29, -25, -13, 4.6), (28, -34, -6, 4.0), (23, -39, 1, 3.0)),
    }[name]  # fmt: skip
    distance = None
    for a, b in zip(course, course[1:], strict=False):
        link = solids.capsule(where, a[:3], b[:3], a[3] * size, stop_radius=b[3] * size)
        distance = link if distance is None else solids.union(distance, link)
    return distance


def head(
    rng: np.random.Generator, *, coarse: int = 1, nuclei: Nifti1Image | None = None, bend_mm: float = 1.6
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Soft anatomy of one subject on :func:`grid`, and the affine.

    Parameters
    ----------
    nuclei : Nifti1Image, optional
        A label map with the values of the Harvard-Oxford Atlas 2.0 or of FreeSurfer. It is placed in the MNI152 brain by the affine
        that fits its nuclei's centres of mass best; the cerebrum around it bends by ``bend_mm``. Default: solids.
    """
    maps, template = anatomy.mni()
    shape, affine = grid(coarse)
    if nuclei is None:
        box, start = _central(maps["grey"].shape, template)
        where = [w.astype(np.float32) for w in _mm(box, template, start)]
        whole = {name: np.zeros(maps["grey"].shape, np.float32) for name in nuclei_names()}
        inside = tuple(slice(s, s + n) for s, n in zip(start, box, strict=True))
        for name, part in nuclei_mni(where, rng).items():
            whole[name][inside] = part
        to_template = anatomy.placement(rng, rotate=3, scale=0.05, shift_mm=2)
        soft = anatomy.warp(maps | whole, template, affine, shape, rng, to_template=to_template, bend_mm=bend_mm)
        parts = {name: soft[name] for name in whole}
    else:
        fit = fit_to_mni(nuclei)
        parts = _resampled(nuclei, fit, affine, shape)
        soft = anatomy.warp(maps, template, affine, shape, rng, bend_mm=bend_mm)
        fluid = soft.pop("ventricles")  # the subject's own are in its label map
        soft["white"] = soft["white"] + fluid
    claimed = np.clip(sum(parts.values()), 0, 1)
    free = 1 - claimed
    return {name: part * free for name, part in soft.items() if name not in parts} | parts, affine


def nuclei_names() -> list[str]:
    """The fourteen nuclei, left and right."""
    return [f"{name}_{side}" for side in ("left", "right") for name in NUCLEI]


def parts_of(label_map: Nifti1Image) -> dict[str, tuple[int, ...]]:
    """Values of each part in a label map: those of the Harvard-Oxford Atlas 2.0 or of FreeSurfer, whichever it has all nuclei of.

    Raises
    ------
    ValueError
        For a label map without all fourteen nuclei of either.
    """
    here = set(np.unique(volumes.array(label_map)).tolist())
    lacks = {}
    for atlas, parts in (("the Harvard-Oxford Atlas 2.0", _HOA_PARTS), ("FreeSurfer", _FREESURFER_PARTS)):
        lacks[atlas] = [f"{value} ({name})" for name in NUCLEI for value in parts[name] if value not in here]
        if not lacks[atlas]:
            return parts
    atlas, missing = min(lacks.items(), key=lambda pair: len(pair[1]))
    raise ValueError(f"the label map holds no voxel of {missing[0]}; a map of {atlas} has all fourteen nuclei")


def fit_to_mni(label_map: Nifti1Image) -> np.ndarray:
    """4 × 4 from the label map's mm to MNI mm, by least squares over its nuclei's centres of mass."""
    data, parts = volumes.array(label_map), parts_of(label_map)
    found, wanted = [], []
    for name in NUCLEI:
        for value, sign in zip(parts[name], (-1, 1), strict=True):
            where = np.argwhere(data == value)
            found.append([*nib.affines.apply_affine(label_map.affine, where.mean(0)), 1])
            wanted.append((sign * CENTRES[name][0], *CENTRES[name][1:]))
    matrix = np.linalg.lstsq(np.array(found), np.array(wanted), rcond=None)[0].T
    return np.vstack([matrix, (0, 0, 0, 1)])


def _resampled(label_map: Nifti1Image, fit: np.ndarray, affine: np.ndarray, shape) -> dict[str, np.ndarray]:
    """Share of each voxel in the parts of a label map, brought to MNI by ``fit``."""
    data = volumes.array(label_map)
    to_source = np.linalg.inv(label_map.affine) @ np.linalg.inv(fit) @ affine
    matrix, offset = nib.affines.to_matvec(to_source)
    steps = np.abs(matrix).max(axis=1)
    out = {}
    for name, values in parts_of(label_map).items():
        sided = zip(("_left", "_right"), values, strict=True) if name in NUCLEI else [("", values)]
        for side, value in sided:
            mask = np.isin(data, value).astype(np.float32)
            mask = ndimage.gaussian_filter(mask, np.maximum(0.4, (steps - 1) / 2))
            out[name + side] = ndimage.affine_transform(mask, matrix, offset, output_shape=shape, order=1)
    return out


def _central(shape, affine, *, low=(-50, -60, -45), high=(50, 45, 50)) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and first voxel of the part of the template that nuclei lie in."""
    ends = nib.affines.apply_affine(np.linalg.inv(affine), np.array([low, high]))
    first = np.clip(np.floor(ends.min(0)), 0, None).astype(int)
    last = np.minimum(np.ceil(ends.max(0)).astype(int), shape)
    return tuple(last - first), tuple(first)


def _mm(shape, affine, start) -> list[np.ndarray]:
    """World coordinates of a box's voxels (of an affine without rotation), ready to broadcast."""
    axes = [affine[a, a] * (np.arange(n) + s) + affine[a, 3] for a, (n, s) in enumerate(zip(shape, start, strict=True))]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def subject(
    name: str, seed: int, *, coarse: int = 1, nuclei: Nifti1Image | None = None, vary: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Map (ppm, float32, with background), brain mask and label map (FreeSurfer's values, uint8) of one subject, and the affine."""
    rng = np.random.default_rng((seed, int(name.split("-")[-1]), 512))
    difficulty = Difficulty.drawn(rng) if vary else Difficulty(threshold=rng.uniform(0.15, 0.2))
    parts, affine = head(rng, coarse=coarse, nuclei=nuclei, bend_mm=difficulty.bend_mm)
    qsm = simulate(parts, [SPACING_MM * coarse] * 3, rng, difficulty=difficulty)
    order = [n for n in nuclei_names()]
    stack = np.stack([1 - np.clip(sum(parts[n] for n in order), 0, 1), *(parts[n] for n in order)])
    codes = np.array([0, *(FREESURFER[n.rsplit("_", 1)[0]][n.endswith("right")] for n in order)], np.uint8)
    brain = ndimage.binary_fill_holes(sum(parts.values()) > 0.5)
    if difficulty.mask_mm:  # a mask as another program draws it
        depth = ndimage.distance_transform_edt(brain if difficulty.mask_mm > 0 else ~brain) * SPACING_MM * coarse
        brain = depth > difficulty.mask_mm if difficulty.mask_mm > 0 else depth <= -difficulty.mask_mm
    brain = brain.astype(np.uint8)
    return qsm, brain, codes[stack.argmax(axis=0)] * brain, affine


def write(
    folder: Path,
    subjects: dict[str, int],
    seed: int,
    *,
    coarse: int = 1,
    nuclei: Path | None = None,
    vary: bool = False,
) -> list[Path]:
    """Write the files; see :func:`segkit.phantoms.write`.

    ``<subject>/QSM_w_bg.nii.gz``, ``QSM_brain_mask.nii.gz``, ``labels.nii.gz``; ``label_list.txt`` (FreeSurfer's) for all. ``atlas/`` holds
    one more subject, ``native/`` the first subject before its registration with the transform that undoes it.
    With ``nuclei``, a folder of label maps ``<subject>.nii.gz``, the subjects take their names and nuclei from it, in order.
    """
    chosen = names(subjects)["subjects"]
    sources: list[Path | None] = [None] * len(chosen)
    if nuclei is not None:
        found = sorted(Path(nuclei).glob("*.nii.gz"))
        if len(found) < len(chosen):
            raise ValueError(f"{nuclei}: holds {len(found)} label maps, {len(chosen)} are asked for")
        sources = found[: len(chosen)]
    written = [files.write_text(folder / "label_list.txt", label_list())]
    done = Parallel(n_jobs=min(2, cpu_count()))(
        delayed(_write_one)(folder, name, seed, coarse, source, vary)
        for name, source in zip(chosen, sources, strict=True)
    )
    written += [path for paths in done for path in paths]
    return written if nuclei is not None or not chosen else written + _write_native(folder, chosen[0], seed, coarse)


def _write_native(folder: Path, name: str, seed: int, coarse: int) -> list[Path]:
    """The atlas, and a subject as it would lie before registration: turned, shifted and stretched."""
    written = []
    for part, data in zip(
        ("QSM_atlas", "QSM_brain_mask_atlas", "labels_atlas"), subject("sub-000", seed, coarse=coarse), strict=False
    ):
        written.append(volumes.save(nib.Nifti1Image(data, grid(coarse)[1]), folder / "atlas" / f"{part}.nii.gz"))
    rng = np.random.default_rng((seed, 1, 513))
    to_atlas = anatomy.placement(rng, rotate=12, scale=0.06, shift_mm=8)
    for part, kind in (("QSM_w_bg", "image"), ("QSM_brain_mask", "label"), ("labels", "label")):
        image = volumes.load(folder / name / f"{part}.nii.gz")
        moved = nib.Nifti1Image(volumes.array(image), np.linalg.inv(to_atlas) @ image.affine)
        home = folder / "native" / name
        written.append(volumes.save(volumes.resample(moved, like=image, kind=kind), home / f"{part}_native.nii.gz"))
    text = "\n".join(" ".join(f"{x:.8f}" for x in row) for row in to_atlas)
    return [*written, files.write_text(folder / "native" / name / "native_to_atlas.txt", text + "\n")]


def label_list() -> str:
    """The nuclei in the format of FreeSurfer's colour table."""
    lines = ["#No. Label Name:                            R   G   B   A"]
    for name, (left, right) in FREESURFER.items():
        lines += [
            f"{left:<4d}Left-{name.capitalize():<38s}0   0   0   0",
            f"{right:<4d}Right-{name.capitalize():<37s}0   0   0   0",
        ]
    return "\n".join(lines) + "\n"


def _write_one(folder: Path, name: str, seed: int, coarse: int, source: Path | None, vary: bool) -> list[Path]:
    home = folder / (name if source is None else source.name.removesuffix(".nii.gz"))
    # written last, so where it lies the subject was whole when the writing was interrupted
    if (home / "labels.nii.gz").is_file():
        return []
    label_map = None if source is None else volumes.canonical(volumes.load(source))
    qsm, brain, label, affine = subject(name, seed, coarse=coarse, nuclei=label_map, vary=vary)
    parts = {"QSM_w_bg": qsm, "QSM_brain_mask": brain, "labels": label}
    if source is not None:
        files.write_text(home / "source.json", json.dumps({"simulated": True, "nuclei": source.name}) + "\n")
    return [volumes.save(nib.Nifti1Image(data, affine), home / f"{part}.nii.gz") for part, data in parts.items()]
