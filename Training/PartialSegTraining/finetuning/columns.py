"""What the head of a trained network sees at sampled voxels of whole cases: computed once, learned from often.

A case is encoded in windows at full resolution as in inference: all that show a structure, and some of the
others, so that a long scan costs little more than a short one. Of each window a few thousand voxels are
kept, in half precision: those of the structures, those close to them, and some of the rest, each with the
number of voxels that it stands for. So sums over a window are estimated without bias, small structures are
not lost, and the memory is that of a few megabytes a window. Called by the quick fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.card import Card
from PartialSegLib.inference.passes import pad_to_windows
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.preprocessing import Prepared, find_crop, padding_value, prepare
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Box
from PartialSegTraining.cases import Case

#: Maps (1, C, D / s, H / s, W / s) of one window, and its pooled vector (1, P).
Encoded = tuple[Sequence[Tensor], Tensor]

#: Shared part of neighboring windows.
_OVERLAP = 0.25
#: Most windows of a case that are encoded although they show none of its structures.
_EMPTY = 8
#: Most voxels kept of a window: in each structure, close to any, and elsewhere.
_INSIDE, _NEAR, _ELSEWHERE = 3000, 2000, 5000
#: Stratum of the voxels of which nothing is known.
_LEFT_OUT = -1
#: Stratum of the voxels of which nothing is known.
_LEFT_OUT = -1
#: How close, in voxels.
_DISTANCE = 3


@dataclass(frozen=True)
class Columns:
    """Sampled voxels of one window.

    Parameters
    ----------
    values : Tensor
        float16 (S, C), the maps at these voxels.
    pooled : Tensor
        float32 (P,) of the window.
    inside : Tensor
        bool (S, K), for each structure of the case.
    weight : Tensor
        float32 (S,) how many voxels of the window each stands for.
    """

    values: Tensor
    pooled: Tensor
    inside: Tensor
    weight: Tensor


@dataclass(frozen=True)
class SampledCase:
    """A case as the head sees it.

    Parameters
    ----------
    name : str
        Of the case.
    structures : tuple of str
        Keys of the annotated structures, in the order of :attr:`Columns.inside`.
    windows : tuple of Columns
        Its windows at the spacing of the model.
    coarse : tuple of Columns
        Those at its coarse spacing, where it has one: the preset ``fast`` looks there first.
    """

    name: str
    structures: tuple[str, ...]
    windows: tuple[Columns, ...]
    coarse: tuple[Columns, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of its columns in bytes."""
        every = (*self.windows, *self.coarse)
        return sum(window.values.nbytes + window.inside.nbytes + window.weight.nbytes for window in every)


def sample_case(
    case: Case,
    structures: Sequence[str],
    card: Card,
    encode: Callable[[Tensor], Encoded],
    *,
    seed: int = 0,
    monitor: Monitor | None = None,
) -> SampledCase:
    """Encode a case and keep what the head needs of it.

    Parameters
    ----------
    case : Case
        Annotates at least one of `structures`.
    structures : sequence of str
        Whose masks are wanted.
    card : Card
        Says how an image is prepared, and the size of a window.
    encode : callable
        Maps a float32 (1, 1, D, H, W) window.
    seed : int
        Decides which voxels are kept.
    monitor : Monitor, optional
        Told about every window, as stage ``encode``.

    Raises
    ------
    CollectionError
        When a file of the case cannot be read or used.
    CancelledError
        When the monitor was cancelled.
    """
    image, masks = case.load()
    unknown = case.unknown(image.geometry)
    truth = {key: masks[key] for key in structures if key in masks}
    generator = torch.Generator().manual_seed(seed)
    recipe = card.preprocessing
    crop = find_crop(image, recipe)
    levels = [
        _level(prepare(image, recipe, spacing=spacing, crop=crop), truth, unknown, card, generator)
        for spacing in (recipe.spacing, recipe.coarse_spacing)
        if spacing is not None
    ]
    monitor, total = monitor or Monitor(), sum(len(level.boxes) for level in levels)
    monitor.step("encode", 0, total)
    windows: list[list[Columns]] = []
    for level in levels:
        windows.append([])
        for box in level.boxes:
            maps, pooled = encode(level.volume[box][None, None])
            known = None if level.known is None else level.known[box]
            windows[-1].append(_keep(maps, pooled, level.inside[(slice(None), *box)], known, generator))
            monitor.step("encode", sum(map(len, windows)), total)
    return SampledCase(case.name, tuple(truth), *(tuple(part) for part in windows))


