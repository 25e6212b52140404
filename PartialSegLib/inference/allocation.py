"""Keeping freed memory at hand while a network runs on the CPU, and giving it back after.

The C library of Linux hands every large block back to the kernel when it is freed, and the kernel
clears and maps it page by page when the next layer asks for as much: a fifth to a third of the time
of a 3D network. Between windows (and training steps) nothing of that is needed. Between the rows of
windows and what lasts, it is: results that are packed among freed blocks would keep their
neighbors from being used again, and memory would grow with the scan. Used by the predictor, its
passes and the trainer; elsewhere than with glibc it does nothing.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

#: Parameters of ``mallopt`` (malloc.h) with the value while memory is kept and the one afterwards:
#: the library's defaults, but that blocks from 1 MiB on are mapped, and so given back, whatever was
#: freed before. By itself the library raises that limit up to 32 MiB.
_TRIM_THRESHOLD = (-1, -1, 128 * 1024)
_TOP_PAD = (-2, 8 * 2**20, 128 * 1024)
_MAPPED_FROM = (-3, 2**20, 2**20)
_MAPPED_BLOCKS = (-4, 0, 65536)

#: How many blocks keep memory now.
_depth = [0]
_lock = threading.Lock()


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed main memory in the process until the end of the block, then give it back.

    It holds for the whole process; of blocks within each other, the outermost decides.

    Parameters
    ----------
    device : torch.device
        Where the network runs; nothing is done but for the CPU.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    settings = (_TRIM_THRESHOLD, _TOP_PAD, _MAPPED_FROM, _MAPPED_BLOCKS)
    with _lock:
        _depth[0] += 1
        for parameter, keeping, _ in settings:
            library.mallopt(parameter, keeping)
    try:
        yield
    finally:
        with _lock:
            _depth[0] -= 1
            if not _depth[0]:
                for parameter, _, default in settings:
                    library.mallopt(parameter, default)
                library.malloc_trim(0)


def give_back() -> None:
    """Give memory that was freed so far back to the kernel."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return the C library when it is glibc, whose allocator takes these settings."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library
