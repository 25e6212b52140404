"""Files that do not fit, would run code or are damaged: refused by name, and nothing in them ever runs."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import pytest
import torch
from published_files import SAMPLES, saved
from torch import Tensor, nn

from bundles import random_dodnet
from PartialSegLib import catalog, cli
from PartialSegLib.errors import BundleError
from PartialSegLib.published import FORMATS, ImportOptions, PublishedFormat
from PartialSegLib.published.importing import import_models
from PartialSegLib.published.restricted import load_checkpoint, load_pickle

NONE = ImportOptions()


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, which is not there yet."""
    folder = tmp_path / "user" / "models"
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    return folder


# ---- weights that do not fit


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        state = files.parallel(files.dodnet())
        change(state)
        return saved(folder / "changed.pth", state)

    return write


def changed_unet(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        state = files.parallel(files.multitalent("unet"))
        change(state)
        files.write_fold(folder / "T__P", state, files.plans())
        return folder / "T__P"

    return write


def changed_alias(folder: Path) -> Path:
    state = files.released_resenc(files.multitalent("resenc"))
    state["module.decoder.stages.0.convs.0.all.0.weight"] = torch.ones(3)
    files.write_fold(folder / "T__P_resenc", state, files.plans())
    return folder / "T__P_resenc"


#: What is wrong with the weights, and the weight that the message names.
MISFITS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (changed(lambda state: state.pop("module.layer2.0.gn1.bias")), "lacks the weight 'layer2.0.gn1.bias'"),
    "of another shape": (
        changed(lambda state: state.update({"module.x8_resb.0.conv1.weight": torch.zeros(1, 2, 3, 3, 3)})),
        "the weight 'x8_resb.0.conv1.weight' is (1, 2, 3, 3, 3)",
    ),
    "unknown": (
        changed(lambda state: state.update({"module.layer9.weight": torch.zeros(1)})),
        "unknown weight 'layer9.weight'",
    ),
    "not finite": (changed(lambda state: state["module.conv1.weight"].fill_(torch.nan)), "'conv1.weight' holds"),
    "no weight": (changed(lambda state: state.update({"module.a": 3.0})), "'module.a' is no weight, but float"),
    "needed for the size": (
        changed(lambda state: state.pop("module.fusionConv.2.weight")),
        "lacks the weight 'fusionConv.2.weight'",
    ),
    "of more tasks": (
        changed(lambda state: state.update({"module.controller.weight": torch.zeros(162, 32 + 9, 1, 1, 1)})),
        "'controller.weight' has 41 inputs, but 32 image features and 7 tasks",
    ),
    "of another head": (
        changed(lambda state: state.update({"module.controller.weight": torch.zeros(163, 32 + 7, 1, 1, 1)})),
        "'controller.weight' generates 163 numbers",
    ),
    "of another group norm": (
        lambda folder: saved(folder / "narrow.pth", narrow_state()),
        "16 groups do not divide the channels",
    ),
    "of other structures": (
        changed_unet(lambda state: state.update({"module.seg_outputs.1.weight": torch.zeros(46, 4, 1, 1, 1)})),
        "'seg_outputs.1.weight' is (46, 4, 1, 1, 1), but (47, 4, 1, 1, 1) is needed",
    ),
    "of U-Net missing": (
        changed_unet(lambda state: state.pop("module.conv_blocks_context.1.blocks.1.conv.bias")),
        "lacks the weight 'conv_blocks_context.1.blocks.1.conv.bias'",
    ),
    "twice, and different": (changed_alias, "are the same one, but differ"),
}


def narrow_state() -> dict[str, Tensor]:
    return files.parallel(random_dodnet())


