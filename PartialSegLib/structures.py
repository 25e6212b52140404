"""What can be segmented: structures, the tasks that annotate them, and the label space of a model.

A *structure* is one thing with one mask. A *task* is the set of structures that one dataset
annotates together, answered by one head call. A *label space* is every task that a model knows.
All three are data (JSON, schema in ``data/label_space.schema.json``); this module reads, checks
and looks them up. It imports neither torch nor numpy.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from PartialSegLib.errors import LabelSpaceError

_DATA = resources.files("PartialSegLib") / "data"


@dataclass(frozen=True)
class Code:
    """A coded concept, as in DICOM PS3.3 section 8.8: value, scheme and meaning."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class Structure:
    """One thing with one mask.

    Parameters
    ----------
    key : str
        Identifier in files and on the command line (``liver_tumor``).
    name : str
        What a radiologist reads (``Liver tumor``).
    category, type : Code
        SNOMED-CT property category and type (DICOM PS3.16 CID 7150 and CID 7151 ff.).
    region : Code, optional
        Anatomic region, for a finding that lies in an organ.
    type_modifier, region_modifier : Code, optional
        Laterality.
    color : tuple of int
        Red, green, blue, 0 to 255.
    contained_in : str, optional
        Key of the structure that contains this one (a tumor's organ).
    """

    key: str
    name: str
    category: Code
    type: Code
    color: tuple[int, int, int]
    region: Code | None = None
    type_modifier: Code | None = None
    region_modifier: Code | None = None
    contained_in: str | None = None

    @property
    def is_finding(self) -> bool:
        """Whether it is a tumor, cyst or the like: SNOMED-CT category Morphologically Altered Structure."""
        return self.category.value == "49755003"

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Structure:
        """Read one entry of a label space file.

        Raises
        ------
        LabelSpaceError
            When a field is missing or unknown, or a color is no RGB triple.
        """
        try:
            codes = {
                name: Code(**entry[name])
                for name in ("category", "type", "region", "type_modifier", "region_modifier")
                if entry.get(name) is not None
            }
            red, green, blue = (int(value) for value in entry["color"])
            if not all(0 <= value <= 255 for value in (red, green, blue)):
                raise ValueError(f"color {entry['color']} is not in 0 to 255")
            return cls(
                key=entry["key"],
                name=entry["name"],
                color=(red, green, blue),
                contained_in=entry.get("contained_in"),
                **codes,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LabelSpaceError(
                f"Structure {entry.get('key', '?')!r} is not described completely: {error}.",
                "See label_space.schema.json for the fields.",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the entry as :meth:`from_json` reads it, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Rule:
    """One step of a task's post-processing, carried out in the order of the label space.

    Parameters
    ----------
    op : str
        ``add`` (join the mask of `other` to this one), ``keep_largest`` (the `count` largest
        connected components), ``inside`` (clip to the mask of `other`), ``drop_small``
        (components of at most `max_mm3`, unless it is the only one) or ``close`` (fill gaps one
        voxel wide).
    structure : str
        Key of the structure that is changed.
    other : str, optional
        Key of the second structure of ``add`` and ``inside``.
    count : int
        Components that ``keep_largest`` keeps.
    max_mm3 : float
        Largest volume, in cubic millimetres, that ``drop_small`` removes.
    min_share : float
        ``keep_largest`` keeps only components larger than this share of the largest one.
    connectivity : int
        Neighbors by which the voxels of ``keep_largest`` are connected: 6, 18 or 26.
    """

    op: str
    structure: str
    other: str | None = None
    count: int = 1
    max_mm3: float = 0.0
    min_share: float = 0.0
    connectivity: Literal[6, 18, 26] = 6

    #: Those with a second structure.
    OF_TWO = ("add", "inside")
    OPS = ("add", "keep_largest", "inside", "drop_small", "close")
    CONNECTIVITIES = (6, 18, 26)


@dataclass(frozen=True)
class Task:
    """The structures that one dataset annotates together; one head call.

    Parameters
    ----------
    key, name : str
        Identifier and display name.
    channels : tuple of str or None
        Structure key of each output channel; ``None`` where the dataset annotates nothing for it
        (the organ channel of DoDNet's colon and lung tasks), so that the channel is never trained
        and never shown.
    rules : tuple of Rule
        Post-processing, in order.
    """

    key: str
    name: str
    channels: tuple[str | None, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def structures(self) -> tuple[str, ...]:
        """Keys of the annotated structures, in channel order."""
        return tuple(key for key in self.channels if key is not None)


@dataclass(frozen=True)
class LabelSpace:
    """Every task that a model knows, and the structures they annotate.

    The position of a task in :attr:`tasks` is its index in the network's task code.

    Parameters
    ----------
    name : str
        Name of the label space (``MOTS``).
    tasks : tuple of Task
        In the order of the network's task code.
    structures : tuple of Structure
        Every structure named by a task, in task order.

    Raises
    ------
    LabelSpaceError
        When keys repeat, a task names an unknown structure, or two tasks claim the same one.
    """

    name: str
    tasks: tuple[Task, ...]
    structures: tuple[Structure, ...]
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _refuse_duplicates("task", [task.key for task in self.tasks], self.name)
        _refuse_duplicates("structure", [item.key for item in self.structures], self.name)
        claimed = [key for task in self.tasks for key in task.structures]
        _refuse_duplicates("annotated structure", claimed, self.name)
        unknown = set(claimed) - set(self._by_key)
        for task in self.tasks:
            for rule in task.rules:
                if rule.op not in Rule.OPS:
                    raise LabelSpaceError(
                        f"Task '{task.key}' of '{self.name}' has a rule '{rule.op}'.",
                        f"Known rules: {', '.join(Rule.OPS)}.",
                    )
                if rule.connectivity not in Rule.CONNECTIVITIES:
                    raise LabelSpaceError(
                        f"A rule of task '{task.key}' of '{self.name}' connects {rule.connectivity} neighbors.",
                        f"A voxel has {', '.join(map(str, Rule.CONNECTIVITIES))} of them.",
                    )
                if (rule.other is not None) != (rule.op in Rule.OF_TWO):
                    raise LabelSpaceError(
                        f"The rule '{rule.op}' of task '{task.key}' of '{self.name}' has 'other' = {rule.other}.",
                        f"{' and '.join(Rule.OF_TWO)} name a second structure, the other rules none.",
                    )
                if rule.count < 1 or rule.max_mm3 < 0.0 or not 0.0 <= rule.min_share < 1.0:
                    raise LabelSpaceError(
                        f"The rule '{rule.op}' of task '{task.key}' of '{self.name}' has count = {rule.count}, "
                        f"max_mm3 = {rule.max_mm3:g}, min_share = {rule.min_share:g}.",
                        "They have to be at least 1, at least 0, and from 0 to below 1.",
                    )
                unknown |= {rule.structure, rule.other or rule.structure} - set(self._by_key)
        if unknown:
            raise LabelSpaceError(
                f"Label space '{self.name}' names structures that it does not describe: {', '.join(sorted(unknown))}.",
                "Add them to its 'structures'.",
            )

    @cached_property
    def _by_key(self) -> dict[str, Structure]:
        return {structure.key: structure for structure in self.structures}

    @cached_property
    def _task_of(self) -> dict[str, Task]:
        return {key: task for task in self.tasks for key in task.structures}

    def structure(self, key: str) -> Structure:
        """Return the structure named `key`; :class:`LabelSpaceError` when there is none."""
        if key not in self._by_key:
            raise self._unknown("structure", key, self._by_key)
        return self._by_key[key]

    def task(self, key: str) -> Task:
        """Return the task named `key`; :class:`LabelSpaceError` when there is none."""
        for task in self.tasks:
            if task.key == key:
                return task
        raise self._unknown("task", key, [task.key for task in self.tasks])

    def task_index(self, key: str) -> int:
        """Return the position of the task in the network's task code."""
        return self.tasks.index(self.task(key))

    def task_of(self, structure: str) -> Task:
        """Return the task that annotates `structure`."""
        if structure not in self._task_of:
            raise self._unknown("structure", structure, self._task_of)
        return self._task_of[structure]

    def select(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Turn task and structure keys into structure keys, in the order of the label space.

        Parameters
        ----------
        names : iterable of str, optional
            Keys of tasks (all their structures) or structures, any letter case; ``None`` or
            ``["all"]`` for everything. A structure that shares its key with a task is chosen alone
            by both keys: ``liver`` is the task, ``liver/liver`` the organ without its tumors.

        Returns
        -------
        tuple of str
            Structure keys without repetition.

        Raises
        ------
        LabelSpaceError
            When a name is neither, with the closest known names.
        """
        wanted = None if names is None else [name.strip().lower() for name in names]
        if wanted is None or wanted == ["all"]:
            return tuple(key for task in self.tasks for key in task.structures)
        if not wanted:
            raise LabelSpaceError("No task was named.", f"Choose from: {', '.join(t.key for t in self.tasks)}.")
        chosen: set[str] = set()
        tasks = {task.key: task for task in self.tasks}
        for name in wanted:
            task, _, structure = name.partition("/")
            if name in tasks:
                chosen.update(tasks[name].structures)
            elif task in tasks and structure in tasks[task].structures:
                chosen.add(structure)
            elif name in self._task_of:
                chosen.add(name)
            else:
                raise self._unknown("task or structure", name, [*tasks, *self._task_of])
        return tuple(key for task in self.tasks for key in task.structures if key in chosen)

    def exactly(self, structures: Iterable[str]) -> tuple[str, ...]:
        """Return the names by which :meth:`select` chooses these structures and no others (``liver/liver``)."""
        return tuple(f"{self.task_of(key).key}/{key}" for key in structures)

    def _unknown(self, kind: str, key: str, known: Iterable[str]) -> LabelSpaceError:
        known = sorted(set(known))
        close = difflib.get_close_matches(key, known, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
        return LabelSpaceError(f"Unknown {kind} '{key}' in label space '{self.name}'.", hint)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LabelSpace:
        """Build a label space from its JSON document.

        Structures may be described in the document (as a bundle's card does, so that it stands
        alone) or be keys of the library's catalogue ``structures.json``.

        Raises
        ------
        LabelSpaceError
            When the document is incomplete or contradicts itself.
        """
        try:
            tasks = tuple(
                Task(
                    key=entry["key"],
                    name=entry["name"],
                    channels=tuple(entry["channels"]),
                    rules=tuple(Rule(**rule) for rule in entry.get("rules", ())),
                )
                for entry in document["tasks"]
            )
            name = document["name"]
        except (KeyError, TypeError) as error:
            raise LabelSpaceError(
                f"Label space {document.get('name', '?')!r} cannot be read: {error}.",
                "See label_space.schema.json for the fields.",
            ) from error
        known = dict(catalogue())
        for entry in document.get("structures", ()):
            structure = Structure.from_json(entry)
            known[structure.key] = structure
        claimed = [key for task in tasks for key in task.structures]
        missing = [key for key in claimed if key not in known]
        if missing:
            raise LabelSpaceError(
                f"Label space '{name}' names unknown structures: {', '.join(missing)}.",
                "Describe them in its 'structures'.",
            )
        structures = tuple(known[key] for key in dict.fromkeys(claimed))
        return cls(name=name, tasks=tasks, structures=structures, description=document.get("description", ""))

    @classmethod
    def from_file(cls, path: str | Path) -> LabelSpace:
        """Read a label space from a JSON file (UTF-8)."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise LabelSpaceError(f"{path} is not a readable label space: {error}.") from error

    @classmethod
    def named(cls, name: str) -> LabelSpace:
        """Return a label space that the library brings: ``mots``, ``btcv``, ``kits21``, ``multitalent``, ``u2net``."""
        file = _DATA / "label_spaces" / f"{name.lower()}.json"
        if not file.is_file():
            known = sorted(item.name[:-5] for item in (_DATA / "label_spaces").iterdir())
            raise LabelSpaceError(f"There is no label space named '{name}'.", f"Known: {', '.join(known)}.")
        return cls.from_json(json.loads(file.read_text(encoding="utf-8")))

    def to_json(self) -> dict[str, Any]:
        """Return a document that stands alone: tasks, rules and full structure descriptions."""
        return {
            "name": self.name,
            "description": self.description,
            "tasks": [_task_to_json(task) for task in self.tasks],
            "structures": [structure.to_json() for structure in self.structures],
        }


@cache
def catalogue() -> Mapping[str, Structure]:
    """Return every structure that the library describes, by key (``data/structures.json``)."""
    entries = json.loads((_DATA / "structures.json").read_text(encoding="utf-8"))
    return {entry["key"]: Structure.from_json(entry) for entry in entries["structures"]}


def _task_to_json(task: Task) -> dict[str, Any]:
    defaults = {"other": None, "count": 1, "max_mm3": 0.0, "min_share": 0.0, "connectivity": 6}
    rules = [
        {name: value for name, value in asdict(rule).items() if name not in defaults or value != defaults[name]}
        for rule in task.rules
    ]
    return {"key": task.key, "name": task.name, "channels": list(task.channels), "rules": rules}


def _refuse_duplicates(kind: str, keys: list[str], where: str) -> None:
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise LabelSpaceError(
            f"Label space '{where}' has the same {kind} twice: {', '.join(repeated)}.",
            "Give each protocol its own key.",
        )
