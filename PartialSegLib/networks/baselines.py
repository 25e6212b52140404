"""The methods that DoDNet was compared to (Zhang et al., CVPR 2021, Section 4.3, Table 6 and Figure 4).

All of them have the encoder-decoder of DoDNet ("the same encoder-decoder architecture for all
methods"); they differ in where the task enters, if anywhere:

===========  ============================================================  =====================
name         where the task enters                                         features
===========  ============================================================  =====================
MultiNets    each task has a network of its own                            per task
MultiHead    each task has a decoder and last layer of its own             per task
TAL          nowhere: one softmax over the structures of all tasks         once for all tasks
CondNO       nowhere: every task gets the same answer                      once for all tasks
CondInput    the task code is concatenated to the image                    per task
CondDec      the task code is concatenated to the features of the decoder  per task
===========  ============================================================  =====================

No code of them was published. What the paper leaves open and what was chosen, each class says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import WeightStandardizedConv3d
from PartialSegLib.networks.conditioning import TaskBlock, by_task, given, over_space, task_code
from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.networks.encoder_decoder import (
    EncoderDecoderParameters,
    SegmentationNetwork,
    decode,
    decoder_stages,
    encode,
    encoder_stages,
    first_outputs,
    widest_task,
)
from PartialSegLib.networks.exclusive import ExclusiveNetwork, union_logits, unions_over_space
from PartialSegLib.structures import LabelSpace


class CondNO(SegmentationNetwork):
    """A single network without any task condition.

    Its channels are organ and tumor, of whatever task: all organs are trained as one foreground, and
    every task gets the same answer. It shows what a task condition is worth.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        As many outputs as the widest task has channels.
    """

    def __init__(self, parameters: EncoderDecoderParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)


class CondInput(SegmentationNetwork):
    """The task as additional input channels: a constant channel for each bit of the one-hot task code.

    Chen, Xu, Koltun: Fast image processing with fully-convolutional networks, ICCV 2017, as Section
    3.3 of DoDNet describes it. The stem sees ``1 + tasks`` channels and is standardised over all of
    them.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        One task-code bit per task; as many outputs as the widest task has channels.
    """

    features_depend_on_task = True

    def __init__(self, parameters: EncoderDecoderParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space, inputs=1 + len(label_space.tasks))
        self.tasks = len(label_space.tasks)

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder on image and task code; see :meth:`PartialLabelNetwork.features`."""
        code = task_code(task, self.tasks, image)
        return self.finish(self.decode(self.encode(torch.cat([image, over_space(code, image)], 1))))


class ConditionedBlock(TaskBlock):
    """Residual block whose first 3x3x3 convolution also sees the task code, constant over space.

    Parameters
    ----------
    inputs, outputs, stride, groups, standardize
        See :class:`PreActivationBlock`.
    tasks : int
        Bits of the task code.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, *, tasks: int, groups: int = 16, standardize: bool = True
    ) -> None:
        super().__init__(inputs, outputs, stride, groups=groups, standardize=standardize)
        self.conv1 = WeightStandardizedConv3d(inputs + tasks, outputs, 3, stride, standardize=standardize)

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:  # type: ignore[override]
        """Map (N, in, D, H, W) and a (N, T) task code to (N, out, D / stride, H / stride, W / stride)."""
        shortcut = self.shortcut(hidden)
        hidden = functional.relu(self.gn1(hidden), inplace=True)
        hidden = self.conv1(torch.cat([hidden, over_space(code, hidden)], 1))
        return shortcut + self.conv2(functional.relu(self.gn2(hidden), inplace=True))


class CondDec(SegmentationNetwork):
    """The task in the decoder's intermediate activations.

    Dmitriev, Kaufman: Learning multi-class segmentations from single-class datasets, CVPR 2019; of its
    variants DoDNet compares to the one that conditions the decoder. Left open there is the form of
    the condition: chosen is DoDNet's own one-hot task code (Eq. 5) instead of one channel of a hashed
    value, so that all conditioned methods are told the same. It is concatenated to the activations of
    each of the four decoder blocks after GroupNorm and ReLU, where no normalisation removes it, before
    their first 3x3x3 convolution.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        One task-code bit per task; as many outputs as the widest task has channels.
    """

    features_depend_on_task = True

    def __init__(self, parameters: EncoderDecoderParameters, label_space: LabelSpace) -> None:
        tasks = len(label_space.tasks)
        super().__init__(parameters, label_space, decoder_block=partial(ConditionedBlock, tasks=tasks))
        self.tasks = tasks

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run encoder and conditioned decoder; see :meth:`PartialLabelNetwork.features`."""
        code = task_code(task, self.tasks, image)
        return self.finish(self.decode(self.encode(image), code))


