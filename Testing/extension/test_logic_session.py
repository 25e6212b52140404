"""One job at a time and questions in between: what is withdrawn, what is refused, what a callback may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from logic_cases import TASKS, large_scan, spin, spin_until_underway, unexpected
from worker_cases import until

from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.logic.errors import BusyError
from PartialSegSlicer.logic.jobs import Job
from PartialSegSlicer.logic.session import Session
from PartialSegWorker.errors import WorkerError
from slicer_scene import SlicerScene


def test_devices_and_forecasts_are_answered_and_start_no_run(logic: Any, volume: Any, random_model: Path) -> None:
    found = logic.devices()
    assert found["devices"][0]["key"] == "cpu"
    answer = logic.forecast(volume, tasks=TASKS, model=str(random_model), device="cpu")
    assert answer["device"] == "cpu"
    assert answer["windows"] > 1
    assert answer["host_bytes"] > 0
    assert not logic.busy


def test_a_newer_forecast_and_a_run_withdraw_the_older_question(logic: Any, volume: Any, random_model: Path) -> None:
    told: list[tuple[str, Any]] = []

    def ask(name: str) -> Any:
        return logic.forecast(
            volume,
            tasks=TASKS,
            model=str(random_model),
            device="cpu",
            onFinished=lambda answer: told.append((name, answer["device"])),
            onError=lambda error: told.append((name, error.code)),
        )

    first, second = ask("first"), ask("second")
    run = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu", onError=unexpected)
    until(lambda: logic.poll() or (first.ended and second.ended and run.ended))
    assert sorted(told) == [("first", "cancelled"), ("second", "cancelled")]
    assert run.state == "finished"


def test_during_a_run_everything_that_needs_the_worker_is_refused_and_the_list_of_models_is_not(
    logic: Any, volume: Any, random_model: Path
) -> None:
    run = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu", onError=unexpected)
    for call in (
        logic.unload,
        logic.devices,
        logic.setupState,
        logic.undoLastRun,
        lambda: logic.setPython(""),
        lambda: logic.removeModel("some-model"),
        lambda: logic.forecast(volume),
    ):
        with pytest.raises(BusyError, match=r"has to wait: another job \(segmenting\) is running\.") as raised:
            call()
        assert raised.value.hint
    assert logic.models()["models"]
    spin(logic, run)
    assert run.state == "finished"


def test_a_callback_may_start_the_next_run(logic: Any, volume: Any, random_model: Path) -> None:
    settings = {"model": str(random_model), "device": "cpu", "onError": unexpected}
    started: list[Any] = []

    def go_on(result: Any) -> None:
        node = result.segmentationNode
        started.append(logic.segment(volume, tasks=["spleen"], segmentationNode=node, **settings))

    run = logic.segment(volume, tasks=["liver"], **settings, onFinished=go_on)
    until(lambda: logic.poll() or (started and started[0].ended))
    assert run.state == started[0].state == "finished"
    segmentation = started[0].result.segmentationNode.GetSegmentation()
    assert {"liver", "spleen"} <= set(segmentation.GetSegmentIDs())


def test_what_a_callback_raises_reaches_whoever_polls_and_the_next_run_works(
    logic: Any, volume: Any, random_model: Path
) -> None:
    def clumsy(result: Any) -> None:
        raise RuntimeError("a script of the user")

    settings = {"tasks": ["liver"], "model": str(random_model), "device": "cpu"}
    run = logic.segment(volume, **settings, onFinished=clumsy)
    with pytest.raises(RuntimeError, match="a script of the user"):
        spin(logic, run)
    assert run.state == "finished"
    assert logic.segment(volume, **settings).structures


def test_an_interrupted_call_stops_its_run_and_nothing_else(
    logic: Any, slicer_scene: SlicerScene, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = slicer_scene.add_volume(large_scan())
    settings = {"model": str(random_model), "device": "cpu"}
    logic.segment(large, tasks=["spleen"], **settings)
    worker, folder = logic.session.client.hello["pid"], logic.session.client.folder
    poll = logic.session.poll

    def interrupted() -> None:
        poll()
        if logic.job.progress is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(logic.session, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logic.segment(large, **settings)
    assert logic.job.state == "cancelled"
    assert not logic.busy
    assert folder.is_dir()
    assert logic.segment(large, tasks=["spleen"], **settings).structures[0].key == "spleen"
    assert logic.session.client.hello["pid"] == worker


def test_who_stops_a_run_is_told_so_and_a_report_tells_where(
    logic: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    told: list[Any] = []
    large = slicer_scene.add_volume(large_scan())
    run = logic.segment(large, tasks=["liver"], model=str(random_model), device="cpu", onError=told.append)
    spin_until_underway(logic, run)
    logic.cancel()
    spin(logic, run)
    assert [str(error) for error in told] == ["Stopped by the user."]
    assert "[cancelled] Stopped by the user during 'segment'" in logic.diagnostics()


def test_a_defect_is_told_in_the_users_language_and_reported_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Job[None]):
        def begin(self, session: Any) -> None:
            with self.step():
                raise ZeroDivisionError("by zero")

        def release(self, *, succeeded: bool) -> None:
            raise SegmentationError("The segment stays.", "Remove it.")

    monkeypatch.setattr("PartialSegSlicer.logic.jobs.translate", lambda context, text: text.upper())
    job = Broken()
    job.start(Session(unexpected))
    assert isinstance(job.error, WorkerError)
    assert job.error.message == "ZeroDivisionError: by zero"
    assert job.error.hint.startswith("THIS IS A DEFECT OF PARTIALSEG")
    assert job.error.hint.endswith("The segment stays. Remove it.")
    for part in ("This is a defect of PartialSeg", "The segment stays.", "Traceback"):
        assert part in job.error.diagnostics()


def test_a_python_that_is_no_worker_fails_the_job_and_not_the_module(
    own_logic: Any, volume: Any, tmp_path: Path
) -> None:
    program = tmp_path / "no-python"
    program.write_text("#!/bin/sh\nexit 4\n")
    program.chmod(0o755)
    own_logic.setPython(program)
    with pytest.raises(WorkerError) as raised:
        own_logic.devices()
    assert raised.value.code == "worker-start"
    assert "exit status 4" in raised.value.message
    assert not own_logic.busy
