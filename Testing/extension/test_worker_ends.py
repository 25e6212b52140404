"""How workers end, and the way back from every kind of end: crashes, broken installations, a parent that dies."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from worker_cases import PATIENCE, alive, failed, polled, posix, started, until

from PartialSegWorker import WorkerClient, WorkerError


@posix
@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_crash_in_the_middle_is_reported_and_the_next_request_works(
    quick: tuple[Path, ...], scan: Path, long_scan: Path, random_model: Path, number: int, name: str
) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:
        request = started(client, long_scan, random_model)
        assert client.hello is not None
        pid = client.hello["pid"]
        # It hears a question beside the run no more: that one goes to the next worker.
        os.kill(pid, signal.SIGSTOP)
        beside = client.request("models")
        client.poll()
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        error = failed(client, request)
        assert error.code == "worker-crashed"
        assert name in error.message
        assert error.hint
        assert "Request 2: segment" in error.log
        # A crash inside of a library leaves Python's account of it; a kill leaves no time for one.
        assert ("Fatal Python error" in error.log) == (number == signal.SIGSEGV)
        assert error.log in error.diagnostics()
        assert client.wait(beside, PATIENCE)["models"]
        # Its last thread may still have answered that one.
        client.wait(client.request("models"), PATIENCE)
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


def test_a_private_folder_that_was_cleaned_away_is_made_anew(quick: tuple[Path, ...]) -> None:
    with WorkerClient(sys.executable, folders=quick) as client:
        lost = client.folder
        lost.rmdir()
        assert client.wait(client.request("models"), PATIENCE)["models"]
        assert client.folder != lost
        assert client.folder.is_dir()
