"""The worker's two ends of the protocol, taken away from everyone else in its process.

Libraries print, in Python and in C, and some read. After :meth:`Channel.take` the standard output is
the log and the standard input is empty for all of them; the pipes of the client have new numbers that
only this file knows, and that no further process inherits. Called by the worker's start and server.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Self

from PartialSegWorker.protocol import LONGEST_LINE, Message, encode


class Channel:
    """Requests in, events out.

    Parameters
    ----------
    requests, events : binary file
        Where lines are read from and written to.
    """

    def __init__(self, requests: BinaryIO, events: BinaryIO) -> None:
        self._requests, self._events = requests, events
        self._lock = threading.Lock()

    @classmethod
    def take(cls) -> Self:
        """Take the standard input and output of this process. To be called before anything else is imported."""
        sys.stdout.flush()
        channel = cls(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        # What was printed before, by a launcher or while Python started, must not become part of a message.
        channel._events.write(b"\n")
        channel._events.flush()
        return channel

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that the client sends, until it is gone. One that is too long comes cut."""
        # A client that was killed can leave an error in place of an end.
        with suppress(OSError):
            while line := self._requests.readline(LONGEST_LINE + 1):
                end = line
                while end and not end.endswith(b"\n"):
                    end = self._requests.readline(LONGEST_LINE)
                yield line

    def send(self, event: Message) -> None:
        """Send an event, from any thread."""
        line = encode(event)
        # That the client is gone is found by who reads its requests.
        with self._lock, suppress(OSError):
            self._events.write(line)
            self._events.flush()
