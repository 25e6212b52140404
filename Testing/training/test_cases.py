"""Cases say which structures were annotated, and what is wrong with them is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from partial_cases import GEOMETRY, SPACE, ball, write_collection, write_decathlon

from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegTraining.cases import read_collection, read_decathlon, read_mask_folders

LABELS = {1: ("liver",), 2: ("liver", "liver_tumor")}
KEYS = ("liver", "liver_tumor")


def write_mask(path: Path, mask: np.ndarray, geometry: Geometry = GEOMETRY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(Image(mask.astype(np.uint8), geometry), path)


def test_a_label_map_becomes_overlapping_masks(tmp_path: Path) -> None:
    (case,) = read_decathlon(write_decathlon(tmp_path / "liver"), LABELS, KEYS, SPACE)
    image, masks = case.load()
    assert case.name == "liver_000"
    assert image.geometry.matches(GEOMETRY)
    assert set(masks) == case.annotated == set(KEYS)
    np.testing.assert_array_equal(masks["liver"], ball(GEOMETRY.shape, (10, 12, 14), 7) | masks["liver_tumor"])
    np.testing.assert_array_equal(masks["liver_tumor"], ball(GEOMETRY.shape, (10, 12, 16), 3))


def test_a_case_belongs_to_the_tasks_it_annotates(tmp_path: Path) -> None:
    (case,) = read_decathlon(write_decathlon(tmp_path / "liver"), LABELS, KEYS, SPACE)
    assert case.tasks(SPACE) == ("liver",)


def test_an_annotated_structure_without_a_voxel_is_known_to_be_absent(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path / "liver")
    write_mask(folder / "labelsTr" / "liver_000.nii.gz", ball(GEOMETRY.shape, (10, 12, 14), 7))
    (case,) = read_decathlon(folder, LABELS, KEYS, SPACE)
    _, masks = case.load()
    assert masks["liver"].any()
    assert not masks["liver_tumor"].any()


def test_a_collection_gathers_the_cases_of_its_datasets(tmp_path: Path) -> None:
    cases = read_collection(write_collection(tmp_path, cases=2), SPACE)
    assert [case.name for case in cases] == ["liver_000", "liver_001"]


def test_mask_folders_annotate_what_they_have_files_for(tmp_path: Path) -> None:
    case_folder = tmp_path / "case1"
    mask = ball(GEOMETRY.shape, (10, 12, 14), 5)
    write_mask(case_folder / "segmentations" / "liver.nii.gz", mask)
    write_mask(case_folder / "segmentations" / "spleen.nii.gz", np.zeros_like(mask))
    write_mask(case_folder / "segmentations" / "gallbladder.nii.gz", mask)
    write_image(Image(np.where(mask, 100, 0).astype(np.int16), GEOMETRY), case_folder / "image.nii.gz")
    (case,) = read_mask_folders(tmp_path, SPACE)
    _, masks = case.load()
    assert case.annotated == {"liver", "spleen"}
    np.testing.assert_array_equal(masks["liver"], mask)
    assert not masks["spleen"].any()


def test_a_label_value_without_a_structure_is_refused(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path / "liver")
    write_mask(folder / "labelsTr" / "liver_000.nii.gz", 5 * ball(GEOMETRY.shape, (10, 12, 14), 7))
    (case,) = read_decathlon(folder, LABELS, KEYS, SPACE)
    with pytest.raises(CollectionError, match=r"liver_000\.nii\.gz has the label value 5"):
        case.load()


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path / "liver")
    moved = Geometry(GEOMETRY.shape, GEOMETRY.spacing, (11.0, -20.0, 5.0))
    write_mask(folder / "labelsTr" / "liver_000.nii.gz", ball(GEOMETRY.shape, (10, 12, 14), 7), moved)
    (case,) = read_decathlon(folder, LABELS, KEYS, SPACE)
    with pytest.raises(CollectionError, match="does not lie on the grid of its image"):
        case.load()


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path / "liver")
    (folder / "labelsTr" / "liver_000.nii.gz").unlink()
    with pytest.raises(CollectionError, match=r"labelsTr.liver_000\.nii\.gz does not exist"):
        read_decathlon(folder, LABELS, KEYS, SPACE)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path / "liver")
    image = folder / "imagesTr" / "liver_000.nii.gz"
    image.write_bytes(image.read_bytes()[:2000])
    (case,) = read_decathlon(folder, LABELS, KEYS, SPACE)
    with pytest.raises(CollectionError, match=r"liver_000\.nii\.gz"):
        case.load()


def test_a_label_of_a_structure_that_was_not_annotated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="liver_tumor, but does not say"):
        read_decathlon(write_decathlon(tmp_path / "liver"), LABELS, ["liver"], SPACE)


def test_an_unknown_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelSpaceError, match="livre"):
        read_decathlon(write_decathlon(tmp_path / "liver"), {1: ("livre",)}, ["livre"], SPACE)


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"datasets": [{"folder": "x"}]}', '{"datasets": 3}', "[]", '{"datasets": []}']
)
def test_a_damaged_collection_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "collection.json").write_text(text)
    with pytest.raises(CollectionError, match=r"collection\.json"):
        read_collection(tmp_path, SPACE)


def test_a_folder_without_a_collection_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="partialseg phantom"):
        read_collection(tmp_path, SPACE)


def test_a_case_name_may_not_repeat(tmp_path: Path) -> None:
    root = write_collection(tmp_path)
    document = json.loads((root / "collection.json").read_text())
    document["datasets"] *= 2
    (root / "collection.json").write_text(json.dumps(document))
    with pytest.raises(CollectionError, match="'liver_000' twice"):
        read_collection(root, SPACE)
