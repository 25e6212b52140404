"""A 3D U2-Net learns a new domain without forgetting the old ones; and how many weights that takes.

Table 3 and "Quantitative results of a new domain" of the paper: the shared weights stay as they are,
and only what belongs to the new domain is trained. The released code does otherwise than the paper
says. It copies only the shared convolutions of the encoder and decoder blocks and freezes their
weights but not their biases; the strided convolutions between the levels (4.7 million weights), the
shared convolutions after upsampling and the old normalizations it neither copies nor freezes, so that
the old domains are lost. Here everything is copied, everything shared is frozen, and the old domains
answer as before to the last bit.

Called by whoever trains a new domain; the networks do not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from PartialSegLib.errors import LabelSpaceError
from PartialSegLib.networks.u2net.domains import domain_weights
from PartialSegLib.networks.u2net.independent import IndependentU2Net
from PartialSegLib.networks.u2net.network import U2Net
from PartialSegLib.networks.u2net.units import Unit
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class WeightCount:
    """Numbers of weights.

    Parameters
    ----------
    all : int
        Every weight.
    paper : int
        What the paper counts (Section 2.2: ``27 C T + C C'``): kernels of the 3x3x3 convolutions of
        stride 1 and of the adapters in their place. Biases, normalizations, strided convolutions, input,
        output and deep supervision are not counted.
    """

    all: int
    paper: int


def count_weights(network: U2Net | IndependentU2Net, domain: int | None = None) -> WeightCount:
    """Count the weights of a network, in full and as the paper does.

    Parameters
    ----------
    network : U2Net or IndependentU2Net
        Any state, also without storage (on the device ``meta``).
    domain : int, optional
        Count only what this task has for itself, which is what it added to the network.
    """
    counted = list(network.parameters() if domain is None else domain_weights(network, domain))
    own = {id(weight) for weight in counted}
    kernels = [
        part.weight
        for unit in network.modules()
        if isinstance(unit, Unit)
        for part in unit.modules()
        if isinstance(part, nn.Conv3d) and id(part.weight) in own
    ]
    return WeightCount(sum(weight.numel() for weight in counted), sum(kernel.numel() for kernel in kernels))


def add_domain(network: U2Net, label_space: LabelSpace, modalities: int = 1) -> U2Net:
    """Return a network with one more domain, of which nothing but that domain can be trained.

    Parameters
    ----------
    network : U2Net
        The network so far; not changed.
    label_space : LabelSpace
        Its tasks, and after them the new one.
    modalities : int
        Channels of an image of the new domain.

    Returns
    -------
    U2Net
        On the same device and in the same mode. Old domains answer exactly as before; the weights of the
        new one are fresh, and the only ones that have gradients (see :func:`train_only`).

    Raises
    ------
    LabelSpaceError
        When the label space is not that of the network and one task more.
    """
    old = network.label_space.tasks
    if label_space.tasks[:-1] != old:
        raise LabelSpaceError(
            f"Label space '{label_space.name}' does not go on from that of the network.",
            f"It has to have the tasks {', '.join(task.key for task in old)} and one more after them.",
        )
    parameters = replace(network.parameters_, modalities=(*network.modalities, modalities))
    grown = U2Net(parameters, label_space).to(next(network.parameters()))
    # Lists of domains grow at their end, so every old weight keeps its name.
    weights = grown.state_dict() | network.state_dict()
    grown.load_state_dict(weights)
    train_only(grown, len(old))
    return grown.train(network.training)


def train_only(network: U2Net, domain: int) -> None:
    """Freeze all weights but those that belong to one domain alone, in place.

    :func:`add_domain` does it; whoever continues from a bundle has to do it again, because a bundle
    does not say what was frozen.
    """
    network.requires_grad_(False)
    for weight in domain_weights(network, domain):
        weight.requires_grad_(True)