class TAL(SegmentationNetwork, ExclusiveNetwork):
    """One exclusive multi-class output for the structures of all tasks, for the target adaptive loss.

    Fang, Yan: Multi-organ segmentation over partially labeled datasets with multi-scale feature
    abstraction, TMI 2020; here with DoDNet's encoder-decoder, without their multi-scale abstraction.
    A structure that was not annotated is background in that loss, so one softmax covers all: class
    0 is the background, class ``k + 1`` what only structure ``k`` of the label space covers.
    A task is answered by the unions of its structures with whatever lies in them, also of other tasks.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size.
    label_space : LabelSpace
        One class for each of its structures, and the background.
    """

    def __init__(self, parameters: EncoderDecoderParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space, outputs=1 + len(label_space.select()))
        self._members = unions_over_space(label_space)

    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """Return the logits of all classes of the label space, whatever the task.

        Parameters
        ----------
        features : Features
            Of N samples.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        Tensor
            (N, 1 + S, D, H, W), S the structures of the label space.
        """
        return self.scores(features)

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Return the log-odds of the structures of each sample's own task; 0 in channels without one."""
        classes = self.scores(features)
        widest = widest_task(self.label_space)

        def answer(index: int, rows: Tensor | slice) -> Tensor:
            own = classes[rows]
            channels = self.label_space.tasks[index].channels
            there = [channel for channel, key in enumerate(channels) if key is not None]
            answers = own.new_zeros(len(own), widest, *own.shape[2:])
            answers[:, there] = union_logits(own, tuple(self._members[key] for key in channels if key is not None))
            return answers

        return by_task(task, answer)

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer] | None:
        """Return nothing: a union of classes is no linear function of the features."""
        return None


class MultiNets(PartialLabelNetwork):
    """A whole network for each task, trained on its own dataset alone.

    The paper counts seven times the parameters of a single network. Chosen is the encoder-decoder with
    one last layer (:class:`SegmentationNetwork`), which has as many outputs as its task has channels.

    Parameters
    ----------
    parameters : EncoderDecoderParameters
        Size of each network.
    label_space : LabelSpace
        One network for each of its tasks.
    """

    features_depend_on_task = True

    def __init__(self, parameters: EncoderDecoderParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: EncoderDecoderParameters = parameters
        self.outputs = widest_task(label_space)
        spaces = (_space_of(label_space, index) for index in range(len(label_space.tasks)))
        self.networks = nn.ModuleList(SegmentationNetwork(parameters, space) for space in spaces)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of 16 (four halvings)."""
        return 16, 16, 16

    def network(self, task: int) -> SegmentationNetwork:
        """Return the network of a task."""
        network = self.networks[task]
        assert isinstance(network, SegmentationNetwork)
        return network

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run each sample through the network of its own task; see :meth:`PartialLabelNetwork.features`."""
        maps = by_task(given(task), lambda index, rows: self.network(index).features(image[rows]).map)
        return Features(maps, maps.new_zeros(len(maps), 0))

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Apply the last layer of each sample's own task; see :meth:`PartialLabelNetwork.logits`."""
        return _last_layers(features, task, self.outputs, lambda index: self.network(index).head)

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer] | None:
        """Return the last layer of a task."""
        return self.network(task).pointwise_head(features, 0)


@dataclass(frozen=True)
class MultiHeadParameters(EncoderDecoderParameters):
    """Size of a Multi-Head network.

    Parameters
    ----------
    channels, blocks, groups, weight_standardization
        Of the encoder-decoder; see :class:`EncoderDecoderParameters`.
    decoder_divisor : int
        The decoders' channels are those of a single decoder divided by this; 2 in the paper, "due to
        GPU memory limitation". `groups` divides what remains.
    """

    decoder_divisor: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        unit = self.groups * self.decoder_divisor
        if self.decoder_divisor < 1 or any(width % unit for width in self.channels[:4]):
            raise ValueError(f"{self.decoder_divisor} times {self.groups} groups do not divide {self.channels[:4]}")


