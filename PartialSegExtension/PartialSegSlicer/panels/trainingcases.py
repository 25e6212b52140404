"""Training cases: saving corrected segments, the list of what was saved, and what each case is used for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt  # type: ignore[import-not-found]
import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.results import ResultPanel
from PartialSegSlicer.panels.widgets import cell, chosenOf, fill, fitRows, plainTable
from PartialSegSlicer.segments import completedSegments

_CASE, _STRUCTURES, _USE = range(3)
_MOST_ROWS = 6
#: What a case may be used for.
LEARN, COMPARE, LEAVE = "learn", "compare", "leave"


class CasePanel:
    """The list of training cases.

    Parameters
    ----------
    context : Context
    results : ResultPanel
        Knows the segmentation that is worked on.
    nameOf : callable
        Returns what a structure is called, for its key.
    """

    def __init__(self, context: Context, results: ResultPanel, nameOf: Callable[[str], str]) -> None:
        self._context, self._ui, self._results, self._nameOf = context, context.ui, results, nameOf
        self._table = self._ui.caseTable
        self._uses: dict[str, str] = {}
        plainTable(self._table)
        self._table.connect("itemSelectionChanged()", self.look)
        self._ui.saveCaseButton.connect("clicked()", self._save)
        self._ui.removeCaseButton.connect("clicked()", self._remove)

    def refresh(self) -> None:
        """Read the list of cases again."""
        cases: list[Any] = []
        with self._context.guarded():
            cases = self._context.logic.trainingCases()
        good = [case.name for case in cases if not case.problem]
        self._uses = {name: self._uses.get(name, LEARN) for name in good}
        # The figures before and after need a case that nothing was learned from.
        if len(good) > 1 and COMPARE not in self._uses.values():
            self._uses[good[-1]] = COMPARE
        self._table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            self._show(row, case)
        self._table.setVisible(bool(cases))
        self._ui.removeCaseButton.setVisible(bool(cases))
        fitRows(self._table, 1, _MOST_ROWS)
        self._summarize()
        self._context.changed()

    def chosen(self, use: str) -> list[str]:
        """Return the names of the cases that are used in one way."""
        return [name for name, chosen in self._uses.items() if chosen == use]

    def look(self) -> None:
        """Offer what can be done now."""
        node, settings = self._segmentation(), self._context.settings()
        volume = settings is not None and settings.inputVolume is not None
        corrected = len(completedSegments(node)) if node is not None else 0
        self._ui.saveCaseButton.setEnabled(bool(volume and corrected))
        self._ui.removeCaseButton.setEnabled(self._table.currentRow() >= 0 and not self._context.busy)

    def _segmentation(self) -> Any:
        """Return the segmentation that is worked on: the one that is selected, or that of the last run."""
        settings = self._context.settings()
        return (settings.outputSegmentation if settings is not None else None) or self._results.node

    def _show(self, row: int, case: Any) -> None:
        tip = case.problem or _("{folder}, saved {time}").format(
            folder=case.folder, time=f"{case.created:%Y-%m-%d %H:%M}"
        )
        self._table.setItem(row, _CASE, cell(case.name, tip=tip, data=case.name))
        structures = _("Damaged") if case.problem else ", ".join(map(self._nameOf, case.structures))
        self._table.setItem(row, _STRUCTURES, cell(structures, tip=structures))
        if case.problem:
            self._table.removeCellWidget(row, _USE)
            self._table.setItem(row, _USE, cell("-"))
            return
        combo = qt.QComboBox()
        combo.setToolTip(_("Learn from it, compare before and after on it, or leave it out."))
        entries = [(_("Learn"), LEARN), (_("Compare"), COMPARE), (_("Leave out"), LEAVE)]
        fill(combo, entries, self._uses[case.name])
        combo.connect("currentIndexChanged(int)", lambda *_i, name=case.name, combo=combo: self._use(name, combo))
        self._table.setCellWidget(row, _USE, combo)

    def _use(self, name: str, combo: Any) -> None:
        self._uses[name] = chosenOf(combo)
        self._summarize()
        self._context.changed()

    def _summarize(self) -> None:
        learn, compare = len(self.chosen(LEARN)), len(self.chosen(COMPARE))
        if not learn + compare:
            text = _("No training cases yet")
        else:
            text = _("{learn} to learn from, {compare} to compare").format(learn=learn, compare=compare)
        self._ui.caseSummary.setText(text)

    def _save(self) -> None:
        settings, node = self._context.settings(), self._segmentation()
        with self._context.guarded():
            case = self._context.logic.saveTrainingCase(settings.inputVolume, node)
            names = ", ".join(map(self._nameOf, case.structures))
            self._context.say(_("Saved training case {name}: {structures}.").format(name=case.name, structures=names))
        self.refresh()
        self._context.changed()

    def _remove(self) -> None:
        item = self._table.item(self._table.currentRow(), _CASE)
        name = str(item.data(qt.Qt.UserRole))
        question = _("Delete the training case {name} from the disk? This cannot be undone.").format(name=name)
        if not slicer.util.confirmOkCancelDisplay(question, _("Delete a training case")):
            return
        with self._context.guarded():
            self._context.logic.removeTrainingCase(name)
            self._context.say(_("Deleted training case {name}.").format(name=name))
        self.refresh()
        self._context.changed()
