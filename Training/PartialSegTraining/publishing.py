"""From a trained network to a model bundle, with a card that says where it comes from.

Called by the trainer when a training ends or its time is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from PartialSegLib.bundle import Card, ModelBundle
from PartialSegTraining.cache import CachedCase
from PartialSegTraining.phantoms import GENERATOR_VERSION
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.state import TrainingState


def write_bundle(
    state: TrainingState,
    recipe: Recipe,
    cases: Sequence[CachedCase],
    folder: Path,
) -> Path:
    """Write the averaged weights of a training as a bundle; an older one in `folder` is replaced.

    Parameters
    ----------
    state : TrainingState
        Finished, or stopped on the way; the card tells which.
    recipe : Recipe
        Of the training.
    cases : sequence of CachedCase
        It was trained on.
    folder : Path
        Of the bundle.
    """
    card = Card(
        name=recipe.name,
        title=recipe.card.title,
        version=recipe.card.version,
        description=recipe.card.description,
        license=recipe.card.license,
        intended_use=recipe.card.intended_use,
        network=recipe.network.name,
        network_parameters=dict(recipe.network.parameters),
        label_space=recipe.tasks,
        preprocessing=recipe.preprocessing,
        window=recipe.sampling.window,
        mirror_axes=tuple(axis for axis, chance in enumerate(recipe.augmentation.mirror) if chance > 0),
        provenance=provenance(state, recipe, cases),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    ModelBundle.create(folder, card, state.average.state_dict())
    return folder


def provenance(state: TrainingState, recipe: Recipe, cases: Sequence[CachedCase]) -> dict[str, Any]:
    """Return what the card says about the training: recipe, length and which cases annotated what."""
    annotated = {
        task.key: sum(bool(set(task.structures).intersection(case.structures)) for case in cases)
        for task in recipe.tasks.tasks
    }
    return {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "steps": state.step,
        "total_steps": recipe.optimization.total_steps,
        "best_validation": {"steps": state.best_step, "mean_dice": state.best_dice} if state.best_dice >= 0.0 else None,
        "training_cases": len(cases),
        "annotated_cases_per_task": annotated,
        "phantoms": None if recipe.phantoms is None else asdict(recipe.phantoms),
        "phantom_generator": None if recipe.phantoms is None else GENERATOR_VERSION,
        "torch": torch.__version__,
        "parent": state.parent,
    }


def ancestor(bundle: ModelBundle) -> dict[str, Any]:
    """Return which model a training began with, and where that one came from."""
    card = bundle.card
    return {"name": card.name, "version": card.version, "sha256": card.weights["sha256"], **dict(card.provenance)}
