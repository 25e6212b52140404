"""Voxels of which nothing is known (nnU-Net's ignore label): from the file to every loss and every score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_layouts import GEOMETRY, label_map, truth, write_manifest, write_nnunet
from loss_examples import VARIANTS, Variant, batch, random_outputs
from partial_cases import SPACE, cached_case
from test_dataset_layouts import read
from test_validation import Oracle, watched

from bundles import TINY_WINDOW, random_bundle
from PartialSegLib.bundle import ModelBundle, Preprocessing
from PartialSegLib.images import Image, write_image
from PartialSegLib.inference import Predictor
from PartialSegTraining.augmentation import Augmenter
from PartialSegTraining.cache import prepare_case, prepare_cases
from PartialSegTraining.cases import Case
from PartialSegTraining.datasets.checking import check
from PartialSegTraining.datasets.collection import open_collection
from PartialSegTraining.evaluation import score_model
from PartialSegTraining.finetuning.columns import sample_case
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.losses import UNKNOWN_VOXEL
from PartialSegTraining.recipe import AugmentationRecipe
from PartialSegTraining.sampling import Draw
from PartialSegTraining.validation import make_validator

CPU = torch.device("cpu")
#: The lower half of the case "two".
HIDDEN = np.arange(GEOMETRY.shape[0])[:, None, None] < GEOMETRY.shape[0] // 2
PLAIN = Preprocessing((2.0, 2.0, 2.5), (-100.0, 200.0), 50.0, 150.0, body_threshold=None)


def write_partly(folder: Path) -> dict[str, object]:
    """Write a dataset of nnU-Net with a whole case "one", and "two" that was annotated in its upper half."""
    options = write_nnunet(folder)
    labels = np.where(HIDDEN, np.uint8(4), label_map("two"))
    write_image(Image(labels, GEOMETRY), folder / "labelsTr" / "two.nii.gz")
    return options


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return read(tmp_path, write_partly(tmp_path))


def half_known(case: CachedCase) -> tuple[CachedCase, torch.Tensor]:
    """Return a case in memory of whose lower half nothing is known, and where that is."""
    levels = []
    for level in case.levels:
        hidden = torch.zeros(level.shape, dtype=torch.bool)
        hidden[: level.shape[0] // 2] = True
        bits = torch.where(hidden, 1 << len(case.structures), level.bits.int()).to(torch.uint8)
        levels.append(replace(level, bits=bits))
    return replace(case, levels=tuple(levels), partly=True), levels[0].bits >> len(case.structures) > 0


def test_the_reader_gives_masks_without_them_and_says_where_they_are(cases: list[Case]) -> None:
    whole, partly = cases
    assert whole.unknown(GEOMETRY) is None
    unknown = partly.unknown(GEOMETRY)
    assert unknown is not None
    assert np.array_equal(unknown, np.broadcast_to(HIDDEN, GEOMETRY.shape))
    for key, mask in partly.load()[1].items():
        assert np.array_equal(mask, truth("two")[key] & ~HIDDEN)


def test_a_check_of_the_collection_notes_their_share(tmp_path: Path) -> None:
    dataset = {"name": "partly", "folder": "set", **write_partly(tmp_path / "set")}
    result = check(open_collection(write_manifest(tmp_path / "m.toml", dataset)))
    assert result.good
    assert [problem.message.split("nii.gz ")[1] for problem in result.problems if problem.kind == "unknown"] == [
        "marks 50.0% of its voxels as unknown; they are left out."
    ]


def test_prepared_cases_keep_them_on_disk_and_in_memory(cases: list[Case], tmp_path: Path) -> None:
    memory = [prepare_case(case, PLAIN) for case in cases]
    disk = prepare_cases(cases, PLAIN, folder=tmp_path / "cache")
    for one, other in zip(memory, disk, strict=True):
        assert one.partly == other.partly == (one.name == "two")
        bits = other.levels[0].to(CPU).bits
        assert torch.equal(one.levels[0].to(CPU).bits, bits)
        unknown = other.unknown(bits)
        assert (unknown is None) == (other.name == "one")
        if unknown is not None:
            assert np.array_equal(unknown.numpy(), np.broadcast_to(HIDDEN, GEOMETRY.shape))


def test_a_window_marks_them_in_annotated_channels_alone() -> None:
    case, hidden = half_known(cached_case("liver", ("liver",)))
    augmenter = Augmenter(AugmentationRecipe(), PLAIN, SPACE, (16, 16, 16))
    target = augmenter.batch([case], [Draw(0, SPACE.task_index("liver"), 0, (20.0, 22.0, 24.0))]).target[0]
    where = hidden[12:28, 14:30, 16:32]
    assert torch.equal(target[0] == UNKNOWN_VOXEL, where)
    assert set(target[0][~where].unique().tolist()) == {0.0, 1.0}
    assert (target[1] == -1).all(), "the tumor was not annotated at all"


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_no_loss_gives_them_a_gradient_or_depends_on_their_logits(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    hidden = torch.zeros(target.shape[2:], dtype=torch.bool)
    # The first voxel too, which speaks for a whole channel when it is -1.
    hidden[:2] = True
    target = torch.where(hidden & (target != -1), UNKNOWN_VOXEL, target)
    logits = random_outputs(loss, target).requires_grad_()
    terms = loss([logits], target, task)
    terms.total.backward()
    assert logits.grad is not None
    annotated = (target[:, :, -1, -1, -1] != -1).any(1)
    assert (logits.grad[annotated][..., hidden] == 0).all()
    assert (logits.grad[annotated][..., ~hidden] != 0).any()
    changed = torch.where(hidden & annotated[:, None, None, None, None], torch.inf, logits.detach())
    other = loss([changed], target, task)
    assert {name: value.item() for name, value in other.terms.items()} == {
        name: value.item() for name, value in terms.terms.items()
    }


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_loss_is_that_of_what_is_known(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    hidden = torch.zeros(target.shape[2:], dtype=torch.bool)
    hidden[2:] = True
    partly = torch.where(hidden & (target != -1), UNKNOWN_VOXEL, target)
    logits = random_outputs(loss, target)
    whole = loss([logits[:, :, :2]], target[:, :, :2], task).terms
    terms = loss([logits], partly, task).terms
    for name, value in terms.items():
        # Sums over voxels are equal; means over voxels have twice the voxels below the line. The Lovász
        # extension judges the background too, which gains voxels that are right.
        if name != "lovasz":
            ratio = value.item() / whole[name].item()
            assert min(abs(ratio - 1), abs(ratio - 0.5)) < 1e-4, name


@pytest.mark.parametrize("windows", [0, 8], ids=["whole cases", "windows"])
def test_what_is_found_in_them_costs_no_dice(windows: int) -> None:
    case, hidden = half_known(cached_case("liver", ("liver",), shape=(20, 22, 24)))
    # Bright where nobody looked: an oracle of brightness finds liver all over it.
    level = case.levels[0].to(CPU)
    bright = replace(level, volume=torch.where(hidden, 0.5, level.volume.float()).half())
    validator = make_validator([replace(case, levels=(bright,))], watched(validation_windows=windows), CPU)
    assert validator is not None
    assert validator.measure(Oracle()).dice == {"liver": 1.0}
    worse = make_validator([replace(case, levels=(bright,), partly=False)], watched(validation_windows=windows), CPU)
    assert worse is not None
    assert worse.measure(Oracle()).dice["liver"] < 0.9


def test_scores_of_a_model_do_not_count_them(cases: list[Case], tmp_path: Path) -> None:
    predictor = Predictor(ModelBundle.open(random_bundle(tmp_path / "model").folder), "cpu")
    image = cases[1].read_image()
    found = predictor.segment(image, ["liver"]).segmentation.array("liver")
    (scores,) = score_model(predictor, [cases[1]], tolerance_mm=2.0)
    known, mask = found & ~HIDDEN, truth("two")["liver"] & ~HIDDEN
    dice = next(score.dice for score in scores.scores if score.key == "liver")
    assert found[np.broadcast_to(HIDDEN, found.shape)].any()
    assert dice == pytest.approx(2 * (known & mask).sum() / (known.sum() + mask.sum()))


def test_fine_tuning_looks_at_none_of_them(cases: list[Case], tmp_path: Path) -> None:
    card = ModelBundle.open(random_bundle(tmp_path / "model").folder).card
    card = replace(card, preprocessing=PLAIN, window=TINY_WINDOW)
    # Where a voxel lies, up and down, is all that can be seen of it.
    heights = np.broadcast_to(np.arange(GEOMETRY.shape[0], dtype=np.int16)[:, None, None], GEOMETRY.shape)
    for case in cases:
        write_image(Image(np.ascontiguousarray(heights), GEOMETRY), case.image_path)

    def encode(window: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return [window * 150 + 50], torch.zeros(1, 4)

    lowest = []
    for case in cases:
        values = torch.cat([part.values[:, 0] for part in sample_case(case, ["liver"], card, encode).windows])
        # Below zero is what pads a window.
        lowest.append(values[values > -1].min().item())
    # Half precision, as columns are kept.
    assert lowest == pytest.approx([0, GEOMETRY.shape[0] // 2], abs=0.1)
