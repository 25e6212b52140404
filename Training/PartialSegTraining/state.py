"""The state of a training: weights, their average, optimizer and step; saved and restored whole.

A checkpoint holds tensors, numbers and strings only, and is read without unpickling code. With the
same recipe and cases, going on from a checkpoint is the same as never having stopped: windows,
augmentation, learning rates and random numbers are functions of the step, and everything else is
here. It does not say how many processes made it: any number may go on. Called by the trainer.
"""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from PartialSegLib.atomic import atomic_write
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.networks import KiTS21, KiTS21Pretraining, PartialLabelNetwork, U2Net, build_network
from PartialSegLib.networks.u2net.growth import train_only
from PartialSegTraining.recipe import OptimizationRecipe, Recipe
from PartialSegTraining.schedules import averaging_decay

_VERSION = 1


@dataclass
class TrainingState:
    """Everything that changes while training.

    Parameters
    ----------
    network : PartialLabelNetwork
        The weights that are trained.
    average : PartialLabelNetwork
        Moving average of them, in eval mode; `network` itself where the recipe has none.
    optimizer : torch.optim.Optimizer
        With its moments.
    scaler : GradScaler
        Of half-precision gradients; does nothing in other precisions.
    step : int
        Steps that were made.
    validated : int
        Steps that had been made at the last validation; 0 before the first.
    best_step : int
        Steps that had been made at the best validation.
    best_dice : float
        Its mean Dice; negative before the first.
    """

    network: PartialLabelNetwork
    average: PartialLabelNetwork
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    step: int = 0
    validated: int = 0
    best_step: int = 0
    best_dice: float = -1.0
    parent: dict[str, Any] | None = None

    def note_validation(self, mean_dice: float) -> bool:
        """Remember a validation of the present weights and return whether no earlier one was as good."""
        self.validated = self.step
        if not mean_dice > self.best_dice:
            return False
        self.best_step, self.best_dice = self.step, mean_dice
        return True

    @torch.no_grad()
    def update_average(self, limit: float) -> None:
        """Move the average towards the weights; `limit` is the recipe's decay."""
        if self.average is self.network:
            return
        decay = averaging_decay(self.step, limit)
        move = get_ema_multi_avg_fn(decay)
        move(list(self.average.parameters()), list(self.network.parameters()), self.step)
        for kept, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(current)


def new_state(recipe: Recipe, device: torch.device) -> TrainingState:
    """Build network and optimizer with the first weights that the recipe's seed decides."""
    plan = recipe.optimization
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = build_network(recipe.network.name, recipe.network.parameters, recipe.tasks)
    if recipe.network.trained_task:
        _freeze_but(network, recipe)
    network.to(device)
    if plan.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval().requires_grad_(False) if plan.average else network
    half = plan.precision == "float16" and device.type == "cuda"
    return TrainingState(network, average, _optimizer(network, plan, device), GradScaler(device.type, enabled=half))


def start_from(state: TrainingState, recipe: Recipe, bundle: ModelBundle) -> None:
    """Begin with the weights of an existing model in place of random ones.

    A KiTS21 network takes the backbone of a pretrained one, whose tasks were others; its own last layer
    stays as it is.

    Raises
    ------
    CollectionError
        When it is another network than the recipe's, or knows other tasks.
    BundleError
        When its weights are damaged.
    """
    theirs = fitting_network(recipe, bundle)
    if isinstance(theirs, KiTS21Pretraining) and isinstance(state.network, KiTS21):
        for network in (state.network, state.average):
            assert isinstance(network, KiTS21)
            network.backbone.load_state_dict(theirs.backbone.state_dict())
        return
    state.network.load_state_dict(theirs.state_dict())
    state.average.load_state_dict(theirs.state_dict())


def fitting_network(recipe: Recipe, bundle: ModelBundle) -> PartialLabelNetwork:
    """Return the network of a model that a training by this recipe can begin with; errors as :func:`start_from`."""
    card = bundle.card
    mine = build_network(recipe.network.name, recipe.network.parameters, recipe.tasks)
    theirs = bundle.load_network()
    if isinstance(mine, KiTS21) and isinstance(theirs, KiTS21Pretraining) and _same_backbone(mine, theirs):
        return theirs
    if type(mine) is not type(theirs) or mine.parameters_ != theirs.parameters_:
        raise CollectionError(
            f"Model '{card.name}' is another network than that of recipe '{recipe.name}'.",
            "Give its [network] in the recipe.",
        )
    if [task.channels for task in card.label_space.tasks] != [task.channels for task in recipe.tasks.tasks]:
        raise CollectionError(
            f"Model '{card.name}' knows other tasks than recipe '{recipe.name}'.", "Use the same label space."
        )
    return theirs


