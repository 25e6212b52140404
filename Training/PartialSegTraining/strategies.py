"""Whose turn it is: the task, the case and perhaps the structure of every window.

Published systems differ in how they take turns among datasets of different sizes. Each way is a pure
function of the seed and the window's number, counted over all steps, so that an interrupted training
goes on with exactly the windows it would have had. Called by :mod:`PartialSegTraining.sampling`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from PartialSegLib.errors import CollectionError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import SamplingRecipe

# First words of the random streams, so that they are independent of each other.
_ROUND, _CASES, _TASK, _CLASSES = 1, 2, 4, 5


class Turn(NamedTuple):
    """Whose turn it is.

    Parameters
    ----------
    task, case : int
        Indices.
    structure : str, optional
        The structure to center a window on; any that the case shows when ``None``.
    """

    task: int
    case: int
    structure: str | None = None


class Strategy(Protocol):
    """Decides whose turn it is."""

    def turn(self, number: int) -> Turn:
        """Return the turn of the window with this number, counted over all steps."""


class Members:
    """Which cases know something of which task.

    Parameters
    ----------
    cases : sequence of CachedCase
        What there is to train on.
    space : LabelSpace
        Its tasks; one without a case is left out of everything.

    Raises
    ------
    CollectionError
        When no case annotates a structure of any task.
    """

    def __init__(self, cases: Sequence[CachedCase], space: LabelSpace) -> None:
        self.cases = cases
        self.space = space
        self.cases_of = {
            index: [at for at, case in enumerate(cases) if set(task.structures).intersection(case.structures)]
            for index, task in enumerate(space.tasks)
        }
        self.tasks = [index for index, known in self.cases_of.items() if known]
        self.tasks_of = {
            at: [index for index in self.tasks if at in self.cases_of[index]] for at in sorted(self._known_cases())
        }
        if not self.tasks:
            raise CollectionError(f"No case annotates a structure of '{space.name}'.", "Check 'annotated'.")

    def task_of(self, case: int, seed: int, number: int) -> int:
        """Return the task that a case is asked for: any of those it knows something of."""
        tasks = self.tasks_of[case]
        if len(tasks) == 1:
            return tasks[0]
        return tasks[int(np.random.default_rng((seed, _TASK, number)).integers(len(tasks)))]

    def _known_cases(self) -> set[int]:
        return {at for known in self.cases_of.values() for at in known}


class TaskTurns:
    """Tasks take turns in shuffled rounds, as often as the recipe says, and the cases of a task too."""

    def __init__(self, members: Members, recipe: SamplingRecipe, seed: int) -> None:
        self._members = members
        self._seed = seed
        tasks = members.space.tasks
        self._round = [index for index in members.tasks for _ in range(recipe.tasks.get(tasks[index].key, 1))]
        if not self._round:
            raise CollectionError("Every task that has a case is drawn 0 times.", "Check 'sampling.tasks'.")

    def turn(self, number: int) -> Turn:
        """See :meth:`Strategy.turn`."""
        played, position = divmod(number, len(self._round))
        order = np.random.default_rng((self._seed, _ROUND, played)).permutation(self._round)
        task = int(order[position])
        before = played * self._round.count(task) + int(np.count_nonzero(order[:position] == task))
        return Turn(task, _in_rounds(self._members.cases_of[task], before, (self._seed, _CASES, task)))


class CaseTurns:
    """Every case comes once before any comes twice, so that a dataset counts by its size (DoDNet)."""

    def __init__(self, members: Members, recipe: SamplingRecipe, seed: int) -> None:
        self._members = members
        self._seed = seed

    def turn(self, number: int) -> Turn:
        """See :meth:`Strategy.turn`."""
        case = _in_rounds(list(self._members.tasks_of), number, (self._seed, _CASES))
        return Turn(self._members.task_of(case, self._seed, number), case)


class InverseSqrt:
    """A case of a dataset of n has a probability in proportion to 1/sqrt(n) (MultiTalent, experimental setup).

    A dataset is what the collection says it is, or else all cases that annotate the same structures.
    """

    def __init__(self, members: Members, recipe: SamplingRecipe, seed: int) -> None:
        self._members = members
        self._seed = seed
        self._cases = list(members.tasks_of)
        origins = [members.cases[at].dataset or members.cases[at].structures for at in self._cases]
        sizes = Counter(origins)
        weights = np.array([sizes[origin] ** -0.5 for origin in origins])
        self._chances = weights / weights.sum()

    def turn(self, number: int) -> Turn:
        """See :meth:`Strategy.turn`."""
        rng = np.random.default_rng((self._seed, _CASES, number))
        case = self._cases[int(rng.choice(len(self._cases), p=self._chances))]
        return Turn(self._members.task_of(case, self._seed, number), case)


class RoundRobin:
    """All windows of a step belong to one task; tasks follow each other in their order (3D U2-Net)."""

    def __init__(self, members: Members, recipe: SamplingRecipe, seed: int) -> None:
        self._members = members
        self._seed = seed
        self._batch = recipe.batch

    def turn(self, number: int) -> Turn:
        """See :meth:`Strategy.turn`."""
        step, position = divmod(number, self._batch)
        played, place = divmod(step, len(self._members.tasks))
        task = self._members.tasks[place]
        before = played * self._batch + position
        return Turn(task, _in_rounds(self._members.cases_of[task], before, (self._seed, _CASES, task)))


class ClassTurns:
    """Structures take turns in shuffled rounds, and the cases that show them, so that rare ones are seen as often."""

    def __init__(self, members: Members, recipe: SamplingRecipe, seed: int) -> None:
        self._members = members
        self._seed = seed
        self._shown: list[tuple[str, list[int], list[int]]] = []
        for structure in members.space.structures:
            cases = [at for at in members.tasks_of if _shows(members.cases[at], structure.key)]
            tasks = [at for at in members.tasks if structure.key in members.space.tasks[at].structures]
            if cases and tasks:
                self._shown.append((structure.key, cases, tasks))
        if not self._shown:
            raise CollectionError("No case shows a structure that it annotates.", "Check the masks.")

    def turn(self, number: int) -> Turn:
        """See :meth:`Strategy.turn`."""
        at = _in_rounds(range(len(self._shown)), number, (self._seed, _CLASSES))
        key, cases, tasks = self._shown[at]
        case = _in_rounds(cases, number // len(self._shown), (self._seed, _CASES, at))
        task = tasks[int(np.random.default_rng((self._seed, _TASK, number)).integers(len(tasks)))]
        return Turn(task, case, key)


_STRATEGIES: dict[str, Callable[[Members, SamplingRecipe, int], Strategy]] = {
    "tasks": TaskTurns,
    "cases": CaseTurns,
    "inverse-sqrt": InverseSqrt,
    "round-robin": RoundRobin,
    "classes": ClassTurns,
}


def make_strategy(members: Members, recipe: SamplingRecipe, seed: int) -> Strategy:
    """Return the strategy that a recipe names."""
    return _STRATEGIES[recipe.strategy](members, recipe, seed)


def _in_rounds(items: Sequence[int], turn: int, stream: tuple[int, ...]) -> int:
    """Return the item of a turn; every item comes once before any comes twice."""
    shuffled, position = divmod(turn, len(items))
    return int(np.random.default_rng((*stream, shuffled)).permutation(items)[position])


def _shows(case: CachedCase, key: str) -> bool:
    """Tell whether a case has a voxel of a structure."""
    return key in case.structures and case.levels[0].counts[case.structures.index(key)] > 0
