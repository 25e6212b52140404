"""The residual encoder-decoder of DoDNet, which TGNet and the compared methods share.

Section 3.2 of Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021, as released: pre-activation blocks, 256
channels in the last stage, skip connections that are added, and these parameter names. Decides
everything up to the decoder's last map; each network brings its own head and says where the task
enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import PreActivationBlock, WeightStandardizedConv3d
from PartialSegLib.networks.conditioning import TaskBlock
from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.structures import LabelSpace

#: Called with (inputs, outputs, stride, groups=, standardize=), as :class:`PreActivationBlock` is.
BlockFactory = Callable[..., PreActivationBlock]


@dataclass(frozen=True)
class EncoderDecoderParameters:
    """Size of the encoder-decoder. The defaults are those of the published DoDNet.

    Parameters
    ----------
    channels : tuple of int
        Channels of the five encoder stages; the first is that of the stem too.
    blocks : tuple of int
        Residual blocks of the five stages.
    groups : int
        Groups of every GroupNorm; divides all `channels`.
    weight_standardization : bool
        Standardise the kernels of the 3x3x3 and 1x1x1 convolutions of the backbone.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    blocks: tuple[int, ...] = (1, 2, 2, 2, 2)
    groups: int = 16
    weight_standardization: bool = True

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or len(self.blocks) != 5 or min(self.blocks) < 1:
            raise ValueError(f"there are five stages, but channels are {self.channels} and blocks {self.blocks}")
        if self.groups < 1 or any(width % self.groups for width in self.channels):
            raise ValueError(f"{self.groups} groups do not divide the channels {self.channels}")


class Stage(nn.Sequential):
    """Residual blocks one after the other; those that see the task are given its code."""

    def forward(self, hidden: Tensor, code: Tensor | None = None) -> Tensor:
        """Map (N, in, D, H, W) to (N, out, D / stride, H / stride, W / stride)."""
        for block in self:
            hidden = block(hidden, code) if isinstance(block, TaskBlock) else block(hidden)
        return hidden


def encoder_stages(
    parameters: EncoderDecoderParameters, inputs: int = 1, block: BlockFactory = PreActivationBlock
) -> list[nn.Module]:
    """Return the stem and the five stages of an encoder of images of `inputs` channels."""
    c, counts = parameters.channels, parameters.blocks
    stem = WeightStandardizedConv3d(inputs, c[0], 3, standardize=parameters.weight_standardization)
    first = _stage(parameters, block, c[0], c[0], counts[0])
    deeper = [_stage(parameters, block, c[k - 1], c[k], counts[k], stride=2) for k in range(1, 5)]
    return [stem, first, *deeper]


