"""Label maps: tables of names and values, split, merge, binarise, one-hot.

A label table is a plain dict, name to value, without the background 0: ``{"CSF": 1, "GM": 2, "WM": 3}``.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nibabel import Nifti1Image

from segkit import volumes

# FreeSurfer's aseg values and those of the Harvard-Oxford Atlas 2.0 (HOA-2), left and right
FREESURFER = {
    "amygdala": (18, 54),
    "caudate": (11, 50),
    "hippocampus": (17, 53),
    "putamen": (12, 51),
    "thalamus": (10, 49),
}
HOA = {
    "amygdala": (22, 23),
    "caudate": (9, 10),
    "hippocampus": (20, 21),
    "putamen": (11, 12),
    "thalamus": (16, 17),
}


def read_list(path: str | os.PathLike, structures: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Left and right value of each structure, from a label list.

    Parameters
    ----------
    path : path
        FreeSurfer's colour table (``17  Left-Hippocampus  220 216 20 0``), or tab-separated ``value`` and ``name`` as of the Harvard-Oxford
        Atlas 2.0. Sides are found by the words left and right, structures by their names ("Left-Thalamus", "Left-Thalamus-Proper"), or,
        where none has the name itself, by how names begin ("Left Hippocampal Formation" is the hippocampus).

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file, or a structure lacks a side or has it twice (names the file and what it says).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such label list; give FreeSurfer's colour table, or value and name by tab")
    named = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        match = re.match(r"\s*(\d+)\s+([^\t\d#][^\t]*?)(?:\s+\d+\s+\d+\s+\d+.*|\t.*)?$", line)
        if match:
            named[int(match[1])] = match[2].strip()
    out = {}
    for structure in structures:
        sides = {}
        for side in ("left", "right"):
            here = {v: name for v, name in named.items() if re.search(side, name, re.I)}
            exact = [v for v, name in here.items() if re.search(rf"\b{structure}(-proper\*?)?$", name, re.I)]
            sides[side] = exact or [v for v, name in here.items() if re.search(rf"\b{structure[:8]}", name, re.I)]
        for side, values in sides.items():
            if len(values) != 1:
                said = f"{len(values)} values ({values})" if values else "no value"
                raise ValueError(
                    f"{path}: has {said} for the {side} {structure}; one is needed a side, for example 17 Left-Hippocampus"
                )
        out[structure] = (sides["left"][0], sides["right"][0])
    return out


def check_values(array: np.ndarray, table: Mapping[str, Sequence[int]], name: object = "label map") -> None:
    """Raise ValueError unless ``array`` holds every value of ``table`` (left and right of each structure)."""
    here = set(np.unique(np.ravel(array, order="K")).tolist())
    missing = {
        structure: [v for v in np.atleast_1d(values).tolist() if v not in here] for structure, values in table.items()
    }
    missing = {structure: values for structure, values in missing.items() if values}
    if missing:
        raise ValueError(
            f"{name}: lacks the values {missing} of the label list (it holds {sorted(int(v) for v in here)[:12]}); is the list of another "
            "atlas, or a side missing?"
        )


def as_labels(image: Nifti1Image, table: dict[str, int] | None = None, name: object = "label map") -> Nifti1Image:
    """Return ``image`` with integer voxels: uint8, or uint16 where a value needs it.

    Raises
    ------
    ValueError
        When a voxel is negative, above 65535 or not a whole number, or (with ``table``) not 0 and not in the table;
        the message names the file, the values found and the mend.
    """
    data = volumes.array(volumes.check(image, name))
    found = np.unique(data.ravel(order="K"))
    if found.size and (np.any(found != np.round(found)) or found[0] < 0 or found[-1] > 65535):
        odd = [v for v in found.tolist() if v != round(v) or not 0 <= v <= 65535][:5]
        raise ValueError(
            f"{name}: {odd} are not label values; labels are whole numbers from 0 to 65535, never interpolated"
        )
    if table is not None:
        outside = sorted(set(found.astype(int).tolist()) - {0, *table.values()})
        if outside:
            raise ValueError(
                f"{name}: label values {outside[:10]} are not in the table {table}; map them or drop them first"
            )
    image = volumes.check(image, name)
    return volumes.like(data.astype(np.uint16 if found.size and found[-1] > 255 else np.uint8), image)


def binarise(array: np.ndarray, values) -> np.ndarray:
    """uint8 mask, 1 where ``array`` holds one of ``values``.

    >>> binarise(np.array([0, 10, 49, 11]), (10, 49)).tolist()
    [0, 1, 1, 0]
    """
    array = np.asarray(array)
    out = np.zeros_like(
        array, np.uint8
    )  # in the array's order in memory: what NIfTI files hold is then written slice by slice
    for value in np.atleast_1d(values):
        out |= array == value
    return out


def split(array: np.ndarray, table: dict) -> dict[str, np.ndarray]:
    """One uint8 mask a name; a table's value may be a number or several (left and right)."""
    return {name: binarise(array, values) for name, values in table.items()}


def merge(masks: dict[str, np.ndarray], table: dict[str, int]) -> np.ndarray:
    """Label map (uint8, or uint16 where a value needs it) out of masks by name; the inverse of :func:`split` for single-valued tables.

    Raises
    ------
    ValueError
        When a name is not in the table, or two masks claim the same voxel.
    """
    missing = sorted(set(masks) - set(table))
    if missing:
        raise ValueError(f"masks {missing} are not in the table {table}; add them to the table or leave them out")
    if not masks:
        raise ValueError("no mask to merge; give at least one")
    shape = np.shape(next(iter(masks.values())))
    kind = np.uint16 if max(table.values()) > 255 else np.uint8
    out, taken = np.zeros(shape, kind), np.zeros(shape, bool)
    for name, mask in masks.items():
        mask = np.asarray(mask) > 0
        if np.any(taken & mask):
            raise ValueError(
                f"mask {name} overlaps another in {int((taken & mask).sum())} voxels; decide which one holds"
            )
        out[mask] = table[name]
        taken |= mask
    return out


def one_hot(array: np.ndarray, classes: int) -> np.ndarray:
    """float32 of shape ``array.shape + (classes,)``; ValueError for a value outside 0 … classes − 1.

    >>> one_hot(np.array([0, 2]), 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    array = np.asarray(array)
    if array.size and (array.min() < 0 or array.max() >= classes):
        raise ValueError(
            f"label values {array.min()} to {array.max()} do not fit {classes} classes; check the label table"
        )
    return np.eye(classes, dtype=np.float32)[array.astype(np.intp)]
