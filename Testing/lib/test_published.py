"""Published checkpoints: every format read to the last number, and nothing in any file ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import pytest
import torch
from torch import Tensor, nn

from PartialSegLib import catalog, cli
from PartialSegLib.bundle import CARD, ModelBundle
from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.networks import DoDNetParameters, ResEncUNetParameters, UNetParameters
from PartialSegLib.preparation import DODNET, NNUNET_V1
from PartialSegLib.published import FORMATS, DoDNetFormat, ImportOptions, MultiTalentFormat, PublishedFormat
from PartialSegLib.published import dodnet as dodnet_format
from PartialSegLib.published import multitalent as multitalent_format
from PartialSegLib.published.importing import find_format, import_models
from PartialSegLib.published.restricted import load_checkpoint, load_pickle
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegLib.structures import LabelSpace
from vectors import facts

NONE = ImportOptions()


@dataclass(frozen=True)
class Sample:
    """A published file, and the network whose weights are in it."""

    published: type[PublishedFormat]
    write: Callable[[Path], Path]
    network: Callable[[], nn.Module]


def saved(file: Path, content: Any, *, new: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file


def write_unet(folder: Path) -> Path:
    trainer = folder / files.UNET_FOLDER
    files.write_fold(trainer, files.parallel(files.multitalent("unet")), files.plans())
    return trainer


def write_resenc(folder: Path) -> Path:
    trainer = folder / files.MISSPELT_FOLDER
    files.write_fold(trainer, files.released_resenc(files.multitalent("resenc")), files.plans("resenc"), new=True)
    return trainer


def unet() -> nn.Module:
    return files.multitalent("unet")


def resenc() -> nn.Module:
    return files.multitalent("resenc")


def write_dodnet(content: Callable[[dict[str, Tensor]], Any], prefix: str, *, new: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return saved(folder / "MOTS_DynConv.pth", content(files.parallel(files.dodnet(), prefix)), new=new)

    return write


def half_precision(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what DoDNet's code saves when it trained in half precision."""
    return {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]}, "amp": {"loss_scaler0": {}}}


#: Every layout in which a published network is known to lie.
SAMPLES = {
    "DoDNet": Sample(DoDNetFormat, write_dodnet(lambda state: state, "module.", new=False), files.dodnet),
    "DoDNet, zip layout": Sample(DoDNetFormat, write_dodnet(lambda state: state, "module.", new=True), files.dodnet),
    "DoDNet, model": Sample(DoDNetFormat, write_dodnet(half_precision, "module.module.", new=True), files.dodnet),
    "DoDNet, state_dict": Sample(
        DoDNetFormat, write_dodnet(lambda state: {"state_dict": state, "epoch": 1}, "", new=False), files.dodnet
    ),
    "MultiTalent U-Net": Sample(MultiTalentFormat, write_unet, unet),
    "MultiTalent U-Net, zip": Sample(MultiTalentFormat, lambda folder: files.packed(write_unet(folder)), unet),
    "MultiTalent U-Net, file": Sample(
        MultiTalentFormat, lambda folder: write_unet(folder) / "fold_0" / "model_final_checkpoint.model", unet
    ),
    "MultiTalent U-Net, fold": Sample(MultiTalentFormat, lambda folder: write_unet(folder) / "fold_0", unet),
    "MultiTalent ResEnc U-Net": Sample(MultiTalentFormat, write_resenc, resenc),
    "MultiTalent ResEnc U-Net, zip": Sample(
        MultiTalentFormat, lambda folder: files.packed(write_resenc(folder)), resenc
    ),
}


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
    assert path.name in names if path.is_file() and path.suffix != ".model" else any(".model" in name for name in names)
    assert bundle.card.license.startswith("not stated by the authors")
    assert "Research only" in bundle.card.intended_use


