"""The module's panel for tests: opened once a file, on a real scene, a real worker and a small model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from host import Host, start
from logic_cases import small_scan

from bundles import bundle_of, random_dodnet

#: Seconds after which a test gives up: the first run loads torch, which takes long on a computer that is busy.
PATIENCE = 600.0
#: Two structures of the small model that lie in two tasks.
KEYS = ["liver", "kidneys"]


@dataclass(frozen=True)
class OpenPanel:
    """The panel, and what a person does with it.

    Parameters
    ----------
    host : Host
    widget : PartialSegWidget
    models, cases : Path
        Folders of this test file's models and training cases.
    """

    host: Host
    widget: Any
    models: Path
    cases: Path

    @property
    def ui(self) -> Any:
        """The widgets by name."""
        return self.widget.ui

    @property
    def logic(self) -> Any:
        """The logic of the panel."""
        return self.widget.logic

    @property
    def settings(self) -> Any:
        """The parameter node."""
        return self.widget._parameterNode

    @property
    def scene(self) -> Any:
        """The scene."""
        return self.host.mrml.scene

    def until(self, condition: Callable[[], object]) -> None:
        """Let Qt, and through its timer the worker, go on until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited too long; the panel says: {self.ui.logText.toPlainText()}"
            self.host.process(1)
            time.sleep(0.005)

    def settle(self) -> None:
        """Wait until nothing is under way."""
        self.until(lambda: not self.logic.session.active)

    def add_scan(self) -> Any:
        """Add a small scan and choose it."""
        volume = self.host.mrml.add_volume(small_scan())
        self.settings.inputVolume = volume
        return volume

    def choose(self, *keys: str) -> None:
        """Check structures in the tree, as a person does, one after the other."""
        for leaf in self.leaves():
            wanted = leaf.data(0, 0x0100) in keys
            leaf.setCheckState(0, _check_state(wanted))

    def leaves(self) -> list[Any]:
        """Return the entries of the tree that are structures."""
        tree, found = self.ui.taskTree, []
        for index in range(tree.topLevelItemCount):
            branch = tree.topLevelItem(index)
            found += [branch.child(row) for row in range(branch.childCount())] or [branch]
        return found

    def run(self) -> None:
        """Click Apply, and wait for the end."""
        assert self.ui.applyButton.enabled, self.ui.applyButton.toolTip
        self.ui.applyButton.click()
        self.until(lambda: not self.logic.busy)
        self.settle()

    def table(self, name: str) -> list[list[str]]:
        """Return the texts of a table, row by row."""
        table = getattr(self.ui, name)
        return [
            [item.text() if (item := table.item(row, column)) else "" for column in range(table.columnCount)]
            for row in range(table.rowCount)
        ]

    def shown(self, name: str) -> bool:
        """Whether a widget is there to be seen, its section being open."""
        return not getattr(self.ui, name).isHidden()


def _check_state(checked: bool) -> Any:
    import qt

    return qt.Qt.Checked if checked else qt.Qt.Unchecked


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPanel]:
    """The module, opened once for a file of tests, with the small model installed and its installation checked."""
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    pytest.importorskip("PySide6", reason="PySide6 is not installed")
    folder = tmp_path_factory.mktemp("panel")
    models, cases = folder / "models", folder / "cases"
    models.mkdir()
    # Its weights find liver, kidneys and spleen in the small scan, each asked for alone.
    bundle_of(models / "random", "DoDNet", random_dodnet(seed=3))
    places = {"PARTIALSEG_MODELS": str(models), "PARTIALSEG_CASES": str(cases)}
    before = {name: os.environ.get(name) for name in places}
    os.environ |= places
    host = start()
    host.reset()
    panel = OpenPanel(host, host.widget(), models, cases)
    panel.settle()
    yield panel
    host.reset()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def panel(opened: OpenPanel) -> Iterator[OpenPanel]:
    """The panel in an empty scene, with the small model chosen and nothing to say."""
    opened.host.dialogs.reset()
    opened.scene.Clear(0)
    opened.host.app.layoutManager().addViews()
    opened.widget.panel.problems.clear()
    opened.ui.modelSelector.setCurrentIndex(opened.ui.modelSelector.findData("random"))
    opened.settle()
    yield opened
    opened.logic.cancel()
    opened.settle()
    assert opened.host.dialogs.unanswered == 0, "a dialog that was announced did not come"
