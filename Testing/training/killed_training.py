"""A training that kills itself at a given place, as ``kill -9``, a crash or a power cut would.

Run as ``python killed_training.py PLACE RECIPE COLLECTION OUTPUT``. From outside, nobody can hit the
middle of a write; so the process does it itself, from within the real work, with the real signal.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch

from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.trainer import train


def die() -> NoReturn:
    """End this process at once: nothing is unwound, flushed or removed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def in_call(number: int, work: Callable[..., Any], end: Callable[..., None]) -> Callable[..., Any]:
    """Return `work`, but for its call of that number (from 1), which is `end` instead."""
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return end(*arguments, **options) if calls == number else work(*arguments, **options)

    return counted


def half_a_file(document: object, file: BinaryIO) -> None:
    """Write the first half of a checkpoint to the disk, and die."""
    whole = io.BytesIO()
    real_save(document, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os.fsync(file.fileno())
    die()


real_save = torch.save


def arm(place: str) -> None:
    """Prepare the end of this process."""
    if place == "preparation":
        # A prepared case has such a file for each of its two spacings: the second case is half written.
        np.save = in_call(4, np.save, lambda *_, **__: die())
    elif place == "step":
        # The fourth step is killed with its gradients made and its weights not moved.
        torch.nn.utils.clip_grad_norm_ = in_call(4, torch.nn.utils.clip_grad_norm_, lambda *_, **__: die())
    elif place == "checkpoint":
        torch.save = in_call(3, torch.save, half_a_file)
    else:
        raise ValueError(place)


if __name__ == "__main__":
    torch.set_num_threads(1)
    arm(sys.argv[1])
    train(load_recipe(sys.argv[2]), sys.argv[3], sys.argv[4], device="cpu", workers=1)
