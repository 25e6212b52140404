"""What changes with the step: the learning rates and the memory of the weight average.

All are functions of the step alone, so a resumed training needs nothing but its step. Called by
the trainer.
"""

from __future__ import annotations

from typing import NamedTuple

from PartialSegTraining.optimizationrecipe import OptimizationRecipe


class Rates(NamedTuple):
    """Learning rates of a step.

    Parameters
    ----------
    body : float
        Of all weights but the head's; 0 while the head learns alone.
    head : float
        Of the weights that the recipe names as ``head``.
    """

    body: float
    head: float


def rates(step: int, plan: OptimizationRecipe) -> Rates:
    """Return the learning rates of a step: head warm-up, warm-up of all weights, polynomial decay.

    With all three it is the schedule that MultiTalent is fine-tuned with (Kumar et al., 2022): first
    the new head alone, so that its random start does not spoil the features, then everything.

    Parameters
    ----------
    step : int
        Counted from 0.
    plan : OptimizationRecipe
        Lengths and heights of the three.
    """
    alone = plan.head_warmup_steps
    if step < alone:
        return Rates(0.0, (plan.head_learning_rate or plan.learning_rate) * (step + 1) / alone)
    rate = learning_rate(
        step - alone,
        peak=plan.learning_rate,
        total_steps=plan.total_steps - alone,
        warmup_steps=plan.warmup_steps,
        power=plan.power,
    )
    return Rates(rate, rate)


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
