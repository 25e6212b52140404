"""The networks of nnU-Net v2, ``PlainConvUNet`` and ``ResidualEncoderUNet``, with either kind of its heads.

Isensee et al.: nnU-Net, Nature Methods 2021; nnU-Net Revisited, MICCAI 2024. The topology is that of
the maintained package ``dynamic-network-architectures``, which is imported when such a network is
built and only then. Decided here: what its heads mean. Labels that exclude each other share a softmax
(:class:`NnUNetLabels`), regions that overlap have a sigmoid each (:class:`NnUNetRegions`). Built from a
card by :func:`PartialSegLib.networks.build_network`; :mod:`PartialSegLib.published.nnunet_v2` writes
such cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.errors import MissingExtraError
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.networks.multitalent.base import MultiTalentNetwork
from PartialSegLib.networks.multitalent.blocks import Triple, decode
from PartialSegLib.structures import LabelSpace

#: Architectures, and what each calls the number of convolutions or blocks of the stages of its encoder.
ARCHITECTURES: Mapping[str, str] = {
    "PlainConvUNet": "n_conv_per_stage",
    "ResidualEncoderUNet": "n_blocks_per_stage",
}
#: Activations that plans may ask for.
NONLINEARITIES: Mapping[str, type[nn.Module]] = {"LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU}


@dataclass(frozen=True)
class NnUNetParameters:
    """Shape of a network, as the ``arch_kwargs`` of plans say it, stage by stage from full resolution on.

    Convolutions are ``Conv3d`` and norms ``InstanceNorm3d``: plans of nnU-Net v2 for volumes have no others.

    Parameters
    ----------
    architecture : str
        One of :data:`ARCHITECTURES`.
    features_per_stage : tuple of int
        Channels.
    kernel_sizes : tuple of three int
        Of the convolutions, (D, H, W), odd.
    strides : tuple of three int
        By how much the stage is coarser than the one before, (D, H, W); 1, 1, 1 for the first.
    encoder : tuple of int
        Convolutions, or residual blocks, of each stage of the encoder.
    decoder : tuple of int
        Convolutions of each stage of the decoder, one stage less.
    conv_bias : bool
        Whether convolutions have a bias.
    norm_eps : float
        Of the norms.
    norm_affine : bool
        Whether norms have a weight and a bias.
    nonlin : str
        One of :data:`NONLINEARITIES`; of a LeakyReLU `negative_slope` is the slope.

    Raises
    ------
    ValueError
        When the stages do not fit each other, or a name is unknown.
    """

    architecture: str
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    conv_bias: bool = True
    norm_eps: float = 1e-5
    norm_affine: bool = True
    nonlin: str = "LeakyReLU"
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        for name in ("kernel_sizes", "strides"):  # JSON has lists
            object.__setattr__(self, name, tuple(tuple(sizes) for sizes in getattr(self, name)))
        for name, known in (("architecture", ARCHITECTURES), ("nonlin", NONLINEARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is none of {', '.join(known)}")
        stages = len(self.features_per_stage)
        counts = [len(values) for values in (self.kernel_sizes, self.strides, self.encoder, (*self.decoder, None))]
        if stages < 2 or counts != [stages] * 4:
            raise ValueError(
                f"{stages} features_per_stage do not fit {counts[0]} kernel_sizes, {counts[1]} strides, "
                f"{counts[2]} stages of the encoder and {counts[3] - 1} of the decoder"
            )
        if any(type(size) is not int or size < 1 for size in self._sizes()):
            raise ValueError("features, kernels, strides and counts are not all positive whole numbers")
        if any(len(sizes) != 3 for sizes in (*self.kernel_sizes, *self.strides)):
            raise ValueError("kernel_sizes and strides are not three numbers for each stage")
        if any(size % 2 != 1 for sizes in self.kernel_sizes for size in sizes):
            raise ValueError(f"the kernel_sizes {self.kernel_sizes} are not all odd")
        if self.strides[0] != (1, 1, 1):
            raise ValueError(f"the first stage has stride {self.strides[0]}, but the map of the heads is as fine as it")

    def _sizes(self) -> list[Any]:
        """Return every size and count."""
        triples = [size for sizes in (*self.kernel_sizes, *self.strides) for size in sizes]
        return [*self.features_per_stage, *self.encoder, *self.decoder, *triples]

    @property
    def divisor(self) -> Triple:
        """By how much the bottleneck is coarser than the image, (D, H, W)."""
        depth, height, width = (prod(sizes) for sizes in zip(*self.strides, strict=True))
        return depth, height, width


class Backbone(nn.Module):
    """Encoder, decoder and heads of a network of nnU-Net, each weight under one name.

    nnU-Net lists many weights twice (the encoder again in the decoder, every layer again in
    ``all_modules``), which a bundle cannot hold: files of safetensors have no shared weights.

    Parameters
    ----------
    parameters : NnUNetParameters
        Stages.
    outputs : int
        Channels of every head.

    Raises
    ------
    MissingExtraError
        When the package of the networks is not installed.
    """

    def __init__(self, parameters: NnUNetParameters, outputs: int) -> None:
        super().__init__()
        network = released_network(parameters, outputs)
        _name_once(network)
        self.encoder = cast(nn.Module, network.encoder)
        self.decoder = cast(nn.Module, network.decoder)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the map of every stage of the decoder, finest first, (N, F, D / s, H / s, W / s)."""
        upsampling, stages = (cast(nn.ModuleList, getattr(self.decoder, name)) for name in ("transpconvs", "stages"))
        return decode(self.encoder(image), upsampling, stages)

    def heads(self) -> list[nn.Conv3d]:
        """Return the 1x1x1 convolution of every stage of the decoder, finest first."""
        return cast("list[nn.Conv3d]", list(cast(nn.ModuleList, self.decoder.seg_layers))[::-1])


