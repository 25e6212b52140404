"""What the processes of ``test_distributed`` do, and what one process does instead.

Run as ``python -m torch.distributed.run --nproc-per-node 2 distributed_work.py FOLDER``: every process
writes what it found to ``FOLDER/RANK.pt``; then both call the command line with the words that
``FOLDER/words.json`` has.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from loss_examples import VARIANTS, Variant, batch
from partial_cases import SPACE, cached_case, tiny_recipe
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from PartialSegLib import cli
from PartialSegLib.errors import CollectionError
from PartialSegTraining.distributed import ALONE, Processes, together
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.losses import UNKNOWN
from PartialSegTraining.recipe import AugmentationRecipe, LossRecipe, NetworkRecipe, Recipe
from PartialSegTraining.trainer import Trainer

CPU = torch.device("cpu")

#: What the second half of the batch annotates in a comparison of gradients.
HALVES = ("something", "nothing")


def loss_gradient(variant: Variant, second: str, processes: Processes) -> dict[str, Tensor]:
    """The gradient of a small network, and the terms of its loss, over the part of a batch that a process has."""
    target, task = batch(variant.space)
    half = len(target) // 2
    if second == "nothing":
        target[half:] = UNKNOWN
    mine = slice(None) if processes.alone else (slice(0, half), slice(half, None))[processes.rank]
    loss = variant.build(None if processes.alone else processes.add)
    torch.manual_seed(3)
    network = nn.Conv3d(1, loss.channels, 3, padding=1)
    outputs = network if processes.alone else DistributedDataParallel(network)
    image = torch.randn(len(target), 1, *target.shape[2:])[mine]
    terms = loss([outputs(image)], target[mine], task[mine])
    terms.total.backward()
    assert network.weight.grad is not None
    return {"gradient": network.weight.grad, **terms.detach().terms}


def uneven_cases() -> list[CachedCase]:
    """Three cases of one task and one of another, each drawn as often: most windows are of one dataset."""
    tasks = [SPACE.tasks[0]] * 3 + [SPACE.tasks[1]]
    return [cached_case(f"case{at}", task.structures, seed=at, shape=(24, 24, 24)) for at, task in enumerate(tasks)]


def small_recipe(network: NetworkRecipe, loss: str = "dodnet", **options: object) -> Recipe:
    """Two steps of four windows, without the random changes that each window has a stream for."""
    recipe = tiny_recipe(batch=4, coarse=0.0, strategy="cases").with_steps(2)
    plan = {"optimizer": "sgd", "learning_rate": 0.1, "average": 0.0, "warmup_steps": 0, **options}
    return replace(
        recipe,
        network=network,
        loss=LossRecipe(loss),
        augmentation=AugmentationRecipe(),
        optimization=replace(recipe.optimization, **plan),
    )


#: A decoder of its own for each task, of which a process uses some only in a step, or none that another does.
HEADS = NetworkRecipe("MultiHead", {"channels": [4, 4, 4, 4, 4], "blocks": [1, 1, 1, 1, 1], "groups": 2})
#: Deep supervision, whose coarsest output does not count: its weights have no gradient in any process.
SUPERVISED = NetworkRecipe(
    "MultiTalentUNet",
    {"features": [4, 4, 4], "kernels": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]},
)
TRAININGS = {
    "heads": small_recipe(HEADS),
    "heads, steps in parts": small_recipe(HEADS, accumulation=2),
    "deep supervision": small_recipe(SUPERVISED, "multitalent"),
}


def trained(recipe: Recipe, processes: Processes) -> dict[str, Tensor]:
    """The weights after all steps of a recipe, and the loss of the last."""
    trainer = Trainer(recipe, uneven_cases(), CPU, processes)
    for _ in range(recipe.optimization.total_steps):
        loss = trainer.step()
    return {**trainer.state.network.state_dict(), "loss": loss.total}


def work(processes: Processes) -> dict[str, dict[str, Tensor]]:
    """Everything that is compared."""
    found = {
        f"{name}, {second}": loss_gradient(variant, second, processes)
        for name, variant in VARIANTS.items()
        for second in HALVES
    }
    return {**found, **{name: trained(recipe, processes) for name, recipe in TRAININGS.items()}}


def disagreement(processes: Processes) -> bool:
    """Whether processes that are at different steps are told so."""
    try:
        processes.check_same(processes.rank, "step")
    except CollectionError as error:
        return "do not agree on the step: 0 and 1" in error.message
    return False


def main(folder: Path) -> int:
    """Do it all in one of several processes; return the exit status of the command."""
    torch.set_num_threads(1)
    with together() as processes:
        assert not processes.alone
        document = work(processes)
        document["flags"] = {
            "raised": torch.tensor(processes.any([processes.rank == 1, False])),
            "disagreement": torch.tensor(disagreement(processes)),
        }
        torch.save(document, folder / f"{processes.rank}.pt")
        return cli.main(json.loads((folder / "words.json").read_text()))


def work_alone() -> dict[str, dict[str, Tensor]]:
    """The same in one process, with whole batches."""
    return work(ALONE)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
