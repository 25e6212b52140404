"""Models in the module: listed with what the picker shows, shared, imported, removed, never fetched unasked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bundles import random_bundle
from PartialSegLib.errors import BundleError, LicenseError
from PartialSegWorker.errors import WorkerError
from slicer_scene import SlicerScene


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder, for the worker too."""
    folder = tmp_path / "models"
    monkeypatch.setenv("PARTIALSEG_MODELS", str(folder))
    return folder


def names(logic: Any) -> list[str]:
    return [entry["name"] for entry in logic.models()["models"]]


def test_the_picker_gets_tasks_structures_colors_and_codes_of_every_model(own_logic: Any, models: Path) -> None:
    listed = own_logic.models()
    (bundled,) = listed["models"]
    assert bundled["license"] == "Apache-2.0"
    liver = next(item for task in bundled["tasks"] for item in task["structures"] if item["key"] == "liver")
    assert liver["color"] == [221, 130, 101]
    assert "SCT 10200004" in liver["codes"]
    assert {entry["name"] for entry in listed["downloads"]} >= {"multitalent-unet"}
    assert not own_logic.session.running


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_model_that_somebody_shares_is_imported_as_it_is(
    own_logic: Any, slicer_scene: SlicerScene, models: Path, tmp_path: Path, packed: bool
) -> None:
    (tmp_path / "shared").mkdir()
    shared = random_bundle(tmp_path / "shared" / "colleague").folder
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", shared.parent)) if packed else shared
    assert own_logic.importModel(path) == ["colleague"]
    assert names(own_logic) == ["colleague", "phantom-dodnet"]
    with pytest.raises(WorkerError) as raised:
        own_logic.importModel(path)
    assert raised.value.code == "bundle"
    assert "already" in raised.value.message
    assert own_logic.importModel(path, overwrite=True) == ["colleague"]
    told = own_logic.removableModel("colleague")
    assert told.startswith(f"the model 'colleague' in {models / 'colleague'} (")
    assert told.endswith("B)")
    own_logic.removeModel("colleague")
    assert names(own_logic) == ["phantom-dodnet"]


def test_what_is_no_model_is_not_imported_and_the_bundled_model_is_not_removed(
    own_logic: Any, models: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="no file"):
        own_logic.importModel(tmp_path / "missing.pth")
    (tmp_path / "letter.pth").write_text("Dear colleague")
    with pytest.raises(WorkerError) as raised:
        own_logic.importModel(tmp_path / "letter.pth")
    assert raised.value.code == "bundle"
    with pytest.raises(BundleError, match="comes with the library"):
        own_logic.removeModel("phantom-dodnet")


def test_nothing_is_downloaded_before_the_license_is_accepted(own_logic: Any, models: Path) -> None:
    with pytest.raises(LicenseError, match="nothing was downloaded"):
        own_logic.downloadModel("multitalent-unet")
    assert not own_logic.session.running


def test_a_download_without_a_connection_says_so(own_logic: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this computer: nobody answers there.
    monkeypatch.setenv("PARTIALSEG_MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(WorkerError) as raised:
        own_logic.downloadModel("multitalent-unet", licenseAccepted=True)
    assert raised.value.code == "download"
    assert raised.value.hint
