"""DoDNet: one encoder-decoder, and a head whose kernels are generated per task and image.

Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021. Where the released network differs from the paper
(pre-activation blocks, 256 channels in the last stage), this is the released one, with its
parameter names, so that published weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import PreActivationBlock, WeightStandardizedConv3d
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
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


class DoDNet(DynamicHeadNetwork):
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
        self.build_head(
            c[3],
            parameters.head_width,
            parameters.head_depth,
            image_condition=parameters.image_condition,
            task_condition=parameters.task_condition,
        )

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
