"""The contract of the losses: every one of them passes the same tests."""

from __future__ import annotations

import pytest
import torch
from loss_examples import (
    VARIANTS,
    Variant,
    batch,
    perfect_outputs,
    random_outputs,
    unannotated_outputs,
)
from torch import Tensor

from PartialSegLib.errors import CollectionError
from PartialSegTraining.losses import LOSSES, UNKNOWN, LossTerms, SegmentationLoss, deep_supervision_weights

every_loss = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
IGNORING = {name: variant for name, variant in VARIANTS.items() if not variant.merges}
MERGING = {name: variant for name, variant in VARIANTS.items() if variant.merges}


def gradient(loss: SegmentationLoss, logits: Tensor, target: Tensor, task: Tensor) -> tuple[LossTerms, Tensor]:
    """The terms of a loss, and the gradient of their sum by the logits."""
    logits = logits.detach().clone().requires_grad_()
    terms = loss([logits], target, task)
    terms.total.backward()
    assert logits.grad is not None
    return terms, logits.grad


def values(terms: LossTerms) -> dict[str, float]:
    return {name: term.item() for name, term in terms.terms.items()}


def test_every_loss_has_an_example() -> None:
    assert {variant.name for variant in VARIANTS.values()} == set(LOSSES)


@pytest.mark.parametrize("variant", IGNORING.values(), ids=IGNORING)
@pytest.mark.parametrize("value", [0.0, 1e30, float("inf"), float("-inf"), float("nan")])
def test_unannotated_structure_gives_no_gradient(variant: Variant, value: float) -> None:
    """Whatever the network says of it: no gradient goes there, and nothing else changes."""
    loss, (target, task) = variant.build(), batch(variant.space)
    logits = random_outputs(loss, target)
    before, usual = gradient(loss, logits, target, task)
    unannotated = unannotated_outputs(variant)
    assert unannotated
    for sample, channel in unannotated:
        assert torch.count_nonzero(usual[sample, channel]) == 0
        logits[sample, channel] = value
    after, wild = gradient(loss, logits, target, task)
    assert values(after) == values(before)
    assert torch.equal(wild, usual)
    assert torch.count_nonzero(usual) > 0


@pytest.mark.parametrize("variant", MERGING.values(), ids=MERGING)
def test_a_merged_structure_is_seen_only_through_the_sum_with_what_it_is_merged_into(variant: Variant) -> None:
    """Sample 0 annotates the liver and its tumor: the pancreas is background, the tumor of its vessels is liver."""
    loss, (target, task) = variant.build(), batch(variant.space)
    keys = ("background", *variant.label_space.select())
    logits = random_outputs(loss, target, dtype=torch.float64)
    before, slope = gradient(loss, logits, target.double(), task)
    for merged, into in (("pancreas", "background"), ("hepatic_vessel_tumor", "liver")):
        pair = [keys.index(merged), keys.index(into)]
        share = logits[0, pair].softmax(0)
        moved = logits.clone()
        # Three quarters of the sum's probability for one, a quarter for the other.
        parts = torch.tensor([0.75, 0.25], dtype=torch.float64).log()[:, None, None, None]
        moved[0, pair] = logits[0, pair].logsumexp(0) + parts
        after, _ = gradient(loss, moved, target.double(), task)
        for term in ("dice", "ce"):
            assert values(after)[term] == pytest.approx(values(before)[term], rel=1e-12)
        if variant.name == "target-adaptive":
            ratio = slope[0, pair[0]] * share[1] - slope[0, pair[1]] * share[0]
            torch.testing.assert_close(ratio, torch.zeros_like(ratio), rtol=0, atol=1e-15)


