"""Packed masks and segmentations in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_cases import arrays, grid, segmentation, structures

from PartialSegLib.errors import SegmentationError
from PartialSegLib.segmentation import PackedMask, Segmentation, lattice_offset


def random_mask(rng: np.random.Generator, shape: tuple[int, int, int] = (9, 10, 21)) -> np.ndarray:
    """Return a few random boxes of random voxels."""
    mask = np.zeros(shape, bool)
    low = rng.integers(0, shape)
    box = tuple(slice(a, rng.integers(a, b) + 1) for a, b in zip(low, shape, strict=True))
    mask[box] = rng.random(mask[box].shape) < 0.3
    return mask


def test_masks_are_subtracted_as_arrays_are() -> None:
    drawn = list(arrays(seed=2, empty=None).values())
    for first in drawn[:4]:
        for second in drawn[4:8]:
            left = PackedMask.from_array(first).without(PackedMask.from_array(second))
            whole = np.zeros(first.shape, bool)
            whole[left.box] = left.unpack()
            assert np.array_equal(whole, first & ~second)


@pytest.mark.parametrize("seed", range(10))
def test_a_packed_mask_unpacks_to_the_same_voxels(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    packed = PackedMask.from_array(mask)
    whole = np.zeros_like(mask)
    whole[packed.box] = packed.unpack()
    assert np.array_equal(whole, mask)
    assert packed.count == mask.sum()


def test_two_masks_overlap_exactly_when_they_share_a_voxel() -> None:
    rng = np.random.default_rng(1)
    answers = set()
    for _ in range(300):
        first, second = random_mask(rng), random_mask(rng)
        expected = bool((first & second).any())
        assert PackedMask.from_array(first).overlaps(PackedMask.from_array(second)) is expected
        answers.add(expected)
    assert answers == {True, False}


def test_masks_in_touching_boxes_without_a_common_voxel_do_not_overlap() -> None:
    board = np.indices((40, 6, 19)).sum(axis=0) % 2 == 0
    black, white = PackedMask.from_array(board), PackedMask.from_array(~board)
    assert not black.overlaps(white)
    assert black.overlaps(PackedMask.from_array(board[39:], offset=(39, 0, 0)))
    assert not black.overlaps(PackedMask.empty())


def test_slabs_stack_to_the_whole_mask() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        mask = random_mask(rng)
        slabs = [PackedMask.from_array(mask[first : first + 2], offset=(first, 0, 0)) for first in range(0, 9, 2)]
        whole = PackedMask.stacked(slabs)
        expected = PackedMask.from_array(mask)
        assert (whole.start, whole.shape) == (expected.start, expected.shape)
        assert np.array_equal(whole.bits, expected.bits)


def test_planes_are_a_part_of_the_mask_without_a_copy() -> None:
    mask = np.zeros((9, 4, 5), bool)
    mask[2:7, 1:3, 2] = True
    packed = PackedMask.from_array(mask)
    part = packed.planes(0, 4)
    assert part.start == (2, 1, 2)
    assert part.unpack().sum() == mask[:4].sum()
    assert np.shares_memory(part.bits, packed.bits)
    assert packed.planes(7, 9).count == 0


def test_47_structures_as_large_as_a_512x512x1000_scan_stay_below_2_gb() -> None:
    whole = PackedMask((0, 0, 0), (1000, 512, 512), np.zeros((1000, 512, 64), np.uint8))
    many = tuple(replace(structures()[0], key=f"structure_{index}") for index in range(47))
    full = Segmentation(grid(shape=(1000, 512, 512)), many, {item.key: whole for item in many})
    assert full.nbytes < 2e9


def test_masks_move_to_a_larger_grid_and_back() -> None:
    part = segmentation("oblique")
    affine = part.geometry.affine
    origin = tuple(float(value) for value in (affine @ [-3, -2, -5, 1])[:3])
    larger = replace(part.geometry, shape=(30, 33, 44), origin=origin)
    moved = part.on(larger)
    assert moved.geometry is larger
    for key, array in arrays().items():
        assert np.array_equal(moved.array(key)[5:19, 2:22, 3:30], array)
        assert moved.masks[key].count == array.sum()
    assert np.array_equal(moved.on(part.geometry).array("liver"), part.array("liver"))


def test_masks_do_not_move_to_a_grid_that_cuts_them() -> None:
    part = segmentation()
    smaller = replace(part.geometry, shape=(5, 20, 27))
    with pytest.raises(SegmentationError, match="reaches outside the image"):
        part.on(smaller)


@pytest.mark.parametrize(
    "change",
    [{"spacing": (0.71, 0.8, 2.5)}, {"origin": (-123.1, 1 / 3, 77.7)}, {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}],
)
def test_masks_do_not_move_to_a_grid_whose_voxels_do_not_coincide(change: dict) -> None:
    part = segmentation()
    other = replace(part.geometry, **change)
    assert lattice_offset(part.geometry, other) is None
    with pytest.raises(SegmentationError, match="does not coincide"):
        part.on(other)


def test_a_mask_outside_the_grid_is_refused() -> None:
    outside = PackedMask.from_array(np.ones((2, 2, 2), bool), offset=(13, 0, 0))
    with pytest.raises(SegmentationError, match="'liver' reaches outside the grid"):
        Segmentation(grid(), structures(), {"liver": outside})


def test_an_unknown_structure_is_named_together_with_the_known_ones() -> None:
    with pytest.raises(SegmentationError, match=r"'heart'.*liver_tumor"):
        segmentation().array("heart")
