"""The features of windows that were computed before: the second task on a volume skips the backbone.

Features are a function of the model's weights, the engine that computes them and the voxels of the
window, and of nothing else. So that is what they are filed under: a digest of all three. No
identity of an image, preset or region has to be compared, a window that two presets or regions
share is computed once, and nothing out of date can ever be found. The digest takes a few thousandths
of the time of the features.

They are kept in the precision in which they were computed (float32 on a CPU, float16 on a GPU), so
that masks are the same, bit for bit, with and without a cache. Halving them was measured with the bundled
model on a synthetic patient, every structure: of 371,252 voxels in masks, float16 would change 2 and
bfloat16 50.

The predictor wraps its extractor in a :class:`CachingExtractor`; the worker owns the
:class:`FeatureCache`, because it knows when another volume is opened.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from PartialSegLib.inference.extractors import Extractor
from PartialSegLib.inference.planner import free_memory
from PartialSegLib.networks.contract import Features

#: Of free main memory, the part that features may take; and the most that they take.
_MEMORY_SHARE, _MEMORY_BYTES = 0.25, 8 * 2**30
#: Of free disk space, the part that features may take; and the most that they take.
_DISK_SHARE, _DISK_BYTES = 0.5, 32 * 2**30


class FeatureCache:
    """Features by their key, in main memory up to a limit and in files of a private folder beyond it.

    A run first asks for a key and then gives what it had to compute. Features of earlier runs make
    room where a limit is reached; those of the present run do not, because a run that goes over more
    windows than fit would then find none of them again.

    Parameters
    ----------
    memory_bytes : int, optional
        Limit of main memory; by default a quarter of what is free now, up to 8 GiB.
    disk_bytes : int, optional
        Limit of disk space; by default half of what is free now, up to 32 GiB.
    folder : Path, optional
        Where the private folder is made when it is needed, and made itself then; the folder for temporary
        files by default.
    """

    def __init__(
        self, memory_bytes: int | None = None, disk_bytes: int | None = None, folder: Path | None = None
    ) -> None:
        self._parent = Path(tempfile.gettempdir()) if folder is None else folder
        if memory_bytes is None:
            memory_bytes = min(int(_MEMORY_SHARE * free_memory(torch.device("cpu"))), _MEMORY_BYTES)
        if disk_bytes is None:
            disk_bytes = min(int(_DISK_SHARE * _free_disk_space(self._parent)), _DISK_BYTES)
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._allowed = memory_bytes
        # In the order of their last use.
        self._kept: dict[bytes, _Kept] = {}
        self._run = 0
        self._files = 0
        self._private: Path | None = None
        self._remove_private: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def memory_used(self) -> int:
        """Bytes of main memory that features take now."""
        return sum(kept.nbytes for kept in self._kept.values() if kept.file is None)

    @property
    def disk_used(self) -> int:
        """Bytes of disk space that features take now."""
        return sum(kept.nbytes for kept in self._kept.values() if kept.file is not None)

    @property
    def folder(self) -> Path | None:
        """Private folder of the files, while there is one."""
        return self._private

    def begin_run(self, memory_left: int | None = None) -> None:
        """Tell that another run begins: from now on, what it does not use may make room.

        Parameters
        ----------
        memory_left : int, optional
            Main memory in bytes that the run leaves to the cache, below its own limit. What is kept
            beyond goes to files.
        """
        self._run += 1
        self.limit_memory(self._memory_bytes if memory_left is None else memory_left)

    def limit_memory(self, most: int) -> None:
        """Take no more than `most` bytes of main memory until the next run begins."""
        self._allowed = max(0, min(most, self._memory_bytes))
        used = self.memory_used
        for key, kept in list(self._kept.items()):
            if used <= self._allowed:
                return
            if kept.file is None:
                used -= kept.nbytes
                del self._kept[key]
                self._keep_in_file(key, kept.load(), kept.run)

    def get(self, key: bytes) -> Features | None:
        """Return features (N = 1) on the CPU, not to be changed; ``None`` where there are none."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        try:
            features = kept.load()
        except (OSError, RuntimeError):
            # Whatever cleans up temporary files took it: then it is computed again.
            return None
        kept.run = self._run
        self._kept[key] = kept
        return features

    def put(self, key: bytes, features: Features) -> None:
        """Keep a copy of features (N = 1), unless no room can be made for them."""
        size = _size(features)
        if size > max(self._allowed, self._disk_bytes):
            return
        used, disk = self.memory_used, self.disk_used
        while used + size > self._allowed and disk + size > self._disk_bytes:
            oldest = next((name for name, kept in self._kept.items() if kept.run < self._run), None)
            if oldest is None:
                return
            self._drop(oldest)
            used, disk = self.memory_used, self.disk_used
        if used + size <= self._allowed:
            self._kept[key] = _Kept(
                size, self._run, Features(_in_own_pages(features.map), features.pooled.cpu().clone())
            )
        else:
            self._keep_in_file(key, features, self._run)

    def clear(self) -> None:
        """Forget everything and remove the files."""
        self._kept.clear()
        self._remove_private()
        self._private = None

    def _keep_in_file(self, key: bytes, features: Features, run: int) -> None:
        """Write features to a file; forget them where the disk has no room for it."""
        size = _size(features)
        if self.disk_used + size > self._disk_bytes:
            return
        file: Path | None = None
        try:
            self._files += 1
            file = self._private_folder() / f"{self._files}.features"
            self._kept[key] = _Kept.in_file(file, features, run)
        except OSError:
            # A cache is a convenience: a full disk costs time, but no result.
            if file is not None:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key)
        if kept.file is not None:
            with suppress(OSError):
                kept.file.unlink(missing_ok=True)

    def _private_folder(self) -> Path:
        if self._private is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            # Mode 0700: features tell about a patient.
            self._private = Path(tempfile.mkdtemp(prefix="features-", dir=self._parent))
            self._remove_private = weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
        return self._private


