"""What all engines share: they are closed at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

from PartialSegLib.batch.contract import Outcome, Scan

Self = TypeVar("Self", bound="BaseEngine")


class BaseEngine(ABC):
    """See :class:`PartialSegLib.batch.contract.Engine`."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many scans are worked on at once."""

    @abstractmethod
    def submit(self, scan: Scan) -> Future[Outcome]:
        """Have a scan segmented."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
