"""What a fine-tuning is asked for and what it gives back. Imports no torch.

The command line, the worker and Slicer's panels speak in these terms; what they mean is carried out
by :func:`PartialSegTraining.finetuning.finetune`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PartialSegLib.structures import Structure
from PartialSegTraining.recipe import LossRecipe
from PartialSegTraining.tables import require

#: Ways to fine-tune, from seconds to hours.
MODES = ("quick", "full", "transfer")
#: How much Dice another structure may lose before that counts as a regression: one point.
TOLERANCE = 0.01


@dataclass(frozen=True)
class FineTuneEvent:
    """Where the training stands, for a plot of its loss.

    Parameters
    ----------
    step, total : int
        Steps made, and those of this phase.
    loss : float
        Of the last step.
    phase : str
        ``head`` (nothing but the head learns), ``warm-up`` (the whole network, the learning rate
        rises) or ``network`` (the rest).
    """

    step: int
    total: int
    loss: float
    phase: str


@dataclass(frozen=True)
class FineTuneOptions:
    """What can be chosen; the defaults suit one to twenty cases.

    Parameters
    ----------
    name, title : str, optional
        Of the new model; those of its parent with ``-MODE`` and the mode behind.
    add_structures : tuple of str
        Keys of structures that the parent does not know. Each becomes a task of its own.
    structures : tuple of Structure
        Descriptions of those that neither the library nor the cases describe.
    label_space : str, optional
        Name of the label space that ``transfer`` learns; ``kits21`` when not given.
    head_steps : int, optional
        Steps in which nothing but the head learns: all of ``quick`` (300), the first phase of ``full``
        and ``transfer`` (50).
    warmup_steps : int
        Steps of ``full`` and ``transfer`` in which the whole network learns and the learning rate
        rises.
    steps : int
        Steps of ``full`` and ``transfer`` after that.
    head_learning_rate, learning_rate : float, optional
        Highest learning rates of the head alone and of the whole network.
    batch : int
        Windows a step.
    window : tuple of int, optional
        Voxels (z, y, x) of the windows that ``full`` and ``transfer`` train on; the card's when not
        given.
    loss : LossRecipe, optional
        The one that suits the network when not given.
    seed : int
        Decides every random choice.
    leave_one_out : bool
        Without held-out cases, let ``quick`` judge two to five cases by training without each of them.
    preset : str
        Preset of the segmentations that are scored.
    """

    name: str | None = None
    title: str | None = None
    add_structures: tuple[str, ...] = ()
    structures: tuple[Structure, ...] = ()
    label_space: str | None = None
    head_steps: int | None = None
    warmup_steps: int = 50
    steps: int = 400
    head_learning_rate: float | None = None
    learning_rate: float | None = None
    batch: int = 2
    window: tuple[int, int, int] | None = None
    loss: LossRecipe | None = None
    seed: int = 0
    leave_one_out: bool = True
    preset: str = "standard"

    def __post_init__(self) -> None:
        require(self.head_steps is None or self.head_steps >= 1, "head_steps", self.head_steps, "at least 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        for name in ("steps", "batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("head_learning_rate", "learning_rate"):
            value = getattr(self, name)
            require(value is None or 0.0 < value < 10.0, name, value, "above 0 and below 10")
        require(self.seed >= 0, "seed", self.seed, "at least 0")


@dataclass(frozen=True)
class FineTuneResult:
    """What a fine-tuning left.

    Parameters
    ----------
    bundle : Path
        Folder of the new model.
    mode : str
        One of :data:`MODES`.
    before, after : dict of str to float
        Mean Dice of the parent and of the new model by structure, on the same cases; a structure that
        the parent does not know is in `after` only, and one that no case judges in neither.
    regressions : tuple of str
        Structures other than those trained that lost more than :data:`TOLERANCE`.
    better : bool or None
        Whether the trained structures became better on cases that were not trained on; ``None`` when
        there was no such case.
    verdict : str
        All of this as a sentence or two, for people.
    seconds : float
        From the first case read to the model written.
    judged_by : str
        ``held-out`` cases, ``leave-one-out`` or ``nothing``.
    trained : tuple of str
        Structures that were trained.
    """

    bundle: Path
    mode: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    regressions: tuple[str, ...]
    better: bool | None
    verdict: str
    seconds: float
    judged_by: str = "nothing"
    trained: tuple[str, ...] = ()

    @property
    def recommended(self) -> bool:
        """Whether the new model may take its parent's place: it was judged, is better, and costs nothing else."""
        return self.better is True and not self.regressions

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {
            "bundle": str(self.bundle),
            "mode": self.mode,
            "trained": list(self.trained),
            "before": dict(self.before),
            "after": dict(self.after),
            "regressions": list(self.regressions),
            "better": self.better,
            "recommended": self.recommended,
            "judged_by": self.judged_by,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }
