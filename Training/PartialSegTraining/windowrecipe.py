"""The sections of a recipe that say how windows are drawn, changed and loaded.

Part of :mod:`PartialSegTraining.recipe`, from where they are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from PartialSegTraining.tables import require


@dataclass(frozen=True)
class SamplingRecipe:
    """How windows are drawn from cases.

    Parameters
    ----------
    window : tuple of int
        Voxels of a window, (z, y, x).
    batch : int
        Windows a step.
    foreground : float
        Probability that a window is centered near a voxel of an annotated structure, the structure
        being drawn first; otherwise it lies anywhere.
    jitter : float
        Such a center is moved by up to this part of the window along each axis.
    coarse : float
        Probability that a window is cut at ``coarse_spacing``.
    coarse_steps : int
        Over this many first steps that probability falls evenly from 1: a coarse window shows
        several times as much anatomy, so that a network learns sooner where things lie.
    tasks : mapping of str to int
        How often a task is drawn in one round; 1 where it is not named, 0 to leave it out. Of the
        strategy ``tasks``.
    strategy : str
        Whose turn it is (:mod:`PartialSegTraining.strategies`): ``tasks`` in shuffled rounds, then
        their cases; ``cases`` one after another whatever their task (DoDNet); ``inverse-sqrt``, a
        case of a dataset of n with a probability in proportion to 1/sqrt(n) (MultiTalent);
        ``round-robin``, all windows of a step from one task, in the order of the label space (3D
        U2-Net); ``classes``, structures in shuffled rounds, then the cases that show them.
    foreground_rule : str
        ``chance``: every window is one near a structure with the probability `foreground`;
        ``share``: the last ``batch - round(batch * (1 - foreground))`` windows of a step are (nnU-Net).
    structures : mapping of str to float
        Weight of a structure where one of those present is drawn to center a window on; 1 where it
        is not named.
    hard : mapping of str to float
        Probability, for windows of a task, to be centered near a hard negative: a voxel where the model
        that the training begins with finds what is not there (:mod:`PartialSegTraining.mining`).
    """

    window: tuple[int, int, int]
    batch: int
    foreground: float = 0.5
    jitter: float = 0.25
    coarse: float = 0.0
    coarse_steps: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)
    strategy: str = "tasks"
    foreground_rule: str = "chance"
    structures: Mapping[str, float] = field(default_factory=dict)
    hard: Mapping[str, float] = field(default_factory=dict)

    STRATEGIES = ("tasks", "cases", "inverse-sqrt", "round-robin", "classes")
    FOREGROUND_RULES = ("chance", "share")

    def __post_init__(self) -> None:
        require(self.strategy in self.STRATEGIES, "strategy", self.strategy, f"one of {self.STRATEGIES}")
        rules = self.FOREGROUND_RULES
        require(self.foreground_rule in rules, "foreground_rule", self.foreground_rule, f"one of {rules}")
        require(min(self.structures.values(), default=1.0) >= 0, "structures", dict(self.structures), "at least 0 each")
        within = all(0.0 <= share <= 1.0 for share in self.hard.values())
        require(within, "hard", dict(self.hard), "in 0 to 1 each")
        if self.strategy != "tasks" and any(count != 1 for count in self.tasks.values()):
            raise ValueError(f"'tasks' says how often tasks are drawn, but the strategy is '{self.strategy}'")
        require(min(self.window) >= 1, "window", self.window, "positive")
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        for name, value, top in (("foreground", self.foreground, 1.0), ("jitter", self.jitter, 0.5)):
            require(0.0 <= value <= top, name, value, f"in 0 to {top}")
        require(0.0 <= self.coarse <= 1.0, "coarse", self.coarse, "in 0 to 1")
        require(self.coarse_steps >= 0, "coarse_steps", self.coarse_steps, "at least 0")
        require(min(self.tasks.values(), default=1) >= 0, "tasks", dict(self.tasks), "at least 0 each")


@dataclass(frozen=True)
class Chance:
    """A random change: applied with a probability, with a strength drawn uniformly from a range."""

    probability: float = 0.0
    range: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        require(0.0 <= self.probability <= 1.0, "probability", self.probability, "in 0 to 1")
        require(self.range[0] <= self.range[1], "range", self.range, "in rising order")

    def draw(self, rng: np.random.Generator, neutral: float, size: int | None = None) -> Any:
        """Return a strength, or `neutral` where the change is not applied; `size` of them at once.

        The same number of random values is used either way, so that no probability shifts what
        comes after it.
        """
        applied, value = rng.random(), rng.uniform(*self.range, size=size)
        return value if applied < self.probability else (neutral if size is None else np.full(size, neutral))


@dataclass(frozen=True)
class AugmentationRecipe:
    """How windows are changed at random; intensities are those of the network's input.

    Parameters
    ----------
    library : str
        ``own``: the changes below, on whatever device the cases lie. ``nnunet`` or ``dodnet``: the
        list of intensity changes of that system, carried out by batchgeneratorsv2 on the CPU
        (:mod:`PartialSegTraining.augmentation.lists`, extra ``train``), and its magnification and
        rotation where the recipe gives none; other changes of intensity cannot be given then.
    mirror : tuple of float
        Probability of a flip along z, y, x. Structures of the left and the right change places with
        it (:mod:`PartialSegTraining.augmentation.sides`).
    scale : Chance
        Magnification of the anatomy.
    rotation : Chance
        Degrees about each of the three axes.
    noise : Chance
        Standard deviation of added normal noise.
    blur : Chance
        Standard deviation of a Gaussian kernel, in voxels.
    low_resolution : Chance
        Part of the voxels kept along each axis before interpolating back.
    brightness : Chance
        Added to the intensities.
    contrast : Chance
        Factor about the window's mean.
    gamma : Chance
        Exponent on the intensity range scaled to 0 to 1.
    """

    mirror: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: Chance = Chance()
    rotation: Chance = Chance()
    noise: Chance = Chance()
    blur: Chance = Chance()
    low_resolution: Chance = Chance()
    brightness: Chance = Chance()
    contrast: Chance = Chance()
    gamma: Chance = Chance()
    library: str = "own"

    LIBRARIES = ("own", "nnunet", "dodnet")
    INTENSITIES = ("noise", "blur", "low_resolution", "brightness", "contrast", "gamma")

    def __post_init__(self) -> None:
        require(self.library in self.LIBRARIES, "library", self.library, f"one of {self.LIBRARIES}")
        for name in self.INTENSITIES if self.library != "own" else ():
            if getattr(self, name) != Chance():
                raise ValueError(f"'{name}' is given, but the library '{self.library}' decides about intensities")
        require(all(0.0 <= value <= 1.0 for value in self.mirror), "mirror", self.mirror, "in 0 to 1")
        for name in ("scale", "gamma", "contrast", "low_resolution"):
            chance: Chance = getattr(self, name)
            require(not chance.probability or chance.range[0] > 0, f"{name}.range", chance.range, "positive")
        for name in ("noise", "blur"):
            chance = getattr(self, name)
            require(chance.range[0] >= 0, f"{name}.range", chance.range, "at least 0")
        require(self.low_resolution.range[1] <= 1, "low_resolution.range", self.low_resolution.range, "at most 1")


@dataclass(frozen=True)
class LoadingRecipe:
    """How batches come to the device; decides nothing about what is learnt.

    Parameters
    ----------
    keep : str
        Where prepared cases lie while training: ``memory`` (that of the GPU, or of the computer),
        ``disk`` (windows are read from the compressed cache), or ``auto``: memory where they take no
        more than half of what is free.
    workers : int, optional
        Processes that make batches ahead of the training; by default none where the cases lie on
        the device that trains, and otherwise as many as there are cores, less one, up to 16.
    ahead : int
        Batches that each of them makes ahead.
    """

    keep: str = "auto"
    workers: int | None = None
    ahead: int = 2

    PLACES = ("auto", "memory", "disk")

    def __post_init__(self) -> None:
        require(self.keep in self.PLACES, "keep", self.keep, f"one of {self.PLACES}")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "at least 0")
        require(self.ahead >= 1, "ahead", self.ahead, "at least 1")
