"""One child process: its pipes, its log, its end. Called by the client; imports no torch.

A thread reads the child's output into a queue, so that nobody ever waits for a pipe: that works alike
on every platform, where waiting for several pipes does not. The child heads a process group of its
own (on Windows: is the root of a process tree), and is killed with all of it, because Slicer's Python
is a launcher whose child does the work.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PartialSegWorker.texts import SIGNAL, SILENT, STATUS

#: Seconds that a killed process has to disappear; it takes milliseconds unless a disk hangs.
_BURIAL = 5.0


class Child:
    """A running child process with JSON lines on its pipes.

    Parameters
    ----------
    command : sequence of str
        What to run.
    environment : mapping
        All its variables.
    folder : Path
        Its working folder.
    log : Path
        File that takes its stderr; an older one is overwritten.

    Raises
    ------
    OSError
        When it cannot be started, or the log not be written.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=dict(environment),
                **_apart(),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._lines), name="PartialSeg worker output", daemon=True
        )
        reader.start()
        # At the end of this process too, whatever ends it in order.
        self._kill = weakref.finalize(self, _kill, self._process)

    @property
    def pid(self) -> int:
        """Process id of the child: of the launcher, where there is one."""
        return self._process.pid

    def send(self, line: bytes) -> None:
        """Write a line to the child."""
        # A child that has gone is found at the end of its output, with the exit status that tells why.
        with suppress(OSError, ValueError):
            self._input.write(line)
            self._input.flush()

    def line(self, timeout: float) -> bytes | None:
        """Return the next line of its output, or ``None`` at the end of it.

        Raises
        ------
        queue.Empty
            When there is none for `timeout` seconds.
        """
        return self._lines.get(timeout=timeout) if timeout > 0 else self._lines.get_nowait()

    def end(self, timeout: float) -> int | None:
        """Close its input and wait up to `timeout` seconds, if any, then kill what is left.

        Returns
        -------
        int or None
            Its exit status; ``None`` when it had to be killed.
        """
        if timeout > 0:
            with suppress(OSError):
                self._input.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        # Without time to end by itself it must not: a worker whose input ends removes the private folder.
        status = self._process.poll()
        self._kill()
        return status


def way_of_ending(status: int | None) -> tuple[str, dict[str, str]]:
    """Return how a process ended: the key of a text (:mod:`PartialSegWorker.texts`), and its values."""
    if status is None:
        return SILENT, {}
    if status < 0:
        names = {item.value: f" ({item.name})" for item in signal.Signals}
        return SIGNAL, {"signal": f"{-status}{names.get(-status, '')}"}
    # Windows reports exceptions as large numbers, which are known by their hexadecimal form.
    return STATUS, {"status": str(status if status < 2**16 else hex(status))}


def _apart() -> dict[str, Any]:
    """Return what makes a child the head of its own group, out of reach of the terminal's Ctrl+C."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _read(output: BinaryIO, lines: queue.SimpleQueue[bytes | None]) -> None:
    """Move lines to the queue until the output ends. Runs in a thread of its own."""
    # A line that was broken off by the end of the child is no message.
    with output, suppress(OSError):
        for line in output:
            lines.put(line)
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything that it started, and take note of its end."""
    if sys.platform == "win32":
        if process.poll() is None:
            words = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
            flags = subprocess.CREATE_NO_WINDOW
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(words, capture_output=True, check=False, timeout=_BURIAL, creationflags=flags)
            process.kill()
    else:
        # The group outlives its head: what the worker had started may still run. The id of an empty group
        # was free for a moment at most, and ids are given out in turn.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_BURIAL)
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
