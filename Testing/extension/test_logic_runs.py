"""Runs on a real scene with a real worker: what the library finds is what the scene shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import TASKS, spin
from mrml_cases import RIGID, add_transform

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import PartialSegError
from PartialSegLib.inference import Predictor
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.volumes import geometryFromVolumeNode, imageFromVolumeNode
from slicer_scene import SlicerScene


def test_every_voxel_of_a_run_is_the_librarys_own(
    logic: Any, volume: Any, slicer_scene: SlicerScene, random_model: Path
) -> None:
    add_transform(slicer_scene, RIGID, volume)
    result = logic.segment(volume, tasks=TASKS, model=str(random_model), device="cpu")
    expected = Predictor(ModelBundle.open(random_model), "cpu").segment(imageFromVolumeNode(volume), TASKS).segmentation
    assert [row.key for row in result.structures] == list(expected.keys)
    geometry = geometryFromVolumeNode(volume)
    for row in result.structures:
        mask = maskOnVolume(result.segmentationNode, row.segmentID, geometry)
        assert mask.count == expected.masks[row.key].count == row.voxels
        np.testing.assert_array_equal(mask.unpack(), expected.masks[row.key].unpack())
        assert row.volumeMl == pytest.approx(expected.volume_ml(row.key))


def test_a_run_with_callbacks_goes_on_when_it_is_polled_and_tells_progress_and_result(
    logic: Any, volume: Any, random_model: Path
) -> None:
    told: list[Any] = []
    stages: list[str] = []
    run = logic.segment(
        volume,
        tasks=TASKS,
        model=str(random_model),
        device="cpu",
        onProgress=lambda progress: stages.append(progress.stage),
        onFinished=told.append,
    )
    assert run.state == "running"
    assert logic.busy
    spin(logic, run)
    assert run.state == "finished"
    assert told == [run.result]
    assert "segment" in stages
    assert not logic.busy


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": []},
        {"tasks": ["spline"]},
        {"quality": "perfect"},
        {"overlap": "sometimes"},
        {"model": "no-such-model"},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_at_once_with_a_hint(
    logic: Any, volume: Any, slicer_scene: SlicerScene, settings: dict[str, Any]
) -> None:
    with pytest.raises(PartialSegError) as raised:
        logic.segment(volume, **settings, onError=lambda error: None)
    assert raised.value.hint
    assert not logic.busy
    assert slicer_scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
