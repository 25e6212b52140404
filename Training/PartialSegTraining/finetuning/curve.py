"""What pretraining is worth when cases are few: Dice of a structure that a model never saw, by number of cases.

Three ways to learn it from the same cases are compared: the *head* alone on the pretrained network
(quick), the *whole network* from the pretrained weights (full), and the same network *from scratch* with
as many steps. All are judged on the same held-out cases. Called by ``partialseg benchmark learning-curve``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PartialSegLib.atomic import atomic_write
from PartialSegLib.bundle import Card, ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.progress import Monitor
from PartialSegTraining.cache import prepare_cases
from PartialSegTraining.cases import Case
from PartialSegTraining.distributed import choose_device
from PartialSegTraining.finetuning.casefolders import only_structures
from PartialSegTraining.finetuning.checks import Material, check_material
from PartialSegTraining.finetuning.child import child_card, trial_bundle
from PartialSegTraining.finetuning.columns import SampledCase
from PartialSegTraining.finetuning.contract import FineTuneOptions
from PartialSegTraining.finetuning.full import make_recipe, train_whole
from PartialSegTraining.finetuning.growth import grow
from PartialSegTraining.finetuning.heads import TaskHead
from PartialSegTraining.finetuning.judging import mean_dice
from PartialSegTraining.finetuning.quick import HeadPlan, learn_head, sample_cases
from PartialSegTraining.recipe import NetworkRecipe
from PartialSegTraining.trainer import Trainer, run

#: The ways, in the order of the picture, with what its legend calls them.
WAYS = {"quick": "pretrained, head alone", "full": "pretrained, whole network", "scratch": "from scratch"}


@dataclass(frozen=True)
class Point:
    """One model of the comparison.

    Parameters
    ----------
    way : str
        Key of :data:`WAYS`.
    cases : int
        It learned from.
    dice : float
        Mean over the held-out cases.
    seconds : float
        Spent learning; encoding cases included, preparing and judging them not.
    """

    way: str
    cases: int
    dice: float
    seconds: float


class LearningCurve:
    """Learns one structure from more and more cases, in every way.

    Parameters
    ----------
    parent : ModelBundle
        The pretrained model, which does not know the structure.
    structure : str
        Key of the structure.
    cases, held_out : sequence of Case
        To learn from, fewer ones first, and to judge on; all annotate the structure.
    folder : Path
        Keeps every point that is finished, so that an interrupted comparison goes on.
    options : FineTuneOptions
        Steps, window, batch and seed; the same for all.
    device : str
        ``auto``, ``cpu``, ``cuda`` ...
    monitor : Monitor, optional
        Told about all work.

    Raises
    ------
    CollectionError
        When a case cannot be used.
    LabelSpaceError
        When the parent knows the structure.
    """

    def __init__(
        self,
        parent: ModelBundle,
        structure: str,
        cases: Sequence[Case],
        held_out: Sequence[Case],
        folder: Path,
        options: FineTuneOptions,
        *,
        device: str = "auto",
        monitor: Monitor | None = None,
    ) -> None:
        self._parent, self._structure, self._folder = parent, structure, folder
        self._options = replace(options, add_structures=(structure,), name="learning-curve")
        self._device, self._place = device, choose_device(device)
        self._monitor = monitor or Monitor()
        mine, others = ([only_structures(case, (structure,)) for case in part] for part in (cases, held_out))
        self._material = check_material(parent.card, mine, others, (), "full", self._options, self._monitor)
        self._sampled: list[SampledCase] = []

    def point(self, way: str, count: int) -> Point:
        """Learn from the first `count` cases in one way and judge it, or take what an earlier run found."""
        path = self._folder / f"{way}-{count}.json"
        if path.is_file():
            return Point(**json.loads(path.read_text(encoding="utf-8")))
        if count > len(self._material.cases):
            raise CollectionError(f"There are {len(self._material.cases)} cases, not {count}.", "Give more cases.")
        material = replace(self._material, cases=self._material.cases[:count])
        started = time.monotonic()
        learn = {"quick": self._quick, "full": self._full, "scratch": self._scratch}[way]
        network, card = learn(material, count)
        spent = time.monotonic() - started
        with trial_bundle(card, network, self._folder) as bundle:
            dice = mean_dice(
                bundle,
                material.held_out,
                (self._structure,),
                device=self._device,
                preset=self._options.preset,
                monitor=self._monitor,
            )
        point = Point(way, count, dice.get(self._structure, 0.0), round(spent, 1))
        with atomic_write(path) as file:
            file.write(json.dumps(asdict(point)).encode("utf-8"))
        return point

    def _quick(self, material: Material, count: int) -> tuple[PartialLabelNetwork, Card]:
        network = grow(self._parent.load_network(str(self._place)), material.space, self._options.seed)
        head = TaskHead(network, len(material.space.tasks) - 1)
        # The columns do not depend on the head: each case is encoded once for all numbers of cases.
        missing = material.cases[len(self._sampled) :]
        self._sampled += sample_cases([head], missing, self._parent.card, monitor=self._monitor)
        plan = HeadPlan(seed=self._options.seed)
        learn_head(head, self._sampled[:count], plan, new=True, monitor=self._monitor)
        return network.cpu().eval(), child_card(self._parent, network, material, "quick", self._options)

    def _full(self, material: Material, count: int) -> tuple[PartialLabelNetwork, Card]:
        folder = self._folder / f"full-{count}"
        options, place = self._options, self._place
        network = train_whole(self._parent, material, folder, "full", options, place, self._monitor, None)
        return network.cpu(), child_card(self._parent, network, material, "full", options)

    def _scratch(self, material: Material, count: int) -> tuple[PartialLabelNetwork, Card]:
        """Train the parent's kind of network, with random weights and this task alone, for as many steps."""
        card = self._parent.card
        recipe = make_recipe(self._parent, self._parent.load_network(), material, "full", self._options)
        space = replace(
            material.space,
            tasks=material.space.tasks[-1:],
            structures=(material.space.structure(self._structure),),
        )
        plan = replace(recipe.optimization, head=(), head_warmup_steps=0, head_learning_rate=None)
        network = NetworkRecipe(card.network, card.network_parameters)
        recipe = replace(recipe, space=space, network=network, optimization=plan)
        prepared = prepare_cases(
            material.cases, card.preprocessing, folder=self._folder / "cache", monitor=self._monitor
        )
        trainer = Trainer(recipe, prepared, self._place)
        try:
            run(trainer, self._folder / f"scratch-{count}", monitor=self._monitor)
        finally:
            trainer.loader.close()
        described = replace(card, name="learning-curve", label_space=space, figures={}, weights={}, provenance={})
        return trainer.state.average.cpu().eval(), described


def make_curve(curve: LearningCurve, counts: Sequence[int], ways: Sequence[str]) -> list[Point]:
    """Return every point, fewest cases first, so that an early stop leaves a picture worth looking at."""
    return [curve.point(way, count) for count in counts for way in ways]
