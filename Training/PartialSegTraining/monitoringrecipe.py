"""The section ``[monitoring]`` of a recipe: what is written down while training, and when it ends early.

Part of :mod:`PartialSegTraining.recipe`; carried out by the trainer's loop. But for the cases that are
held out, nothing of it changes what is learnt in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from PartialSegTraining.tables import require


@dataclass(frozen=True)
class MonitoringRecipe:
    """What is written down while training runs.

    Parameters
    ----------
    log_every, checkpoint_every, validate_every : int
        Steps between two lines of the log, two checkpoints and two validations.
    checkpoint_minutes : float
        A checkpoint is written after this time too: a crash never costs more.
    validation_cases : int
        Cases of each task that are held out to watch the training with; they are not trained on. A
        collection that names its held-out cases is taken at its word.
    validation_windows : int
        Windows of each such case that Dice is measured in, always the same ones, near annotated
        structures; 0 segments whole cases with the inference engine.
    patience : int
        Steps without a better validation after which the training ends; 0 for never.
    tensorboard : bool
        Write the log as TensorBoard's event files too (extra ``train``).
    """

    log_every: int = 20
    checkpoint_every: int = 500
    validate_every: int = 500
    validation_cases: int = 0
    validation_windows: int = 0
    checkpoint_minutes: float = 10.0
    patience: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "validate_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("validation_cases", "validation_windows", "patience"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.checkpoint_minutes > 0, "checkpoint_minutes", self.checkpoint_minutes, "positive")
