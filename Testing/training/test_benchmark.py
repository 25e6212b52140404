"""The comparison of systems: runs that go on where they were, honest means, and documents that say what was done."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from partial_cases import GEOMETRY, ball, write_collection

from PartialSegLib.errors import CancelledError, CollectionError, PartialSegError
from PartialSegLib.images import Image, write_image
from PartialSegLib.progress import Monitor, Progress
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.benchmark import command
from PartialSegTraining.benchmark.documents import csv_rows, document, markdown, picture
from PartialSegTraining.benchmark.results import Estimate, SystemResult, collect
from PartialSegTraining.benchmark.runs import Budget, RunResult, benchmark_recipe, make_run, read_runs
from PartialSegTraining.benchmark.systems import SYSTEMS, find_systems
from PartialSegTraining.benchmark.verdicts import compare, verdicts
from PartialSegTraining.recipefiles import load_recipe

SPACE = LabelSpace.named("mots")
BUDGET = Budget(steps=2, preset="fast", test_cases=1)


def made(key: str, *dice: float, parameters: int = 1000, seconds: float = 1.0) -> SystemResult:
    """A system with the same Dice for all structures, one value a seed."""
    (system,) = find_systems([key])
    runs = [
        RunResult(
            system=key,
            seed=seed,
            budget=BUDGET,
            recipe_digest="",
            parameters=parameters,
            passes=7,
            train_seconds=10.0,
            case_seconds=seconds,
            dice=dict.fromkeys(SPACE.select(), value),
            hd95_mm=dict.fromkeys(SPACE.select(), 5.0),
        )
        for seed, value in enumerate(dice, start=1)
    ]
    return SystemResult(system, tuple(runs))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Livers to train on, and one of them fully annotated to measure on."""
    root = write_collection(tmp_path / "collection", cases=1)
    folder = root / "test" / "test_001"
    (folder / "segmentations").mkdir(parents=True)
    organ = ball(GEOMETRY.shape, (10, 12, 14), 7)
    write_image(Image(np.where(organ, 100, -60).astype(np.int16), GEOMETRY), folder / "image.nii.gz")
    write_image(Image(organ.astype(np.uint8), GEOMETRY), folder / "segmentations" / "liver.nii.gz")
    return root


def test_every_system_has_a_recipe_on_the_same_tasks() -> None:
    assert len({system.key for system in SYSTEMS}) == len(SYSTEMS)
    for system in SYSTEMS:
        assert load_recipe(system.recipe).label_space == "mots"


def test_systems_are_named_in_the_order_of_the_table() -> None:
    assert [system.key for system in find_systems(["dodnet", "tal"])] == ["tal", "dodnet"]
    with pytest.raises(PartialSegError, match="'dodo'"):
        find_systems(["dodo"])


def test_a_system_with_more_steps_runs_only_when_it_is_named() -> None:
    assert all(system.rounds == 1 for system in find_systems())
    (longer,) = find_systems(["multi-nets-7"])
    assert benchmark_recipe(longer, 1, BUDGET).optimization.total_steps == 7 * BUDGET.steps


def test_a_run_is_trained_and_measured_once(tmp_path: Path, collection: Path) -> None:
    (system,) = find_systems(["dodnet"])
    result = make_run(system, 3, BUDGET, tmp_path, collection=collection, device="cpu", workers=1)
    assert result.parameters == 262_832
    assert result.passes == 1
    assert set(result.dice) == {"liver"}
    file = tmp_path / "runs" / "dodnet" / "3" / "result.json"
    written = file.stat().st_mtime_ns
    assert make_run(system, 3, BUDGET, tmp_path, collection=collection) == result
    assert file.stat().st_mtime_ns == written
    assert read_runs(tmp_path, [system], [1, 3]) == [result]
    longer = replace(BUDGET, steps=3)
    with pytest.raises(CollectionError, match="another budget"):
        make_run(system, 3, longer, tmp_path, collection=collection)


def test_a_stopped_run_goes_on(tmp_path: Path, collection: Path) -> None:
    budget, (system,) = replace(BUDGET, steps=3), find_systems(["cond-no"])

    def stop(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == 1:
            monitor.cancel()

    monitor = Monitor(stop)
    with pytest.raises(CancelledError):
        make_run(system, 1, budget, tmp_path, collection=collection, device="cpu", monitor=monitor)
    steps: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "train":
            steps.append(progress.done)

    make_run(system, 1, budget, tmp_path, collection=collection, device="cpu", monitor=Monitor(watch))
    assert steps == [2, 3]


def test_a_damaged_result_is_named(tmp_path: Path, collection: Path) -> None:
    (system,) = find_systems(["tal"])
    file = tmp_path / "runs" / "tal" / "1" / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"system": "tal"}')
    with pytest.raises(CollectionError, match=r"result\.json"):
        make_run(system, 1, BUDGET, tmp_path, collection=collection)


def test_means_and_spreads_are_those_of_seeds() -> None:
    result = made("dodnet", 0.5, 0.6, 0.7)
    assert result.average_dice.mean == pytest.approx(0.6)
    assert result.average_dice.deviation == pytest.approx(0.1)
    assert result.dice("liver").text(1, 100) == "60.0 ± 10.0"
    assert made("dodnet", 0.5).average_dice.text(2) == "0.50"


def test_a_structure_that_is_defined_nowhere_counts_in_no_mean() -> None:
    (run,) = made("dodnet", 0.4).runs
    holes = replace(run, dice={**run.dice, "spleen": None}, hd95_mm=dict.fromkeys(run.hd95_mm))
    result = SystemResult(made("dodnet", 0.4).system, (holes,))
    assert result.average_dice.mean == pytest.approx(0.4)
    assert math.isnan(result.average_hd95.mean)
    assert result.dice("spleen").text(1) == "-"


