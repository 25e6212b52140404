"""What the sections of the panel share: the logic, the widgets, the parameter node, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError


@dataclass
class Context:
    """Given to every section by the module's widget.

    Parameters
    ----------
    logic : PartialSegLogic
    ui : object
        The widgets of the ``.ui`` file by name.
    settings : callable
        Returns the parameter node's wrapper; ``None`` while there is no scene to speak of.
    say : callable
        Adds a line to the log.
    fail : callable
        Shows a :class:`PartialSegError`.
    wake : callable
        Polls the logic from now on, until it has nothing more to do.
    changed : callable
        Lets every section look again at what it may offer.
    """

    logic: Any
    ui: Any
    settings: Callable[[], Any]
    say: Callable[[str], None]
    fail: Callable[[PartialSegError], None]
    wake: Callable[[], None]
    changed: Callable[[], None]
    #: What went wrong last, as far as it was shown.
    lastError: PartialSegError | None = None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Show what a user can do something about; anything else is a defect and passes."""
        try:
            yield
        except PartialSegError as error:
            self.fail(error)
        except OSError as error:
            self.fail(explained(error))
        except MemoryError:
            self.fail(PartialSegError(_("Slicer has no memory left for this."), _("Close other data or programs.")))

    @property
    def busy(self) -> bool:
        """Whether a job runs that takes the worker."""
        return bool(self.logic.busy)


def explained(error: OSError) -> PartialSegError:
    """Return an error of the disk as one that a user can do something about; it names the file."""
    return PartialSegError(str(error), _("Is the disk full, or a folder gone?"))
