"""MultiTalent's published checkpoints, ``Task100_MultiTalent`` of nnU-Net v1: U-Net and ResEnc U-Net.

Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein: MultiTalent, MICCAI 2023. A zip or its unpacked
folder (:mod:`PartialSegLib.published.nnunet_v1`), under any name of the trainer: the published one of
the ResEnc U-Net is misspelt. The topology is read from the weights, preprocessing from the plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from torch import Tensor

from PartialSegLib.card import Card, Preprocessing
from PartialSegLib.errors import BundleError
from PartialSegLib.networks.multitalent import ResEncUNetParameters, UNetParameters, published_weights
from PartialSegLib.preparation import NNUNET_V1
from PartialSegLib.published.contract import (
    INTENDED_USE,
    LICENSE_NOT_STATED,
    ImportOptions,
    PublishedFormat,
    digest,
    provenance,
)
from PartialSegLib.published.nnunet_v1 import Plans, TrainedNetwork, container, read_plans, trained_networks
from PartialSegLib.published.restricted import load_checkpoint
from PartialSegLib.published.states import Shapes, chosen_label_space, find_state, fitted

#: What ``--network`` chooses from, and the names of the networks.
NETWORKS = {"unet": "MultiTalentUNet", "resenc": "MultiTalentResEncUNet"}
#: The record of the weights may state a license, which is not known here.
LICENSE = (
    f"{LICENSE_NOT_STATED} in their repository; see Zenodo record 8297767. They say that some of the datasets might "
    "not allow commercial usage."
)
_TITLES = {"unet": "U-Net", "resenc": "ResEnc U-Net"}
_Parameters = TypeVar("_Parameters", bound=UNetParameters)
#: ``--fold`` for a model of each fold.
EACH = "each"


class MultiTalentFormat(PublishedFormat):
    """``Task100_MultiTalent.zip``, and the folders in it."""

    key = "multitalent"
    title = "MultiTalent checkpoint (nnU-Net v1, Task100_MultiTalent)"
    uses = frozenset({"network", "fold", "label_space"})

    def detect(self, path: Path) -> bool:
        """See :meth:`PublishedFormat.detect`: a trained network of nnU-Net v1."""
        try:
            return bool(trained_networks(path))
        except (BundleError, OSError):
            return False

    def choices(self, path: Path, options: ImportOptions) -> list[ImportOptions]:
        """See :meth:`PublishedFormat.choices`: the first fold of each network, unless folds are chosen."""
        if options.network is not None and options.network not in NETWORKS:
            raise BundleError(f"There is no network '{options.network}'.", f"Choose from: {', '.join(NETWORKS)}.")
        found = [item for item in trained_networks(path) if options.network in (None, _kind(item.configuration))]
        if not found:
            raise BundleError(
                f"{path} holds no network '{options.network}'.", "Leave out --network to see what it has."
            )
        folds = sorted({item.fold for item in found})
        if options.fold not in (None, EACH, *folds):
            raise BundleError(f"{path} holds no fold '{options.fold}'.", f"Choose from: {', '.join(folds)}, {EACH}.")
        chosen = []
        for network in dict.fromkeys(_kind(item.configuration) for item in found):
            here = [item.fold for item in found if _kind(item.configuration) == network]
            wanted = [None] if options.fold is None else [fold for fold in here if options.fold in (EACH, fold)]
            chosen += [replace(options, network=network, fold=fold) for fold in wanted]
        return chosen

    def read(self, path: Path, options: ImportOptions) -> tuple[Card, dict[str, Tensor]]:
        """See :meth:`PublishedFormat.read`."""
        trained = _chosen(path, options)
        box = container(path)
        plans = read_plans(box, trained)
        source = f"{path}: {trained.configuration}/{trained.fold}"
        with box.unpacked(trained.checkpoint) as file:
            document = load_checkpoint(file.path)
            files = {_short(trained.checkpoint): file.sha256}
        if path.is_file():
            files |= {path.name: digest(path)}
        state = published_weights(find_state(document, source))
        kind = "resenc" if "encoder.initial_conv.weight" in state else "unet"
        space = chosen_label_space(options.label_space, "multitalent")
        card = Card(
            name=options.name or f"multitalent-{kind}" + (f"-fold{trained.fold}" if options.fold else ""),
            title=f"MultiTalent {_TITLES[kind]} (published weights)",
            description="MultiTalent of Ulrich et al., MICCAI 2023, trained on 13 partially labeled datasets: "
            f"{len(space.select())} structures that may overlap. {_TITLES[kind]}, fold {trained.fold}.",
            network=NETWORKS[kind],
            network_parameters=asdict(_parameters(kind, state, source)),
            label_space=space,
            preprocessing=preprocessing(plans),
            window=plans.patch,
            window_steps="even",
            license=LICENSE,
            intended_use=INTENDED_USE,
            provenance=provenance(
                self.key,
                files,
                {"network": kind, "fold": _fold(path, trained), "label_space": space.name},
                configuration=trained.configuration,
                plans=asdict(plans),
                paper="Ulrich et al.: MultiTalent, MICCAI 2023",
                **_training(document),
            ),
        )
        return card, fitted(state, card, source)


def preprocessing(plans: Plans) -> Preprocessing:
    """Return the preprocessing of nnU-Net v1 for CT with the numbers of the plans.

    nnU-Net takes files as they are stored; most of the training data were stored to the right,
    anterior and superior. Padding is 0 after normalization, which is the mean of the foreground.
    """
    z, y, x = plans.spacing
    return Preprocessing(
        spacing=(x, y, z),
        intensity_range=(plans.lower, plans.upper),
        intensity_shift=plans.mean,
        intensity_scale=plans.deviation,
        orientation="RAS",
        body_threshold=None,
        crop_to_nonzero=True,
        padding_value=0.0,
        padding_place="both",
        resampling=NNUNET_V1,
    )


def unet_parameters(state: Mapping[str, Tensor], source: str) -> UNetParameters:
    """Read the stages of a U-Net from the shapes of its weights."""
    shapes = Shapes(state, source)
    stages = shapes.count("tu") + 1
    # The bottleneck is two stacks of one convolution, the other stages one stack of two.
    firsts = [f"conv_blocks_context.{stage}.blocks.0.conv.weight" for stage in range(stages - 1)]
    kernels = [shapes.of(name) for name in (*firsts, f"conv_blocks_context.{stages - 1}.0.blocks.0.conv.weight")]
    strides = [shapes.of(f"tu.{stage}.weight")[2:] for stage in range(stages - 1)]
    return _checked(UNetParameters, source, kernels, strides)


def resenc_parameters(state: Mapping[str, Tensor], source: str) -> ResEncUNetParameters:
    """Read the stages of a ResEnc U-Net from the shapes of its weights."""
    shapes = Shapes(state, source)
    stages = shapes.count("decoder.tus") + 1
    kernels = [shapes.of(f"encoder.stages.{stage}.convs.0.conv1.weight") for stage in range(stages)]
    strides = [shapes.of(f"decoder.tus.{stage}.weight")[2:] for stage in range(stages - 1)]
    blocks = tuple(shapes.count(f"encoder.stages.{stage}.convs") for stage in range(stages))
    return _checked(ResEncUNetParameters, source, kernels, strides, blocks=blocks)


def _parameters(kind: str, state: Mapping[str, Tensor], source: str) -> UNetParameters:
    return resenc_parameters(state, source) if kind == "resenc" else unet_parameters(state, source)


def _checked(
    dataclass: type[_Parameters],
    source: str,
    convolutions: Sequence[Sequence[int]],
    upsamplings: Sequence[Sequence[int]],
    **more: Any,
) -> _Parameters:
    """Make parameters of the first convolution of each stage, and the upsamplings from the coarsest on."""
    try:
        return dataclass(
            features=tuple(shape[0] for shape in convolutions),
            kernels=tuple((shape[2], shape[3], shape[4]) for shape in convolutions),
            strides=((1, 1, 1), *((stride[0], stride[1], stride[2]) for stride in reversed(upsamplings))),
            **more,
        )
    except ValueError as error:
        raise BundleError(f"{source}: the weights fit no network: {error}.", "It is another network.") from error


def _kind(configuration: str) -> str:
    """Return which network a folder holds, by its name; the weights are asked again when they are read."""
    return "resenc" if "resenc" in configuration.lower() else "unet"


def _chosen(path: Path, options: ImportOptions) -> TrainedNetwork:
    """Return the one network that options choose: the first fold where they name none."""
    found = [
        item
        for item in trained_networks(path)
        if options.network in (None, _kind(item.configuration)) and options.fold in (None, item.fold)
    ]
    if not found:
        raise BundleError(f"{path} holds no network '{options.network}' of fold '{options.fold}'.", "Look into it.")
    twins = [item.configuration for item in found if item.fold == found[0].fold]
    if len(twins) > 1:
        raise BundleError(
            f"{path} holds fold {found[0].fold} of several networks: {', '.join(twins)}.",
            "Choose one with --network, or import its folder.",
        )
    return found[0]


def _fold(path: Path, trained: TrainedNetwork) -> str:
    """Return which fold this is, and of which."""
    folds = [item.fold for item in trained_networks(path) if item.configuration == trained.configuration]
    return trained.fold if len(folds) == 1 else f"{trained.fold} of {', '.join(folds)}"


def _short(name: PurePosixPath) -> str:
    """Return the last three parts of a name: trainer, fold and file."""
    return "/".join(name.parts[-3:])


def _training(document: Any) -> dict[str, Any]:
    """Return how long the network was trained, where the checkpoint says it."""
    epoch = document.get("epoch") if isinstance(document, Mapping) else None
    return {"epoch": epoch} if isinstance(epoch, int) else {}
