"""DoDNet: one encoder-decoder, and a head whose kernels are generated per task and image.

Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021. Where the released network differs from the paper
(pre-activation blocks, 256 channels in the last stage), this is the released one, with its
parameter names, so that published weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
from PartialSegLib.networks.encoder_decoder import EncoderDecoder, EncoderDecoderParameters
from PartialSegLib.networks.own_map import OwnMap
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
    own_maps : int
        So many of the last tasks were added to a trained network and have a pre-segmentation map of their
        own (:mod:`PartialSegLib.networks.own_map`); 0 as published.
    """

    head_width: int = 8
    head_depth: int = 3
    image_condition: bool = True
    task_condition: bool = True
    own_maps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_depth < 1 or self.head_width < 1:
            raise ValueError(f"a head of depth {self.head_depth} and width {self.head_width} is none")
        if not (self.image_condition or self.task_condition):
            raise ValueError("the controller needs the image condition, the task condition or both")
        if self.own_maps < 0:
            raise ValueError(f"{self.own_maps} tasks cannot have a map of their own")


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

    #: By how much the maps that :meth:`taps` returns are coarser than the image.
    TAP_SCALES = (16, 8, 4, 2, 1, 1)

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
        if parameters.own_maps > self.tasks:
            raise ValueError(f"{parameters.own_maps} tasks have a map of their own, but there are {self.tasks}")
        self.own_maps = nn.ModuleList(
            OwnMap(self.tap_channels, self.TAP_SCALES, parameters.head_width) for _ in range(parameters.own_maps)
        )

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """Channels of the maps that :meth:`taps` returns."""
        c0, c1, c2, c3, _ = self.parameters_.channels
        return c3, c2, c1, c0, c0, c0

    def taps(self, image: Tensor) -> tuple[list[Tensor], Features]:
        """Return the maps that maps of tasks' own are made of, coarsest first, and the features that all tasks share.

        These are the bottleneck, each stage of the decoder and, before the last of them, the finest map of the
        encoder.
        """
        maps = self.encode(image)
        pooled = self._pool(maps)
        taps: list[Tensor] = []

        def tap(level: int, encoded: Tensor, decoded: Tensor) -> Tensor:
            taps.append(decoded)
            if level == 3:
                taps.append(encoded)
            return encoded

        decoded = self.decode(maps, skip=tap)
        return [*taps, decoded], Features(self.precls_conv(decoded), pooled)

    def own_map(self, task: int) -> OwnMap | None:
        """Return what makes the map of a task's own; ``None`` where it reads the map that tasks share."""
        block = self._block(task)
        if not block:
            return None
        own = self.own_maps[block - 1]
        assert isinstance(own, OwnMap)
        return own

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder (Eq. 3 and 4); see :meth:`PartialLabelNetwork.features`.

        The map has ``head_width`` channels; the pooled vector is the global average of the
        bottleneck that the controller is conditioned on, and empty where it is not. The maps of tasks'
        own follow, ``head_width`` channels each.
        """
        if self.own_maps:
            taps, shared = self.taps(image)
            return Features(torch.cat([shared.map, *(own(taps) for own in self.own_maps)], 1), shared.pooled)
        maps = self.encode(image)
        pooled = self._pool(maps)
        return Features(self.precls_conv(self.decode(maps)), pooled)

    def head_map(self, features: Features, task: Tensor) -> Tensor:
        """Return the map that each sample's head reads; see :meth:`DynamicHeadNetwork.head_map`."""
        if not self.own_maps:
            return features.map
        blocks = features.map.unflatten(1, (-1, self.parameters_.head_width))
        chosen = (task - (self.tasks - len(self.own_maps) - 1)).clamp(min=0)
        return blocks[torch.arange(len(task), device=task.device), chosen]

    def first_channel(self, task: int) -> int:
        """Return the first channel of the features that the head of a task reads."""
        return self._block(task) * self.parameters_.head_width

    def _block(self, task: int) -> int:
        """Return which part of the feature map the head of a task reads, 0 for the one that tasks share."""
        return max(0, task - (self.tasks - len(self.own_maps) - 1))

    def _pool(self, maps: list[Tensor]) -> Tensor:
        """Return the pooled vector of the maps of the encoder."""
        if self.GAP is None:
            return maps[-1].new_zeros(len(maps[-1]), 0)
        pooled: Tensor = self.GAP(maps[-1]).flatten(1)
        return pooled
