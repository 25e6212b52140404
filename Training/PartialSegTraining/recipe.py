"""A recipe: everything that decides what a training makes, in one TOML file.

Two runs of one recipe on the same cases are the same training. Read from its file by
:mod:`PartialSegTraining.recipefiles`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.images import Vector
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.tables import require
from PartialSegTraining.windowrecipe import AugmentationRecipe, Chance, LoadingRecipe, SamplingRecipe

__all__ = [
    "AugmentationRecipe",
    "CardRecipe",
    "Chance",
    "LoadingRecipe",
    "LossRecipe",
    "MonitoringRecipe",
    "NetworkRecipe",
    "OptimizationRecipe",
    "PhantomRecipe",
    "Recipe",
    "SamplingRecipe",
]

#: Options that came after the first checkpoints, and what those were made with.
_LATER: dict[str, dict[str, Any]] = {
    "network": {"trained_task": ""},
    "sampling": {"strategy": "tasks", "foreground_rule": "chance", "structures": {}},
    "augmentation": {"library": "own"},
}


@dataclass(frozen=True)
class NetworkRecipe:
    """Which network is trained.

    Parameters
    ----------
    name : str
        Key of :data:`PartialSegLib.networks.NETWORKS`.
    parameters : mapping
        Fields of its parameter dataclass.
    trained_task : str
        Train nothing but what belongs to this task, in a network whose tasks have weights of their
        own (:class:`PartialSegLib.networks.U2Net`); every weight when empty.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trained_task: str = ""


@dataclass(frozen=True)
class LossRecipe:
    """Which loss the network is trained with.

    Parameters
    ----------
    name : str
        Key of :data:`PartialSegTraining.losses.LOSSES`.
    parameters : mapping
        Fields of its parameter dataclass.
    """

    name: str = "dodnet"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhantomRecipe:
    """The synthetic collection that the recipe is made for; generated when none is given.

    Parameters
    ----------
    cases_per_task : int
        Training cases of each task, annotated for that task alone.
    test_cases : int
        Fully annotated cases that are never trained on.
    seed : int
        Decides every phantom.
    spacing : tuple of float, optional
        Voxel spacing (x, y, z) of all of them in millimetres; drawn per case when not given.
    trunk_cases_per_task : int
        Further training cases of each task, whose scans show the whole trunk.
    """

    cases_per_task: int
    test_cases: int
    seed: int
    spacing: Vector | None = None
    trunk_cases_per_task: int = 0

    def __post_init__(self) -> None:
        require(self.cases_per_task >= 1, "cases_per_task", self.cases_per_task, "at least 1")
        require(self.trunk_cases_per_task >= 0, "trunk_cases_per_task", self.trunk_cases_per_task, "at least 0")
        require(self.test_cases >= 0, "test_cases", self.test_cases, "at least 0")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(min(self.spacing or (1.0,)) > 0, "spacing", self.spacing, "positive")


@dataclass(frozen=True)
class OptimizationRecipe:
    """How the weights are found.

    Parameters
    ----------
    total_steps : int
        Steps of the whole training; the learning rate reaches zero there.
    learning_rate : float
        Highest learning rate.
    optimizer : str
        ``adamw``, or ``sgd`` with Nesterov momentum.
    weight_decay : float
        On kernels only, not on biases and normalization.
    momentum : float
        Of ``sgd``; first decay rate of ``adamw``.
    warmup_steps : int
        Steps in which the learning rate rises linearly from zero.
    power : float
        Of the polynomial decay that follows.
    clip_norm : float
        Largest norm of the gradient; a longer one is shortened.
    average : float
        Decay of the moving average of the weights, which is what the bundle holds; 0 for none.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``; a CPU computes in float32, or in bfloat16 where it has
        instructions for it.
    channels_last : bool
        Memory layout of the activations; which one is faster depends on GPU and network.
    compiled : bool
        Fuse the network with ``torch.compile`` (GPU only; the first step takes a minute).
    seed : int
        Decides the first weights, the windows and their augmentation.
    """

    total_steps: int
    learning_rate: float
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.9
    warmup_steps: int = 0
    power: float = 0.9
    clip_norm: float = 12.0
    average: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False
    seed: int = 0

    OPTIMIZERS = ("adamw", "sgd")
    PRECISIONS = ("float32", "bfloat16", "float16")

    def __post_init__(self) -> None:
        require(self.total_steps >= 1, "total_steps", self.total_steps, "at least 1")
        require(0 <= self.warmup_steps <= self.total_steps, "warmup_steps", self.warmup_steps, "in 0 to total_steps")
        require(self.optimizer in self.OPTIMIZERS, "optimizer", self.optimizer, f"one of {self.OPTIMIZERS}")
        require(self.precision in self.PRECISIONS, "precision", self.precision, f"one of {self.PRECISIONS}")
        for name in ("learning_rate", "clip_norm", "power"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, value, "positive")
        for name in ("average", "momentum"):
            require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "in 0 to below 1")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")


