"""Growing a model by structures that it never saw, while every old answer keeps every bit.

Each new structure becomes a task of its own behind all others: a new column of a controller and a
map of its own (DoDNet), a new output (MultiTalent), a new domain (3D U2-Net), a new convolution
(KiTS21 transfer). Old weights are copied as they are. Called by the quick and the full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from PartialSegLib.errors import LabelSpaceError
from PartialSegLib.networks import KiTS21, PartialLabelNetwork, U2Net
from PartialSegLib.networks.dodnet import DoDNet
from PartialSegLib.networks.dynamic_head import DynamicHeadNetwork
from PartialSegLib.networks.multitalent import MultiTalentNetwork
from PartialSegLib.networks.u2net import add_domain
from PartialSegLib.networks.u2net.domains import domain_weights
from PartialSegLib.structures import LabelSpace, Rule, Structure, Task, catalogue

#: The largest piece of a structure holds this share of it in every case: then it is one piece.
_ONE_PIECE = 0.98


def describe(keys: Sequence[str], known: Mapping[str, Structure]) -> tuple[Structure, ...]:
    """Return the descriptions of new structures, from `known` or from the library.

    Raises
    ------
    LabelSpaceError
        When nobody describes one of them.
    """
    table = {**catalogue(), **known}
    for key in keys:
        if key not in table:
            raise LabelSpaceError(
                f"Nothing describes the structure '{key}'.",
                f"Export the case from Slicer with terminology, or choose one of: {', '.join(sorted(catalogue()))}.",
            )
    return tuple(table[key] for key in keys)


def grown_space(space: LabelSpace, structures: Sequence[Structure], one_piece: Sequence[str] = ()) -> LabelSpace:
    """Return a label space with a task for each new structure, after all others.

    Parameters
    ----------
    space : LabelSpace
        Of the parent.
    structures : sequence of Structure
        That it does not have.
    one_piece : sequence of str
        Keys of those of which only the largest piece is kept after segmenting.

    Raises
    ------
    LabelSpaceError
        When it has one of them already.
    """
    known = set(space.select())
    for structure in structures:
        if structure.key in known:
            raise LabelSpaceError(
                f"The model knows '{structure.key}' already.", "Leave it out of the structures to add."
            )
    taken = {task.key for task in space.tasks}
    tasks = [
        Task(
            f"{item.key}_added" if item.key in taken else item.key,
            item.name,
            (item.key,),
            (Rule("keep_largest", item.key),) if item.key in one_piece else (),
        )
        for item in structures
    ]
    described = {item.key: item for item in (*space.structures, *structures)}
    return replace(space, tasks=(*space.tasks, *tasks), structures=tuple(described.values()))


def is_one_piece(mask: np.ndarray) -> bool:
    """Tell whether nearly all of a boolean (z, y, x) mask is one connected component; false for an empty one."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    return bool(len(sizes) and sizes.max() >= _ONE_PIECE * sizes.sum())


def grow(network: PartialLabelNetwork, space: LabelSpace, seed: int = 0) -> PartialLabelNetwork:
    """Return a network for more tasks; for the old ones it answers with the same bits.

    Parameters
    ----------
    network : PartialLabelNetwork
        Of the parent; not changed.
    space : LabelSpace
        Its label space, and more tasks after that.
    seed : int
        Decides the first weights of what is new.

    Raises
    ------
    LabelSpaceError
        When this kind of network cannot grow.
    """
    added = len(space.tasks) - len(network.label_space.tasks)
    if not added:
        return network
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if isinstance(network, U2Net):
            return _with_domains(network, space)
        grown = _build(network, space, added)
        state = network.state_dict()
        for name, weight in grown.state_dict().items():
            if name in state:
                _leading(weight, state[name]).copy_(state[name])
    device = next(network.parameters()).device
    return grown.to(device).train(network.training)


def _build(network: PartialLabelNetwork, space: LabelSpace, added: int) -> PartialLabelNetwork:
    """Return a network of the same kind with fresh weights."""
    parameters = network.parameters_
    if isinstance(network, DoDNet) and network.task_condition:
        parameters = replace(network.parameters_, own_maps=network.parameters_.own_maps + added)
    elif not isinstance(network, MultiTalentNetwork | KiTS21) and not (
        isinstance(network, DynamicHeadNetwork) and network.task_condition
    ):
        raise LabelSpaceError(
            f"A {type(network).__name__} cannot learn a new structure: its tasks share what would have to change.",
            "Train it anew, or begin with a DoDNet, a MultiTalent or a 3D U2-Net model.",
        )
    return type(network)(parameters, space)


def _leading(weight: Tensor, old: Tensor) -> Tensor:
    """Return the part of a weight that an older, smaller one fills: everything new comes after it."""
    return weight[tuple(slice(0, size) for size in old.shape)]


def _with_domains(network: U2Net, space: LabelSpace) -> U2Net:
    """Add domains one by one; each begins with the weights of the first domain, where their shapes agree."""
    for count in range(len(network.label_space.tasks) + 1, len(space.tasks) + 1):
        network = add_domain(network, replace(space, tasks=space.tasks[:count]))
        for fresh, first in zip(domain_weights(network, count - 1), domain_weights(network, 0), strict=True):
            if fresh.shape == first.shape:
                fresh.copy_(first)
    return network.requires_grad_(True)
