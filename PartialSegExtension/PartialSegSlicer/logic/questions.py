"""A question: one request to the worker whose answer is passed on as it is (devices, forecast, import ...)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegWorker.parameters import Parameters
from PartialSegWorker.protocol import Message
from PartialSegWorker.request import Request

if TYPE_CHECKING:
    from PartialSegSlicer.logic.session import Session


class Question(Job[Any]):
    """A job that is one request.

    Parameters
    ----------
    name : str
        Of the request.
    parameters : Parameters, optional
        What it takes.
    listeners : Listeners, optional
        Whom to tell.
    """

    def __init__(self, name: str, parameters: Parameters | None = None, listeners: Listeners | None = None) -> None:
        super().__init__(listeners)
        self.kind = name
        self._parameters = parameters
        self._request: Request | None = None
        self._session: Session | None = None

    def begin(self, session: Session) -> None:
        """Send the request."""
        self._session = session
        self._request = session.client.request(
            self.kind,
            self._parameters,
            done=self._answered,
            failed=self.fail,
            progress=self.report,
            listener=self.listen,
        )

    def cancel(self) -> None:
        """Withdraw the request."""
        if self._session is not None and self._request is not None and not self.ended:
            self._session.client.cancel(self._request)

    def _answered(self, answer: Message) -> None:
        read = None
        with self.step():
            read = self.read(answer)
        self.succeed(read)

    def listen(self, event: Message) -> None:
        """Take an event that is neither progress nor the end."""

    def read(self, answer: Message) -> Any:
        """Return what the caller gets for the worker's answer."""
        return answer
