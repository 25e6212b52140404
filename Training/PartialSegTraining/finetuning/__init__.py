"""Fine-tuning: from a model and one to twenty annotated cases to a new model that names its parent.

The door is :func:`finetune`; ``contract`` has what goes in and out of it, ``casefolders`` reads the
cases that Slicer's side exports. *quick* learns a head on cached features, *full* the whole network
with replay of earlier cases, *transfer* takes a pretrained backbone to a new label space. The names
open lazily, so that whoever only asks imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PartialSegTraining.finetuning.casefolders import only_structures, read_case_folder
from PartialSegTraining.finetuning.contract import MODES, TOLERANCE, FineTuneEvent, FineTuneOptions, FineTuneResult

if TYPE_CHECKING:
    from PartialSegTraining.finetuning.session import finetune

__all__ = [
    "MODES",
    "TOLERANCE",
    "FineTuneEvent",
    "FineTuneOptions",
    "FineTuneResult",
    "finetune",
    "only_structures",
    "read_case_folder",
]


def __getattr__(name: str) -> Any:
    if name == "finetune":
        from PartialSegTraining.finetuning.session import finetune

        return finetune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
