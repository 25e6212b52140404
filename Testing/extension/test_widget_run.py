"""The panel from choosing to reviewing: every control clicked, in a real scene and with the real worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from logic_cases import large_scan
from mrml_cases import add_sequence, draw
from panel_cases import KEYS, OpenPanel
from worker_cases import blobs

from PartialSegLib.structures import catalogue
from PartialSegSlicer.segments import addSegment, completedSegments, isCompleted, segmentIDs, segmentOf
from PartialSegSlicer.volumes import geometryFromVolumeNode


def last(panel: OpenPanel) -> str:
    """Return the last line of the log."""
    return str(panel.ui.logText.toPlainText().strip().splitlines()[-1])


def test_apply_says_what_is_missing_until_nothing_is(panel: OpenPanel) -> None:
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Select a volume first."
    panel.add_scan()
    assert panel.ui.applyButton.toolTip == "Select what to segment first."
    panel.choose("liver")
    assert panel.ui.applyButton.enabled


def test_a_task_is_checked_with_all_its_structures_and_half_with_one(panel: OpenPanel) -> None:
    import qt

    liver = panel.ui.taskTree.topLevelItem(0)
    liver.setCheckState(0, qt.Qt.Checked)
    assert list(panel.settings.tasks) == ["liver"]
    assert panel.ui.taskSummary.text == "2 structures selected"
    liver.child(1).setCheckState(0, qt.Qt.Unchecked)
    # The organ alone has another name than the task, which has the same key.
    assert list(panel.settings.tasks) == ["liver/liver"]
    assert liver.checkState(0) == qt.Qt.PartiallyChecked
    assert panel.ui.taskSummary.text == "1 structure selected"


@pytest.mark.parametrize(("words", "found"), [("KIDNEY tumor", {"kidney_tumor"}), ("64033007", None), ("thumb", set())])
def test_the_tree_is_searched_by_name_and_by_code(panel: OpenPanel, words: str, found: set[str] | None) -> None:
    panel.ui.taskSearch.text = words
    shown = {leaf.data(0, 0x0100) for leaf in panel.leaves() if not leaf.isHidden()}
    assert shown == (found if found is not None else {"kidneys", "kidney_tumor"})
    panel.ui.taskSearch.text = ""
    assert not any(leaf.isHidden() for leaf in panel.leaves())


def test_all_and_none_mean_what_the_search_shows(panel: OpenPanel) -> None:
    panel.choose("spleen")
    panel.ui.taskSearch.text = "kidney"
    panel.ui.taskAllButton.click()
    assert list(panel.settings.tasks) == ["kidney", "spleen"]
    panel.ui.taskSearch.text = ""
    panel.ui.taskNoneButton.click()
    assert list(panel.settings.tasks) == []


def test_time_and_memory_are_told_before_the_run(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.until(lambda: "memory" in panel.ui.forecastLabel.text and "About" in panel.ui.forecastLabel.text)
    panel.choose()
    assert panel.ui.forecastLabel.text == ""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["liver"], ["liver", "liver_tumor"]),
        (["liver/liver"], ["liver"]),
        (["kidneys", "spleen"], ["kidneys", "spleen"]),
        (["thumb"], []),
    ],
)
def test_names_of_a_scene_or_a_script_are_checked_in_the_tree(
    panel: OpenPanel, names: list[str], found: list[str]
) -> None:
    panel.settings.tasks = names
    assert [leaf.data(0, 0x0100) for leaf in panel.leaves() if leaf.checkState(0).value] == found


def test_a_run_writes_segments_and_fills_the_table(panel: OpenPanel) -> None:
    volume = panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    node = panel.settings.outputSegmentation
    assert panel.ui.outputSegmentation.currentNode() is node
    rows = panel.table("resultTable")
    assert [row[0] for row in rows] == ["Liver", "Kidneys"]
    spacing = float(np.prod(volume.GetSpacing()))
    for row, segment in zip(rows, segmentIDs(node), strict=True):
        voxels, _, _ = panel.host.mrml.labelmap(node, segment)
        assert row[1] == (f"{voxels.sum() * spacing / 1000:.1f}" if voxels.any() else "-")
    assert not panel.shown("progressBar")
    assert panel.ui.applyButton.text == "Apply"
    assert not panel.ui.resultSection.collapsed
    seconds = panel.logic.job.result.report["seconds"]["total"]
    assert f"Finished after {round(seconds, 1)} s." in panel.ui.logText.toPlainText()


def test_uncertainty_is_shown_where_it_was_asked_for(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    assert panel.ui.resultTable.isColumnHidden(2)
    panel.ui.uncertainty.checked = True
    panel.run()
    assert not panel.ui.resultTable.isColumnHidden(2)
    assert all(0 < float(row[2]) <= 1 for row in panel.table("resultTable") if row[1] != "-")


def test_apply_turns_into_cancel_and_the_scene_stays_as_it_was(panel: OpenPanel) -> None:
    volume = panel.host.mrml.add_volume(large_scan())
    panel.settings.inputVolume = volume
    panel.choose(*KEYS)
    before = panel.scene.GetNumberOfNodes()
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    assert not panel.ui.taskTree.enabled
    panel.until(lambda: panel.ui.progressBar.value > 0)
    assert "left" in panel.ui.statusLabel.text
    panel.ui.applyButton.click()
    panel.until(lambda: not panel.logic.busy)
    assert panel.scene.GetNumberOfNodes() == before
    assert panel.ui.applyButton.text == "Apply"
    assert panel.ui.applyButton.enabled
    assert "Stopped by the user" in panel.ui.statusLabel.text
    assert not panel.shown("errorPanel")
    assert panel.table("resultTable") == []


def test_an_error_shows_its_hint_first_and_copies_diagnostics(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.settings.quality = "gone"
    panel.ui.applyButton.click()
    assert panel.shown("errorPanel")
    assert panel.ui.errorHint.text != panel.ui.errorMessage.text
    assert "gone" in panel.ui.errorMessage.text
    panel.ui.copyDiagnosticsButton.click()
    assert "PartialSeg:" in panel.host.app.clipboard().text()
    assert panel.ui.errorMessage.text in panel.host.app.clipboard().text()
    panel.ui.errorDetailsButton.click()
    assert panel.shown("errorDetails")
    panel.ui.errorCloseButton.click()
    assert not panel.shown("errorPanel")
    panel.settings.quality = "standard"


def test_segments_of_a_scene_that_was_loaded_can_be_marked_as_corrected(panel: OpenPanel) -> None:
    volume = panel.add_scan()
    node = panel.host.mrml.add_segmentation(volume, "From yesterday")
    addSegment(node, catalogue()["liver"])
    array = np.zeros(geometryFromVolumeNode(volume).shape, np.uint8)
    array[4:9, 10:15, 20:25] = 1
    panel.host.slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, "liver", volume)
    panel.settings.outputSegmentation = node
    assert [(row[0], row[3]) for row in panel.table("resultTable")] == [("Liver", "In the scene")]
    centered: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("PartialSegSlicer.panels.results.centerViews", centered.append)
        panel.ui.resultTable.cellDoubleClicked.emit(0, 0)
    x, y, z = centered[0]
    assert np.allclose((-x - 10, -y + 20, z - 30), (44, 24, 12), atol=1.5), "2 mm voxels from (10, -20, 30) LPS"
    panel.ui.resultTable.selectRow(0)
    panel.ui.correctedButton.click()
    assert panel.table("resultTable")[0][3] == "Corrected"
    assert completedSegments(node) == ("liver",)
    assert panel.ui.saveCaseButton.enabled
    # A run into it shows what the run found.
    panel.choose("spleen")
    panel.run()
    assert [row[0] for row in panel.table("resultTable")] == ["Spleen"]


def test_the_model_that_is_shown_is_used_in_an_empty_scene_too(panel: OpenPanel) -> None:
    panel.scene.Clear(0)
    panel.settle()
    assert panel.settings.model == panel.widget.panel.models.chosen()["name"]


def test_a_double_click_centers_every_slice_view(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    rows = panel.widget.panel.results._rows
    index, row = next((index, row) for index, row in enumerate(rows) if row.center is not None)
    panel.ui.resultTable.cellDoubleClicked.emit(index, 0)
    for name in panel.host.app.layoutManager().sliceViewNames():
        node = panel.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        matrix = node.GetSliceToRAS()
        assert [matrix.GetElement(axis, 3) for axis in range(3)] == pytest.approx(row.center)


def test_review_goes_from_the_most_uncertain_on_and_passes_what_is_corrected(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.ui.uncertainty.checked = True
    panel.ui.taskAllButton.click()
    panel.run()
    order = panel.widget.panel.results._order
    assert len(order) > 2
    assert [row.uncertainty for row in order] == sorted([row.uncertainty for row in order], reverse=True)
    names = {row.key: index for index, row in enumerate(panel.widget.panel.results._rows)}
    panel.ui.reviewNextButton.click()
    assert panel.ui.resultTable.currentRow() == names[order[0].key]
    panel.ui.resultTable.selectRow(names[order[1].key])
    panel.ui.correctedButton.click()
    panel.ui.reviewNextButton.click()
    assert panel.ui.resultTable.currentRow() == names[order[2].key]


def test_a_structure_is_marked_as_corrected_and_back(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    node, segment = panel.settings.outputSegmentation, segmentIDs(panel.settings.outputSegmentation)[0]
    assert not panel.ui.correctedButton.enabled
    panel.ui.resultTable.selectRow(0)
    panel.ui.correctedButton.click()
    assert isCompleted(segmentOf(node, segment))
    assert panel.table("resultTable")[0][3] == "Corrected"
    panel.ui.correctedButton.click()
    assert not isCompleted(segmentOf(node, segment))


def test_the_segment_editor_opens_on_the_selected_structure(panel: OpenPanel) -> None:
    volume = panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    panel.ui.resultTable.selectRow(1)
    panel.ui.editorButton.click()
    editor = panel.host.app.moduleManager().module("SegmentEditor")
    node = panel.settings.outputSegmentation
    assert (editor.segmentation, editor.volume) == (node, volume)
    assert editor.segment == segmentIDs(node)[1]
    panel.host.slicer.util.selectModule("PartialSeg")


def test_undo_takes_the_run_back_and_asks_before_it_loses_an_edit(panel: OpenPanel) -> None:
    volume = panel.add_scan()
    panel.choose(*KEYS)
    panel.run()
    node = panel.settings.outputSegmentation
    mask = np.zeros(panel.host.slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask[3:9, 10:20, 10:20] = 1
    segment = segmentIDs(node)[0]
    panel.host.slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    panel.host.dialogs.answer("Cancel")
    panel.ui.undoButton.click()
    assert "Liver" in panel.host.dialogs.last
    assert node.GetScene() is not None
    panel.host.dialogs.answer("Ok")
    panel.ui.undoButton.click()
    assert node.GetScene() is None
    assert panel.table("resultTable") == []
    assert not panel.ui.undoButton.enabled


def test_other_segments_of_the_chosen_segmentation_are_kept(panel: OpenPanel) -> None:
    volume = panel.add_scan()
    node = panel.host.mrml.add_segmentation(volume)
    mask = np.ones(panel.host.slicer.util.arrayFromVolume(volume).shape, bool)
    mine = draw(panel.host.mrml, node, volume, "Mine", mask)
    panel.ui.outputSegmentation.setCurrentNode(node)
    panel.choose(*KEYS)
    panel.run()
    assert len(segmentIDs(node)) == 3
    assert panel.host.mrml.labelmap(node, mine)[0].sum() == mask.sum()


def test_the_settings_are_copied_as_code_that_python_reads(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose(*KEYS)
    panel.ui.quality.setCurrentIndex(panel.ui.quality.findData("fast"))
    panel.ui.overlap.setCurrentIndex(panel.ui.overlap.findData("replace others"))
    panel.ui.pythonButton.click()
    code = panel.host.app.clipboard().text()
    compile(code, "console", "exec")
    for word in ("liver", "kidneys", "quality='fast'", "overlap='replace others'"):
        assert word in code


def test_all_frames_of_a_sequence_are_segmented_on_request(panel: OpenPanel) -> None:
    panel.add_scan()
    assert not panel.shown("allFrames")
    proxy = add_sequence(panel.host.mrml, {"0": blobs((32, 56, 60)), "1": blobs((32, 56, 60), seed=1)})
    panel.settings.inputVolume = proxy
    assert panel.shown("allFrames")
    panel.choose("liver")
    panel.ui.allFrames.checked = True
    assert panel.settings.allFrames
    assert not panel.ui.outputSegmentation.enabled
    assert "logic.segmentSequence(" in panel.logic.copyAsPython(panel.settings)
    panel.run()
    assert "2 frames were segmented" in panel.ui.resultNotes.text
    assert [row[0] for row in panel.table("resultTable")] == ["Liver"]
    sequences = panel.scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")
    assert (sequences, panel.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")) == (2, 1)
    seconds = panel.logic.job.result.report["seconds"]["total"]
    assert f"Finished after {round(seconds, 1)} s." in panel.ui.logText.toPlainText()


def test_undo_takes_all_frames_back_and_asks_before_it_loses_an_edit(panel: OpenPanel) -> None:
    proxy = add_sequence(panel.host.mrml, {"0": blobs((32, 56, 60)), "1": blobs((32, 56, 60), seed=1)})
    panel.settings.inputVolume = proxy
    panel.choose("liver")
    panel.ui.allFrames.checked = True
    panel.run()
    node = panel.settings.outputSegmentation
    mask = np.zeros(panel.host.slicer.util.arrayFromVolume(proxy).shape, np.uint8)
    mask[3:9, 10:20, 10:20] = 1
    panel.host.slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentIDs(node)[0], proxy)
    panel.host.dialogs.answer("Cancel")
    panel.ui.undoButton.click()
    assert "Liver (frame '0')" in panel.host.dialogs.last
    assert node.GetScene() is not None
    panel.host.dialogs.answer("Ok")
    panel.ui.undoButton.click()
    assert not panel.shown("errorPanel")
    assert node.GetScene() is None
    assert panel.scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 1
    assert panel.settings.outputSegmentation is None
    assert panel.table("resultTable") == []
    assert not panel.ui.undoButton.enabled


def test_memory_is_freed_on_request_and_the_next_run_works(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.run()
    panel.until(lambda: "memory" in panel.ui.forecastLabel.text)
    panel.ui.unloadButton.click()
    assert not panel.ui.unloadButton.enabled
    assert not panel.ui.applyButton.enabled
    assert "were unloaded" not in last(panel)
    panel.settle()
    assert "were unloaded" in last(panel)
    assert not panel.shown("errorPanel")
    panel.run()
    assert len(panel.table("resultTable")) == 1


def test_time_and_memory_are_told_again_after_a_job_that_withdrew_the_question(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.until(lambda: panel.ui.forecastLabel.text.startswith("Estimating"))
    panel.ui.unloadButton.click()
    panel.until(lambda: not panel.logic.busy)
    panel.until(lambda: "memory" in panel.ui.forecastLabel.text and "About" in panel.ui.forecastLabel.text)


@pytest.mark.parametrize("leave", ["module", "scene", "worker"])
def test_whoever_leaves_while_memory_is_freed_finds_a_panel_that_works(panel: OpenPanel, leave: str) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.run()
    panel.ui.unloadButton.click()
    if leave == "module":
        panel.host.slicer.util.selectModule("Data")
    elif leave == "scene":
        panel.scene.Clear(0)
    else:
        panel.logic.close()
    panel.settle()
    panel.host.slicer.util.selectModule("PartialSeg")
    panel.settle()
    assert panel.ui.unloadButton.enabled
    assert not panel.shown("errorPanel")


def test_the_scene_may_be_closed_during_a_run(panel: OpenPanel) -> None:
    panel.settings.inputVolume = panel.host.mrml.add_volume(large_scan())
    panel.choose(*KEYS)
    panel.ui.applyButton.click()
    panel.until(lambda: panel.ui.progressBar.value > 0)
    panel.scene.Clear(0)
    panel.until(lambda: not panel.logic.busy)
    assert "closed" in panel.ui.logText.toPlainText()
    assert panel.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    panel.settle()
    panel.add_scan()
    panel.choose("liver")
    panel.run()
    assert len(panel.table("resultTable")) == 1


def test_the_user_may_leave_the_module_during_a_run(panel: OpenPanel) -> None:
    util: Any = panel.host.slicer.util
    panel.add_scan()
    panel.choose(*KEYS)
    panel.ui.applyButton.click()
    util.selectModule("Data")
    panel.until(lambda: not panel.logic.busy)
    util.selectModule("PartialSeg")
    assert len(panel.table("resultTable")) == 2
    assert panel.ui.outputSegmentation.currentNode() is panel.settings.outputSegmentation
