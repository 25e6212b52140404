"""The CPU engines against eager PyTorch, on the published DoDNet backbone, in one run.

Every engine computes a few windows as a run does, freed memory kept in between, and so does eager
PyTorch as it comes.
"""

from __future__ import annotations

import torch

from harness import Row, interleaved
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.inference.extractors import Extractor, OpenVINOExtractor, TorchExtractor, openvino_installed
from PartialSegLib.networks import DoDNet, DoDNetParameters
from PartialSegLib.structures import LabelSpace

#: The published window.
WINDOW = (64, 192, 192)
#: Windows of one measurement.
COUNT = 2


def windows(engine: Extractor, window: torch.Tensor) -> None:
    """Compute some windows as the predictor does on the CPU."""
    with kept_memory(torch.device("cpu")):
        for _ in range(COUNT):
            engine(window)


def eager(network: DoDNet, window: torch.Tensor) -> None:
    """Compute as many windows in eager PyTorch."""
    for _ in range(COUNT):
        network.features(window)


def run() -> list[Row]:
    """Time every engine alternately with eager PyTorch and compare their features."""
    torch.manual_seed(0)
    network = DoDNet(DoDNetParameters(), LabelSpace.named("mots")).eval()
    window = torch.randn(1, 1, *WINDOW)
    engines = [("PyTorch, folded and channels-last", TorchExtractor(network, torch.device("cpu")), 1.3)]
    if openvino_installed():
        engines.append(("OpenVINO", OpenVINOExtractor(network, WINDOW), 1.8))
    rows = []
    with torch.inference_mode():
        reference = network.features(window)
        for name, engine, bar in engines:
            features = engine(window)
            error = float((features.map - reference.map).abs().max() / reference.map.abs().max())
            pair = interleaved(lambda engine=engine: windows(engine, window), lambda: eager(network, window), 3)
            mine, other = (seconds / COUNT for seconds in pair)
            rows.append(
                Row.at_least(f"{name}: speed to eager PyTorch", f"{mine:.2f} s", f"{other:.2f} s", other / mine, bar)
            )
            rows.append(Row.at_most(f"{name}: relative error", f"{error:.1e}", "0", error, 1e-3))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