def test_systems_without_a_run_are_left_out() -> None:
    runs = list(made("tal", 0.5).runs)
    assert [result.system.key for result in collect(runs, SYSTEMS)] == ["tal"]


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [((0.8, 0.01), (0.5, 0.02), 1), ((0.5, 0.02), (0.8, 0.01), -1), ((0.5, 0.3), (0.6, 0.01), 0)],
)
def test_a_difference_counts_when_it_is_larger_than_the_spread(
    first: tuple[float, float], second: tuple[float, float], order: int
) -> None:
    assert compare(Estimate(*first), Estimate(*second)) == order


def test_one_seed_tells_nothing() -> None:
    assert compare(Estimate(0.9, math.nan), Estimate(0.1, math.nan)) == 0


def test_claims_are_confirmed_or_contradicted_by_the_figures() -> None:
    clear = [
        made("multi-nets", 0.50, 0.52, parameters=7000),
        made("cond-no", 0.10, 0.12),
        made("cond-input", 0.60, 0.62),
        made("cond-dec", 0.58, 0.60),
        made("dodnet", 0.70, 0.72, seconds=0.5),
    ]
    alone, seven, dynamic = verdicts(clear, SPACE)
    assert all(sentence.startswith("Confirmed:") for sentence in (alone, seven, dynamic))
    assert "14% of the weights" in seven
    assert "may explain it" in seven
    (equal,) = verdicts([made("multi-nets-7", 0.50, 0.52), clear[-1]], SPACE)
    assert "as many as DoDNet" in equal
    turned = [
        made("multi-nets", 0.70, 0.72),
        made("cond-no", 0.80, 0.82),
        made("cond-input", 0.60, 0.62),
        made("cond-dec", 0.58, 0.60),
        made("dodnet", 0.50, 0.52),
    ]
    assert all(sentence.startswith("Contradicted:") for sentence in verdicts(turned, SPACE))


def test_claims_about_systems_that_did_not_run_are_not_made() -> None:
    assert verdicts([made("tal", 0.5, 0.6)], SPACE) == []


def test_the_report_says_what_was_done() -> None:
    results, recipe = [made("cond-no", 0.1, 0.2), made("dodnet", 0.5, 0.6)], load_recipe(command.COMMON)
    text = markdown(results, recipe, "CPU of the test")
    for words in ("Synthetic phantoms stand in for patients", "2 steps of 4 windows", "seeds 1, 2", "CPU of the test"):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("| DoDNet")]
    assert len(rows) == 2
    header = next(line for line in text.splitlines() if line.startswith("| System"))
    assert header.count("|") == rows[0].count("|")
    assert "55.0 ± 7.1" in rows[0]
    assert "75.64" in rows[0]


def test_the_report_does_not_claim_phantoms_that_were_not_used() -> None:
    recipe = load_recipe(command.COMMON)
    results = [made("dodnet", 0.5, 0.6)]
    assert "seed 6100" in markdown(results, recipe, "CPU")
    own = markdown(results, replace(recipe, phantoms=None), "CPU")
    assert "seed 6100" not in own
    assert "a collection of the user's own" in own


def test_every_score_of_every_run_is_written() -> None:
    results = [made("cond-no", 0.1, 0.2), made("dodnet", 0.5, 0.6)]
    rows = list(csv.DictReader(io.StringIO(csv_rows(results, SPACE))))
    assert len(rows) == 4 * len(SPACE.select())
    assert {row["dice"] for row in rows if row["system"] == "dodnet"} == {"0.5", "0.6"}
    report = document(results, load_recipe(command.COMMON), "CPU")
    assert json.loads(json.dumps(report, allow_nan=False))["systems"][1]["average_dice"]["mean"] == 0.55


def test_the_picture_names_every_system() -> None:
    results = [made("cond-no", 0.1, 0.2, seconds=0.3), made("dodnet", 0.5, 0.6), made("multi-nets", 0.5, seconds=9.0)]
    tree = ElementTree.fromstring(picture(results))
    texts = "".join(tree.itertext())
    assert all(result.system.name in texts for result in results)


def test_the_command_writes_four_documents_and_goes_on(
    tmp_path: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.register_all(parser.add_subparsers())
    words = ["benchmark", "phantoms", "--output", str(tmp_path / "out"), "--collection", str(collection)]
    words += ["--systems", "dodnet", "--steps", "1", "--device", "cpu", "--workers", "1"]
    for seeds in ("1", "1,2"):
        arguments = parser.parse_args([*words, "--seeds", seeds])
        assert arguments.run(arguments) == 0
    assert sorted(path.suffix for path in (tmp_path / "out").glob("benchmark-phantoms.*")) == [
        ".csv",
        ".json",
        ".md",
        ".svg",
    ]
    assert "DoDNet, seed 2 (2 of 2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--seeds", "1,1"), ("--seeds", "one"), ("--steps", "0"), ("--test-cases", "0")]
)
def test_impossible_numbers_are_refused(tmp_path: Path, collection: Path, option: str, value: str) -> None:
    parser = argparse.ArgumentParser()
    command.register_all(parser.add_subparsers())
    words = ["benchmark", "phantoms", "--output", str(tmp_path), "--collection", str(collection), option, value]
    arguments = parser.parse_args(words)
    with pytest.raises(PartialSegError, match=value):
        arguments.run(arguments)


def test_a_collection_without_test_cases_is_refused(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.register_all(parser.add_subparsers())
    folder = write_collection(tmp_path / "collection", cases=1)
    arguments = parser.parse_args(["benchmark", "phantoms", "--output", str(tmp_path), "--collection", str(folder)])
    with pytest.raises(PartialSegError, match="no test cases"):
        arguments.run(arguments)
