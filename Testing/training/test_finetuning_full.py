"""Full and transfer fine-tuning: the trainer's steps from a parent's weights, with replay, judged on every task."""

from __future__ import annotations

from pathlib import Path

import pytest
from finetuning_cases import write_case

from bundles import TWO_MM, bundle_of, random_bundle, random_dodnet, random_network
from PartialSegLib.bundle import ModelBundle, Preprocessing
from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.inference import extractors
from PartialSegLib.networks import KiTS21
from PartialSegLib.progress import Monitor, Progress
from PartialSegTraining.cases import Case
from PartialSegTraining.finetuning import FineTuneEvent, FineTuneOptions, FineTuneResult, finetune, read_case_folder
from PartialSegTraining.finetuning.checks import check_material
from PartialSegTraining.finetuning.full import make_recipe, suitable_loss, turns
from PartialSegTraining.finetuning.growth import grow

SHORT = FineTuneOptions(head_steps=2, warmup_steps=1, steps=2, batch=1, window=(16, 32, 32), preset="fast")
TINY_KITS = {"stem": 4, "widths": (4, 4, 4, 4), "blocks": (1, 1, 1, 1)}


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without OpenVINO: compiling a graph takes longer than all that these tests compute."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("models") / "parent")


def case(folder: Path, keys: tuple[str, ...], seed: int) -> Case:
    return read_case_folder(write_case(folder, keys, seed))


def tuned(parent: ModelBundle, folder: Path, output: Path, monitor: Monitor | None = None) -> FineTuneResult:
    """Fine-tune on a liver with the replay of a spleen; a third case shows both."""
    cases = [
        case(folder / name, keys, seed)
        for seed, (name, keys) in enumerate((("new", ("liver",)), ("old", ("spleen",)), ("judge", ("liver", "spleen"))))
    ]
    return finetune(
        parent,
        cases[:1],
        output,
        mode="full",
        replay=cases[1:2],
        held_out=cases[2:],
        device="cpu",
        options=SHORT,
        monitor=monitor,
    )


