"""Every recipe of the repository is one that can be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from partial_cases import cached_case

from bundles import bundle_of
from PartialSegLib.errors import CollectionError
from PartialSegLib.networks import U2Net, build_network
from PartialSegLib.networks.u2net.domains import domain_weights
from PartialSegTraining.cache import CachedCase
from PartialSegTraining.losses import make_loss
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.recipefiles import load_recipe, recipe_names
from PartialSegTraining.state import new_state, start_from
from PartialSegTraining.trainer import Trainer

CPU = torch.device("cpu")
PHANTOMS = [
    name for name in recipe_names() if name.startswith("phantom-") and "dodnet" not in name and "tiny" not in name
]
PUBLISHED = [name for name in recipe_names() if not name.startswith("phantom-")]

#: Weights that the papers and the released networks have.
WEIGHTS = {
    "dodnet-mots": 17_329_528,
    "multi-head-mots": 18_883_790,
    "multitalent-unet": 29_319_560,
    "multitalent-resenc": 69_335_475,
}


def cases_of(recipe: Recipe, count: int = 1) -> list[CachedCase]:
    """So many cases of each task that the recipe trains, each annotated for that task alone."""
    tasks = [task for task in recipe.tasks.tasks if recipe.sampling.tasks.get(task.key, 1)]
    return [
        cached_case(f"{task.key}{number}", task.structures, seed=number, shape=(32, 32, 64))
        for task in tasks
        for number in range(count)
    ]


def small(name: str) -> Recipe:
    """A phantom recipe with the smallest windows that all networks take."""
    recipe = load_recipe(name)
    sampling = replace(recipe.sampling, window=(32, 32, 64), batch=2)
    return replace(recipe, sampling=sampling).with_steps(2)


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_recipe_makes_a_step_that_changes_weights(name: str) -> None:
    if "swinunetr" in name:
        pytest.importorskip("monai")
        pytest.importorskip("einops")
    recipe = small(name)
    recipe = replace(recipe, optimization=replace(recipe.optimization, warmup_steps=0))
    trainer = Trainer(recipe, cases_of(recipe), CPU)
    before = {key: value.clone() for key, value in trainer.state.network.state_dict().items()}
    loss = trainer.step()
    assert torch.isfinite(loss.total)
    assert loss.total > 0
    after = trainer.state.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_fits_network_loss_and_window(name: str) -> None:
    recipe = load_recipe(name)
    loss = make_loss(recipe.loss.name, recipe.loss.parameters, recipe.tasks)
    if "swinunetr" in name:
        pytest.importorskip("monai")
        pytest.importorskip("einops")
        network = build_network(recipe.network.name, recipe.network.parameters, recipe.tasks)
    else:
        # Shapes alone: the networks are of full size.
        with torch.device("meta"):
            network = build_network(recipe.network.name, recipe.network.parameters, recipe.tasks)
    assert all(size % step == 0 for size, step in zip(recipe.sampling.window, network.divisor, strict=True))
    assert loss.channels >= max(len(task.structures) for task in recipe.tasks.tasks)
    if name in WEIGHTS:
        assert sum(weight.numel() for weight in network.parameters()) == WEIGHTS[name]


@pytest.mark.parametrize("name", [name for name in PHANTOMS if "kits21" not in name and "u2net-" not in name])
def test_systems_that_are_compared_differ_in_network_and_loss_alone(name: str) -> None:
    base, recipe = load_recipe("phantom-benchmark"), load_recipe(name)
    if name == "phantom-multitalent-swinunetr":
        # Windows of twice the size, half as many: as many voxels a step.
        assert recipe.sampling.batch * np.prod(recipe.sampling.window) == base.sampling.batch * np.prod(
            base.sampling.window
        )
        recipe = replace(recipe, sampling=base.sampling)
    assert replace(recipe, name=base.name, card=base.card, network=base.network, loss=base.loss) == base


def test_another_network_does_not_inherit_the_parameters_of_its_base() -> None:
    assert load_recipe("kits21-transfer").loss.parameters == {}
    assert "channels" not in load_recipe("phantom-multitalent-unet").network.parameters


def test_an_option_without_a_value_is_said_in_words() -> None:
    assert load_recipe("multitalent-unet").preprocessing.body_threshold is None


def test_a_new_domain_leaves_what_other_domains_use_untouched() -> None:
    recipe = small("phantom-u2net-new-domain")
    trainer = Trainer(recipe, cases_of(recipe), CPU)
    network = trainer.state.network
    assert isinstance(network, U2Net)
    own = {id(weight) for weight in domain_weights(network, recipe.tasks.task_index("spleen"))}
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    trainer.step()
    trainer.step()
    changed = {name for name, weight in network.named_parameters() if not torch.equal(before[name], weight)}
    assert changed
    assert all(id(weight) in own for name, weight in network.named_parameters() if name in changed)


def test_a_transfer_begins_with_the_pretrained_backbone_and_a_layer_of_its_own(tmp_path: Path) -> None:
    pretraining, recipe = small("phantom-kits21-pretraining"), small("phantom-kits21-transfer")
    pretrained = new_state(pretraining, CPU).network
    bundle = bundle_of(tmp_path / "pretrained", "KiTS21Pretraining", pretrained)
    state, fresh = new_state(recipe, CPU), new_state(recipe, CPU).network.state_dict()
    start_from(state, recipe, bundle)
    theirs = pretrained.state_dict()
    for network in (state.network, state.average):
        weights = network.state_dict()
        shared = [name for name in weights if name.startswith("backbone.")]
        assert shared
        assert all(torch.equal(weights[name], theirs[name]) for name in shared)
        assert all(torch.equal(weights[name], fresh[name]) for name in weights if name not in shared)


def test_a_backbone_of_another_size_is_not_transferred(tmp_path: Path) -> None:
    pretraining, recipe = small("phantom-kits21-pretraining"), small("phantom-kits21-transfer")
    larger = replace(pretraining.network, parameters={**pretraining.network.parameters, "stem": 16})
    pretrained = new_state(replace(pretraining, network=larger), CPU).network
    bundle = bundle_of(tmp_path / "pretrained", "KiTS21Pretraining", pretrained)
    with pytest.raises(CollectionError, match="another network"):
        start_from(new_state(recipe, CPU), recipe, bundle)


def test_a_network_without_weights_of_a_task_cannot_train_one_alone() -> None:
    recipe = small("phantom-benchmark")
    alone = replace(recipe, network=replace(recipe.network, trained_task="spleen"))
    with pytest.raises(CollectionError, match="DoDNet"):
        Trainer(alone, cases_of(alone), CPU)


def with_rules(tmp_path: Path, rules: str) -> Recipe:
    """A recipe that is `phantom-tiny` but for its post-processing."""
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "phantom-tiny"\n\n[rules]\n{rules}\n')
    return load_recipe(path)


def test_the_rules_of_a_recipe_are_those_of_its_model(tmp_path: Path) -> None:
    rules = 'colon = [{op = "drop_small", structure = "colon_tumor"}]'
    recipe, plain = with_rules(tmp_path, rules), load_recipe("phantom-tiny")
    found = {task.key: [rule.op for rule in task.rules] for task in recipe.tasks.tasks}
    usual = {task.key: [rule.op for rule in task.rules] for task in plain.tasks.tasks}
    assert found == {**usual, "colon": ["drop_small"]} != usual
    assert recipe.digest == plain.digest, "a training may go on with other rules"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ('colom = [{op = "drop_small", structure = "colon_tumor"}]', "colom"),
        ('colon = [{op = "drop_small", structure = "colon_tumour"}]', "colon_tumour"),
        ('colon = [{op = "dropsmall", structure = "colon_tumor"}]', "dropsmall"),
        ('colon = [{op = "keep_largest", structure = "colon_tumor", connectivity = 7}]', "one of 6, 18, 26"),
        ('colon = [{op = "keep_largest"}]', "lacks 'structure'"),
    ],
)
def test_a_rule_that_cannot_be_is_named(tmp_path: Path, rules: str, words: str) -> None:
    with pytest.raises(CollectionError, match=words):
        with_rules(tmp_path, rules)
