"""The published sliding windows: mirrored copies, half overlap, probabilities blended as DoDNet and MultiTalent did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import vectors
from bundles import random_dodnet
from PartialSegLib.images import Geometry
from PartialSegLib.inference import passes
from PartialSegLib.inference.export import SlabExporter
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.planner import Plan
from PartialSegLib.inference.slabs import THRESHOLD
from PartialSegLib.inference.windows import WindowGrid, clamped_starts, radial, repeated_starts
from PartialSegLib.networks import DoDNet, DoDNetParameters, MultiTalentUNet
from PartialSegLib.networks.contract import PartialLabelNetwork
from PartialSegLib.networks.multitalent import UNetParameters
from PartialSegLib.preprocessing import NetworkGrid
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace

COLON = 4
MULTITALENT = LabelSpace.named("multitalent")


class Blended(NamedTuple):
    """What the engine made of a volume: (C, D, H, W) probabilities and masks."""

    probabilities: np.ndarray
    masks: np.ndarray


class Probabilities(SlabExporter):
    """Keeps the blended probabilities that the exporter only thresholds."""

    planes: list[Tensor]

    def take(self, ring, first, last):
        depth, height, width = self._grid.shape
        box = [slice(first, min(last, depth)), slice(0, height), slice(0, width)]
        Probabilities.planes.append(self._blended(ring, slice(None), box) + THRESHOLD)
        super().take(ring, first, last)


def blended(
    network: PartialLabelNetwork,
    volume: Tensor,
    windows: WindowGrid,
    structures: Sequence[str],
    mirror_axes: tuple[int, ...] = (0, 1, 2),
) -> Blended:
    """Run the engine, with mirrored copies of each window, on a volume that is its own image."""
    shape = windows.shape
    whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    grid = NetworkGrid(Geometry(shape), (0, 1, 2), (False, False, False), whole, shape)
    job = passes.Job(volume, grid, windows, tuple(structures), mirror_axes, False, "test")
    cpu = torch.device("cpu")
    Probabilities.planes = []
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(passes, "SlabExporter", Probabilities)
        outcome = passes.Passes(network, TorchExtractor(network, cpu), Plan(cpu, cpu), Monitor()).run(job)
    masks = np.zeros((len(structures), *shape), bool)
    for mask, key in zip(masks, structures, strict=True):
        mask[outcome.masks[key].box] = outcome.masks[key].unpack()
    return Blended(torch.cat(Probabilities.planes, dim=1).numpy(), masks)


def space_of_the_vector() -> LabelSpace:
    """Return MOTS with both channels of the colon task, as the vector has them."""
    document = LabelSpace.named("mots").to_json()
    document["tasks"][COLON]["channels"] = ["stomach", "colon_tumor"]
    return LabelSpace.from_json(document)


@pytest.fixture(scope="module")
def dodnet() -> Blended:
    shape, window = (40, 50, 70), (32, 32, 48)
    # The published code takes the stride along x from the window's height; its windows are square.
    along_z, along_y = (clamped_starts(shape[axis], window[axis], 0.5) for axis in (0, 1))
    windows = WindowGrid(shape, window, (along_z, along_y, [0, 16, 22]))
    network = DoDNet(DoDNetParameters(), space_of_the_vector()).eval()
    vectors.fill(network)
    return blended(network, vectors.seeded(2, shape).clamp(-1, 1), windows, ("stomach", "colon_tumor"))


@pytest.fixture(scope="module")
def multitalent() -> Blended:
    shape = (40, 64, 80)
    windows = WindowGrid.over(shape, (32, 64, 64), 0.5)
    structures = [key for task in MULTITALENT.tasks for key in task.structures]
    network = MultiTalentUNet(UNetParameters(), MULTITALENT).eval()
    vectors.fill(network)
    return blended(network, vectors.seeded(3, shape), windows, structures)


def test_blended_probabilities_are_those_of_dodnet(dodnet: Blended) -> None:
    published = vectors.arrays("sliding")["dodnet_probs_s2"][0]
    np.testing.assert_allclose(dodnet.probabilities[:, ::2, ::2, ::2], published, atol=2e-4)


def test_masks_are_those_of_dodnet_where_rounding_does_not_decide(dodnet: Blended) -> None:
    published = vectors.arrays("sliding")["dodnet_seg"][0]
    for probabilities, mask, expected in zip(dodnet.probabilities, dodnet.masks, published, strict=True):
        certain = np.abs(probabilities - THRESHOLD) > 2e-4
        assert certain.mean() > 0.99
        np.testing.assert_array_equal(mask[certain], expected[certain] == 1)


def test_blended_probabilities_are_those_of_multitalent(multitalent: Blended) -> None:
    published = vectors.arrays("sliding")["multitalent_probs_ch0_8_42_s2"]
    found = multitalent.probabilities[[0, 8, 42], ::2, ::2, ::2]
    np.testing.assert_allclose(found, published, atol=2e-4)


def test_all_masks_have_as_many_voxels_as_those_of_multitalent(multitalent: Blended) -> None:
    published = vectors.arrays("sliding")["multitalent_mask_sum_per_channel"]
    uncertain = (np.abs(multitalent.probabilities - THRESHOLD) <= 2e-4).sum(axis=(1, 2, 3))
    assert np.all(uncertain < 0.005 * multitalent.probabilities[0].size)
    assert np.all(np.abs(multitalent.masks.sum(axis=(1, 2, 3)) - published) <= uncertain)


def test_windows_that_3d_u2net_repeats_count_as_often() -> None:
    shape, window = (16, 20, 36), (16, 16, 16)
    network, volume = random_dodnet(), vectors.seeded(5, shape)
    total, weights = torch.zeros(shape), torch.zeros(shape)
    with torch.inference_mode():
        for z in repeated_starts(16, 16, 0.5):
            for y in repeated_starts(20, 16, 0.5):
                for x in repeated_starts(36, 16, 0.5):
                    part = slice(z, z + 16), slice(y, y + 16), slice(x, x + 16)
                    logits = network(volume[part][None, None], torch.tensor([0]))[0, 0]
                    total[part] += torch.from_numpy(radial(window)) * logits.sigmoid()
                    weights[part] += torch.from_numpy(radial(window))
    windows = WindowGrid.over(shape, window, 0.5, steps="repeated")
    found = blended(network, volume, windows, ("liver",), ())
    np.testing.assert_allclose(found.probabilities[0], total / weights, atol=1e-3)
