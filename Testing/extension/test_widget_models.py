"""Models in the panel: choosing, importing, deleting, downloading after the license was accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from panel_cases import OpenPanel


def menu(panel: OpenPanel) -> dict[str, Any]:
    """Open the menu "Manage", and return its entries by text."""
    opened = panel.ui.modelMenuButton.menu()
    opened.aboutToShow.emit()
    return {action.text: action for action in opened.actions() if action.text}


def shared_model(panel: OpenPanel, folder: Path, name: str, title: str) -> Path:
    """Make a model folder as somebody might send it: the small model under another name."""
    shutil.copytree(panel.models / "random", folder)
    card = folder / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"name": name, "title": title}), "utf-8")
    return folder


def titles(panel: OpenPanel) -> list[str]:
    """Return the entries of the model selector."""
    return [panel.ui.modelSelector.itemText(index) for index in range(panel.ui.modelSelector.count)]


def test_what_a_model_is_for_stands_below_its_name(panel: OpenPanel) -> None:
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("phantom-dodnet"))
    for word in ("CT", "11 structures", "Apache-2.0", "MB", "not for diagnosis"):
        assert word in panel.ui.modelInfo.text
    assert panel.settings.model == "phantom-dodnet"


def test_another_model_keeps_what_it_knows_of_the_selection(panel: OpenPanel) -> None:
    panel.choose("spleen")
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("phantom-dodnet"))
    assert list(panel.settings.tasks) == ["spleen"]


def test_a_model_that_a_scene_names_and_is_not_here_is_replaced(panel: OpenPanel) -> None:
    panel.settings.model = "liver-of-another-hospital"
    panel.settle()
    assert panel.settings.model == panel.widget.panel.models.chosen()["name"]
    assert "There is no model liver-of-another-hospital here" in panel.ui.logText.toPlainText()


def test_a_damaged_model_is_not_offered_and_can_be_deleted(panel: OpenPanel) -> None:
    damaged = shared_model(panel, panel.models / "damaged", "damaged", "Damaged")
    (damaged / "card.json").write_text("{", "utf-8")
    panel.widget.panel.models.refresh()
    assert "Damaged" not in titles(panel)
    entry = menu(panel)["Delete damaged, which is damaged..."]
    assert "card.json" in entry.toolTip
    panel.host.dialogs.answer("Ok")
    entry.trigger()
    panel.settle()
    assert not damaged.exists()
    assert not any("which is damaged" in text for text in menu(panel))


def test_the_free_memory_of_devices_is_asked_for_again_when_the_module_is_shown(panel: OpenPanel) -> None:
    panel.logic.devices()
    panel.ui.device.setItemText(1, "as it was")
    panel.widget.enter()
    panel.settle()
    assert "free" in panel.ui.device.itemText(1)


def test_a_model_is_imported_chosen_and_deleted(panel: OpenPanel, tmp_path: Path) -> None:
    folder = shared_model(panel, tmp_path / "sent", "sent", "Sent by a friend")
    panel.host.dialogs.answer(str(folder))
    menu(panel)["Import folder..."].trigger()
    assert panel.shown("modelProgress")
    panel.settle()
    assert not panel.shown("modelProgress")
    assert "Sent by a friend" in titles(panel)
    assert panel.settings.model == "sent"
    panel.host.dialogs.answer("Cancel")
    menu(panel)["Delete Sent by a friend..."].trigger()
    assert (panel.models / "sent").is_dir()
    panel.host.dialogs.answer("Ok")
    menu(panel)["Delete Sent by a friend..."].trigger()
    assert not (panel.models / "sent").exists()
    assert "Sent by a friend" not in titles(panel)


def test_a_file_that_is_no_model_says_so_and_changes_nothing(panel: OpenPanel, tmp_path: Path) -> None:
    path, before = tmp_path / "holiday.zip", titles(panel)
    path.write_bytes(b"no model at all")
    panel.host.dialogs.answer(str(path))
    menu(panel)["Import file..."].trigger()
    panel.settle()
    assert panel.shown("errorPanel")
    assert "holiday.zip" in panel.ui.errorMessage.text
    assert titles(panel) == before
    assert panel.ui.modelMenuButton.enabled


def test_a_dialog_that_is_closed_imports_nothing(panel: OpenPanel) -> None:
    panel.host.dialogs.answer("", "")
    menu(panel)["Import file..."].trigger()
    menu(panel)["Import folder..."].trigger()
    assert not panel.logic.busy


def test_the_bundled_model_cannot_be_deleted(panel: OpenPanel) -> None:
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("phantom-dodnet"))
    assert not [text for text in menu(panel) if text.startswith("Delete")]


def test_nothing_is_downloaded_before_the_license_was_accepted(panel: OpenPanel) -> None:
    download = next(action for text, action in menu(panel).items() if text.startswith("Download"))
    panel.host.dialogs.answer("Cancel")
    download.trigger()
    assert "License:" in panel.host.dialogs.last
    assert not panel.logic.busy


def test_a_download_that_fails_says_why(panel: OpenPanel, monkeypatch: Any) -> None:
    # Nobody listens at this port: the worker inherits the mirror when it starts.
    monkeypatch.setenv("PARTIALSEG_MIRROR", "http://127.0.0.1:9/")
    panel.logic.close()
    download = next(action for text, action in menu(panel).items() if text.startswith("Download"))
    panel.host.dialogs.answer("Ok")
    download.trigger()
    panel.until(lambda: panel.shown("modelProgress") or not panel.logic.busy)
    if panel.logic.busy:
        panel.ui.modelCancelButton.click()
    panel.settle()
    assert not panel.shown("modelProgress")
    assert panel.ui.modelMenuButton.enabled
    panel.logic.close()


def test_how_to_get_a_model_without_an_address_is_explained(panel: OpenPanel) -> None:
    explain = next(action for text, action in menu(panel).items() if text.startswith("How to get"))
    explain.trigger()
    assert "import it here" in panel.host.dialogs.last


def test_the_model_folder_is_opened(panel: OpenPanel) -> None:
    menu(panel)["Open model folder"].trigger()
    assert panel.host.dialogs.opened == [panel.models.as_uri()]
