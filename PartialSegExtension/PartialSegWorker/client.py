"""The client: starts the worker, sends it one request at a time, and hands its answers to callbacks.

Plain Python: a front end calls :meth:`WorkerClient.poll` from a timer (Qt, a terminal loop), or
:meth:`WorkerClient.wait` to block. Nothing here waits otherwise, and callbacks run in the thread that
polls. Whatever happens to the worker, a request ends with a result or a :class:`WorkerError`, and the
next one finds a worker that runs. Imports no torch, no Qt and no Slicer.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PartialSegLib.progress import Progress
from PartialSegWorker.child import Child, describe_exit
from PartialSegWorker.environment import child_environment, package_folders
from PartialSegWorker.errors import (
    CANCELLED,
    WORKER_CRASHED,
    WORKER_START,
    InstallationError,
    ProtocolError,
    ProtocolVersionError,
    WorkerError,
)
from PartialSegWorker.parameters import CancelParameters, HelloParameters, Parameters
from PartialSegWorker.protocol import VERSION, Call, Message, decode, encode, progress_of
from PartialSegWorker.request import Request

#: Lines of the log that an error carries: Python's account of a crash lists every thread.
LOG_LINES = 100
#: Bytes from the end of the log that are looked at for them.
_LOG_BYTES = 32 * 1024
#: Seconds between two looks at the clock while something is waited for.
_TICK = 0.05


class WorkerClient:
    """A worker process, started when it is needed and again when it was lost.

    Parameters
    ----------
    python : str or Path
        The Python to run: any that has the packages. In Slicer this is ``PythonSlicer``, or one that the
        user chose, and never ``sys.executable``, which is the application.
    folders : sequence of Path, optional
        Where the worker finds our packages; those that this process uses by default.
    environment : mapping, optional
        Variables to start from, see :func:`~PartialSegWorker.environment.child_environment`.
    log : Path, optional
        File for the worker's log, begun anew with each worker; in the private folder by default.
    start_timeout : float
        Seconds that a worker has to say hello. It imports little for that, but a virus scanner may look
        at every file.
    grace : float
        Seconds that a worker has to stop after :meth:`cancel`, before it is killed. Longer than one
        window of a large network takes on the CPU.
    """

    def __init__(
        self,
        python: str | Path,
        *,
        folders: Sequence[Path] | None = None,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        start_timeout: float = 60.0,
        grace: float = 15.0,
    ) -> None:
        self._python = str(python)
        self._folders = package_folders() if folders is None else tuple(folders)
        self._environment = environment
        self._log = log
        self._start_timeout, self._grace = start_timeout, grace
        self._private: Path | None = None
        self._remove_private: Callable[[], object] = lambda: None
        self._child: Child | None = None
        self._hello: Message | None = None
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None
        self._cancelled: set[Request] = set()
        self._deadline = float("inf")
        self._number = 0
        self._asked = 0

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """Private folder for voxels, which nobody else may enter; it is removed by :meth:`close`."""
        # What cleans up temporary files may have removed it.
        if self._private is None or not self._private.is_dir():
            # Mode 0700, on Windows below the user's own folder for temporary files.
            self._private = Path(tempfile.mkdtemp(prefix="partialseg-"))
            self._remove_private = weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
        return self._private

    @property
    def log(self) -> Path:
        """File with what the worker and its libraries wrote."""
        return self._log or self.folder / "worker.log"

    @property
    def hello(self) -> Message | None:
        """What the running worker told about itself (``capabilities``, ``version``, ``pid`` ...), once it has."""
        return self._hello

    @property
    def running(self) -> bool:
        """Whether a worker process is there, as far as the last poll saw."""
        return self._child is not None

    @property
    def busy(self) -> bool:
        """Whether a request has no outcome yet."""
        return self._current is not None or bool(self._waiting)

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """Return the last lines of the worker's log; empty when there is none."""
        log = self._log or (self._private and self._private / "worker.log")
        if log is None:
            return ""
        try:
            with log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - _LOG_BYTES))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def request(
        self,
        name: str,
        parameters: Parameters | None = None,
        *,
        done: Callable[[Message], object] | None = None,
        failed: Callable[[WorkerError], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Request:
        """Ask the worker for something, after what was asked before; return at once.

        Parameters
        ----------
        name : str
            One of the worker's ``capabilities``.
        parameters : Parameters, optional
            What it takes, see :mod:`PartialSegWorker.parameters`.
        done, failed, progress : callable, optional
            See :class:`Request`; called by :meth:`poll` and :meth:`wait`.
        """
        wanted = Request(name, parameters.to_message() if parameters else {}, done, failed, progress)
        self._waiting.append(wanted)
        return wanted

    def wait(self, request: Request, timeout: float | None = None) -> Message:
        """Poll until a request is finished, and return its result.

        Raises
        ------
        WorkerError
            When it failed, or was cancelled.
        TimeoutError
            When it takes longer than `timeout` seconds; it goes on nevertheless.
        """
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while not request.finished:
            if time.monotonic() > until:
                raise TimeoutError(f"The worker did not finish '{request.name}' within {timeout} seconds.")
            self._poll(_TICK)
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    def poll(self) -> None:
        """Start a worker if one is needed, take its messages, and call the callbacks; never wait for it.

        An exception of a callback passes through; the next poll goes on behind the message.
        """
        self._poll(0.0)

    def cancel(self, request: Request | None = None) -> None:
        """Ask for a request to stop, or for all of them; their errors come through :meth:`poll`.

        The worker stops before its next window. One that does not within the grace time is killed with
        everything that it started.
        """
        wanted = [*self._waiting, *([self._current] if self._current else [])]
        for item in wanted if request is None else [item for item in wanted if item is request]:
            if item in self._cancelled:
                continue
            self._cancelled.add(item)
            if item is self._current:
                self._send("cancel", CancelParameters(self._asked))
                self._deadline = time.monotonic() + self._grace

    def close(self, timeout: float = 2.0) -> None:
        """End the worker and remove the private folder; open requests end as cancelled, without callbacks.

        The client may be used again: the next request starts anew.

        Parameters
        ----------
        timeout : float
            Seconds that the worker has to end by itself, before it is killed.
        """
        for item in (*self._waiting, *([self._current] if self._current else [])):
            item.error = WorkerError(CANCELLED, "Stopped: the worker was closed.")
        self._waiting.clear()
        self._cancelled.clear()
        self._current = None
        if self._child is not None and self._hello is not None:
            self._send("shutdown")
        self._drop(timeout)
        self._remove_private()
        self._private = None

    def _poll(self, patience: float) -> None:
        """Do what :meth:`poll` does, waiting up to `patience` seconds for the first message."""
        self._refuse_cancelled()
        if self._child is None:
            if not self._waiting:
                return
            self._start()
        while self._child is not None:
            self._next()
            try:
                line = self._child.line(patience)
            except queue.Empty:
                self._check_deadline()
                return
            patience = 0.0
            if line is None:
                self._ended()
            else:
                self._take(line)

    def _refuse_cancelled(self) -> None:
        """Finish requests that were cancelled before the worker got them."""
        while item := next((item for item in self._waiting if item in self._cancelled), None):
            self._waiting.remove(item)
            self._cancelled.discard(item)
            item.fail(WorkerError(CANCELLED, f"Stopped by the user before '{item.name}' began."))

    def _start(self) -> None:
        command = [self._python, "-m", "PartialSegWorker", "--folder", str(self.folder)]
        environment = child_environment(self._python, self._folders, self._environment)
        try:
            self._child = Child(command, environment, self.folder, self.log)
        except OSError as error:
            self._waiting.popleft().fail(
                WorkerError(
                    WORKER_START,
                    f"The worker cannot be started with '{self._python}': {error}.",
                    "Choose another Python in the settings, or repair the installation.",
                )
            )
            return
        self._deadline = time.monotonic() + self._start_timeout
        self._send("hello", HelloParameters(VERSION))

    def _next(self) -> None:
        """Send the next request, when the worker has said hello and is free."""
        wanted = next((item for item in self._waiting if item not in self._cancelled), None)
        if wanted is None or self._hello is None or self._current is not None:
            return
        self._waiting.remove(wanted)
        self._current = wanted
        self._asked = self._send(wanted.name, wanted.parameters)

    def _send(self, name: str, parameters: Parameters | Message | None = None) -> int:
        """Send a request and return its number."""
        assert self._child is not None
        self._number += 1
        fields = parameters.to_message() if isinstance(parameters, Parameters) else parameters or {}
        self._child.send(encode(Call(self._number, name, fields).to_message()))
        return self._number

    def _take(self, line: bytes) -> None:
        """Act on a message of the worker."""
        try:
            event = decode(line)
        except ProtocolError:
            # A launcher that writes to its output before the worker protects it: of no meaning to us.
            return
        kind, current = event.get("event"), self._current
        if self._hello is None:
            self._greeted(event)
        elif current is None or event.get("id") != self._asked:
            # The answer to a cancel.
            return
        elif kind == "progress":
            current.report(progress_of(event))
        elif kind == "result":
            self._finish()
            current.succeed(event["result"])
        elif kind == "error":
            if event["code"] == InstallationError.code:
                # A Python that failed to import a package keeps half of it: after a repair only a new one helps.
                self._drop(0.0)
            self._finish()
            current.fail(WorkerError.from_event(event))

    def _greeted(self, event: Message) -> None:
        """Take the worker's hello, or part with a worker that we do not understand."""
        result = event.get("result", {})
        if event.get("event") == "result" and result.get("protocol") == VERSION:
            self._hello, self._deadline = result, float("inf")
        elif event.get("event") == "result":
            self._give_up(
                ProtocolVersionError.code,
                f"The worker speaks protocol {result.get('protocol')!r}, but {VERSION} is needed.",
                "Update PartialSeg, and restart Slicer.",
            )
        elif event.get("event") == "error":
            told = WorkerError.from_event(event)
            self._give_up(told.code, told.message, told.hint)

    def _check_deadline(self) -> None:
        """Kill a worker that does not say hello, or does not stop, in its time."""
        if time.monotonic() < self._deadline:
            return
        if self._hello is None:
            self._give_up(
                WORKER_START,
                f"The worker did not answer within {self._start_timeout:g} seconds.",
                "Try again: a first start is slow on some computers. Otherwise repair the installation.",
            )
            return
        current = self._current
        self._drop(0.0)
        self._finish()
        if current is not None:
            current.fail(
                WorkerError(
                    CANCELLED, f"Stopped by the user; the worker was killed, because it went on for {self._grace:g} s."
                )
            )

    def _ended(self) -> None:
        """Say why the worker is gone to the request that it worked on."""
        greeted, current, cancelled = self._hello is not None, self._current, self._current in self._cancelled
        log, status = self.log_tail(), self._drop(1.0)
        how = describe_exit(status)
        self._finish()
        if cancelled and current is not None:
            current.fail(WorkerError(CANCELLED, f"Stopped by the user; the worker ended ({how}).", log=log))
        elif current is not None:
            hint = "The next run starts a new worker."
            if status in (-9, 137):
                hint = f"The system may have run out of memory: choose fewer tasks or a region of interest. {hint}"
            message = f"The worker ended during '{current.name}': {how}."
            current.fail(WorkerError(WORKER_CRASHED, message, hint, log=log))
        elif not greeted:
            self._give_up(
                WORKER_START,
                f"The Python '{self._python}' ended before the worker started: {how}.",
                "See its log below. Choose another Python in the settings, or repair the installation.",
            )

    def _give_up(self, code: str, message: str, hint: str) -> None:
        """End a worker that never got ready, and fail the request that it was started for."""
        log = self.log_tail()
        self._drop(0.0)
        if self._waiting:
            item = self._waiting.popleft()
            self._cancelled.discard(item)
            item.fail(WorkerError(code, message, hint, log=log))

    def _finish(self) -> None:
        """Forget the request that was worked on."""
        if self._current is not None:
            self._cancelled.discard(self._current)
        self._current, self._deadline = None, float("inf")

    def _drop(self, timeout: float) -> int | None:
        """End the worker, and return its exit status."""
        child, self._child, self._hello = self._child, None, None
        self._deadline = float("inf")
        return child.end(timeout) if child is not None else None
