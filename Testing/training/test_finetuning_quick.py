"""The quick fine-tuning: a structure from one case, the parent as it was, and an honest verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetuning_cases import write_case

from bundles import TINY, random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError
from PartialSegLib.inference import Predictor, extractors
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.progress import Monitor, Progress
from PartialSegTraining.cases import Case
from PartialSegTraining.finetuning import FineTuneEvent, FineTuneOptions, finetune, read_case_folder
from PartialSegTraining.finetuning.columns import columns_at, sample_case, windows_worth_encoding

NEW = ("gallbladder",)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without OpenVINO: compiling a graph takes longer than all that these tests compute."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    # With random weights, a head that depends on the image depends on its noise.
    steady = replace(TINY, image_condition=False)
    return random_bundle(tmp_path_factory.mktemp("models") / "parent", steady)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    return [read_case_folder(write_case(folder / f"case{number}", NEW, number)) for number in range(3)]


def options(**chosen: object) -> FineTuneOptions:
    return FineTuneOptions(**{"head_steps": 100, "head_learning_rate": 0.03, "add_structures": NEW, **chosen})  # type: ignore[arg-type]


def test_one_case_teaches_a_new_structure_and_no_bit_of_an_old_mask_changes(
    parent: ModelBundle, cases: Sequence[Case], tmp_path: Path
) -> None:
    heard: list[FineTuneEvent] = []
    result = finetune(
        parent,
        cases[:1],
        tmp_path,
        mode="quick",
        held_out=cases[1:2],
        device="cpu",
        options=options(),
        listener=heard.append,
    )
    assert result.after["gallbladder"] > 0.4
    assert "gallbladder" not in result.before
    assert (result.better, result.regressions, result.judged_by) == (True, (), "held-out")
    assert result.recommended
    assert "Gallbladder" in result.verdict
    assert "bit for bit" in result.verdict
    assert [event.step for event in heard] == list(range(1, 101))
    assert heard[-1].loss < heard[0].loss
    child = ModelBundle.open(result.bundle)
    assert child.card.label_space.select() == (*parent.card.label_space.select(), "gallbladder")
    image = cases[2].read_image()
    old = parent.card.label_space.select()
    before, after = (Predictor(bundle, "cpu").segment(image, old).segmentation for bundle in (parent, child))
    for key in old:
        assert before.masks[key].start == after.masks[key].start, key
        assert before.masks[key].bits.tobytes() == after.masks[key].bits.tobytes(), key


@pytest.mark.usefixtures("eager")
def test_the_card_names_parent_and_hashes_and_no_case(
    parent: ModelBundle, cases: Sequence[Case], tmp_path: Path
) -> None:
    result = finetune(
        parent, cases[:1], tmp_path, mode="quick", device="cpu", options=options(head_steps=2, name="kid")
    )
    assert result.bundle == tmp_path / "kid"
    text = (result.bundle / "card.json").read_text(encoding="utf-8")
    assert "case0" not in text
    assert str(cases[0].image_path.parent.parent) not in text
    provenance = json.loads(text)["provenance"]
    assert provenance["parent"]["sha256"] == parent.card.weights["sha256"]
    assert provenance["cases"][0]["annotated"] == ["gallbladder"]
    assert len(provenance["cases"][0]["image"]) == 32
    assert json.loads(text)["figures"]["fine_tuning"]["verdict"] == result.verdict


@pytest.mark.usefixtures("eager")
def test_a_single_case_without_held_out_ones_is_not_judged(
    parent: ModelBundle, cases: Sequence[Case], tmp_path: Path
) -> None:
    result = finetune(parent, cases[:1], tmp_path, mode="quick", device="cpu", options=options(head_steps=2))
    assert (result.better, result.judged_by, result.recommended) == (None, "nothing", False)
    assert "no case was held out" in result.verdict


@pytest.mark.usefixtures("eager")
def test_two_cases_judge_each_other_when_none_is_held_out(
    parent: ModelBundle, cases: Sequence[Case], tmp_path: Path
) -> None:
    result = finetune(parent, cases[:2], tmp_path, mode="quick", device="cpu", options=options())
    assert result.judged_by == "leave-one-out"
    assert result.after["gallbladder"] > 0.4
    assert result.better


@pytest.mark.usefixtures("eager")
def test_a_correction_of_a_known_structure_holds_its_unannotated_neighbor(parent: ModelBundle, tmp_path: Path) -> None:
    folders = [
        write_case(tmp_path / f"case{number}", ("liver", "liver_tumor")[:count], number)
        for number, count in enumerate((1, 2))
    ]
    learned, judged = (read_case_folder(folder) for folder in folders)
    result = finetune(
        parent,
        [learned],
        tmp_path / "out",
        mode="quick",
        held_out=[judged],
        device="cpu",
        options=FineTuneOptions(head_steps=60, head_learning_rate=0.02),
    )
    assert set(result.after) == set(result.before) == {"liver", "liver_tumor"}
    assert result.after["liver"] > result.before["liver"]


@pytest.mark.usefixtures("eager")
def test_cancelling_leaves_no_model(parent: ModelBundle, cases: Sequence[Case], tmp_path: Path) -> None:
    monitor: Monitor

    def stop(progress: Progress) -> None:
        if progress.stage == "head" and progress.done == 3:
            monitor.cancel()

    monitor = Monitor(stop)
    with pytest.raises(CancelledError):
        finetune(parent, cases[:1], tmp_path / "out", mode="quick", device="cpu", monitor=monitor, options=options())
    assert not list(tmp_path.rglob("card.json"))


@pytest.mark.usefixtures("eager")
def test_the_same_seed_gives_the_same_model(parent: ModelBundle, cases: Sequence[Case], tmp_path: Path) -> None:
    weights = [
        finetune(parent, cases[:1], tmp_path / name, mode="quick", device="cpu", options=options(head_steps=3))
        .bundle.joinpath("weights.safetensors")
        .read_bytes()
        for name in ("one", "two")
    ]
    assert weights[0] == weights[1]


def test_sampled_voxels_stand_for_all_voxels_of_their_window(parent: ModelBundle, cases: Sequence[Case]) -> None:
    def encode(window: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return [window], window.new_zeros(1, 2)

    sampled = sample_case(cases[0], NEW, parent.card, encode, seed=3)
    depth, height, width = parent.card.window
    for window in sampled.windows:
        assert float(window.weight.sum()) == pytest.approx(depth * height * width, rel=1e-4)
    again = sample_case(cases[0], NEW, parent.card, encode, seed=3)
    assert all(torch.equal(a.values, b.values) for a, b in zip(sampled.windows, again.windows, strict=True))


def test_a_long_scan_costs_little_more_than_a_short_one() -> None:
    grid = WindowGrid.over((320, 32, 32), (32, 32, 32), 0.25)
    truth = torch.zeros(1, 320, 32, 32, dtype=torch.bool)
    truth[0, 100:110, 5:9, 5:9] = True
    boxes = windows_worth_encoding(grid, truth, torch.Generator().manual_seed(0))
    showing = [box for box in boxes if truth[0][box].any()]
    assert len(boxes) - len(showing) == 8 < len(grid) - len(showing)
    assert sum(bool(truth[0, start : start + 32].any()) for start in grid.starts[0]) == len(showing)
    assert [box[0].start for box in boxes] == sorted(box[0].start for box in boxes)


def test_columns_of_coarse_maps_are_interpolated_as_the_network_enlarges_them() -> None:
    coarse = torch.randn(1, 2, 2, 3, 2, generator=torch.Generator().manual_seed(0))
    fine = torch.randn(1, 1, 8, 12, 8, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear", align_corners=False)
    voxels = torch.arange(8 * 12 * 8)
    expected = torch.cat([large, fine], 1)[0].flatten(1).T
    torch.testing.assert_close(columns_at([coarse, fine], voxels, (8, 12, 8)), expected, rtol=1e-5, atol=1e-5)
