"""Windows are a function of seed and step; tasks, cases and structures take turns as a recipe says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from partial_cases import SPACE, cached_case, cached_cases, tiny_recipe

from PartialSegLib.errors import CollectionError
from PartialSegTraining.augmentation import Augmenter
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import AugmentationRecipe, SamplingRecipe
from PartialSegTraining.sampling import Draw, WindowSampler

WINDOW = (16, 16, 16)
STRATEGIES = SamplingRecipe.STRATEGIES


def sampler(seed: int = 1, cases: list[CachedCase] | None = None, **options: object) -> WindowSampler:
    recipe = SamplingRecipe(window=WINDOW, **{"batch": 7, **options})  # type: ignore[arg-type]
    return WindowSampler(cached_cases() if cases is None else cases, SPACE, recipe, seed)


def draws_of(windows: WindowSampler, steps: int) -> list[Draw]:
    return [draw for step in range(steps) for draw in windows.draws(step)]


def uneven_cases() -> list[CachedCase]:
    """Nine livers, four spleens and one case of both pancreas and pancreas tumor, each a dataset of its own."""
    livers = [cached_case(f"liver{number}", ("liver",), seed=number) for number in range(9)]
    spleens = [cached_case(f"spleen{number}", ("spleen",), seed=number) for number in range(4)]
    return [*livers, *spleens, cached_case("pancreas", ("pancreas", "pancreas_tumor"))]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_windows_of_a_step_do_not_depend_on_the_steps_before(strategy: str) -> None:
    first, second = sampler(strategy=strategy), sampler(strategy=strategy)
    draws_of(first, 5)
    assert first.draws(5) == second.draws(5)
    assert first.draws(5) != first.draws(6)
    assert first.draws(5) != sampler(seed=2, strategy=strategy).draws(5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_case_is_only_asked_for_what_it_annotates(strategy: str) -> None:
    cases = uneven_cases()
    for draw in draws_of(sampler(cases=cases, strategy=strategy), 20):
        assert set(SPACE.tasks[draw.task].structures).intersection(cases[draw.case].structures)


def test_by_case_every_case_comes_as_often() -> None:
    draws = draws_of(sampler(cases=uneven_cases(), strategy="cases"), 10)
    assert Counter(draw.case for draw in draws) == dict.fromkeys(range(14), 5)


def test_a_case_of_a_large_dataset_comes_less_often_by_the_inverse_of_the_root_of_its_size() -> None:
    draws = draws_of(sampler(cases=uneven_cases(), strategy="inverse-sqrt"), 600)
    counts = Counter("liver" if draw.case < 9 else "spleen" if draw.case < 13 else "pancreas" for draw in draws)
    # Datasets of 9, 4 and 1: sqrt(n) of each, 3 : 2 : 1.
    for name, share in (("liver", 3 / 6), ("spleen", 2 / 6), ("pancreas", 1 / 6)):
        assert counts[name] / len(draws) == pytest.approx(share, abs=0.03)


def test_cases_that_annotate_the_same_may_belong_to_different_datasets() -> None:
    livers = [cached_case(f"liver{number}", ("liver",), seed=number) for number in range(5)]
    cases = [replace(case, dataset="small" if at == 4 else "large") for at, case in enumerate(livers)]
    draws = draws_of(sampler(cases=cases, strategy="inverse-sqrt"), 300)
    share = sum(draw.case == 4 for draw in draws) / len(draws)
    assert share == pytest.approx(1 / 3, abs=0.03)


def test_in_round_robin_a_step_belongs_to_one_task_and_tasks_follow_each_other() -> None:
    windows = sampler(cases=uneven_cases(), strategy="round-robin", batch=2)
    tasks = [{SPACE.tasks[draw.task].key for draw in windows.draws(step)} for step in range(6)]
    assert tasks == [{"liver"}, {"pancreas"}, {"spleen"}] * 2
    livers = [draw.case for step in range(0, 27, 3) for draw in windows.draws(step)]
    assert Counter(livers) == dict.fromkeys(range(9), 2)


def test_by_class_rare_structures_come_as_often_as_others() -> None:
    windows = sampler(cases=uneven_cases(), strategy="classes", batch=4, foreground=1.0, jitter=0.0)
    draws = draws_of(windows, 25)
    cases = Counter(draw.case for draw in draws)
    assert [sum(cases[at] for at in group) for group in (range(9), range(9, 13), [13])] == [25, 25, 50]


def test_by_class_the_window_lies_on_the_structure_whose_turn_it_is() -> None:
    case = cached_case("pancreas", ("pancreas", "pancreas_tumor"), shape=(64, 64, 64))
    windows = sampler(cases=[case], strategy="classes", batch=2, foreground=1.0, jitter=0.0)
    inside = Counter(
        bool(case.levels[0].bits[tuple(int(c) for c in draw.center)] >> 1 & 1)  # type: ignore[attr-defined]
        for draw in draws_of(windows, 20)
    )
    # Half of the windows are centered in the tumor, a quarter of the radius of the organ; rounding may miss it.
    assert inside[True] >= 15


def test_an_annotated_structure_that_no_case_shows_gets_no_turn() -> None:
    absent = replace_centers(cached_case("liver", ("liver", "liver_tumor")), "liver_tumor")
    draws = draws_of(sampler(cases=[absent], strategy="classes", batch=1, foreground=1.0), 6)
    assert len(draws) == 6
    with pytest.raises(CollectionError, match="No case shows"):
        sampler(cases=[replace_centers(absent, "liver")], strategy="classes")


def replace_centers(case: CachedCase, key: str) -> CachedCase:
    """The case without a voxel of a structure, which it still annotates."""
    at = case.structures.index(key)
    levels = []
    for level in case.levels:
        centers = list(level.centers)
        centers[at] = centers[at][:0]
        levels.append(replace(level, centers=tuple(centers)))  # type: ignore[type-var]
    return replace(case, levels=tuple(levels))


def on_structure(case: CachedCase, draw: Draw) -> bool:
    """Whether the first structure covers one of the eight voxels about the center of a window."""
    z, y, x = (slice(int(at) - 1, int(at) + 1) for at in draw.center)
    return bool((case.levels[0].cut((z, y, x))[1] & 1).any())


def test_a_set_share_of_each_batch_lies_near_a_structure() -> None:
    """Four windows of which a third: the last one, as in nnU-Net."""
    case = cached_case("liver", ("liver",), shape=(96, 96, 96))
    windows = sampler(cases=[case], batch=4, foreground=0.33, foreground_rule="share", jitter=0.0)
    near = [[on_structure(case, draw) for draw in windows.draws(step)] for step in range(30)]
    assert all(places[3] for places in near)
    assert sum(any(places[:3]) for places in near) < 10


def test_a_structure_can_be_weighed_against_the_others_of_its_case() -> None:
    case = cached_case("liver", ("liver", "liver_tumor"), shape=(64, 64, 64))
    windows = sampler(cases=[case], foreground=1.0, jitter=0.0, structures={"liver": 0.0, "liver_tumor": 2.0})
    bits = [case.levels[0].bits[tuple(int(c) for c in draw.center)] for draw in draws_of(windows, 5)]  # type: ignore[attr-defined]
    assert sum(bool(value >> 1 & 1) for value in bits) >= 30


def test_a_task_may_be_left_out_but_not_every_one() -> None:
    livers = {"tasks": {task.key: 0 for task in SPACE.tasks if task.key != "liver"}}
    assert {SPACE.tasks[draw.task].key for draw in draws_of(sampler(**livers), 3)} == {"liver"}  # type: ignore[arg-type]
    with pytest.raises(CollectionError, match="drawn 0 times"):
        sampler(tasks={task.key: 0 for task in SPACE.tasks})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "dataset"}, "'strategy' is dataset"),
        ({"foreground_rule": "some"}, "'foreground_rule' is some"),
        ({"strategy": "cases", "tasks": {"liver": 2}}, "the strategy is 'cases'"),
        ({"structures": {"liver": -1.0}}, "at least 0 each"),
    ],
)
def test_a_way_of_taking_turns_that_makes_no_sense_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingRecipe(window=WINDOW, batch=1, **options)  # type: ignore[arg-type]


def test_every_task_and_every_case_takes_its_turn() -> None:
    draws = [draw for step in range(10) for draw in sampler().draws(step)]
    assert Counter(draw.task for draw in draws) == dict.fromkeys(range(7), 10)
    assert Counter(draw.case for draw in draws) == dict.fromkeys(range(14), 5)
    assert all(draw.case // 2 == draw.task for draw in draws)


def test_a_task_can_be_drawn_more_often() -> None:
    weighted = sampler(batch=9, tasks={"pancreas": 3})
    counts = Counter(draw.task for draw in weighted.draws(4))
    assert counts[SPACE.task_index("pancreas")] == 3
    assert counts[SPACE.task_index("liver")] == 1


def test_foreground_windows_hold_an_annotated_structure() -> None:
    cases = cached_cases()
    recipe = SamplingRecipe(window=WINDOW, batch=7, foreground=1.0, jitter=0.4)
    draws = WindowSampler(cases, SPACE, recipe, 3).draws(0)
    cut = Augmenter(AugmentationRecipe(), tiny_recipe().preprocessing, SPACE, WINDOW)
    targets = cut.batch(cases, draws).target
    assert all((target == 1.0).any() for target in targets)


def test_windows_stay_inside_a_larger_volume_and_cover_a_smaller_one() -> None:
    large = cached_case("large", ("liver",), shape=(40, 44, 48))
    small = cached_case("small", ("spleen",), shape=(12, 44, 48))
    recipe = SamplingRecipe(window=WINDOW, batch=2, foreground=0.5)
    for step in range(50):
        for draw in WindowSampler([large, small], SPACE, recipe, 5).draws(step):
            shape = (large, small)[draw.case].levels[0].shape
            for center, size, voxels in zip(draw.center, WINDOW, shape, strict=True):
                start, stop = center - size / 2, center + size / 2
                assert (start >= 0 and stop <= voxels) if voxels >= size else (start <= 0 and stop >= voxels)
                assert start == round(start)


def test_a_coarse_window_is_cut_from_the_coarse_volume() -> None:
    assert {draw.level for step in range(10) for draw in sampler(coarse=1.0).draws(step)} == {1}
    assert {draw.level for step in range(10) for draw in sampler(coarse=0.5).draws(step)} == {0, 1}


def test_the_first_steps_are_coarse_and_become_as_fine_as_the_recipe_says() -> None:
    windows = sampler(coarse=0.1, coarse_steps=200)

    def coarse_share(first: int) -> float:
        return float(np.mean([draw.level for step in range(first, first + 30) for draw in windows.draws(step)]))

    assert coarse_share(0) > 0.8
    assert 0.35 < coarse_share(90) < 0.75
    assert coarse_share(400) < 0.25


def test_a_collection_without_a_known_structure_is_refused() -> None:
    recipe = SamplingRecipe(window=WINDOW, batch=1)
    with pytest.raises(CollectionError, match="No case annotates"):
        WindowSampler([cached_case("gall", ("gallbladder",))], SPACE, recipe, 1)
