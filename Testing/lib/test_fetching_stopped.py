"""A download that is stopped, killed or out of room goes on later, and never glues what does not fit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fetch_cases import SHA256, get, leave_a_beginning, names
from file_server import Site, answers, claims, noise, serving, stalls_after

from PartialSegLib.errors import CancelledError, DownloadError
from PartialSegLib.fetching.lock import locked
from PartialSegLib.fetching.partfile import CHECKPOINT, unfinished
from PartialSegLib.fetching.transfer import Patience, delete
from PartialSegLib.progress import Monitor, Progress

# ---- being stopped


def test_cancelling_stops_while_the_server_says_nothing_and_keeps_what_came(site: Site, target: Path) -> None:
    monitor = Monitor()
    site.faults = [stalls_after(100_000, then=monitor.cancel)]
    with pytest.raises(CancelledError, match="during 'download'"):
        get(site, target, monitor=monitor)
    received = unfinished(target)
    assert get(site, target) == SHA256
    assert site.ranges[1] == (f"bytes={received}-" if received else None)


def test_cancelling_stops_while_another_attempt_is_waited_for(site: Site, target: Path) -> None:
    monitor = Monitor()
    site.faults = [answers(503)]
    with pytest.raises(CancelledError):
        get(site, target, Patience(wait=60.0), monitor=monitor, say=lambda line: monitor.cancel())
    assert len(site.requests) == 1


def test_cancelling_stops_the_check_and_the_file_is_not_fetched_again(site: Site, target: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "verify":
            monitor.cancel()

    monitor = Monitor(stop)
    with pytest.raises(CancelledError, match="during 'verify'"):
        get(site, target, monitor=monitor)
    assert get(site, target) == SHA256
    assert len(site.requests) == 1


_CHILD = """\
import sys
from pathlib import Path
from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.transfer import Patience, fetch
{before}
try:
    fetch(sys.argv[1], Path(sys.argv[2]), patience=Patience(attempts=1))
except DownloadError as error:
    sys.exit(str(error))
"""


def child(site: Site, target: Path, before: str = "") -> subprocess.Popen[str]:
    code = _CHILD.format(before=before)
    words = [sys.executable, "-c", code, f"{site.address}/model.zip?token=secret", str(target)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_gone_on_from_what_was_certainly_on_disk(target: Path) -> None:
    content, stalled = noise(CHECKPOINT * 2 + 500_000), threading.Event()
    with serving(content) as site:
        site.faults = [stalls_after(CHECKPOINT + 400_000, then=stalled.set)]
        process = child(site, target)
        assert stalled.wait(60)
        state = target.with_name("model.zip.part.json")
        while not state.exists() or json.loads(state.read_text())["bytes"] < CHECKPOINT:
            assert process.poll() is None
        with pytest.raises(DownloadError, match="Another process is downloading this"):
            get(site, target)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # A power cut may leave a file that is longer than what reached the disk.
        with target.with_name("model.zip.part").open("ab") as part:
            part.write(bytes(len(content)))
        get(site, target)
        assert site.ranges[1] is not None
        assert int(site.ranges[1].removeprefix("bytes=").removesuffix("-")) >= CHECKPOINT
        assert target.read_bytes() == content
        assert names(target) == {"model.zip"}


def test_a_lock_that_a_dead_process_left_holds_nobody_up(site: Site, target: Path) -> None:
    target.with_name(".model.zip.lock").write_text("")
    assert get(site, target) == SHA256


def test_a_lock_is_held_by_one_only_and_deleted_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False)
    with locked(path) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state",
    ["{", "[]", "{}", '{"source": "other", "bytes": 9, "validator": "\\"one\\"", "total": 300000}', None],
)
def test_a_beginning_of_unknown_origin_is_not_gone_on_with(site: Site, target: Path, state: str | None) -> None:
    target.with_name("model.zip.part").write_bytes(noise(1000, seed=3))
    if state is not None:
        target.with_name("model.zip.part.json").write_text(state)
    assert get(site, target) == SHA256
    assert site.ranges == [None]
    assert names(target) == {"model.zip"}


def test_a_beginning_that_is_shorter_than_it_should_be_is_not_gone_on_with(site: Site, target: Path) -> None:
    leave_a_beginning(site, target)
    os.truncate(target.with_name("model.zip.part"), 99_999)
    assert get(site, target) == SHA256
    assert site.ranges[2:] == [None]


def test_a_download_can_be_deleted(site: Site, target: Path) -> None:
    leave_a_beginning(site, target)
    assert names(target) == {"model.zip.part", "model.zip.part.json"}
    delete(target)
    assert names(target) == set()
    delete(target)


# ---- disks


def test_a_full_disk_is_said_and_the_download_goes_on_when_there_is_room(site: Site, target: Path) -> None:
    # A limit on the size of files is the one full disk that a process can have to itself.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))"
    process = child(site, target, before=limit)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "model.zip.part could not be written: File too large. Free some space" in message
    assert not target.exists()
    assert get(site, target) == SHA256
    assert site.ranges == [None, "bytes=200000-"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_file_that_does_not_fit_is_refused_before_it_is_fetched(site: Site, target: Path) -> None:
    site.faults = [claims(10**18)]
    with pytest.raises(DownloadError, match=r"model\.zip needs 1000000 TB more, but .* has only .* free"):
        get(site, target)


def test_a_folder_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="file cannot be written: Not a directory"):
        get(site, tmp_path / "file" / "model.zip")
    assert site.requests == []
