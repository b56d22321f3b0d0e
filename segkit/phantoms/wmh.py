"""Phantom FLAIR scans with white-matter hyperintensities, in the 2017 challenge's layout, from several centres.

Anatomy comes from the MNI152 maps, or from FreeSurfer label maps of real brains; lesions lie around the ventricles and deep in the white
matter. ``paint`` gives soft anatomy the look of a scan; its contrasts are drawn widely, so that what learns from it meets more than one
scanner's FLAIR.

References
----------
Kuijf et al., IEEE TMI 38 (2019): the challenge. Billot et al., SynthSeg, Medical Image Analysis 86 (2023): learning from random contrasts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import edt
import nibabel as nib
import numpy as np
from joblib import Parallel, cpu_count, delayed
from nibabel import Nifti1Image
from scipy import ndimage

from segkit import volumes
from segkit.phantoms import anatomy

# of the phantoms: one more when a subject's voxels change, so that old and new are not taken for the same data
VERSION = 2
GRID = (192, 224, 192)  # 1 mm voxels in which anatomy is made
# soft maps a subject is made of, in this order
PARTS = ("white", "cortex", "deep", "stem", "ventricles", "sulci", "lesion", "halo", "rim", "choroid")
# FreeSurfer's values of each; lesions of the label maps are white matter, ours are drawn
_FREESURFER = {
    "white": (2, 41, 7, 46, 25, 57, 30, 62, 85), "cortex": (3, 42, 8, 47, 17, 18, 53, 54),
    "deep": (10, 11, 12, 13, 26, 49, 50, 51, 52, 58), "stem": (16, 28, 60, 136, 137, 163, 164), "ventricles": (4, 5, 14, 15, 43, 44, 72),
    "sulci": (24,),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Look:
    """How a scanner shows a brain; intensities relative to white matter."""

    cortex: float = 1.2
    deep: float = 1.1
    stem: float = 1.0
    ventricles: float = 0.25
    sulci: float = 0.35
    lesion: float = 1.65
    halo: float = 1.12
    rim: float = 1.15
    choroid: float = 1.1
    patchy: float = 0.0  # how unlike parts of a lesion are, relative
    cortex_patchy: float = 0.0  # how unlike parts of the cortex are (insula and limbic cortex are bright on FLAIR)
    grain_mm: float = 0.0  # to which noise is correlated
    texture: float = 0.03
    texture_mm: float = 3.0
    bias: float = 0.08
    noise: float = 0.03
    blur_mm: float = 0.5
    gamma: float = 1.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Look":
        """Wide enough to hold scanners that nobody has seen."""
        gamma = np.exp(rng.uniform(-0.35, 0.35))
        cortex = rng.uniform(0.95, 1.4)
        over = np.exp(rng.uniform(np.log(0.15), np.log(0.95)))  # of lesions over white matter, as the scan shows it
        if rng.random() < 0.9:  # a rater's lesion is mostly brighter than cortex, too
            over = max(over, 1.07 * cortex**gamma - 1)

        def shown(value):  # before the scanner's own curve
            return float(max(value, 0.0) ** (1 / gamma))

        return cls(
            cortex=cortex, deep=rng.uniform(0.9, 1.3), stem=rng.uniform(0.85, 1.25), ventricles=rng.uniform(0.02, 0.6),
            sulci=rng.uniform(0.05, 0.7), lesion=shown(1 + over), halo=shown(1 + over * rng.uniform(0, 0.45)),
            rim=shown(1 + over * rng.uniform(-0.1, 0.6)), choroid=rng.uniform(0.4, 1.5), patchy=rng.uniform(0, 0.2),
            cortex_patchy=rng.uniform(0, 0.2), texture=rng.uniform(0.01, 0.08), texture_mm=rng.uniform(1.5, 6),
            bias=rng.uniform(0.02, 0.2), noise=rng.uniform(0.01, 0.09), grain_mm=rng.uniform(0, 0.8), blur_mm=rng.uniform(0.2, 1.3),
            gamma=gamma,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Centre:
    """A site: voxels in mm, its scanner's look, and whether the skull was taken off."""

    spacing_mm: tuple[float, float, float]
    look: Look
    stripped: bool = False


