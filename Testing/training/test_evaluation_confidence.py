"""Intervals and tests: right where the answer is known, silent where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from PartialSegLib.errors import CollectionError
from PartialSegLib.metrics import Score
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.confidence import holm, mean_intervals, resample, resampled_means, wilcoxon_p
from PartialSegTraining.evaluation.comparison import compare_tables
from PartialSegTraining.scoretable import CaseScores, ScoreTable

MOTS = LabelSpace.named("mots")


def scored(dice: float, *, empty: bool = False) -> Score:
    volume = 0.0 if empty else 1.0
    return Score("liver", dice, 1.0, dice, 1.0, 2.0, volume, volume)


def table(*dice: float | None, prefix: str = "case") -> ScoreTable:
    """One liver a case; ``None`` where prediction and reference are both empty."""
    cases = (
        CaseScores(f"{prefix}{at}", (scored(1.0, empty=True) if value is None else scored(value),))
        for at, value in enumerate(dice)
    )
    return ScoreTable(MOTS.structures, tuple(cases), 2.0, {})


def test_every_draw_has_as_many_cases_as_there_are() -> None:
    counts = resample(7, draws=50, seed=1)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, resample(7, draws=50, seed=1))


def test_a_mean_over_a_draw_leaves_out_what_is_undefined() -> None:
    values = np.array([[1.0, np.nan], [0.0, 0.5], [0.5, np.nan]])
    means = resampled_means(values, np.array([[2.0, 1.0, 0.0], [1.0, 0.0, 2.0]]))
    assert means[0] == pytest.approx([2 / 3, 0.5])
    assert means[1][0] == pytest.approx(2 / 3)
    assert math.isnan(means[1][1])


def test_the_interval_of_many_cases_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, (400, 1))
    (found,) = mean_intervals(values, [[0]])
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_structures_of_a_case_stay_together() -> None:
    """Two structures that always cancel out have a mean without any spread."""
    first = np.random.default_rng(0).uniform(0, 1, (20, 1))
    (both,) = mean_intervals(np.hstack([first, 1 - first]), [[0, 1]])
    assert both.low == pytest.approx(0.5)
    assert both.high == pytest.approx(0.5)


def test_one_case_has_no_interval() -> None:
    (found,) = mean_intervals(np.array([[0.5]]), [[0]])
    assert not found.known
    assert found.to_json() is None


def test_a_structure_in_a_single_case_has_no_interval_beside_one_in_many() -> None:
    values = np.array([[0.5, 0.5], [0.6, np.nan], [0.7, np.nan]])
    many, single = mean_intervals(values, [[0], [1]])
    assert many.known
    assert not single.known


def test_the_test_is_that_of_scipy_on_the_defined_differences() -> None:
    differences = np.array([0.1, 0.2, -0.05, 0.3, 0.15, 0.25, np.nan, 0.08])
    known = differences[~np.isnan(differences)]
    assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(known, zero_method="pratt").pvalue)


def test_few_cases_give_no_p_value_and_equal_ones_the_highest() -> None:
    assert math.isnan(wilcoxon_p(np.array([0.1, 0.2, 0.3])))
    assert wilcoxon_p(np.zeros(8)) == 1.0


def test_many_tests_are_corrected_as_holm_says() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.6, math.nan, 0.9])
    assert corrected[0] == 1.0
    assert math.isnan(corrected[1])


def test_a_better_model_is_told_from_chance() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 0.7, 12)
    better, same = first + rng.uniform(0.05, 0.15, 12), first + rng.normal(0, 0.01, 12)
    found = compare_tables(table(*first), table(*better), ("a", "b")).structures["liver"]
    assert found.p < 0.01
    assert found.interval.low > 0.05
    assert found.difference == pytest.approx((better - first).mean())
    assert compare_tables(table(*first), table(*same), ("a", "b")).structures["liver"].p > 0.05


def test_a_structure_that_one_model_invents_counts_against_it() -> None:
    """The reference is empty: the first model is right, the second is not."""
    found = compare_tables(table(0.8, None), table(0.8, 0.0), ("a", "b")).structures["liver"]
    assert found.cases == 2
    assert (found.first, found.second) == pytest.approx((0.9, 0.4))


def test_a_structure_that_is_rightly_absent_in_both_answers_says_nothing() -> None:
    found = compare_tables(table(0.8, None), table(0.7, None), ("a", "b")).structures["liver"]
    assert found.cases == 1


def test_models_without_common_cases_cannot_be_compared() -> None:
    with pytest.raises(CollectionError, match="no case in common"):
        compare_tables(table(0.5), table(0.5, prefix="other"), ("a", "b"))


def test_the_table_of_means_shows_intervals_of_structures_and_groups() -> None:
    scores = table(0.5, 0.6, 0.7, 0.8)
    entry = scores.report()["structures"]["liver"]
    low, high = entry["dice_interval"]
    assert 0.5 <= low < entry["dice"] < high <= 0.8
    assert scores.report()["groups"]["organs"]["dice_interval"] == [low, high]
    assert f"{low:.3f} to {high:.3f}" in scores.text()
