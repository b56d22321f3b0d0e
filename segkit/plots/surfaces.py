"""Masks in 3D: decimated meshes and point clouds, interactive with plotly, still with matplotlib; no display is needed."""

import os
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from nibabel import Nifti1Image
from scipy import ndimage
from skimage import measure

from segkit import files, volumes
from segkit.plots.figures import COLOURS, FOUND, TRUTH, _card, _headed
from segkit.plots.sources import hidden, remark

_COLOURS = {"truth": TRUTH, "prediction": FOUND}


def mesh(mask: Nifti1Image, *, faces: int = 4000, smooth_mm: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Surface of a mask as vertices (n, 3) in world mm and triangles (m, 3).

    Marching cubes on the mask, smoothed by ``smooth_mm``, on a grid as fine as ``faces`` triangles allow.

    Raises
    ------
    ValueError
        For an empty mask, which has no surface.

    References
    ----------
    Lewiner et al., Efficient implementation of marching cubes' cases, J. Graphics Tools 8 (2003).
    """
    data = volumes.array(mask) != 0
    if not data.any():
        raise ValueError("the mask is empty and has no surface; check the segmentation first")
    start, size = volumes.bounding_box(data)
    inside = np.pad(data[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))].astype(np.float32), 4)
    spacing = np.array(volumes.spacing(mask))
    soft = ndimage.gaussian_filter(inside, smooth_mm / spacing)
    level = min(0.5, float(soft.max()) / 2)
    zoom = np.ones(3)
    for _ in range(12):
        vertices, triangles, *_ = measure.marching_cubes(_coarser(soft, zoom), level)
        if len(triangles) <= faces:
            break
        # the number of triangles falls with the square of the step; all axes end at one spacing
        wanted = (spacing * zoom).min() * max(1.1, np.sqrt(len(triangles) / faces))
        zoom = np.maximum(1, wanted / spacing)
    voxels = vertices * zoom + (zoom - 1) / 2 - 4 + np.array(start)
    return nib.affines.apply_affine(mask.affine, voxels).astype(np.float32), triangles.astype(np.int32)


def surface(masks: Mapping[str, Nifti1Image], *, source: str | None, title: str = "", faces: int = 4000):
    """Interactive surfaces, one a mask, half transparent; a plotly Figure (a card for ``source="real"``).

    Parameters
    ----------
    masks : dict
        Name ("truth", "prediction", …) to mask; empty ones are left out and said so in the title.
    """
    import plotly.graph_objects as go

    if hidden(source):
        return _plotly_card(title)
    figure = go.Figure()
    for i, (name, mask) in enumerate(_filled(masks).items()):
        vertices, triangles = mesh(mask, faces=faces)
        (x, y, z), (a, b, c) = np.round(vertices, 1).T, triangles.T
        colour = _COLOURS.get(name, COLOURS[i % len(COLOURS)])
        figure.add_mesh3d(
            x=x, y=y, z=z, i=a, j=b, k=c, color=colour, opacity=0.5, name=name, showlegend=True, hoverinfo="name"
        )
    return _scene(figure, _said(title, masks), source)


def points(masks: Mapping[str, Nifti1Image], *, source: str | None, title: str = "", count: int = 3000, seed: int = 0):
    """Interactive cloud of at most ``count`` surface voxels a mask, coloured by mask; a plotly Figure."""
    import plotly.graph_objects as go

    if hidden(source):
        return _plotly_card(title)
    figure, rng = go.Figure(), np.random.default_rng(seed)
    for i, (name, mask) in enumerate(_filled(masks).items()):
        data = volumes.array(mask) != 0
        voxels = np.argwhere(data & ~ndimage.binary_erosion(data))
        voxels = voxels[np.sort(rng.permutation(len(voxels))[:count])]
        x, y, z = np.round(nib.affines.apply_affine(mask.affine, voxels), 1).astype(np.float32).T
        marker = {"size": 2, "color": _COLOURS.get(name, COLOURS[i % len(COLOURS)])}
        figure.add_scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="name")
    return _scene(figure, _said(title, masks), source)


def surface_still(
    masks: Mapping[str, Nifti1Image], *, source: str | None, title: str = "", faces: int = 4000
) -> Figure:
    """The same surfaces from the front and from the side, as a matplotlib Figure."""
    if hidden(source):
        return _card(title or "surface")
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    meshes = {name: mesh(mask, faces=faces) for name, mask in _filled(masks).items()}
    colours = {name: _COLOURS.get(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(meshes)}
    for n, (view, angle) in enumerate((("from the front", 90), ("from the left", 180))):
        ax = figure.add_subplot(1, 2, n + 1, projection="3d")
        for name, (vertices, triangles) in meshes.items():
            ax.plot_trisurf(*vertices.T, triangles=triangles, color=colours[name], alpha=0.45, linewidth=0)
        ax.view_init(elev=8, azim=angle)
        if meshes:
            every = np.concatenate([v for v, _ in meshes.values()])
            ax.set_box_aspect(np.ptp(every, axis=0))
        ax.set_title(view, fontsize=9)
        ax.tick_params(labelsize=6)
        ax.set(xlabel="left – right (mm)", ylabel="back – front (mm)", zlabel="foot – head (mm)")
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.label.set_size(7)
    handles = [figure.axes[0].plot([], [], [], "s", color=colours[name], label=name)[0] for name in meshes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1, frameon=False, fontsize=8)
    return _headed(figure, _said(title, masks), source)


def write_html(figure, path: str | os.PathLike) -> Path:
    """Write a plotly figure as one HTML file that needs no network (the library is in it, some 4 MB); return the path."""
    return files.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))


def show_3d(figure) -> None:
    """Display a plotly figure in a notebook without inlining the library in the saved file."""
    import json

    import plotly.io as pio
    from IPython.display import display

    if pio.renderers.default == "colab":
        figure.show()
    else:
        display({"application/vnd.plotly.v1+json": json.loads(figure.to_json())}, raw=True)


def _coarser(soft: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """``soft`` on a grid ``zoom`` times coarser; new voxel n lies at zoom · n + (zoom − 1) / 2 of the old grid."""
    if np.all(zoom == 1):
        return soft
    shape = tuple(int(np.ceil(n / z)) + 1 for n, z in zip(soft.shape, zoom, strict=True))
    soft = ndimage.gaussian_filter(soft, (zoom - 1) / 2)
    return ndimage.affine_transform(soft, zoom, (zoom - 1) / 2, output_shape=shape, order=1, mode="constant")


def _filled(masks: Mapping[str, Nifti1Image]) -> dict[str, Nifti1Image]:
    return {name: mask for name, mask in masks.items() if (volumes.array(mask) != 0).any()}


def _said(title: str, masks: Mapping[str, Nifti1Image]) -> str:
    empty = [name for name in masks if name not in _filled(masks)]
    return title + (f" ({', '.join(empty)} empty)" if empty else "")


def _scene(figure, title: str, source: str | None):
    names = ("left – right (mm)", "back – front (mm)", "foot – head (mm)")
    scene = {f"{a}axis": {"title": {"text": n}} for a, n in zip("xyz", names, strict=True)} | {"aspectmode": "data"}
    scene["camera"] = {"eye": {"x": 0.4, "y": 1.9, "z": 0.5}}
    text = " · ".join(t for t in (title, remark(source)) if t)
    figure.update_layout(scene=scene, title=text, height=520, margin={"l": 0, "r": 0, "b": 0, "t": 40}, template="none")
    return figure


def _plotly_card(title: str):
    import plotly.graph_objects as go

    figure = go.Figure()
    text = f"{title}<br>not shown: a real subject (set SHOW_REAL_SUBJECTS = True on your own machine)"
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure.update_layout(height=120, template="none", xaxis_visible=False, yaxis_visible=False)
