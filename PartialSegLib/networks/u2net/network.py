"""3D U2-Net: one network for many domains, each with filters, input and output of its own.

Huang, Han, Yao, Zhu, Zhou: 3D U2-Net, MICCAI 2019. A domain is one task of the label space: its
images have channels of their own (T2 and ADC of the prostate), and its classes exclude each other.
Where the released network differs from the paper (normalization and activation inside the domain
adapter, 1x1x1 convolutions at the end of decoder blocks), this is the released one, with its
parameter names, so that trained weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from PartialSegLib.errors import ImageError
from PartialSegLib.networks.conditioning import by_task, given, tasks_of
from PartialSegLib.networks.contract import Features
from PartialSegLib.networks.exclusive import ExclusiveNetwork
from PartialSegLib.networks.u2net.domains import (
    DomainList,
    check_modalities,
    pad_channels,
    per_domain,
)
from PartialSegLib.networks.u2net.levels import (
    DomainLayer,
    DownBlock,
    DownSample,
    Stride,
    UpBlock,
    UpSample,
    enlarge,
)
from PartialSegLib.networks.u2net.units import SLOPE, UNITS, Unit
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class U2NetParameters:
    """Size and variant of a 3D U2-Net. The defaults are the published *universal* network.

    Parameters
    ----------
    variant : str
        What the domains share: ``universal`` (pointwise and strided convolutions), ``shared`` (all
        convolutions), or all convolutions with residual adapters in ``parallel`` or in ``series``.
        Input, output, deep supervision and normalizations are each domain's own in all of them.
    modalities : tuple of int
        Channels of an image: one number for all domains, or one per task of the label space.
    channels : int
        Channels of the first level; they double with every level.
    halvings : tuple of int
        How often each axis (D, H, W) is halved; one of them 3 times or more. An axis that is halved
        less often than another has fewer voxels to begin with, and is halved on the last levels.
    decoder_kernel : int
        Kernel of the last convolution of a decoder block: 1 as released, 3 as the paper counts.
        In the universal network it is channel-wise, and 3x3x3 in either case.
    """

    variant: str = "universal"
    modalities: tuple[int, ...] = (1,)
    channels: int = 16
    halvings: tuple[int, ...] = (5, 5, 5)
    decoder_kernel: int = 1

    def __post_init__(self) -> None:
        if self.variant not in UNITS:
            raise ValueError(f"there is no variant '{self.variant}' among {', '.join(UNITS)}")
        if not self.modalities or min(self.modalities) < 1:
            raise ValueError(f"images cannot have {self.modalities} channels")
        if len(self.halvings) != 3 or min(self.halvings) < 0 or max(self.halvings) < 3:
            raise ValueError(f"halvings are three numbers and one of them 3 or more, which {self.halvings} are not")
        if self.channels < 1 or self.decoder_kernel not in (1, 3):
            raise ValueError(f"{self.channels} channels and a decoder kernel of {self.decoder_kernel} make no network")

    @property
    def strides(self) -> list[Stride]:
        """Step from each level to the next coarser one, finest first."""
        count = max(self.halvings)
        d, h, w = ([2 if level >= count - axis else 1 for level in range(count)] for axis in self.halvings)
        return list(zip(d, h, w, strict=True))


class U2Net(ExclusiveNetwork):
    """3D U2-Net with domain adapters, or without them the shared network (Section 2.3).

    Features depend on the task in every variant: even the shared network has an input layer and
    normalizations for each domain.

    Masks are where the probability of a structure exceeds one half, each for itself, which keeps memory
    bounded; the released inference takes the most probable class. With two classes that is the same.
    With more, a voxel where no class has a majority lies in no mask here, but may lie in one there.

    Parameters
    ----------
    parameters : U2NetParameters
        Size and variant.
    label_space : LabelSpace
        One domain per task; its classes are the background and one for each channel.
    """

    features_depend_on_task = True

    def __init__(self, parameters: U2NetParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: U2NetParameters = parameters
        # Rounding grows a hundred times larger in it than in the other variants: with random weights, values
        # rounded to float16 after every layer move a quarter of all voxels to another class (shared: 0.6 %).
        self.features_half = parameters.variant != "universal"
        self.modalities = per_domain(parameters.modalities, label_space)
        self.classes = [len(task.channels) + 1 for task in label_space.tasks]
        domains, strides = len(self.classes), parameters.strides
        widths = [parameters.channels * 2**level for level in range(len(strides) + 1)]
        steps = list(zip(widths[:-1], widths[1:], strides, strict=True))

        def unit(inputs: int, outputs: int, kernel: int = 3) -> Unit:
            return UNITS[parameters.variant](inputs, outputs, domains, kernel)

        def supervision(width: int) -> DomainList:
            return DomainList(domains, lambda domain: DomainLayer(width, self.classes[domain], 1))

        def output(domain: int) -> nn.Module:
            return nn.ModuleDict({"conv1": nn.Conv3d(widths[0], self.classes[domain], 1)})

        self.in_tr_list = DomainList(domains, lambda domain: DomainLayer(self.modalities[domain], widths[0], 3))
        self.down_blocks = nn.ModuleList(DownBlock(unit, width) for width in widths)
        self.down_samps = nn.ModuleList(DownSample(fine, coarse, domains, stride) for fine, coarse, stride in steps)
        self.up_samps = nn.ModuleList(UpSample(unit, coarse, fine, stride) for fine, coarse, stride in steps)
        self.up_blocks = nn.ModuleList(UpBlock(unit, width, parameters.decoder_kernel) for width in widths[:-1])
        self.dSupers = nn.ModuleList(supervision(widths[level]) for level in (2, 1))
        self.out_tr_list = DomainList(domains, output)
        _initialize(self)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of this (32 as published), and one of them a larger multiple."""
        depth, height, width = (2**count for count in self.parameters_.halvings)
        return depth, height, width

    def input_channels(self, task: int) -> int:
        """Return how many channels an image of the domain has (C_t in Section 2.1)."""
        return self.modalities[task]

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        """Run encoder, decoder and deep supervision of each sample's own domain.

        Parameters
        ----------
        image : Tensor
            (N, C, D, H, W); all domains of a batch have C channels.
        task : Tensor
            (N,) int64 task indices.

        Returns
        -------
        Features
            The finest map of the decoder (``channels``), and after it the summed maps of the deep
            supervision, one channel per class, padded with zeros to the domain that has most.
            Nothing is pooled.

        Raises
        ------
        ImageError
            When images have not the channels of their domain, or windows a size that does not fit.
        """
        task = given(task)
        check_modalities(self, image, task)
        self._check_window(image)
        features = by_task(task, lambda domain, rows: self._domain_features(image[rows], domain))
        return Features(features, image.new_zeros(len(image), 0))

    def class_logits(self, features: Features, task: Tensor) -> Tensor:
        """Add the output layer and the deep supervision; see :meth:`ExclusiveNetwork.class_logits`."""
        most = max(self.classes[domain] for domain in tasks_of(task))
        width = self.parameters_.channels

        def answer(domain: int, rows: Tensor | slice) -> Tensor:
            output = self.out_tr_list[domain]
            assert isinstance(output, nn.ModuleDict)
            # The inference engine may have computed the features in half precision.
            values = features.map[rows].to(next(output.parameters()).dtype)
            logits = output["conv1"](values[:, :width]) + values[:, width : width + self.classes[domain]]
            return pad_channels(logits, most, -torch.inf)

        return by_task(task, answer)

    def _domain_features(self, image: Tensor, domain: int) -> Tensor:
        """Return the feature map of a batch of one domain."""
        hidden = self.in_tr_list[domain](image)
        skips = []
        for level, sample in enumerate(self.down_samps):
            skips.append(self.down_blocks[level](hidden, domain))
            hidden = sample(skips[-1], domain)
        hidden = self.down_blocks[-1](hidden, domain)
        supervision: Tensor | None = None
        for level in reversed(range(len(skips))):
            hidden = torch.cat([self.up_samps[level](hidden, domain), skips.pop()], 1)
            hidden = self.up_blocks[level](hidden, domain)
            if level in (2, 1):
                supervision = self._supervise(hidden, supervision, level, domain)
        assert supervision is not None
        return torch.cat([hidden, pad_channels(supervision, max(self.classes), 0.0)], 1)

    def _supervise(self, hidden: Tensor, coarser: Tensor | None, level: int, domain: int) -> Tensor:
        """Add a level's segmentation map to that of the coarser one; return the sum at the next finer level."""
        layers = self.dSupers[2 - level]
        assert isinstance(layers, DomainList)
        own = layers[domain](hidden)
        return enlarge(own if coarser is None else own + coarser, self.parameters_.strides[level - 1])

    def _check_window(self, image: Tensor) -> None:
        sizes, divisor = tuple(image.shape[2:]), self.divisor
        fits = not any(size % step for size, step in zip(sizes, divisor, strict=True))
        if not fits or sizes == divisor:
            raise ImageError(
                f"A window of {sizes} voxels does not fit the network.",
                f"Its sizes have to be multiples of {divisor}, one of them twice that or more: "
                "the coarsest level needs two voxels to normalize.",
            )


def _initialize(network: nn.Module) -> None:
    """Give convolutions Kaiming weights and no bias, as the released training does."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
