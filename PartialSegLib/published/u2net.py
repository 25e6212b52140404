"""Training checkpoints of 3D U2-Net, ``universal_Task02_Heart_Task03_Liver_..._epoch300_....pth.tar``.

Huang, Han, Yao, Zhu, Zhou: 3D U2-Net, MICCAI 2019. No weights were published; these are the files that
the released training writes. They hold the network and the optimizer as program objects, of which
nothing is made: only ``model_state_dict`` is read (:mod:`PartialSegLib.published.torchfiles`).

The released code stretches the images of every domain differently (:data:`DOMAINS`), and a model has one
spacing. Each domain becomes a model of its own: the weights that all domains share, and its own. That
is the same network, to the last bit, with the domain alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from PartialSegLib.card import Card, Preprocessing, Vector
from PartialSegLib.errors import BundleError
from PartialSegLib.networks import U2NetParameters, build_network
from PartialSegLib.networks.u2net.domains import DomainList
from PartialSegLib.preparation import Resampling
from PartialSegLib.published.contract import (
    INTENDED_USE,
    LICENSE_NOT_STATED,
    ImportOptions,
    PublishedFormat,
    digest,
    provenance,
)
from PartialSegLib.published.states import Shapes, chosen_label_space, find_state, fitted, without_prefix
from PartialSegLib.published.torchfiles import load_weights, weight_shapes
from PartialSegLib.structures import LabelSpace, Task

#: Key of the weights in a checkpoint.
ENTRY = "model_state_dict"
#: Voxels along each side of what the network is given, in training and in windows.
SIDE = 128
#: Every file has these weights, whatever the variant.
_ALWAYS = {"in_tr_list.0.op1.0.weight", "dSupers.0.0.op1.0.weight", "out_tr_list.0.conv1.weight"}
_EPOCH = re.compile(r"_epoch_?\d", re.IGNORECASE)
_NAME_IT = "Name the tasks of the training, in its order, with a file for --label-space."


@dataclass(frozen=True)
class Domain:
    """How the released code prepares the images of one task.

    Parameters
    ----------
    modality : str
        DICOM modality.
    spacing : tuple of float
        (z, y, x) millimetres, to which images are resampled.
    patch : tuple of int
        (D, H, W) voxels of them that are stretched to 128 x 128 x 128; whole images likewise.
    """

    modality: str
    spacing: Vector
    patch: tuple[int, int, int]

    @property
    def stretched(self) -> Vector:
        """Spacing of what the network sees, (x, y, z) millimetres."""
        z, y, x = (step * size / SIDE for step, size in zip(self.spacing, self.patch, strict=True))
        return x, y, z


#: The tasks of the released configuration.
DOMAINS: Mapping[str, Domain] = {
    "heart": Domain("MR", (1.37, 1.25, 1.25), (80, 192, 128)),
    "liver": Domain("CT", (1.0, 0.77, 0.77), (128, 128, 128)),
    "hippocampus": Domain("MR", (1.0, 1.0, 1.0), (40, 56, 40)),
    "prostate": Domain("MR", (3.6, 0.625, 0.625), (20, 192, 192)),
    "pancreas": Domain("CT", (2.5, 0.8, 0.8), (96, 160, 128)),
    "spleen": Domain("CT", (5.0, 0.8, 0.8), (96, 160, 128)),
}


class U2NetFormat(PublishedFormat):
    """A training checkpoint of 3D U2-Net: universal, shared, independent, or with residual adapters."""

    key = "u2net"
    title = "3D U2-Net training checkpoint"
    uses = frozenset({"task", "label_space"})

    def detect(self, path: Path) -> bool:
        """See :meth:`PublishedFormat.detect`: input, deep supervision and output of a first domain."""
        return path.is_file() and {without_prefix(name) for name in weight_shapes(path, ENTRY)} >= _ALWAYS

    def choices(self, path: Path, options: ImportOptions) -> list[ImportOptions]:
        """See :meth:`PublishedFormat.choices`: one model for each domain."""
        space = domains(path, _state(path), options.label_space)
        keys = [task.key for task in space.tasks]
        if options.task is None:
            return [replace(options, task=key) for key in keys]
        if options.task not in keys:
            raise BundleError(f"{path} has no task '{options.task}'.", f"Choose from: {', '.join(keys)}.")
        return [options]

    def read(self, path: Path, options: ImportOptions) -> tuple[Card, dict[str, Tensor]]:
        """See :meth:`PublishedFormat.read`; without a task in the options it is the first."""
        state = _state(path)
        space = domains(path, state, options.label_space)
        index = 0 if options.task is None else space.task_index(options.task)
        task = space.tasks[index]
        prepared = _known(task, path)
        size = parameters(state, index, path)
        kind = "independent" if size.variant == "shared" and len(space.tasks) == 1 else size.variant
        card = Card(
            name=options.name or f"u2net-{kind}-{task.key}",
            title=f"3D U2-Net ({kind}): {task.name}",
            description=f"3D U2-Net of Huang et al., MICCAI 2019, {kind} network. Task '{task.key}' of the "
            f"{len(space.tasks)} that it was trained on: {', '.join(each.key for each in space.tasks)}.",
            network="U2Net",
            network_parameters=asdict(size),
            label_space=replace(space, tasks=(task,)),
            preprocessing=preprocessing(prepared),
            window=(SIDE, SIDE, SIDE),
            # The released inference does not mirror.
            mirror_axes=(),
            window_steps="repeated",
            modality=prepared.modality,
            license=LICENSE_NOT_STATED,
            intended_use=INTENDED_USE,
            provenance=provenance(
                self.key,
                {path.name: digest(path)},
                {
                    "task": f"{task.key}, {index + 1} of {len(space.tasks)} in the checkpoint",
                    "label_space": f"{space.name}, tasks by {'option' if options.label_space else 'name of the file'}",
                    "spacing": _spacing_said(prepared),
                    "halvings": f"{size.halvings[0]} of every axis: as released, the weights do not tell",
                },
                paper="Huang, Han, Yao, Zhu, Zhou: 3D U2-Net, MICCAI 2019",
            ),
        )
        return card, fitted(domain_state(state, card, index, len(space.tasks)), card, path)


def domains(path: Path, state: Mapping[str, Tensor], label_space: str | None) -> LabelSpace:
    """Return the label space of a checkpoint: one task for each of its domains, in their order.

    Parameters
    ----------
    path : Path
        The checkpoint. Its name before ``_epoch`` has the tasks in the order of the training
        (``Task02_Heart_Task03_Liver``).
    state : mapping of str to Tensor
        Without prefixes.
    label_space : str, optional
        Name or file of a label space, which counts more than the name of the checkpoint.

    Raises
    ------
    BundleError
        When there are more or fewer tasks than domains.
    LabelSpaceError
        When there is no such label space.
    """
    count = Shapes(state, path).count("in_tr_list")
    space = chosen_label_space(label_space, "u2net")
    tasks, said = space.tasks, f"label space '{space.name}' has"
    if label_space is None:
        words = _EPOCH.split(path.name)[0].lower()
        named = [task for task in tasks if task.key in words]
        tasks, said = tuple(sorted(named, key=lambda task: words.index(task.key))), "the name of the file has"
    if len(tasks) != count:
        keys = ", ".join(task.key for task in tasks) or "none"
        raise BundleError(f"{path} has weights of {count} tasks, but {said} {len(tasks)}: {keys}.", _NAME_IT)
    return replace(space, tasks=tasks)


def parameters(state: Mapping[str, Tensor], domain: int, source: str | Path) -> U2NetParameters:
    """Read variant and size of the network of one domain from names and shapes of weights.

    Every axis is taken to be halved on every level, as released.

    Raises
    ------
    BundleError
        When a weight is missing, or the shapes make no 3D U2-Net.
    """
    shapes = Shapes(state, source)
    variant = _variant(state)
    channels, modalities = shapes.of(f"in_tr_list.{domain}.op1.0.weight")[:2]
    levels = shapes.count("down_samps")
    kernel = 1 if variant == "universal" else shapes.of("up_blocks.0.op2.conv.weight")[2]
    try:
        return U2NetParameters(variant, (modalities,), channels, (levels, levels, levels), kernel)
    except ValueError as error:
        raise BundleError(f"{source}: the weights fit no 3D U2-Net: {error}.", "It is another network.") from error


def domain_state(state: Mapping[str, Tensor], card: Card, domain: int, count: int) -> dict[str, Tensor]:
    """Return the weights of one domain, under the names that they have in a network of it alone.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights of all domains.
    card : Card
        Of the network of the one domain.
    domain, count : int
        Which one, of how many. Names that are of none of them stay, to be refused as unknown.
    """
    with torch.device("meta"):
        network = build_network(card.network, card.network_parameters, card.label_space)
    lists = [f"{name}." for name, part in network.named_modules() if isinstance(part, DomainList)]
    others = {str(other) for other in range(count) if other != domain}
    own: dict[str, Tensor] = {}
    for name, weight in state.items():
        prefix = next((prefix for prefix in lists if name.startswith(prefix)), "")
        index, _, rest = name.removeprefix(prefix).partition(".")
        if not prefix:
            own[name] = weight
        elif index == str(domain):
            own[f"{prefix}0.{rest}"] = weight
        elif index not in others:
            own[name] = weight
    return own


def preprocessing(domain: Domain) -> Preprocessing:
    """Return the preparation of the released code, as far as a card can say it.

    Files of the Medical Segmentation Decathlon are stored to the right, anterior and superior. The
    released code resamples twice, to the spacing of the task and to the stretched grid; here it is
    once. It crops with a margin of 5 voxels, here there is none.
    """
    return Preprocessing(
        spacing=domain.stretched,
        intensity_range=(-1024.0, 1e9),  # below it nothing is, and above nothing is clipped but by percentiles
        orientation="RAS",
        body_threshold=None,
        crop_to_nonzero=True,
        padding_value=0.0,
        padding_place="both",
        normalization="foreground",
        resampling=Resampling("cubic", size="down", clip="after"),
    )


def _state(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint without prefixes."""
    return find_state(load_weights(path, ENTRY), path)


def _variant(state: Mapping[str, Tensor]) -> str:
    """Return which variant has weights of these names: what is told by the first unit of the encoder."""
    unit = "down_blocks.0.op1"
    if f"{unit}.pwise.conv1.weight" in state:
        return "universal"
    if f"{unit}.adapOps.0.op1.1.weight" in state:
        return "series"
    return "parallel" if f"{unit}.adapOps.0.op1.weight" in state else "shared"


def _known(task: Task, path: Path) -> Domain:
    """Return how images of a task are prepared."""
    if task.key not in DOMAINS:
        raise BundleError(
            f"{path}: how images of the task '{task.key}' were prepared is not known.",
            f"Known are {', '.join(DOMAINS)}; choose one of them with --task.",
        )
    return DOMAINS[task.key]


def _spacing_said(domain: Domain) -> str:
    z, y, x = domain.spacing
    d, h, w = domain.patch
    return f"{z:g} x {y:g} x {x:g} mm, {d} x {h} x {w} voxels of which are stretched to {SIDE} x {SIDE} x {SIDE}"
