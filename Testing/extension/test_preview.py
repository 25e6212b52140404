"""What a run shows while it goes on: voxels as they are found, and no trace of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from logic_cases import TASKS, large_scan, spin
from mrml_cases import RIGID, add_transform

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.cases import maskOnVolume
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
    """What is called with the preview's node (``None`` without one) whenever more voxels came."""
    from PartialSegSlicer.logic.preview import RunPreview

    called: list[Glance] = []
    add = RunPreview.add

    def adding(self: Any, *arguments: Any) -> None:
        add(self, *arguments)
        for glance in called:
            glance(self.node)

    monkeypatch.setattr(RunPreview, "add", adding)
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
        if preview is not None:
            slicer_scene.scene.RemoveNode(preview)

    glances.append(delete)
    job, errors = run(logic, large, random_model)
    assert not errors
    assert [node is not None for node in seen] == [True] + [False] * (len(seen) - 1)
    assert job.result.structures
    assert segmentations(slicer_scene) == 1


def test_a_volume_that_is_moved_is_not_previewed_at_the_wrong_place(
    glances: list[Glance], logic: Any, large: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    seen: list[Any] = []

    def move(preview: Any) -> None:
        seen.append(preview)
        if len(seen) == 1:
            add_transform(slicer_scene, RIGID, large)

    glances.append(move)
    _, errors = run(logic, large, random_model)
    assert seen[0] is not None
    assert seen[1:] == [None] * (len(seen) - 1)
    assert "was moved" in errors[0].message
    assert segmentations(slicer_scene) == 0


def test_without_asking_for_it_nothing_is_shown_early(
    glances: list[Glance], logic: Any, large: Any, random_model: Path
) -> None:
    glances.append(lambda preview: pytest.fail("nobody asked"))
    assert logic.segment(large, model=str(random_model), device="cpu").structures
