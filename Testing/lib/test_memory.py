"""Peak memory of a run, measured in a process of its own: it does not grow with the scan, and is as forecast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from PartialSegLib.inference.extractors import openvino_installed

#: Bytes. The 560 further slices would take 100 MB in float32 for 11 structures: what grows is still seen.
NOISE = 32 * 2**20

SCRIPT = """
import json, sys
from dataclasses import replace
import numpy as np
from scipy import ndimage
from bundles import TINY, TWO_MM, random_predictor
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import extractors
from PartialSegLib.inference.allocation import give_back

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def scan(slices, side=64):
    rng = np.random.default_rng(0)
    tile = ndimage.gaussian_filter(rng.standard_normal((20, side, side)), 3, mode="wrap") * 5000
    voxels = np.tile(tile.astype(np.int16), (slices // 20, 1, 1))
    return Image(voxels, Geometry(voxels.shape, (2.0, 2.0, 2.0)))

def measured(predictor, image):
    expected = predictor.forecast(image, preset="fast").host_bytes
    give_back()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    predictor.segment(image, preset="fast")
    peak = status("VmHWM") - before
    # The resampled image, and masks of 11 structures that fill it until rules mend them.
    return {"peak": peak, "forecast": expected, "aside": image.voxels.size * 4 + 11 * image.voxels.size // 8}

# OpenVINO is chosen for Intel's processors alone.
extractors.made_by_intel = lambda: sys.argv[1] == "OpenVINO"
recipe = replace(TWO_MM, body_threshold=None, coarse_spacing=None)
predictor = random_predictor(TINY, (64, 64, 64), recipe)
predictor.segment(scan(20), preset="fast")
print(json.dumps([measured(predictor, scan(slices)) for slices in (280, 840)]))
"""


def measure(engine: str) -> list[dict[str, int]]:
    """Segment a scan of 280 slices and one of 840; bytes."""
    roots = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {roots!r}\n{SCRIPT}", engine],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return json.loads(ended.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells and forgets the peak")
@pytest.mark.parametrize("engine", ["PyTorch", "OpenVINO"])
def test_three_times_the_slices_take_no_more_memory_but_for_image_and_result(engine: str) -> None:
    if engine == "OpenVINO" and not openvino_installed():
        pytest.skip("OpenVINO is not installed")
    short, long = measure(engine)
    # What the libraries keep for themselves varies by some megabytes from run to run, which is much of so small a run.
    assert long["peak"] - long["aside"] <= 1.15 * (short["peak"] - short["aside"]) + NOISE
    for scan in (short, long):
        assert scan["forecast"] == pytest.approx(scan["peak"], rel=0.2, abs=NOISE)
