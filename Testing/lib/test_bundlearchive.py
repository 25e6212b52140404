"""A model packed as one zip is installed as it is, and a bad zip installs nothing."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from download_cases import zipped

from bundles import random_bundle
from PartialSegLib.bundle import CARD, WEIGHTS, ModelBundle
from PartialSegLib.bundlearchive import install_archive
from PartialSegLib.errors import BundleError


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``random``, as a folder and as a zip."""
    folder = tmp_path_factory.mktemp("archives")
    zipped(random_bundle(folder / "random"), folder / "random.zip", "random/")
    return folder


def cut_weights(archive: Path, bundle: ModelBundle) -> None:
    write(archive, {CARD: card(bundle), WEIGHTS: (bundle.folder / WEIGHTS).read_bytes()[:-1]})


def changed_weights(archive: Path, bundle: ModelBundle) -> None:
    data = (bundle.folder / WEIGHTS).read_bytes()
    write(archive, {CARD: card(bundle), WEIGHTS: data[:-1] + bytes([data[-1] ^ 1])})


def endless_weights(archive: Path, bundle: ModelBundle) -> None:
    write(archive, {CARD: card(bundle), WEIGHTS: (bundle.folder / WEIGHTS).read_bytes() + bytes(50_000_000)})


def write(archive: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)


def card(bundle: ModelBundle) -> bytes:
    return (bundle.folder / CARD).read_bytes()


#: What is wrong with a zip, and what the message says.
ARCHIVES: dict[str, tuple[Any, str]] = {
    "no zip": (lambda archive, bundle: archive.write_bytes(b"letter"), "is no readable zip of a model"),
    "truncated": (lambda archive, bundle: os.truncate(zipped(bundle, archive), 5000), "is no readable zip of a model"),
    "no card": (lambda archive, bundle: write(archive, {WEIGHTS: b""}), "it holds 0 files card.json"),
    "two cards": (lambda archive, bundle: write(archive, {CARD: b"{}", f"b/{CARD}": b"{}"}), "holds 2 files card.json"),
    "no weights": (lambda archive, bundle: write(archive, {CARD: card(bundle)}), "is no readable zip of a model"),
    "damaged card": (lambda archive, bundle: write(archive, {CARD: b"{"}), "is no readable zip of a model"),
    "huge card": (lambda archive, bundle: write(archive, {CARD: b" " * (17 << 20)}), "card.json is larger than"),
    "cut weights": (cut_weights, "weights.safetensors is not the file that the card describes"),
    "changed weights": (changed_weights, "weights.safetensors is not the file that the card describes"),
    "endless weights": (endless_weights, "weights.safetensors is not the file that the card describes"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_zip_that_is_no_good_model_installs_nothing(archives: Path, tmp_path: Path, make: Any, message: str) -> None:
    archive, folder = tmp_path / "random.zip", tmp_path / "installed" / "random"
    folder.parent.mkdir()
    make(archive, ModelBundle.open(archives / "random"))
    with pytest.raises(BundleError, match=re.escape(message)):
        install_archive(archive, folder)
    assert os.listdir(folder.parent) == []


def test_names_in_a_zip_lead_nowhere_else(archives: Path, tmp_path: Path) -> None:
    bundle, folder = ModelBundle.open(archives / "random"), tmp_path / "installed" / "random"
    folder.parent.mkdir()
    inside = "../../outside/"
    write(
        tmp_path / "random.zip",
        {
            inside + CARD: card(bundle),
            inside + WEIGHTS: (bundle.folder / WEIGHTS).read_bytes(),
            "../../evil.txt": b"evil",
        },
    )
    install_archive(tmp_path / "random.zip", folder)
    assert sorted(os.listdir(folder)) == [CARD, WEIGHTS]
    assert os.listdir(folder.parent) == ["random"]
    assert not list(tmp_path.rglob("outside")) + list(tmp_path.rglob("evil.txt"))


def test_a_zip_of_another_model_or_over_other_files_is_refused(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds the model 'random', not 'abdomen'"):
        install_archive(archives / "random.zip", tmp_path / "abdomen")
    (tmp_path / "random").mkdir()
    (tmp_path / "random" / "letter.txt").write_text("Dear patient")
    with pytest.raises(BundleError, match="is there already, and is no model that could be replaced"):
        install_archive(archives / "random.zip", tmp_path / "random")
