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


def test_truth_and_prediction_are_outlined_through_the_larger_part_of_the_truth(rng):
    truth, found = np.zeros((8, 9, 10), "u1"), np.zeros((8, 9, 10), "u1")
    truth[1:4, 2:5, 3:7] = found[2:4, 2:5, 3:7] = 1
    truth[6, 6, 6] = 1
    figure = plots.three_planes(
        image(rng), nib.Nifti1Image(found, np.eye(4)), truth=nib.Nifti1Image(truth, np.eye(4)), source="phantom"
    )
    for ax in figure.axes:
        assert len(ax.images) == 1  # outlines, nothing laid over
        assert [c.get_edgecolor()[0].tolist() for c in ax.collections] == [
            [1, 1, 0, 1],
            [1, 0, 0, 1],
        ]  # yellow truth, red prediction
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["truth", "prediction"]
    named = plots.panels({"a": truth[2]}, masks={"a": truth[2]}, labels={"one": 1}, source="phantom")
    assert [t.get_text() for t in named.legends[0].get_texts()] == ["one"]


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
    figure = plots.curves({"net": history}, monitor="loss")  # where the weights of the smallest training loss are kept
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert stars[0].get_xydata().tolist() == [[3, 2]]


def test_undefined_scores_are_counted_not_drawn():
    scores = pd.DataFrame(
        {"method": "m", "label": ["a", "a", "b"], "subject": ["1", "2", "1"], "v": [1.0, np.inf, np.nan]}
    )
    figure = plots.by_subject(scores, "v", ylabel="score")
    assert figure.axes[0].get_ylabel() == "score (2 undefined left out)"


def test_histograms_have_an_axis_a_group():
    groups = {"one": {"a": np.arange(100.0)}, "two": {"a": np.arange(100.0) ** 2}}
    assert len(plots.histograms(groups, xlabels=("x", "y")).axes) == 2


# -- outlines, videos, surfaces: all without a display


@pytest.fixture
def ball():
    grids = np.ogrid[:24, :24, :24]
    array = (sum((g - 11.5) ** 2 for g in grids) < 64).astype(np.uint8)
    affine = np.diag([2.0, 2, 3, 1])
    affine[:3, 3] = 5, -7, 11
    return nib.Nifti1Image(array, affine)


def test_contours_show_each_slice_that_holds_a_mask(ball, rng):
    mask = np.asarray(ball.dataobj)
    scan = rng.uniform(0, 1, mask.shape)
    figure = plots.contours(scan, mask, mask, source="phantom", title="t")
    held = int(mask.any(axis=(0, 1)).sum())
    assert len(figure.axes) == held + 2
    assert drawn(plots.contours(scan, mask, mask, source="real")) == 0
    assert len(plots.contours(scan, None, 0 * mask, source=None).axes) == 24


def test_agreement_marks_bias_and_limits():
    figure = plots.agreement([10, 20, 30], [12, 21, 33], unit="ml")
    heights = sorted(line.get_ydata()[0] for line in figure.axes[0].lines[1:4])
    assert heights == pytest.approx([2 - 1.96, 2, 2 + 1.96])  # differences 2, 1, 3: mean 2, sd 1


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_video_frames_decode_at_the_size_asked_for(ball, rng, tmp_path, suffix):
    import imageio.v3 as iio

    mask = np.asarray(ball.dataobj)
    frames = plots.frames(rng.uniform(0, 1, mask.shape), mask, mask, size=(160, 120), source="phantom", aspect=1.5)
    assert frames.shape == (24, 120, 160, 3)
    path = plots.video(frames, tmp_path / f"a{suffix}", fps=10)
    read = iio.imread(path, plugin="FFMPEG") if suffix == ".mp4" else iio.imread(path, index=None)
    assert read.shape == (24, 120, 160, 3)
    if suffix == ".mp4":
        assert iio.immeta(path, plugin="FFMPEG")["fps"] == 10
    assert np.abs(read[11].astype(int) - frames[11]).mean() < 12  # the very picture, but for the codec's loss
    assert list(tmp_path.iterdir()) == [path]


