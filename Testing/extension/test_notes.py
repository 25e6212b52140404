"""What is told of time and memory before a run, and of memory that ran out after it."""

from __future__ import annotations

from typing import Any

import pytest
from host import Host

from PartialSegSlicer.logic.notes import notesOf
from PartialSegSlicer.writing import WriteReport

PLAN = {"device": "cuda:0", "accumulated_on": "cuda:0", "groups": 1}
COSTS = {"wanted_device": "cuda:0", "seconds": 30.0, "host_bytes": 2 * 10**9, "device_bytes": 3 * 10**9}


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({}, ["About 30 s on the graphics card", "3.0 GB of memory"]),
        ({"device": "cpu", "accumulated_on": "cpu", "wanted_device": "cpu"}, ["About 30 s on the processor", "2.0 GB"]),
        ({"device": "cpu", "accumulated_on": "cpu"}, ["on the processor", "2.0 GB", "memory is too small"]),
        ({"accumulated_on": "cpu"}, ["on the graphics card", "3.0 GB", "collected in main memory"]),
        ({"groups": 4}, ["on the graphics card", "3.0 GB", "in 4 rounds, because memory is short"]),
    ],
)
def test_a_forecast_says_what_will_be_done_when_not_everything_fits(
    slicer_app: Host, plan: dict[str, Any], told: list[str]
) -> None:
    from PartialSegSlicer.panels.forecasts import forecastTexts

    texts = forecastTexts(COSTS | PLAN | plan)
    assert len(texts) == len(told)
    assert [words for words, text in zip(told, texts, strict=True) if words not in text] == []


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({}, "fewer windows at a time"),
        ({"groups": 2}, "in 2 rounds"),
        ({"accumulated_on": "cpu"}, "its results in main memory"),
        ({"device": "cpu", "accumulated_on": "cpu"}, "on the processor"),
    ],
)
def test_a_run_that_ran_out_of_memory_says_how_it_went_on(plan: dict[str, Any], words: str) -> None:
    report = WriteReport({}, {}, (), {}, {}, None)
    (note,) = notesOf((), report, {"memory_ran_out": True, "forecast": PLAN | plan})
    assert note.startswith("Memory ran out")
    assert words in note
    assert notesOf((), report, {"memory_ran_out": False, "forecast": PLAN | plan}) == ()
