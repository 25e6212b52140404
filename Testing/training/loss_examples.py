"""Batches with partly annotated samples, and outputs of networks for them, for the tests of the losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses import UNKNOWN, ReduceSums, SegmentationLoss, make_loss

SHAPE = (4, 6, 5)

#: Samples of a batch: task, and the structures that the case annotates of it.
SAMPLES: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "mots": [
        ("liver", ("liver", "liver_tumor")),
        ("liver", ("liver",)),
        ("kidney", ("kidney_tumor",)),
        ("hepatic_vessel", ("hepatic_vessels", "hepatic_vessel_tumor")),
        ("colon", ("colon_tumor",)),
        ("spleen", ("spleen",)),
    ],
    "kits21": [
        ("kits21", ("kidneys", "kidney_tumor", "kidney_cyst")),
        ("kits21", ("kidneys", "kidney_tumor")),
        ("kits21", ("kidney_tumor", "kidney_cyst")),
    ],
}


@dataclass(frozen=True)
class Variant:
    """A loss with some parameters, in a label space."""

    name: str
    space: str = "mots"
    parameters: dict[str, Any] = field(default_factory=dict)

    def build(self, reduce_sums: ReduceSums | None = None, **more: Any) -> SegmentationLoss:
        return make_loss(self.name, {**self.parameters, **more}, self.label_space, reduce_sums=reduce_sums)

    @property
    def label_space(self) -> LabelSpace:
        return LabelSpace.named(self.space)

    @property
    def class_keys(self) -> str:
        """What the classes of an exclusive loss are."""
        default = "space" if self.name in ("target-adaptive", "marginal-exclusion") else "task"
        return self.parameters.get("classes", default)

    @property
    def merges(self) -> bool:
        """Whether unannotated classes are merged."""
        return self.class_keys == "space" and "unannotated" not in self.parameters


VARIANTS = {
    "dodnet": Variant("dodnet"),
    "dodnet with more cross-entropy": Variant("dodnet", parameters={"bce_weight": 25.0}),
    "multitalent": Variant("multitalent"),
    "multitalent as released": Variant("multitalent", parameters={"pooling": "sample"}),
    "dice-ce": Variant("dice-ce"),
    "dice-ce pooled": Variant("dice-ce", parameters={"pooled": True}),
    "dice-ce of all structures": Variant("dice-ce", parameters={"classes": "space", "unannotated": "ignore"}),
    "hierarchical": Variant("hierarchical", "kits21"),
    "lovasz-focal": Variant("lovasz-focal"),
    "target-adaptive": Variant("target-adaptive"),
    "marginal-exclusion": Variant("marginal-exclusion"),
}


def batch(space: str, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    """The targets (N, C, D, H, W) and tasks (N,) of :data:`SAMPLES`; later channels lie in earlier ones."""
    labels, rng = LabelSpace.named(space), np.random.default_rng(seed)
    width = max(len(task.channels) for task in labels.tasks)
    target = np.full((len(SAMPLES[space]), width, *shape), UNKNOWN, np.float32)
    for sample, (name, annotated) in enumerate(SAMPLES[space]):
        inside = np.ones(shape, bool)
        for channel, key in enumerate(labels.task(name).channels):
            inside = inside & (rng.random(shape) < 0.6)
            if key in annotated:
                target[sample, channel] = inside
    return torch.from_numpy(target), torch.tensor([labels.task_index(name) for name, _ in SAMPLES[space]])


def random_outputs(loss: SegmentationLoss, target: Tensor, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits (N, K, D, H, W) of a network that knows nothing."""
    shape = (len(target), loss.channels, *target.shape[2:])
    return (2 * torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))).to(dtype)


def perfect_outputs(variant: Variant, target: Tensor, task: Tensor) -> Tensor:
    """Logits (N, K, D, H, W) of a network that knows everything: 30 for what is, -30 for what is not."""
    loss = variant.build()
    truth = torch.zeros(len(target), loss.channels, *target.shape[2:])
    for sample, index in enumerate(task.tolist()):
        if not loss.exclusive:
            truth[sample] = (target[sample] == 1).float()
            continue
        classes = torch.zeros(target.shape[2:], dtype=torch.int64)
        for channel, key in enumerate(variant.label_space.tasks[index].channels):
            if key is not None:
                classes[target[sample, channel] == 1] = class_of(variant, key, channel)
        truth[sample] = torch.nn.functional.one_hot(classes, loss.channels).permute(3, 0, 1, 2)
    return 60 * truth - 30


def class_of(variant: Variant, key: str, channel: int) -> int:
    """The class of a structure, which is a channel of its task."""
    if variant.class_keys == "space":
        return variant.label_space.select().index(key) + 1
    return channel + 1


def unannotated_outputs(variant: Variant) -> list[tuple[int, int]]:
    """Which (sample, output channel) belong to structures that the sample does not annotate."""
    space, loss = variant.label_space, variant.build()
    found = []
    for sample, (name, annotated) in enumerate(SAMPLES[variant.space]):
        channels = space.task(name).channels
        if not loss.exclusive:
            found += [(sample, at) for at, key in enumerate(channels) if key not in annotated]
        elif variant.class_keys == "space":
            found += [(sample, at) for at, key in enumerate(space.select(), 1) if key not in annotated]
        else:
            named = [(at, key) for at, key in enumerate(channels, 1) if key is not None]
            found += [(sample, at) for at, key in named if key not in annotated]
    return found