def test_outlines_lie_where_the_mask_is():
    scan, mask = np.zeros((40, 20, 1)), np.zeros((40, 20, 1), np.uint8)
    mask[30:, 15:] = 1  # right and up, as the first axis runs to the right and the second up
    frame = plots.frames(scan, None, mask, size=(400, 200))[0]
    rows, columns = np.nonzero(frame[:180].std(axis=-1) > 20)
    assert columns.min() == pytest.approx(300, abs=2)
    assert rows.max() == pytest.approx(50, abs=2)


def test_without_ffmpeg_a_gif_is_written(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("segkit.plots.videos.has_ffmpeg", lambda: False)
    path = plots.video(rng.integers(0, 255, (3, 10, 12, 3)), tmp_path / "a.mp4")
    assert path.name == "a.gif"
    assert path.read_bytes().startswith(b"GIF8")


def test_video_refuses(tmp_path, rng):
    with pytest.raises(ValueError, match=r"frames must be of shape \(n, height, width, 3\)"):
        plots.video(np.zeros((4, 5, 6)), tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a video is .mp4 or .gif"):
        plots.video(np.zeros((1, 4, 4, 3)), tmp_path / "a.avi")
    with pytest.raises(ValueError, match="no picture of a real subject"):
        plots.frames(np.zeros((4, 4, 4)), None, np.zeros((4, 4, 4)), source="real")
    odd = plots.video(rng.integers(0, 255, (2, 11, 13, 3)), tmp_path / "odd.mp4")
    assert odd.is_file()


def test_mesh_lies_on_the_mask_in_mm(ball):
    vertices, triangles = plots.mesh(ball, faces=1500, smooth_mm=0.5)
    assert len(triangles) <= 1500
    assert triangles.max() < len(vertices)
    centre = 11.5 * np.array([2, 2, 3]) + (5, -7, 11)
    assert vertices.mean(axis=0) == pytest.approx(centre, abs=0.7)
    radius = np.linalg.norm((vertices - centre) / (2, 2, 3), axis=1)
    assert radius.mean() == pytest.approx(8, abs=0.6)
    fine, _ = plots.mesh(ball, faces=10**6)
    assert len(fine) > len(vertices)


def test_mesh_of_an_empty_mask(ball):
    with pytest.raises(ValueError, match="the mask is empty and has no surface"):
        plots.mesh(nib.Nifti1Image(0 * np.asarray(ball.dataobj), ball.affine))


def test_surface_and_points_and_their_html(ball, tmp_path):
    empty = nib.Nifti1Image(0 * np.asarray(ball.dataobj), ball.affine)
    figure = plots.surface({"truth": ball, "prediction": empty}, source="phantom", title="t", faces=800)
    assert [trace.type for trace in figure.data] == ["mesh3d"]
    assert figure.layout.title.text == "t (prediction empty) · phantom"
    cloud = plots.points({"truth": ball, "prediction": ball}, source="phantom", count=200)
    assert [len(trace.x) for trace in cloud.data] == [200, 200]
    path = plots.write_html(figure, tmp_path / "a.html")
    page = path.read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page.replace("'", '"')  # nothing is fetched
    assert not plots.surface({"truth": ball}, source="real").data
    assert len(plots.surface_still({"truth": ball}, source="phantom").axes) == 2
    card = plots.surface_still({"truth": ball}, source="real")
    assert not card.axes
    assert "a real subject" in texts(card)
    assert not plots.points({"truth": ball}, source="real").data


def test_3d_output_does_not_hold_the_library(ball, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    plots.show_3d(plots.surface({"truth": ball}, source="phantom", faces=800))
    assert list(shown[0]) == ["application/vnd.plotly.v1+json"]
    assert len(str(shown[0])) < 200_000


def test_threshold_explorer_follows_its_sliders(ball, monkeypatch):
    mask = np.asarray(ball.dataobj)
    soft = np.clip(mask * 0.8 + 0.1, 0, 1)
    box = plots.threshold_explorer(mask * 100.0, mask, soft, source="phantom")
    sliders, picture = box.children[0].children, box.children[1]
    first = bytes(picture.value)
    assert first.startswith(b"\x89PNG")
    sliders[1].value = 0.95  # above every probability
    second = bytes(picture.value)
    assert second != first
    sliders[0].value = 0
    assert bytes(picture.value) != second
    figure = plots.thresholds(mask[..., 11] * 100.0, mask[..., 11], soft[..., 11], source="phantom", at=(0.5,))
    assert len(figure.axes) == 4
    assert "Dice 1.000" in texts(figure)
    hidden = plots.thresholds(mask[..., 11], mask[..., 11], soft[..., 11], source="real")
    assert not hidden.axes
    assert "a real subject" in texts(hidden)
    seen = []
    monkeypatch.setattr("segkit.plots.explorer._png", lambda figure: seen.append(figure) or b"")
    plots.threshold_explorer(mask * 100.0, mask, soft, source="real")
    assert [len(figure.axes) for figure in seen] == [0]


def test_bars_are_as_high_as_the_counts_and_named_in_order():
    counts = pd.DataFrame({"no tumour": [140, 3], "tumour": [73, 4]}, index=["all", "one"])
    ax = plots.bars(counts, ylabel="slices", source="phantom", title="t").axes[0]
    assert [p.get_height() for p in ax.patches] == [140, 3, 73, 4]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["all", "one"]
    assert ax.containers[0].get_label() == "no tumour"
    assert sorted(t.get_text() for t in ax.texts) == ["140", "3", "4", "73"]


def test_ranked_bars_have_lines_at_mean_and_median_and_count_what_is_undefined():
    figure = plots.ranked(pd.Series({"a": 0.9, "b": 0.1, "c": 0.2, "d": np.nan}), ylabel="Dice", source="real")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["b", "c", "a"]
    assert [line.get_ydata()[0] for line in ax.lines] == pytest.approx([0.4, 0.2])
    assert "1 undefined left out" in ax.get_ylabel()


def test_boxes_have_a_group_each_and_leave_out_who_has_none():
    table = pd.DataFrame({"f": [1.0, 2, 3, 9], "g": [0.0, 0, 0, 0], "cluster": [1, 1, 2, np.nan]})
    figure = plots.boxes(table, ["f", "g"], by="cluster", source="phantom")
    assert [ax.get_title() for ax in figure.axes] == ["f", "g"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1\nn 2", "2\nn 1"]
    dots = [line.get_ydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dots == [[1, 2], [3]]


def test_boxes_of_categories_keep_their_order():
    order = pd.CategoricalDtype(["small", "middle", "large"], ordered=True)
    table = pd.DataFrame({"f": [1.0, 2, 3], "bin": pd.Series(["large", "small", "large"], dtype=order)})
    figure = plots.boxes(table, ["f"], by="bin", source="phantom")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["small\nn 1", "large\nn 2"]


def test_contours_in_colours_of_ones_own():
    mask = np.zeros((8, 8, 3))
    mask[2:5, 2:5, 1] = 1
    figure = plots.contours(np.ones((8, 8, 3)), mask, mask, source=None, colours=("#00C000", "#E00000"))
    handles = figure.legends[0].get_lines()
    assert [h.get_color() for h in handles] == ["#00C000", "#E00000"]


def test_calibration_curves_have_a_line_a_method_and_the_diagonal():
    points = pd.DataFrame({"confidence": [0.5, 0.9], "accuracy": [0.4, 0.8], "count": [3, 9]})
    figure = plots.reliability({"plain": points, "10 samples": points}, source="phantom")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["calibrated", "plain", "10 samples"]
    assert lines[1].get_ydata().tolist() == [0.4, 0.8]
