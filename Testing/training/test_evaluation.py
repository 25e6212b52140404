"""Evaluation: scores of cases, honest means, and ``partialseg evaluate`` on files."""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bundles import TINY_WINDOW, bundle_of, random_bundle, random_dodnet
from PartialSegLib.bundle import ModelBundle, Preprocessing
from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.metrics import DEFINITIONS, Score
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegLib.structures import LabelSpace, catalogue
from PartialSegTraining import evaluation
from PartialSegTraining.cases import Case, MaskFiles, read_mask_folders
from PartialSegTraining.evaluation import find_pairs, score_model
from PartialSegTraining.scoretable import CaseScores, ScoreTable, Summary

pytest.importorskip("surface_distance")

GRID = Geometry((12, 20, 24), (1.0, 1.0, 2.0), (-12.0, -10.0, 100.0))
MOTS = LabelSpace.named("mots")


def cuboid(start: tuple[int, int, int], size: tuple[int, int, int] = (5, 8, 8)) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))] = True
    return mask


def segmentation(**arrays: np.ndarray) -> Segmentation:
    return Segmentation.from_arrays(GRID, [catalogue()[key] for key in arrays], arrays, "Test")


def score(key: str, **values: Any) -> Score:
    perfect = {
        "dice": 1.0,
        "hd95_mm": 0.0,
        "surface_dice": 1.0,
        "surface_distance_mm": 0.0,
        "tolerance_mm": 2.0,
        "prediction_ml": 1.0,
        "reference_ml": 1.0,
    }
    return Score(key, **{**perfect, **values})


def evaluate(*arguments: str | Path) -> int:
    """Run the command as the command line does."""
    parser = argparse.ArgumentParser()
    evaluation.register(parser.add_subparsers())
    parsed = parser.parse_args(["evaluate", *map(str, arguments)])
    return int(parsed.run(parsed))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Two fully annotated cases in the layout of a collection's test folder; the second has no tumor."""
    rng = np.random.default_rng(0)
    for name, tumor in (("case_1", (3, 6, 6)), ("case_2", None)):
        folder = tmp_path / "collection" / "test" / name
        (folder / "segmentations").mkdir(parents=True)
        write_image(Image(rng.integers(-100, 200, GRID.shape).astype(np.int16), GRID), folder / "image.nii.gz")
        masks = {
            "liver": cuboid((2, 4, 4)),
            "liver_tumor": cuboid(tumor, (2, 2, 2)) if tumor else cuboid((0, 0, 0)) & False,
        }
        for key, mask in masks.items():
            write_image(Image(mask.astype(np.uint8), GRID), folder / "segmentations" / f"{key}.nii.gz")
    return tmp_path / "collection"


class Oracle:
    """Answers with known masks: the scores of a real network could not be foretold."""

    label_space = MOTS

    def segment(self, image: Image, tasks: tuple[str, ...], preset: str) -> SimpleNamespace:
        masks = {"liver": cuboid((2, 4, 4)), "liver_tumor": cuboid((3, 6, 7), (2, 2, 2))}
        structures = [MOTS.structure(key) for key in tasks]
        return SimpleNamespace(
            segmentation=Segmentation.from_arrays(image.geometry, structures, {key: masks[key] for key in tasks})
        )


def test_a_model_is_scored_on_every_annotated_structure_of_every_case(collection: Path) -> None:
    cases = read_mask_folders(collection / "test", MOTS)
    first, second = score_model(Oracle(), cases)  # type: ignore[arg-type]
    assert (first.name, second.name) == ("case_1", "case_2")
    assert [item.key for item in first.scores] == ["liver", "liver_tumor"]
    assert [item.dice for item in first.scores] == [1.0, 0.5]
    assert first.seconds is not None
    assert first.seconds >= 0
    # In the second case there is no tumor, but the model invents one.
    assert [item.dice for item in second.scores] == [1.0, 0.0]
    assert second.scores[1].hd95_mm == math.inf


def test_a_structure_named_like_a_task_does_not_bring_the_rest_of_the_task(collection: Path) -> None:
    for file in collection.glob("test/*/segmentations/liver_tumor.nii.gz"):
        file.unlink()
    first, _ = score_model(Oracle(), read_mask_folders(collection / "test", MOTS))  # type: ignore[arg-type]
    assert [item.key for item in first.scores] == ["liver"]


