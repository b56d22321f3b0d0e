import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

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


def test_paired_with_one_recipe_alone_corrects_for_fewer_tests(rng):
    table = pd.DataFrame(rng.normal(0, 1, (12, 3)), columns=list("abc"))
    out = statistics.paired(table, base="b")
    assert out[["a", "b"]].to_numpy().tolist() == [["b", "a"], ["b", "c"]]
    assert out["p_holm"].min() == pytest.approx(min(1, 2 * out["p"].min()))
    with pytest.raises(ValueError, match="no recipe 'd' to compare with"):
        statistics.paired(table, base="d")


def test_paired_edge_cases():
    table = pd.DataFrame({"a": [1.0, 2.0, math.inf], "b": [1.0, 2.0, 3.0], "c": [math.nan, 1.0, math.nan]})
    out = statistics.paired(table).set_index(["a", "b"])
    assert out.loc[("a", "b"), ["n", "p"]].tolist() == [2, 1]
    assert math.isnan(out.loc[("a", "c"), "p"])
    with pytest.raises(ValueError, match="at least two columns"):
        statistics.paired(table[["a"]])


# --- Fisher, Bonferroni, shares ---


def test_fisher_by_hand():
    # margins 3, 3 / 3, 3: first cells 0…3 have 1, 9, 9, 1 of 20 ways
    assert statistics.fisher_exact([[3, 0], [0, 3]]) == pytest.approx(2 / 20)
    assert statistics.fisher_exact([[2, 1], [1, 2]]) == pytest.approx(1)
    # margins 2, 2 / 2, 1, 1: rows (2,0,0) (1,1,0) (1,0,1) (0,1,1) have 1, 2, 2, 1 of 6 ways
    assert statistics.fisher_exact([[2, 0, 0], [0, 1, 1]]) == pytest.approx(2 / 6)
    assert statistics.fisher_exact([[1, 1, 0], [1, 0, 1]]) == pytest.approx(1)


def test_the_size_of_fishers_test_by_hand():
    table = [[3, 0], [0, 3]]  # of 20 tables' ways 1, 9, 9 and 1: p is .1, 1, 1, .1
    assert statistics.fisher_size(table, level=0.1) == pytest.approx(0.1)
    assert statistics.fisher_size(table, level=0.09) == 0
    assert statistics.fisher_size(table, level=1) == pytest.approx(1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.integers(1, 9, (2, 3))
        size = statistics.fisher_size(table, level=0.05)
        assert size <= 0.05
        drawn = stats.random_table(table.sum(axis=1), table.sum(axis=0), seed=rng).rvs(300)
        hits = sum(statistics.fisher_exact(t) <= 0.05 for t in drawn.astype(int))
        assert hits / 300 == pytest.approx(size, abs=5 * np.sqrt(max(size, 0.01) / 300))
    with pytest.raises(ValueError, match="two rows and at most millions of tables"):
        statistics.fisher_size(np.full((2, 8), 20), level=0.05)


def test_fisher_agrees_with_scipy_on_two_columns():
    rng = np.random.default_rng(0)
    for _ in range(200):
        table = rng.integers(0, 25, (2, 2))
        assert statistics.fisher_exact(table) == pytest.approx(stats.fisher_exact(table)[1], abs=1e-9), table


def test_fisher_agrees_with_drawn_tables_on_four_columns():
    rng = np.random.default_rng(1)
    cluster, half = np.repeat([0, 1, 2, 3], (12, 9, 15, 6)), np.repeat([0, 1], 21)
    table = np.array([[4, 7, 5, 5], [8, 2, 10, 1]])

    def logp(t):
        return -special.gammaln(np.asarray(t) + 1).sum()

    drawn = []
    for _ in range(20_000):
        order = rng.permutation(half)
        drawn.append(logp([[np.sum((order == h) & (cluster == c)) for c in range(4)] for h in (0, 1)]))
    p = np.mean(np.array(drawn) <= logp(table) + 1e-7)
    assert statistics.fisher_exact(table) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 20_000))


def test_fisher_does_not_mind_order_and_empty_columns():
    rng = np.random.default_rng(2)
    for _ in range(50):
        table = rng.integers(0, 8, (2, 5))
        p = statistics.fisher_exact(table)
        assert 0 < p <= 1
        assert statistics.fisher_exact(table[::-1, rng.permutation(5)]) == pytest.approx(p)
        assert statistics.fisher_exact(np.c_[table, [0, 0]]) == pytest.approx(p)
    assert statistics.fisher_exact([[5, 3], [0, 0]]) == 1
    assert statistics.fisher_exact([[5], [2]]) == 1


def test_fisher_of_three_rows_is_near_the_exact_value():
    diagonal = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    ways = {}
    for order in itertools.permutations((0, 0, 1, 2)):
        key = tuple(np.bincount(3 * np.array([0, 0, 1, 2]) + np.array(order), minlength=9))
        ways[key] = ways.get(key, 0) + 1
    own = ways[tuple(np.ravel(diagonal))]
    exact = sum(n for n in ways.values() if n <= own) / sum(ways.values())
    assert statistics.fisher_exact(diagonal) == pytest.approx(exact, abs=0.02)
    assert statistics.fisher_exact(diagonal) == statistics.fisher_exact(diagonal)
    assert statistics.fisher_exact(np.array(diagonal) * 12) < 1e-4


def test_fisher_of_two_columns_is_exact_and_of_many_does_not_fill_the_memory():
    table = np.array([[3, 1], [0, 4], [2, 2]])
    assert statistics.fisher_exact(table) == statistics.fisher_exact(table.T)
    wide = np.tile([[10, 4], [4, 10]], 5)
    assert statistics.fisher_exact(wide) < 0.01


@pytest.mark.parametrize("table", [[1, 2], [[1, -1], [2, 2]], [[0.5, 1], [1, 1]]])
def test_fisher_refuses_what_is_no_table_of_counts(table):
    with pytest.raises(ValueError, match=r"rows and columns|whole numbers"):
        statistics.fisher_exact(table)


def test_bonferroni_counts_the_tests_that_were_made():
    assert statistics.bonferroni([0.01, 0.2, np.nan]) == pytest.approx([0.02, 0.4, np.nan], nan_ok=True)
    assert statistics.bonferroni([0.01, 0.2], tests=10) == pytest.approx([0.1, 1])


def test_binomial_interval_of_no_hit():
    share, low, high = statistics.binomial_interval(0, 100)
    assert (share, low) == (0, 0)
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))


# -- calibration


def test_reliability_of_a_hand_worked_case():
    points = statistics.reliability([0.95, 0.85, 0.85, 1.0, 0.3], [True, True, False, True, False], bins=10)
    assert points["confidence"].tolist() == pytest.approx([0.3, 0.85, 0.975])
    assert points["accuracy"].tolist() == pytest.approx([0, 0.5, 1])
    assert points["count"].tolist() == [1, 2, 2]
    assert statistics.calibration_error(points) == pytest.approx((0.3 + 2 * 0.35 + 2 * 0.025) / 5)


def test_predictions_as_often_right_as_they_say_are_calibrated(rng):
    confidence = rng.uniform(0.25, 1, 200_000)
    points = statistics.reliability(confidence, rng.random(confidence.size) < confidence)
    assert statistics.calibration_error(points) < 0.005
    assert statistics.calibration_error(statistics.reliability(confidence, np.ones(confidence.size, bool))) > 0.3


def test_reliability_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="confidences are probabilities"):
        statistics.reliability([1.2], [True])
    with pytest.raises(ValueError, match="2 confidences and 1 outcomes"):
        statistics.reliability([0.5, 0.5], [True])
