"""What is wrong with a collection: every file is read once, and every problem is one line.

Problems make a collection unfit; notes (a mask without a voxel, which may be right: a tumor that
somebody looked for) do not. Called by the command ``partialseg collection check``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegLib.images import Image
from PartialSegLib.progress import Monitor
from PartialSegTraining.cases import Case
from PartialSegTraining.datasets.collection import Collection, Member, missing_files

#: Images in memory at once, at most: a large scan and its masks take a gigabyte.
_MOST_WORKERS = 4


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth a look.

    Parameters
    ----------
    kind : str
        ``missing-file``, ``grid``, ``label``, ``split``, ``duplicate``, ``all-empty``,
        ``collection`` (anything else that is wrong), ``empty`` or ``unknown`` (notes).
    dataset, case : str
        Where; empty where it is about all of them.
    message : str
        One sentence that names the file.
    hint : str
        What to do.
    """

    kind: str
    dataset: str
    case: str
    message: str
    hint: str = ""

    @property
    def is_note(self) -> bool:
        """Whether the collection can be used all the same."""
        return self.kind in ("empty", "unknown")


@dataclass(frozen=True)
class Tally:
    """How much there is of a structure in a split.

    Parameters
    ----------
    structure, split : str
        Key and split.
    annotated : int
        Cases in which somebody looked for it.
    present : int
        Cases in which it has a voxel.
    voxels : int
        In all cases.
    milliliters : float
        In all cases.
    """

    structure: str
    split: str
    annotated: int
    present: int
    voxels: int
    milliliters: float


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Parameters
    ----------
    problems : tuple of Problem
        Notes included, in the order of the collection.
    tallies : tuple of Tally
        Of each annotated structure and split, in the order of the label space.
    cases : dict of str to int
        Number of cases in each split.
    """

    problems: tuple[Problem, ...]
    tallies: tuple[Tally, ...]
    cases: dict[str, int]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return all(problem.is_note for problem in self.problems)


@dataclass(frozen=True)
class _Finding:
    """What was read of one case."""

    digest: str
    counts: dict[str, tuple[int, float]]
    problems: tuple[Problem, ...]


def check(collection: Collection, *, workers: int | None = None, monitor: Monitor | None = None) -> CheckResult:
    """Read every case of a collection and say what is wrong.

    Parameters
    ----------
    collection : Collection
        As :func:`PartialSegTraining.datasets.collection.open_collection` found it.
    workers : int, optional
        Threads that read; by default one a core, up to four.
    monitor : Monitor, optional
        Told about each case.

    Raises
    ------
    CancelledError
        When the monitor was cancelled.
    """
    monitor = monitor or Monitor()
    members = collection.members
    findings: dict[int, _Finding] = {}
    monitor.step("check", 0, len(members))
    pool = ThreadPoolExecutor(workers or min(os.cpu_count() or 1, _MOST_WORKERS))
    try:
        futures = {pool.submit(_examine, member): at for at, member in enumerate(members)}
        for done, future in enumerate(as_completed(futures), 1):
            findings[futures[future]] = future.result()
            monitor.step("check", done, len(members))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    ordered = [(member, findings[at]) for at, member in enumerate(members)]
    problems = [_problem(error, dataset, "") for dataset, error in collection.problems]
    problems += [problem for _, finding in ordered for problem in finding.problems]
    problems += _duplicates(ordered)
    tallies = _tallies(collection, ordered)
    unread = {key for member, finding in ordered if not finding.counts for key in member.case.annotated}
    problems += _all_empty(item for item in tallies if item.structure not in unread)
    if not members and not problems:
        problems.append(Problem("collection", "", "", f"'{collection.name}' has no case.", "Check its splits."))
    splits = [member.split for member in members]
    return CheckResult(tuple(problems), tuple(tallies), {split: splits.count(split) for split in dict.fromkeys(splits)})


def fingerprint(image: Image) -> str:
    """Return a digest of the voxels, the same for a copy in another format, type or axis order.

    Axes are brought to the order and sense of LPS space first, and whole numbers to one type. The
    place and spacing in the header do not count: tools that strip a header keep the voxels.
    """
    axes = image.geometry.axes
    order = [int(np.argmax(np.abs(axes[row]))) for row in range(3)]
    if sorted(order) != [0, 1, 2]:
        # An image turned by 45 degrees has no nearest order of axes; its own will do.
        order = [0, 1, 2]
    # Array axes are (z, y, x), so that space axis a is array axis 2 - a.
    voxels = image.voxels.transpose([2 - order[axis] for axis in (2, 1, 0)])
    turned = [slice(None, None, -1 if axes[axis, order[axis]] < 0 else 1) for axis in (2, 1, 0)]
    voxels = voxels[tuple(turned)]
    if voxels.dtype.kind == "f" and np.array_equal(voxels, np.rint(voxels)) and np.abs(voxels).max() < 2**31:
        voxels = voxels.astype(np.int64)
    kind = np.float32 if voxels.dtype.kind == "f" else np.int64
    digest = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    for plane in voxels:
        digest.update(plane.astype(kind).tobytes())
    return digest.hexdigest()


def _examine(member: Member) -> _Finding:
    """Read a case; what is wrong with it is part of the finding."""
    case = member.case
    missing = [_problem(error, member.dataset, case.name) for error in missing_files(case)]
    if missing:
        return _Finding("", {}, tuple(missing))
    try:
        image = case.read_image()
        digest = fingerprint(image)
    except PartialSegError as error:
        return _Finding("", {}, (_problem(error, member.dataset, case.name),))
    try:
        masks, unknown = case.annotation.masks(image.geometry), case.unknown(image.geometry)
    except PartialSegError as error:
        return _Finding(digest, {}, (_problem(error, member.dataset, case.name),))
    voxel = image.geometry.voxel_volume / 1000.0
    counts = {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}
    empty = tuple(_empty(member, key) for key, count in counts.items() if not count)
    notes = empty if unknown is None else (*empty, _unknown(member, unknown))
    return _Finding(digest, {key: (count, count * voxel) for key, count in counts.items()}, notes)


def _empty(member: Member, key: str) -> Problem:
    files = _files(member.case)
    return Problem("empty", member.dataset, member.case.name, f"{files} has no voxel of '{key}', which was annotated.")


def _unknown(member: Member, unknown: np.ndarray) -> Problem:
    share = np.count_nonzero(unknown) / unknown.size
    message = f"{_files(member.case)} marks {share:.1%} of its voxels as unknown; they are left out."
    return Problem("unknown", member.dataset, member.case.name, message)


def _files(case: Case) -> str:
    """Name the masks of a case: its one file, or the folder of several."""
    files = case.annotation.files
    return str(files[0] if len(files) == 1 else files[0].parent if files else case.image_path)


def _problem(error: PartialSegError, dataset: str, case: str) -> Problem:
    kind = error.code if isinstance(error, CollectionError) else CollectionError.code
    return Problem(kind, dataset, case, error.message, error.hint)


def _duplicates(ordered: Iterable[tuple[Member, _Finding]]) -> list[Problem]:
    """Find images that two splits share: what is tested must not have been trained on."""
    first: dict[str, Member] = {}
    problems = []
    for member, finding in ordered:
        if not finding.digest:
            continue
        other = first.setdefault(finding.digest, member)
        if other.split != member.split:
            message = (
                f"{member.case.image_path} ({member.split}) has the same voxels as "
                f"{other.case.image_path} ({other.split})."
            )
            hint = "Keep both in one split."
            problems.append(Problem("duplicate", member.dataset, member.case.name, message, hint))
    return problems


def _tallies(collection: Collection, ordered: list[tuple[Member, _Finding]]) -> list[Tally]:
    tallies = []
    splits = dict.fromkeys(member.split for member, _ in ordered)
    for structure in collection.space.structures:
        for split in splits:
            found = [
                finding.counts[structure.key]
                for member, finding in ordered
                if member.split == split and structure.key in finding.counts
            ]
            if found:
                voxels, volume = (sum(column) for column in zip(*found, strict=True))
                present = sum(count > 0 for count, _ in found)
                tallies.append(Tally(structure.key, split, len(found), present, int(voxels), round(volume, 3)))
    return tallies


def _all_empty(tallies: Iterable[Tally]) -> list[Problem]:
    """Find structures that were annotated in some cases, and are in none of any split.

    Those of cases that could not be read are left out: nobody knows.
    """
    annotated: dict[str, int] = {}
    present: dict[str, int] = {}
    for tally in tallies:
        annotated[tally.structure] = annotated.get(tally.structure, 0) + tally.annotated
        present[tally.structure] = present.get(tally.structure, 0) + tally.present
    return [
        Problem(
            "all-empty",
            "",
            "",
            f"'{key}' is annotated in {count} cases, and has no voxel in any.",
            "Is it mapped to the right labels?",
        )
        for key, count in annotated.items()
        if not present[key]
    ]
