"""What the figures say about three claims of DoDNet's Section 4.3, in sentences.

A difference counts when it is larger than the spread over seeds (the larger of the two standard
deviations); otherwise the sentence says that the runs do not tell. Called by the documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.benchmark.results import Estimate, SystemResult, structure_groups

#: Systems that are told the task, in a single network.
_CONDITIONED = ("cond-input", "cond-dec", "dodnet", "tgnet", "multitalent-unet", "multitalent-resenc")


def verdicts(results: Sequence[SystemResult], space: LabelSpace) -> list[str]:
    """Return one sentence for each claim that these systems can tell something about."""
    by_key = {result.system.key: result for result in results}
    organs, _ = structure_groups(space)
    sentences = []
    if "cond-no" in by_key:
        told = [by_key[key] for key in _CONDITIONED if key in by_key]
        sentences += _without_condition(by_key["cond-no"], told, organs)
    sentences += [
        _one_for_seven(by_key[key], by_key["dodnet"])
        for key in ("multi-nets", "multi-nets-7")
        if {key, "dodnet"} <= by_key.keys()
    ]
    if {"cond-input", "cond-dec", "dodnet"} <= by_key.keys():
        sentences.append(_dynamic_head([by_key["cond-input"], by_key["cond-dec"]], by_key["dodnet"]))
    return sentences


def compare(first: Estimate, second: Estimate) -> int:
    """Return 1 when `first` is higher by more than the spread over seeds, -1 when lower, 0 when neither.

    With one seed there is no spread to judge by, and the answer is 0.
    """
    spread = max(first.deviation, second.deviation)
    if math.isnan(first.mean) or math.isnan(second.mean) or math.isnan(first.deviation + second.deviation):
        return 0
    difference = first.mean - second.mean
    return 0 if abs(difference) <= spread else (1 if difference > 0 else -1)


def _without_condition(alone: SystemResult, told: Sequence[SystemResult], organs: Sequence[str]) -> list[str]:
    if not told:
        return []
    best = max(told, key=lambda result: result.group_dice(organs).mean)
    mine, theirs = alone.group_dice(organs), best.group_dice(organs)
    verdict = {-1: "Confirmed", 0: "Not told by these runs", 1: "Contradicted"}[compare(mine, theirs)]
    return [
        f"{verdict}: a single network that is not told the task fails. Cond-NO has {mine.text(1, 100)} % on organs, "
        f"{best.system.name} {theirs.text(1, 100)} %."
    ]


def _one_for_seven(seven: SystemResult, one: SystemResult) -> str:
    order = compare(one.average_dice, seven.average_dice)
    verdict = {1: "Confirmed", 0: "Confirmed as a match", -1: "Contradicted"}[order]
    if math.isnan(one.average_dice.deviation):
        verdict = "Not told by one seed"
    share = one.parameters / seven.parameters
    budget = (
        "after as many steps in all: each of its networks made a seventh of them, which alone may explain it"
        if seven.system.rounds == 1
        else "after seven times the steps: each of its networks made as many as DoDNet"
    )
    return (
        f"{verdict}: one network is as good as seven. DoDNet has {one.average_dice.text(1, 100)} % with {share:.0%} of "
        f"the weights of Multi-Nets, which has {seven.average_dice.text(1, 100)} % {budget}."
    )


def _dynamic_head(others: Sequence[SystemResult], dodnet: SystemResult) -> str:
    best = max(others, key=lambda result: result.average_dice.mean)
    verdict = {1: "Confirmed", 0: "Not told by these runs", -1: "Contradicted"}[
        compare(dodnet.average_dice, best.average_dice)
    ]
    faster = best.case_seconds.mean / dodnet.case_seconds.mean
    return (
        f"{verdict}: filters made for the task are better than the task among the input or in the decoder. DoDNet has "
        f"{dodnet.average_dice.text(1, 100)} %, {best.system.name} {best.average_dice.text(1, 100)} %; DoDNet needs "
        f"{1 / faster:.2f} times its time a case."
    )
