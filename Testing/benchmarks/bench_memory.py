"""Peak memory of a run: does it grow with the length of the scan, and is it what was forecast?

Every scan is segmented in a fresh process with a random DoDNet. What the image itself, its
resampled copy and the packed result take is set aside, as it has to grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from bundles import TWO_MM, random_predictor
from harness import Row, in_child
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import extractors
from PartialSegLib.networks import DoDNetParameters

#: Small enough for hundreds of windows, large enough that the network's memory counts.
NETWORK = DoDNetParameters(channels=(8, 16, 32, 32, 32), blocks=(1, 1, 1, 1, 1), groups=8)
WINDOW = (64, 96, 96)
IN_PLANE = 256
#: A quarter overlap; without a coarse spacing it computes the whole scan once.
PRESET = "fast"
MIB = 2**20


def scan(slices: int) -> Image:
    """Return a smooth random scan at the model's spacing; the whole of it is segmented."""
    rng = np.random.default_rng(slices)
    tile = ndimage.gaussian_filter(rng.standard_normal((40, IN_PLANE, IN_PLANE)), 3, mode="wrap") * 5000
    voxels = np.tile(tile.astype(np.int16), (-(-slices // 40), 1, 1))[:slices]
    return Image(voxels, Geometry(voxels.shape, (2.0, 2.0, 2.0)))


def segment(mark: Callable[[], None], slices: int, openvino: bool) -> dict[str, int]:
    """Segment a scan and return its forecast and what is set aside, in bytes."""
    extractors.made_by_intel = lambda: openvino  # this process only; OpenVINO is chosen for Intel's processors
    predictor = random_predictor(NETWORK, WINDOW, replace(TWO_MM, body_threshold=None, coarse_spacing=None))
    image = scan(slices)
    # Libraries are loaded and the engine is compiled before the count starts.
    predictor.segment(scan(8), preset=PRESET)
    expected = predictor.forecast(image, preset=PRESET).host_bytes
    mark()
    result = predictor.segment(image, preset=PRESET)
    return {"forecast": expected, "aside": image.voxels.size * 4 + result.segmentation.nbytes}


def run() -> list[Row]:
    """Compare 200 with 600 slices, and the forecast with what was measured for both engines."""
    rows = []
    for engine in ("PyTorch", "OpenVINO") if extractors.openvino_installed() else ("PyTorch",):
        (short, short_peak), (long, long_peak) = (in_child(segment, n, engine == "OpenVINO") for n in (200, 600))
        mine, other = long_peak - long["aside"], short_peak - short["aside"]
        name = f"{engine}: peak memory of 600 slices to 200, image and result aside"
        rows.append(Row.at_most(name, f"{mine / MIB:.0f} MiB", f"{other / MIB:.0f} MiB", mine / other, 1.1))
        for slices, measured, values in ((200, short_peak, short), (600, long_peak, long)):
            off = abs(values["forecast"] / measured - 1)
            name = f"{engine}: forecast of {slices} slices to the measured peak, relative error"
            text = f"{values['forecast'] / MIB:.0f} MiB"
            rows.append(Row.at_most(name, text, f"{measured / MIB:.0f} MiB", off, 0.15))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
