"""Checkpoints of 3D U2-Net that keep programs, lie about their tensors or are damaged: nothing in them runs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import u2net_files as files
from u2net_files import HEART_NAME, write_checkpoint, write_heart

from PartialSegLib import catalog, cli
from PartialSegLib.errors import BundleError
from PartialSegLib.published import ImportOptions
from PartialSegLib.published.importing import import_models
from PartialSegLib.published.restricted import Inert, TensorRecord, read_inert
from PartialSegLib.published.torchfiles import load_weights, weight_shapes

NONE = ImportOptions()
LAYOUTS = pytest.mark.parametrize("new", [True, False], ids=["zip", "older layout"])
ENTRY = "model_state_dict"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, which is not there yet."""
    folder = tmp_path / "user" / "models"
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    return folder


# ---- nothing runs


class Payload:
    """Unpickling it runs a command, and then does to its result all that a pickle can."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        command = f"\"{sys.executable}\" -c \"open(r'{self._marker}', 'w')\""
        return os.system, (command,), {"a": 1}, iter([1, 2]), iter([("a", 1)])


class Opened:
    """Unpickling it calls a builtin function."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


@LAYOUTS
@pytest.mark.parametrize("payload", [Payload, Opened])
@pytest.mark.parametrize("entry", ["model", "optimizer", "trLoss_queue", "epoch"])
def test_what_is_beside_the_weights_never_runs(entry: str, payload: type, new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write_checkpoint(tmp_path / HEART_NAME, files.heart(), new=new, **{entry: [payload(marker)]})
    (bundle,) = import_models(path, NONE)
    assert bundle.card.name == "u2net-independent-heart"
    assert not marker.exists()


@LAYOUTS
@pytest.mark.parametrize(("payload", "named"), [(Payload, f"{os.system.__module__}.system"), (Opened, "open")])
@pytest.mark.parametrize("place", ["beside", "for a weight", "name"])
def test_code_among_the_weights_is_refused_and_never_runs(
    place: str, payload: type, named: str, new: bool, tmp_path: Path, models: Path
) -> None:
    marker = tmp_path / "ran"
    state: dict[Any, Any] = OrderedDict(files.heart().state_dict())
    key = {"beside": "extra", "for a weight": "in_tr_list.0.op1.0.bias", "name": payload(marker)}[place]
    state[key] = torch.zeros(1) if place == "name" else payload(marker)
    path = write_checkpoint(tmp_path / HEART_NAME, files.heart(), new=new, model_state_dict=state)
    with pytest.raises(BundleError) as caught:
        import_models(path, NONE)
    assert "is refused" in caught.value.message
    assert place == "name" or f"{named}', which is no tensor" in caught.value.message
    assert "nothing of it was run" in caught.value.hint
    assert not marker.exists()
    assert not models.exists()


@LAYOUTS
def test_an_entry_that_is_itself_code_is_no_checkpoint(new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write_checkpoint(tmp_path / HEART_NAME, files.heart(), new=new, model_state_dict=Payload(marker))
    with pytest.raises(BundleError, match=f"holds no weights under '{ENTRY}'"):
        load_weights(path, ENTRY)
    assert weight_shapes(path, ENTRY) == {}
    assert not marker.exists()


def test_the_payloads_run_where_nothing_holds_them(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Opened(tmp_path / "opened")))
    with pytest.raises(AttributeError):  # the status of the command takes no state
        pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "opened").exists()
    assert (tmp_path / "ran").exists()


#: Names that pickles of weights have, as opcodes that push what they stand for.
NAMED = {
    "tensor": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "parameter": b"ctorch._utils\n_rebuild_parameter\n",
    "dictionary": b"ccollections\nOrderedDict\n",
    "storage": b"ctorch\nFloatStorage\n",
    "unknown": b"cos\nsystem\n",
}


@pytest.mark.parametrize("named", NAMED)
def test_a_pickle_cannot_change_what_names_stand_for(named: str) -> None:
    """``BUILD`` with a pair sets attributes of anything that has no ``__setstate__``, classes included."""
    attributes = b"(N(U\x08__init__NU\x07harmfulI1\ndtb."
    kept = [read_inert(io.BytesIO(NAMED[named] + b".")).content]
    with contextlib.suppress(TypeError, pickle.UnpicklingError):
        # What the name stood for in the very pickle that tried.
        kept.append(read_inert(io.BytesIO(NAMED[named] + b"q\x00" + attributes[:-1] + b"0h\x00.")).content)
    for content in kept:
        assert isinstance(content, type)
        assert not hasattr(content, "harmful")
        assert vars(content).get("__init__", "inherited") is not None


def test_what_a_name_stands_for_takes_everything_and_keeps_nothing() -> None:
    class Sample(Inert):
        __slots__ = ()

    sample = Sample(1, a=2)
    sample[0] = 1
    sample.append(1)
    sample.extend([1])
    sample.add(1)
    sample.__setstate__({"a": 1})
    assert sample(os.system, "a") is sample
    assert not hasattr(sample, "__dict__")
    assert not hasattr(sample, "a")


