"""The CPU engines against eager PyTorch, on the published DoDNet backbone, in one run."""

from __future__ import annotations

import torch

from harness import Row, interleaved
from PartialSegLib.inference.extractors import OpenVINOExtractor, TorchExtractor, openvino_installed
from PartialSegLib.networks import DoDNet, DoDNetParameters
from PartialSegLib.structures import LabelSpace

WINDOW = (64, 96, 96)


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
            mine, eager = interleaved(lambda engine=engine: engine(window), lambda: network.features(window), 4)
            rows.append(
                Row.at_least(f"{name}: speed to eager PyTorch", f"{mine:.2f} s", f"{eager:.2f} s", eager / mine, bar)
            )
            rows.append(Row.at_most(f"{name}: relative error", f"{error:.1e}", "0", error, 1e-3))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
