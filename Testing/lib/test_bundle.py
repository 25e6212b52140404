"""A model folder: complete or absent, verified on loading, and refused by name where it does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from safetensors.torch import load_file, save_file

from bundles import random_bundle, random_dodnet
from PartialSegLib.bundle import CARD, WEIGHTS, Card, ModelBundle, Preprocessing
from PartialSegLib.errors import BundleError
from PartialSegLib.preparation import DODNET, NNUNET_V1, NNUNET_V2, Resampling
from PartialSegLib.structures import LabelSpace

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    return random_bundle(tmp_path / "model", figures={"dice": {"liver": 0.95}}, provenance={"seed": 3})


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    folder = resources.files("PartialSegLib") / "data"
    documents = {
        name: json.loads((folder / name).read_text()) for name in ("card.schema.json", "label_space.schema.json")
    }
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(document)) for name, document in documents.items()
    )
    return Draft202012Validator(documents["card.schema.json"], registry=registry)


def read_card(bundle: ModelBundle) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((bundle.folder / CARD).read_text(encoding="utf-8"))
    return document


def write_card(bundle: ModelBundle, document: Any) -> None:
    (bundle.folder / CARD).write_text(json.dumps(document), encoding="utf-8")


def replace_weights(bundle: ModelBundle, change: Change) -> None:
    """Change the weights behind the card's back, and give the card their checksum."""
    import hashlib

    weights = load_file(bundle.folder / WEIGHTS)
    change(weights)
    save_file(weights, bundle.folder / WEIGHTS)
    data = (bundle.folder / WEIGHTS).read_bytes()
    document = read_card(bundle)
    document["weights"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_card(bundle, document)


def test_a_bundle_gives_back_its_card_and_the_same_network(bundle: ModelBundle) -> None:
    opened = ModelBundle.open(bundle.folder)
    assert opened.card == bundle.card
    network = opened.load_network()
    assert not network.training
    for name, weight in random_dodnet().state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=0, atol=0)


def test_a_card_keeps_text_of_every_language(tmp_path: Path) -> None:
    card = replace(random_bundle(tmp_path / "model").card, title="肝臓 é ñ")
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_half_precision_weights_come_back_as_float32(tmp_path: Path) -> None:
    full = random_bundle(tmp_path / "full")
    weights = {name: weight.half() for name, weight in full.load_network().state_dict().items()}
    half = ModelBundle.create(tmp_path / "half", replace(full.card, name="half"), weights)
    assert half.card.weights["bytes"] < 0.6 * full.card.weights["bytes"]
    for name, weight in half.load_network().state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, weights[name].float(), rtol=0, atol=0)


def test_weights_of_another_type_are_refused_by_name(bundle: ModelBundle) -> None:
    weights = dict(bundle.load_network().state_dict())
    weights["controller.bias"] = weights["controller.bias"].to(torch.int32)
    with pytest.raises(BundleError, match=r"'controller\.bias' is int32"):
        ModelBundle.create(bundle.folder.with_name("other"), bundle.card, weights)
    assert not bundle.folder.with_name("other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("controller.bias"), r"lacks weight 'controller\.bias'"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "has an unknown weight 'extra'"),
        (
            lambda weights: weights.update({"conv1.weight": torch.zeros(8, 1, 3, 3, 1)}),
            r"'conv1\.weight' is \(8, 1, 3, 3, 1\), but the network needs \(8, 1, 3, 3, 3\)",
        ),
    ],
    ids=["missing", "unknown", "wrong shape"],
)
def test_weights_that_do_not_fit_are_refused_by_name(bundle: ModelBundle, change: Change, message: str) -> None:
    replace_weights(bundle, change)
    with pytest.raises(BundleError, match=message):
        ModelBundle.open(bundle.folder).load_network()


def test_a_changed_byte_of_the_weights_is_noticed(bundle: ModelBundle) -> None:
    file = bundle.folder / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.safetensors is damaged: its checksum"):
        ModelBundle.open(bundle.folder).load_network()


