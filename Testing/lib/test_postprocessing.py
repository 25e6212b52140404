"""Post-processing: components and containment on packed masks, against DoDNet's released results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from PartialSegLib import postprocessing
from PartialSegLib.components import Components
from PartialSegLib.errors import LabelSpaceError
from PartialSegLib.images import Geometry
from PartialSegLib.postprocessing import apply_rules, clip, close, drop_small, join, keep_largest
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.structures import LabelSpace, Rule, Task, catalogue

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "postprocessing.npz"
SHAPE = (24, 40, 40)
OFFSET = (3, 5, 7)


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    """A blob, and what the released post-processing of DoDNet and of 3D U2-Net (``u2_``) makes of it."""
    with np.load(VECTORS) as file:
        return {name: np.unpackbits(file[name]).reshape(SHAPE).astype(bool) for name in file.files}


def random_mask(seed: int, density: float = 0.4, shape: tuple[int, int, int] = (9, 11, 13)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


def whole(mask: PackedMask, shape: tuple[int, int, int] = (40, 60, 60)) -> np.ndarray:
    array = np.zeros(shape, bool)
    array[mask.box] = mask.unpack()
    return array


def box(*corners: tuple[tuple[int, int, int], tuple[int, int, int]]) -> np.ndarray:
    """A (12, 16, 20) mask of the boxes given by their first voxel and size."""
    mask = np.zeros((12, 16, 20), bool)
    for start, size in corners:
        mask[tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))] = True
    return mask


def segmentation(arrays: dict[str, np.ndarray], spacing: tuple[float, float, float] = (1, 1, 1)) -> Segmentation:
    shape = next(iter(arrays.values())).shape
    return Segmentation.from_arrays(Geometry(shape, spacing), [catalogue()[key] for key in arrays], arrays)


def space(*rules: Rule) -> LabelSpace:
    keys = ("liver", "liver_tumor", "spleen")
    task = Task("all", "All", keys, tuple(rules))
    return LabelSpace("Test", (task,), tuple(catalogue()[key] for key in keys))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (lambda mask: keep_largest(mask, 1), "postp_organ1"),
        (lambda mask: keep_largest(mask, 2), "postp_organ2"),
        (lambda mask: drop_small(mask, 50), "postp_tumor50"),
        (lambda mask: keep_largest(mask, 1, connectivity=18), "u2_one"),
        (lambda mask: keep_largest(mask, 2, min_share=0.1, connectivity=18), "u2_two"),
    ],
)
def test_published_results_are_reproduced_at_any_offset(
    published: dict[str, np.ndarray], rule: Callable[[PackedMask], PackedMask], expected: str
) -> None:
    result = rule(PackedMask.from_array(published["postp_in"], OFFSET))
    assert np.array_equal(whole(result), whole(PackedMask.from_array(published[expected], OFFSET)))


def test_of_equally_large_components_the_first_is_kept() -> None:
    mask = box(((6, 2, 2), (2, 2, 2)), ((1, 9, 9), (2, 2, 2)))
    kept = keep_largest(PackedMask.from_array(mask))
    assert kept.start == (1, 9, 9)
    assert kept.count == 8


def test_the_only_component_is_never_dropped_however_small() -> None:
    mask = PackedMask.from_array(box(((4, 4, 4), (1, 1, 2))))
    assert drop_small(mask, 50).count == 2


def test_several_small_components_are_all_dropped() -> None:
    mask = PackedMask.from_array(box(((1, 1, 1), (1, 1, 2)), ((8, 8, 8), (1, 1, 3))))
    assert drop_small(mask, 50).count == 0


@pytest.mark.parametrize("offset", [(0, 0, 0), (4, 3, 2), (8, 11, 1), (30, 40, 40)])
def test_masks_with_different_boxes_join_and_clip_as_on_the_whole_grid(offset: tuple[int, int, int]) -> None:
    one = PackedMask.from_array(random_mask(1), (5, 6, 7))
    two = PackedMask.from_array(random_mask(2), offset)
    assert np.array_equal(whole(join(one, two)), whole(one) | whole(two))
    assert np.array_equal(whole(clip(one, two)), whole(one) & whole(two))


def test_empty_masks_pass_through_every_rule() -> None:
    empty, full = PackedMask.empty(), PackedMask.from_array(random_mask(4))
    assert join(empty, full).count == join(full, empty).count == full.count
    assert clip(empty, full).count == clip(full, empty).count == join(empty, empty).count == 0
    assert keep_largest(empty).count == drop_small(empty, 5).count == close(empty).count == 0


@pytest.mark.parametrize(("second", "kept"), [(2, 27), (3, 30)])
def test_the_second_largest_component_stays_only_above_its_share_of_the_largest(second: int, kept: int) -> None:
    mask = box(((1, 1, 1), (3, 3, 3)), ((8, 8, 8), (1, 1, second)))
    assert keep_largest(PackedMask.from_array(mask), 2, min_share=0.1).count == kept


def test_closing_fills_gaps_of_one_voxel_and_removes_nothing_at_the_border() -> None:
    halves = box(((0, 0, 0), (12, 16, 4)), ((0, 0, 5), (12, 16, 4)), ((0, 0, 12), (12, 16, 8)))
    closed = apply_rules(segmentation({"spleen": halves}), space(Rule("close", "spleen"))).array("spleen")
    inner = (slice(1, -1), slice(1, -1))
    assert closed[inner][..., 4].all()
    assert not closed[..., 9:12].any()
    assert closed[halves].all()


def test_a_closed_mask_is_the_closing_of_scipy_away_from_the_border() -> None:
    mask = np.pad(random_mask(5, 0.2), 3)
    expected = ndimage.binary_closing(mask, ndimage.generate_binary_structure(3, 2))
    assert np.array_equal(whole(close(PackedMask.from_array(mask))), whole(PackedMask.from_array(expected)))


@pytest.mark.parametrize("rule", [keep_largest, lambda mask: drop_small(mask, 3), close])
def test_rules_carried_out_some_planes_at_a_time_give_the_same_voxels(
    monkeypatch: pytest.MonkeyPatch, rule: Callable[[PackedMask], PackedMask]
) -> None:
    mask = PackedMask.from_array(random_mask(6, 0.3), OFFSET)
    at_once = rule(mask)
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", 300)
    monkeypatch.setattr(postprocessing, "Components", partial(Components, slab_voxels=300))
    by_planes = rule(mask)
    assert 0 < at_once.count != mask.count
    assert by_planes.box == at_once.box
    assert np.array_equal(whole(by_planes), whole(at_once))


def test_liver_rules_join_clip_and_clean_in_order() -> None:
    liver = box(((1, 1, 1), (6, 6, 6)), ((9, 12, 15), (2, 2, 2)))
    tumor = box(((5, 5, 5), (4, 4, 4)), ((2, 2, 2), (1, 1, 1)), ((9, 12, 15), (1, 1, 1)))
    result = apply_rules(segmentation({"liver": liver, "liver_tumor": tumor}), LabelSpace.named("mots"))
    largest = box(((1, 1, 1), (6, 6, 6)), ((5, 5, 5), (4, 4, 4)))
    assert np.array_equal(result.array("liver"), largest)
    assert np.array_equal(result.array("liver_tumor"), box(((5, 5, 5), (4, 4, 4))))


def test_small_components_are_measured_in_cubic_millimetres() -> None:
    fifty, more = ((1, 1, 1), (2, 5, 5)), ((6, 1, 1), (3, 4, 5))
    rule = Rule("drop_small", "liver_tumor", max_mm3=48.0)
    published_voxels = segmentation({"liver_tumor": box(fifty, more)}, (0.8, 0.8, 1.5))
    larger_voxels = segmentation({"liver_tumor": box(fifty, more)}, (0.8, 0.81, 1.5))
    assert apply_rules(published_voxels, space(rule)).masks["liver_tumor"].count == 60
    assert apply_rules(larger_voxels, space(rule)).masks["liver_tumor"].count == 110


def test_a_rule_is_skipped_when_its_other_structure_was_not_predicted() -> None:
    tumor = box(((1, 1, 1), (3, 3, 3)))
    result = apply_rules(segmentation({"liver_tumor": tumor}), space(Rule("inside", "liver_tumor", "liver")))
    assert np.array_equal(result.array("liver_tumor"), tumor)


def test_a_structure_that_came_out_empty_still_clips() -> None:
    masks = {"liver": box(), "liver_tumor": box(((1, 1, 1), (3, 3, 3)))}
    result = apply_rules(segmentation(masks), space(Rule("inside", "liver_tumor", "liver")))
    assert result.masks["liver_tumor"].count == 0


def test_only_rules_of_chosen_structures_are_carried_out() -> None:
    two = box(((1, 1, 1), (3, 3, 3)), ((8, 8, 8), (2, 2, 2)))
    before = segmentation({"liver": two, "spleen": two})
    rules = space(Rule("keep_largest", "liver"), Rule("keep_largest", "spleen"))
    after = apply_rules(before, rules, ["spleen"])
    assert after.masks["spleen"].count == 27
    assert after.masks["liver"] is before.masks["liver"]
    with pytest.raises(LabelSpaceError, match="speen"):
        apply_rules(before, rules, ["speen"])


def test_the_given_segmentation_is_left_as_it_was() -> None:
    before = segmentation({"spleen": box(((1, 1, 1), (3, 3, 3)), ((8, 8, 8), (2, 2, 2)))})
    apply_rules(before, LabelSpace.named("mots"))
    assert before.masks["spleen"].count == 35


def test_each_task_is_told_once_when_no_rule_can_change_it_any_more() -> None:
    """The tumor of the first task is clipped by a rule of the last one: it is not told before."""
    masks = {key: box(((2, 2, 2), (4, 4, 4))) for key in ("liver", "liver_tumor", "spleen", "pancreas")}
    late = Rule("drop_small", "liver_tumor", max_mm3=1000.0)
    tasks = (
        Task("first", "First", ("liver", "liver_tumor")),
        Task("second", "Second", ("spleen", None)),
        Task("unasked", "Unasked", ("kidneys", None)),
        Task("third", "Third", ("pancreas", None), (late, Rule("inside", "liver_tumor", "spleen"))),
    )
    masks["liver_tumor"] = box(((2, 2, 2), (4, 4, 6)))
    known = LabelSpace("Test", tasks, tuple(catalogue()[key] for key in (*masks, "kidneys")))
    told: list[tuple[str, Segmentation]] = []
    result = apply_rules(segmentation(masks), known, finished=lambda task, part: told.append((task.key, part)))
    assert [key for key, _ in told] == ["second", "first", "third"]
    assert [key for _, part in told for key in part.keys] == ["spleen", "liver", "liver_tumor", "pancreas"]
    for _, part in told:
        for key in part.keys:
            np.testing.assert_array_equal(part.array(key), result.array(key))
    assert result.masks["liver_tumor"].count == 64
