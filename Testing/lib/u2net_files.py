"""Training checkpoints of 3D U2-Net, as the released code writes them: program objects around small random weights.

The network in them is an object of a class whose module is gone when they are read. Used by the tests
of ``partialseg import``.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from PartialSegLib.networks.u2net import U2Net, U2NetParameters
from PartialSegLib.structures import LabelSpace

SIX = LabelSpace.named("u2net")
FIVE = replace(SIX, tasks=SIX.tasks[:5])
HEART = replace(SIX, tasks=SIX.tasks[:1])
MODALITIES = (1, 1, 1, 2, 1)
SMALL = U2NetParameters(modalities=MODALITIES, channels=4, halvings=(3, 3, 3))
#: Name of a file of the five tasks of the paper.
NAME = "universal_Task02_Heart_Task03_Liver_Task04_Hippocampus_Task05_Prostate_Task07_Pancreas_epoch300_190701.pth.tar"
HEART_NAME = "independent_Task02_Heart_epoch120_190701.pth.tar"
#: The module of the released network, which nobody has who only reads its files.
MODULE = "u2net3d_of_the_authors"
_SOURCE = """\
from torch import nn


class u2net3d(nn.Module):
    def __init__(self, parts):
        super().__init__()
        for name, part in parts:
            self.add_module(name, part)
"""


def small(variant: str = "universal", label_space: LabelSpace = FIVE, decoder_kernel: int = 1) -> U2Net:
    """Return a small network whose weights are neither zero nor equal, and the same at every call."""
    modalities = MODALITIES[: len(label_space.tasks)]
    parameters = replace(SMALL, variant=variant, modalities=modalities, decoder_kernel=decoder_kernel)
    torch.manual_seed(0)
    network = U2Net(parameters, label_space).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


@contextmanager
def authors_code(folder: Path) -> Iterator[Any]:
    """Have the module of the network for a while."""
    (folder / f"{MODULE}.py").write_text(_SOURCE)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(MODULE)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[MODULE]
        (folder / f"{MODULE}.py").unlink()


def write_checkpoint(file: Path, network: nn.Module, *, new: bool = True, **changed: Any) -> Path:
    """Write a checkpoint as ``train.py`` does, in the zip layout (`new`) or the older one; replace entries."""
    with authors_code(file.parent) as code:
        model = nn.DataParallel(code.u2net3d(network.named_children()))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=5e-4)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        optimizer.step()  # so that it holds its moments
        model.load_state_dict(before)
        content: dict[str, Any] = {
            "epoch": 300,
            "model": model,
            "model_state_dict": model.state_dict(),
            "optimizer": optimizer,
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": np.float64(0.25),
            "trLoss_queue": deque([0.5, 0.25], maxlen=20),
            "last_trLoss_ma": np.mean([0.5, 0.25]),
        }
        torch.save(content | changed, file, _use_new_zipfile_serialization=new)
    return file


def heart() -> U2Net:
    """Return an independent network of one domain."""
    return small("shared", HEART)


def write_heart(folder: Path, *, new: bool = True) -> Path:
    """Write the checkpoint of :func:`heart`."""
    return write_checkpoint(folder / HEART_NAME, heart(), new=new)
