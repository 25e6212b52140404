"""Trained folders of nnU-Net v2: the numbers of nnU-Net, its preparation on the card, its labels as structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nnunet_v2_files as files
import numpy as np
import pytest
import torch
from nnunet_v2_files import architecture, full_resolution, plans
from published_files import packed
from torch import nn

from PartialSegLib import catalog, cli
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import BundleError
from PartialSegLib.images import Geometry, Image, read_image, write_image
from PartialSegLib.networks import NnUNetLabels, NnUNetRegions, PartialLabelNetwork
from PartialSegLib.preparation import NNUNET_V2
from PartialSegLib.preprocessing import prepare
from PartialSegLib.published import ImportOptions, NnUNetV2Format
from PartialSegLib.published.importing import find_format, import_models
from PartialSegLib.published.nnunet_v2_labels import recognized
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegLib.structures import LabelSpace, catalogue

NONE = ImportOptions()
CASES = [(kind, labels) for kind in files.KINDS for labels in (files.LABELS, files.REGIONS)]
CASE_NAMES = [f"{kind}, {'regions' if labels is files.REGIONS else 'labels'}" for kind, labels in CASES]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, which is not there yet."""
    folder = tmp_path / "user" / "models"
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    return folder


def call(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def card_of(path: Path) -> Any:
    return NnUNetV2Format().read(path, NONE)[0]


def theirs(folder: Path, fold: str = "0") -> nn.Module:
    """Return the network of a trained folder as nnU-Net itself builds and loads it."""
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed")
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(folder / "plans.json"))
    configuration = manager.get_configuration("3d_fullres")
    description = json.loads((folder / "dataset.json").read_text())
    network: nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, configuration, description),
        manager.get_label_manager(description).num_segmentation_heads,
        deep_supervision=True,
    )
    document = torch.load(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)
    network.load_state_dict(document["network_weights"])
    return network.eval()


