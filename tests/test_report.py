import math

import numpy as np
import pandas as pd
import pytest

from segkit import report


def long(values, label="CSF", metric="Dice"):
    return pd.DataFrame(
        {"label": label, "metric": metric, "subject": [f"s{i}" for i in range(len(values))], "value": values}
    )


def printed(**more):
    rows = [{"label": "CSF", "metric": "Dice", "value": 0.82}, {"label": "GM", "metric": "Dice", "value": 0.9}]
    return pd.DataFrame(rows)


def test_three_columns_by_hand():
    corrected = pd.concat([long([0.7, 0.9, math.nan, math.inf]), long([1.0, 2.0], metric="HD95")])
    out = report.three_columns(printed(), long([0.8, 0.6]), corrected)
    assert list(out.columns) == ["reported", "legacy", "corrected", "low", "high", "n", "excluded"]
    row = out.loc[("CSF", "Dice")]
    assert row[["reported", "legacy", "corrected", "n", "excluded"]].tolist() == [0.82, 0.7, 0.8, 2, 2]
    assert 0.7 <= row["low"] <= 0.8 <= row["high"] <= 0.9
    assert math.isnan(out.loc[("CSF", "HD95"), "reported"])
    assert out.loc[("GM", "Dice"), "reported"] == 0.9
    assert math.isnan(out.loc[("GM", "Dice"), "corrected"])


def test_three_columns_refuses_tables_that_do_not_fit():
    with pytest.raises(ValueError, match="legacy has the columns"):
        report.three_columns(printed(), long([1.0]).drop(columns="metric"), long([1.0]))
    with pytest.raises(ValueError, match="corrected has the columns"):
        report.three_columns(printed(), long([1.0]), long([1.0]).drop(columns="subject"))
    with pytest.raises(ValueError, match="twice"):
        report.three_columns(pd.concat([printed(), printed()]), long([1.0]), long([1.0]))


def test_markdown_shows_dashes_for_nothing():
    table = pd.DataFrame({"a": [1.23456, math.nan], "b": ["x|y", None]}, index=pd.Index(["p", "q"], name="k"))
    assert (
        report.markdown(table, digits=2) == "| k | a | b |\n| --- | --- | --- |\n| p | 1.23 | x\\|y |\n| q | – | – |\n"
    )


def test_tables_are_saved_in_three_forms_and_read_back(tmp_path):
    out = report.three_columns(printed(), long([0.8]), long([0.7, 0.9]))
    path = report.save(out, tmp_path / "t" / "three_columns_net.v2", note="a note")
    assert sorted(p.name for p in path.parent.iterdir()) == [f"three_columns_net.v2.{s}" for s in ("csv", "html", "md")]
    back = pd.read_csv(path, index_col=[0, 1])
    np.testing.assert_allclose(back["corrected"].astype(float), out["corrected"].astype(float))
    assert "a note" in path.with_name("three_columns_net.v2.md").read_text()
