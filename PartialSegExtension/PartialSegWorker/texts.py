"""What the client says, marked for Qt's extraction of texts and translated by whoever shows it.

The client knows no Slicer; a :class:`~PartialSegWorker.errors.WorkerError` keeps these texts with the
values of their placeholders, until the front end puts them into its language. What the worker process
says is that of a terminal, and stays English.
"""

from __future__ import annotations

#: Under which these texts are known to translators.
CONTEXT = "PartialSegWorker"


def QT_TRANSLATE_NOOP(context: str, text: str) -> str:  # noqa: N802 - the name that Qt's lupdate looks for
    """Return a text as it is."""
    return text


CLOSED = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped: the worker was closed.")
STOPPED_BEFORE = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user before '{name}' began.")
STOPPED_DURING = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user during '{name}'.")
STOPPED_AND_ENDED = QT_TRANSLATE_NOOP("PartialSegWorker", "Stopped by the user; the worker ended ({how}).")
STOPPED_AND_KILLED = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Stopped by the user; the worker was killed, because it went on for {count} s."
)

NOT_STARTED = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker cannot be started with '{python}': {reason}.")
NOT_STARTED_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Choose another Python in the settings, or repair the installation."
)
ENDED_EARLY = QT_TRANSLATE_NOOP("PartialSegWorker", "The Python '{python}' ended before the worker started: {how}.")
ENDED_EARLY_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "See its log below. Choose another Python in the settings, or repair the installation."
)
NO_HELLO = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker did not answer within {count} seconds.")
NO_HELLO_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker", "Try again: a first start is slow on some computers. Otherwise repair the installation."
)
OTHER_PROTOCOL = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker speaks protocol {spoken}, but {needed} is needed.")
OTHER_PROTOCOL_HINT = QT_TRANSLATE_NOOP("PartialSegWorker", "Update PartialSeg, and restart Slicer.")

CRASHED = QT_TRANSLATE_NOOP("PartialSegWorker", "The worker ended during '{name}': {how}.")
CRASHED_HINT = QT_TRANSLATE_NOOP("PartialSegWorker", "The next run starts a new worker.")
KILLED_HINT = QT_TRANSLATE_NOOP(
    "PartialSegWorker",
    "The system may have run out of memory: choose fewer tasks or a region of interest. "
    "The next run starts a new worker.",
)
