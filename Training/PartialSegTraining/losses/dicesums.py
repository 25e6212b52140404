"""The sums that a Dice is made of, per structure of the label space.

A channel means another structure in each task, so that sums over a batch, or over the processes of a
training, are kept by structure. Called by the losses that pool Dice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace


def structure_rows(space: LabelSpace) -> Tensor:
    """Return which structure each channel of each task is, int64 (T, C).

    Structures are numbered as :meth:`LabelSpace.select` orders them. Channels without a structure,
    and those that a narrower task lacks, have the number one past the last structure.
    """
    keys = space.select()
    number = {key: index for index, key in enumerate(keys)}
    width = max(len(task.channels) for task in space.tasks)
    return torch.tensor(
        [
            [number.get(key or "", len(keys)) for key in (*task.channels, *[None] * (width - len(task.channels)))]
            for task in space.tasks
        ]
    )


def dice_sums(probability: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Sum over the voxels of each channel.

    Parameters
    ----------
    probability, truth : Tensor
        (N, C, D, H, W).
    known : Tensor
        (N, C) boolean; the sums of other channels are zero and have no gradient.

    Returns
    -------
    Tensor
        (N, C, 4): overlap ``sum p t``, ``sum p``, ``sum t``, and 1 where the channel is known.
    """
    axes = (2, 3, 4)
    sums = [(probability * truth).sum(axes), probability.sum(axes), truth.sum(axes), torch.ones_like(known)]
    return torch.where(known[:, :, None], torch.stack([item.to(probability.dtype) for item in sums], 2), 0.0)


def by_structure(sums: Tensor, rows: Tensor, structures: int) -> Tensor:
    """Sort sums by structure.

    Parameters
    ----------
    sums : Tensor
        (N, C, 4).
    rows : Tensor
        int64 (N, C) structure of each channel; `structures` for none.
    structures : int
        S, of the label space.

    Returns
    -------
    Tensor
        (N, S, 4).
    """
    table = sums.new_zeros((len(sums), structures + 1, sums.shape[2]))
    return table.scatter_add(1, rows[:, :, None].expand_as(sums), sums)[:, :structures]
