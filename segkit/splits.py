"""Lists of subjects: on disk, in folds, and never on both sides."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segkit import files


def read(path: str | os.PathLike) -> list[str]:
    """Subject names of a text file, one a line; empty lines and ``#`` comments are skipped.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file, it holds no name, or a name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such subject list; write one with one subject a line")
    names = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise ValueError(
            f"{path}: " + (f"subjects {twice} stand twice; keep one" if twice else "no subject; add one a line")
        )
    return names


def write(subjects: Iterable[str], path: str | os.PathLike) -> Path:
    """Write a subject list that :func:`read` reads."""
    return files.write_text(path, "".join(f"{name}\n" for name in subjects))


def check_disjoint(**lists: Iterable[str]) -> None:
    """Raise ValueError when a subject stands in two of the named lists.

    >>> check_disjoint(train=["a"], validation=["a", "b"])
    Traceback (most recent call last):
    ...
    ValueError: subjects ['a'] stand in both train and validation; a subject may be on one side only
    """
    names = list(lists)
    sets = {name: set(lists[name]) for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = sorted(sets[a] & sets[b])
            if both:
                raise ValueError(f"subjects {both[:10]} stand in both {a} and {b}; a subject may be on one side only")


def folds(subjects: Iterable[str], k: int, *, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """K folds by subject: ``(train, validation)`` pairs; each subject is in exactly one validation list.

    Fold sizes differ by at most one.
    """
    names = sorted(set(subjects))
    if not 2 <= k <= len(names):
        raise ValueError(f"{k} folds of {len(names)} subjects cannot be made; choose 2 to {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = [sorted(names[i] for i in part) for part in np.array_split(order, k)]
    return [(sorted(set(names) - set(part)), part) for part in parts]
