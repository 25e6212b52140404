"""The commands of the training room, called as the main command line calls them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from partial_cases import SPACE, write_collection

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.images import read_image
from PartialSegTraining import cli
from PartialSegTraining.cases import read_mask_folders


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    arguments = parser.parse_args(words)
    status: int = arguments.run(arguments)
    return status


def tiny_recipe_file(tmp_path: Path) -> Path:
    text = (Path(cli.__file__).parent / "recipes" / "phantom-tiny.toml").read_text()
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace("[32, 32, 32]", "[16, 16, 16]"))
    return path


def test_train_writes_a_bundle_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = write_collection(tmp_path / "collection", cases=1)
    recipe, output = tiny_recipe_file(tmp_path), tmp_path / "run"
    words = ("train", str(recipe), "--collection", str(collection), "--output", str(output), "--device", "cpu")
    assert call(*words, "--steps", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["total_steps"]) == (2, 2)
    assert ModelBundle.open(report["bundle"]).card.provenance["steps"] == 2

    assert call(*words, "--steps", "3") == 0
    assert "3 of 3 steps, finished" in capsys.readouterr().out
    assert len((output / "log.jsonl").read_text().splitlines()) == 3


def test_train_with_a_time_limit_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = write_collection(tmp_path / "collection", cases=1)
    words = (
        "train",
        str(tiny_recipe_file(tmp_path)),
        "--collection",
        str(collection),
        "--output",
        str(tmp_path / "run"),
    )
    assert call(*words, "--device", "cpu", "--max-minutes", "1e-9") == 0
    assert "0 of 12 steps, not finished: run the same command to go on" in capsys.readouterr().out


def test_train_reports_the_best_validation_and_an_early_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second command has nothing left to do, and says why."""
    collection, recipe = write_collection(tmp_path / "collection", cases=2), tiny_recipe_file(tmp_path)
    text = recipe.read_text()
    assert "validate_every = 6" in text
    recipe.write_text(text.replace("validate_every = 6", "validate_every = 1\nvalidation_cases = 1\npatience = 1"))
    words = ("train", str(recipe), "--collection", str(collection), "--output", str(tmp_path / "run"), "--json")
    assert call(*words) == 0
    first = json.loads(capsys.readouterr().out)
    assert ModelBundle.open(first["best"]).card.provenance["best_validation"]["steps"] <= first["steps"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    ended = [line["step"] for line in lines if "stopped" in line]
    assert ended == ([first["steps"]] if first["steps"] < first["total_steps"] else [])
    assert call(*words) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_a_time_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="--max-minutes 0"):
        call("train", "phantom-tiny", "--output", str(tmp_path), "--max-minutes", "0")


def test_a_recipe_without_phantoms_needs_a_collection(tmp_path: Path) -> None:
    path = tiny_recipe_file(tmp_path)
    text = path.read_text()
    start = text.index("[phantoms]")
    path.write_text(text[:start] + text[text.index("[network]") :])
    with pytest.raises(CollectionError, match="--collection"):
        call("train", str(path), "--output", str(tmp_path / "run"))


def test_a_recipe_makes_its_own_phantoms_and_learns_every_task_from_them(tmp_path: Path) -> None:
    words = ("train", "phantom-tiny", "--output", str(tmp_path), "--device", "cpu", "--workers", "1", "--steps", "3")
    assert call(*words) == 0
    card = ModelBundle.open(tmp_path / "phantom-tiny").card
    assert set(card.provenance["annotated_cases_per_task"].values()) == {1}
    assert len(list((tmp_path / "collection" / "test").iterdir())) == 1


def test_a_phantom_patient_is_a_test_case_and_a_dicom_series(tmp_path: Path) -> None:
    words = ("phantom", "patient", "--output", str(tmp_path / "patient"), "--seed", "3", "--dicom")
    assert call(*words, "--spacing", "4", "4", "5") == 0
    (case,) = read_mask_folders(tmp_path, SPACE)
    image, masks = case.load()
    assert set(masks) == {structure.key for structure in SPACE.structures}
    scan = read_image(tmp_path / "patient" / "dicom")
    np.testing.assert_array_equal(scan.voxels, image.voxels)


def test_a_collection_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="'cases_per_task' is 0"):
        call("phantom", "collection", "--output", str(tmp_path), "--cases-per-task", "0")
