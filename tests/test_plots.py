"""What a figure shows, and above all what it does not."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from segkit import plots


def image(rng):
    return nib.Nifti1Image(rng.uniform(1, 5, (8, 9, 10)).astype("f"), np.diag([1, 2, 1, 1]))


def texts(figure):
    found = [t.get_text() for t in figure.texts] + [ax.get_title() for ax in figure.axes]
    return " ".join(found + [figure.get_suptitle() or ""])


def drawn(figure):
    return sum(len(ax.images) for ax in figure.axes)


@pytest.mark.parametrize("make", ["panels", "three_planes"])
def test_pictures_of_real_subjects_are_not_drawn(make, rng):
    def figure(source):
        if make == "panels":
            return plots.panels({"a": np.eye(4)}, source=source, title="t")
        return plots.three_planes(image(rng), source=source, title="t")

    hidden = figure("real")
    assert drawn(hidden) == 0
    assert "a real subject" in texts(hidden)
    shown = figure("phantom")
    assert drawn(shown) > 0
    assert "phantom" in texts(shown)
    assert drawn(figure(None)) > 0
    assert "phantom" not in texts(figure(None))
    assert "simulated" in texts(figure("simulated"))


def test_overlays_lie_on_their_images(rng):
    mask = nib.Nifti1Image((np.arange(720).reshape(8, 9, 10) % 3).astype("u1"), np.diag([1, 2, 1, 1]))
    figure = plots.three_planes(image(rng), mask, labels={"a": 1, "b": 2}, source="phantom")
    assert [len(ax.images) for ax in figure.axes] == [2, 2, 2]
    other = plots.three_planes(image(rng), mask, at=np.array([1, 2, 3]), labels={"a": 18}, source="phantom")
    assert len(other.axes) == 3
    shapes = [ax.images[0].get_array().shape == ax.images[1].get_array().shape for ax in figure.axes]
    assert all(shapes)
    assert [ax.get_aspect() for ax in figure.axes] == [0.5, 1.0, 2.0]  # z / y, z / x, y / x


def test_saving_makes_a_png_or_nothing(tmp_path, rng):
    path = plots.save(plots.three_planes(image(rng)), tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        plots.save(plots.three_planes(image(rng)), tmp_path / "file" / "a.png")


def test_curves_mark_the_best_epoch():
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2, 1], "val_loss": [3.0, 1, 2]})
    figure = plots.curves({"net": history})
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert stars[0].get_xydata().tolist() == [[2, 1]]


def test_undefined_scores_are_counted_not_drawn():
    scores = pd.DataFrame(
        {"method": "m", "label": ["a", "a", "b"], "subject": ["1", "2", "1"], "v": [1.0, np.inf, np.nan]}
    )
    figure = plots.by_subject(scores, "v", ylabel="score")
    assert figure.axes[0].get_ylabel() == "score (2 undefined left out)"


def test_histograms_have_an_axis_a_group():
    groups = {"one": {"a": np.arange(100.0)}, "two": {"a": np.arange(100.0) ** 2}}
    assert len(plots.histograms(groups, xlabels=("x", "y")).axes) == 2
