"""How 3D Slicer spells a structure: segment tags and the terminology entry.

A segment in a ``.seg.nrrd`` file carries ``name:value|`` pairs. Slicer's own are
``TerminologyEntry``, ``Segmentation.Status`` and the ``DICOM.*`` tags that its DICOM exporter
reads; ours are ``PartialSeg.Key`` and ``PartialSeg.ContainedIn``, which Slicer carries along
unchanged. The grammar was read from files that ``vtkMRMLSegmentationStorageNode`` wrote. The
reader and the writer of ``.seg.nrrd`` use this module; so may the MRML bridge, for the same tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from PartialSegLib.structures import Code, Structure

KEY = "PartialSeg.Key"
CONTAINED_IN = "PartialSeg.ContainedIn"
TERMINOLOGY = "TerminologyEntry"
STATUS = "Segmentation.Status"
ALGORITHM_TYPE = "DICOM.SegmentAlgorithmType"
ALGORITHM_NAME = "DICOM.SegmentAlgorithmName"

#: Terminologies that Slicer 5.6 and later ship with, and in which its selector looks up an entry.
CATEGORY_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGION_CONTEXT = "Anatomic codes - DICOM master list"

#: What Slicer itself gives a segment of which nothing is known.
TISSUE = Code("85756007", "Tissue")

#: Characters that separate fields in tags and terminology entries. The grammar has no escape.
_SEPARATORS = re.compile(r"[|~^\r\n]+")


@dataclass(frozen=True)
class Terminology:
    """The codes of one terminology entry; ``None`` where the entry is empty."""

    category: Code | None = None
    type: Code | None = None
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


def terminology_entry(structure: Structure) -> str:
    """Return the value of the ``TerminologyEntry`` tag.

    Seven fields joined by ``~``: category context, category, type, type modifier, region context,
    region, region modifier; a code is ``scheme^value^meaning``, or ``^^`` when there is none.
    Separators inside a meaning become spaces.
    """
    return "~".join(
        (
            CATEGORY_CONTEXT,
            _code_field(structure.category),
            _code_field(structure.type),
            _code_field(structure.type_modifier),
            REGION_CONTEXT,
            _code_field(structure.region),
            _code_field(structure.region_modifier),
        )
    )


def parse_terminology_entry(entry: str) -> Terminology:
    """Read the value of a ``TerminologyEntry`` tag; fields that are missing are ``None``."""
    fields = [*entry.split("~"), *[""] * 7]
    category, kind, modifier, region, region_modifier = (_parse_code(fields[at]) for at in (1, 2, 3, 5, 6))
    return Terminology(category, kind, modifier, region, region_modifier)


def structure_tags(structure: Structure, *, algorithm: str, empty: bool) -> dict[str, str]:
    """Return every tag of a structure's segment.

    Parameters
    ----------
    structure : Structure
    algorithm : str
        Name of what made the mask; empty for a manual one. Slicer's DICOM exporter demands it for
        a mask that is not manual (DICOM PS3.3 C.8.20.4, Segment Algorithm Name).
    empty : bool
        Whether the mask has no voxel. Its segment is "not started", any other "in progress": only
        a person sets a segment to "completed".
    """
    tags = {
        ALGORITHM_TYPE: "AUTOMATIC" if algorithm else "MANUAL",
        KEY: structure.key,
        STATUS: "notstarted" if empty else "inprogress",
        TERMINOLOGY: terminology_entry(structure),
    }
    if algorithm:
        tags[ALGORITHM_NAME] = _plain(algorithm)
    if structure.contained_in is not None:
        tags[CONTAINED_IN] = structure.contained_in
    return tags


def format_tags(tags: Mapping[str, str]) -> str:
    """Join tags as Slicer does: sorted by name, each ended by ``|``."""
    return "".join(f"{name}:{tags[name]}|" for name in sorted(tags))


def parse_tags(text: str) -> dict[str, str]:
    """Read the ``name:value|`` pairs of a segment; what has no colon is no tag."""
    pairs = (part.partition(":") for part in text.split("|"))
    return {name: value for name, colon, value in pairs if colon}


def structure_from_tags(tags: Mapping[str, str], *, key: str, name: str, color: tuple[int, int, int]) -> Structure:
    """Rebuild a structure from a segment, whoever made it.

    Parameters
    ----------
    tags : mapping of str to str
        As :func:`parse_tags` returns them. A segment without terminology is plain tissue, as in
        Slicer.
    key, name : str
        Identifier (the caller makes it unique) and display name.
    color : tuple of int
        Red, green, blue, 0 to 255.
    """
    codes = parse_terminology_entry(tags.get(TERMINOLOGY, ""))
    return Structure(
        key=key,
        name=name,
        category=codes.category or TISSUE,
        type=codes.type or TISSUE,
        color=color,
        region=codes.region,
        type_modifier=codes.type_modifier,
        region_modifier=codes.region_modifier,
        contained_in=tags.get(CONTAINED_IN),
    )


def slug(name: str) -> str:
    """Turn a display name into a key: ``Liver tumor`` into ``liver_tumor``."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "segment"


def _plain(text: str) -> str:
    return _SEPARATORS.sub(" ", text)


def _code_field(code: Code | None) -> str:
    return "^^" if code is None else "^".join(_plain(part) for part in (code.scheme, code.value, code.meaning))


def _parse_code(field: str) -> Code | None:
    scheme, value, meaning = [*field.split("^"), "", "", ""][:3]
    return Code(value=value, meaning=meaning, scheme=scheme) if value else None
