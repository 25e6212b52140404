"""Domains: what belongs to one alone, and how a batch of several is run.

A domain of 3D U2-Net (D_t in Section 2.1 of the paper) is one task of the label space. Used by the
networks of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from PartialSegLib.errors import ImageError
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


def domains_of(task: Tensor) -> list[int]:
    """Return the domains of a batch, ascending."""
    # Costs are forecast on tensors without storage; the first domain then stands for all.
    return [0] if task.is_meta else task.unique().tolist()


def by_domain(task: Tensor, run: Callable[[int, Tensor | slice], Tensor]) -> Tensor:
    """Run the samples of each domain together, and return the results in the order of the batch.

    Parameters
    ----------
    task : Tensor
        (N,) int64 task indices.
    run : callable
        Takes a domain and the rows of its samples, and returns (rows, ...), of one shape for all domains.

    Returns
    -------
    Tensor
        (N, ...).
    """
    domains = domains_of(task)
    if len(domains) == 1:
        return run(domains[0], slice(None))
    rows = [torch.nonzero(task == domain)[:, 0] for domain in domains]
    together = torch.cat([run(domain, part) for domain, part in zip(domains, rows, strict=True)])
    return together[torch.cat(rows).argsort()]


def needed(task: Tensor | None) -> Tensor:
    """Return the task indices, which the features of 3D U2-Net cannot do without.

    Raises
    ------
    ValueError
        When there are none.
    """
    if task is None:
        raise ValueError("the features of a 3D U2-Net depend on the task, but none was given")
    return task


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
    for index in domains_of(task):
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