@pytest.mark.parametrize("published", FORMATS, ids=lambda published: published.key)
def test_a_format_takes_nothing_for_its_own_that_is_not(published: PublishedFormat, tmp_path: Path) -> None:
    junk = {"empty": b"", "text.pth": b"a letter\n" * 50, "half.zip": b"PK\x03\x04 and no more", "p.pkl": b"\x80\x02}"}
    for name, content in junk.items():
        (tmp_path / name).write_bytes(content)
        assert not published.detect(tmp_path / name)
    saved(tmp_path / "other.pth", nn.Linear(2, 2).state_dict())
    saved(tmp_path / "numbers.pth", {"a": 1})
    saved(tmp_path / "bad.pth", {"a": Payload(tmp_path / "ran")})
    (tmp_path / "folder").mkdir()
    for name in ("other.pth", "numbers.pth", "bad.pth", "folder", "missing"):
        assert not published.detect(tmp_path / name)


# ---- weights that do not fit


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        state = files.parallel(files.dodnet())
        change(state)
        return saved(folder / "changed.pth", state)

    return write


def changed_unet(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        state = files.parallel(files.multitalent("unet"))
        change(state)
        files.write_fold(folder / "T__P", state, files.plans())
        return folder / "T__P"

    return write


def changed_alias(folder: Path) -> Path:
    state = files.released_resenc(files.multitalent("resenc"))
    state["module.decoder.stages.0.convs.0.all.0.weight"] = torch.ones(3)
    files.write_fold(folder / "T__P_resenc", state, files.plans())
    return folder / "T__P_resenc"


#: What is wrong with the weights, and the weight that the message names.
MISFITS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (changed(lambda state: state.pop("module.layer2.0.gn1.bias")), "lacks the weight 'layer2.0.gn1.bias'"),
    "of another shape": (
        changed(lambda state: state.update({"module.x8_resb.0.conv1.weight": torch.zeros(1, 2, 3, 3, 3)})),
        "the weight 'x8_resb.0.conv1.weight' is (1, 2, 3, 3, 3)",
    ),
    "unknown": (
        changed(lambda state: state.update({"module.layer9.weight": torch.zeros(1)})),
        "unknown weight 'layer9.weight'",
    ),
    "not finite": (changed(lambda state: state["module.conv1.weight"].fill_(torch.nan)), "'conv1.weight' holds"),
    "no weight": (changed(lambda state: state.update({"module.a": 3.0})), "'module.a' is no weight, but float"),
    "needed for the size": (
        changed(lambda state: state.pop("module.fusionConv.2.weight")),
        "lacks the weight 'fusionConv.2.weight'",
    ),
    "of more tasks": (
        changed(lambda state: state.update({"module.controller.weight": torch.zeros(162, 32 + 9, 1, 1, 1)})),
        "'controller.weight' has 41 inputs, but 32 image features and 7 tasks",
    ),
    "of another head": (
        changed(lambda state: state.update({"module.controller.weight": torch.zeros(163, 32 + 7, 1, 1, 1)})),
        "'controller.weight' generates 163 numbers",
    ),
    "of another group norm": (
        lambda folder: saved(folder / "narrow.pth", nn_state_of_width_8()),
        "16 groups do not divide the channels",
    ),
    "of other structures": (
        changed_unet(lambda state: state.update({"module.seg_outputs.1.weight": torch.zeros(46, 4, 1, 1, 1)})),
        "'seg_outputs.1.weight' is (46, 4, 1, 1, 1), but (47, 4, 1, 1, 1) is needed",
    ),
    "of U-Net missing": (
        changed_unet(lambda state: state.pop("module.conv_blocks_context.1.blocks.1.conv.bias")),
        "lacks the weight 'conv_blocks_context.1.blocks.1.conv.bias'",
    ),
    "twice, and different": (changed_alias, "are the same one, but differ"),
}


def nn_state_of_width_8() -> dict[str, Tensor]:
    from bundles import random_dodnet

    return files.parallel(random_dodnet())


