"""Pictures: figures (matplotlib), videos and interactive 3D. Each function returns what it drew and shows nothing by itself.

Functions that draw voxels take ``source``, the one switch for what may be seen: "phantom" marks the picture so, "simulated phantom"
likewise, "real" and "simulated real" draw a card of
text in its place (the terms of the data allow none), None draws without remark (your own scans on
your own machine).
"""

from segkit.plots.charts import bars, boxes, ranked, reliability
from segkit.plots.explorer import threshold_explorer, thresholds
from segkit.plots.figures import (
    COLOURS,
    LABELS,
    agreement,
    by_subject,
    contours,
    curves,
    histograms,
    panels,
    save,
    three_planes,
)
from segkit.plots.surfaces import mesh, points, show_3d, surface, surface_still, write_html
from segkit.plots.videos import frames, video

__all__ = [
    "COLOURS", "LABELS", "agreement", "bars", "boxes", "by_subject", "contours", "curves", "frames", "histograms", "mesh",
    "panels", "points", "ranked", "reliability", "save", "show_3d", "surface", "surface_still", "three_planes", "threshold_explorer",
    "thresholds", "video", "write_html",
]  # fmt: skip
