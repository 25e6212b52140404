"""Batches by step number: made at once, or ahead of the training by other processes.

A batch is a function of seed and step alone (:class:`BatchMaker`), so that it does not matter who
makes it: an interrupted training goes on exactly, with any number of workers. The training asks for
batches in order and is told how long it waited. Called by the trainer.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegTraining.augmentation import Augmenter, Batch
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.sampling import WindowSampler

# First word of the random streams of the changes to windows, apart from the sampler's.
_CHANGE = 11
#: How torch begins to say that a worker died.
_DIED = "DataLoader worker"


class BatchMaker:
    """Makes the batch of any step.

    Parameters
    ----------
    recipe : Recipe
        Says how windows are drawn and changed.
    cases : sequence of CachedCase
        To train on, all on one device; batches are made there.

    Raises
    ------
    CollectionError
        When no case annotates a structure of the recipe's tasks.
    MissingExtraError
        When the recipe names a library for augmentation that is not installed.
    """

    def __init__(self, recipe: Recipe, cases: Sequence[CachedCase]) -> None:
        self._cases = cases
        self._seed = recipe.optimization.seed
        self._sampler = WindowSampler(cases, recipe.tasks, recipe.sampling, self._seed)
        self._augmenter = Augmenter(recipe.augmentation, recipe.preprocessing, recipe.tasks, recipe.sampling.window)

    def make(self, step: int, places: Sequence[int]) -> Batch:
        """Cut and change the windows at some places of the batch of a step."""
        numbers = [self._sampler.number(step, place) for place in places]
        changes = [self._augmenter.draw(np.random.default_rng((self._seed, _CHANGE, number))) for number in numbers]
        return self._augmenter.batch(self._cases, [self._sampler.draw(step, place) for place in places], changes)


class BatchLoader:
    """Hands out batches in the order of the steps.

    Parameters
    ----------
    maker : BatchMaker
        Makes them.
    device : torch.device
        Where they are wanted.
    steps : int
        Of the whole training; no batch beyond is made.
    parts : sequence of sequence of int
        Places of the batch of a step that this process computes together; several where a step is
        computed in parts.
    workers : int
        Processes that make batches ahead; 0 makes them when they are asked for.
    ahead : int
        Batches that each worker makes ahead.
    """

    def __init__(
        self,
        maker: BatchMaker,
        device: torch.device,
        *,
        steps: int,
        parts: Sequence[Sequence[int]],
        workers: int = 0,
        ahead: int = 2,
    ) -> None:
        self._maker = maker
        self._device = device
        self._steps = steps
        self._parts = [tuple(part) for part in parts]
        self._workers, self._ahead = workers, ahead
        self._stream: Iterator[Batch | PartialSegError] | None = None
        self._next = 0
        #: Seconds that the training has waited for batches so far.
        self.waited = 0.0

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield the batches of a step, one for each part, on the device.

        Raises
        ------
        CollectionError
            When a case can no longer be read, or a worker was killed.
        """
        for index in range(step * len(self._parts), (step + 1) * len(self._parts)):
            started = time.monotonic()
            batch = self._ahead_of(index) if self._workers else self._made(index)
            if batch.image.device != self._device:
                batch = Batch(*(part.to(self._device, non_blocking=True) for part in batch))
            self.waited += time.monotonic() - started
            yield batch

    def close(self) -> None:
        """End the workers."""
        stream, self._stream = self._stream, None
        shut_down = getattr(stream, "_shutdown_workers", None)
        if shut_down is not None:
            with suppress(RuntimeError):
                shut_down()

    def _made(self, index: int) -> Batch:
        step, part = divmod(index, len(self._parts))
        return self._maker.make(step, self._parts[part])

    def _ahead_of(self, index: int) -> Batch:
        """Return a batch that a worker made; after a jump to another step, the workers begin there."""
        if self._stream is None or index != self._next:
            self.close()
            self._stream = self._start(index)
        self._next = index + 1
        try:
            batch = next(self._stream)
        except StopIteration as error:
            raise CollectionError(f"Batch {index} lies beyond the end of the training.") from error
        except (RuntimeError, EOFError, ConnectionError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith(_DIED):
                raise
            raise CollectionError(
                f"A process that makes batches has ended: {[*str(error).splitlines(), 'its pipe is closed'][0]}",
                "Was there too little memory? Give fewer 'workers' in [loading] of the recipe.",
            ) from error
        if isinstance(batch, PartialSegError):
            raise batch
        return batch

    def _start(self, first: int) -> Iterator[Batch | PartialSegError]:
        """Start the workers; the first batch they make is that of index `first`."""
        loader = DataLoader(
            _Batches(self._maker, self._parts, first, self._steps * len(self._parts)),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            pin_memory=self._device.type == "cuda",
            # A process that was forked from one with threads of torch and blosc2 may hang.
            multiprocessing_context="spawn",
            worker_init_fn=_leave_signals_to_the_training,
        )
        with _signals_of_children_as_they_are():
            return iter(loader)


@contextmanager
def _signals_of_children_as_they_are() -> Iterator[None]:
    """Leave no handler behind that raises wherever the training is when a worker dies.

    PyTorch installs one with its first workers. Without it, a dead worker is found when its batch is asked for.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    yield
    if before is not None:
        signal.signal(number, before)


def _leave_signals_to_the_training(worker: int) -> None:
    """Ignore Ctrl+C and SIGTERM in a worker, which a terminal or a cluster sends to every process.

    The training needs its workers for the step in progress; then it saves and ends them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Batches(Dataset[Batch | PartialSegError]):
    """Every batch from the index `first` to `last`, as torch's loader asks for them; errors are values."""

    def __init__(self, maker: BatchMaker, parts: Sequence[Sequence[int]], first: int, last: int) -> None:
        self._maker, self._parts, self._first, self._last = maker, parts, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, at: int) -> Batch | PartialSegError:
        if not 0 <= at < len(self):
            raise IndexError(at)
        step, part = divmod(self._first + at, len(self._parts))
        try:
            return self._maker.make(step, self._parts[part])
        except PartialSegError as error:
            return error
