"""The engine: the same bits as the dense computation, in bounded memory, stopped and mended safely."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundles import TINY, TINY_WINDOW, TWO_MM, random_bundle, random_dodnet
from dense import dense_masks
from PartialSegLib import resampling
from PartialSegLib.errors import CancelledError, ImageError, LabelSpaceError, MemoryForecastError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor, extractors, passes, planner, predictor
from PartialSegLib.networks import DoDNet
from PartialSegLib.postprocessing import apply_rules
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Segmentation

RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch):
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


def blobs(shape=(40, 62, 72), spacing=(1.5, 1.7, 2.3), direction=RAS, seed=0) -> Image:
    """Return a smooth random image in HU, air at one side."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2) * 2000
    voxels = values.astype(np.int16)
    voxels[:, :6] = -1000
    return Image(voxels, Geometry(voxels.shape, spacing, (10.0, -20.0, 30.0), direction))


def count_windows(model: Predictor, monkeypatch) -> list[int]:
    """Count how many windows the backbone of `model` sees."""
    seen = [0]
    features = model._network.__class__.features

    def counting(self, image, task=None):
        if image.device.type != "meta":
            seen[0] += len(image)
        return features(self, image, task)

    monkeypatch.setattr(model._network.__class__, "features", counting)
    return seen


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.6])
def test_slab_result_is_bit_identical_to_the_dense_computation(bundle, overlap, monkeypatch):
    image = blobs()
    preset = replace(predictor.preset_named("standard"), overlap=overlap)
    monkeypatch.setattr(predictor, "preset_named", lambda name: preset)
    monkeypatch.setattr(predictor, "apply_rules", lambda segmentation, label_space, **_: segmentation)
    result = Predictor(bundle, "cpu").segment(image).segmentation
    reference = dense_masks(bundle, image, overlap)
    assert sum(int(mask.sum()) for mask in reference.values()) > 1000
    for key, mask in reference.items():
        np.testing.assert_array_equal(result.array(key), mask, err_msg=key)


@pytest.mark.parametrize("groups", [2, 3, 11])
def test_grouping_of_structures_does_not_change_a_bit(bundle, groups, monkeypatch):
    image, model = blobs(), Predictor(bundle, "cpu")
    whole = model.segment(image).segmentation
    cpu = torch.device("cpu")
    monkeypatch.setattr(predictor, "ladder", lambda device, structures: [planner.Plan(cpu, cpu, groups=groups)])
    grouped = model.segment(image).segmentation
    assert any(whole.masks[key].count for key in whole.keys)
    for key in whole.keys:
        np.testing.assert_array_equal(grouped.array(key), whole.array(key), err_msg=key)


def test_every_window_is_encoded_once_for_all_tasks(bundle, monkeypatch):
    model = Predictor(bundle, "cpu")
    seen = count_windows(model, monkeypatch)
    report = model.segment(blobs()).report
    assert seen[0] == report["windows"]


def test_one_structure_is_the_same_alone_as_among_all(bundle, monkeypatch):
    monkeypatch.setattr(predictor, "apply_rules", lambda segmentation, label_space, **_: segmentation)
    image, model = blobs(), Predictor(bundle, "cpu")
    together = model.segment(image).segmentation
    for key in ("pancreas_tumor", "colon_tumor"):
        alone = model.segment(image, [key]).segmentation
        assert alone.keys == (key,)
        np.testing.assert_array_equal(alone.array(key), together.array(key))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1, 2)])
def test_result_does_not_depend_on_how_the_image_is_stored(bundle, axes, flips):
    image, model = blobs(), Predictor(bundle, "cpu")
    expected = model.segment(image).segmentation
    stored = stored_as(image, axes, flips)
    result = model.segment(stored).segmentation
    assert any(expected.masks[key].count for key in expected.keys)
    for key in expected.keys:
        moved = np.flip(expected.array(key).transpose(axes), flips)
        np.testing.assert_array_equal(result.array(key), moved, err_msg=key)


