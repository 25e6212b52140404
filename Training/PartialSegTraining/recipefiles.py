"""Finding and reading recipes: those of the repository in ``recipes/`` by name, any other by path.

Called by the command line and by whoever trains from Python. What a recipe may say is decided in
:mod:`PartialSegTraining.recipe`.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from PartialSegLib.errors import CollectionError, PartialSegError
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.tables import read_table

_RECIPES = Path(str(resources.files("PartialSegTraining") / "recipes"))


def recipe_names() -> list[str]:
    """Return the names of the recipes that the repository brings."""
    return sorted(item.stem for item in _RECIPES.glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe of the repository by name, or any TOML file by path.

    A recipe that names another one as its ``base`` (by name, or by a path from its own folder) says
    only what it does otherwise. Another network or loss than the base's starts without its parameters.

    Raises
    ------
    CollectionError
        When there is no such recipe or base, or an option is unknown, missing or out of range.
    """
    source = _find(str(name), Path())
    try:
        return read_table(Recipe, _read(source), "recipe")
    except (ValueError, PartialSegError) as error:
        # tomllib's and unicode's errors are ValueErrors too.
        reason = str(error).rstrip(".")
        raise CollectionError(f"Recipe {source} cannot be used: {reason}.", "Correct that option.") from error


def _find(name: str, folder: Path) -> Path:
    """Return the file of a recipe; a path is one from `folder`."""
    known = recipe_names()
    source = _RECIPES / f"{name}.toml" if name in known else folder / name
    if not source.is_file():
        raise CollectionError(f"There is no recipe '{name}'.", f"Known: {', '.join(known)}; or give a TOML file.")
    return source.resolve()


def _read(source: Path, derived: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the options of a file over those of its base; `derived` are the files that led here."""
    if source in derived:
        raise ValueError(f"it is its own base, by way of {derived[-1]}")
    table = tomllib.loads(source.read_text(encoding="utf-8"))
    if "base" not in table:
        return table
    base = table.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"'base' is {base!r}, not the name of a recipe")
    return _merged(_read(_find(base, source.parent), (*derived, source)), table)


def _merged(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the options of `table` in place of its own, section by section.

    The parameters of a network or loss are not those of another one, so another name starts without them.
    """
    if table.get("name", base.get("name")) != base.get("name"):
        base = {key: value for key, value in base.items() if key != "parameters"}
    both = {key: _merged(base[key], value) for key, value in table.items() if _are_sections(base.get(key), value)}
    return {**base, **table, **both}


def _are_sections(first: object, second: object) -> bool:
    return isinstance(first, dict) and isinstance(second, dict)
