"""Prepared cases: what windows are cut from, in memory or on disk.

A case is kept at each spacing that the recipe trains at: the volume, and its masks as the bits of
one integer volume (bit c is the c-th annotated structure, one more where nothing is known), so that
overlapping structures cost one byte a voxel. Made by :mod:`PartialSegTraining.cache`, stored by
:mod:`PartialSegTraining.storage`, cut by :mod:`PartialSegTraining.augmentation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from PartialSegLib.segmentation import Box


class AnyLevel(Protocol):
    """A case at one spacing, wherever its voxels lie."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels, (D, H, W)."""

    @property
    def centers(self) -> Sequence[np.ndarray]:
        """Integer (n, 3) voxels (z, y, x) of each annotated structure; n = 0 where it is absent."""

    @property
    def counts(self) -> tuple[int, ...]:
        """How many of them there are, by structure."""

    @property
    def device(self) -> torch.device:
        """Where :meth:`cut` leaves what it cuts."""

    @property
    def nbytes(self) -> int:
        """Memory that its voxels take when they are loaded, in bytes."""

    def cut(self, box: Box) -> tuple[Tensor, Tensor]:
        """Return the volume, float32 (d, h, w), and the bits, integer (d, h, w), of a box inside the level."""

    def to(self, device: torch.device) -> Level:
        """Return the level with its voxels in the memory of a device."""


@dataclass(frozen=True)
class Level:
    """A case at one spacing, in memory.

    Parameters
    ----------
    volume : Tensor
        float16 (D, H, W), clipped and scaled as the network's input.
    bits : Tensor
        Integer (D, H, W); bit c is set inside the c-th annotated structure.
    centers : sequence of numpy.ndarray
        int32 (n, 3) voxels (z, y, x) of each annotated structure; n = 0 where it is absent.
    """

    volume: Tensor
    bits: Tensor
    centers: Sequence[np.ndarray]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels, (D, H, W)."""
        z, y, x = self.volume.shape
        return z, y, x

    @property
    def counts(self) -> tuple[int, ...]:
        """How many centers there are, by structure."""
        return tuple(len(voxels) for voxels in self.centers)

    @property
    def device(self) -> torch.device:
        """Where the voxels lie."""
        return self.volume.device

    @property
    def nbytes(self) -> int:
        """Memory of its voxels in bytes."""
        return int(self.volume.nbytes + self.bits.nbytes)

    def cut(self, box: Box) -> tuple[Tensor, Tensor]:
        """See :meth:`AnyLevel.cut`."""
        return self.volume[box].float(), self.bits[box]

    def to(self, device: torch.device) -> Level:
        """Return the level with its volumes on another device."""
        return Level(self.volume.to(device), self.bits.to(device), self.centers)


@dataclass(frozen=True)
class CachedCase:
    """A case at every spacing that the recipe trains at.

    Parameters
    ----------
    name : str
        Of the case.
    structures : tuple of str
        Keys of the annotated structures, in the order of the bits.
    levels : tuple of AnyLevel
        At ``spacing``, then at ``coarse_spacing`` where the recipe has one.
    dataset : str
        Which dataset the case belongs to; empty where nobody knows.
    partly : bool
        Whether nothing is known of some voxels: the bit after those of the structures is set in them.
    hard : mapping of str to numpy.ndarray
        int32 (n, 3) voxels (z, y, x) of the first level where a model found an annotated structure that
        is not there (:mod:`PartialSegTraining.mining`); empty where nobody looked.
    """

    name: str
    structures: tuple[str, ...]
    levels: tuple[AnyLevel, ...]
    dataset: str = ""
    partly: bool = False
    hard: Mapping[str, np.ndarray] = field(default_factory=dict)

    def unknown(self, bits: Tensor) -> Tensor | None:
        """Return where nothing is known, boolean, given the bits of a part of a level; ``None`` for a whole case."""
        return (bits >> len(self.structures) & 1).bool() if self.partly else None

    def to(self, device: torch.device) -> CachedCase:
        """Return the case with its voxels in the memory of a device."""
        return replace(self, levels=tuple(level.to(device) for level in self.levels))

    @property
    def nbytes(self) -> int:
        """Memory that its voxels take when they are loaded, in bytes."""
        return sum(level.nbytes for level in self.levels)
