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
from PartialSegWorker.child import way_of_ending
from PartialSegWorker.errors import WorkerError

FILES = sorted([*(EXTENSION / "PartialSegSlicer").rglob("*.py"), EXTENSION / "PartialSeg.py"])
#: Methods and functions whose texts are read by people.
SHOWN = {
    "Question",
    "SetName",
    "abandon",
    "addAction",
    "cell",
    "confirmOkCancelDisplay",
    "drawText",
    "infoDisplay",
    "requireIdle",
    "say",
    "setFormat",
    "setPlainText",
    "setText",
    "setToolTip",
    "setWindowTitle",
    "showLine",
}
#: Words that are the same in every language: names and units.
NAMES = {"CT", "GB", "kB", "MB", "PartialSeg", "PyTorch", "Python", "SIGKILL"}


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


def literals(node: ast.AST) -> Iterator[str]:
    """Yield the texts that an expression may be as it stands in the source; what is computed has a blank."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield " ".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, (ast.IfExp, ast.BoolOp, ast.BinOp)):
        choices = node.values if isinstance(node, ast.BoolOp) else []
        for name in ("body", "orelse", "left", "right"):
            choices = [*choices, *([getattr(node, name)] if hasattr(node, name) else [])]
        for choice in choices:
            yield from literals(choice)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        yield from literals(node.func.value)


def worded(text: str) -> bool:
    """Whether a text of the source is more than a key: words with a blank between them, or a capitalized one."""
    several = " " in text.strip() and re.search(r"[^\W\d_]", text) is not None
    return several or re.match(r"\W*[A-Z][a-z]", text) is not None


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
        for argument in [*call.args, *(item.value for item in call.keywords)]
        if any(map(worded, literals(argument)))
    ]
    assert plain == []


def test_these_checks_find_what_they_are_for(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    for text in (
        "raise ImageError(f'No volume {name}.', 'Choose one.')",
        "cell('Damaged')",
        "cell(name, tip='Damaged' if problem else '')",
        "say('No {name}.'.format(name=name))",
        "requireIdle(wish or 'Undo')",
    ):
        wrong.write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError):
            test_no_sentence_is_shown_or_raised_untranslated(wrong)
    wrong.write_text("cell(_('Damaged'), tip=f'{name}: {count}', data='key')\nQuestion('unload')", encoding="utf-8")
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


def wide(text: str) -> str:
    """Return a text in a language of its own: in wide letters, but for its placeholders."""
    return re.sub(r"(\{\w+\})|([A-Za-z])", lambda found: found[1] or chr(ord(found[2]) + 0xFEE0), text)


def english(text: str, *names: str) -> list[str]:
    """Return the words of a text that nobody translated, also those that were filled in; `names` are none."""
    # No words: the end of a version (2.9+cpu), and the letters of a number (0xc0).
    return [word for word in re.findall("(?<![+0-9A-Za-z])[A-Za-z]+", text) if word not in {*NAMES, *names}]


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (None, "it closed its output and went on"),
        (-9, "killed by signal 9 (SIGKILL)"),
        (-1000, "killed by signal 1000"),
        (3, "exit status 3"),
        (0xC0000005, "exit status 0xc0000005"),
    ],
)
def test_how_a_worker_ended_is_told_in_another_language(status: int | None, how: str) -> None:
    way, values = way_of_ending(status)
    error = WorkerError.crashed(way, values, killed=status == -9, log="")
    assert error.message == f"The worker ended: {how}."
    assert str(error).endswith("The next run starts a new worker.")
    assert ("out of memory" in error.hint) == (status == -9)
    original = str(error)
    error.translate(wide)
    assert error.message.startswith(wide("The worker ended: "))
    assert english(str(error)) == []
    assert original in error.diagnostics().replace("\n\n", " ")
    for told in (texts.STOPPED_AND_ENDED, texts.ENDED_EARLY):
        assert wide(told[way]).format(python="", **values) != told[way]


def test_a_translators_slip_costs_the_translation_and_not_the_message() -> None:
    error = WorkerError.crashed(*way_of_ending(-9), killed=True, log="")
    error.translate(lambda text: text.replace("{signal}", "{Signal}"))
    assert error.message == "The worker ended: killed by signal 9 (SIGKILL)."


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("cancelled", "Stopped by the user.", ""),
        ("defect", "", "This is a defect of PartialSeg: copy the diagnostics into a report."),
        ("installation", "", "Repair the installation, or choose another Python in the settings."),
        (
            "memory",
            "There is not enough memory for this.",
            "Choose fewer tasks or a region of interest, or close other programs.",
        ),
        ("image", "", ""),
    ],
)
def test_what_the_worker_says_is_translated_where_its_kind_says_all(code: str, message: str, hint: str) -> None:
    told = WorkerError.from_event({"code": code, "message": "{x} is of no use (5 of 24).", "hint": "Mend {x}."})
    told.translate(str)
    # Without a translation its own words say more; but whoever cancels knows what.
    own = ("Stopped by the user.", "") if code == "cancelled" else ("{x} is of no use (5 of 24).", "Mend {x}.")
    assert (told.message, told.hint) == own
    told.translate(wide)
    assert (told.message, told.hint) == (wide(message) or own[0], wide(hint) or own[1])
    assert told.diagnostics() == f"[{code}] {{x}} is of no use (5 of 24).\n\nMend {{x}}."


@pytest.fixture
def foreign(own_packages: None, random_model: Path, tmp_path: Path, monkeypatch: Any) -> Iterator[OpenPanel]:
    """The panel in a language of wide letters."""
    from host import start

    monkeypatch.setenv("PARTIALSEG_MODELS", str(random_model.parent))
    monkeypatch.setenv("PARTIALSEG_CASES", str(tmp_path / "cases"))
    host = start()
    host.reset()
    host.packages.translate = wide
    for name in [name for name in sys.modules if name.split(".")[0] in ("PartialSegSlicer", "PartialSegWorker")]:
        del sys.modules[name]
    panel = OpenPanel(host, host.widget(), random_model.parent, tmp_path / "cases")
    panel.settle()
    yield panel
    panel.logic.cancel()
    panel.settle()
    host.reset()


def log_of(panel: OpenPanel) -> str:
    return re.sub(r"^\d\d:\d\d:\d\d ", "", panel.ui.logText.toPlainText(), flags=re.MULTILINE)


def choose_large_scan(panel: OpenPanel) -> None:
    """Set a run up that takes long enough to be ended midway."""
    from logic_cases import large_scan

    panel.host.mrml.add_volume(large_scan())
    panel.widget.initializeParameterNode()
    panel.settings.inputVolume = panel.host.mrml.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("random"))
    panel.choose("liver")
    panel.settle()


def start_run(panel: OpenPanel) -> None:
    """Start a run, and wait until it computes windows."""
    panel.ui.applyButton.click()
    panel.until(lambda: panel.logic.session.job.progress and panel.logic.session.job.progress.stage == "segment")


def test_what_the_panel_says_of_a_run_is_in_the_users_language(foreign: OpenPanel) -> None:
    panel = foreign
    said = {"setup": panel.ui.setupText.text}
    panel.host.mrml.add_volume(_bright())
    panel.widget.initializeParameterNode()
    panel.settings.inputVolume = panel.host.mrml.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("random"))
    panel.choose("liver", "pancreas")
    panel.until(lambda: wide("About") in panel.ui.forecastLabel.text)
    said["forecast"] = panel.ui.forecastLabel.text
    panel.run()
    said["notes"] = panel.ui.resultNotes.text
    said["log"] = log_of(panel)
    assert wide("Hounsfield") in said["notes"]
    # What a structure is called says the card of the model.
    assert [word for text in said.values() for word in english(text, "Liver", "Pancreas")] == []


def test_a_run_that_is_stopped_says_so_in_the_users_language(foreign: OpenPanel) -> None:
    panel = foreign
    choose_large_scan(panel)
    start_run(panel)
    assert panel.ui.statusLabel.text.startswith(wide("Segmenting"))
    assert english(panel.ui.statusLabel.text) == []
    with pytest.raises(Exception, match=wide("Undo has to wait")) as refused:
        panel.logic.undoLastRun()
    assert english(str(refused.value)) == []
    panel.ui.applyButton.click()
    assert panel.ui.statusLabel.text == wide("Stopping...")
    panel.until(lambda: not panel.logic.busy)
    assert panel.ui.statusLabel.text == wide("Stopped by the user.")
    assert log_of(panel).strip().endswith(wide("Stopped by the user."))
    assert english(log_of(panel)) == []
    # A report is read by developers.
    assert "Stopped by the user during 'segment'" in panel.logic.diagnostics()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_worker_that_dies_is_told_of_in_the_users_language(foreign: OpenPanel) -> None:
    panel = foreign
    choose_large_scan(panel)
    start_run(panel)
    os.kill(panel.logic.session.client.hello["pid"], signal.SIGKILL)
    panel.until(lambda: panel.shown("errorPanel"))
    assert panel.ui.errorMessage.text.startswith(wide("The worker ended"))
    shown = (panel.ui.errorMessage.text, panel.ui.errorHint.text, log_of(panel))
    assert [english(text) for text in shown] == [[], [], []]
    assert "The worker ended: killed by signal 9 (SIGKILL)." in panel.logic.diagnostics()


def test_what_is_asked_and_said_of_a_model_is_in_the_users_language(foreign: OpenPanel, monkeypatch: Any) -> None:
    panel = foreign
    listed = panel.logic.models()
    model = next(item for item in listed["models"] if item["name"] == "random")
    model["tasks"] = [model["tasks"][0] | {"structures": model["tasks"][0]["structures"][:1]}]
    monkeypatch.setattr(panel.logic, "models", lambda: listed)
    panel.widget.panel.models.refresh("random")
    assert f" · {wide('1 structure')} · " in panel.ui.modelInfo.text
    removed: list[str] = []
    monkeypatch.setattr(panel.logic, "removeModel", removed.append)
    menu = panel.ui.modelMenuButton.menu()
    menu.aboutToShow.emit()
    panel.host.dialogs.answer("Ok")
    next(action for action in menu.actions() if action.text.startswith(wide("Delete "))).trigger()
    assert removed == ["random"]
    folder = str(panel.models / "random")
    for text, begin in ((panel.host.dialogs.last, "Delete the model"), (log_of(panel).splitlines()[-1], "Deleted the")):
        assert wide(begin) in text
        assert folder in text
        assert english(text.replace(folder, ""), "random") == []


#: Of runs and fine-tunings.
STAGES = [
    *("read", "cases", "load", "prepare", "find region", "segment", "check", "encode", "head", "train", "before"),
    *("after", "judge", "finish", "write", "download", "verify", "import"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_name_in_the_users_language_also_of_a_frame(slicer_app: Any, stage: str) -> None:
    from PartialSegSlicer.panels.texts import stageName

    plain = stageName(stage)
    assert stageName(f"{stage} 1/3") == f"{plain}, frame 1/3"
    slicer_app.packages.translate = wide
    assert stageName(stage) == wide(plain)
    assert english(stageName(f"{stage} 1/3")) == []


def test_the_stage_of_a_task_keeps_its_name(slicer_app: Any) -> None:
    from PartialSegSlicer.panels.texts import stageName

    assert stageName("liver 2") == "Liver 2"


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
