"""What a step minimizes: network and loss as one module, which several processes can share.

The loss belongs inside: :class:`torch.nn.parallel.DistributedDataParallel` looks at what its module
returns to find the weights that a step does not use, and the coarsest output of a network with deep
supervision has weights that the loss does not count. Called by the trainer.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from PartialSegLib.networks import PartialLabelNetwork
from PartialSegTraining.augmentation import Batch
from PartialSegTraining.distributed import Processes
from PartialSegTraining.losses import LossTerms, SegmentationLoss
from PartialSegTraining.optimizationrecipe import OptimizationRecipe
from PartialSegTraining.precision import autocast


class Objective:
    """Computes the loss of a batch, with its graph.

    Parameters
    ----------
    network : PartialLabelNetwork
        On the device that computes.
    loss : SegmentationLoss
        Made with the sums of all processes.
    plan : OptimizationRecipe
        Precision, memory layout, and whether the network is compiled.
    processes : Processes
        That share the batch of a step.
    """

    def __init__(
        self,
        network: PartialLabelNetwork,
        loss: SegmentationLoss,
        plan: OptimizationRecipe,
        processes: Processes,
    ) -> None:
        device = next(network.parameters()).device
        self._module: nn.Module = _Judged(network, loss, plan, device)
        if not processes.alone:
            # A batch may use the layers of some tasks only, and each process those of other ones.
            self._module = DistributedDataParallel(
                self._module, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
            )

    def __call__(self, batch: Batch) -> LossTerms:
        """Return the loss of a batch; all processes have to call it."""
        return LossTerms(self._module(batch.image, batch.task, batch.target))

    def added_later(self) -> AbstractContextManager[None]:
        """Leave gradients to this process: those of the next batch outside are added over all, with these."""
        if isinstance(self._module, DistributedDataParallel):
            return self._module.no_sync()
        return nullcontext()


class _Judged(nn.Module):
    """A network and its loss."""

    def __init__(
        self, network: PartialLabelNetwork, loss: SegmentationLoss, plan: OptimizationRecipe, device: torch.device
    ) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        self._plan = plan
        self._device = device
        outputs = network.training_outputs
        self._outputs = torch.compile(outputs) if plan.compiled and device.type == "cuda" else outputs

    def forward(self, image: Tensor, task: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self._plan.channels_last:
            image = image.to(memory_format=torch.channels_last_3d)
        with autocast(self._plan.precision, self._device):
            outputs = self._outputs(image, task)
        return dict(self._loss(outputs, target, task).terms)
