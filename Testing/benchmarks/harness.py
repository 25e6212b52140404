"""What a benchmark reports: two things measured in one run, their ratio, and the bar it should meet."""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name : str
        What was compared.
    ours, other : str
        The two measurements, with units.
    ratio : float
        The figure that the bar is about.
    bar : str
        What it should be (``<= 1.10``).
    met : bool
        Whether it is.
    """

    name: str
    ours: str
    other: str
    ratio: float
    bar: str
    met: bool

    @classmethod
    def at_most(cls, name: str, ours: str, other: str, ratio: float, bar: float) -> Row:
        """Make a row whose ratio must not exceed the bar."""
        return cls(name, ours, other, ratio, f"<= {bar:g}", ratio <= bar)

    @classmethod
    def at_least(cls, name: str, ours: str, other: str, ratio: float, bar: float) -> Row:
        """Make a row whose ratio must reach the bar."""
        return cls(name, ours, other, ratio, f">= {bar:g}", ratio >= bar)

    def to_json(self) -> str:
        """Return the row as one line of JSON."""
        return json.dumps(asdict(self))


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Return the shortest wall-clock time of `repeats` calls."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def interleaved(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Time two things alternately, so that the load of the machine falls on both; shortest times."""
    times = [(seconds(first, 1), seconds(second, 1)) for _ in range(repeats)]
    return min(a for a, _ in times), min(b for _, b in times)


def in_child(work: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Run `work` in a fresh process; return its result and the peak memory it added, in bytes.

    `work` is called as ``work(mark, *arguments)``; it calls ``mark()`` when its inputs are in place,
    and the peak counts from there.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, int]:
    base = [0]

    def mark() -> None:
        base[0] = _reset_peak()

    result = work(mark, *arguments)
    return result, _peak() - base[0]


def _reset_peak() -> int:
    """Forget the peak so far (Linux) and return the memory in use now, in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values[field].split()[0]) * 1024
