"""Quick against full fine-tuning: one step of the head on cached columns, one step of the whole network.

The bundled model's network and window, the batch of the full fine-tuning and the windows of a quick step;
the cost of either does not depend on what the images show, so random numbers stand in for them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from harness import Row, interleaved
from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.networks import DoDNet, PartialLabelNetwork
from PartialSegLib.structures import catalogue
from PartialSegTraining.finetuning.checks import Material
from PartialSegTraining.finetuning.columns import Columns
from PartialSegTraining.finetuning.contract import FineTuneOptions
from PartialSegTraining.finetuning.full import make_recipe
from PartialSegTraining.finetuning.growth import grow, grown_space
from PartialSegTraining.finetuning.heads import TaskHead
from PartialSegTraining.finetuning.quick import HeadPlan, Lesson, head_step
from PartialSegTraining.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from partial_cases import cached_case

_BAR = 50.0


def lesson(head: TaskHead, width: int, pooled: int, seed: int) -> Lesson:
    """Return a window of random columns, as many as a step looks at, with a structure in a tenth of them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(HeadPlan.voxels, width, generator=generator).half()
    target = (torch.rand(HeadPlan.voxels, len(head.channels), generator=generator) < 0.1).float()
    columns = Columns(values, torch.rand(pooled, generator=generator), target > 0, torch.full((HeadPlan.voxels,), 40.0))
    return Lesson(columns, target)


def full_trainer(parent: ModelBundle, network: PartialLabelNetwork) -> Trainer:
    """Return a trainer that makes the steps of the full fine-tuning of a liver."""
    space = network.label_space
    material = Material((), (), (), space, ("liver", "liver_tumor"), (), ())
    recipe = make_recipe(parent, network, material, "full", FineTuneOptions())
    cases = [cached_case("liver", ("liver", "liver_tumor"), shape=(96, 96, 96))]
    trainer = Trainer(recipe, cases, torch.device("cpu"))
    # Past the warm-up of the head, whose steps are cheaper.
    trainer.state.step = recipe.optimization.head_warmup_steps + recipe.optimization.warmup_steps
    return trainer


def compare(name: str, trainer: Trainer, network: PartialLabelNetwork, task: int) -> Row:
    """Time steps of both kinds in turn."""
    assert isinstance(network, DoDNet)
    head = TaskHead(network, task)
    width = sum(network.tap_channels) if head.taps else network.parameters_.head_width
    pooled = network.parameters_.channels[3]
    network.requires_grad_(False)
    for weight, _ in head.weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([weight for weight, _ in head.weights], lr=1e-3, weight_decay=0.0)
    lessons = [lesson(head, width, pooled, seed) for seed in range(HeadPlan.windows)]

    def quick() -> None:
        for _ in range(10):
            head_step(head, lessons, optimizer)

    quick()
    full, ten = interleaved(trainer.step, quick, 2)
    ratio = full / (ten / 10)
    return Row.at_least(name, f"{1000 * full:.0f} ms", f"{100 * ten:.1f} ms", ratio, _BAR)


def run() -> list[Row]:
    """Measure a known task's column, and an added structure's column and map."""
    parent = catalog.find("demo")
    network = parent.load_network()
    trainer = full_trainer(parent, network)
    try:
        grown = grow(parent.load_network(), grown_space(parent.card.label_space, (catalogue()["aorta"],)))
        return [
            compare("full step to quick step, a known task", trainer, network, 0),
            compare("full step to quick step, an added structure", trainer, grown, len(grown.label_space.tasks) - 1),
        ]
    finally:
        trainer.loader.close()


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
