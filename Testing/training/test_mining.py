"""Hard negatives: what a model finds where a case says that it is not, and windows on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from partial_cases import SPACE, cached_case, tiny_recipe, write_collection

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError, LabelSpaceError
from PartialSegLib.networks import DoDNetParameters
from PartialSegTraining.casesegmenter import CaseSegmenter
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.mining import with_hard_negatives
from PartialSegTraining.recipe import Recipe, SamplingRecipe
from PartialSegTraining.sampling import WindowSampler
from PartialSegTraining.trainer import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def cases() -> list[CachedCase]:
    return [cached_case("colon", ("colon_tumor",)), cached_case("liver", ("liver", "liver_tumor"), seed=1)]


def recipe_of(hard: Mapping[str, float]) -> Recipe:
    return tiny_recipe(hard=hard)


def mined(cases: list[CachedCase], model: ModelBundle, folder: Path, **hard: float) -> list[CachedCase]:
    return with_hard_negatives(cases, recipe_of(hard), model, CPU, folder)


def test_hard_negatives_are_found_by_the_model_and_lie_outside_of_the_mask(
    cases: list[CachedCase], model: ModelBundle, tmp_path: Path
) -> None:
    colon = mined(cases, model, tmp_path, colon=0.5)[0]
    voxels = colon.hard["colon_tumor"]
    assert len(voxels) > 100
    level = cases[0].levels[0].to(CPU)
    z, y, x = voxels.T
    assert not (level.bits.numpy()[z, y, x] & 1).any()
    segmenter = CaseSegmenter(model.load_network(), recipe_of({}), CPU)
    mask = segmenter.masks(level, ("colon_tumor",))["colon_tumor"]
    inside = tuple(slice(at, at + size) for at, size in zip(mask.start, mask.shape, strict=True))
    found = np.zeros(level.shape, bool)
    found[inside] = mask.unpack()
    assert found[z, y, x].all()


def test_what_a_case_does_not_annotate_gives_no_hard_negative(
    cases: list[CachedCase], model: ModelBundle, tmp_path: Path
) -> None:
    colon, liver = mined(cases, model, tmp_path, colon=0.5, lung=0.5)
    assert set(colon.hard) == {"colon_tumor"}, "Lung tumors are unknown in it."
    assert not liver.hard, "Its task is not named."


def test_cases_are_segmented_once(
    cases: list[CachedCase], model: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mined(cases, model, tmp_path, colon=0.5)
    monkeypatch.setattr(CaseSegmenter, "masks", None)
    again = mined(cases, model, tmp_path, colon=0.25)
    np.testing.assert_array_equal(first[0].hard["colon_tumor"], again[0].hard["colon_tumor"])
    with pytest.raises(TypeError):
        mined(cases, model, tmp_path / "elsewhere", colon=0.5)


def test_damaged_hard_negatives_are_named(cases: list[CachedCase], model: ModelBundle, tmp_path: Path) -> None:
    mined(cases, model, tmp_path, colon=0.5)
    (kept,) = tmp_path.glob("*.hard.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(CollectionError, match=r"hard\.npz are damaged.*\n?.*Delete") as problem:
        mined(cases, model, tmp_path, colon=0.5)
    assert str(kept) in str(problem.value)


def test_a_task_that_is_not_there_is_named_when_the_recipe_is_read() -> None:
    with pytest.raises(LabelSpaceError, match="colom"):
        recipe_of({"colom": 0.5})


def test_windows_of_the_task_are_centered_on_hard_negatives() -> None:
    far = np.array([[30, 35, 40]], np.int32)
    case = replace(cached_case("colon", ("colon_tumor",)), hard={"colon_tumor": far})
    recipe = SamplingRecipe(window=(8, 8, 8), batch=4, jitter=0.25, hard={"colon": 1.0})
    for step in range(10):
        for draw in WindowSampler([case], SPACE, recipe, 1).draws(step):
            # A quarter of a window, and half a voxel of rounding.
            assert np.abs(np.array(draw.center) - (far[0] + 0.5)).max() <= 2.5


def test_a_case_without_hard_negatives_has_the_windows_of_any_other() -> None:
    case = cached_case("colon", ("colon_tumor",))
    recipe = SamplingRecipe(window=(8, 8, 8), batch=4, hard={"colon": 1.0})
    draws = [draw for step in range(20) for draw in WindowSampler([case], SPACE, recipe, 1).draws(step)]
    assert len({draw.center for draw in draws}) > 40


def test_mistakes_need_a_model_that_makes_them(tmp_path: Path) -> None:
    write_collection(tmp_path / "collection")
    with pytest.raises(CollectionError, match="--initial MODEL"):
        train(recipe_of({"liver": 0.5}), tmp_path / "collection", tmp_path / "run", device="cpu")


def test_a_training_on_hard_negatives_begins_with_its_model(tmp_path: Path) -> None:
    write_collection(tmp_path / "collection")
    recipe = recipe_of({"liver": 1.0}).with_steps(1)
    initial = random_bundle(tmp_path / "initial", **_like(recipe))
    result = train(recipe, tmp_path / "collection", tmp_path / "run", device="cpu", initial=initial)
    assert result.finished
    assert list((tmp_path / "run" / "hard").glob("*.hard.npz"))


def _like(recipe: Recipe) -> dict[str, object]:
    """What makes a model one that a training with this recipe can begin with."""
    parameters = DoDNetParameters(**recipe.network.parameters)
    return {"parameters": parameters, "preprocessing": recipe.preprocessing, "label_space": recipe.tasks}
