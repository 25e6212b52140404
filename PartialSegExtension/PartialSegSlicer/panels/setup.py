"""The set-up: whether the worker's Python has what it needs, consent, Repair, and another Python.

The check runs in a process of its own. Nothing is installed before the user was told what and how much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt  # type: ignore[import-not-found]
import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.panels.context import Context, explained
from PartialSegSlicer.panels.widgets import setTone

_AMBER = "#d68910"


class SetupPanel:
    """The banner at the top, while something is missing, and the section "Set-up".

    Parameters
    ----------
    context : Context
    onDevices : callable
        Called with the devices, once the installation is known to work.
    """

    def __init__(self, context: Context, onDevices: Callable[[list[dict[str, Any]]], None]) -> None:
        self._context, self._ui, self._onDevices = context, context.ui, onDevices
        self._state: Any = None
        self._checking = False
        #: What a job has driven away, to be asked again after it.
        self._again: Callable[[], None] | None = None
        setTone(self._ui.setupBanner, _AMBER)
        self._ui.pythonPath.setText("" if context.logic.interpreter.own else context.logic.python)
        self._ui.setupCheckButton.connect("clicked()", self.check)
        self._ui.repairButton.connect("clicked()", self._repair)
        self._ui.setupInstallButton.connect("clicked()", self._repair)
        self._ui.pythonPath.connect("editingFinished()", self._choosePython)
        self._ui.pythonBrowseButton.connect("clicked()", self._browse)

    @property
    def ready(self) -> bool:
        """Whether the worker can run, as far as the last check saw."""
        return self._state is not None and self._state.ready

    @property
    def reason(self) -> str:
        """Why it cannot run; empty when it can."""
        if self._state is None:
            return _("The installation is being checked.")
        return "" if self._state.ready else str(self._state.sentence)

    def check(self) -> None:
        """Look at the installation, in the background."""
        if self._checking or self._context.busy:
            return
        self._checking = True
        self._ui.setupText.setText(_("Checking the installation..."))
        try:
            self._context.logic.setupState(onFinished=self._checked, onError=self._unchecked)
            self._context.wake()
        except PartialSegError as error:
            self._unchecked(error)
        except OSError as error:
            self._unchecked(explained(error))
        self._context.changed()

    def look(self) -> None:
        """Offer what can be done now; ask again what a job has driven away."""
        free = not self._context.busy and not self._checking
        if free and self._again:
            again, self._again = self._again, None
            again()
            free = not self._checking
        missing = self._state is not None and not self._state.ready
        own = self._state is None or self._state.own
        self._ui.setupBanner.setVisible(missing)
        self._ui.setupInstallButton.setVisible(missing and own)
        self._ui.setupInstallButton.setEnabled(free)
        self._ui.setupCheckButton.setEnabled(free)
        # What another Python lacks is for its owner to install: the text above names the command.
        self._ui.repairButton.setVisible(own)
        self._ui.repairButton.setEnabled(free)
        self._ui.pythonPath.setEnabled(free)
        self._ui.pythonBrowseButton.setEnabled(free)

    def _checked(self, state: Any) -> None:
        self._checking, self._state = False, state
        text = "\n\n".join(filter(None, [state.sentence, state.hint]))
        self._ui.setupText.setText(text)
        self._ui.setupBannerText.setText(text)
        self._context.say(state.sentence)
        if state.ready:
            self.askDevices()
        self._context.changed()

    def _unchecked(self, error: PartialSegError) -> None:
        self._checking = False
        if error.code == "cancelled":
            self._again = self.check
        else:
            self._context.fail(error)
        self._context.changed()

    def askDevices(self) -> None:
        """Learn which devices there are; a list of one that never comes is no reason to disturb anybody."""
        try:
            self._context.logic.devices(
                onFinished=lambda answer: self._onDevices(answer["devices"]),
                onError=self._withoutDevices,
            )
            self._context.wake()
        except PartialSegError as error:
            self._context.say(error.message)

    def _withoutDevices(self, error: PartialSegError) -> None:
        if error.code == "cancelled":
            self._again = self.askDevices
        else:
            self._context.say(error.message)

    def _repair(self) -> None:
        """Install what is missing, after the user has agreed."""
        state = self._state
        if state is None or state.ready:
            self.check()
            return
        packages = "\n".join(state.missing)
        question = _(
            "These packages will be downloaded and installed into Slicer's Python:\n\n{packages}\n\n{hint}\n\nContinue?"
        ).format(packages=packages, hint=state.hint)
        if not slicer.util.confirmOkCancelDisplay(question, _("Set up PartialSeg")):
            return
        self._ui.setupText.setText(_("Installing..."))
        with self._context.guarded():
            slicer.app.processEvents()
            self._checked(self._context.logic.repair(consent=True, log=self._context.say, progress=True))
            return
        self._checked(state)

    def _browse(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._ui.pythonBrowseButton, _("Choose a Python program"))
        if path:
            self._ui.pythonPath.setText(path)
            self._choosePython()

    def _choosePython(self) -> None:
        wanted = self._ui.pythonPath.text.strip()
        before = "" if self._context.logic.interpreter.own else self._context.logic.python
        if wanted == before:
            return
        with self._context.guarded():
            self._context.logic.setPython(wanted)
            self._state = None
            self.check()
            return
        self._ui.pythonPath.setText(before)
