"""The worker's side of the conversation: who is answered when, and how it ends.

The listener reads requests: it answers ``hello`` and ``cancel`` at once, also during a run, and notices
when the client is gone. The main thread carries out everything else, one after the other, in
``engine.py`` and the ``*work.py`` files; that is where all work of the library happens. What takes no
torch and touches nothing of that (``models``) has a thread of its own, so that it is answered during a
run, and so that a slow disk does not keep the listener from hearing ``cancel``. Started by
``__main__.py``.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import PartialSegLib
from PartialSegLib.errors import CancelledError, PartialSegError
from PartialSegLib.progress import Monitor, Progress
from PartialSegWorker.channel import Channel
from PartialSegWorker.engine import Engine
from PartialSegWorker.errors import ProtocolError, ProtocolVersionError, UnknownRequestError
from PartialSegWorker.finetunework import (
    DiscardParameters,
    FineTuneParameters,
    KeepParameters,
    discard_model,
    fine_tune,
    keep_model,
    training_installed,
)
from PartialSegWorker.modelwork import DownloadParameters, ImportParameters, download_model, import_model
from PartialSegWorker.parameters import (
    CancelParameters,
    ForecastParameters,
    HelloParameters,
    NoParameters,
    SegmentParameters,
    UncertaintyParameters,
)
from PartialSegWorker.phantomwork import PhantomParameters, make_phantom
from PartialSegWorker.protocol import (
    LONGEST_LINE,
    VERSION,
    Call,
    Message,
    decode,
    error_event,
    other_event,
    progress_event,
    result_event,
)

#: Seconds between two progress events of one stage: more than a screen shows help nobody.
_INTERVAL = 0.05
#: Seconds that a run has to stop after the client has gone, before the process ends under it.
_LAST_GRACE = 5.0

_logger = logging.getLogger("PartialSegWorker")

_Work = Callable[[Monitor], Message]
_Emit = Callable[[str, Message], None]


class Server:
    """Answers the requests of one client.

    Parameters
    ----------
    channel : Channel
        The pipes.
    folder : Path
        The client's private folder, which is removed when the client has gone without a word.
    """

    def __init__(self, channel: Channel, folder: Path) -> None:
        self._channel = channel
        self._folder = folder
        self._engine = Engine(folder)
        self._jobs: queue.SimpleQueue[tuple[Call, _Work, Monitor] | None] = queue.SimpleQueue()
        self._monitors: dict[int, Monitor] = {}
        self._lock = threading.Lock()
        self._greeted = False
        self._abandoned = False
        #: Requests that the listener answers, those beside the main thread, and those that wait for their turn.
        self._at_once = {"hello": self._hello, "cancel": self._cancel}
        self._beside: dict[str, Callable[[Call], _Work]] = {"models": self._models}
        self._in_turn: dict[str, Callable[[Call], _Work]] = {
            "devices": self._devices,
            "forecast": self._forecast,
            "segment": self._segment,
            "uncertainty": self._uncertainty,
            "finetune": self._finetune,
            "keep": self._keep,
            "discard": self._discard,
            "import": self._import,
            "download": self._download,
            "phantom": self._phantom,
            "unload": self._unload,
        }

    @property
    def capabilities(self) -> list[str]:
        """Names of all requests that can be carried out here, as ``hello`` tells them."""
        left_out = set() if training_installed() else {"finetune"}
        return sorted({*self._at_once, *self._beside, *self._in_turn, "shutdown"} - left_out)

    def run(self) -> None:
        """Carry out requests until the client says ``shutdown`` or is gone; then leave nothing behind."""
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        _logger.info("PartialSeg %s, Python %s, %s", PartialSegLib.__version__, platform.python_version(), sys.platform)
        threading.Thread(target=self._listen, name="PartialSeg requests", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._carry_out(*job)
        self._clean()

    # ---- the listener

    def _listen(self) -> None:
        """Read requests until there will be no more, then end the process, whatever it does."""
        self._abandoned = not self._heard_shutdown()
        self._stop()
        # The main thread ends the process, unless it is deep inside of a library.
        time.sleep(_LAST_GRACE)
        self._clean()
        os._exit(1)

    def _heard_shutdown(self) -> bool:
        """Read and answer requests; return whether the client said that it was the last."""
        for line in self._channel.lines():
            number: int | None = None
            try:
                message = decode(line, LONGEST_LINE)
                number = message["id"] if type(message.get("id")) is int else None
                call = Call.from_message(message)
                if call.name == "shutdown":
                    return True
                self._accept(call)
            except PartialSegError as error:
                self._channel.send(error_event(number, error))
        return False

    def _accept(self, call: Call) -> None:
        """Answer a request at once, or put it into the queue; raise what is wrong with it."""
        if call.name not in (*self._at_once, *self._beside, *self._in_turn):
            raise UnknownRequestError(
                f"This worker knows no request '{call.name}'.", f"It knows: {', '.join(self.capabilities)}."
            )
        if call.name in self._at_once:
            self._channel.send(result_event(call.id, self._at_once[call.name](call)))
            return
        if not self._greeted:
            raise ProtocolError(f"'{call.name}' came before 'hello'.", "Say hello first, with the protocol version.")
        work = (self._beside | self._in_turn)[call.name](call)
        monitor = Monitor(_Reporter(self._channel, call.id))
        with self._lock:
            if call.id in self._monitors:
                raise ProtocolError(f"Request {call.id} is still worked on.", "Give each request its own number.")
            self._monitors[call.id] = monitor
        if call.name in self._in_turn:
            self._jobs.put((call, work, monitor))
        else:
            threading.Thread(target=self._carry_out, args=(call, work, monitor), name=call.name, daemon=True).start()

    def _hello(self, call: Call) -> Message:
        spoken = HelloParameters.of(call).protocol
        if spoken != VERSION:
            raise ProtocolVersionError(
                f"The client speaks protocol {spoken}, but this worker speaks {VERSION}.",
                "Update PartialSeg, and restart Slicer.",
            )
        self._greeted = True
        return {
            "protocol": VERSION,
            "version": PartialSegLib.__version__,
            "capabilities": self.capabilities,
            "immediate": sorted(self._beside),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "executable": sys.executable,
        }

    def _cancel(self, call: Call) -> Message:
        wanted = CancelParameters.of(call).id
        with self._lock:
            numbers = sorted(self._monitors) if wanted is None else [wanted] if wanted in self._monitors else []
            for number in numbers:
                self._monitors[number].cancel()
        return {"cancelled": numbers}

    def _stop(self) -> None:
        """Stop all work and let the main thread come to its end."""
        with self._lock:
            for monitor in self._monitors.values():
                monitor.cancel()
        self._jobs.put(None)

    def _clean(self) -> None:
        """Remove the voxels of a patient, when nobody else is left to do it."""
        if self._abandoned:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---- the main thread, and those beside it

    def _carry_out(self, call: Call, work: _Work, monitor: Monitor) -> None:
        """Do the work of a request, and send its result or its error."""
        _logger.info("Request %d: %s", call.id, call.name)
        started = time.monotonic()
        try:
            if monitor.cancelled:
                raise CancelledError(f"Stopped by the user before '{call.name}' began.")
            event = result_event(call.id, work(monitor))
        except Exception as error:
            # Every failure is the answer to this request; the worker is there for the next one.
            event = error_event(call.id, error)
            if not isinstance(error, CancelledError):
                _logger.warning("%s", event["traceback"])
        with self._lock:
            del self._monitors[call.id]
        self._channel.send(event)
        _logger.info("Request %d: %s after %.2f s", call.id, event["event"], time.monotonic() - started)

    # ---- what each request means: its parameters are checked now, its work is done in turn

    def _models(self, call: Call) -> _Work:
        NoParameters.of(call)
        return lambda monitor: self._engine.models()

    def _devices(self, call: Call) -> _Work:
        NoParameters.of(call)
        return lambda monitor: self._engine.devices()

    def _forecast(self, call: Call) -> _Work:
        parameters = ForecastParameters.of(call)
        return lambda monitor: self._engine.forecast(parameters, monitor)

    def _segment(self, call: Call) -> _Work:
        parameters, emit = SegmentParameters.of(call), self._emitter(call)
        return lambda monitor: self._engine.segment(parameters, monitor, emit)

    def _uncertainty(self, call: Call) -> _Work:
        wanted = UncertaintyParameters.of(call)
        return lambda monitor: self._engine.uncertainty(wanted, monitor)

    def _finetune(self, call: Call) -> _Work:
        wanted, emit = FineTuneParameters.of(call), self._emitter(call)

        def work(monitor: Monitor) -> Message:
            # Training needs the memory more than the next run needs the model.
            self._engine.unload()
            return fine_tune(wanted, self._folder, monitor, emit)

        return work

    def _keep(self, call: Call) -> _Work:
        wanted = KeepParameters.of(call)
        return lambda monitor: keep_model(wanted, self._folder, monitor)

    def _discard(self, call: Call) -> _Work:
        wanted = DiscardParameters.of(call)
        return lambda monitor: discard_model(wanted, self._folder)

    def _import(self, call: Call) -> _Work:
        wanted = ImportParameters.of(call)
        return lambda monitor: import_model(wanted, monitor)

    def _download(self, call: Call) -> _Work:
        wanted = DownloadParameters.of(call)
        return lambda monitor: download_model(wanted, monitor)

    def _phantom(self, call: Call) -> _Work:
        wanted = PhantomParameters.of(call)
        return lambda monitor: make_phantom(wanted, monitor)

    def _unload(self, call: Call) -> _Work:
        NoParameters.of(call)
        return lambda monitor: self._engine.unload()

    def _emitter(self, call: Call) -> _Emit:
        """Return what sends the events of a request that are neither progress nor its end."""
        return lambda event, fields: self._channel.send(other_event(call.id, event, fields))


class _Reporter:
    """Sends the progress of a request: the ends of each stage, and no more than a screen shows in between."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel, self._number = channel, number
        self._stage, self._sent = "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        middle = progress.stage == self._stage and progress.done not in (0, progress.total)
        if middle and now - self._sent < _INTERVAL:
            return
        self._stage, self._sent = progress.stage, now
        self._channel.send(progress_event(self._number, progress))
