"""Domains: what belongs to one alone, and what one asks of its images.

A domain of 3D U2-Net (D_t in Section 2.1 of the paper) is one task of the label space. Used by the
networks of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.errors import ImageError
from PartialSegLib.networks.conditioning import tasks_of
from PartialSegLib.networks.contract import PartialLabelNetwork
from PartialSegLib.structures import LabelSpace


class DomainList(nn.ModuleList):
    """One module per domain: everything in it belongs to that domain alone.

    Parameters
    ----------
    domains : int
        How many.
    make : callable
        Builds the module of one domain from its index.
    """

    def __init__(self, domains: int, make: Callable[[int], nn.Module]) -> None:
        super().__init__(make(domain) for domain in range(domains))


def domain_weights(network: nn.Module, domain: int) -> Iterator[nn.Parameter]:
    """Yield the weights that belong to one domain alone (theta_t in Section 2.1)."""
    for child in network.children():
        if isinstance(child, DomainList):
            yield from child[domain].parameters()
        else:
            yield from domain_weights(child, domain)


def per_domain(values: Sequence[int], label_space: LabelSpace) -> list[int]:
    """Return one number per task, from one for all or one for each.

    Raises
    ------
    ValueError
        When there are neither one nor as many as tasks.
    """
    tasks = len(label_space.tasks)
    if len(values) not in (1, tasks):
        raise ValueError(f"{len(values)} numbers {tuple(values)} do not fit the {tasks} tasks of '{label_space.name}'")
    return list(values) if len(values) == tasks else list(values) * tasks


def check_modalities(network: PartialLabelNetwork, image: Tensor, task: Tensor) -> None:
    """Refuse images that have not the channels of every task that is asked of them.

    Parameters
    ----------
    network : PartialLabelNetwork
        Says how many channels a task needs.
    image : Tensor
        (N, C, D, H, W).
    task : Tensor
        (N,) int64 task indices.

    Raises
    ------
    ImageError
        With the task and both numbers.
    """
    for index in tasks_of(task):
        channels = network.input_channels(index)
        if image.shape[1] != channels:
            raise ImageError(
                f"Task '{network.label_space.tasks[index].key}' needs images of {channels} channel(s), "
                f"but those of this batch have {image.shape[1]}.",
                "Tasks whose images have other channels go into a batch of their own.",
            )


def pad_channels(values: Tensor, channels: int, fill: float) -> Tensor:
    """Add channels of one value to (N, C, D, H, W) until there are `channels`."""
    missing = channels - values.shape[1]
    return functional.pad(values, (0, 0, 0, 0, 0, 0, 0, missing), value=fill) if missing else values
