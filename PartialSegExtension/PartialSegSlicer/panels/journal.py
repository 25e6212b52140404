"""The section "Log": what happened so far, with the time of day."""

from __future__ import annotations

from datetime import datetime

import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegSlicer.panels.context import Context

#: Lines that are kept.
_LINES = 500


class JournalPanel:
    """The log, and the diagnostics that are copied from it."""

    def __init__(self, context: Context) -> None:
        self._context, self._ui = context, context.ui
        self._ui.logText.setMaximumBlockCount(_LINES)
        self._ui.logClearButton.connect("clicked()", self._ui.logText.clear)
        for button in (self._ui.logCopyButton, self._ui.copyDiagnosticsButton):
            button.connect("clicked()", self.copyDiagnostics)

    def say(self, line: str) -> None:
        """Add a line."""
        self._ui.logText.appendPlainText(f"{datetime.now():%H:%M:%S}  {line}")

    def copyDiagnostics(self) -> None:
        """Copy what a report of a problem needs."""
        slicer.app.clipboard().setText(self._context.logic.diagnostics(self._context.lastError))
        self.say(_("The diagnostics were copied to the clipboard."))
