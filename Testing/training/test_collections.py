"""Collections: what a check finds in them, and that training takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_layouts import KEYS, call, label_map, one_dataset, scan, truth, write_decathlon, write_manifest
from partial_cases import GEOMETRY, SPACE, tiny_recipe, write_collection

from PartialSegLib.errors import CancelledError, CollectionError, LabelSpaceError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.progress import Monitor, Progress
from PartialSegTraining.datasets.checking import CheckResult, check, fingerprint
from PartialSegTraining.datasets.collection import open_collection, training_cases
from PartialSegTraining.trainer import train


def checked(path: Path, **options: Any) -> CheckResult:
    return check(open_collection(path, **options), workers=1)


def lines(result: CheckResult, kind: str) -> list[str]:
    return [problem.message for problem in result.problems if problem.kind == kind]


def test_a_good_collection_is_counted(tmp_path: Path) -> None:
    result = checked(one_dataset(tmp_path, splits={"test": ["two"]}))
    assert result.good
    assert result.cases == {"train": 1, "test": 1}
    (liver,) = [item for item in result.tallies if (item.structure, item.split) == ("liver", "train")]
    voxels = int(truth("one")["liver"].sum())
    assert (liver.annotated, liver.present, liver.voxels) == (1, 1, voxels)
    assert liver.milliliters == pytest.approx(voxels * 10.0 / 1000)


def test_an_empty_mask_is_noted_and_no_error(tmp_path: Path) -> None:
    result = checked(one_dataset(tmp_path))
    assert [problem.kind for problem in result.problems] == ["empty"]
    assert lines(result, "empty") == [
        f"{tmp_path / 'liver' / 'labelsTr' / 'two.nii.gz'} has no voxel of 'spleen', which was annotated."
    ]
    assert result.good


def spoil(folder: Path, kind: str) -> str:
    """Spoil a case of a dataset; return what the check has to say of it."""
    image, label = folder / "imagesTr" / "one.nii.gz", folder / "labelsTr" / "one.nii.gz"
    if kind == "missing-file":
        image.unlink()
        return f"{image} does not exist"
    if kind == "grid":
        write_image(Image(label_map("one"), replace(GEOMETRY, spacing=(2.0, 2.0, 2.0))), label)
        return f"{label} does not lie on the grid of its image"
    if kind == "label":
        write_image(Image(label_map("one") * np.uint8(3), GEOMETRY), label)
        return f"{label} has the label value 6"
    if kind == "collection":
        image.write_bytes(image.read_bytes()[:500])
        return str(image)
    write_image(scan("one"), folder / "imagesTr" / "two.nii.gz")
    return f"{folder / 'imagesTr' / 'two.nii.gz'} (train) has the same voxels as {image} (test)"


@pytest.mark.parametrize("kind", ["missing-file", "grid", "label", "collection", "duplicate"])
def test_what_is_wrong_with_a_case_is_one_line_with_the_file(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one_dataset(tmp_path, splits={"test": ["one"]})
    words = spoil(tmp_path / "liver", kind)
    assert call("collection", "check", str(path), "--workers", "1") == CollectionError.exit_code
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert words in line
    (problem,) = [item for item in checked(path).problems if not item.is_note]
    assert problem.kind == kind
    # The other case is read all the same.
    assert any(item.structure == "liver" for item in checked(path).tallies)


def test_a_structure_that_no_case_has_is_wrong(tmp_path: Path) -> None:
    result = checked(one_dataset(tmp_path, annotated=[*KEYS, "pancreas"]))
    assert lines(result, "all-empty") == ["'pancreas' is annotated in 2 cases, and has no voxel in any."]
    assert not result.good


def test_one_bad_dataset_hides_no_other(tmp_path: Path) -> None:
    good = write_decathlon(tmp_path / "a")
    path = write_manifest(
        tmp_path / "m.toml", {"name": "lost", **good, "folder": "b"}, {"name": "a", "folder": "a", **good}
    )
    result = checked(path)
    assert [problem.dataset for problem in result.problems if not problem.is_note] == ["lost"]
    assert result.cases == {"train": 2}


def test_the_check_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one_dataset(tmp_path)
    assert call("collection", "check", str(path)) == 0
    text = capsys.readouterr().out
    assert "Structure" in text
    assert "liver_tumor  train" in text
    assert "Test: 2 train; nothing wrong." in text
    assert call("collection", "check", str(path), "--dataset", "liver", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["good"] is True
    assert [note["kind"] for note in report["notes"]] == ["empty"]
    assert {entry["structure"] for entry in report["structures"]} == set(KEYS)
    with pytest.raises(CollectionError, match="no dataset 'kidney'"):
        call("collection", "check", str(path), "--dataset", "kidney")


def test_a_folder_of_phantoms_is_checked_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("collection", "check", str(write_collection(tmp_path)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == {"train": 2}


def test_a_folder_of_phantoms_names_its_label_space(tmp_path: Path) -> None:
    index = write_collection(tmp_path) / "collection.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "label_space": "btcv"}))
    assert [str(error) for _, error in open_collection(tmp_path).problems] == [
        "Unknown structure 'liver_tumor' in label space 'BTCV'. Did you mean liver?"
    ]
    assert not open_collection(tmp_path, space=SPACE).problems


def test_a_check_tells_how_far_it_is_and_can_be_stopped(tmp_path: Path) -> None:
    collection = open_collection(one_dataset(tmp_path))
    told: list[Progress] = []
    check(collection, workers=1, monitor=Monitor(told.append))
    assert [(item.done, item.total) for item in told] == [(0, 2), (1, 2), (2, 2)]
    assert told[1].seconds_left is not None
    monitor = Monitor()
    monitor.cancel()
    with pytest.raises(CancelledError):
        check(collection, workers=1, monitor=monitor)


def turned(image: Image) -> Image:
    """The same scan with its x axis reversed and its y and z axes swapped."""
    voxels = image.voxels[:, :, ::-1].transpose(1, 0, 2)
    z, y, x = image.voxels.shape
    sx, sy, sz = image.geometry.spacing
    origin = (image.geometry.origin[0] + (x - 1) * sx, *image.geometry.origin[1:])
    direction = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0)
    return Image(voxels, Geometry((y, z, x), (sx, sz, sy), origin, direction))


def test_a_copy_in_another_format_type_or_axis_order_has_the_same_fingerprint() -> None:
    image = scan("one")
    mark = fingerprint(image)
    assert fingerprint(replace(image, voxels=image.voxels.astype(np.float32))) == mark
    assert fingerprint(turned(image)) == mark
    assert fingerprint(replace(image, geometry=replace(GEOMETRY, origin=(0.0, 0.0, 0.0)))) == mark
    changed = image.voxels.copy()
    changed[3, 4, 5] += 1
    assert fingerprint(replace(image, voxels=changed)) != mark
    assert fingerprint(replace(image, voxels=image.voxels[:, :, ::-1])) != mark


# Training


def test_training_takes_a_manifest_and_validates_on_its_cases(tmp_path: Path) -> None:
    path = one_dataset(tmp_path, splits={"validation": ["two"]})
    recipe = tiny_recipe().with_steps(1)
    recipe = replace(recipe, monitoring=replace(recipe.monitoring, validate_every=1, validation_windows=1))
    result = train(recipe, path, tmp_path / "run", device="cpu", workers=1)
    assert result.finished
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("validation" in entry for entry in logged)
    assert sorted(file.name.rsplit("-", 1)[0] for file in (tmp_path / "run" / "cache").iterdir()) == [
        "liver-one",
        "liver-two",
    ]


def test_a_missing_file_ends_in_one_line_before_any_training(tmp_path: Path) -> None:
    path = one_dataset(tmp_path)
    (tmp_path / "liver" / "labelsTr" / "two.nii.gz").unlink()
    with pytest.raises(CollectionError, match=r"two\.nii\.gz does not exist"):
        train(tiny_recipe().with_steps(1), path, tmp_path / "run", device="cpu", workers=1)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_does_not_know_a_structure_is_refused(tmp_path: Path) -> None:
    options = {**write_decathlon(tmp_path / "a"), "structures": {"liver_btcv": 1}, "unused": [2, 3]}
    path = write_manifest(tmp_path / "m.toml", {"name": "a", "folder": "a", **options}, label_space="multitalent")
    with pytest.raises(LabelSpaceError, match="liver_btcv"):
        training_cases(path, SPACE)


def test_a_collection_without_training_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="no case to train on"):
        training_cases(one_dataset(tmp_path, splits={"test": ["one", "two"]}), SPACE)
