"""Time and memory of the run that is set up, and what will be done if it does not fit.

Asked of the worker when the settings have not changed for a moment, and shown in one line above Apply.
"""

from __future__ import annotations

from typing import Any

import qt  # type: ignore[import-not-found]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegLib.sizes import readable
from PartialSegSlicer.panels.context import Context, explained
from PartialSegSlicer.panels.texts import duration
from PartialSegSlicer.panels.widgets import showLine
from PartialSegSlicer.sequences import sequenceOfVolume

#: Milliseconds without a change, before the worker is asked.
_PAUSE = 700


class ForecastPanel:
    """The line above Apply."""

    def __init__(self, context: Context) -> None:
        self._context, self._ui = context, context.ui
        self._asked: tuple[Any, ...] = ()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE)
        self._timer.connect("timeout()", self.ask)

    def close(self) -> None:
        """Ask nothing more."""
        self._timer.stop()

    def look(self, possible: bool) -> None:
        """Forget the line when the settings have changed, and ask again in a moment if a run is possible."""
        wanted = self._wanted() if possible else ()
        if wanted == self._asked:
            return
        self._asked = wanted
        showLine(self._ui.forecastLabel, "")
        self._timer.stop()
        if wanted:
            self._timer.start()

    def again(self) -> None:
        """Ask anew at the next look: what is free has changed."""
        self._asked = ()

    def ask(self) -> None:
        """Ask the worker now."""
        settings = self._context.settings()
        if settings is None or not self._asked or self._context.busy:
            return
        asked = self._asked
        showLine(self._ui.forecastLabel, _("Estimating time and memory..."))
        try:
            self._context.logic.forecast(
                settings.inputVolume,
                tasks=list(settings.tasks),
                model=settings.model or None,
                device=settings.device,
                quality=settings.quality,
                region=settings.region,
                onFinished=lambda answer: self._answered(asked, answer),
                onError=lambda error: self._refused(asked, error),
            )
            self._context.wake()
        except PartialSegError as error:
            self._refused(asked, error)
        except OSError as error:
            self._refused(asked, explained(error))

    def _wanted(self) -> tuple[Any, ...]:
        settings = self._context.settings()
        if settings is None or settings.inputVolume is None:
            return ()
        volume = settings.inputVolume
        return (
            volume.GetID(),
            volume.GetImageData().GetMTime() if volume.GetImageData() is not None else 0,
            tuple(settings.tasks),
            settings.model,
            settings.device,
            settings.quality,
            settings.region.GetID() if settings.region is not None else "",
            settings.region.GetMTime() if settings.region is not None else 0,
            self._frames(settings),
        )

    def _frames(self, settings: Any) -> int:
        """Return how many volumes the run would segment."""
        sequence = sequenceOfVolume(settings.inputVolume) if settings.allFrames else None
        return 1 if sequence is None else len(sequence.values)

    def _answered(self, asked: tuple[Any, ...], answer: dict[str, Any]) -> None:
        if asked != self._asked:
            return
        showLine(self._ui.forecastLabel, " · ".join(forecastTexts(answer, asked[-1])))

    def _refused(self, asked: tuple[Any, ...], error: PartialSegError) -> None:
        """Say why there is no forecast: a run that does not fit says so before it begins."""
        if asked == self._asked:
            showLine(
                self._ui.forecastLabel, "" if error.code == "cancelled" else f"{error.message} {error.hint}".strip()
            )


def forecastTexts(answer: dict[str, Any], frames: int = 1) -> list[str]:
    """Return time, memory, and what will be done because not everything fits at once.

    Parameters
    ----------
    answer : dict
        The worker's forecast.
    frames : int
        How many volumes are segmented.
    """
    on_cpu = answer["device"] == "cpu"
    about = _("About {time} on the processor") if on_cpu else _("About {time} on the graphics card")
    size = answer["host_bytes"] if on_cpu else answer["device_bytes"]
    parts = [
        about.format(time=duration(answer["seconds"] * frames)),
        _("{size} of memory").format(size=readable(size)),
    ]
    if on_cpu and answer["wanted_device"] != "cpu":
        parts.append(_("not on the graphics card, whose memory is too small"))
    elif answer["accumulated_on"] != answer["device"]:
        parts.append(_("collected in main memory, because that of the card is too small"))
    if answer["groups"] > 1:
        parts.append(_("in {count} rounds, because memory is short").format(count=answer["groups"]))
    return parts
