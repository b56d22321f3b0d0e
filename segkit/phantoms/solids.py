"""Solids as signed distances in mm (negative inside) at given places, and how they join.

``where`` is a sequence of three arrays: mm along each axis of every voxel.
"""

from collections.abc import Sequence

import numpy as np


def ellipsoid(where: Sequence[np.ndarray], centre, radii) -> np.ndarray:
    """About the distance to an ellipsoid of these three radii."""
    return box(where, centre, radii, power=2.0)


def box(where: Sequence[np.ndarray], centre, radii, *, power: float) -> np.ndarray:
    """About the distance to a superellipsoid: 2 is an ellipsoid, larger powers have flatter sides."""
    total = sum(np.abs((w - c) / r) ** power for w, c, r in zip(where, centre, radii, strict=True))
    return (total ** (1 / power) - 1) * float(min(radii))


def capsule(where: Sequence[np.ndarray], start, stop, radius: float, *, stop_radius: float | None = None) -> np.ndarray:
    """Distance to a thick line between two points; it tapers where ``stop_radius`` differs."""
    start, along = np.asarray(start, np.float32), np.subtract(stop, start).astype(np.float32)
    relative = [w - s for w, s in zip(where, start, strict=True)]
    t = np.clip(sum(r * a for r, a in zip(relative, along, strict=True)) / float(along @ along), 0, 1)
    thick = np.float32(radius) if stop_radius is None else np.float32(radius) + np.float32(stop_radius - radius) * t
    return np.sqrt(sum((r - t * a) ** 2 for r, a in zip(relative, along, strict=True))) - thick


def union(a: np.ndarray, b: np.ndarray, *, blend: float = 2) -> np.ndarray:
    """Smooth minimum of two distances (polynomial, over ``blend`` mm)."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + (a - b) * h - blend * h * (1 - h)


def share(distance: np.ndarray, soft: float) -> np.ndarray:
    """Share of a voxel inside, by its distance: 1 inside, 0 outside, a ramp of two ``soft`` at the border."""
    return np.clip(0.5 - distance / (2 * soft), 0, 1)