def decoder_stages(
    parameters: EncoderDecoderParameters, divisor: int = 1, block: BlockFactory = PreActivationBlock
) -> list[nn.Module]:
    """Return the convolution that begins a decoder, and its four stages.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Of the encoder.
    divisor : int
        The decoder's channels are those of the encoder divided by this.
    block : callable
        Makes its blocks.
    """
    bottom = parameters.channels[4]
    c = [width // divisor for width in parameters.channels]
    # The first sum needs the channels of the skip connection; 256 of 256 as published.
    fusion = nn.Sequential(
        nn.GroupNorm(parameters.groups, bottom),
        nn.ReLU(inplace=True),
        WeightStandardizedConv3d(bottom, c[3], 1, standardize=parameters.weight_standardization),
    )
    widths = ((c[3], c[2]), (c[2], c[1]), (c[1], c[0]), (c[0], c[0]))
    return [fusion, *(_stage(parameters, block, inputs, outputs, 1) for inputs, outputs in widths)]


def encode(stages: Sequence[nn.Module], image: Tensor, code: Tensor | None = None) -> list[Tensor]:
    """Run the stages of :func:`encoder_stages`.

    Parameters
    ----------
    stages : sequence of nn.Module
        Stem and stages.
    image : Tensor
        (N, C, D, H, W).
    code : Tensor, optional
        (N, T) task code.

    Returns
    -------
    list of Tensor
        The map of each stage, finest first.
    """
    stem, *levels = stages
    hidden, maps = stem(image), []
    for level in levels:
        hidden = level(hidden, code)
        maps.append(hidden)
    return maps


#: Called with level (0 the coarsest), the encoder's map and the decoder's; returns what is added to the decoder.
SkipConnection = Callable[[int, Tensor, Tensor], Tensor]


def decode(
    stages: Sequence[nn.Module], maps: list[Tensor], code: Tensor | None = None, skip: SkipConnection | None = None
) -> Tensor:
    """Run the last four stages of :func:`decoder_stages`.

    Parameters
    ----------
    stages : sequence of nn.Module
        Coarsest first.
    maps : list of Tensor
        The maps of the encoder, finest first; the last one is where the decoder begins. Emptied on
        the way, so that none is kept longer than it is needed.
    code : Tensor, optional
        (N, T) task code, for blocks that see it.
    skip : callable, optional
        What becomes of the skip connections; they are added as they are by default.

    Returns
    -------
    Tensor
        (N, C, D, H, W) at the resolution of the image.
    """
    hidden = maps.pop()
    for level, stage in enumerate(stages):
        added = maps.pop() if skip is None else skip(level, maps.pop(), hidden)
        hidden = functional.interpolate(hidden, scale_factor=2, mode="trilinear", align_corners=False)
        hidden = stage(hidden + added, code)
    return hidden


class EncoderDecoder(PartialLabelNetwork):
    """Base of the networks with one encoder-decoder.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        Tasks and structures.
    inputs : int
        Channels that the stem sees.
    encoder_block, decoder_block : callable
        Make the residual blocks.
    """

    def __init__(
        self,
        parameters: EncoderDecoderParameters,
        label_space: LabelSpace,
        *,
        inputs: int = 1,
        encoder_block: BlockFactory = PreActivationBlock,
        decoder_block: BlockFactory = PreActivationBlock,
    ) -> None:
        super().__init__(parameters, label_space)
        self.conv1, self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = encoder_stages(
            parameters, inputs, encoder_block
        )
        self.fusionConv, self.x8_resb, self.x4_resb, self.x2_resb, self.x1_resb = decoder_stages(
            parameters, block=decoder_block
        )

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of 16 (four halvings)."""
        return 16, 16, 16

    def encode(self, image: Tensor, code: Tensor | None = None) -> list[Tensor]:
        """Return the maps of the encoder (Eq. 3), finest first, the last one through ``fusionConv``.

        Parameters
        ----------
        image : Tensor
            (N, C, D, H, W).
        code : Tensor, optional
            (N, T) task code, for blocks that see it.
        """
        stages = (self.conv1, self.layer0, self.layer1, self.layer2, self.layer3, self.layer4)
        maps = encode(stages, image, code)
        maps[-1] = self.fusionConv(maps[-1])
        return maps

    def decode(self, maps: list[Tensor], code: Tensor | None = None, skip: SkipConnection | None = None) -> Tensor:
        """Return the decoder's last map (Eq. 4), from the maps of :meth:`encode`; see :func:`decode`."""
        return decode((self.x8_resb, self.x4_resb, self.x2_resb, self.x1_resb), maps, code, skip)


class SegmentationNetwork(EncoderDecoder):
    """The encoder-decoder and one last segmentation layer with kernels of its own.

    The paper of DoDNet says "the last segmentation layer" of the compared methods and no more: chosen
    is GroupNorm, ReLU and a 1x1x1 convolution of the decoder's last map, without the narrowing to 8
    channels, which only a dynamic head needs.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        Tasks and structures.
    outputs : int, optional
        Channels of the last layer; those of the widest task by default (organ and tumor).
    inputs, encoder_block, decoder_block
        See :class:`EncoderDecoder`.
    """

    def __init__(
        self,
        parameters: EncoderDecoderParameters,
        label_space: LabelSpace,
        *,
        outputs: int | None = None,
        inputs: int = 1,
        encoder_block: BlockFactory = PreActivationBlock,
        decoder_block: BlockFactory = PreActivationBlock,
    ) -> None:
        super().__init__(
            parameters, label_space, inputs=inputs, encoder_block=encoder_block, decoder_block=decoder_block
        )
        width = parameters.channels[0]
        self.head_norm = nn.GroupNorm(parameters.groups, width)
        self.head = nn.Conv3d(width, outputs or widest_task(label_space), 1)

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder; see :meth:`PartialLabelNetwork.features`."""
        return self.finish(self.decode(self.encode(image)))

    def finish(self, hidden: Tensor) -> Features:
        """Normalise the decoder's last map: the features that the last layer sees; nothing is pooled."""
        hidden = functional.relu(self.head_norm(hidden), inplace=True)
        return Features(hidden, hidden.new_zeros(len(hidden), 0))

    def scores(self, features: Features) -> Tensor:
        """Return all outputs of the last layer, (N, outputs, D, H, W)."""
        return self.head(features.map.to(self.head.weight.dtype))

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Return the outputs of the last layer; see :meth:`PartialLabelNetwork.logits`."""
        return self.scores(features)

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer] | None:
        """Return the last layer; only the channels that the task has."""
        return [first_outputs(self.head, len(self.label_space.tasks[task].channels))]


def widest_task(label_space: LabelSpace) -> int:
    """Return the most channels that a task has."""
    return max(len(task.channels) for task in label_space.tasks)


def first_outputs(layer: nn.Conv3d, count: int) -> PointwiseLayer:
    """Return the first `count` outputs of a 1x1x1 convolution with bias."""
    assert layer.bias is not None
    return PointwiseLayer(layer.weight.flatten(1)[:count], layer.bias[:count])


def _stage(
    parameters: EncoderDecoderParameters, block: BlockFactory, inputs: int, outputs: int, blocks: int, stride: int = 1
) -> Stage:
    sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
    groups, standardize = parameters.groups, parameters.weight_standardization
    return Stage(*(block(n, outputs, s, groups=groups, standardize=standardize) for n, s in sizes))
