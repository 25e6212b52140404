"""Cases on the network's grid, ready to cut windows from; prepared once and kept in memory.

A case is kept at each spacing that the recipe trains at: the volume in half precision, and its
masks as the bits of one integer volume (bit c is the c-th annotated structure), so that
overlapping structures cost one byte a voxel. On disk, an entry is named by the content of the
files and by the preprocessing, so that a resumed or repeated training finds it, and nothing else
does. Called by the trainer.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from PartialSegLib.atomic import atomic_write
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CollectionError
from PartialSegLib.preprocessing import find_crop, prepare
from PartialSegLib.progress import Monitor
from PartialSegTraining.cases import Case

#: Voxels kept of each structure to center windows on; drawn at random from all of them.
_CENTERS = 8192
#: Changes whenever an entry of the cache would be written differently.
_VERSION = 1


@dataclass(frozen=True)
class Level:
    """A case at one spacing.

    Parameters
    ----------
    volume : Tensor
        float16 (D, H, W), clipped and scaled as the network's input.
    bits : Tensor
        Integer (D, H, W); bit c is set inside the c-th annotated structure.
    centers : tuple of numpy.ndarray
        int32 (n, 3) voxels (z, y, x) of each annotated structure; n = 0 where it is absent.
    """

    volume: Tensor
    bits: Tensor
    centers: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels, (D, H, W)."""
        z, y, x = self.volume.shape
        return z, y, x

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
    levels : tuple of Level
        At ``spacing``, then at ``coarse_spacing`` where the recipe has one.
    """

    name: str
    structures: tuple[str, ...]
    levels: tuple[Level, ...]

    def to(self, device: torch.device) -> CachedCase:
        """Return the case with its volumes on another device."""
        return CachedCase(self.name, self.structures, tuple(level.to(device) for level in self.levels))

    @property
    def nbytes(self) -> int:
        """Memory of its volumes in bytes."""
        return sum(level.volume.nbytes + level.bits.nbytes for level in self.levels)


def prepare_case(case: Case, preprocessing: Preprocessing) -> CachedCase:
    """Read a case and bring it to the network's grids.

    Raises
    ------
    CollectionError
        When a file is unreadable or does not fit, or more than 63 structures are annotated.
    """
    image, masks = case.load()
    keys = tuple(sorted(masks))
    dtype = _bit_type(len(keys), case.name)
    levels = []
    crop = find_crop(image, preprocessing)
    for spacing in (preprocessing.spacing, preprocessing.coarse_spacing):
        if spacing is None:
            continue
        prepared = prepare(image, preprocessing, spacing=spacing, crop=crop)
        bits, centers = np.zeros(prepared.grid.shape, dtype), []
        for index, key in enumerate(keys):
            mask = prepared.grid.resample_mask(masks[key])
            bits |= mask.astype(dtype) << dtype(index)
            centers.append(_some_voxels(mask, f"{case.name}/{key}"))
        levels.append(Level(prepared.volume.half(), torch.from_numpy(bits), tuple(centers)))
    return CachedCase(case.name, keys, tuple(levels))


def prepare_cases(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    monitor: Monitor | None = None,
) -> list[CachedCase]:
    """Prepare cases in parallel, taking from `folder` what was prepared before.

    Parameters
    ----------
    cases : sequence of Case
        Any number.
    preprocessing : Preprocessing
        Of the recipe.
    folder : Path, optional
        Where entries are kept; ``None`` keeps them in memory only.
    workers : int, optional
        Threads; by default one a core.
    monitor : Monitor, optional
        Told about each case.

    Raises
    ------
    CollectionError
        From the first case that cannot be prepared.
    CancelledError
        When the monitor was cancelled; finished entries stay in `folder`.
    """
    monitor = monitor or Monitor()
    monitor.step("prepare", 0, len(cases))
    prepared: dict[int, CachedCase] = {}
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {pool.submit(_prepare_or_load, case, preprocessing, folder): at for at, case in enumerate(cases)}
        for done, future in enumerate(as_completed(futures), 1):
            prepared[futures[future]] = future.result()
            monitor.step("prepare", done, len(cases))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)
    return [prepared[index] for index in range(len(cases))]


def entry_key(case: Case, preprocessing: Preprocessing) -> str:
    """Return the name of a case's entry on disk: a fingerprint of all that decides its content."""
    digest = hashlib.blake2b(digest_size=16)
    rules = {"version": _VERSION, "preprocessing": preprocessing.to_json(), "annotation": _describe(case)}
    digest.update(json.dumps(rules, sort_keys=True, default=list).encode())
    for path in case.files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        except OSError as error:
            raise CollectionError(f"{path} cannot be read: {error.strerror}.", "Was it moved?") from error
    return f"{case.name}-{digest.hexdigest()}"


def _describe(case: Case) -> list[str]:
    """Say how masks are read from the files; the paths do not matter, only their content."""
    values = getattr(case.annotation, "values", ())
    return [case.name, *sorted(case.annotated), repr(values), *(path.name for path in case.annotation.files)]


def _prepare_or_load(case: Case, preprocessing: Preprocessing, folder: Path | None) -> CachedCase:
    if folder is None:
        return prepare_case(case, preprocessing)
    path = folder / f"{entry_key(case, preprocessing)}.safetensors"
    if path.is_file():
        try:
            return _load(path, case.name)
        except (SafetensorError, KeyError, ValueError):
            # A damaged entry is made anew: it holds nothing that the case does not.
            path.unlink(missing_ok=True)
    entry = prepare_case(case, preprocessing)
    _save(entry, path)
    return entry


def _save(entry: CachedCase, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for index, level in enumerate(entry.levels):
        tensors[f"volume{index}"], tensors[f"bits{index}"] = level.volume.contiguous(), level.bits
        for channel, centers in enumerate(level.centers):
            tensors[f"centers{index}_{channel}"] = torch.from_numpy(centers)
    with atomic_write(path) as file:
        file.write(save(tensors, {"structures": json.dumps(entry.structures)}))


def _load(path: Path, name: str) -> CachedCase:
    levels: list[Level] = []
    with safe_open(path, framework="pt") as entry:
        structures = tuple(json.loads(entry.metadata()["structures"]))
        while f"volume{len(levels)}" in entry.keys():  # noqa: SIM118 - the reader is no mapping
            at = len(levels)
            centers = tuple(entry.get_tensor(f"centers{at}_{channel}").numpy() for channel in range(len(structures)))
            levels.append(Level(entry.get_tensor(f"volume{at}"), entry.get_tensor(f"bits{at}"), centers))
    return CachedCase(name, structures, tuple(levels))


def _bit_type(structures: int, name: str) -> type[np.unsignedinteger | np.signedinteger]:
    """Return the smallest integer with a bit for each structure that torch can shift."""
    if structures > 63:
        raise CollectionError(f"Case '{name}' annotates {structures} structures.", "A case may annotate up to 63.")
    return np.uint8 if structures <= 8 else np.int32 if structures <= 31 else np.int64


def _some_voxels(mask: np.ndarray, seed: str) -> np.ndarray:
    """Return up to _CENTERS voxels of a mask, int32 (n, 3); the same ones for the same name."""
    voxels = np.flatnonzero(mask)
    if len(voxels) > _CENTERS:
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        voxels = np.sort(rng.choice(voxels, _CENTERS, replace=False))
    return np.stack(np.unravel_index(voxels, mask.shape), axis=1).astype(np.int32)
