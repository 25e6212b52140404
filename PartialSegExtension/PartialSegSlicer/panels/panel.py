"""The panel as a whole: makes the sections, tells each when to look again, and polls the logic.

The module's widget class makes one, and passes on what Slicer tells it: entering and leaving the
module, closing the scene, another parameter node.
"""

from __future__ import annotations

from typing import Any

import qt  # type: ignore[import-not-found]
import slicer  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.finetuning import FineTunePanel
from PartialSegSlicer.panels.journal import JournalPanel
from PartialSegSlicer.panels.models import ModelPanel
from PartialSegSlicer.panels.problems import ProblemPanel
from PartialSegSlicer.panels.results import ResultPanel
from PartialSegSlicer.panels.runs import RunPanel
from PartialSegSlicer.panels.setup import SetupPanel
from PartialSegSlicer.panels.tasks import TaskPicker
from PartialSegSlicer.panels.trainingcases import CasePanel
from PartialSegSlicer.panels.widgets import alignLabels

#: Milliseconds between two looks at the worker.
_POLL = 100
#: Fields with a label beside them.
_FIELDS = (
    "inputVolume",
    "outputSegmentation",
    "region",
    "modelSelector",
    "device",
    "quality",
    "fineTuneMode",
    "overlap",
    "pythonPath",
)


class Panel:
    """All sections.

    Parameters
    ----------
    logic : PartialSegLogic
    ui : object
        The widgets of ``PartialSeg.ui`` by name.
    """

    def __init__(self, logic: Any, ui: Any) -> None:
        self._logic = logic
        self._settings: Any = None
        self._looking = self._closed = False
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL)
        self._timer.connect("timeout()", self._poll)
        alignLabels(getattr(ui, f"{name}Label") for name in _FIELDS)
        context = Context(logic, ui, lambda: self._settings, self._say, self._fail, self._timer.start, self.look)
        self.journal = JournalPanel(context)
        self.problems = ProblemPanel(context)
        self.tasks = TaskPicker(context)
        self.results = ResultPanel(context)
        self.runs = RunPanel(context, self.results, self.problems.clear)
        self.models = ModelPanel(context, self.tasks.setModel)
        self.cases = CasePanel(context, self.results, self.models.nameOf)
        self.fineTuning = FineTunePanel(context, self.cases, self.models.nameOf, self.models.refresh)
        self.setup = SetupPanel(context, self.runs.setDevices)

    def enter(self) -> None:
        """The module is shown: what may have changed meanwhile is read again."""
        self.models.refresh()
        self.cases.refresh()
        self.results.refreshStatus()
        self.fineTuning.restore()
        if not self.setup.ready:
            self.setup.check()
        elif self._logic.session.running and not self._logic.busy:
            # How much memory is free on each device has changed.
            self.setup.askDevices()
        self.look()

    def setSettings(self, settings: Any) -> None:
        """Work with another parameter node, or with none."""
        self._settings = settings
        self.show()

    def show(self) -> None:
        """Show what the parameter node says."""
        if self._settings is not None:
            self.models.show(self._settings.model)
            self.tasks.setSelection(list(self._settings.tasks))
            self.runs.show()
            self.results.showSegmentation(self._settings.outputSegmentation)
        self.look()

    def sceneClosed(self) -> None:
        """Forget the last run: its nodes are gone."""
        self.results.clear()
        self.look()

    def look(self) -> None:
        """Let every section offer what can be done now."""
        # A section that changes a widget is told of it: one round is enough.
        if self._looking or self._closed:
            return
        self._looking = True
        try:
            self.setup.look()
            self.models.look()
            self.runs.look(self.setup.ready, self.setup.reason)
            self.results.look()
            self.cases.look()
            self.fineTuning.look(self.setup.ready)
        finally:
            self._looking = False

    def close(self) -> None:
        """End timers; the logic is closed by who made it, and what it still tells then begins nothing."""
        self._closed = True
        self._timer.stop()
        self.runs.close()

    def _poll(self) -> None:
        self._logic.poll()
        if not self._logic.session.active:
            self._timer.stop()
            self.look()

    def _say(self, line: str) -> None:
        self.journal.say(line)
        slicer.util.showStatusMessage(line, 3000)

    def _fail(self, error: PartialSegError) -> None:
        self.problems.show(error)
        self.journal.say(error.message)
