"""Correcting and learning in the panel: training cases, fine-tuning in the worker, keep or discard."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from panel_cases import OpenPanel

from PartialSegSlicer.segments import findSegment, markCompleted
from PartialSegWorker import undecided


@pytest.fixture
def corrected(panel: OpenPanel, monkeypatch: pytest.MonkeyPatch) -> OpenPanel:
    """The panel after a run whose kidneys were corrected; no training case is there, and learning is short."""
    few = {"head_steps": 20, "warmup_steps": 2, "steps": 4}
    monkeypatch.setattr(panel.logic, "fineTune", partial(panel.logic.fineTune, options=few))
    for case in panel.logic.trainingCases():
        panel.logic.removeTrainingCase(case.name)
    panel.add_scan()
    panel.choose("kidneys", "spleen")
    panel.run()
    node = panel.settings.outputSegmentation
    markCompleted(node, findSegment(node, "kidneys"))
    panel.widget.panel.cases.refresh()
    panel.widget.panel.results.refreshStatus()
    return panel


def uses(panel: OpenPanel) -> list[Any]:
    """Return the boxes that say what each case is used for."""
    return [panel.ui.caseTable.cellWidget(row, 2) for row in range(panel.ui.caseTable.rowCount)]


def test_only_what_was_corrected_is_saved_as_a_training_case(corrected: OpenPanel) -> None:
    corrected.ui.saveCaseButton.click()
    assert corrected.table("caseTable") == [["case-0001", "Kidneys", ""]]
    (case,) = corrected.logic.trainingCases()
    assert case.structures == ("kidneys",)
    assert corrected.ui.fineTuneButton.enabled


def test_nothing_can_be_saved_before_something_is_corrected(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose("kidneys")
    panel.run()
    assert not panel.ui.saveCaseButton.enabled
    panel.ui.resultTable.selectRow(0)
    panel.ui.correctedButton.click()
    assert panel.ui.saveCaseButton.enabled


def test_a_training_case_is_deleted_after_a_question(corrected: OpenPanel) -> None:
    corrected.ui.saveCaseButton.click()
    assert not corrected.ui.removeCaseButton.enabled
    corrected.ui.caseTable.selectRow(0)
    corrected.host.dialogs.answer("Cancel", "Ok")
    corrected.ui.removeCaseButton.click()
    assert len(corrected.logic.trainingCases()) == 1
    corrected.ui.removeCaseButton.click()
    assert corrected.logic.trainingCases() == []
    assert not corrected.shown("caseTable")
    assert not corrected.ui.fineTuneButton.enabled


def test_one_of_several_cases_is_held_out_unless_the_user_says_otherwise(corrected: OpenPanel) -> None:
    corrected.ui.saveCaseButton.click()
    corrected.ui.saveCaseButton.click()
    assert [box.currentText for box in uses(corrected)] == ["Learn", "Compare"]
    assert corrected.ui.caseSummary.text == "1 to learn from, 1 to compare"
    uses(corrected)[0].setCurrentIndex(2)
    assert corrected.ui.caseSummary.text == "0 to learn from, 1 to compare"
    assert not corrected.ui.fineTuneButton.enabled


def test_a_damaged_case_is_shown_and_not_used(corrected: OpenPanel) -> None:
    corrected.ui.saveCaseButton.click()
    (corrected.cases / "case-0001" / "case.json").write_text("{", encoding="utf-8")
    corrected.widget.panel.cases.refresh()
    assert corrected.table("caseTable") == [["case-0001", "Damaged", "-"]]
    assert not corrected.ui.fineTuneButton.enabled
    (corrected.cases / "case-0001" / "case.json").write_text('{"annotated": []}', encoding="utf-8")


def test_a_damaged_case_has_no_choice_left_from_the_case_that_was_in_its_row(corrected: OpenPanel) -> None:
    corrected.ui.saveCaseButton.click()
    corrected.ui.saveCaseButton.click()
    (corrected.cases / "case-0002" / "case.json").write_text("{", encoding="utf-8")
    corrected.ui.caseTable.selectRow(0)
    corrected.host.dialogs.answer("Ok")
    corrected.ui.removeCaseButton.click()
    assert corrected.table("caseTable") == [["case-0002", "Damaged", "-"]]
    assert uses(corrected) == [None]


def test_a_model_is_learned_judged_and_kept_and_the_picker_has_it(corrected: OpenPanel) -> None:
    panel = corrected
    panel.ui.saveCaseButton.click()
    # A case that both models are judged by has to be another scan.
    volume, util = panel.settings.inputVolume, panel.host.slicer.util
    util.updateVolumeFromArray(volume, util.arrayFromVolume(volume) + 7)
    panel.ui.saveCaseButton.click()
    before = panel.ui.modelSelector.count
    panel.ui.fineTuneButton.click()
    assert not panel.shown("errorPanel"), panel.ui.errorMessage.text
    assert panel.ui.fineTuneButton.text == "Cancel"
    panel.until(lambda: not panel.logic.busy)
    assert not panel.shown("errorPanel"), panel.ui.errorMessage.text
    assert panel.shown("lossPlot")
    assert len(panel.widget.panel.fineTuning._losses) > 1
    assert panel.ui.verdictLabel.text
    assert "Kidneys" in [row[0] for row in panel.table("diceTable")]
    assert not panel.ui.fineTuneButton.enabled
    panel.ui.keepButton.click()
    panel.settle()
    assert panel.ui.modelSelector.count == before + 1
    assert panel.settings.model != "random"
    assert not panel.shown("keepButton")
    panel.run()
    # The same once more: its name is taken, and a person decides.
    kept = panel.settings.model
    panel.widget.panel.models.refresh("random")
    panel.ui.fineTuneButton.click()
    panel.until(lambda: not panel.logic.busy)
    panel.host.dialogs.answer("Cancel")
    panel.ui.keepButton.click()
    assert panel.shown("keepButton")
    panel.host.dialogs.answer("Ok")
    panel.ui.keepButton.click()
    panel.settle()
    assert (panel.settings.model, panel.ui.modelSelector.count) == (kept, before + 1)
    panel.logic.removeModel(panel.settings.model)
    panel.widget.panel.models.refresh("random")


def test_a_model_that_is_discarded_leaves_nothing(corrected: OpenPanel) -> None:
    panel = corrected
    panel.ui.saveCaseButton.click()
    before = sorted(panel.models.iterdir())
    panel.ui.fineTuneButton.click()
    panel.until(lambda: not panel.logic.busy)
    assert not panel.shown("errorPanel"), panel.ui.errorMessage.text
    panel.ui.discardButton.click()
    panel.settle()
    assert sorted(panel.models.iterdir()) == before
    assert not panel.shown("discardButton")
    assert panel.ui.fineTuneButton.enabled


def test_another_python_leaves_a_model_that_waits(corrected: OpenPanel) -> None:
    panel = corrected
    panel.ui.saveCaseButton.click()
    panel.ui.fineTuneButton.click()
    panel.until(lambda: not panel.logic.busy)
    panel.ui.pythonPath.text = sys.executable
    panel.ui.pythonPath.editingFinished.emit()
    panel.settle()
    assert panel.logic.python == sys.executable
    assert panel.shown("keepButton")
    assert len(panel.logic.undecided) == 1
    panel.logic.setPython("")
    panel.ui.discardButton.click()
    panel.settle()
    assert panel.logic.undecided == ()


@pytest.fixture
def undecided_models(panel: OpenPanel) -> Iterator[OpenPanel]:
    """The panel, asking about the first of two new models; a model with the name inside both is installed."""
    told = {"mode": "quick", "trained": ["liver"], "before": {"liver": 0.5}, "regressions": [], "better": True}
    told |= {"after": {"liver": 0.75}, "judged_by": "held-out", "verdict": "", "seconds": 1.0}
    for name in ("first", "second"):
        undecided.put(panel.models / "random", told | {"name": name})
    panel.widget.panel.enter()
    panel.settle()
    assert waits(panel) == "first"
    yield panel
    for outcome in panel.logic.undecided:
        panel.logic.discardModel(outcome)
    panel.widget.panel.look()


def waits(panel: OpenPanel) -> str:
    """Return the name of the model that the panel asks about, as its log says; empty when it asks about none."""
    if not panel.shown("keepButton"):
        return ""
    lines = [line for line in panel.ui.logText.toPlainText().splitlines() if "waits for a decision" in line]
    return lines[-1].split("The new model ")[1].split(" ")[0]


def test_the_next_model_is_asked_about_when_the_worker_has_answered(undecided_models: OpenPanel) -> None:
    panel = undecided_models
    (first, second), buttons = panel.logic.undecided, (panel.ui.keepButton, panel.ui.discardButton)
    panel.ui.discardButton.click()
    assert panel.logic.undecided == (first, second), "Nothing was waited for."
    assert not any(button.enabled for button in buttons)
    panel.widget.panel.enter()
    assert waits(panel) == "first"
    panel.settle()
    assert not first.bundle.exists()
    assert waits(panel) == "second"
    assert all(button.enabled for button in buttons)


def test_a_decision_that_cannot_be_carried_out_is_told_and_asked_for_again(undecided_models: OpenPanel) -> None:
    panel = undecided_models
    outcome = panel.logic.undecided[0]
    # The model carries the name of one that is installed, whatever it is called here.
    panel.ui.keepButton.click()
    assert not panel.shown("errorPanel")
    panel.settle()
    assert panel.shown("errorPanel")
    assert "random" in panel.ui.errorMessage.text
    assert waits(panel) == "first"
    assert panel.ui.keepButton.enabled
    # Somebody else deletes it while the worker is asked to.
    panel.ui.discardButton.click()
    shutil.rmtree(outcome.bundle.parent)
    panel.widget.panel.look()
    assert panel.shown("discardButton")
    panel.settle()
    assert panel.shown("errorPanel")
    assert outcome not in panel.logic.undecided


@pytest.mark.parametrize("leave", ["module", "scene", "worker"])
def test_whoever_leaves_while_a_decision_is_carried_out_finds_a_panel_that_works(
    undecided_models: OpenPanel, leave: str
) -> None:
    panel = undecided_models
    panel.ui.discardButton.click()
    if leave == "module":
        panel.host.slicer.util.selectModule("Data")
    elif leave == "scene":
        panel.scene.Clear(0)
    else:
        # As at the end of Slicer, or when the module is loaded anew.
        panel.logic.close()
    panel.settle()
    panel.host.slicer.util.selectModule("PartialSeg")
    panel.settle()
    assert not panel.shown("errorPanel")
    assert waits(panel) == ("first" if leave == "worker" else "second")
    assert panel.ui.discardButton.enabled


def test_fine_tuning_is_offered_only_where_the_training_library_is(
    corrected: OpenPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = corrected
    panel.ui.saveCaseButton.click()
    tip = panel.ui.fineTuneButton.toolTip
    assert panel.ui.fineTuneButton.enabled
    hello = panel.logic.session.client.hello
    monkeypatch.setitem(hello, "capabilities", [name for name in hello["capabilities"] if name != "finetune"])
    panel.widget.panel.look()
    assert not panel.ui.fineTuneButton.enabled
    assert "training library" in panel.ui.fineTuneButton.toolTip
    assert "partialseg[train]" in panel.ui.fineTuneButton.toolTip
    monkeypatch.undo()
    panel.widget.panel.look()
    assert panel.ui.fineTuneButton.enabled
    assert panel.ui.fineTuneButton.toolTip == tip


def test_the_curve_of_the_loss_goes_on_from_phase_to_phase(panel: OpenPanel) -> None:
    fine_tuning = panel.widget.panel.fineTuning
    fine_tuning._losses, fine_tuning._begun, fine_tuning._lastStep, fine_tuning._total = [], 0, 0, 9
    for step, loss in [(1, 3.0), (2, 2.0), (1, 1.5), (2, 1.4), (3, 1.3), (1, 1.0)]:
        fine_tuning._onLoss(step, loss)
    assert fine_tuning._losses == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.4), (5, 1.3), (6, 1.0)]
    assert fine_tuning._total == 9
    panel.ui.lossPlot.setVisible(False)


def test_fine_tuning_is_cancelled(corrected: OpenPanel) -> None:
    panel = corrected
    panel.ui.saveCaseButton.click()
    panel.ui.fineTuneMode.setCurrentIndex(panel.ui.fineTuneMode.findData("full"))
    panel.ui.fineTuneButton.click()
    panel.until(lambda: panel.ui.fineTuneProgress.maximum > 0 or not panel.logic.busy)
    panel.ui.fineTuneButton.click()
    panel.until(lambda: not panel.logic.busy)
    assert not panel.shown("errorPanel"), panel.ui.errorMessage.text
    assert not panel.shown("keepButton")
    assert panel.ui.fineTuneButton.text == "Start"
    panel.ui.fineTuneMode.setCurrentIndex(0)