@dataclass(frozen=True)
class MonitoringRecipe:
    """What is written down while training runs.

    Parameters
    ----------
    log_every, checkpoint_every, validate_every : int
        Steps between two lines of the log, two checkpoints and two validations.
    validation_cases : int
        Cases of each task that are held out to watch the training with; they are not trained on.
    validation_windows : int
        Windows of each such case.
    """

    log_every: int = 20
    checkpoint_every: int = 500
    validate_every: int = 500
    validation_cases: int = 0
    validation_windows: int = 2

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "validate_every", "validation_windows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.validation_cases >= 0, "validation_cases", self.validation_cases, "at least 0")


@dataclass(frozen=True)
class CardRecipe:
    """What the card of the trained bundle says in words.

    Parameters
    ----------
    title, description, intended_use, license, version : str
        As on the card.
    """

    title: str
    description: str
    intended_use: str
    license: str
    version: str = "1.0.0"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training makes; one section of the TOML file per field.

    Parameters
    ----------
    name : str
        Name of the trained bundle.
    label_space : str
        Name of a label space of the library.
    """

    name: str
    label_space: str
    network: NetworkRecipe
    preprocessing: Preprocessing
    sampling: SamplingRecipe
    optimization: OptimizationRecipe
    card: CardRecipe
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    monitoring: MonitoringRecipe = MonitoringRecipe()
    phantoms: PhantomRecipe | None = None
    loss: LossRecipe = LossRecipe()
    loading: LoadingRecipe = field(default_factory=LoadingRecipe)

    def __post_init__(self) -> None:
        if self.sampling.coarse and self.preprocessing.coarse_spacing is None:
            raise ValueError("sampling.coarse needs preprocessing.coarse_spacing")
        space = LabelSpace.named(self.label_space)
        for task in filter(None, (*self.sampling.tasks, self.network.trained_task)):
            space.task(task)
        for structure in self.sampling.structures:
            space.structure(structure)

    @property
    def tasks(self) -> LabelSpace:
        """The label space itself."""
        return LabelSpace.named(self.label_space)

    def with_steps(self, total_steps: int) -> Recipe:
        """Return the recipe with another length; a warm-up longer than that is cut."""
        warmup = min(self.optimization.warmup_steps, total_steps)
        return replace(self, optimization=replace(self.optimization, total_steps=total_steps, warmup_steps=warmup))

    @property
    def digest(self) -> str:
        """Fingerprint of what makes a checkpoint fit: all but length, words and monitoring intervals."""
        document = asdict(self)
        for words in ("card", "name", "phantoms", "loading"):
            del document[words]
        for section, first in _LATER.items():
            options = document[section].items()
            document[section] = {key: value for key, value in options if key not in first or value != first[key]}
        del document["optimization"]["total_steps"], document["optimization"]["warmup_steps"]
        document["preprocessing"] = self.preprocessing.to_json()
        # Every task comes once a round unless a recipe says otherwise.
        document["sampling"]["tasks"] = {key: count for key, count in self.sampling.tasks.items() if count != 1}
        document["monitoring"] = {"validation_cases": self.monitoring.validation_cases}
        if self.loss == LossRecipe():
            # Checkpoints from before there was a choice were made with the default.
            del document["loss"]
        text = json.dumps(document, sort_keys=True, default=list)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
