"""Cases are prepared once, found again by their content, and never taken for another."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from partial_cases import GEOMETRY, SPACE, ball, write_collection

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.images import Image, write_image
from PartialSegLib.preprocessing import prepare
from PartialSegLib.progress import Monitor
from PartialSegTraining import cache, storage
from PartialSegTraining.cache import CachedCase, entry_key, prepare_cases
from PartialSegTraining.cases import Case, read_collection
from PartialSegTraining.storage import INTENSITIES, QuantizedLevel, StoredLevel, quantize

# The grid of the cases themselves, so that masks come through unchanged.
RECIPE = Preprocessing(
    (2.0, 2.0, 2.5), (-100.0, 200.0), 50.0, 150.0, body_threshold=None, coarse_spacing=(4.0, 4.0, 5.0)
)


CPU = torch.device("cpu")
#: A box that is no multiple of any chunk.
BOX = (slice(3, 17), slice(0, 24), slice(5, 6))


@pytest.fixture(params=["blosc2", "npy"])
def storage_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both formats of an entry; the second is written where blosc2 is not installed."""
    if request.param == "blosc2":
        pytest.importorskip("blosc2")
    else:
        monkeypatch.setattr(storage, "compresses", lambda: False)
    return str(request.param)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return read_collection(write_collection(tmp_path / "collection", cases=2), SPACE)


def equal(first: CachedCase, second: CachedCase) -> bool:
    """Whether two cases hold the same voxels, wherever they lie."""
    if (first.name, first.structures, first.dataset) != (second.name, second.structures, second.dataset):
        return False
    first, second = first.to(CPU), second.to(CPU)
    return all(
        torch.equal(one.volume, other.volume)
        and torch.equal(one.bits, other.bits)
        and all(np.array_equal(a, b) for a, b in zip(one.centers, other.centers, strict=True))
        for one, other in zip(first.levels, second.levels, strict=True)
    )


def test_a_prepared_case_holds_its_masks_as_bits(cases: list[Case]) -> None:
    prepared = prepare_cases(cases, RECIPE)
    assert [case.name for case in prepared] == ["liver_000", "liver_001"]
    assert prepared[0].structures == ("liver", "liver_tumor")
    level = prepared[0].levels[0]
    assert level.volume.dtype == torch.float16
    assert level.volume.min() >= -1.0
    assert level.volume.max() <= 1.0
    organ, tumor = ball(GEOMETRY.shape, (10, 12, 14), 7), ball(GEOMETRY.shape, (10, 12, 16), 3)
    np.testing.assert_array_equal((level.bits & 1).numpy(), organ | tumor)
    np.testing.assert_array_equal((level.bits >> 1 & 1).numpy(), tumor)
    np.testing.assert_array_equal(level.centers[1], np.argwhere(tumor))
    assert prepared[0].levels[1].shape == (10, 12, 14)


