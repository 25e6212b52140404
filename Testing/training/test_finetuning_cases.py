"""Case folders of fine-tuning, and what is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from finetuning_cases import GEOMETRY, SHAPE, write_case

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegTraining.cases import GridError, MissingFileError
from PartialSegTraining.finetuning import FineTuneOptions, finetune, only_structures, read_case_folder
from PartialSegTraining.finetuning.command import read_cases


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("models") / "parent")


def test_an_exported_case_says_what_was_annotated_and_describes_it(tmp_path: Path) -> None:
    case = read_case_folder(write_case(tmp_path / "p", ("liver", "spleen"), listed=True))
    assert case.annotated == {"liver", "spleen"}
    assert [structure.key for structure in case.annotation.described] == ["liver", "spleen"]  # type: ignore[attr-defined]
    image, masks = case.load()
    assert image.geometry.shape == SHAPE
    assert masks["liver"].any()


def test_masks_that_the_list_does_not_name_are_unknown(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "p", ("liver",), listed=True)
    write_image(Image(np.ones(SHAPE, np.uint8), GEOMETRY), folder / "segmentations" / "spleen.nii.gz")
    assert read_case_folder(folder).annotated == {"liver"}


def test_some_annotations_of_a_folder_can_be_chosen(tmp_path: Path) -> None:
    case = read_case_folder(write_case(tmp_path / "p", ("liver", "spleen", "kidneys")), ["spleen"])
    assert case.annotated == {"spleen"}
    assert list(case.load()[1]) == ["spleen"]
    with pytest.raises(CollectionError, match="does not annotate aorta"):
        read_case_folder(tmp_path / "p", ["aorta"])


def test_a_folder_of_case_folders_stands_for_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_case(tmp_path / name, ("liver",))
    assert [case.name for case in read_cases([tmp_path])] == ["a", "b"]
    assert [case.name for case in read_cases([tmp_path / "b"])] == ["b"]


def test_what_is_no_case_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"image\.nii\.gz does not exist"):
        read_case_folder(tmp_path)
    folder = write_case(tmp_path / "p", ())
    with pytest.raises(CollectionError, match="has no mask"):
        read_case_folder(folder)
    (folder / "case.json").write_text(json.dumps({"version": 7}))
    with pytest.raises(CollectionError, match="has version 7, but 1 is known"):
        read_case_folder(folder)
    (folder / "case.json").write_text(json.dumps({"version": 1, "annotated": ["liver"]}))
    with pytest.raises(CollectionError, match="is incomplete"):
        read_case_folder(folder)


def test_a_list_cannot_name_files_outside_of_its_case(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "p", ("liver",), listed=True)
    document = json.loads((folder / "case.json").read_text())
    document["masks"]["liver"]["file"] = "../other.nii.gz"
    (folder / "case.json").write_text(json.dumps(document))
    with pytest.raises(CollectionError, match="is not in the case"):
        read_case_folder(folder)


def test_annotations_are_left_out_without_touching_the_case(tmp_path: Path) -> None:
    case = read_case_folder(write_case(tmp_path / "p", ("liver", "spleen")))
    assert only_structures(case, ("spleen", "aorta")).annotated == {"spleen"}
    assert case.annotated == {"liver", "spleen"}


@pytest.mark.parametrize(
    ("keys", "chosen", "error", "words"),
    [
        (("gallbladder",), {}, CollectionError, "--add-structure gallbladder"),
        (("liver",), {"add_structures": ("liver",)}, LabelSpaceError, "knows 'liver' already"),
        (("liver",), {"add_structures": ("aorta",)}, CollectionError, "No case annotates 'aorta'"),
        (("liver",), {"add_structures": ("thing",)}, LabelSpaceError, "Nothing describes the structure 'thing'"),
    ],
)
def test_structures_that_do_not_fit_the_model_are_refused(
    parent: ModelBundle,
    tmp_path: Path,
    keys: tuple[str, ...],
    chosen: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    case = read_case_folder(write_case(tmp_path / "p", keys))
    with pytest.raises(error, match=words):
        finetune(parent, [case], tmp_path / "out", mode="quick", options=FineTuneOptions(**chosen))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_bad_cases_are_refused_before_anything_is_trained(parent: ModelBundle, tmp_path: Path) -> None:
    def attempt(*folders: Path, held_out: tuple[Path, ...] = (), mode: str = "quick") -> None:
        cases, others = ([read_case_folder(folder) for folder in part] for part in (folders, held_out))
        finetune(parent, cases, tmp_path / "out", mode=mode, held_out=others)

    good = write_case(tmp_path / "good", ("liver",))
    with pytest.raises(CollectionError, match="no case to learn from"):
        attempt()
    with pytest.raises(CollectionError, match="There is no mode 'slow'"):
        attempt(good, mode="slow")
    with pytest.raises(CollectionError, match="shows none of the structures"):
        attempt(write_case(tmp_path / "empty", ("liver",), empty=True))
    with pytest.raises(CollectionError, match="Two cases are named 'good'"):
        attempt(good, write_case(tmp_path / "other" / "good", ("liver",), 1))
    with pytest.raises(CollectionError, match="is held out, but its image is trained on too"):
        attempt(good, held_out=(write_case(tmp_path / "copy", ("liver",)),))
    shifted = write_case(tmp_path / "shifted", ("liver",))
    elsewhere = Geometry(SHAPE, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    write_image(Image(np.ones(SHAPE, np.uint8), elsewhere), shifted / "segmentations" / "liver.nii.gz")
    with pytest.raises(GridError, match="does not lie on the grid of its image"):
        attempt(shifted)
    assert not (tmp_path / "out").exists()
