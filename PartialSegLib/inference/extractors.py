"""Running the expensive part of a network on one window, as fast as the machine allows.

The CPU takes PyTorch with folded weight standardization, channels-last memory
(:mod:`PartialSegLib.inference.rewriting`) and Winograd's convolutions
(:mod:`PartialSegLib.inference.winograd`), or on an Intel processor OpenVINO, where it is installed; a GPU
takes half precision. Each extractor has its own copy of the network: the caller's stays in float32 for
the heads.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from PartialSegLib.inference.rewriting import keep_blocked_layout, keep_channels_last
from PartialSegLib.inference.winograd import use_winograd
from PartialSegLib.networks.blocks import fold_weight_standardization
from PartialSegLib.networks.contract import Features, PartialLabelNetwork


class Extractor(Protocol):
    """Features of a batch of windows."""

    #: How the features are computed, for reports.
    name: str

    def __call__(self, windows: Tensor, task: Tensor | None = None) -> Features:
        """Return the features of float32 (N, 1, D, H, W) windows; float32 or float16."""


class TorchExtractor:
    """PyTorch, on any device.

    Parameters
    ----------
    network : PartialLabelNetwork
        In eval mode; it is copied.
    device : torch.device
        Where to compute.
    half : bool
        Compute in float16 (GPU only).
    """

    def __init__(self, network: PartialLabelNetwork, device: torch.device, *, half: bool = False) -> None:
        self._network = fold_weight_standardization(copy.deepcopy(network)).eval().to(device)
        self._dtype = torch.float16 if half else torch.float32
        self._network.to(self._dtype)
        self._device = device
        # On CUDA, channels-last slows 3D normalization down; on the CPU it gains by itself 1.2 to 1.4 times.
        self._format = torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format
        self._network.to(memory_format=self._format)  # type: ignore[call-overload]
        if device.type == "cpu":
            use_winograd(self._network)
            keep_channels_last(self._network)
        precision = "float16" if half else "float32"
        self.name = f"PyTorch {precision}" + (" channels-last, Winograd" if device.type == "cpu" else "")

    @torch.inference_mode()
    def __call__(self, windows: Tensor, task: Tensor | None = None) -> Features:
        """See :class:`Extractor`."""
        batch = windows.to(self._device, self._dtype).contiguous(memory_format=self._format)
        features = self._network.features(batch, None if task is None else task.to(self._device))
        return Features(features.map, features.pooled.float())


class OpenVINOExtractor:
    """OpenVINO on the CPU, for networks whose features compile and do not depend on the task.

    Parameters
    ----------
    network : PartialLabelNetwork
        In eval mode, with ``features_compile``; it is converted, not changed.
    window : tuple of int
        Voxels of a window, (D, H, W); the graph is compiled for this size.
    """

    name = "OpenVINO float32"

    def __init__(self, network: PartialLabelNetwork, window: tuple[int, int, int]) -> None:
        openvino = _import_openvino()
        own = fold_weight_standardization(copy.deepcopy(network)).eval()
        # Tracing runs the network once, so a small window is traced and the graph reshaped.
        example = torch.zeros(1, 1, *(2 * size for size in network.divisor))
        keep_blocked_layout(own, example)
        with torch.inference_mode(), warnings.catch_warnings():
            # Norms look at the size of the window while they are traced; `features_compile` says that no
            # step follows from it.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            graph = openvino.convert_model(_FeaturesOnly(own), example_input=example)
        graph.reshape([1, 1, *window])
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        self._shapes = [tuple(output.shape) for output in compiled.outputs]
        self._request = compiled.create_infer_request()
        self._tensor = openvino.Tensor

    def __call__(self, windows: Tensor, task: Tensor | None = None) -> Features:
        """See :class:`Extractor`."""
        answers = [self._compute(window) for window in windows.float().contiguous()]
        return Features(_joined([answer[0] for answer in answers]), _joined([answer[1] for answer in answers]))

    def _compute(self, window: Tensor) -> list[Tensor]:
        """Return the feature map and the pooled vector of a (1, D, H, W) window."""
        # The engine writes straight into tensors of ours: it has nothing to copy, nor have we.
        answers = [torch.empty(shape) for shape in self._shapes]
        for index, answer in enumerate(answers):
            self._request.set_output_tensor(index, self._tensor(answer.numpy(), shared_memory=True))
        self._request.infer([window[None].numpy()], share_inputs=True)
        return answers


def make_extractor(
    network: PartialLabelNetwork, window: tuple[int, int, int], device: torch.device, *, half: bool = False
) -> Extractor:
    """Return the fastest extractor for the network on the device.

    Parameters
    ----------
    network : PartialLabelNetwork
        In eval mode.
    window : tuple of int
        Voxels of a window, (D, H, W).
    device : torch.device
        Where to compute.
    half : bool
        Use float16; on a GPU only.
    """
    if device.type == "cpu" and runs_on_openvino(network):
        return OpenVINOExtractor(network, window)
    return TorchExtractor(network, device, half=half and device.type != "cpu")


def runs_on_openvino(network: PartialLabelNetwork) -> bool:
    """Whether OpenVINO computes the features of a network on the CPU here.

    It is Intel's, and does on a processor of Intel what is expected of it. On one of AMD it takes a fifth
    longer than PyTorch with Winograd's convolutions, and seconds more to begin
    (``Testing/benchmarks/bench_backbone.py`` compares the two); others were not measured.
    """
    suitable = network.features_compile and not network.features_depend_on_task
    return suitable and openvino_installed() and made_by_intel()


def openvino_installed() -> bool:
    """Whether OpenVINO can be used here."""
    return importlib.util.find_spec("openvino") is not None


@cache
def made_by_intel() -> bool:
    """Whether OpenVINO finds a processor of Intel; not where it does not work."""
    try:
        name = _import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME")
    except (ImportError, OSError, RuntimeError):
        return False
    return "intel" in str(name).lower()


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenate without copying the usual single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _FeaturesOnly(nn.Module):
    """The task-independent part of a network as a module of its own, for tracing."""

    def __init__(self, network: PartialLabelNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(image)
        return features.map, features.pooled


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry: nothing is ever sent from here.

    OpenVINO's converter reports its use through the package ``openvino_telemetry`` when that can be
    imported, and works without it. It stays blocked for the life of the process, because the
    converter looks for it again whenever it runs.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import openvino.tools.ovc

    return openvino
