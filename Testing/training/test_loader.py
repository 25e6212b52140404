"""Batches are the same whoever makes them and wherever the cases lie; a training tells how long it waited."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from partial_cases import SPACE, cached_cases, tiny_recipe, write_collection

from PartialSegLib.errors import CollectionError
from PartialSegTraining import placement
from PartialSegTraining.augmentation import Batch
from PartialSegTraining.cache import CachedCase, prepare_cases
from PartialSegTraining.cases import read_collection
from PartialSegTraining.loader import BatchLoader, BatchMaker
from PartialSegTraining.placement import place_cases
from PartialSegTraining.recipe import AugmentationRecipe, LoadingRecipe, Recipe
from PartialSegTraining.storage import StoredLevel
from PartialSegTraining.trainer import Trainer, run

CPU = torch.device("cpu")
STEPS = 6


def recipe(keep: str = "auto", workers: int | None = None, **augmentation: object) -> Recipe:
    """A tiny recipe of six steps of two windows."""
    tiny = tiny_recipe(batch=2).with_steps(STEPS)
    changed = AugmentationRecipe(**augmentation) if augmentation else tiny.augmentation  # type: ignore[arg-type]
    return replace(tiny, augmentation=changed, loading=LoadingRecipe(keep=keep, workers=workers))


@pytest.fixture
def stored(tmp_path: Path) -> list[CachedCase]:
    """Two cases on disk."""
    cases = read_collection(write_collection(tmp_path / "collection"), SPACE)
    return prepare_cases(cases, tiny_recipe().preprocessing, folder=tmp_path / "cache")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of one thread, as a worker makes them, so that results can be compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loader(plan: Recipe, cases: list[CachedCase], workers: int = 0, parts: int = 1) -> BatchLoader:
    size = plan.sampling.batch // parts
    places = [range(first, first + size) for first in range(0, plan.sampling.batch, size)]
    return BatchLoader(BatchMaker(plan, cases), CPU, steps=STEPS, parts=places, workers=workers)


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.usefixtures("one_thread")
def test_workers_make_the_batches_that_the_training_would_make(stored: list[CachedCase]) -> None:
    pytest.importorskip("batchgeneratorsv2")
    plan = recipe(library="nnunet", mirror=(0.5, 0.5, 0.5))
    own, ahead = loader(plan, stored), loader(plan, stored, workers=2)
    try:
        # From the middle, as after an interruption.
        for step in range(2, STEPS):
            (mine,), (theirs,) = own.batches(step), ahead.batches(step)
            assert same(mine, theirs)
        assert ahead.waited > 0
    finally:
        ahead.close()


def test_what_goes_wrong_in_a_worker_ends_the_training_in_one_clear_line(
    stored: list[CachedCase], tmp_path: Path
) -> None:
    broken = loader(recipe(), stored, workers=1)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(CollectionError, match=r"(volume0|centers0)\.\w+ can no longer be read"):
        list(broken.batches(0))
    broken.close()


def test_a_worker_that_is_killed_ends_the_training_in_one_clear_line(stored: list[CachedCase]) -> None:
    ahead = loader(recipe(), stored, workers=1)
    list(ahead.batches(0))
    # Ctrl+C and a cluster's SIGTERM reach every process: the training decides when to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(ahead._stream._workers[0].pid, number)  # type: ignore[union-attr]
    list(ahead.batches(1))
    os.kill(ahead._stream._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(CollectionError, match="A process that makes batches has ended"):
        _ = [list(ahead.batches(step)) for step in range(2, STEPS)]
    # Whoever asks for any step afterwards gets new workers.
    (again,), (expected,) = ahead.batches(4), loader(recipe(), stored).batches(4)
    torch.testing.assert_close(again.image, expected.image)
    ahead.close()


def test_a_batch_in_parts_is_the_batch_as_a_whole(stored: list[CachedCase]) -> None:
    plan = recipe()
    (whole,) = loader(plan, stored).batches(3)
    parts = list(loader(plan, stored, parts=2).batches(3))
    assert [len(part.task) for part in parts] == [1, 1]
    for field, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces), field)


def test_a_training_is_the_same_from_memory_and_from_disk(stored: list[CachedCase]) -> None:
    weights = []
    for keep in ("memory", "disk"):
        trainer = Trainer(recipe(keep), stored, CPU)
        losses = [float(trainer.step().total) for _ in range(3)]
        weights.append((losses, torch.cat([p.detach().flatten() for p in trainer.state.network.parameters()])))
    assert weights[0][0] == weights[1][0]
    assert torch.equal(weights[0][1], weights[1][1])


def test_where_cases_lie_changes_no_checkpoint() -> None:
    assert recipe("disk", 3).digest == recipe("memory").digest


def test_the_log_says_how_long_the_training_waited_for_its_windows(tmp_path: Path) -> None:
    plan = recipe()
    run(Trainer(plan, cached_cases(), CPU), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shares = [line["waiting"] for line in lines if "waiting" in line]
    assert shares
    assert all(0.0 < share < 1.0 for share in shares)


@pytest.mark.parametrize(
    ("keep", "workers", "free", "on_disk", "expected"),
    [
        ("auto", None, 2**40, False, 0),  # a small collection, on a CPU
        ("auto", None, 1000, True, 0),  # it does not fit
        ("memory", None, 1000, False, 0),  # the user knows better
        ("disk", None, 2**40, True, 0),
        ("auto", 3, 2**40, True, 3),
    ],
)
def test_cases_lie_in_memory_where_they_fit(
    stored: list[CachedCase],
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    workers: int | None,
    free: int,
    on_disk: bool,
    expected: int,
) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda device: free)
    placed, count = place_cases(stored, recipe(keep, workers), CPU)
    assert count == expected
    assert all(isinstance(level, StoredLevel) is on_disk for case in placed for level in case.levels)


def test_workers_feed_a_gpu_whose_memory_is_too_small(
    stored: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is only named: nothing is moved to it."""
    monkeypatch.setattr(placement, "free_memory", lambda device: 1000 if device.type == "cuda" else 2**40)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    placed, workers = place_cases(stored, recipe(), torch.device("cuda"))
    assert workers == 7
    assert placed == stored
    _, shared = place_cases(stored, recipe(), torch.device("cuda"), processes=4)
    assert shared == 1
