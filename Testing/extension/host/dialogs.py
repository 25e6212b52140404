"""A person who answers dialogs: what was shown is kept, and a test says beforehand what is answered.

A dialog with a choice that no test announced is a failure, because in Slicer it would wait for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from PySide6 import QtWidgets


@dataclass(frozen=True)
class Shown:
    """One dialog.

    Parameters
    ----------
    kind : str
        ``message``, ``open file``, ``open folder``, ``save file`` or ``text``.
    text : str
        What it said, or its title.
    title : str
        Title of its window.
    """

    kind: str
    text: str
    title: str = ""


class Dialogs:
    """All dialogs since :meth:`reset`."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self.opened: list[str] = []
        self._answers: deque[Any] = deque()

    def reset(self) -> None:
        """Forget everything."""
        self.shown.clear()
        self.opened.clear()
        self._answers.clear()

    def answer(self, *answers: Any) -> None:
        """Say what the next dialogs are answered: a button such as ``"Ok"`` or ``"Cancel"``, a path, a text."""
        self._answers.extend(answers)

    @property
    def last(self) -> str:
        """Text of the dialog that was shown last; empty without one."""
        return self.shown[-1].text if self.shown else ""

    @property
    def unanswered(self) -> int:
        """How many announced answers nobody asked for."""
        return len(self._answers)

    def ask(self, shown: Shown) -> Any:
        """Show a dialog and return the announced answer."""
        self.shown.append(shown)
        assert self._answers, f"A dialog that nobody expected: {shown}"
        return self._answers.popleft()

    def tell(self, shown: Shown) -> None:
        """Show a dialog that can only be closed."""
        self.shown.append(shown)


DIALOGS = Dialogs()


class MessageBox(QtWidgets.QMessageBox):
    """A message box that does not wait: ``ctk.ctkMessageBox`` and ``qt.QMessageBox``."""

    def exec_(self) -> Any:
        """Return the button that the test chose; ``Ok`` or ``Close`` when there is nothing else to choose."""
        box: Any = self
        shown = Shown("message", box.text, box.windowTitle)
        buttons = box.standardButtons
        button = QtWidgets.QMessageBox.StandardButton
        for only in (button.Ok, button.Close, button.NoButton):
            if buttons == only:
                DIALOGS.tell(shown)
                return button.Ok if only == button.NoButton else only
        chosen = button[DIALOGS.ask(shown)]
        assert chosen & buttons, f"'{shown.text}' offers no button {chosen}"
        return chosen

    exec = exec_
