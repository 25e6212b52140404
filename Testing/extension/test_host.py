"""The stand-in for Slicer's application behaves as Slicer's documentation says."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed")
pytest.importorskip("slicer", reason="slicer-core is not installed")

UI = """<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout">
<item><widget class="qMRMLNodeComboBox" name="volume">
 <property name="nodeTypes"><stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 <property name="noneEnabled"><bool>true</bool></property>
 <property name="SlicerParameterName" stdset="0"><string notr="true">volume</string></property></widget></item>
<item><widget class="ctkCollapsibleButton" name="section"><property name="text"><string>Section</string></property>
 <layout class="QVBoxLayout"><item><widget class="QPushButton" name="go"><property name="text">
 <string>Go</string></property></widget></item><item><widget class="QCheckBox" name="fine">
 <property name="SlicerParameterName" stdset="0"><string notr="true">fine</string></property></widget></item><item>
 <widget class="QComboBox" name="speed">
 <property name="SlicerParameterName" stdset="0"><string notr="true">speed</string></property></widget></item></layout>
</widget></item></layout></widget><connections><connection><sender>Panel</sender>
<signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>volume</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot>
</connection></connections></ui>"""


class Speed(enum.Enum):
    SLOW = 1
    FAST = 2

    def label(self) -> str:
        return self.name.lower()


@pytest.fixture
def panel(slicer_app: Any, tmp_path: Path) -> tuple[Any, Any]:
    path = tmp_path / "Panel.ui"
    path.write_text(UI, encoding="utf-8")
    widget = slicer_app.slicer.util.loadUI(str(path))
    widget.setMRMLScene(slicer_app.mrml.scene)
    return widget, slicer_app.slicer.util.childWidgetVariables(widget)


def test_properties_are_attributes_and_signals_are_connected_by_signature(slicer_app: Any) -> None:
    import qt

    button, clicks = qt.QPushButton("Go"), []
    button.connect("clicked(bool)", clicks.append)
    button.click()
    button.enabled = False
    button.click()
    assert (button.text, button.enabled, clicks) == ("Go", False, [False])
    button.disconnect("clicked(bool)", clicks.append)
    button.enabled = True
    button.click()
    assert len(clicks) == 1


def test_a_signal_or_a_property_that_slicer_lacks_is_refused(slicer_app: Any) -> None:
    import qt

    with pytest.raises(AttributeError, match="pressedTwice"):
        qt.QPushButton().connect("pressedTwice()", print)
    with pytest.raises(AttributeError):
        _ = qt.QPushButton().caption


def test_a_panel_is_read_with_slicers_widgets_and_their_connections(panel: tuple[Any, Any], slicer_app: Any) -> None:
    _, ui = panel
    node = slicer_app.mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert (ui.section.text, ui.go.text) == ("Section", "Go")
    assert ui.volume.currentNode() is None
    ui.volume.setCurrentNode(node)
    assert ui.volume.currentNode() is node
    slicer_app.mrml.scene.RemoveNode(node)
    assert ui.volume.currentNode() is None


def test_a_closed_section_hides_its_contents_and_shows_only_what_was_shown(panel: tuple[Any, Any]) -> None:
    widget, ui = panel
    ui.fine.visible = False
    widget.show()
    ui.section.collapsed = True
    assert not ui.go.visible
    ui.section.collapsed = False
    assert ui.go.visible
    assert not ui.fine.visible


def test_parameters_and_widgets_follow_each_other(panel: tuple[Any, Any], slicer_app: Any) -> None:
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

    scene = slicer_app.mrml.scene

    class Parameters:
        volume: slicer_app.slicer.vtkMRMLScalarVolumeNode
        fine: bool = True
        speed: Speed = Speed.FAST
        tasks: list[str]
        share: Annotated[float, WithinRange(0, 1)] = 0.5

    Parameters.__annotations__["volume"] = slicer_app.slicer.vtkMRMLScalarVolumeNode
    Parameters.__annotations__.update(
        fine=bool, speed=Speed, tasks=list[str], share=Annotated[float, WithinRange(0, 1)]
    )
    parameters = parameterNodeWrapper(Parameters)(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    _, ui = panel
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    tag = parameters.connectParametersToGui({name: getattr(ui, name) for name in ("fine", "speed", "volume")})
    assert (ui.fine.checked, ui.speed.currentText) == (True, "fast")
    ui.fine.checked, ui.speed.currentIndex = False, 0
    ui.volume.setCurrentNode(node)
    assert (parameters.fine, parameters.speed, parameters.volume) == (False, Speed.SLOW, node)
    parameters.fine, parameters.volume = True, None
    assert ui.fine.checked
    assert ui.volume.currentNode() is None
    parameters.tasks.append("liver")
    assert parameters.tasks == ["liver"]
    with pytest.raises(ValueError, match="within"):
        parameters.share = 2.0
    parameters.disconnectGui(tag)
    ui.fine.checked = False
    assert parameters.fine


def test_dialogs_are_answered_by_the_test_and_nobody_waits(slicer_app: Any) -> None:
    util = slicer_app.slicer.util
    util.errorDisplay("The disk is full.")
    assert slicer_app.dialogs.last == "The disk is full."
    slicer_app.dialogs.answer("Cancel", "Ok")
    assert not util.confirmOkCancelDisplay("Delete it?")
    assert util.confirmOkCancelDisplay("Delete it?")
    with pytest.raises(AssertionError, match="nobody expected"):
        util.confirmOkCancelDisplay("Sure?")


def test_without_a_main_window_nothing_is_shown(slicer_app: Any) -> None:
    slicer_app.app.setMainWindow(False)
    slicer_app.slicer.util.errorDisplay("The disk is full.")
    assert slicer_app.dialogs.shown == []
