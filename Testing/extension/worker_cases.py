"""What tests of the worker share: small scans and models, a bare conversation, and waiting for ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy import ndimage

from PartialSegLib.images import Geometry, Image, write_image
from PartialSegWorker import Request, SegmentParameters, WorkerClient, WorkerError
from PartialSegWorker.environment import child_environment, package_folders

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and named pipes")
#: Seconds after which a test gives up. Nothing takes this long on a working computer, loaded as it may be.
PATIENCE = 600.0


def blobs(shape: tuple[int, int, int], seed: int = 0) -> Image:
    """Return a smooth random image in HU, spacing 2 mm, oblique in no way."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2) * 2000
    return Image(values.astype(np.int16), Geometry(shape, (2.0, 2.0, 2.0), (10.0, -20.0, 30.0)))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with random weights that takes a few milliseconds a window."""
    from bundles import random_bundle

    return random_bundle(tmp_path_factory.mktemp("models") / "random").folder


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scan of a few windows."""
    path = tmp_path_factory.mktemp("scans") / "scan.nrrd"
    write_image(blobs((32, 56, 60)), path)
    return path


class Conversation:
    """A worker without the client: lines in, lines out, for what the client would never say."""

    def __init__(self, folder: Path, *folders: Path) -> None:
        command = [sys.executable, "-m", "PartialSegWorker", "--folder", str(folder)]
        self.log = folder.with_name("log")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            env=child_environment(sys.executable, (*folders, *package_folders())),
        )
        # Whoever waits for an answer that does not come waits no longer than this.
        self._guard = threading.Timer(PATIENCE, self.process.kill)
        self._guard.start()

    def say(self, line: bytes | dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return the next message. Everything after the start must be one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line) if line != b"\n" else self.hear()

    def ask(self, line: bytes | dict[str, Any]) -> Any:
        self.say(line)
        return self.hear()

    def greet(self) -> Any:
        return self.ask({"id": 1, "request": "hello", "parameters": {"protocol": 1}})

    def end(self) -> int:
        """Close the worker's input and return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        self.process.stdout.close()
        self._guard.cancel()
        return status


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not taken note of does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
