"""The new model: its weights, and a card that names its parent and never a patient.

Called by :mod:`PartialSegTraining.finetuning.session`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from PartialSegLib.bundle import Card, ModelBundle
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegTraining.finetuning.checks import Material
from PartialSegTraining.finetuning.contract import FineTuneOptions
from PartialSegTraining.finetuning.judging import Judgment


def child_card(
    parent: ModelBundle, network: PartialLabelNetwork, material: Material, mode: str, options: FineTuneOptions
) -> Card:
    """Return the card of the new model, without figures."""
    card = parent.card
    names = ", ".join(material.space.structure(key).name for key in material.trained)
    count = len(material.cases)
    return replace(
        card,
        name=options.name or f"{card.name}-{mode}",
        title=options.title or f"{card.title}, {mode}",
        description=f"{card.description} Fine-tuned ({mode}) on {count} case{'s' * (count > 1)}: {names}.",
        network=type(network).__name__,
        network_parameters=asdict(network.parameters_),
        label_space=material.space,
        provenance=_provenance(parent, material, mode, options),
        figures={},
        weights={},
    )


def _provenance(parent: ModelBundle, material: Material, mode: str, options: FineTuneOptions) -> dict[str, Any]:
    """Say where the model comes from: its parent, the hashes of its cases, and how it was trained."""
    card = parent.card
    chosen = {name: value for name, value in asdict(options).items() if name not in ("name", "title", "structures")}
    return {
        "fine_tuning": mode,
        "options": chosen,
        "trained": list(material.trained),
        "added": list(material.added),
        "cases": [asdict(item) for item in material.fingerprints],
        "held_out_cases": len(material.held_out),
        "replayed_cases": len(material.replay) if mode == "full" else 0,
        "torch": torch.__version__,
        "parent": {
            "name": card.name,
            "version": card.version,
            "sha256": card.weights["sha256"],
            **dict(card.provenance),
        },
    }


@contextmanager
def trial_bundle(card: Card, network: PartialLabelNetwork, folder: Path) -> Iterator[ModelBundle]:
    """Give the new model as a bundle of a temporary name, to be judged before anyone can find it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=folder) as place:
        yield ModelBundle.create(Path(place) / card.name, card, network.state_dict())


def publish(card: Card, network: PartialLabelNetwork, judgment: Judgment, folder: Path) -> Path:
    """Write the new model with its figures, whole or not at all, and return its folder."""
    figures = {
        "fine_tuning": {
            "dice_before": dict(judgment.before),
            "dice_after": dict(judgment.after),
            "judged_by": judgment.judged_by,
            "better": judgment.better,
            "regressions": list(judgment.regressions),
            "verdict": judgment.verdict,
        }
    }
    folder.mkdir(parents=True, exist_ok=True)
    return ModelBundle.create(folder / card.name, replace(card, figures=figures), network.state_dict()).folder
