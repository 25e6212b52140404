"""The conversation with a worker: what it answers to anything that can come through its pipe, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_cases import Conversation

import PartialSegLib
from PartialSegLib.errors import BundleError
from PartialSegLib.progress import Progress
from PartialSegWorker.errors import ProtocolError, WorkerError
from PartialSegWorker.parameters import SegmentParameters
from PartialSegWorker.protocol import LONGEST_LINE, Call, decode, encode, error_event, progress_event, progress_of

#: Prints in every way that a library can: while Python starts, and from a thread all the time after.
CHATTY = """
import os, sys, threading, time

def chat():
    while "PartialSegWorker.server" not in sys.modules:
        time.sleep(0.001)
    while True:
        print("deprecated: something")
        os.write(1, b'{"event": "result", "id": 2, "result": {}}\\n')
        sys.stdin.readline()
        time.sleep(0.001)

threading.Thread(target=chat, daemon=True).start()
sys.stdout.write("Welcome to half a line")
sys.stdout.flush()
"""


def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    conversation = Conversation(private(tmp_path_factory.mktemp("protocol")))
    conversation.greet()
    yield conversation
    assert conversation.end() == 0


def test_hello_tells_the_protocol_and_what_can_be_asked(worker: Conversation) -> None:
    told = worker.greet()["result"]
    assert (told["protocol"], told["version"], told["pid"]) == (1, PartialSegLib.__version__, worker.process.pid)
    known = {"hello", "models", "devices", "forecast", "segment", "uncertainty", "cancel", "unload", "shutdown"}
    assert known | {"finetune", "keep", "discard"} <= set(told["capabilities"])
    assert told["immediate"] == ["models"]


def test_another_version_of_the_protocol_is_refused(worker: Conversation) -> None:
    told = worker.ask({"id": 5, "request": "hello", "parameters": {"protocol": 99}})
    assert (told["event"], told["id"], told["code"]) == ("error", 5, "protocol-version")
    assert "99" in told["message"]


def test_nothing_is_done_before_hello(tmp_path: Path) -> None:
    conversation = Conversation(private(tmp_path))
    told = conversation.ask({"id": 3, "request": "models"})
    assert (told["code"], told["id"]) == ("protocol", 3)
    assert "result" in conversation.greet()
    assert "result" in conversation.ask({"id": 4, "request": "models"})
    conversation.end()


def test_an_unknown_request_is_answered_with_those_that_are_known(worker: Conversation) -> None:
    told = worker.ask({"id": 6, "request": "fine-tune", "parameters": {}})
    assert (told["event"], told["id"], told["code"]) == ("error", 6, "unknown-request")
    assert "fine-tune" in told["message"]
    assert "segment" in told["hint"]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"{\n", None),
        (b"\n", None),
        (b"[1, 2]\n", None),
        (b'{"id": 1, "request": "models\xe9"}\n', None),
        (b"[" * 100_000 + b"\n", None),
        (b'{"id": 1, "request": "' + b"x" * (LONGEST_LINE + 5) + b'"}\n', None),
        (b'{"request": "models"}\n', None),
        (b'{"id": true, "request": "models"}\n', None),
        (b'{"id": 7}\n', 7),
        (b'{"id": 8, "request": "models", "parameters": [1]}\n', 8),
    ],
)
def test_a_line_that_is_no_request_is_answered_and_costs_nothing(
    worker: Conversation, line: bytes, number: int | None
) -> None:
    told = worker.ask(line)
    assert (told["event"], told["code"], told["id"]) == ("error", "protocol", number)
    assert len(told["message"]) < 500
    assert worker.greet()["event"] == "result"


@pytest.mark.parametrize(
    ("request_", "parameters", "named"),
    [
        ("segment", {}, "'image'"),
        ("segment", {"image": "a.nrrd"}, "'output'"),
        ("segment", {"image": "a.nrrd", "output": "b.nrrd"}, ".seg.nrrd"),
        ("segment", {"image": 5, "output": "b.seg.nrrd"}, "'image' is 5"),
        ("segment", {"image": "a", "output": "b.seg.nrrd", "tasks": "liver"}, "'tasks'"),
        ("segment", {"image": "a", "output": "b.seg.nrrd", "region": [1, 2]}, "not 6"),
        ("segment", {"image": "a", "output": "b.seg.nrrd", "colour": "red"}, "'colour'"),
        ("forecast", {"image": "a", "output": "b.seg.nrrd"}, "'output'"),
        ("models", {"all": True}, "'all'"),
        ("cancel", {"id": "1"}, "'id'"),
        ("hello", {"protocol": "1"}, "'protocol'"),
    ],
)
def test_wrong_parameters_are_named(
    worker: Conversation, request_: str, parameters: dict[str, Any], named: str
) -> None:
    told = worker.ask({"id": 9, "request": request_, "parameters": parameters})
    assert (told["event"], told["code"], told["id"]) == ("error", "protocol", 9)
    assert named in told["message"]


def test_what_libraries_print_and_read_never_meets_the_protocol(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(CHATTY)
    conversation = Conversation(private(tmp_path), library)
    assert conversation.process.stdout is not None
    # Until the worker takes its pipes, libraries have them; it then begins a line of its own.
    assert conversation.process.stdout.readline() == b"Welcome to half a line\n"
    assert conversation.greet()["result"]["protocol"] == 1
    for number in range(2, 12):
        told = conversation.ask({"id": number, "request": "models"})
        assert (told["id"], told["event"]) == (number, "result")
        assert told["result"]["models"]
    assert conversation.end() == 0
    assert "deprecated: something" in conversation.log.read_text()


def test_a_worker_whose_client_is_gone_ends_and_removes_the_private_folder(tmp_path: Path) -> None:
    folder = private(tmp_path)
    (folder / "voxels.nrrd").write_bytes(b"a patient")
    conversation = Conversation(folder)
    conversation.greet()
    assert conversation.end() == 0
    assert not folder.exists()


def test_shutdown_leaves_the_folder_to_the_client(tmp_path: Path) -> None:
    folder = private(tmp_path)
    conversation = Conversation(folder)
    conversation.greet()
    conversation.say({"id": 2, "request": "shutdown"})
    assert conversation.process.wait(60) == 0
    conversation.end()
    assert folder.is_dir()


# ---- messages


@pytest.mark.parametrize("text", ["é ñ 肝 😀", "line\nbreak\u2028", "undecodable \udce9", "C:\\Users\\Zoë"])
def test_every_text_comes_through_as_one_line(text: str) -> None:
    line = encode(Call(1, "segment", {"image": text}).to_message())
    assert line.count(b"\n") == 1
    assert Call.from_message(decode(line)).parameters == {"image": text}


def test_an_answer_may_be_longer_than_a_request() -> None:
    line = encode({"models": ["x" * 100] * (LONGEST_LINE // 50)})
    assert len(decode(line)["models"]) == LONGEST_LINE // 50
    with pytest.raises(ProtocolError, match="longer"):
        decode(line, LONGEST_LINE)


def test_a_number_that_json_does_not_have_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode({"total": float("nan")})


def test_progress_and_parameters_come_through_as_they_were() -> None:
    progress = Progress("segment", 3, 12, 4.5)
    assert progress_of(decode(encode(progress_event(1, progress)))) == progress
    wanted = SegmentParameters("a.nrrd", tasks=["liver"], output="b.seg.nrrd", region=[1.5, 2, 3, 4, 5, 6])
    call = Call.from_message(decode(encode(Call(1, "segment", wanted.to_message()).to_message())))
    assert SegmentParameters.of(call) == wanted


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BundleError("The model is damaged.", "Install it again."), "bundle"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy"), "installation"),
        (MemoryError(), "memory"),
        (ProtocolError("What?", "Ask again."), "protocol"),
        (ZeroDivisionError("division by zero"), "defect"),
    ],
)
def test_every_error_has_a_code_a_sentence_a_hint_and_a_traceback(error: Exception, code: str) -> None:
    try:
        raise error
    except Exception as raised:
        event = decode(encode(error_event(4, raised)))
    told = WorkerError.from_event(event)
    assert (event["id"], told.code) == (4, code)
    assert told.message
    assert told.hint
    assert type(error).__name__ in told.traceback
    for part in (code, told.message, told.hint, "Traceback"):
        assert part in told.diagnostics()
