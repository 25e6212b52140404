"""Everything that the module says can be translated: found by Qt's tools, and shown in the user's language."""

from __future__ import annotations

import ast
import os
import re
import signal
import string
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host import EXTENSION
from panel_cases import OpenPanel

from PartialSegWorker import texts
from PartialSegWorker.errors import WorkerError

FILES = sorted([*(EXTENSION / "PartialSegSlicer").rglob("*.py"), EXTENSION / "PartialSeg.py"])
#: Methods and functions whose texts are read by people.
SHOWN = {"abandon", "say", "setText", "setToolTip", "setWindowTitle", "showLine", "SetName", "Question"}
MARK = re.compile(r"⟦[^⟦⟧]*⟧")


def named(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def calls(file: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def placeholders(text: str) -> set[str]:
    """Return the names of the placeholders; refuse those that a translator could get wrong."""
    found = set()
    for _literal, name, form, conversion in string.Formatter().parse(text):
        if name is not None:
            assert name.isidentifier(), text
            assert not form, text
            assert not conversion, text
            found.add(name)
    return found


def sentence(node: ast.AST) -> bool:
    """Whether a text of the source is more than a key: it has words with a blank between them."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    words = " x ".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return " " in words.strip() and re.search(r"[^\W\d_]", words.replace(" x ", "")) is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_texts_are_literals_with_placeholders_that_are_all_filled_in(file: Path) -> None:
    found = calls(file)
    for call in found:
        if named(call) == "_":
            assert len(call.args) == 1
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)
            placeholders(str(call.args[0].value))
        filled = call.func.value if named(call) == "format" and isinstance(call.func, ast.Attribute) else None
        if isinstance(filled, ast.Call) and named(filled) == "_":
            assert isinstance(filled.args[0], ast.Constant)
            assert {item.arg for item in call.keywords} == placeholders(str(filled.args[0].value)), ast.unparse(call)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_no_sentence_is_shown_or_raised_untranslated(file: Path) -> None:
    plain = [
        ast.unparse(call)
        for call in calls(file)
        if named(call).endswith("Error") or named(call) in SHOWN
        if any(sentence(argument) for argument in [*call.args, *(item.value for item in call.keywords)])
    ]
    assert plain == []


def test_these_checks_find_what_they_are_for(tmp_path: Path) -> None:
    (wrong := tmp_path / "wrong.py").write_text(
        "raise ImageError(f'No volume {name}.', 'Choose one.')\n", encoding="utf-8"
    )
    with pytest.raises(AssertionError):
        test_no_sentence_is_shown_or_raised_untranslated(wrong)
    for text in ("_(f'No {name}.')", "_('No {name:g}.')", "_('No {name}.').format(nom=1)"):
        wrong.write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError):
            test_texts_are_literals_with_placeholders_that_are_all_filled_in(wrong)


def test_qt_finds_every_text_in_the_context_that_slicer_asks_for(tmp_path: Path) -> None:
    pytest.importorskip("PySide6", reason="PySide6 is not installed")
    expected, sources = set(), []
    for file in FILES:
        context = file.stem if file.parent == EXTENSION else f"{file.parent.name}.{file.stem}"
        expected |= {(context, str(call.args[0].value)) for call in calls(file) if named(call) == "_"}  # type: ignore[attr-defined]
        # Slicer's script for translators names the context of a file's texts in this way, too.
        text = re.sub(r"(?<!\w)_\(", f'translate("{context}", ', file.read_text(encoding="utf-8"))
        sources.append(tmp_path / f"{context}.py")
        sources[-1].write_text(text, encoding="utf-8")
    sources.append(EXTENSION / "PartialSegWorker" / "texts.py")
    client = {str(call.args[1].value) for call in calls(sources[-1]) if named(call) == "QT_TRANSLATE_NOOP"}  # type: ignore[attr-defined]
    expected |= {(texts.CONTEXT, text) for text in client}
    listed = tmp_path / "PartialSeg_en-US.ts"
    subprocess.run(
        [str(Path(sys.executable).parent / "pyside6-lupdate"), *map(str, sources), "-ts", str(listed)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    found = {
        (str(context.findtext("name")), str(source.text))
        for context in ElementTree.parse(listed).getroot().iter("context")
        for source in context.iter("source")
    }
    assert len(client) > 10
    assert len(expected) > 300
    assert expected - found == set()


def test_the_clients_texts_are_put_into_another_language_once_they_are_shown() -> None:
    error = WorkerError.crashed("segment", "killed by signal 9", killed=True, log="")
    assert str(error).startswith("The worker ended during 'segment': killed by signal 9. The system may have run out")
    error.translate(lambda text: f"⟦{text}⟧")
    assert error.message == "⟦The worker ended during 'segment': killed by signal 9.⟧"
    assert error.hint.startswith("⟦The system may")
    # A translator's slip costs the translation, not the message.
    error.translate(lambda text: text.replace("{name}", "{nom}"))
    assert error.message == "⟦The worker ended during 'segment': killed by signal 9.⟧"
    # Braces of what the worker told are its own.
    told = WorkerError.from_event({"code": "image", "message": "{x} is no image.", "hint": ""})
    told.translate(lambda text: f"⟦{text}⟧")
    assert told.message == "{x} is no image."


@pytest.fixture
def foreign(own_packages: None, random_model: Path, tmp_path: Path, monkeypatch: Any) -> Iterator[OpenPanel]:
    """The panel in a language in which every text stands in brackets."""
    from host import start

    monkeypatch.setenv("PARTIALSEG_MODELS", str(random_model.parent))
    monkeypatch.setenv("PARTIALSEG_CASES", str(tmp_path / "cases"))
    host = start()
    host.reset()
    host.packages.translate = lambda text: f"⟦{text}⟧" if text.strip() else text
    for name in [name for name in sys.modules if name.split(".")[0] in ("PartialSegSlicer", "PartialSegWorker")]:
        del sys.modules[name]
    panel = OpenPanel(host, host.widget(), random_model.parent, tmp_path / "cases")
    panel.settle()
    yield panel
    panel.logic.cancel()
    panel.settle()
    host.reset()


def untranslated(text: str) -> str:
    """Return what of a text stands outside of the brackets and has letters; what stands inside may be nested."""
    while MARK.search(text):
        text = MARK.sub("", text)
    return text.strip() if re.search(r"[^\W\d_]", text) else ""


def test_what_the_panel_says_of_a_run_is_in_the_users_language(foreign: OpenPanel) -> None:
    panel = foreign
    said = {"setup": panel.ui.setupText.text}
    panel.host.mrml.add_volume(_bright())
    panel.widget.initializeParameterNode()
    panel.settings.inputVolume = panel.host.mrml.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("random"))
    panel.choose("liver", "pancreas")
    panel.until(lambda: "About" in panel.ui.forecastLabel.text)
    said["forecast"] = panel.ui.forecastLabel.text
    panel.run()
    said["notes"] = panel.ui.resultNotes.text
    said["log"] = re.sub(r"^\d\d:\d\d:\d\d ", "", panel.ui.logText.toPlainText(), flags=re.MULTILINE)
    assert "Hounsfield" in said["notes"]
    assert [name for name, text in said.items() if "⟦" not in text] == []
    assert {name: untranslated(text) for name, text in said.items() if untranslated(text)} == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_worker_that_dies_is_told_of_in_the_users_language(foreign: OpenPanel) -> None:
    from logic_cases import large_scan

    panel = foreign
    panel.host.mrml.add_volume(large_scan())
    panel.widget.initializeParameterNode()
    panel.settings.inputVolume = panel.host.mrml.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("random"))
    panel.choose("liver")
    panel.settle()
    panel.ui.applyButton.click()
    panel.until(lambda: panel.logic.session.job.progress and panel.logic.session.job.progress.stage == "segment")
    os.kill(panel.logic.session.client.hello["pid"], signal.SIGKILL)
    panel.until(lambda: panel.shown("errorPanel"))
    assert panel.ui.errorMessage.text.startswith("⟦The worker ended during")
    assert untranslated(panel.ui.errorMessage.text) == untranslated(panel.ui.errorHint.text) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"better": None, "judgedBy": "nothing"}, ["not known", "bit for bit"]),
        ({"better": True}, ["Better than its parent on held-out cases", "bit for bit"]),
        ({"better": True, "judgedBy": "leave-one-out"}, ["Better", "left out in turn"]),
        ({"better": False, "judgedBy": "leave-one-out"}, ["WORSE", "left out in turn"]),
        ({"better": False, "mode": "full"}, ["WORSE", "No other structure lost"]),
        ({"better": True, "mode": "full", "after": {"liver": 0.9}}, ["Better", "Nobody knows"]),
        ({"better": True, "mode": "full", "regressions": ("spleen",)}, ["Better", "SPLEEN -1.5", "stays the better"]),
    ],
)
def test_the_verdict_of_the_panel_says_what_was_gained_and_what_it_cost(
    slicer_app: Any, fields: dict[str, Any], words: list[str]
) -> None:
    from PartialSegSlicer.panels.verdict import verdictOf

    before, after = {"liver": 0.8, "spleen": 0.9}, {"liver": 0.9, "spleen": 0.885}
    outcome = SimpleNamespace(
        **{
            "mode": "quick",
            "trained": ("liver",),
            "before": before,
            "after": after,
            "regressions": (),
            "judgedBy": "held-out",
        }
        | fields
    )
    verdict = verdictOf(outcome, str.upper)
    assert [word for word in words if word not in verdict] == []


def _bright() -> Any:
    """Return a scan without air or fat, whose values are none of a CT."""
    from logic_cases import small_scan

    from PartialSegLib.images import Image

    scan = small_scan()
    return Image(abs(scan.voxels) + 1, scan.geometry)