def _same_backbone(network: KiTS21, pretrained: KiTS21Pretraining) -> bool:
    return vars(network.parameters_).items() <= vars(pretrained.parameters_).items()


def save_checkpoint(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete.

    Raises
    ------
    CollectionError
        When it cannot be written; the previous one is as it was.
    """
    document: dict[str, Any] = {
        "version": _VERSION,
        "recipe": recipe.digest,
        "step": state.step,
        "network": state.network.state_dict(),
        "average": {} if state.average is state.network else state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "parent": state.parent,
        "validation": {"step": state.validated, "best_step": state.best_step, "best_dice": state.best_dice},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save(document, file)
    except (OSError, RuntimeError) as error:
        # torch's writer raises RuntimeError when the disk is full.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise CollectionError(
            f"{path} cannot be written: {reason}.", "Make room, and run again to go on from the checkpoint before."
        ) from error


def load_checkpoint(
    state: TrainingState, recipe: Recipe, path: Path, hint: str = "Start again with '--restart'."
) -> None:
    """Restore a state from a checkpoint.

    Parameters
    ----------
    state : TrainingState
        New, of the recipe.
    recipe : Recipe
        Has to be that of the checkpoint, but for what its digest leaves out.
    path : Path
        The file.
    hint : str
        What to do with one that cannot be used.

    Raises
    ------
    CollectionError
        When the file is damaged, of another version, or from another recipe.
    """
    device = next(state.network.parameters()).device
    try:
        document = torch.load(path, map_location=device, weights_only=True)
        version, digest = document["version"], document["recipe"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CollectionError(f"{path} is no readable checkpoint.", hint) from error
    if version != _VERSION:
        raise CollectionError(f"{path} is a checkpoint of version {version}.", f"This is version {_VERSION}.")
    if digest != recipe.digest:
        raise CollectionError(
            f"{path} was made by another recipe than '{recipe.name}'.", f"Go on with what it was made by. {hint}"
        )
    state.network.load_state_dict(document["network"])
    if state.average is not state.network:
        state.average.load_state_dict(document["average"])
    state.optimizer.load_state_dict(document["optimizer"])
    if document["scaler"]:
        # A training that began without a scaler, on a CPU, goes on with a new one.
        state.scaler.load_state_dict(document["scaler"])
    state.parent = document.get("parent")
    state.step = int(document["step"])
    # Checkpoints from before the best validation was kept begin with none.
    validation = document.get("validation", {"step": state.step, "best_step": state.step, "best_dice": -1.0})
    state.validated, state.best_step = int(validation["step"]), int(validation["best_step"])
    state.best_dice = float(validation["best_dice"])


def remove_unfinished(folder: Path, names: Sequence[str]) -> None:
    """Remove what processes that were killed while they wrote the files or bundles of these `names` left behind."""
    for unfinished in (path for name in names for path in folder.glob(f".{name}.*.part")):
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _freeze_but(network: PartialLabelNetwork, recipe: Recipe) -> None:
    """Freeze all weights but those of the task that the recipe trains alone."""
    if not isinstance(network, U2Net):
        raise CollectionError(
            f"No weights of network '{recipe.network.name}' belong to '{recipe.network.trained_task}' alone.",
            "'trained_task' is for U2Net; leave it out.",
        )
    train_only(network, recipe.tasks.task_index(recipe.network.trained_task))


def _optimizer(network: nn.Module, plan: OptimizationRecipe, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer; biases and normalization are not decayed, and the head has groups of its own.

    Raises
    ------
    CollectionError
        When the recipe names a head that the network does not have.
    """
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    head = plan.head if plan.head_warmup_steps else ()
    for beginning in head:
        if not any(name.startswith(beginning) for name, _ in named):
            known = sorted({name.split(".")[0] for name, _ in named})
            raise CollectionError(
                f"No weight of the network begins with '{beginning}', which the recipe names as its head.",
                f"Weights begin with: {', '.join(known)}.",
            )
    groups: list[dict[str, Any]] = []
    for in_head in (False, True) if head else (False,):
        mine = [weight for name, weight in named if any(map(name.startswith, head)) == in_head]
        for decayed in (True, False):
            weights = [weight for weight in mine if (weight.dim() > 1) == decayed]
            decay = plan.weight_decay if decayed else 0.0
            groups.append({"params": weights, "weight_decay": decay, "head": in_head})
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0)
    fused = device.type == "cuda"
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(plan.momentum, 0.999), fused=fused)