def stored_as(image: Image, axes: tuple[int, ...], flips: tuple[int, ...]) -> Image:
    """Return the same image with its array axes permuted and flipped."""
    geometry = image.geometry
    voxels = np.flip(image.voxels.transpose(axes), flips)
    affine = geometry.affine
    columns = [affine[:3, 2 - axis] for axis in axes]  # step of each new array axis (z, y, x)
    origin = affine[:3, 3].copy()
    for axis in flips:
        origin += columns[axis] * (voxels.shape[axis] - 1)
        columns[axis] = -columns[axis]
    spacing = [float(np.linalg.norm(column)) for column in reversed(columns)]
    direction = np.stack([c / s for c, s in zip(reversed(columns), spacing, strict=True)], axis=1)
    return Image(voxels, Geometry(voxels.shape, tuple(spacing), tuple(origin), tuple(direction.ravel())))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("stored", [((0, 1, 2), ()), ((2, 0, 1), (0, 2))])
def test_slabs_told_on_the_way_are_the_result_before_it_is_mended(bundle, groups, stored, monkeypatch):
    image, model, slabs = stored_as(blobs((90, 62, 72)), *stored), Predictor(bundle, "cpu"), []
    cpu = torch.device("cpu")
    monkeypatch.setattr(predictor, "ladder", lambda device, structures: [planner.Plan(cpu, cpu, groups=groups)])
    result = model.segment(image, slab=slabs.append).segmentation
    assert len(slabs) > groups
    told = {key: sum(slab.array(key).astype(int) for slab in slabs) for key in result.keys}
    assert max(array.max() for array in told.values()) == 1  # no voxel is told twice
    joined = Segmentation.from_arrays(image.geometry, result.structures, told)
    mended = apply_rules(joined, model.label_space)
    assert any(result.masks[key].count for key in result.keys)
    for key in result.keys:
        np.testing.assert_array_equal(mended.array(key), result.array(key), err_msg=key)


@pytest.mark.parametrize("shape", [(3, 20, 25), (1, 90, 8), (120, 12, 12)])
def test_volumes_smaller_than_a_window_keep_their_grid(bundle, shape):
    image = blobs(shape)
    result = Predictor(bundle, "cpu").segment(image)
    assert result.segmentation.geometry == image.geometry
    assert set(result.report["volumes_ml"]) == set(result.segmentation.keys)


def test_region_of_interest_limits_the_result_and_the_work(bundle):
    image, model = blobs((60, 120, 120), (2.0, 2.0, 2.0)), Predictor(bundle, "cpu")
    low, high = image.geometry.affine @ [80, 80, 20, 1], image.geometry.affine @ [40, 40, 40, 1]
    region = tuple(float(v) for a, b in zip(low[:3], high[:3], strict=True) for v in (min(a, b), max(a, b)))
    whole, part = model.segment(image), model.segment(image, region=region)
    assert part.report["windows"] < whole.report["windows"]
    assert model.forecast(image, region=region).windows == part.report["windows"]
    inside = np.zeros(image.voxels.shape, bool)
    inside[19:42, 39:82, 39:82] = True
    assert any(part.segmentation.masks[key].count for key in part.segmentation.keys)
    for key in part.segmentation.keys:
        assert not part.segmentation.array(key)[~inside].any()


@pytest.mark.parametrize("region", [(10, 5, 0, 10, 0, 10), (9000, 9100, 0, 10, 0, 10)])
def test_region_that_is_empty_or_outside_is_refused(bundle, region):
    with pytest.raises(ImageError, match="region"):
        Predictor(bundle, "cpu").segment(blobs((20, 30, 30)), region=region)


def test_unknown_task_is_refused_before_any_work(bundle, monkeypatch):
    model = Predictor(bundle, "cpu")
    seen = count_windows(model, monkeypatch)
    with pytest.raises(LabelSpaceError, match="livr"):
        model.segment(blobs(), ["livr"])
    assert seen[0] == 0


def test_cancel_answers_before_the_next_window(bundle, monkeypatch):
    model = Predictor(bundle, "cpu")
    seen = count_windows(model, monkeypatch)
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 2 else None)
    with pytest.raises(CancelledError):
        model.segment(blobs(), monitor=monitor)
    assert seen[0] == 3  # the two reported and the one whose report found the wish to stop


