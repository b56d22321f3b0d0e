"""Fixtures that several test modules share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(20260)


def oblique(spacing=(0.8, 1.5, 1.1)):
    """An affine with turned axes, anisotropic spacing and an offset."""
    a, b = np.deg2rad(17), np.deg2rad(-11)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return nib.affines.from_matvec(turn @ tilt @ np.diag(spacing), (-12.5, 31.0, 7.25))


AFFINES = {
    "RAS": nib.affines.from_matvec(np.diag([0.9375, 1.5, 0.9375]), (-20, -10, 5)),
    "LPS": nib.affines.from_matvec(np.diag([-0.7, -0.7, 3.0]), (40, 35, -8)),
    "PSR": nib.affines.from_matvec(np.array([[0, 0, 1.2], [-0.9, 0, 0], [0, 2.0, 0]]), (3, 4, 5)),
    "oblique": oblique(),
}


@pytest.fixture(params=AFFINES)
def affine(request):
    return AFFINES[request.param]
