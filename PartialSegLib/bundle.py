"""A model on disk: a folder with a card that a person can read and weights that cannot execute code.

``card.json`` says what the model is; ``weights.safetensors`` holds its numbers. Reading a card
imports no torch; :meth:`ModelBundle.load_network` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.atomic import atomic_write, replacing_folder
from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.structures import LabelSpace

if TYPE_CHECKING:
    from torch import Tensor

    from PartialSegLib.networks.contract import PartialLabelNetwork

Vector = tuple[float, float, float]

#: What every card starts with, and the version of its fields that this code reads and writes.
FORMAT = "partialseg-card"
FORMAT_VERSION = 1
CARD = "card.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; stored on the card.

    Parameters
    ----------
    spacing : tuple of float
        Voxel spacing of the network's grid along (x, y, z), in millimetres.
    intensity_range : tuple of float
        Lowest and highest intensity that the network sees (HU for CT); the rest is clipped.
    intensity_shift, intensity_scale : float
        The network's input is ``(clipped - shift) / scale``.
    orientation : str
        Directions in which x, y and z grow, as three letters (``LPS``). The nearest axes of the
        image are permuted and flipped; an oblique image stays oblique.
    body_threshold : float or None
        The image is cropped to the largest connected region above this intensity; ``None`` for no crop.
    coarse_spacing : tuple of float or None
        A coarser spacing that the network was trained for too; the ``fast`` preset searches the
        region of the chosen structures with it. ``None`` when there is none.
    """

    spacing: Vector
    intensity_range: tuple[float, float]
    intensity_shift: float = 0.0
    intensity_scale: float = 1.0
    orientation: str = "LPS"
    body_threshold: float | None = -300.0
    coarse_spacing: Vector | None = None

    def __post_init__(self) -> None:
        low, high = self.intensity_range
        if not low < high or self.intensity_scale == 0:
            raise ValueError(f"the intensity range {low} to {high}, scaled by {self.intensity_scale}, is empty")
        for spacing in (self.spacing, self.coarse_spacing or self.spacing):
            if len(spacing) != 3 or min(spacing) <= 0:
                raise ValueError(f"the spacing {spacing} is not three positive numbers")