@dataclass(frozen=True)
class _Level:
    """A case at one spacing, padded: volume (D, H, W), masks (K, D, H, W), and the windows to encode.

    `known` is boolean (D, H, W), ``None`` where all of it is known.
    """

    volume: Tensor
    inside: Tensor
    known: Tensor | None
    boxes: list[Box]


def _level(
    prepared: Prepared,
    masks: Mapping[str, np.ndarray],
    unknown: np.ndarray | None,
    card: Card,
    generator: torch.Generator,
) -> _Level:
    """Lay windows over a prepared image and choose those that are worth their time."""
    recipe = card.preprocessing
    inside = torch.from_numpy(np.stack([prepared.grid.resample_mask(mask) for mask in masks.values()]))
    grid = WindowGrid.over(prepared.grid.shape, card.window, _OVERLAP, centered=recipe.padding_place == "both")
    volume, inside = pad_to_windows(prepared.volume, grid, padding_value(recipe)), pad_to_windows(inside, grid, False)
    boxes = windows_worth_encoding(grid, inside, generator)
    if unknown is None:
        return _Level(volume, inside, None, boxes)
    known = pad_to_windows(~torch.from_numpy(prepared.grid.resample_mask(unknown)), grid, True)
    return _Level(volume, inside, known, [box for box in boxes if known[box].any()])


def windows_worth_encoding(grid: WindowGrid, truth: Tensor, generator: torch.Generator) -> list[Box]:
    """Return the windows that show one of the (K, D, H, W) masks, and some of the others, in their order."""
    boxes: list[Box] = []
    for z, y, x in product(*grid.starts):
        depth, height, width = grid.window
        boxes.append((slice(z, z + depth), slice(y, y + height), slice(x, x + width)))
    occupied = truth.any(0)
    empty = [at for at, box in enumerate(boxes) if not occupied[box].any()]
    order = torch.randperm(len(empty), generator=generator)
    left_out = {empty[at] for at in order[_EMPTY:].tolist()}
    return [box for at, box in enumerate(boxes) if at not in left_out]


def _keep(
    maps: Sequence[Tensor], pooled: Tensor, inside: Tensor, known: Tensor | None, generator: torch.Generator
) -> Columns:
    """Sample the voxels of a window: (K, D, H, W) masks decide which."""
    chosen, weight = _choose(inside, known, generator)
    values = columns_at(maps, chosen, (inside.shape[1], inside.shape[2], inside.shape[3]))
    # What an extractor gives belongs to inference mode; a copy may be learned from.
    vector = pooled[0].detach().clone().float().cpu()
    return Columns(values.half().cpu(), vector, inside.flatten(1)[:, chosen].T.contiguous(), weight)


def _choose(inside: Tensor, known: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (S,) flat voxels, stratum by stratum, and how many voxels each stands for; none that is unknown."""
    strata = torch.zeros(inside.shape[1:], dtype=torch.int64)
    occupied = inside.any(0)
    if occupied.any():
        reach = 2 * _DISTANCE + 1
        near = functional.max_pool3d(occupied[None, None].float(), reach, 1, _DISTANCE)[0, 0] > 0
        strata[near] = 1
    # The smallest structure decides, so that a tumor is not lost in its organ.
    order = sorted(range(len(inside)), key=lambda index: -int(inside[index].sum()))
    for index in order:
        strata[inside[index]] = 2 + index
    if known is not None:
        strata[~known] = _LEFT_OUT
    strata = strata.flatten()
    voxels, weights = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for stratum in strata.unique().tolist():
        if stratum == _LEFT_OUT:
            continue
        members = torch.nonzero(strata == stratum)[:, 0]
        limit = (_ELSEWHERE, _NEAR)[stratum] if stratum < 2 else _INSIDE
        kept = members[torch.randperm(len(members), generator=generator)[:limit]]
        voxels.append(kept)
        weights.append(torch.full((len(kept),), len(members) / len(kept)))
    return torch.cat(voxels), torch.cat(weights)


def columns_at(maps: Sequence[Tensor], voxels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return (S, sum of channels) of maps (1, C, d, h, w) at flat voxels of a window, interpolated where coarser."""
    depth, height, width = shape
    z, y, x = voxels // (height * width), voxels // width % height, voxels % width
    columns = []
    for hidden in maps:
        if tuple(hidden.shape[2:]) == shape:
            columns.append(hidden[0].flatten(1)[:, voxels.to(hidden.device)].T)
            continue
        place = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1, (2 * z + 1) / depth - 1), -1)
        grid = place[None, None, None].to(hidden)
        sampled = functional.grid_sample(hidden, grid, padding_mode="border", align_corners=False)
        columns.append(sampled[0, :, 0, 0].T)
    return torch.cat(columns, 1)
