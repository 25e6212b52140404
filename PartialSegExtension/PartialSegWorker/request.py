"""A request as the front end holds it: what was wanted, what came of it, and whom to tell. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from PartialSegLib.progress import Progress
from PartialSegWorker.errors import WorkerError
from PartialSegWorker.protocol import Message


class Request:
    """One request and its outcome.

    Parameters
    ----------
    name : str
        What is wanted.
    parameters : dict
        With what.
    done : callable, optional
        Called with the result (dict).
    failed : callable, optional
        Called with the :class:`WorkerError`; also when the user cancelled.
    progress : callable, optional
        Called with each :class:`~PartialSegLib.progress.Progress`.
    listener : callable, optional
        Called with each ``preview``, ``partial`` and ``loss`` event (dict, see :mod:`PartialSegWorker.protocol`).
    """

    def __init__(
        self,
        name: str,
        parameters: Message,
        done: Callable[[Message], object] | None = None,
        failed: Callable[[WorkerError], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
        listener: Callable[[Message], object] | None = None,
    ) -> None:
        self.name = name
        self.parameters = parameters
        self.result: Message | None = None
        self.error: WorkerError | None = None
        self._done, self._failed, self._progress, self._listener = done, failed, progress, listener

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None

    def report(self, progress: Progress) -> None:
        """Pass progress on. This and the three below are for the client."""
        if self._progress is not None:
            self._progress(progress)

    def tell(self, event: Message) -> None:
        """Pass another event on."""
        if self._listener is not None:
            self._listener(event)

    def succeed(self, result: Message) -> None:
        """Take the result, and tell it."""
        self.result = result
        if self._done is not None:
            self._done(result)

    def fail(self, error: WorkerError) -> None:
        """Take the reason why there is none, and tell it."""
        self.error = error
        if self._failed is not None:
            self._failed(error)
