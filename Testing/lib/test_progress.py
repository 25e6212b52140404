"""Progress tells the time left from the pace of this run, and cancelling stops the work at its next unit."""

from __future__ import annotations

import pytest

from PartialSegLib.errors import CancelledError
from PartialSegLib.progress import Monitor, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("PartialSegLib.progress.time.monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_pace_of_the_stage(clock: list[float]) -> None:
    reports: list[Progress] = []
    monitor = Monitor(reports.append)
    monitor.step("read", 0, 1)
    clock[0] += 50
    monitor.step("segment", 0, 10)
    clock[0] += 4
    monitor.step("segment", 2, 10)
    assert [report.seconds_left for report in reports] == [None, None, pytest.approx(16.0)]


def test_work_of_an_earlier_run_does_not_count_as_done_in_no_time(clock: list[float]) -> None:
    reports: list[Progress] = []
    monitor = Monitor(reports.append)
    monitor.step("train", 900, 1000)
    clock[0] += 10
    monitor.step("train", 910, 1000)
    assert [report.seconds_left for report in reports] == [None, pytest.approx(90.0)]


def test_a_cancelled_monitor_stops_the_work(clock: list[float]) -> None:
    monitor = Monitor()
    monitor.step("segment", 1, 10)
    monitor.cancel()
    with pytest.raises(CancelledError, match="'segment' \\(2 of 10\\)"):
        monitor.step("segment", 2, 10)


def test_a_silent_monitor_is_cancelled_with_its_owner_and_reports_nothing() -> None:
    told: list[Progress] = []
    monitor = Monitor(told.append)
    inner = monitor.silent()
    inner.step("segment", 0, 2)
    assert not told
    monitor.cancel()
    with pytest.raises(CancelledError, match="segment"):
        inner.step("segment", 1, 2)
