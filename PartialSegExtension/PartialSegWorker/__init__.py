"""The resident worker: a child process that keeps the model in memory, and the client that talks to it.

Slicer's own process imports this package and no torch: :class:`WorkerClient` starts any Python with
``-m PartialSegWorker`` and speaks the protocol with it (``protocol.py``). The other side of the pipe
is ``server.py``, which passes requests to ``engine.py``, the one file that calls the library.
"""

from PartialSegWorker.client import WorkerClient
from PartialSegWorker.errors import WorkerError
from PartialSegWorker.parameters import ForecastParameters, SegmentParameters
from PartialSegWorker.request import Request

__all__ = ["ForecastParameters", "Request", "SegmentParameters", "WorkerClient", "WorkerError"]
