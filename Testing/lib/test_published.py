"""Published checkpoints: every format read to the last number, and its card as the authors prepared their images."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import pytest
import torch
from published_files import SAMPLES, Sample, saved
from torch import Tensor

import vectors
from PartialSegLib import catalog, cli
from PartialSegLib.bundle import CARD, ModelBundle
from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.networks import DoDNetParameters, ResEncUNetParameters, UNetParameters
from PartialSegLib.networks.contract import weight_count
from PartialSegLib.preparation import DODNET, NNUNET_V1
from PartialSegLib.published import FORMATS, DoDNetFormat, ImportOptions, MultiTalentFormat
from PartialSegLib.published import dodnet as dodnet_format
from PartialSegLib.published import multitalent as multitalent_format
from PartialSegLib.published.importing import find_format, import_models
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegLib.structures import LabelSpace
from vectors import facts

NONE = ImportOptions()


@pytest.fixture(params=SAMPLES.values(), ids=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Sample:
    chosen: Sample = request.param
    return chosen


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, which is not there yet."""
    folder = tmp_path / "user" / "models"
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A small scan of noise in the range of soft tissue, with air around."""
    voxels = np.random.default_rng(0).normal(50, 100, (12, 24, 26)).astype(np.int16)
    voxels[:, :3] = -1000
    write_image(Image(voxels, Geometry(voxels.shape, (1.5, 1.5, 3.0), (-20.0, -20.0, 0.0))), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def call(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# ---- every format


def test_a_format_knows_its_own_files_and_no_others(sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path)
    assert [type(published) for published in FORMATS if published.detect(path)] == [sample.published]
    assert type(find_format(path)) is sample.published


def test_weights_arrive_unchanged_and_fit_the_network_of_the_card(sample: Sample, tmp_path: Path, models: Path) -> None:
    (bundle,) = import_models(sample.write(tmp_path), NONE)
    assert bundle.folder.parent == models
    network, expected = ModelBundle.open(bundle.folder).load_network(), sample.network()
    assert network.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name
    image, task = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0])
    with torch.inference_mode():
        torch.testing.assert_close(network(image, task), expected(image, task), rtol=0, atol=0)


def test_the_card_says_where_the_weights_come_from(sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path)
    (bundle,) = import_models(path, NONE)
    came = ModelBundle.open(bundle.folder).card.provenance
    assert came["format"] == sample.published.key
    assert came["importer"].startswith("PartialSeg ")
    assert came["choices"]
    assert all(len(item["sha256"]) == 64 for item in came["imported_from"])
    names = [item["file"] for item in came["imported_from"]]
    alone = path.is_file() and path.suffix != ".model"
    assert path.name in names if alone else any(name.endswith((".model", ".pth")) for name in names)
    assert bundle.card.license.startswith("not stated by the authors")
    assert "Research only" in bundle.card.intended_use


# ---- sizes


def meta_state(name: str) -> dict[str, Tensor]:
    """Return the names and shapes of a published network, without its numbers."""
    return {key: torch.empty(shape, device="meta") for key, shape in facts(name).items()}


def test_the_published_sizes_are_read_from_the_published_shapes() -> None:
    shapes = meta_state("dodnet_unet3D_DynConv882")
    assert dodnet_format.parameters(shapes, LabelSpace.named("mots"), "a") == DoDNetParameters()
    assert multitalent_format.unet_parameters(meta_state("multitalent_unet_state"), "a") == UNetParameters()
    state = meta_state("multitalent_resenc_state")
    assert multitalent_format.resenc_parameters(state, "a") == ResEncUNetParameters()


def test_the_published_network_gives_the_published_numbers_after_its_import(tmp_path: Path) -> None:
    state = {f"module.{name}": vectors.filled(name, shape) for name, shape in facts("dodnet_unet3D_DynConv882").items()}
    content = {name: torch.from_numpy(weight) for name, weight in state.items()}
    (bundle,) = import_models(saved(tmp_path / "MOTS_DynConv_checkpoint.pth", content, new=False), NONE)
    network = bundle.load_network()
    assert weight_count(network) == 17_329_528
    with torch.inference_mode():
        logits = network(vectors.seeded(0, (1, 1, 32, 64, 64)), torch.tensor([3]))
    wanted = torch.from_numpy(vectors.arrays("dodnet")["logits_task3"])
    torch.testing.assert_close(logits, wanted.reshape(logits.shape), rtol=2e-4, atol=2e-4)


def test_windows_of_plans_that_the_network_cannot_halve_are_refused(tmp_path: Path) -> None:
    stage = files.plans()["plans_per_stage"][1] | {"patch_size": np.array([8, 30, 32])}
    document = files.plans(plans_per_stage={0: stage})
    files.write_fold(tmp_path / "T__P", files.parallel(files.multitalent("unet")), document)
    with pytest.raises(BundleError, match=r"windows are \(8, 30, 32\), no multiples of \(2, 4, 4\)"):
        MultiTalentFormat().read(tmp_path / "T__P", NONE)


# ---- what the cards say


def test_dodnet_takes_the_spacing_of_its_author_unless_told_otherwise(tmp_path: Path) -> None:
    path = SAMPLES["DoDNet"].write(tmp_path)
    card, _ = DoDNetFormat().read(path, NONE)
    assert card.name == "dodnet-mots"
    assert card.preprocessing.spacing == (0.76, 0.76, 3.0)
    assert card.provenance["choices"]["spacing"].startswith("author: 3 x 0.76 x 0.76 mm")
    paper, _ = DoDNetFormat().read(path, ImportOptions(spacing="paper"))
    assert paper.preprocessing.spacing == (0.8, 0.8, 1.5)
    assert paper.provenance["choices"]["spacing"].startswith("paper: 1.5 x 0.8 x 0.8 mm")


@pytest.mark.parametrize(("spacing", "volume"), [("paper", 48.0), ("author", 86.64)])
def test_dodnet_drops_tumors_of_fifty_voxels_of_its_own_grid(spacing: str, volume: float, tmp_path: Path) -> None:
    card, _ = DoDNetFormat().read(SAMPLES["DoDNet"].write(tmp_path), ImportOptions(spacing=spacing))
    dropped = [rule.max_mm3 for task in card.label_space.tasks for rule in task.rules if rule.op == "drop_small"]
    assert dropped == [volume] * 3
    assert card.label_space.task("liver").rules[:3] == LabelSpace.named("mots").task("liver").rules[:3]


def test_dodnet_is_prepared_as_released(tmp_path: Path) -> None:
    card, _ = DoDNetFormat().read(SAMPLES["DoDNet"].write(tmp_path), NONE)
    recipe = card.preprocessing
    assert (recipe.intensity_range, recipe.intensity_shift, recipe.intensity_scale) == ((-325.0, 325.0), 0.0, 325.0)
    # H of the network is NIfTI x, which grows to the right, and W is NIfTI y.
    assert recipe.orientation == "ARS"
    assert (recipe.padding_value, recipe.padding_place) == (0.0, "end")
    assert recipe.resampling == DODNET
    assert (card.window, card.window_steps, card.mirror_axes) == ((64, 192, 192), "clamped", (0, 1, 2))


@pytest.mark.parametrize(
    ("kind", "mean", "deviation"), [("U-Net", 63.436882, 175.48094), ("ResEnc U-Net", 63.516087, 175.3107)]
)
def test_multitalent_is_prepared_by_its_plans(kind: str, mean: float, deviation: float, tmp_path: Path) -> None:
    card, _ = MultiTalentFormat().read(SAMPLES[f"MultiTalent {kind}"].write(tmp_path), NONE)
    recipe = card.preprocessing
    assert recipe.spacing == (1.0, 1.0, 1.5)
    assert recipe.intensity_range == (-927.0, 275.0)
    assert (recipe.intensity_shift, recipe.intensity_scale) == pytest.approx((mean, deviation), rel=1e-6)
    assert recipe.crop_to_nonzero
    assert (recipe.padding_value, recipe.padding_place) == (0.0, "both")
    assert recipe.resampling == NNUNET_V1
    assert (card.window, card.window_steps) == ((8, 32, 32), "even")


def test_multitalent_names_the_published_outputs_in_their_order(tmp_path: Path) -> None:
    card, _ = MultiTalentFormat().read(SAMPLES["MultiTalent U-Net"].write(tmp_path), NONE)
    assert card.label_space == LabelSpace.named("multitalent")
    assert len(card.label_space.select()) == len(facts("multitalent_label_tables")["regions"]) == 47
    assert card.provenance["epoch"] == 2000


def test_plans_beside_the_weights_count_more_than_those_above(tmp_path: Path) -> None:
    trainer = SAMPLES["MultiTalent U-Net"].write(tmp_path)
    (trainer / "plans.pkl").write_bytes(pickle.dumps(files.plans(num_classes=3, plans_per_stage={})))
    card, _ = MultiTalentFormat().read(trainer, NONE)
    assert card.window == (8, 32, 32)
    (trainer / "plans.pkl").write_bytes(pickle.dumps(files.plans()))
    (trainer / "fold_0" / "model_final_checkpoint.model.pkl").unlink()
    card, _ = MultiTalentFormat().read(trainer, NONE)
    assert card.window == (8, 32, 32)
    (trainer / "plans.pkl").unlink()
    with pytest.raises(BundleError, match="has no plans"):
        MultiTalentFormat().read(trainer, NONE)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"normalization_schemes": {0: "nonCT"}}, "normalized by ['nonCT']"),
        ({"normalization_schemes": {0: "CT", 1: "CT"}}, "normalized by ['CT', 'CT']"),
        ({"transpose_forward": [1, 0, 2]}, "axes are transposed to [1, 0, 2]"),
        ({"use_mask_for_norm": {0: True}}, "inside a mask"),
        ({"plans_per_stage": {}}, "make no sense"),
        ({"dataset_properties": {}}, "lack 'intensityproperties'"),
    ],
)
def test_plans_that_ask_for_what_is_not_done_here_are_refused(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    files.write_fold(tmp_path / "T__P", files.parallel(files.multitalent("unet")), files.plans(**entries))
    with pytest.raises(BundleError) as caught:
        MultiTalentFormat().read(tmp_path / "T__P", NONE)
    assert message in str(caught.value)


# ---- choosing


def test_the_first_fold_of_both_networks_is_imported_unless_others_are_chosen(tmp_path: Path) -> None:
    task = files.write_multitalent(tmp_path, (0, 1))
    names = [bundle.card.name for bundle in import_models(files.packed(task), NONE)]
    assert names == ["multitalent-resenc", "multitalent-unet"]
    (second,) = import_models(task, ImportOptions(network="unet", fold="1"))
    assert second.card.name == "multitalent-unet-fold1"
    assert second.card.provenance["choices"]["fold"] == "1 of 0, 1"
    expected = files.multitalent("unet", seed=1).state_dict()
    assert torch.equal(second.load_network().state_dict()["tu.0.weight"], expected["tu.0.weight"])
    every = import_models(task, ImportOptions(fold="each"), overwrite=True)
    assert sorted(bundle.card.name for bundle in every) == [
        "multitalent-resenc-fold0", "multitalent-resenc-fold1", "multitalent-unet-fold0", "multitalent-unet-fold1",
    ]  # fmt: skip


def test_the_network_trained_on_all_cases_is_a_fold_too(tmp_path: Path) -> None:
    task = files.write_multitalent(tmp_path, ("all",))
    (bundle,) = import_models(task, ImportOptions(network="resenc", fold="all"))
    assert bundle.card.name == "multitalent-resenc-foldall"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(fold="7"), "holds no fold '7'. Choose from: 0, each"),
        (ImportOptions(network="vnet"), "There is no network 'vnet'"),
        (ImportOptions(name="one"), "holds 2 models, which cannot all be named 'one'"),
        (ImportOptions(spacing="paper"), "--spacing means nothing for a MultiTalent"),
        (ImportOptions(network="unet", name="../out"), "'../out' is no name for a model"),
        (ImportOptions(network="unet", label_space="mots"), "is (47, "),
    ],
)
def test_choices_that_cannot_be_met_are_refused(options: ImportOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        import_models(files.write_multitalent(tmp_path), options)
    assert message in str(caught.value)


def test_a_fine_tuned_network_brings_its_own_label_space(tmp_path: Path) -> None:
    space = LabelSpace.named("btcv")
    from bundles import random_dodnet

    tuned = random_dodnet(files.SMALL_DODNET, space)
    path = saved(tmp_path / "tuned.pth", files.parallel(tuned))
    with pytest.raises(BundleError, match="--label-space"):
        import_models(path, NONE)
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    for name, wanted in (("named", "btcv"), ("from-file", str(tmp_path / "space.json"))):
        (bundle,) = import_models(path, ImportOptions(name=name, label_space=wanted))
        assert bundle.card.label_space == space
    with pytest.raises(LabelSpaceError, match="There is no label space or file named 'btvc'"):
        import_models(path, ImportOptions(label_space="btvc"))


def test_an_installed_model_is_replaced_only_when_that_was_asked(tmp_path: Path, models: Path) -> None:
    path = SAMPLES["DoDNet"].write(tmp_path)
    import_models(path, ImportOptions(spacing="paper"))
    with pytest.raises(BundleError, match="There is a model 'dodnet-mots' already"):
        import_models(path, NONE)
    with pytest.raises(BundleError, match="There is a model 'phantom-dodnet' already"):
        import_models(path, ImportOptions(name="phantom-dodnet"))
    assert catalog.find("dodnet-mots").card.preprocessing.spacing == (0.8, 0.8, 1.5)
    import_models(path, NONE, overwrite=True)
    assert catalog.find("dodnet-mots").card.preprocessing.spacing == (0.76, 0.76, 3.0)
    assert os.listdir(models) == ["dodnet-mots"]


# ---- the command line


def test_dodnet_goes_from_its_file_to_masks_on_the_command_line(
    tmp_path: Path, scan: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SAMPLES["DoDNet"].write(tmp_path)
    assert call("import", path, "--spacing", "paper", "--as", "dodnet-paper") == 0
    shown = capsys.readouterr().out
    assert "paper: 1.5 x 0.8 x 0.8 mm" in shown
    assert "license: not stated by the authors" in shown
    assert "partialseg segment scan.nii.gz --model dodnet-paper -o result.seg.nrrd" in shown
    assert call("models", "--json") == 0
    listed = {model["name"]: model for model in document(capsys)["models"]}
    assert listed["dodnet-paper"]["problem"] == ""
    assert listed["dodnet-paper"]["origin"] == "installed"
    card = models / "dodnet-paper" / CARD
    # The published window costs seconds on a CPU; the card is a text that anyone may edit.
    card.write_text(json.dumps(json.loads(card.read_text()) | {"window": [16, 32, 32]}))
    output = tmp_path / "result.seg.nrrd"
    assert call("segment", scan, "--model", "dodnet-paper", "-o", output, "--preset", "paper", "--quiet") == 0
    assert read_segmentation(output).keys == LabelSpace.named("mots").select()


def test_multitalent_goes_from_its_zip_to_47_overlapping_segments(tmp_path: Path, scan: Path, models: Path) -> None:
    """In processes of their own, as a user runs them."""
    path = files.packed(files.write_multitalent(tmp_path))

    def run(*words: Any) -> str:
        command = [sys.executable, "-m", "PartialSegLib", *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    imported = json.loads(run("import", path, "--network", "unet", "--json"))["models"]
    assert [(model["name"], len(model["structures"])) for model in imported] == [("multitalent-unet", 47)]
    assert Path(imported[0]["folder"]) == models / "multitalent-unet"
    output = tmp_path / "result.seg.nrrd"
    run("segment", scan, "--model", "multitalent-unet", "-o", output, "--quiet")
    segmentation = read_segmentation(output)
    assert segmentation.keys == LabelSpace.named("multitalent").select()
    assert len(segmentation.keys) == 47
    voxels = np.sum([segmentation.array(key) for key in segmentation.keys], axis=0)
    assert all(segmentation.masks[key].count for key in segmentation.keys)
    assert voxels.max() > 10
    assert asdict(segmentation.geometry)["shape"] == (12, 24, 26)


def test_mistakes_of_the_command_end_in_its_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = SAMPLES["DoDNet"].write(tmp_path)
    assert call("import", path, "--spacing", "best") == 2
    assert call("import") == 2
    capsys.readouterr()
    assert call("import", path, "--fold", "0") == 6
    assert "--fold means nothing for a DoDNet checkpoint" in capsys.readouterr().err
