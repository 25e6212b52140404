"""Who works on the scans of a batch: this process, processes of this machine, Ray or Dask.

All are asked in one way (:class:`PartialSegLib.batch.contract.Engine`) and pass the same tests. Ray
and Dask are optional extras, and imported only when they are asked for.
"""

from __future__ import annotations

from PartialSegLib.batch.contract import BatchError, BatchJob, Engine, Work
from PartialSegLib.batch.engines.local import ProcessEngine, SerialEngine
from PartialSegLib.batch.work import segment_scan
from PartialSegLib.progress import Monitor

#: Names of the engines, and what they are.
ENGINES = {
    "local": "processes of this machine",
    "ray": "a Ray cluster (extra: ray)",
    "dask": "a Dask cluster (extra: dask)",
}


def make_engine(
    name: str,
    job: BatchJob,
    *,
    workers: int = 1,
    address: str | None = None,
    work: Work = segment_scan,
    monitor: Monitor | None = None,
) -> Engine:
    """Start an engine.

    Parameters
    ----------
    name : str
        Key of :data:`ENGINES`.
    job : BatchJob
        What is done to every scan.
    workers : int
        Scans that are worked on at once; one, locally, is worked on in this process. Of a cluster
        that runs already, as many as it has cores (or GPUs, where the job needs one).
    address : str, optional
        Of a running Ray or Dask cluster, whose machines see the scans, the model and the results
        under the same names; without it, one is started on this machine.
    work : callable, optional
        Works on one scan.
    monitor : Monitor, optional
        Cancels a scan between its windows, where this process works on it.

    Raises
    ------
    BatchError
        When the engine is unknown, or its cluster cannot be reached.
    MissingExtraError
        When it is not installed.
    """
    if name not in ENGINES:
        raise BatchError(f"There is no engine '{name}'.", f"Known: {', '.join(ENGINES)}.")
    if name == "local" and address is not None:
        raise BatchError(f"The engine 'local' has no address '{address}'.", "Name 'ray' or 'dask' with --engine.")
    if name == "ray":
        from PartialSegLib.batch.engines.rayengine import RayEngine

        return RayEngine(job, workers, address, work)
    if name == "dask":
        from PartialSegLib.batch.engines.daskengine import DaskEngine

        return DaskEngine(job, workers, address, work)
    return SerialEngine(job, monitor, work) if workers == 1 else ProcessEngine(job, workers, work)
