import math

import pandas as pd
import pytest
from scipy import stats

from segkit import statistics


def test_bootstrap_mean_leaves_out_what_is_undefined(rng):
    values = rng.normal(5, 1, 40)
    mean, low, high = statistics.bootstrap_mean([*values, math.nan, math.inf])
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / math.sqrt(40)
    assert low == pytest.approx(mean - half, abs=0.1 * half + 0.02)
    assert high == pytest.approx(mean + half, abs=0.1 * half + 0.02)
    assert statistics.bootstrap_mean(values) == (mean, low, high)


def test_bootstrap_mean_of_few():
    assert all(math.isnan(v) for v in statistics.bootstrap_mean([math.nan]))
    mean, low, high = statistics.bootstrap_mean([3.0])
    assert mean == 3
    assert math.isnan(low)
    assert statistics.bootstrap_mean([2.0, 2.0]) == (2, 2, 2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(rng):
    hits = 0
    for i in range(200):
        _, low, high = statistics.bootstrap_mean(rng.normal(0, 1, 30), resamples=500, seed=i)
        hits += low <= 0 <= high
    assert 175 <= hits <= 199


def test_paired_is_wilcoxon_with_holm(rng):
    table = pd.DataFrame({"a": rng.normal(0, 1, 12), "c": rng.normal(0, 1, 12)})
    table["b"] = table["a"] + 1 + 0.1 * rng.normal(size=12)
    out = statistics.paired(table[["a", "b", "c"]]).set_index(["a", "b"])
    p = {k: stats.wilcoxon(table[k[0]] - table[k[1]]).pvalue for k in out.index}
    for k, v in p.items():
        assert out.loc[k, "p"] == pytest.approx(v)
    ordered = sorted(p, key=p.get)
    assert out.loc[ordered[0], "p_holm"] == pytest.approx(min(1, 3 * p[ordered[0]]))
    assert out.loc[("a", "b"), "difference"] == pytest.approx((table["a"] - table["b"]).mean())


def test_paired_edge_cases():
    table = pd.DataFrame({"a": [1.0, 2.0, math.inf], "b": [1.0, 2.0, 3.0], "c": [math.nan, 1.0, math.nan]})
    out = statistics.paired(table).set_index(["a", "b"])
    assert out.loc[("a", "b"), ["n", "p"]].tolist() == [2, 1]
    assert math.isnan(out.loc[("a", "c"), "p"])
    with pytest.raises(ValueError, match="at least two columns"):
        statistics.paired(table[["a"]])
