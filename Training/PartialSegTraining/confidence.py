"""How far a mean over cases can be trusted: bootstrap intervals and paired tests.

Cases are drawn again with replacement, whole: the structures of a case stay together, so that the
interval of a group mean knows that they depend on each other. The draws are seeded, so that a
report is the same whenever it is made. Called by the score table and the comparison of models.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

#: Draws of a bootstrap, and the share of them that an interval holds.
DRAWS, LEVEL = 5000, 0.95
#: Cases below which an interval says little: fewer differ by chance alone.
FEW = 6


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with 95 % confidence (percentile bootstrap over cases).

    Parameters
    ----------
    low, high : float
        Its ends; ``nan`` with fewer than two cases.
    """

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return not np.isnan(self.low + self.high)

    def to_json(self) -> list[float] | None:
        """Return both ends rounded, ``None`` where there is none."""
        return [round(self.low, 5), round(self.high, 5)] if self.known else None


def resample(cases: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Draw `cases` cases with replacement, again and again.

    Returns
    -------
    numpy.ndarray
        float64 (draws, cases): how often each case was drawn.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(cases, np.full(cases, 1.0 / cases), size=draws).astype(np.float64)


def resampled_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of each column for each draw; undefined values (``nan``) are left out.

    Parameters
    ----------
    values : numpy.ndarray
        (cases, structures).
    counts : numpy.ndarray
        (draws, cases), from :func:`resample`.

    Returns
    -------
    numpy.ndarray
        (draws, structures); ``nan`` where a draw has no defined value.
    """
    defined = ~np.isnan(values)
    sums, numbers = counts @ np.where(defined, values, 0.0), counts @ defined.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = sums / numbers
    return means


def interval(means: np.ndarray, cases: int) -> Interval:
    """Return the interval that holds :data:`LEVEL` of the draws' means.

    Parameters
    ----------
    means : numpy.ndarray
        (draws,); those that are not defined are left out.
    cases : int
        Cases with a defined value; fewer than two have no interval.
    """
    if cases < 2:
        return Interval(float("nan"), float("nan"))
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.nanpercentile(means, (tail, 100.0 - tail))
    return Interval(float(low), float(high))


def mean_intervals(values: np.ndarray, groups: list[list[int]]) -> list[Interval]:
    """Return the interval of the mean over structures of each group.

    Parameters
    ----------
    values : numpy.ndarray
        (cases, structures); ``nan`` where a case says nothing about a structure.
    groups : list of list of int
        Columns of each group, as many as there are intervals; every structure counts alike.
    """
    if not len(values):
        return [Interval(float("nan"), float("nan")) for _ in groups]
    means = resampled_means(values, resample(len(values)))
    found = []
    for columns in groups:
        cases = int((~np.isnan(values[:, columns])).any(axis=1).sum())
        found.append(interval(mean_over_columns(means[:, columns]), cases))
    return found


def mean_over_columns(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row, undefined values left out; ``nan`` where a row has none."""
    with warnings.catch_warnings():
        # A row without any value is expected, and its answer is nan.
        warnings.simplefilter("ignore", RuntimeWarning)
        means: np.ndarray = np.nanmean(values, axis=1)
    return means


def wilcoxon_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test of paired differences.

    Cases without a difference are shared between both signs (Pratt). ``nan`` with fewer than
    :data:`FEW` defined cases, where the test cannot reach 5 %; 1 when no case differs.
    """
    from scipy import stats

    known = differences[~np.isnan(differences)]
    if len(known) < FEW:
        return float("nan")
    if not known.any():
        return 1.0
    return float(stats.wilcoxon(known, zero_method="pratt").pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected for testing all of them (Holm, 1979); undefined ones stay so."""
    order = sorted((index for index, p in enumerate(p_values) if not np.isnan(p)), key=lambda index: p_values[index])
    corrected, highest = list(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
