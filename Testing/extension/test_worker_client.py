"""The client with real workers: results, progress, cancelling, and the way back from every kind of end."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_cases import PATIENCE, alive, blobs, until

from PartialSegLib.images import Geometry, Image, read_image, write_image
from PartialSegLib.progress import Progress
from PartialSegLib.segmentation import bounding_box
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker import ForecastParameters, Request, SegmentParameters, WorkerClient, WorkerError
from PartialSegWorker.environment import package_folders

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and named pipes")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Folders for a worker without OpenVINO: to compile a network takes longer than to run these tests."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    return (folder, *package_folders())


@pytest.fixture(scope="module")
def client(quick: tuple[Path, ...]) -> Iterator[WorkerClient]:
    with WorkerClient(sys.executable, folders=quick) as client:
        yield client


@pytest.fixture(scope="module")
def long_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of so many windows that nobody waits for the end of it."""
    path = tmp_path_factory.mktemp("scans") / "long.nrrd"
    write_image(blobs((500, 112, 112)), path)
    return path


def segment(client: WorkerClient, scan: Path, model: Path | str, **more: Any) -> SegmentParameters:
    names = {"tasks": ["liver"], "device": "cpu", "output": str(client.folder / "result.seg.nrrd")} | more
    return SegmentParameters(str(scan), str(model), **names)


def started(client: WorkerClient, scan: Path, model: Path) -> Request:
    """Return a request whose windows are being computed."""
    stages: list[str] = []
    request = client.request(
        "segment", segment(client, scan, model), progress=lambda progress: stages.append(progress.stage)
    )
    polled(client, lambda: "segment" in stages or request.finished)
    assert not request.finished, request.error
    return request


def polled(client: WorkerClient, condition: Any) -> None:
    def look() -> bool:
        client.poll()
        return bool(condition())

    until(look)


