"""A run over a sequence: its volumes go to the worker one after another, and are browsed with their segmentations.

The scene is not touched before the last frame is done, and a run that does not come to its end leaves
nothing in it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.progress import Progress
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegSlicer.logic.notes import modalityDoubt
from PartialSegSlicer.logic.regions import boxOfRegion, regionOfNode
from PartialSegSlicer.logic.results import StructureRow, inReviewOrder
from PartialSegSlicer.logic.runs import RunSettings, requestOf
from PartialSegSlicer.logic.scanfiles import writeUncompressed
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.logic.settings import chosenTasks, presetOf
from PartialSegSlicer.logic.watching import SceneWatch
from PartialSegSlicer.logic.writer import RunWriter
from PartialSegSlicer.nodes import createSegmentationNode
from PartialSegSlicer.sequences import VolumeSequence, browseTogether, likeSequence, removeSequence, requireSequence
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.undo import SequenceUndo
from PartialSegSlicer.volumes import geometriesOfSequence, geometryFromVolumeNode, imagesFromSequence
from PartialSegWorker.errors import WorkerError
from PartialSegWorker.protocol import Message
from PartialSegWorker.request import Request


@dataclass(frozen=True)
class SequenceResult:
    """What a run over a sequence left in the scene.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
        Proxy of the new sequence: shows the frame that the volume shows.
    sequenceNode : vtkMRMLSequenceNode
        Of segmentation nodes, by the index values of the volumes; browsed with them.
    structures : tuple of StructureRow
        Of the frame that was shown when the run ended.
    frames : dict of str to tuple of StructureRow
        What was found in each frame, by index value.
    report : dict
        ``seconds`` by stage and in ``total``, of all frames together.
    undo : SequenceUndo
        The way back.
    notes : tuple of str
        Sentences that the user should read.
    """

    segmentationNode: Any
    sequenceNode: Any
    structures: tuple[StructureRow, ...]
    frames: dict[str, tuple[StructureRow, ...]]
    report: dict[str, Any]
    undo: SequenceUndo
    notes: tuple[str, ...] = ()

    def byUncertainty(self) -> tuple[StructureRow, ...]:
        """Return the rows of the frame that was shown which can be reviewed, in order."""
        return inReviewOrder(self.structures)


class SequenceRun(Job[SequenceResult]):
    """One run over all frames.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
        Shows the frames of a sequence.
    settings : RunSettings
        `overlap` and `uncertainty` have no meaning here.
    regionNode : vtkMRMLMarkupsROINode, optional
    listeners : Listeners, optional
    """

    kind = "segment"

    def __init__(
        self, volumeNode: Any, settings: RunSettings, regionNode: Any = None, listeners: Listeners | None = None
    ) -> None:
        super().__init__(listeners)
        self._volumeNode, self._settings = volumeNode, settings
        self._region = regionOfNode(regionNode) if regionNode is not None else None
        self._volumes: VolumeSequence | None = None
        self._geometry: Geometry | None = None
        self._bundle: ModelBundle | None = None
        self._session: Session | None = None
        self._request: Request | None = None
        self._watch: SceneWatch | None = None
        self._images: Iterator[tuple[str, Image]] = iter(())
        self._files: tuple[Path, ...] = ()
        self._found: dict[str, Segmentation] = {}
        self._made: tuple[Any, ...] = ()
        self._seconds: Counter[str] = Counter()
        self._all: tuple[str, ...] = ()
        self._started = 0.0
        self._writing: Iterator[SequenceResult | None] | None = None
        self._doubt = self._lost = ""

    def prepare(self, session: Session) -> None:
        """Check sequence, model, tasks and region."""
        self._session = session
        presetOf(self._settings.quality)
        self._volumes = requireSequence(self._volumeNode)
        self._geometry = geometryFromVolumeNode(self._volumeNode)
        self._bundle = catalog.find(self._settings.model)
        self._bundle.card.label_space.select(chosenTasks(self._settings.tasks))
        if self._region is not None:
            boxOfRegion(self._region, self._geometry)
        transform = self._volumeNode.GetParentTransformNode()
        for value, geometry in geometriesOfSequence(self._volumes.sequenceNode, transform):
            if not geometry.matches(self._geometry):
                name = self._volumeNode.GetName()
                raise ImageError(
                    _("Frame '{frame}' of '{name}' lies on another grid than the frame that is shown.").format(
                        frame=value, name=name
                    ),
                    _("Resample all frames to one grid, or segment each alone."),
                )

    def begin(self, session: Session) -> None:
        """Send the first frame."""
        volumes = self._volumes
        assert volumes is not None
        self._all, self._started = volumes.values, time.monotonic()
        nodes = [volumes.volumeNode, volumes.sequenceNode, volumes.browserNode]
        self._watch = SceneWatch(nodes, self._lose)
        self._images = imagesFromSequence(volumes.sequenceNode, volumes.volumeNode.GetParentTransformNode())
        self._next()

    def cancel(self) -> None:
        """Ask the worker to stop before its next window; what is being written is taken back."""
        if self.ended:
            return
        if self._writing is not None:
            self.abandon(_("Stopped by the user."))
        else:
            self._stop()

    def look(self) -> None:
        """End at once when the sequence is gone; the worker stops by itself."""
        if self._lost and not self.ended:
            self._stop()
            self.abandon(_("{reason} The run was stopped.").format(reason=self._lost))
        if self._writing is None or self.ended:
            return
        # A frame at a time: Slicer has to stay responsive, and Cancel to work.
        result = None
        with self.step():
            result = next(self._writing)
        if result is not None:
            self.succeed(result)

    def release(self, *, succeeded: bool) -> None:
        """Stop watching, delete the files, and take back an unfinished result."""
        if self._watch is not None:
            self._watch.stop()
        self._forget()
        if not succeeded and self._made:
            removeSequence(*self._made)

    def _stop(self) -> None:
        """Tell the worker that nobody waits for its answer."""
        if self._session is not None and self._request is not None:
            self._session.client.cancel(self._request)

    def _forget(self) -> None:
        """Delete the files of a frame: voxels stay nowhere longer than they are needed."""
        for file in self._files:
            with suppress(OSError):
                file.unlink(missing_ok=True)

    def _lose(self, sentence: str) -> None:
        self._lost = self._lost or sentence

    def _next(self) -> None:
        """Send the next frame; after the last one, begin to show what was found."""
        frame = next(self._images, None)
        if frame is None:
            self._writing = self._written()
            return
        value, image = frame
        assert self._session is not None
        assert self._bundle is not None
        if not self._found:
            self._doubt = modalityDoubt(image, self._bundle.card.modality, self._volumeNode.GetName())
        self._forget()
        scan, output = self._files = (self._session.privateFile(".nrrd"), self._session.privateFile(".seg.nrrd"))
        writeUncompressed(image, scan)
        self._request = self._session.client.request(
            "segment",
            requestOf(self._settings, self._bundle, scan, output, self._region),
            done=lambda answer: self._done(value, answer),
            failed=self._failed,
            progress=self._progress,
        )

    def _progress(self, progress: Progress) -> None:
        """Tell of the frame, and of the time that all of them take."""
        done, frames = len(self._found), len(self._all)
        stage, left = f"{progress.stage} {done + 1}/{frames}", progress.seconds_left
        if left is not None:
            each = (time.monotonic() - self._started + left) / (done + 1)
            left += each * (frames - done - 1)
        total = progress.total
        self.report(Progress(stage, done * total + progress.done, frames * total, left, progress.unit))

    def _failed(self, error: WorkerError) -> None:
        self.look()
        self.fail(error)

    def _done(self, value: str, answer: Message) -> None:
        self.look()
        if self.ended:
            return
        with self.step():
            self._found[value] = read_segmentation(answer["output"], geometry=self._geometry)
            self._seconds.update(answer["report"]["seconds"])
            self._next()

    def _written(self) -> Iterator[SequenceResult | None]:
        """Put the segmentations of all frames into the scene, a frame at each step; the last step has the result."""
        assert self._volumes is not None
        if tuple(self._found) != self._volumes.values:
            name = self._volumes.sequenceNode.GetName()
            raise ImageError(
                _("Frames of '{name}' were added or removed during the run.").format(name=name), _("Run again.")
            )
        sequence, node = likeSequence(self._volumes), createSegmentationNode(self._volumeNode)
        self._made = sequence, node
        if self._watch is not None:
            self._watch.add(node)
        undo = SequenceUndo(sequence, node)
        frames = {}
        for value, segmentation in self._found.items():
            rows = RunWriter(self._volumeNode, node).write(segmentation)
            frames[value] = tuple(replace(row, status="new" if row.voxels else "empty") for row in rows)
            sequence.SetDataNodeAtValue(node, value)
            undo.watch(value)
            self.report(Progress("write", len(frames), len(self._found), None))
            yield None
        shown = self._volumes.values[self._volumes.shown]
        RunWriter(self._volumeNode, node).write(self._found[shown])
        browseTogether(self._volumes, sequence, node)
        summary = _("{count} frames were segmented; the table is about frame '{frame}'.").format(
            count=len(frames), frame=shown
        )
        notes = (*([self._doubt] if self._doubt else []), summary)
        seconds = {stage: round(value, 3) for stage, value in self._seconds.items()}
        yield SequenceResult(node, sequence, frames[shown], frames, {"seconds": seconds}, undo, notes)


__all__ = ["SequenceResult", "SequenceRun"]
