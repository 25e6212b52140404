"""The gate: what a new model gained and lost, said plainly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.finetuning import FineTuneOptions, FineTuneResult
from PartialSegTraining.finetuning.judging import judge

MOTS = LabelSpace.named("mots")


def test_a_gain_is_a_gain() -> None:
    judgment = judge(MOTS, ["liver"], {"liver": 0.8, "spleen": 0.9}, {"liver": 0.9, "spleen": 0.895}, "held-out")
    assert (judgment.better, judgment.regressions) == (True, ())
    assert "Better than its parent on held-out cases, by Dice: Liver 0.800 to 0.900." in judgment.verdict
    assert "No other structure lost more than 1 Dice point" in judgment.verdict


def test_more_than_one_point_lost_elsewhere_is_a_regression() -> None:
    judgment = judge(MOTS, ["liver"], {"liver": 0.8, "spleen": 0.9}, {"liver": 0.9, "spleen": 0.88}, "held-out")
    assert judgment.regressions == ("spleen",)
    assert "Spleen -2.0" in judgment.verdict


def test_worse_is_said_plainly() -> None:
    judgment = judge(MOTS, ["liver"], {"liver": 0.8}, {"liver": 0.7}, "held-out")
    assert judgment.better is False
    assert judgment.verdict.startswith("WORSE than its parent")


def test_gains_are_weighed_over_all_trained_structures() -> None:
    before, after = {"liver": 0.8, "liver_tumor": 0.5}, {"liver": 0.79, "liver_tumor": 0.6}
    judgment = judge(MOTS, ["liver", "liver_tumor"], before, after, "held-out")
    assert (judgment.better, judgment.regressions) == (True, ())


def test_without_a_case_that_can_tell_nothing_is_claimed() -> None:
    judgment = judge(MOTS, ["liver"], {"spleen": 0.9}, {"spleen": 0.7}, "nothing")
    assert judgment.better is None
    assert judgment.regressions == ("spleen",)
    assert "not known" in judgment.verdict


@pytest.mark.parametrize(
    ("better", "regressions", "recommended"),
    [(True, (), True), (True, ("spleen",), False), (False, (), False), (None, (), False)],
)
def test_only_a_judged_gain_without_loss_is_recommended(
    better: bool | None, regressions: tuple[str, ...], recommended: bool
) -> None:
    result = FineTuneResult(Path("m"), "quick", {}, {"liver": 0.5}, regressions, better, "Words.", 1.26)
    assert result.recommended == recommended
    document = json.loads(json.dumps(result.to_json()))
    assert (document["recommended"], document["seconds"], document["bundle"]) == (recommended, 1.3, "m")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"head_learning_rate": -1.0}, {"batch": 0}, {"seed": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FineTuneOptions(**wrong)  # type: ignore[arg-type]
