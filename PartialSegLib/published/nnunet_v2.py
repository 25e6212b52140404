"""Trained folders of nnU-Net v2: a user's own network becomes a model.

``<trainer>__<plans>__<configuration>/`` with ``plans.json``, ``dataset.json`` and
``fold_X/checkpoint_final.pth``, or a zip of it (``nnUNetv2_export_model_to_zip``). The checkpoint names
its configuration; what plans and labels mean is read by
:mod:`~PartialSegLib.published.nnunet_v2_plans` and :mod:`~PartialSegLib.published.nnunet_v2_labels`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from PartialSegLib.card import Card
from PartialSegLib.errors import BundleError
from PartialSegLib.networks.nnunet import NnUNetParameters, released_names
from PartialSegLib.published.containers import Container, Folder, Zip
from PartialSegLib.published.contract import (
    INTENDED_USE,
    LICENSE_NOT_STATED,
    ImportOptions,
    PublishedFormat,
    digest,
    provenance,
)
from PartialSegLib.published.nnunet_v2_labels import Labels, dataset_title, labels_of, slug
from PartialSegLib.published.nnunet_v2_plans import configuration_of
from PartialSegLib.published.restricted import load_checkpoint
from PartialSegLib.published.states import chosen_label_space, find_state, fitted

PLANS, DATASET = "plans.json", "dataset.json"
#: What is taken of a fold, the first that is there.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
#: The configuration that is taken where a folder holds several.
FULL_RESOLUTION = "3d_fullres"
#: ``--fold`` for a model of each fold.
EACH = "each"


@dataclass(frozen=True)
class TrainedFold:
    """One fold of one trained folder.

    Parameters
    ----------
    folder : PurePosixPath
        With plans and labels.
    fold : str
        ``0``, ``1`` ... or ``all``.
    checkpoint : PurePosixPath
        Weights.
    """

    folder: PurePosixPath
    fold: str
    checkpoint: PurePosixPath


class NnUNetV2Format(PublishedFormat):
    """A trained folder of nnU-Net v2."""

    key = "nnunet-v2"
    title = "trained folder of nnU-Net v2"
    uses = frozenset({"fold", "label_space"})

    def detect(self, path: Path) -> bool:
        """See :meth:`PublishedFormat.detect`: a checkpoint with plans and labels above it."""
        try:
            return bool(trained_folds(path))
        except (BundleError, OSError):
            return False

    def choices(self, path: Path, options: ImportOptions) -> list[ImportOptions]:
        """See :meth:`PublishedFormat.choices`: the first fold, unless others are chosen."""
        folds = [item.fold for item in _one_folder(path)]
        if options.fold is None:
            return [options]
        if options.fold not in (EACH, *folds):
            raise BundleError(f"{path} holds no fold '{options.fold}'.", f"Choose from: {', '.join(folds)}, {EACH}.")
        return [replace(options, fold=fold) for fold in folds if options.fold in (EACH, fold)]

    def read(self, path: Path, options: ImportOptions) -> tuple[Card, dict[str, Tensor]]:
        """See :meth:`PublishedFormat.read`."""
        folds = _one_folder(path)
        trained = next((item for item in folds if options.fold in (None, item.fold)), None)
        if trained is None:
            raise BundleError(f"{path} holds no fold '{options.fold}'.", "Leave out --fold to take the first.")
        box = _container(path)
        plans, dataset = (_json(box, trained.folder / name) for name in (PLANS, DATASET))
        with box.unpacked(trained.checkpoint) as file:
            document = load_checkpoint(file.path)
            files = {"/".join(trained.checkpoint.parts[-3:]): file.sha256}
        if path.is_file() and isinstance(box, Zip):
            files |= {path.name: digest(path)}
        source = f"{path}: fold_{trained.fold}/{trained.checkpoint.name}"
        card, state = _card_and_state(document, plans, dataset, trained, options, source)
        chosen = trained.fold if len(folds) == 1 else f"{trained.fold} of {', '.join(item.fold for item in folds)}"
        came = provenance(self.key, files, _choices(chosen, trained, card), **_training(document, plans, trained))
        card = replace(card, provenance=came)
        return card, fitted(state, card, source)


def trained_folds(path: Path) -> list[TrainedFold]:
    """Return every trained fold, sorted by folder and fold.

    Parameters
    ----------
    path : Path
        A zip, a folder (a dataset's, a trained one, one fold), or one checkpoint in its folder.

    Raises
    ------
    BundleError
        When it cannot be listed.
    """
    if path.suffix == ".pth" and not (path.resolve().parent.parent / PLANS).is_file():
        return []  # not to list a folder of strangers
    names = _container(path).names()
    files, own = set(names), path.resolve()
    found: dict[tuple[PurePosixPath, str], PurePosixPath] = {}
    for checkpoint in CHECKPOINTS:
        for name in names:
            folder, fold = name.parent.parent, name.parent.name
            asked = not _is_part(path) or own in (Path(name), Path(name.parent))
            known = fold.startswith("fold_") and {folder / PLANS, folder / DATASET} <= files
            if name.name == checkpoint and known and asked:
                found.setdefault((folder, fold.removeprefix("fold_")), name)
    return [TrainedFold(folder, fold, name) for (folder, fold), name in sorted(found.items())]


def _container(path: Path) -> Container:
    """Return the container in which a trained folder lies, whole."""
    if _is_part(path):
        inner = path.resolve()
        return Folder(inner.parent if inner.is_dir() else inner.parent.parent)
    return Folder(path) if path.is_dir() else Zip(path)


def _is_part(path: Path) -> bool:
    """Whether a path is one fold or one checkpoint of a trained folder."""
    own = path.resolve()
    return path.suffix == ".pth" or (own.name.startswith("fold_") and (own.parent / PLANS).is_file())


def _one_folder(path: Path) -> list[TrainedFold]:
    """Return the folds of the one trained folder, or of the one at full resolution among several."""
    found = trained_folds(path)
    folders = sorted({item.folder for item in found})
    if len(folders) > 1:
        folders = [folder for folder in folders if folder.name.endswith(f"__{FULL_RESOLUTION}")]
    if len(folders) != 1:
        names = sorted({item.folder.name for item in found})
        raise BundleError(
            f"{path} holds {len(names)} trained folders ({', '.join(names)}), of which {len(folders)} are "
            f"{FULL_RESOLUTION}.",
            "Import one of these folders.",
        )
    return [item for item in found if item.folder == folders[0]]


def _json(box: Container, name: PurePosixPath) -> dict[str, Any]:
    try:
        document = json.loads(box.read(name))
    except ValueError as error:  # JSON and UTF-8 errors are of this kind
        raise BundleError(f"{name} is no JSON: {error}.", "It is damaged. Get it again.") from error
    if not isinstance(document, dict):
        raise BundleError(f"{name} holds no object.", "It is not a file of nnU-Net v2.")
    return document


def _card_and_state(
    document: Any,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    trained: TrainedFold,
    options: ImportOptions,
    source: str,
) -> tuple[Card, dict[str, Tensor]]:
    """Return the card, without provenance, and the weights by our names."""
    if not isinstance(document, Mapping) or not isinstance(document.get("network_weights"), Mapping):
        raise BundleError(f"{source} holds no 'network_weights'.", "It is no checkpoint of nnU-Net v2.")
    channel = _channel(dataset, str(trained.folder / DATASET))
    name = str(plans.get("dataset_name", "")) or trained.folder.parent.name
    setting = _configuration_name(document, trained)
    found = configuration_of(plans, setting, str(trained.folder / PLANS))
    labels = _labels(dataset, name, str(trained.folder / DATASET), options)
    suffix = "" if setting == FULL_RESOLUTION else f"-{slug(setting)}"
    suffix += f"-fold{trained.fold}" if options.fold else ""
    title = dataset_title(name)
    card = Card(
        name=options.name or f"nnunet-{slug(title)}{suffix}",
        title=f"nnU-Net {title}",
        description=f"nnU-Net v2, {found.network.architecture}, {setting}, fold {trained.fold}, trained on {name}"
        f"{'' if trained.checkpoint.name == CHECKPOINTS[0] else '; not trained to the end, or its end is lost'}.",
        network="NnUNetRegions" if labels.regions else "NnUNetLabels",
        network_parameters=asdict(found.network),
        label_space=labels.space,
        preprocessing=found.preprocessing,
        window=found.window,
        mirror_axes=_mirror_axes(document, source),
        window_steps="even",
        modality=_modality(channel),
        license=_license(dataset),
        intended_use=INTENDED_USE,
    )
    return card, _state(document["network_weights"], found.network, labels, source)


def _state(weights: Mapping[str, Any], network: NnUNetParameters, labels: Labels, source: str) -> dict[str, Tensor]:
    """Return the weights by our names, each once; unknown names are left for :func:`fitted` to refuse."""
    outputs = len(labels.space.select()) + (0 if labels.regions else 1)
    names = released_names(network, outputs)
    state: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, weight in find_state(weights, source).items():
        own = names.get(name, name)
        if own in state and not state[own].equal(weight):
            raise BundleError(
                f"{source}: the weights '{origins[own]}' and '{name}' are the same one, but differ.",
                "It is damaged, or of another network.",
            )
        state[own], origins[own] = weight, name
    return state


def _labels(dataset: Mapping[str, Any], name: str, source: str, options: ImportOptions) -> Labels:
    """Return what the outputs are: what the dataset says, under the names that the user gave."""
    labels = labels_of(dataset, name, source)
    if options.label_space is None:
        return labels
    space = chosen_label_space(options.label_space, labels.space.name)
    wanted = len(labels.space.tasks[0].channels)
    if len(space.tasks) != 1 or len(space.tasks[0].structures) != wanted:
        raise BundleError(
            f"Label space '{space.name}' has {len(space.tasks)} tasks, but {source} is one of {wanted} structures.",
            "Name one task with as many structures, in the order of the labels.",
        )
    return labels._replace(space=space)


def _channel(dataset: Mapping[str, Any], source: str) -> str:
    """Return the name of the one channel of the images."""
    channels = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(channels, Mapping) or len(channels) != 1:
        count = len(channels) if isinstance(channels, Mapping) else "no"
        raise BundleError(
            f"{source} has {count} 'channel_names', and one is understood.",
            "Networks of several images at once cannot be imported.",
        )
    return str(next(iter(channels.values())))


def _configuration_name(document: Mapping[str, Any], trained: TrainedFold) -> str:
    """Return the configuration that the checkpoint was trained in, or that its folder is named after."""
    arguments = document.get("init_args")
    named = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    return named if isinstance(named, str) else trained.folder.name.rpartition("__")[2]


def _mirror_axes(document: Mapping[str, Any], source: str) -> tuple[int, ...]:
    """Return the axes along which nnU-Net mirrors windows when it predicts."""
    axes = document.get("inference_allowed_mirroring_axes")
    found = () if axes is None else tuple(axes) if isinstance(axes, list | tuple) else (axes,)
    if any(axis not in (0, 1, 2) for axis in found):
        raise BundleError(f"{source}: windows are mirrored along {axes}.", "It is no network for volumes.")
    return tuple(int(axis) for axis in found)


def _modality(channel: str) -> str:
    """Return the DICOM modality that the name of a channel means; ``OT`` (other) where it says nothing."""
    upper = channel.upper()
    if upper.startswith(("MR", "T1", "T2", "FLAIR", "ADC", "DWI")):
        return "MR"
    return "PT" if upper.startswith(("PT", "PET")) else "CT" if upper.startswith("CT") else "OT"


def _license(dataset: Mapping[str, Any]) -> str:
    """Return what is known of the license: of the weights nothing, of the data what its file says."""
    said = next((dataset[name] for name in ("license", "licence") if isinstance(dataset.get(name), str)), "")
    return LICENSE_NOT_STATED + (f"; the license of the training data: {said.strip()}" if said.strip() else "")


def _choices(fold: str, trained: TrainedFold, card: Card) -> dict[str, str]:
    """Return what was chosen, for the card."""
    checkpoint = trained.checkpoint.name
    if checkpoint != CHECKPOINTS[0]:
        checkpoint += f": there is no {CHECKPOINTS[0]}; this is the best by the validation during training"
    return {"fold": fold, "checkpoint": checkpoint, "label_space": card.label_space.name}


def _training(document: Mapping[str, Any], plans: Mapping[str, Any], trained: TrainedFold) -> dict[str, Any]:
    """Return what the checkpoint says of its training."""
    said = {"trainer": document.get("trainer_name"), "epoch": document.get("current_epoch")}
    known = {name: value for name, value in said.items() if isinstance(value, str | int)}
    return {
        "configuration": _configuration_name(document, trained),
        "dataset": str(plans.get("dataset_name", "")),
        "plans": str(plans.get("plans_name", "")),
        "paper": "Isensee et al.: nnU-Net, Nature Methods 2021",
        **known,
    }
