"""All chosen heads of one window, a cache-sized block of voxels at a time.

The heads of every task are stacked into one matrix product per layer. A block's logits go straight
into the accumulator (:mod:`PartialSegLib.inference.slabs`); the classes-by-window tensor that other
tools build never exists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer, task_tensor
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class Selection:
    """The output channels of one task that the user asked for.

    Parameters
    ----------
    task : int
        Index in the label space.
    channels : tuple of int
        Channels of the task's head.
    rows : tuple of int
        Row of each channel in the accumulator.
    """

    task: int
    channels: tuple[int, ...]
    rows: tuple[int, ...]


def select_channels(label_space: LabelSpace, structures: Sequence[str]) -> list[Selection]:
    """Return which channels of which tasks answer `structures`; row ``i`` is ``structures[i]``."""
    row = {key: index for index, key in enumerate(structures)}
    chosen = []
    for index, task in enumerate(label_space.tasks):
        channels = tuple(channel for channel, key in enumerate(task.channels) if key in row)
        if channels:
            rows = tuple(row[key] for channel, key in enumerate(task.channels) if channel in channels and key)
            chosen.append(Selection(index, channels, rows))
    return chosen


class LogitSource(Protocol):
    """Logits of one window, filled in block by block."""

    def fill(self, start: int, stop: int, out: Tensor) -> None:
        """Write the logits of flattened voxels `start` to `stop` into ``out[:, : stop - start]``."""


class PointwiseLogits:
    """Heads of 1x1x1 convolutions, stacked over the tasks.

    Parameters
    ----------
    feature_map : Tensor
        (F, V) features of one window, flattened.
    heads : list of list of PointwiseLayer
        One head per entry of `selections`.
    selections : list of Selection
        Which channels of each head are wanted.
    """

    def __init__(
        self, feature_map: Tensor, heads: Sequence[Sequence[PointwiseLayer]], selections: Sequence[Selection]
    ) -> None:
        self._map = feature_map
        alike: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
        for index, head in enumerate(heads):
            alike[tuple(layer.weight.shape for layer in head[:-1])].append(index)
        self._stacks = [
            _StackedHeads([heads[i] for i in members], [selections[i] for i in members]) for members in alike.values()
        ]

    def fill(self, start: int, stop: int, out: Tensor) -> None:
        """See :class:`LogitSource`."""
        block = self._map[:, start:stop]
        for stack in self._stacks:
            stack.fill(block, out)


class JoinedLogits:
    """Several sources that each fill rows of their own.

    Parameters
    ----------
    sources : sequence of LogitSource
        Of the same window.
    """

    def __init__(self, sources: Sequence[LogitSource]) -> None:
        self._sources = sources

    def fill(self, start: int, stop: int, out: Tensor) -> None:
        """See :class:`LogitSource`."""
        for source in self._sources:
            source.fill(start, stop, out)


class DenseRows:
    """Rows of logits that a network computed for the whole window with a head of its own kind.

    Parameters
    ----------
    logits : Tensor
        (C, V) channels, flattened over the window.
    rows : sequence of int
        Row of the accumulator for each channel.
    """

    def __init__(self, logits: Tensor, rows: Sequence[int]) -> None:
        self._logits = logits
        self._rows = list(rows)
        # One copy for all rows in the usual case, where they follow each other.
        self._together = self._rows == list(range(self._rows[0], self._rows[0] + len(self._rows)))

    def fill(self, start: int, stop: int, out: Tensor) -> None:
        """See :class:`LogitSource`."""
        if self._together:
            out[self._rows[0] : self._rows[-1] + 1, : stop - start].copy_(self._logits[:, start:stop])
            return
        for channel, row in enumerate(self._rows):
            out[row, : stop - start].copy_(self._logits[channel, start:stop])


class _StackedHeads:
    """Heads whose hidden layers have the same shape, as one batched matrix product a layer."""

    def __init__(self, heads: Sequence[Sequence[PointwiseLayer]], selections: Sequence[Selection]) -> None:
        self._tasks = len(heads)
        self._hidden = [
            (torch.stack([head[k].weight for head in heads]), torch.stack([head[k].bias for head in heads])[..., None])
            for k in range(len(heads[0]) - 1)
        ]
        # Only the wanted channels of the last layer, padded to the task that wants most.
        widest = max(len(selection.channels) for selection in selections)
        last = heads[0][-1].weight
        self._weight = last.new_zeros(self._tasks, widest, last.shape[1])
        self._bias = last.new_zeros(self._tasks, widest, 1)
        sources: list[int] = []
        rows: list[int] = []
        for index, (head, selection) in enumerate(zip(heads, selections, strict=True)):
            wanted = list(selection.channels)
            self._weight[index, : len(wanted)] = head[-1].weight[wanted]
            self._bias[index, : len(wanted), 0] = head[-1].bias[wanted]
            sources += [index * widest + position for position in range(len(wanted))]
            rows += selection.rows
        self._sources = torch.tensor(sources, device=last.device)
        self._rows = torch.tensor(rows, device=last.device)
        # Copies are spared in the usual case, where the stack fills the accumulator's rows in order.
        self._in_order = sources == list(range(self._tasks * widest)) and rows == list(range(len(rows)))

    def fill(self, block: Tensor, out: Tensor) -> None:
        """Write the wanted logits of a (F, n) block into their rows of `out`, (C, at least n)."""
        voxels = block.shape[1]
        hidden = block
        for index, (weight, bias) in enumerate(self._hidden):
            if index == 0:
                hidden = torch.addmm(bias.flatten(0, 1), weight.flatten(0, 1), block).relu_()
                hidden = hidden.view(self._tasks, -1, voxels)
            else:
                hidden = torch.baddbmm(bias, weight, hidden).relu_()
        if self._hidden:
            logits = torch.baddbmm(self._bias, self._weight, hidden).flatten(0, 1)
        else:
            logits = torch.addmm(self._bias.flatten(0, 1), self._weight.flatten(0, 1), block)
        if self._in_order and logits.shape[0] == out.shape[0]:
            out[:, :voxels].copy_(logits)
        else:
            out[:, :voxels].index_copy_(0, self._rows, logits.index_select(0, self._sources))


def logit_source(network: PartialLabelNetwork, features: Features, selections: Sequence[Selection]) -> LogitSource:
    """Return the logits of the chosen channels of one window.

    Parameters
    ----------
    network : PartialLabelNetwork
        Owner of the heads.
    features : Features
        Of one window (N = 1).
    selections : sequence of Selection
        Tasks and channels.
    """
    heads = [network.pointwise_head(features, selection.task) for selection in selections]
    if all(head is not None for head in heads):
        feature_map = features.map[0].float().contiguous().flatten(1)
        return _pointwise(feature_map, [head for head in heads if head is not None], selections)
    answers: list[LogitSource] = []
    for selection in selections:
        logits = network.logits(features, task_tensor(selection.task, features.map.device))[0].flatten(1)
        answers.append(DenseRows(logits[list(selection.channels)], selection.rows))
    return JoinedLogits(answers)


def _pointwise(
    feature_map: Tensor, heads: Sequence[Sequence[PointwiseLayer]], selections: Sequence[Selection]
) -> LogitSource:
    """Return the logits of pointwise heads on a (F, V) map; heads that read the same channels go together."""
    reading: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, head in enumerate(heads):
        first = head[0].first
        reading[first, first + head[0].weight.shape[1]].append(index)
    sources = [
        PointwiseLogits(feature_map[first:last], [heads[i] for i in members], [selections[i] for i in members])
        for (first, last), members in reading.items()
    ]
    return sources[0] if len(sources) == 1 else JoinedLogits(sources)
