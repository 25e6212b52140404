"""What changes with the step: the learning rate and the memory of the weight average.

Both are functions of the step alone, so a resumed training needs nothing but its step. Called by
the trainer.
"""

from __future__ import annotations


def learning_rate(step: int, *, peak: float, total_steps: int, warmup_steps: int = 0, power: float = 0.9) -> float:
    """Return the learning rate of a step: linear warm-up, then polynomial decay to zero.

    After the warm-up it is ``peak * (1 - t)^power``, as in DoDNet and nnU-Net, where t goes from 0
    to 1 over the rest of the training.

    Parameters
    ----------
    step : int
        Counted from 0.
    peak : float
        Highest value, reached when the warm-up ends.
    total_steps, warmup_steps : int
        Steps of the training, and of the warm-up in it.
    power : float
        Of the decay.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    rest = max(1, total_steps - warmup_steps)
    return peak * max(0.0, 1.0 - (step - warmup_steps) / rest) ** power


def averaging_decay(step: int, limit: float) -> float:
    """Return how much of the weight average is kept at a step: short memory at first, then `limit`.

    ``min(limit, (1 + step) / (10 + step))``, so that the random first weights are soon forgotten.
    """
    return min(limit, (1.0 + step) / (10.0 + step))
