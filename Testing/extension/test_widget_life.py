"""The panel as a part of Slicer: entering, leaving, reloading, unloading; texts, names, keyboard and width."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from host import EXTENSION, Host
from logic_cases import small_scan
from panel_cases import KEYS, OpenPanel
from worker_cases import alive

from PartialSegWorker import undecided

#: What stands beside the module in Slicer's Python, and what the module brings itself.
OURS = {"PartialSegLib", "PartialSegSlicer", "PartialSegWorker"}
SLICERS = {"slicer", "vtk", "qt", "ctk", "numpy", "SimpleITK"}
PANELS = sorted((EXTENSION / "PartialSegSlicer" / "panels").glob("*.py"))


def buttons(panel: OpenPanel) -> dict[str, Any]:
    """Return every button of the .ui file by name."""
    import qt

    return {name: item for name, item in vars(panel.ui).items() if isinstance(item, qt.QAbstractButton)}


def test_no_button_is_dead(panel: OpenPanel) -> None:
    import qt

    own = {name: button for name, button in buttons(panel).items() if not name.startswith("qt_")}
    assert len(own) > 20
    for name, button in own.items():
        heard = sum(button.receivers(qt.SIGNAL(signal)) for signal in ("clicked()", "clicked(bool)", "toggled(bool)"))
        opens = button.menu() is not None if hasattr(button, "menu") else False
        assert heard or opens, name


def test_every_control_says_what_it_does_and_is_reached_by_keyboard(panel: OpenPanel) -> None:
    import qt

    kinds = (qt.QAbstractButton, qt.QComboBox, qt.QLineEdit, qt.QAbstractItemView, panel.host.slicer.qMRMLNodeComboBox)
    controls = {name: item for name, item in vars(panel.ui).items() if isinstance(item, kinds)}
    controls = {name: item for name, item in controls.items() if not name.startswith("qt_")}
    for name, control in controls.items():
        assert control.toolTip, name
        said = control.accessibleName or (control.text if hasattr(control, "text") else "")
        assert said, name
        proxy = control.focusProxy() or control
        assert proxy.focusPolicy != qt.Qt.NoFocus, name


def test_the_panel_fits_into_350_points(panel: OpenPanel) -> None:
    for name in ("input", "task", "run", "result", "learn", "advanced", "log", "setup"):
        getattr(panel.ui, f"{name}Section").collapsed = False
    panel.host.process()
    assert panel.widget.parent.minimumSizeHint().width() <= 350


def test_settings_and_widgets_follow_each_other(panel: OpenPanel) -> None:
    volume = panel.host.mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    region = panel.host.mrml.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    settings, ui = panel.settings, panel.ui
    settings.inputVolume, settings.region = volume, region
    settings.quality, settings.overlap, settings.device = "best", "replace others", "cpu"
    settings.uncertainty, settings.tasks = True, list(KEYS[1:])
    assert ui.inputVolume.currentNode() is volume
    assert ui.region.currentNode() is region
    assert (ui.quality.currentText, ui.overlap.currentText) == ("Best", "Replace others")
    assert "Processor" in ui.device.currentText
    assert ui.uncertainty.checked
    assert ui.taskSummary.text == "1 structure selected"
    ui.region.setCurrentNode(None)
    ui.quality.setCurrentIndex(0)
    ui.overlap.setCurrentIndex(0)
    ui.device.setCurrentIndex(0)
    ui.uncertainty.checked = False
    assert settings.region is None
    assert (settings.quality, settings.overlap, settings.device) == ("fast", "keep", "auto")
    assert not settings.uncertainty


def test_a_device_of_another_computer_is_not_asked_for(panel: OpenPanel) -> None:
    panel.settings.device = "cuda:7"
    panel.widget.panel.runs.setDevices([{"key": "cpu", "name": "CPU", "free_bytes": 8_000_000_000}])
    assert panel.settings.device == "auto"
    assert panel.ui.device.itemText(1) == "Processor (8.0 GB free)"
    assert "cuda:7" in panel.ui.logText.toPlainText()


def test_a_device_that_a_scene_names_later_is_not_asked_for_either(panel: OpenPanel) -> None:
    panel.until(lambda: panel.ui.device.count > 1 and "free" in panel.ui.device.itemText(1))
    panel.settings.device = "cuda:7"
    assert panel.settings.device == "auto"


def test_leaving_the_module_disconnects_the_panel(panel: OpenPanel) -> None:
    panel.widget.exit()
    panel.settings.uncertainty = True
    assert not panel.ui.uncertainty.checked
    panel.widget.enter()
    assert panel.ui.uncertainty.checked
    panel.settings.uncertainty = False


def test_a_label_map_is_no_scan_to_begin_with(panel: OpenPanel) -> None:
    panel.host.mrml.scene.Clear()
    panel.host.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    scan = panel.host.mrml.add_volume(small_scan())
    panel.widget.initializeParameterNode()
    assert panel.settings.inputVolume is scan


def test_the_choices_are_saved_with_the_scene(panel: OpenPanel, tmp_path: Path) -> None:
    panel.add_scan()
    panel.choose("liver")
    panel.ui.quality.setCurrentIndex(2)
    path = tmp_path / "scene.mrml"
    panel.scene.SetURL(str(path))
    panel.scene.SetRootDirectory(str(tmp_path))
    assert panel.scene.Commit()
    panel.scene.Clear(0)
    assert panel.ui.taskSummary.text == "Nothing selected"
    panel.scene.SetURL(str(path))
    panel.scene.Import()
    panel.widget.initializeParameterNode()
    assert panel.ui.taskSummary.text == "1 structure selected"
    assert panel.ui.quality.currentText == "Best"


def test_a_scene_that_is_closed_leaves_a_panel_that_works(panel: OpenPanel) -> None:
    panel.add_scan()
    panel.scene.Clear(0)
    assert panel.ui.inputVolume.currentNode() is None
    panel.add_scan()
    assert panel.ui.inputVolume.currentNode() is not None


def test_outside_the_module_the_panel_follows_nothing(panel: OpenPanel) -> None:
    util = panel.host.slicer.util
    util.selectModule("Data")
    panel.widget.logic.getParameterNode().uncertainty = True
    assert not panel.ui.uncertainty.checked
    util.selectModule("PartialSeg")
    assert panel.ui.uncertainty.checked


@pytest.mark.usefixtures("own_packages")
def test_reload_and_unload_end_the_worker_and_the_timers(
    slicer_app: Host, random_model: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(random_model.parent))
    widget = slicer_app.widget()
    widget.logic.models()
    widget.logic.session.finish(widget.logic.session.ask(_question()))
    pid = widget.logic.session.client.hello["pid"]
    assert alive(pid)
    widget.onReload()
    again = slicer_app.slicer.modules.PartialSegWidget
    assert again is not widget
    assert type(again) is not type(widget)
    assert not alive(pid)
    assert not widget.panel._timer.active
    assert again.ui.taskTree.topLevelItemCount > 0
    slicer_app.app.moduleManager().unloadAll()
    assert not again.panel._timer.active


def test_models_that_waited_while_slicer_was_closed_are_asked_about_one_after_the_other(
    slicer_app: Host, random_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path))
    told = {"mode": "full", "trained": ["liver"], "regressions": [], "better": True, "judged_by": "held-out"}
    told |= {"before": {"liver": 0.5}, "verdict": "", "seconds": 3.0}
    for name, dice in (("first", 0.75), ("second", 0.875)):
        undecided.put(random_model, told | {"name": name, "after": {"liver": dice}})
    widget = slicer_app.widget()
    ui, logic = widget.ui, widget.logic
    for name, dice in (("first", "0.750"), ("second", "0.875")):
        assert name in ui.logText.toPlainText()
        assert ui.verdictLabel.text.startswith("Better than its parent")
        assert [ui.diceTable.item(0, column).text() for column in range(3)] == ["Liver", "0.500", dice]
        assert not ui.learnSection.collapsed
        while logic.session.active:
            slicer_app.process()
        ui.discardButton.click()
        while logic.session.active:
            slicer_app.process()
    assert ui.discardButton.isHidden()
    assert undecided.waiting() == []
    assert not list(tmp_path.iterdir())


def _question() -> Any:
    from PartialSegSlicer.logic.questions import Question

    return Question("models")


def test_every_text_of_the_panel_goes_through_the_translation(slicer_app: Host) -> None:
    import qt

    slicer_app.packages.translate = lambda text: f"⟦{text}⟧"
    widget = slicer_app.widget()
    panel = widget.parent
    said = set()
    # A percentage is no text.
    for child in [item for item in panel.findChildren(qt.QWidget) if not isinstance(item, qt.QProgressBar)]:
        names = ("text", "toolTip", "placeholderText", "accessibleName", "title")
        said |= {
            (child.objectName, str(getattr(child, name)))
            for name in names
            if isinstance(getattr(child, name, None), str)
        }
    for name in ("taskTree", "resultTable", "caseTable", "diceTable"):
        table = getattr(widget.ui, name)
        heads = [table.headerItem()] if hasattr(table, "headerItem") else []
        heads += [table.horizontalHeaderItem(column) for column in range(table.columnCount)] if not heads else []
        said |= {
            (name, head.text(column)) if name == "taskTree" else (name, head.text())
            for head in heads
            for column in range(2)
        }
    said |= {
        (combo, getattr(widget.ui, combo).itemText(0)) for combo in ("device", "quality", "overlap", "fineTuneMode")
    }
    # Texts of the model itself, and what a person types, are no texts of the panel.
    data = {"modelInfo", "modelSelector", "pythonPath", "qt_spinbox_lineedit"}
    plain = {
        (name, text) for name, text in said if text.strip() and name not in data and name and not text.startswith("⟦")
    }
    assert plain == set()
    assert any("Apply" in text for _, text in said)


@pytest.mark.parametrize("file", PANELS, ids=lambda file: file.stem)
def test_panels_import_only_what_slicer_has(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.split(".")[0]
            assert top in OURS | SLICERS or top in sys.stdlib_module_names, name
