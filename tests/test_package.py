"""The house: import time, one address, small files, names that others build on."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*/[0-9]*.ipynb")) + sorted(
    ROOT.glob("results_dir/*/full/notebooks/[0-9]*.ipynb")
)
SOURCES = ("benchmarks", "notebooks", "segkit", "tests")


def tracked():
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # an archive without git
        found = [*ROOT.glob("*.*"), *(p for name in SOURCES for p in (ROOT / name).rglob("*"))]
        return [
            p
            for p in found
            if p.suffix in (".py", ".md", ".ipynb", ".csv", ".txt", ".toml") and ".peers" not in p.parts
        ]
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_import_is_quick_and_brings_no_keras():
    code = "import sys, time; t = time.perf_counter(); import segkit; print(time.perf_counter() - t, 'keras' in sys.modules)"
    seconds, keras = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.5
    assert keras == "False"


@pytest.mark.parametrize(
    "module", ["volumes", "metrics", "patches", "statistics", "shape", "legacy", "labels", "intensity", "splits"]
)
def test_lower_floors_bring_no_keras(module):
    code = f"import sys; from segkit import {module}; print('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_names_that_others_build_on():
    from segkit import inference, metrics, models, patches, phantoms, report, statistics, training, volumes
    from segkit.studies import ibsr

    expected = {
        volumes.downsample: ("image", "factor", "*kind"), volumes.resample: ("image", "*kind", "*spacing_mm", "*like"),
        patches.patchify: ("array", "size", "step"), patches.unpatchify: ("patches", "shape", "step", "*window"),
        metrics.hd95: ("truth", "prediction", "*spacing_mm", "*pooled"), metrics.dice: ("truth", "prediction"),
        metrics.wmh_challenge: ("truth", "prediction", "*spacing_mm"), phantoms.write: ("study", "folder", "*subjects", "*seed"),
        report.three_columns: ("reported", "legacy", "corrected"), ibsr.measure: ("mask", "scan"), ibsr.segment: ("scan", "*model"),
        statistics.paired: ("table",), inference.predict: ("model", "image", "*output"), models.build: ("name",),
        training.fit: ("model", "train", "validation", "*run"),
    }  # fmt: skip
    for function, names in expected.items():
        parameters = inspect.signature(function).parameters
        found = [
            ("*" if p.kind is p.KEYWORD_ONLY else "") + n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD
        ]
        assert tuple(found)[: len(names)] == names, function


def test_every_public_function_has_a_docstring():
    import importlib
    import pkgutil

    import segkit

    for info in pkgutil.walk_packages(segkit.__path__, "segkit."):
        module = importlib.import_module(info.name)
        assert module.__doc__, info.name
        for name, thing in vars(module).items():
            if not name.startswith("_") and getattr(thing, "__module__", "") == info.name and callable(thing):
                assert inspect.getdoc(thing), f"{info.name}.{name}"


def test_no_file_is_too_big_and_nothing_binary_but_figures_and_models():
    allowed = (".png", ".keras", ".atlas.nii.gz")  # the last is part of the released model beside it
    for path in tracked():
        assert path.stat().st_size < 5e6, path
        if not path.name.endswith(allowed):
            path.read_text(encoding="utf-8")


def test_no_path_of_a_machine_stands_in_a_file():
    pattern = re.compile(r"(?<![\w~-])/(home|root|Users|work|tmp|mnt)/\w")
    for path in tracked():
        if path.suffix in (".py", ".md", ".ipynb", ".csv", ".json", ".txt", ".toml"):
            hit = pattern.search(path.read_text(encoding="utf-8"))
            assert hit is None, f"{path.name}: {hit.group()}"


# -- notebooks ---------------------------------------------------------------------------------------------------------


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def address():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.relative_to(ROOT).as_posix())
def notebook(request):
    return request.param


def test_notebooks_are_executed_top_to_bottom_without_error(notebook):
    assert notebook.stat().st_size <= 1.5e6
    code = [c for c in cells(notebook)]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


def test_notebooks_begin_as_promised(notebook):
    both = nbformat.read(notebook, as_version=4).cells
    head = both[0].source
    assert head.startswith("# ")
    for word in ("**In**", "**Out**", "**Time on two cores**", "**Aims at**"):
        assert word in head
    assert '"google.colab" in sys.modules' in both[1].source
    assert "parameters" in both[2].metadata.get("tags", [])
    for name in ("PROFILE", "DATA", "RESULTS", "SEED"):
        assert f"\n{name} = " in "\n" + both[2].source
    tagged = [c for c in both if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1


def test_badges_and_set_up_agree_with_the_one_address(notebook):
    text = notebook.read_text()
    found = set(re.findall(r"https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob", text))
    assert found == {address().removeprefix("https://github.com/")}
    cloned = set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text))
    assert cloned == {address()}
    name = (
        f"{notebook.parent.name}/{notebook.name}"
        if "results_dir" not in notebook.parts
        else f"{notebook.parts[-4]}/{notebook.name}"
    )
    assert f"/blob/main/notebooks/{name})" in text


def test_notebooks_define_nothing_and_keep_cells_short(notebook):
    for cell in cells(notebook):
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M)
        assert len(cell.source.splitlines()) <= 18


def test_full_notebooks_hold_no_picture_of_a_real_subject():
    """In a run on real data, images are drawn by functions that are told the source, and these draw a card of text."""
    draws = r"plots\.(panels|three_planes|contours|frames|surface|points|surface_still|thresholds|threshold_explorer)\("
    for path in ROOT.glob("results_dir/*/full/notebooks/*.ipynb"):
        for cell in cells(path):
            assert not re.search(r"^SHOW_REAL_SUBJECTS = True", cell.source, re.MULTILINE)
            for line in cell.source.splitlines():
                assert not re.search(draws, line) or "source=run.source" in line, line
            assert "imshow" not in cell.source


def test_some_of_a_studys_notebooks_can_be_run_alone():
    spec = importlib.util.spec_from_file_location("run", ROOT / "notebooks" / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    assert [p.name for p in run.notebooks("ibsr", ["04", "03"])] == ["03_training.ipynb", "04_testing.ipynb"]
    assert [p.name[:2] for p in run.notebooks("atrium")] == ["01", "02", "03", "04", "05"]
    with pytest.raises(SystemExit, match="ibsr has no notebook 77; its numbers are 00, 01, 02"):
        run.notebooks("ibsr", ["03", "77"])
