"""Windows are cut exactly and changed as a recipe says; what is unknown stays unknown, in a mirror too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from partial_cases import SPACE, cached_case, tiny_recipe

from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import MissingExtraError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.augmentation import Augmenter, Change, lists, rotation_matrix
from PartialSegTraining.augmentation.sides import is_mirrored, mirrored_key
from PartialSegTraining.losses import UNKNOWN
from PartialSegTraining.recipe import AugmentationRecipe, Chance
from PartialSegTraining.sampling import Draw

WINDOW = (16, 16, 16)
PLAIN = AugmentationRecipe()
PREPROCESSING = tiny_recipe().preprocessing
BTCV = LabelSpace.named("btcv")
#: A window in the middle of the case that cached_case() makes.
MIDDLE = Draw(0, 0, 0, (20.0, 22.0, 24.0))
MIRROR = np.diag([1.0, 1.0, -1.0])


def augmenter(
    recipe: AugmentationRecipe = PLAIN,
    window: tuple[int, int, int] = WINDOW,
    preprocessing: Preprocessing = PREPROCESSING,
    space: LabelSpace = SPACE,
) -> Augmenter:
    return Augmenter(recipe, preprocessing, space, window)


def test_an_unchanged_window_is_cut_exactly() -> None:
    case = cached_case("case", ("liver", "liver_tumor"))
    batch = augmenter().batch([case], [MIDDLE])
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
    mirrored = augmenter().batch([case], [draw], [Change(MIRROR)])
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
    draw = MIDDLE
    plain = augmenter().batch([case], [draw])
    turned = augmenter().batch([case], [draw], [Change(rotation_matrix(np.array([np.pi / 2, 0.0, 0.0])))])
    expected = plain.image[0, 0].rot90(-1, (1, 2))
    torch.testing.assert_close(turned.image[0, 0], expected, atol=1e-4, rtol=0)


def test_intensities_never_leave_the_range_that_the_network_sees() -> None:
    case = cached_case("case", ("liver",))
    change = Change(np.eye(3), noise=0.5, blur=1.0, low_resolution=0.5, brightness=0.3, contrast=1.5, gamma=0.7)
    torch.manual_seed(0)
    batch = augmenter().batch([case], [MIDDLE], [change])
    assert batch.image.min() >= -1.0
    assert batch.image.max() <= 1.0
    assert batch.image.std() > 0.1


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_smoothing_keeps_the_mean_and_lowers_the_contrast(name: str) -> None:
    case = cached_case("case", ("liver",))
    draw = MIDDLE
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


def test_in_a_mirrored_window_left_and_right_change_places() -> None:
    case = cached_case("case", ("left_kidney", "right_kidney"))
    cut, left, right = augmenter(space=BTCV), *(BTCV.tasks[0].channels.index(f"{s}_kidney") for s in ("left", "right"))
    plain = cut.batch([case], [MIDDLE]).target[0]
    mirrored = cut.batch([case], [MIDDLE], [Change(MIRROR)]).target[0]
    assert not torch.equal(plain[left], plain[right])
    torch.testing.assert_close(mirrored[left], plain[right].flip(-1))
    torch.testing.assert_close(mirrored[right], plain[left].flip(-1))


def test_the_mirror_image_of_a_side_that_was_not_annotated_is_unknown() -> None:
    case = cached_case("case", ("left_kidney",))
    cut, left, right = augmenter(space=BTCV), *(BTCV.tasks[0].channels.index(f"{s}_kidney") for s in ("left", "right"))
    mirrored = cut.batch([case], [MIDDLE], [Change(MIRROR)]).target[0]
    assert set(mirrored[left].unique().tolist()) == {UNKNOWN}
    assert set(mirrored[right].unique().tolist()) == {0.0, 1.0}


def test_a_body_turned_upside_down_keeps_its_sides() -> None:
    case = cached_case("case", ("left_kidney", "right_kidney"))
    left = BTCV.tasks[0].channels.index("left_kidney")
    plain = augmenter(space=BTCV).batch([case], [MIDDLE]).target[0]
    turned = augmenter(space=BTCV).batch([case], [MIDDLE], [Change(np.diag([-1.0, -1.0, 1.0]))]).target[0]
    torch.testing.assert_close(turned[left], plain[left].flip((-3, -2)))
    assert not is_mirrored(rotation_matrix(np.array([3.0, 0.1, -0.2])))
    assert is_mirrored(-np.eye(3) * 1.3)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("left_kidney", "right_kidney"),
        ("right_adrenal_gland_btcv", "left_adrenal_gland_btcv"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("left_atrium", "left_atrium"),
        ("liver", "liver"),
        ("leftover", "leftover"),
    ],
)
def test_sides_are_told_by_words(key: str, other: str) -> None:
    assert mirrored_key(key) == other
    assert mirrored_key(other) == key


@pytest.mark.parametrize("library", ["nnunet", "dodnet"])
def test_the_list_of_a_library_depends_on_the_seed_of_the_window_alone(library: str) -> None:
    pytest.importorskip("batchgeneratorsv2")
    case, cut = cached_case("case", ("liver", "liver_tumor")), augmenter(AugmentationRecipe(library=library))
    plain = cut.batch([case], [MIDDLE]).image
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    changes = [Change(np.eye(3), seed=seed) for seed in range(12)]
    first = cut.batch([case], [MIDDLE] * 12, changes)
    np.random.seed(1)  # noqa: NPY002 - whatever else draws from the global streams has no influence
    torch.manual_seed(1)
    again = cut.batch([case], [MIDDLE] * 12, changes)
    assert torch.equal(first.image, again.image)
    # Every step of a list has a probability below one half, so some windows change and others do not.
    unlike = [not torch.equal(image, plain[0]) for image in first.image]
    assert 0 < sum(unlike) <= 12
    assert len({float(image.sum()) for image in first.image}) > 3
    assert torch.isfinite(first.image).all()
    torch.set_rng_state(before[0])
    cut.batch([case], [MIDDLE], changes[:1])
    assert torch.equal(torch.get_rng_state(), before[0])


@pytest.mark.parametrize(("library", "steps"), [("nnunet", 7), ("dodnet", 7)])
def test_a_list_holds_what_its_system_published(library: str, steps: int) -> None:
    pytest.importorskip("batchgeneratorsv2")
    made = lists.make_list(library, (64, 192, 192)).transforms  # type: ignore[attr-defined]
    chances = [step.apply_probability for step in made]
    published = {"nnunet": [0.1, 0.2, 0.15, 0.15, 0.25, 0.1, 0.3], "dodnet": [0.1, 0.2, 0.15, 0.15, 0.15, 0.25, 0.15]}
    assert chances == published[library]
    assert len(made) == steps


def test_nnunet_magnifies_and_turns_a_fifth_of_the_windows() -> None:
    pytest.importorskip("batchgeneratorsv2")
    cut = augmenter(AugmentationRecipe(library="nnunet"))
    matrices = [cut.draw(np.random.default_rng(number)).matrix for number in range(500)]
    strides = [abs(np.linalg.det(matrix)) ** (1 / 3) for matrix in matrices]
    assert np.mean([abs(stride - 1) > 1e-6 for stride in strides]) == pytest.approx(0.2, abs=0.05)
    assert 0.7 <= min(strides) < 0.8 < 1.25 < max(strides) <= 1.4
    turned = [not np.allclose(matrix, np.diag(np.diag(matrix))) for matrix in matrices]
    assert np.mean(turned) == pytest.approx(0.2, abs=0.05)


def test_nnunet_changes_a_flat_window_in_its_plane_only() -> None:
    pytest.importorskip("batchgeneratorsv2")
    cut = augmenter(AugmentationRecipe(library="nnunet"), window=(16, 64, 64))
    matrices = [cut.draw(np.random.default_rng(number)).matrix for number in range(200)]
    for matrix in matrices:
        np.testing.assert_allclose(matrix[0], [1, 0, 0], atol=1e-12)
        np.testing.assert_allclose(matrix[:, 0], [1, 0, 0], atol=1e-12)
    angles = [abs(np.degrees(np.arctan2(matrix[2, 1], matrix[1, 1]))) for matrix in matrices]
    assert max(angles) > 90


def test_a_recipe_may_turn_and_magnify_otherwise_than_its_library() -> None:
    pytest.importorskip("batchgeneratorsv2")
    recipe = AugmentationRecipe(library="nnunet", scale=Chance(1.0, (2.0, 2.0)), rotation=Chance(1.0, (90.0, 90.0)))
    matrix = augmenter(recipe).draw(np.random.default_rng(0)).matrix
    np.testing.assert_allclose(matrix, rotation_matrix(np.full(3, np.pi / 2)) / 2, atol=1e-12)


def test_a_library_decides_about_intensities_alone() -> None:
    with pytest.raises(ValueError, match="'blur' is given, but the library 'nnunet' decides"):
        AugmentationRecipe(library="nnunet", blur=Chance(0.1, (0.5, 1.0)))
    with pytest.raises(ValueError, match="'library' is monai"):
        AugmentationRecipe(library="monai")


def test_a_missing_library_is_named_before_any_training_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(window: tuple[int, int, int]) -> None:
        raise ModuleNotFoundError("No module named 'batchgeneratorsv2'")

    monkeypatch.setitem(lists._LISTS, "nnunet", missing)
    with pytest.raises(MissingExtraError, match=r"partialseg\[train\]"):
        augmenter(AugmentationRecipe(library="nnunet"))


def test_the_noise_of_a_window_does_not_depend_on_its_batch() -> None:
    case = cached_case("case", ("liver",))
    noisy = [Change(np.eye(3), noise=0.1, seed=seed) for seed in (5, 6)]
    both = augmenter().batch([case], [MIDDLE] * 2, noisy).image
    alone = augmenter().batch([case], [MIDDLE], noisy[1:]).image
    torch.testing.assert_close(both[1:], alone)
    assert not torch.equal(both[0], both[1])


def test_images_without_a_unit_are_changed_within_their_own_range() -> None:
    """Of images normalized one by one, nothing is known but themselves: they are not clipped as CT is."""
    recipe = Preprocessing((2, 2, 2), (0, 4000), body_threshold=None, normalization="image", padding_value=0.25)
    case = cached_case("case", ("liver",), shape=(8, 44, 48))
    case = replace(case, levels=tuple(replace(level, volume=level.volume * 40) for level in case.levels))  # type: ignore
    draw, cut = Draw(0, 0, 0, (4.0, 22.0, 24.0)), augmenter(preprocessing=recipe)
    plain = cut.batch([case], [draw]).image
    assert plain.min() < -15
    assert torch.allclose(plain[0, 0, :4], torch.tensor(0.25), atol=1e-3)
    changed = cut.batch([case], [draw], [Change(np.eye(3), brightness=3.0, contrast=1.2, gamma=0.8)]).image
    assert plain.min() <= changed.min() < changed.max() <= plain.max()
    assert not torch.allclose(changed, plain)


def test_the_list_of_nnunet_is_the_one_that_nnunet_builds() -> None:
    """Step by step, with its options, but for what belongs to cutting and for timing algorithms of blurring."""
    trainer = pytest.importorskip("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
    theirs = trainer.get_training_transforms((96, 128, 128), (-0.5, 0.5), None, (0, 1, 2), False).transforms
    ours = lists.make_list("nnunet", (96, 128, 128)).transforms  # type: ignore[attr-defined]
    intensities = [step for step in theirs if type(step).__name__ == "RandomTransform"]
    assert type(theirs[1 + len(intensities)]).__name__ == "MirrorTransform"
    assert [options(step) for step in ours] == [options(step) for step in intensities]


def options(step: Any) -> dict[str, Any]:
    """What decides about a step of a list, as plain values."""
    inner = step.transform
    values = {name: vars(value) if hasattr(value, "__dict__") else value for name, value in vars(inner).items()}
    for timing in ("benchmark", "benchmark_num_runs", "benchmark_use_fft", "blur_fn"):
        values.pop(timing, None)
    return {"step": type(inner).__name__, "probability": step.apply_probability, **values}