def failed(client: WorkerClient, request: Request) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        client.wait(request, PATIENCE)
    assert raised.value is request.error
    return raised.value


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
    assert list(dict.fromkeys(step.stage for step in steps)) == ["read", "load", "segment", "write"]
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
    names = {
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
    assert not output.exists()
    assert [file for file in client.folder.iterdir() if file.name.endswith(".part")] == []
    client.wait(client.request("segment", segment(client, scan, random_model)), PATIENCE)
    assert client.hello["pid"] == pid


def test_a_request_that_waits_for_its_turn_can_be_cancelled_alone(
    client: WorkerClient, scan: Path, random_model: Path
) -> None:
    told: list[WorkerError] = []
    first = client.request("segment", segment(client, scan, random_model))
    second = client.request("models", failed=told.append)
    third = client.request("models")
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


# ---- ends


@posix
@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_crash_in_the_middle_is_reported_and_the_next_request_works(
    quick: tuple[Path, ...], scan: Path, long_scan: Path, random_model: Path, number: int, name: str
) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:
        request = started(client, long_scan, random_model)
        assert client.hello is not None
        pid = client.hello["pid"]
        os.kill(pid, number)
        error = failed(client, request)
        assert error.code == "worker-crashed"
        assert name in error.message
        assert "'segment'" in error.message
        assert error.hint
        assert "Request 2: segment" in error.log
        # A crash inside of a library leaves Python's account of it; a kill leaves no time for one.
        assert ("Fatal Python error" in error.log) == (number == signal.SIGSEGV)
        assert error.log in error.diagnostics()
        assert client.wait(client.request("models"), PATIENCE)["models"]
        assert client.hello["pid"] != pid


@posix
def test_a_worker_that_died_while_nobody_asked_is_replaced_without_a_word(client: WorkerClient) -> None:
    client.wait(client.request("models"), PATIENCE)
    assert client.hello is not None
    pid = client.hello["pid"]
    os.kill(pid, signal.SIGKILL)
    polled(client, lambda: not client.running)
    assert client.wait(client.request("models"), PATIENCE)["models"]
    assert client.hello["pid"] != pid


PARENT = """
import sys
from PartialSegWorker import SegmentParameters, WorkerClient
scan, model, *folders = sys.argv[1:]
client = WorkerClient(sys.executable, folders=folders)
wanted = SegmentParameters(scan, model, device="cpu", output=str(client.folder / "result.seg.nrrd"))
def tell(progress):
    if progress.stage == "segment" and progress.done == 0:
        print(client.hello["pid"], client.folder, flush=True)
client.wait(client.request("segment", wanted, progress=tell))
"""


@posix
def test_a_worker_dies_with_its_parent_in_the_middle_of_a_run(
    quick: tuple[Path, ...], long_scan: Path, random_model: Path
) -> None:
    import subprocess

    words = [sys.executable, "-c", PARENT, str(long_scan), str(random_model), *map(str, quick)]
    paths = os.pathsep.join(map(str, quick))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split(maxsplit=1)
        assert alive(int(pid))
        assert Path(folder.strip()).is_dir()
        parent.kill()
    until(lambda: not alive(int(pid)))
    assert not Path(folder.strip()).exists()


def test_a_package_that_is_damaged_is_named_and_a_repair_helps_at_once(quick: tuple[Path, ...], tmp_path: Path) -> None:
    damaged = tmp_path / "torch"
    damaged.mkdir()
    (damaged / "__init__.py").write_text("raise OSError('[WinError 126] error loading c10.dll')\n")
    with WorkerClient(sys.executable, folders=(tmp_path, *quick)) as client:
        assert client.wait(client.request("models"), PATIENCE)["models"]
        error = failed(client, client.request("devices"))
        assert error.code == "installation"
        assert "c10.dll" in error.message
        assert "torch" in error.message
        (damaged / "__init__.py").unlink()
        damaged.rename(tmp_path / "removed")
        assert client.wait(client.request("devices"), PATIENCE)["torch"]


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    with WorkerClient(tmp_path / "no" / "python") as client:
        error = failed(client, client.request("models"))
        assert (error.code, client.running) == ("worker-start", False)
        assert str(tmp_path / "no" / "python") in error.message


def test_a_python_without_our_packages_says_so_in_the_log(tmp_path: Path) -> None:
    with WorkerClient(sys.executable, folders=[tmp_path]) as client:
        error = failed(client, client.request("models"))
        assert error.code == "worker-start"
        assert "No module named PartialSegWorker" in error.log


def other_worker(folder: Path, code: str) -> list[Path]:
    """Write a worker of another kind, and return the folders that find it."""
    package = folder / "PartialSegWorker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(code)
    return [folder]


def test_a_worker_of_another_version_is_not_talked_to(tmp_path: Path) -> None:
    code = """
import json, sys
print("loading ...", flush=True)
sys.stdin.readline()
print(json.dumps({"id": 1, "event": "result", "result": {"protocol": 99}}), flush=True)
sys.stdin.readline()
"""
    with WorkerClient(sys.executable, folders=other_worker(tmp_path, code)) as client:
        error = failed(client, client.request("models"))
        assert (error.code, client.running) == ("protocol-version", False)
        assert "99" in error.message


def test_a_worker_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with WorkerClient(
        sys.executable, folders=other_worker(tmp_path, "import time\ntime.sleep(600)\n"), start_timeout=0.3
    ) as client:
        error = failed(client, client.request("models"))
        assert (error.code, client.running) == ("worker-start", False)


def test_the_whole_tree_is_killed(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
deaf = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
open({str(tmp_path / "pid")!r}, "w").write(str(deaf.pid) + " ")
time.sleep(600)
"""
    client = WorkerClient(sys.executable, folders=other_worker(tmp_path, code))
    client.request("models")
    polled(client, lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().endswith(" "))
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    client.close(0.0)
    until(lambda: not alive(pid))


def test_the_folder_is_private_and_goes_with_the_client(quick: tuple[Path, ...]) -> None:
    client = WorkerClient(sys.executable, folders=quick)
    client.wait(client.request("models"), PATIENCE)
    folder = client.folder
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert client.log.parent == folder
    told: list[WorkerError] = []
    open_request = client.request("models", failed=told.append)
    client.close()
    assert not folder.exists()
    assert open_request.error is not None
    assert open_request.error.cancelled
    assert (told, client.running, client.busy, client.log_tail()) == ([], False, False, "")
    assert client.wait(client.request("models"), PATIENCE)["models"]
    client.close()


def test_an_exception_of_a_callback_costs_no_message(client: WorkerClient) -> None:
    def broken(result: dict[str, Any]) -> None:
        raise ZeroDivisionError

    first, second = client.request("models", done=broken), client.request("models")
    with pytest.raises(ZeroDivisionError):
        client.wait(second, PATIENCE)
    assert first.result is not None
    assert client.wait(second, PATIENCE)["models"]


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled"])
def test_a_callback_may_close_the_client(quick: tuple[Path, ...], outcome: str) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:

        def close(told: object) -> None:
            client.close()

        first = client.request("models" if outcome != "failed" else "nonesuch", done=close, failed=close)
        second = client.request("models")
        if outcome == "cancelled":
            client.cancel()
        polled(client, lambda: first.finished)
        client.poll()
        assert second.error is not None
        assert second.error.cancelled
        assert not client.running


def test_a_private_folder_that_was_cleaned_away_is_made_anew(quick: tuple[Path, ...]) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:
        lost = client.folder
        lost.rmdir()
        assert client.wait(client.request("models"), PATIENCE)["models"]
        assert client.folder != lost
        assert client.folder.is_dir()
