"""The section ``[optimization]`` of a recipe: how the weights are found.

Part of :mod:`PartialSegTraining.recipe`; carried out by the trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PartialSegTraining.tables import require


@dataclass(frozen=True)
class OptimizationRecipe:
    """How the weights are found.

    Parameters
    ----------
    total_steps : int
        Steps of the whole training; the learning rate reaches zero there.
    learning_rate : float
        Highest learning rate.
    optimizer : str
        ``adamw``, or ``sgd`` with Nesterov momentum.
    weight_decay : float
        On kernels only, not on biases and normalization.
    momentum : float
        Of ``sgd``; first decay rate of ``adamw``.
    head : tuple of str
        Beginnings of the names of the weights that make the head: those that learn alone at first.
    head_warmup_steps : int
        First steps, in which the head alone learns and its rate rises linearly from zero.
    head_learning_rate : float, optional
        Highest rate of these steps; `learning_rate` when not given.
    warmup_steps : int
        Steps after those, in which the rate of all weights rises linearly from zero.
    power : float
        Of the polynomial decay that follows.
    clip_norm : float
        Largest norm of the gradient; a longer one is shortened.
    accumulation : int
        Parts that the windows of a step are computed in, one after another, so that a large batch
        fits a small GPU. The loss of a step is the mean over its parts, so that a Dice that is
        pooled over the batch is pooled over a part.
    average : float
        Decay of the moving average of the weights, which is what the bundle holds; 0 for none.
    precision : str
        ``float32``, ``bfloat16`` or ``float16`` (with scaled gradients); a CPU computes in float32, or
        in bfloat16 where it has instructions for it.
    channels_last : bool
        Memory layout of the activations; which one is faster depends on GPU and network.
    compiled : bool
        Fuse the network with ``torch.compile`` (GPU only; the first step takes a minute).
    seed : int
        Decides the first weights, the windows and their augmentation.
    """

    total_steps: int
    learning_rate: float
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.9
    warmup_steps: int = 0
    power: float = 0.9
    clip_norm: float = 12.0
    average: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False
    seed: int = 0
    accumulation: int = 1
    head: tuple[str, ...] = ()
    head_warmup_steps: int = 0
    head_learning_rate: float | None = None

    OPTIMIZERS = ("adamw", "sgd")
    PRECISIONS = ("float32", "bfloat16", "float16")

    def __post_init__(self) -> None:
        require(self.total_steps >= 1, "total_steps", self.total_steps, "at least 1")
        require(0 <= self.warmup_steps <= self.total_steps, "warmup_steps", self.warmup_steps, "in 0 to total_steps")
        require(self.optimizer in self.OPTIMIZERS, "optimizer", self.optimizer, f"one of {self.OPTIMIZERS}")
        require(self.precision in self.PRECISIONS, "precision", self.precision, f"one of {self.PRECISIONS}")
        for name in ("learning_rate", "clip_norm", "power"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, value, "positive")
        for name in ("average", "momentum"):
            require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "in 0 to below 1")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.accumulation >= 1, "accumulation", self.accumulation, "at least 1")
        self._check_head()

    def _check_head(self) -> None:
        steps, rate = self.head_warmup_steps, self.head_learning_rate
        room = self.total_steps - self.warmup_steps
        require(0 <= steps <= room, "head_warmup_steps", steps, "in 0 to total_steps - warmup_steps")
        require(rate is None or (math.isfinite(rate) and rate > 0), "head_learning_rate", rate, "positive")
        if steps and not self.head:
            raise ValueError("'head_warmup_steps' needs 'head', the weights that learn alone in them")
