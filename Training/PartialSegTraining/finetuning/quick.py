"""Quick fine-tuning: one head learns from sampled columns; the rest of the network is not even run.

Dice and binary cross-entropy of the annotated channels (DoDNet, Eq. 8), their sums pooled over the windows
of a step (MultiTalent, Eq. 2) and estimated from the sampled voxels. A channel of the same task that the
cases do not annotate is held to what the parent answers there, since it shares weights with the others.
Called by :mod:`PartialSegTraining.finetuning.session`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from PartialSegLib.card import Card
from PartialSegLib.errors import CollectionError
from PartialSegLib.progress import Monitor
from PartialSegTraining.cases import Case
from PartialSegTraining.finetuning.columns import Columns, SampledCase, sample_case
from PartialSegTraining.finetuning.contract import FineTuneEvent
from PartialSegTraining.finetuning.heads import TaskHead
from PartialSegTraining.losses import UNKNOWN
from PartialSegTraining.schedules import learning_rate

#: Told about steps.
Listener = Callable[[FineTuneEvent], None]


@dataclass(frozen=True)
class HeadPlan:
    """How a head is learned.

    Parameters
    ----------
    steps : int
        How many.
    learning_rate : float
        Its highest value, after a tenth of the steps; it then falls to zero.
    windows : int
        Of each step.
    voxels : int
        About so many of the kept voxels of each window are looked at in a step.
    dropout : float
        Part of the channels that a fresh map of a task's own does not see in a step: with one case, much
        happens to tell its structure apart.
    seed : int
        Decides the order of the windows.
    """

    steps: int = 300
    learning_rate: float = 1e-2
    windows: int = 6
    voxels: int = 4096
    dropout: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """A window with what its channels should be: (S, K), :data:`UNKNOWN` where nobody knows."""

    columns: Columns
    target: Tensor


def sample_cases(
    heads: Sequence[TaskHead], cases: Sequence[Case], card: Card, *, seed: int = 0, monitor: Monitor | None = None
) -> list[SampledCase]:
    """Encode cases once for heads that read the same columns.

    Parameters
    ----------
    heads : sequence of TaskHead
        Of one network, with the same :attr:`TaskHead.reads`.
    cases : sequence of Case
        Those that annotate nothing of the heads' tasks are left out.
    card : Card
        Of the model.
    seed : int
        Decides which voxels are kept.
    monitor : Monitor, optional
        Told about every window.
    """
    space = heads[0].network.label_space
    structures = [key for head in heads for key in space.tasks[head.task].structures]
    encode = heads[0].encoder(card.window)
    return [
        sample_case(case, structures, card, encode, seed=seed + number, monitor=monitor)
        for number, case in enumerate(cases)
        if case.annotated.intersection(structures)
    ]


def learn_head(
    head: TaskHead,
    cases: Sequence[SampledCase],
    plan: HeadPlan,
    *,
    new: bool = False,
    listener: Listener | None = None,
    monitor: Monitor | None = None,
) -> None:
    """Learn the head of a task, in place.

    Parameters
    ----------
    head : TaskHead
        What is learned.
    cases : sequence of SampledCase
        To learn from.
    plan : HeadPlan
        How.
    new : bool
        Whether the head never learned anything: it knows no channel that nobody annotated.
    listener : callable, optional
        Told about every step.
    monitor : Monitor, optional
        Told about every step, as stage ``head``.

    Raises
    ------
    CollectionError
        When the loss is no longer a number.
    CancelledError
        When the monitor was cancelled; the head is then of no use.
    """
    monitor = monitor or Monitor()
    if new:
        head.standardize(cases, plan.seed)
    lessons = [
        lesson for case in cases for lesson in _lessons(head, case.structures, (*case.windows, *case.coarse), new)
    ]
    generator = torch.Generator().manual_seed(plan.seed)
    dropout = plan.dropout if new and head.taps else 0.0
    with _learning(head), torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        optimizer = torch.optim.AdamW([weight for weight, _ in head.weights], lr=plan.learning_rate, weight_decay=0.0)
        monitor.step("head", 0, plan.steps)
        for step in range(plan.steps):
            rate = learning_rate(step, peak=plan.learning_rate, total_steps=plan.steps, warmup_steps=plan.steps // 10)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = [_thinned(lesson, plan.voxels, generator) for lesson in _some(lessons, plan.windows, generator)]
            loss = head_step(head, chosen, optimizer, dropout)
            if not math.isfinite(loss):
                raise CollectionError(
                    f"The training of '{head.name}' diverged after {step + 1} steps.", "Lower the learning rate."
                )
            if listener is not None:
                listener(FineTuneEvent(step + 1, plan.steps, loss, "head"))
            monitor.step("head", step + 1, plan.steps)


def head_step(
    head: TaskHead, lessons: Sequence[Lesson], optimizer: torch.optim.Optimizer, dropout: float = 0.0
) -> float:
    """Make one step on some windows, and return its loss."""
    device = next(head.network.parameters()).device
    width = lessons[0].columns.values.shape[1]
    seen = (torch.rand(width) >= dropout).float().to(device) / (1.0 - dropout)
    sums: list[Tensor] = []
    for lesson in lessons:
        values = lesson.columns.values.to(device).float()
        logits = head.logits(values * seen if dropout else values, lesson.columns.pooled.to(device))
        sums.append(_sums(logits, lesson.target.to(device), lesson.columns.weight.to(device)))
    optimizer.zero_grad(set_to_none=True)
    loss = _loss(torch.stack(sums).sum(0))
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def column_dice(head: TaskHead, cases: Sequence[SampledCase]) -> dict[str, float]:
    """Return the Dice of each structure that the cases annotate, estimated from their sampled voxels."""
    totals: dict[str, Tensor] = {}
    for case in cases:
        for lesson in _lessons(head, case.structures, case.windows, True):
            columns = lesson.columns
            found = _answers(head, columns) > 0
            for channel, key in enumerate(head.channels):
                if key in case.structures:
                    truth = lesson.target[:, channel] > 0
                    both = (columns.weight * (found[:, channel] & truth)).sum()
                    either = (columns.weight * found[:, channel]).sum() + (columns.weight * truth).sum()
                    totals[key] = totals.get(key, torch.zeros(2)) + torch.stack([both, either])
    return {key: float(2 * both / either) for key, (both, either) in totals.items() if either > 0}


@torch.no_grad()
def _lessons(head: TaskHead, structures: Sequence[str], windows: Sequence[Columns], new: bool) -> list[Lesson]:
    """Return the windows of a case that annotates `structures`, with their targets."""
    lessons = []
    for columns in windows:
        target = torch.full((len(columns.values), len(head.channels)), UNKNOWN)
        answers = None if new else _answers(head, columns)
        for channel, key in enumerate(head.channels):
            if key in structures:
                target[:, channel] = columns.inside[:, structures.index(key)].float()
            elif key is not None and answers is not None:
                target[:, channel] = (answers[:, channel] > 0).float()
        lessons.append(Lesson(columns, target))
    return lessons


def _answers(head: TaskHead, columns: Columns) -> Tensor:
    """Return the (S, K) logits of the head at the kept voxels of a window, on the CPU."""
    device = next(head.network.parameters()).device
    return head.logits(columns.values.to(device).float(), columns.pooled.to(device)).cpu()


def _some(lessons: Sequence[Lesson], count: int, generator: torch.Generator) -> list[Lesson]:
    """Draw windows of a step; at least one of them shows something."""
    showing = [lesson for lesson in lessons if (lesson.target > 0).any()]
    order = torch.randperm(len(lessons), generator=generator)[:count].tolist()
    chosen = [lessons[at] for at in order]
    if showing and not any((lesson.target > 0).any() for lesson in chosen):
        chosen[-1] = showing[int(torch.randint(len(showing), (1,), generator=generator))]
    return chosen


def _thinned(lesson: Lesson, count: int, generator: torch.Generator) -> Lesson:
    """Return about `count` voxels of a window, of each stratum its share: its voxels lie together."""
    columns, stride = lesson.columns, -(-len(lesson.target) // count)
    if stride == 1:
        return lesson
    part = slice(int(torch.randint(stride, (1,), generator=generator)), None, stride)
    thinned = replace(
        columns, values=columns.values[part], inside=columns.inside[part], weight=stride * columns.weight[part]
    )
    return Lesson(thinned, lesson.target[part])


def _sums(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the (K, 5) sums of a window that its loss is made of; all zero for an unknown channel."""
    known = target[0] != UNKNOWN
    logits, target = torch.where(known, logits, 0.0), torch.where(known, target, 0.0)
    probability, share = logits.sigmoid(), weight[:, None]
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    parts = (share * probability * target, share * probability, share * target, share * entropy)
    voxels = (weight.sum() * known).to(logits.dtype)
    return torch.stack([*((part.sum(0) * known) for part in parts), voxels], 1)


def _loss(sums: Tensor) -> Tensor:
    """Return the mean over known channels of ``1 - Dice`` and cross-entropy, from (K, 5) sums over windows."""
    overlap, predicted, true, entropy, voxels = sums.unbind(1)
    known = voxels > 0
    dice = 1.0 - 2.0 * overlap / (predicted + true + 1.0)
    terms = dice + entropy / voxels.clamp(min=1.0)
    return (terms * known).sum() / known.sum().clamp(min=1)


@contextmanager
def _learning(head: TaskHead) -> Iterator[None]:
    """Let the gradient reach the weights of the head and nothing else."""
    before = {weight: weight.requires_grad for weight in head.network.parameters()}
    head.network.requires_grad_(False)
    hooks = []
    for weight, mask in head.weights:
        weight.requires_grad_(True)
        if mask is not None:
            hooks.append(weight.register_hook(lambda gradient, mask=mask: gradient * mask))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, wanted in before.items():
            weight.requires_grad_(wanted)
            weight.grad = None