@dataclass(frozen=True)
class Card:
    """What a person and a program need to know about a model.

    Parameters
    ----------
    name : str
        Identifier on the command line (``phantom-dodnet``).
    title, description : str
        For the task picker.
    network : str
        Key of :data:`PartialSegLib.networks.NETWORKS`.
    network_parameters : dict
        Fields of the network's parameter dataclass, as JSON.
    label_space : LabelSpace
        Tasks and structures.
    preprocessing : Preprocessing
        How an image becomes the network's input.
    window : tuple of int
        Sliding window, (D, H, W) voxels.
    version : str
        Version of the model.
    modality : str
        DICOM modality that it was trained on.
    license, intended_use : str
        Licence of the weights; what the model is for and not for.
    provenance : dict
        Recipe, data, seeds, software and parent model, as JSON.
    figures : dict
        Measured figures, with the data that they were measured on, as JSON.
    weights : dict
        ``sha256`` and ``bytes`` of the weights file; set by :meth:`ModelBundle.create`.
    """

    name: str
    title: str
    description: str
    network: str
    network_parameters: Mapping[str, Any]
    label_space: LabelSpace
    preprocessing: Preprocessing
    window: tuple[int, int, int]
    version: str = "1.0.0"
    modality: str = "CT"
    license: str = "not stated"
    intended_use: str = "Research only. Not a medical device."
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str = "card") -> Card:
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
            raise BundleError(f"{source} is no model card.", f"Its 'format' should be '{FORMAT}'.")
        if document.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{source} has format version {document.get('format_version')!r}, but {FORMAT_VERSION} is known.",
                "Update PartialSeg, or import the model anew.",
            )
        try:
            fields = {
                key: value for key, value in document.items() if key not in ("$schema", "format", "format_version")
            }
            network = fields.pop("network")
            fields["network"], fields["network_parameters"] = network["name"], dict(network["parameters"])
            fields["label_space"] = LabelSpace.from_json(fields["label_space"])
            fields["preprocessing"] = _preprocessing(fields["preprocessing"])
            fields["window"] = tuple(int(size) for size in fields["window"])
            if len(fields["window"]) != 3 or min(fields["window"]) < 1:
                raise ValueError(f"window {fields['window']} is not three positive numbers")
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise BundleError(f"{source} is incomplete or wrong: {problem}.", "See card.schema.json.") from error
        except LabelSpaceError as error:
            raise BundleError(f"{source}: {error.message}", error.hint) from error

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads."""
        rest = {key: getattr(self, key) for key in ("version", "modality", "license", "intended_use")}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            **rest,
            "network": {"name": self.network, "parameters": dict(self.network_parameters)},
            "window": list(self.window),
            "preprocessing": asdict(self.preprocessing),
            "label_space": self.label_space.to_json(),
            "provenance": dict(self.provenance),
            "figures": dict(self.figures),
            "weights": dict(self.weights),
        }


class ModelBundle:
    """A model folder: ``card.json`` and ``weights.safetensors``.

    Parameters
    ----------
    folder : Path
        Where it lies.
    card : Card
        What it says.
    """

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder = folder
        self.card = card

    @classmethod
    def open(cls, folder: str | Path) -> ModelBundle:
        """Read the card of a model folder; the weights are read and verified by :meth:`load_network`.

        Raises
        ------
        BundleError
            When the folder holds no readable card of a known version, or no weights.
        """
        folder = Path(folder)
        card = folder / CARD
        if not card.is_file():
            raise BundleError(
                f"{folder} is no model: it has no {CARD}.", "Run 'partialseg models' for those installed."
            )
        try:
            document = json.loads(card.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{card} cannot be read: {error}.", "Install the model again.") from error
        bundle = cls(folder, Card.from_json(document, str(card)))
        if not (folder / WEIGHTS).is_file():
            raise BundleError(f"{folder} has no {WEIGHTS}.", "Install the model again.")
        return bundle

    @classmethod
    def create(cls, folder: str | Path, card: Card, weights: Mapping[str, Tensor]) -> ModelBundle:
        """Write a model folder; it appears complete or not at all, and replaces an older one.

        Parameters
        ----------
        folder : path
            Of the model. Its parent must exist.
        card : Card
            Its ``weights`` field is filled in.
        weights : mapping of str to Tensor
            State of the network, float32 or float16.

        Raises
        ------
        BundleError
            When the weights do not fit the card's network.
        OSError
            When the disk is full or not writable; an older model is left as it was.
        """
        from safetensors.torch import save

        folder = Path(folder)
        contiguous = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        _check_weights(contiguous, _build(card), str(folder))
        data = save(contiguous)
        described = replace(card, weights={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        with replacing_folder(folder) as unfinished:
            (unfinished / WEIGHTS).write_bytes(data)
            text = json.dumps(described.to_json(), indent=1, ensure_ascii=False)
            (unfinished / CARD).write_text(text + "\n", encoding="utf-8")
        return cls(folder, described)

    def with_figures(self, figures: Mapping[str, Any]) -> ModelBundle:
        """Write measured figures on the card, and return the bundle with them."""
        card = replace(self.card, figures=dict(figures))
        with atomic_write(self.folder / CARD) as file:
            file.write((json.dumps(card.to_json(), indent=1, ensure_ascii=False) + "\n").encode())
        return ModelBundle(self.folder, card)

    def load_network(self, device: str = "cpu") -> PartialLabelNetwork:
        """Build the network with the verified weights, float32, in eval mode.

        Parameters
        ----------
        device : str
            Where to put it.

        Raises
        ------
        BundleError
            When the weights file is damaged, or a weight is missing, unknown or of the wrong shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.folder / WEIGHTS
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error}.", "Install the model again.") from error
        expected = self.card.weights.get("sha256")
        if hashlib.sha256(data).hexdigest() != expected:
            raise BundleError(f"{file} is damaged: its checksum is not the card's.", "Install the model again.")
        try:
            weights = load(data)
        except SafetensorError as error:
            raise BundleError(f"{file} is no weights file: {error}.", "Install the model again.") from error
        network = _build(self.card)
        _check_weights(weights, network, str(file))
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
        return network.eval().to(device)


def _build(card: Card) -> PartialLabelNetwork:
    from PartialSegLib.networks import build_network

    return build_network(card.network, card.network_parameters, card.label_space)


def _check_weights(weights: Mapping[str, Tensor], network: PartialLabelNetwork, source: str) -> None:
    """Refuse weights that are not exactly those of the network, naming the first that differs."""
    state = network.state_dict()
    for problem, names in (("lacks", state.keys() - weights.keys()), ("has an unknown", weights.keys() - state.keys())):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise BundleError(f"{source} {problem} weight '{min(names)}'{more}.", "It belongs to another network.")
    for name, weight in weights.items():
        if weight.shape != state[name].shape:
            needed, found = tuple(state[name].shape), tuple(weight.shape)
            raise BundleError(
                f"{source}: weight '{name}' is {found}, but the network needs {needed}.",
                "It belongs to another network, or the card's parameters are wrong.",
            )


def _preprocessing(entry: Mapping[str, Any]) -> Preprocessing:
    """Read the preprocessing of a card; lists become tuples."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Preprocessing(**values)
