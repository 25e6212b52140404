"""A training that is told to end by SIGTERM saves first: what a cluster sends before it takes a machine away.

The signal cancels the work like Ctrl+C does, so that the step in progress is finished and a
checkpoint is written; the command then leaves with an exit status of its own, by which a job script
knows that the same command goes on::

    srun partialseg train RECIPE --output RUN
    [ $? -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"

Called by ``partialseg train``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PartialSegLib.errors import CancelledError
from PartialSegLib.progress import Monitor


class PreemptedError(CancelledError):
    """The machine is taken away: the work was saved and goes on where it was when run again.

    Its exit status is ``EX_TEMPFAIL`` of sysexits.h ("the user is invited to retry").
    """

    code = "preempted"
    exit_code = 75


@contextmanager
def saved_at_termination(monitor: Monitor) -> Iterator[None]:
    """Let SIGTERM cancel `monitor`; the error that follows says that the work may be run again.

    Where signals cannot be handled, outside the main thread, nothing changes.

    Raises
    ------
    PreemptedError
        In place of the :class:`CancelledError` that a SIGTERM has led to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = threading.Event()

    def cancel(signum: int, frame: object) -> None:
        received.set()
        monitor.cancel()

    previous = signal.signal(signal.SIGTERM, cancel)
    try:
        yield
    except CancelledError as error:
        if received.is_set():
            raise PreemptedError(error.message.replace("by the user", "by SIGTERM"), error.hint) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
