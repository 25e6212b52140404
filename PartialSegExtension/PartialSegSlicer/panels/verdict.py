"""What a fine-tuning was worth, in the user's language; the figures are in the table below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _  # type: ignore[import-untyped]


def verdictOf(outcome: Any, nameOf: Callable[[str], str]) -> str:
    """Return whether the new model is better, and what it costs.

    Parameters
    ----------
    outcome : FineTuneOutcome
    nameOf : callable
        Returns what a structure is called, for its key.
    """
    return f"{_gain(outcome)} {_cost(outcome, nameOf)}"


def _gain(outcome: Any) -> str:
    if outcome.better is None:
        return _("Whether it became better is not known: no case was held out that shows what was trained.")
    if outcome.judgedBy == "leave-one-out":
        better, worse = (
            _("Better than its parent on cases left out in turn."),
            _("WORSE than its parent on cases left out in turn."),
        )
    else:
        better, worse = (
            _("Better than its parent on held-out cases."),
            _("WORSE than its parent on held-out cases."),
        )
    return better if outcome.better else worse


def _cost(outcome: Any, nameOf: Callable[[str], str]) -> str:
    before, after = outcome.before, outcome.after
    if outcome.regressions:
        lost = (f"{nameOf(key)} {100 * (after[key] - before[key]):+.1f}" for key in outcome.regressions)
        return _(
            "It costs other structures Dice points: {structures}; the parent stays the better choice for those."
        ).format(structures=", ".join(lost))
    if outcome.mode == "quick":
        return _("Every other task answers as before, bit for bit.")
    if any(key in before and key not in outcome.trained for key in after):
        return _("No other structure lost more than 1 Dice point.")
    return _("Nobody knows what became of other structures: no case shows them.")