@pytest.mark.parametrize(("write", "message"), MISFITS.values(), ids=MISFITS)
def test_the_first_weight_that_does_not_fit_is_named(
    write: Callable[[Path], Path], message: str, tmp_path: Path, models: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        import_models(write(tmp_path), NONE)
    assert message in str(caught.value)
    assert not models.exists()


def meta_state(name: str) -> dict[str, Tensor]:
    """Return the names and shapes of a published network, without its numbers."""
    return {key: torch.empty(shape, device="meta") for key, shape in facts(name).items()}


def test_the_published_sizes_are_read_from_the_published_shapes() -> None:
    shapes = meta_state("dodnet_unet3D_DynConv882")
    assert dodnet_format.parameters(shapes, LabelSpace.named("mots"), "a") == DoDNetParameters()
    assert multitalent_format.unet_parameters(meta_state("multitalent_unet_state"), "a") == UNetParameters()
    state = meta_state("multitalent_resenc_state")
    assert multitalent_format.resenc_parameters(state, "a") == ResEncUNetParameters()


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


# ---- files that would run code


class Payload:
    """What a malicious file holds: unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self._marker}', 'w')\"",)


class Construction:
    """A payload that calls a builtin function."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


def malicious_checkpoint(folder: Path, payload: Any, *, new: bool) -> Path:
    state = files.parallel(files.dodnet())
    return saved(folder / "bad.pth", {"state_dict": state, "epoch": payload}, new=new)


def malicious_plans(folder: Path, payload: Any) -> Path:
    files.write_fold(folder / "T__P", files.parallel(files.multitalent("unet")), files.plans(modalities=payload))
    return folder / "T__P"


def malicious_fold(folder: Path, payload: Any) -> Path:
    state = files.parallel(files.multitalent("unet"))
    state["module.extra"] = payload
    files.write_fold(folder / "T__P", state, files.plans())
    return folder / "T__P"


MALICIOUS: dict[str, Callable[[Path, Any], Path]] = {
    "checkpoint": lambda folder, payload: malicious_checkpoint(folder, payload, new=True),
    "checkpoint, older layout": lambda folder, payload: malicious_checkpoint(folder, payload, new=False),
    "plans": malicious_plans,
    "fold": malicious_fold,
    "zip": lambda folder, payload: files.packed(malicious_fold(folder, payload)),
    "plans in a zip": lambda folder, payload: files.packed(malicious_plans(folder, payload)),
}


@pytest.mark.parametrize("write", MALICIOUS.values(), ids=MALICIOUS)
@pytest.mark.parametrize(
    ("payload", "named"), [(Payload, f"{os.system.__module__}.system"), (Construction, "open")], ids=["system", "open"]
)
def test_a_malicious_file_is_refused_by_name_and_nothing_runs(
    write: Callable[[Path, Any], Path], payload: type, named: str, tmp_path: Path, models: Path
) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, payload(marker))
    assert not marker.exists()
    with pytest.raises(BundleError) as caught:
        import_models(path, NONE)
    assert "is refused: it names '" in caught.value.message
    assert f"{named}'" in caught.value.message
    assert "nothing of it was run" in caught.value.hint
    assert not marker.exists()
    assert not models.exists()


