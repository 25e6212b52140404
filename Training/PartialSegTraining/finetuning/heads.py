"""Which weights are the head of one task, and how they answer at sampled voxels.

The quick fine-tuning learns these and nothing else: the task's column of the controller and, for an added
task, its own map (DoDNet, KiTS21 pretraining), its rows of the finest head (MultiTalent), its last
convolution (KiTS21 transfer), its output layer (3D U2-Net, whose other domain weights lie all over the
network and are learned by the full fine-tuning). Weights of other tasks in the same tensor keep their
bits: their gradient is zero, and so is every step of an optimizer without decay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.errors import CollectionError
from PartialSegLib.inference.extractors import make_extractor
from PartialSegLib.networks import Features, KiTS21, PartialLabelNetwork, U2Net
from PartialSegLib.networks.baselines import MultiHead, MultiNets
from PartialSegLib.networks.blocks import fold_weight_standardization
from PartialSegLib.networks.contract import task_tensor
from PartialSegLib.networks.dodnet import DoDNet
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
from PartialSegLib.networks.encoder_decoder import SegmentationNetwork
from PartialSegLib.networks.multitalent import MultiTalentNetwork
from PartialSegLib.networks.own_map import OwnMap
from PartialSegTraining.finetuning.columns import Encoded, SampledCase


class TaskHead:
    """The head of one task of a network, ready to be learned.

    Parameters
    ----------
    network : PartialLabelNetwork
        Its weights are learned in place.
    task : int
        Task index.

    Raises
    ------
    CollectionError
        When this kind of network has no head that one task has for itself.
    """

    def __init__(self, network: PartialLabelNetwork, task: int) -> None:
        self.network = network
        self.task = task
        self.own_map: OwnMap | None = network.own_map(task) if isinstance(network, DoDNet) else None
        #: Weights to learn, and which of their entries; ``None`` for all.
        self.weights = _own_weights(network, task)
        if self.own_map is not None:
            self.weights += [(weight, None) for weight in self.own_map.parameters()]

    @property
    def name(self) -> str:
        """Key of the task."""
        return self.network.label_space.tasks[self.task].key

    @property
    def channels(self) -> tuple[str | None, ...]:
        """Structure of each channel of the task."""
        return self.network.label_space.tasks[self.task].channels

    @property
    def taps(self) -> bool:
        """Whether the columns are of all maps of the decoder, instead of the features."""
        return self.own_map is not None

    @property
    def reads(self) -> tuple[bool, int | None]:
        """What the columns are of: heads that read the same share them."""
        return self.taps, self.task if self.network.features_depend_on_task else None

    def encoder(self, window: tuple[int, int, int]) -> Callable[[Tensor], Encoded]:
        """Return what maps a float32 (1, 1, D, H, W) window to what is sampled of it.

        Parameters
        ----------
        window : tuple of int
            Voxels (D, H, W) of the windows to come.
        """
        device = next(self.network.parameters()).device
        if self.own_map is None:
            extractor = make_extractor(self.network, window, device)
            condition = task_tensor(self.task) if self.network.features_depend_on_task else None

            def features(image: Tensor) -> Encoded:
                found = extractor(image, condition)
                return [found.map], found.pooled

            return features
        network = fold_weight_standardization(copy.deepcopy(self.network)).eval()
        assert isinstance(network, DoDNet)
        # As the extractors have it: on the CPU, 3D convolutions are faster with channels last.
        layout = torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format
        network.to(memory_format=layout)  # type: ignore[call-overload]

        @torch.inference_mode()
        def taps(image: Tensor) -> Encoded:
            maps, shared = network.taps(image.to(device).contiguous(memory_format=layout))
            return maps, shared.pooled

        return taps

    def standardize(self, cases: Sequence[SampledCase], seed: int = 0) -> None:
        """Let a fresh map of the task's own begin with inputs of mean 0 and deviation 1.

        Maps of different depth differ in scale a hundredfold; without this the largest would decide.
        """
        if self.own_map is None:
            return
        generator = torch.Generator().manual_seed(seed)
        values = torch.cat([window.values[::7].float() for case in cases for window in case.windows])
        mean, deviation = values.mean(0), values.std(0).clamp(min=1e-3)
        first = 0
        with torch.no_grad():
            shift: Tensor | float = 0.0
            for tap in self.own_map.taps:
                assert isinstance(tap, nn.Conv3d)
                part = slice(first, first + tap.in_channels)
                scaled = torch.randn(tap.weight.shape[:2], generator=generator) / len(mean) ** 0.5 / deviation[part]
                tap.weight.copy_(scaled[:, :, None, None, None])
                shift = shift - scaled @ mean[part]
                first = part.stop
            assert isinstance(tap, nn.Conv3d)
            assert tap.bias is not None
            tap.bias.copy_(torch.as_tensor(shift))

    def logits(self, values: Tensor, pooled: Tensor) -> Tensor:
        """Answer at sampled voxels.

        Parameters
        ----------
        values : Tensor
            (S, C) columns of one window.
        pooled : Tensor
            (P,) of that window.

        Returns
        -------
        Tensor
            (S, K) logits, a column for each channel of the task.
        """
        task = task_tensor(self.task, values.device)
        channels = len(self.channels)
        if self.own_map is not None:
            assert isinstance(self.network, DoDNet)
            hidden = self.own_map.of_columns(values)
            layers = self.network.head_layers(self.network.head_parameters(pooled[None], task))
            for index, (weight, bias) in enumerate(layers):
                hidden = functional.linear(hidden if index == 0 else hidden.relu(), weight[0], bias[0])
            return hidden[:, :channels]
        features = Features(values.T.contiguous()[None, :, :, None, None], pooled[None])
        return self.network.logits(features, task)[0, :channels, :, 0, 0].T


def head_weights(network: PartialLabelNetwork) -> list[nn.Parameter]:
    """Return everything that comes after the features, of all tasks: what the full fine-tuning warms up first.

    Empty for networks that do not divide so.
    """
    modules: list[nn.Module] = []
    if isinstance(network, DynamicHeadNetwork):
        modules = [network.controller, *(network.own_maps if isinstance(network, DoDNet) else ())]
    elif isinstance(network, MultiTalentNetwork):
        modules = list(network.heads())
    elif isinstance(network, KiTS21):
        modules = [network.heads]
    elif isinstance(network, U2Net):
        modules = [network.out_tr_list, network.dSupers]
    elif isinstance(network, SegmentationNetwork):
        modules = [network.head]
    elif isinstance(network, MultiNets):
        modules = [network.network(task).head for task in range(len(network.label_space.tasks))]
    elif isinstance(network, MultiHead):
        modules = [network.decoder(task).head for task in range(len(network.label_space.tasks))]
    return [weight for module in modules for weight in module.parameters()]


def _own_weights(network: PartialLabelNetwork, task: int) -> list[tuple[nn.Parameter, Tensor | None]]:
    """Return the weights of the head of a task, and which entries of each are its own."""
    if isinstance(network, DynamicHeadNetwork) and network.task_condition:
        weight = network.controller.weight
        assert isinstance(weight, nn.Parameter)
        column = torch.zeros_like(weight)
        column[:, task - network.tasks] = 1.0
        return [(weight, column)]
    if isinstance(network, MultiTalentNetwork):
        head = network.heads()[0]
        rows = torch.zeros(len(network.outputs), device=head.weight.device)
        channels = network.label_space.tasks[task].structures
        rows[[network.outputs.index(key) for key in channels]] = 1.0
        masks = {"weight": rows[:, None, None, None, None], "bias": rows}
        return [(weight, masks[name]) for name, weight in head.named_parameters()]
    layer: nn.Module
    if isinstance(network, KiTS21):
        layer = network.heads[task]
    elif isinstance(network, U2Net):
        layer = network.out_tr_list[task]
    elif isinstance(network, MultiNets):
        layer = network.network(task).head
    elif isinstance(network, MultiHead):
        layer = network.decoder(task).head
    else:
        raise CollectionError(
            f"A {type(network).__name__} has no head that a task has for itself: 'quick' has nothing to learn.",
            "Use the mode 'full'.",
        )
    return [(weight, None) for weight in layer.parameters()]