def own_logits(network: PartialLabelNetwork, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of every resolution, as nnU-Net gives them."""
    with torch.inference_mode():
        return network.training_outputs(image, torch.tensor([0]))


# ---- the numbers


@pytest.mark.parametrize(("kind", "labels"), CASES, ids=CASE_NAMES)
def test_an_imported_network_gives_the_logits_of_nnunet(kind: str, labels: dict[str, Any], tmp_path: Path) -> None:
    folder = files.write(tmp_path, kind, labels)
    assert call("import", folder, "--as", "own") == 0
    network = catalog.find("own").load_network()
    assert isinstance(network, NnUNetRegions if labels is files.REGIONS else NnUNetLabels)
    image = torch.randn(1, 1, 8, 32, 16, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted = theirs(folder)(image)
    found = own_logits(network, image)
    assert [output.shape for output in found] == [output.shape for output in wanted]
    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        logits = network(image, torch.tensor([0]))
    finest = wanted[0]
    if labels is files.REGIONS:
        expected = finest
    else:
        probabilities = finest.softmax(1)[:, 1:]
        expected = torch.logit(probabilities.double()).float()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_plans_of_the_older_layout_give_the_same_network(tmp_path: Path) -> None:
    document = plans(full_resolution(files.older_architecture("plain")))
    folder = files.write(tmp_path, document=document, features=(4, 6, 6))
    (bundle,) = import_models(folder, NONE)
    image = torch.randn(1, 1, 8, 32, 16, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted = theirs(folder)(image)
    for ours, expected in zip(own_logits(bundle.load_network(), image), wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_holds_every_weight_once(tmp_path: Path) -> None:
    _, weights = NnUNetV2Format().read(files.write(tmp_path, "resenc"), NONE)
    released = files.released("resenc", len(files.LABELS))
    assert sum(weight.numel() for weight in weights.values()) == sum(w.numel() for w in released.parameters())
    assert len(weights) == len(list(released.parameters())) < len(released.state_dict())


def test_aliases_that_differ_are_refused(tmp_path: Path) -> None:
    state = files.released("plain", 4).state_dict()
    name = "decoder.encoder.stages.0.0.convs.0.conv.weight"
    state[name] = state[name] + 1
    folder = files.write(tmp_path, network_weights=state)
    with pytest.raises(BundleError, match=r"are the same one, but differ"):
        import_models(folder, NONE)


# ---- the command line


@pytest.mark.parametrize(("kind", "labels"), [CASES[0], CASES[3]], ids=[CASE_NAMES[0], CASE_NAMES[3]])
def test_a_trained_folder_goes_from_its_files_to_masks(
    kind: str, labels: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voxels = np.random.default_rng(0).normal(50, 100, (12, 40, 26)).astype(np.int16)
    write_image(Image(voxels, Geometry(voxels.shape, (1.0, 1.5, 3.0), (0.0, 0.0, 0.0))), tmp_path / "scan.nii.gz")
    assert call("import", files.write(tmp_path, kind, labels)) == 0
    assert "checkpoint: checkpoint_final.pth" in capsys.readouterr().out
    assert call("models", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["models"]
    assert "nnunet-upper_abdomen" in [entry["name"] for entry in entries]
    result = tmp_path / "result.seg.nrrd"
    assert call("segment", tmp_path / "scan.nii.gz", "--model", "nnunet-upper_abdomen", "-o", result) == 0
    segmentation = read_segmentation(result)
    assert segmentation.keys == catalog.find("nnunet-upper_abdomen").card.label_space.select()
    assert segmentation.geometry.shape == voxels.shape
    overlap = np.sum([segmentation.array(key) for key in segmentation.keys], axis=0).max()
    assert overlap == (3 if labels is files.REGIONS else 1)


# ---- what the card says


def test_images_are_prepared_by_the_plans(tmp_path: Path) -> None:
    card = card_of(files.write(tmp_path))
    recipe = card.preprocessing
    assert recipe.spacing == (1.0, 1.5, 3.0)
    assert recipe.intensity_range == (-100.0, 240.0)
    assert (recipe.intensity_shift, recipe.intensity_scale) == (80.0, 40.0)
    assert (recipe.padding_value, recipe.padding_place, recipe.crop_to_nonzero) == (0.0, "both", True)
    assert recipe.resampling == NNUNET_V2
    assert recipe.orientation == "xyz"
    assert (card.window, card.window_steps, card.mirror_axes) == ((8, 32, 16), "even", (0, 1, 2))
    assert card.modality == "CT"
    assert card.provenance["trainer"] == "nnUNetTrainer"
    assert card.provenance["epoch"] == 1000
    assert card.provenance["configuration"] == "3d_fullres"


@pytest.mark.parametrize(
    ("order", "reader", "letters"),
    [
        ([1, 0, 2], "SimpleITKIO", "xzy"),  # the network's z is the array's y
        ([2, 0, 1], "NibabelIO", "yzx"),
        ([0, 1, 2], "NibabelIOWithReorient", "RAS"),
        ([1, 0, 2], "SimpleITKIOWithReorient", "RSA"),
    ],
)
def test_transposed_axes_and_readers_are_an_orientation(
    order: list[int], reader: str, letters: str, tmp_path: Path
) -> None:
    document = plans(
        full_resolution({"architecture": architecture("plain")}), transpose_forward=order, image_reader_writer=reader
    )
    card = card_of(files.write(tmp_path, document=document))
    assert card.preprocessing.orientation == letters
    # Spacings of plans are those of the transposed axes.
    assert card.preprocessing.spacing == (1.0, 1.5, 3.0)


@pytest.mark.parametrize("scheme", ["CTNormalization", "ZScoreNormalization"])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 0, 1]], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_images_are_prepared_as_nnunet_prepares_them(order: list[int], scheme: str, tmp_path: Path) -> None:
    preprocessors = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    entry = full_resolution({"architecture": architecture("plain")}, normalization_schemes=[scheme])
    document = plans(entry, transpose_forward=order, transpose_backward=np.argsort(order).tolist())
    recipe = card_of(files.write(tmp_path, document=document)).preprocessing
    voxels = np.random.default_rng(3).normal(50, 120, (9, 24, 20)).astype(np.int16)
    voxels[:, :4], voxels[-1] = 0, 0
    write_image(Image(voxels, Geometry(voxels.shape, (0.9, 1.1, 2.5))), tmp_path / "scan.nii.gz")
    manager = PlansManager(document)
    wanted, *_ = preprocessors.DefaultPreprocessor(verbose=False).run_case(
        [str(tmp_path / "scan.nii.gz")],
        None,
        manager,
        manager.get_configuration("3d_fullres"),
        files.dataset(files.LABELS),
    )
    found = prepare(read_image(tmp_path / "scan.nii.gz"), recipe).volume.numpy()
    assert found.shape == wanted.shape[1:]
    np.testing.assert_allclose(found, wanted[0], rtol=1e-3, atol=1e-3)


def test_z_scores_are_taken_from_the_image(tmp_path: Path) -> None:
    entry = full_resolution({"architecture": architecture("plain")}, normalization_schemes=["ZScoreNormalization"])
    description = files.dataset(files.LABELS, channel_names={"0": "T2"})
    card = card_of(files.write(tmp_path, document=plans(entry), description=description))
    assert card.preprocessing.normalization == "image"
    assert card.modality == "MR"


@pytest.mark.parametrize(("allowed", "axes"), [(None, ()), ((1, 2), (1, 2))])
def test_windows_are_mirrored_where_nnunet_mirrors_them(allowed: Any, axes: tuple[int, ...], tmp_path: Path) -> None:
    assert card_of(files.write(tmp_path, inference_allowed_mirroring_axes=allowed)).mirror_axes == axes


def test_configurations_inherit(tmp_path: Path) -> None:
    entry = full_resolution({"architecture": architecture("plain")})
    configurations = {"3d_fullres": entry, "3d_small": {"inherits_from": "3d_fullres", "patch_size": [4, 16, 16]}}
    arguments = {"configuration": "3d_small"}
    folder = files.write(tmp_path, document=plans(entry, configurations=configurations), init_args=arguments)
    card = card_of(folder)
    assert (card.window, card.name) == ((4, 16, 16), "nnunet-upper_abdomen-3d_small")


# ---- labels


def test_labels_are_known_structures_by_their_words_and_new_ones_otherwise(tmp_path: Path) -> None:
    space = card_of(files.write(tmp_path)).label_space
    (task,) = space.tasks
    assert (task.key, task.name) == ("upper_abdomen", "Upper Abdomen")
    assert task.channels == ("liver", "liver_tumor", "mystery_organ")
    liver, tumor, mystery = space.structures
    assert liver.type.meaning == "Liver"
    assert tumor.color == catalogue()["liver_tumor"].color
    # Labels exclude each other: a mask shows what was labeled so.
    assert tumor.contained_in is None
    assert (mystery.name, mystery.type.meaning) == ("Mystery organ", "Tissue")
    assert mystery.color not in [structure.color for structure in catalogue().values()]


def test_regions_lie_in_each_other(tmp_path: Path) -> None:
    space = card_of(files.write(tmp_path, labels=files.REGIONS)).label_space
    assert space.tasks[0].channels == ("whole_kidney", "masses", "kidney_tumor")
    assert [structure.contained_in for structure in space.structures] == [None, "whole_kidney", "masses"]


@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("kidney_right", "right_kidney"),
        ("Oesophagus", "esophagus"),
        ("postcava", "inferior_vena_cava"),
        ("tumor", None),
    ],
)
def test_structures_are_recognized_by_their_words(label: str, key: str | None) -> None:
    found = recognized(label)
    assert (found and found.key) == key


def test_ignored_voxels_are_no_structure(tmp_path: Path) -> None:
    description = files.dataset({**files.LABELS, "ignore": 4})
    card = card_of(files.write(tmp_path, description=description))
    assert len(card.label_space.select()) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "a": 1, "b": 3}, "labels [0, 1, 3] are not 0, 1, 2"),
        ({"0": "background", "1": "liver"}, "is no label"),
        ({"a": 1}, "lacks 'background'"),
        ({"background": 0, "a": 1, "b": 1}, "two names have the same label"),
        ({"background": 0, "a": [1, 2], "b": 2}, "lacks 'regions_class_order'"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        card_of(files.write(tmp_path, description=files.dataset(labels)))
    assert message in str(caught.value)


def test_a_label_space_of_ones_own_names_the_outputs(tmp_path: Path) -> None:
    space = card_of(files.write(tmp_path)).label_space
    document = space.to_json()
    document["tasks"][0]["channels"] = ["pancreas", "pancreas_tumor", "spleen"]
    own = LabelSpace.from_json({**document, "structures": []})
    (tmp_path / "own.json").write_text(json.dumps(own.to_json()))
    folder = tmp_path / "Dataset007_Upper_Abdomen"
    (bundle,) = import_models(folder, ImportOptions(label_space=str(tmp_path / "own.json")))
    assert bundle.card.label_space == own
    with pytest.raises(BundleError, match="has 7 tasks"):
        import_models(folder, ImportOptions(name="other", label_space="mots"))


# ---- choosing


def test_the_first_fold_is_imported_unless_others_are_chosen(tmp_path: Path) -> None:
    folder = files.write(tmp_path, folds=("0", "1", "all"))
    first, *_ = import_models(folder.parent, NONE)
    assert first.card.provenance["choices"]["fold"] == "0 of 0, 1, all"
    (second,) = import_models(folder, ImportOptions(fold="1"))
    expected = files.released("plain", 4, seed=1).decoder.seg_layers[-1].weight
    assert torch.equal(_head(second), expected)
    names = [bundle.card.name for bundle in import_models(folder, ImportOptions(fold="each"), overwrite=True)]
    assert names == [f"nnunet-upper_abdomen-fold{fold}" for fold in ("0", "1", "all")]
    with pytest.raises(BundleError, match=r"holds no fold '7'\. Choose from: 0, 1, all, each"):
        import_models(folder, ImportOptions(fold="7"))


def _head(bundle: ModelBundle) -> torch.Tensor:
    """Return the weights of the finest head."""
    network = ModelBundle.open(bundle.folder).load_network()
    assert isinstance(network, NnUNetLabels)
    return network.backbone.heads()[0].weight


def test_a_zip_a_fold_and_a_checkpoint_are_the_same_model(tmp_path: Path) -> None:
    folder = files.write(tmp_path)
    fold = folder / "fold_0"
    paths = [packed(folder.parent), fold, fold / "checkpoint_final.pth"]
    assert {type(find_format(path)) for path in paths} == {NnUNetV2Format}
    cards = [card_of(path) for path in paths]
    assert len({card.name for card in cards}) == 1
    assert [len(card.provenance["imported_from"]) for card in cards] == [2, 1, 1]


def test_the_best_checkpoint_is_taken_where_there_is_no_final_one_and_the_card_says_so(tmp_path: Path) -> None:
    card = card_of(files.write(tmp_path, file="checkpoint_best.pth"))
    assert card.provenance["choices"]["checkpoint"].startswith("checkpoint_best.pth: there is no checkpoint_final.pth")
    assert "not trained to the end" in card.description


def test_full_resolution_is_taken_of_a_dataset_with_several_configurations(tmp_path: Path) -> None:
    folder = files.write(tmp_path)
    other = folder.rename(folder.with_name("nnUNetTrainer__nnUNetPlans__2d"))
    files.write(tmp_path)
    assert card_of(folder.parent).window == (8, 32, 16)
    folder.rename(folder.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres"))
    with pytest.raises(BundleError, match="holds 2 trained folders"):
        card_of(other.parent)
