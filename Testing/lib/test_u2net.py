"""3D U2-Net is the released one, keeps its domains apart, and learns a new one without losing the old."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import vectors
from bundles import TWO_MM
from PartialSegLib.bundle import Card, ModelBundle
from PartialSegLib.errors import ImageError, LabelSpaceError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor, predictor
from PartialSegLib.inference.allocation import kept_memory
from PartialSegLib.inference.planner import Plan
from PartialSegLib.networks.exclusive import union_logits
from PartialSegLib.networks.u2net import (
    IndependentU2Net,
    IndependentU2NetParameters,
    U2Net,
    U2NetParameters,
    WeightCount,
    add_domain,
    count_weights,
    train_only,
)
from PartialSegLib.networks.u2net.domains import domain_weights
from PartialSegLib.progress import Monitor
from PartialSegLib.structures import LabelSpace, Task

VARIANTS = ("universal", "shared", "parallel", "series")
#: Heart, liver, hippocampus, prostate, pancreas; the spleen is the new domain.
SIX = LabelSpace.named("u2net")
FIVE = replace(SIX, tasks=SIX.tasks[:5])
HEART, LIVER, HIPPOCAMPUS, PROSTATE, PANCREAS, SPLEEN = range(6)
MODALITIES = (1, 1, 1, 2, 1)
SMALL = U2NetParameters(modalities=MODALITIES, channels=4, halvings=(3, 3, 3))


def tasks(*indices: int) -> torch.Tensor:
    return torch.tensor(indices)


def small(parameters: U2NetParameters = SMALL, label_space: LabelSpace = FIVE) -> U2Net:
    """Return a small network whose weights are neither zero nor equal, in double precision."""
    torch.manual_seed(0)
    network = U2Net(parameters, label_space).eval().double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def image(samples: int = 1, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, channels, 8, 16, 16, generator=generator, dtype=torch.float64)


def answers(network: U2Net, indices: range) -> list[torch.Tensor]:
    """Return the logits of tasks, each for an image of its own modalities."""
    with torch.inference_mode():
        return [network(image(channels=network.input_channels(task)), tasks(task)) for task in indices]


# ---- the released network


@cache
def outline(variant: str) -> U2Net:
    """Return the released network of five domains without storage; it is only looked at."""
    with torch.device("meta"):
        return U2Net(U2NetParameters(variant, MODALITIES), FIVE)


@pytest.fixture(scope="module", params=VARIANTS)
def published(request: pytest.FixtureRequest) -> U2Net:
    """Every variant with the weights of the vectors."""
    network = copy.deepcopy(outline(request.param))
    weights = {name: torch.from_numpy(vectors.filled(name, of.shape)) for name, of in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def expected() -> Mapping[str, np.ndarray]:
    return vectors.arrays("u2net")


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_have_the_published_names_and_shapes(variant: str) -> None:
    shapes = {name: list(weight.shape) for name, weight in outline(variant).state_dict().items()}
    assert shapes == vectors.facts(f"u2net_{variant}_state")


@pytest.mark.parametrize(("precision", "tolerance"), [("", 3e-2), ("f64_", 1e-8)])
def test_logits_are_the_published_ones(
    published: U2Net, expected: Mapping[str, np.ndarray], precision: str, tolerance: float
) -> None:
    network = published.to(torch.float64 if precision else torch.float32)
    compared = 0
    for task in (HEART, HIPPOCAMPUS, PROSTATE):
        name = f"{network.parameters_.variant}_task{task}_{precision}s4"
        if name not in expected:
            continue
        volume = vectors.seeded(0, (1, MODALITIES[task], 64, 64, 64)).to(torch.float64 if precision else torch.float32)
        # A convolution in double precision takes gigabytes, which would be cleared anew for every layer.
        with torch.inference_mode(), kept_memory(volume.device):
            logits = network.class_logits(network.features(volume, tasks(task)), tasks(task))[..., ::4, ::4, ::4]
        torch.testing.assert_close(logits, torch.from_numpy(expected[name]), rtol=0, atol=tolerance)
        compared += 1
    assert compared == (3 if network.parameters_.variant in ("universal", "shared") else 1)


# ---- its size


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_released_networks_have_their_size(variant: str) -> None:
    state = vectors.facts("u2net")["state"][variant]
    assert count_weights(outline(variant)).all == state["n_unique_params"]
    assert len(outline(variant).state_dict()) == state["n_keys"]


def test_counted_as_in_the_paper_the_universal_network_has_17_and_the_shared_one_307_hundred_thousand() -> None:
    # The paper counts 3x3x3 kernels everywhere; released, the last one of each decoder block is 1x1x1.
    assert count_weights(outline("universal")) == WeightCount(all=6_577_460, paper=1_742_320)
    assert count_weights(outline("shared")) == WeightCount(all=33_152_724, paper=28_385_024)
    with torch.device("meta"):
        drawn = U2Net(U2NetParameters("shared", MODALITIES, decoder_kernel=3), FIVE)
    assert count_weights(drawn) == WeightCount(all=35_422_420, paper=30_654_720)


def test_counted_as_in_the_paper_a_new_domain_adds_a_hundred_thousand_weights_or_none() -> None:
    added = {}
    with torch.device("meta"):
        for variant in ("universal", "shared"):
            grown = U2Net(U2NetParameters(variant, (*MODALITIES, 1)), SIX)
            added[variant] = count_weights(grown, SPLEEN)
    assert added == {"universal": WeightCount(144_590, 121_392), "shared": WeightCount(9_710, 0)}


# ---- domains


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_of_a_mixed_batch_are_answered_as_if_alone(variant: str) -> None:
    network, batch, order = small(replace(SMALL, variant=variant)), image(4), (PANCREAS, HIPPOCAMPUS, LIVER, PANCREAS)
    with torch.inference_mode():
        mixed = network.class_logits(network.features(batch, tasks(*order)), tasks(*order))
        for row, task in enumerate(order):
            alone = network.class_logits(network.features(batch[row : row + 1], tasks(task)), tasks(task))[0]
            torch.testing.assert_close(mixed[row, : len(alone)], alone, rtol=1e-9, atol=1e-9)
    assert mixed.shape == (4, 3, 8, 16, 16)
    assert torch.isneginf(mixed[[0, 2, 3], 2]).all()


def test_a_batch_trains_the_shared_weights_and_those_of_its_own_domains() -> None:
    network = small().train()
    network(image(2), tasks(HEART, PANCREAS)).square().mean().backward()
    without = {id(weight) for weight in network.parameters() if weight.grad is None}
    of_others = {id(weight) for task in (LIVER, HIPPOCAMPUS, PROSTATE) for weight in domain_weights(network, task)}
    assert without == of_others


def test_domains_have_no_weight_in_common() -> None:
    network = small()
    owned = [{id(weight) for weight in domain_weights(network, task)} for task in range(5)]
    assert len(set.union(*owned)) == sum(len(part) for part in owned)
    shared = [name for name, weight in network.named_parameters() if id(weight) not in set.union(*owned)]
    assert all(".pwise." in name or "down_samps" in name for name in shared)


def test_images_of_other_modalities_in_one_batch_are_refused_with_the_task() -> None:
    with pytest.raises(ImageError, match=r"'prostate' needs images of 2 channel\(s\), but those of this batch have 1"):
        small()(image(2), tasks(LIVER, PROSTATE))
    with pytest.raises(ImageError, match=r"'liver' needs images of 1 channel\(s\), but those of this batch have 2"):
        small()(image(2, channels=2), tasks(LIVER, PROSTATE))
    assert small()(image(channels=2), tasks(PROSTATE)).shape == (1, 2, 8, 16, 16)


def test_features_without_a_task_are_refused() -> None:
    with pytest.raises(ValueError, match="depend on the task"):
        small().features(image())


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 16, 20)])
def test_a_window_that_is_too_small_or_no_multiple_is_refused_with_its_size(size: tuple[int, int, int]) -> None:
    with pytest.raises(ImageError, match=rf"A window of \({size[0]}, {size[1]}, {size[2]}\) voxels.*\(8, 8, 8\)"):
        small()(torch.zeros(1, 1, *size, dtype=torch.float64), tasks(LIVER))


def test_an_axis_of_few_voxels_is_halved_on_the_last_levels() -> None:
    parameters = replace(SMALL, halvings=(1, 3, 2))
    assert parameters.strides == [(1, 2, 1), (1, 2, 2), (2, 2, 2)]
    network = small(parameters)
    assert network.divisor == (2, 8, 4)
    assert network(image()[:, :, :2, :8], tasks(HEART)).shape == (1, 1, 2, 8, 16)


def test_features_of_half_precision_are_answered_in_that_of_the_weights() -> None:
    network = small().float()
    with torch.inference_mode():
        features = network.features(image().float(), tasks(HIPPOCAMPUS))
        halved = network.logits(features._replace(map=features.map.half()), tasks(HIPPOCAMPUS))
        torch.testing.assert_close(halved, network.logits(features, tasks(HIPPOCAMPUS)), rtol=1e-2, atol=1e-2)


def test_a_voxel_without_a_majority_lies_in_no_mask_where_the_largest_class_would_be() -> None:
    classes = torch.tensor([0.3, 0.4, 0.3]).log().view(1, 3, 1, 1, 1)
    assert classes.argmax(1).item() == 1
    assert (union_logits(classes, ((1,), (2,))).sigmoid() < 0.5).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "general"}, "no variant 'general' among universal, shared"),
        ({"modalities": (0,)}, "images cannot have"),
        ({"halvings": (2, 2, 2)}, "one of them 3 or more"),
        ({"halvings": (5, 5)}, "halvings are three numbers"),
        ({"decoder_kernel": 2}, "decoder kernel of 2"),
    ],
)
def test_parameters_that_make_no_network_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_modalities_are_one_number_or_one_per_task() -> None:
    assert small(replace(SMALL, modalities=(3,))).input_channels(PROSTATE) == 3
    with pytest.raises(ValueError, match=r"3 numbers \(1, 1, 2\) do not fit the 5 tasks"):
        small(replace(SMALL, modalities=(1, 1, 2)))


# ---- a new domain


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_domains_answer_to_the_last_bit_as_before_a_new_one_was_added_and_trained(variant: str) -> None:
    network = small(replace(SMALL, variant=variant))
    before = answers(network, range(5))
    grown = add_domain(network, SIX)
    new = answers(grown, range(SPLEEN, 6))[0]
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1, weight_decay=0.1)
    grown(image(), tasks(SPLEEN)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(old, now) for old, now in zip(before, answers(grown, range(5)), strict=True))
    assert not torch.equal(new, answers(grown, range(SPLEEN, 6))[0])
    assert all(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_belongs_to_the_new_domain_can_be_trained(variant: str) -> None:
    grown = add_domain(small(replace(SMALL, variant=variant)), SIX)
    trainable = {id(weight) for weight in grown.parameters() if weight.requires_grad}
    assert trainable == {id(weight) for weight in domain_weights(grown, SPLEEN)}
    assert sum(weight.numel() for weight in domain_weights(grown, SPLEEN)) == count_weights(grown, SPLEEN).all


def test_a_new_domain_may_have_other_modalities_and_more_classes() -> None:
    kits = LabelSpace.named("kits21")
    space = replace(FIVE, tasks=(*FIVE.tasks, *kits.tasks), structures=(*FIVE.structures, *kits.structures))
    network = small()
    grown = add_domain(network, space, modalities=2)
    with torch.inference_mode():
        assert grown(image(channels=2), tasks(5)).shape[1] == 3
    for old, now in zip(answers(network, range(5)), answers(grown, range(5)), strict=True):
        assert torch.equal(old, now)


def test_a_grown_network_keeps_mode_and_precision() -> None:
    network = small().train()
    grown = add_domain(network, SIX)
    assert grown.training
    assert {weight.dtype for weight in grown.parameters()} == {torch.float64}


def test_training_goes_on_from_saved_weights_with_the_rest_frozen_again() -> None:
    grown = add_domain(small(), SIX)
    loaded = small(grown.parameters_, SIX)
    loaded.load_state_dict(grown.state_dict())
    train_only(loaded, SPLEEN)
    names = [name for name, weight in grown.named_parameters() if weight.requires_grad]
    assert [name for name, weight in loaded.named_parameters() if weight.requires_grad] == names


@pytest.mark.parametrize("changed", [SIX.tasks[1:], FIVE.tasks, (SIX.tasks[5], *FIVE.tasks)])
def test_a_label_space_that_does_not_go_on_from_the_old_one_is_refused(changed: tuple[Task, ...]) -> None:
    with pytest.raises(LabelSpaceError, match=r"does not go on from that of the network.*heart, liver"):
        add_domain(small(), replace(SIX, tasks=changed))


# ---- independent networks

INDEPENDENT = IndependentU2NetParameters(MODALITIES, channels=4, halvings=(3, 3, 3))


def test_an_independent_network_is_the_shared_one_of_a_single_domain() -> None:
    torch.manual_seed(0)
    network = IndependentU2Net(INDEPENDENT, FIVE).eval().double()
    alone = small(replace(SMALL, variant="shared", modalities=(2,)), replace(FIVE, tasks=(FIVE.tasks[PROSTATE],)))
    prefix = f"domains.{PROSTATE}."
    state = network.state_dict()
    alone.load_state_dict({name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)})
    with torch.inference_mode():
        own = network(image(channels=2), tasks(PROSTATE))
        assert torch.equal(own, alone(image(channels=2), tasks(0)))
    assert sum(count_weights(network, task).all for task in range(5)) == count_weights(network).all


def test_independent_networks_may_be_of_different_depth() -> None:
    torch.manual_seed(0)
    deep = replace(INDEPENDENT, halvings=(3, 4, 4, 3, 3, 3, 3, 3, 3, 2, 3, 3, 3, 3, 3))
    network = IndependentU2Net(deep, FIVE).eval()
    assert network.divisor == (8, 16, 16)
    batch = image(2).float().repeat(1, 1, 1, 2, 2)
    with torch.inference_mode():
        mixed = network(batch, tasks(HEART, HIPPOCAMPUS))
        torch.testing.assert_close(mixed[1:], network(batch[1:], tasks(HIPPOCAMPUS)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed[:1, :1], network(batch[:1], tasks(HEART)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("halvings", [(5, 5), (3, 3, 3, 3, 3, 3)])
def test_halvings_of_independent_networks_are_three_numbers_or_three_per_task(halvings: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"halvings are three numbers|2 numbers"):
        IndependentU2Net(replace(INDEPENDENT, halvings=halvings), FIVE)


def test_independent_networks_refuse_images_of_other_modalities_too() -> None:
    with pytest.raises(ImageError, match="'prostate' needs images of 2"):
        IndependentU2Net(INDEPENDENT, FIVE)(image(2).float(), tasks(LIVER, PROSTATE))


# ---- in the engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    network = small().float()
    card = Card(
        name="u2net",
        title="Random weights",
        description="For tests.",
        network="U2Net",
        network_parameters=asdict(SMALL),
        label_space=FIVE,
        preprocessing=TWO_MM,
        window=(16, 32, 32),
    )
    return Predictor(ModelBundle.create(tmp_path_factory.mktemp("models") / "u2net", card, network.state_dict()), "cpu")


class Silent(Monitor):
    """A monitor that must not hear of any work."""

    def step(self, stage: str, done: int, total: int) -> None:
        raise AssertionError(f"{stage} began")


@pytest.fixture(scope="module")
def scan() -> Image:
    voxels = np.random.default_rng(0).normal(0, 200, (12, 30, 40)).astype(np.int16)
    return Image(voxels, Geometry(voxels.shape, (2.0, 2.0, 2.0)))


def test_tasks_of_one_modality_are_segmented(model: Predictor, scan: Image) -> None:
    result = model.segment(scan, ["liver", "hippocampus"])
    assert result.segmentation.keys == ("liver", "hippocampus_anterior", "hippocampus_posterior")
    assert any(mask.count for mask in result.segmentation.masks.values())


@pytest.mark.parametrize(("variant", "half"), [("universal", False), ("shared", True)])
def test_the_universal_network_runs_in_single_precision_on_a_gpu_too(
    model: Predictor, scan: Image, variant: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plans of a GPU, carried out by the processor.
    cpu = torch.device("cpu")
    monkeypatch.setattr(predictor, "ladder", lambda device, units: [Plan(cpu, cpu, half=True)])
    monkeypatch.setattr(model, "_network", small(replace(SMALL, variant=variant)).float())
    assert model.forecast(scan, ["liver"]).plan.half is half


@pytest.mark.parametrize("chosen", [["prostate"], ["liver", "prostate_transition_zone"], None])
def test_a_task_of_two_modalities_is_refused_before_any_work(
    model: Predictor, scan: Image, chosen: list[str] | None
) -> None:
    wanted = "'prostate' of u2net needs an image of 2 channels.*Choose from: heart, liver, hippocampus, pancreas"
    with pytest.raises(ImageError, match=wanted):
        model.segment(scan, chosen, monitor=Silent())
    with pytest.raises(ImageError, match=wanted):
        model.forecast(scan, chosen)


def test_the_cost_of_a_model_whose_first_task_has_two_modalities_is_forecast(tmp_path: Path, scan: Image) -> None:
    space = replace(FIVE, tasks=(FIVE.tasks[PROSTATE], FIVE.tasks[LIVER]))
    parameters = replace(SMALL, modalities=(2, 1))
    card = Card(
        name="two",
        title="Random weights",
        description="For tests.",
        network="U2Net",
        network_parameters=asdict(parameters),
        label_space=space,
        preprocessing=TWO_MM,
        window=(16, 32, 32),
    )
    bundle = ModelBundle.create(tmp_path / "two", card, small(parameters, space).float().state_dict())
    assert Predictor(bundle, "cpu").forecast(scan, ["liver"]).windows > 0
