"""The paper's sliding window: 8 mirrored copies, half overlap, probabilities blended as DoDNet's evaluation does."""

import numpy as np
import pytest
import torch

import vectors
from PartialSegLib.images import Geometry
from PartialSegLib.inference import passes
from PartialSegLib.inference.export import SlabExporter
from PartialSegLib.inference.extractors import TorchExtractor
from PartialSegLib.inference.planner import Plan
from PartialSegLib.inference.slabs import THRESHOLD
from PartialSegLib.inference.windows import WindowGrid, clamped_starts
from PartialSegLib.networks import DoDNet, DoDNetParameters
from PartialSegLib.preprocessing import NetworkGrid
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace

SHAPE, WINDOW, TASK = (40, 50, 70), (32, 32, 48), 4


class Probabilities(SlabExporter):
    """Keeps the blended probabilities that the exporter only thresholds."""

    planes: list[torch.Tensor]

    def take(self, ring, first, last):
        box = [slice(first, min(last, SHAPE[0])), slice(0, SHAPE[1]), slice(0, SHAPE[2])]
        Probabilities.planes.append(self._blended(ring, slice(None), box) + THRESHOLD)
        super().take(ring, first, last)


def space_of_the_vector() -> LabelSpace:
    """Return MOTS with both channels of the colon task, as the vector has them."""
    document = LabelSpace.named("mots").to_json()
    document["tasks"][TASK]["channels"] = ["stomach", "colon_tumor"]
    return LabelSpace.from_json(document)


@pytest.fixture(scope="module")
def result():
    network = DoDNet(DoDNetParameters(), space_of_the_vector()).eval()
    vectors.fill(network)
    volume = vectors.seeded(2, SHAPE).clamp(-1, 1)
    whole = tuple(slice(0, size) for size in SHAPE)
    grid = NetworkGrid(Geometry(SHAPE), (0, 1, 2), (False, False, False), whole, SHAPE)
    # The published code takes the stride along x from the window's height; its windows are square.
    along_z, along_y = (clamped_starts(SHAPE[axis], WINDOW[axis], 0.5) for axis in (0, 1))
    windows = WindowGrid(SHAPE, WINDOW, (along_z, along_y, [0, 16, 22]))
    job = passes.Job(volume, grid, windows, ("stomach", "colon_tumor"), (0, 1, 2), False, "test")
    cpu = torch.device("cpu")
    Probabilities.planes = []
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(passes, "SlabExporter", Probabilities)
        outcome = passes.Passes(network, TorchExtractor(network, cpu), Plan(cpu, cpu), Monitor()).run(job)
    return torch.cat(Probabilities.planes, dim=1).numpy(), outcome.masks


def test_blended_probabilities_are_the_published_ones(result):
    published = vectors.arrays("sliding")["dodnet_probs_s2"][0]
    np.testing.assert_allclose(result[0][:, ::2, ::2, ::2], published, atol=2e-4)


def test_masks_are_the_published_ones_where_rounding_does_not_decide(result):
    probabilities, masks = result
    published = vectors.arrays("sliding")["dodnet_seg"][0]
    for channel, key in enumerate(("stomach", "colon_tumor")):
        mask = np.zeros(SHAPE, bool)
        mask[masks[key].box] = masks[key].unpack()
        certain = np.abs(probabilities[channel] - THRESHOLD) > 2e-4
        assert certain.mean() > 0.99
        np.testing.assert_array_equal(mask[certain], published[channel][certain] == 1)
