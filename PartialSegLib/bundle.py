"""A model on disk: a folder with a card that a person can read and weights that cannot execute code.

``card.json`` says what the model is (:mod:`PartialSegLib.card`); ``weights.safetensors`` holds its
numbers. Opening a bundle imports no torch; :meth:`ModelBundle.load_network` does. Used by the
predictor, the catalog and whatever makes models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.atomic import atomic_write, replacing_folder
from PartialSegLib.card import Card, Preprocessing, Vector
from PartialSegLib.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

    from PartialSegLib.networks.contract import PartialLabelNetwork

__all__ = ["CARD", "WEIGHTS", "Card", "ModelBundle", "Preprocessing", "Vector"]

CARD = "card.json"
WEIGHTS = "weights.safetensors"

_REINSTALL = "Install the model again."


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

    def __repr__(self) -> str:
        return f"ModelBundle({self.card.name!r}, {str(self.folder)!r})"

    @classmethod
    def open(cls, folder: str | Path) -> ModelBundle:
        """Read the card of a model folder; the weights are read and verified by :meth:`load_network`.

        Raises
        ------
        BundleError
            When the folder holds no readable card of a known version, or no weights of the size
            that the card names.
        """
        folder = Path(folder)
        file = folder / CARD
        if not file.is_file():
            raise BundleError(
                f"{folder} is no model: it has no {CARD}.", "Run 'partialseg models' for those installed."
            )
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{file} cannot be read: {error}.", _REINSTALL) from error
        bundle = cls(folder, Card.from_json(document, str(file)))
        bundle._check_size()
        return bundle

    @classmethod
    def create(cls, folder: str | Path, card: Card, weights: Mapping[str, Tensor]) -> ModelBundle:
        """Write a model folder; it appears complete or not at all, and replaces an older model.

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
            When the weights do not fit the card's network, the folder holds something else than a
            model, or it cannot be written; an older model is then left as it was.
        """
        from safetensors.torch import save

        folder = Path(folder)
        contiguous = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        _check_weights(contiguous, _build(card, str(folder)), str(folder))
        data = save(contiguous)
        described = replace(card, weights={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        text = _text(described)
        try:
            if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).is_file()):
                raise BundleError(
                    f"{folder} is there already, and is no model that could be replaced.", "Choose another folder."
                )
            with replacing_folder(folder) as unfinished:
                (unfinished / WEIGHTS).write_bytes(data)
                (unfinished / CARD).write_bytes(text)
        except OSError as error:
            raise _unwritten(folder, error) from error
        return cls(folder, described)

    def with_figures(self, figures: Mapping[str, Any]) -> ModelBundle:
        """Write measured figures on the card, and return the bundle with them.

        Raises
        ------
        BundleError
            When the card cannot be written, or a figure is no JSON; it is then left as it was.
        """
        card = replace(self.card, figures=dict(figures))
        try:
            with atomic_write(self.folder / CARD) as file:
                file.write(_text(card))
        except OSError as error:
            raise _unwritten(self.folder / CARD, error) from error
        return ModelBundle(self.folder, card)

    def read_weights(self) -> bytes:
        """Return the content of the weights file, which has the checksum of the card.

        Raises
        ------
        BundleError
            When the file cannot be read, or is not the one that the card describes.
        """
        self._check_size()
        file = self.folder / WEIGHTS
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror}.", _REINSTALL) from error
        if hashlib.sha256(data).hexdigest() != self.card.weights["sha256"]:
            raise BundleError(f"{file} is damaged: its checksum is not the card's.", _REINSTALL)
        return data

    def load_network(self, device: str = "cpu") -> PartialLabelNetwork:
        """Build the network with the verified weights, float32, in eval mode.

        Parameters
        ----------
        device : str
            Where to put it.

        Raises
        ------
        BundleError
            When the weights file is damaged, or a weight is missing, unknown, of the wrong shape or
            of another type than float32 and float16.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.folder / WEIGHTS
        try:
            weights = load(self.read_weights())
        except SafetensorError as error:
            raise BundleError(f"{file} is no weights file: {error}.", _REINSTALL) from error
        network = _build(self.card, str(self.folder / CARD))
        _check_weights(weights, network, str(file))
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
        return network.eval().to(device)

    def _check_size(self) -> None:
        file, needed = self.folder / WEIGHTS, self.card.weights["bytes"]
        if not file.is_file():
            raise BundleError(f"{self.folder} has no {WEIGHTS}.", _REINSTALL)
        if file.stat().st_size != needed:
            raise BundleError(
                f"{file} is damaged: it has {file.stat().st_size} bytes, but the card says {needed}.", _REINSTALL
            )


def _text(card: Card) -> bytes:
    """Return the content of ``card.json``, UTF-8."""
    return (json.dumps(card.to_json(), indent=1, ensure_ascii=False) + "\n").encode()


def _unwritten(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} could not be written: {error.strerror or error}.",
        "Check that the folder above it exists, may be written and has space.",
    )


def _build(card: Card, source: str) -> PartialLabelNetwork:
    """Build the network that a card describes, with fresh weights."""
    from PartialSegLib.networks import build_network

    try:
        return build_network(card.network, card.network_parameters, card.label_space)
    except BundleError as error:
        raise BundleError(f"{source}: {error.message}", error.hint) from error


def _check_weights(weights: Mapping[str, Tensor], network: PartialLabelNetwork, source: str) -> None:
    """Refuse weights that are not exactly those of the network, naming the first that differs."""
    import torch

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
        if weight.dtype not in (torch.float32, torch.float16):
            raise BundleError(
                f"{source}: weight '{name}' is {str(weight.dtype).removeprefix('torch.')}.",
                "Weights are float32 or float16.",
            )
