"""Training checkpoints of 3D U2-Net: a model of each domain, exact to the last bit."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import u2net_files as files
from torch import Tensor
from u2net_files import FIVE, HEART_NAME, NAME, SIX, small, write_checkpoint, write_heart

import vectors
from PartialSegLib import catalog, cli
from PartialSegLib.bundle import CARD, ModelBundle
from PartialSegLib.errors import BundleError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.networks import U2Net, U2NetParameters
from PartialSegLib.published import ImportOptions
from PartialSegLib.published.importing import import_models
from PartialSegLib.published.u2net import DOMAINS, U2NetFormat, domain_state, parameters
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegLib.structures import LabelSpace

NONE = ImportOptions()
TWO_NAME = "shared_Task02_Heart_Task03_Liver_epoch300_190701.pth.tar"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, which is not there yet."""
    folder = tmp_path / "user" / "models"
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    return folder


def noise(channels: int) -> Tensor:
    return torch.randn(1, channels, 16, 16, 8, generator=torch.Generator().manual_seed(1))


# ---- weights


@pytest.mark.parametrize(
    ("variant", "new", "kernel"),
    [
        ("universal", True, 1),
        ("universal", False, 1),
        ("shared", True, 3),
        ("parallel", False, 1),
        ("series", True, 1),
    ],
)
def test_every_domain_becomes_a_model_that_answers_as_the_network_of_all(
    variant: str, new: bool, kernel: int, tmp_path: Path
) -> None:
    # All five domains once, prostate with its two modalities included; two of them for the other variants.
    name, tasks = (NAME, FIVE.tasks) if variant == "universal" and new else (TWO_NAME, FIVE.tasks[:2])
    network = small(variant, replace(FIVE, tasks=tasks), kernel)
    bundles = import_models(write_checkpoint(tmp_path / name, network, new=new), NONE)
    assert [bundle.card.name for bundle in bundles] == [f"u2net-{variant}-{task.key}" for task in tasks]
    for index, bundle in enumerate(bundles):
        assert bundle.card.label_space.tasks == tasks[index : index + 1]
        image = noise(files.MODALITIES[index])
        own = ModelBundle.open(bundle.folder).load_network()
        with torch.inference_mode():
            answer, expected = own(image, torch.tensor([0])), network(image, torch.tensor([index]))
        assert torch.equal(answer, expected)


def test_the_file_cannot_be_read_in_the_usual_way(tmp_path: Path) -> None:
    """Otherwise the other tests would not show that the authors' code is not needed."""
    for new in (True, False):
        path = write_heart(tmp_path, new=new)
        with pytest.raises(ModuleNotFoundError, match=files.MODULE):
            torch.load(path, weights_only=False)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)


@pytest.mark.parametrize("variant", ["universal", "shared", "parallel", "series"])
def test_the_published_sizes_are_read_from_the_published_shapes(variant: str, tmp_path: Path) -> None:
    shapes = vectors.facts(f"u2net_{variant}_state")
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    some, _ = U2NetFormat().read(write_heart(tmp_path), NONE)
    for domain in (0, 3):
        size = parameters(state, domain, "a")
        assert size == U2NetParameters(variant, (files.MODALITIES[domain],))
        space = replace(FIVE, tasks=(FIVE.tasks[domain],))
        with torch.device("meta"):
            expected = U2Net(size, space).state_dict()
        card = replace(some, network_parameters=vars(size), label_space=space)
        own = domain_state(state, card, domain, 5)
        assert {name: weight.shape for name, weight in own.items()} == {
            name: weight.shape for name, weight in expected.items()
        }


# ---- what the cards say


def test_a_model_is_prepared_as_its_domain_was(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / NAME, small())
    card, _ = U2NetFormat().read(path, ImportOptions(task="prostate"))
    # 20 x 192 x 192 voxels of 3.6 x 0.625 x 0.625 mm are stretched to 128 x 128 x 128.
    assert card.preprocessing.spacing == (0.9375, 0.9375, 0.5625)
    assert (card.modality, card.window, card.mirror_axes) == ("MR", (128, 128, 128), ())
    recipe = card.preprocessing
    assert (recipe.normalization, recipe.padding_value, recipe.crop_to_nonzero) == ("foreground", 0.0, True)
    assert recipe.orientation == "RAS"
    assert card.label_space.tasks[0].rules == SIX.task("prostate").rules
    choices = card.provenance["choices"]
    assert choices["task"] == "prostate, 4 of 5 in the checkpoint"
    assert choices["spacing"].startswith("3.6 x 0.625 x 0.625 mm, 20 x 192 x 192 voxels")
    assert choices["halvings"].startswith("3 of every axis")


def test_the_liver_is_not_stretched_and_is_ct() -> None:
    assert DOMAINS["liver"].stretched == (0.77, 0.77, 1.0)
    assert {key for key, domain in DOMAINS.items() if domain.modality == "CT"} == {"liver", "pancreas", "spleen"}
    assert DOMAINS.keys() == {task.key for task in SIX.tasks}


