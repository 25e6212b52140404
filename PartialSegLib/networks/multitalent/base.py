"""What MultiTalent's three networks share: one output per structure, of which a task asks its own.

Decides which output belongs to which structure: output ``k`` of a network is structure ``k`` of its
label space, in task order. For the published label space ``multitalent`` this is the published
order, for any other it gives a MultiTalent of one's own. Outputs are independent sigmoids, so that
conflicting protocols and overlapping structures stand side by side (Section 2.2.1).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.structures import LabelSpace


class MultiTalentNetwork(PartialLabelNetwork):
    """Base of the networks with one sigmoid output per structure.

    All tasks share the features, and the heads are 1x1x1 convolutions of which a task uses some
    rows; so every task costs one pass together, and a channel that a task does not annotate no head.

    Parameters
    ----------
    parameters : dataclass
        Of the backbone.
    label_space : LabelSpace
        The network has one output for each of its structures.
    """

    def __init__(self, parameters: Any, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        #: Key of the structure of each output.
        self.outputs = label_space.select()
        # Channels of no structure, and those that pad a task to the widest one, use a row of zeros
        # that is appended to the heads' own.
        spare = len(self.outputs)
        row = {key: index for index, key in enumerate(self.outputs)}
        rows = torch.full((len(label_space.tasks), max(len(task.channels) for task in label_space.tasks)), spare)
        for index, task in enumerate(label_space.tasks):
            rows[index, : len(task.channels)] = torch.tensor([row.get(key or "", spare) for key in task.channels])
        self.rows: Tensor
        self.register_buffer("rows", rows, persistent=False)

    @abstractmethod
    def decoder_maps(self, image: Tensor) -> list[Tensor]:
        """Run the backbone.

        Parameters
        ----------
        image : Tensor
            (N, 1, D, H, W).

        Returns
        -------
        list of Tensor
            (N, F, D / s, H / s, W / s) maps of the decoder that :meth:`heads` belong to, finest
            first; the first has the resolution of the image.
        """

    @abstractmethod
    def heads(self) -> Sequence[nn.Conv3d]:
        """Return the 1x1x1 convolution from each decoder map to all outputs, finest first."""

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Return the finest decoder map; see :meth:`PartialLabelNetwork.features`."""
        finest = self.decoder_maps(image)[0]
        return Features(finest, finest.new_zeros(finest.shape[0], 0))

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Apply the rows of each sample's own task of the finest head only."""
        return self.answers([features.map], task)[0]

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer]:
        """Return the rows of `task` of the finest head."""
        channels = len(self.label_space.tasks[task].channels)
        return [PointwiseLayer(*_kernels(self.heads()[0], self.rows[task, :channels]))]

    def training_outputs(self, image: Tensor, task: Tensor) -> list[Tensor]:
        """Return the logits of every decoder map, finest first; see :class:`PartialLabelNetwork`."""
        return self.answers(self.decoder_maps(image), task)

    def answers(self, maps: Sequence[Tensor], task: Tensor) -> list[Tensor]:
        """Apply to each sample the heads' rows of its own task.

        Parameters
        ----------
        maps : sequence of Tensor
            The first decoder maps or all of them, (N, F, D / s, H / s, W / s), finest first.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        list of Tensor
            (N, C, D / s, H / s, W / s) logits of each map, C the channels of the widest task; those
            that a task does not have, or does not annotate, are zero.
        """
        logits = []
        for head, hidden in zip(self.heads(), maps, strict=False):
            weight, bias = _kernels(head, self.rows[task])
            voxels = hidden.flatten(2)
            answer = torch.baddbmm(bias[..., None].to(voxels.dtype), weight.to(voxels.dtype), voxels)
            logits.append(answer.unflatten(2, hidden.shape[2:]))
        return logits


def _kernels(head: nn.Conv3d, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (*rows, F) weights and (*rows,) biases of some outputs of a head; zeros for the spare row."""
    weight = functional.pad(head.weight.flatten(1), (0, 0, 0, 1))
    bias = weight.new_zeros(len(weight)) if head.bias is None else functional.pad(head.bias, (0, 1))
    return weight[rows], bias[rows]
