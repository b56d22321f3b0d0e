"""Fixtures that several test modules share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# tests and notebooks run side by side; more processes and threads below them would only wait for each other
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def hoa_map():
    """``hoa_map(shift=(x, y, z))``: a tiny label map with the values of the Harvard-Oxford Atlas 2.0."""
    from segkit.phantoms import qsm

    def label_map(shift=(0.0, 0.0, 0.0), half=1):
        """A Harvard-Oxford map with a small block a nucleus, moved by ``shift`` mm."""
        data = np.zeros((80, 90, 80), np.uint8)
        affine = nib.affines.from_matvec(np.eye(3) * 1.5, (-60 + shift[0], -70 + shift[1], -55 + shift[2]))
        inverse = np.linalg.inv(nib.affines.from_matvec(np.eye(3) * 1.5, (-60, -70, -55)))
        for name in qsm.NUCLEI:
            for value, sign in zip(qsm._HOA_PARTS[name], (-1, 1), strict=True):
                at = np.round(
                    nib.affines.apply_affine(inverse, (sign * qsm.CENTRES[name][0], *qsm.CENTRES[name][1:]))
                ).astype(int)
                data[tuple(slice(a - half, a + half + 1) for a in at)] = value
        return nib.Nifti1Image(data, affine)

    return label_map
