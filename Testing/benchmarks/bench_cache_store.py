"""Prepared cases on disk: how large they are, and how long a window takes to read.

A synthetic phantom at 1.5 mm stands in for a patient. Compared with what nnU-Net v2 stores (float32,
LZ4HC, in the same format) and with a plain file that is mapped into memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import torch

from harness import Row, interleaved
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.images import Geometry, Image
from PartialSegLib.preprocessing import intensity_limits, prepare
from PartialSegLib.segmentation import Box
from PartialSegTraining.phantoms import generate_phantom
from PartialSegTraining.storage import QuantizedLevel, StoredLevel, open_entry, quantize, write_entry

RECIPE = Preprocessing((1.5, 1.5, 1.5), (-325.0, 325.0), 0.0, 325.0)
WINDOW = (64, 128, 128)
WINDOWS = 16


def volume() -> torch.Tensor:
    """Return a prepared synthetic CT, float32 (D, H, W)."""
    image: Image = generate_phantom(3, spacing=(1.5, 1.5, 1.5)).image
    assert isinstance(image.geometry, Geometry)
    return prepare(image, RECIPE).volume


def boxes(shape: tuple[int, int, int]) -> list[Box]:
    """Return random windows."""
    rng = np.random.default_rng(0)
    starts = [[int(rng.integers(0, max(1, n - w + 1))) for n, w in zip(shape, WINDOW, strict=True)] for _ in range(16)]
    return [(slice(z, z + WINDOW[0]), slice(y, y + WINDOW[1]), slice(x, x + WINDOW[2])) for z, y, x in starts[:WINDOWS]]


def reader(read: Callable[[Box], object], windows: list[Box]) -> Callable[[], None]:
    """Return a function that reads every window."""

    def run_all() -> None:
        for box in windows:
            read(box)

    return run_all


def run() -> list[Row]:
    """Compare size and reading time."""
    prepared = volume()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values, step, offset = quantize(prepared.clone(), intensity_limits(RECIPE))
        bits = np.zeros(values.shape, np.uint8)
        write_entry(folder / "entry", (), [QuantizedLevel(values, step, offset, bits, ())])
        entry = open_entry(folder / "entry", "phantom")
        assert entry is not None
        level = entry.levels[0]
        assert isinstance(level, StoredLevel)

        np.save(folder / "plain.npy", prepared.half().numpy())
        high = {"codec": blosc2.Codec.LZ4HC, "clevel": 8, "nthreads": 1}
        other = folder / "nnunet.b2nd"
        blosc2.asarray(prepared.numpy(), urlpath=str(other), mode="w", cparams=high, dparams={"nthreads": 1})

        windows = boxes(level.shape)
        mapped = np.load(folder / "plain.npy", mmap_mode="r")
        ours, theirs = interleaved(
            reader(level.cut, windows),
            reader(lambda box: blosc2.open(str(other), mode="r", dparams={"nthreads": 1})[box], windows),
        )
        again, plain = interleaved(
            reader(level.cut, windows), reader(lambda box: torch.from_numpy(mapped[box].copy()).float(), windows)
        )
        size = (level.folder / level.volume).stat().st_size
        whole, theirs_size = (folder / "plain.npy").stat().st_size, other.stat().st_size
    what = f"a window of {' x '.join(map(str, WINDOW))}"
    return [
        Row.at_most(
            "file of a volume: int16 LZ4, float16 as it is",
            *(f"{n / 1e6:.1f} MB" for n in (size, whole)),
            size / whole,
            0.6,
        ),
        Row.at_most(
            "file of a volume: int16 LZ4, float32 LZ4HC (nnU-Net v2)",
            *(f"{n / 1e6:.1f} MB" for n in (size, theirs_size)),
            size / theirs_size,
            0.5,
        ),
        Row.at_most(
            f"reading {what}: int16 LZ4 with masks, float32 LZ4HC without",
            *(f"{t / WINDOWS * 1e3:.1f} ms" for t in (ours, theirs)),
            ours / theirs,
            1.5,
        ),
        Row.at_most(
            f"reading {what}: compressed with masks, mapped float16 without",
            *(f"{t / WINDOWS * 1e3:.1f} ms" for t in (again, plain)),
            again / plain,
            15.0,
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
