"""State dictionaries of published checkpoints: found, stripped, and held to a network.

The formats of :mod:`PartialSegLib.published` derive the size of a network from the shapes of its
weights, so that smaller and fine-tuned ones are read too. Whatever does not fit is refused with the
first weight that does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from PartialSegLib.card import Card
from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.networks import build_network
from PartialSegLib.published.restricted import load_checkpoint
from PartialSegLib.structures import LabelSpace

#: Under which names checkpoints keep the state of the network, in the order in which they are tried.
WRAPPERS = ("state_dict", "model", "model_state_dict")

_PARALLEL = re.compile(r"^(module\.)+")
_ANOTHER = "It is damaged, or of another network."


def find_state(document: Any, source: str | Path) -> dict[str, Tensor]:
    """Return the state dictionary of a checkpoint, bare or wrapped, without ``module.`` prefixes.

    Parameters
    ----------
    document : object
        Content of the checkpoint.
    source : str or Path
        Its file, for messages.

    Raises
    ------
    BundleError
        When it holds none, or two names are one without their prefix.
    """
    named = _unwrapped(document)
    if not any(isinstance(value, Tensor) for value in named.values()):
        raise BundleError(f"{source} holds no weights.", "It is another kind of file than a checkpoint of a network.")
    state: dict[str, Tensor] = {}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BundleError(f"{source}: '{name}' is no weight, but {type(value).__name__}.", _ANOTHER)
        own = without_prefix(name)
        if own in state:
            raise BundleError(f"{source} has the weight '{own}' twice.", _ANOTHER)
        state[own] = value
    return state


def glance(path: Path) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of a file; none where it is no checkpoint that can be read."""
    if not path.is_file():
        return {}
    try:
        named = _unwrapped(load_checkpoint(path, mapped=True))
    except BundleError:
        return {}
    return {without_prefix(str(name)): tuple(value.shape) for name, value in named.items() if isinstance(value, Tensor)}


def _unwrapped(document: Any) -> Mapping[Any, Any]:
    """Return the mapping that would hold the weights; an empty one where there is none."""
    if not isinstance(document, Mapping):
        return {}
    return next((document[key] for key in WRAPPERS if isinstance(document.get(key), Mapping)), document)


def without_prefix(name: str) -> str:
    """Remove what wrappers for several GPUs put before a name, once for each of them."""
    return _PARALLEL.sub("", name)


class Shapes:
    """Shapes of a state dictionary, from which the size of a network is read.

    Parameters
    ----------
    state : mapping of str to Tensor
        Without prefixes.
    source : str or Path
        Its file, for messages.
    """

    def __init__(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        self._shapes = {name: tuple(weight.shape) for name, weight in state.items()}
        self._source = source

    def of(self, name: str, axes: int = 5) -> tuple[int, ...]:
        """Return the shape of a weight of `axes` axes; :class:`BundleError` when there is no such."""
        shape = self._shapes.get(name)
        if shape is None:
            raise BundleError(f"{self._source} lacks the weight '{name}'.", _ANOTHER)
        if len(shape) != axes or 0 in shape:
            raise BundleError(f"{self._source}: the weight '{name}' is {shape}, which has not {axes} axes.", _ANOTHER)
        return shape

    def count(self, prefix: str) -> int:
        """Return how many numbered parts a module list has: ``PREFIX.0.``, ``PREFIX.1.`` ..."""
        numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        found = {int(match[1]) for match in map(numbered.match, self._shapes) if match}
        return next(number for number in range(len(found) + 1) if number not in found)


def fitted(state: Mapping[str, Tensor], card: Card, source: str | Path) -> dict[str, Tensor]:
    """Return the weights as the network of a card takes them: all of them, float32, on the CPU.

    Raises
    ------
    BundleError
        Naming the first weight that is missing, of another shape, unknown or not finite; or when the
        network cannot be run on the windows of the card.
    """
    try:
        with torch.device("meta"):
            network = build_network(card.network, card.network_parameters, card.label_space)
    except BundleError as error:
        raise BundleError(f"{source}: {error.message}", error.hint or _ANOTHER) from error
    if any(size % step for size, step in zip(card.window, network.divisor, strict=True)):
        raise BundleError(f"{source}: windows are {card.window}, no multiples of {network.divisor}.", _ANOTHER)
    needed = network.state_dict()
    for name, weight in needed.items():
        if name not in state:
            raise BundleError(f"{source} lacks the weight '{name}'.", _ANOTHER)
        if state[name].shape != weight.shape:
            found, wanted = tuple(state[name].shape), tuple(weight.shape)
            raise BundleError(f"{source}: the weight '{name}' is {found}, but {wanted} is needed.", _ANOTHER)
    _refuse_unknown(state, needed, source)
    weights = {name: state[name].detach().to("cpu", torch.float32, copy=True).contiguous() for name in needed}
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise BundleError(f"{source}: the weight '{name}' holds numbers that are none (NaN or infinite).", _ANOTHER)
    return weights


def _refuse_unknown(state: Mapping[str, Tensor], needed: Iterable[str], source: str | Path) -> None:
    known = set(needed)
    unknown = [name for name in state if name not in known]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise BundleError(f"{source} has an unknown weight '{unknown[0]}'{more}.", _ANOTHER)


def chosen_label_space(wanted: str | None, published: str) -> LabelSpace:
    """Return the label space that the user named, or the published one.

    Raises
    ------
    LabelSpaceError
        When there is no such name or file.
    """
    if wanted is None:
        return LabelSpace.named(published)
    if Path(wanted).is_file():
        return LabelSpace.from_file(wanted)
    try:
        return LabelSpace.named(wanted)
    except LabelSpaceError as error:
        raise LabelSpaceError(
            f"There is no label space or file named '{wanted}'.", f"{error.hint} A file is written like those."
        ) from error