class TaskDecoder(nn.Module):
    """Decoder and last layer of one task of a Multi-Head network.

    Parameters
    ----------
    parameters : MultiHeadParameters
        Size.
    outputs : int
        Channels of the task.
    """

    def __init__(self, parameters: MultiHeadParameters, outputs: int) -> None:
        super().__init__()
        self.fusion, *stages = decoder_stages(parameters, parameters.decoder_divisor)
        self.stages = nn.ModuleList(stages)
        width = parameters.channels[0] // parameters.decoder_divisor
        self.head_norm = nn.GroupNorm(parameters.groups, width)
        self.head = nn.Conv3d(width, outputs, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return what the last layer sees, (N, C, D, H, W), from the maps of the encoder, finest first."""
        hidden = decode(list(self.stages), [*maps[:-1], self.fusion(maps[-1])])
        return functional.relu(self.head_norm(hidden), inplace=True)


class MultiHead(PartialLabelNetwork):
    """A shared encoder, and a decoder with a last layer for each task.

    Chen, Ma, Zheng: Med3D, arXiv:1904.00625, 2019, as Section 2 of DoDNet describes it. The decoders
    have half the channels (Section 4.3), which leaves open how they are summed with skip connections of
    full width: chosen is one projection for each skip connection (GroupNorm, ReLU, 1x1x1 convolution, as
    at the bottleneck), shared by all tasks. With it the network has 18.9 M weights as published.

    Parameters
    ----------
    parameters : MultiHeadParameters
        Size.
    label_space : LabelSpace
        One decoder for each of its tasks.
    """

    features_depend_on_task = True

    def __init__(self, parameters: MultiHeadParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: MultiHeadParameters = parameters
        self.outputs = widest_task(label_space)
        self.encoder = nn.ModuleList(encoder_stages(parameters))
        self.projections = nn.ModuleList(_projection(parameters, width) for width in parameters.channels[:4])
        self.decoders = nn.ModuleList(TaskDecoder(parameters, len(task.channels)) for task in label_space.tasks)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of 16 (four halvings)."""
        return 16, 16, 16

    def decoder(self, task: int) -> TaskDecoder:
        """Return the decoder of a task."""
        decoder = self.decoders[task]
        assert isinstance(decoder, TaskDecoder)
        return decoder

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder, then the decoder of each sample's own task; see :meth:`PartialLabelNetwork.features`."""
        encoded = encode(list(self.encoder), image)
        skips = [project(skip) for project, skip in zip(self.projections, encoded, strict=False)]
        maps = [*skips, encoded[-1]]
        finest = by_task(given(task), lambda index, rows: self.decoder(index)([part[rows] for part in maps]))
        return Features(finest, finest.new_zeros(len(finest), 0))

    def logits(self, features: Features, task: Tensor) -> Tensor:
        """Apply the last layer of each sample's own task; see :meth:`PartialLabelNetwork.logits`."""
        return _last_layers(features, task, self.outputs, lambda index: self.decoder(index).head)

    def pointwise_head(self, features: Features, task: int) -> list[PointwiseLayer] | None:
        """Return the last layer of a task."""
        head = self.decoder(task).head
        return [first_outputs(head, head.out_channels)]


def _projection(parameters: MultiHeadParameters, width: int) -> nn.Module:
    """Return what narrows a skip connection to the width of the decoders."""
    if parameters.decoder_divisor == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.GroupNorm(parameters.groups, width),
        nn.ReLU(),
        WeightStandardizedConv3d(
            width, width // parameters.decoder_divisor, 1, standardize=parameters.weight_standardization
        ),
    )


def _last_layers(features: Features, task: Tensor, outputs: int, layer: Callable[[int], nn.Conv3d]) -> Tensor:
    """Apply the 1x1x1 convolution of each sample's own task, and add zeros up to `outputs` channels."""

    def answer(index: int, rows: Tensor | slice) -> Tensor:
        head = layer(index)
        logits: Any = head(features.map[rows].to(head.weight.dtype))
        return functional.pad(logits, (0, 0, 0, 0, 0, 0, 0, outputs - head.out_channels))

    return by_task(task, answer)


def _space_of(space: LabelSpace, task: int) -> LabelSpace:
    """Return the label space of one task alone; its rules stay with the whole."""
    own = replace(space.tasks[task], rules=())
    return LabelSpace(own.name, (own,), tuple(space.structure(key) for key in own.structures))
