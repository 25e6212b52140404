"""In which floating-point precision a network is trained; called by the trainer and its validation."""

from __future__ import annotations

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context that a network runs in.

    Parameters
    ----------
    precision : str
        ``float32``, ``bfloat16`` or ``float16``. ``bfloat16`` holds on a GPU and on a CPU that has
        instructions for it, ``float16`` on a GPU only; elsewhere they are slower than float32, which
        is then used.
    device : torch.device
        Of the network.
    """
    dtype = _DTYPES[precision]
    if device.type == "cpu":
        reduced = dtype == torch.bfloat16 and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    else:
        reduced = device.type == "cuda" and dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if reduced else torch.bfloat16, enabled=reduced)