@pytest.mark.parametrize(("write", "message"), MISFITS.values(), ids=MISFITS)
def test_the_first_weight_that_does_not_fit_is_named(
    write: Callable[[Path], Path], message: str, tmp_path: Path, models: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        import_models(write(tmp_path), NONE)
    assert message in str(caught.value)
    assert not models.exists()


# ---- files that would run code


class Payload:
    """What a malicious file holds: unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self._marker}', 'w')\"",)


class Construction:
    """A payload that calls a builtin function."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


def malicious_checkpoint(folder: Path, payload: Any, *, new: bool) -> Path:
    state = files.parallel(files.dodnet())
    return saved(folder / "bad.pth", {"state_dict": state, "epoch": payload}, new=new)


def malicious_plans(folder: Path, payload: Any) -> Path:
    files.write_fold(folder / "T__P", files.parallel(files.multitalent("unet")), files.plans(modalities=payload))
    return folder / "T__P"


def malicious_fold(folder: Path, payload: Any) -> Path:
    state = files.parallel(files.multitalent("unet"))
    state["module.extra"] = payload
    files.write_fold(folder / "T__P", state, files.plans())
    return folder / "T__P"


MALICIOUS: dict[str, Callable[[Path, Any], Path]] = {
    "checkpoint": lambda folder, payload: malicious_checkpoint(folder, payload, new=True),
    "checkpoint, older layout": lambda folder, payload: malicious_checkpoint(folder, payload, new=False),
    "plans": malicious_plans,
    "fold": malicious_fold,
    "zip": lambda folder, payload: files.packed(malicious_fold(folder, payload)),
    "plans in a zip": lambda folder, payload: files.packed(malicious_plans(folder, payload)),
}


@pytest.mark.parametrize("write", MALICIOUS.values(), ids=MALICIOUS)
@pytest.mark.parametrize(
    ("payload", "named"), [(Payload, f"{os.system.__module__}.system"), (Construction, "open")], ids=["system", "open"]
)
def test_a_malicious_file_is_refused_by_name_and_nothing_runs(
    write: Callable[[Path, Any], Path], payload: type, named: str, tmp_path: Path, models: Path
) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, payload(marker))
    assert not marker.exists()
    with pytest.raises(BundleError) as caught:
        import_models(path, NONE)
    assert "is refused: it names '" in caught.value.message
    assert f"{named}'" in caught.value.message
    assert "nothing of it was run" in caught.value.hint
    assert not marker.exists()
    assert not models.exists()