def test_dice_of_every_task_that_a_case_shows_is_told_before_and_after(parent: ModelBundle, tmp_path: Path) -> None:
    result = tuned(parent, tmp_path / "cases", tmp_path / "out")
    assert set(result.before) == set(result.after) == {"liver", "spleen"}
    assert result.judged_by == "held-out"
    assert result.better == (result.after["liver"] > result.before["liver"])
    assert set(result.regressions) <= {"spleen"}
    provenance = ModelBundle.open(result.bundle).card.provenance
    assert (provenance["fine_tuning"], provenance["replayed_cases"]) == ("full", 1)
    assert not list((tmp_path / "out").glob(".trial-*"))


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(parent: ModelBundle, tmp_path: Path) -> None:
    monitor: Monitor

    def stop(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == 3:
            monitor.cancel()

    monitor = Monitor(stop)
    with pytest.raises(CancelledError, match="to go on"):
        tuned(parent, tmp_path / "first", tmp_path / "stopped", monitor)
    assert not list((tmp_path / "stopped").rglob("card.json"))
    resumed = tuned(parent, tmp_path / "second", tmp_path / "stopped")
    straight = tuned(parent, tmp_path / "third", tmp_path / "straight")
    assert (resumed.bundle / "weights.safetensors").read_bytes() == (
        straight.bundle / "weights.safetensors"
    ).read_bytes()


def test_a_finished_run_leaves_nothing_to_go_on_from_and_an_unfinished_one_fits_its_cases_alone(
    parent: ModelBundle, tmp_path: Path
) -> None:
    tuned(parent, tmp_path / "cases", tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    monitor = Monitor(lambda progress: monitor.cancel() if (progress.stage, progress.done) == ("train", 3) else None)
    with pytest.raises(CancelledError, match="to go on"):
        tuned(parent, tmp_path / "again", tmp_path / "stopped", monitor)
    other = case(tmp_path / "other", ("liver",), 7)
    with pytest.raises(CollectionError, match=r"checkpoint\.pt was made by another.*\n?.*empty folder"):
        finetune(parent, [other], tmp_path / "stopped", mode="full", device="cpu", options=SHORT)


def test_the_head_learns_first_then_the_network_warms_up(parent: ModelBundle, tmp_path: Path) -> None:
    heard: list[FineTuneEvent] = []
    only = case(tmp_path / "case", ("liver",), 0)
    result = finetune(parent, [only], tmp_path / "out", mode="full", device="cpu", options=SHORT, listener=heard.append)
    steps = [(event.phase, event.step, event.total) for event in heard]
    assert steps == [("head", 1, 2), ("head", 2, 2), ("warm-up", 1, 1), ("network", 1, 2), ("network", 2, 2)]
    assert result.better is None
    assert "Nobody knows what became of other structures" in result.verdict


def test_half_of_the_windows_are_of_what_is_trained(parent: ModelBundle, tmp_path: Path) -> None:
    new = case(tmp_path / "new", ("liver",), 0)
    old = case(tmp_path / "old", ("spleen", "kidneys", "liver"), 1)
    material = check_material(parent.card, [new], (), [old], "full", SHORT, Monitor())
    assert turns(material, "full") == {"liver": 2}
    recipe = make_recipe(parent, parent.load_network(), material, "full", SHORT)
    assert dict(recipe.sampling.tasks) == {"liver": 2}
    assert recipe.optimization.head == ("controller.weight", "controller.bias")


def test_a_new_structure_can_be_learned_by_the_whole_network(parent: ModelBundle, tmp_path: Path) -> None:
    chosen = FineTuneOptions(**{**vars(SHORT), "add_structures": ("gallbladder",)})
    only = case(tmp_path / "case", ("gallbladder",), 0)
    result = finetune(parent, [only], tmp_path / "out", mode="full", device="cpu", options=chosen)
    child = ModelBundle.open(result.bundle)
    assert child.card.label_space.tasks[-1].structures == ("gallbladder",)
    assert child.card.network_parameters["own_maps"] == 1
    child.load_network()


def test_transfer_takes_the_backbone_to_a_new_label_space(tmp_path: Path) -> None:
    network = random_network("KiTS21Pretraining", TINY_KITS)
    pretrained = bundle_of(tmp_path / "pretrained", "KiTS21Pretraining", network, (16, 32, 32))
    only = case(tmp_path / "case", ("kidneys", "kidney_tumor", "kidney_cyst"), 0)
    options = FineTuneOptions(**{**vars(SHORT), "head_steps": 1, "steps": 1})
    result = finetune(pretrained, [only], tmp_path / "out", mode="transfer", device="cpu", options=options)
    child = ModelBundle.open(result.bundle)
    assert child.card.network == "KiTS21"
    assert child.card.label_space.select() == ("kidneys", "kidney_tumor", "kidney_cyst")
    assert isinstance(child.load_network(), KiTS21)
    assert suitable_loss(child.load_network()).name == "hierarchical"


def test_transfer_of_another_network_is_refused(parent: ModelBundle, tmp_path: Path) -> None:
    only = case(tmp_path / "case", ("kidneys",), 0)
    with pytest.raises(CollectionError, match="only KiTS21Pretraining has a transfer"):
        finetune(parent, [only], tmp_path / "out", mode="transfer", device="cpu", options=SHORT)


def test_transfer_adds_no_structure_to_its_label_space(parent: ModelBundle, tmp_path: Path) -> None:
    chosen = FineTuneOptions(**{**vars(SHORT), "add_structures": ("gallbladder",)})
    only = case(tmp_path / "case", ("gallbladder",), 0)
    with pytest.raises(CollectionError, match="cannot add 'gallbladder' to it"):
        finetune(parent, [only], tmp_path / "out", mode="transfer", device="cpu", options=chosen)


def test_images_that_are_normalized_one_by_one_are_left_to_the_quick_mode(tmp_path: Path) -> None:
    rules = Preprocessing(
        TWO_MM.spacing, TWO_MM.intensity_range, normalization="image", padding_value=0.0, body_threshold=None
    )
    other = random_bundle(tmp_path / "other", preprocessing=rules)
    only = case(tmp_path / "case", ("liver",), 0)
    with pytest.raises(CollectionError, match="Use the mode 'quick'"):
        finetune(other, [only], tmp_path / "out", mode="full", device="cpu", options=SHORT)


def test_a_checkpoint_fits_the_label_space_that_it_was_made_with(parent: ModelBundle, tmp_path: Path) -> None:
    first = case(tmp_path / "case", ("liver",), 0)
    plain = check_material(parent.card, [first], (), (), "full", SHORT, Monitor())
    chosen = FineTuneOptions(**{**vars(SHORT), "add_structures": ("gallbladder",)})
    both = case(tmp_path / "both", ("liver", "gallbladder"), 1)
    larger = check_material(parent.card, [both], (), (), "full", chosen, Monitor())
    digests = {
        make_recipe(parent, grow(random_dodnet(), material.space), material, "full", SHORT).digest
        for material in (plain, larger, plain)
    }
    assert len(digests) == 2
