"""Cases are prepared once, found again by their content, and never taken for another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from partial_cases import GEOMETRY, SPACE, ball, write_collection

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.images import Image, write_image
from PartialSegLib.progress import Monitor
from PartialSegTraining import cache
from PartialSegTraining.cache import CachedCase, entry_key, prepare_cases
from PartialSegTraining.cases import Case, read_collection

# The grid of the cases themselves, so that masks come through unchanged.
RECIPE = Preprocessing(
    (2.0, 2.0, 2.5), (-100.0, 200.0), 50.0, 150.0, body_threshold=None, coarse_spacing=(4.0, 4.0, 5.0)
)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return read_collection(write_collection(tmp_path / "collection", cases=2), SPACE)


def equal(first: CachedCase, second: CachedCase) -> bool:
    if (first.name, first.structures) != (second.name, second.structures):
        return False
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

    def refuse(case: Case, preprocessing: Preprocessing) -> CachedCase:
        raise AssertionError("prepared again")

    monkeypatch.setattr(cache, "prepare_case", refuse)
    second = prepare_cases(cases, RECIPE, folder=tmp_path / "cache")
    assert all(equal(one, other) for one, other in zip(first, second, strict=True))


def test_an_entry_follows_the_content_of_the_files_and_the_recipe(cases: list[Case]) -> None:
    key = entry_key(cases[0], RECIPE)
    assert key == entry_key(cases[0], RECIPE)
    assert key != entry_key(cases[0], replace(RECIPE, spacing=(3.0, 3.0, 3.0)))
    mask = cases[0].annotation.files[0]
    write_image(Image(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY), mask)
    assert key != entry_key(cases[0], RECIPE)


def test_a_damaged_entry_is_made_anew(cases: list[Case], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (first, _) = prepare_cases(cases, RECIPE, folder=folder)
    entry = folder / f"{entry_key(cases[0], RECIPE)}.safetensors"
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    (second, _) = prepare_cases(cases, RECIPE, folder=folder)
    assert equal(first, second)
    assert entry.read_bytes() == whole


def test_a_case_that_cannot_be_read_stops_the_preparation(cases: list[Case]) -> None:
    cases[1].image_path.unlink()
    with pytest.raises(CollectionError, match=r"liver_001\.nii\.gz does not exist"):
        prepare_cases(cases, RECIPE)


def test_preparation_can_be_cancelled(cases: list[Case], tmp_path: Path) -> None:
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 1 else None)
    with pytest.raises(CancelledError, match="prepare"):
        prepare_cases(cases, RECIPE, folder=tmp_path / "cache", workers=1, monitor=monitor)
    assert list((tmp_path / "cache").glob("*.part")) == []


def test_more_structures_than_bits_are_refused() -> None:
    with pytest.raises(CollectionError, match="64 structures"):
        cache._bit_type(64, "case")
