"""Carrying out a plan: every window encoded, all wanted heads blended, finished slabs exported.

Called by the predictor, which chooses the plan and handles what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.inference.division import Division
from PartialSegLib.inference.export import Confidence, SlabExporter
from PartialSegLib.inference.extractors import Extractor
from PartialSegLib.inference.heads import DenseRows, JoinedLogits, LogitSource, Selection, logit_source, select_channels
from PartialSegLib.inference.planner import Plan
from PartialSegLib.inference.slabs import SlabRing
from PartialSegLib.inference.windows import Starts, WindowGrid
from PartialSegLib.networks.contract import Features, PartialLabelNetwork, task_tensor
from PartialSegLib.preprocessing import NetworkGrid
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import PackedMask


@dataclass(frozen=True)
class Job:
    """What is segmented, and how.

    Parameters
    ----------
    volume : Tensor
        float32 (D, H, W) input, padded to ``windows.shape``.
    grid : NetworkGrid
        Its place in the image, without the padding.
    windows : WindowGrid
        All windows.
    structures : tuple of str
        Wanted structures.
    mirror_axes : tuple of int
        Axes of a (D, H, W) window along which mirrored copies are averaged.
    uncertainty : bool
        Gather the entropy too.
    stage : str
        Name of the work in progress reports.
    slab : callable, optional
        Called after each slab with the masks of its voxels, by structure, on the image's own grid.
    """

    volume: Tensor
    grid: NetworkGrid
    windows: WindowGrid
    structures: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    uncertainty: bool
    stage: str
    slab: Callable[[dict[str, PackedMask]], object] | None = None

    @property
    def mirrorings(self) -> list[tuple[int, ...]]:
        """Axes of a (D, H, W) window that each copy is mirrored along; one of them is not mirrored."""
        choices = product(*([(), (axis,)] for axis in self.mirror_axes))
        return [tuple(axis for chosen in choice for axis in chosen) for choice in choices]


@dataclass
class Outcome:
    """What the passes over an image found.

    Parameters
    ----------
    masks : dict of str to PackedMask
        One per wanted structure, on the image's own grid.
    entropy : numpy.ndarray, optional
        float32 (z, y, x) of the crop: mean binary entropy of the structures, in bits.
    structure_entropy : dict of str to float
        Mean entropy of each structure inside its own mask.
    windows : int
        How many windows were encoded: over all groups and mirrored copies, and tasks where features
        depend on them.
    windows_from_cache : int
        How many of them were not computed, because a cache had their features.
    """

    masks: dict[str, PackedMask] = field(default_factory=dict)
    entropy: np.ndarray | None = None
    structure_entropy: dict[str, float] = field(default_factory=dict)
    windows: int = 0
    windows_from_cache: int = 0

    def add(self, structures: list[str], masks: list[PackedMask], confidence: Confidence | None, share: float) -> None:
        """Add what one pass found; `share` is its part of all structures."""
        self.masks.update(zip(structures, masks, strict=True))
        if confidence is None:
            return
        values = confidence.values.astype(np.float32) * share
        self.entropy = values if self.entropy is None else self.entropy + values
        mean = confidence.inside / np.maximum(confidence.voxels, 1)
        self.structure_entropy.update(zip(structures, mean.tolist(), strict=True))


class Passes:
    """Runs a job by a plan.

    Parameters
    ----------
    network : PartialLabelNetwork
        Owner of the heads, float32; it is moved to the plan's ring device.
    extractor : Extractor
        Of the network's features.
    plan : Plan
        Devices, batch and groups.
    monitor : Monitor
        Told about every window.
    """

    def __init__(self, network: PartialLabelNetwork, extractor: Extractor, plan: Plan, monitor: Monitor) -> None:
        self._network = network.to(plan.ring_device)
        self._extractor = extractor
        self._plan = plan
        self._monitor = monitor
        self._encoded = 0

    def run(self, job: Job) -> Outcome:
        """Make one pass over all windows for each group of structures."""
        outcome = Outcome()
        groups = Division.of(self._network, job.structures).groups(self._plan.groups)
        total = len(job.windows) * len(groups)
        for index, group in enumerate(groups):
            self._pass(job, group, index * len(job.windows), total, outcome)
        outcome.windows = self._encoded
        return outcome

    def _pass(self, job: Job, structures: list[str], done: int, total: int, outcome: Outcome) -> None:
        """Segment some structures over the whole volume; `done` of `total` windows were computed before."""
        plan, windows = self._plan, job.windows
        selections = select_channels(self._network.label_space, structures)
        dtype = torch.float16 if plan.half and plan.ring_device.type != "cpu" else torch.float32
        ring = SlabRing(len(structures), windows, plan.ring_device, dtype)
        exporter = SlabExporter(job.grid, windows, len(structures), plan.ring_device, confidence=job.uncertainty)
        self._monitor.step(job.stage, done, total)
        ends = [*windows.starts[0][1:], windows.shape[0]]
        for (first, starts), last in zip(windows.rows(), ends, strict=True):
            # What lasts, the packed slabs, is never put among the blocks that the network frees.
            with kept_memory(plan.device):
                for begin in range(0, len(starts), plan.batch):
                    batch = starts[begin : begin + plan.batch]
                    self._blend(job, batch, selections, ring)
                    done += len(batch)
                    self._monitor.step(job.stage, done, total)
            exporter.take(ring, first, last)
            ring.clear(max(first - 1, 0), last - 1)
            if job.slab is not None:
                job.slab(dict(zip(structures, exporter.fresh(), strict=True)))
        del ring  # before the slabs of each structure are joined
        outcome.add(structures, exporter.masks(), exporter.confidence, len(structures) / len(job.structures))

    def _blend(self, job: Job, starts: list[Starts], selections: list[Selection], ring: SlabRing) -> None:
        """Encode a batch of windows, once or in all mirrored copies, and blend their heads in."""
        depth, height, width = job.windows.window
        batch = torch.stack([job.volume[z : z + depth, y : y + height, x : x + width] for z, y, x in starts])[:, None]
        for axes in job.mirrorings:
            mirrored = [axis + 2 for axis in axes]
            sources = self._sources(batch.flip(mirrored) if axes else batch, mirrored, selections)
            for start, source in zip(starts, sources, strict=True):
                ring.add(start, source, 1.0 / len(job.mirrorings))

    def _sources(self, windows: Tensor, mirrored: list[int], selections: list[Selection]) -> list[LogitSource]:
        """Return the wanted logits of each window of a batch, mirrored back."""
        if not self._network.features_depend_on_task:
            self._encoded += len(windows)
            return self._answers(self._extractor(windows), mirrored, selections)
        per_task = []
        for selection in selections:
            self._encoded += len(windows)
            task = task_tensor(selection.task).expand(len(windows))
            # Only the wanted logits stay: the features of all tasks together would not fit.
            alone = replace(selection, rows=tuple(range(len(selection.rows))))
            sources = self._answers(self._extractor(windows, task), mirrored, [alone])
            per_task.append([self._kept(source, selection, windows[0].numel()) for source in sources])
        return [JoinedLogits(sources) for sources in zip(*per_task, strict=True)]

    def _kept(self, source: LogitSource, selection: Selection, voxels: int) -> DenseRows:
        """Return the logits of one task and window, computed, to go into the rows of `selection`."""
        logits = torch.empty(len(selection.rows), voxels, device=self._plan.ring_device)
        source.fill(0, voxels, logits)
        return DenseRows(logits, selection.rows)

    def _answers(self, features: Features, mirrored: list[int], selections: list[Selection]) -> list[LogitSource]:
        maps = features.map.flip(mirrored) if mirrored else features.map
        device = self._plan.ring_device
        return [
            logit_source(
                self._network, Features(maps[i : i + 1].to(device), features.pooled[i : i + 1].to(device)), selections
            )
            for i in range(len(maps))
        ]


def pad_to_windows(volume: Tensor, windows: WindowGrid, value: float) -> Tensor:
    """Pad the last three axes of a volume (or of masks) to what the windows cover; a whole one comes back as it is."""
    shape = volume.shape[-3:]
    if windows.shape == tuple(shape):
        return volume
    padding: list[int] = []
    for wanted, length, before in zip(windows.shape, shape, windows.offset, strict=True):
        padding[:0] = (before, wanted - length - before)
    return functional.pad(volume, padding, value=value)
