"""The set-up in the panel: what is missing, consent, Repair, and another Python; all asked of real Pythons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from panel_cases import OpenPanel

from PartialSegSlicer.logic import setup


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package, under the name of Slicer's own."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    program = folder / "PythonSlicer"
    program.write_text(f'#!/bin/sh\nexec "{folder / "venv" / "bin" / "python"}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.fixture
def first_day(panel: OpenPanel, bare: Path, monkeypatch: pytest.MonkeyPatch) -> OpenPanel:
    """The panel in a Slicer whose Python has nothing yet."""
    # As in Slicer: this process has torch for other tests.
    monkeypatch.setattr(setup, "_loaded", lambda name: False)
    monkeypatch.setenv("PATH", f"{bare.parent}{os.pathsep}{os.environ['PATH']}")
    check(panel)
    return panel


def check(panel: OpenPanel) -> None:
    """Click "Check" and wait for the answer."""
    panel.logic.close()
    panel.ui.setupCheckButton.click()
    assert "Checking" in panel.ui.setupText.text
    panel.settle()


pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for PythonSlicer is a shell script")


def test_what_is_missing_is_said_on_top_and_apply_waits_for_it(first_day: OpenPanel) -> None:
    panel = first_day
    assert panel.shown("setupBanner")
    assert "torch" in panel.ui.setupBannerText.text
    assert panel.shown("setupInstallButton")
    panel.add_scan()
    panel.choose("liver")
    assert not panel.ui.applyButton.enabled
    assert "torch" in panel.ui.applyButton.toolTip


def test_nothing_is_installed_without_consent(first_day: OpenPanel) -> None:
    first_day.host.dialogs.answer("Cancel")
    first_day.ui.setupInstallButton.click()
    assert "torch" in first_day.host.dialogs.last
    assert "downloaded" in first_day.host.dialogs.last
    assert first_day.host.packages.installed == []


def test_with_consent_packages_go_through_slicer_and_torch_through_its_extension(first_day: OpenPanel) -> None:
    first_day.host.dialogs.answer("Ok")
    first_day.ui.setupInstallButton.click()
    first_day.settle()
    assert any(name.startswith("safetensors") for name in first_day.host.packages.installed)
    assert not any(name.startswith("torch") for name in first_day.host.packages.installed)
    # There is no extension PyTorch here, which is what the panel says.
    assert first_day.shown("errorPanel")
    assert "Extensions Manager" in first_day.ui.errorHint.text


def test_an_installation_that_fails_shows_its_hint_and_the_lines_of_pip(first_day: OpenPanel) -> None:
    first_day.host.packages.output = "ERROR: This is the last line of pip"
    first_day.host.packages.failure = RuntimeError("no connection")
    first_day.host.dialogs.answer("Ok")
    first_day.ui.repairButton.click()
    first_day.settle()
    assert "no connection" in first_day.ui.errorMessage.text
    assert "proxy" in first_day.ui.errorHint.text
    assert "last line of pip" in first_day.ui.errorDetails.toPlainText()
    first_day.host.packages.failure, first_day.host.packages.output = None, ""


def test_another_python_is_chosen_checked_and_given_up(first_day: OpenPanel) -> None:
    panel = first_day
    panel.host.dialogs.answer(sys.executable)
    panel.ui.pythonBrowseButton.click()
    panel.settle()
    assert panel.ui.pythonPath.text == sys.executable
    assert not panel.shown("setupBanner")
    assert not panel.shown("repairButton")
    assert panel.logic.python == sys.executable
    panel.ui.pythonPath.text = "/no/such/python"
    panel.ui.pythonPath.editingFinished.emit()
    assert "/no/such/python" in panel.ui.errorMessage.text
    assert panel.ui.pythonPath.text == sys.executable
    panel.ui.pythonPath.text = ""
    panel.ui.pythonPath.editingFinished.emit()
    panel.settle()
    assert panel.shown("setupBanner")


def test_a_check_that_a_job_has_driven_away_is_made_after_it(panel: OpenPanel, tmp_path: Path) -> None:
    panel.logic.close()
    panel.ui.setupCheckButton.click()
    nothing = tmp_path / "nothing.pth"
    nothing.write_bytes(b"nothing")
    failed: list[Any] = []
    panel.logic.importModel(nothing, onError=failed.append)
    panel.widget.panel.setup._context.wake()
    panel.until(lambda: failed)
    panel.until(lambda: panel.widget.panel.setup.ready)
    panel.settle()
    assert "Everything is there" in panel.ui.setupText.text


def test_a_complete_installation_says_so_and_lists_the_devices(panel: OpenPanel) -> None:
    check(panel)
    assert "Everything is there" in panel.ui.setupText.text
    assert not panel.shown("setupBanner")
    devices: list[Any] = [panel.ui.device.itemText(index) for index in range(panel.ui.device.count)]
    assert devices[0] == "Automatic"
    assert "free" in devices[1]
    assert panel.ui.repairButton.enabled
