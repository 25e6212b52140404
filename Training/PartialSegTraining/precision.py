"""In which floating-point precision a network is trained; called by the trainer and its validation."""

from __future__ import annotations

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context that a network runs in.

    Parameters
    ----------
    precision : str
        ``float32``, ``bfloat16`` or ``float16``; the last two hold on a GPU only, because most CPUs
        compute them more slowly than float32.
    device : torch.device
        Of the network.
    """
    dtype = _DTYPES[precision]
    reduced = device.type == "cuda" and dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if reduced else torch.bfloat16, enabled=reduced)
