"""The engine with networks that see the task: one pass per window and task, never one per structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundles import bundle_of, random_network
from dense import dense_masks
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor, extractors, planner, predictor
from PartialSegLib.inference.division import Division
from PartialSegLib.progress import Monitor, Progress
from PartialSegLib.structures import LabelSpace

SMALL: dict[str, Any] = {"channels": (4, 4, 8, 8, 8), "blocks": (1, 1, 1, 1, 1), "groups": 2}
CONDITIONED = ("TGNet", "CondInput", "CondDec", "MultiNets", "MultiHead")
UNCONDITIONED = ("TAL", "CondNO")
WINDOW = (16, 32, 32)
MOTS = LabelSpace.named("mots")


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)
    monkeypatch.setattr(predictor, "apply_rules", lambda segmentation, label_space, **_: segmentation)


def bundle(folder: Path, name: str) -> ModelBundle:
    """Write a small bundle whose answers change from task to task wherever the network sees the task."""
    network = random_network(name, SMALL)
    return bundle_of(folder / name.lower(), name, network, WINDOW)


def image() -> Image:
    """Return a smooth random image in HU that takes several windows."""
    values = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((16, 44, 30)), 2) * 2000
    return Image(values.astype(np.int16), Geometry(values.shape, (2.0, 2.0, 2.0)))


def count_passes(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gather the task of every window that the backbone of `model` sees; -1 for none."""
    seen: list[int] = []
    kind = model._network.__class__
    features = kind.features

    def counting(self: Any, image: torch.Tensor, task: torch.Tensor | None = None) -> Any:
        if image.device.type != "meta":
            seen.extend([-1] * len(image) if task is None else task.tolist())
        return features(self, image, task)

    monkeypatch.setattr(kind, "features", counting)
    return seen


def divided(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Make the predictor divide the structures into groups."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(predictor, "ladder", lambda device, units: [planner.Plan(cpu, cpu, groups=groups)])


@pytest.mark.parametrize("name", CONDITIONED)
def test_each_task_is_one_pass_and_the_result_is_that_of_the_dense_computation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Predictor(bundle(tmp_path, name), "cpu")
    seen = count_passes(model, monkeypatch)
    expected = model.forecast(image())
    result = model.segment(image())
    windows = len(seen) // 7
    assert windows > 1
    assert seen == list(range(7)) * windows
    assert expected.windows == result.report["windows"] == len(seen)
    reference = dense_masks(model.bundle, image(), 0.5)
    assert sum(int(mask.sum()) for mask in reference.values()) > 1000
    for key, mask in reference.items():
        np.testing.assert_array_equal(result.segmentation.array(key), mask, err_msg=key)


@pytest.mark.parametrize("name", UNCONDITIONED)
def test_a_network_without_a_condition_encodes_once_for_all_tasks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Predictor(bundle(tmp_path, name), "cpu")
    seen = count_passes(model, monkeypatch)
    result = model.segment(image())
    assert seen == [-1] * result.report["windows"]
    reference = dense_masks(model.bundle, image(), 0.5)
    for key, mask in reference.items():
        np.testing.assert_array_equal(result.segmentation.array(key), mask, err_msg=key)


@pytest.mark.parametrize("groups", [2, 3, 7, 11])
def test_dividing_the_structures_never_computes_a_task_twice(
    groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Predictor(bundle(tmp_path, "CondInput"), "cpu")
    whole = model.segment(image()).segmentation
    seen = count_passes(model, monkeypatch)
    divided(monkeypatch, groups)
    expected = model.forecast(image())
    grouped = model.segment(image()).segmentation
    assert len(seen) == expected.windows
    assert {seen.count(task) for task in range(7)} == {len(seen) // 7}
    for key in whole.keys:
        np.testing.assert_array_equal(grouped.array(key), whole.array(key), err_msg=key)


def test_only_the_chosen_tasks_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Predictor(bundle(tmp_path, "TGNet"), "cpu")
    seen = count_passes(model, monkeypatch)
    chosen = ["liver_tumor", "liver", "spleen"]
    expected = model.forecast(image(), chosen)
    model.segment(image(), chosen)
    assert set(seen) == {MOTS.task_index("liver"), MOTS.task_index("spleen")}
    assert len(seen) == expected.windows


def test_mirrored_copies_are_passes_of_their_own_for_each_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Predictor(bundle(tmp_path, "CondDec"), "cpu")
    seen = count_passes(model, monkeypatch)
    report = model.segment(image(), ["liver", "spleen"], preset="paper").report
    assert len(seen) == report["windows"]
    assert len(seen) % (8 * 2) == 0


def test_progress_ends_at_its_total_when_there_are_fewer_tasks_than_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided(monkeypatch, 5)
    steps: list[Progress] = []
    model = Predictor(bundle(tmp_path, "CondInput"), "cpu")
    model.segment(image(), ["liver", "pancreas"], monitor=Monitor(steps.append))
    windows = [step for step in steps if step.stage == "segment"]
    assert windows[-1].done == windows[-1].total


# ---- how structures are divided


def test_structures_of_one_task_stay_together_where_features_depend_on_it() -> None:
    structures = MOTS.select()
    division = Division.of(random_network("CondInput", SMALL), structures)
    assert [len(unit) for unit in division.units] == [2, 2, 2, 2, 1, 1, 1]
    assert division.groups(2) == [list(structures[:8]), list(structures[8:])]
    assert [division.widest(count) for count in (1, 2, 7)] == [11, 8, 2]
    assert [division.encodings(count) for count in (1, 2, 7)] == [7, 7, 7]


def test_structures_are_divided_one_by_one_where_features_are_shared() -> None:
    division = Division.of(random_network("CondNO", SMALL), MOTS.select())
    assert [division.widest(count) for count in (1, 2, 11, 20)] == [11, 6, 1, 1]
    assert [division.encodings(count) for count in (1, 2, 11, 20)] == [1, 2, 11, 11]


def test_the_forecast_holds_the_logits_of_every_task_beside_its_features(tmp_path: Path) -> None:
    conditioned, shared = (Predictor(bundle(tmp_path, name), "cpu") for name in ("CondDec", "CondNO"))
    all_tasks, one_task = (conditioned.forecast(image(), chosen).host_bytes for chosen in (None, ["liver"]))
    free_all, free_one = (shared.forecast(image(), chosen).host_bytes for chosen in (None, ["liver"]))
    voxels = WINDOW[0] * WINDOW[1] * WINDOW[2]
    assert (all_tasks - one_task) - (free_all - free_one) == 9 * voxels * 4


def test_the_forecast_knows_how_wide_the_feature_map_is() -> None:
    dodnet, wide = random_network("DoDNet", SMALL), random_network("CondNO", SMALL | {"channels": (32, 4, 4, 4, 4)})
    assert [planner.network_costs(network, WINDOW).map_channels for network in (dodnet, wide)] == [8, 32]


@pytest.mark.parametrize("name", UNCONDITIONED)
def test_openvino_computes_the_same_features(name: str) -> None:
    pytest.importorskip("openvino")
    network = random_network(name, SMALL)
    window = torch.randn(2, 1, *WINDOW, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network.features(window)
        found = extractors.OpenVINOExtractor(network, WINDOW)(window)
    assert float((found.map - expected.map).abs().max() / expected.map.abs().max()) < 1e-4
    assert found.pooled.shape == expected.pooled.shape == (2, 0)
