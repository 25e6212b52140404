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
    own = TorchExtractor(network, torch.device("cpu"))
    engines: list[tuple[str, Extractor, float]] = [("without OpenVINO", own, 1.3)]
    if openvino_installed():
        chosen = make_extractor(network, WINDOW, torch.device("cpu"))
        engines.append((f"with OpenVINO installed, which makes it {chosen.name}", chosen, 1.8))
    rows = []
    with torch.inference_mode():
        reference = network.features(window)
        for name, engine, bar in engines:
            error = _error(engine, window, reference.map)
            mine, other = _paired(partial(windows, engine, window), partial(eager, network, window))
            text = f"{name}: speed to eager PyTorch"
            rows.append(Row.at_least(text, f"{mine:.2f} s", f"{other:.2f} s", other / mine, bar))
            rows.append(Row.at_most(f"{name}: relative error", f"{error:.1e}", "0", error, 1e-3))
        if openvino_installed():
            theirs = OpenVINOExtractor(network, WINDOW)
            error = _error(theirs, window, reference.map)
            rows.append(Row.at_most("OpenVINO float32: relative error", f"{error:.1e}", "0", error, 1e-3))
            mine, other = _paired(partial(windows, own, window), partial(windows, theirs, window))
            first, second = (mine, other) if isinstance(chosen, TorchExtractor) else (other, mine)
            text = "the engine that is chosen here: speed to the other one"
            rows.append(Row.at_least(text, f"{first:.2f} s", f"{second:.2f} s", second / first, 1.0))
    return rows


def _paired(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Return seconds a window of both."""
    mine, other = (seconds / COUNT for seconds in interleaved(first, second, 3))
    return mine, other


def _error(engine: Extractor, window: torch.Tensor, reference: torch.Tensor) -> float:
    return float((engine(window).map - reference).abs().max() / reference.abs().max())


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
