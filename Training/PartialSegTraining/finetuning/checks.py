"""What has to be right before a fine-tuning begins; each thing that is wrong ends in one line.

Every case is read once here: masks on the grid of their image, something annotated, nothing that the
model will not know. Called by :mod:`PartialSegTraining.finetuning.session`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PartialSegLib.card import Card
from PartialSegLib.errors import CollectionError
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.cases import Case
from PartialSegTraining.finetuning.casefolders import descriptions, only_structures
from PartialSegTraining.finetuning.contract import MODES, FineTuneOptions
from PartialSegTraining.finetuning.growth import describe, grown_space, is_one_piece


@dataclass(frozen=True)
class Fingerprint:
    """A case without a word about whose it is.

    Parameters
    ----------
    image : str
        BLAKE2b of the content of the image files, hexadecimal.
    annotated : tuple of str
        Keys of the structures that were annotated.
    """

    image: str
    annotated: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """Cases that were read and found good.

    Parameters
    ----------
    cases : tuple of Case
        To learn from.
    held_out : tuple of Case
        To judge on; never trained on.
    replay : tuple of Case
        Earlier cases; they annotate structures of the parent.
    space : LabelSpace
        Of the new model: that of the parent, and a task for each added structure.
    trained : tuple of str
        Keys of the structures that the cases annotate, in the order of `space`.
    added : tuple of str
        Those of them that are new.
    fingerprints : tuple of Fingerprint
        Of `cases`.
    """

    cases: tuple[Case, ...]
    held_out: tuple[Case, ...]
    replay: tuple[Case, ...]
    space: LabelSpace
    trained: tuple[str, ...]
    added: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]


def check_material(
    card: Card,
    cases: Sequence[Case],
    held_out: Sequence[Case],
    replay: Sequence[Case],
    mode: str,
    options: FineTuneOptions,
    monitor: Monitor,
) -> Material:
    """Read every case and return what can be trained.

    Raises
    ------
    CollectionError
        When there is no case, one cannot be read, annotates nothing or a structure that the model will
        not know, or is held out and trained on at once; or the mode is unknown.
    LabelSpaceError
        When an added structure is known already, or described nowhere.
    """
    if mode not in MODES:
        raise CollectionError(f"There is no mode '{mode}' of fine-tuning.", f"Choose from: {', '.join(MODES)}.")
    if not cases:
        raise CollectionError("There is no case to learn from.", "Give at least one annotated case.")
    _refuse_repeated(cases)
    space = _space(card, cases, mode, options)
    _refuse_unknown(cases, space, card)
    pieces = _read(cases, monitor)
    added = () if mode == "transfer" else options.add_structures
    if added:
        whole = [key for key in added if not space.structure(key).is_finding and pieces.get(key)]
        space = grown_space(card.label_space, [space.structure(key) for key in added], whole)
    annotated = {key for case in cases for key in case.annotated}
    known = set(space.select())
    fingerprints = tuple(fingerprint(case) for case in cases)
    kept = [tuple(_known(case, known) for case in part if case.annotated & known) for part in (held_out, replay)]
    _refuse_seen(kept[0], fingerprints)
    trained = tuple(key for key in space.select() if key in annotated)
    return Material(tuple(cases), kept[0], kept[1], space, trained, added, fingerprints)


def fingerprint(case: Case) -> Fingerprint:
    """Return the hash of a case's image and what it annotates; CollectionError when it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    images = set(case.files) - set(case.annotation.files)
    for path in sorted(images):
        digest.update(_content(path))
    return Fingerprint(digest.hexdigest(), tuple(sorted(case.annotated)))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}.", "Was it moved?") from error


def _space(card: Card, cases: Sequence[Case], mode: str, options: FineTuneOptions) -> LabelSpace:
    """Return the label space of the new model, before the cases say what is one piece."""
    if mode == "transfer":
        target = LabelSpace.named(options.label_space or "kits21")
        for key in sorted(set(options.add_structures) - set(target.select())):
            raise CollectionError(
                f"'transfer' learns the label space '{target.name}' and cannot add '{key}' to it.",
                "Use 'quick' or 'full' to add structures.",
            )
        return target
    described = {**descriptions(cases), **{item.key: item for item in options.structures}}
    space = grown_space(card.label_space, describe(options.add_structures, described))
    for key in options.add_structures:
        if not any(key in case.annotated for case in cases):
            raise CollectionError(
                f"No case annotates '{key}', which is to be added.", "Give a case with a mask of it, or leave it out."
            )
    return space


def _refuse_unknown(cases: Sequence[Case], space: LabelSpace, card: Card) -> None:
    known = set(space.select())
    for case in cases:
        for key in sorted(case.annotated - known):
            raise CollectionError(
                f"Case '{case.name}' annotates '{key}', which model '{card.name}' does not know.",
                f"Add it with --add-structure {key}, or leave it out of the case.",
            )


def _refuse_repeated(cases: Sequence[Case]) -> None:
    names = [case.name for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CollectionError(f"Two cases are named '{repeated[0]}'.", "Give each folder a name of its own.")


def _refuse_seen(held_out: Sequence[Case], fingerprints: Sequence[Fingerprint]) -> None:
    """Refuse to judge on images that are trained on."""
    seen = {item.image for item in fingerprints}
    for case in held_out:
        if fingerprint(case).image in seen:
            raise CollectionError(
                f"Case '{case.name}' is held out, but its image is trained on too.", "Leave it out of one of the two."
            )


def _read(cases: Sequence[Case], monitor: Monitor) -> Mapping[str, bool]:
    """Read every case; tell of each structure whether it is one piece wherever it is."""
    whole: dict[str, bool] = {}
    monitor.step("check", 0, len(cases))
    for done, case in enumerate(cases, 1):
        _, masks = case.load()
        present = {key: mask for key, mask in masks.items() if mask.any()}
        if not present:
            raise CollectionError(
                f"Case '{case.name}' shows none of the structures that it annotates: "
                f"{', '.join(sorted(masks))} have no voxel.",
                "Give a case in which one of them is there.",
            )
        for key, mask in present.items():
            whole[key] = whole.get(key, True) and is_one_piece(mask)
        monitor.step("check", done, len(cases))
    return whole


def _known(case: Case, known: set[str]) -> Case:
    """Return a case without the structures that the model will not know."""
    return only_structures(case, known) if case.annotated - known else replace(case)