def test_entries_on_disk_are_found_again(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")

    def refuse(case: Case, preprocessing: Preprocessing) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(cache, "_prepared", refuse)
    second = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    assert all(equal(one, other) for one, other in zip(first, second, strict=True))


def test_an_entry_follows_the_content_of_the_files_and_the_recipe(cases: list[Case]) -> None:
    key = entry_key(cases[0], RECIPE)
    assert key == entry_key(cases[0], RECIPE)
    assert key != entry_key(cases[0], replace(RECIPE, spacing=(3.0, 3.0, 3.0)))
    mask = cases[0].annotation.files[0]
    write_image(Image(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY), mask)
    assert key != entry_key(cases[0], RECIPE)


@pytest.mark.usefixtures("storage_format")
def test_windows_from_disk_are_those_from_memory(cases: list[Case], tmp_path: Path) -> None:
    in_memory = prepare_cases(cases, RECIPE)
    on_disk = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    for one, other in zip(in_memory, on_disk, strict=True):
        assert equal(one, other)
        assert isinstance(other.levels[0], StoredLevel)
        for first, second in zip(one.levels[0].cut(BOX), other.levels[0].cut(BOX), strict=True):
            assert first.dtype == second.dtype
            assert torch.equal(first, second)
        assert one.nbytes == other.nbytes
        assert [level.counts for level in one.levels] == [level.counts for level in other.levels]
        assert [level.shape for level in one.levels] == [level.shape for level in other.levels]


def test_an_entry_is_smaller_than_what_it_holds(cases: list[Case], tmp_path: Path) -> None:
    pytest.importorskip("blosc2")
    (case, _) = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    stored = sum(path.stat().st_size for path in case.levels[0].folder.glob("*0.b2nd"))  # type: ignore[attr-defined]
    assert stored < 0.75 * case.levels[0].nbytes


def test_intensities_are_kept_to_a_fraction_of_the_range() -> None:
    volume = torch.linspace(-1.0, 1.0, 8 * 9 * 10).reshape(8, 9, 10)
    values, step, offset = quantize(volume.clone(), (-1.0, 1.0))
    level = QuantizedLevel(values, step, offset, np.zeros(values.shape, np.uint8), ()).level()
    torch.testing.assert_close(level.volume.float(), volume, rtol=0, atol=2.0 / INTENSITIES)
    assert level.volume[0, 0, 0] == -1.0


@pytest.mark.parametrize("normalization", ["image", "foreground"])
def test_images_without_a_unit_are_kept_on_the_scale_of_their_own(cases: list[Case], normalization: str) -> None:
    recipe = Preprocessing(
        (2.0, 2.0, 2.5), (-100.0, 200.0), body_threshold=None, normalization=normalization, padding_value=0.0
    )
    image, _ = cases[0].load()
    level = prepare_cases(cases[:1], recipe)[0].levels[0].to(CPU)
    expected = prepare(image, recipe).volume
    span = float(expected.max() - expected.min())
    torch.testing.assert_close(level.volume.float(), expected, rtol=1e-3, atol=span / INTENSITIES)


@pytest.mark.usefixtures("storage_format")
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_entry_is_made_anew(cases: list[Case], tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    (first, _) = prepare_cases(cases, RECIPE, folder=folder)
    file = next((folder / entry_key(cases[0], RECIPE)).glob("volume0.*"))
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            whole[: len(whole) // 2] if damage == "cut" else whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
        )
    (second, _) = prepare_cases(cases, RECIPE, folder=folder)
    assert equal(first, second)
    assert file.read_bytes() == whole


def test_an_entry_that_cannot_be_decompressed_here_is_made_anew(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("blosc2")
    compressed = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")[0].to(CPU)
    monkeypatch.setattr(storage, "compresses", lambda: False)
    plain = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")[0]
    assert equal(compressed, plain)
    assert not list((tmp_path / "cache").rglob("*.b2nd"))


@pytest.mark.usefixtures("storage_format")
def test_an_entry_that_vanishes_while_training_is_named(cases: list[Case], tmp_path: Path) -> None:
    (case, _) = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(CollectionError, match=r"volume0\.(b2nd|npy) can no longer be read"):
        case.levels[0].cut(BOX)


def test_a_preparation_that_was_killed_goes_on_where_it_was(cases: list[Case], tmp_path: Path) -> None:
    """A process that dies while it writes an entry leaves those before it, and nothing that looks like one."""
    script = tmp_path / "prepare.py"
    script.write_text(KILLED)
    collection = cases[0].image_path.parents[2]
    done = subprocess.run([sys.executable, str(script), str(collection), str(tmp_path / "cache")], check=False)
    assert done.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir() if path.name[0] != "."}
    assert len(before) == 1
    prepared = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    assert all(equal(one, other) for one, other in zip(prepared, prepare_cases(cases, RECIPE), strict=True))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir() if path.name[0] != "."}
    assert len(after) == 2
    assert before.items() <= after.items()


#: Prepares a collection as this file does, and is killed while it writes the second entry.
KILLED = """
import os, signal, sys
from pathlib import Path
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.structures import LabelSpace
from PartialSegTraining import storage
from PartialSegTraining.cache import prepare_cases
from PartialSegTraining.cases import read_collection

write, calls = storage._write_level, []

def write_until_the_second(folder, number, level):
    calls.append(folder)
    if len(set(calls)) == 2:
        (folder / "volume0.b2nd").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(folder, number, level)

storage._write_level = write_until_the_second
recipe = Preprocessing(
    (2.0, 2.0, 2.5), (-100.0, 200.0), 50.0, 150.0, body_threshold=None, coarse_spacing=(4.0, 4.0, 5.0)
)
cases = read_collection(Path(sys.argv[1]), LabelSpace.named("mots"))
prepare_cases(cases, recipe, folder=Path(sys.argv[2]), workers=1)
"""


def test_a_case_that_cannot_be_read_stops_the_preparation(cases: list[Case]) -> None:
    cases[1].image_path.unlink()
    with pytest.raises(CollectionError, match=r"liver_001\.nii\.gz does not exist"):
        prepare_cases(cases, RECIPE)


def test_preparation_can_be_cancelled(cases: list[Case], tmp_path: Path) -> None:
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 1 else None)
    with pytest.raises(CancelledError, match="prepare"):
        prepare_cases(cases, RECIPE, folder=tmp_path / "cache", workers=1, monitor=monitor)
    assert list((tmp_path / "cache").glob(".*.part")) == []


def test_more_structures_than_bits_are_refused() -> None:
    with pytest.raises(CollectionError, match="64 structures"):
        cache._bit_type(64, "case")
