"""Which grid the slices of a DICOM series form, and which series form none.

The grid is taken from the place of every slice (ImagePositionPatient), never from the slice
thickness or the numbering. A series is taken as it was acquired or not at all: a tilted gantry
keeps its sheared grid, so that results lie on the very slices; missing or unevenly spaced slices
are refused, because slices made up between them would show anatomy that was not scanned.
Called by ``dicomseries.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles.dicomheaders import Place, SliceHeader
from PartialSegLib.images import Geometry

#: Slices count as evenly spaced when each lies within this part of their distance, or within the
#: rounding of headers, whichever is larger, of where it should.
_UNEVEN = 0.05
_ROUNDING_MM = 0.05
#: A series counts as stacked straight when it drifts sideways by less than this part of a pixel.
_DRIFT_PIXELS = 0.1
#: Unit vectors that differ by less than this are one direction.
_SAME_DIRECTION = 1e-3
#: A deviation that is worth telling, in millimetres.
_NOTABLE_MM = 0.01


def arrange(slices: Sequence[SliceHeader], name: str) -> tuple[list[SliceHeader], Geometry, tuple[str, ...]]:
    """Order slices along their normal and find their grid (PS3.3 C.7.6.2.1.1).

    Parameters
    ----------
    slices : sequence of SliceHeader
        The slices of one series, in any order.
    name : str
        How messages call the series.

    Returns
    -------
    tuple
        The slices in ascending order along the normal, their grid (whose z axis is the step from
        slice to slice), and sentences on what was tolerated.

    Raises
    ------
    ImageError
        When the slices form no grid: fewer than two, color, without a place, of several
        orientations or sizes, at the same place, missing, unevenly spaced or shifted.
    """
    places = _comparable_places(slices, name)
    axes = places[0].axes
    heights = np.array([place.position for place in places]) @ axes[:, 2]
    order = np.argsort(heights, kind="stable")
    ordered, positions = [slices[index] for index in order], np.array([places[index].position for index in order])
    uneven = _refuse_uneven(ordered, heights[order], name)
    pixel = min(places[0].spacing)
    _refuse_shifted(ordered, positions, axes, pixel, name)

    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    distance = float(step @ axes[:, 2])
    notes: tuple[str, ...] = ()
    if uneven > _NOTABLE_MM:
        notes += (f"The slices lie up to {uneven:.2f} mm off their even distance of {distance:.3f} mm.",)
    if np.linalg.norm((positions[-1] - positions[0]) @ axes[:, :2]) > _DRIFT_PIXELS * pixel:
        angle = np.degrees(np.arccos(distance / np.linalg.norm(step)))
        notes += (f"The gantry was tilted by {angle:.1f} degrees; the sheared grid of the slices was kept.",)
        distance = float(np.linalg.norm(step))
        axes = np.column_stack([axes[:, :2], step / distance])
    rows, columns = ordered[0].shape
    between_rows, between_columns = places[0].spacing
    x, y, z = positions[0].tolist()
    geometry = Geometry(
        (len(ordered), rows, columns),
        (between_columns, between_rows, distance),
        (x, y, z),
        tuple(axes.ravel().tolist()),
    )
    return ordered, geometry, notes


def _comparable_places(slices: Sequence[SliceHeader], name: str) -> list[Place]:
    """Return the place of each slice; refuse slices that cannot lie on one grid, naming the odd one."""
    places = []
    for item in slices:
        if item.samples != 1:
            raise ImageError(f"{name} is a color image ('{item.file.name}').", "Choose the gray-scale series.")
        if item.place is None:
            raise ImageError(
                f"{name} does not say where the slice '{item.file.name}' lies.", "Choose the original series."
            )
        places.append(item.place)
    if len(slices) < 2:
        raise ImageError(f"{name} has a single slice.", "Give the folder with all slices of the volume.")
    _refuse_mixed_orientations(slices, places, name)
    _refuse_mixed_sizes(slices, places, name)
    return places


def _refuse_mixed_orientations(slices: Sequence[SliceHeader], places: Sequence[Place], name: str) -> None:
    directions = np.array([place.axes.ravel() for place in places])
    _, first, counts = np.unique(directions.round(2), axis=0, return_index=True, return_counts=True)
    usual = int(first[counts.argmax()])
    odd = np.flatnonzero(np.abs(directions - directions[usual]).max(axis=1) > _SAME_DIRECTION)
    if odd.size:
        other = int(odd[0])
        raise ImageError(
            f"{name} mixes orientations: {len(slices) - odd.size} slices are {places[usual].plane}, but {odd.size} "
            f"lie otherwise ('{slices[other].file.name}', {places[other].plane}).",
            "Move the localizer or the second stack out of the folder.",
        )


def _refuse_mixed_sizes(slices: Sequence[SliceHeader], places: Sequence[Place], name: str) -> None:
    sizes = [
        (*item.shape, *(round(value, 4) for value in place.spacing)) for item, place in zip(slices, places, strict=True)
    ]
    usual = Counter(sizes).most_common(1)[0][0]
    for item, size in zip(slices, sizes, strict=True):
        if size != usual:
            raise ImageError(
                f"{name} mixes slices of different size: '{item.file.name}' is {_words(size)}, "
                f"most are {_words(usual)}.",
                "Keep the slices of one size in the folder.",
            )


def _words(size: tuple[float, ...]) -> str:
    rows, columns, between_rows, between_columns = size
    return f"{columns} x {rows} pixels of {between_columns:g} x {between_rows:g} mm"


def _refuse_uneven(ordered: Sequence[SliceHeader], heights: np.ndarray, name: str) -> float:
    """Refuse slices at one place, missing or unevenly spaced.

    Parameters
    ----------
    heights : numpy.ndarray
        (n,) ascending positions along the normal, in millimetres.

    Returns
    -------
    float
        Largest distance of a slice from where it would lie if all were evenly spaced, in
        millimetres.
    """
    steps = np.diff(heights)
    usual = float(np.median(steps))
    same = np.flatnonzero(steps < _NOTABLE_MM)
    if same.size:
        one, two = ordered[same[0]], ordered[same[0] + 1]
        acquisitions = sorted({item.acquisition for item in ordered if item.acquisition})
        phases = f" (acquisitions {', '.join(acquisitions)})" if len(acquisitions) > 1 else ""
        raise ImageError(
            f"{name} has several slices at one place{phases}: '{one.file.name}' and '{two.file.name}' both lie at "
            f"{heights[same[0]]:.2f} mm.",
            "Export each phase or acquisition as a series of its own.",
        )
    deviation = float(np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max())
    if deviation <= max(_ROUNDING_MM, _UNEVEN * usual):
        return deviation
    counts = steps / usual
    gaps = np.flatnonzero(counts > 1.5)
    if gaps.size and np.abs(counts - np.rint(counts)).max() < 2 * _UNEVEN:
        lost = int(np.rint(counts[gaps] - 1).sum())
        where = ", ".join(f"between {heights[gap]:.2f} and {heights[gap + 1]:.2f} mm" for gap in gaps[:5])
        raise ImageError(
            f"{name} lacks {lost} slice{'s' if lost > 1 else ''} {where} (slices lie {usual:.2f} mm apart).",
            "Send the series again, complete.",
        )
    raise ImageError(
        f"{name} has unevenly spaced slices: they lie {steps.min():.2f} to {steps.max():.2f} mm apart.",
        "Resample it to even slices first; 3D Slicer does so when it loads the series (acquisition transform).",
    )


def _refuse_shifted(
    ordered: Sequence[SliceHeader], positions: np.ndarray, axes: np.ndarray, pixel: float, name: str
) -> None:
    """Refuse slices that lie sideways of the straight line from the first to the last."""
    line = np.linspace(positions[0], positions[-1], len(positions))
    sideways = np.abs((positions - line) @ axes[:, :2]).max(axis=1)
    if sideways.max() > max(_ROUNDING_MM, _DRIFT_PIXELS * pixel):
        odd = ordered[int(sideways.argmax())]
        raise ImageError(
            f"{name} has slices that are shifted sideways: '{odd.file.name}' by {sideways.max():.2f} mm.",
            "Resample it to one grid first, for example in 3D Slicer.",
        )
