"""Reference vectors: numbers that published implementations produced, under ``data/vectors``.

``NAME.npz`` holds the arrays; ``NAME.json`` says which public source they come from, of which input,
and [sum, sum of magnitudes] of some weights. Networks are filled by a rule instead of published
weights: every weight follows from its name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "data" / "vectors"


def arrays(name: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of ``NAME.npz``."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def facts(name: str) -> dict[str, Any]:
    """Return the document ``NAME.json``."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def filled(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return the float32 values of the weight `name`.

    They are normal, seeded by the name: scaled to unit gain where there is more than one axis, around
    1 where it ends in ``weight`` (a norm's gain), around 0 otherwise (a bias).
    """
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) > 1:
        noise /= np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        noise = 1 + 0.1 * noise
    else:
        noise *= 0.1
    return noise.astype(np.float32)


def fill(network: nn.Module) -> None:
    """Give a network the weights of the rule."""
    network.load_state_dict(
        {name: torch.from_numpy(filled(name, weight.shape)) for name, weight in network.state_dict().items()}
    )


def seeded(seed: int, shape: Sequence[int]) -> Tensor:
    """Return the float32 input of a vector."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32))
