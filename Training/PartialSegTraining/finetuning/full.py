"""Full and transfer fine-tuning: the trainer's own steps, from the weights of a parent.

First the head alone, then the whole network with a rising learning rate, then a polynomial decay (Kumar et
al., ICLR 2022, as MultiTalent fine-tunes). Half of the windows are of the structures that are trained, the
others of earlier cases, so that other tasks do not fade. Going on after an interruption is the trainer's:
its checkpoint lies in the folder. Called by :mod:`PartialSegTraining.finetuning.session`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.networks import KiTS21, KiTS21Pretraining, PartialLabelNetwork
from PartialSegLib.networks.baselines import TAL
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.networks.kits21 import transfer as transferred
from PartialSegLib.networks.multitalent import MultiTalentNetwork
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cache import entry_key, prepare_cases
from PartialSegTraining.finetuning.checks import Material
from PartialSegTraining.finetuning.contract import FineTuneEvent, FineTuneOptions
from PartialSegTraining.finetuning.growth import grow
from PartialSegTraining.finetuning.heads import head_weights
from PartialSegTraining.finetuning.quick import Listener
from PartialSegTraining.losses import LossTerms
from PartialSegTraining.optimizationrecipe import OptimizationRecipe
from PartialSegTraining.recipe import CardRecipe, LossRecipe, NetworkRecipe, Recipe
from PartialSegTraining.state import load_checkpoint
from PartialSegTraining.trainer import Trainer, run
from PartialSegTraining.windowrecipe import AugmentationRecipe, Chance, SamplingRecipe

#: Steps of the head alone, and highest learning rates, where the options give none. MultiTalent's head
#: learns at 5e-4; a network that is to stay near its parent, at a tenth of a training from scratch.
_HEAD_STEPS, _HEAD_RATE, _RATE = 50, 5e-4, 1e-3
_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class FineTuneRecipe(Recipe):
    """A recipe whose label space is that of the new model, which no name stands for.

    Parameters
    ----------
    space : LabelSpace
        Its tasks.
    origin : tuple of str
        Fingerprints of the parent and of every case: a checkpoint fits no other fine-tuning.
    """

    space: LabelSpace = field(default_factory=lambda: LabelSpace.named("mots"))
    origin: tuple[str, ...] = ()

    @property
    def tasks(self) -> LabelSpace:
        """The label space itself."""
        return self.space


def train_whole(
    parent: ModelBundle,
    material: Material,
    folder: Path,
    mode: str,
    options: FineTuneOptions,
    device: torch.device,
    monitor: Monitor,
    listener: Listener | None,
) -> PartialLabelNetwork:
    """Fine-tune the whole network and return it, in eval mode.

    Parameters
    ----------
    parent : ModelBundle
        Whose weights it begins with.
    material : Material
        Checked cases.
    folder : Path
        Keeps prepared cases, log and checkpoint, so that an interrupted run goes on.
    mode : str
        ``full`` or ``transfer``.
    options : FineTuneOptions
        Lengths and rates.
    device : torch.device
        Where to compute.
    monitor : Monitor
        Told about every case and step; cancelling it writes a checkpoint first.
    listener : callable, optional
        Told about every step.

    Raises
    ------
    CollectionError
        When the model's preparation of images cannot be trained with, the window does not fit, or the
        training diverges.
    CancelledError
        When the monitor was cancelled.
    """
    if parent.card.preprocessing.normalization != "fixed":
        raise CollectionError(
            f"Model '{parent.card.name}' normalizes each image by itself, which the training cannot augment.",
            "Use the mode 'quick'.",
        )
    start = starting_network(parent, material.space, mode, options.seed)
    recipe = make_recipe(parent, start, material, mode, options)
    cases = [*material.cases, *(material.replay if mode == "full" else ())]
    prepared = prepare_cases(cases, recipe.preprocessing, folder=folder / "cache", monitor=monitor)
    trainer = _ListenedTrainer(recipe, prepared, device, listener)
    try:
        if (folder / _CHECKPOINT).is_file():
            hint = "Give an empty folder, or delete the file to begin anew."
            load_checkpoint(trainer.state, recipe, folder / _CHECKPOINT, hint)
        else:
            trainer.state.network.load_state_dict(start.state_dict())
            trainer.state.average.load_state_dict(start.state_dict())
        with kept_memory(device):
            run(trainer, folder, monitor=monitor)
    finally:
        trainer.loader.close()
    return trainer.state.average.eval()


def forget_checkpoint(folder: Path) -> None:
    """Remove what an interrupted run would have gone on from: the model is made."""
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def starting_network(parent: ModelBundle, space: LabelSpace, mode: str, seed: int) -> PartialLabelNetwork:
    """Return the network with the weights to begin with: the parent's, grown or transferred."""
    network = parent.load_network()
    if mode == "full":
        return grow(network, space, seed)
    if not isinstance(network, KiTS21Pretraining):
        raise CollectionError(
            f"Model '{parent.card.name}' is a {type(network).__name__}: only KiTS21Pretraining has a transfer.",
            "Use the mode 'full'.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transferred(network, space)


def make_recipe(
    parent: ModelBundle, network: PartialLabelNetwork, material: Material, mode: str, options: FineTuneOptions
) -> FineTuneRecipe:
    """Return what the trainer is to do; a checkpoint fits the same parent, cases, options and label space only."""
    card = parent.card
    head = _names(network, head_weights(network))
    head_steps = (_HEAD_STEPS if options.head_steps is None else options.head_steps) if head else 0
    mirrored = [0.5 if axis in card.mirror_axes else 0.0 for axis in range(3)]
    return FineTuneRecipe(
        name=options.name or f"{card.name}-{mode}",
        label_space=material.space.name,
        network=NetworkRecipe(type(network).__name__, dict(vars(network.parameters_))),
        preprocessing=card.preprocessing,
        sampling=SamplingRecipe(
            window=options.window or card.window,
            batch=options.batch,
            foreground=0.67,
            tasks=turns(material, mode),
        ),
        optimization=OptimizationRecipe(
            total_steps=head_steps + options.warmup_steps + options.steps,
            learning_rate=options.learning_rate or _RATE,
            weight_decay=1e-2,
            head=head if head_steps else (),
            head_warmup_steps=head_steps,
            head_learning_rate=(options.head_learning_rate or _HEAD_RATE) if head_steps else None,
            warmup_steps=options.warmup_steps,
            average=0.99,
            seed=options.seed,
        ),
        card=CardRecipe(card.title, card.description, card.intended_use, card.license),
        augmentation=AugmentationRecipe(
            mirror=(mirrored[0], mirrored[1], mirrored[2]),
            scale=Chance(0.5, (0.8, 1.25)),
            rotation=Chance(0.3, (-10.0, 10.0)),
            noise=Chance(0.15, (0.0, 0.06)),
            brightness=Chance(0.3, (-0.06, 0.06)),
            contrast=Chance(0.3, (0.85, 1.15)),
            gamma=Chance(0.2, (0.8, 1.25)),
        ),
        loss=options.loss or suitable_loss(network),
        space=material.space,
        origin=(
            str(card.weights["sha256"]),
            *(entry_key(case, card.preprocessing) for case in (*material.cases, *material.replay)),
        ),
    )


def turns(material: Material, mode: str) -> dict[str, int]:
    """Return how often tasks take their turn, so that about half of the windows are of those that are trained."""
    if mode != "full":
        return {}
    trained = {material.space.task_of(key).key for key in material.trained}
    replayed = {task for case in material.replay for task in case.tasks(material.space)} - trained
    often = max(1, round(len(replayed) / len(trained)))
    return {key: often for key in trained if often > 1}


def suitable_loss(network: PartialLabelNetwork) -> LossRecipe:
    """Return the loss that a kind of network was published with, or one that fits it."""
    if isinstance(network, KiTS21):
        settled = {key for key in ("kidneys", "kidney_tumor", "kidney_cyst") if key in network.label_space.select()}
        return LossRecipe("hierarchical" if len(settled) == 3 else "dice-ce")
    if isinstance(network, TAL):
        return LossRecipe("target-adaptive")
    if isinstance(network, ExclusiveNetwork):
        return LossRecipe("lovasz-focal")
    return LossRecipe("multitalent" if isinstance(network, MultiTalentNetwork) else "dodnet")


def _names(network: PartialLabelNetwork, weights: Sequence[torch.nn.Parameter]) -> tuple[str, ...]:
    """Return the names of some weights of a network."""
    wanted = {id(weight) for weight in weights}
    return tuple(name for name, weight in network.named_parameters() if id(weight) in wanted)


class _ListenedTrainer(Trainer):
    """A trainer that tells of every step."""

    def __init__(
        self, recipe: Recipe, cases: Sequence[object], device: torch.device, listener: Listener | None
    ) -> None:
        super().__init__(recipe, cases, device)  # type: ignore[arg-type]
        self._listener = listener

    def step(self) -> LossTerms:
        """Make one step; see :meth:`Trainer.step`."""
        loss, plan = super().step(), self.recipe.optimization
        if self._listener is not None:
            first, second = plan.head_warmup_steps, plan.head_warmup_steps + plan.warmup_steps
            phases = (("head", 0, first), ("warm-up", first, second), ("network", second, plan.total_steps))
            made = self.state.step
            phase, begin, end = next(phase for phase in phases if phase[1] < made <= phase[2])
            self._listener(FineTuneEvent(made - begin, end - begin, float(loss.total), phase))
        return loss
