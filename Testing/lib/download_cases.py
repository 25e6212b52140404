"""What the tests of ``partialseg download`` and ``remove`` share: calls, typed answers, packed models."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib import cli
from PartialSegLib.bundle import CARD, WEIGHTS, ModelBundle


def zipped(bundle: ModelBundle, archive: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for name in (CARD, WEIGHTS):
            packed.write(bundle.folder / name, inside + name)
    return archive


def call(*words: Any) -> int:
    return cli.main([str(word) for word in words])


class Terminal(io.StringIO):
    """What somebody types; a real terminal cannot be had in a test that runs anywhere."""

    def isatty(self) -> bool:
        return True


def types(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(text))
