"""The errors of the worker and its protocol.

Those of the server travel over the pipe as they are (code, message, hint); what the client reports
is a :class:`WorkerError`, whose code says which of them it was. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from PartialSegLib.errors import CancelledError, PartialSegError

#: Codes of problems of the worker itself; all other codes are those of :mod:`PartialSegLib.errors`.
CANCELLED = CancelledError.code
DEFECT = "defect"
WORKER_START = "worker-start"
WORKER_CRASHED = "worker-crashed"


class ProtocolError(PartialSegError):
    """A line that is no message, or a request with wrong parameters."""

    code = "protocol"


class UnknownRequestError(ProtocolError):
    """A request that this worker does not know; its hello lists those that it does."""

    code = "unknown-request"


class ProtocolVersionError(ProtocolError):
    """Client and worker come from installations that speak different protocols."""

    code = "protocol-version"


class InstallationError(PartialSegError):
    """A package that the worker's Python needs is missing, damaged or built for another computer."""

    code = "installation"


class WorkerError(PartialSegError):
    """Why a request failed, as the front end shows it: hint first, traceback and log on demand.

    Parameters
    ----------
    code : str
        Stable name of the kind of error (:mod:`PartialSegLib.errors`, and this module).
    message, hint : str
        What happened, and what to do.
    traceback : str
        Of the worker, for a report; empty where the worker could not send one.
    log : str
        Last lines of the worker's log, where it ended without an answer.
    """

    def __init__(self, code: str, message: str, hint: str = "", *, traceback: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.code = code
        self.traceback = traceback
        self.log = log

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> WorkerError:
        """Return the error that an ``error`` event tells."""
        words = {name: str(event.get(name, "")) for name in ("message", "hint", "traceback")}
        return cls(str(event.get("code", DEFECT)), **words)

    @classmethod
    def crashed(cls, name: str, how: str, *, killed: bool, log: str) -> WorkerError:
        """Return the error of a request during which the worker ended; `killed` by the system, or a crash."""
        hint = "The next run starts a new worker."
        if killed:
            hint = f"The system may have run out of memory: choose fewer tasks or a region of interest. {hint}"
        return cls(WORKER_CRASHED, f"The worker ended during '{name}': {how}.", hint, log=log)

    @property
    def cancelled(self) -> bool:
        """Whether the user stopped the request."""
        return self.code == CANCELLED

    def diagnostics(self) -> str:
        """Return everything that is known, as text for a report."""
        parts = (f"[{self.code}] {self.message}", self.hint, self.traceback, self.log and f"Worker log:\n{self.log}")
        return "\n\n".join(part.strip() for part in parts if part)
