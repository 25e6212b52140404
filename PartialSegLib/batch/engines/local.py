"""Scans on this machine: one after another in this process, or in several processes.

A process that dies, by a crash of a library or because memory ran out, costs the one scan that it
worked on: every process has a pipe of its own, and another one takes its place. (The process pool of
the standard library gives up all scans when one of its processes dies.)
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection

from PartialSegLib.batch.contract import BatchJob, Outcome, Scan, Work, WorkerLostError
from PartialSegLib.batch.engines.base import BaseEngine
from PartialSegLib.batch.work import segment_scan
from PartialSegLib.progress import Monitor


class SerialEngine(BaseEngine):
    """Works on each scan when it is submitted, in this process.

    Parameters
    ----------
    job : BatchJob
        What is done to every scan.
    monitor : Monitor, optional
        Cancels a scan between its windows.
    work : callable, optional
        In place of :func:`segment_scan`.
    """

    workers = 1

    def __init__(self, job: BatchJob, monitor: Monitor | None = None, work: Work = segment_scan) -> None:
        self._job, self._work = job, work
        self._outer = monitor

    def submit(self, scan: Scan) -> Future[Outcome]:
        """See :meth:`Engine.submit`."""
        future: Future[Outcome] = Future()
        if self._work is segment_scan:
            # Its windows are not told, for the bar counts scans; but they look whether the user wants to stop.
            inner = Monitor(lambda progress: self._pass_on(inner))
            future.set_result(segment_scan(self._job, scan, inner))
        else:
            future.set_result(self._work(self._job, scan))
        return future

    def close(self) -> None:
        """See :meth:`Engine.close`; there is nothing to end."""

    def _pass_on(self, inner: Monitor) -> None:
        if self._outer is not None and self._outer.cancelled:
            inner.cancel()


class ProcessEngine(BaseEngine):
    """Works on several scans at once, each in a process of its own.

    Parameters
    ----------
    job : BatchJob
        What is done to every scan. Cores are divided among the processes where it names no number
        of threads, and GPUs where it names no device.
    workers : int
        Processes, 1 or more.
    work : callable, optional
        In place of :func:`segment_scan`.
    """

    def __init__(self, job: BatchJob, workers: int, work: Work = segment_scan) -> None:
        self._job = job.divided(workers)
        self._count, self._work = workers, work
        self._idle = [_Worker(self._job, index, work) for index in range(workers)]
        self._all = list(self._idle)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="batch")

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return self._count

    def submit(self, scan: Scan) -> Future[Outcome]:
        """See :meth:`Engine.submit`."""
        return self._threads.submit(self._run, scan)

    def close(self) -> None:
        """See :meth:`Engine.close`."""
        for worker in self._all:
            worker.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._all:
            worker.join()

    def _run(self, scan: Scan) -> Outcome:
        """Give a scan to an idle process; there is one, as there are no more threads than processes."""
        with self._lock:
            worker = self._idle.pop()
        try:
            return worker.run(scan)
        finally:
            with self._lock:
                self._idle.append(worker)


class _Worker:
    """A process and the pipe to it; started for its first scan, and again after it died."""

    def __init__(self, job: BatchJob, index: int, work: Work) -> None:
        self._job, self._index, self._work = job, index, work
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._stopped = False

    def run(self, scan: Scan) -> Outcome:
        """Have the process work on a scan; WorkerLostError when it dies."""
        process, pipe = self._started()
        try:
            pipe.send(scan)
            outcome: Outcome = pipe.recv()
        except (EOFError, OSError) as error:
            process.join()
            self._process = None
            raise WorkerLostError(
                f"The process that worked on '{scan.name}' died ({_reason(process.exitcode)}).",
                "Was there too little memory? Work on fewer scans at once.",
            ) from error
        return outcome

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._stopped = True
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def join(self) -> None:
        """Wait for the end of the process."""
        if self._process is not None:
            self._process.join()

    def _started(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        if self._process is None or self._pipe is None:
            if self._stopped:
                raise WorkerLostError("The batch was stopped.")
            # A process that was forked from one with threads of torch may hang.
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._job, self._index, self._work), daemon=True
            )
            self._process.start()
            theirs.close()
            if self._stopped:
                # Whoever stopped it looked before it was there.
                self._process.terminate()
        return self._process, self._pipe


def _serve(pipe: Connection, job: BatchJob, index: int, work: Work) -> None:
    """Work on the scans that come through a pipe until it is closed."""
    # Ctrl+C reaches the whole group of processes; the first of them decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = _on_own_gpu(job, index)
    while True:
        try:
            scan = pipe.recv()
        except EOFError:
            return
        pipe.send(work(job, scan))


def _on_own_gpu(job: BatchJob, index: int) -> BatchJob:
    """Return the job on one of several GPUs where it may choose, so that processes share them."""
    if job.device != "auto":
        return job
    import torch

    count = torch.cuda.device_count()
    return replace(job, device=f"cuda:{index % count}") if count > 1 else job


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"
