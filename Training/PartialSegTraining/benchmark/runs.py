"""One run of the benchmark: a system is trained with one seed, and measured on the test cases.

Every run is a folder, and a run that is complete has ``result.json`` in it: a benchmark that was
stopped goes on with the runs that are missing, and within a run at its checkpoint. Called by the
command.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import CollectionError
from PartialSegLib.progress import Monitor
from PartialSegTraining.benchmark.systems import System
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.runlog import read_log

if TYPE_CHECKING:
    from PartialSegTraining.cases import Case
    from PartialSegTraining.recipe import Recipe

_RESULT = "result.json"


@dataclass(frozen=True)
class Budget:
    """What is the same for all systems.

    Parameters
    ----------
    steps : int
        Of every training at equal budget.
    preset : str
        Of the inference engine: ``fast``, ``standard`` or ``paper``.
    test_cases : int
        Cases that every model is measured on.
    """

    steps: int
    preset: str
    test_cases: int


@dataclass(frozen=True)
class RunResult:
    """What one run found.

    Parameters
    ----------
    system : str
        Key of the system.
    seed : int
        Of weights, windows and augmentation.
    budget : Budget
        What it was trained and measured with.
    recipe_digest : str
        Fingerprint of the recipe.
    parameters : int
        Weights of the network.
    passes : int
        How often the engine computes features of a window to answer all tasks: once, or once a task.
    train_seconds : float
        Of all steps, by the training log.
    case_seconds : float
        To segment all structures of a case, the mean over test cases.
    dice, hd95_mm : mapping of str to float or None
        Mean of each structure over the test cases; ``None`` where it is defined for none of them.
    """

    system: str
    seed: int
    budget: Budget
    recipe_digest: str
    parameters: int
    passes: int
    train_seconds: float
    case_seconds: float
    dice: dict[str, float | None]
    hd95_mm: dict[str, float | None]

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RunResult:
        """Read what :func:`dataclasses.asdict` made of a result."""
        return cls(**{**document, "budget": Budget(**document["budget"])})


def benchmark_recipe(system: System, seed: int, budget: Budget) -> Recipe:
    """Return the recipe of a run: that of the system, with the seed and the length of the benchmark."""
    recipe = load_recipe(system.recipe).with_steps(budget.steps * system.rounds)
    return replace(recipe, optimization=replace(recipe.optimization, seed=seed))


def make_run(
    system: System,
    seed: int,
    budget: Budget,
    folder: Path,
    *,
    collection: Path,
    device: str = "auto",
    workers: int | None = None,
    monitor: Monitor | None = None,
) -> RunResult:
    """Train and measure one system with one seed, or read the result of an earlier run.

    Parameters
    ----------
    system : System
        What is trained.
    seed : int
        Decides weights, windows and augmentation.
    budget : Budget
        What is the same for all systems.
    folder : Path
        Of the benchmark; the run takes ``runs/SYSTEM/SEED`` in it.
    collection : Path
        Folder of phantoms with a ``test`` folder.
    device : str
        ``auto``, ``cpu``, ``cuda`` ...
    workers : int, optional
        Threads that prepare cases.
    monitor : Monitor, optional
        Progress and cancellation.

    Raises
    ------
    CollectionError
        When the folder holds this run with another budget or recipe.
    CancelledError
        When the monitor was cancelled; the same call goes on.
    """
    recipe, place = benchmark_recipe(system, seed, budget), folder / "runs" / system.key / str(seed)
    found = _read_result(place / _RESULT)
    if found is not None:
        _require_same(found, recipe, budget, place)
        return found
    result = _train_and_measure(system, seed, budget, recipe, place, folder, collection, device, workers, monitor)
    with atomic_write(place / _RESULT) as file:
        file.write((json.dumps(asdict(result), indent=1) + "\n").encode())
    return result


def read_runs(folder: Path, systems: Sequence[System], seeds: Sequence[int]) -> list[RunResult]:
    """Return the complete runs of these systems and seeds in a folder."""
    found = [_read_result(folder / "runs" / system.key / str(seed) / _RESULT) for system in systems for seed in seeds]
    return [result for result in found if result is not None]


def _train_and_measure(
    system: System,
    seed: int,
    budget: Budget,
    recipe: Recipe,
    place: Path,
    folder: Path,
    collection: Path,
    device: str,
    workers: int | None,
    monitor: Monitor | None,
) -> RunResult:
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.inference import Predictor
    from PartialSegTraining.cases import read_mask_folders
    from PartialSegTraining.trainer import train

    trained = train(recipe, collection, place, device=device, monitor=monitor, workers=workers, cache=folder / "cache")
    predictor = Predictor(ModelBundle.open(trained.bundle), device)
    cases = read_mask_folders(collection / "test", recipe.tasks)[: budget.test_cases]
    dice, hd95, seconds = _measure(predictor, cases, budget.preset, monitor or Monitor())
    network = predictor.bundle.load_network()
    lines = [line for line in read_log(place / "log.jsonl") if "seconds_per_step" in line]
    pace = sum(line["seconds_per_step"] for line in lines) / max(1, len(lines))
    return RunResult(
        system=system.key,
        seed=seed,
        budget=budget,
        recipe_digest=recipe.digest,
        parameters=sum(weight.numel() for weight in network.parameters()),
        passes=len(recipe.tasks.tasks) if network.features_depend_on_task else 1,
        train_seconds=round(pace * trained.steps, 1),
        case_seconds=round(seconds, 3),
        dice=dice,
        hd95_mm=hd95,
    )


def _measure(
    predictor: Any, cases: Sequence[Case], preset: str, monitor: Monitor
) -> tuple[dict[str, float | None], dict[str, float | None], float]:
    """Return Dice and HD95 of each structure and the seconds per case, means over the cases."""
    from PartialSegTraining.evaluation import score_model
    from PartialSegTraining.scoretable import ScoreTable

    monitor.step("measure", 0, len(cases))
    scored = []
    for case in score_model(predictor, cases, preset=preset):
        scored.append(case)
        monitor.step("measure", len(scored), len(cases))
    table = ScoreTable(predictor.label_space.structures, tuple(scored), 2.0, {})
    summaries = {key: summary.to_json() for key, summary in table.summaries().items()}
    seconds = sum(case.seconds or 0.0 for case in scored) / max(1, len(scored))
    return (
        {key: _rounded(summary["dice"], 4) for key, summary in summaries.items()},
        {key: _rounded(summary["hd95_mm"], 2) for key, summary in summaries.items()},
        seconds,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _read_result(path: Path) -> RunResult | None:
    """Return the result in a file; ``None`` where there is none."""
    if not path.is_file():
        return None
    try:
        return RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CollectionError(f"{path} is no result of a run: {error}.", "Remove it, to make the run again.") from error


def _require_same(found: RunResult, recipe: Recipe, budget: Budget, place: Path) -> None:
    if found.budget != budget:
        raise CollectionError(
            f"{place} was made with another budget: {found.budget} instead of {budget}.", "Choose another folder."
        )
    if found.recipe_digest != recipe.digest:
        raise CollectionError(
            f"{place} was made by another version of recipe '{recipe.name}'.", "Remove it, or choose another folder."
        )
