"""Connected components: numbered alike by every package, and the same whether cut into slabs or not."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from PartialSegLib import components
from PartialSegLib.components import Components, number_components
from PartialSegLib.segmentation import PackedMask


def random_mask(seed: int, density: float, shape: tuple[int, int, int] = (20, 30, 40)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.6])
def test_all_packages_number_components_alike(
    monkeypatch: pytest.MonkeyPatch, density: float, connectivity: int
) -> None:
    pytest.importorskip("cc3d")
    mask = random_mask(3, density)
    numbers = number_components(mask, connectivity)
    real_import = builtins.__import__

    def without_cc3d(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cc3d":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cc3d)
    assert np.array_equal(number_components(mask, connectivity), numbers)
    assert np.array_equal(numbers > 0, mask)


def test_components_are_numbered_by_their_first_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array([[[3, 0, 1, 0, 2], [3, 0, 1, 0, 2]]])
    monkeypatch.setattr(components, "_find", lambda mask, connectivity: found)
    assert number_components(found > 0).tolist() == [[[1, 0, 2, 0, 3], [1, 0, 2, 0, 3]]]


def test_voxels_that_touch_by_an_edge_are_two_components() -> None:
    mask = np.zeros((1, 2, 2), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True
    assert Components(PackedMask.from_array(mask)).sizes.tolist() == [1, 1]


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("planes", [1, 3, 7])
def test_slabs_change_neither_the_components_nor_their_order(density: float, planes: int, connectivity: int) -> None:
    mask = random_mask(planes, density)
    rank = {6: 1, 18: 2, 26: 3}[connectivity]
    numbers, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    packed = PackedMask.from_array(mask, (3, 2, 1))
    found = Components(packed, connectivity, slab_voxels=planes * 30 * 40)
    assert found.sizes.tolist() == np.bincount(numbers.ravel())[1:].tolist()
    kept = np.arange(count) % 3 == 0
    chosen = found.only(kept)
    expected = PackedMask.from_array(np.isin(numbers, np.flatnonzero(kept) + 1), (3, 2, 1))
    assert chosen.box == expected.box
    assert np.array_equal(chosen.bits, expected.bits)


def test_a_component_that_closes_only_in_a_later_slab_is_one_from_its_first_voxel_on() -> None:
    # Two legs that meet in the last plane, with a dot between them that comes second.
    mask = np.zeros((6, 1, 5), bool)
    mask[:, 0, [0, 4]] = mask[5] = True
    mask[1, 0, 2] = True
    found = Components(PackedMask.from_array(mask), slab_voxels=5)
    assert found.sizes.tolist() == [15, 1]
    assert found.only(np.array([False, True])).box == (slice(1, 2), slice(0, 1), slice(2, 3))


def test_an_empty_mask_has_no_components() -> None:
    found = Components(PackedMask.empty())
    assert found.sizes.size == 0
    assert found.only(np.zeros(0, bool)).count == 0
