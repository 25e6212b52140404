"""Cases on the network's grid, ready to cut windows from; prepared once.

On disk, an entry is named by the content of the files and by the preprocessing, so that a resumed or
repeated training finds it, and nothing else does; what an entry is made of,
:mod:`PartialSegTraining.storage` decides. A preparation that is interrupted goes on with the cases
that are missing. Called by the trainer and by fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CollectionError
from PartialSegLib.preprocessing import find_crop, intensity_limits, prepare
from PartialSegLib.progress import Monitor
from PartialSegTraining.cases import Case
from PartialSegTraining.levels import AnyLevel, CachedCase, Level
from PartialSegTraining.storage import QuantizedLevel, open_entry, quantize, write_entry

__all__ = ["AnyLevel", "CachedCase", "Level", "entry_key", "prepare_case", "prepare_cases"]

#: Voxels kept of each structure to center windows on; drawn at random from all of them.
_CENTERS = 8192
#: Changes whenever an entry of the cache would be written differently.
_VERSION = 2


def prepare_case(case: Case, preprocessing: Preprocessing) -> CachedCase:
    """Read a case and bring it to the network's grids, in memory.

    Raises
    ------
    CollectionError
        When a file is unreadable or does not fit, or more than 63 structures are annotated.
    """
    keys, levels, partly = _prepared(case, preprocessing)
    return CachedCase(case.name, keys, tuple(level.level() for level in levels), case.dataset, partly)


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
        Where entries are kept; the cases that are returned lie there. ``None`` keeps them in memory.
    workers : int, optional
        Threads; by default one a core.
    monitor : Monitor, optional
        Told about each case.

    Raises
    ------
    CollectionError
        From the first case that cannot be prepared, or whose entry cannot be written.
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
    ignored = getattr(case.annotation, "ignored", None)
    unknown = [] if ignored is None else [f"ignored {ignored}"]
    return [case.name, *sorted(case.annotated), repr(values), *unknown, *(path.name for path in case.annotation.files)]


def _prepare_or_load(case: Case, preprocessing: Preprocessing, folder: Path | None) -> CachedCase:
    if folder is None:
        return prepare_case(case, preprocessing)
    path = folder / entry_key(case, preprocessing)
    entry = open_entry(path, case.name, case.dataset)
    if entry is not None:
        return entry
    # A damaged entry is made anew: it holds nothing that the case does not.
    keys, levels, partly = _prepared(case, preprocessing)
    write_entry(path, keys, levels, partly=partly)
    entry = open_entry(path, case.name, case.dataset)
    if entry is None:
        raise CollectionError(f"{path} was written, but reads back differently.", "Check the disk.")
    return entry


def _prepared(case: Case, preprocessing: Preprocessing) -> tuple[tuple[str, ...], list[QuantizedLevel], bool]:
    """Return the annotated structures of a case, the case at each spacing, and whether voxels are unknown."""
    image, masks = case.load()
    keys, unknown = tuple(sorted(masks)), case.unknown(image.geometry)
    dtype = _bit_type(len(keys) + (unknown is not None), case.name)
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
        if unknown is not None:
            bits |= prepared.grid.resample_mask(unknown).astype(dtype) << dtype(len(keys))
        values, step, offset = quantize(prepared.volume, intensity_limits(preprocessing))
        levels.append(QuantizedLevel(values, step, offset, bits, tuple(centers)))
    return keys, levels, unknown is not None


def _bit_type(structures: int, name: str) -> type[np.unsignedinteger | np.signedinteger]:
    """Return the smallest integer with a bit for each structure (and the unknown) that torch can shift."""
    if structures > 63:
        raise CollectionError(
            f"Case '{name}' annotates {structures} structures, unknown voxels counted as one.",
            "A case may annotate up to 63.",
        )
    return np.uint8 if structures <= 8 else np.int32 if structures <= 31 else np.int64


def _some_voxels(mask: np.ndarray, seed: str) -> np.ndarray:
    """Return up to _CENTERS voxels of a mask, int32 (n, 3); the same ones for the same name."""
    voxels = np.flatnonzero(mask)
    if len(voxels) > _CENTERS:
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        voxels = np.sort(rng.choice(voxels, _CENTERS, replace=False))
    return np.stack(np.unravel_index(voxels, mask.shape), axis=1).astype(np.int32)
