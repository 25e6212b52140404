"""The page about a training: everything in one file, true to the log, readable in a real browser."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from partial_cases import GEOMETRY, ball

from bundles import TINY_WINDOW, bundle_of, random_dodnet
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegLib.images import Image, write_image
from PartialSegLib.metrics import Score
from PartialSegTraining.report import command
from PartialSegTraining.report.charts import (
    Axis,
    Bar,
    Mark,
    Series,
    axis_around,
    bar_chart,
    line_chart,
    mark_chart,
    ticks,
)
from PartialSegTraining.report.measuring import extremes
from PartialSegTraining.report.page import Section, figure, page, table
from PartialSegTraining.report.training import Run, sections
from PartialSegTraining.scoretable import CaseScores

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COARSE = Preprocessing((8.0, 8.0, 8.0), (-400.0, 400.0), 0.0, 400.0, body_threshold=None)


def score(key: str, dice: float, *, empty: bool = False) -> Score:
    volume = 0.0 if empty else 1.0
    return Score(key, dice, 0.0, dice, 0.0, 2.0, volume, volume)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A training of 40 steps with two validations, its model, and two test cases of a collection."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines: list[dict[str, object]] = [
        {"step": step, "loss": 2.0 / step, "dice": 1.5 / step, "bce": 0.5 / step, "lr": 0.01, "seconds_per_step": 0.5}
        for step in (10, 20, 30, 40)
    ]
    for step, dice in ((20, 0.5), (40, 0.75)):
        lines.append({"step": step, "validation": {"liver": dice, "liver_tumor": dice / 2}, "mean_dice": dice * 0.75})
    lines.sort(key=lambda line: int(str(line["step"])))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50, "lo')
    bundle_of(folder / "tiny", "DoDNet", random_dodnet(), TINY_WINDOW, COARSE, provenance={"recipe": "<tiny> & co"})
    for number in (1, 2):
        case = folder / "collection" / "test" / f"test_{number}"
        (case / "segmentations").mkdir(parents=True)
        organ = ball(GEOMETRY.shape, (10, 12, 14), 5 + number)
        write_image(Image(np.where(organ, 100, -60).astype(np.int16), GEOMETRY), case / "image.nii.gz")
        write_image(Image(organ.astype(np.uint8), GEOMETRY), case / "segmentations" / "liver.nii.gz")
    return folder


def report(*words: str | Path) -> int:
    """Run the command as the command line does."""
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    arguments = parser.parse_args(["report", *map(str, words), "--device", "cpu"])
    return int(arguments.run(arguments))


def test_ticks_are_round_and_cover_the_scale() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 3800) == [0, 1000, 2000, 3000]
    assert ticks(0.013, 0.019) == [0.014, 0.016, 0.018] or len(ticks(0.013, 0.019)) >= 3


def test_an_axis_holds_all_values_and_does_not_go_below_zero_for_nothing() -> None:
    around = axis_around("seconds", [0.1, 2.0, float("nan")])
    assert around.low == pytest.approx(0.005, abs=0.01)
    assert around.high > 2.0
    assert axis_around("difference", [-1.0, 1.0]).low < -1.0


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis() -> None:
    axis = Axis("seconds", 1.0, 100.0, logarithmic=True)
    assert axis.place(10.0) == pytest.approx(0.5)
    assert axis.ticks() == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]


def test_a_line_goes_through_its_points_and_leaves_out_what_is_no_number() -> None:
    first, second = Series("x < y", [(0, 0.0), (5, float("nan")), (10, 1.0)]), Series("z", [(2, 0.5)])
    tree = ElementTree.fromstring(line_chart("A & B", [first, second], Axis("", 0, 10), Axis("", 0, 1)))
    line, _ = [item for item in tree.iter() if item.tag.endswith("polyline")]
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert len(points) == 2
    assert points[0][0] < points[1][0]
    assert points[0][1] > points[1][1]
    assert {"A & B", "x < y", "z"} <= set(tree.itertext())


def test_a_legend_takes_as_many_rows_as_its_names_need() -> None:
    def height(*names: str) -> int:
        svg = line_chart(
            "", [Series(name, [(0, 0)]) for name in names], Axis("", 0, 1), Axis("", 0, 1), size=(300, 200)
        )
        return int(ElementTree.fromstring(svg).attrib["height"])

    one, row, rows = height("a"), height("a", "b"), height("a" * 30, "b" * 30)
    assert one == 200 < row < rows


def test_points_and_bars_lie_where_their_values_are() -> None:
    tree = ElementTree.fromstring(
        mark_chart("", [Mark("a", 1, 1), Mark("b", 2, 3, 0.5)], Axis("", 0, 4), Axis("", 0, 4))
    )
    circles = [item.attrib for item in tree.iter() if item.tag.endswith("circle")]
    assert float(circles[0]["cx"]) > float(circles[1]["cx"])
    assert float(circles[0]["cy"]) < float(circles[1]["cy"])
    bars = ElementTree.fromstring(bar_chart("", [Bar("a", 0.5, (0.4, 0.6)), Bar("b", float("nan"))], "Dice", width=720))
    (rectangle,) = [item for item in bars.iter() if item.tag.endswith("rect") and "rx" in item.attrib]
    assert float(rectangle.attrib["width"]) == pytest.approx((720 - 64 - 190) / 2)


def test_text_in_a_page_is_never_markup() -> None:
    text = page("<b>", "<i>", [Section("<h1>", "<script>alert(1)</script>")]) + table(["<u>"], [["<s>"]])
    for tag in ("<b>", "<i>", "<script>", "<u>", "<s>"):
        assert tag not in text
    assert "&lt;script&gt;" in text


def test_a_log_tells_of_losses_and_validations_and_a_cut_line_is_ignored(run_folder: Path) -> None:
    run = Run.read(run_folder)
    assert run.steps == 40
    assert [line["step"] for line in run.training] == [10, 20, 30, 40]
    assert [line["step"] for line in run.validations] == [20, 40]
    assert [path.name for path in run.bundles()] == ["tiny"]
    content = "".join(section.html() for section in sections(run, None, None, None))
    for words in ("bce", "Learning rate", "liver_tumor", "Mean of all structures", "name a collection"):
        assert words in content
    assert "waiting" not in content


def test_a_training_that_has_made_no_line_yet_has_no_charts(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 0, "validation": {}, "mean_dice": 0.0}\n')
    assert sections(Run.read(tmp_path), None, None, None)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="no log"):
        report(tmp_path)


def test_no_test_case_is_refused(run_folder: Path) -> None:
    with pytest.raises(PartialSegError, match="--limit 0"):
        report(run_folder, "--limit", "0")


def test_best_and_worst_are_judged_by_what_is_there() -> None:
    cases = [
        CaseScores("good", (score("liver", 0.9), score("spleen", 1.0, empty=True))),
        CaseScores("bad", (score("liver", 0.2), score("spleen", 0.4))),
        CaseScores("absent", (score("liver", 1.0, empty=True),)),
    ]
    assert extremes(cases) == [("Best", "good", pytest.approx(0.9)), ("Worst", "bad", pytest.approx(0.3))]
    assert [word for word, _, _ in extremes(cases[:1])] == ["Only"]
    assert extremes(cases[2:]) == []


def test_a_page_without_a_collection_shows_the_curves(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run_folder) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / command.PAGE)
    text = (run_folder / command.PAGE).read_text()
    assert "name a collection" in text
    assert "&lt;tiny&gt; &amp; co" in text


@pytest.fixture
def whole_page(run_folder: Path, tmp_path: Path) -> Path:
    """The page with test cases and pictures."""
    pytest.importorskip("surface_distance")
    pytest.importorskip("vtkmodules")
    manifest, output = tmp_path / "tests.toml", tmp_path / "page.html"
    manifest.write_text(
        f"""