def test_truncated_weights_are_noticed_without_reading_them(bundle: ModelBundle) -> None:
    file = bundle.folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BundleError, match="is damaged: it has"):
        ModelBundle.open(bundle.folder)


def test_a_file_that_is_no_safetensors_is_refused(bundle: ModelBundle) -> None:
    import hashlib

    (bundle.folder / WEIGHTS).write_bytes(b"no weights")
    document = read_card(bundle)
    document["weights"] = {"sha256": hashlib.sha256(b"no weights").hexdigest(), "bytes": 10}
    write_card(bundle, document)
    with pytest.raises(BundleError, match="is no weights file"):
        ModelBundle.open(bundle.folder).load_network()


@pytest.mark.parametrize("missing", [CARD, WEIGHTS])
def test_a_folder_without_one_of_its_files_is_refused(bundle: ModelBundle, missing: str) -> None:
    (bundle.folder / missing).unlink()
    with pytest.raises(BundleError, match=f"has no {missing}"):
        ModelBundle.open(bundle.folder)


def test_a_card_that_is_no_json_is_refused(bundle: ModelBundle) -> None:
    (bundle.folder / CARD).write_bytes(b'{"format": "partialseg-card", \xff')
    with pytest.raises(BundleError, match=r"card\.json cannot be read"):
        ModelBundle.open(bundle.folder)


def test_a_card_of_another_version_is_refused_with_both_versions(bundle: ModelBundle) -> None:
    write_card(bundle, read_card(bundle) | {"format_version": 2})
    with pytest.raises(BundleError, match="has format version 2, but 1 is known"):
        ModelBundle.open(bundle.folder)


def resampled(**fields: Any) -> Change:
    """Return the change of a card that resamples like this."""
    return lambda card: card["preprocessing"].update(resampling=fields)


