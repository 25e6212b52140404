"""``partialseg finetune`` and ``partialseg benchmark learning-curve``, as typed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from finetuning_cases import write_case

from bundles import TINY, random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.inference import extractors
from PartialSegTraining.finetuning import command, curvecommand


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without OpenVINO: compiling a graph takes longer than all that these tests compute."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    # With random weights, a head that depends on the image depends on its noise.
    return random_bundle(tmp_path_factory.mktemp("models") / "parent", replace(TINY, image_condition=False))


def carry_out(register: Callable[[Any], None], *words: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    status: int = arguments.run(arguments)
    return status


def test_a_structure_is_added_from_the_command_line(
    parent: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_case(tmp_path / f"case{number}", ("gallbladder", "liver"), number)
    words = ["finetune", parent.folder, tmp_path / "case0", "--held-out", tmp_path / "case1", "--device", "cpu"]
    words += ["--output", tmp_path / "out", "--add-structure", "gallbladder", "--head-steps", 40]
    assert carry_out(command.register, *words, "--structures", "gallbladder", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["after"]) == {"gallbladder"}
    child = ModelBundle.open(report["bundle"])
    assert child.card.name == "parent-quick"
    assert child.card.provenance["trained"] == ["gallbladder"]


def test_the_table_shows_points_gained(parent: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        write_case(tmp_path / f"case{number}", ("spleen",), number)
    words = ["finetune", parent.folder, tmp_path / "case0", "--held-out", tmp_path / "case1", "--device", "cpu"]
    assert carry_out(command.register, *words, "--output", tmp_path / "out", "--head-steps", 5) == 0
    shown = capsys.readouterr().out
    assert "Points" in shown
    assert "spleen" in shown
    assert "parent-quick is ready" in shown


def test_an_impossible_option_is_one_line(parent: ModelBundle, tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", ("liver",))
    with pytest.raises(CollectionError, match="'steps' is 0, but has to be at least 1"):
        carry_out(command.register, "finetune", parent.folder, case, "--output", tmp_path / "out", "--steps", 0)


def test_a_learning_curve_is_drawn_and_goes_on_where_it_was(
    parent: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_case(tmp_path / "cases" / f"case{number}", ("gallbladder",), number)
    words = ["learning-curve", "--cases", tmp_path / "cases", "--output", tmp_path / "out", "--model", parent.folder]
    words += ["--structure", "gallbladder", "--counts", 1, 2, "--held-out", 1, "--steps", 3, "--window", 16, 32, 32]
    words += ["--device", "cpu", "--json"]
    assert carry_out(curvecommand.register, *words) == 0
    report = json.loads(capsys.readouterr().out)
    points = {(point["way"], point["cases"]): point["dice"] for point in report["points"]}
    assert set(points) == {(way, count) for way in ("quick", "full", "scratch") for count in (1, 2)}
    assert points["quick", 2] > points["scratch", 2]
    drawn = ElementTree.parse(tmp_path / "out" / "learning-curve.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) >= 3
    assert len((tmp_path / "out" / "learning-curve.csv").read_text().splitlines()) == 7
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-*.json")}
    assert carry_out(curvecommand.register, *words) == 0
    kept = [path for path in before if path.name != "learning-curve.json"]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_a_curve_needs_enough_cases(parent: ModelBundle, tmp_path: Path) -> None:
    write_case(tmp_path / "cases" / "only", ("gallbladder",))
    words = ["learning-curve", "--cases", tmp_path / "cases", "--output", tmp_path / "out", "--model", parent.folder]
    with pytest.raises(CollectionError, match="There are 1 cases, but 7 are needed"):
        carry_out(curvecommand.register, *words, "--structure", "gallbladder")
