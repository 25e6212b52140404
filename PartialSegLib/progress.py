"""Progress, time left and cancellation of long work, for every front end alike.

Long work takes a :class:`Monitor` and calls :meth:`Monitor.step` between units of work. A front
end (terminal bar, worker pipe, test) gives it a callback, and sets :meth:`Monitor.cancel` from any
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from PartialSegLib.errors import CancelledError
from PartialSegLib.sizes import readable


@dataclass(frozen=True)
class Progress:
    """Where a stage of long work stands.

    Parameters
    ----------
    stage : str
        What is being done, as shown to the user (``"segment"``, ``"write"`` ...).
    done, total : int
        Units of work finished, and in all; a `total` of 0 means that nobody knows it.
    seconds_left : float or None
        Estimate from the pace of this stage so far; ``None`` before its first unit is done, and
        where the total is not known.
    unit : str
        What is counted, where it matters to the user: ``B`` for bytes.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None
    unit: str = ""


class Monitor:
    """Passes progress to a front end and a wish to stop to the work.

    Parameters
    ----------
    report : callable, optional
        Called with a :class:`Progress` after each unit, in the thread that does the work.
    """

    def __init__(self, report: Callable[[Progress], None] | None = None) -> None:
        self._report = report
        self._cancelled = threading.Event()
        self._stage = ""
        self._started = 0.0
        self._first = 0

    def cancel(self) -> None:
        """Ask the work to stop before its next unit (from any thread)."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def silent(self) -> Monitor:
        """Return a monitor that is cancelled with this one, and reports nothing: for work inside a step."""
        inner = Monitor()
        inner._cancelled = self._cancelled
        return inner

    def step(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """Report that `done` of `total` units of `stage` are finished; a `total` of 0 is not known.

        Call it once when the stage starts, with ``done=0``, or with what an earlier run had done: the
        time estimate counts from there.

        Raises
        ------
        CancelledError
            When :meth:`cancel` was called.
        """
        if self.cancelled:
            raise CancelledError(f"Stopped by the user during '{stage}' ({_amount(done, total, unit)}).")
        now = time.monotonic()
        if stage != self._stage or done == 0:
            self._stage, self._started, self._first = stage, now, done
        if self._report is not None:
            fresh = done - self._first
            left = (now - self._started) / fresh * (total - done) if fresh > 0 and total else None
            self._report(Progress(stage, done, total, left, unit))


def _amount(done: int, total: int, unit: str) -> str:
    first, last = (readable(count) if unit == "B" else str(count) for count in (done, total))
    return f"{first} of {last}" if total else first
