"""``partialseg remove`` deletes what the user means, after asking, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from download_cases import call, types

from bundles import random_bundle
from PartialSegLib import catalog
from PartialSegLib.bundle import CARD, ModelBundle
from PartialSegLib.sizes import folder_size, readable


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, empty."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    return folder


def test_a_model_is_removed_after_asking(installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    size = readable(folder_size(random_bundle(installed / "abdomen").folder))
    described = f"the model 'abdomen' in {installed / 'abdomen'} ({size})"
    assert call("remove", "abdomen") == 6
    assert f"Nobody is there to ask whether to delete {described}. Add --yes" in capsys.readouterr().err
    types(monkeypatch, "\n")
    assert call("remove", "abdomen") == 1
    assert capsys.readouterr().err == f"Delete {described}? [y/N] partialseg: error: Nothing was deleted.\n"
    assert catalog.find("abdomen").card.name == "abdomen"
    types(monkeypatch, "y\n")
    assert call("remove", "abdomen") == 0
    assert capsys.readouterr().out == f"Deleted {described}.\n"
    assert os.listdir(installed) == []


def test_a_damaged_model_can_be_removed(installed: Path) -> None:
    (random_bundle(installed / "abdomen").folder / CARD).write_text("{")
    assert call("remove", "abdomen", "--yes") == 0
    assert os.listdir(installed) == []


def test_of_two_models_of_one_name_the_folder_says_which(installed: Path, capsys: Any) -> None:
    shutil.copytree(random_bundle(installed / "abdomen").folder, installed / "copy")
    assert call("remove", "abdomen", "--yes") == 6
    assert "2 models are named 'abdomen'. Name the folder: " in capsys.readouterr().err
    assert call("remove", installed / "copy", "--yes") == 0
    assert os.listdir(installed) == ["abdomen"]


def folder_of_the_user(installed: Path) -> str:
    (installed / "letters").mkdir()
    (installed / "letters" / "letter.txt").write_text("Dear patient")
    return "letters"


def elsewhere(installed: Path) -> str:
    return str(random_bundle(installed.parent / "elsewhere").folder)


KEPT: dict[str, tuple[Any, str]] = {
    "bundled": (lambda installed: "phantom-dodnet", "'phantom-dodnet' comes with the library and cannot be removed"),
    "unknown": (lambda installed: "abdomn", "There is no installed model 'abdomn'. Installed: none."),
    "no model": (folder_of_the_user, "it is no model, and may be something else of yours"),
    "elsewhere": (elsewhere, "There is no installed model"),
}


@pytest.mark.parametrize(("make", "message"), KEPT.values(), ids=KEPT)
def test_nothing_but_an_installed_model_is_deleted(installed: Path, make: Any, message: str, capsys: Any) -> None:
    name = make(installed)
    before = sorted(installed.parent.rglob("*"))
    assert call("remove", name, "--yes") == 6
    assert message in capsys.readouterr().err
    assert sorted(installed.parent.rglob("*")) == before
    assert catalog.find("phantom-dodnet") is not None


def test_of_a_linked_model_only_the_link_is_deleted(installed: Path, tmp_path: Path) -> None:
    shared = random_bundle(tmp_path / "shared")
    (installed / "shared").symlink_to(shared.folder, target_is_directory=True)
    assert call("remove", "shared", "--yes") == 0
    assert os.listdir(installed) == []
    assert ModelBundle.open(shared.folder).card == shared.card


def test_sizes_are_told_as_people_read_them(tmp_path: Path) -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB"}
    assert {count: readable(count) for count in sizes} == sizes
    assert [readable(count) for count in (999_500, 3_200_000_000, 10**15)] == ["1.0 MB", "3.2 GB", "1000 TB"]
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(bytes(1234))
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "file")
    assert folder_size(tmp_path) == 1234