# ---- damaged files and bombs


class Said:
    """A tensor that a file describes as it likes."""

    def __init__(self, shape: Any, strides: Any, offset: Any = 0) -> None:
        self._said = (offset, shape, strides)

    def __reduce__(self) -> tuple[Any, ...]:
        (storage, *_) = torch.arange(4, dtype=torch.float32).__reduce_ex__(2)[1]
        return torch._utils._rebuild_tensor_v2, (storage, *self._said, False, OrderedDict())


@LAYOUTS
@pytest.mark.parametrize(
    "described",
    [
        Said((10**12,), (0,)),
        Said((2, 3), (0, 0)),
        Said((2,), (4,)),
        Said((4,), (1,), 1),
        Said((2,), (-1,), 1),
        Said((4,), (1,), -1),
        Said((-4,), (1,)),
        Said((2, 2), (1,)),
        Said((1,) * 9, (1,) * 9),
        Said([4], [1]),
        Said((4.0,), (1,)),
        Said((True,), (1,)),
        Said("4", "1"),
    ],
    ids=lambda said: str(said._said),
)
def test_a_tensor_that_reaches_out_of_its_numbers_is_refused(described: Said, new: bool, tmp_path: Path) -> None:
    torch.save({ENTRY: {"a": described}}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(BundleError, match="the weight 'a'"):
        load_weights(tmp_path / "a.pth", ENTRY)


@LAYOUTS
def test_tensors_of_all_kinds_are_read_as_they_were(new: bool, tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = OrderedDict(
        base=base,
        turned=base.permute(2, 0, 1),
        part=base[1, 1:, ::2],
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.tensor([1.0, 2.0])),
        **{
            str(kind): torch.tensor([0, 1, 2], dtype=kind)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
        },
    )
    torch.save({ENTRY: state}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    read = load_weights(tmp_path / "a.pth", ENTRY)
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name
    assert weight_shapes(tmp_path / "a.pth", ENTRY) == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_memory_is_not_asked_for_by_the_index_of_a_memo() -> None:
    with pytest.raises(pickle.UnpicklingError, match="remembers more objects"):
        read_inert(io.BytesIO(b"\x80\x02}r\xff\xff\xff\x7f."))


def repacked(path: Path, change: Callable[[str, bytes], Iterator[tuple[str, bytes]]], method: int) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            for new_name, new_content in change(name, content):
                archive.writestr(new_name, new_content)
    return path


def same(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content


def shortened(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content[:-4] if "/data/" in name else content


def swapped(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, b"big" if name.endswith("byteorder") else content


def doubled(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if name.endswith("data.pkl"):
        yield "other/data.pkl", content


@pytest.mark.parametrize(
    ("change", "method", "message"),
    [
        (same, zipfile.ZIP_DEFLATED, "is compressed"),
        (shortened, zipfile.ZIP_STORED, "bytes, not"),
        (swapped, zipfile.ZIP_STORED, "begin with their largest byte"),
        (doubled, zipfile.ZIP_STORED, "it has 2 contents"),
    ],
)
def test_a_zip_that_is_not_as_pytorch_writes_it_is_refused(
    change: Any, method: int, message: str, tmp_path: Path
) -> None:
    torch.save({ENTRY: {"a": torch.ones(9)}}, tmp_path / "a.pth")
    assert torch.equal(load_weights(repacked(tmp_path / "a.pth", same, zipfile.ZIP_STORED), ENTRY)["a"], torch.ones(9))
    with pytest.raises(BundleError, match=message):
        load_weights(repacked(tmp_path / "a.pth", change, method), ENTRY)


def test_numbers_that_are_not_as_many_as_said_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({ENTRY: {"a": torch.ones(9)}}, path, _use_new_zipfile_serialization=False)
    data, numbers = path.read_bytes(), np.ones(9, "<f4").tobytes()
    start = data.rindex(numbers)
    path.write_bytes(data[: start - 8] + np.int64(2**60).tobytes() + numbers)
    with pytest.raises(BundleError, match="numbers, not 9"):
        load_weights(path, ENTRY)
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match="ends too early"):
        load_weights(path, ENTRY)


@LAYOUTS
def test_a_damaged_file_ends_in_one_clear_line(
    new: bool, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_heart(tmp_path, new=new)
    path.write_bytes(path.read_bytes()[:-3000])
    assert cli.main(["import", str(path)]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no readable checkpoint" in line
    assert not models.exists()


def test_what_is_no_file_of_pytorch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({ENTRY: {}}))
    with pytest.raises(BundleError, match="is no readable checkpoint of PyTorch"):
        load_weights(tmp_path / "a.pth", ENTRY)
    with pytest.raises(BundleError, match="cannot be read"):
        load_weights(tmp_path / "missing.pth", ENTRY)
    assert weight_shapes(tmp_path, ENTRY) == {}


def test_a_record_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(pickle.UnpicklingError):
        TensorRecord(None, 0, (), ()).__setstate__((None, {"shape": (10**9,)}))
