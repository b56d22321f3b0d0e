"""The 3D page as a reader sees it: opened in headless Chromium with software WebGL, without a network."""

import shutil
import subprocess

import cv2
import nibabel as nib
import numpy as np
import pytest

from segkit import plots


@pytest.mark.extra
@pytest.mark.parametrize("make", ["surface", "points"])
def test_the_page_shows_both_shapes(make, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "no Chromium here; install it (Debian: apt-get install chromium)"
    grids = np.ogrid[:40, :40, :40]
    truth = (sum((g - 15) ** 2 for g in grids) < 100).astype(np.uint8)
    masks = {
        name: nib.Nifti1Image(m, np.eye(4)) for name, m in (("truth", truth), ("prediction", np.roll(truth, 9, axis=0)))
    }
    page = plots.write_html(getattr(plots, make)(masks, source="phantom", title="ball"), tmp_path / "page.html")
    picture = tmp_path / "page.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=900,600", "--virtual-time-budget=20000",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    shot = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2HSV)[60:540, 150:750]
    hue, strong = 2 * shot[..., 0].astype(int), (shot[..., 1] > 40) & (shot[..., 2] > 60)
    orange, blue = strong & (hue > 20) & (hue < 60), strong & (hue > 180) & (hue < 230)
    assert orange.sum() > 300, "the truth is not on the canvas"
    assert blue.sum() > 300, "the prediction is not on the canvas"
