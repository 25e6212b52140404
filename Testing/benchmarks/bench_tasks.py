"""Encode once, ask many times: the cost of more tasks, with the published DoDNet.

Seven tasks are compared with one on the same scan, and 24 heads with the backbone on one window.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bundles import random_predictor
from harness import Row, interleaved, seconds
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference.extractors import make_extractor
from PartialSegLib.inference.heads import logit_source, select_channels
from PartialSegLib.inference.slabs import SlabRing
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.networks import DoDNet, DoDNetParameters
from PartialSegLib.structures import LabelSpace

WINDOW = (64, 96, 96)
CPU = torch.device("cpu")


def many_tasks(count: int) -> LabelSpace:
    """Return a label space of `count` tasks with two structures each."""
    kind = LabelSpace.named("mots").structures[0]
    keys = [(f"task{index}", f"organ{index}", f"tumor{index}") for index in range(count)]
    tasks = [{"key": task, "name": task, "channels": [organ, tumor]} for task, organ, tumor in keys]
    structures = [replace(kind, key=key).to_json() for _, *pair in keys for key in pair]
    return LabelSpace.from_json({"name": "many", "tasks": tasks, "structures": structures})


def seven_to_one() -> Row:
    """Time the whole run, reading and writing aside."""
    predictor = random_predictor(DoDNetParameters(), WINDOW, Preprocessing((2, 2, 2), (-400, 400), 0, 400))
    voxels = np.random.default_rng(3).integers(-200, 200, (96, 144, 144)).astype(np.int16)
    image = Image(voxels, Geometry(voxels.shape, (2.0, 2.0, 2.0)))
    predictor.segment(image, ["spleen"])
    seven, one = interleaved(lambda: predictor.segment(image), lambda: predictor.segment(image, ["liver"]), 6)
    return Row.at_most("seven tasks to one task, same scan", f"{seven:.1f} s", f"{one:.1f} s", seven / one, 1.10)


def heads_to_backbone() -> Row:
    """Time 24 heads (blending included) and the backbone on one window."""
    torch.manual_seed(0)
    label_space = many_tasks(24)
    network = DoDNet(DoDNetParameters(), label_space).eval()
    extractor = make_extractor(network, WINDOW, CPU)
    window = torch.randn(1, 1, *WINDOW)
    features = extractor(window)
    structures = label_space.select()
    selections = select_channels(label_space, structures)
    ring = SlabRing(len(structures), WindowGrid.over(WINDOW, WINDOW, 0.5), CPU)
    with torch.inference_mode():
        backbone = seconds(lambda: extractor(window), 3)
        heads = seconds(lambda: ring.add((0, 0, 0), logit_source(network, features, selections)), 5)
    name = "24 heads (48 structures), blending included, to the backbone"
    return Row.at_most(name, f"{heads:.3f} s", f"{backbone:.2f} s", heads / backbone, 0.10)


def run() -> list[Row]:
    """Measure both."""
    return [seven_to_one(), heads_to_backbone()]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
