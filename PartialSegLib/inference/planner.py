"""How much memory and time a run will take, and what to do when it does not fit.

The forecast is computed before the run from the network (traced on tensors without storage), the
windows and the chosen structures. A :class:`Plan` is one way to run; :func:`ladder` lists the ways
from the fastest to the most frugal, and the predictor climbs down one step whenever memory runs out.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from PartialSegLib.components import SLAB_VOXELS
from PartialSegLib.errors import PartialSegError
from PartialSegLib.inference.division import Division
from PartialSegLib.inference.export import voxels_together
from PartialSegLib.inference.extractors import runs_on_openvino
from PartialSegLib.inference.slabs import block_voxels
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.inference.winograd import WinogradConv3d, extra_weight_bytes
from PartialSegLib.networks.blocks import fold_weight_standardization
from PartialSegLib.networks.contract import PartialLabelNetwork, task_tensor
from PartialSegLib.preprocessing import NetworkGrid

#: Part of the free memory that a plan may use.
HEADROOM = 0.9

#: Seconds after which a device's rate is not measured once more.
_PATIENCE = 0.5
# What it takes to number the components of a voxel: the mask, its numbers, and their first places.
_RULE_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """One way to run.

    Parameters
    ----------
    device : torch.device
        Where the network runs.
    ring_device : torch.device
        Where probabilities are accumulated.
    batch : int
        Windows computed together.
    groups : int
        Passes over the image, each for a part of the structures.
    half : bool
        Compute and accumulate in float16 (GPU only).
    """

    device: torch.device
    ring_device: torch.device
    batch: int = 1
    groups: int = 1
    half: bool = False

    def describe(self) -> str:
        """Return the plan in words, for reports and messages."""
        ring = "" if self.ring_device == self.device else f", accumulated on the {self.ring_device.type}"
        groups = "" if self.groups == 1 else f", structures in {self.groups} groups"
        return f"{self.device}, {'float16' if self.half else 'float32'}, {self.batch} window(s) at a time{ring}{groups}"


@dataclass(frozen=True)
class NetworkCosts:
    """What one window costs.

    Parameters
    ----------
    flops : int
        Floating-point operations of the features.
    activation_bytes : int
        Largest memory of intermediate results, float32.
    weight_bytes : int
        Memory of the weights, float32.
    map_channels : int
        Channels of the feature map that the heads see.
    scratch_bytes : int
        What PyTorch needs on the CPU beside the intermediate results.
    openvino : bool
        Whether OpenVINO is the engine of the CPU. It keeps its intermediate results between windows
        and runs.
    winograd_bytes : int
        Memory of the further weights of Winograd's convolutions, which PyTorch has on the CPU.
    """

    flops: int
    activation_bytes: int
    weight_bytes: int
    map_channels: int
    scratch_bytes: int = 0
    openvino: bool = False
    winograd_bytes: int = 0

    def network_bytes(self, plan: Plan, *, warm: bool) -> int:
        """Return the memory that the network adds where it runs; `warm` if its engine ran before."""
        scale = 2 if plan.half else 4
        weights = 0 if warm else self.weight_bytes * (1 + scale // 4)
        if plan.device.type != "cpu":
            return self.activation_bytes // 4 * scale * plan.batch + weights
        if self.openvino:
            return 0 if warm else self.activation_bytes + weights
        more = 0 if warm else self.winograd_bytes
        return self.activation_bytes * plan.batch + self.scratch_bytes + weights + more


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    Parameters
    ----------
    plan : Plan
        The way it is run.
    windows : int
        Windows computed, over all groups and mirrored copies, and tasks where features depend on them.
    seconds : float
        Expected time of the windows.
    host_bytes : int
        Expected peak of main memory, beyond the image itself.
    device_bytes : int
        Expected peak of GPU memory; 0 on the CPU.
    """

    plan: Plan
    windows: int
    seconds: float
    host_bytes: int
    device_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the forecast for a report."""
        return {
            "plan": self.plan.describe(),
            "device": str(self.plan.device),
            "accumulated_on": str(self.plan.ring_device),
            "groups": self.plan.groups,
            "windows": self.windows,
            "seconds": round(self.seconds, 1),
            "host_bytes": self.host_bytes,
            "device_bytes": self.device_bytes,
        }


def network_costs(network: PartialLabelNetwork, window: tuple[int, int, int]) -> NetworkCosts:
    """Trace the features of one window without computing them.

    Parameters
    ----------
    network : PartialLabelNetwork
        Any state; it is copied to storage-less tensors.
    window : tuple of int
        (D, H, W).
    """
    ghost = fold_weight_standardization(copy.deepcopy(network).to("meta")).eval()
    image = torch.empty(1, network.input_channels(0), *window, device="meta")
    task = task_tensor(0, "meta") if network.features_depend_on_task else None
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        ghost.features(image, task)
    with torch.no_grad(), _LiveBytes() as live:
        channels = ghost.features(image, task).map.shape[1]
    # PyTorch unfolds the 3x3x3 neighborhoods of images with few channels for their first convolution.
    scratch = 27 * image.numel() * 4
    return NetworkCosts(
        flops.get_total_flops(),
        live.peak,
        weight_bytes(network),
        channels,
        scratch,
        runs_on_openvino(network),
        extra_weight_bytes(ghost),
    )


def weight_bytes(network: nn.Module) -> int:
    """Return the memory of a network's weights in bytes."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def forecast(
    plan: Plan,
    costs: NetworkCosts,
    windows: WindowGrid,
    grid: NetworkGrid,
    division: Division,
    *,
    copies: int = 1,
    seconds_per_window: float | None = None,
    warm: bool = False,
) -> Forecast:
    """Predict memory and time of a plan.

    The accumulator is ``C * (window depth + 1) * H * W`` values, independent of the length of the
    scan; what grows with it is the resampled image and the packed result, which is taken to fill
    the whole crop.

    Parameters
    ----------
    division : Division
        Chosen structures.
    copies : int
        Mirrored copies of each window.
    seconds_per_window : float, optional
        Measured in an earlier run; estimated from the network's operations otherwise.
    warm : bool
        Whether the plan's engine is loaded and has computed windows before.
    """
    volume, padded = prod(grid.shape) * 4, prod(windows.shape) * 4
    loaded = volume if padded == volume else volume + padded
    z, y, x = grid.crop_shape
    packed = sum(len(unit) for unit in division.units) * z * y * -(-x // 8)
    stitching, network = _stitching_bytes(plan, costs, windows, grid, division), costs.network_bytes(plan, warm=warm)
    on_cpu = plan.device.type == "cpu", plan.ring_device.type == "cpu"
    host, device = (
        sum(size for size, here in zip((network, stitching), on_cpu, strict=True) if here is wanted)
        for wanted in (True, False)
    )
    resampling = volume + z * grid.shape[1] * grid.shape[2] * 4
    rules = 2 * packed + _RULE_BYTES * min(SLAB_VOXELS, z * y * x)
    count = len(windows) * copies * division.encodings(plan.groups)
    pace = seconds_per_window or costs.flops / device_speed(plan.device, plan.half)
    return Forecast(plan, count, count * pace, max(loaded + packed + host, resampling, rules), device)


def _stitching_bytes(
    plan: Plan, costs: NetworkCosts, windows: WindowGrid, grid: NetworkGrid, division: Division
) -> int:
    """Return the memory of the ring, and of what is blended into it or exported from it."""
    channels, where = division.widest(plan.groups), plan.ring_device
    depth = min(windows.window[0] + 1, windows.shape[0])
    ring = channels * depth * windows.shape[1] * windows.shape[2] * (2 if plan.half else 4)
    block = channels * block_voxels(channels, torch.get_num_threads(), where) * 4 * 4
    # The window itself and its weight, with room for a copy of each; its feature map, which PyTorch
    # has in two memory layouts, and which rarely comes to lie where the last one was; and the logits
    # of all tasks, where each has features of its own.
    window = prod(windows.window) * 4 * (4 + 2 * costs.map_channels + channels * division.by_task)
    slab = prod(grid.crop_shape) * depth // windows.shape[0]
    return ring + max(block + window, 4 * 4 * min(voxels_together(where), slab))


def ladder(device: torch.device, units: int) -> Iterator[Plan]:
    """Yield the plans for a device and the units of a :class:`Division`, from the fastest to the most frugal."""
    cpu = torch.device("cpu")
    if device.type != "cpu":
        plan = Plan(device, device, batch=4, half=device.type == "cuda")
        for batch in (4, 2, 1):
            yield replace(plan, batch=batch)
        for groups in _halvings(units):
            yield replace(plan, batch=1, groups=groups)
        yield replace(plan, batch=1, ring_device=cpu)
    yield Plan(cpu, cpu)
    for groups in _halvings(units):
        yield Plan(cpu, cpu, groups=groups)


def device_named(name: str) -> torch.device:
    """Return a device by its name, ``auto`` for a CUDA GPU if there is one; it is tried out."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise PartialSegError(
            f"There is no device '{name}' here.", f"Choose auto or one of: {', '.join(known)}."
        ) from error
    return device


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, or in main memory."""
    if device.type == "cuda":
        # What torch keeps of what was freed, a run can use too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return int(psutil.virtual_memory().available)


def memory_for_run(spare: int = 0) -> int:
    """Return the main memory in bytes that a run may take now, `spare` of it used by what can be freed."""
    return int(HEADROOM * (free_memory(torch.device("cpu")) + spare))


def fits(expected: Forecast, spare: int = 0) -> bool:
    """Whether a forecast fits into what is free now, and `spare` bytes of main memory that can be freed."""
    host = expected.host_bytes <= memory_for_run(spare)
    if expected.plan.device.type != "cuda":
        return host
    return host and expected.device_bytes <= HEADROOM * free_memory(expected.plan.device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out (CUDA, the CPU allocator, NumPy, OpenVINO)."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text


@cache
def device_speed(device: torch.device, half: bool = False) -> float:
    """Measure a device's rate for 3D convolutions once, in operations a second (under half a second)."""
    dtype = torch.float16 if half else torch.float32
    convolution = nn.Conv3d(32, 32, 3, padding=1, bias=False).to(device, dtype)
    # Normalization, activation and upsampling take a fifth to a half as long again as the convolutions.
    on_cpu = device.type == "cpu"
    layer, size, more = (WinogradConv3d(convolution), 48, 1.2) if on_cpu else (convolution, 128, 1.5)
    image = torch.randn(1, 32, size, size, size, device=device, dtype=dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(4):
            _wait(device)
            started = time.perf_counter()
            layer(image)
            _wait(device)
            best = min(best, took := time.perf_counter() - started)
            if took > _PATIENCE:
                # A computer that is busy with something else.
                break
    return 2 * 27 * 32 * 32 * size**3 / best / more


def _halvings(units: int) -> Iterator[int]:
    groups = 2
    while groups < 2 * units:
        yield min(groups, units)
        groups *= 2


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _LiveBytes(TorchDispatchMode):
    """Follows how many bytes of results are alive while a network is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size
