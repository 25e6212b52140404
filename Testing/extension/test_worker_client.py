"""The client with real workers: results, progress, callbacks and cancelling."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_cases import PATIENCE, failed, polled, posix, segment, started

from PartialSegLib.images import Geometry, Image, read_image, write_image
from PartialSegLib.progress import Progress
from PartialSegLib.segmentation import bounding_box
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker import ForecastParameters, SegmentParameters, WorkerClient, WorkerError

# ---- work


def test_masks_and_uncertainty_are_those_of_the_library(client: WorkerClient, scan: Path, random_model: Path) -> None:
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.inference import Predictor, extractors

    uncertainty = client.folder / "uncertainty.nrrd"
    request = client.request(
        "segment", segment(client, scan, random_model, tasks=["liver", "kidney"], uncertainty=str(uncertainty))
    )
    told = client.wait(request, PATIENCE)
    image = read_image(scan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors, "openvino_installed", lambda: False)
        expected = Predictor(ModelBundle.open(random_model), "cpu").segment(
            image, ["liver", "kidney"], uncertainty=True
        )
    found = read_segmentation(told["output"], image=image)
    assert [item["key"] for item in told["structures"]] == list(found.keys) == list(expected.segmentation.keys)
    assert sum(item["voxels"] for item in told["structures"]) > 0
    for item in told["structures"]:
        np.testing.assert_array_equal(found.array(item["key"]), expected.segmentation.array(item["key"]))
        assert item["voxels"] == found.masks[item["key"]].count
    assert expected.uncertainty is not None
    np.testing.assert_allclose(read_image(uncertainty).voxels, expected.uncertainty.voxels, atol=1e-3)
    assert told["report"]["model"] == "random"


def test_the_bundled_model_finds_the_liver_of_a_phantom(client: WorkerClient) -> None:
    from PartialSegTraining.phantoms import generate_phantom

    phantom = generate_phantom(seed=7, spacing=(5.0, 5.0, 5.0), show=["liver"])
    box = bounding_box(phantom.masks["liver"])
    assert box is not None
    image = Image(phantom.image.voxels[box], Geometry(phantom.masks["liver"][box].shape, (5.0, 5.0, 5.0)))
    write_image(image, client.folder / "phantom.nrrd")
    request = client.request("segment", segment(client, client.folder / "phantom.nrrd", "demo", preset="fast"))
    found = read_segmentation(client.wait(request, PATIENCE)["output"], image=image).array("liver")
    truth = phantom.masks["liver"][box] != 0
    # The box cuts the body: this shows that the model sees the right image, not how good it is.
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_callbacks_come_from_poll_with_progress_to_the_end(
    client: WorkerClient, scan: Path, random_model: Path
) -> None:
    steps: list[Progress] = []
    results: list[dict[str, Any]] = []
    request = client.request("segment", segment(client, scan, random_model), done=results.append, progress=steps.append)
    assert client.busy
    assert (results, steps) == ([], [])
    polled(client, lambda: request.finished)
    assert results == [request.result]
    stages = ["read", "load", "prepare", "segment", "finish", "write"]
    assert list(dict.fromkeys(step.stage for step in steps)) == stages
    windows = [step for step in steps if step.stage == "segment"]
    assert windows[-1].done == windows[-1].total == results[0]["report"]["windows"]
    assert [step.done for step in windows] == sorted({step.done for step in windows})
    assert not client.busy


def test_one_worker_serves_request_after_request(client: WorkerClient, scan: Path, random_model: Path) -> None:
    requests = [client.request(name) for name in ("models", "devices", "unload", "models")]
    for request in requests:
        assert client.wait(request, PATIENCE) is request.result
    assert client.hello is not None
    pid = client.hello["pid"]
    client.wait(client.request("forecast", ForecastParameters(str(scan), str(random_model), device="cpu")), PATIENCE)
    assert client.hello["pid"] == pid


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        ({"tasks": ["brain"]}, "label-space", "brain"),
        ({"device": "cuda:77"}, "error", "cuda:77"),
        ({"model": "nonesuch"}, "bundle", "nonesuch"),
        ({"image": "{folder}/gone.nrrd"}, "image", "gone.nrrd"),
        ({"image": "{folder}/text.nrrd"}, "image", "text.nrrd"),
    ],
)
def test_an_error_of_the_library_comes_with_code_hint_and_traceback(
    client: WorkerClient, scan: Path, random_model: Path, more: dict[str, str], code: str, named: str
) -> None:
    (client.folder / "text.nrrd").write_text("no image")
    more = {key: value.format(folder=client.folder) if isinstance(value, str) else value for key, value in more.items()}
    names: dict[str, Any] = {
        "image": str(scan),
        "model": str(random_model),
        "device": "cpu",
        "output": str(client.folder / "a.seg.nrrd"),
    }
    told: list[WorkerError] = []
    request = client.request("segment", SegmentParameters(**names | more), failed=told.append)
    error = failed(client, request)
    assert told == [error]
    assert error.code == code
    assert named in error.message
    assert error.hint
    assert "Traceback" in error.traceback


def test_accented_and_long_paths(
    quick: tuple[Path, ...], scan: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "é ñ 肝 😀" / ("x" * 150) / ("ü" * 100)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 300
    monkeypatch.setattr(tempfile, "tempdir", str(deep.parents[1]))
    image = deep / "Müller, Zoë.nrrd"
    image.write_bytes(scan.read_bytes())
    with WorkerClient(sys.executable, folders=quick, log=deep / "Protokoll é.log") as client:
        assert "肝" in str(client.folder)
        wanted = segment(client, image, random_model, output=str(deep / "Ergebnis 肝.seg.nrrd"))
        told = client.wait(client.request("segment", wanted), PATIENCE)
        assert read_segmentation(told["output"]).keys == ("liver", "liver_tumor")
        error = failed(client, client.request("segment", segment(client, deep / "gone 肝.nrrd", random_model)))
        assert "gone 肝.nrrd" in error.message
        assert "gone 肝.nrrd" in client.log_tail()
    assert (deep / "Protokoll é.log").is_file()


# ---- cancelling


def test_cancel_stops_between_windows_and_the_same_worker_goes_on(
    client: WorkerClient, scan: Path, long_scan: Path, random_model: Path
) -> None:
    request = started(client, long_scan, random_model)
    output = Path(request.parameters["output"])
    output.unlink(missing_ok=True)
    assert client.hello is not None
    pid = client.hello["pid"]
    with pytest.raises(TimeoutError, match="segment"):
        client.wait(request, 0.0)
    client.cancel()
    error = failed(client, request)
    assert error.cancelled
    assert str(error) == "Stopped by the user."
    assert "'segment'" in error.original
    assert not output.exists()
    assert [file for file in client.folder.iterdir() if file.name.endswith(".part")] == []
    client.wait(client.request("segment", segment(client, scan, random_model)), PATIENCE)
    assert client.hello["pid"] == pid


def test_a_request_that_waits_for_its_turn_can_be_cancelled_alone(
    client: WorkerClient, scan: Path, random_model: Path
) -> None:
    told: list[WorkerError] = []
    first = client.request("segment", segment(client, scan, random_model))
    second = client.request("devices", failed=told.append)
    third = client.request("devices")
    client.cancel(second)
    client.wait(third, PATIENCE)
    assert first.result is not None
    assert second.error is told[0]
    assert told[0].cancelled


@posix
def test_a_worker_that_cannot_stop_is_killed_and_the_next_request_works(
    quick: tuple[Path, ...], tmp_path: Path
) -> None:
    pipe = tmp_path / "hangs.nrrd"
    os.mkfifo(pipe)
    with WorkerClient(sys.executable, folders=quick, grace=0.2) as client:
        # Reading a pipe that nobody writes to waits for ever, inside of a library.
        request = client.request(
            "forecast", ForecastParameters(str(pipe), "demo"), progress=lambda step: client.cancel()
        )
        error = failed(client, request)
        assert error.cancelled
        assert "killed" in error.message
        assert not client.running
        assert client.wait(client.request("models"), PATIENCE)["models"]


# ---- beside a run


def test_models_are_listed_during_a_run(client: WorkerClient, long_scan: Path, random_model: Path) -> None:
    request = started(client, long_scan, random_model)
    listed = client.request("models")
    assert client.wait(listed, PATIENCE)["models"]
    assert not request.finished
    assert client.busy
    client.cancel()
    assert failed(client, request).cancelled
    assert not client.busy


@posix
def test_a_list_of_models_that_never_comes_can_be_given_up(client: WorkerClient) -> None:
    client.wait(client.request("models"), PATIENCE)
    assert client.hello is not None
    os.kill(client.hello["pid"], signal.SIGSTOP)
    listed = client.request("models")
    client.poll()
    assert client.busy
    client.cancel(listed)
    assert failed(client, listed).cancelled
    os.kill(client.hello["pid"], signal.SIGCONT)
    assert client.wait(client.request("devices"), PATIENCE)["torch"]


# ---- callbacks


def test_an_exception_of_a_callback_costs_no_message(client: WorkerClient) -> None:
    def broken(result: dict[str, Any]) -> None:
        raise ZeroDivisionError

    first, second = client.request("models", done=broken), client.request("models")
    # Lists of models are answered in any order.
    with pytest.raises(ZeroDivisionError):
        polled(client, lambda: False)
    assert first.result is not None
    assert client.wait(second, PATIENCE)["models"]


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled"])
def test_a_callback_may_close_the_client(quick: tuple[Path, ...], outcome: str) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:

        def close(told: object) -> None:
            client.close()

        # Both are answered in turn, so that the second one waits while the first is told.
        first = client.request("unload" if outcome != "failed" else "nonesuch", done=close, failed=close)
        second = client.request("unload")
        if outcome == "cancelled":
            client.cancel()
        polled(client, lambda: first.finished)
        client.poll()
        assert second.error is not None
        assert second.error.cancelled
        assert not client.running