#: What is wrong, the change of a good card, and what the message names.
WRONG: dict[str, tuple[Change, str]] = {
    "other format": (lambda card: card.update(format="other"), "format"),
    "unknown field": (lambda card: card.update(extra=1), "extra"),
    "missing field": (lambda card: card.pop("license"), "license"),
    "blank title": (lambda card: card.update(title=" "), "title"),
    "name of another folder": (lambda card: card.update(name="../escape"), "escape"),
    "number as text": (lambda card: card.update(version=1), "version"),
    "network without name": (lambda card: card["network"].pop("name"), "name"),
    "network parameters as list": (lambda card: card["network"].update(parameters=[]), r"network\.parameters"),
    "window of two": (lambda card: card["window"].pop(), "window"),
    "window of fractions": (lambda card: card.update(window=[1.5, 2.5, 3.5]), "window"),
    "mirror axes twice": (lambda card: card.update(mirror_axes=[1, 1]), "mirror_axes"),
    "mirror axis of time": (lambda card: card.update(mirror_axes=[3]), "mirror_axes"),
    "window of nothing": (lambda card: card.update(window=[0, 32, 32]), "window"),
    "flat spacing": (lambda card: card["preprocessing"].update(spacing=[1, 1, 0]), "spacing"),
    "spacing as text": (lambda card: card["preprocessing"].update(spacing="1"), "spacing"),
    "unknown preprocessing": (lambda card: card["preprocessing"].update(gamma=1.0), "gamma"),
    "no intensity range": (lambda card: card["preprocessing"].pop("intensity_range"), "intensity_range"),
    "zero scale": (lambda card: card["preprocessing"].update(intensity_scale=0), "empty"),
    "orientation of one axis": (lambda card: card["preprocessing"].update(orientation="LRS"), "LRS"),
    "some axes as stored": (lambda card: card["preprocessing"].update(orientation="xyS"), "xyS"),
    "two crops": (lambda card: card["preprocessing"].update(crop_to_nonzero=True), "crop_to_nonzero"),
    "crop as number": (lambda card: card["preprocessing"].update(crop_to_nonzero=0), "crop_to_nonzero"),
    "padding in front": (lambda card: card["preprocessing"].update(padding_place="front"), "padding_place"),
    "padding as text": (lambda card: card["preprocessing"].update(padding_value="air"), "padding_value"),
    "unknown normalization": (lambda card: card["preprocessing"].update(normalization="rank"), "normalization"),
    "scaled twice": (
        lambda card: card["preprocessing"].update(normalization="image", padding_value=0, intensity_scale=400),
        "shift and scale",
    ),
    "padding of unknown value": (
        lambda card: card["preprocessing"].update(normalization="image", intensity_scale=1),
        "padding_value",
    ),
    "resampling as text": (lambda card: card["preprocessing"].update(resampling="cubic"), "resampling"),
    "unknown interpolation": (resampled(interpolation="sinc"), "interpolation"),
    "unknown resampling": (resampled(interpolation="cubic", order=3), "order"),
    "border of linear interpolation": (resampled(border="zero"), "border"),
    "separate axis of all images": (resampled(interpolation="cubic", separate_axis_above=0), "separate_axis_above"),
    "integers as text": (resampled(integers="yes"), "integers"),
    "unknown rounding": (resampled(size="up"), "size"),
    "clipped twice": (resampled(clip="both"), "clip"),
    "unknown window steps": (lambda card: card.update(window_steps="random"), "window_steps"),
    "label space as text": (lambda card: card.update(label_space="mots"), "label_space"),
    "label space without tasks": (lambda card: card["label_space"].pop("tasks"), "tasks"),
    "task without key": (lambda card: card["label_space"]["tasks"][0].pop("key"), "key"),
    "structure without color": (lambda card: card["label_space"]["structures"][0].pop("color"), "liver"),
    "structure as text": (lambda card: card["label_space"]["structures"].append("liver"), "label_space"),
    "figures as text": (lambda card: card.update(figures="good"), "figures"),
    "no checksum": (lambda card: card["weights"].pop("sha256"), "sha256"),
    "short checksum": (lambda card: card["weights"].update(sha256="abc"), "sha256"),
    "no size": (lambda card: card["weights"].update(bytes=0), "bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_the_code_refuses_what_the_schema_refuses_and_says_where(
    bundle: ModelBundle, schema: Draft202012Validator, change: Change, message: str
) -> None:
    document = read_card(bundle)
    assert schema.is_valid(document)
    assert Card.from_json(document) == bundle.card
    change(document)
    assert not schema.is_valid(document)
    with pytest.raises(BundleError, match=message):
        Card.from_json(document, "the file")


def test_an_intensity_range_that_runs_backwards_is_refused(bundle: ModelBundle) -> None:
    document = read_card(bundle)
    document["preprocessing"]["intensity_range"] = [400, -400]
    with pytest.raises(BundleError, match="the intensity range"):
        Card.from_json(document)


@pytest.mark.parametrize("document", [None, [], "card", 1])
def test_what_is_no_object_is_no_card(document: Any) -> None:
    with pytest.raises(BundleError, match="is no model card"):
        Card.from_json(document)


def test_optional_preprocessing_may_be_left_out_or_null(bundle: ModelBundle, schema: Draft202012Validator) -> None:
    document = read_card(bundle)
    document["preprocessing"] = {
        "spacing": [1, 1, 2],
        "intensity_range": [-325, 325],
        "body_threshold": None,
        "coarse_spacing": None,
    }
    assert schema.is_valid(document)
    expected = Preprocessing((1.0, 1.0, 2.0), (-325.0, 325.0), body_threshold=None)
    assert Card.from_json(document).preprocessing == expected


@pytest.mark.parametrize("resampling", [NNUNET_V1, NNUNET_V2, DODNET])
def test_the_preprocessing_of_published_systems_is_kept_on_the_card(
    bundle: ModelBundle, schema: Draft202012Validator, resampling: Resampling
) -> None:
    rules = Preprocessing(
        (1.0, 1.0, 1.5),
        (-1024.0, 3000.0),
        orientation="yxz",
        body_threshold=None,
        crop_to_nonzero=True,
        padding_value=0.0,
        padding_place="both",
        normalization="image",
        resampling=resampling,
    )
    card = replace(bundle.card, preprocessing=rules, window_steps="even")
    document = json.loads(json.dumps(card.to_json()))
    assert schema.is_valid(document)
    assert Card.from_json(document) == card


def test_a_card_from_before_a_field_was_known_is_read_and_written_alike(bundle: ModelBundle) -> None:
    document = read_card(bundle)
    assert set(document["preprocessing"]) == {
        "spacing", "intensity_range", "intensity_shift", "intensity_scale", "orientation", "body_threshold",
        "coarse_spacing",
    }  # fmt: skip
    del document["window_steps"]
    assert Card.from_json(document) == bundle.card


def test_wrong_network_parameters_are_refused_with_the_file(bundle: ModelBundle) -> None:
    document = read_card(bundle)
    document["network"]["parameters"]["groups"] = 5
    write_card(bundle, document)
    with pytest.raises(BundleError, match=r"card\.json: .*5 groups do not divide"):
        ModelBundle.open(bundle.folder).load_network()


def test_weights_of_another_network_are_not_written(bundle: ModelBundle) -> None:
    other = random_dodnet(label_space=LabelSpace.named("btcv"))
    with pytest.raises(BundleError, match="weight 'controller"):
        ModelBundle.create(bundle.folder, bundle.card, other.state_dict())
    assert ModelBundle.open(bundle.folder).card == bundle.card


@pytest.mark.parametrize("step", ["write", "aside", "place"])
def test_an_interrupted_write_leaves_the_older_model(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    weights, renames = bundle.load_network().state_dict(), []
    rename = os.replace

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def stop_at(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == ("aside", "place").index(step) + 1:
            raise KeyboardInterrupt
        rename(source, target)

    if step == "write":
        monkeypatch.setattr(os, "fsync", stop)
    else:
        monkeypatch.setattr(os, "replace", stop_at)
    with pytest.raises(KeyboardInterrupt):
        ModelBundle.create(bundle.folder, replace(bundle.card, version="2"), weights)
    monkeypatch.undo()
    assert ModelBundle.open(bundle.folder).card == bundle.card
    assert os.listdir(bundle.folder.parent) == [bundle.folder.name]


def test_a_newer_model_takes_the_place_of_an_older_one(bundle: ModelBundle) -> None:
    weights = bundle.load_network().state_dict()
    (bundle.folder / "notes.txt").write_text("of the older model")
    ModelBundle.create(bundle.folder, replace(bundle.card, version="2"), weights)
    assert ModelBundle.open(bundle.folder).card.version == "2"
    assert sorted(os.listdir(bundle.folder)) == [CARD, WEIGHTS]
    assert os.listdir(bundle.folder.parent) == [bundle.folder.name]


def test_a_folder_with_other_files_is_never_replaced(bundle: ModelBundle) -> None:
    folder = bundle.folder.with_name("thesis")
    folder.mkdir()
    (folder / "chapter1.txt").write_text("precious")
    with pytest.raises(BundleError, match="is no model that could be replaced"):
        ModelBundle.create(folder, bundle.card, bundle.load_network().state_dict())
    assert (folder / "chapter1.txt").read_text() == "precious"


def test_a_missing_parent_folder_is_named(bundle: ModelBundle) -> None:
    weights = bundle.load_network().state_dict()
    with pytest.raises(BundleError, match="nowhere/model could not be written: No such file"):
        ModelBundle.create(bundle.folder.parent / "nowhere" / "model", bundle.card, weights)


def test_figures_are_written_on_the_card_alone(bundle: ModelBundle) -> None:
    before = (bundle.folder / WEIGHTS).stat()
    bundle.with_figures({"dice": 0.9})
    opened = ModelBundle.open(bundle.folder)
    assert opened.card == replace(bundle.card, figures={"dice": 0.9})
    assert (bundle.folder / WEIGHTS).stat().st_mtime_ns == before.st_mtime_ns
    opened.load_network()


def test_figures_that_are_no_numbers_are_refused_before_the_card_is_touched(bundle: ModelBundle) -> None:
    with pytest.raises(BundleError, match="cannot be kept as JSON"):
        bundle.with_figures({"dice": float("nan")})
    assert ModelBundle.open(bundle.folder).card == bundle.card
