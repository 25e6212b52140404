"""What the client says, marked for Qt's extraction of texts and translated by whoever shows it.

The client knows no Slicer; a :class:`~PartialSegWorker.errors.WorkerError` keeps these texts with the
values of their placeholders, until the front end puts them into its language. What the worker process
says is that of a terminal, and stays English, unless its kind says all.
"""

from __future__ import annotations

#: Under which these texts are known to translators.
CONTEXT = "PartialSegWorker"
#: Ways in which a process ends: it only closed its output, was killed by a signal, or ended with a status.
SILENT, SIGNAL, STATUS = "silent", "signal", "status"


def QT_TRANSLATE_NOOP(context: str, text: str) -> str:  # noqa: N802 - the name that Qt's lupdate looks for
    """Return a text as it is."""
    return text


CLOSED = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped: the worker was closed.")
STOPPED = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user.")
#: By the way of ending.
STOPPED_AND_ENDED = {
    SILENT: QT_TRANSLATE_NOOP(
        "PartialSegWorker", "Stopped by the user; the worker ended (it closed its output and went on)."
    ),
    SIGNAL: QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user; the worker ended (killed by signal {signal})."),
    STATUS: QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user; the worker ended (exit status {status})."),
}
STOPPED_AND_KILLED = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Stopped by the user; the worker was killed, because it went on for {count} s."
)

NOT_STARTED = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker cannot be started with '{python}': {reason}.")
NOT_STARTED_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Choose another Python in the settings, or repair the installation."
)
#: By the way of ending.
ENDED_EARLY = {
    SILENT: QT_TRANSLATE_NOOP(
        "PartialSegWorker",
        "The Python '{python}' ended before the worker started: it closed its output and went on.",
    ),
    SIGNAL: QT_TRANSLATE_NOOP(
        "PartialSegWorker", "The Python '{python}' ended before the worker started: killed by signal {signal}."
    ),
    STATUS: QT_TRANSLATE_NOOP(
        "PartialSegWorker", "The Python '{python}' ended before the worker started: exit status {status}."
    ),
}
ENDED_EARLY_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "See its log below. Choose another Python in the settings, or repair the installation."
)
NO_HELLO = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker did not answer within {count} seconds.")
NO_HELLO_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Try again: a first start is slow on some computers. Otherwise repair the installation."
)
OTHER_PROTOCOL = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker speaks protocol {spoken}, but {needed} is needed.")
OTHER_PROTOCOL_HINT = QT_TRANSLATE_NOOP("PartialSegWorker", "Update PartialSeg, and restart Slicer.")

#: By the way of ending.
CRASHED = {
    SILENT: QT_TRANSLATE_NOOP("PartialSegWorker", "The worker ended: it closed its output and went on."),
    SIGNAL: QT_TRANSLATE_NOOP("PartialSegWorker", "The worker ended: killed by signal {signal}."),
    STATUS: QT_TRANSLATE_NOOP("PartialSegWorker", "The worker ended: exit status {status}."),
}
CRASHED_HINT = QT_TRANSLATE_NOOP("PartialSegWorker", "The next run starts a new worker.")
KILLED_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker",
    "The system may have run out of memory: choose fewer tasks or a region of interest. "
    "The next run starts a new worker.",
)

#: What is said of a kind of error in place of the worker's own words, where there is a translation.
DEFECT_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "This is a defect of PartialSeg: copy the diagnostics into a report."
)
INSTALLATION_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Repair the installation, or choose another Python in the settings."
)
MEMORY = QT_TRANSLATE_NOOP("PartialSegWorker", "There is not enough memory for this.")
MEMORY_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Choose fewer tasks or a region of interest, or close other programs."
)
