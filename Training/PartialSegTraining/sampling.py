"""Which windows a step trains on: a pure function of seed and step.

Nothing is remembered between steps, so a training that was interrupted goes on with exactly the
windows it would have had. Whose turn it is, :mod:`PartialSegTraining.strategies` decides; here a
window finds its place in the case: near an annotated structure, or anywhere. Called by the loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.levels import AnyLevel, CachedCase
from PartialSegTraining.recipe import SamplingRecipe
from PartialSegTraining.strategies import Members, make_strategy

# First word of the random stream of a window, apart from those of the strategies.
_WINDOW = 3


@dataclass(frozen=True)
class Draw:
    """One window to cut.

    Parameters
    ----------
    case : int
        Index of the case.
    task : int
        Index of the task that the network is asked.
    level : int
        Index of the spacing: 0 the normal one, 1 the coarse one.
    center : tuple of float
        Center of the window in voxels (z, y, x) of the level; voxel i covers i to i + 1.
    """

    case: int
    task: int
    level: int
    center: tuple[float, float, float]


class WindowSampler:
    """Draws the windows of each step.

    Parameters
    ----------
    cases : sequence of CachedCase
        What there is to train on.
    space : LabelSpace
        Its tasks are asked for; one without a case is left out.
    recipe : SamplingRecipe
        How windows are drawn.
    seed : int
        Decides all of them.

    Raises
    ------
    CollectionError
        When no case annotates a structure of any task.
    """

    def __init__(self, cases: Sequence[CachedCase], space: LabelSpace, recipe: SamplingRecipe, seed: int) -> None:
        self._cases = cases
        self._space = space
        self._recipe = recipe
        self._seed = seed
        self._strategy = make_strategy(Members(cases, space), recipe, seed)

    def draws(self, step: int) -> list[Draw]:
        """Return the windows of a step, in the order of the batch."""
        return [self.draw(step, place) for place in range(self._recipe.batch)]

    def draw(self, step: int, place: int) -> Draw:
        """Return the window at a place of the batch of a step."""
        number = self.number(step, place)
        task, case, structure = self._strategy.turn(number)
        rng = np.random.default_rng((self._seed, _WINDOW, number))
        cached = self._cases[case]
        level = int(rng.random() < self._coarse(step)) if len(cached.levels) > 1 else 0
        wanted = self._space.tasks[task].structures if structure is None else (structure,)
        center = self._hard_negative(cached, task, cached.levels[level], rng) if level == 0 else None
        return Draw(case, task, level, center or self._center(cached, wanted, cached.levels[level], place, rng))

    def number(self, step: int, place: int) -> int:
        """Return the number of a window, counted over all steps."""
        return step * self._recipe.batch + place

    def _coarse(self, step: int) -> float:
        """Return the probability of a coarse window at a step."""
        recipe = self._recipe
        start = max(0.0, 1.0 - step / recipe.coarse_steps) if recipe.coarse_steps else 0.0
        return recipe.coarse + (1.0 - recipe.coarse) * start

    def _center(
        self, case: CachedCase, wanted: Sequence[str], level: AnyLevel, place: int, rng: np.random.Generator
    ) -> tuple[float, float, float]:
        """Draw the center of a window, near a structure or anywhere."""
        window, shape = np.array(self._recipe.window), np.array(level.shape)
        center = rng.uniform(0, shape)
        if self._near_structure(place, rng):
            present = [at for at, key in enumerate(case.structures) if key in wanted and level.counts[at]]
            if present:
                voxels = level.centers[self._one_of(present, case, rng)]
                center = voxels[rng.integers(len(voxels))] + 0.5
                center = center + rng.uniform(-self._recipe.jitter, self._recipe.jitter, 3) * window
        return self._inside(center, level)

    def _hard_negative(
        self, case: CachedCase, task: int, level: AnyLevel, rng: np.random.Generator
    ) -> tuple[float, float, float] | None:
        """Draw the center of a window near a hard negative, or say that it lies elsewhere."""
        share = self._recipe.hard.get(self._space.tasks[task].key, 0.0)
        # Without a share nothing is drawn: the windows of other recipes stay those that they were.
        if share == 0.0 or rng.random() >= share:
            return None
        found = [case.hard[key] for key in self._space.tasks[task].structures if len(case.hard.get(key, ()))]
        if not found:
            return None
        voxels = found[rng.integers(len(found))]
        center = voxels[rng.integers(len(voxels))] + 0.5
        jitter = rng.uniform(-self._recipe.jitter, self._recipe.jitter, 3)
        return self._inside(center + jitter * np.array(self._recipe.window), level)

    def _inside(self, center: np.ndarray, level: AnyLevel) -> tuple[float, float, float]:
        """Move the center of a window so that it reaches over a border only where it is larger."""
        window, shape = np.array(self._recipe.window), np.array(level.shape)
        # A window that is larger than the volume may hold it anywhere, as padding may lie on any side.
        low, high = np.minimum(window / 2, shape - window / 2), np.maximum(window / 2, shape - window / 2)
        # Whole voxels, so that a window that is not scaled is cut without any interpolation.
        z, y, x = np.round(np.clip(center, low, high) - window / 2) + window / 2
        return float(z), float(y), float(x)

    def _near_structure(self, place: int, rng: np.random.Generator) -> bool:
        """Decide whether the window at a place of the batch is centered near a structure."""
        recipe = self._recipe
        drawn = bool(rng.random() < recipe.foreground)
        if recipe.foreground_rule == "chance":
            return drawn
        return place >= round(recipe.batch * (1.0 - recipe.foreground))

    def _one_of(self, present: list[int], case: CachedCase, rng: np.random.Generator) -> int:
        """Draw one of the structures that are present, by index, as the recipe weighs them."""
        weights = np.array([self._recipe.structures.get(case.structures[at], 1.0) for at in present])
        if not self._recipe.structures or not weights.any():
            return present[int(rng.integers(len(present)))]
        return present[int(rng.choice(len(present), p=weights / weights.sum()))]
