"""The errors of the module's logic: what it refuses to do without asking, and to do twice at once."""

from __future__ import annotations

from collections.abc import Sequence

from PartialSegLib.errors import PartialSegError


class BusyError(PartialSegError):
    """Something was asked for while a job that takes the worker is running."""

    code = "busy"


class SettingError(PartialSegError):
    """A setting that does not exist, as a quality or an overlap rule of another name."""

    code = "setting"


class EditsError(PartialSegError):
    """An undo that would lose what somebody edited since the run.

    Parameters
    ----------
    message, hint : str
    segments : sequence of str
        Names of the edited segments.
    """

    code = "edits"

    def __init__(self, message: str, hint: str = "", segments: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.segments = tuple(segments)


class ConsentError(PartialSegError):
    """An installation that nobody has agreed to; nothing was installed."""

    code = "consent"


class SetupError(PartialSegError):
    """An installation of packages that did not work."""

    code = "setup"
