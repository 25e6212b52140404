"""What a model says about itself: the card of a bundle.

Read and written by :mod:`PartialSegLib.bundle`, listed by :mod:`PartialSegLib.catalog`. The fields
are described for people and editors in ``data/card.schema.json``; the checks here refuse the same.
Imports neither torch nor numpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PartialSegLib.cardchecks import is_count, mapping, only, present, text, word
from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.preparation import Preprocessing, Vector
from PartialSegLib.structures import LabelSpace

__all__ = ["FORMAT", "FORMAT_VERSION", "Card", "Preprocessing", "Vector"]

#: What every card starts with, and the version of its fields that this code reads and writes.
FORMAT = "partialseg-card"
FORMAT_VERSION = 1

#: A name that is one word on a command line and one folder on every file system.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("name", "title", "description", "version", "modality", "license", "intended_use")
_OBJECTS = ("network", "preprocessing", "label_space", "provenance", "figures", "weights")
_FIELDS = frozenset(("format", "format_version", *_TEXTS, *_OBJECTS, "window", "mirror_axes"))
_MARKS = frozenset(("format", "format_version", "$schema"))
#: Fields that cards may lack, since older ones do; their default is ours.
_OPTIONAL = frozenset(("window_steps",))
_STEPS = ("clamped", "even", "repeated")
_HINT = "See card.schema.json for the fields."


@dataclass(frozen=True)
class Card:
    """What a person and a program need to know about a model.

    Parameters
    ----------
    name : str
        Identifier on the command line (``phantom-dodnet``): lower-case letters, digits, ``.``, ``_``, ``-``.
    title, description : str
        For the task picker.
    network : str
        Key of :data:`PartialSegLib.networks.NETWORKS`.
    network_parameters : dict
        Fields of the network's parameter dataclass, as JSON (tuples become lists).
    label_space : LabelSpace
        Tasks and structures.
    preprocessing : Preprocessing
        How an image becomes the network's input.
    window : tuple of int
        Sliding window, (D, H, W) voxels.
    mirror_axes : tuple of int
        Axes (0 = z, 1 = y, 2 = x) that it was trained mirrored along: the preset ``paper`` averages
        copies mirrored along these.
    window_steps : str
        How the preset ``paper`` lays windows, as the model was evaluated: ``clamped`` (a constant stride,
        the last window moved back to the border; DoDNet), ``even`` (spread evenly; nnU-Net) or
        ``repeated`` (the last window counts several times, and weights fall with the distance to the
        center; 3D U2-Net). Other presets spread them evenly, with Gaussian weights.
    version : str
        Version of the model.
    modality : str
        DICOM modality that it was trained on.
    license, intended_use : str
        License of the weights (SPDX identifier or text); what the model is for and not for.
    provenance : dict
        Recipe, data, seeds, software and parent model, as JSON.
    figures : dict
        Measured figures, with the data that they were measured on, as JSON.
    weights : dict
        ``sha256`` and ``bytes`` of the weights file; set by
        :meth:`PartialSegLib.bundle.ModelBundle.create`, and empty before.

    Raises
    ------
    BundleError
        When the name or the window makes no sense, or a dict holds what JSON cannot.
    """

    name: str
    title: str
    description: str
    network: str
    network_parameters: Mapping[str, Any]
    label_space: LabelSpace
    preprocessing: Preprocessing
    window: tuple[int, int, int]
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    window_steps: str = "clamped"
    version: str = "1.0.0"
    modality: str = "CT"
    license: str = "not stated"
    intended_use: str = "Research only. Not a medical device."
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BundleError(
                f"'{self.name}' is no name for a model.",
                "Use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit.",
            )
        if len(self.window) != 3 or min(self.window) < 1:
            raise BundleError(f"The window {self.window} of model '{self.name}' is not three positive numbers.", _HINT)
        if not set(self.mirror_axes) <= {0, 1, 2} or len(set(self.mirror_axes)) != len(self.mirror_axes):
            raise BundleError(
                f"The mirror axes {self.mirror_axes} of model '{self.name}' are not among 0, 1, 2.", _HINT
            )
        if self.window_steps not in _STEPS:
            raise BundleError(f"The window steps of model '{self.name}' are '{self.window_steps}'.", _HINT)
        for name in ("network_parameters", "provenance", "figures", "weights"):
            object.__setattr__(self, name, self._plain(name))

    def _plain(self, name: str) -> dict[str, Any]:
        """Return a copy of a field as JSON gives it back: lists for tuples, nothing but finite numbers and texts."""
        try:
            copied: dict[str, Any] = json.loads(json.dumps(getattr(self, name), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"The {name} of model '{self.name}' cannot be kept as JSON: {error}.",
                "Use texts, finite numbers, lists and objects.",
            ) from error
        return copied

    @classmethod
    def from_json(cls, document: Any, source: str = "card.json") -> Card:
        """Read a card.

        Parameters
        ----------
        document : mapping
            Parsed ``card.json``.
        source : str
            Its file, for messages.

        Raises
        ------
        BundleError
            When it is no card, of an unknown version, or a field is missing, unknown or wrong.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise BundleError(f"{source} is no model card: its 'format' is not '{FORMAT}'.", "Is it another file?")
        if document.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{source} has format version {document.get('format_version')!r}, but {FORMAT_VERSION} is known.",
                "Update PartialSeg, or install the model anew.",
            )
        try:
            return cls(**_fields(document))
        except ValueError as error:
            raise BundleError(f"{source} is incomplete or wrong: {error}.", _HINT) from error
        except LabelSpaceError as error:
            raise BundleError(f"{source}: {error.message}", error.hint) from error

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads, in an order that a person would choose."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in _TEXTS},
            "network": {"name": self.network, "parameters": dict(self.network_parameters)},
            "window": list(self.window),
            "mirror_axes": list(self.mirror_axes),
            "window_steps": self.window_steps,
            "preprocessing": self.preprocessing.to_json(),
            "label_space": self.label_space.to_json(),
            "provenance": dict(self.provenance),
            "figures": dict(self.figures),
            "weights": dict(self.weights),
        }


