"""Held-out cases watch a training: whole cases or windows, the best weights kept, an end when nothing gets better."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from partial_cases import SPACE, cached_case, cached_cases, tiny_recipe, write_collection
from torch import Tensor

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError, MissingExtraError
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.networks.contract import Features
from PartialSegLib.progress import Monitor
from PartialSegTraining.distributed import Processes
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.scores import Validation
from PartialSegTraining.state import load_checkpoint, new_state
from PartialSegTraining.trainer import Trainer, run, train
from PartialSegTraining.validation import CaseValidator, Validator, make_validator, split_cases

CPU = torch.device("cpu")


class Oracle(PartialLabelNetwork):
    """Tells bright from dark, which is how the cases were made: stands for a network that was trained well."""

    def __init__(self) -> None:
        super().__init__(None, SPACE)

    @property
    def divisor(self) -> tuple[int, int, int]:
        return 1, 1, 1

    def features(self, image: Tensor, task: Tensor | None = None) -> Features:
        return Features(image, image.new_zeros(len(image), 0))

    def logits(self, features: Features, task: Tensor) -> Tensor:
        return 20 * torch.cat([features.map + 0.25, features.map - 0.25], 1)


def small_cases() -> list[CachedCase]:
    """A case of each of two tasks, hardly larger than a window."""
    return [
        cached_case(task.key, task.structures, seed=index, shape=(20, 22, 24))
        for index, task in enumerate(SPACE.tasks[:2])
    ]


def watched(steps: int = 6, **monitoring: object) -> Recipe:
    recipe = tiny_recipe(batch=1).with_steps(steps)
    rules = {"validate_every": 1, "log_every": 1, "validation_windows": 0, **monitoring}
    return replace(recipe, monitoring=replace(recipe.monitoring, **rules))


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@dataclass
class Scripted:
    """Validations that turn out as written, which no real network can be told to."""

    dice: Iterator[float]

    def measure(self, network: PartialLabelNetwork, monitor: Monitor | None = None) -> Validation:
        return Validation({"liver": next(self.dice)})


def test_held_out_cases_are_not_trained_on() -> None:
    training, held_out = split_cases(cached_cases(), SPACE, 1)
    assert [case.name for case in held_out] == [f"{task.key}1" for task in SPACE.tasks]
    assert [case.name for case in training] == [f"{task.key}0" for task in SPACE.tasks]
    assert split_cases(training, SPACE, 1) == (training, [])


def test_a_case_of_two_tasks_is_not_held_out_when_one_of_them_has_no_other() -> None:
    cases = [cached_case("a", ("liver",)), cached_case("b", ("liver", "spleen"))]
    training, held_out = split_cases(cases, SPACE, 1)
    assert [case.name for case in training] == ["b"]
    assert [case.name for case in held_out] == ["a"]


@pytest.mark.parametrize("windows", [0, 2], ids=["whole cases", "windows"])
def test_validation_is_perfect_for_a_network_that_knows_the_truth(windows: int) -> None:
    recipe = watched(validation_windows=windows)
    validator = make_validator(small_cases(), recipe, CPU)
    assert validator is not None
    measured = validator.measure(Oracle())
    assert set(measured.dice) == {*SPACE.tasks[0].structures, *SPACE.tasks[1].structures}
    assert min(measured.dice["liver"], measured.dice["liver_tumor"]) > 0.99
    network = new_state(recipe, CPU).network
    assert validator.measure(network).mean_dice < 0.5


def test_without_held_out_cases_nothing_is_validated() -> None:
    assert make_validator([], watched(), CPU) is None


def test_whole_cases_are_segmented_beyond_the_window_and_scored_one_by_one() -> None:
    """The second case is smaller than a window along an axis, and does not show the tumor that it annotates."""
    healthy = cached_case("healthy", ("liver", "liver_tumor"), shape=(20, 22, 12))
    level = healthy.levels[0].to(CPU)
    level.bits.bitwise_and_(1)
    level.volume.clamp_(max=0.1)
    cases = [cached_case("sick", ("liver", "liver_tumor"), shape=(20, 22, 24)), replace(healthy, levels=(level,))]
    measured = CaseValidator(cases, watched(), CPU).measure(Oracle())
    assert measured.cases["sick"]["liver"] == pytest.approx(1.0, abs=0.01)
    assert measured.cases["healthy"] == {"liver": pytest.approx(1.0, abs=0.01), "liver_tumor": None}
    assert measured.dice["liver_tumor"] == measured.cases["sick"]["liver_tumor"]
    assert measured.mean_dice == pytest.approx(1.0, abs=0.01)


def test_a_validation_leaves_the_network_as_it_was() -> None:
    recipe = watched()
    network = new_state(recipe, CPU).network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    CaseValidator(small_cases()[:1], recipe, CPU).measure(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_processes_divide_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes count, added up, is what one counts."""
    counted: list[Tensor] = []
    cases, recipe = small_cases(), watched()
    whole = CaseValidator(cases, recipe, CPU).measure(Oracle())

    def keep(self: Processes, values: Tensor) -> Tensor:
        counted.append(values.clone())
        return values if len(counted) == 1 else values + counted[0]

    monkeypatch.setattr(Processes, "add", keep)
    parts = [CaseValidator(cases, recipe, CPU, Processes(rank, 2)).measure(Oracle()) for rank in range(2)]
    assert parts[1] == whole
    assert not torch.equal(counted[0], counted[1])


