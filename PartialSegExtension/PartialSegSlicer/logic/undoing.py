"""Undo of the last run, with the nodes that the run made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PartialSegLib.errors import SegmentationError
from PartialSegSlicer.logic.results import SegmentResult
from PartialSegSlicer.logic.sequencerun import SequenceResult
from PartialSegSlicer.logic.uncertainty import takeBackUncertainty
from PartialSegSlicer.logic.writer import removeIfEmpty
from PartialSegSlicer.segments import segmentOf
from PartialSegSlicer.sequences import shownFrame
from PartialSegSlicer.translation import tr as _


class UndoneRuns:
    """Knows the last run."""

    def __init__(self) -> None:
        self._last: SegmentResult | SequenceResult | None = None

    @property
    def possible(self) -> bool:
        """Whether there is a run whose segmentation is still there."""
        if isinstance(self._last, SequenceResult):
            return self._last.undo.possible
        return self._last is not None and self._last.segmentationNode.GetScene() is not None

    def noting(self, told: Callable[[Any], object] | None) -> Callable[[Any], object]:
        """Return what takes note of a run before `told` is called."""

        def note(result: SegmentResult | SequenceResult) -> None:
            self._last = result
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
        last = self._required()
        if isinstance(last, SequenceResult):
            return tuple(
                _("{segment} (frame '{frame}')").format(segment=name, frame=frame)
                for frame, name in last.undo.editedSegments()
            )
        node = last.segmentationNode
        present = set(node.GetSegmentation().GetSegmentIDs())
        return tuple(
            segmentOf(node, segmentID).GetName() if segmentID in present else segmentID
            for segmentID in last.write.undo.editedSegments()
        )

    def undo(self) -> None:
        """Put back what was there before the run.

        Raises
        ------
        SegmentationError
            When there is no run to undo.
        """
        last = self._required()
        undo = last.undo if isinstance(last, SequenceResult) else last.write.undo
        undo.restore()
        self._last = None
        if isinstance(last, SegmentResult):
            node = last.segmentationNode
            if last.uncertaintyNode is not None:
                takeBackUncertainty(node, last.uncertaintyNode, last.uncertaintyBefore)
            removeIfEmpty(node, created=last.created)

    def _required(self) -> SegmentResult | SequenceResult:
        """Return the last run; one of a single frame only while that frame is shown."""
        if self._last is None or not self.possible:
            raise SegmentationError(_("There is no run to undo."), _("Its segmentation may have been removed."))
        if isinstance(self._last, SegmentResult):
            node, frame = self._last.segmentationNode, self._last.frame
            if shownFrame(node) != frame:
                raise SegmentationError(
                    _("The run was on frame '{frame}' of '{name}', and another one is shown.").format(
                        frame=frame, name=node.GetName()
                    ),
                    _("Show that frame, then undo."),
                )
        return self._last
