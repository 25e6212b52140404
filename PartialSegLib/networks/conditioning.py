"""How a task enters a network: its code, blocks that see the code, and batches of several tasks.

Used by the networks whose features depend on the task (TGNet, 3D U2-Net, the baselines of DoDNet).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import PreActivationBlock


def task_code(task: Tensor | None, tasks: int, like: Tensor) -> Tensor:
    """Return the one-hot task code (Zhang et al., DoDNet, Eq. 5).

    Parameters
    ----------
    task : Tensor
        (N,) int64 task indices, on any device.
    tasks : int
        Tasks of the label space.
    like : Tensor
        Whose device and floating dtype the code gets.

    Returns
    -------
    Tensor
        (N, tasks).

    Raises
    ------
    ValueError
        When no task is given.
    """
    return functional.one_hot(given(task), tasks).to(like)


def given(task: Tensor | None) -> Tensor:
    """Return the task indices that features depend on; ``ValueError`` when there are none."""
    if task is None:
        raise ValueError("the features of this network depend on the task, but none was given")
    return task


def tasks_of(task: Tensor) -> list[int]:
    """Return the tasks of a batch, ascending."""
    # Costs are forecast on tensors without storage; the first task then stands for all.
    return [0] if task.is_meta else task.unique().tolist()


def over_space(code: Tensor, like: Tensor) -> Tensor:
    """Repeat a (N, T) code at every voxel of a (N, C, D, H, W) map: (N, T, D, H, W), without copying."""
    return code[:, :, None, None, None].expand(-1, -1, *like.shape[2:])


def by_task(task: Tensor, run: Callable[[int, Tensor | slice], Tensor]) -> Tensor:
    """Run the samples of each task together, and return the results in the order of the batch.

    Parameters
    ----------
    task : Tensor
        (N,) int64 task indices.
    run : callable
        Takes a task index and the rows of its samples, and returns (rows, ...), of one shape for all tasks.

    Returns
    -------
    Tensor
        (N, ...).
    """
    present = tasks_of(task)
    if len(present) == 1:
        return run(present[0], slice(None))
    rows = [torch.nonzero(task == index)[:, 0] for index in present]
    together = torch.cat([run(index, part) for index, part in zip(present, rows, strict=True)])
    return together[torch.cat(rows).argsort()]


class TaskBlock(PreActivationBlock):
    """Base of the residual blocks that see the task code."""

    @abstractmethod
    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:  # type: ignore[override]
        """Map (N, in, D, H, W) and a (N, T) task code to (N, out, D / stride, H / stride, W / stride)."""


class TaskGate(nn.Module):
    """Task-guided channel-wise attention: sigmoid of a 1x1x1 convolution of pooled features and task code.

    Sections 2.1 and 2.2 of Wu, Pang, Sowmya: TGNet, ISBI 2022. On a pooled vector the convolution is a
    linear layer, and written as one.

    Parameters
    ----------
    inputs : int
        Channels of the map that is pooled.
    outputs : int
        Channels of the map that the gate is multiplied with.
    tasks : int
        Bits of the task code.
    """

    def __init__(self, inputs: int, outputs: int, tasks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + tasks, outputs)

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:
        """Return the (N, outputs, 1, 1, 1) gate of a (N, inputs, D, H, W) map and a (N, T) task code."""
        pooled = hidden.mean((2, 3, 4))
        return self.linear(torch.cat([pooled, code], 1)).sigmoid()[:, :, None, None, None]
