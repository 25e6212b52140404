"""What commands show on a terminal: progress bars, tables, and how Ctrl+C stops long work.

Bars go to stderr and only to a terminal, so that logs and pipes stay clean; results go to stdout.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PartialSegLib.progress import Monitor, Progress


@contextmanager
def terminal_monitor(*, quiet: bool = False) -> Iterator[Monitor]:
    """Yield a monitor with a progress bar for each stage; Ctrl+C cancels it, a second one interrupts.

    Parameters
    ----------
    quiet : bool
        Show no bar.
    """
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in bars:
            for bar in bars.values():
                bar.close()
            # The first value is what an earlier run had done: the pace counts from there.
            bars[progress.stage] = tqdm(
                total=progress.total or None,
                initial=progress.done,
                desc=progress.stage,
                unit=progress.unit or "it",
                unit_scale=bool(progress.unit),
                file=sys.stderr,
                disable=quiet or None,
            )
        bar = bars[progress.stage]
        # A download learns its size from the server's answer.
        bar.total = progress.total or None
        bar.update(progress.done - bar.n)

    monitor = Monitor(show)
    with cancelled_by_interrupt(monitor):
        try:
            yield monitor
        finally:
            for bar in bars.values():
                bar.close()


def note(line: str) -> None:
    """Write a line for the user to stderr, above the bars that are shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def cancelled_by_interrupt(monitor: Monitor) -> Iterator[None]:
    """Let the first Ctrl+C cancel `monitor`; later ones do what they did before."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers; whoever runs us elsewhere cancels the monitor itself.
        yield
        return

    def cancel(signum: int, frame: object) -> None:
        monitor.cancel()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows in aligned columns under a header.

    Parameters
    ----------
    header : sequence of str
        One text a column.
    rows : sequence of sequence of str
        Texts, as many as in the header.
    right : sequence of int
        Columns aligned to the right: numbers.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)])
