"""Sizes of files as people read them, and how much a folder takes. Used by whatever shows either."""

from __future__ import annotations

from pathlib import Path


def readable(count: int) -> str:
    """Return a number of bytes in decimal units: ``312 B``, ``1.2 MB``, ``98 GB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; what links point at does not count.

    Raises
    ------
    OSError
        When the folder cannot be read.
    """
    return sum(item.lstat().st_size for item in folder.rglob("*") if item.is_file() and not item.is_symlink())
