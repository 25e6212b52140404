"""A recipe names the loss, and every loss trains a network that fits it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from partial_cases import cached_case, cached_cases, tiny_recipe

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cache import CachedCase
from PartialSegTraining.losses import LOSSES, make_loss
from PartialSegTraining.recipe import AugmentationRecipe, LossRecipe, NetworkRecipe, Recipe
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.trainer import Trainer, run

CPU = torch.device("cpu")
SMALLEST = {"channels": [8, 8, 8, 8, 8], "blocks": [1, 1, 1, 1, 1], "groups": 4}
DOMAINS = {"channels": 4, "halvings": [3, 3, 3]}
SUPERVISED = {"features": [8, 8, 8], "kernels": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}

#: Loss -> network that it is for, with its parameters, label space and terms.
PAIRS: dict[str, tuple[str, dict[str, Any], str, list[str]]] = {
    "dodnet": ("DoDNet", SMALLEST, "mots", ["dice", "bce"]),
    "multitalent": ("MultiTalentUNet", SUPERVISED, "mots", ["bce", "dice"]),
    "dice-ce": ("U2Net", DOMAINS, "mots", ["dice", "ce"]),
    "hierarchical": ("U2Net", DOMAINS, "kits21", ["dice", "ce", "hec"]),
    "lovasz-focal": ("U2Net", DOMAINS, "mots", ["lovasz", "focal"]),
    "target-adaptive": ("TAL", SMALLEST, "mots", ["dice", "ce"]),
    "marginal-exclusion": ("TAL", SMALLEST, "mots", ["dice", "ce", "exclusion_dice", "exclusion_ce"]),
}


def recipe_for(loss: str, steps: int = 8) -> Recipe:
    """A recipe for short training on windows that always show something."""
    network, parameters, space, _ = PAIRS[loss]
    recipe = tiny_recipe(batch=2, foreground=1.0, jitter=0.0, coarse=0.0).with_steps(steps)
    return replace(
        recipe,
        label_space=space,
        network=NetworkRecipe(network, parameters),
        loss=LossRecipe(loss),
        augmentation=AugmentationRecipe(),
        optimization=replace(recipe.optimization, learning_rate=1e-2),
    )


def cases_for(loss: str) -> list[CachedCase]:
    """Cases of one task, so that the loss of every step is of the same classes."""
    keys = ("liver", "liver_tumor") if PAIRS[loss][2] == "mots" else ("kidneys", "kidney_tumor", "kidney_cyst")
    places = tuple(str(place) for place in range(len(keys)))
    return [replace(cached_case(f"case{seed}", places, seed=seed), structures=keys) for seed in range(2)]


def test_every_loss_has_a_network() -> None:
    assert set(PAIRS) == set(LOSSES)


def cost(trainer: Trainer, recipe: Recipe) -> float:
    """What the first windows of the training cost with the weights as they are."""
    (windows,), loss = trainer.batches(0), make_loss(recipe.loss.name, recipe.loss.parameters, recipe.tasks)
    with torch.no_grad():
        return loss(
            trainer.state.network.training_outputs(windows.image, windows.task), windows.target, windows.task
        ).total.item()


@pytest.mark.parametrize("loss", PAIRS)
def test_training_lowers_every_loss(tmp_path: Path, loss: str) -> None:
    recipe = recipe_for(loss)
    trainer = Trainer(recipe, cases_for(loss), CPU)
    before = cost(trainer, recipe)
    run(trainer, tmp_path)
    assert cost(trainer, recipe) < before - 0.1
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == recipe.optimization.total_steps
    others = ("step", "loss", "lr", "seconds_per_step", "waiting")
    for line in lines:
        assert [key for key in line if key not in others] == PAIRS[loss][3]
        assert line["loss"] == pytest.approx(sum(line[term] for term in PAIRS[loss][3]), abs=1e-4)


@pytest.mark.parametrize(("loss", "other"), [("target-adaptive", "dodnet"), ("dodnet", "lovasz-focal")])
def test_a_loss_that_does_not_fit_the_network_is_refused_with_those_that_do(loss: str, other: str) -> None:
    recipe = replace(recipe_for(loss), loss=LossRecipe(other))
    with pytest.raises(CollectionError, match=f"Loss '{other}' .* does not fit network .* Losses that do: .*{loss}"):
        Trainer(recipe, cached_cases(), CPU)


def test_the_loss_of_a_recipe_is_read_with_its_parameters(tmp_path: Path) -> None:
    source = Path(load_recipe.__code__.co_filename).parent / "recipes" / "phantom-tiny.toml"
    path = tmp_path / "recipe.toml"
    path.write_text(source.read_text() + '\n[loss]\nname = "multitalent"\n[loss.parameters]\npooling = "sample"\n')
    assert load_recipe(path).loss == LossRecipe("multitalent", {"pooling": "sample"})


def test_a_recipe_that_names_the_default_loss_is_the_same_recipe() -> None:
    """Checkpoints from before losses had names go on; the digest is that of a recipe without one."""
    recipe = tiny_recipe(batch=2)
    assert recipe.digest == "9d3074d2daa25239eb420a82"
    assert replace(recipe, loss=LossRecipe("dodnet")).digest == recipe.digest
    assert replace(recipe, loss=LossRecipe("multitalent")).digest != recipe.digest


def test_an_unknown_loss_is_refused_before_training() -> None:
    recipe = replace(recipe_for("dodnet"), loss=LossRecipe("dodnett"))
    with pytest.raises(CollectionError, match="no loss 'dodnett'"):
        Trainer(recipe, cached_cases(), CPU)