def test_a_witness_sees_what_is_scored(collection: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def witness(case: Case, image: Image, prediction: Segmentation, reference: Segmentation) -> None:
        assert image.geometry.matches(prediction.geometry)
        seen.append((case.name, prediction.masks["liver"].count, reference.masks["liver_tumor"].count))

    cases = read_mask_folders(collection / "test", MOTS)
    assert len(list(score_model(Oracle(), cases, witness=witness))) == 2  # type: ignore[arg-type]
    assert seen == [("case_1", 5 * 8 * 8, 8), ("case_2", 5 * 8 * 8, 0)]


def test_what_a_model_does_not_know_is_left_out(collection: Path) -> None:
    cases = read_mask_folders(collection / "test", MOTS)
    files = cases[0].annotation.files[0]
    known = replace(cases[0], annotation=MaskFiles((("liver", files), ("gallbladder", files))))
    strange = replace(cases[1], annotation=MaskFiles((("gallbladder", files),)))
    (scores,) = score_model(Oracle(), [known, strange])  # type: ignore[arg-type]
    assert [score.key for score in scores.scores] == ["liver"]


def test_the_command_runs_a_model_over_a_collection(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = Preprocessing((8.0, 8.0, 8.0), (-400.0, 400.0), 0.0, 400.0, body_threshold=None)
    random_bundle(tmp_path / "random", preprocessing=coarse)
    arguments = ["--model", tmp_path / "random", "--collection", collection, "--limit", "1", "--device", "cpu"]
    assert evaluate(*arguments, "--report", tmp_path / "r.json") == 0
    assert "Mean of organs" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["subject"] == {"model": "random", "preset": "standard", "cases": "1"}
    assert [case["name"] for case in report["cases"]] == ["case_1"]
    assert set(report["structures"]) == {"liver", "liver_tumor"}


def test_two_models_are_compared_on_the_same_cases(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = Preprocessing((8.0, 8.0, 8.0), (-400.0, 400.0), 0.0, 400.0, body_threshold=None)
    for seed, name in enumerate(("first", "second")):
        bundle_of(tmp_path / name, "DoDNet", random_dodnet(seed=seed), TINY_WINDOW, coarse)
    arguments = ["--model", tmp_path / "first", "--compare", tmp_path / "second", "--collection", collection]
    files = {option: tmp_path / f"r.{option[2:]}" for option in ("--report", "--csv", "--html", "--markdown")}
    given = [word for pair in files.items() for word in pair]
    assert evaluate(*arguments, "--device", "cpu", "--metric", "dodnet", *given) == 0
    out = capsys.readouterr().out
    assert "Difference" in out
    assert "Dice (DoDNet)" in out
    report = json.loads(files["--report"].read_text())
    entry = report["comparison"]["structures"]["liver"]
    assert entry["difference"] == pytest.approx(entry["second"] - entry["first"])
    assert entry["first"] == pytest.approx(report["structures"]["liver"]["dice"])
    assert report["dodnet"]["spacing_mm"] == [8.0, 8.0, 8.0]
    rows = list(csv.DictReader(files["--csv"].open()))
    assert {(row["case"], row["structure"]) for row in rows} >= {("case_1", "liver"), ("case_2", "liver")}
    page = files["--html"].read_text()
    assert "Comparison" in page
    assert "case_2" in page
    assert "Difference" in files["--markdown"].read_text()


def test_a_split_that_a_collection_does_not_have_is_named(collection: Path, tmp_path: Path) -> None:
    random_bundle(tmp_path / "random")
    (collection / "collection.json").write_text('{"datasets": []}')
    with pytest.raises(CollectionError):
        evaluate("--model", tmp_path / "random", "--collection", collection, "--split", "validation")


def test_measured_figures_can_be_written_on_the_card(collection: Path, tmp_path: Path) -> None:
    coarse = Preprocessing((8.0, 8.0, 8.0), (-400.0, 400.0), 0.0, 400.0, body_threshold=None)
    random_bundle(tmp_path / "random", preprocessing=coarse)
    arguments = ["--model", tmp_path / "random", "--collection", collection, "--device", "cpu", "--card"]
    assert evaluate(*arguments) == 0
    figures = ModelBundle.open(tmp_path / "random").card.figures
    assert figures["cases"] == "2"
    assert set(figures["dice"]) == {"organs", "tumors", "liver", "liver_tumor"}
    assert ModelBundle.open(tmp_path / "random").load_network() is not None


def test_means_leave_out_absent_structures_and_count_missed_and_invented_ones() -> None:
    empty = score("liver_tumor", prediction_ml=0.0, reference_ml=0.0, hd95_mm=math.nan, surface_distance_mm=math.nan)
    nothing = {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": math.inf, "surface_distance_mm": math.inf}
    missed = score("liver_tumor", prediction_ml=0.0, **nothing)
    invented = score("liver_tumor", reference_ml=0.0, **nothing)
    good = score("liver_tumor", dice=0.8, hd95_mm=3.0)
    summary = Summary.of_structure("Liver tumor", [empty, missed, invented, good])
    assert (summary.cases, summary.missed, summary.invented) == (3, 1, 1)
    assert summary.dice == pytest.approx(0.8 / 3)
    assert summary.hd95_mm == 3.0


def test_a_structure_that_is_absent_everywhere_has_no_mean() -> None:
    empty = score("spleen", prediction_ml=0.0, reference_ml=0.0, hd95_mm=math.nan, surface_distance_mm=math.nan)
    summary = Summary.of_structure("Spleen", [empty])
    assert math.isnan(summary.dice)
    assert summary.to_json()["dice"] is None


def test_organs_and_tumors_are_averaged_with_one_weight_a_structure() -> None:
    scores = (score("liver", dice=0.9), score("hepatic_vessels", dice=0.5), score("liver_tumor", dice=0.6))
    cases = (CaseScores("a", scores), CaseScores("b", (score("liver", dice=1.0),)))
    groups = ScoreTable(MOTS.structures, cases, 2.0, {}).groups()
    assert groups["organs"].dice == pytest.approx((0.95 + 0.5) / 2)
    assert groups["tumors"].dice == 0.6


def test_a_group_without_any_structure_is_left_out() -> None:
    table = ScoreTable(MOTS.structures, (CaseScores("a", (score("liver"),)),), 2.0, {})
    assert list(table.groups()) == ["organs"]
    assert "tumors" not in table.text()


def test_the_text_table_has_aligned_columns() -> None:
    cases = (CaseScores("a", (score("liver", dice=0.5, hd95_mm=12.25), score("pancreas_tumor", dice=0.25))),)
    lines = ScoreTable(MOTS.structures, cases, 1.5, {}).text().splitlines()
    assert "Surface Dice at 1.5 mm" in lines[0]
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["Liver", "1", "0.500", "-", "12.2", "1.000", "0", "0"]


def test_the_markdown_table_is_well_formed_and_explains_its_numbers() -> None:
    table = ScoreTable(MOTS.structures, (CaseScores("a", (score("liver"),)),), 2.0, {"model": "demo"})
    text = table.markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "model demo" in text
    assert all(definition in text for definition in DEFINITIONS.values())


def test_two_files_are_compared_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_segmentation(segmentation(liver=cuboid((2, 4, 4)), spleen=cuboid((1, 1, 1))), tmp_path / "a.seg.nrrd")
    write_segmentation(segmentation(liver=cuboid((2, 4, 4)), spleen=cuboid((1, 1, 2))), tmp_path / "b.seg.nrrd")
    paths = tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd"
    assert evaluate(*paths, "--report", tmp_path / "r.json", "--markdown", tmp_path / "r.md") == 0
    assert "Liver" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["structures"]["liver"]["dice"] == 1.0
    assert report["structures"]["spleen"]["dice"] == pytest.approx(0.875)
    assert report["structures"]["spleen"]["hd95_mm"] == pytest.approx(1.0)
    assert report["definitions"].items() >= DEFINITIONS.items()
    assert report["structures"]["liver"]["dice_interval"] is None
    assert (tmp_path / "r.md").read_text().startswith("| Structure |")


def test_folders_of_masks_are_compared_with_files(tmp_path: Path, collection: Path) -> None:
    write_segmentation(segmentation(liver=cuboid((2, 4, 4))), tmp_path / "a.seg.nrrd")
    masks = collection / "test" / "case_1" / "segmentations"
    assert evaluate(tmp_path / "a.seg.nrrd", masks, "--report", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert {key: entry["dice"] for key, entry in report["structures"].items()} == {"liver": 1.0}


def test_masks_of_unknown_structures_are_compared_by_their_file_names(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_image(Image(cuboid((2, 4, 4)).astype(np.uint8), GRID), tmp_path / folder / "left_rib_3.nii.gz")
    assert evaluate(tmp_path / "one", tmp_path / "two", "--report", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["structures"]["left_rib_3"]["name"] == "Left rib 3"


def test_folders_of_cases_are_matched_by_file_name(tmp_path: Path) -> None:
    for folder in ("predicted", "true"):
        (tmp_path / folder).mkdir()
        for case in ("x", "y"):
            write_segmentation(segmentation(liver=cuboid((2, 4, 4))), tmp_path / folder / f"{case}.seg.nrrd")
    assert evaluate(tmp_path / "predicted", tmp_path / "true", "--report", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [case["name"] for case in report["cases"]] == ["x", "y"]
    assert report["structures"]["liver"]["cases"] == 2
    (tmp_path / "true" / "y.seg.nrrd").unlink()
    with pytest.raises(CollectionError, match=r"y\.seg\.nrrd"):
        find_pairs(tmp_path / "predicted", tmp_path / "true")


def test_segmentations_without_a_common_structure_are_refused(tmp_path: Path) -> None:
    write_segmentation(segmentation(liver=cuboid((2, 4, 4))), tmp_path / "a.seg.nrrd")
    write_segmentation(segmentation(spleen=cuboid((2, 4, 4))), tmp_path / "b.seg.nrrd")
    with pytest.raises(CollectionError, match="no structure in common"):
        evaluate(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd")


@pytest.mark.parametrize(
    "arguments", [["--model", "demo"], ["a.seg.nrrd"], ["a", "b", "--model", "demo", "--collection", "c"], []]
)
def test_half_a_question_is_refused(arguments: list[str]) -> None:
    with pytest.raises(PartialSegError, match="compare"):
        evaluate(*arguments)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"nowhere\.seg\.nrrd"):
        evaluate(tmp_path / "nowhere.seg.nrrd", tmp_path)
