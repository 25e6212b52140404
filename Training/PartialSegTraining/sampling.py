"""Which windows a step trains on: a pure function of seed and step.

Nothing is remembered between steps, so a training that was interrupted goes on with exactly the
windows it would have had. Tasks take turns in shuffled rounds, the cases of a task too; a window
is centered near an annotated structure with a set probability. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from PartialSegLib.errors import CollectionError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cache import CachedCase, Level
from PartialSegTraining.recipe import SamplingRecipe

# First words of the random streams, so that they are independent of each other.
_ROUND, _CASES, _WINDOW = 1, 2, 3


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
        Its tasks take turns; one without a case is left out.
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
        self._cases_of = {
            index: [at for at, case in enumerate(cases) if set(task.structures).intersection(case.structures)]
            for index, task in enumerate(space.tasks)
        }
        self._round = [
            index
            for index, task in enumerate(space.tasks)
            for _ in range(recipe.tasks.get(task.key, 1))
            if self._cases_of[index]
        ]
        if not self._round:
            raise CollectionError(f"No case annotates a structure of '{space.name}'.", "Check 'annotated'.")

    def draws(self, step: int) -> list[Draw]:
        """Return the windows of a step, in the order of the batch."""
        first = step * self._recipe.batch
        return [self._draw(number) for number in range(first, first + self._recipe.batch)]

    def _draw(self, number: int) -> Draw:
        """Return the window with this number, counted over all steps."""
        task, turn = self._task(number)
        case = self._case(task, turn)
        rng = np.random.default_rng((self._seed, _WINDOW, number))
        cached = self._cases[case]
        level = int(rng.random() < self._coarse(number // self._recipe.batch)) if len(cached.levels) > 1 else 0
        return Draw(case, task, level, self._center(cached, task, cached.levels[level], rng))

    def _coarse(self, step: int) -> float:
        """Return the probability of a coarse window at a step."""
        recipe = self._recipe
        start = max(0.0, 1.0 - step / recipe.coarse_steps) if recipe.coarse_steps else 0.0
        return recipe.coarse + (1.0 - recipe.coarse) * start

    def _task(self, number: int) -> tuple[int, int]:
        """Return the task of a window, and how many windows of that task came before it."""
        played, position = divmod(number, len(self._round))
        order = np.random.default_rng((self._seed, _ROUND, played)).permutation(self._round)
        task = int(order[position])
        return task, played * self._round.count(task) + int(np.count_nonzero(order[:position] == task))

    def _case(self, task: int, turn: int) -> int:
        """Return the case of the turn-th window of a task; every case comes once before any comes twice."""
        cases = self._cases_of[task]
        shuffled, position = divmod(turn, len(cases))
        return int(np.random.default_rng((self._seed, _CASES, task, shuffled)).permutation(cases)[position])

    def _center(
        self, case: CachedCase, task: int, level: Level, rng: np.random.Generator
    ) -> tuple[float, float, float]:
        """Draw the center of a window, so that the window reaches over a border only where it is larger."""
        window, shape = np.array(self._recipe.window), np.array(level.shape)
        wanted = self._space.tasks[task].structures
        present = [
            voxels for key, voxels in zip(case.structures, level.centers, strict=True) if key in wanted and len(voxels)
        ]
        center = rng.uniform(0, shape)
        if rng.random() < self._recipe.foreground and present:
            voxels = present[rng.integers(len(present))]
            center = voxels[rng.integers(len(voxels))] + 0.5
            center = center + rng.uniform(-self._recipe.jitter, self._recipe.jitter, 3) * window
        # A window that is larger than the volume may hold it anywhere, as padding may lie on any side.
        low, high = np.minimum(window / 2, shape - window / 2), np.maximum(window / 2, shape - window / 2)
        # Whole voxels, so that a window that is not scaled is cut without any interpolation.
        z, y, x = np.round(np.clip(center, low, high) - window / 2) + window / 2
        return float(z), float(y), float(x)
