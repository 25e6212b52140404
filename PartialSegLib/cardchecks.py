"""The checks that every part of a card shares: fields present and known, values of the right kind.

Called by :mod:`PartialSegLib.card` and :mod:`PartialSegLib.preparation` while they read JSON. Each
check returns the checked value, or raises a ``ValueError`` that names the field and the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def only(entry: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse fields that are not `known`."""
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise ValueError(f"{where} has an unknown field '{unknown[0]}'")


def present(entry: Mapping[str, Any], needed: Iterable[str], where: str) -> None:
    """Refuse an entry without all `needed` fields."""
    missing = [name for name in needed if name not in entry]
    if missing:
        raise ValueError(f"{where} lacks '{missing[0]}'")


def text(value: Any, name: str) -> str:
    """Return a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' is {value!r}, not a text")
    return value


def word(value: Any, known: Iterable[str], name: str) -> str:
    """Return one of the `known` words."""
    words = tuple(known)
    if value not in words:
        raise ValueError(f"'{name}' is {value!r}, not one of {', '.join(words)}")
    return str(value)


def flag(value: Any, name: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"'{name}' is {value!r}, neither true nor false")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    """Return a copy of an object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"'{name}' is {value!r}, not an object")
    return dict(value)


def numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    """Return `count` finite numbers."""
    found = value if isinstance(value, list) else [value]
    good = all(isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) for item in found)
    if len(found) != count or not good:
        raise ValueError(f"'{name}' is {value!r}, not {count} number{'s' * (count > 1)}")
    return tuple(float(item) for item in found)


def is_count(value: Any) -> bool:
    """Whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
