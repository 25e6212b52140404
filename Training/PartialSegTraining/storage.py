"""Prepared cases on disk: compressed in chunks, checked, and read window by window.

An entry is a folder that appears complete or not at all:

    entry.json      structures, whether voxels are unknown, shapes, steps of intensity, checksums of the other files
    volumeN.b2nd    int16 (D, H, W) of level N: (intensity - offset) / step
    bitsN.b2nd      integer (D, H, W); bit c is the c-th annotated structure
    centersN.npy    int32 (n, 3) voxels of the structures, one after another

The arrays are blosc2's n-dimensional format with LZ4 (extra ``train``), which decompresses no more
than the blocks that a window touches; without blosc2 they are plain ``.npy`` files, mapped into
memory. Nothing is ever unpickled. Called by :mod:`PartialSegTraining.cache`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from PartialSegLib.atomic import replacing_folder
from PartialSegLib.errors import CollectionError
from PartialSegLib.segmentation import Box
from PartialSegTraining.levels import CachedCase, Level

#: Levels of intensity that are told apart: 12 bits, as scanners of CT have them.
INTENSITIES = 4096
#: Voxels of a chunk of a file, and of the blocks that are decompressed one by one.
_CHUNKS, _BLOCKS = (32, 64, 64), (8, 32, 32)
_INDEX = "entry.json"


@dataclass(frozen=True)
class QuantizedLevel:
    """A case at one spacing as it is stored, before it is.

    Parameters
    ----------
    values : numpy.ndarray
        int16 (D, H, W); the intensity is ``values * step + offset``.
    step, offset : float
        See `values`.
    bits : numpy.ndarray
        Integer (D, H, W); bit c is set inside the c-th annotated structure.
    centers : sequence of numpy.ndarray
        int32 (n, 3) voxels (z, y, x) of each annotated structure.
    """

    values: np.ndarray
    step: float
    offset: float
    bits: np.ndarray
    centers: Sequence[np.ndarray]

    def level(self) -> Level:
        """Return it in memory, with the intensities that the stored one gives."""
        volume = _intensities(self.values, self.step, self.offset)
        return Level(volume, torch.from_numpy(self.bits), tuple(self.centers))


@dataclass(frozen=True)
class StoredLevel:
    """A case at one spacing, on disk; holds no open file, so that processes can hand it on.

    Parameters
    ----------
    folder : Path
        Of the entry.
    shape : tuple of int
        Voxels, (D, H, W).
    step, offset : float
        Of the intensities.
    counts : tuple of int
        Voxels kept of each structure to center windows on.
    bits_type : str
        Name of the dtype of the bits.
    volume, bits, places : str
        Names of the files.
    """

    folder: Path
    shape: tuple[int, int, int]
    step: float
    offset: float
    counts: tuple[int, ...]
    bits_type: str
    volume: str
    bits: str
    places: str

    @property
    def centers(self) -> Sequence[np.ndarray]:
        """See :attr:`AnyLevel.centers`; only those that are looked at are read."""
        places = _mapped(self.folder / self.places)
        ends = accumulate(self.counts, initial=0)
        return [places[start:end] for start, end in pairwise(ends)]

    @property
    def device(self) -> torch.device:
        """Where windows are cut: the CPU."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """Memory of its voxels once they are loaded, in bytes."""
        voxels = int(np.prod(self.shape, dtype=np.int64))
        return voxels * (2 + np.dtype(self.bits_type).itemsize)

    def cut(self, box: Box) -> tuple[Tensor, Tensor]:
        """See :meth:`AnyLevel.cut`; CollectionError when a file is gone."""
        values, bits = self._read(box)
        return _intensities(values, self.step, self.offset).float(), torch.from_numpy(bits)

    def to(self, device: torch.device) -> Level:
        """Return the level with its voxels in the memory of a device."""
        z, y, x = (slice(0, size) for size in self.shape)
        values, bits = self._read((z, y, x))
        centers = tuple(np.array(places) for places in self.centers)
        return Level(_intensities(values, self.step, self.offset), torch.from_numpy(bits), centers).to(device)

    def _read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        return _read_box(self.folder / self.volume, box), _read_box(self.folder / self.bits, box)


def quantize(volume: Tensor, limits: tuple[float, float] | None) -> tuple[np.ndarray, float, float]:
    """Tell :data:`INTENSITIES` levels apart.

    Parameters
    ----------
    volume : Tensor
        float32 (D, H, W).
    limits : tuple of float, optional
        Lowest and highest intensity; those of the volume when not given.

    Returns
    -------
    values, step, offset
        int16 (D, H, W); the intensity is ``values * step + offset``.
    """
    low, high = limits or (float(volume.min()), float(volume.max()))
    step = max((high - low) / (INTENSITIES - 1), 1e-12)
    # The lowest intensity, air for CT, is kept exactly.
    half = INTENSITIES // 2
    offset = low + half * step
    values = ((volume - low) / step).round_().sub_(half).clamp_(-half, half - 1)
    return values.to(torch.int16).numpy(), step, offset


def write_entry(
    folder: Path, structures: Sequence[str], levels: Sequence[QuantizedLevel], *, partly: bool = False
) -> None:
    """Write a prepared case; an older entry of that name is replaced.

    Parameters
    ----------
    folder : Path
        Of the entry; its parent is made.
    structures : sequence of str
        Keys of the annotated structures, in the order of the bits.
    levels : sequence of QuantizedLevel
        At each spacing.
    partly : bool
        See :attr:`CachedCase.partly`.

    Raises
    ------
    CollectionError
        When it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as unfinished:
            described = [_write_level(unfinished, number, level) for number, level in enumerate(levels)]
            sums = {path.name: _checksum(path) for path in sorted(unfinished.iterdir())}
            index = {"structures": list(structures), "partly": partly, "levels": described, "checksums": sums}
            (unfinished / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise CollectionError(
            f"{folder} cannot be written: {reason}.", "Make room, or choose another folder."
        ) from error


def open_entry(folder: Path, name: str, dataset: str = "") -> CachedCase | None:
    """Return a prepared case that lies on disk, or ``None`` when it is missing, damaged or unreadable here.

    Every file is read once and compared with its checksum.

    Parameters
    ----------
    folder : Path
        Of the entry.
    name, dataset : str
        Of the case.
    """
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        whole = all(_checksum(folder / file) == value for file, value in index["checksums"].items())
        levels = tuple(_described_level(folder, entry) for entry in index["levels"])
        structures, partly = tuple(index["structures"]), bool(index.get("partly", False))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole or (any(level.volume.endswith(".b2nd") for level in levels) and not compresses()):
        return None
    return CachedCase(name, structures, levels, dataset, partly)


def compresses() -> bool:
    """Whether blosc2 is installed."""
    try:
        import blosc2  # noqa: F401
    except ImportError:
        return False
    return True


def _write_level(folder: Path, number: int, level: QuantizedLevel) -> dict[str, Any]:
    """Write the files of a level and return how the index describes it."""
    places = f"centers{number}.npy"
    counts = tuple(len(voxels) for voxels in level.centers)
    joined = np.concatenate([*level.centers, np.zeros((0, 3), np.int32)]).astype(np.int32)
    np.save(folder / places, joined, allow_pickle=False)
    z, y, x = level.values.shape
    volume = _write_array(folder, f"volume{number}", level.values)
    bits = _write_array(folder, f"bits{number}", level.bits)
    stored = StoredLevel(
        folder, (z, y, x), level.step, level.offset, counts, level.bits.dtype.name, volume, bits, places
    )
    entry = asdict(stored)
    del entry["folder"]
    return entry


def _described_level(folder: Path, entry: dict[str, Any]) -> StoredLevel:
    """Return the level that an index describes."""
    z, y, x = entry["shape"]
    return StoredLevel(folder, **{**entry, "shape": (z, y, x), "counts": tuple(entry["counts"])})


def _write_array(folder: Path, name: str, array: np.ndarray) -> str:
    """Write an array of three axes and return the name of its file."""
    if not compresses():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        return f"{name}.npy"
    import blosc2

    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(folder / f"{name}.b2nd"),
        mode="w",
        chunks=tuple(min(size, n) for size, n in zip(_CHUNKS, array.shape, strict=True)),
        blocks=tuple(min(size, n) for size, n in zip(_BLOCKS, array.shape, strict=True)),
        # One thread: cases are written, and windows read, by many workers at once.
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
        dparams={"nthreads": 1},
    )
    return f"{name}.b2nd"


def _read_box(path: Path, box: Box) -> np.ndarray:
    """Read a box of a stored array; CollectionError when its file is gone."""
    if path.suffix == ".npy":
        return np.array(_mapped(path)[box])
    import blosc2

    try:
        values: np.ndarray = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})[box]
    except (OSError, RuntimeError) as error:
        raise _gone(path) from error
    return values


def _mapped(path: Path) -> np.ndarray:
    """Return an array that is read from disk where it is looked at."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _gone(path) from error
    return array


def _gone(path: Path) -> CollectionError:
    return CollectionError(f"{path} can no longer be read.", "Run the same command again: what is missing is prepared.")


def _intensities(values: np.ndarray, step: float, offset: float) -> Tensor:
    """Return float16 intensities; rounded to half precision, so that memory and disk give the same ones."""
    return torch.from_numpy(values).float().mul_(step).add_(offset).half()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
