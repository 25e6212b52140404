"""The section "Run": device and quality, Apply that turns into Cancel, progress, and the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegLib.progress import Progress
from PartialSegLib.sizes import readable
from PartialSegSlicer.logic.console import OF_ONE_FRAME
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.forecasts import ForecastPanel
from PartialSegSlicer.panels.results import ResultPanel
from PartialSegSlicer.panels.widgets import chosenOf, fill, showProgress
from PartialSegSlicer.sequences import sequenceOfVolume


class RunPanel:
    """Starts and stops a run.

    Parameters
    ----------
    context : Context
    results : ResultPanel
        Shows what is found.
    begun : callable
        Called when a run begins: what an earlier one left to say is out of date.
    """

    def __init__(self, context: Context, results: ResultPanel, begun: Callable[[], None]) -> None:
        self._context, self._ui, self._results, self._begun = context, context.ui, results, begun
        self._forecast = ForecastPanel(context)
        self._run: Any = None
        self._busy = False
        self._devicesKnown = False
        self._ui.applyButton.connect("clicked()", self._onApply)
        for name, entries in {
            # What there is besides, the worker tells.
            "device": [("auto", _("Automatic")), ("cpu", _("Processor"))],
            "quality": [("fast", _("Fast")), ("standard", _("Standard")), ("best", _("Best"))],
            "overlap": [
                ("keep", _("Keep both")),
                ("replace others", _("Replace others")),
                ("only unlocked", _("Keep completed segments")),
            ],
        }.items():
            combo = getattr(self._ui, name)
            fill(combo, [(text, value) for value, text in entries], "")
            combo.connect("currentIndexChanged(int)", lambda *_index, name=name: self._choose(name))
        self._ui.pythonButton.connect("clicked()", self._copyPython)
        self._ui.unloadButton.connect("clicked()", self._unload)

    def close(self) -> None:
        """Stop timers."""
        self._forecast.close()

    def show(self) -> None:
        """Show what the parameter node says."""
        settings = self._context.settings()
        if settings is None:
            return
        for name in ("device", "quality", "overlap"):
            combo = getattr(self._ui, name)
            index = combo.findData(getattr(settings, name))
            if index >= 0 and index != combo.currentIndex:
                combo.setCurrentIndex(index)
            elif index < 0 and name == "device" and self._devicesKnown:
                self._chooseKnownDevice(settings)

    def setDevices(self, devices: list[dict[str, Any]]) -> None:
        """List the devices that the worker found, with the memory that is free on each."""
        entries = [("auto", _("Automatic"))]
        for device in devices:
            name = _("Processor") if device["key"] == "cpu" else device["name"]
            free = _("{size} free").format(size=readable(device["free_bytes"]))
            entries.append((device["key"], f"{name} ({free})"))
        settings = self._context.settings()
        wanted = settings.device if settings is not None else chosenOf(self._ui.device)
        fill(self._ui.device, [(text, key) for key, text in entries], wanted)
        self._devicesKnown = True
        if settings is not None and settings.device != chosenOf(self._ui.device):
            self._chooseKnownDevice(settings)

    def _chooseKnownDevice(self, settings: Any) -> None:
        """Take what the box shows: the scene comes from another computer."""
        name = settings.device
        self._context.say(_("There is no device {name} here; one is chosen automatically.").format(name=name))
        settings.device = chosenOf(self._ui.device)

    def look(self, ready: bool, why: str) -> None:
        """Offer what can be done now.

        Parameters
        ----------
        ready : bool
            Whether the installation is complete.
        why : str
            Why not, as a tooltip.
        """
        running = self._run is not None
        reason = why if not ready else self._missing()
        ui = self._ui
        ui.applyButton.setText(_("Cancel") if running else _("Apply"))
        ui.applyButton.setEnabled(running or (not reason and not self._context.busy))
        ui.applyButton.setToolTip(_("Stop the run.") if running else reason or _("Segment the selected structures."))
        for widget in (ui.inputVolume, ui.region, ui.allFrames, ui.taskTree, ui.device, ui.quality):
            widget.setEnabled(not running)
        settings = self._context.settings()
        volume = None if settings is None else settings.inputVolume
        ui.allFrames.setVisible(sequenceOfVolume(volume) is not None)
        for name in OF_ONE_FRAME:
            getattr(ui, name).setEnabled(not running and not self._inTime)
        ui.pythonButton.setEnabled(settings is not None and settings.inputVolume is not None)
        ui.unloadButton.setEnabled(not self._context.busy)
        busy = self._context.busy
        if self._busy and not busy:
            # A job withdraws what was asked before, and changes what is free.
            self._forecast.again()
        self._busy = busy
        if not running:
            self._forecast.look(ready and not reason)

    @property
    def _inTime(self) -> bool:
        """Whether all frames of a sequence are to be segmented."""
        settings = self._context.settings()
        return settings is not None and settings.allFrames and sequenceOfVolume(settings.inputVolume) is not None

    def _missing(self) -> str:
        """Return what a run still needs; empty when it can begin."""
        settings = self._context.settings()
        if settings is None or settings.inputVolume is None:
            return _("Select a volume first.")
        return "" if list(settings.tasks) else _("Select what to segment first.")

    def _choose(self, name: str) -> None:
        settings = self._context.settings()
        if settings is not None:
            setattr(settings, name, chosenOf(getattr(self._ui, name)))
            self._context.changed()

    def _onApply(self) -> None:
        if self._run is not None:
            self._ui.statusLabel.setText(_("Stopping..."))
            self._ui.applyButton.setEnabled(False)
            self._run.cancel()
        else:
            self._start()

    def _start(self) -> None:
        settings, logic = self._context.settings(), self._context.logic
        self._begun()
        common = {
            "tasks": list(settings.tasks),
            "model": settings.model or None,
            "device": settings.device,
            "quality": settings.quality,
            "region": settings.region,
            "onProgress": self._onProgress,
            "onFinished": self._onFinished,
            "onError": self._onError,
        }
        with self._context.guarded():
            if self._inTime:
                self._run = logic.segmentSequence(settings.inputVolume, **common)
            else:
                self._run = logic.segment(
                    settings.inputVolume,
                    segmentationNode=settings.outputSegmentation,
                    overlap=settings.overlap,
                    uncertainty=settings.uncertainty,
                    preview=True,
                    onPartial=self._results.add,
                    **common,
                )
            self._results.begin()
            self._onProgress(Progress("load", 0, 0, None))
            self._context.say(_("Segmenting {name}.").format(name=settings.inputVolume.GetName()))
            self._context.wake()
        self._context.changed()

    def _onProgress(self, progress: Progress) -> None:
        showProgress(self._ui.progressBar, self._ui.statusLabel, progress)

    def _onFinished(self, result: Any) -> None:
        self._end()
        # First: what is chosen and not shown yet is taken for a segmentation of before.
        self._results.show(result)
        settings = self._context.settings()
        if settings is not None:
            settings.outputSegmentation = result.segmentationNode
        seconds = round(result.report["seconds"]["total"], 1)
        self._context.say(_("Finished after {seconds} s.").format(seconds=seconds))
        for note in result.notes:
            self._context.say(note)
        self._context.changed()

    def _onError(self, error: PartialSegError) -> None:
        self._end()
        self._results.abandon()
        self._context.say(error.message)
        if error.code == "cancelled":
            self._ui.statusLabel.setText(error.message)
            self._ui.statusLabel.setVisible(True)
        else:
            self._context.fail(error)
        self._context.changed()

    def _end(self) -> None:
        self._run = None
        showProgress(self._ui.progressBar, self._ui.statusLabel, None)

    def _copyPython(self) -> None:
        slicer.app.clipboard().setText(self._context.logic.copyAsPython(self._context.settings()))
        self._context.say(_("The settings were copied as Python code."))

    def _unload(self) -> None:
        with self._context.guarded():
            self._context.logic.unload(onFinished=self._onUnloaded, onError=self._onNotUnloaded)
            self._context.wake()
        self._context.changed()

    def _onUnloaded(self, _answer: Any) -> None:
        self._context.say(_("The model and the scan were unloaded."))
        self._context.changed()

    def _onNotUnloaded(self, error: PartialSegError) -> None:
        if error.code == "cancelled":
            self._context.say(error.message)
        else:
            self._context.fail(error)
        self._context.changed()