class CachingExtractor:
    """An extractor that computes only what the cache does not have.

    Parameters
    ----------
    extractor : Extractor
        Of features that do not depend on the task.
    cache : FeatureCache
        Where features are looked for and kept.
    owner : str
        What the features depend on beside the window: weights, engine and device.
    """

    def __init__(self, extractor: Extractor, cache: FeatureCache, owner: str) -> None:
        self._extractor, self._cache, self._owner = extractor, cache, owner
        self.name = extractor.name
        #: Windows whose features were found.
        self.found = 0

    def __call__(self, windows: Tensor, task: Tensor | None = None) -> Features:
        """See :class:`~PartialSegLib.inference.extractors.Extractor`."""
        keys = [self._key(window) for window in windows]
        parts = [self._cache.get(key) for key in keys]
        missing = [index for index, part in enumerate(parts) if part is None]
        self.found += len(keys) - len(missing)
        if missing:
            fresh = self._extractor(windows if len(missing) == len(keys) else windows[missing], task)
            for place, index in enumerate(missing):
                alone = Features(fresh.map[place : place + 1], fresh.pooled[place : place + 1])
                self._cache.put(keys[index], alone)
                parts[index] = alone
            if len(missing) == len(keys):
                return fresh
        return _joined([part for part in parts if part is not None])

    def _key(self, window: Tensor) -> bytes:
        digest = hashlib.sha256(f"{self._owner} {tuple(window.shape)} {window.dtype}".encode())
        digest.update(window.cpu().contiguous().numpy().data)
        return digest.digest()


@dataclass
class _Kept:
    """Features in memory, or their place on disk.

    Parameters
    ----------
    nbytes : int
        Memory, or disk space.
    run : int
        The last run that used them.
    features : Features
        On the CPU; in a file the map is not.
    file : Path, optional
        Holds the map in the order that it had in memory.
    shape, order : tuple of int
        Shape of the map in that order, and where each of its axes lies in it.
    """

    nbytes: int
    run: int
    features: Features
    file: Path | None = None
    shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    @classmethod
    def in_file(cls, file: Path, features: Features, run: int) -> Self:
        """Write the map to a file, whose folder may have no room (``OSError``)."""
        values, order = _in_memory_order(features.map)
        values.numpy().tofile(file)
        rest = Features(values.new_empty(0), features.pooled.cpu().clone())
        return cls(_size(features), run, rest, file, tuple(values.shape), order)

    def load(self) -> Features:
        """Return the features; from a file they are mapped, so that the system reads them as they are used."""
        if self.file is None:
            return self.features
        values = torch.from_file(
            str(self.file), shared=False, size=math.prod(self.shape), dtype=self.features.map.dtype
        )
        return Features(values.view(self.shape).permute(self.order), self.features.pooled)


def _in_memory_order(values: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return the values on the CPU with their axes as they follow in memory, and where each axis went.

    Channels-last maps stay so: other layouts may round differently in a head.
    """
    outer_to_inner = sorted(range(values.ndim), key=values.stride, reverse=True)
    order = tuple(outer_to_inner.index(axis) for axis in range(values.ndim))
    return values.detach().cpu().permute(outer_to_inner).contiguous(), order


def _in_own_pages(values: Tensor) -> Tensor:
    """Copy values to memory of their own from the system.

    Among the blocks of the network they would part the free memory that it uses again and again
    (:mod:`PartialSegLib.inference.allocation`), and some of it would stay taken after they are gone.
    """
    ordered, order = _in_memory_order(values)
    pages = torch.frombuffer(mmap.mmap(-1, ordered.nbytes), dtype=ordered.dtype)
    return pages.copy_(ordered.flatten()).view(ordered.shape).permute(order)


def _free_disk_space(folder: Path) -> int:
    """Return the free bytes where a folder lies, or will lie; 0 where nobody can tell."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def _size(features: Features) -> int:
    return features.map.nbytes + features.pooled.nbytes


def _joined(parts: list[Features]) -> Features:
    """Put single windows together on the device of one that was just computed, if any was."""
    if len(parts) == 1:
        return parts[0]
    device = next((part.map.device for part in parts if part.map.device.type != "cpu"), torch.device("cpu"))
    return Features(
        torch.cat([part.map.to(device) for part in parts]), torch.cat([part.pooled.to(device) for part in parts])
    )
