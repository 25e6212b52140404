"""KiTS21 transfer: a residual U-Net, pretrained with a dynamic head, that then learns kidneys, tumors and cysts.

"Transfer learning for KiTS21 Challenge" (2021). Two networks share one backbone: :class:`KiTS21Pretraining`
learns partially labeled datasets, :func:`transfer` hands its backbone to :class:`KiTS21`, where a
convolution takes the place of the dynamic head. Both are built from a card by
:func:`PartialSegLib.networks.build_network`.

No code was published. Where the text is silent or short, this is decided:

- Channels are those of the same group's TransDoDNet, whose encoder has the same blocks (3, 4, 6, 3).
- The text names one LeakyReLU in an encoder block; there is one after each norm, as in He et al. (2016)
  and in TransDoDNet.
- The two convolutions in front of the four stages keep the resolution, so four stages halve it four times.
- The atrous rates of DeepLab (6, 12, 18, 24 on maps of about 50 pixels) are 1, 2, 3, 4 on the 8 voxels
  that a window of 128 leaves.
- The dynamic head's input, 8 channels as in DoDNet, belongs to the backbone; the convolution reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.bottleneck_unet import EXPANSION, AtrousPyramid, BottleneckUNet
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.structures import LabelSpace

#: LeakyReLU, as nnU-Net has it.
_SLOPE = 0.01


@dataclass(frozen=True)
class KiTS21Parameters:
    """Size of the backbone.

    Parameters
    ----------
    stem : int
        Channels of the first two convolutions.
    widths : tuple of int
        Width of the bottleneck blocks of the four stages, a quarter of their channels.
    blocks : tuple of int
        Residual blocks of the four stages; the first of each halves the map.
    rates : tuple of int
        Dilations of the atrous pyramid, in voxels of the coarsest map.
    map_channels : int
        Channels of the map that the head sees.

    Raises
    ------
    ValueError
        When there are not four stages, or a size is none.
    """

    stem: int = 32
    widths: tuple[int, ...] = (64, 128, 256, 320)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    rates: tuple[int, ...] = (1, 2, 3, 4)
    map_channels: int = 8

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or len(self.blocks) != 4:
            raise ValueError(f"there are four stages, but widths are {self.widths} and blocks {self.blocks}")
        if not self.rates or min(self.stem, *self.widths, *self.blocks, *self.rates, self.map_channels) < 1:
            raise ValueError(f"every size is at least 1 and there is at least one rate, but they are {self}")


@dataclass(frozen=True)
class KiTS21PretrainingParameters(KiTS21Parameters):
    """Size of the backbone and of the dynamic head.

    Parameters
    ----------
    head_depth : int
        Convolutions of the dynamic head, 3 as in DoDNet.

    Raises
    ------
    ValueError
        As :class:`KiTS21Parameters`, or when the head has no layer.
    """

    head_depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_depth < 1:
            raise ValueError(f"a head of depth {self.head_depth} is none")


class KiTS21Backbone(BottleneckUNet):
    """Residual U-Net with the atrous pyramid between encoder and decoder (Fig. 2)."""

    #: Window sizes must be multiples of this (four halvings).
    DIVISOR = (16, 16, 16)

    def __init__(self, parameters: KiTS21Parameters) -> None:
        widths = parameters.widths
        super().__init__(parameters.stem, widths, parameters.blocks, parameters.map_channels, slope=_SLOPE)
        self.aspp = AtrousPyramid(EXPANSION * widths[-1], widths[-2], parameters.rates, slope=_SLOPE)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and decode an image.

        Parameters
        ----------
        image : Tensor
            (N, 1, D, H, W), sizes multiples of 16, at least one of them more than 16.

        Returns
        -------
        map : Tensor
            (N, map_channels, D, H, W).
        context : Tensor
            (N, widths[-2], D / 16, H / 16, W / 16), the output of the atrous pyramid.
        """
        *skips, coarsest = self.encoder(image)
        context = self.aspp(coarsest)
        return self.decode(context, skips), context


class KiTS21Pretraining(DynamicHeadNetwork):
    """The backbone with the dynamic head of DoDNet, for partially labeled datasets (Section 2.3).

    Parameters
    ----------
    parameters : KiTS21PretrainingParameters
        Sizes.
    label_space : LabelSpace
        Tasks to pretrain on; MOTS in the paper.
    """

    def __init__(self, parameters: KiTS21PretrainingParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: KiTS21PretrainingParameters = parameters
        self.backbone = KiTS21Backbone(parameters)
        self.build_head(parameters.widths[-2], parameters.map_channels, parameters.head_depth)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """See :attr:`KiTS21Backbone.DIVISOR`."""
        return KiTS21Backbone.DIVISOR

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the backbone; the pooled vector is the average of the atrous pyramid's output."""
        feature_map, context = self.backbone(image)
        return Features(feature_map, context.mean((2, 3, 4)))


class KiTS21(ExclusiveNetwork):
    """The backbone with a 1x1x1 convolution in place of the dynamic head, and a softmax.

    Parameters
    ----------
    parameters : KiTS21Parameters
        Sizes.
    label_space : LabelSpace
        One convolution per task; KiTS21 has one task, whose classes are background, kidney, tumor
        and cyst.
    """

    def __init__(self, parameters: KiTS21Parameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: KiTS21Parameters = parameters
        self.backbone = KiTS21Backbone(parameters)
        self.heads = nn.ModuleList(
            nn.Conv3d(parameters.map_channels, len(task.channels) + 1, 1) for task in label_space.tasks
        )

    @property
    def divisor(self) -> tuple[int, int, int]:
        """See :attr:`KiTS21Backbone.DIVISOR`."""
        return KiTS21Backbone.DIVISOR

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the backbone; nothing is pooled."""
        feature_map, _ = self.backbone(image)
        return Features(feature_map, feature_map.new_zeros((len(image), 0)))

    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """Convolve each sample to the classes of its task; see :meth:`ExclusiveNetwork.class_logits`."""
        answers = []
        for index, sample in zip(task.tolist(), features.map, strict=True):
            head = self.heads[index]
            # The inference engine may have computed the features in half precision.
            answers.append(head(sample[None].to(head.weight.dtype)))
        widest = max(answer.shape[1] for answer in answers)
        missing = [(0, 0, 0, 0, 0, 0, 0, widest - answer.shape[1]) for answer in answers]
        padded = [functional.pad(answer, pad, value=-torch.inf) for answer, pad in zip(answers, missing, strict=True)]
        return torch.cat(padded)


def transfer(pretrained: KiTS21Pretraining, label_space: LabelSpace) -> KiTS21:
    """Take the weights of a pretrained backbone into a network for a downstream task.

    Parameters
    ----------
    pretrained : KiTS21Pretraining
        Its backbone is copied, its controller left behind.
    label_space : LabelSpace
        Of the downstream task; ``LabelSpace.named("kits21")`` in the paper.

    Returns
    -------
    KiTS21
        On the device and in the dtype of `pretrained`; its convolution is fresh.
    """
    values = {field.name: getattr(pretrained.parameters_, field.name) for field in fields(KiTS21Parameters)}
    network = KiTS21(KiTS21Parameters(**values), label_space)
    network.backbone.load_state_dict(pretrained.backbone.state_dict())
    weight = next(pretrained.parameters())
    return network.to(weight.device, weight.dtype)
