"""The dynamic head: 1x1x1 convolutions whose kernels a controller generates per image and task.

Section 3 of Zhang et al.: DoDNet, CVPR 2021. Base of the networks that have one (DoDNet, the
pretraining network of KiTS21 transfer), each with an encoder-decoder of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.structures import LabelSpace


class DynamicHeadNetwork(PartialLabelNetwork):
    """Base of networks with a dynamic head; they call :meth:`build_head` and bring ``features``.

    Parameters
    ----------
    parameters : dataclass
        What the card of a bundle stores about the network.
    label_space : LabelSpace
        One task-code bit per task; the head has as many output channels as the widest task (two
        as published: organ and tumor).
    """

    controller: nn.Module

    def __init__(self, parameters: Any, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.tasks = len(label_space.tasks)
        self.outputs = max(len(task.channels) for task in label_space.tasks)

    def build_head(
        self, pooled: int, width: int, depth: int, *, image_condition: bool = True, task_condition: bool = True
    ) -> None:
        """Add the controller, with weights to begin a training with.

        Parameters
        ----------
        pooled : int
            Channels of the pooled features.
        width : int
            Channels of the feature map and of the hidden head layers.
        depth : int
            Convolutions of the head.
        image_condition, task_condition : bool
            Whether the controller sees the pooled features and the task code.
        """
        self.image_condition, self.task_condition = image_condition, task_condition
        self.layer_sizes = [(width, width)] * (depth - 1) + [(self.outputs, width)]
        condition = image_condition * pooled + task_condition * self.tasks
        self.controller = nn.Conv3d(condition, sum(out * (n + 1) for out, n in self.layer_sizes), 1)
        self._start_head(self.controller)

    def _start_head(self, controller: nn.Conv3d) -> None:
        """Let training begin with heads of the size that Kaiming initialisation gives, one for each task.

        With PyTorch's default the generated kernels are small and nearly the same for every task, and
        the first hundreds of steps are lost.
        """
        columns = controller.weight[:, -self.tasks :] if self.task_condition else None
        bias = controller.bias
        assert bias is not None
        first = 0
        with torch.no_grad():
            for out, inputs in self.layer_sizes:
                part = slice(first, first + out * inputs)
                nn.init.normal_(bias[part], std=(2.0 / inputs) ** 0.5)
                if columns is not None:
                    nn.init.normal_(columns[part], std=0.5 * (2.0 / inputs) ** 0.5)
                first = part.stop
            nn.init.zeros_(bias[first:])

    def head_parameters(self, pooled: Tensor, task: Tensor) -> Tensor:
        """Generate the kernels of the dynamic head (Eq. 6).

        The product with a one-hot code is its column, so the column is looked up: the kernels of a task
        then keep every bit when the model learns another task and the code grows.

        Parameters
        ----------
        pooled : Tensor
            (N, P) pooled image features.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        Tensor
            (N, 162) as published: the weights of all layers, then all biases.
        """
        controller = self.controller
        assert isinstance(controller, nn.Conv3d)
        assert controller.bias is not None
        weight = controller.weight.flatten(1)
        parameters = controller.bias.expand(len(task), -1)
        if self.image_condition:
            images = weight.shape[1] - self.task_condition * self.tasks
            parameters = functional.linear(pooled, weight[:, :images].contiguous(), controller.bias)
        if self.task_condition:
            parameters = parameters + weight[:, -self.tasks :].T[task]
        return parameters

    def head_layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Split (N, 162) head parameters into (N, out, in) weights and (N, out) biases per layer."""
        sizes = [out * n for out, n in self.layer_sizes] + [out for out, _ in self.layer_sizes]
        parts = parameters.split(sizes, dim=1)
        depth = len(self.layer_sizes)
        return [
            (weight.reshape(-1, out, n), bias)
            for weight, bias, (out, n) in zip(parts[:depth], parts[depth:], self.layer_sizes, strict=True)
        ]

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Apply the dynamic head (Eq. 7) of each sample's own task, all samples in one grouped call.

        A 1x1x1 convolution with kernels of its own for each sample is a batched matrix product, and
        as such several times faster than the grouped convolution, forward and backward.
        """
        own = self.head_map(features, task)
        hidden = own.flatten(2)
        layers = self.head_layers(self.head_parameters(features.pooled, task))
        for index, (weight, bias) in enumerate(layers):
            hidden = torch.baddbmm(bias[:, :, None].to(hidden.dtype), weight.to(hidden.dtype), hidden)
            if index < len(layers) - 1:
                hidden = functional.relu(hidden, inplace=True)
        return hidden.unflatten(2, own.shape[2:])

    def head_map(self, features: Features, task: Tensor) -> Tensor:
        """Return the (N, width, D, H, W) map that each sample's head reads: all of the features, as published."""
        return features.map

    def first_channel(self, task: int) -> int:
        """Return the first channel of the features that the head of a task reads."""
        return 0

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer]:
        """Return the generated head of one window; only the channels that the task has."""
        index = torch.tensor([task], device=features.pooled.device)
        layers = self.head_layers(self.head_parameters(features.pooled, index))
        channels = len(self.label_space.tasks[task].channels)
        head = [PointwiseLayer(weight[0], bias[0]) for weight, bias in layers]
        head[-1] = PointwiseLayer(head[-1].weight[:channels], head[-1].bias[:channels])
        head[0] = replace(head[0], first=self.first_channel(task))
        return head