CENTRES = {
    "CentreA": Centre((0.96, 0.95, 3.0), Look(cortex=1.25, lesion=1.6, noise=0.03)),
    "CentreB": Centre((1.0, 1.0, 1.0), Look(cortex=1.15, lesion=1.75, noise=0.05, bias=0.15, ventricles=0.15), stripped=True),
    "CentreC": Centre((1.2, 0.98, 5.0), Look(cortex=1.3, lesion=1.5, noise=0.04, gamma=1.15, blur_mm=0.8)),
    # unseen in training: the external set
    "CentreD": Centre((0.9, 0.9, 8.0), Look(cortex=1.05, deep=1.2, lesion=1.4, noise=0.06, bias=0.2, sulci=0.5, gamma=0.85), stripped=True),
}  # fmt: skip


def share(n: int) -> dict[str, int]:
    """``n`` subjects in all, evenly over the centres, the first ones a subject more."""
    names_ = list(CENTRES)
    return {
        name: n // len(names_) + (k < n % len(names_))
        for k, name in enumerate(names_)
        if n // len(names_) + (k < n % len(names_))
    }


def names(subjects: Mapping[str, int]) -> dict[str, list[str]]:
    """Subject folders a centre."""
    for centre, n in subjects.items():
        if centre not in CENTRES or not 0 <= n <= 999:
            raise ValueError(f"{n} phantoms of {centre!r} cannot be made; centres are {', '.join(CENTRES)}")
    return {centre: [str(k) for k in range(1, n + 1)] for centre, n in subjects.items()}


