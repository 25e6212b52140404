"""Checkpoints in the published formats: random weights of small networks, in the exact layout of the files.

Written the way the published code writes them: ``module.`` before every name, NumPy scalars among the
logs, the names and aliases of the released ResEnc U-Net. Used by the tests of ``partialseg import``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nnunet_v2_files
import numpy as np
import torch
import u2net_files
from torch import Tensor, nn

from bundles import random_dodnet
from PartialSegLib.networks import (
    DoDNet,
    DoDNetParameters,
    MultiTalentResEncUNet,
    MultiTalentUNet,
    ResEncUNetParameters,
    UNetParameters,
)
from PartialSegLib.networks.multitalent import MultiTalentNetwork
from PartialSegLib.published import DoDNetFormat, MultiTalentFormat, NnUNetV2Format, PublishedFormat, U2NetFormat
from PartialSegLib.structures import LabelSpace

SMALL_DODNET = DoDNetParameters(channels=(16, 16, 16, 32, 32), blocks=(1, 1, 1, 1, 2))
SMALL_UNET = UNetParameters((4, 6, 8), ((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (1, 2, 2)))
SMALL_RESENC = ResEncUNetParameters(
    (4, 6, 8), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), blocks=(1, 2, 1)
)
UNET_FOLDER = "MultiTalent_trainer_ddp_2000ep__MultiTalent_bs4"
#: As in the published zip.
MISSPELT_FOLDER = "MultiTalent_tainer_resenc_ddp__MultiTalent_resenc_bs4"


def dodnet() -> DoDNet:
    """Return a small DoDNet of the seven published tasks."""
    return random_dodnet(SMALL_DODNET)


def multitalent(kind: str, seed: int = 0) -> MultiTalentNetwork:
    """Return a small MultiTalent network, ``unet`` or ``resenc``, of the 47 published outputs."""
    space = LabelSpace.named("multitalent")
    network: MultiTalentNetwork
    network = MultiTalentUNet(SMALL_UNET, space) if kind == "unet" else MultiTalentResEncUNet(SMALL_RESENC, space)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
        for head in network.heads():
            # Weights of both signs, so that every output is positive somewhere and negative elsewhere.
            head.weight.sub_(head.weight.mean(1, keepdim=True))
    return network.eval()


def parallel(network: nn.Module, prefix: str = "module.") -> dict[str, Tensor]:
    """Return the state of a network as its wrapper for several GPUs names it."""
    return OrderedDict((prefix + name, weight.clone()) for name, weight in network.state_dict().items())


def released_resenc(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a ResEnc U-Net as published: aliases, and the older name of the finest head."""
    finest = f"decoder.deep_supervision_outputs.{len(SMALL_RESENC.features) - 2}."
    state: dict[str, Tensor] = OrderedDict()
    for name, weight in network.state_dict().items():
        own = name.replace(finest, "decoder.segmentation_output.")
        state[f"module.{own}"] = weight
        if name.startswith("decoder.stages."):
            alias = own.replace(".conv.", ".all.0.").replace(".norm.", ".all.2.")
            state[f"module.{alias}"] = weight
    return state


def plans(kind: str = "unet", **changed: Any) -> dict[str, Any]:
    """Return plans of nnU-Net v1 as they are pickled, for small patches; `changed` replaces entries."""
    mean, deviation = (63.436882, 175.48094) if kind == "unet" else (63.516087, 175.3107)
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [2, 3, 3],
        "patch_size": np.array([8, 32, 32]),
        "median_patient_size_in_voxels": np.array([100, 300, 300]),
        "current_spacing": np.array([1.5, 1.0, 1.0]),
        "original_spacing": np.array([1.5, 1.0, 1.0]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[2, 2, 2], [1, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3]] * 3,
    }
    intensities = OrderedDict(
        mean=np.float32(mean),
        sd=np.float32(deviation),
        percentile_99_5=np.float64(275.0),
        percentile_00_5=np.float64(-927.0),
        local_props=OrderedDict(case_0=OrderedDict(mean=np.float64(60.0))),
    )
    low = stage | {"current_spacing": np.array([3.0, 2.0, 2.0]), "patch_size": np.array([8, 16, 16])}
    document: dict[str, Any] = {
        "num_stages": 2,
        "num_modalities": 1,
        "modalities": {0: "CT"},
        "normalization_schemes": OrderedDict([(0, "CT")]),
        "dataset_properties": {
            "all_spacings": [np.array([1.5, 0.8, 0.8])],
            "intensityproperties": OrderedDict([(0, intensities)]),
        },
        "num_classes": 47,
        "all_classes": np.arange(1, 48),
        "base_num_features": 30,
        "use_mask_for_norm": OrderedDict([(0, False)]),
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "plans_per_stage": {0: low, 1: stage},
    }
    return document | changed


