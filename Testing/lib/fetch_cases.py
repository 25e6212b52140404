"""What the tests of :mod:`PartialSegLib.fetching` share: a served file, a folder for it, and brisk attempts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Site, answers, noise, sends_only, serving

from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.transfer import Patience, fetch

CONTENT = noise(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: Pauses so short that a test is fast, and a stall so long that a busy machine is not taken for one.
BRISK = Patience(stall=60.0, attempts=3, wait=0.001)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the proxies of the environment away."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def site(no_proxy: None) -> Iterator[Site]:
    """A server that has :data:`CONTENT`."""
    with serving(CONTENT) as site:
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the file goes, in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder / "model.zip"


def get(site: Site, target: Path, patience: Patience = BRISK, **options: Any) -> str:
    return fetch(f"{site.address}/model.zip?token=secret", target, patience=patience, **options)


def leave_a_beginning(site: Site, target: Path) -> None:
    """Let a download end after 100,000 bytes."""
    site.faults = [sends_only(100_000), answers(404)]
    with pytest.raises(DownloadError):
        get(site, target)


def names(target: Path) -> set[str]:
    return {item.name for item in target.parent.iterdir()}
