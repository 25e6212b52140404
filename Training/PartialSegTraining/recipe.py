"""A recipe: everything that decides what a training makes, in one TOML file.

Two runs of one recipe on the same cases are the same training. Read from its file by
:mod:`PartialSegTraining.recipefiles`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.images import Vector
from PartialSegLib.structures import LabelSpace, Rule
from PartialSegTraining.monitoringrecipe import MonitoringRecipe
from PartialSegTraining.optimizationrecipe import OptimizationRecipe
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
    "sampling": {"strategy": "tasks", "foreground_rule": "chance", "structures": {}, "hard": {}},
    "augmentation": {"library": "own"},
    "optimization": {"accumulation": 1, "head": (), "head_warmup_steps": 0, "head_learning_rate": None},
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
    rules : mapping of str to tuple of Rule
        Post-processing of tasks, by key, in place of that of the label space.
    """

    name: str
    label_space: str
    network: NetworkRecipe
    preprocessing: Preprocessing
    sampling: SamplingRecipe
    optimization: OptimizationRecipe
    card: CardRecipe
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    monitoring: MonitoringRecipe = field(default_factory=MonitoringRecipe)
    phantoms: PhantomRecipe | None = None
    loss: LossRecipe = LossRecipe()
    loading: LoadingRecipe = field(default_factory=LoadingRecipe)
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampling.batch % self.optimization.accumulation:
            raise ValueError(f"'accumulation' has to divide the {self.sampling.batch} windows of the batch")
        if self.sampling.coarse and self.preprocessing.coarse_spacing is None:
            raise ValueError("sampling.coarse needs preprocessing.coarse_spacing")
        space = self.tasks
        named = (*self.sampling.tasks, *self.sampling.hard, *self.rules, self.network.trained_task)
        for task in filter(None, named):
            space.task(task)
        for structure in self.sampling.structures:
            space.structure(structure)

    @property
    def tasks(self) -> LabelSpace:
        """The label space itself, with the rules of the recipe."""
        space = LabelSpace.named(self.label_space)
        if not self.rules:
            return space
        tasks = (replace(task, rules=tuple(self.rules.get(task.key, task.rules))) for task in space.tasks)
        return replace(space, tasks=tuple(tasks))

    def with_steps(self, total_steps: int) -> Recipe:
        """Return the recipe with another length; a warm-up longer than that is cut."""
        plan = self.optimization
        head = min(plan.head_warmup_steps, total_steps)
        warmup = min(plan.warmup_steps, total_steps - head)
        plan = replace(plan, total_steps=total_steps, head_warmup_steps=head, warmup_steps=warmup)
        return replace(self, optimization=plan)

    @property
    def digest(self) -> str:
        """Fingerprint of what makes a checkpoint fit: all but length, words, rules and monitoring intervals."""
        document = asdict(self)
        for words in ("card", "name", "phantoms", "loading", "rules"):
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
