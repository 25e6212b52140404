"""The manifest of a collection: its datasets, what their labels mean, and the splits.

TOML (or the same as JSON), with a schema in ``collection.schema.json``; the presets are manifests
too. Relative paths in a manifest are relative to its ``root``, and ``root`` to the manifest; that
of a preset is the current folder. What is read here is only what the manifest says;
:mod:`PartialSegTraining.datasets.collection` opens the datasets.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.datasets.contract import MISSING, DatasetFiles
from PartialSegTraining.datasets.labels import read_label_table
from PartialSegTraining.datasets.layouts import LAYOUTS
from PartialSegTraining.tables import read_table, require

VERSION = 1
#: The splits that a manifest may name; cases that no split names are for training.
SPLITS = ("train", "validation", "test")

_PRESETS = resources.files("PartialSegTraining") / "datasets" / "presets"


@dataclass(frozen=True)
class Dataset:
    """One dataset of a manifest.

    Parameters
    ----------
    name : str
        Unique in the collection; the names of its cases begin with it.
    layout : str
        One of :data:`PartialSegTraining.datasets.layouts.LAYOUTS`.
    structures : Any
        Labels of each structure, or a list of structures
        (:func:`PartialSegTraining.datasets.labels.read_label_table`).
    folder : str
        Where it lies, in the root of the collection.
    annotated : tuple of str or None
        Structures that were annotated in it; by default those of `structures`.
    unused : tuple
        Labels that show none of the structures.
    missing : str
        What a missing file or segment of a structure means: ``refuse``, ``unknown`` or ``absent``.
    image, masks : str
        Where the files of a case lie, with ``{case}``, in layouts that have such patterns.
    splits : mapping
        Cases of each split: a list of names, a text file with a name a line, ``{ every = 5 }``
        (every fifth case in alphabetical order, beginning with the first), which ``first = 210``
        limits to the first 210. Without ``train``, that is all cases that no other split names.
    sizes : mapping
        Number of cases that each split must have, as published.
    note : str
        For people.
    """

    name: str
    layout: str
    structures: Any
    folder: str = "."
    annotated: tuple[str, ...] | None = None
    unused: tuple[Any, ...] = ()
    missing: str = "refuse"
    image: str = ""
    masks: str = ""
    splits: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        plain = self.name.strip() and not set(self.name) & set("/\\")
        require(bool(plain), "name", repr(self.name), "a word without slashes")
        require(self.layout in LAYOUTS, "layout", repr(self.layout), f"one of {', '.join(LAYOUTS)}")
        require(self.missing in MISSING, "missing", repr(self.missing), f"one of {', '.join(MISSING)}")
        layout = LAYOUTS[self.layout]
        if (self.image or self.masks) and not layout.patterned:
            raise ValueError(f"'image' and 'masks' are not asked for in layout '{self.layout}', whose paths are fixed")
        if self.missing != "refuse" and not layout.optional_masks:
            raise ValueError(f"'missing' means nothing in layout '{self.layout}', where one file has all labels")
        for name in (*self.splits, *self.sizes):
            require(name in SPLITS, "splits", repr(name), f"one of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class _Document:
    """A manifest as it is written; the fields of :class:`Manifest`."""

    version: int
    name: str
    label_space: str
    dataset: tuple[Dataset, ...]
    root: str = "."
    description: str = ""

    def __post_init__(self) -> None:
        require(self.version == VERSION, "version", self.version, f"{VERSION}; a newer one needs a newer PartialSeg")
        require(bool(self.dataset), "dataset", "[]", "at least one [[dataset]]")
        names = [item.name for item in self.dataset]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "name", repr(twice[:1]), "unique among the datasets")


@dataclass(frozen=True)
class Manifest:
    """A collection as its manifest describes it.

    Parameters
    ----------
    path : Path
        The file.
    name, description : str
        For people.
    space : LabelSpace
        Where its structures are described.
    root : Path
        Folder of the datasets.
    datasets : tuple of Dataset
        In the order of the file.
    """

    path: Path
    name: str
    space: LabelSpace
    root: Path
    datasets: tuple[Dataset, ...]
    description: str = ""

    def files(self, dataset: Dataset) -> DatasetFiles:
        """Return a dataset as its reader takes it.

        Raises
        ------
        CollectionError
            When a label or structure of it cannot be understood.
        """
        try:
            table = read_label_table(dataset.structures, dataset.annotated, dataset.unused, self.space)
        except (ValueError, PartialSegError) as error:
            hint = getattr(error, "hint", "")
            message = getattr(error, "message", f"{error}.")
            raise CollectionError(f"Dataset '{dataset.name}' of {self.path}: {message}", hint) from error
        return DatasetFiles(self.root / dataset.folder, table, dataset.image, dataset.masks, dataset.missing)


def read_manifest(path: str | Path, root: str | Path | None = None) -> Manifest:
    """Read a manifest, or the preset of that name.

    Parameters
    ----------
    path : path
        TOML or JSON file, or the name of a preset.
    root : path, optional
        Folder of the datasets, in place of the one that the manifest names.

    Raises
    ------
    CollectionError
        When there is no such manifest, or something in it is unknown, missing or contradictory.
    """
    path = _find(path)
    try:
        parse = json.loads if path.suffix == ".json" else tomllib.loads
        document = read_table(_Document, parse(path.read_text(encoding="utf-8")), "the manifest")
    except (OSError, UnicodeDecodeError) as error:
        raise CollectionError(f"{path} cannot be read: {error}.", "A manifest is a text file in TOML.") from error
    except ValueError as error:
        raise CollectionError(
            f"{path} is no manifest of a collection: {error}.", "See collection.schema.json for its options."
        ) from error
    base = Path() if path.parent == Path(str(_PRESETS)) else path.parent
    folder = Path(root) if root is not None else base / document.root
    space = _label_space(document.label_space, path)
    return Manifest(path, document.name, space, folder, document.dataset, document.description)


def preset_names() -> tuple[str, ...]:
    """Return the names of the manifests that the library brings."""
    return tuple(sorted(item.name.removesuffix(".toml") for item in _PRESETS.iterdir() if item.name.endswith(".toml")))


def preset_with_root(name: str, root: str | Path) -> str:
    """Return the text of a preset whose datasets lie in `root`, to be kept and changed.

    Raises
    ------
    CollectionError
        When there is no such preset.
    """
    if name not in preset_names():
        raise CollectionError(f"There is no preset '{name}'.", f"Presets: {', '.join(preset_names())}.")
    text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    # JSON's strings are strings of TOML too.
    return text.replace('root = "."\n', f"root = {json.dumps(str(root))}\n", 1)


def with_datasets(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    """Return the manifest with some of its datasets only.

    Raises
    ------
    CollectionError
        When one of them is unknown.
    """
    known = [dataset.name for dataset in manifest.datasets]
    for name in names:
        if name not in known:
            raise CollectionError(f"{manifest.path} has no dataset '{name}'.", f"It has: {', '.join(known)}.")
    return replace(manifest, datasets=tuple(item for item in manifest.datasets if item.name in names))


def _find(path: str | Path) -> Path:
    """Return the file of a manifest; a name without a folder may be a preset's."""
    if Path(path).is_file():
        return Path(path)
    if str(path) in preset_names():
        return Path(str(_PRESETS / f"{path}.toml"))
    close = difflib.get_close_matches(str(path), preset_names(), n=1)
    raise CollectionError(
        f"There is no manifest '{path}'.",
        f"Did you mean the preset '{close[0]}'?" if close else f"Presets: {', '.join(preset_names())}.",
    )


def _label_space(name: str, path: Path) -> LabelSpace:
    try:
        return LabelSpace.from_file(path.parent / name) if name.endswith(".json") else LabelSpace.named(name)
    except PartialSegError as error:
        raise CollectionError(f"'label_space' of {path}: {error.message}", error.hint) from error
