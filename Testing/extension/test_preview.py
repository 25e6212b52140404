"""What a run shows while it goes on: voxels as they are found, and no trace of them afterwards."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import TASKS, large_scan, spin
from mrml_cases import RIGID, add_transform

from PartialSegLib.errors import PartialSegError
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegLib.structures import catalogue
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic import preview, runs
from PartialSegSlicer.logic.preview import RunPreview
from PartialSegSlicer.nodes import createSegmentationNode
from PartialSegSlicer.segments import segmentIDs
from PartialSegSlicer.volumes import geometryFromVolumeNode
from slicer_scene import SlicerScene

Glance = Callable[[Any], object]


@pytest.fixture
def large(slicer_scene: SlicerScene) -> Any:
    """A volume that takes a few seconds."""
    return slicer_scene.add_volume(large_scan())


@pytest.fixture
def glances(monkeypatch: pytest.MonkeyPatch) -> list[Glance]:
    """What is called with the preview's node whenever more voxels were drawn; here that is as soon as they come."""
    called: list[Glance] = []
    add, show = RunPreview.add, RunPreview._show

    def adding(self: Any, file: Path) -> None:
        add(self, file)
        self.draw(geometryFromVolumeNode(self._volumeNode))

    def showing(self: Any, geometry: Any) -> None:
        show(self, geometry)
        for glance in called:
            glance(self.node)

    monkeypatch.setattr(runs, "_PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(preview, "_REST", 0.0)
    monkeypatch.setattr(RunPreview, "add", adding)
    monkeypatch.setattr(RunPreview, "_show", showing)
    return called


def run(logic: Any, volume: Any, model: Path, **settings: Any) -> tuple[Any, list[PartialSegError]]:
    """Segment with a preview, to the end."""
    errors: list[PartialSegError] = []
    job = logic.segment(volume, model=str(model), device="cpu", preview=True, onError=errors.append, **settings)
    spin(logic, job)
    return job, errors


def segmentations(scene: SlicerScene) -> int:
    return int(scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))


def test_voxels_are_shown_while_the_run_goes_on_and_go_when_the_result_comes(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    add_transform(slicer_scene, RIGID, large)
    target, geometry = createSegmentationNode(large), geometryFromVolumeNode(large)
    seen: list[dict[str, Any]] = []

    def look(preview: Any) -> None:
        assert segmentIDs(target) == ()
        assert preview.GetDisplayNode() is not None
        seen.append({key: maskOnVolume(preview, key, geometry) for key in segmentIDs(preview)})

    glances.append(look)
    job, errors = run(logic, large, random_model, tasks=TASKS, segmentationNode=target)
    assert not errors
    counts = [sum(mask.count for mask in masks.values()) for masks in seen]
    assert len(counts) > 1
    assert counts == sorted(set(counts)), "each look shows more"
    assert segmentations(slicer_scene) == 1
    # The rules of the model add tumors to organs, but no voxel to a tumor.
    tumors = {key: mask for key, mask in seen[0].items() if key.endswith("_tumor")}
    assert tumors
    for key, mask in tumors.items():
        # The last planes of a slab are told with the next one.
        done = maskOnVolume(target, key, geometry).planes(mask.start[0], mask.start[0] + mask.shape[0] - 2)
        assert not done.without(mask).count
    assert job.result.segmentationNode is target


def test_a_preview_is_neither_listed_nor_saved_with_the_scene(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "scene.mrml"

    def save(preview: Any) -> None:
        assert preview.GetHideFromEditors()
        slicer_scene.scene.SetURL(str(saved))
        slicer_scene.scene.Commit()
        glances.clear()

    glances.append(save)
    run(logic, large, random_model)
    assert large.GetName() in saved.read_text()
    assert "being segmented" not in saved.read_text()
    assert "<Segmentation" not in saved.read_text()


def test_a_cancelled_run_takes_its_preview_away(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    glances.append(lambda preview: logic.cancel())
    _, errors = run(logic, large, random_model)
    assert [error.code for error in errors] == ["cancelled"]
    assert segmentations(slicer_scene) == 0


def test_a_preview_that_somebody_deletes_does_not_come_back_and_costs_no_result(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    seen: list[Any] = []

    def delete(preview: Any) -> None:
        seen.append(preview)
        slicer_scene.scene.RemoveNode(preview)

    glances.append(delete)
    job, errors = run(logic, large, random_model)
    assert not errors
    assert len(seen) == 1
    assert job.result.structures
    assert segmentations(slicer_scene) == 1


def test_a_volume_that_is_moved_is_not_previewed_at_the_wrong_place(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    seen: list[Any] = []

    def move(preview: Any) -> None:
        seen.append(preview)
        add_transform(slicer_scene, RIGID, large)

    glances.append(move)
    _, errors = run(logic, large, random_model)
    assert len(seen) == 1
    assert "was moved" in errors[0].message
    assert segmentations(slicer_scene) == 0


def test_without_asking_for_it_nothing_is_shown_early(
    glances: list[Glance], logic: Any, large: Any, random_model: Path
) -> None:
    glances.append(lambda preview: pytest.fail("nobody asked"))
    assert logic.segment(large, model=str(random_model), device="cpu").structures


def test_a_preview_that_cannot_be_drawn_costs_no_result(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    def clumsy(node: Any) -> None:
        raise MemoryError

    glances.append(clumsy)
    job, errors = run(logic, large, random_model, tasks=["spleen"])
    assert not errors
    assert segmentations(slicer_scene) == 1
    assert not [file for file in logic.session.client.folder.iterdir() if "preview" in file.name]
    assert job.result.structures


def test_drawing_leaves_the_time_to_the_user(
    slicer_scene: SlicerScene, large: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = geometryFromVolumeNode(large)
    spleen = catalogue()["spleen"]
    clock = iter([0.0, 2.0, 2.0, 19.9, 20.1, 20.2, 20.2])
    monkeypatch.setattr(preview, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    shown = RunPreview(large)
    drawn = []
    for number in range(3):
        array = np.zeros(geometry.shape, bool)
        array[10 * number : 10 * number + 5, 20:30, 20:30] = True
        part = Segmentation.from_arrays(geometry, [spleen], {"spleen": array})
        write_segmentation(part, file := tmp_path / f"{number}.seg.nrrd")
        shown.add(file)
        # The first takes two seconds: the second comes too soon, the third after nine times as long.
        shown.draw(geometry)
        drawn.append(maskOnVolume(shown.node, "spleen", geometry).count)
    assert drawn == [500, 500, 1500]
    assert list(tmp_path.iterdir()) == []
