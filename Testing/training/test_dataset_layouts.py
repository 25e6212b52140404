"""One contract for every layout of datasets: the same cases come out of each, and nothing is guessed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_layouts import (
    KEYS,
    MOVED,
    WRITERS,
    scan,
    segmentation,
    truth,
    write_decathlon,
    write_mask_files,
    write_nnunet,
    write_seg_nrrd,
)
from partial_cases import GEOMETRY, SPACE, ball

from PartialSegLib.errors import CollectionError
from PartialSegLib.images import write_image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cache import entry_key
from PartialSegTraining.cases import Case, GridError, LabelError, MissingFileError
from PartialSegTraining.datasets.contract import DatasetFiles
from PartialSegTraining.datasets.labels import code_of, find_structure, read_label_table
from PartialSegTraining.datasets.layouts import LAYOUTS
from PartialSegTraining.recipefiles import load_recipe

layouts = pytest.mark.parametrize("layout", WRITERS)


def read(folder: Path, options: dict[str, Any]) -> list[Case]:
    """Read a dataset by the options of a manifest."""
    options = dict(options)
    layout = LAYOUTS[options.pop("layout")]
    table = read_label_table(
        options.pop("structures"), options.pop("annotated", None), options.pop("unused", ()), SPACE
    )
    return layout.read(DatasetFiles(folder, table, **options))


def test_every_layout_passes_the_contract() -> None:
    assert set(WRITERS) == set(LAYOUTS)


@layouts
def test_masks_come_out_voxel_exact_on_the_grid_of_the_image(tmp_path: Path, layout: str) -> None:
    cases = read(tmp_path / "set", WRITERS[layout](tmp_path / "set"))
    assert [case.name for case in cases] == ["one", "two"]
    for case in cases:
        image, masks = case.load()
        assert image.geometry.matches(GEOMETRY)
        np.testing.assert_array_equal(image.voxels, scan(case.name).voxels)
        assert case.annotated == set(masks) == set(KEYS)
        for key, mask in truth(case.name).items():
            assert masks[key].dtype == bool
            np.testing.assert_array_equal(masks[key], mask)


@layouts
def test_a_structure_without_a_voxel_is_known_to_be_absent_and_others_are_unknown(tmp_path: Path, layout: str) -> None:
    case = read(tmp_path / "set", WRITERS[layout](tmp_path / "set"))[1]
    _, masks = case.load()
    assert not masks["spleen"].any()
    assert "pancreas" not in case.annotated


@layouts
def test_a_structure_may_be_annotated_and_never_found(tmp_path: Path, layout: str) -> None:
    options = WRITERS[layout](tmp_path / "set")
    case = read(tmp_path / "set", {**options, "annotated": [*KEYS, "pancreas"]})[0]
    _, masks = case.load()
    assert case.annotated == {*KEYS, "pancreas"}
    assert not masks["pancreas"].any()


@layouts
def test_masks_on_another_grid_are_refused(tmp_path: Path, layout: str) -> None:
    case = read(tmp_path / "set", WRITERS[layout](tmp_path / "set", MOVED))[0]
    with pytest.raises(GridError, match="grid of its image") as caught:
        case.load()
    assert any(str(file) in str(caught.value) for file in case.annotation.files)


@layouts
def test_a_missing_mask_is_named(tmp_path: Path, layout: str) -> None:
    case = read(tmp_path / "set", WRITERS[layout](tmp_path / "set"))[0]
    case.annotation.files[0].unlink()
    with pytest.raises(MissingFileError, match="does not exist") as caught:
        case.load()
    assert str(case.annotation.files[0]) in str(caught.value)


@layouts
def test_a_truncated_mask_is_named(tmp_path: Path, layout: str) -> None:
    case = read(tmp_path / "set", WRITERS[layout](tmp_path / "set"))[0]
    file = case.annotation.files[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CollectionError, match=file.name):
        case.load()


@layouts
def test_a_cache_entry_depends_on_what_labels_mean(tmp_path: Path, layout: str) -> None:
    options = WRITERS[layout](tmp_path / "set")
    preprocessing = load_recipe("phantom-tiny").preprocessing
    structures = options["structures"]
    if isinstance(structures, list):
        other: Any = {"liver": "liver_tumor", "liver_tumor": "liver", "spleen": "spleen"}
    else:
        first, second, *rest = structures
        other = {first: structures[second], second: structures[first], **{key: structures[key] for key in rest}}
    case = read(tmp_path / "set", options)[0]
    same, swapped = read(tmp_path / "set", options)[0], read(tmp_path / "set", {**options, "structures": other})[0]
    assert entry_key(case, preprocessing) == entry_key(same, preprocessing)
    assert entry_key(case, preprocessing) != entry_key(swapped, preprocessing)


@pytest.mark.parametrize("layout", [name for name in WRITERS if name not in ("pairs", "mask-files")])
def test_a_label_that_the_dataset_does_not_have_is_refused(tmp_path: Path, layout: str) -> None:
    options = {**WRITERS[layout](tmp_path / "set"), "structures": {"liver": "livre"}, "missing": "refuse"}
    with pytest.raises(LabelError, match="livre"):
        read(tmp_path / "set", options)[0].load()


@layouts
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, layout: str) -> None:
    options = WRITERS[layout](tmp_path / "set")
    with pytest.raises(CollectionError, match="nowhere"):
        read(tmp_path / "nowhere", options)


def test_a_label_value_outside_the_table_is_refused_unless_it_is_unused(tmp_path: Path) -> None:
    options = {**write_decathlon(tmp_path), "structures": {"liver": [1, 2]}}
    with pytest.raises(LabelError, match=r"one\.nii\.gz has the label value 3"):
        read(tmp_path, options)[0].load()
    _, masks = read(tmp_path, {**options, "unused": ["spleen"]})[0].load()
    assert set(masks) == {"liver"}


def test_a_folder_of_nnunet_v1_is_a_decathlon_with_numbered_channels(tmp_path: Path) -> None:
    options = write_decathlon(tmp_path)
    for image in (tmp_path / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    assert [case.load()[0].geometry.shape for case in read(tmp_path, options)] == [GEOMETRY.shape] * 2


def change(folder: Path, **values: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"regions_class_order": [1, 2]}, "3 regions"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "2 channels"),
        ({"numTraining": 3}, "promises 3"),
        ({"file_ending": ".mha"}, r"no \*\.mha"),
        ({"labels": 3}, "is incomplete"),
        ({"labels": {"liver": 1, "ignore": 1}}, "both as 'ignore' and as a label"),
    ],
)
def test_a_description_of_nnunet_that_contradicts_itself_is_refused(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    options = write_nnunet(tmp_path)
    change(tmp_path, **values)
    with pytest.raises(CollectionError, match=words):
        read(tmp_path, options)


@pytest.mark.parametrize(("layout", "file"), [("nnunet", "labelsTr/._one.nii.gz"), ("pairs", "._one/GT.nii.gz")])
def test_hidden_files_are_no_cases(tmp_path: Path, layout: str, file: str) -> None:
    options = WRITERS[layout](tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"Mac OS X")
    assert [case.name for case in read(tmp_path, options)] == ["one", "two"]


def test_nnunet_may_list_its_files_itself(tmp_path: Path) -> None:
    options = write_nnunet(tmp_path)
    listed = {"a": {"images": ["imagesTr/two_0000.nii.gz"], "label": "labelsTr/two.nii.gz"}}
    change(tmp_path, dataset=listed)
    (case,) = read(tmp_path, options)
    np.testing.assert_array_equal(case.load()[1]["liver"], truth("two")["liver"])


@pytest.mark.parametrize("write", [write_mask_files, write_seg_nrrd])
@pytest.mark.parametrize("missing", ["refuse", "unknown", "absent"])
def test_a_manifest_says_what_a_missing_mask_means(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]], missing: str
) -> None:
    options = write(tmp_path / "set")
    structures = {**options["structures"], "pancreas": "pancreas"}
    case = read(tmp_path / "set", {**options, "structures": structures, "missing": missing})[0]
    if missing == "refuse":
        with pytest.raises(CollectionError, match="pancreas"):
            case.load()
        return
    _, masks = case.load()
    assert ("pancreas" in case.annotated) == ("pancreas" in masks) == (missing == "absent")
    assert not masks.get("pancreas", np.zeros(1)).any()
    np.testing.assert_array_equal(masks["liver"], truth("one")["liver"])


def test_segments_of_one_code_are_one_structure(tmp_path: Path) -> None:
    options = write_seg_nrrd(tmp_path / "set")
    drawn = segmentation("one", GEOMETRY, renamed=True)
    second = SPACE.structure("liver_tumor")
    masks = {key: drawn.array(key) for key in drawn.keys} | {second.key: ball(GEOMETRY.shape, (14, 13, 14), 2)}
    write_segmentation(
        Segmentation.from_arrays(GEOMETRY, (*drawn.structures, second), masks), tmp_path / "set" / "one.seg.nrrd"
    )
    _, found = read(tmp_path / "set", options)[0].load()
    np.testing.assert_array_equal(found["liver_tumor"], truth("one")["liver_tumor"] | masks["liver_tumor"])


def test_a_dicom_segmentation_of_a_tilted_gantry_lies_on_its_slices(tmp_path: Path) -> None:
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.3, 0.0, 0.0, 0.9539392014169457)
    options = WRITERS["dicom-seg"](tmp_path, replace(GEOMETRY, direction=direction))
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name / "image")
        (tmp_path / f"drawn_{name}").rename(tmp_path / name / "image")
    image, masks = read(tmp_path, options)[0].load()
    assert image.geometry.is_sheared
    for key, mask in truth("one").items():
        np.testing.assert_array_equal(masks[key], mask)


def test_overlapping_segments_stay_whole(tmp_path: Path) -> None:
    options = write_seg_nrrd(tmp_path / "set")
    _, masks = read(tmp_path / "set", options)[0].load()
    assert (masks["liver"] & masks["liver_tumor"]).sum() == truth("one")["liver_tumor"].sum() > 0


def test_several_files_for_one_pattern_are_refused(tmp_path: Path) -> None:
    options = WRITERS["pairs"](tmp_path)
    write_image(scan("one"), tmp_path / "one" / "copy.mha")
    with pytest.raises(CollectionError, match="holds 2 of"):
        read(tmp_path, {**options, "image": "{case}/*.mha"})


@pytest.mark.parametrize("name", ["liver_tumor", "Liver tumor", "liver tumor", "SCT:4147007@10200004"])
def test_a_structure_is_found_by_key_name_or_code(name: str) -> None:
    only = LabelSpace.from_json({"name": "L", "tasks": [{"key": "a", "name": "A", "channels": ["liver_tumor"]}]})
    assert find_structure(name, only).key == "liver_tumor"


def test_a_code_of_several_structures_is_refused() -> None:
    with pytest.raises(LabelError, match="several structures of 'MultiTalent': liver_msd03"):
        find_structure("SCT:10200004", LabelSpace.named("multitalent"))


def test_codes_tell_sides_apart() -> None:
    space = LabelSpace.named("btcv")
    assert code_of(space.structure("left_kidney")) != code_of(space.structure("right_kidney"))


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        ({"liver": []}, "has no label"),
        ({"liver": 0}, "0 is no label"),
        ({"liver": True}, "True is no label"),
        ("liver", "neither a table of labels nor a list"),
    ],
)
def test_what_is_no_label_is_refused(structures: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_label_table(structures, None, (), SPACE)


def test_a_structure_has_its_labels_in_one_place() -> None:
    with pytest.raises(LabelError, match="'liver' twice"):
        read_label_table({"liver": 1, "Liver": 2}, None, (), SPACE)


def test_a_structure_with_labels_has_to_be_annotated() -> None:
    with pytest.raises(LabelError, match="'spleen' has labels, but is not 'annotated'"):
        read_label_table({"liver": 1, "spleen": 2}, ["liver"], (), SPACE)
