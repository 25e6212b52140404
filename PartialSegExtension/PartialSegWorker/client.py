"""The client: starts the worker, sends it one request at a time, and hands its answers to callbacks.

Plain Python: a front end calls :meth:`WorkerClient.poll` from a timer (Qt, a terminal loop), or
:meth:`WorkerClient.wait` to block. Nothing here waits otherwise, and callbacks run in the thread that
polls. Whatever happens to the worker, a request ends with a result or a :class:`WorkerError`, and the
next one finds a worker that runs. Imports no torch, no Qt and no Slicer.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from PartialSegLib.progress import Progress
from PartialSegWorker import texts
from PartialSegWorker.child import Child, way_of_ending
from PartialSegWorker.environment import child_environment, package_folders
from PartialSegWorker.errors import (
    CANCELLED,
    WORKER_START,
    InstallationError,
    ProtocolError,
    ProtocolVersionError,
    WorkerError,
)
from PartialSegWorker.parameters import CancelParameters, HelloParameters, Parameters
from PartialSegWorker.privatefolder import LOG_LINES, PrivateFolder
from PartialSegWorker.protocol import VERSION, Call, Message, decode, encode, progress_of
from PartialSegWorker.request import Request

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
        self._start_timeout, self._grace = start_timeout, grace
        self._private = PrivateFolder(log)
        self._child: Child | None = None
        self._hello: Message | None = None
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None
        #: Requests by their number that the worker answers beside the current one.
        self._aside: dict[int, Request] = {}
        self._cancelled: set[Request] = set()
        self._deadline = float("inf")
        self._number = 0
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """Private folder for voxels, which nobody else may enter; it is removed by :meth:`close`."""
        return self._private.path

    @property
    def log(self) -> Path:
        """File with what the worker and its libraries wrote."""
        return self._private.log

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
        return bool(self._open())

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """Return the last lines of the worker's log; empty when there is none."""
        return self._private.log_tail(lines)

    def request(
        self,
        name: str,
        parameters: Parameters | None = None,
        *,
        done: Callable[[Message], object] | None = None,
        failed: Callable[[WorkerError], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
        listener: Callable[[Message], object] | None = None,
    ) -> Request:
        """Ask the worker for something, after what was asked before; return at once.

        What the worker answers also during a run (``immediate`` in its hello) does not wait for its turn.

        Parameters
        ----------
        name : str
            One of the worker's ``capabilities``.
        parameters : Parameters, optional
            What it takes, see :mod:`PartialSegWorker.parameters`.
        done, failed, progress, listener : callable, optional
            See :class:`Request`; called by :meth:`poll` and :meth:`wait`.
        """
        wanted = Request(name, parameters.to_message() if parameters else {}, done, failed, progress, listener)
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
        for item in self._open():
            if item in self._cancelled or request not in (None, item):
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
        for item in self._open():
            item.error = WorkerError(CANCELLED, texts.CLOSED, values={})
        self._waiting.clear()
        self._aside.clear()
        self._cancelled.clear()
        self._current = None
        if self._child is not None and self._hello is not None:
            self._send("shutdown")
        self._drop(timeout)
        self._private.remove()

    def _open(self) -> list[Request]:
        """Return the requests that have no outcome yet."""
        return [*self._waiting, *self._aside.values(), *([self._current] if self._current else [])]

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
        """Finish requests that were cancelled before the worker got them, or while it answers them beside another."""
        for number in [number for number, item in self._aside.items() if item in self._cancelled]:
            # A callback of the one before may have closed the client.
            if (given_up := self._aside.pop(number, None)) is not None:
                self._cancelled.discard(given_up)
                given_up.fail(WorkerError(CANCELLED, texts.STOPPED, values={}))
        while item := next((item for item in self._waiting if item in self._cancelled), None):
            self._waiting.remove(item)
            self._cancelled.discard(item)
            item.fail(WorkerError(CANCELLED, texts.STOPPED, values={}))

    def _start(self) -> None:
        command = [self._python, "-m", "PartialSegWorker", "--folder", str(self.folder)]
        environment = child_environment(self._python, self._folders, self._environment)
        try:
            self._child = Child(command, environment, self.folder, self.log)
        except OSError as error:
            self._waiting.popleft().fail(
                WorkerError(
                    WORKER_START,
                    texts.NOT_STARTED,
                    texts.NOT_STARTED_HINT,
                    values={"python": self._python, "reason": str(error)},
                )
            )
            return
        self._deadline = time.monotonic() + self._start_timeout
        self._send("hello", HelloParameters(VERSION))

    def _next(self) -> None:
        """Send the next request when the worker is free, and at once what it answers beside another."""
        if self._hello is None:
            return
        immediate = self._hello.get("immediate", ())
        for item in [item for item in self._waiting if item not in self._cancelled]:
            if item.name in immediate:
                self._waiting.remove(item)
                self._aside[self._send(item.name, item.parameters)] = item
            elif self._current is None:
                self._waiting.remove(item)
                self._current = item
                self._asked = self._send(item.name, item.parameters)

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
        number = event.get("id")
        if self._hello is None:
            self._greeted(event)
        elif number in self._aside:
            self._answer(event, self._aside[number])
        elif self._current is not None and number == self._asked:
            self._answer(event, self._current)

    def _answer(self, event: Message, request: Request) -> None:
        """Pass an event on to its request."""
        kind = event.get("event")
        if kind == "progress":
            request.report(progress_of(event))
        elif kind not in ("result", "error"):
            request.tell(event)
        else:
            if self._aside.pop(event["id"], None) is None:
                self._finish()
                if event.get("code") == InstallationError.code:
                    # A Python that failed to import a package keeps half of it: after a repair only a new one helps.
                    self._drop(0.0)
            if kind == "result":
                request.succeed(event["result"])
            else:
                request.fail(WorkerError.from_event(event))

    def _greeted(self, event: Message) -> None:
        """Take the worker's hello, or part with a worker that we do not understand."""
        result = event.get("result", {})
        if event.get("event") == "result" and result.get("protocol") == VERSION:
            self._hello, self._deadline = result, float("inf")
        elif event.get("event") == "result":
            self._give_up(
                ProtocolVersionError.code,
                texts.OTHER_PROTOCOL,
                texts.OTHER_PROTOCOL_HINT,
                {"spoken": repr(result.get("protocol")), "needed": str(VERSION)},
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
                texts.NO_HELLO,
                texts.NO_HELLO_HINT,
                {"count": f"{self._start_timeout:g}"},
            )
            return
        current = self._current
        self._drop(0.0)
        self._finish()
        if current is not None:
            current.fail(WorkerError(CANCELLED, texts.STOPPED_AND_KILLED, values={"count": f"{self._grace:g}"}))

    def _ended(self) -> None:
        """Say why the worker is gone to the request that it worked on."""
        greeted, current, cancelled = self._hello is not None, self._current, self._current in self._cancelled
        # What was answered beside another request is asked again: it was not the one that ended the worker.
        lost = list(self._aside.values()) if current is None else [current]
        self._aside = {} if current is None else self._aside
        log, status = self.log_tail(), self._drop(1.0)
        way, values = way_of_ending(status)
        self._finish()
        if not greeted:
            self._give_up(
                WORKER_START,
                texts.ENDED_EARLY[way],
                texts.ENDED_EARLY_HINT,
                {"python": self._python} | values,
            )
        for item in lost:
            if cancelled:
                item.fail(WorkerError(CANCELLED, texts.STOPPED_AND_ENDED[way], log=log, values=values))
            else:
                item.fail(WorkerError.crashed(way, values, killed=status in (-9, 137), log=log))

    def _give_up(self, code: str, message: str, hint: str, values: Mapping[str, str] | None = None) -> None:
        """End a worker that never got ready, and fail the request that it was started for."""
        log = self.log_tail()
        self._drop(0.0)
        if self._waiting:
            item = self._waiting.popleft()
            self._cancelled.discard(item)
            item.fail(WorkerError(code, message, hint, log=log, values=values))

    def _finish(self) -> None:
        """Forget the request that was worked on."""
        if self._current is not None:
            self._cancelled.discard(self._current)
        self._current, self._deadline = None, float("inf")

    def _drop(self, timeout: float) -> int | None:
        """End the worker, and return its exit status."""
        child, self._child, self._hello = self._child, None, None
        self._waiting.extendleft(self._aside.values())
        self._aside = {}
        self._deadline = float("inf")
        return child.end(timeout) if child is not None else None
