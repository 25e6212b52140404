"""DoDNet: one encoder-decoder, and a head whose kernels are generated per task and image.

Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021. Where the released network differs from the paper
(pre-activation blocks, 256 channels in the last stage), this is the released one, with its
parameter names, so that published weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import PreActivationBlock, WeightStandardizedConv3d
from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class DoDNetParameters:
    """Size and switches of a DoDNet. The defaults are the published network (17.3 M weights).

    Parameters
    ----------
    channels : tuple of int
        Channels of the five encoder stages; the first is that of the stem too.
    blocks : tuple of int
        Residual blocks of the five stages.
    groups : int
        Groups of every GroupNorm; divides all `channels`.
    head_width : int
        Channels of the pre-segmentation feature map and of the hidden head layers (Table 4).
    head_depth : int
        Convolutions of the dynamic head (Table 3).
    image_condition, task_condition : bool
        What the controller sees: pooled image features, task code, or both (Table 5).
    weight_standardization : bool
        Standardise the kernels of the 3x3x3 and 1x1x1 convolutions of the backbone.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    blocks: tuple[int, ...] = (1, 2, 2, 2, 2)
    groups: int = 16
    head_width: int = 8
    head_depth: int = 3
    image_condition: bool = True
    task_condition: bool = True
    weight_standardization: bool = True

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or len(self.blocks) != 5 or min(self.blocks) < 1:
            raise ValueError(f"DoDNet has five stages, but channels are {self.channels} and blocks {self.blocks}")
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"{self.groups} groups do not divide the channels {self.channels}")
        if self.head_depth < 1 or self.head_width < 1:
            raise ValueError(f"a head of depth {self.head_depth} and width {self.head_width} is none")
        if not (self.image_condition or self.task_condition):
            raise ValueError("the controller needs the image condition, the task condition or both")


class DoDNet(PartialLabelNetwork):
    """DoDNet with a dynamic head (Section 3).

    Parameters
    ----------
    parameters : DoDNetParameters
        Size and switches.
    label_space : LabelSpace
        One task-code bit per task; the head has as many output channels as the widest task (two
        as published: organ and tumor).
    """

    def __init__(self, parameters: DoDNetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.tasks = len(label_space.tasks)
        self.outputs = max(len(task.channels) for task in label_space.tasks)
        self.parameters_: DoDNetParameters = parameters
        c, groups, standardize = parameters.channels, parameters.groups, parameters.weight_standardization

        def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
            sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
            return nn.Sequential(
                *(PreActivationBlock(n, outputs, s, groups=groups, standardize=standardize) for n, s in sizes)
            )

        self.conv1 = WeightStandardizedConv3d(1, c[0], 3, standardize=standardize)
        self.layer0 = stage(c[0], c[0], parameters.blocks[0], 1)
        self.layer1 = stage(c[0], c[1], parameters.blocks[1], 2)
        self.layer2 = stage(c[1], c[2], parameters.blocks[2], 2)
        self.layer3 = stage(c[2], c[3], parameters.blocks[3], 2)
        self.layer4 = stage(c[3], c[4], parameters.blocks[4], 2)
        # The first decoder sum needs the channels of the layer3 skip; 256 of 256 as published.
        self.fusionConv = nn.Sequential(
            nn.GroupNorm(groups, c[4]),
            nn.ReLU(inplace=True),
            WeightStandardizedConv3d(c[4], c[3], 1, standardize=standardize),
        )
        self.x8_resb = stage(c[3], c[2], 1, 1)
        self.x4_resb = stage(c[2], c[1], 1, 1)
        self.x2_resb = stage(c[1], c[0], 1, 1)
        self.x1_resb = stage(c[0], c[0], 1, 1)
        self.precls_conv = nn.Sequential(
            nn.GroupNorm(groups, c[0]), nn.ReLU(inplace=True), nn.Conv3d(c[0], parameters.head_width, 1)
        )
        self.GAP = nn.Sequential(nn.GroupNorm(groups, c[3]), nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1))
        width, depth = parameters.head_width, parameters.head_depth
        self.layer_sizes = [(width, width)] * (depth - 1) + [(self.outputs, width)]
        condition = parameters.image_condition * c[3] + parameters.task_condition * self.tasks
        self.controller = nn.Conv3d(condition, sum(out * (n + 1) for out, n in self.layer_sizes), 1)
        self._start_head()

    def _start_head(self) -> None:
        """Let training begin with heads of the size that Kaiming initialisation gives, one for each task.

        With PyTorch's default the generated kernels are small and nearly the same for every task, and
        the first hundreds of steps are lost.
        """
        columns = self.controller.weight[:, -self.tasks :] if self.parameters_.task_condition else None
        bias = self.controller.bias
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

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of 16 (four halvings)."""
        return 16, 16, 16

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder (Eq. 3 and 4); see :meth:`PartialLabelNetwork.features`.

        The map has ``head_width`` channels; the pooled vector is the global average of the
        bottleneck that the controller is conditioned on.
        """
        skips = [self.layer0(self.conv1(image))]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            skips.append(layer(skips[-1]))
        hidden = self.fusionConv(skips.pop())
        pooled = self.GAP(hidden).flatten(1)
        for block in (self.x8_resb, self.x4_resb, self.x2_resb, self.x1_resb):
            hidden = functional.interpolate(hidden, scale_factor=2, mode="trilinear", align_corners=False)
            hidden = block(hidden + skips.pop())
        return Features(self.precls_conv(hidden), pooled)

    def head_parameters(self, pooled: Tensor, task: Tensor) -> Tensor:
        """Generate the kernels of the dynamic head (Eq. 6).

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
        condition = []
        if self.parameters_.image_condition:
            condition.append(pooled)
        if self.parameters_.task_condition:
            condition.append(functional.one_hot(task, self.tasks).to(pooled.dtype))
        return self.controller(torch.cat(condition, 1)[:, :, None, None, None]).flatten(1)

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
        hidden = features.map.flatten(2)
        layers = self.head_layers(self.head_parameters(features.pooled, task))
        for index, (weight, bias) in enumerate(layers):
            hidden = torch.baddbmm(bias[:, :, None].to(hidden.dtype), weight.to(hidden.dtype), hidden)
            if index < len(layers) - 1:
                hidden = functional.relu(hidden, inplace=True)
        return hidden.unflatten(2, features.map.shape[2:])

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer]:
        """Return the generated head of one window; only the channels that the task has."""
        index = torch.tensor([task], device=features.pooled.device)
        layers = self.head_layers(self.head_parameters(features.pooled, index))
        channels = len(self.label_space.tasks[task].channels)
        head = [PointwiseLayer(weight[0], bias[0]) for weight, bias in layers]
        head[-1] = PointwiseLayer(head[-1].weight[:channels], head[-1].bias[:channels])
        return head