@every_loss
def test_a_batch_without_any_annotation_costs_nothing(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    terms, slope = gradient(loss, random_outputs(loss, target), torch.full_like(target, UNKNOWN), task)
    assert set(values(terms).values()) == {0.0}
    assert torch.count_nonzero(slope) == 0


@every_loss
def test_a_sample_without_any_annotation_changes_nothing(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    logits = random_outputs(loss, target)
    more_logits, more_task = torch.cat([logits, logits[:1]]), torch.cat([task, task[:1]])
    more_target = torch.cat([target, torch.full_like(target[:1], UNKNOWN)])
    terms, slope = gradient(loss, logits, target, task)
    more, more_slope = gradient(loss, more_logits, more_target, more_task)
    assert values(more) == pytest.approx(values(terms), rel=1e-6)
    torch.testing.assert_close(more_slope[:-1], slope)
    assert torch.count_nonzero(more_slope[-1]) == 0


@every_loss
def test_the_order_of_samples_does_not_matter(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    logits = random_outputs(loss, target)
    turned = loss([logits.flip(0)], target.flip(0), task.flip(0))
    assert values(turned) == pytest.approx(values(loss([logits], target, task)), rel=1e-5)


@every_loss
def test_a_perfect_prediction_is_the_minimum(variant: Variant) -> None:
    """Logits that are free to fall from anywhere come close to the cost of perfect ones, and not below."""
    loss, (target, task) = variant.build(), batch(variant.space)
    perfect, slope = gradient(loss, perfect_outputs(variant, target, task), target, task)
    assert slope.abs().max() < 1e-6
    logits = random_outputs(loss, target).requires_grad_()
    first = loss([logits], target, task).total.item()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        total = loss([logits], target, task).total
        total.backward()
        optimizer.step()
    best = perfect.total.item()
    assert best - 1e-5 < total.item() < best + 0.05 * (first - best)


@every_loss
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_masks_that_are_empty_or_full_cost_something_finite(variant: Variant, value: float, scale: float) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    same = torch.where(target == UNKNOWN, target, value)
    terms, slope = gradient(loss, scale * random_outputs(loss, target), same, task)
    assert torch.isfinite(torch.stack(list(terms.terms.values()))).all()
    assert torch.isfinite(slope).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_judged_in_single_precision(variant: Variant, dtype: torch.dtype) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    half = random_outputs(loss, target).to(dtype)
    terms, slope = gradient(loss, half, target, task)
    assert {term.dtype for term in terms.terms.values()} == {torch.float32}
    assert slope.dtype == dtype
    assert values(terms) == values(loss([half.float()], target, task))


@every_loss
def test_gradients_are_those_of_the_loss(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space, shape=(2, 2, 3))
    logits = random_outputs(loss, target, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss([x], target.double(), task).total, [logits], fast_mode=True)


@every_loss
def test_terms_have_names_that_do_not_depend_on_the_batch(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    logits = random_outputs(loss, target)
    terms = loss([logits], target, task)
    unknown = loss([logits[:1]], torch.full_like(target[:1], UNKNOWN), task[:1])
    assert list(terms.terms) == list(unknown.terms)
    assert terms.total.item() == pytest.approx(sum(values(terms).values()), rel=1e-6)


@every_loss
def test_coarser_outputs_are_judged_by_coarser_targets(variant: Variant) -> None:
    loss, (target, task) = variant.build(dropped_outputs=0), batch(variant.space)
    fine = random_outputs(loss, target)
    # Voxel centers of 2 of 4, 3 of 6 and 2 of 5 voxels lie nearest to these.
    small = target[:, :, [1, 3]][:, :, :, [1, 3, 5]][..., [1, 3]]
    coarse = random_outputs(loss, small, seed=2)
    both = loss([fine, coarse], target, task).total.item()
    single = [loss([fine], target, task).total.item(), loss([coarse], small, task).total.item()]
    assert both == pytest.approx(2 / 3 * single[0] + 1 / 3 * single[1], rel=1e-5)
    assert loss([fine, coarse], [target, small], task).total.item() == pytest.approx(both, rel=1e-6)


@every_loss
def test_the_coarsest_output_may_be_dropped(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    fine = random_outputs(loss, target)
    coarse = torch.full_like(fine[..., :1, :1, :1], float("nan"))
    assert values(loss([fine, coarse], target, task)) == values(loss([fine], target, task))


def test_deep_supervision_weights_are_those_of_the_published_networks() -> None:
    assert deep_supervision_weights(5, 1) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0.0])
    assert deep_supervision_weights(5, 0) == pytest.approx([16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31])
    assert deep_supervision_weights(1, 1) == [1.0]


@every_loss
def test_outputs_with_channels_of_no_use_are_refused(variant: Variant) -> None:
    loss, (target, task) = variant.build(), batch(variant.space)
    logits = random_outputs(loss, target)
    with pytest.raises(CollectionError, match=f"output of {loss.channels + 1} channels does not fit"):
        loss([torch.cat([logits, logits[:, :1]], 1)], target, task)


def test_outputs_of_another_kind_of_classes_are_refused() -> None:
    """A network with classes of its own for each task has too few for a loss on those of all tasks."""
    task_classes, all_classes = VARIANTS["dice-ce"].build(), VARIANTS["target-adaptive"].build()
    target, task = batch("mots")
    with pytest.raises(CollectionError, match=r"output of 3 channels .* it judges 12"):
        all_classes([random_outputs(task_classes, target)], target, task)
    with pytest.raises(CollectionError, match=r"output of 12 channels .* it judges 3"):
        task_classes([random_outputs(all_classes, target)], target, task)


#: Losses that are made of sums: those of several processes are the loss of one batch.
SUMMED = sorted(set(VARIANTS) - {"lovasz-focal", "multitalent as released"})


@pytest.mark.parametrize("name", SUMMED)
def test_sums_added_over_processes_give_the_loss_of_one_batch(name: str) -> None:
    """Two processes with a part of the batch each know of the other's sums what an all-reduce tells them."""
    variant = VARIANTS[name]
    target, task = batch(variant.space)
    logits = random_outputs(variant.build(), target)
    whole, slope = gradient(variant.build(), logits, target, task)
    parts = [slice(0, 2), slice(2, None)]
    told: list[list[Tensor]] = []

    def listen(sums: Tensor) -> Tensor:
        told[-1].append(sums.detach())
        return sums

    for part in parts:
        told.append([])
        variant.build(listen)([logits[part]], target[part], task[part])
    for part, others in zip(parts, reversed(told), strict=True):
        heard = iter(others)
        terms, own = gradient(
            variant.build(lambda sums, heard=heard: sums + next(heard)), logits[part], target[part], task[part]
        )
        assert values(terms) == pytest.approx(values(whole), rel=1e-5, abs=1e-6)
        torch.testing.assert_close(own, slope[part])
    assert torch.count_nonzero(slope) > 0


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_process_without_annotations_takes_part_in_the_sum(name: str) -> None:
    """All processes of an all-reduce have to call it, or it waits forever."""
    variant = VARIANTS[name]
    calls: list[list[tuple[int, ...]]] = []
    target, task = batch(variant.space)

    def listen(sums: Tensor) -> Tensor:
        calls[-1].append(tuple(sums.shape))
        return sums

    loss = variant.build(listen)
    for case in (target, torch.full_like(target, UNKNOWN)):
        calls.append([])
        loss([random_outputs(loss, target)], case, task)
    assert calls[0] == calls[1] != []


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CollectionError, match=r"no loss 'dicee'\. Known: dodnet"):
        Variant("dicee").build()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dodnet", {"dropped": 1}, "did you mean 'dropped_outputs'"),
        ("dodnet", {"dropped_outputs": -1}, "'dropped_outputs' is -1"),
        ("multitalent", {"pooling": "rank"}, "'pooling' is rank"),
        ("dice-ce", {"classes": "all"}, "'classes' is all"),
        ("target-adaptive", {"unannotated": "ignore"}, "'unannotated' is ignore"),
        ("hierarchical", {}, "Unknown structure 'kidney_cyst' in label space 'MOTS'"),
        ("hierarchical", {"hierarchy": [{"structures": [], "weight": 1.0}]}, "'structures' is"),
        ("lovasz-focal", {"gamma": 0.5}, "'gamma' is 0.5"),
        ("marginal-exclusion", {"exclusion": -1.0}, "'exclusion' is -1.0"),
    ],
)
def test_a_mistake_in_the_parameters_of_a_loss_is_named(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(CollectionError, match=message):
        Variant(name, parameters=parameters).build()