@pytest.mark.parametrize("stage", ["prepare", "finish"])
def test_cancel_is_heard_before_and_after_the_windows_too(bundle, stage, monkeypatch):
    def stop(progress):
        if progress.stage == stage:
            monitor.cancel()

    monitor, model = Monitor(stop), Predictor(bundle, "cpu")
    # A plane at a time.
    monkeypatch.setattr(resampling, "_VOXELS", 1)
    seen = count_windows(model, monkeypatch)
    with pytest.raises(CancelledError, match=stage):
        model.segment(blobs(), monitor=monitor)
    assert bool(seen[0]) == (stage == "finish")


def test_progress_counts_every_window_and_estimates_the_time_left(bundle):
    reports = []
    Predictor(bundle, "cpu").segment(blobs(), monitor=Monitor(reports.append))
    windows = [report for report in reports if report.stage == "segment"]
    assert [report.done for report in windows] == list(range(windows[-1].total + 1))
    assert windows[1].seconds_left > 0
    assert windows[-1].seconds_left == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_memory_that_runs_out_halves_the_class_group_and_says_so(bundle, monkeypatch, error):
    image, model = blobs(), Predictor(bundle, "cpu")
    expected = model.segment(image)
    assert expected.report["steps"] == []
    ring = passes.SlabRing

    def small_memory(channels, *arguments):
        if channels > 6:
            raise error
        return ring(channels, *arguments)

    monkeypatch.setattr(passes, "SlabRing", small_memory)
    result = model.segment(image)
    assert "2 groups" in result.report["steps"][0]
    assert (expected.report["memory_ran_out"], result.report["memory_ran_out"]) == (False, True)
    assert (expected.report["forecast"]["groups"], result.report["forecast"]["groups"]) == (1, 2)
    for key in expected.segmentation.keys:
        np.testing.assert_array_equal(result.segmentation.array(key), expected.segmentation.array(key))


