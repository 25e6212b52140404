"""Trained folders of nnU-Net v2 with random weights, written as nnU-Net writes them.

Plans, labels and the checkpoint have every entry of the real files; the network is the package's own,
with all its aliases in the state dictionary. Used by the tests of ``partialseg import``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from PartialSegLib.networks import NnUNetLabels, NnUNetParameters
from PartialSegLib.networks.nnunet import released_names, released_network
from PartialSegLib.published.nnunet_v2_labels import labels_of

KINDS = {"plain": "PlainConvUNet", "resenc": "ResidualEncoderUNet"}
FEATURES, KERNELS = (4, 6, 8), ((1, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES, ENCODER, DECODER = ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (2, 1, 2), (1, 2)
LABELS = {"background": 0, "liver": 1, "Liver tumour": 2, "mystery organ": 3}
REGIONS = {"background": 0, "whole kidney": [1, 2, 3], "masses": [2, 3], "kidney_tumor": 2}
FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def architecture(kind: str, **changed: Any) -> dict[str, Any]:
    """Return the entry ``architecture`` of plans; `changed` replaces entries of its ``arch_kwargs``."""
    convolutions = "n_blocks_per_stage" if kind == "resenc" else "n_conv_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{KINDS[kind]}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": list(FEATURES),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(sizes) for sizes in KERNELS],
            "strides": [list(sizes) for sizes in STRIDES],
            convolutions: list(ENCODER),
            "n_conv_per_stage_decoder": list(DECODER),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **changed,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def older_architecture(kind: str) -> dict[str, Any]:
    """Return the entries that plans had before ``architecture``."""
    return {
        "UNet_class_name": KINDS[kind],
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": list(ENCODER),
        "n_conv_per_stage_decoder": list(DECODER),
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": [list(sizes) for sizes in STRIDES],
        "conv_kernel_sizes": [list(sizes) for sizes in KERNELS],
    }


def full_resolution(topology: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the configuration ``3d_fullres``; `changed` replaces entries."""

    def resampled(order: int, *, mask: bool = False) -> dict[str, Any]:
        return {"is_seg": mask, "order": order, "order_z": 0, "force_separate_z": None}

    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 32, 16],
        "median_image_size_in_voxels": [60.0, 200.0, 180.0],
        "spacing": [3.0, 1.5, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampled(3),
        "resampling_fn_seg_kwargs": resampled(1, mask=True),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampled(1),
        **topology,
        "batch_dice": True,
        **changed,
    }


def plans(configuration: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return ``plans.json``; `changed` replaces entries."""
    intensities = {
        "max": 3000.0,
        "mean": 80.0,
        "median": 85.0,
        "min": -1000.0,
        "percentile_00_5": -100.0,
        "percentile_99_5": 240.0,
        "std": 40.0,
    }
    return {
        "dataset_name": "Dataset007_Upper_Abdomen",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.5, 1.0],
        "original_median_shape_after_transp": [60, 200, 180],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": {"patch_size": [32, 32]}, "3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        **changed,
    }


def dataset(labels: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return ``dataset.json``; `changed` replaces entries."""
    regions = {"regions_class_order": [1, 3, 2]} if labels is REGIONS else {}
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 20,
        "file_ending": ".nii.gz",
        **regions,
        **changed,
    }


def released(kind: str, outputs: int, features: tuple[int, ...] = FEATURES, seed: int = 0) -> nn.Module:
    """Return the package's own network with random weights, whose answers differ from place to place."""
    parameters = NnUNetParameters(KINDS[kind], features, KERNELS, STRIDES, ENCODER, DECODER)
    network = released_network(parameters, outputs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 1 + 0.3 * noise)
        for layer in network.decoder.seg_layers:
            layer.weight.sub_(layer.weight.mean(1, keepdim=True))
            layer.bias.sub_(1)
    return network.eval()


def own_network(kind: str = "plain") -> NnUNetLabels:
    """Return our network with the weights of :func:`released`, by way of their names."""
    parameters = NnUNetParameters(KINDS[kind], FEATURES, KERNELS, STRIDES, ENCODER, DECODER)
    space = labels_of(dataset(LABELS), "Dataset007_Upper_Abdomen", "dataset.json").space
    names, state = released_names(parameters, len(LABELS)), released(kind, len(LABELS)).state_dict()
    network = NnUNetLabels(parameters, space)
    network.load_state_dict({names[name]: weight for name, weight in state.items()})
    return network.eval()


def checkpoint(network: nn.Module, document: dict[str, Any], labels: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return what ``nnUNetTrainer.save_checkpoint`` saves; `changed` replaces entries."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.3)], "lrs": [0.01]},
        "_best_ema": np.float64(0.6),
        "current_epoch": 1000,
        "init_args": {
            "plans": document,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": labels,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changed,
    }


def write_json(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=4), encoding="utf-8")


def write(
    folder: Path,
    kind: str = "plain",
    labels: dict[str, Any] | None = None,
    *,
    folds: tuple[str, ...] = ("0",),
    file: str = "checkpoint_final.pth",
    document: dict[str, Any] | None = None,
    description: dict[str, Any] | None = None,
    features: tuple[int, ...] = FEATURES,
    **changed: Any,
) -> Path:
    """Write a trained folder below `folder` and return it.

    Parameters
    ----------
    kind : str
        ``plain`` or ``resenc``.
    labels : dict
        Of the dataset; :data:`LABELS` by default.
    folds : tuple of str
        Each with weights of its own.
    file : str
        Name of the checkpoints.
    document, description : dict
        ``plans.json`` and ``dataset.json`` in place of the usual ones.
    features : tuple of int
        Of the network.
    changed
        Entries of the checkpoint.
    """
    labels = LABELS if labels is None else labels
    place = folder / "Dataset007_Upper_Abdomen" / FOLDER
    document = plans(full_resolution({"architecture": architecture(kind)})) if document is None else document
    description = dataset(labels) if description is None else description
    outputs = len(labels) - 1 if labels is REGIONS else len(labels)
    for seed, fold in enumerate(folds):
        (place / f"fold_{fold}").mkdir(parents=True)
        network = released(kind, outputs, features, seed)
        torch.save(checkpoint(network, document, description, **changed), place / f"fold_{fold}" / file)
    write_json(place / "plans.json", document)
    write_json(place / "dataset.json", description)
    return place
