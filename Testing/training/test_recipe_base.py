"""A recipe that says only what it does otherwise than its base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from PartialSegLib.errors import CollectionError
from PartialSegTraining.recipefiles import load_recipe


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_has_all_options_of_its_base_but_its_own(tmp_path: Path) -> None:
    base = load_recipe("phantom-tiny")
    own = load_recipe(write(tmp_path / "own.toml", 'base = "phantom-tiny"\n[optimization]\nlearning_rate = 0.5\n'))
    assert own == replace(base, optimization=replace(base.optimization, learning_rate=0.5))


def test_bases_have_bases(tmp_path: Path) -> None:
    options = "[optimization]\nseed = 3\n[sampling]\njitter = 0.1\n"
    first = write(tmp_path / "first.toml", f"base = 'phantom-tiny'\n{options}")
    second = write(tmp_path / "second.toml", f"base = '{first.name}'\n[sampling]\njitter = 0.2\n")
    recipe = load_recipe(second)
    assert (recipe.optimization.seed, recipe.sampling.jitter) == (3, 0.2)


def test_a_task_that_is_drawn_once_is_no_other_recipe() -> None:
    recipe = load_recipe("phantom-tiny")
    said = replace(recipe, sampling=replace(recipe.sampling, tasks={**recipe.sampling.tasks, "liver": 1}))
    more = replace(recipe, sampling=replace(recipe.sampling, tasks={**recipe.sampling.tasks, "liver": 3}))
    assert said.digest == recipe.digest != more.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [("base = 'none'", "no recipe 'none'"), ("base = '{0}'", "its own base"), ("base = 3", "'base' is 3")],
)
def test_a_wrong_base_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    with pytest.raises(CollectionError, match=message):
        load_recipe(write(path, text.format(path)))
