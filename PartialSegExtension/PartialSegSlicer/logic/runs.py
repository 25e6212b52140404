"""A run: one volume to the worker, its structures to the scene.

What it needs is checked before anything is sent. While it goes on, the scene may be edited, closed or
saved: a node that is removed ends the run as cancelled, and a run that does not come to its end leaves
the scene as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles import read_volume
from PartialSegLib.images import Geometry
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegSlicer.logic.jobs import Job, Listeners
from PartialSegSlicer.logic.notes import modalityDoubt, notesOf
from PartialSegSlicer.logic.preview import RunPreview
from PartialSegSlicer.logic.regions import Region, boxOfRegion, regionOfNode
from PartialSegSlicer.logic.results import SegmentResult, StructureRow
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.logic.settings import chosenTasks, overlapNamed, presetOf
from PartialSegSlicer.logic.uncertainty import showUncertainty
from PartialSegSlicer.logic.watching import SceneWatch
from PartialSegSlicer.logic.writer import RunWriter
from PartialSegSlicer.sequences import shownFrame
from PartialSegSlicer.translation import tr as _
from PartialSegSlicer.volumes import geometryFromVolumeNode
from PartialSegWorker.errors import WorkerError
from PartialSegWorker.parameters import SegmentParameters
from PartialSegWorker.protocol import Message
from PartialSegWorker.request import Request

#: Seconds between two looks at what was found: eyes need no more.
_PREVIEW_SECONDS = 0.5


@dataclass(frozen=True)
class RunSettings:
    """What a run does; see ``PartialSegLogic.segment``."""

    tasks: Sequence[str] | str | None = None
    model: str | None = None
    device: str = "auto"
    quality: str = "standard"
    overlap: str = "keep"
    uncertainty: bool = False
    preview: bool = False


def requestOf(
    settings: RunSettings,
    bundle: ModelBundle,
    scan: Path,
    output: Path,
    region: Region | None,
    uncertainty: str | None = None,
    partial: bool = False,
) -> SegmentParameters:
    """Return what the worker is asked for: one image file to one file of segments."""
    tasks = chosenTasks(settings.tasks)
    return SegmentParameters(
        image=str(scan),
        model=str(bundle.folder),
        tasks=None if tasks is None else list(tasks),
        preset=presetOf(settings.quality),
        device=settings.device,
        output=str(output),
        region=None if region is None else list(region),
        uncertainty=uncertainty,
        partial=partial,
        preview=_PREVIEW_SECONDS if settings.preview else None,
    )


class SegmentRun(Job[SegmentResult]):
    """One run.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
    segmentationNode : vtkMRMLSegmentationNode or None
        A new one is made without it.
    settings : RunSettings
    regionNode : vtkMRMLMarkupsROINode, optional
    listeners : Listeners, optional
    onPartial : callable, optional
        Called with a :class:`StructureRow` when a structure has appeared before the others.
    """

    kind = "segment"

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        settings: RunSettings,
        regionNode: Any = None,
        listeners: Listeners | None = None,
        onPartial: Callable[[StructureRow], object] | None = None,
    ) -> None:
        super().__init__(listeners)
        self._volumeNode, self._settings = volumeNode, settings
        self._region = regionOfNode(regionNode) if regionNode is not None else None
        self._onPartial = onPartial
        self.writer = RunWriter(volumeNode, segmentationNode, overlapNamed(settings.overlap), self._region)
        self._preview = RunPreview(volumeNode)
        self._watch: SceneWatch | None = None
        self._session: Session | None = None
        self._request: Request | None = None
        self._files: list[Path] = []
        self._geometry: Geometry | None = None
        self._bundle: ModelBundle | None = None
        self._doubt = self._frame = self._lost = ""

    def prepare(self, session: Session) -> None:
        """Check volume, model, tasks, segmentation and region."""
        self._session = session
        settings = self._settings
        presetOf(settings.quality)
        self._geometry = geometryFromVolumeNode(self._volumeNode)
        self._bundle = catalog.find(settings.model)
        keys = self._bundle.card.label_space.select(chosenTasks(settings.tasks))
        if self._region is not None:
            boxOfRegion(self._region, self._geometry)
        self.writer.prepare(self._geometry, tuple(keys))

    def begin(self, session: Session) -> None:
        """Send the volume."""
        assert self._bundle is not None
        scan = session.scans.of(self._volumeNode)
        self._geometry = scan.image.geometry
        self._doubt = modalityDoubt(scan.image, self._bundle.card.modality, self._volumeNode.GetName())
        output, uncertainty = session.privateFile(".seg.nrrd"), session.privateFile(".nrrd")
        self._files = [output, uncertainty]
        nodes = [self._volumeNode, *([self.writer.node] if self.writer.node is not None else [])]
        self._watch = SceneWatch(nodes, self._lose)
        self._frame = shownFrame(self._volumeNode)
        self._request = session.client.request(
            "segment",
            requestOf(
                self._settings,
                self._bundle,
                scan.file,
                output,
                self._region,
                uncertainty=str(uncertainty) if self._settings.uncertainty else None,
                partial=self._onPartial is not None and self.writer.inParts,
            ),
            done=self._done,
            failed=self._failed,
            progress=self.report,
            listener=self._hear,
        )

    def cancel(self) -> None:
        """Ask the worker to stop before its next window."""
        if not self.ended:
            self._stop()

    def look(self) -> None:
        """End at once when what the run is about is gone, whose worker stops by itself; else show what was found."""
        if self.ended:
            return
        if self._lost:
            self._stop()
            self.abandon(_("{reason} The run was stopped.").format(reason=self._lost))
        elif shownFrame(self._volumeNode) != self._frame:
            self._preview.remove()
        elif self._geometry is not None:
            self._preview.draw(self._geometry)

    def release(self, *, succeeded: bool) -> None:
        """Stop watching, delete the files, and take back an unfinished result."""
        if self._watch is not None:
            self._watch.stop()
        self._preview.remove()
        for file in self._files:
            # One that a virus scanner holds goes with the private folder.
            with suppress(OSError):
                file.unlink(missing_ok=True)
        if not succeeded:
            self.writer.takeBack()

    def _lose(self, sentence: str) -> None:
        """Take note that a node is gone: the scene is being changed right now, and must not be touched."""
        self._lost = self._lost or sentence

    def _stop(self) -> None:
        """Tell the worker that nobody waits for its answer."""
        if self._session is not None and self._request is not None:
            self._session.client.cancel(self._request)

    def _hear(self, event: Message) -> None:
        """Show what was found so far, or the structures of a task that are final before the others are."""
        if event.get("event") == "preview":
            self._preview.add(Path(event["output"]))
        elif event.get("event") == "partial":
            file = Path(event["output"])
            self._files.append(file)
            self._preview.remove()
            self.look()
            if self.ended:
                file.unlink(missing_ok=True)
            else:
                self._part(file)

    def _part(self, file: Path) -> None:
        """Show the structures of a task that are final before the others are."""
        rows: tuple[StructureRow, ...] = ()
        with self.step():
            self._requireFrame()
            made = self.writer.node is None
            rows = self.writer.write(read_segmentation(file, geometry=self._geometry))
            if made and self._watch is not None:
                self._watch.add(self.writer.node)
        if self.ended:
            self._stop()
        for row in rows:
            if self._onPartial is not None:
                self._onPartial(row)

    def _failed(self, error: WorkerError) -> None:
        self.look()
        self.fail(error)

    def _done(self, answer: Message) -> None:
        self._preview.remove()
        self.look()
        if self.ended:
            return
        result = None
        with self.step():
            result = self._shown(answer)
        if result is not None:
            self.succeed(result)

    def _shown(self, answer: Message) -> SegmentResult:
        """Write what the worker found into the scene."""
        self._requireFrame()
        segmentation = read_segmentation(answer["output"], geometry=self._geometry)
        self.writer.write(segmentation)
        node = before = None
        if answer.get("uncertainty"):
            # Not as a scan, which may not have one value everywhere: a sure network is no damage.
            uncertainty = read_volume(Path(answer["uncertainty"]))
            self.writer.measure(segmentation, uncertainty)
            node, before = showUncertainty(self.writer.node, self._volumeNode, uncertainty)
        write = self.writer.report()
        rows = tuple(self.writer.rows[key] for key in segmentation.keys)
        notes = notesOf(rows, write, answer["report"], self._doubt)
        frame = shownFrame(self.writer.node)
        return SegmentResult(
            self.writer.node, rows, answer["report"], write, node, notes, self.writer.created, frame, before
        )

    def _requireFrame(self) -> None:
        """Refuse to write into another frame of a sequence than the one that was segmented."""
        if shownFrame(self._volumeNode) != self._frame:
            raise ImageError(
                _("'{name}' shows another frame of its sequence now: the result is that of frame '{frame}'.").format(
                    name=self._volumeNode.GetName(), frame=self._frame
                ),
                _("Show that frame, and run again."),
            )


__all__ = ["RunSettings", "SegmentRun", "requestOf"]
