"""Segmentations that the user's selector made, and copies of voxels that nobody needs any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mrml_cases import RIGID, add_transform

from PartialSegLib.structures import catalogue
from PartialSegSlicer.nodes import adoptSegmentationNode
from PartialSegSlicer.segments import addSegment
from slicer_scene import SlicerScene


@pytest.fixture
def bare(slicer_scene: SlicerScene) -> Any:
    """What "Create new segmentation" of a selector adds."""
    return slicer_scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")


def test_a_result_in_a_bare_segmentation_is_drawn_and_moves_with_its_volume(
    logic: Any, volume: Any, bare: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    transform = add_transform(slicer_scene, RIGID, volume)
    result = logic.segment(volume, ["spleen"], bare, model=str(random_model), device="cpu")
    assert bare.GetDisplayNode() is not None
    assert bare.GetTransformNodeID() == transform.GetID()
    fresh = logic.segment(volume, ["spleen"], model=str(random_model), device="cpu")
    assert [row.voxels for row in result.structures] == [row.voxels for row in fresh.structures]
    assert (slicer_scene.points(bare, "spleen") == slicer_scene.points(fresh.segmentationNode, "spleen")).all()


def test_a_segmentation_that_has_its_place_keeps_it(volume: Any, bare: Any, slicer_scene: SlicerScene) -> None:
    addSegment(bare, catalogue()["liver"])
    add_transform(slicer_scene, RIGID, volume)
    adoptSegmentationNode(bare, volume)
    assert bare.GetTransformNodeID() is None
    assert bare.GetDisplayNode() is not None


def test_what_was_unloaded_leaves_no_voxels_behind(logic: Any, volume: Any, random_model: Path) -> None:
    logic.segment(volume, ["spleen"], model=str(random_model), device="cpu")
    folder = logic.session.client.folder
    assert list(folder.glob("scan*.nrrd"))
    logic.unload()
    assert not list(folder.glob("scan*.nrrd"))
    assert logic.segment(volume, ["spleen"], model=str(random_model), device="cpu").structures


def test_a_forecast_of_a_region_is_smaller(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    region = slicer_scene.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    region.SetCenter(*[(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
    region.SetSize(4.0, 4.0, 4.0)
    settings = {"model": str(random_model), "device": "cpu"}
    whole, part = logic.forecast(volume, **settings), logic.forecast(volume, **settings, region=region)
    assert part["windows"] <= whole["windows"]
    assert part["host_bytes"] < whole["host_bytes"]
