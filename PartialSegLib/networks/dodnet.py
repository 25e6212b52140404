"""DoDNet: one encoder-decoder, and a head whose kernels are generated per task and image.

Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021. Where the released network differs from the paper
(pre-activation blocks, 256 channels in the last stage), this is the released one, with its
parameter names, so that published weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
from PartialSegLib.networks.encoder_decoder import EncoderDecoder, EncoderDecoderParameters
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class DoDNetParameters(EncoderDecoderParameters):
    """Size and switches of a DoDNet. The defaults are the published network (17.3 M weights).

    Parameters
    ----------
    channels, blocks, groups, weight_standardization
        Of the encoder-decoder; see :class:`EncoderDecoderParameters`.
    head_width : int
        Channels of the pre-segmentation feature map and of the hidden head layers (Table 4: 4, 8, 16).
    head_depth : int
        Convolutions of the dynamic head (Table 3: 2, 3, 4).
    image_condition, task_condition : bool
        What the controller sees: pooled image features, task code, or both (Table 5).
    """

    head_width: int = 8
    head_depth: int = 3
    image_condition: bool = True
    task_condition: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_depth < 1 or self.head_width < 1:
            raise ValueError(f"a head of depth {self.head_depth} and width {self.head_width} is none")
        if not (self.image_condition or self.task_condition):
            raise ValueError("the controller needs the image condition, the task condition or both")


class DoDNet(EncoderDecoder, DynamicHeadNetwork):
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
        c, groups = parameters.channels, parameters.groups
        self.precls_conv = nn.Sequential(
            nn.GroupNorm(groups, c[0]), nn.ReLU(inplace=True), nn.Conv3d(c[0], parameters.head_width, 1)
        )
        self.GAP: nn.Module | None = None
        if parameters.image_condition:
            self.GAP = nn.Sequential(nn.GroupNorm(groups, c[3]), nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1))
        self.build_head(
            c[3],
            parameters.head_width,
            parameters.head_depth,
            image_condition=parameters.image_condition,
            task_condition=parameters.task_condition,
        )

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder (Eq. 3 and 4); see :meth:`PartialLabelNetwork.features`.

        The map has ``head_width`` channels; the pooled vector is the global average of the
        bottleneck that the controller is conditioned on, and empty where it is not.
        """
        maps = self.encode(image)
        pooled = image.new_zeros(len(image), 0) if self.GAP is None else self.GAP(maps[-1]).flatten(1)
        return Features(self.precls_conv(self.decode(maps)), pooled)
