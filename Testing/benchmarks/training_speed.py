"""Which precision and memory layout trains fastest on this device? Run it before a long training.

    python Testing/benchmarks/training_speed.py phantom-dodnet [--device cuda] [--compiled]

Cases are random numbers of a usual size; the network, windows and augmentation are those of the
recipe. Prints one JSON line per variant: milliseconds a step, its share for cutting and changing
windows, and peak memory. Not part of ``make bench``, which needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from PartialSegTraining.recipe import Recipe
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.trainer import Trainer, choose_device

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from partial_cases import cached_case


def measure(trainer: Trainer, steps: int) -> dict[str, float]:
    """Return milliseconds per step and per batch of windows, and peak memory in GB."""
    cuda = trainer.device.type == "cuda"
    for _ in range(2 if cuda else 1):
        trainer.step()
    _wait(cuda)
    started = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    _wait(cuda)
    whole = (time.perf_counter() - started) / steps
    started = time.perf_counter()
    for step in range(steps):
        list(trainer.batches(step))
    _wait(cuda)
    windows = (time.perf_counter() - started) / steps
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return {"ms_per_step": round(1e3 * whole, 1), "ms_windows": round(1e3 * windows, 1), "peak_gb": round(peak, 1)}


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def variants(recipe: Recipe, device: torch.device, compiled: bool) -> list[Recipe]:
    """Return the recipe in every precision and layout that the device has."""
    precisions = ("bfloat16", "float16", "float32") if device.type == "cuda" else ("float32",)
    return [
        replace(
            recipe,
            optimization=replace(
                recipe.optimization, precision=precision, channels_last=channels_last, compiled=compiled
            ),
        )
        for precision, channels_last in product(precisions, (False, True))
    ]


def main() -> None:
    """Measure every variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    arguments = parser.parse_args()
    recipe, device = load_recipe(arguments.recipe), choose_device(arguments.device)
    cases = [cached_case(task.key, task.structures, shape=(140, 180, 190)) for task in recipe.tasks.tasks]
    for variant in variants(recipe, device, arguments.compiled):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        plan = variant.optimization
        name = {"precision": plan.precision, "channels_last": plan.channels_last, "compiled": plan.compiled}
        print(json.dumps(name | measure(Trainer(variant, cases, device), arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
