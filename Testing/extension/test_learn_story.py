"""Learning on real MRML: corrected segments become training cases, a new model, and the next run's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import random_bundle
from PartialSegLib.errors import PartialSegError, SegmentationError
from PartialSegLib.images import Geometry, Image
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.errors import SettingError
from PartialSegSlicer.segments import findSegment
from PartialSegSlicer.volumes import geometryFromVolumeNode
from slicer_scene import SlicerScene

PARENT = "parent"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a small model of random weights in it, for the worker too."""
    folder = tmp_path / "models"
    folder.mkdir()
    random_bundle(folder / PARENT)
    monkeypatch.setenv("PARTIALSEG_MODELS", str(folder))
    return folder


def patient(scene: SlicerScene, number: int) -> tuple[Any, np.ndarray]:
    """Add a scan with a bright ball, which the radiologist of these tests calls the liver; return node and truth."""
    shape, center = (32, 56, 60), np.array([[14], [24 + 4 * number], [22 + 7 * number]])
    distance = np.linalg.norm(np.indices(shape).reshape(3, -1) - center, axis=0).reshape(shape)
    truth = distance < 10
    noise = np.random.default_rng(number).normal(0, 20, shape)
    voxels = np.where(truth, 180, -120) + noise
    image = Image(voxels.astype(np.int16), Geometry(shape, (2.0, 2.0, 2.0)))
    return scene.add_volume(image, f"CT {number}"), truth


def corrected_case(logic: Any, scene: SlicerScene, number: int) -> Any:
    """Segment a patient, correct the liver in the scene, and save the case."""
    volume, truth = patient(scene, number)
    node = logic.segment(volume, tasks=["liver"], model=PARENT, device="cpu").segmentationNode
    segment = findSegment(node, "liver")
    scene.slicer.util.updateSegmentBinaryLabelmapFromArray(truth.astype(np.uint8), node, segment, volume)
    logic.markCorrected(node, segment)
    return logic.saveTrainingCase(volume, node)


def dice(logic: Any, volume: Any, truth: np.ndarray, model: str) -> float:
    """Segment with a model, and return the Dice of the liver."""
    node = logic.segment(volume, tasks=["liver"], model=model, device="cpu").segmentationNode
    mask = maskOnVolume(node, findSegment(node, "liver"), geometryFromVolumeNode(volume))
    found = np.zeros(truth.shape, bool)
    found[mask.box] = mask.unpack()
    return float(2 * np.count_nonzero(found & truth) / max(1, found.sum() + truth.sum()))


def names(logic: Any) -> set[str]:
    return {entry["name"] for entry in logic.models()["models"]}


def test_corrections_become_a_model_that_the_next_run_uses(
    own_logic: Any, slicer_scene: SlicerScene, installed: Path
) -> None:
    cases = [corrected_case(own_logic, slicer_scene, number) for number in range(3)]
    assert [case.structures for case in own_logic.trainingCases()] == [("liver",)] * 3

    losses: list[float] = []
    outcome = own_logic.fineTune(
        [cases[0].name, cases[1]],
        heldOut=[cases[2].name],
        model=PARENT,
        name="mine",
        device="cpu",
        options={"head_steps": 150},
        onLoss=lambda step, loss: losses.append(loss),
    )
    assert len(losses) > 10
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert outcome.better is True
    assert outcome.judgedBy == "held-out"
    assert outcome.after["liver"] > outcome.before["liver"]
    assert outcome.verdict
    assert "mine" not in names(own_logic)

    # The figures are those of what the radiologist sees, with the parent as with the new model.
    volume, truth = patient(slicer_scene, 2)
    assert dice(own_logic, volume, truth, PARENT) == pytest.approx(outcome.before["liver"], abs=1e-3)
    assert own_logic.keepModel(outcome) == "mine"
    assert "mine" in names(own_logic)
    assert dice(own_logic, volume, truth, "mine") == pytest.approx(outcome.after["liver"], abs=1e-3)
    with pytest.raises(SegmentationError, match="does not wait"):
        own_logic.discardModel(outcome)


def test_a_full_fine_tuning_that_is_discarded_leaves_nothing(
    own_logic: Any, slicer_scene: SlicerScene, installed: Path
) -> None:
    cases = [corrected_case(own_logic, slicer_scene, number) for number in range(2)]
    outcome = own_logic.fineTune(
        cases[:1],
        mode="full",
        heldOut=cases[1:],
        model=PARENT,
        device="cpu",
        options={"head_steps": 3, "warmup_steps": 2, "steps": 4, "batch": 1},
    )
    assert outcome.mode == "full"
    assert set(outcome.before) == set(outcome.after) >= {"liver"}
    assert outcome.better in (True, False)
    own_logic.discardModel(outcome)
    assert not outcome.bundle.exists()
    assert names(own_logic) == {PARENT, "phantom-dodnet"}
    with pytest.raises(SegmentationError, match="does not wait"):
        own_logic.keepModel(outcome)


def test_wrong_fine_tunings_are_refused_before_anything_is_trained(
    own_logic: Any, slicer_scene: SlicerScene, installed: Path
) -> None:
    case = corrected_case(own_logic, slicer_scene, 0)
    for wrong, kind in (
        ({"cases": []}, SegmentationError),
        ({"cases": ["nobody"]}, SegmentationError),
        ({"cases": [case], "heldOut": [case.name]}, SettingError),
        ({"cases": [case], "mode": "slow"}, SettingError),
        ({"cases": [case], "model": "none"}, PartialSegError),
    ):
        with pytest.raises(kind) as raised:
            own_logic.fineTune(**wrong)
        assert raised.value.hint
    assert not own_logic.busy
