"""From a TOML table to a dataclass: every key known, every value of its declared type.

A misspelled option must not be ignored silently, so an unknown key is an error that names the
nearest known one. Called by :mod:`PartialSegTraining.recipe`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: TOML has no null: this word stands for it, where an option may be without a value.
NOTHING = "none"


def read_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `kind` from a table; nested tables become nested dataclasses.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are ``int``, ``float``, ``str``, ``bool``, tuples, mappings,
        dataclasses, or one of these or ``None`` (in TOML: ``"none"``).
    table : mapping
        As :mod:`tomllib` reads it.
    where : str
        Name of the table, for messages.

    Raises
    ------
    ValueError
        When a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    assert is_dataclass(kind)
    known = {field.name: field for field in fields(kind)}
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"unknown option '{key}' in {where}" + (f" (did you mean '{close[0]}'?)" if close else ""))
    missing = [
        name
        for name, field in known.items()
        if name not in table and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(repr(name) for name in missing)}")
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in table.items()})
    except ValueError as error:
        message = str(error)
        raise ValueError(message if where in message else f"{where}: {message}") from error


def require(condition: bool, name: str, value: Any, words: str) -> None:
    """Raise a ValueError that the option `name` has a `value` that is not what `words` say."""
    if not condition:
        raise ValueError(f"'{name}' is {value}, but has to be {words}")


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or raise ValueError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value == NOTHING:
            return None
        return _value(next(item for item in arguments if item is not type(None)), value, where)
    if origin is typing.Literal:
        require(value in arguments, where, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _sequence(arguments, value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return read_table(hint, _of_type(Mapping, value, where, "a table"), where)
    if hint is Any:
        return value
    if origin is not None and issubclass(origin, Mapping):
        table = _of_type(Mapping, value, where, "a table")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in table.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is not bool and isinstance(value, bool):
        raise ValueError(f"{where} is {value}, but has to be of type {hint.__name__}")
    return _of_type(hint, value, where, f"of type {hint.__name__}")


def _sequence(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _of_type(list, value, where, "a list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(items)
    if len(items) != len(hints):
        raise ValueError(f"{where} has {len(items)} values, but takes {len(hints)}")
    return tuple(_value(hint, item, where) for hint, item in zip(hints, items, strict=True))


def _of_type(kind: type, value: Any, where: str, words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {value!r}, but has to be {words}")
    return value
