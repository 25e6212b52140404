"""Where the files of a dataset lie, as a pattern with ``{case}``: ``{case}/imaging.nii.gz``.

``*`` stands for any part of one folder or file name, where datasets have names that no one can
know. Used by the readers of the layouts that have no list of their cases.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from PartialSegLib.errors import CollectionError
from PartialSegTraining.cases import MissingFileError

_CASE, _LABEL = "{case}", "{label}"


def find_cases(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the file or folder of every case, in alphabetical order of the cases; hidden ones are none.

    Parameters
    ----------
    folder : Path
        Of the dataset.
    pattern : str
        Path in it, with ``{case}``; ``{label}`` and ``*`` stand for anything.

    Raises
    ------
    CollectionError
        When the folder or every file is missing, or the pattern has no ``{case}``.
    """
    if _CASE not in pattern:
        raise CollectionError(f"The pattern '{pattern}' has no {_CASE}.", "It marks where the name of the case is.")
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}.", "Correct 'root' or 'folder' in the manifest.")
    expression = _expression(pattern)
    found: dict[str, Path] = {}
    anything = re.sub(r"\*+", "*", pattern.replace(_CASE, "*").replace(_LABEL, "*"))
    for path in sorted(folder.glob(anything)):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if match and not hidden:
            found.setdefault(match["case"], path)
    if not found:
        raise MissingFileError(
            f"{folder} holds no '{pattern}'.", "Correct 'folder' or the patterns of the dataset in the manifest."
        )
    return dict(sorted(found.items()))


def locate(folder: Path, pattern: str, case: str) -> Path:
    """Return the file or folder of one case; without ``*`` in the pattern it need not exist.

    Raises
    ------
    CollectionError
        When ``*`` fits nothing, or several.
    """
    if "*" not in pattern:
        return folder / pattern.replace(_CASE, case)
    matches = sorted(folder.glob(pattern.replace(_CASE, glob.escape(case))))
    if not matches:
        raise MissingFileError(f"{folder} holds no '{pattern.replace(_CASE, case)}'.", "Was it moved?")
    if len(matches) > 1:
        raise CollectionError(
            f"{folder} holds {len(matches)} of '{pattern.replace(_CASE, case)}', as {matches[0].name} and "
            f"{matches[1].name}.",
            "Keep one, or make the pattern narrower.",
        )
    return matches[0]


def _expression(pattern: str) -> re.Pattern[str]:
    """Translate a pattern; the name of the case is the same wherever it stands."""
    parts, seen = [], False
    for part in re.split(r"(\{case\}|\{label\}|\*)", pattern):
        if part == _CASE:
            parts.append("(?P=case)" if seen else "(?P<case>[^/]+)")
            seen = True
        elif part in (_LABEL, "*"):
            parts.append("[^/]*")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))
