"""What goes over the pipe: one JSON object a line, in UTF-8. Both sides call this; it imports no torch.

The client sends requests, the worker answers each with any number of ``progress``, ``preview``,
``partial`` and ``loss`` events and exactly one ``result`` or ``error``. Voxels never pass here: they travel as files,
and messages name them.

===========  ======================================================================================
Message      Fields
===========  ======================================================================================
request      ``id`` (whole number), ``request`` (its name), ``parameters`` (object, may be left out)
progress     ``id``, ``event``, ``stage``, ``done``, ``total`` (0: unknown), ``seconds_left`` (or null),
             ``unit`` (``B`` for bytes)
preview      ``id``, ``event``, ``output`` (a file with the voxels found since the last such event, before they
             are mended; whoever asked for it removes it)
partial      ``id``, ``event``, ``task`` (its key), ``output`` (a file with the structures of this task, which
             change no more; whoever asked for it removes it) and ``structures`` (as in the result)
loss         ``id``, ``event``, ``phase`` (a word), ``step`` and ``total`` (of this phase), ``loss`` (null
             where it is no number)
result       ``id``, ``event``, ``result`` (object)
error        ``id`` (null when the line had none), ``event``, ``code``, ``message``, ``hint``,
             ``traceback``
===========  ======================================================================================

The first request is ``hello`` with the client's protocol version. Its result names the worker's,
``capabilities``: every request that it can carry out, and ``immediate``: those of them that are also
answered during a run. A later version adds requests there, so that a front end asks what is possible in
place of comparing version numbers.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any

from PartialSegLib.errors import MemoryForecastError, PartialSegError
from PartialSegLib.progress import Progress
from PartialSegWorker.errors import DEFECT, InstallationError, ProtocolError

#: Raised when a message of an older client or worker would be misunderstood.
VERSION = 1
#: Longest line that a worker reads, in bytes: a region, tasks and paths need a few thousand.
LONGEST_LINE = 2**20

Message = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A request as the worker receives it.

    Parameters
    ----------
    id : int
        The client's number for it; every answer carries it.
    name : str
        What is wanted.
    parameters : dict
        With what; checked by ``parameters.py``.
    """

    id: int
    name: str
    parameters: Message = field(default_factory=dict)

    @classmethod
    def from_message(cls, message: Message) -> Call:
        """Read a request; :class:`ProtocolError` says what is wrong with it."""
        number, name, parameters = message.get("id"), message.get("request"), message.get("parameters", {})
        if type(number) is not int:
            raise ProtocolError(f"The request has the id {number!r}, which is no whole number.", "Number requests.")
        if not isinstance(name, str):
            raise ProtocolError(f"Request {number} has no name: 'request' is {name!r}.", "Name what is wanted.")
        if not isinstance(parameters, dict):
            raise ProtocolError(f"The parameters of request {number} are no object.", "Send names and values.")
        return cls(number, name, parameters)

    def to_message(self) -> Message:
        """Return the message that :meth:`from_message` reads."""
        return {"id": self.id, "request": self.name, "parameters": self.parameters}


def encode(message: Message) -> bytes:
    """Return a message as a line.

    Everything beyond ASCII is escaped, which is UTF-8 too: so a path whose bytes are no UTF-8 (Python
    holds them as lone surrogates) comes through as well, which plain UTF-8 cannot carry.
    """
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes, longest: int | None = None) -> Message:
    """Return the message of a line, which may have up to `longest` bytes.

    Raises
    ------
    ProtocolError
        When the line is too long, is no JSON in UTF-8, or no object.
    """
    if longest is not None and len(line) > longest:
        raise ProtocolError(f"The message is longer than {longest} bytes.", "Pass large data as files.")
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"This line is no JSON in UTF-8: {_start(line)} ({error})."
        raise ProtocolError(reason, "Send one object a line.") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"This line is no JSON object: {_start(line)}.", "Send one object a line.")
    return message


def progress_event(number: int, progress: Progress) -> Message:
    """Return the event that tells where a request stands."""
    return {"id": number, "event": "progress"} | asdict(progress)


def progress_of(event: Message) -> Progress:
    """Return what a ``progress`` event tells."""
    return Progress(event["stage"], event["done"], event["total"], event["seconds_left"], event["unit"])


def other_event(number: int, event: str, fields: Message) -> Message:
    """Return a ``preview``, ``partial`` or ``loss`` event."""
    return {"id": number, "event": event} | fields


def result_event(number: int, result: Message) -> Message:
    """Return the event that ends a request well."""
    return {"id": number, "event": "result", "result": result}


def error_event(number: int | None, error: BaseException) -> Message:
    """Return the event that ends a request with an error, typed as far as its cause is known."""
    told = _typed(error)
    code = DEFECT if told is None else told.code
    message = f"{type(error).__name__}: {error}" if told is None else told.message
    hint = "This is a defect of PartialSeg: copy the diagnostics into a report." if told is None else told.hint
    return {
        "id": number,
        "event": "error",
        "code": code,
        "message": message,
        "hint": hint,
        "traceback": "".join(traceback.format_exception(error)),
    }


def _typed(error: BaseException) -> PartialSegError | None:
    """Return an error that a user can understand and mend, or ``None`` for a defect."""
    if isinstance(error, PartialSegError):
        return error
    if isinstance(error, ImportError):
        return InstallationError(f"A package cannot be loaded: {error}.", "Repair the installation.")
    if isinstance(error, MemoryError):
        return MemoryForecastError(
            "The worker ran out of main memory.", "Choose a region of interest, or close other programs."
        )
    return None


def _start(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "backslashreplace"))
