"""Branching vessels: trees that grow through an organ, and the great vessels.

Called by the painters of the liver and the lungs (trees) and by the phantom (great vessels).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from PartialSegTraining.phantoms.shapes import Tube

#: Signed distance of an organ at (n, 3) points.
Inside = Callable[[np.ndarray], np.ndarray]

#: Murray's law, r**3 = sum of r_i**3, with the exponent that hepatic casts show.
_MURRAY = 2.7


def grow_tree(
    root: np.ndarray,
    targets: np.ndarray,
    *,
    twig: float,
    trunk: float,
    step: float = 9.0,
    detour: float = 0.35,
) -> Tube:
    """Grow a tree from `root` that reaches every target.

    The targets join one by one, nearest to the root first; each joins where the way to it plus a
    part of the way from there to the root is shortest. The radii follow Murray's law from the
    twigs down, so that branches taper and every fork keeps its flow.

    Parameters
    ----------
    root : numpy.ndarray
        (3,) where the trunk enters, in millimetres.
    targets : numpy.ndarray
        (n, 3) ends of the twigs.
    twig, trunk : float
        Radius at the ends, and the largest radius, in millimetres.
    step : float
        Length of the capsules in millimetres.
    detour : float
        Weight of the way back to the root: 0 gives the shortest tree, 1 straight spokes.
    """
    nodes, parents, way = [np.asarray(root, float)], [-1], [0.0]
    for target in targets[np.argsort(np.linalg.norm(targets - root, axis=1))]:
        known = np.array(nodes)
        gaps = np.linalg.norm(known - target, axis=1)
        at = int(np.argmin(gaps + detour * np.array(way)))
        count = max(int(np.ceil(gaps[at] / step)), 1)
        origin = nodes[at]
        for part in range(1, count + 1):
            nodes.append(origin + (target - origin) * part / count)
            parents.append(at if part == 1 else len(nodes) - 2)
            way.append(way[parents[-1]] + float(gaps[at]) / count)
    parent = np.array(parents)
    radius = _murray_radii(parent, twig, trunk)
    place = _relax(np.array(nodes), parent)
    child = np.arange(1, len(parent))
    return Tube(
        place[parent[child]], place[child], np.minimum(radius[parent[child]], 1.25 * radius[child]), radius[child]
    )


def scatter(
    inside: Inside, low: np.ndarray, high: np.ndarray, count: int, depth: float, rng: np.random.Generator
) -> np.ndarray:
    """Return up to `count` points at least `depth` mm inside a body, spread evenly.

    From many random points of the box, each next one is the farthest from those chosen.
    """
    points = rng.uniform(low, high, (max(60 * count, 600), 3))
    points = points[inside(points) < -depth]
    if len(points) <= count:
        return points
    chosen = [0]
    gap = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(gap)))
        gap = np.minimum(gap, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return points[chosen]


def _murray_radii(parent: np.ndarray, twig: float, trunk: float) -> np.ndarray:
    """Return the radius at every node: twig * (number of ends behind it) ** (1 / 2.7), at most trunk."""
    ends = np.ones(len(parent))
    ends[np.unique(parent[1:])] = 0.0
    for node in range(len(parent) - 1, 0, -1):
        ends[parent[node]] += ends[node]
    return np.minimum(twig * np.maximum(ends, 1.0) ** (1.0 / _MURRAY), trunk)


def _relax(place: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Draw every inner node toward its neighbours, twice, so that branches leave in curves."""
    child = np.arange(1, len(parent))
    for _ in range(2):
        total = np.zeros_like(place)
        count = np.zeros(len(place))
        np.add.at(total, parent[child], place[child])
        np.add.at(count, parent[child], 1.0)
        inner = np.flatnonzero(count)
        inner = inner[inner > 0]
        mean = total[inner] / count[inner, None]
        moved = place.copy()
        moved[inner] = 0.5 * place[inner] + 0.25 * place[parent[inner]] + 0.25 * mean
        place = moved
    return place
