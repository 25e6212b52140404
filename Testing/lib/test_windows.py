"""Window positions and weights, against the published implementations."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from PartialSegLib.inference.windows import (
    WindowGrid,
    clamped_starts,
    even_starts,
    gaussian,
    radial,
    repeated_starts,
)

VECTORS = Path(__file__).parents[1] / "data" / "vectors"


def test_gaussian_weight_is_the_published_one():
    published = np.load(VECTORS / "sliding.npz")["gauss_64_192_192_s8"]
    z, y, x = gaussian(64), gaussian(192), gaussian(192)
    ours = z[::8, None, None] * y[::24, None] * x[::24]
    np.testing.assert_allclose(ours, published, atol=1e-7)


def test_even_windows_are_those_of_nnunet():
    expected = json.loads((VECTORS / "sliding.json").read_text())["nnunet_steps_for_patch_96_192_192_image_188_411_411"]
    starts = [even_starts(length, window, 0.5) for length, window in ((188, 96), (411, 192), (411, 192))]
    assert starts == expected


def test_clamped_windows_step_by_a_stride_and_end_at_the_border():
    assert clamped_starts(70, 48, 0.5) == [0, 22]
    assert clamped_starts(432, 64, 0.5)[-2:] == [352, 368]
    assert clamped_starts(512, 192, 0.5) == [0, 96, 192, 288, 320]


def test_radial_weight_is_that_of_3d_u2net():
    published = np.load(VECTORS / "sliding.npz")["u2net_patch_weights_16_20_24"]
    np.testing.assert_allclose(radial((16, 20, 24)), published, atol=1e-6)


def test_repeated_windows_are_those_of_3d_u2net():
    published = json.loads((VECTORS / "sliding.json").read_text())["u2net_centres_patch128_by_axis_length"]
    for length, centers in published.items():
        assert [start + 64 for start in repeated_starts(int(length), 128, 0.5)] == centers


def test_a_repeated_window_counts_several_times_but_is_computed_once():
    grid = WindowGrid.over((16, 20, 36), (16, 16, 16), 0.5, steps="repeated")
    assert grid.starts == ([0], [0, 4], [0, 8, 16, 20])
    assert grid.count((0, 4, 20)) == 2 * 2 * 2
    assert grid.count((0, 0, 8)) == 2
    counted = np.zeros(grid.shape)
    for z in repeated_starts(16, 16, 0.5):
        for y in repeated_starts(20, 16, 0.5):
            for x in repeated_starts(36, 16, 0.5):
                counted[z : z + 16, y : y + 16, x : x + 16] += radial((16, 16, 16))
    box = slice(3, 11), slice(2, 20), slice(5, 30)
    (total,) = grid.sum_of_weights(*box)
    np.testing.assert_allclose(total, counted[box], rtol=1e-6)


@pytest.mark.parametrize("place", [even_starts, clamped_starts])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_windows_cover_every_voxel_with_at_least_the_overlap(place, overlap):
    rng = np.random.default_rng(11)
    for length in rng.integers(1, 300, 40):
        starts = place(int(length), 48, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - 48)
        assert all(after - before <= np.ceil(48 * (1 - overlap)) for before, after in pairwise(starts))


def test_weight_sums_factorise_over_the_axes():
    grid = WindowGrid.over((40, 61, 50), (32, 32, 48), 0.5)
    counted = np.zeros(grid.shape)
    z, y, x = grid.weights
    weight = z[:, None, None] * y[:, None] * x
    for _, starts in grid.rows():
        for a, b, c in starts:
            counted[a : a + 32, b : b + 32, c : c + 48] += weight
    sums = grid.weight_sums
    product = sums[0][:, None, None] * sums[1][:, None] * sums[2]
    np.testing.assert_allclose(product, counted, rtol=1e-5)
    box = slice(7, 30), slice(0, 61), slice(10, 50)
    np.testing.assert_allclose(
        np.prod(np.broadcast_arrays(*grid.sum_of_weights(*box)), axis=0), counted[box], rtol=1e-5
    )


def test_volume_smaller_than_a_window_is_padded_to_one_window():
    grid = WindowGrid.over((3, 100, 2), (32, 48, 48), 0.5)
    assert grid.shape == (32, 100, 48)
    assert len(grid) == len(grid.starts[1])
