"""Sliding-window inference with bounded memory: encode once, then every chosen task.

The door is :class:`Predictor`. Windows (``windows``), the heads (``heads``), the accumulator
(``slabs``), the way back to the image (``export``), the engines (``extractors``) and the forecast
(``planner``) are its rooms. The door opens lazily, because the presets are needed without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PartialSegLib.inference.predictor import Predictor, Result

__all__ = ["Predictor", "Result"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from PartialSegLib.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
