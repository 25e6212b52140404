"""Sampled columns of random numbers that fit a head, for tests that look at nothing but weights."""

from __future__ import annotations

import torch

from PartialSegLib.networks import DoDNet
from PartialSegTraining.finetuning.columns import Columns, SampledCase
from PartialSegTraining.finetuning.heads import TaskHead


def random_case(head: TaskHead, keys: tuple[str, ...], voxels: int = 64) -> SampledCase:
    """Return a case of two windows for a head; the first column decides where its structures are."""
    generator = torch.Generator().manual_seed(5)
    network = head.network
    with torch.inference_mode():
        features = network.features(torch.zeros(1, 1, 16, 16, 32), torch.tensor([head.task]))
    width = features.map.shape[1]
    if head.taps:
        assert isinstance(network, DoDNet)
        width = sum(network.tap_channels)
    windows = []
    for _ in range(2):
        values = torch.randn(voxels, width, generator=generator)
        inside = (values[:, :1] > 0.5).expand(-1, len(keys)).contiguous()
        pooled = torch.rand(features.pooled.shape[1], generator=generator)
        windows.append(Columns(values.half(), pooled, inside, torch.ones(voxels)))
    return SampledCase("random", keys, tuple(windows))