def test_the_name_of_the_file_gives_the_tasks_in_their_order(tmp_path: Path) -> None:
    spaces = {"shared_Task09_Spleen_Task02_Heart_epoch7_x.pth.tar": ["spleen", "heart"]}
    for name, keys in spaces.items():
        network = small("shared", replace(SIX, tasks=SIX.tasks[1:3]))
        state = {key: weight for key, weight in network.state_dict().items() if "out_tr_list.1" not in key}
        output = {
            f"out_tr_list.1.conv1.{part}": network.state_dict()[f"out_tr_list.0.conv1.{part}"]
            for part in ("weight", "bias")
        }
        path = write_checkpoint(tmp_path / name, network, model_state_dict=state | output)
        assert [choice.task for choice in U2NetFormat().choices(path, NONE)] == keys


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pth.tar", NONE, "has weights of 1 tasks, but the name of the file has 0: none"),
        (HEART_NAME, ImportOptions(label_space="u2net"), "but label space 'U2Net' has 6: heart, liver"),
        (HEART_NAME, ImportOptions(task="liver"), "has no task 'liver'. Choose from: heart"),
        (HEART_NAME, ImportOptions(spacing="paper"), "--spacing means nothing for a 3D U2-Net training checkpoint"),
        ("shared_Task03_Liver_Task02_Heart_epoch1.pth", NONE, "the name of the file has 2: liver, heart"),
        ("shared_Task04_Hippocampus_epoch1.pth", NONE, "'dSupers.0.0.op1.0.weight' is (2,"),
    ],
)
def test_choices_that_do_not_fit_are_refused(name: str, options: ImportOptions, message: str, tmp_path: Path) -> None:
    path = write_heart(tmp_path).rename(tmp_path / name)
    with pytest.raises(BundleError) as caught:
        import_models(path, options)
    assert message in str(caught.value)


def test_a_label_space_names_the_tasks_of_a_renamed_file(tmp_path: Path) -> None:
    path = write_heart(tmp_path).rename(tmp_path / "model.pth.tar")
    (tmp_path / "heart.json").write_text(json.dumps(files.HEART.to_json()))
    (bundle,) = import_models(path, ImportOptions(label_space=str(tmp_path / "heart.json")))
    assert bundle.card.name == "u2net-independent-heart"
    kidney = LabelSpace.named("mots").tasks[0]
    unknown = replace(LabelSpace.named("mots"), tasks=(replace(kidney, channels=kidney.channels[:1], rules=()),))
    (tmp_path / "liver_of_mots.json").write_text(
        json.dumps(unknown.to_json()).replace(f'"key": "{kidney.key}"', '"key": "other"', 1)
    )
    with pytest.raises(BundleError, match="how images of the task 'other' were prepared is not known"):
        import_models(path, ImportOptions(name="b", label_space=str(tmp_path / "liver_of_mots.json")))


def test_weights_of_no_domain_are_refused(tmp_path: Path) -> None:
    state = files.heart().state_dict() | {"in_tr_list.7.op1.0.weight": torch.zeros(1)}
    with pytest.raises(BundleError, match=r"unknown weight 'in_tr_list\.7\.op1\.0\.weight'"):
        import_models(write_checkpoint(tmp_path / HEART_NAME, files.heart(), model_state_dict=state), NONE)


# ---- the command line


def test_a_checkpoint_goes_from_its_file_to_masks_on_the_command_line(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / NAME, small(), new=False)
    assert cli.main(["import", str(path), "--task", "liver", "--as", "u2-liver"]) == 0
    assert "liver, 2 of 5 in the checkpoint" in capsys.readouterr().out
    assert cli.main(["import", str(path), "--task", "prostate"]) == 0
    capsys.readouterr()
    assert cli.main(["models", "--json"]) == 0
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert listed["u2-liver"]["problem"] == listed["u2net-universal-prostate"]["problem"] == ""
    card = models / "u2-liver" / CARD
    # The published window costs a minute on a CPU; the card is a text that anyone may edit.
    card.write_text(json.dumps(json.loads(card.read_text()) | {"window": [16, 32, 32]}))
    voxels = np.random.default_rng(0).normal(50, 100, (14, 24, 26)).astype(np.int16)
    scan, output = tmp_path / "scan.nii.gz", tmp_path / "result.seg.nrrd"
    write_image(Image(voxels, Geometry(voxels.shape, (1.5, 1.5, 2.0), (-20.0, -20.0, 0.0))), scan)
    assert cli.main(["segment", str(scan), "--model", "u2-liver", "-o", str(output), "--quiet"]) == 0
    segmentation = read_segmentation(output)
    assert segmentation.keys == ("liver",)
    assert 0 < segmentation.masks["liver"].count < voxels.size
    wrong = ["segment", str(scan), "--model", "u2net-universal-prostate", "-o", str(output), "--quiet"]
    assert cli.main(wrong) != 0
    assert "needs an image of 2 channels" in capsys.readouterr().err


def test_all_domains_cannot_have_one_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds 5 models, which cannot all be named 'one'"):
        import_models(write_checkpoint(tmp_path / NAME, small()), ImportOptions(name="one"))
