"""The errors of the worker and its protocol.

Those of the server travel over the pipe as they are (code, message, hint); what the client reports
is a :class:`WorkerError`, whose code says which of them it was. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from PartialSegLib.errors import CancelledError, MemoryForecastError, PartialSegError
from PartialSegWorker import texts

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


#: Message and hint of the errors of the worker process whose kind says all, or one of them, by their codes.
_GENERAL = {
    DEFECT: ("", texts.DEFECT_HINT),
    InstallationError.code: ("", texts.INSTALLATION_HINT),
    MemoryForecastError.code: (texts.MEMORY, texts.MEMORY_HINT),
}


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
    values : mapping of str to str, optional
        Of the placeholders in `message` and `hint`, which are the client's own texts; without it both are
        taken as they are.

    Attributes
    ----------
    original : str
        Message and hint in English, for a report; of the worker, in its own words.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        traceback: str = "",
        log: str = "",
        values: Mapping[str, str] | None = None,
    ) -> None:
        self._texts, self._values = (message, hint), values
        super().__init__(*self._filled(str))
        self.original = _joined(self.message, self.hint)
        self.code = code
        self.traceback = traceback
        self.log = log

    def translate(self, translation: Callable[[str], str]) -> None:
        """Put the client's own texts into another language.

        What the worker told stays as it is, unless its kind says all: that is said in the other language,
        if there is a translation.
        """
        if self._values is None:
            message, hint = _GENERAL.get(self.code, ("", ""))
            self.message = _translated(message, translation) or self.message
            self.hint = _translated(hint, translation) or self.hint
            return
        # A translation with other placeholders is worth less than the English text.
        with suppress(KeyError, IndexError, ValueError):
            self.message, self.hint = self._filled(translation)

    def _filled(self, translation: Callable[[str], str]) -> tuple[str, str]:
        message, hint = self._texts
        if self._values is None:
            return message, hint
        return translation(message).format(**self._values), hint and translation(hint).format(**self._values)

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> WorkerError:
        """Return the error that an ``error`` event tells."""
        message, hint, trace = (str(event.get(name, "")) for name in ("message", "hint", "traceback"))
        code = str(event.get("code", DEFECT))
        if code != CANCELLED:
            return cls(code, message, hint, traceback=trace)
        # Where the worker stopped matters to a report, not to the person who stopped it.
        stopped = cls(code, texts.STOPPED, traceback=trace, values={})
        stopped.original = _joined(message, hint)
        return stopped

    @classmethod
    def crashed(cls, way: str, values: Mapping[str, str], *, killed: bool, log: str) -> WorkerError:
        """Return the error of a request during which the worker ended; `killed` by the system, or a crash.

        `way` and `values` are those of :func:`~PartialSegWorker.child.way_of_ending`.
        """
        hint = texts.KILLED_HINT if killed else texts.CRASHED_HINT
        return cls(WORKER_CRASHED, texts.CRASHED[way], hint, log=log, values=values)

    @property
    def cancelled(self) -> bool:
        """Whether the user stopped the request."""
        return self.code == CANCELLED

    def diagnostics(self) -> str:
        """Return everything that is known, as English text for a report."""
        parts = (f"[{self.code}] {self.original}", self.traceback, self.log and f"Worker log:\n{self.log}")
        return _joined(*parts)


def _joined(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part)


def _translated(text: str, translation: Callable[[str], str]) -> str:
    """Return the translation of a text; empty when there is none."""
    found = text and translation(text)
    return "" if found == text else found
