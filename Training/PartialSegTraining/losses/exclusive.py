"""From overlapping masks to exclusive classes, and what to do with classes that nobody annotated.

A softmax network gives every voxel exactly one class: class 0 is the background, every other class
is what only its own structure covers (:mod:`PartialSegLib.networks.exclusive`). So the class of a
voxel is its innermost annotated structure. A class whose structure was not annotated is either

- *left out* of the softmax: what remains is the probability given that the voxel belongs to one of
  the other classes, and the logits that were left out receive a gradient of exactly zero; or
- *merged* into what a voxel of it was annotated as: the innermost annotated structure around it, or
  else the background. The loss then depends on the sum of the merged probabilities alone; how they
  share it, it leaves open.

Base of all losses on softmax networks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import LossParameters, ReduceSums, SegmentationLoss, known_channels
from PartialSegTraining.tables import require

#: Group of a class that takes no part.
LEFT_OUT = -1


@dataclass(frozen=True)
class ExclusiveParameters(LossParameters):
    """Options of every loss on exclusive classes.

    Parameters
    ----------
    classes : str
        What the outputs of the network are: ``task`` (the background and one class for each channel
        of the sample's own task) or ``space`` (the background and one for each structure of the
        label space, in its order, whatever the task: the multi-class baselines).
    unannotated : str
        What becomes of the class of a structure that was not annotated: ``ignore`` leaves it out,
        ``merge`` merges it. A channel without a structure is background in either case.
    """

    classes: str = "task"
    unannotated: str = "ignore"

    CLASSES: ClassVar[tuple[str, ...]] = ("task", "space")
    UNANNOTATED: ClassVar[tuple[str, ...]] = ("ignore", "merge")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.classes in self.CLASSES, "classes", self.classes, f"one of {self.CLASSES}")
        require(self.unannotated in self.UNANNOTATED, "unannotated", self.unannotated, f"one of {self.UNANNOTATED}")


class ClassLayout:
    """Which structure each softmax class stands for.

    Parameters
    ----------
    space : LabelSpace
        Tasks, structures, and which of them contains which.
    classes : str
        As in :class:`ExclusiveParameters`.
    """

    def __init__(self, space: LabelSpace, classes: str) -> None:
        self.shared = classes == "space"
        self._space = space
        self._by_key = {structure.key: structure for structure in space.structures}

    @property
    def count(self) -> int:
        """The most classes that an output can have, with the background."""
        tasks = range(len(self._space.tasks))
        return 1 + max(len(self.structures(task)) for task in tasks)

    def structures(self, task: int) -> tuple[str | None, ...]:
        """Return the structure of each class of a task but the background."""
        return self._space.select() if self.shared else self._space.tasks[task].channels

    def containers(self, key: str) -> list[str]:
        """Return the structures of the label space that contain `key`, innermost first."""
        found: list[str] = []
        structure = self._by_key[key]
        while structure.contained_in in self._by_key and structure.contained_in not in found:
            structure = self._by_key[structure.contained_in]
            found.append(structure.key)
        return found

    def annotated(self, task: int, known: Sequence[bool]) -> dict[str, int]:
        """Return the channel of each annotated structure, outermost structures first."""
        channels = {
            key: index
            for index, (key, there) in enumerate(zip(self._space.tasks[task].channels, known, strict=False))
            if key is not None and there
        }
        return dict(sorted(channels.items(), key=lambda item: len(self.containers(item[0]))))

    def groups(self, task: int, annotated: dict[str, int], *, merge: bool) -> tuple[int, ...]:
        """Return the class that each class's probability counts for, :data:`LEFT_OUT` for none."""
        structures = self.structures(task)
        number = {key: index for index, key in enumerate(structures, 1) if key is not None}

        def group(key: str | None) -> int:
            if key is None:
                return 0
            if key in annotated:
                return number[key]
            if not merge:
                return LEFT_OUT
            around = [outer for outer in self.containers(key) if outer in annotated]
            return number[around[0]] if around else 0

        return (0, *(group(key) for key in structures))

    def target(self, masks: Tensor, task: int, annotated: dict[str, int]) -> Tensor:
        """Return the class of each voxel: its innermost annotated structure, of two neighbors the later.

        Parameters
        ----------
        masks : Tensor
            (C, D, H, W), 0 or 1 in annotated channels.
        task : int
            Task index.
        annotated : dict of str to int
            From :meth:`annotated`.

        Returns
        -------
        Tensor
            int64 (D, H, W).
        """
        number = {key: index for index, key in enumerate(self.structures(task), 1)}
        classes = torch.zeros(masks.shape[1:], dtype=torch.int64, device=masks.device)
        for key, channel in annotated.items():
            classes.masked_fill_(masks[channel] > 0.5, number[key])
        return classes


