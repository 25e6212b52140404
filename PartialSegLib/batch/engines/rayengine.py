"""Scans on a Ray cluster, or on a Ray that is started on this machine (extra ``ray``).

Ray would run the scan of a lost process again by itself; it is told not to, so that a batch counts
attempts in one way on every engine. It sends no usage statistics.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from functools import partial
from typing import Any

from PartialSegLib.batch.contract import BatchError, BatchJob, Outcome, Scan, Work, WorkerLostError
from PartialSegLib.batch.engines.base import BaseEngine
from PartialSegLib.errors import MissingExtraError


class RayEngine(BaseEngine):
    """See :func:`PartialSegLib.batch.engines.make_engine`.

    Parameters
    ----------
    job : BatchJob
        A task takes as many CPUs as it names threads, and a GPU where it names one, or where it
        names no device and the cluster has some.
    workers : int
        Tasks at once on a Ray that is started here.
    address : str, optional
        Of a running cluster (``auto``, ``ray://host:10001``).
    work : callable
        Works on one scan; a process keeps its model for the next one.
    """

    def __init__(self, job: BatchJob, workers: int, address: str | None, work: Work) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("Batches on Ray", "ray") from error
        # Its types describe many more ways to call it than the one that is needed here.
        self._ray: Any = ray
        self._joined = not ray.is_initialized()
        job = job if address else job.divided(workers)
        threads = job.threads or 1
        if self._joined:
            _connect(ray, address, workers * threads)
        resources = ray.cluster_resources()
        gpu = job.device.startswith("cuda") or (job.device == "auto" and resources.get("GPU", 0) > 0)
        room = resources.get("GPU", 0) if gpu else resources.get("CPU", 1) // threads
        self._workers = max(1, int(room) if address else min(workers, int(room)))
        # Without a limit of calls a process keeps its model; with a GPU, Ray would end it after each scan.
        options = {"num_cpus": threads, "num_gpus": int(gpu), "max_retries": 0, "max_calls": 0}
        self._submit = self._ray.remote(**options)(work).remote
        self._job = ray.put(job)

    @property
    def workers(self) -> int:
        """How many scans the cluster works on at once."""
        return self._workers

    def submit(self, scan: Scan) -> Future[Outcome]:
        """See :meth:`Engine.submit`."""
        future: Future[Outcome] = Future()
        self._submit(self._job, scan).future().add_done_callback(partial(self._finish, future, scan))
        return future

    def close(self) -> None:
        """See :meth:`Engine.close`; a cluster that ran before goes on."""
        if self._joined:
            self._ray.shutdown()

    def _finish(self, future: Future[Outcome], scan: Scan, remote: Future[Any]) -> None:
        error = remote.exception()
        if error is None:
            future.set_result(remote.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            future.set_exception(error)
        else:
            hint = "Was there too little memory? Work on fewer scans at once."
            future.set_exception(WorkerLostError(f"The process that worked on '{scan.name}' died on Ray.", hint))


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at '{address}'" if address else "on this machine"
        raise BatchError(f"No Ray answers {where}: {error}.", "Check the address, or start it first.") from error
