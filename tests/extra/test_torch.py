"""Models, losses and inference on the PyTorch backend (``pip install torch`` into .venv first)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.extra
def test_models_losses_and_inference_on_torch():
    files = [f"tests/test_{name}.py" for name in ("models", "losses", "inference")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files], cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, "is torch installed? " + done.stdout[-3000:] + done.stderr[-1000:]
