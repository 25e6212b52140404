"""DoDNet's published checkpoint, ``MOTS_DynConv_checkpoint.pth``, and those that its code writes.

Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021. A file of ``torch.save``: the state dictionary itself, or
under ``model`` beside the optimizer (training in half precision), with ``module.`` before every name.
It says nothing but weights, so that preprocessing and post-processing here are those of the released
code; where its author and the paper disagree, the user decides (:data:`SPACINGS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from PartialSegLib.card import Card, Preprocessing, Vector
from PartialSegLib.errors import BundleError
from PartialSegLib.networks.dodnet import DoDNetParameters
from PartialSegLib.preparation import DODNET
from PartialSegLib.published.contract import (
    INTENDED_USE,
    LICENSE_NOT_STATED,
    ImportOptions,
    PublishedFormat,
    digest,
    provenance,
)
from PartialSegLib.published.restricted import load_checkpoint
from PartialSegLib.published.states import Shapes, chosen_label_space, find_state, fitted, glance
from PartialSegLib.structures import LabelSpace

#: Window of the released evaluation, (D, H, W) voxels.
WINDOW = (64, 192, 192)
#: Tumor components of at most so many voxels of the network's grid are dropped (``postp.py``).
SMALL_VOXELS = 50
#: Groups of every GroupNorm: no weight tells them.
GROUPS = 16

_STAGES = tuple(f"layer{stage}" for stage in range(5))


class Spacing(NamedTuple):
    """One statement of the spacing that the published network was trained at."""

    #: (x, y, z) millimetres.
    millimetres: Vector
    source: str


#: What ``--spacing`` chooses from; the first is the default.
SPACINGS: Mapping[str, Spacing] = {
    "author": Spacing((0.76, 0.76, 3.0), "3 x 0.76 x 0.76 mm, the author's word on the published checkpoint"),
    "paper": Spacing((0.8, 0.8, 1.5), "1.5 x 0.8 x 0.8 mm, the paper's Section 4.1 and the released code"),
}


class DoDNetFormat(PublishedFormat):
    """``MOTS_DynConv_checkpoint.pth``."""

    key = "dodnet"
    title = "DoDNet checkpoint (MOTS_DynConv)"
    uses = frozenset({"spacing", "label_space"})

    def detect(self, path: Path) -> bool:
        """See :meth:`PublishedFormat.detect`: an encoder, the feature map of the head, and its controller."""
        return {"conv1.weight", "precls_conv.2.weight", "controller.weight"} <= glance(path).keys()

    def read(self, path: Path, options: ImportOptions) -> tuple[Card, dict[str, Tensor]]:
        """See :meth:`PublishedFormat.read`."""
        choice = options.spacing or next(iter(SPACINGS))
        if choice not in SPACINGS:
            raise BundleError(f"There is no spacing '{choice}' of DoDNet.", f"Choose from: {', '.join(SPACINGS)}.")
        state = find_state(load_checkpoint(path), path)
        space = chosen_label_space(options.label_space, "mots")
        card = Card(
            name=options.name or "dodnet-mots",
            title="DoDNet (published weights)",
            description="DoDNet of Zhang et al., CVPR 2021, trained on the seven partially labeled tasks of MOTS. "
            f"Resampled to {SPACINGS[choice].source}.",
            network="DoDNet",
            network_parameters=asdict(parameters(state, space, path)),
            label_space=_with_voxel_rules(space, SPACINGS[choice].millimetres),
            preprocessing=preprocessing(SPACINGS[choice].millimetres),
            window=WINDOW,
            window_steps="clamped",
            license=f"{LICENSE_NOT_STATED} (the code of the authors is GPL-3.0; this is not their code)",
            intended_use=INTENDED_USE,
            provenance=provenance(
                self.key,
                {path.name: digest(path)},
                {
                    "spacing": f"{choice}: {SPACINGS[choice].source}",
                    "label_space": space.name,
                    "groups": f"{GROUPS}, weight standardization on: as released, the weights do not tell",
                },
                paper="Zhang, Xie, Xia, Shen: DoDNet, CVPR 2021",
            ),
        )
        return card, fitted(state, card, path)


def preprocessing(spacing: Vector) -> Preprocessing:
    """Return the preprocessing of the released code at a spacing, (x, y, z) in millimetres of the image.

    The network's rows (H) run along the x axis of a NIfTI file and its columns (W) along y, where the
    authors read files with NiBabel. Almost all of their files are stored to the right, anterior and
    superior, so the network's (x, y, z) grow in the directions A, R and S. Images smaller than a window
    are padded with 0 HU behind their end.
    """
    x, y, z = spacing
    return Preprocessing(
        spacing=(y, x, z),
        intensity_range=(-325.0, 325.0),
        intensity_shift=0.0,
        intensity_scale=325.0,
        orientation="ARS",
        body_threshold=None,
        padding_value=0.0,
        padding_place="end",
        resampling=DODNET,
    )


def parameters(state: Mapping[str, Tensor], space: LabelSpace, source: str | Path) -> DoDNetParameters:
    """Read the size of a DoDNet from the shapes of its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        Without prefixes.
    space : LabelSpace
        Tasks, of which the controller has one input each, and output channels.
    source : str or Path
        File of the weights, for messages.

    Raises
    ------
    BundleError
        When a weight is missing, or the controller fits no head of these tasks.
    """
    shapes = Shapes(state, source)
    channels = tuple(shapes.of(f"{stage}.0.conv2.weight")[0] for stage in _STAGES)
    width = shapes.of("precls_conv.2.weight")[0]
    generated, conditions = shapes.of("controller.weight")[:2]
    pooled, tasks = shapes.of("fusionConv.2.weight")[0], len(space.tasks)
    if conditions not in (pooled + tasks, pooled, tasks):
        raise BundleError(
            f"{source}: the weight 'controller.weight' has {conditions} inputs, but {pooled} image features and "
            f"{tasks} tasks of label space '{space.name}' make {pooled + tasks}.",
            "Name the label space of the network with --label-space.",
        )
    # Every layer of the head is (width + 1) numbers for each of its outputs: width, width ... outputs.
    outputs = max(len(task.channels) for task in space.tasks)
    hidden, rest = divmod(generated - outputs * (width + 1), width * (width + 1))
    if rest or hidden < 0:
        raise BundleError(
            f"{source}: the weight 'controller.weight' generates {generated} numbers, which make no head of width "
            f"{width} with {outputs} outputs of label space '{space.name}'.",
            "Name the label space of the network with --label-space.",
        )
    try:
        return DoDNetParameters(
            channels=channels,
            blocks=tuple(shapes.count(stage) for stage in _STAGES),
            groups=GROUPS,
            head_width=width,
            head_depth=hidden + 1,
            image_condition=conditions in (pooled + tasks, pooled),
            task_condition=conditions in (pooled + tasks, tasks),
        )
    except ValueError as error:
        raise BundleError(f"{source}: the weights fit no DoDNet: {error}.", "It is another network.") from error


def _with_voxel_rules(space: LabelSpace, spacing: Vector) -> LabelSpace:
    """Return the label space with ``drop_small`` at 50 voxels of the network's own grid, as released."""
    x, y, z = spacing
    volume = round(SMALL_VOXELS * x * y * z, 3)

    def on_grid(rules: Any) -> Any:
        return tuple(replace(rule, max_mm3=volume) if rule.op == "drop_small" else rule for rule in rules)

    return replace(space, tasks=tuple(replace(task, rules=on_grid(task.rules)) for task in space.tasks))