def nnunet_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what nnU-Net v1 saves beside the weights: optimizer, NumPy scalars among the logs, scaler."""
    return {
        "epoch": 2000,
        "state_dict": state,
        "optimizer_state_dict": {
            "state": {0: {"momentum_buffer": torch.zeros(3)}},
            "param_groups": [{"lr": 1e-2, "nesterov": True, "params": [0]}],
        },
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float32(0.5)], [np.float64(0.25)], [], [np.mean([0.1, 0.3])]),
        "best_stuff": (np.float64(0.3), np.float64(0.2), None),
        "amp_grad_scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }


def write_fold(
    folder: Path, state: dict[str, Tensor], document: dict[str, Any], fold: int | str = 0, *, new: bool = False
) -> Path:
    """Write one fold of a trainer's folder, and the plans above it; return the checkpoint.

    nnU-Net v1 was published with PyTorch 1.x, which wrote the older layout on request and the zip
    (`new`) otherwise.
    """
    place = folder / (f"fold_{fold}" if isinstance(fold, int) else fold)
    place.mkdir(parents=True)
    (folder / "plans.pkl").write_bytes(pickle.dumps(document))
    file = place / "model_final_checkpoint.model"
    torch.save(nnunet_checkpoint(state), file, _use_new_zipfile_serialization=new)
    trainer = {
        "init": ("plans.pkl", fold, "results", "preprocessed", False, 1, True, False, True),
        "name": "nnUNetTrainerV2_leBFnnUNet4",
        "class": "<class 'nnunet.training.network_training.MultiTalent_trainer_ddp.MultiTalent_trainer_ddp_2000ep'>",
        "plans": document,
    }
    (place / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(trainer))
    return file


def write_multitalent(folder: Path, folds: tuple[int | str, ...] = (0,)) -> Path:
    """Write ``Task100_MultiTalent`` with both networks; return its folder."""
    task = folder / "Task100_MultiTalent"
    for seed, fold in enumerate(folds):
        write_fold(task / UNET_FOLDER, parallel(multitalent("unet", seed)), plans(), fold, new=True)
        write_fold(task / MISSPELT_FOLDER, released_resenc(multitalent("resenc", seed)), plans("resenc"), fold)
    return task


def packed(folder: Path) -> Path:
    """Pack a folder into a zip beside it, with its name in front of every file."""
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in sorted(folder.rglob("*")):
            archive.write(item, item.relative_to(folder.parent))
    return file


@dataclass(frozen=True)
class Sample:
    """A published file, and the network whose weights are in it."""

    published: type[PublishedFormat]
    write: Callable[[Path], Path]
    network: Callable[[], nn.Module]


def saved(file: Path, content: Any, *, new: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file


def write_unet(folder: Path) -> Path:
    trainer = folder / UNET_FOLDER
    write_fold(trainer, parallel(multitalent("unet")), plans())
    return trainer


def write_resenc(folder: Path) -> Path:
    trainer = folder / MISSPELT_FOLDER
    write_fold(trainer, released_resenc(multitalent("resenc")), plans("resenc"), new=True)
    return trainer


def unet() -> nn.Module:
    return multitalent("unet")


def resenc() -> nn.Module:
    return multitalent("resenc")


def write_dodnet(content: Callable[[dict[str, Tensor]], Any], prefix: str, *, new: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return saved(folder / "MOTS_DynConv.pth", content(parallel(dodnet(), prefix)), new=new)

    return write


def half_precision(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what DoDNet's code saves when it trained in half precision."""
    return {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]}, "amp": {"loss_scaler0": {}}}


#: Every layout in which a published network is known to lie.
SAMPLES = {
    "DoDNet": Sample(DoDNetFormat, write_dodnet(lambda state: state, "module.", new=False), dodnet),
    "DoDNet, zip layout": Sample(DoDNetFormat, write_dodnet(lambda state: state, "module.", new=True), dodnet),
    "DoDNet, model": Sample(DoDNetFormat, write_dodnet(half_precision, "module.module.", new=True), dodnet),
    "DoDNet, state_dict": Sample(
        DoDNetFormat, write_dodnet(lambda state: {"state_dict": state, "epoch": 1}, "", new=False), dodnet
    ),
    "MultiTalent U-Net": Sample(MultiTalentFormat, write_unet, unet),
    "MultiTalent U-Net, zip": Sample(MultiTalentFormat, lambda folder: packed(write_unet(folder)), unet),
    "MultiTalent U-Net, file": Sample(
        MultiTalentFormat, lambda folder: write_unet(folder) / "fold_0" / "model_final_checkpoint.model", unet
    ),
    "MultiTalent U-Net, fold": Sample(MultiTalentFormat, lambda folder: write_unet(folder) / "fold_0", unet),
    "MultiTalent ResEnc U-Net": Sample(MultiTalentFormat, write_resenc, resenc),
    "MultiTalent ResEnc U-Net, zip": Sample(MultiTalentFormat, lambda folder: packed(write_resenc(folder)), resenc),
    "nnU-Net v2": Sample(NnUNetV2Format, nnunet_v2_files.write, nnunet_v2_files.own_network),
    "3D U2-Net": Sample(U2NetFormat, u2net_files.write_heart, u2net_files.heart),
    "3D U2-Net, older layout": Sample(U2NetFormat, partial(u2net_files.write_heart, new=False), u2net_files.heart),
}