def test_a_training_that_no_longer_gets_better_ends_early(tmp_path: Path) -> None:
    recipe, kept = watched(10, patience=3), []
    trainer = Trainer(recipe, small_cases(), CPU)
    script = Scripted(iter([0.2, 0.5, 0.4, 0.5, 0.3]))
    run(trainer, tmp_path, validator=script, keep_best=lambda: kept.append(trainer.state.step))
    assert trainer.state.step == 5
    assert kept == [1, 2]
    assert lines(tmp_path)[-1] == {"step": 5, "stopped": "no better validation since step 2 (mean Dice 0.5)"}
    assert [line["best"] for line in lines(tmp_path) if "validation" in line] == [True, True, False, False, False]

    again = Trainer(recipe, small_cases(), CPU)
    load_checkpoint(again.state, recipe, tmp_path / "checkpoint.pt")
    run(again, tmp_path, validator=Scripted(iter([])))
    assert again.state.step == 5


def test_an_interrupted_training_ends_as_early_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = watched(10, patience=3)
    dice = iter([0.2, 0.5, 0.4, 0.5, 0.3])
    first = Trainer(recipe, small_cases(), CPU)
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 3 else None)
    with pytest.raises(CancelledError):
        run(first, tmp_path, validator=Scripted(dice), monitor=monitor)
    second = Trainer(recipe, small_cases(), CPU)
    load_checkpoint(second.state, recipe, tmp_path / "checkpoint.pt")
    run(second, tmp_path, validator=Scripted(dice))
    assert (second.state.step, second.state.best_step) == (5, 2)


def test_a_validation_that_was_interrupted_comes_first_when_the_training_goes_on(tmp_path: Path) -> None:
    recipe = watched(3, validate_every=2)
    held_out = small_cases()[:1]
    monitor = Monitor()

    @dataclass
    class Interrupted:
        """Cancelled in the middle of the real work."""

        real: Validator

        def measure(self, network: PartialLabelNetwork, monitor: Monitor | None = None) -> Validation:
            assert monitor is not None
            monitor.cancel()
            return self.real.measure(network, monitor)

    real = CaseValidator(held_out, recipe, CPU)
    with pytest.raises(CancelledError):
        run(Trainer(recipe, small_cases(), CPU), tmp_path, validator=Interrupted(real), monitor=monitor)
    assert [line for line in lines(tmp_path) if "validation" in line] == []
    resumed = Trainer(recipe, small_cases(), CPU)
    load_checkpoint(resumed.state, recipe, tmp_path / "checkpoint.pt")
    assert resumed.state.step == 2
    run(resumed, tmp_path, validator=real)
    assert [line["step"] for line in lines(tmp_path) if "validation" in line] == [2, 3]


def test_the_best_bundle_is_of_the_best_validation(tmp_path: Path) -> None:
    recipe = watched(3, validation_cases=1)
    result = train(recipe, write_collection(tmp_path / "collection", cases=2), tmp_path / "run", device="cpu")
    measured = {line["step"]: line["mean_dice"] for line in lines(tmp_path / "run") if "validation" in line}
    assert len(measured) == 3
    best = max(measured, key=lambda step: (measured[step], -int(str(step))))
    assert result.best is not None
    assert ModelBundle.open(result.best).card.provenance["steps"] == best
    assert ModelBundle.open(result.bundle).card.provenance["steps"] == 3
    assert set(lines(tmp_path / "run")[-1]["cases"]) == {"liver_001"}  # type: ignore[call-overload]


def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(Trainer(watched(2, tensorboard=True), small_cases(), CPU), tmp_path, validator=Scripted(iter([0.25, 0.75])))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation/liver")] == [(1, 0.25), (2, 0.75)]
    logged = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)


def test_tensorboard_that_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"partialseg\[train\]"):
        run(Trainer(watched(2, tensorboard=True), small_cases(), CPU), tmp_path)
    assert list(tmp_path.iterdir()) == []
