"""Which labels of a dataset show which structures: found by value, by name or by code.

A manifest says it structure by structure, so that a union is a list (``liver = [1, 2]``). A label
is a value of a label map, the name of a label, file or segment, or a code such as
``SCT:10200004``. The readers of all layouts use this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PartialSegLib.segmentationfiles.slicertags import slug
from PartialSegLib.structures import LabelSpace, Structure
from PartialSegTraining.cases import LabelError

Label = int | str


@dataclass(frozen=True)
class Source:
    """One label of a dataset, by whatever names it may have; the first that is found counts."""

    names: tuple[Label, ...]

    def __str__(self) -> str:
        return " or ".join(repr(name) if isinstance(name, str) else str(name) for name in self.names)


@dataclass(frozen=True)
class LabelTable:
    """What the labels of a dataset mean.

    Parameters
    ----------
    sources : tuple of (str, tuple of Source)
        Labels whose union is each structure, by key.
    annotated : frozenset of str
        Keys of the structures that were annotated; one without labels was never found.
    unused : tuple of int or str
        Labels that show none of the structures.
    """

    sources: tuple[tuple[str, tuple[Source, ...]], ...]
    annotated: frozenset[str]
    unused: tuple[Label, ...] = ()


def code_of(structure: Structure) -> str:
    """Return the codes of a structure as a manifest spells them.

    ``SCHEME:TYPE``, then ``+MODIFIER`` (a side), ``@REGION`` and ``+MODIFIER`` where it has them:
    ``SCT:64033007+7771000``, ``SCT:4147007@10200004``.
    """
    kind = f"{structure.type.scheme}:{structure.type.value}"
    region = f"@{structure.region.value}" if structure.region else ""
    sides = [f"+{code.value}" if code else "" for code in (structure.type_modifier, structure.region_modifier)]
    return f"{kind}{sides[0]}{region}{sides[1]}"


def means(name: str, structure: Structure) -> bool:
    """Whether `name` is the key, the name or the code of a structure; case and punctuation do not matter."""
    return slug(name) in (structure.key, slug(structure.name)) or name.strip() in (structure.key, code_of(structure))


def find_structure(name: str, space: LabelSpace) -> Structure:
    """Return the one structure of a label space with this key, name or code.

    Raises
    ------
    LabelError
        When several structures have this name or code.
    LabelSpaceError
        When there is none.
    """
    # A key is unique, and may be what another structure is called.
    exact = [structure for structure in space.structures if structure.key == name]
    found = exact or [structure for structure in space.structures if means(name, structure)]
    if len(found) > 1:
        keys = ", ".join(structure.key for structure in found)
        raise LabelError(f"'{name}' means several structures of '{space.name}': {keys}.", "Name one of these keys.")
    return found[0] if found else space.structure(name)


def read_label_table(
    structures: Any, annotated: Sequence[str] | None, unused: Sequence[Any], space: LabelSpace
) -> LabelTable:
    """Read the labels of one dataset of a manifest.

    Parameters
    ----------
    structures : mapping or list
        A label or a list of labels for each structure; or a list of structures, whose labels are
        then called like them.
    annotated : sequence of str, optional
        Structures that were annotated; by default those of `structures`.
    unused : sequence of int or str
        Labels that show none of them.
    space : LabelSpace
        Where structures are looked up.

    Raises
    ------
    ValueError
        When a value is no label.
    LabelError, LabelSpaceError
        When a structure is unknown, named twice, or not annotated.
    """
    if isinstance(structures, Mapping):
        named = [(find_structure(str(name), space), _labels(value, str(name))) for name, value in structures.items()]
    elif isinstance(structures, list) and all(isinstance(name, str) for name in structures):
        found = [find_structure(name, space) for name in structures]
        named = [(item, (Source((item.key, item.name, code_of(item))),)) for item in found]
    else:
        raise ValueError(f"'structures' is {structures!r}, neither a table of labels nor a list of structures")
    keys = [structure.key for structure, _ in named]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise LabelError(f"'structures' names '{twice[0]}' twice.", "List its labels together, as in [1, 2].")
    known = frozenset(keys) if annotated is None else frozenset(find_structure(name, space).key for name in annotated)
    stray = sorted(set(keys) - known)
    if stray:
        raise LabelError(f"'{stray[0]}' has labels, but is not 'annotated'.", "Add it to 'annotated'.")
    return LabelTable(tuple((item.key, labels) for item, labels in named), known, tuple(map(_label, unused)))


def values_of(
    table: LabelTable, declared: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return the structures that each value of a label map belongs to.

    Parameters
    ----------
    table : LabelTable
    declared : mapping
        Values of each label that the dataset itself names; empty when it names none.
    path : Path
        Where they are named, for messages.

    Raises
    ------
    LabelError
        When a label is not one of the dataset's.
    """
    members: dict[int, list[str]] = {}
    for key, sources in table.sources:
        for source in sources:
            for value in _values(source, declared, path):
                # A value may come twice: as a label of its own and in a region.
                if key not in members.setdefault(value, []):
                    members[value].append(key)
    for label in table.unused:
        for value in _values(Source((label,)), declared, path):
            members.setdefault(value, [])
    return tuple((value, tuple(keys)) for value, keys in sorted(members.items()))


def _values(source: Source, declared: Mapping[str, tuple[int, ...]], path: Path) -> tuple[int, ...]:
    known = {value for values in declared.values() for value in values}
    for name in source.names:
        if isinstance(name, int) and (name in known or not declared):
            return (name,)
        if isinstance(name, str):
            for label, values in declared.items():
                if slug(label) == slug(name):
                    return values
    words = ", ".join(f"{label} ({' | '.join(map(str, values))})" for label, values in declared.items())
    raise LabelError(
        f"{path} has no label {source}.", f"It has: {words}." if words else "Give the value of the label, a number."
    )


def _labels(value: Any, name: str) -> tuple[Source, ...]:
    listed: Iterable[Any] = value if isinstance(value, list) else [value]
    labels = tuple(Source((_label(item),)) for item in listed)
    if not labels:
        raise ValueError(f"'structures.{name}' has no label")
    return labels


def _label(value: Any) -> Label:
    """Check a label: a positive whole number, or text; digits in quotes are a number."""
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        value = int(value)
    good = value > 0 if isinstance(value, int) and not isinstance(value, bool) else isinstance(value, str) and value
    if not good:
        raise ValueError(f"{value!r} is no label: a value above 0, a name or a code such as 'SCT:10200004'")
    label: Label = value
    return label
