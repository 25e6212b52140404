"""Layers of a .seg.nrrd file: as few as overlap allows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from drawn_cases import segmentation

from PartialSegLib.segmentation import PackedMask
from PartialSegLib.segmentationfiles.layers import MAX_LABEL, assign_layers, color_graph


def graph(count: int, edges: list[tuple[int, int]]) -> list[set[int]]:
    """Return the neighbors of each vertex."""
    neighbors: list[set[int]] = [set() for _ in range(count)]
    for a, b in edges:
        neighbors[a].add(b)
        neighbors[b].add(a)
    return neighbors


def fewest_colors(neighbors: list[set[int]]) -> int:
    """Try every coloring with one color, two colors, and so on."""
    count = len(neighbors)
    for colors in range(1, count + 1):
        for choice in product(range(colors), repeat=count):
            if all(choice[vertex] != choice[other] for vertex in range(count) for other in neighbors[vertex]):
                return colors
    return 0


@pytest.mark.parametrize("seed", range(25))
def test_a_graph_gets_as_few_colors_as_exhaustive_search_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(7) for b in range(a) if rng.random() < 0.45]
    neighbors = graph(7, pairs)
    colors = color_graph(neighbors)
    assert all(colors[a] != colors[b] for a, b in pairs)
    assert len(set(colors)) == fewest_colors(neighbors)


def test_the_order_of_the_structures_does_not_cost_a_layer() -> None:
    # A crown: coloring it in the order 0, 3, 1, 4, 2, 5 takes three colors, but two are enough.
    crown = [(0, 4), (0, 5), (1, 3), (1, 5), (2, 3), (2, 4)]
    order = [0, 3, 1, 4, 2, 5]
    renamed = [(order.index(a), order.index(b)) for a, b in crown]
    assert len(set(color_graph(graph(6, renamed)))) == 2


def test_a_graph_too_hard_to_solve_still_gets_a_coloring() -> None:
    rng = np.random.default_rng(3)
    pairs = [(a, b) for a in range(120) for b in range(a) if rng.random() < 0.5]
    colors = color_graph(graph(120, pairs))
    assert all(colors[a] != colors[b] for a, b in pairs)


def test_hundreds_of_overlapping_masks_get_a_coloring() -> None:
    pairs = [(a, a + 1) for a in range(1499)]
    colors = color_graph(graph(1500, pairs))
    assert len(set(colors)) == 2
    assert all(colors[a] != colors[b] for a, b in pairs)


def test_masks_of_one_layer_share_no_voxel_and_have_their_own_labels() -> None:
    drawn = segmentation(seed=4)
    masks = [drawn.masks[key] for key in drawn.keys]
    places = assign_layers(masks)
    assert len(set(places)) == len(places)
    for first, second in product(range(len(masks)), repeat=2):
        if first != second and places[first][0] == places[second][0]:
            assert not masks[first].overlaps(masks[second])
    assert {label for _, label in places} <= set(range(1, MAX_LABEL + 1))


def test_masks_without_overlap_share_one_layer_up_to_its_label_values() -> None:
    masks = [PackedMask.from_array(np.ones((1, 1, 1), bool), offset=(index, 0, 0)) for index in range(MAX_LABEL + 2)]
    places = assign_layers(masks)
    assert [layer for layer, _ in places] == [0] * MAX_LABEL + [1, 1]
    assert [label for _, label in places][-3:] == [MAX_LABEL, 1, 2]