def test_memory_that_always_runs_out_ends_in_a_clear_error(bundle, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(passes, "SlabRing", no_memory)
    with pytest.raises(MemoryForecastError, match="the last way to run"):
        Predictor(bundle, "cpu").segment(blobs())


def test_other_errors_are_not_taken_for_a_lack_of_memory(bundle, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("something else")

    monkeypatch.setattr(passes, "SlabRing", broken)
    with pytest.raises(RuntimeError, match="something else"):
        Predictor(bundle, "cpu").segment(blobs())


def test_run_that_cannot_fit_is_refused_with_numbers_before_it_starts(bundle, monkeypatch):
    monkeypatch.setattr(planner, "free_memory", lambda device: 1000)
    monkeypatch.setattr(predictor, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryForecastError, match=r"needs about \d+\.\d GiB"):
        Predictor(bundle, "cpu").segment(blobs())


def test_planner_chooses_class_groups_when_the_ring_does_not_fit(bundle, monkeypatch):
    image, model = blobs((60, 200, 200), (2.0, 2.0, 2.0)), Predictor(bundle, "cpu")
    freely = model.forecast(image)
    monkeypatch.setattr(planner, "free_memory", lambda device: int(freely.host_bytes))
    tightly = model.forecast(image)
    assert freely.plan.groups == 1
    assert tightly.plan.groups > 1
    assert tightly.host_bytes < freely.host_bytes
    assert tightly.windows > freely.windows


def test_forecast_does_not_grow_with_length_but_for_image_and_result(bundle):
    model = Predictor(bundle, "cpu")
    short, long = (model.forecast(blobs((n, 60, 60), (2.0, 2.0, 2.0))) for n in (100, 300))
    slice_bytes = 60 * 60 * 4
    assert long.host_bytes - short.host_bytes <= 200 * slice_bytes * 2


def test_uncertainty_is_the_mean_binary_entropy(bundle, monkeypatch):
    image, model = blobs(), Predictor(bundle, "cpu")
    result = model.segment(image, ["pancreas"], uncertainty=True)
    values = result.uncertainty.voxels
    assert values.shape == image.voxels.shape
    assert result.uncertainty.geometry == image.geometry
    assert values.min() >= 0
    assert values.max() <= 1
    # Where the answer changes from outside to inside, a structure is least certain.
    mask = result.segmentation.array("pancreas")
    edge = mask ^ ndimage.binary_erosion(mask)
    assert values[edge].mean() > values[~edge].mean()
    assert set(result.report["uncertainty"]) == {"pancreas", "pancreas_tumor"}


def test_paper_preset_averages_eight_mirrored_copies(bundle, monkeypatch):
    model = Predictor(bundle, "cpu")
    seen = count_windows(model, monkeypatch)
    image = blobs((30, 40, 40), (2.0, 2.0, 2.0))
    report = model.segment(image, preset="paper").report
    assert report["forecast"]["windows"] == seen[0]
    assert seen[0] % 8 == 0


def test_paper_preset_mirrors_only_along_the_axes_of_the_card(tmp_path, monkeypatch):
    image = blobs((30, 40, 40), (2.0, 2.0, 2.0))
    plain, mirrored = (random_bundle(tmp_path / f"m{len(axes)}", mirror_axes=axes) for axes in ((), (2,)))
    once, twice = (Predictor(model, "cpu").segment(image, preset="paper").report for model in (plain, mirrored))
    assert twice["windows"] == 2 * once["windows"]


def test_network_without_a_pointwise_head_gives_the_same_answer(bundle, monkeypatch):
    image, model = blobs(), Predictor(bundle, "cpu")
    expected = model.segment(image).segmentation
    monkeypatch.setattr(DoDNet, "pointwise_head", lambda self, features, task: None)
    result = model.segment(image).segmentation
    for key in expected.keys:
        difference = int((result.array(key) != expected.array(key)).sum())
        assert difference <= 1e-4 * max(expected.masks[key].count, 10000), key


def test_network_conditioned_on_the_task_is_run_once_per_task(bundle, monkeypatch):
    image, model = blobs((30, 60, 60), (2.0, 2.0, 2.0)), Predictor(bundle, "cpu")
    expected = model.segment(image).segmentation
    monkeypatch.setattr(DoDNet, "features_depend_on_task", True)
    seen = count_windows(model, monkeypatch)
    result = model.segment(image)
    assert seen[0] % 7 == 0
    for key in expected.keys:
        np.testing.assert_array_equal(result.segmentation.array(key), expected.array(key))


def test_openvino_gives_the_same_features():
    pytest.importorskip("openvino")
    network = random_dodnet(TINY)
    window = torch.randn(1, 1, *TINY_WINDOW, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network.features(window)
        features = extractors.OpenVINOExtractor(network, TINY_WINDOW)(window)
    assert float((features.map - expected.map).abs().max() / expected.map.abs().max()) < 1e-4
    assert float((features.pooled - expected.pooled).abs().max()) < 1e-4


def test_openvino_is_used_without_its_telemetry():
    pytest.importorskip("openvino")
    # A process of its own: what other tests imported does not count.
    code = (
        "import sys; from bundles import TINY_WINDOW, random_dodnet;"
        "from PartialSegLib.inference.extractors import OpenVINOExtractor;"
        "[OpenVINOExtractor(random_dodnet(), TINY_WINDOW) for _ in range(2)];"
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    folder = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0


def test_coarse_pass_bounds_the_region_only_when_every_task_was_found(bundle):
    image, model = blobs(), Predictor(bundle, "cpu")
    steps = model.segment(image, preset="fast").report["steps"]
    assert len(steps) == 1
    assert steps[0].startswith(("coarse pass found no", "coarse pass bounded"))


def test_model_without_a_coarse_spacing_skips_the_coarse_pass(tmp_path):
    plain = random_bundle(tmp_path / "plain", preprocessing=replace(TWO_MM, coarse_spacing=None))
    assert Predictor(plain, "cpu").segment(blobs(), preset="fast").report["steps"] == []
