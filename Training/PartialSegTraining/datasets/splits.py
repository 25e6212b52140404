"""Which case of a dataset belongs to which split, as its manifest says.

Everything that is wrong is gathered, so that a check can list it all. Called by
:mod:`PartialSegTraining.datasets.collection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError
from PartialSegTraining.datasets.manifest import SPLITS, Dataset


class SplitError(CollectionError):
    """A split that names a case twice or an unknown one, or has another size than published."""

    code = "split"


def assign(dataset: Dataset, names: Sequence[str], root: Path) -> tuple[dict[str, list[str]], list[CollectionError]]:
    """Divide the cases of a dataset.

    Parameters
    ----------
    dataset : Dataset
        Of the manifest.
    names : sequence of str
        Its cases, in alphabetical order.
    root : Path
        Folder in which text files with names lie.

    Returns
    -------
    splits : dict of str to list of str
        Cases of each split, in alphabetical order; a case that two splits name is in the first.
    problems : list of CollectionError
        What is wrong.
    """
    problems: list[CollectionError] = []
    wanted: dict[str, list[str]] = {}
    for split in SPLITS:
        if split in dataset.splits:
            try:
                wanted[split] = _names(dataset.splits[split], names, root)
            except ValueError as error:
                problems.append(SplitError(f"Split '{split}' of dataset '{dataset.name}': {error}."))
            except CollectionError as error:
                problems.append(error)
    owner: dict[str, str] = {}
    for split, listed in wanted.items():
        for name in listed:
            if name not in names:
                problems.append(
                    SplitError(
                        f"Split '{split}' of dataset '{dataset.name}' names '{name}', which is no case of it.",
                        f"Cases are called like '{names[0]}'." if names else "",
                    )
                )
            elif owner.setdefault(name, split) != split:
                problems.append(
                    SplitError(
                        f"Case '{name}' of dataset '{dataset.name}' is in two splits: '{owner[name]}' and '{split}'.",
                        "Take it out of one.",
                    )
                )
    if "train" not in dataset.splits:
        owner = {name: owner.get(name, "train") for name in names}
    splits = {split: [name for name in names if owner.get(name) == split] for split in SPLITS}
    problems += _wrong_sizes(dataset, splits)
    return {split: listed for split, listed in splits.items() if listed}, problems


def _names(rule: Any, names: Sequence[str], root: Path) -> list[str]:
    """Return the cases that one split of the manifest names; ValueError when it is no such rule."""
    if isinstance(rule, list) and all(isinstance(name, str) for name in rule):
        return rule
    if isinstance(rule, str):
        path = root / rule
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SplitError(f"{path} cannot be read: {error}.", "It lists the cases of a split.") from error
        return [line.strip() for line in lines if line.strip()]
    if isinstance(rule, dict) and "every" in rule and set(rule) <= {"every", "first"}:
        numbers = list(rule.values())
        if all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
            return list(names[: rule.get("first", len(names)) : rule["every"]])
    raise ValueError(f"{rule!r} is no list of cases, no text file, and no rule such as {{ every = 5 }}")


def _wrong_sizes(dataset: Dataset, splits: dict[str, list[str]]) -> list[CollectionError]:
    return [
        SplitError(
            f"Split '{split}' of dataset '{dataset.name}' has {len(splits[split])} cases, but {size} were published.",
            "Complete the dataset, or correct 'sizes' in your copy of the manifest.",
        )
        for split, size in dataset.sizes.items()
        if len(splits[split]) != size
    ]
