"""TGNet: the task gates the residual blocks of the encoder and the skip connections.

Wu, Pang, Sowmya: TGNet, ISBI 2022. No code was published, and the paper leaves open what follows
here, after "chosen":

* Encoder-decoder: chosen is DoDNet's as released, with its weight standardisation; the paper says
  that it follows DoDNet's setting and counts its increment on that "backbone".
* Residual block: ``R(x) = x * gate + f'(f(x))`` needs an x of the shape of ``f'(f(x))``. Where width
  or stride changes it would need a projection, of which the paper does not speak: chosen is to
  guide the blocks that have the shape, one in each stage as published, and to leave the first block
  of the four strided stages as it is in DoDNet. So counted the modules add 1.45 % to the
  backbone, the number of the paper; with gates on projected shortcuts too it would be 2.4 %.
* Skip connection: the formula omits the task, the text concatenates it; chosen is the text. The
  descriptor g is chosen to be the decoder's map just before it is enlarged to the size of the skip
  connection (the bottleneck for the coarsest one).
* Head: chosen is one 1x1x1 convolution to the organ and tumor of the asked task. The paper names
  dynamic filters as DoDNet's, and as future work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.networks.blocks import PreActivationBlock
from PartialSegLib.networks.conditioning import TaskBlock, TaskGate, task_code
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.encoder_decoder import EncoderDecoderParameters, SegmentationNetwork
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class TGNetParameters(EncoderDecoderParameters):
    """Size and switches of a TGNet.

    Parameters
    ----------
    channels, blocks, groups, weight_standardization
        Of the encoder-decoder; see :class:`EncoderDecoderParameters`.
    guided_blocks : bool
        Guide the residual blocks of the encoder; ``False`` is TGNet-A of Table 2.
    """

    guided_blocks: bool = True


class GuidedBlock(TaskBlock):
    """Task-guided residual block (Section 2.2): ``R(x) = x * sigmoid(g(GAP(f(x)) || task)) + f'(f(x))``.

    f and f' are GroupNorm, ReLU and a 3x3x3 convolution, as in the block of DoDNet.

    Parameters
    ----------
    inputs, outputs, stride, groups, standardize
        See :class:`PreActivationBlock`; the shape does not change.
    tasks : int
        Bits of the task code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, tasks: int, **options: Any) -> None:
        super().__init__(inputs, outputs, stride, **options)
        self.gate = TaskGate(outputs, outputs, tasks)

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:  # type: ignore[override]
        """Map (N, C, D, H, W) and a (N, T) task code to the same shape."""
        first = self.conv1(functional.relu(self.gn1(hidden), inplace=True))
        shortcut = self.shortcut(hidden) * self.gate(first, code)
        return shortcut + self.conv2(functional.relu(self.gn2(first), inplace=True))


class GuidedSkip(nn.Module):
    """Task-guided attention module (Section 2.1): ``x' = x * sigmoid(f(GAP(ReLU(GN(g))) || task))``.

    Parameters
    ----------
    descriptor, encoded : int
        Channels of the decoder's descriptor g and of the encoder's map x.
    tasks : int
        Bits of the task code.
    groups : int
        Of the GroupNorm.
    """

    def __init__(self, descriptor: int, encoded: int, tasks: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, descriptor)
        self.gate = TaskGate(descriptor, encoded, tasks)

    def forward(self, encoded: Tensor, descriptor: Tensor, code: Tensor) -> Tensor:
        """Return the (N, C, D, H, W) map of the encoder with some channels attenuated."""
        return encoded * self.gate(functional.relu(self.norm(descriptor), inplace=True), code)


class TGNet(SegmentationNetwork):
    """TGNet; features depend on the task from the first stage on.

    Parameters
    ----------
    parameters : TGNetParameters
        Size and switches.
    label_space : LabelSpace
        One task-code bit per task; as many outputs as the widest task has channels.
    """

    features_depend_on_task = True

    def __init__(self, parameters: TGNetParameters, label_space: LabelSpace) -> None:
        tasks = len(label_space.tasks)
        block = partial(_guided_where_shapes_agree, tasks=tasks) if parameters.guided_blocks else PreActivationBlock
        super().__init__(parameters, label_space, encoder_block=block)
        self.tasks = tasks
        c0, c1, c2, c3, _ = parameters.channels
        # Coarsest first. Each descriptor has the channels of the skip connection that it is summed with.
        self.skips = nn.ModuleList(GuidedSkip(c, c, tasks, parameters.groups) for c in (c3, c2, c1, c0))

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run the encoder-decoder for each sample's own task; see :meth:`PartialLabelNetwork.features`."""
        code = task_code(task, self.tasks, image)

        def gated(level: int, encoded: Tensor, decoded: Tensor) -> Tensor:
            return self.skips[level](encoded, decoded, code)

        return self.finish(self.decode(self.encode(image, code), code, gated))


def _guided_where_shapes_agree(
    inputs: int, outputs: int, stride: int = 1, *, tasks: int, **options: Any
) -> PreActivationBlock:
    """Return a guided block where it maps to its own shape, else one of DoDNet."""
    if inputs != outputs or stride != 1:
        return PreActivationBlock(inputs, outputs, stride, **options)
    return GuidedBlock(inputs, outputs, stride, tasks=tasks, **options)
