"""Learning on real MRML: corrected segments become training cases, a new model, and the next run's answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logic_cases import spin, unexpected

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import PartialSegError, SegmentationError
from PartialSegLib.images import Geometry, Image
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.errors import BusyError, SettingError
from PartialSegSlicer.segments import findSegment
from PartialSegSlicer.volumes import geometryFromVolumeNode
from PartialSegWorker import undecided
from slicer_scene import SlicerScene

PARENT = "parent"


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A logic whose model folder has a small model of random weights; its worker serves all tests here."""
    from PartialSegSlicer.logic.headless import HeadlessLogic

    folder = tmp_path_factory.mktemp("installed")
    (folder / "models").mkdir()
    random_bundle(folder / "models" / PARENT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PARTIALSEG_MODELS", str(folder / "models"))
        logic = HeadlessLogic(sys.executable, folder / "cases")
        yield logic
        logic.close()


@pytest.fixture
def logic(learner: Any, slicer_scene: SlicerScene) -> Iterator[Any]:
    """The same, in an empty scene and without training cases."""
    yield learner
    for case in learner.trainingCases():
        learner.removeTrainingCase(case.name)


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


def test_corrections_become_a_model_that_the_next_run_uses(logic: Any, slicer_scene: SlicerScene) -> None:
    cases = [corrected_case(logic, slicer_scene, number) for number in range(3)]
    assert [case.structures for case in logic.trainingCases()] == [("liver",)] * 3

    losses: list[float] = []
    outcome = logic.fineTune(
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
    assert "mine" not in names(logic)

    # The figures are those of what the radiologist sees, with the parent as with the new model.
    volume, truth = patient(slicer_scene, 2)
    assert dice(logic, volume, truth, PARENT) == pytest.approx(outcome.before["liver"], abs=1e-3)
    assert logic.keepModel(outcome) == "mine"
    assert "mine" in names(logic)
    assert dice(logic, volume, truth, "mine") == pytest.approx(outcome.after["liver"], abs=1e-3)
    with pytest.raises(SegmentationError, match="does not wait"):
        logic.discardModel(outcome)


def test_a_full_fine_tuning_that_is_discarded_leaves_nothing(logic: Any, slicer_scene: SlicerScene) -> None:
    cases = [corrected_case(logic, slicer_scene, number) for number in range(3)]
    outcome = logic.fineTune(
        cases[:1],
        mode="full",
        heldOut=cases[1:2],
        model=PARENT,
        device="cpu",
        options={"head_steps": 3, "warmup_steps": 2, "steps": 4, "batch": 1},
    )
    assert outcome.mode == "full"
    assert set(outcome.before) == set(outcome.after) >= {"liver"}
    assert outcome.better in (True, False)
    provenance = ModelBundle.open(outcome.bundle).card.provenance
    assert provenance["replayed_cases"] == 1, "Training cases that were not chosen are gone through again."
    # Another worker, or another Slicer, leaves it where it waits.
    assert logic.undecided == (outcome,)
    logic.setPython("")
    assert type(logic)().undecided == (outcome,)
    logic.discardModel(outcome)
    assert logic.undecided == ()
    assert not outcome.bundle.exists()
    assert outcome.name not in names(logic)
    with pytest.raises(SegmentationError, match="does not wait"):
        logic.keepModel(outcome)


def test_decisions_are_carried_out_without_waiting_for_the_worker(logic: Any) -> None:
    told = {"name": "mine too", "mode": "quick", "trained": ["liver"], "before": {}, "after": {}, "regressions": []}
    told |= {"better": None, "judged_by": "training", "verdict": "", "seconds": 1.0}
    parent = next(entry for entry in logic.models()["models"] if entry["name"] == PARENT)
    for _ in range(2):
        undecided.put(Path(parent["folder"]), told)
    first, second = logic.undecided
    errors: list[Any] = []
    kept: list[str] = []
    # Its name is that of an installed model: it goes on waiting.
    spin(logic, logic.keepModel(first, onError=errors.append))
    assert [error.code for error in errors] == ["bundle"]
    assert logic.undecided == (first, second)
    job = logic.keepModel(first, overwrite=True, onFinished=kept.append, onError=unexpected)
    assert kept == []
    with pytest.raises(BusyError):
        logic.discardModel(second, onFinished=unexpected)
    spin(logic, job)
    assert kept == [PARENT]
    assert logic.undecided == (second,)
    gone: list[Any] = []
    spin(logic, logic.discardModel(second, onFinished=gone.append))
    assert len(gone) == 1
    assert logic.undecided == ()
    with pytest.raises(SegmentationError, match="does not wait"):
        logic.discardModel(second, onFinished=unexpected)


def test_wrong_fine_tunings_are_refused_before_anything_is_trained(logic: Any, slicer_scene: SlicerScene) -> None:
    case = corrected_case(logic, slicer_scene, 0)
    for wrong, kind in (
        ({"cases": []}, SegmentationError),
        ({"cases": ["nobody"]}, SegmentationError),
        ({"cases": [case], "heldOut": [case.name]}, SettingError),
        ({"cases": [case], "mode": "slow"}, SettingError),
        ({"cases": [case], "model": "none"}, PartialSegError),
    ):
        with pytest.raises(kind) as raised:
            logic.fineTune(**wrong)
        assert raised.value.hint
    assert not logic.busy
