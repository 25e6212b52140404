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
from PartialSegSlicer.logic.errors import BusyError
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


def test_memory_is_freed_without_waiting_for_the_worker(logic: Any, volume: Any, random_model: Path) -> None:
    settings = {"tasks": ["liver"], "model": str(random_model), "device": "cpu"}
    logic.segment(volume, **settings)
    scan, told = logic.session.scans.of(volume).file, []
    job = logic.unload(onFinished=told.append)
    assert logic.busy
    assert (told, scan.is_file()) == ([], True)
    with pytest.raises(BusyError):
        logic.forecast(volume, **settings)
    spin(logic, job)
    assert (job.state, told, scan.is_file()) == ("finished", [{}], False)
    assert logic.segment(volume, **settings).structures
    assert logic.unload() == {}


def test_no_worker_is_started_to_free_its_memory(own_logic: Any) -> None:
    told: list[Any] = []
    own_logic.unload()
    spin(own_logic, own_logic.unload(onFinished=told.append))
    assert told == [{}]
    assert not own_logic.session.running


def test_a_worker_that_is_closed_while_memory_is_freed_ends_the_job(own_logic: Any) -> None:
    own_logic.devices()
    errors: list[Any] = []
    job = own_logic.unload(onError=errors.append)
    own_logic.close()
    assert job.state == "cancelled"
    assert [error.code for error in errors] == ["cancelled"]
    own_logic.poll()
    assert own_logic.devices()["devices"]


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
