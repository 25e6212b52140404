"""As few layers as overlap allows: which masks may share one label map.

A ``.seg.nrrd`` file holds label maps, called layers; structures that share a voxel need different
ones. Choosing layers is coloring a graph whose edges join overlapping masks. The writer of
``.seg.nrrd`` calls :func:`assign_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence

from PartialSegLib.segmentation import PackedMask

#: Largest label value of a layer of unsigned bytes.
MAX_LABEL = 255
#: Steps of the exact search before the best coloring so far is taken. Anatomy needs a few dozen;
#: the bound keeps a contrived graph from stopping a save.
MAX_STEPS = 20_000
#: Overlapping masks up to which the search may recurse, far below the interpreter's limit.
MAX_SEARCHED = 400


def assign_layers(masks: Sequence[PackedMask]) -> list[tuple[int, int]]:
    """Give each mask a layer and a label value, so that no layer has two masks in one voxel.

    Parameters
    ----------
    masks : sequence of PackedMask
        On one grid.

    Returns
    -------
    list of tuple of int
        (layer, label value) of each mask: layers count from 0, label values from 1 in each layer.
        The number of layers is the smallest possible (unless the search exceeds
        :data:`MAX_STEPS`; a layer holds at most :data:`MAX_LABEL` masks).
    """
    colors = color_graph(overlap_graph(masks))
    layers: dict[tuple[int, int], int] = {}
    taken: dict[int, int] = {}
    result = []
    for color in colors:
        rank = taken.get(color, 0)
        taken[color] = rank + 1
        # A layer that is full continues in a further one.
        layer = layers.setdefault((color, rank // MAX_LABEL), len(layers))
        result.append((layer, rank % MAX_LABEL + 1))
    return result


def overlap_graph(masks: Sequence[PackedMask]) -> list[set[int]]:
    """Return, for each mask, the positions of the masks that share a voxel with it."""
    neighbors: list[set[int]] = [set() for _ in masks]
    for first, mask in enumerate(masks):
        for second in range(first):
            if mask.overlaps(masks[second]):
                neighbors[first].add(second)
                neighbors[second].add(first)
    return neighbors


def color_graph(neighbors: Sequence[set[int]]) -> list[int]:
    """Color a graph with as few colors as possible.

    Branch and bound over the DSATUR order (D. Brelaz, "New methods to color the vertices of a
    graph", Communications of the ACM 22, 1979): the next vertex is the one whose neighbors already
    show the most colors. The first leaf of the search is the DSATUR heuristic's own coloring; a
    clique tells when it cannot be improved.

    Parameters
    ----------
    neighbors : sequence of set of int
        Adjacent vertices of each vertex.

    Returns
    -------
    list of int
        Color of each vertex, from 0; a vertex without neighbors has color 0.
    """
    search = _Search(neighbors)
    joined = [vertex for vertex, around in enumerate(neighbors) if around]
    if len(joined) > MAX_SEARCHED:
        return search.heuristic(joined)
    search.extend(joined, 0)
    return search.best


class _Search:
    """The state of the search: the coloring at hand, the best one, and the bound."""

    def __init__(self, neighbors: Sequence[set[int]]) -> None:
        self.neighbors = neighbors
        self.colors = [0 if not around else -1 for around in neighbors]
        self.best: list[int] = []
        self.best_count = len(neighbors) + 1
        self.bound = _clique_size(neighbors)
        self.steps = 0

    def heuristic(self, left: list[int]) -> list[int]:
        """Give each vertex in turn the first color that is free."""
        while left:
            vertex = self.next_vertex(left)
            seen = self.seen_by(vertex)
            self.colors[vertex] = next(color for color in range(len(seen) + 1) if color not in seen)
            left = [other for other in left if other != vertex]
        return self.colors

    def extend(self, left: list[int], used: int) -> None:
        """Try every color of the next vertex that could still beat the best coloring."""
        self.steps += 1
        if not left:
            self.best, self.best_count = list(self.colors), used
            return
        vertex = self.next_vertex(left)
        seen = self.seen_by(vertex)
        rest = [other for other in left if other != vertex]
        # A color that nobody uses yet is tried once: all unused colors are alike.
        for color in range(used + 1):
            proven = self.best_count <= self.bound or (self.best and self.steps > MAX_STEPS)
            if proven or max(used, color + 1) >= self.best_count:
                return
            if color not in seen:
                self.colors[vertex] = color
                self.extend(rest, max(used, color + 1))
                self.colors[vertex] = -1

    def seen_by(self, vertex: int) -> set[int]:
        return {self.colors[other] for other in self.neighbors[vertex]} - {-1}

    def next_vertex(self, left: list[int]) -> int:
        return max(left, key=lambda vertex: (len(self.seen_by(vertex)), len(self.neighbors[vertex]), -vertex))


def _clique_size(neighbors: Sequence[set[int]]) -> int:
    """Size of the largest clique that grows greedily from any vertex: a lower bound of colors."""
    largest = 0
    for vertex, around in enumerate(neighbors):
        clique = {vertex}
        for other in sorted(around, key=lambda other: -len(neighbors[other])):
            if clique <= neighbors[other]:
                clique.add(other)
        largest = max(largest, len(clique))
    return largest