version = 1
name = "Two balls"
label_space = "mots"
root = "{run_folder / "collection"}"
[[dataset]]
name = "balls"
folder = "test"
layout = "mask-files"
image = "{{case}}/image.nii.gz"
structures = {{ liver = "liver" }}
splits = {{ test = {{ every = 1 }} }}
"""
    )
    assert report(run_folder, "--collection", manifest, "--output", output) == 0
    return output


def test_a_page_needs_nothing_from_anywhere_else(whole_page: Path) -> None:
    text = whole_page.read_text()
    assert text.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "<script" not in text
    assert "Best case" in text
    assert "Worst case" in text
    assert "Mean of organs" in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_real_browser_shows_the_page(whole_page: Path, tmp_path: Path) -> None:
    """Every picture is decoded and every chart has a size; the console stays empty."""
    assert BROWSER is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    shot = tmp_path / "page.png"
    size = ("--hide-scrollbars", "--window-size=1280,4000")
    done = subprocess.run(
        [BROWSER, *options, *size, f"--screenshot={shot}", "--enable-logging=stderr", whole_page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOImage import vtkPNGReader

    reader = vtkPNGReader()
    reader.SetFileName(str(shot))
    reader.Update()
    pixels = vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars())
    # The pictures of the cases are nearly black, the page is not: both are there.
    dark = (pixels[:, :3].max(axis=1) < 40).mean()
    assert 0.05 < dark < 0.9
    # The color of the first line of every chart.
    assert (pixels[:, :3] == (0x00, 0x72, 0xB2)).all(axis=1).sum() > 100


def test_a_picture_is_part_of_its_page(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG")
    assert figure(file, 'a "quoted" caption').count("data:image/png;base64,iVBORw==") == 1
    assert 'alt="a &quot;quoted&quot; caption"' in figure(file, 'a "quoted" caption')
