"""Training cases as the module keeps them: by neutral names, listed, replaced only when asked, removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import read_image
from PartialSegLib.structures import catalogue
from PartialSegSlicer.logic.casestore import CaseStore
from PartialSegSlicer.segments import addSegment, markCompleted
from slicer_scene import SlicerScene


@pytest.fixture
def store(tmp_path: Path, slicer_scene: SlicerScene) -> CaseStore:
    return CaseStore(tmp_path / "kept" / "cases")


@pytest.fixture
def corrected(volume: Any, slicer_scene: SlicerScene) -> Any:
    """A segmentation with a finished liver and a spleen that nobody looked at."""
    node = slicer_scene.add_segmentation(volume)
    array = np.zeros((32, 56, 60), np.uint8)
    array[4:20, 10:40, 10:40] = 1
    for key in ("liver", "spleen"):
        addSegment(node, catalogue()[key])
        slicer_scene.slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, key, volume)
    markCompleted(node, "liver")
    return node


def test_a_case_gets_a_name_that_names_no_patient_and_only_what_was_corrected(
    store: CaseStore, volume: Any, corrected: Any
) -> None:
    volume.SetName("MUSTERMANN^Erika 1970-01-01")
    first, second = (store.save(volume, corrected) for _ in range(2))
    assert (first.name, second.name) == ("case-0001", "case-0002")
    assert first.structures == ("liver",)
    assert first.bytes > 1000
    assert "MUSTERMANN" not in "".join(
        file.read_text(encoding="utf-8") for file in first.folder.rglob("*.json")
    ) + " ".join(file.name for file in first.folder.rglob("*"))


def test_cases_are_listed_found_and_removed_by_name(store: CaseStore, volume: Any, corrected: Any) -> None:
    assert store.all() == []
    saved = store.save(volume, corrected, ["liver", "spleen"], "Größe 2")
    assert store.all() == [saved]
    assert saved.structures == ("liver", "spleen")
    store.remove("Größe 2")
    assert store.all() == []
    assert list(store.folder.iterdir()) == []
    with pytest.raises(SegmentationError, match="There is no training case"):
        store.remove("Größe 2")


def test_a_case_is_replaced_only_when_that_is_wanted(
    store: CaseStore, volume: Any, corrected: Any, slicer_scene: SlicerScene
) -> None:
    case = store.save(volume, corrected, name="one")
    other = np.zeros((32, 56, 60), np.uint8)
    other[3:5, 3:5, 3:5] = 1
    slicer_scene.slicer.util.updateSegmentBinaryLabelmapFromArray(other, corrected, "liver", volume)
    with pytest.raises(SegmentationError, match="already"):
        store.save(volume, corrected, name="one")
    mask = case.folder / "segmentations" / "liver.nii.gz"
    assert read_image(mask).voxels.sum() == 16 * 30 * 30
    store.save(volume, corrected, name="one", replace=True)
    assert read_image(mask).voxels.sum() == 8


@pytest.mark.parametrize("name", ["", "..", "../evil", "a/b", "con:", ".hidden", "x" * 101, "trailing ", "a\nb"])
def test_a_name_that_is_no_folder_everywhere_is_refused(
    store: CaseStore, volume: Any, corrected: Any, name: str
) -> None:
    with pytest.raises(SegmentationError, match="cannot be the name"):
        store.save(volume, corrected, name=name)
    assert store.all() == []


def test_a_damaged_case_is_listed_with_its_problem_and_hides_no_other(
    store: CaseStore, volume: Any, corrected: Any
) -> None:
    store.save(volume, corrected, name="good")
    broken = store.save(volume, corrected, name="broken")
    (broken.folder / "case.json").write_text("{")
    found = {case.name: case.problem for case in store.all()}
    assert found["good"] == ""
    assert "case.json" in found["broken"]
    store.remove("broken")
    assert [case.name for case in store.all()] == ["good"]


def test_a_folder_that_is_no_case_is_never_deleted(store: CaseStore, tmp_path: Path) -> None:
    precious = store.folder / "holiday pictures"
    precious.mkdir(parents=True)
    (precious / "picture.png").touch()
    with pytest.raises(SegmentationError, match="is no training case"):
        store.remove("holiday pictures")
    assert (precious / "picture.png").exists()


def test_the_folder_of_cases_follows_its_variable_and_else_the_model_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slicer_scene: SlicerScene
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path / "models"))
    assert CaseStore().folder == tmp_path / "cases"
    monkeypatch.setenv("PARTIALSEG_CASES", str(tmp_path / "elsewhere"))
    assert CaseStore().folder == tmp_path / "elsewhere"
