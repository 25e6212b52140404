"""The error panel: what to do comes first, then what happened, and where on demand."""

from __future__ import annotations

from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.widgets import setTone

_RED = "#c0392b"


class ProblemPanel:
    """Shows one error, until it is dismissed or the next job begins."""

    def __init__(self, context: Context) -> None:
        self._context, self._ui = context, context.ui
        setTone(self._ui.errorPanel, _RED)
        self._ui.errorCloseButton.connect("clicked()", self.clear)
        self._ui.errorDetailsButton.connect("toggled(bool)", self._ui.errorDetails.setVisible)

    def show(self, error: PartialSegError) -> None:
        """Show an error."""
        self._context.lastError = error
        ui = self._ui
        # An error without a hint still says something in bold.
        ui.errorHint.setText(error.hint or error.message)
        ui.errorMessage.setText(error.message)
        ui.errorMessage.setVisible(bool(error.hint))
        parts = [getattr(error, "traceback", ""), getattr(error, "log", "")]
        details = "\n\n".join(part.strip() for part in parts if part)
        ui.errorDetails.setPlainText(details or _("Code: {code}").format(code=error.code))
        ui.errorDetailsButton.setChecked(False)
        ui.errorPanel.setVisible(True)
        ui.runSection.collapsed = False

    def clear(self) -> None:
        """Hide the error."""
        self._ui.errorPanel.setVisible(False)