@pytest.mark.parametrize("payload", [Payload, Construction])
def test_the_payload_of_these_tests_runs_where_nothing_holds_it(payload: type, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


class Reduced:
    """Anything that a pickle may say: a function and its arguments, and a state to be set."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self._said = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._said


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(1).__reduce__()[0]


@pytest.mark.parametrize(
    "content",
    [
        np.array([{"a": 1}], object),
        np.zeros(2, [("x", "i4"), ("y", "O")]),
        np.zeros(2, "datetime64[s]"),
        Reduced(np.ndarray, ((1,), np.dtype("u1"), b"abcdefgh")),
        Reduced(_RECONSTRUCT, (OSError, (0,), b"b")),
        Reduced(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**40,), np.dtype("f8"), False, b"12345678")),
        Reduced(_SCALAR, (np.dtype("f8"), b"1234")),
        nn.Linear(1, 1),
        b"\x00\xff",  # allowed: bytes are spelt by a codec in protocol 2
    ],
    ids=["objects", "records", "dates", "buffer", "class", "length", "scalar", "module", "bytes"],
)
def test_arrays_that_could_mislead_numpy_are_refused(content: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"a": content})
    stream = io.BytesIO(pickle.dumps({"a": content}, 2))
    if isinstance(content, bytes):
        assert load_checkpoint(path) == load_pickle(stream, "a.pkl") == {"a": content}
        return
    for read in (lambda: load_checkpoint(path), lambda: load_pickle(stream, "a.pkl")):
        with pytest.raises(BundleError):
            read()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_either_numpy_arrive_as_they_were(core: str, protocol: int) -> None:
    content = {
        "scalars": [np.float64(0.1), np.float32(0.5), np.int16(-3), np.bool_(True), np.str_("ab")],
        "arrays": [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.array(["a", "bc"])],
    }
    data = pickle.dumps(content, protocol)
    other = "core" if core == "_core" else "_core"
    if protocol < 4:  # later ones store the length of names
        data = data.replace(f"numpy.{other}.".encode(), f"numpy.{core}.".encode())
    loaded = load_pickle(io.BytesIO(data), "a.pkl")
    assert loaded["scalars"] == [0.1, 0.5, -3, True, "ab"]
    assert [type(value) for value in loaded["scalars"]] == [float, float, int, bool, str]
    for array, expected in zip(loaded["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("published", FORMATS, ids=lambda published: published.key)
def test_a_format_takes_nothing_for_its_own_that_is_not(published: PublishedFormat, tmp_path: Path) -> None:
    junk = {"empty": b"", "text.pth": b"a letter\n" * 50, "half.zip": b"PK\x03\x04 and no more", "p.pkl": b"\x80\x02}"}
    for name, content in junk.items():
        (tmp_path / name).write_bytes(content)
        assert not published.detect(tmp_path / name)
    saved(tmp_path / "other.pth", nn.Linear(2, 2).state_dict())
    saved(tmp_path / "numbers.pth", {"a": 1})
    saved(tmp_path / "bad.pth", {"a": Payload(tmp_path / "ran")})
    (tmp_path / "folder").mkdir()
    for name in ("other.pth", "numbers.pth", "bad.pth", "folder", "missing"):
        assert not published.detect(tmp_path / name)


# ---- damaged files


def damaged(content: Callable[[bytes], bytes], name: str = "DoDNet") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = SAMPLES[name].write(folder)
        path.write_bytes(content(path.read_bytes()))
        return path

    return write


def damaged_member(folder: Path) -> Path:
    """Change bytes in the middle of the packed weights, which the zip's own checksum tells."""
    path = SAMPLES["MultiTalent U-Net, zip"].write(folder)
    with zipfile.ZipFile(path) as archive:
        entry = next(item for item in archive.infolist() if item.filename.endswith(".model"))
    data = bytearray(path.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    return path


def truncated_plans(folder: Path) -> Path:
    trainer = SAMPLES["MultiTalent U-Net"].write(folder)
    file = trainer / "fold_0" / "model_final_checkpoint.model.pkl"
    file.write_bytes(file.read_bytes()[:500])
    return trainer


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (damaged(lambda data: data[: len(data) // 2]), "is no readable checkpoint"),
    "truncated, zip layout": (damaged(lambda data: data[:5000], "DoDNet, zip layout"), "is no readable checkpoint"),
    "empty": (damaged(lambda data: b""), "is no readable checkpoint"),
    "text": (damaged(lambda data: b"<html>Not found</html>"), "is no readable checkpoint"),
    "missing": (lambda folder: folder / "nothing.pth", "There is no file or folder"),
    "empty folder": (lambda folder: folder, "is no published checkpoint that is known here"),
    "numbers": (lambda folder: saved(folder / "a.pth", {"a": 1}), "is no published checkpoint"),
    "another network": (lambda folder: saved(folder / "a.pth", nn.Linear(1, 1).state_dict()), "is no published"),
    "damaged zip": (damaged_member, "cannot be unpacked"),
    "truncated plans": (truncated_plans, "is no readable pickle"),
}


@pytest.mark.parametrize(("write", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_wrong_file_ends_in_one_clear_line(
    write: Callable[[Path], Path], message: str, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    assert cli.main(["import", str(write(folder))]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: ")
    assert message in line
    assert not models.exists()


def test_names_in_a_zip_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = SAMPLES["MultiTalent U-Net"].write(tmp_path / "in")
    path = tmp_path / "in" / "climbing.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in inner.rglob("*.*"):
            archive.write(file, f"../../out/T__P/{file.relative_to(inner)}")
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    import_models(path, NONE)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path.parent / "out").exists()
    assert list(private.iterdir()) == []
