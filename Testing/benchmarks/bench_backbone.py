"""The CPU engines against eager PyTorch and each other, on the published DoDNet backbone, in one run.

Every engine computes a few windows as a run does, freed memory kept in between, and so does eager
PyTorch as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from harness import Row, interleaved
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.inference.extractors import (
    Extractor,
    OpenVINOExtractor,
    TorchExtractor,
    make_extractor,
    openvino_installed,
)
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
    """Time the engines alternately with eager PyTorch and with each other, and compare their features."""
    torch.manual_seed(0)
    network = DoDNet(DoDNetParameters(), LabelSpace.named("mots")).eval()
    window = torch.randn(1, 1, *WINDOW)
    engines: list[Extractor] = [TorchExtractor(network, torch.device("cpu"))]
    if openvino_installed():
        engines.append(OpenVINOExtractor(network, WINDOW))
    chosen = type(make_extractor(network, WINDOW, torch.device("cpu")))
    rows = []
    with torch.inference_mode():
        reference = network.features(window)
        for engine in engines:
            name = f"{engine.name}{', which is chosen here' if isinstance(engine, chosen) else ''}"
            # With OpenVINO installed, what is chosen has to be the faster.
            bar = 1.8 if openvino_installed() and isinstance(engine, chosen) else 1.3
            error = float((engine(window).map - reference.map).abs().max() / reference.map.abs().max())
            mine, other = _paired(partial(windows, engine, window), partial(eager, network, window))
            text = f"{name}: speed to eager PyTorch"
            rows.append(Row.at_least(text, f"{mine:.2f} s", f"{other:.2f} s", other / mine, bar))
            rows.append(Row.at_most(f"{name}: relative error", f"{error:.1e}", "0", error, 1e-3))
        if len(engines) > 1:
            first, second = sorted(engines, key=lambda engine: not isinstance(engine, chosen))
            mine, other = _paired(partial(windows, first, window), partial(windows, second, window))
            text = f"{first.name} to {second.name}"
            rows.append(Row.at_least(text, f"{mine:.2f} s", f"{other:.2f} s", other / mine, 1.0))
    return rows


def _paired(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Return seconds a window of both."""
    mine, other = (seconds / COUNT for seconds in interleaved(first, second, 3))
    return mine, other


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
