"""Windows are a function of seed and step; the tasks take turns; what is unknown stays unknown."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from partial_cases import SPACE, cached_case, cached_cases, tiny_recipe

from PartialSegLib.errors import CollectionError
from PartialSegTraining.augmentation import Augmenter, Change, rotation_matrix
from PartialSegTraining.losses import UNKNOWN
from PartialSegTraining.recipe import AugmentationRecipe, SamplingRecipe
from PartialSegTraining.sampling import Draw, WindowSampler

WINDOW = (16, 16, 16)
PLAIN = AugmentationRecipe()
PREPROCESSING = tiny_recipe().preprocessing


def augmenter(recipe: AugmentationRecipe = PLAIN, window: tuple[int, int, int] = WINDOW) -> Augmenter:
    return Augmenter(recipe, PREPROCESSING, SPACE, window)


def sampler(seed: int = 1, **options: object) -> WindowSampler:
    recipe = SamplingRecipe(window=WINDOW, **{"batch": 7, **options})  # type: ignore[arg-type]
    return WindowSampler(cached_cases(), SPACE, recipe, seed)


def test_the_windows_of_a_step_do_not_depend_on_the_steps_before() -> None:
    first, second = sampler(), sampler()
    for step in range(5):
        first.draws(step)
    assert first.draws(5) == second.draws(5)
    assert first.draws(5) != first.draws(6)
    assert first.draws(5) != sampler(seed=2).draws(5)


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
    targets = augmenter().batch(cases, draws).target
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


def test_an_unchanged_window_is_cut_exactly() -> None:
    case = cached_case("case", ("liver", "liver_tumor"))
    batch = augmenter().batch([case], [Draw(0, 0, 0, (20.0, 22.0, 24.0))])
    level = case.levels[0]
    box = (slice(12, 28), slice(14, 30), slice(16, 32))
    torch.testing.assert_close(batch.image[0, 0], level.volume[box].float(), atol=1e-5, rtol=0)
    for channel in range(2):
        np.testing.assert_array_equal(batch.target[0, channel].numpy(), (level.bits[box] >> channel & 1).numpy())


def test_beyond_the_volume_there_is_air_and_nothing_annotated() -> None:
    case = cached_case("case", ("liver", "liver_tumor"), shape=(8, 44, 48))
    batch = augmenter().batch([case], [Draw(0, 0, 0, (4.0, 22.0, 24.0))])
    assert torch.allclose(batch.image[0, 0, :4], torch.tensor(-1.0))
    assert torch.allclose(batch.image[0, 0, 12:], torch.tensor(-1.0))
    assert batch.target[0, :, :4].max() == 0.0
    assert batch.target[0, 0, 4:12].max() == 1.0


@pytest.mark.parametrize(
    ("keys", "task", "unknown"),
    [
        (("spleen",), "spleen", [1]),
        (("colon_tumor",), "colon", [0]),
        (("liver",), "liver", [1]),
        (("liver_tumor",), "liver", [0]),
        (("liver", "liver_tumor"), "liver", []),
    ],
)
def test_only_annotated_channels_have_a_target(keys: tuple[str, ...], task: str, unknown: list[int]) -> None:
    case = cached_case("case", keys)
    target = augmenter().batch([case], [Draw(0, SPACE.task_index(task), 0, (20.0, 22.0, 24.0))]).target[0]
    for channel in range(2):
        values = set(target[channel].unique().tolist())
        assert values == ({UNKNOWN} if channel in unknown else {0.0, 1.0})


def test_mirroring_turns_image_and_target_alike() -> None:
    case = cached_case("case", ("liver", "liver_tumor"))
    draw = Draw(0, 0, 0, (20.0, 22.0, 26.0))
    plain = augmenter().batch([case], [draw])
    mirrored = augmenter().batch([case], [draw], [Change(np.diag([1.0, 1.0, -1.0]))])
    torch.testing.assert_close(mirrored.image, plain.image.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored.target, plain.target.flip(-1))


def test_a_magnified_structure_covers_more_of_the_window() -> None:
    case = cached_case("case", ("liver", "liver_tumor"), shape=(64, 64, 64))
    draw = Draw(0, 0, 0, (32.0, 32.0, 32.0))
    large = augmenter(window=(48, 48, 48))
    plain = large.batch([case], [draw]).target[0, 0].sum().item()
    magnified = large.batch([case], [draw], [Change(np.eye(3) / 1.25)]).target[0, 0].sum().item()
    assert magnified / plain == pytest.approx(1.25**3, rel=0.05)


def test_a_rotation_by_a_right_angle_moves_voxels_onto_voxels() -> None:
    case = cached_case("case", ("liver", "liver_tumor"))
    draw = Draw(0, 0, 0, (20.0, 22.0, 24.0))
    plain = augmenter().batch([case], [draw])
    turned = augmenter().batch([case], [draw], [Change(rotation_matrix(np.array([np.pi / 2, 0.0, 0.0])))])
    expected = plain.image[0, 0].rot90(-1, (1, 2))
    torch.testing.assert_close(turned.image[0, 0], expected, atol=1e-4, rtol=0)


def test_intensities_never_leave_the_range_that_the_network_sees() -> None:
    case = cached_case("case", ("liver",))
    change = Change(np.eye(3), noise=0.5, blur=1.0, low_resolution=0.5, brightness=0.3, contrast=1.5, gamma=0.7)
    torch.manual_seed(0)
    batch = augmenter().batch([case], [Draw(0, 0, 0, (20.0, 22.0, 24.0))], [change])
    assert batch.image.min() >= -1.0
    assert batch.image.max() <= 1.0
    assert batch.image.std() > 0.1


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_smoothing_keeps_the_mean_and_lowers_the_contrast(name: str) -> None:
    case = cached_case("case", ("liver",))
    draw = Draw(0, 0, 0, (20.0, 22.0, 24.0))
    plain = augmenter().batch([case], [draw]).image
    smooth = augmenter().batch([case], [draw], [Change(np.eye(3), **{name: 0.8})]).image  # type: ignore[arg-type]
    assert smooth.mean().item() == pytest.approx(plain.mean().item(), abs=0.02)
    assert smooth.diff(dim=-1).abs().mean() < plain.diff(dim=-1).abs().mean()


def test_changes_are_drawn_within_their_ranges_and_at_their_probability() -> None:
    recipe = tiny_recipe().augmentation
    changes = [augmenter(recipe).draw(np.random.default_rng(number)) for number in range(400)]
    gammas = [change.gamma for change in changes]
    assert 0.4 < np.mean([gamma != 1.0 for gamma in gammas]) < 0.6
    assert min(gammas) >= 0.8
    assert max(gammas) <= 1.25
    scales = [abs(np.linalg.det(change.matrix)) ** (1 / 3) for change in changes]
    assert min(scales) >= 1 / 1.25 - 1e-6
    assert max(scales) <= 1 / 0.8 + 1e-6
    assert 0.03 < np.mean([np.linalg.det(change.matrix) < 0 for change in changes]) < 0.2


def test_without_augmentation_nothing_changes() -> None:
    change = augmenter().draw(np.random.default_rng(0))
    np.testing.assert_allclose(change.matrix, np.eye(3))
    strengths = (change.noise, change.blur, change.low_resolution, change.brightness, change.contrast, change.gamma)
    assert strengths == (0.0, 0.0, 1.0, 0.0, 1.0, 1.0)
