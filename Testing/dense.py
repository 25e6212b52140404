"""The dense computation that the slab engine must equal: whole-volume accumulators, nothing skipped."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.images import Image
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.heads import Selection, logit_source, select_channels
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.networks.contract import PartialLabelNetwork, task_tensor
from PartialSegLib.preprocessing import padding_value, prepare


@torch.inference_mode()
def dense_masks(bundle: ModelBundle, image: Image, overlap: float) -> dict[str, np.ndarray]:
    """Return every structure's mask on the image's grid, computed with (C, D, H, W) tensors."""
    card, network = bundle.card, bundle.load_network()
    prepared = prepare(image, card.preprocessing)
    windows = WindowGrid.over(prepared.grid.shape, card.window, overlap)
    padding = [n for a, b in zip(windows.shape[::-1], prepared.grid.shape[::-1], strict=True) for n in (0, a - b)]
    volume = functional.pad(prepared.volume, padding, value=padding_value(card.preprocessing))
    z, y, x = (torch.from_numpy(weight) for weight in windows.weights)
    weight = z[:, None, None] * y[:, None] * x
    extractor = TorchExtractor(network, torch.device("cpu"))
    structures = card.label_space.select()
    selections = select_channels(card.label_space, structures)
    total = torch.zeros(len(structures), *windows.shape)
    for _, starts in windows.rows():
        for start in starts:
            part = tuple(slice(at, at + size) for at, size in zip(start, card.window, strict=True))
            logits = torch.empty(len(structures), volume[part].numel())
            for task, chosen in per_features(network, selections):
                features = extractor(volume[part][None, None], task)
                logit_source(network, features, chosen).fill(0, logits.shape[1], logits)
            probability = logits.sigmoid() - 0.5
            total[(slice(None), *part)] += probability.view(-1, *card.window) * weight
    sums = [torch.from_numpy(values) for values in windows.weight_sums]
    total = total / sums[0][:, None, None] / (sums[1][:, None] * sums[2])
    masks = {}
    for key, values in zip(structures, total, strict=True):
        depth, height, width = prepared.grid.shape
        fine = interpolate(values[:depth, :height, :width], prepared.grid.crop_shape)
        whole = np.zeros(image.voxels.shape, bool)
        prepared.grid.orient(whole)[prepared.grid.crop] = (fine > 0).numpy()
        masks[key] = whole
    return masks


def per_features(
    network: PartialLabelNetwork, selections: list[Selection]
) -> list[tuple[torch.Tensor | None, list[Selection]]]:
    """Return what is answered from the same features: all tasks together, or each of them alone."""
    if not network.features_depend_on_task:
        return [(None, selections)]
    return [(task_tensor(selection.task), [selection]) for selection in selections]


def interpolate(values: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Interpolate linearly between voxel centres, half a voxel in from the border, axis by axis."""
    for axis, (n, m) in enumerate(zip(shape, values.shape, strict=True)):
        position = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        lower = np.minimum(position.astype(int), max(m - 2, 0))
        shape_of_axis = [-1 if a == axis else 1 for a in range(3)]
        fraction = torch.from_numpy((position - lower).astype(np.float32)).view(shape_of_axis)
        low = values.index_select(axis, torch.from_numpy(lower))
        high = values.index_select(axis, torch.from_numpy(np.minimum(lower + 1, m - 1)))
        values = low * (1 - fraction) + high * fraction
    return values
