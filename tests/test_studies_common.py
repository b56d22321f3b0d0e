import os
import pathlib
import subprocess
import sys
import time

import keras
import pandas as pd
import pytest

from segkit import models, report
from segkit.studies import common, results


def test_paths_are_shown_without_the_machine(tmp_path, monkeypatch):
    inside = common.home() / "results_dir" / "x"
    assert common.shown(inside) == "results_dir/x"
    monkeypatch.chdir(tmp_path)
    assert common.shown(tmp_path / "y" / "z") == "y/z"
    assert common.shown("/somewhere/alice/ibsr18") == "…/ibsr18"


def test_another_seed_and_own_data_get_a_folder_of_their_own():
    folder = common.results_folder
    assert folder("ibsr", "quick") == common.home() / "results_dir" / "ibsr" / "quick"
    assert folder("ibsr", "full", data="x").name == "full"
    assert folder("ibsr", "quick", seed=1).name == "quick_seed1"
    assert folder("ibsr", "quick", data="x").name == "quick_data"
    assert folder("wmh", "full", data="x", of_phantoms=True).name == "full_data"  # its full profile has phantoms, too
    assert folder("wmh", "full", of_phantoms=True).name == "full"


def test_packages_leave_their_command_line_to_be_run():
    """``python -m`` warns of a module that its package has imported already."""
    code = (
        "import importlib, sys; studies = ('ibsr', 'atrium', 'lgg', 'wmh', 'qsm')\n"
        "for s in studies: importlib.import_module('segkit.studies.' + s)\n"
        "print([s for s in studies if f'segkit.studies.{s}.experiments' in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=common.ROOT, capture_output=True, text=True)
    assert told.stdout.split() == ["[]"], told.stderr[-2000:]


def test_marks_of_digits_alone_are_read_as_text(tmp_path):
    path = tmp_path / "rows.csv"
    common.add_rows(path, pd.DataFrame(), pd.DataFrame({"cell": ["a"], "settings": ["0552e9"], "recipe": ["r"]}))
    assert common.read_rows(path, "r")["settings"].tolist() == ["0552e9"]


def test_a_package_that_imports_lazily_still_names_what_it_lacks():
    from segkit.studies import qsm

    assert qsm.experiments.__name__ == "segkit.studies.qsm.experiments"
    with pytest.raises(AttributeError, match="module 'segkit.studies.qsm' has no attribute 'nose'"):
        _ = qsm.nose


def test_splits_and_published_tables_ship_with_the_package():
    assert len(common.split("ibsr", "training")) == 10
    assert len(common.published("ibsr")) == 114
    with pytest.raises(FileNotFoundError, match="no such subject list"):
        common.split("ibsr", "nothing")


def test_what_is_missing_names_the_notebook_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run 01_padding first"):
        common.need(tmp_path / "no.nii", "01_padding")


def test_network_table_adds_up():
    model = models.build("ibsr_unet2d_4level")
    table = common.network_table(model)
    assert table.loc["all", "parameters"] == model.count_params() == table["parameters"].iloc[:-1].sum()
    assert {"down1", "bottom", "up1", "head"} <= set(table.index)
    assert isinstance(model, keras.Model)


def test_the_results_page_is_made_from_the_files_on_disk(tmp_path):
    assert "No table yet" in results.gather(tmp_path)
    table = pd.DataFrame({"corrected": [0.5]}, index=pd.Index(["CSF"], name="label"))
    report.save(table, tmp_path / "ibsr" / "quick" / "tables" / "three_columns_net", note="what it means")
    claims = pd.DataFrame({"claim": ["c"], "verdict": ["holds"]})
    report.save(claims, tmp_path / "ibsr" / "quick" / "tables" / "claims")
    (tmp_path / "ibsr" / "quick" / "tables" / "recipes.csv").write_text("recipe,scored\nnet,2026-11-21\n")
    page = results.gather(tmp_path)
    assert "held-out subjects so far: 1" in page
    report.save(table, tmp_path / "ibsr" / "quick" / "tables" / "three_columns_without_note")
    assert "without_note" in results.gather(tmp_path)
    assert "No table yet" in results.gather(tmp_path / "nowhere")
    report.save(claims.assign(claim="alone"), tmp_path / "qsm" / "full" / "tables" / "claims_genomics")
    assert "| alone | holds |" in results.gather(tmp_path)  # without three columns
    for part in ("## ibsr, quick (phantom)", "| CSF | 0.500 |", "what it means", "| c | holds |"):
        assert part in page


def test_a_function_alone_returns_what_it_returns_and_says_why_it_failed():
    assert common.alone(divmod, 7, 2) == (3, 1)
    assert common.alone(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError, match=r"(?s)divmod ended with code 1 in its own process.*ZeroDivisionError"):
        common.alone(divmod, 7, 0)


def test_a_process_alone_ends_with_the_one_that_started_it(tmp_path):
    told = tmp_path / "pid"
    code = "import pathlib, sys, time; from segkit.studies import common; from tests.test_studies_common import says_and_sleeps\n"
    code += "common.alone(says_and_sleeps, sys.argv[1])"
    parent = subprocess.Popen([sys.executable, "-c", code, str(told)], cwd=common.ROOT)
    child = int(until(lambda: told.is_file() and told.read_text()))
    parent.kill()
    parent.wait()
    assert until(lambda: not alive(child))


def says_and_sleeps(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def alive(process) -> bool:
    state = pathlib.Path(f"/proc/{process}/stat")
    return state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(ready, seconds=60):
    """What ``ready()`` says once it says something, within ``seconds``."""
    for _ in range(10 * seconds):
        if answer := ready():
            return answer
        time.sleep(0.1)
    raise TimeoutError
