"""Which models there are, and how one is found."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bundles import random_bundle
from PartialSegLib import catalog
from PartialSegLib.bundle import CARD, ModelBundle
from PartialSegLib.errors import BundleError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("made") / "abdomen-small")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, empty, with nothing bundled."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(catalog, "_BUNDLED_FOLDER", tmp_path / "bundled")
    return folder


def install(model: ModelBundle, folder: Path, name: str | None = None) -> Path:
    """Copy a model into a folder, under a new name on its card."""
    weights = model.load_network().state_dict()
    folder.parent.mkdir(exist_ok=True)
    return ModelBundle.create(folder, replace(model.card, name=name or folder.name), weights).folder


def test_installed_and_bundled_models_are_listed(installed: Path, tmp_path: Path, model: ModelBundle) -> None:
    install(model, installed / "zebra")
    install(model, installed / "abdomen")
    install(model, tmp_path / "bundled" / "mini")
    listed = [(entry.name, entry.origin, entry.problem) for entry in catalog.models()]
    assert listed == [("abdomen", "installed", ""), ("zebra", "installed", ""), ("mini", "bundled", "")]


def test_a_missing_model_folder_is_an_empty_list(installed: Path) -> None:
    installed.rmdir()
    assert catalog.models() == []


def test_files_and_unfinished_writes_are_no_models(installed: Path) -> None:
    (installed / ".model.1a2b.part").mkdir()
    (installed / "readme.txt").write_text("models")
    assert catalog.models() == []


def test_a_damaged_model_is_listed_with_its_problem_and_hides_no_other(installed: Path, model: ModelBundle) -> None:
    install(model, installed / "good")
    (install(model, installed / "bad") / CARD).write_text("{")
    bad, good = catalog.models()
    assert (bad.name, bad.bundle) == ("bad", None)
    assert "card.json cannot be read" in bad.problem
    assert good.bundle is not None
    with pytest.raises(BundleError, match=r"card\.json cannot be read"):
        catalog.find("bad")


def test_a_model_is_found_by_the_name_on_its_card(installed: Path, model: ModelBundle) -> None:
    install(model, installed / "some folder", "abdomen")
    assert catalog.find("abdomen").folder == installed / "some folder"


def test_a_model_is_found_by_its_folder(installed: Path, model: ModelBundle) -> None:
    assert catalog.find(model.folder).card == model.card
    assert catalog.find(str(model.folder)).card == model.card


def test_a_folder_that_does_not_exist_is_named(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere is no model"):
        catalog.find(str(tmp_path / "nowhere"))


def test_an_unknown_name_is_answered_with_close_ones(installed: Path, model: ModelBundle) -> None:
    install(model, installed / "abdomen-large")
    install(model, installed / "thorax")
    with pytest.raises(BundleError, match=r"no model 'Abdomen-larg'\. Did you mean abdomen-large\?"):
        catalog.find("Abdomen-larg")
    with pytest.raises(BundleError, match="Known: abdomen-large, thorax"):
        catalog.find("qqq")


def test_without_a_name_it_is_the_bundled_model(installed: Path, tmp_path: Path, model: ModelBundle) -> None:
    install(model, installed / "abdomen")
    bundled = install(model, tmp_path / "bundled" / catalog.BUNDLED)
    assert catalog.find().folder == bundled
    assert catalog.find("demo").folder == bundled


def test_the_environment_chooses_the_model_when_no_name_is_given(
    installed: Path, model: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(model, installed / "abdomen")
    install(model, installed / "thorax")
    monkeypatch.setenv(catalog.MODEL_VARIABLE, "thorax")
    assert catalog.find().card.name == "thorax"
    assert catalog.find("abdomen").card.name == "abdomen"


def test_an_installed_model_answers_before_a_bundled_one(installed: Path, tmp_path: Path, model: ModelBundle) -> None:
    bundled = install(model, tmp_path / "bundled" / "abdomen")
    own = install(model, installed / "abdomen")
    assert catalog.find("abdomen").folder == own
    assert [entry.problem for entry in catalog.models()] == [
        "",
        f"{own} has the same name. Choose this one by its folder.",
    ]
    assert catalog.find(bundled).folder == bundled


def test_a_damaged_model_does_not_hide_a_good_one_of_its_name(
    installed: Path, tmp_path: Path, model: ModelBundle
) -> None:
    bundled = install(model, tmp_path / "bundled" / "abdomen")
    (install(model, installed / "abdomen") / CARD).unlink()
    assert catalog.find("abdomen").folder == bundled


def test_the_model_folder_is_the_platforms_unless_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(tmp_path))
    assert catalog.model_folder() == tmp_path
    monkeypatch.delenv(catalog.FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    expected = {
        "linux": Path.home() / ".local" / "share",
        "darwin": Path.home() / "Library" / "Application Support",
        "win32": tmp_path / "local",
    }
    for platform, folder in expected.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert catalog.model_folder() == folder / "partialseg" / "models"


def test_a_copied_model_folder_is_a_model(installed: Path, model: ModelBundle) -> None:
    shutil.copytree(model.folder, installed / "copied")
    assert catalog.find("abdomen-small").load_network() is not None
