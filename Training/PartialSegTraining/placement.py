"""Where prepared cases lie while a network is trained on them, and who makes batches of them.

Small collections lie in the memory of the device that trains, which then makes its batches itself in
a few milliseconds. Larger ones, and those that another library augments, are read window by window
from the compressed cache by worker processes; what fits into memory, the operating system keeps
there. Called by the trainer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from PartialSegLib.inference.planner import free_memory
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import Recipe

#: Part of the free memory that cases may take; the rest is for the training.
_SHARE = 0.5
#: The most workers that are started without being asked for.
_MOST_WORKERS = 16

CPU = torch.device("cpu")


def place_cases(
    cases: Sequence[CachedCase], recipe: Recipe, device: torch.device, *, processes: int = 1
) -> tuple[list[CachedCase], int]:
    """Bring cases to where their windows are cut.

    Parameters
    ----------
    cases : sequence of CachedCase
        On disk or in memory.
    recipe : Recipe
        ``[loading]`` says what is wanted, ``[augmentation]`` which device it needs.
    device : torch.device
        That trains.
    processes : int
        Trainings that share this machine's cores and memory.

    Returns
    -------
    cases, workers
        All on one device, and how many processes make batches.
    """
    wish, size = recipe.loading, sum(case.nbytes for case in cases)

    def fit(place: torch.device) -> bool:
        # Each of the trainings has a GPU of its own, but they share the memory of the machine.
        needed = size * processes if place.type == "cpu" else size
        return wish.keep == "memory" or (wish.keep == "auto" and needed <= _SHARE * free_memory(place))

    # A worker has no GPU, and the lists of other libraries draw their random numbers on the CPU.
    if not wish.workers and recipe.augmentation.library == "own" and fit(device):
        return [case.to(device) for case in cases], 0
    workers = wish.workers
    if workers is None:
        cores = (os.cpu_count() or 1) // processes
        workers = 0 if device.type == "cpu" else max(0, min(_MOST_WORKERS, cores - 1))
    if not workers and fit(CPU):
        return [case.to(CPU) for case in cases], 0
    # Workers read from disk what lies there: handing all voxels to each of them would cost more.
    on_cpu = all(level.device == CPU for case in cases for level in case.levels)
    return list(cases) if on_cpu else [case.to(CPU) for case in cases], workers
