"""Slices of a volume as a video: mp4 through imageio-ffmpeg, GIF where ffmpeg is missing."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np

from segkit import files
from segkit.plots.figures import FOUND, TRUTH
from segkit.plots.sources import hidden, remark


def frames(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    *,
    size: tuple[int, int] = (480, 480),
    source: str | None = None,
    axis: int = 2,
    aspect: float = 1.0,
) -> np.ndarray:
    """A frame a slice: the image with the outlines of truth (orange) and prediction (blue), its number and its source.

    Parameters
    ----------
    image, truth, prediction : arrays (x, y, z)
        ``truth`` may be None. First in-plane axis to the right, second up.
    size : (width, height) in pixels
        The slice is fitted into it in true proportion.
    aspect : float
        Height of a voxel relative to its width.

    Returns
    -------
    uint8 array (slices, height, width, 3)

    Raises
    ------
    ValueError
        For ``source="real"``: pictures of these subjects are not made unless ``SHOW_REAL_SUBJECTS`` is set.
    """
    if hidden(source):
        raise ValueError(
            "the data's terms allow no picture of a real subject; set SHOW_REAL_SUBJECTS = True on your own machine"
        )
    image, found = (np.moveaxis(a, axis, 0) for a in (np.asarray(image, np.float32), np.asarray(prediction) != 0))
    true = None if truth is None else np.moveaxis(np.asarray(truth) != 0, axis, 0)
    low, high = np.percentile(image, (0.5, 99.8))
    grey = np.clip(255 * (image - low) / max(high - low, 1e-12), 0, 255).astype(np.uint8)
    width, height = size
    scale = min(width / grey.shape[1], height / (grey.shape[2] * aspect))
    inner = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[2] * aspect * scale)))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    out = np.zeros((len(grey), height, width, 3), np.uint8)
    for k, frame in enumerate(out):
        picture = cv2.cvtColor(_fit(grey[k], inner, cv2.INTER_LINEAR), cv2.COLOR_GRAY2RGB)
        for mask, colour in ((None if true is None else true[k], TRUTH), (found[k], FOUND)):
            if mask is not None and mask.any():
                lines, _ = cv2.findContours(
                    _fit(mask.astype(np.uint8), inner, cv2.INTER_NEAREST), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(picture, lines, -1, _rgb(colour), 1)
        frame[top : top + inner[1], left : left + inner[0]] = picture
        text = f"slice {k}" + (f"  {remark(source)}" if remark(source) else "")
        cv2.putText(frame, text, (6, height - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return out


def video(pictures: Sequence[np.ndarray] | np.ndarray, path: str | os.PathLike, *, fps: float = 15) -> Path:
    """Write frames as mp4 (H.264), or as GIF beside it where imageio-ffmpeg is missing; return the path written.

    Parameters
    ----------
    pictures : uint8 array (n, height, width, 3)
        Odd sides lose their last row or column, which the codec cannot hold.
    path : path
        ``….mp4`` or ``….gif``.

    Raises
    ------
    ValueError
        For no frame, or another suffix.
    """
    pictures, path = np.asarray(pictures, np.uint8), Path(path)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
        raise ValueError(f"{path}: frames must be of shape (n, height, width, 3) with n ≥ 1, not {pictures.shape}")
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"{path}: a video is .mp4 or .gif")
    if path.suffix == ".mp4" and not has_ffmpeg():
        path = path.with_suffix(".gif")
    with files.atomic(path) as temporary:
        if path.suffix == ".mp4":
            pictures = pictures[:, : pictures.shape[1] // 2 * 2, : pictures.shape[2] // 2 * 2]
            iio.imwrite(
                temporary, pictures, plugin="FFMPEG", extension=".mp4", fps=fps, codec="libx264", macro_block_size=1,
                ffmpeg_log_level="error", output_params=["-f", "mp4"],
            )  # fmt: skip
        else:
            iio.imwrite(temporary, pictures, extension=".gif", duration=1000 / fps, loop=0)
    return path


def has_ffmpeg() -> bool:
    """Whether imageio-ffmpeg is there and brings or finds an ffmpeg."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def _fit(picture: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    """(x, y) array to rows and columns of a picture of ``size`` (width, height), second axis up."""
    return np.ascontiguousarray(cv2.resize(np.ascontiguousarray(picture.T[::-1]), size, interpolation=how))


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
