"""Manifests: what they say, how they split cases, and the presets that come with the library."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dataset_layouts import (
    KEYS,
    call,
    one_dataset,
    write_decathlon,
    write_manifest,
    write_mask_files,
    write_nnunet,
)
from partial_cases import SPACE

from PartialSegLib.errors import CollectionError
from PartialSegTraining.datasets.collection import open_collection, training_cases
from PartialSegTraining.datasets.manifest import preset_names, read_manifest
from PartialSegTraining.datasets.splits import assign

SCHEMA = json.loads((resources.files("PartialSegTraining") / "datasets" / "collection.schema.json").read_text())
#: A dataset that need not be there.
OPTIONS: dict[str, Any] = {"layout": "decathlon", "structures": {"liver": 1}}


def test_cases_of_several_datasets_are_told_apart_by_the_name_of_theirs(tmp_path: Path) -> None:
    first, second = write_decathlon(tmp_path / "a"), write_nnunet(tmp_path / "b")
    path = write_manifest(
        tmp_path / "m.toml", {"name": "x", "folder": "a", **first}, {"name": "y", "folder": "b", **second}
    )
    assert [case.name for case in training_cases(path, SPACE)[0]] == ["x-one", "x-two", "y-one", "y-two"]


def test_two_protocols_stay_two_structures_or_become_one_as_the_manifest_says(tmp_path: Path) -> None:
    options = write_decathlon(tmp_path / "set")
    unused = [2, 3]
    apart = write_manifest(
        tmp_path / "apart.toml",
        {**options, "name": "a", "folder": "set", "structures": {"liver_msd03": [1, 2]}, "unused": [3]},
        {**options, "name": "b", "folder": "set", "structures": {"liver_btcv": 1}, "unused": unused},
        label_space="multitalent",
    )
    same = write_manifest(
        tmp_path / "same.toml",
        {**options, "name": "a", "folder": "set", "structures": {"liver": [1, 2]}, "unused": [3]},
        {**options, "name": "b", "folder": "set", "structures": {"liver": 1}, "unused": unused},
    )
    assert [set(member.case.annotated) for member in open_collection(apart).members] == [
        *[{"liver_msd03"}] * 2,
        *[{"liver_btcv"}] * 2,
    ]
    assert all(member.case.annotated == {"liver"} for member in open_collection(same).members)


def test_a_manifest_may_bring_its_own_structures(tmp_path: Path) -> None:
    space = {"name": "Mine", "tasks": [{"key": "t", "name": "T", "channels": list(KEYS)}]}
    (tmp_path / "mine.json").write_text(json.dumps(space))
    manifest = read_manifest(write_manifest(tmp_path / "m.toml", {"name": "a", **OPTIONS}, label_space="mine.json"))
    assert manifest.space.name == "Mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "bids"}, "'layout' is 'bids'"),
        ({"structure": {}}, "unknown option 'structure'.*did you mean 'structures'"),
        ({"missing": "absent"}, "means nothing in layout 'decathlon'"),
        ({"image": "{case}.nii"}, "not asked for in layout 'decathlon'"),
        ({"splits": {"tests": []}}, "'splits' is 'tests'"),
        ({"name": "a/b"}, "'name' is 'a/b'"),
        ({"folder": 3}, "folder is 3"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write_manifest(tmp_path / "m.toml", {"name": "a", **OPTIONS, **options})
    with pytest.raises(CollectionError, match=rf"m\.toml.*{words}"):
        read_manifest(path)


@pytest.mark.parametrize("head", [{"version": 2}, {"label_space": "nowhere"}, {"label_space": "nowhere.json"}])
def test_a_manifest_of_another_version_or_an_unknown_label_space_is_refused(
    tmp_path: Path, head: dict[str, Any]
) -> None:
    with pytest.raises(CollectionError, match=r"m\.toml"):
        read_manifest(write_manifest(tmp_path / "m.toml", {"name": "a", **OPTIONS}, **head))


@pytest.mark.parametrize("text", ["[", "", "version = 1", "\udcff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CollectionError, match=r"m\.toml"):
        read_manifest(path)


def test_a_manifest_may_be_json(tmp_path: Path) -> None:
    path = one_dataset(tmp_path)
    (tmp_path / "m.json").write_text(json.dumps(tomllib.loads(path.read_text())))
    assert read_manifest(tmp_path / "m.json").datasets == read_manifest(path).datasets


def test_a_preset_looks_for_its_datasets_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_manifest("mots").root.resolve() == tmp_path.resolve()


def test_a_case_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    options = write_decathlon(tmp_path / "set", names=("one", "one"))
    collection = open_collection(write_manifest(tmp_path / "m.toml", {"name": "a", "folder": "set", **options}))
    assert [str(error) for _, error in collection.problems] == [
        f"{tmp_path / 'set'} names the case 'one' 2 times. List every case once."
    ]


def test_a_case_of_which_nothing_is_known_is_left_out(tmp_path: Path) -> None:
    options = {**write_mask_files(tmp_path / "set"), "missing": "unknown"}
    for file in (tmp_path / "set" / "two" / "segmentations").iterdir():
        file.unlink()
    collection = open_collection(write_manifest(tmp_path / "m.toml", {"name": "a", "folder": "set", **options}))
    assert [member.case.name for member in collection.members] == ["a-one"]
    assert not collection.problems


def test_two_datasets_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.toml", *[{"name": "a", **OPTIONS}] * 2)
    with pytest.raises(CollectionError, match="unique among the datasets"):
        read_manifest(path)


def test_a_manifest_that_is_not_there_names_the_presets(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="Did you mean the preset 'mots'"):
        read_manifest("mot")


# Splits


def test_cases_that_no_split_names_are_for_training(tmp_path: Path) -> None:
    collection = open_collection(one_dataset(tmp_path, splits={"test": ["two"]}, sizes={"train": 1, "test": 1}))
    assert not collection.problems
    assert [case.name for case in collection.cases("train")] == ["liver-one"]
    assert [case.name for case in collection.cases("test")] == ["liver-two"]


def test_cases_that_a_named_training_split_leaves_out_are_left_out(tmp_path: Path) -> None:
    collection = open_collection(one_dataset(tmp_path, splits={"train": ["two"]}))
    assert [member.case.name for member in collection.members] == ["liver-two"]


def test_a_split_may_lie_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("two\n\n")
    collection = open_collection(one_dataset(tmp_path, splits={"test": "test.txt"}))
    assert [case.name for case in collection.cases("test")] == ["liver-two"]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": ["one"], "test": ["one", "two"]}, "'one' of dataset 'liver' is in two splits: 'train' and 'test'"),
        ({"test": ["three"]}, "'test' of dataset 'liver' names 'three'"),
        ({"test": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"test": {"each": 5}}, "no rule such as"),
        ({"test": {"every": 0}}, "no rule such as"),
    ],
)
def test_a_wrong_split_is_named_before_any_training(tmp_path: Path, splits: dict[str, Any], words: str) -> None:
    path = one_dataset(tmp_path, splits=splits)
    with pytest.raises(CollectionError, match=words):
        training_cases(path, SPACE)
    assert any(re.search(words, str(error)) and error.code == "split" for _, error in open_collection(path).problems)


def test_a_collection_of_another_size_than_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="has 2 cases, but 131 were published"):
        training_cases(one_dataset(tmp_path, sizes={"train": 131}), SPACE)


# Presets


@pytest.mark.parametrize("name", preset_names())
def test_presets_keep_to_the_schema_and_to_their_label_space(name: str) -> None:
    manifest = read_manifest(name)
    jsonschema.validate(tomllib.loads(manifest.path.read_text()), SCHEMA)
    annotated = [key for dataset in manifest.datasets for key in manifest.files(dataset).labels.annotated]
    assert sorted(annotated) == sorted(structure.key for structure in manifest.space.structures)


def test_manifests_of_the_tests_keep_to_the_schema_too(tmp_path: Path) -> None:
    path = one_dataset(tmp_path, splits={"test": {"every": 2, "first": 1}}, unused=["x"], annotated=list(KEYS))
    jsonschema.validate(tomllib.loads(path.read_text()), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**tomllib.loads(path.read_text()), "extra": 1}, SCHEMA)


def test_the_manifest_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "collections.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "m.toml").write_text(example)
    jsonschema.validate(tomllib.loads(example), SCHEMA)
    manifest = read_manifest(tmp_path / "m.toml")
    assert [manifest.files(dataset).labels.annotated for dataset in manifest.datasets] == [
        {"liver", "liver_tumor"},
        {"spleen", "liver_tumor"},
    ]


#: Training cases of each dataset as distributed: Medical Segmentation Decathlon, and KiTS19's 210.
COUNTS = {"liver": 131, "kidney": 210, "hepatic-vessel": 303, "pancreas": 281, "colon": 126, "lung": 63, "spleen": 41}
#: Published sizes of MOTS, (train, test): DoDNet, Table 2.
MOTS = [(104, 27), (168, 42), (242, 61), (224, 57), (100, 26), (50, 13), (32, 9)]


def test_mots_has_the_published_sizes_on_the_datasets_as_distributed(tmp_path: Path) -> None:
    sizes = []
    for dataset in read_manifest("mots").datasets:
        names = sorted(f"case_{number}" for number in range(COUNTS[dataset.name]))
        splits, problems = assign(dataset, names, tmp_path)
        assert not problems
        sizes.append((len(splits["train"]), len(splits["test"])))
    assert sizes == MOTS
    assert [sum(column) for column in zip(*sizes, strict=True)] == [920, 235]


def test_mots_tests_on_the_published_livers(tmp_path: Path) -> None:
    liver = read_manifest("mots").datasets[0]
    splits, _ = assign(liver, sorted(f"liver_{number}" for number in range(131)), tmp_path)
    assert splits["test"][:8] == [f"liver_{number}" for number in (0, 102, 107, 111, 116, 120, 125, 13)]


def test_multitalent_has_its_published_size() -> None:
    datasets = read_manifest("multitalent").datasets
    assert (len(datasets), sum(dataset.sizes["train"] for dataset in datasets)) == (13, 1460)


def test_an_incomplete_dataset_of_a_preset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Task09_Spleen").mkdir()
    write_decathlon(tmp_path / "Task09_Spleen")
    collection = open_collection("mots", root=tmp_path)
    assert any("'spleen' has 1 cases, but 32 were published" in str(error) for _, error in collection.problems)
    assert any("Task10_Colon" in str(error) for _, error in collection.problems)


def test_a_preset_is_copied_with_the_folder_of_the_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.toml"
    words = ("collection", "copy", "kits21", "--root", str(tmp_path / 'a "folder"'), "--output", str(target))
    assert call(*words) == 0
    assert read_manifest(target).root == tmp_path / 'a "folder"'
    with pytest.raises(CollectionError, match="exists already"):
        call(*words)
    with pytest.raises(CollectionError, match="Presets: kits21, mots"):
        call("collection", "copy", "kits", "--root", ".", "--output", str(tmp_path / "other.toml"))


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("collection", "presets", "--json") == 0
    listed = {entry["name"]: entry["datasets"] for entry in json.loads(capsys.readouterr().out)["presets"]}
    assert {name: len(datasets) for name, datasets in listed.items()} == {
        "kits21": 1,
        "mots": 7,
        "multitalent": 13,
        "u2net": 6,
    }
    assert call("collection", "presets") == 0
    assert "MultiTalent's 13 CT datasets" in capsys.readouterr().out
