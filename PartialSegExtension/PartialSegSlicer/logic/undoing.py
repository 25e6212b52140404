"""Undo of the last run, with the nodes that the run made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.logic.results import SegmentResult
from PartialSegSlicer.logic.uncertainty import takeBackUncertainty
from PartialSegSlicer.logic.writer import removeIfEmpty
from PartialSegSlicer.segments import segmentOf
from PartialSegSlicer.sequences import shownFrame
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.undo import RunUndo


class UndoneRuns:
    """Knows the last run."""

    def __init__(self) -> None:
        self._last: SegmentResult | None = None

    @property
    def possible(self) -> bool:
        """Whether there is a run whose segmentation is still there."""
        return self._last is not None and self._last.segmentationNode.GetScene() is not None

    def noting(self, told: Callable[[Any], object] | None) -> Callable[[Any], object]:
        """Return what takes note of a run before `told` is called; one that cannot be undone hides those before it."""

        def note(result: Any) -> None:
            self._last = result if isinstance(result, SegmentResult) else None
            if told is not None:
                told(result)

        return note

    def edited(self) -> tuple[str, ...]:
        """Return the names of the segments that somebody edited since the run; of deleted ones, their IDs.

        Raises
        ------
        SegmentationError
            When there is no run to undo.
        """
        undo = self._undo()
        node = undo.segmentationNode
        present = set(node.GetSegmentation().GetSegmentIDs())
        return tuple(
            segmentOf(node, segmentID).GetName() if segmentID in present else segmentID
            for segmentID in undo.editedSegments()
        )

    def undo(self) -> None:
        """Put back what was there before the run.

        Raises
        ------
        SegmentationError
            When there is no run to undo.
        """
        self._undo().restore()
        assert self._last is not None
        result, self._last = self._last, None
        node = result.segmentationNode
        if result.uncertaintyNode is not None:
            takeBackUncertainty(node, result.uncertaintyNode, result.uncertaintyBefore)
        removeIfEmpty(node, created=result.created)

    def _undo(self) -> RunUndo:
        if not self.possible:
            raise SegmentationError(_("There is no run to undo."), _("Its segmentation may have been removed."))
        assert self._last is not None
        node, frame = self._last.segmentationNode, self._last.frame
        if shownFrame(node) != frame:
            raise SegmentationError(
                _("The run was on frame '{frame}' of '{name}', and another one is shown.").format(
                    frame=frame, name=node.GetName()
                ),
                _("Show that frame, then undo."),
            )
        return self._last.write.undo
