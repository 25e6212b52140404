"""The section "Results": the table of structures, centering the views, review, corrections and undo."""

from __future__ import annotations

from typing import Any

import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegSlicer.logic.errors import EditsError
from PartialSegSlicer.logic.results import presentRows
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.views import centerViews
from PartialSegSlicer.panels.widgets import cell, fitRows, plainTable, showLine, swatch
from PartialSegSlicer.segments import isCompleted, markCompleted, segmentIDs, segmentOf

_NAME, _VOLUME, _UNCERTAINTY, _STATUS = range(4)
_FEWEST_ROWS, _MOST_ROWS = 2, 9


class ResultPanel:
    """The table of the last run, or of the segmentation that is chosen."""

    def __init__(self, context: Context) -> None:
        self._context, self._ui = context, context.ui
        self._table = self._ui.resultTable
        self._node: Any = None
        self._rows: list[Any] = []
        self._order: list[Any] = []
        self._next = 0
        plainTable(self._table)
        self._table.connect("cellDoubleClicked(int,int)", lambda row, _column: self._center(self._rows[row]))
        self._table.connect("itemSelectionChanged()", self.look)
        fitRows(self._table, _FEWEST_ROWS, _MOST_ROWS)
        self._ui.reviewNextButton.connect("clicked()", self._reviewNext)
        self._ui.correctedButton.connect("clicked()", self._toggleCorrected)
        self._ui.undoButton.connect("clicked()", self._undo)
        self._ui.editorButton.connect("clicked()", self._openEditor)

    @property
    def selected(self) -> Any:
        """The row that is selected in the table, or ``None``."""
        row = self._table.currentRow()
        return self._rows[row] if 0 <= row < len(self._rows) else None

    @property
    def node(self) -> Any:
        """The segmentation of the last run, while it is in the scene."""
        return self._node if self._node is not None and self._node.GetScene() is not None else None

    def begin(self) -> None:
        """Empty the table: a run begins."""
        self.clear()
        self._ui.resultSection.collapsed = False

    def clear(self) -> None:
        """Forget the last run."""
        self._node, self._rows, self._order, self._next = None, [], [], 0
        showLine(self._ui.resultNotes, "")
        self._fill()

    def add(self, row: Any) -> None:
        """Show a structure that was finished before the others."""
        self._rows = [known for known in self._rows if known.key != row.key] + [row]
        self._fill()

    def show(self, result: Any) -> None:
        """Show what a run found."""
        self._node, self._rows = result.segmentationNode, list(result.structures)
        self._order, self._next = list(result.byUncertainty()), 0
        showLine(self._ui.resultNotes, "\n".join(result.notes))
        self._ui.resultSection.collapsed = False
        self._ui.learnSection.collapsed = False
        self._fill()

    def showSegmentation(self, segmentationNode: Any) -> None:
        """List the segments of a segmentation that is chosen and of which no run is known: they can be corrected."""
        if segmentationNode is None or segmentationNode is self.node or self._context.busy:
            return
        self._node, self._rows = segmentationNode, list(presentRows(segmentationNode))
        self._order, self._next = [], 0
        showLine(self._ui.resultNotes, "")
        self._fill()

    def abandon(self) -> None:
        """Take away the rows of a run that did not come to its end: its segments are gone too."""
        self.clear()

    def look(self) -> None:
        """Offer what can be done now."""
        node, row = self.node, self.selected
        there = node is not None and row is not None and row.segmentID in segmentIDs(node)
        done = there and isCompleted(segmentOf(node, row.segmentID))
        self._ui.reviewNextButton.setEnabled(node is not None and bool(self._order))
        self._ui.correctedButton.setEnabled(bool(there))
        self._ui.correctedButton.setText(_("Mark as not corrected") if done else _("Mark as corrected"))
        self._ui.editorButton.setEnabled(node is not None)
        self._ui.undoButton.setEnabled(bool(self._context.logic.canUndo) and not self._context.busy)

    def refreshStatus(self) -> None:
        """Show again what the segments are marked as, which a person may change elsewhere."""
        for index, row in enumerate(self._rows):
            item = self._table.item(index, _STATUS)
            if item is not None:
                item.setText(self._status(row))
        self.look()

    def _fill(self) -> None:
        table, measured = self._table, any(row.uncertainty is not None for row in self._rows)
        selected = self.selected
        table.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            name = cell(row.name, tip=row.name)
            name.setIcon(swatch(self._color(row)))
            table.setItem(index, _NAME, name)
            table.setItem(index, _VOLUME, cell(f"{row.volumeMl:.1f}" if row.voxels else "-", right=True))
            doubt = "-" if row.uncertainty is None else f"{row.uncertainty:.2f}"
            table.setItem(index, _UNCERTAINTY, cell(doubt, right=True, tip=_("Mean entropy in bits: 0 is sure.")))
            table.setItem(index, _STATUS, cell(self._status(row)))
        table.setColumnHidden(_UNCERTAINTY, not measured)
        fitRows(table, _FEWEST_ROWS, _MOST_ROWS)
        if selected in self._rows:
            table.selectRow(self._rows.index(selected))
        self.look()

    def _color(self, row: Any) -> list[int]:
        if self.node is None or row.segmentID not in segmentIDs(self.node):
            return [160, 160, 160]
        return [round(255 * part) for part in segmentOf(self.node, row.segmentID).GetColor()]

    def _status(self, row: Any) -> str:
        node = self.node
        if node is not None and row.segmentID in segmentIDs(node) and isCompleted(segmentOf(node, row.segmentID)):
            return _("Corrected")
        known = {
            "new": _("New"),
            "replaced": _("Replaced"),
            "empty": _("Not found"),
            "completed": _("Left alone"),
            "edited": _("Edited, kept"),
            "present": _("In the scene"),
        }
        return known.get(row.status, row.status)

    def _center(self, row: Any) -> None:
        point = row.center or row.reviewPoint
        if point is None and row.status == "present" and self.node is not None:
            point = self.node.GetSegmentCenterRAS(row.segmentID)
        if point is not None:
            centerViews(point)

    def _reviewNext(self) -> None:
        """Go to the next structure that nobody has corrected, the most uncertain first."""
        node = self.node
        for step in range(len(self._order)):
            index = (self._next + step) % len(self._order)
            row = self._order[index]
            if row.segmentID in segmentIDs(node) and not isCompleted(segmentOf(node, row.segmentID)):
                self._next = index + 1
                self._table.selectRow(self._rows.index(row))
                centerViews(row.reviewPoint or row.center)
                return
        self._context.say(_("Every structure of this run is marked as corrected."))

    def _toggleCorrected(self) -> None:
        row, node = self.selected, self.node
        completed = isCompleted(segmentOf(node, row.segmentID))
        markCompleted(node, row.segmentID, not completed)
        self.refreshStatus()
        self._context.changed()

    def _undo(self) -> None:
        """Take the last run back; ask first when that loses edits."""
        logic = self._context.logic
        with self._context.guarded():
            try:
                logic.undoLastRun()
            except EditsError as error:
                question = _("Edited since the run: {names}. Undo the run and lose these edits?")
                if not slicer.util.confirmOkCancelDisplay(question.format(names=", ".join(error.segments))):
                    return
                logic.undoLastRun(discardEdits=True)
            self.clear()
            self._context.say(_("The last run was taken back."))
        self._context.changed()

    def _openEditor(self) -> None:
        """Open the Segment Editor on the selected structure."""
        row, node, settings = self.selected, self.node, self._context.settings()
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.util.getModuleWidget("SegmentEditor").editor
        editor.setSegmentationNode(node)
        if settings is not None:
            editor.setSourceVolumeNode(settings.inputVolume)
        if row is not None and row.segmentID in segmentIDs(node):
            editor.setCurrentSegmentID(row.segmentID)
