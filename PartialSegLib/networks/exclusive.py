"""Networks whose own output is exclusive: softmax classes, of which every voxel has exactly one.

Structures overlap everywhere else in the library, so this is the one place that turns classes into
overlapping masks: a structure is the union of its own class and of those of the structures inside
it, and its logit is the log-odds of that union. Base of the softmax networks (3D U2-Net, KiTS21
transfer, TAL); the losses use :func:`unions` in the other direction.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from PartialSegLib.networks.contract import Features, PartialLabelNetwork
from PartialSegLib.structures import LabelSpace


def unions(space: LabelSpace, task: int) -> tuple[tuple[int, ...], ...]:
    """Return the classes that make up each channel of a task.

    Class 0 is the background, class ``k + 1`` is what only the structure of channel ``k`` covers: of
    a liver with a tumor, the liver around the tumor.

    Parameters
    ----------
    space : LabelSpace
        Says which structure contains which.
    task : int
        Task index.

    Returns
    -------
    tuple of tuple of int
        Class indices per channel, ascending; the channel's own class always among them.
    """
    channels = space.tasks[task].channels

    def inside(inner: int, outer: int) -> bool:
        return inner == outer or _lies_in(space, channels[inner], channels[outer])

    count = len(channels)
    return tuple(tuple(k + 1 for k in range(count) if inside(k, outer)) for outer in range(count))


def unions_over_space(space: LabelSpace) -> dict[str, tuple[int, ...]]:
    """Return the classes that make up each structure, of one softmax over all structures of a label space.

    Class 0 is the background, class ``k + 1`` what only structure ``k`` of ``space.select()`` covers.
    Containment holds across tasks: the liver of one dataset holds the hepatic vessel tumor of another.

    Parameters
    ----------
    space : LabelSpace
        Says which structure contains which.

    Returns
    -------
    dict of str to tuple of int
        Class indices by structure, ascending.
    """
    keys = space.select()
    return {outer: tuple(k for k, inner in enumerate(keys, 1) if _lies_in(space, inner, outer)) for outer in keys}


def _lies_in(space: LabelSpace, inner: str | None, outer: str | None) -> bool:
    """Whether a structure is another one or lies in it."""
    key = inner
    known = {structure.key for structure in space.structures}
    seen: set[str] = set()
    while key in known and key not in seen:
        if key == outer:
            return True
        seen.add(key)
        key = space.structure(key).contained_in
    return False


def union_logits(classes: Tensor, members: tuple[tuple[int, ...], ...]) -> Tensor:
    """Turn logits of exclusive classes into one binary logit per union of classes.

    The sigmoid of the result is the sum of the members' softmax probabilities.

    Parameters
    ----------
    classes : Tensor
        (N, K, D, H, W) softmax logits, class 0 the background.
    members : tuple of tuple of int
        Classes of each union, from :func:`unions`; none of them holds every class.

    Returns
    -------
    Tensor
        (N, len(members), D, H, W): ``logsumexp`` of the members minus that of all others.
    """
    total = range(classes.shape[1])
    answers = []
    for union in members:
        others = [index for index in total if index not in union]
        answers.append(classes[:, list(union)].logsumexp(1) - classes[:, others].logsumexp(1))
    return torch.stack(answers, 1)


class ExclusiveNetwork(PartialLabelNetwork):
    """Base of networks with a softmax over the classes of a task."""

    @abstractmethod
    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """Answer one task per sample with softmax logits.

        Parameters
        ----------
        features : Features
            Of N samples.
        task : Tensor
            (N,) int64 task indices; tasks may differ between samples.

        Returns
        -------
        Tensor
            (N, K, D, H, W): class 0 is the background, class ``k + 1`` belongs to channel ``k``.
            Samples whose task has fewer classes are padded with -inf, which no softmax sees.
        """

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Return the log-odds of every structure; see :meth:`PartialLabelNetwork.logits`."""
        classes = self.class_logits(features, task)
        channels = classes.shape[1] - 1
        answers = classes.new_zeros((len(classes), channels, *classes.shape[2:]))
        for index in task.unique().tolist():
            members = unions(self.label_space, index)
            chosen = task == index
            answers[chosen, : len(members)] = union_logits(classes[chosen][:, : len(members) + 1], members)
        return answers

    def training_outputs(self, image: Tensor, task: Tensor) -> list[Tensor]:
        """Return the class logits; see :meth:`PartialLabelNetwork.training_outputs`."""
        condition = task if self.features_depend_on_task else None
        return [self.class_logits(self.features(image, condition), task)]
