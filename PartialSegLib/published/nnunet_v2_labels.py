"""From the ``labels`` of an nnU-Net v2 dataset to a label space of one task.

Decides which structure a label is: one that the library describes, where the name says so, with its
codes and color; otherwise one with generic codes and a color unlike the others. Called by
:mod:`PartialSegLib.published.nnunet_v2`.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from PartialSegLib.errors import BundleError
from PartialSegLib.structures import Code, LabelSpace, Structure, Task, catalogue

#: SNOMED-CT's Tissue, Slicer's own code of what it does not know more of.
GENERIC = Code("85756007", "Tissue")
#: Words that are one in the names of labels.
_SPELLINGS = {"tumour": "tumor", "cancer": "tumor", "oesophagus": "esophagus", "postcava": "inferior vena cava"}
_SILENT = frozenset(("and", "of", "the"))

_Color = tuple[int, int, int]


class Labels(NamedTuple):
    """What the outputs of a network are."""

    #: One task, whose channels are the outputs in nnU-Net's order, without its background.
    space: LabelSpace
    #: Whether the outputs are regions that overlap; labels that exclude each other otherwise.
    regions: bool


def labels_of(dataset: Any, name: str, source: str) -> Labels:
    """Read what the outputs of a network are.

    Labels exclude each other, so that no structure contains another one, whatever their names say: a
    mask shows what was labeled so. A region lies in the smallest one that has all its labels.

    Parameters
    ----------
    dataset : mapping
        Parsed ``dataset.json``.
    name : str
        Of the dataset (``Dataset007_Pancreas``).
    source : str
        Its file, for messages.

    Raises
    ------
    BundleError
        When its labels are not those of nnU-Net v2.
    """
    try:
        groups = {str(label): _numbers(value) for label, value in dataset["labels"].items() if label != "ignore"}
        if groups.pop("background") != (0,):
            raise ValueError("the background is not 0")
        used = sorted({number for numbers in groups.values() for number in numbers} | {0})
        if not groups or used != list(range(len(used))):
            raise ValueError(f"the labels {used} are not 0, 1, 2 ...")
        regions = any(len(numbers) > 1 for numbers in groups.values())
        if regions and len(dataset["regions_class_order"]) != len(groups):
            raise ValueError(f"'regions_class_order' is {dataset['regions_class_order']} for {len(groups)} regions")
        if not regions:
            groups = dict(sorted(groups.items(), key=lambda group: group[1]))
            if len(groups) != len(used) - 1:
                raise ValueError("two names have the same label")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"has labels that make no sense: {error}"
        raise BundleError(f"{source} {problem}.", "It is not the dataset.json of nnU-Net v2.") from error
    title = dataset_title(name)
    structures = _structures(groups, regions=regions)
    task = Task(key=slug(title), name=title, channels=tuple(structure.key for structure in structures))
    return Labels(LabelSpace(slug(title), (task,), tuple(structures), f"Labels of {name}."), regions)


def dataset_title(name: str) -> str:
    """Return the name of a dataset without its number: ``Dataset007_Pancreas`` is ``Pancreas``."""
    return re.sub(r"^Dataset\d+_?", "", name).replace("_", " ").strip() or name


def slug(text: str) -> str:
    """Return a name as one word of lower-case letters, digits and ``_``."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


def recognized(label: str) -> Structure | None:
    """Return the structure of the library that a label names, by its words in any order."""
    return _by_words().get(_words(label))


def _structures(groups: Mapping[str, tuple[int, ...]], *, regions: bool) -> list[Structure]:
    """Return one structure for each label or region, in their order."""
    found: list[Structure] = []
    for label in groups:
        known, taken = recognized(label), {structure.key for structure in found}
        if known is None or known.key in taken:
            key = _free(slug(label), taken)
            color = _unlike([structure.color for structure in (*found, *catalogue().values())])
            name = label.replace("_", " ").strip() or key
            known = Structure(key, name[0].upper() + name[1:], GENERIC, GENERIC, color)
        found.append(replace(known, contained_in=None))
    if not regions:
        return found
    sets = {structure.key: set(numbers) for structure, numbers in zip(found, groups.values(), strict=True)}
    return [replace(structure, contained_in=_container(structure.key, sets)) for structure in found]


def _container(key: str, sets: Mapping[str, set[int]]) -> str | None:
    """Return the smallest region that has all labels of another one and more."""
    around = [other for other in sets if sets[key] < sets[other]]
    return min(around, key=lambda other: len(sets[other]), default=None)


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the labels of a label or region, ascending."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(type(number) is not int for number in numbers):
        raise ValueError(f"{value!r} is no label")
    return tuple(sorted(set(numbers)))


def _free(key: str, taken: set[str]) -> str:
    """Return a key that is neither taken nor that of another structure of the library."""
    candidates = (key, *(f"{key}_{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in candidates if name not in taken and name not in catalogue())


def _unlike(others: Iterable[_Color]) -> _Color:
    """Return the bright color that is farthest from all others."""
    used = list(others)

    def distance(color: _Color) -> int:
        return min(sum((a - b) ** 2 for a, b in zip(color, other, strict=True)) for other in used)

    hues = (colorsys.hsv_to_rgb(step / 48, saturation, 0.9) for step in range(48) for saturation in (0.5, 0.85))
    return max(((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues), key=distance)


@cache
def _by_words() -> Mapping[tuple[str, ...], Structure]:
    """Return the structures of the library by the words of their keys and names."""
    return {_words(text): structure for structure in catalogue().values() for text in (structure.key, structure.name)}


def _words(label: str) -> tuple[str, ...]:
    """Return the words of a name, sorted, without case and plural: ``kidney_right`` is ``Right kidney``."""
    words = [part for word in re.findall(r"[a-z0-9]+", label.lower()) for part in _SPELLINGS.get(word, word).split()]
    return tuple(sorted(word.removesuffix("s") for word in words if word not in _SILENT))
