"""Which packages a Python has, and whether they can be loaded: a script, run by the Python that is asked.

``python installation.py REQUIREMENTS_FILE`` writes one JSON line for each requirement, in its order:
``name``, ``requirement``, ``version`` (empty when missing), ``fault`` (one of :data:`FAULTS`, empty
when it is good) and ``reason`` (of a package that cannot be loaded). Each package is really loaded,
because a half-installed one looks well until then; a package that takes the whole process down is the
one after the last line. It uses the standard library only, and the syntax of old versions, so that an
old Python can be told that it is too old.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib import metadata

#: Oldest Python that the worker runs on.
OLDEST = (3, 11)
#: What can be wrong with a package: not installed, of another version than required, or not to be loaded.
FAULTS = (MISSING, OUTDATED, BROKEN) = ("missing", "outdated", "broken")
#: Modules of distributions whose names differ.
MODULES = {"connected-components-3d": "cc3d"}


def read_requirements(text: str) -> list[str]:
    """Return the requirements of a file, without comments and blank lines."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def name_of(requirement: str) -> str:
    """Return the name of the distribution in a requirement (``torch>=2.6``: ``torch``)."""
    for position, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:position]
    return requirement


def check(requirement: str) -> dict[str, str]:
    """Load a package and return what is known of it."""
    name = name_of(requirement)
    found = {"name": name, "requirement": requirement, "version": "", "fault": "", "reason": ""}
    try:
        found["version"] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found["fault"] = MISSING
        return found
    if not satisfied(requirement, found["version"]):
        found["fault"] = OUTDATED
        return found
    try:
        importlib.import_module(MODULES.get(name, name))
    except Exception as error:
        # A damaged package can raise anything: a missing DLL is an OSError, a wrong NumPy an AttributeError.
        found["fault"], found["reason"] = BROKEN, f"{type(error).__name__}: {error}"
    return found


def satisfied(requirement: str, version: str) -> bool:
    """Whether a version is what a requirement asks for; true where nothing here can tell."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def main(file: str) -> None:
    """Write what is known of every requirement."""
    print(json.dumps({"python": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable}), flush=True)
    if sys.version_info[:2] < OLDEST:
        return
    with open(file, encoding="utf-8") as stream:
        requirements = read_requirements(stream.read())
    for requirement in requirements:
        print(json.dumps(check(requirement)), flush=True)


if __name__ == "__main__":
    # Modules beside this file must not pass for packages of the same name.
    beside = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != beside]
    main(sys.argv[1])
