"""One gzip stream out of blocks that threads compress side by side.

A segmentation is mostly constant, so compression at the quickest level is the whole cost of
writing it. Every block is deflated on its own and ended at a byte boundary (RFC 1951, section 3.2.3
"non-final blocks", a full flush of zlib); the blocks one after another are a single, ordinary
gzip member (RFC 1952). The writers of ``.seg.nrrd`` and NIfTI use it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEVEL = 1
#: RFC 1952, section 2.3: magic number, deflate, no flags, no time, fastest algorithm, unknown system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_FINAL_EMPTY_BLOCK = b"\x03\x00"


def write_gzip(stream: BinaryIO, items: Iterable[Item], make: Callable[[Item], bytes]) -> None:
    """Write one gzip member.

    Parameters
    ----------
    stream : binary file
        Open for writing; it may already hold other bytes, such as an NRRD header.
    items : iterable
        What each block is made from, in order.
    make : callable
        Turns an item into the bytes of its block. Runs in a thread; only a few blocks exist at once.
    """

    def work(item: Item) -> tuple[bytes, bytes]:
        block = make(item)
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        return block, packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)

    check = size = 0
    stream.write(_HEADER)
    for block, packed in ordered_map(work, items):
        check, size = zlib.crc32(block, check), size + len(block)
        stream.write(packed)
    stream.write(_FINAL_EMPTY_BLOCK + struct.pack("<II", check, size & 0xFFFFFFFF))


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """Yield ``work(item)`` in order, computed in threads only a few items ahead.

    ``ThreadPoolExecutor.map`` would start on every item at once and keep all results in memory.
    """
    count = threads or min(4, os.cpu_count() or 1)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