def _fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments of :class:`Card`; ``ValueError`` says what is wrong."""
    only(document, _FIELDS | _OPTIONAL | _MARKS, "the card")
    present(document, sorted(_FIELDS), "the card")
    fields: dict[str, Any] = {name: text(document[name], name) for name in _TEXTS}
    objects = {name: mapping(document[name], name) for name in _OBJECTS}
    network, weights = objects["network"], objects["weights"]
    for entry, name, known in ((network, "network", ("name", "parameters")), (weights, "weights", ("sha256", "bytes"))):
        only(entry, known, name)
        present(entry, known, name)
    if not _SHA256.fullmatch(text(weights["sha256"], "weights.sha256")):
        raise ValueError("'weights.sha256' is not 64 hexadecimal digits")
    window = document["window"]
    if not isinstance(window, list) or len(window) != 3 or not all(is_count(size) for size in window):
        raise ValueError(f"'window' is {window!r}, not three positive whole numbers")
    axes = document["mirror_axes"]
    if not isinstance(axes, list) or not all(
        type(axis) is int and axis in (0, 1, 2) and axes.count(axis) == 1 for axis in axes
    ):
        raise ValueError(f"'mirror_axes' is {axes!r}, not some of 0, 1 and 2")
    if not is_count(weights["bytes"]):
        raise ValueError(f"'weights.bytes' is {weights['bytes']!r}, not a positive whole number")
    return fields | {
        "network": text(network["name"], "network.name"),
        "network_parameters": mapping(network["parameters"], "network.parameters"),
        "label_space": _label_space(objects["label_space"]),
        "preprocessing": Preprocessing.from_json(objects["preprocessing"]),
        "window": tuple(window),
        "mirror_axes": tuple(axes),
        "window_steps": word(document.get("window_steps", "clamped"), _STEPS, "window_steps"),
        **{name: objects[name] for name in ("provenance", "figures", "weights")},
    }


def _label_space(entry: Mapping[str, Any]) -> LabelSpace:
    try:
        return LabelSpace.from_json(entry)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"'label_space' is no label space ({error})") from error