@dataclass(frozen=True)
class ClassView:
    """The samples of a batch that annotate anything, as classes; there may be none.

    Parameters
    ----------
    logits : Tensor
        (N, K, D, H, W) as the network gives them.
    log_probability : Tensor
        (N, K, D, H, W) of each class with all that is merged into it; -inf, without a gradient,
        for classes that are left out or merged into another.
    target : Tensor
        int64 (N, D, H, W).
    groups : tuple of tuple of int
        For each sample, the class that each of its K classes counts for; :data:`LEFT_OUT` for none.
    tasks : tuple of int
        Task index of each sample.
    """

    logits: Tensor
    log_probability: Tensor
    target: Tensor
    groups: tuple[tuple[int, ...], ...]
    tasks: tuple[int, ...]

    @property
    def present(self) -> Tensor:
        """Boolean (N, K): the background and the annotated classes."""
        shape = self.logits.shape[:2]
        flags = [index in groups for groups in self.groups for index in range(shape[1])]
        return torch.tensor(flags, dtype=torch.bool, device=self.logits.device).reshape(shape)


class ExclusiveLoss(SegmentationLoss):
    """Base of losses on the logits of exclusive classes.

    Samples that annotate nothing are taken out of the batch first.

    Parameters
    ----------
    parameters : ExclusiveParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks, structures, and which of them contains which.
    reduce_sums : callable, optional
        See :class:`SegmentationLoss`.
    """

    exclusive = True

    def __init__(
        self, parameters: ExclusiveParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self.layout = ClassLayout(label_space, parameters.classes)
        self._merge = parameters.unannotated == "merge"

    @property
    def channels(self) -> int:
        """As many as there can be classes."""
        return self.layout.count

    def fits(self, channels: int) -> bool:
        """Tell whether an output may have so many channels; classes of the label space are always all there."""
        return channels == self.channels if self.layout.shared else channels <= self.channels

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all values of all processes, 0 with a graph when there is none."""
        if self.reduce_sums is None:
            return values.sum() / max(1, values.numel())
        sums = torch.stack([values.sum(), values.new_full((), float(values.numel()))])
        total, count = self.reduce_sums(sums).unbind()
        return total / count.clamp(min=1.0)

    @abstractmethod
    def judge(self, view: ClassView) -> dict[str, Tensor]:
        """Return the terms of the samples that annotate something; zero when there is none."""

    def level(self, logits: Tensor, target: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Judge one output; see :meth:`SegmentationLoss.level`."""
        return self.judge(self.view(logits, target, task))

    def view(self, logits: Tensor, target: Tensor, task: Tensor) -> ClassView:
        """Return the samples that annotate anything.

        Parameters
        ----------
        logits : Tensor
            (N, K, D, H, W).
        target : Tensor
            (N, C, D, H, W).
        task : Tensor
            (N,) int64.
        """
        rows, groups, targets, tasks = [], [], [], []
        for row, (index, known) in enumerate(zip(task.tolist(), known_channels(target).tolist(), strict=True)):
            annotated = self.layout.annotated(index, known)
            if not annotated:
                continue
            rows.append(row)
            tasks.append(index)
            targets.append(self.layout.target(target[row], index, annotated))
            own = self.layout.groups(index, annotated, merge=self._merge)
            # A task of fewer classes than the widest one of the batch is padded.
            groups.append((*own, *[LEFT_OUT] * (logits.shape[1] - len(own))))
        # A selection is a copy, and outputs are large.
        logits = logits if len(rows) == len(logits) else logits[rows]
        classes = torch.stack(targets) if targets else task.new_zeros((0, *logits.shape[2:]))
        return ClassView(logits, grouped_log_probability(logits, groups), classes, tuple(groups), tuple(tasks))


def grouped_log_probability(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the logarithm of the softmax, summed over the members of each group.

    Parameters
    ----------
    logits : Tensor
        (N, K, D, H, W).
    groups : sequence of sequence of int
        For each sample, the class that each of its K classes counts for; :data:`LEFT_OUT` for none.

    Returns
    -------
    Tensor
        (N, K, D, H, W): -inf, without a gradient, for a class that nothing counts for.
    """
    if all(tuple(sample) == tuple(range(logits.shape[1])) for sample in groups):
        return logits.log_softmax(1)
    return torch.stack([_grouped(*pair) for pair in zip(logits, groups, strict=True)])


def _grouped(logits: Tensor, groups: Sequence[int]) -> Tensor:
    """As :func:`grouped_log_probability`, for one sample (K, D, H, W)."""
    kept = [index for index, group in enumerate(groups) if group != LEFT_OUT]
    # Chosen, not masked: whatever a class that is left out has for logits, its gradient is zero.
    log_probability = logits[kept].log_softmax(0)
    nothing = logits.new_full(logits.shape[1:], -torch.inf)
    answers = []
    for group in range(len(groups)):
        members = [place for place, index in enumerate(kept) if groups[index] == group]
        if len(members) > 1:
            answers.append(log_probability[members].logsumexp(0))
        else:
            answers.append(log_probability[members[0]] if members else nothing)
    return torch.stack(answers)
