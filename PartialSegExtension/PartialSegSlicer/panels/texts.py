"""How the panel writes times and progress: short, and in the user's language; sizes are written by the library."""

from __future__ import annotations

from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.progress import Progress
from PartialSegLib.sizes import readable


def duration(seconds: float) -> str:
    """Return a time as a person would say it: ``8 s``, ``2 min``, ``1 h 5 min``."""
    whole = max(1, round(seconds))
    if whole < 90:
        return _("{count} s").format(count=whole)
    minutes = round(whole / 60)
    if minutes < 90:
        return _("{count} min").format(count=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def stageName(stage: str) -> str:
    """Return what a stage of work is called; a stage of a task keeps the task's name."""
    known = {
        "read": _("Reading the volume"),
        "cases": _("Reading the training cases"),
        "load": _("Loading the model"),
        "prepare": _("Preparing"),
        "find region": _("Finding the region"),
        "segment": _("Segmenting"),
        "check": _("Checking the training cases"),
        "encode": _("Looking at the training cases"),
        "head": _("Learning"),
        "train": _("Learning"),
        "before": _("Measuring the old model"),
        "after": _("Measuring the new model"),
        "judge": _("Comparing"),
        "finish": _("Finishing"),
        "write": _("Writing the result"),
        "download": _("Downloading"),
        "verify": _("Checking the download"),
        "import": _("Importing"),
    }
    word, _space, frame = stage.rpartition(" ") if stage not in known else (stage, "", "")
    if frame and word in known and frame[0].isdigit():
        return _("{stage}, frame {frame}").format(stage=known[word], frame=frame)
    return known.get(stage) or stage[:1].upper() + stage[1:]


def progressText(progress: Progress) -> str:
    """Return a line for a bar: the stage, how much of it is done, and the time that is left."""
    parts = [stageName(progress.stage)]
    if progress.unit == "B":
        total = readable(progress.total) if progress.total else _("unknown size")
        parts.append(_("{done} of {total}").format(done=readable(progress.done), total=total))
    elif progress.total > 1:
        parts.append(_("{done} of {total}").format(done=progress.done, total=progress.total))
    if progress.seconds_left is not None and progress.done < progress.total:
        parts.append(_("{time} left").format(time=duration(progress.seconds_left)))
    return " · ".join(parts)
