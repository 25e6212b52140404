"""The door of fine-tuning: check the cases, train, judge, and write the new model.

Called by the command line and by the worker of Slicer's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.networks import PartialLabelNetwork
from PartialSegLib.progress import Monitor
from PartialSegTraining.cases import Case
from PartialSegTraining.distributed import choose_device
from PartialSegTraining.finetuning.checks import Material, check_material
from PartialSegTraining.finetuning.child import child_card, publish, trial_bundle
from PartialSegTraining.finetuning.columns import SampledCase
from PartialSegTraining.finetuning.contract import FineTuneEvent, FineTuneOptions, FineTuneResult
from PartialSegTraining.finetuning.full import forget_checkpoint, train_whole
from PartialSegTraining.finetuning.growth import grow
from PartialSegTraining.finetuning.heads import TaskHead
from PartialSegTraining.finetuning.judging import Judgment, judge, mean_dice
from PartialSegTraining.finetuning.quick import HeadPlan, Listener, column_dice, learn_head, sample_cases

#: Most cases that are judged by leaving out each in turn.
_LEFT_OUT_AT_MOST = 5
#: Highest learning rate of a head that knows its structure, and of a new one.
_KNOWN_RATE, _NEW_RATE = 2e-3, 1e-2


def finetune(
    parent: ModelBundle,
    cases: Sequence[Case],
    folder: Path,
    *,
    mode: str,
    held_out: Sequence[Case] = (),
    replay: Sequence[Case] = (),
    device: str = "auto",
    monitor: Monitor | None = None,
    options: FineTuneOptions | None = None,
    listener: Callable[[FineTuneEvent], None] | None = None,
) -> FineTuneResult:
    """Make a new model from a parent and a few annotated cases.

    Parameters
    ----------
    parent : ModelBundle
        The model to begin with; it is not changed.
    cases : sequence of Case
        To learn from. What a case does not annotate is unknown, not background.
    folder : Path
        Gets the new model, a folder named as it; ``full`` and ``transfer`` also keep prepared cases and
        a checkpoint there, from which the same call goes on.
    mode : str
        ``quick``: the heads of the annotated tasks, on cached features; every other task answers as
        before, bit for bit. ``full``: the whole network. ``transfer``: a new head and label space on a
        pretrained KiTS21 backbone.
    held_out : sequence of Case
        To judge on, never trained on; also on structures that are not trained.
    replay : sequence of Case
        Earlier cases, of which ``full`` trains some windows, so that other tasks do not fade. Structures
        that no held-out case shows are judged on them.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    monitor : Monitor, optional
        Told about the stages ``check``, ``encode``, ``head``, ``prepare``, ``train``, ``before`` and
        ``after``; when it is cancelled, no model is written.
    options : FineTuneOptions, optional
        What else can be chosen.
    listener : callable, optional
        Told the loss of every step, in the thread that works.

    Returns
    -------
    FineTuneResult
        With Dice before and after, and whether the new model may take its parent's place.

    Raises
    ------
    CollectionError
        When a case cannot be used, the mode does not fit the model, or the training diverges.
    LabelSpaceError
        When a structure to add is known already, described nowhere, or this network cannot learn it.
    BundleError
        When the parent is damaged, or the new model cannot be written.
    CancelledError
        When the monitor was cancelled.
    """
    started = time.monotonic()
    options, monitor, folder = options or FineTuneOptions(), monitor or Monitor(), Path(folder)
    chosen = choose_device(device)
    material = check_material(parent.card, cases, held_out, replay, mode, options, monitor)
    session = _Session(parent, material, folder, mode, options, device, chosen, monitor, listener)
    network, own = session.quick() if mode == "quick" else (session.whole(), None)
    card = child_card(parent, network, material, mode, options)
    with trial_bundle(card, network, folder) as trial:
        judgment = session.judge(trial, own)
    monitor.step("write", 0, 1)
    bundle = publish(card, network, judgment, folder)
    forget_checkpoint(folder)
    return FineTuneResult(
        bundle,
        mode,
        judgment.before,
        judgment.after,
        judgment.regressions,
        judgment.better,
        judgment.verdict,
        time.monotonic() - started,
        judgment.judged_by,
        material.trained,
    )


@dataclass(frozen=True)
class _LeftOut:
    """Mean Dice of cases that were left out in turn, by structure."""

    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class _Session:
    """One fine-tuning under way."""

    parent: ModelBundle
    material: Material
    folder: Path
    mode: str
    options: FineTuneOptions
    device: str
    place: torch.device
    monitor: Monitor
    listener: Listener | None

    def whole(self) -> PartialLabelNetwork:
        """Train the whole network."""
        network = train_whole(
            self.parent,
            self.material,
            self.folder,
            self.mode,
            self.options,
            self.place,
            self.monitor,
            self.listener,
        )
        return network.cpu()

    def quick(self) -> tuple[PartialLabelNetwork, _LeftOut | None]:
        """Learn the head of each annotated task; return the network, and what cases left out in turn say."""
        material, space = self.material, self.material.space
        network = grow(self.parent.load_network(str(self.place)), space, self.options.seed)
        tasks = sorted({space.task_index(space.task_of(key).key) for key in material.trained})
        groups: dict[tuple[bool, int | None], list[TaskHead]] = {}
        for task in tasks:
            head = TaskHead(network, task)
            groups.setdefault(head.reads, []).append(head)
        turns = not material.held_out and self.options.leave_one_out
        judged = _LeftOut({}, {})
        for heads in groups.values():
            sampled = sample_cases(
                heads, material.cases, self.parent.card, seed=self.options.seed, monitor=self.monitor
            )
            for head in heads:
                mine = [
                    case for case in sampled if set(case.structures).intersection(space.tasks[head.task].structures)
                ]
                if turns and 2 <= len(mine) <= _LEFT_OUT_AT_MOST:
                    left_out = self._leave_one_out(head, mine)
                    judged.before.update(left_out.before)
                    judged.after.update(left_out.after)
                self._learn(head, mine)
        return network.cpu().eval(), judged if judged.after else None

    def judge(self, trial: ModelBundle, left_out: _LeftOut | None) -> Judgment:
        """Compare the new model with its parent."""
        material, trained = self.material, set(self.material.trained)
        space = trial.card.label_space
        judged_by = "held-out" if any(case.annotated & trained for case in material.held_out) else "nothing"
        before, after = {}, {}
        for cases, structures in self._judged():
            before.update(self._dice(self.parent, cases, structures, "before"))
            after.update(self._dice(trial, cases, structures, "after"))
        if left_out is not None and judged_by == "nothing":
            before.update(left_out.before)
            after.update(left_out.after)
            judged_by = "leave-one-out"
        return judge(space, material.trained, before, after, judged_by, kept=self.mode == "quick")

    def _judged(self) -> list[tuple[Sequence[Case], set[str]]]:
        """Return which cases judge which structures: held-out ones, and earlier ones what those do not show."""
        material, space = self.material, self.material.space
        trained = set(material.trained)
        tasks = {space.task_of(key) for key in trained}
        # The quick mode changes nothing but the trained tasks.
        concerned = {key for task in tasks for key in task.structures} if self.mode == "quick" else set(space.select())
        shown = {key for case in material.held_out for key in case.annotated} & concerned
        replayed = concerned - shown - trained if self.mode == "full" else set()
        return [(material.held_out, shown), (material.replay, replayed)]

    def _dice(self, bundle: ModelBundle, cases: Sequence[Case], structures: set[str], stage: str) -> dict[str, float]:
        if not structures:
            return {}
        return mean_dice(
            bundle,
            cases,
            structures,
            device=self.device,
            preset=self.options.preset,
            monitor=self.monitor,
            stage=stage,
        )

    def _learn(self, head: TaskHead, cases: Sequence[SampledCase]) -> None:
        new = self._is_new(head)
        rate = self.options.head_learning_rate or (_NEW_RATE if new else _KNOWN_RATE)
        plan = HeadPlan(steps=self.options.head_steps or HeadPlan.steps, learning_rate=rate, seed=self.options.seed)
        learn_head(head, cases, plan, new=new, listener=self.listener, monitor=self.monitor)

    def _leave_one_out(self, head: TaskHead, cases: Sequence[SampledCase]) -> _LeftOut:
        """Learn without each case in turn and measure it; the head is then as it was."""
        first = [weight.detach().clone() for weight, _ in head.weights]
        before: dict[str, list[float]] = {}
        after: dict[str, list[float]] = {}

        def note(table: dict[str, list[float]], case: SampledCase) -> None:
            for key, value in column_dice(head, [case]).items():
                table.setdefault(key, []).append(value)

        for left in cases:
            if not self._is_new(head):
                note(before, left)
            self._learn(head, [case for case in cases if case is not left])
            note(after, left)
            with torch.no_grad():
                for (weight, _), value in zip(head.weights, first, strict=True):
                    weight.copy_(value)
        means = [{key: round(fmean(values), 4) for key, values in table.items()} for table in (before, after)]
        return _LeftOut(*means)

    def _is_new(self, head: TaskHead) -> bool:
        return head.task >= len(self.parent.card.label_space.tasks)
