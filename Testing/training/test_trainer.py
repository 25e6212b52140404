"""A training can be interrupted anywhere and goes on exactly; only what is annotated is learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from partial_cases import cached_case, cached_cases, same_weights, short_recipe, tiny_recipe, write_collection

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.networks import DoDNetParameters
from PartialSegLib.progress import Monitor, Progress
from PartialSegTraining.losses import make_loss
from PartialSegTraining.recipe import OptimizationRecipe
from PartialSegTraining.recipefiles import load_recipe, recipe_names
from PartialSegTraining.schedules import averaging_decay, learning_rate, rates
from PartialSegTraining.state import load_checkpoint, new_state, start_from
from PartialSegTraining.trainer import Trainer, choose_device, run, train

CPU = torch.device("cpu")


def cancelling(step: int) -> Monitor:
    """A monitor that is cancelled while the given training step is reported."""

    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == step:
            monitor.cancel()

    monitor = Monitor(report)
    return monitor


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "momentum": 0.99, "weight_decay": 3e-5, "accumulation": 2},
        {"optimizer": "sgd", "head": ("controller.",), "head_warmup_steps": 4, "clip_norm": 0.1},
    ],
    ids=["adamw", "sgd in parts", "head first"],
)
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, options: dict[str, object]) -> None:
    recipe, cases = short_recipe(**options), cached_cases()
    whole = Trainer(recipe, cases, CPU)
    run(whole, tmp_path / "whole")

    interrupted = Trainer(recipe, cases, CPU)
    with pytest.raises(CancelledError, match="to go on"):
        run(interrupted, tmp_path / "parts", monitor=cancelling(3))
    torch.rand(100)  # Whatever else draws random numbers in between has no influence.
    resumed = Trainer(recipe, cases, CPU)
    load_checkpoint(resumed.state, recipe, tmp_path / "parts" / "checkpoint.pt")
    assert 3 <= resumed.state.step < recipe.optimization.total_steps
    run(resumed, tmp_path / "parts")

    assert resumed.state.step == whole.state.step == recipe.optimization.total_steps
    assert same_weights(resumed.state.network, whole.state.network)
    assert same_weights(resumed.state.average, whole.state.average)
    assert not same_weights(whole.state.average, whole.state.network)


def test_a_time_limit_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    recipe, cases = short_recipe(), cached_cases()
    stopped = Trainer(recipe, cases, CPU)
    run(stopped, tmp_path, deadline=-math.inf)
    resumed = Trainer(recipe, cases, CPU)
    load_checkpoint(resumed.state, recipe, tmp_path / "checkpoint.pt")
    assert resumed.state.step == 0
    run(resumed, tmp_path)
    assert resumed.state.step == recipe.optimization.total_steps


def test_the_gradient_of_a_step_in_parts_is_the_mean_over_the_parts() -> None:
    plan = {"accumulation": 2, "clip_norm": 1e9, "optimizer": "sgd"}
    recipe = short_recipe(**plan)
    recipe = replace(recipe, sampling=replace(recipe.sampling, batch=4))
    trainer = Trainer(recipe, cached_cases(), CPU)
    parts = [Trainer(recipe, cached_cases(), CPU) for _ in range(2)]
    batches = list(trainer.batches(0))
    assert [len(batch.image) for batch in batches] == [2, 2]
    for other, batch in zip(parts, batches, strict=True):
        loss = make_loss(recipe.loss.name, recipe.loss.parameters, recipe.tasks)
        outputs = other.state.network.training_outputs(batch.image, batch.task)
        loss(outputs, batch.target, batch.task).total.backward()
    trainer.step()
    for name, weight in trainer.state.network.named_parameters():
        gradients = [other.state.network.get_parameter(name).grad for other in parts]
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, torch.stack([g for g in gradients if g is not None]).sum(0) / 2)


def test_a_long_gradient_is_shortened() -> None:
    trainer = Trainer(short_recipe(clip_norm=1e-3), cached_cases(), CPU)
    trainer.step()
    gradients = [weight.grad for weight in trainer.state.network.parameters() if weight.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-3, rel=1e-3)


def test_stochastic_gradient_descent_is_nesterovs_and_decays_kernels_only() -> None:
    state = new_state(short_recipe(optimizer="sgd", momentum=0.99, weight_decay=3e-5), CPU)
    kernels, others = state.optimizer.param_groups
    assert isinstance(state.optimizer, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.99 for group in (kernels, others))
    assert (kernels["weight_decay"], others["weight_decay"]) == (3e-5, 0.0)
    assert {weight.dim() for weight in others["params"]} == {1}
    assert len(kernels["params"]) + len(others["params"]) == len(list(state.network.parameters()))


def test_the_memory_layout_of_the_activations_changes_nothing_but_rounding() -> None:
    trainers = [Trainer(short_recipe(channels_last=last), cached_cases(), CPU) for last in (False, True)]
    losses = [trainer.step().total.item() for trainer in trainers]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_head_learns_alone_at_first() -> None:
    """From random heads come gradients that would spoil good features."""
    recipe = short_recipe(head=("controller.",), head_warmup_steps=2, head_learning_rate=0.1)
    trainer = Trainer(recipe, cached_cases(), CPU)
    for step in range(3):
        before = {name: weight.detach().clone() for name, weight in trainer.state.network.named_parameters()}
        trainer.step()
        moved = {
            name.split(".")[0]
            for name, weight in trainer.state.network.named_parameters()
            if not torch.equal(weight.detach(), before[name])
        }
        assert (moved == {"controller"}) == (step < 2)
        assert "controller" in moved


def test_a_head_that_the_network_does_not_have_is_refused() -> None:
    recipe = short_recipe(head=("seg_outputs.",), head_warmup_steps=2)
    with pytest.raises(CollectionError, match=r"begins with 'seg_outputs.'.*controller"):
        new_state(recipe, CPU)


def test_a_training_goes_from_files_to_a_bundle_over_an_interruption(tmp_path: Path) -> None:
    collection, recipe = write_collection(tmp_path / "collection", cases=2), short_recipe()
    whole = train(recipe, collection, tmp_path / "whole", device="cpu")
    assert whole.finished
    with pytest.raises(CancelledError):
        train(recipe, collection, tmp_path / "parts", device="cpu", monitor=cancelling(2))
    stopped = train(recipe, collection, tmp_path / "parts", device="cpu", max_minutes=0.0)
    assert not stopped.finished
    resumed = train(recipe, collection, tmp_path / "parts", device="cpu")

    first, second = ModelBundle.open(whole.bundle), ModelBundle.open(resumed.bundle)
    assert first.card == second.card
    assert first.card.weights["sha256"] == second.card.weights["sha256"]
    assert first.card.window == recipe.sampling.window
    assert first.card.preprocessing == recipe.preprocessing
    assert first.card.provenance["annotated_cases_per_task"]["liver"] == 2
    assert first.card.provenance["annotated_cases_per_task"]["spleen"] == 0
    assert same_weights(first.load_network(), second.load_network())


def test_a_restarted_training_ignores_the_checkpoint(tmp_path: Path) -> None:
    collection, recipe = write_collection(tmp_path / "collection", cases=1), short_recipe(2)
    train(recipe, collection, tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "log.jsonl").read_text()
    train(recipe, collection, tmp_path / "run", device="cpu", resume=False)
    losses = [
        [json.loads(line)["loss"] for line in text.splitlines()]
        for text in (before, (tmp_path / "run" / "log.jsonl").read_text())
    ]
    assert losses[0] == losses[1]


def test_a_restarted_training_has_no_best_model_of_the_one_before(tmp_path: Path) -> None:
    collection, recipe = write_collection(tmp_path / "collection", cases=2), short_recipe(2)
    watched = replace(recipe, monitoring=replace(recipe.monitoring, validation_cases=1, validate_every=1))
    assert train(watched, collection, tmp_path / "run", device="cpu").best is not None
    assert train(recipe, collection, tmp_path / "run", device="cpu", resume=False).best is None


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    recipe = replace(short_recipe(30, learning_rate=5e-3), augmentation=type(tiny_recipe().augmentation)())
    recipe = replace(recipe, sampling=replace(recipe.sampling, batch=7, foreground=1.0, coarse=0.0))
    run(Trainer(recipe, cached_cases(), CPU), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_what_a_case_does_not_annotate_has_no_influence_on_the_training() -> None:
    """Two trainings whose cases differ only in structures that their tasks do not annotate are the same one."""
    recipe = short_recipe(3)
    recipe = replace(recipe, sampling=replace(recipe.sampling, foreground=0.0))
    known = [cached_case("a", ("spleen",)), cached_case("b", ("colon_tumor",))]
    # Task 'spleen' has no second channel and 'colon' no first: a mask that belongs to no task changes nothing.
    more = [cached_case("a", ("spleen", "stomach")), cached_case("b", ("colon_tumor", "stomach"))]
    for one, other in zip(known, more, strict=True):
        for level, rich in zip(one.levels, other.levels, strict=True):
            rich.volume.copy_(level.volume)
    trainers = [Trainer(recipe, cases, CPU) for cases in (known, more)]
    for _ in range(3):
        for trainer in trainers:
            trainer.step()
    assert same_weights(trainers[0].state.network, trainers[1].state.network)


def test_a_structure_that_no_case_annotates_keeps_its_first_head(tmp_path: Path) -> None:
    """Without weight decay, the rows of the controller that make the tumor channel are never moved."""
    recipe = short_recipe(3, weight_decay=0.0)
    cases = [cached_case(f"case{number}", ("spleen",), seed=number) for number in range(2)]
    trainer = Trainer(recipe, cases, CPU)
    before = trainer.state.network.get_parameter("controller.weight").detach().clone()
    run(trainer, tmp_path)
    after = trainer.state.network.get_parameter("controller.weight").detach()
    tumor, organ = [*range(136, 144), 161], [*range(128, 136), 160]
    assert torch.equal(after[tumor], before[tumor])
    assert not torch.equal(after[organ], before[organ])


def test_the_log_of_an_interrupted_training_has_every_step_once(tmp_path: Path) -> None:
    recipe, cases = short_recipe(), cached_cases()
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    trainer = Trainer(recipe, cases, CPU)
    trainer.state.step = 3
    run(trainer, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 4, 5, 6]


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(step, peak=0.1, total_steps=100, warmup_steps=10) for step in range(101)]
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert all(later > earlier for earlier, later in pairwise(rates[:11]))
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[100] == 0.0
    # Without a warm-up it is DoDNet's: (1 - t)^0.9.
    assert learning_rate(250, peak=0.01, total_steps=1000) == pytest.approx(0.01 * 0.75**0.9)


def test_the_head_warms_up_before_everything_else() -> None:
    plan = OptimizationRecipe(100, 0.01, head=("head",), head_warmup_steps=10, head_learning_rate=0.5, warmup_steps=20)
    made = [rates(step, plan) for step in range(101)]
    assert all(rate.body == 0.0 for rate in made[:10])
    assert [rate.head for rate in made[:10]] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert all(rate.body == rate.head for rate in made[10:])
    assert max(rate.body for rate in made) == made[30].body == pytest.approx(0.01)
    assert made[100].body == 0.0


def test_the_weight_average_forgets_the_random_start() -> None:
    assert averaging_decay(1, 0.999) < 0.2
    assert averaging_decay(10**6, 0.999) == 0.999


def test_a_window_whose_coarsest_map_is_a_voxel_is_refused_where_norms_average_over_space() -> None:
    recipe = load_recipe("phantom-multitalent-swinunetr")
    pytest.importorskip("monai")
    with pytest.raises(CollectionError, match="a single voxel"):
        Trainer(replace(recipe, sampling=replace(recipe.sampling, window=(32, 32, 32))), cached_cases(), CPU)


def test_a_window_that_does_not_fit_the_network_is_refused() -> None:
    recipe = tiny_recipe()
    odd = replace(recipe, sampling=replace(recipe.sampling, window=(16, 16, 24)))
    with pytest.raises(CollectionError, match="multiples of"):
        Trainer(odd, cached_cases(), CPU)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(CollectionError, match="no device 'abacus'"):
        choose_device("abacus")


def test_every_recipe_of_the_repository_is_valid() -> None:
    assert {"phantom-dodnet", "phantom-tiny"} <= set(recipe_names())
    for name in recipe_names():
        # The parts of one training (phantom-dodnet-2) make a model of the same name.
        assert name.startswith(load_recipe(name).name)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("batch = 2", "bach = 2", "did you mean 'batch'"),
        ("batch = 2", "batch = true", "batch is True"),
        ("batch = 2", "batch = 2.5", "batch is 2.5"),
        ("batch = 2", "", "lacks 'batch'"),
        ("batch = 2", "batch =", "Invalid value"),
        ("[32, 32, 32]", "[32, 32]", "has 2 values, but takes 3"),
        ("total_steps = 12", "total_steps = 0", "'total_steps' is 0"),
        ("total_steps = 12", "total_steps = 12\naccumulation = 3", "'accumulation' has to divide the 2 windows"),
        ("total_steps = 12", "total_steps = 12\nhead_warmup_steps = 3", "'head_warmup_steps' needs 'head'"),
        ("total_steps = 12", "total_steps = 12\nhead_warmup_steps = 11", "'head_warmup_steps' is 11"),
        ("coarse_spacing = [12.0, 12.0, 12.0]", "", "needs preprocessing.coarse_spacing"),
        ('label_space = "mots"', 'label_space = "motz"', "no label space named 'motz'"),
        ("coarse = 0.2", "coarse = 0.2\ntasks = { livre = 2 }", "Unknown task 'livre'"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    source = Path(load_recipe.__code__.co_filename).parent / "recipes" / "phantom-tiny.toml"
    text = source.read_text()
    assert right in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(right, wrong))
    with pytest.raises(CollectionError, match=message):
        load_recipe(path)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(CollectionError, match="phantom-tiny"):
        load_recipe("phantom-tinny")


def test_a_training_can_begin_with_an_existing_model_and_says_so(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "collection")
    recipe = short_recipe(steps=1)
    parent = ModelBundle.open(train(recipe, collection, tmp_path / "first", device="cpu").bundle)
    state = new_state(recipe, CPU)
    start_from(state, recipe, parent)
    assert same_weights(state.network, parent.load_network())
    child = ModelBundle.open(train(recipe, collection, tmp_path / "second", device="cpu", initial=parent).bundle)
    assert child.card.provenance["parent"]["sha256"] == parent.card.weights["sha256"]
    assert not same_weights(child.load_network(), parent.load_network())
    # Whoever goes on need not say again what it began with.
    longer = ModelBundle.open(train(short_recipe(steps=2), collection, tmp_path / "second", device="cpu").bundle)
    assert longer.card.provenance["parent"] == child.card.provenance["parent"]


def test_a_model_of_another_network_is_no_beginning(tmp_path: Path) -> None:
    recipe = short_recipe()
    with pytest.raises(CollectionError, match="another network"):
        start_from(new_state(recipe, CPU), recipe, random_bundle(tmp_path / "other", DoDNetParameters()))