@pytest.mark.parametrize("payload", [Payload, Construction])
def test_the_payload_of_these_tests_runs_where_nothing_holds_it(payload: type, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


class Reduced:
    """Anything that a pickle may say: a function and its arguments, and a state to be set."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self._said = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._said


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(1).__reduce__()[0]


@pytest.mark.parametrize(
    "content",
    [
        np.array([{"a": 1}], object),
        np.zeros(2, [("x", "i4"), ("y", "O")]),
        np.zeros(2, "datetime64[s]"),
        Reduced(np.ndarray, ((1,), np.dtype("u1"), b"abcdefgh")),
        Reduced(_RECONSTRUCT, (OSError, (0,), b"b")),
        Reduced(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**40,), np.dtype("f8"), False, b"12345678")),
        Reduced(_SCALAR, (np.dtype("f8"), b"1234")),
        nn.Linear(1, 1),
        b"\x00\xff",  # allowed: bytes are spelt by a codec in protocol 2
    ],
    ids=["objects", "records", "dates", "buffer", "class", "length", "scalar", "module", "bytes"],
)
def test_arrays_that_could_mislead_numpy_are_refused(content: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"a": content})
    stream = io.BytesIO(pickle.dumps({"a": content}, 2))
    if isinstance(content, bytes):
        assert load_checkpoint(path) == load_pickle(stream, "a.pkl") == {"a": content}
        return
    for read in (lambda: load_checkpoint(path), lambda: load_pickle(stream, "a.pkl")):
        with pytest.raises(BundleError):
            read()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_either_numpy_arrive_as_they_were(core: str, protocol: int) -> None:
    content = {
        "scalars": [np.float64(0.1), np.float32(0.5), np.int16(-3), np.bool_(True), np.str_("ab")],
        "arrays": [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.array(["a", "bc"])],
    }
    data = pickle.dumps(content, protocol)
    other = "core" if core == "_core" else "_core"
    if protocol < 4:  # later ones store the length of names
        data = data.replace(f"numpy.{other}.".encode(), f"numpy.{core}.".encode())
    loaded = load_pickle(io.BytesIO(data), "a.pkl")
    assert loaded["scalars"] == [0.1, 0.5, -3, True, "ab"]
    assert [type(value) for value in loaded["scalars"]] == [float, float, int, bool, str]
    for array, expected in zip(loaded["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)


# ---- damaged files


def damaged(content: Callable[[bytes], bytes], name: str = "DoDNet") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = SAMPLES[name].write(folder)
        path.write_bytes(content(path.read_bytes()))
        return path

    return write


def damaged_member(folder: Path) -> Path:
    """Change bytes in the middle of the packed weights, which the zip's own checksum tells."""
    path = SAMPLES["MultiTalent U-Net, zip"].write(folder)
    with zipfile.ZipFile(path) as archive:
        entry = next(item for item in archive.infolist() if item.filename.endswith(".model"))
    data = bytearray(path.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    return path


def truncated_plans(folder: Path) -> Path:
    trainer = SAMPLES["MultiTalent U-Net"].write(folder)
    file = trainer / "fold_0" / "model_final_checkpoint.model.pkl"
    file.write_bytes(file.read_bytes()[:500])
    return trainer


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (damaged(lambda data: data[: len(data) // 2]), "is no readable checkpoint"),
    "truncated, zip layout": (damaged(lambda data: data[:5000], "DoDNet, zip layout"), "is no readable checkpoint"),
    "empty": (damaged(lambda data: b""), "is no readable checkpoint"),
    "text": (damaged(lambda data: b"<html>Not found</html>"), "is no readable checkpoint"),
    "missing": (lambda folder: folder / "nothing.pth", "There is no file or folder"),
    "empty folder": (lambda folder: folder, "is no published checkpoint that is known here"),
    "numbers": (lambda folder: saved(folder / "a.pth", {"a": 1}), "is no published checkpoint"),
    "another network": (lambda folder: saved(folder / "a.pth", nn.Linear(1, 1).state_dict()), "is no published"),
    "damaged zip": (damaged_member, "cannot be unpacked"),
    "truncated plans": (truncated_plans, "is no readable pickle"),
}


@pytest.mark.parametrize(("write", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_wrong_file_ends_in_one_clear_line(
    write: Callable[[Path], Path], message: str, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    assert call("import", write(folder)) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: ")
    assert message in line
    assert not models.exists()


def test_names_in_a_zip_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = SAMPLES["MultiTalent U-Net"].write(tmp_path / "in")
    path = tmp_path / "in" / "climbing.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in inner.rglob("*.*"):
            archive.write(file, f"../../out/T__P/{file.relative_to(inner)}")
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    import_models(path, NONE)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path.parent / "out").exists()
    assert list(private.iterdir()) == []


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
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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