def brain(
    rng: np.random.Generator,
    *,
    source: Nifti1Image | None = None,
    coarse: float = 1.0,
    bend_mm: float = 2.0,
    tilt: float = 0.0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Soft maps of one brain without lesions (white … sulci), in voxels of ``coarse`` mm, and the affine (RAS+).

    Parameters
    ----------
    source : Nifti1Image, optional
        A whole-brain label map with FreeSurfer's values; default the MNI152 maps.
    tilt : float
        Largest nod of the head, in degrees: slices of a clinic's scan may lie 30° off.
    """
    shape = tuple(int(round(n / coarse)) for n in GRID)
    turn = anatomy.placement(rng, rotate=6, scale=0.08, shift_mm=4)
    if tilt:
        nod = np.deg2rad(rng.uniform(-tilt, tilt))
        turn[:3, :3] = turn[:3, :3] @ np.array(
            [[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]]
        )
    if source is None:
        maps, there = anatomy.mni()
        middle = nib.affines.apply_affine(there, (np.array(maps["grey"].shape) - 1) / 2)
        maps = {
            "white": maps["white"],
            "cortex": maps["grey"],
            "ventricles": maps["ventricles"],
            "sulci": maps["sulci"],
        }
    else:
        data, there = volumes.array(source), source.affine
        maps = {
            name: ndimage.gaussian_filter(np.isin(data, values).astype(np.float32), 0.5)
            for name, values in _FREESURFER.items()
        }
        head = np.argwhere(sum(maps.values()) > 0.5)
        middle = nib.affines.apply_affine(there, (head.min(0) + head.max(0)) / 2)
    affine = nib.affines.from_matvec(np.eye(3) * coarse, -coarse * (np.array(shape) - 1) / 2)
    to_template = nib.affines.from_matvec(np.eye(3), middle) @ turn
    soft = anatomy.warp(maps, there, affine, shape, rng, to_template=to_template, bend_mm=bend_mm, scale_mm=20)
    if source is None:  # the grey matter inside is told apart from the cortex by its depth
        mask = sum(soft.values()) > 0.5
        depth = edt.edt(mask, anisotropy=(coarse,) * 3)
        inner = ndimage.gaussian_filter((depth > 28).astype(np.float32), 2)
        soft["deep"], soft["cortex"] = soft["cortex"] * inner, soft["cortex"] * (1 - inner)
        soft["stem"] = np.zeros(shape, np.float32)
    return {name: soft[name] for name in PARTS[:6]}, affine


def aged(
    parts: Mapping[str, np.ndarray], spacing_mm: Sequence[float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """``parts`` with wider ventricles (up to 4 mm) and less fluid on the outside (up to 5 mm, raggedly), as skull-stripping leaves it."""
    out, spacing = {k: v.copy() for k, v in parts.items()}, np.asarray(spacing_mm, float)
    wider = max(0.0, rng.uniform(-2, 4))
    if wider:
        near = edt.edt(parts["ventricles"] <= 0.5, anisotropy=spacing)
        more = ndimage.gaussian_filter((near < wider).astype(np.float32), 0.5 / spacing)
        more = np.maximum(more * (parts["white"] + parts["deep"] > 0.3), parts["ventricles"])
        room = np.clip(1 - more, 0, None) / np.maximum(1 - parts["ventricles"], 1e-3)
        for name in ("white", "cortex", "deep", "stem", "sulci"):
            out[name] = parts[name] * np.clip(room, 0, 1)
        out["ventricles"] = more
    inside = sum(out.values()) > 0.5
    depth = edt.edt(inside, anisotropy=spacing)
    ragged = rng.uniform(0, 5) + rng.uniform(0, 1.5) * anatomy.smooth_noise(inside.shape, spacing, rng, scale_mm=8)
    kept = ndimage.gaussian_filter((depth > ragged).astype(np.float32), 0.5 / spacing)
    out["sulci"] = out["sulci"] * kept
    return out


def lesions(
    parts: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    load_ml: float | None = None,
) -> dict[str, np.ndarray]:
    """Soft maps lesion (share of each voxel), halo (pale surroundings), rim (bright lining of the ventricles) and choroid (plexus and
    inflow within them); the last three are no lesions.

    Periventricular caps and bands: white matter near the ventricles, ragged by smooth noise. Deep lesions: blobs of 1 to 8 mm away
    cortex. Together about ``load_ml`` (default log-uniform between .5 and 180), half or more of it around the ventricles.
    """
    load = float(np.exp(rng.uniform(np.log(0.5), np.log(180)))) if load_ml is None else load_ml
    shape, spacing = parts["white"].shape, np.asarray(spacing_mm, float)
    white, fluid = parts["white"] > 0.5, parts["ventricles"] > 0.5
    near = edt.edt(~fluid, anisotropy=spacing)  # mm from the ventricles
    depth = edt.edt(white | fluid, anisotropy=spacing)  # mm from cortex
    voxel_ml = float(np.prod(spacing)) / 1000
    out = np.zeros(shape, bool)
    around = load * rng.uniform(0.5, 0.95)
    reach = rng.uniform(2.5, 6)
    broad = anatomy.smooth_noise(shape, spacing, rng, scale_mm=14)
    ragged = 0.3 * broad + 0.5 * broad[::-1]  # both sides are alike in part
    for scale_mm, weight in ((5, 0.5), (2.5, 0.25)):
        ragged = ragged + weight * anatomy.smooth_noise(shape, spacing, rng, scale_mm=scale_mm)
    field = np.where(white & (depth > 1.5), np.exp(-np.maximum(near - 1, 0) / reach) * 2.2 + ragged, -np.inf)
    field[near > 40] = -np.inf
    wanted = min(int(around / voxel_ml), int(np.isfinite(field).sum() * 0.7))
    if wanted:
        out |= field >= np.partition(field.ravel(), -wanted)[-wanted]
    left, places = load - out.sum() * voxel_ml, np.flatnonzero(white & (depth > 2.5))
    tries = 0
    while left > 0 and tries < 400 and places.size:
        tries += 1
        at = np.array(np.unravel_index(rng.choice(places), shape))
        radius = float(np.clip(np.exp(rng.normal(0.75, 0.55)), 1, 8))
        half = np.ceil(1.8 * radius / spacing).astype(int) + 1
        box = tuple(slice(max(0, a - h), a + h + 1) for a, h in zip(at, half, strict=True))
        axes = [
            (np.arange(s.start, min(s.stop, n)) - a) * mm for s, n, a, mm in zip(box, shape, at, spacing, strict=True)
        ]
        stretch = rng.uniform(0.7, 1.4, 3)
        away = np.sqrt(
            sum((g / s) ** 2 for g, s in zip(np.meshgrid(*axes, indexing="ij", sparse=True), stretch, strict=True))
        )
        blob = (away < radius * (1 + 0.25 * ragged[box])) & white[box] & (depth[box] > 1)
        left -= float((blob & ~out[box]).sum()) * voxel_ml
        out[box] |= blob
    soft = ndimage.gaussian_filter(out.astype(np.float32), rng.uniform(0.35, 0.8) / spacing)
    soft *= parts["white"] + parts["deep"] > 0.3
    halo = np.clip(ndimage.gaussian_filter(out.astype(np.float32), 3 / spacing) * 2.5, 0, 1) * parts["white"]
    plexus = np.zeros(shape, np.float32)
    spots = np.flatnonzero(parts["ventricles"] > 0.7)
    for at in rng.choice(spots, rng.integers(0, 7)) if spots.size else ():
        centre = np.array(np.unravel_index(at, shape))
        box = tuple(slice(max(0, c - 6), c + 7) for c in centre)
        mm = [
            (np.arange(s.start, min(s.stop, n)) - c) * d for s, n, c, d in zip(box, shape, centre, spacing, strict=True)
        ]
        far = np.sqrt(sum(g**2 for g in np.meshgrid(*mm, indexing="ij", sparse=True)))
        plexus[box] = np.maximum(plexus[box], far < rng.uniform(1, 4))
    plexus = ndimage.gaussian_filter(plexus, 0.6 / spacing) * parts["ventricles"]
    rim = ((near > 0) & (near < rng.uniform(0.8, 2.2))).astype(np.float32) * parts["white"]
    return {"lesion": soft.astype(np.float32), "halo": halo.astype(np.float32), "rim": rim, "choroid": plexus}


def paint(parts: np.ndarray, spacing_mm: Sequence[float], rng: np.random.Generator, look: Look) -> np.ndarray:
    """A scan (float32, white matter about 1, background 0) of soft maps (…, parts) in the order of :data:`PARTS`; 2D or 3D.

    ``spacing_mm`` has an entry an axis of the picture.
    """
    part = dict(zip(PARTS, np.moveaxis(np.asarray(parts, np.float32), -1, 0), strict=True))
    shape = part["white"].shape
    picture = part["white"].copy()
    level = {name: np.float32(getattr(look, name)) for name in PARTS[1:]}
    for name, sd, scale_mm in (
        ("cortex", look.cortex_patchy, 15),
        ("lesion", look.patchy, rng.uniform(3, 8) if look.patchy else 5),
    ):
        if sd:
            rough = anatomy.smooth_noise(shape, spacing_mm, rng, scale_mm=scale_mm)
            level[name] = level[name] * (1 + np.float32(sd) * np.clip(rough, -2, 2))
    for name in ("cortex", "deep", "stem", "ventricles", "sulci"):
        picture += level[name] * part[name]
    inside = np.clip(sum(part[n] for n in PARTS[:6]), 0, 1)
    for name in ("choroid", "rim", "halo", "lesion"):  # each over what was there
        share_ = np.clip(part[name], 0, 1)
        picture = picture * (1 - share_) + level[name] * share_ * inside
    if look.texture:
        picture = picture * (
            1 + np.float32(look.texture) * anatomy.smooth_noise(shape, spacing_mm, rng, scale_mm=look.texture_mm)
        )
    if look.blur_mm:
        picture = ndimage.gaussian_filter(picture, [look.blur_mm / s for s in spacing_mm])
    if look.bias:
        picture = picture * np.exp(np.float32(look.bias) * anatomy.smooth_noise(shape, spacing_mm, rng, scale_mm=60))
    picture = anatomy.rician(np.maximum(picture, 0) ** np.float32(look.gamma), rng, sd=look.noise)
    if look.grain_mm:
        picture = ndimage.gaussian_filter(picture, [look.grain_mm / s for s in spacing_mm])
    return (picture * (inside > 0.3)).astype(np.float32)


def badly_stripped(scan: np.ndarray, spacing_mm: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """``scan`` (white matter about 1) as it is in seven of ten; else with dura left in places around it, or with cortex bitten off."""
    kind = rng.random()
    inside = scan != 0
    if kind > 0.3 or not inside.any():
        return scan
    rough = anatomy.smooth_noise(scan.shape, spacing_mm, rng, scale_mm=12)
    if kind < 0.15:
        shell = (
            ~inside & (edt.edt(~inside, anisotropy=spacing_mm) < rng.uniform(1, 3.5)) & (rough > rng.uniform(-0.3, 1))
        )
        dura = ndimage.gaussian_filter(shell * np.float32(rng.uniform(0.5, 1.6)), [0.5 / s for s in spacing_mm])
        return np.where(shell, dura * (1 + 0.1 * rng.standard_normal(scan.shape, dtype=np.float32)), scan)
    bitten = edt.edt(inside, anisotropy=spacing_mm) < np.clip(rough, 0, 2) * rng.uniform(1, 4)
    return np.where(bitten, 0, scan).astype(np.float32)


def slabs(image: Nifti1Image, *, every_mm: float, thick_mm: float | None = None, first_mm: float = 0.0) -> Nifti1Image:
    """The slices of a scanner: ``image`` averaged over slabs of ``thick_mm`` along its third axis, one each ``every_mm``.

    Less than ``every_mm`` thick (the default), slabs leave gaps, as clinics' scans do. ``first_mm``: where the first slab's share of the
    axis begins.
    """
    mm = volumes.spacing(image)[2]
    data = volumes.array(image, np.float32)
    size = max(1, round((thick_mm or every_mm) / mm))
    smooth = ndimage.uniform_filter1d(data, size, axis=2, mode="nearest")
    count = max(1, int((data.shape[2] * mm - first_mm) / every_mm + 1e-6))
    middle = (first_mm + every_mm * (np.arange(count) + 0.5)) / mm - 0.5  # in voxels
    half = 0.5 if size % 2 == 0 else 0.0  # an even window lies half a voxel before its index
    at = np.clip(middle + half, 0, data.shape[2] - 1)
    low = np.minimum(np.floor(at).astype(int), max(0, data.shape[2] - 2))
    share_ = (at - low).astype(np.float32).reshape(-1, *[1] * (data.ndim - 3))
    high = np.minimum(low + 1, data.shape[2] - 1)
    out = smooth[:, :, low] * (1 - share_) + smooth[:, :, high] * share_
    affine = image.affine @ nib.affines.from_matvec(np.diag([1, 1, every_mm / mm]), (0, 0, middle[0]))
    return nib.Nifti1Image(out, affine)


def skull(brain_mask: np.ndarray, spacing_mm: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """What lies around a brain that was not stripped: a dark gap, then scalp and fat (relative to white matter)."""
    away = edt.edt(~brain_mask, anisotropy=spacing_mm)
    out = np.zeros(brain_mask.shape, np.float32)
    out[(away > 6) & (away < 13)] = rng.uniform(0.8, 1.6)
    out[(away > 9) & (away < 11)] *= rng.uniform(0.6, 1.0)
    return ndimage.gaussian_filter(out, [0.8 / s for s in spacing_mm])


def subject(
    centre: str, name: str, seed: int, *, source: Nifti1Image | None = None, coarse: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLAIR (int16), mask (uint8: 0, 1, and rarely 2 for other pathology) and affine of one subject of a centre."""
    site = CENTRES[centre]
    rng = np.random.default_rng((seed, list(CENTRES).index(centre), int(name), 2017))
    fine = float(coarse)
    parts, affine = brain(rng, source=source, coarse=fine)
    parts = parts | lesions(parts, (fine,) * 3, rng)
    stack = np.stack([parts[n] for n in PARTS], axis=-1)
    ready = nib.Nifti1Image(stack, affine)
    spacing = tuple(s * (coarse if a < 2 else 1) for a, s in enumerate(site.spacing_mm))
    thick = spacing[2] > fine
    on_grid = volumes.resample(ready, spacing_mm=(*spacing[:2], fine if thick else spacing[2]), kind="image")
    if thick:
        on_grid = slabs(on_grid, every_mm=spacing[2])
    maps = volumes.array(on_grid)
    own = dataclasses.replace(site.look, **{
        k: getattr(site.look, k) * float(rng.normal(1, 0.05)) for k in ("cortex", "deep", "lesion", "noise", "bias")
    })  # fmt: skip
    scan = paint(maps, spacing, rng, own)
    inside = maps[..., :6].sum(-1) > 0.3
    if not site.stripped:
        scan = scan + anatomy.rician(skull(inside, spacing, rng), rng, sd=own.noise) * ~inside
    mask = (maps[..., PARTS.index("lesion")] >= 0.5).astype(np.uint8)
    if rng.random() < 0.2:  # other pathology, such as a stroke: a blob that is neither scored nor learned
        spot = np.argwhere(maps[..., 0] > 0.9)
        if len(spot):
            at, grids = spot[rng.integers(len(spot))], np.ogrid[tuple(slice(n) for n in mask.shape)]
            blob = sum(((g - a) * s) ** 2 for g, a, s in zip(grids, at, spacing, strict=True)) < rng.uniform(4, 8) ** 2
            scan[blob & inside] *= 1.4
            mask[blob & inside & (mask == 0)] = 2
    return np.round(scan * rng.uniform(150, 700)).astype(np.int16), mask, on_grid.affine


def write(
    folder: Path, subjects: dict[str, int], seed: int, *, coarse: int = 1, brains: Path | None = None
) -> list[Path]:
    """Write the files; see :func:`segkit.phantoms.write`.

    ``<centre>/<subject>/pre/FLAIR.nii.gz`` and ``wmh.nii.gz``. With ``brains``, a folder of FreeSurfer label maps, subjects
    take their anatomy from it in turn.
    """
    sources: list[Path | None] = [None] if brains is None else sorted(Path(brains).glob("*.nii.gz"))
    if not sources:
        raise ValueError(f"{brains}: holds no label map (*.nii.gz)")
    jobs = [(centre, name) for centre, chosen in names(subjects).items() for name in chosen]
    done = Parallel(n_jobs=min(2, cpu_count()))(
        delayed(_write_one)(folder, centre, name, seed, coarse, sources[k % len(sources)])
        for k, (centre, name) in enumerate(jobs)
    )
    return [path for paths in done for path in paths]


def _write_one(folder: Path, centre: str, name: str, seed: int, coarse: int, source: Path | None) -> list[Path]:
    label_map = None if source is None else volumes.canonical(volumes.load(source))
    scan, mask, affine = subject(centre, name, seed, source=label_map, coarse=coarse)
    home = folder / centre / name
    return [
        volumes.save(nib.Nifti1Image(scan, affine), home / "pre" / "FLAIR.nii.gz"),
        volumes.save(nib.Nifti1Image(mask, affine), home / "wmh.nii.gz"),
    ]
