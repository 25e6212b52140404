"""What can be segmented: the label spaces are complete, and their contradictions are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib.errors import LabelSpaceError
from PartialSegLib.structures import LabelSpace, Structure, catalogue

ANATOMY, FINDING = "123037004", "49755003"
SPACES = ("mots", "btcv", "kits21", "multitalent", "u2net")


@pytest.fixture
def mots() -> LabelSpace:
    return LabelSpace.named("mots")


# ---- the published label spaces


def test_mots_has_the_seven_tasks_in_the_published_order(mots: LabelSpace) -> None:
    assert {task.key: task.channels for task in mots.tasks} == {
        "liver": ("liver", "liver_tumor"),
        "kidney": ("kidneys", "kidney_tumor"),
        "hepatic_vessel": ("hepatic_vessels", "hepatic_vessel_tumor"),
        "pancreas": ("pancreas", "pancreas_tumor"),
        "colon": (None, "colon_tumor"),
        "lung": (None, "lung_tumor"),
        "spleen": ("spleen", None),
    }
    assert [mots.task_index(task.key) for task in mots.tasks] == list(range(7))


def test_mots_has_eleven_annotated_structures(mots: LabelSpace) -> None:
    assert len(mots.select()) == len(mots.structures) == 11


def test_colon_and_lung_have_no_organ_annotation(mots: LabelSpace) -> None:
    assert mots.task("colon").structures == ("colon_tumor",)
    assert mots.task("lung").structures == ("lung_tumor",)


def test_tumors_lie_in_their_organs(mots: LabelSpace) -> None:
    assert {item.key: item.contained_in for item in mots.structures if item.is_finding} == {
        "liver_tumor": "liver",
        "kidney_tumor": "kidneys",
        "hepatic_vessel_tumor": "liver",
        "pancreas_tumor": "pancreas",
        "colon_tumor": None,
        "lung_tumor": None,
    }


def test_btcv_has_its_thirteen_organs_in_label_order() -> None:
    assert LabelSpace.named("btcv").select() == (
        "spleen",
        "right_kidney",
        "left_kidney",
        "gallbladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",
        "inferior_vena_cava",
        "portal_and_splenic_vein",
        "pancreas",
        "right_adrenal_gland",
        "left_adrenal_gland",
    )


def test_kits21_has_kidney_tumor_and_cyst() -> None:
    space = LabelSpace.named("KiTS21")
    assert space.select() == ("kidneys", "kidney_tumor", "kidney_cyst")
    assert space.structure("kidney_cyst").type.meaning == "Cyst"
    assert space.structure("kidney_cyst").contained_in == "kidneys"


def test_u2net_has_its_five_base_domains_in_the_published_order_and_the_new_one() -> None:
    space = LabelSpace.named("u2net")
    assert {task.key: len(task.channels) for task in space.tasks} == {
        "heart": 1,
        "liver": 1,
        "hippocampus": 2,
        "prostate": 2,
        "pancreas": 1,
        "spleen": 1,
    }


def test_the_halves_of_the_hippocampus_differ_by_their_place() -> None:
    front, back = (LabelSpace.named("u2net").structure(f"hippocampus_{part}") for part in ("anterior", "posterior"))
    assert front.type == back.type
    assert front.type_modifier is not None
    assert back.type_modifier is not None
    assert (front.type_modifier.value, back.type_modifier.value) == ("255549009", "255551008")


@pytest.mark.parametrize("name", SPACES)
def test_every_structure_is_coded_as_anatomy_or_as_a_finding_in_a_region(name: str) -> None:
    for item in LabelSpace.named(name).structures:
        assert item.category.value == (FINDING if item.is_finding else ANATOMY), item.key
        assert item.category.scheme == item.type.scheme == "SCT"
        assert (item.region is not None) == item.is_finding, item.key


@pytest.mark.parametrize("name", SPACES)
def test_structures_of_one_label_space_can_be_told_apart(name: str) -> None:
    structures = LabelSpace.named(name).structures
    assert len({item.color for item in structures}) == len(structures)
    assert len({item.name for item in structures}) == len(structures)


def test_codes_are_those_of_the_dicom_master_list() -> None:
    codes = {key: item.type.value for key, item in catalogue().items() if not item.is_finding}
    expected = {
        "liver": "10200004",
        "kidneys": "64033007",
        "pancreas": "15776009",
        "spleen": "78961009",
        "hepatic_vessels": "8993003",
        "portal_and_splenic_vein": "32764006",
    }
    assert {key: codes[key] for key in expected} == expected
    tumors = {item.type.value for key, item in catalogue().items() if key.endswith("_tumor")}
    assert tumors == {"4147007"}


def test_left_and_right_differ_by_laterality() -> None:
    for organ in ("kidney", "adrenal_gland"):
        left, right = catalogue()[f"left_{organ}"], catalogue()[f"right_{organ}"]
        assert left.type == right.type
        assert left.type_modifier is not None
        assert right.type_modifier is not None
        assert (left.type_modifier.value, right.type_modifier.value) == ("7771000", "24028007")


def test_every_containing_structure_of_the_catalogue_is_in_it() -> None:
    containing = {item.contained_in for item in catalogue().values()} - {None}
    assert containing
    assert containing <= set(catalogue())


@pytest.mark.parametrize("name", SPACES)
def test_a_label_space_comes_back_from_json_as_it_was(name: str, tmp_path: Path) -> None:
    space = LabelSpace.named(name)
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space.to_json()), encoding="utf-8")
    read = LabelSpace.from_file(file)
    assert read == space
    assert read.description == space.description


# ---- choosing


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["liver"], ("liver", "liver_tumor")),
        (["spleen", "colon"], ("colon_tumor", "spleen")),
        (["liver_tumor"], ("liver_tumor",)),
        (["liver/liver", "Colon/colon_tumor"], ("liver", "colon_tumor")),
        (["Pancreas ", "PANCREAS_TUMOR"], ("pancreas", "pancreas_tumor")),
    ],
)
def test_tasks_and_structures_are_chosen_in_the_order_of_the_label_space(
    mots: LabelSpace, names: list[str], keys: tuple[str, ...]
) -> None:
    assert mots.select(names) == keys


def test_all_means_everything(mots: LabelSpace) -> None:
    assert mots.select(["all"]) == mots.select(None)


def test_an_unknown_name_is_answered_with_close_ones(mots: LabelSpace) -> None:
    with pytest.raises(LabelSpaceError, match=r"Unknown task or structure 'livr' .*Did you mean liver\?"):
        mots.select(["livr"])
    with pytest.raises(LabelSpaceError, match=r"Unknown task or structure 'liver/spleen'"):
        mots.select(["liver/spleen"])
    with pytest.raises(LabelSpaceError, match=r"Unknown structure 'heart' .*Known: "):
        mots.structure("heart")
    with pytest.raises(LabelSpaceError, match="Unknown task 'heart'"):
        mots.task_index("heart")


def test_choosing_nothing_is_refused(mots: LabelSpace) -> None:
    with pytest.raises(LabelSpaceError, match="No task was named"):
        mots.select([])


def test_a_structure_knows_its_task(mots: LabelSpace) -> None:
    assert mots.task_of("colon_tumor").key == "colon"
    with pytest.raises(LabelSpaceError, match="Unknown structure 'colon'"):
        mots.task_of("colon")


# ---- what is refused

Change = Callable[[dict[str, Any]], Any]

CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "task twice": (lambda space: space["tasks"].append(space["tasks"][0]), "the same task twice: liver"),
    "structure twice": (
        lambda space: space["tasks"][6].update(channels=["liver", None]),
        "the same annotated structure twice: liver",
    ),
    "unknown structure": (lambda space: space["tasks"][6].update(channels=["heart", None]), "heart"),
    "unknown rule": (
        lambda space: space["tasks"][0]["rules"].append({"op": "melt", "structure": "liver"}),
        "a rule 'melt'",
    ),
    "rule of an unknown connectivity": (
        lambda space: space["tasks"][0]["rules"].append(
            {"op": "keep_largest", "structure": "liver", "connectivity": 8}
        ),
        "connects 8 neighbors",
    ),
    "rule of an unknown structure": (
        lambda space: space["tasks"][0]["rules"].append({"op": "inside", "structure": "liver", "other": "heart"}),
        "heart",
    ),
    "rule of two with one": (
        lambda space: space["tasks"][0]["rules"].append({"op": "inside", "structure": "liver"}),
        "'other' = None",
    ),
    "rule of one with two": (
        lambda space: space["tasks"][0]["rules"].append({"op": "close", "structure": "liver", "other": "liver_tumor"}),
        "'other' = liver_tumor",
    ),
    "rule that keeps none": (
        lambda space: space["tasks"][0]["rules"].append({"op": "keep_largest", "structure": "liver", "count": 0}),
        "count = 0|'count'|minimum",
    ),
    "rule with an unknown field": (
        lambda space: space["tasks"][0]["rules"].append({"op": "add", "structure": "liver", "voxels": 3}),
        "voxels",
    ),
    "no name": (lambda space: space.pop("name"), "name"),
    "no channels": (lambda space: space["tasks"][0].pop("channels"), "channels"),
    "color out of range": (lambda space: space["structures"][0].update(color=[0, 0, 256]), "256"),
    "color of two": (lambda space: space["structures"][0].update(color=[0, 0]), "'liver' is not described"),
    "code without meaning": (lambda space: space["structures"][0]["type"].pop("meaning"), "meaning"),
}


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_and_named(mots: LabelSpace, change: Change, message: str) -> None:
    document = copy.deepcopy(mots.to_json())
    assert LabelSpace.from_json(document) == mots
    change(document)
    with pytest.raises(LabelSpaceError, match=message):
        LabelSpace.from_json(document)


def test_an_unknown_label_space_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LabelSpaceError, match=r"no label space named 'amos'\. Known: btcv, kits21, mots"):
        LabelSpace.named("amos")


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text("tasks")
    with pytest.raises(LabelSpaceError, match=r"space\.json is not a readable label space"):
        LabelSpace.from_file(tmp_path / "space.json")


def test_a_structure_of_ones_own_needs_no_catalogue() -> None:
    spleen = catalogue()["spleen"].to_json() | {"key": "my_spleen", "name": "My spleen"}
    document = {
        "name": "mine",
        "tasks": [{"key": "spleen", "name": "Spleen", "channels": ["my_spleen", "liver"]}],
        "structures": [spleen],
    }
    space = LabelSpace.from_json(document)
    assert [item.name for item in space.structures] == ["My spleen", "Liver"]
    assert Structure.from_json(spleen) == space.structure("my_spleen")


def test_exact_names_choose_a_structure_that_shares_its_key_with_a_task_alone() -> None:
    space = LabelSpace.named("mots")
    assert space.select(["liver"]) == ("liver", "liver_tumor")
    assert space.exactly(["liver", "spleen"]) == ("liver/liver", "spleen/spleen")
    assert space.select(space.exactly(["liver", "spleen"])) == ("liver", "spleen")