class NnUNetRegions(MultiTalentNetwork):
    """A network of nnU-Net trained on regions: one sigmoid output per structure.

    With a label space of one task the outputs are nnU-Net's own, in their order.

    Parameters
    ----------
    parameters : NnUNetParameters
        Stages.
    label_space : LabelSpace
        One output per structure.
    """

    def __init__(self, parameters: NnUNetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: NnUNetParameters = parameters
        self.backbone = Backbone(parameters, len(self.outputs))

    @property
    def divisor(self) -> Triple:
        """Window sizes must be multiples of the product of the strides."""
        return self.parameters_.divisor

    def heads(self) -> list[nn.Conv3d]:
        """See :meth:`MultiTalentNetwork.heads`."""
        return self.backbone.heads()

    def decoder_maps(self, image: Tensor) -> list[Tensor]:
        """See :meth:`MultiTalentNetwork.decoder_maps`."""
        return self.backbone.maps(image)


class NnUNetLabels(ExclusiveNetwork):
    """A network of nnU-Net trained on labels: a softmax over the background and the structures of a task.

    With a label space of one task the outputs are nnU-Net's own, in their order. Several tasks share
    the features, and each has a softmax of its own.

    Masks are where the probability of a structure exceeds one half; nnU-Net takes the most probable
    class. Where no class has a majority, a voxel lies in no mask here.

    Parameters
    ----------
    parameters : NnUNetParameters
        Stages.
    label_space : LabelSpace
        Its classes are the background and one for each channel, task by task.
    """

    def __init__(self, parameters: NnUNetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: NnUNetParameters = parameters
        classes = [len(task.channels) + 1 for task in label_space.tasks]
        self.backbone = Backbone(parameters, sum(classes))
        # Tasks of fewer classes are padded with a row behind the last one, of which no softmax sees anything.
        rows = torch.full((len(classes), max(classes)), sum(classes))
        for index, count in enumerate(classes):
            rows[index, :count] = torch.arange(count) + sum(classes[:index])
        self.rows: Tensor
        self.register_buffer("rows", rows, persistent=False)

    @property
    def divisor(self) -> Triple:
        """Window sizes must be multiples of the product of the strides."""
        return self.parameters_.divisor

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Return the finest decoder map; see :meth:`PartialLabelNetwork.features`."""
        finest = self.backbone.maps(image)[0]
        return Features(finest, finest.new_zeros(len(finest), 0))

    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """See :meth:`ExclusiveNetwork.class_logits`."""
        return self._classes(self.backbone.heads()[0], features.map, task)

    def training_outputs(self, image: Tensor, task: Tensor) -> list[Tensor]:
        """Return the class logits of every decoder map, finest first; see :class:`PartialLabelNetwork`."""
        pairs = zip(self.backbone.heads(), self.backbone.maps(image), strict=True)
        return [self._classes(head, hidden, task) for head, hidden in pairs]

    def _classes(self, head: nn.Conv3d, hidden: Tensor, task: Tensor) -> Tensor:
        """Apply to each sample the rows of its own task."""
        used = int((self.rows[task] < head.out_channels).sum(1).max())
        rows = self.rows[task, :used]
        weight = functional.pad(head.weight.flatten(1), (0, 0, 0, 1))[rows]
        own_bias = head.weight.new_zeros(head.out_channels) if head.bias is None else head.bias
        bias = functional.pad(own_bias, (0, 1), value=-torch.inf)[rows]
        voxels = hidden.flatten(2)
        answer = torch.baddbmm(bias[..., None].to(voxels.dtype), weight.to(voxels.dtype), voxels)
        return answer.unflatten(2, hidden.shape[2:])


def released_network(parameters: NnUNetParameters, outputs: int) -> nn.Module:
    """Return a network of nnU-Net as its package builds it, with fresh weights.

    Parameters
    ----------
    parameters : NnUNetParameters
        Stages.
    outputs : int
        Channels of every head.

    Raises
    ------
    MissingExtraError
        When the package is not installed.
    """
    try:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    except ImportError as error:
        raise MissingExtraError("Networks of nnU-Net", "nnunet") from error
    built = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}[parameters.architecture]
    slope = {"negative_slope": parameters.negative_slope} if parameters.nonlin == "LeakyReLU" else {}
    network: nn.Module = built(
        input_channels=1,
        n_stages=len(parameters.features_per_stage),
        features_per_stage=parameters.features_per_stage,
        conv_op=nn.Conv3d,
        kernel_sizes=parameters.kernel_sizes,
        strides=parameters.strides,
        num_classes=outputs,
        n_conv_per_stage_decoder=parameters.decoder,
        conv_bias=parameters.conv_bias,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": parameters.norm_eps, "affine": parameters.norm_affine},
        nonlin=NONLINEARITIES[parameters.nonlin],
        nonlin_kwargs={"inplace": True, **slope},
        deep_supervision=True,
        **{ARCHITECTURES[parameters.architecture]: parameters.encoder},
    )
    network.apply(network.initialize)  # type: ignore[arg-type]
    return network


def released_names(parameters: NnUNetParameters, outputs: int) -> dict[str, str]:
    """Return the name here of every name in a state dictionary of nnU-Net; aliases lead to one name.

    Parameters
    ----------
    parameters : NnUNetParameters
        Stages.
    outputs : int
        Channels of every head.
    """
    with torch.device("meta"):
        network = released_network(parameters, outputs)
    released = dict(network.named_parameters(remove_duplicate=False))
    _name_once(network)
    own = {id(weight): f"backbone.{name}" for name, weight in network.named_parameters()}
    return {name: own[id(weight)] for name, weight in released.items()}


def _name_once(network: nn.Module) -> None:
    """Remove the second names of modules; ``forward`` of every block uses ``all_modules`` alone."""
    del cast(nn.Module, network.decoder).encoder
    for block in list(network.modules()):
        sequence = getattr(block, "all_modules", None)
        if isinstance(sequence, nn.Sequential):
            for name, child in list(block.named_children()):
                if any(child is part for part in sequence):
                    delattr(block, name)
