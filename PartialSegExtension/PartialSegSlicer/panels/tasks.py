"""The task picker: tasks and their structures in a tree that is searched by name and by code.

The selection lives in the parameter node, as names that ``LabelSpace.select`` knows, so that it is saved
with the scene and reads the same in the console.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import qt  # type: ignore[import-not-found]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.widgets import silent, stretchFirst, swatch

_KEY = 0x0100  # Qt::UserRole
_TASK, _WORDS, _TASK_WORDS = range(_KEY + 1, _KEY + 4)


class TaskPicker:
    """The tree, its search and its summary."""

    def __init__(self, context: Context) -> None:
        self._context, self._ui = context, context.ui
        self._tree = self._ui.taskTree
        stretchFirst(self._tree)
        self._tree.connect("itemChanged(QTreeWidgetItem*,int)", self._onItemChanged)
        self._ui.taskSearch.connect("textChanged(QString)", self._onSearch)
        self._ui.taskAllButton.connect("clicked()", lambda: self._setShown(True))
        self._ui.taskNoneButton.connect("clicked()", lambda: self._setShown(False))

    def setModel(self, model: dict[str, Any] | None) -> None:
        """Show the tasks of a model, as ``PartialSegLogic.models`` describes it; keep what is chosen and known."""
        with silent(self._tree):
            self._tree.clear()
            for task in model["tasks"] if model else []:
                self._addTask(task)
        self.setSelection(self._stored())
        self._onSearch(self._ui.taskSearch.text)
        if model is not None:
            # What only another model knows cannot be asked of this one.
            self._store()

    def selection(self) -> list[str]:
        """Return what is chosen, in the order of the model: the key of a whole task, or those of its structures."""
        chosen = []
        for task, leaves in self._byTask().items():
            checked = [leaf for leaf in leaves if leaf.checkState(0) == qt.Qt.Checked]
            if len(checked) == len(leaves):
                chosen.append(task)
            else:
                # With the task before it, because a task and its organ often share a key.
                chosen += [f"{task}/{leaf.data(0, _KEY)}" for leaf in checked]
        return chosen

    def setSelection(self, names: list[str]) -> None:
        """Check what is named by keys of tasks, of structures, or of both, and uncheck all else."""
        wanted = set(names)
        with silent(self._tree):
            tasks = self._byTask()
            for task, leaves in tasks.items():
                for leaf in leaves:
                    key = leaf.data(0, _KEY)
                    named = not {task, f"{task}/{key}", key if key not in tasks else task}.isdisjoint(wanted)
                    leaf.setCheckState(0, qt.Qt.Checked if named else qt.Qt.Unchecked)
        self._summarize()

    def _addTask(self, task: dict[str, Any]) -> None:
        structures = task["structures"]
        # A task of one structure is that structure: a branch with one leaf only costs a click.
        parent: Any = self._tree
        if len(structures) > 1:
            parent = qt.QTreeWidgetItem(self._tree)
            parent.setText(0, task["name"])
            parent.setFlags(parent.flags() | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsAutoTristate)
            parent.setCheckState(0, qt.Qt.Unchecked)
            parent.setFirstColumnSpanned(True)
        for structure in structures:
            leaf = qt.QTreeWidgetItem(parent)
            codes = structure.get("codes", [])
            leaf.setText(0, structure["name"])
            # The scheme is nearly always SNOMED CT, and stands in the tooltip.
            leaf.setText(1, codes[0].rpartition(" ")[2] if codes else "")
            leaf.setIcon(0, swatch(structure.get("color", (160, 160, 160))))
            leaf.setToolTip(0, structure["name"])
            leaf.setToolTip(1, ", ".join(codes))
            leaf.setForeground(1, self._tree.palette.brush(qt.QPalette.Disabled, qt.QPalette.Text))
            leaf.setFlags(leaf.flags() | qt.Qt.ItemIsUserCheckable)
            leaf.setCheckState(0, qt.Qt.Unchecked)
            leaf.setData(0, _KEY, structure["key"])
            leaf.setData(0, _WORDS, " ".join([structure["name"], structure["key"], *codes]).lower())
            leaf.setData(0, _TASK, task["key"])
            leaf.setData(0, _TASK_WORDS, f"{task['name']} {task['key']}".lower())
        if parent is not self._tree:
            parent.setExpanded(True)

    def _branches(self) -> Iterator[Any]:
        for index in range(self._tree.topLevelItemCount):
            yield self._tree.topLevelItem(index)

    def _leaves(self) -> Iterator[Any]:
        for branch in self._branches():
            if branch.childCount() == 0:
                yield branch
            for index in range(branch.childCount()):
                yield branch.child(index)

    def _byTask(self) -> dict[str, list[Any]]:
        """Return the structures of each task by its key."""
        found: dict[str, list[Any]] = {}
        for leaf in self._leaves():
            found.setdefault(str(leaf.data(0, _TASK)), []).append(leaf)
        return found

    def _onSearch(self, text: str) -> None:
        """Show the structures that have every word of the search; the tasks that do, where no structure does."""
        words = text.lower().split()
        leaves = list(self._leaves())
        for role in (_WORDS, _TASK_WORDS):
            found = [all(word in str(leaf.data(0, role)) for word in words) for leaf in leaves]
            if any(found):
                break
        for leaf, shown in zip(leaves, found, strict=True):
            leaf.setHidden(not shown)
        for branch in self._branches():
            if branch.childCount():
                branch.setHidden(all(branch.child(index).isHidden() for index in range(branch.childCount())))
                if words:
                    branch.setExpanded(True)

    def _setShown(self, checked: bool) -> None:
        """Check or uncheck what the search shows."""
        with silent(self._tree):
            for leaf in self._leaves():
                if not leaf.isHidden():
                    leaf.setCheckState(0, qt.Qt.Checked if checked else qt.Qt.Unchecked)
        self._store()

    def _onItemChanged(self, item: Any, column: int) -> None:
        # A branch changes all its leaves, and each of them says so: one look when all have is enough.
        self._store()

    def _stored(self) -> list[str]:
        settings = self._context.settings()
        return list(settings.tasks) if settings is not None else []

    def _store(self) -> None:
        settings, chosen = self._context.settings(), self.selection()
        if settings is not None and list(settings.tasks) != chosen:
            settings.tasks = chosen
        self._summarize()
        self._context.changed()

    def _summarize(self) -> None:
        count = sum(leaf.checkState(0) == qt.Qt.Checked for leaf in self._leaves())
        if not count:
            text = _("Nothing selected")
        elif count == 1:
            text = _("1 structure selected")
        else:
            text = _("{count} structures selected").format(count=count)
        self._ui.taskSummary.setText(text)
