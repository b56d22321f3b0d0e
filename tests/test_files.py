"""Whole files or none: full disk, unwritable folder, error in between."""

import os
import stat
import subprocess
import sys
import textwrap

import pytest

from segkit import files


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*file.*free some space or choose another folder"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_missing_folders_are_made_and_the_umask_is_kept(tmp_path):
    path = files.write_text(tmp_path / "a" / "b.txt", "grüße")
    assert path.read_text(encoding="utf-8") == "grüße"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("what", ["volume", "text", "model"])
def test_a_full_disk_leaves_no_half_file(tmp_path, what):
    """A limit on the size of files makes each write fail in the middle, as a full disk does."""
    code = f"""
        import resource, sys
        import numpy as np
        from pathlib import Path
        from segkit import files, volumes
        folder = Path({str(tmp_path)!r})
        def volume():
            import nibabel as nib
            noise = np.random.default_rng(0).normal(size=(64, 64, 64)).astype("f")
            volumes.save(nib.Nifti1Image(noise, np.eye(4)), folder / "v.nii.gz")
        def text():
            files.write_text(folder / "t.csv", "1,2,3\\n" * 100000)
        def model():
            from segkit import models
            net = models.build("ibsr_unet2d_4level")
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
            models.save(net, folder / "m.keras")
        if {what!r} != "model":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            {what}()
        except OSError as error:
            print("refused:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path)
    assert "refused: " in done.stdout, done.stderr[-2000:]
    assert "cannot write" in done.stdout
    assert os.listdir(tmp_path) == []


def test_an_unwritable_folder_is_refused(tmp_path):
    """Run as an ordinary user where the tests run as root, whom no permission stops."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:4]:
        if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o055)
    code = textwrap.dedent(f"""
        import os
        from segkit import files
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            files.write_text({str(folder / "a.txt")!r}, "x")
        except OSError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert "cannot write" in done.stdout, done.stdout + done.stderr
    assert os.listdir(folder) == []
