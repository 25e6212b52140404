"""Several processes that train one model together: which one this is, and what they tell each other.

``torchrun`` starts them, one a GPU (or any number on CPUs), and tells each its place in environment
variables; a process that was started by itself is alone, and nothing here costs it anything. The
training stays the one that the recipe describes, however many processes make it: they divide the
windows of each step, and every sum that the loss is made of is added over all of them, so that the
gradient is that of one process with all windows. Called by the trainer and the command line.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from PartialSegLib.errors import CollectionError

T = TypeVar("T")

#: How long a process waits for the others: preparing a large collection may take hours, and torchrun
#: ends all of them when one dies.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them.

    Parameters
    ----------
    rank : int
        Number of this process; process 0 alone writes files.
    count : int
        How many there are.
    local_rank : int
        Number of this process on its machine; chooses the GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `count`-th of `items`, from that of this process on; as many as every other one has.

        Raises
        ------
        CollectionError
            When they cannot be divided evenly.
        """
        if len(items) % self.count:
            raise CollectionError(
                f"{len(items)} windows cannot be divided among {self.count} processes.",
                "Make 'batch' / 'accumulation' of the recipe a multiple of the number of processes.",
            )
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.any([False])

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is raised in any process; all of them have to ask."""
        if self.alone:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def add(self, values: Tensor) -> Tensor:
        """Add a tensor over all processes; gradients pass through.

        Each process then has the same sum, and the gradient that reaches `values` is the sum of
        those of all processes: `count` times that of one process alone, which is what the mean over
        processes that :class:`torch.nn.parallel.DistributedDataParallel` takes makes up for.
        """
        if self.alone:
            return values
        from torch.distributed.nn.functional import all_reduce

        total: Tensor = all_reduce(values)
        return total

    def check_same(self, number: int, what: str) -> None:
        """Make sure that all processes have the same `number`.

        Raises
        ------
        CollectionError
            When they do not, naming `what` it is.
        """
        if self.alone:
            return
        extremes = torch.tensor([number, -number])
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        highest, lowest = int(extremes[0]), -int(extremes[1])
        if highest != lowest:
            raise CollectionError(
                f"The processes of this training do not agree on the {what}: {lowest} and {highest}.",
                "All machines have to see the same collection and the same output folder.",
            )


#: A training in one process.
ALONE = Processes()


@contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that torchrun started.

    Within another such block, and in a process that has joined a process group by itself, nothing is
    joined or left.

    Yields
    ------
    Processes
        :data:`ALONE` in a process that was not started by torchrun, or as the only one.

    Raises
    ------
    CollectionError
        When the environment names a training of several processes, but the others cannot be reached.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    # Flags and figures are exchanged on the CPU, so that nothing waits for a GPU; gradients on it.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise CollectionError(
            f"The processes of this training do not find each other: {error}.", "Start them with torchrun."
        ) from error
    yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    # Not after an error: the others may be waiting for this process, and torchrun ends them.
    # What still holds the group, in cycles, would keep its threads alive, and a thread of gloo that lets go of a
    # tensor while Python ends aborts the process (pytorch/pytorch#179291).
    gc.collect()
    dist.destroy_process_group()


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU where there is one.

    Of several processes on a machine, each takes the GPU of its own number for ``auto`` and ``cuda``.

    Raises
    ------
    CollectionError
        When there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not processes.alone:
        name = f"cuda:{processes.local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        hint = "Use 'auto', 'cpu' or 'cuda'."
        if not processes.alone and name.startswith("cuda"):
            hint = f"Start at most {torch.cuda.device_count()} processes on this machine, one a GPU."
        raise CollectionError(f"There is no device '{name}' here.", hint) from error
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device
