"""The feature cache: nothing is computed twice, not a bit changes, and no limit is passed."""

from __future__ import annotations

import gc
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundles import TINY, bundle_of, random_bundle, random_dodnet
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor, extractors, planner, predictor
from PartialSegLib.inference.featurecache import CachingExtractor, FeatureCache
from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.contract import Features
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Segmentation

GIB = 2**30
WINDOW = (16, 32, 32)
#: Bytes of the features of one window, but for the pooled ones.
MAP = 4 * 8 * 16 * 32 * 32


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling a network takes longer than running these tests."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("models") / "random", window=WINDOW)


@pytest.fixture(scope="module")
def model(bundle: ModelBundle) -> Predictor:
    return Predictor(bundle, "cpu")


def blobs(seed: int = 0) -> Image:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((20, 40, 44)), 2) * 2000
    return Image(values.astype(np.int16), Geometry(values.shape, (2.0, 2.0, 2.0)))


def same(found: Segmentation, expected: Segmentation) -> None:
    assert found.keys == expected.keys
    assert any(expected.masks[key].count for key in expected.keys)
    for key in expected.keys:
        np.testing.assert_array_equal(found.array(key), expected.array(key), err_msg=key)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many windows the backbone saw since the last call."""
    seen = [0]
    features = DoDNet.features

    def counting(self: DoDNet, image: torch.Tensor, task: torch.Tensor | None = None) -> Features:
        if image.device.type != "meta":
            seen[0] += len(image)
        return features(self, image, task)

    def since() -> int:
        count, seen[0] = seen[0], 0
        return count

    monkeypatch.setattr(DoDNet, "features", counting)
    return since


# ---- the same answers


@pytest.mark.parametrize(
    ("preset", "memory", "disk"),
    [("standard", GIB, 0), ("standard", 0, GIB), ("standard", 4 * MAP, GIB), ("fast", GIB, 0)],
    ids=["memory", "files", "both", "region"],
)
def test_the_second_task_computes_no_window_and_not_a_bit_differs(
    model: Predictor, tmp_path: Path, preset: str, memory: int, disk: int
) -> None:
    image, region = blobs(), (0.0, 80.0, 0.0, 50.0, 0.0, 40.0) if preset == "fast" else None
    with FeatureCache(memory, disk, tmp_path) as cache:
        first = model.segment(image, ["liver"], preset, region=region, cache=cache)
        second = model.segment(image, ["kidney"], preset, region=region, cache=cache)
        assert cache.memory_used <= memory
        assert cache.disk_used <= disk
        assert (cache.disk_used > 0) == (memory < GIB)
    assert first.report["windows_from_cache"] == 0
    assert second.report["windows_from_cache"] == second.report["windows"] > 1
    same(second.segmentation, model.segment(image, ["kidney"], preset, region=region).segmentation)


def test_a_run_that_fills_the_cache_gives_the_same_bits(model: Predictor) -> None:
    image = blobs()
    with FeatureCache(GIB, 0) as cache:
        same(model.segment(image, cache=cache).segmentation, model.segment(image).segmentation)


def test_the_backbone_rests_during_the_second_task(
    bundle: ModelBundle, computed: Callable[[], int], tmp_path: Path
) -> None:
    model, image = Predictor(bundle, "cpu"), blobs()
    with FeatureCache(GIB, 0, tmp_path) as cache:
        windows = model.segment(image, ["liver"], cache=cache).report["windows"]
        assert computed() == windows
        model.segment(image, ["kidney", "spleen"], cache=cache)
        assert computed() == 0


def test_uncertainty_of_cached_features_is_the_same(model: Predictor) -> None:
    image = blobs()
    expected = model.segment(image, ["pancreas"], uncertainty=True)
    with FeatureCache(GIB, 0) as cache:
        model.segment(image, ["liver"], cache=cache)
        found = model.segment(image, ["pancreas"], uncertainty=True, cache=cache)
    assert found.uncertainty is not None
    assert expected.uncertainty is not None
    np.testing.assert_array_equal(found.uncertainty.voxels, expected.uncertainty.voxels)
    assert found.report["uncertainty"] == expected.report["uncertainty"]


def test_a_head_that_is_not_pointwise_answers_the_same(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such a head sees the whole map, whose memory layout may decide how it rounds."""
    monkeypatch.setattr(DoDNet, "pointwise_head", lambda self, features, task: None)
    model, image = Predictor(bundle, "cpu"), blobs()
    expected = model.segment(image, ["liver"], "fast").segmentation
    with FeatureCache(0, GIB, tmp_path) as cache:
        model.segment(image, ["liver"], "fast", cache=cache)
        same(model.segment(image, ["liver"], "fast", cache=cache).segmentation, expected)


def test_a_file_gives_back_values_and_memory_layout(tmp_path: Path) -> None:
    values = torch.randn(1, 5, 4, 3, 6, generator=torch.Generator().manual_seed(0))
    with FeatureCache(0, GIB, tmp_path) as cache:
        for name, kept in {
            b"plain": values,
            b"last": values.contiguous(memory_format=torch.channels_last_3d),
            b"half": values.half(),
        }.items():
            cache.put(name, Features(kept, kept[0, :, 0, 0, :1].T))
            found = cache.get(name)
            assert found is not None
            assert (found.map.dtype, found.map.stride()) == (kept.dtype, kept.stride())
            torch.testing.assert_close(found.map, kept, rtol=0, atol=0)
            torch.testing.assert_close(found.pooled, kept[0, :, 0, 0, :1].T, rtol=0, atol=0)
        assert len(cache) == 3


# ---- what is found again, and what is not


def test_other_weights_find_nothing(model: Predictor, tmp_path: Path) -> None:
    other = Predictor(bundle_of(tmp_path / "other", "DoDNet", random_dodnet(TINY, seed=1)), "cpu")
    image = blobs()
    with FeatureCache(GIB, 0) as cache:
        model.segment(image, ["liver"], "fast", cache=cache)
        found = other.segment(image, ["liver"], "fast", cache=cache)
        assert found.report["windows_from_cache"] == 0
        same(found.segmentation, other.segment(image, ["liver"], "fast").segmentation)


def test_another_image_finds_nothing_and_one_changed_in_place_neither(model: Predictor) -> None:
    image = blobs()
    with FeatureCache(GIB, 0) as cache:
        model.segment(image, ["liver"], cache=cache)
        assert model.segment(blobs(1), ["liver"], cache=cache).report["windows_from_cache"] == 0
        image.voxels[:] = blobs(2).voxels
        changed = model.segment(image, ["liver"], cache=cache)
        assert changed.report["windows_from_cache"] == 0
        same(changed.segmentation, model.segment(image, ["liver"]).segmentation)


def test_a_cancelled_run_leaves_whole_windows_that_the_next_one_uses(model: Predictor) -> None:
    image = blobs()
    expected = model.segment(image, ["liver"])
    monitor = Monitor(lambda step: monitor.cancel() if step.done == 3 else None)
    with FeatureCache(GIB, 0) as cache:
        with pytest.raises(CancelledError):
            model.segment(image, ["liver"], monitor=monitor, cache=cache)
        # The monitor is asked after each window: the one in between is whole, too.
        assert len(cache) == 4
        again = model.segment(image, ["liver"], cache=cache)
    assert again.report["windows_from_cache"] == 4 < again.report["windows"]
    same(again.segmentation, expected.segmentation)


def test_groups_of_structures_encode_once(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, image = torch.device("cpu"), blobs()
    expected = model.segment(image).segmentation
    monkeypatch.setattr(predictor, "ladder", lambda device, units: [planner.Plan(cpu, cpu, groups=2)])
    with FeatureCache(GIB, 0) as cache:
        found = model.segment(image, cache=cache)
    assert found.report["windows_from_cache"] == found.report["windows"] // 2
    same(found.segmentation, expected)


def test_a_batch_is_put_together_from_found_and_computed_windows() -> None:
    network = random_dodnet()
    inner = extractors.TorchExtractor(network, torch.device("cpu"))
    windows = torch.randn(4, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = inner(windows)
    with FeatureCache(GIB, 0) as cache, torch.inference_mode():
        caching = CachingExtractor(inner, cache, "owner")
        caching(windows[1:3])
        mixed = caching(windows)
        assert (caching.found, len(cache)) == (2, 4)
    for found, wanted in zip(mixed, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_network_conditioned_on_the_task_keeps_nothing(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoDNet, "features_depend_on_task", True)
    with FeatureCache(GIB, 0) as cache:
        report = model.segment(blobs(), ["liver"], "fast", cache=cache).report
        assert (report["windows_from_cache"], len(cache)) == (0, 0)


def test_a_run_with_a_cache_leaves_the_forecast_of_one_without(bundle: ModelBundle) -> None:
    model, image = Predictor(bundle, "cpu"), blobs()
    with FeatureCache(GIB, 0) as cache:
        model.segment(image, ["liver"], cache=cache)
        before = model.forecast(image, ["kidney"]).seconds
        model.segment(image, ["kidney"], cache=cache)
        assert model.forecast(image, ["kidney"]).seconds == before


# ---- limits


def window(value: float) -> Features:
    """Features of 4 KiB and a little."""
    return Features(torch.full((1, 1, 4, 16, 16), value), torch.zeros(1, 1))


def test_a_run_that_does_not_fit_keeps_its_first_windows(model: Predictor) -> None:
    image = blobs()
    with FeatureCache(4 * MAP, 0) as cache:
        model.segment(image, ["liver"], cache=cache)
        kept = len(cache)
        again = model.segment(image, ["liver"], cache=cache)
        assert 0 < kept == again.report["windows_from_cache"] < again.report["windows"]
        assert cache.memory_used <= 4 * MAP


def test_windows_of_earlier_runs_make_room_the_longest_unused_first() -> None:
    with FeatureCache(3 * 4200, 0) as cache:
        cache.begin_run()
        for name in (b"a", b"b", b"c"):
            cache.put(name, window(0.0))
        cache.begin_run()
        assert cache.get(b"a") is not None
        cache.put(b"d", window(1.0))
        assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_memory_that_a_run_needs_is_given_to_it() -> None:
    with FeatureCache(GIB, GIB) as cache:
        cache.begin_run()
        for number in range(4):
            cache.put(bytes([number]), window(float(number)))
        cache.begin_run(memory_left=2 * 4200)
        assert 0 < cache.memory_used <= 2 * 4200
        assert cache.disk_used > 0
        cache.limit_memory(0)
        assert cache.memory_used == 0
        for number in range(4):
            found = cache.get(bytes([number]))
            assert found is not None
            assert float(found.map.mean()) == number


def test_memory_that_runs_out_is_taken_from_the_cache(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = Predictor(bundle, "cpu"), blobs()
    expected = model.segment(image).segmentation
    with FeatureCache(GIB, GIB) as cache:
        model.segment(image, ["liver"], cache=cache)
        monkeypatch.setattr(model._network, "pointwise_head", _once_out_of_memory(model))
        found = model.segment(image, cache=cache)
        assert cache.memory_used == 0
        assert cache.disk_used > 0
    assert "memory ran out" in found.report["steps"][-1]
    assert found.report["windows_from_cache"] == found.report["windows"]
    same(found.segmentation, expected)


def _once_out_of_memory(model: Predictor) -> Callable:
    real, calls = model._network.pointwise_head, [0]

    def head(features: Features, task: int) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError
        return real(features, task)

    return head


def test_a_slice_of_a_larger_tensor_is_kept_without_the_rest() -> None:
    with FeatureCache(2 * 4200, 0) as cache:
        batch = torch.zeros(100, 1, 4, 16, 16)
        cache.put(b"a", Features(batch[:1], torch.zeros(1, 1)))
        found = cache.get(b"a")
        assert found is not None
        assert found.map.untyped_storage().nbytes() == found.map.nbytes
        batch += 1
        assert float(found.map.sum()) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the memory of a process")
def test_memory_of_forgotten_features_goes_back_to_the_system() -> None:
    import psutil

    size, process = 64 * 2**20, psutil.Process()
    with FeatureCache(GIB, 0) as cache:
        before = process.memory_info().rss
        for number in range(4):
            cache.put(bytes([number]), Features(torch.ones(1, 1, 1, 1, size // 4), torch.zeros(1, 1)))
        assert process.memory_info().rss - before > 3 * size
        cache.clear()
        assert process.memory_info().rss - before < size


# ---- files


def test_files_are_private_and_go_with_the_cache(tmp_path: Path) -> None:
    cache = FeatureCache(0, GIB, tmp_path)
    cache.put(b"a", window(0.0))
    assert cache.folder is not None
    assert cache.folder.parent == tmp_path
    if sys.platform != "win32":
        assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.clear()
    assert (os.listdir(tmp_path), len(cache), cache.folder) == ([], 0, None)
    cache.put(b"a", window(0.0))
    assert os.listdir(tmp_path)
    del cache
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_yet_is_made_when_it_is_needed(tmp_path: Path) -> None:
    with FeatureCache(0, folder=tmp_path / "a" / "b") as cache:
        assert os.listdir(tmp_path) == []
        cache.put(b"a", window(1.0))
        assert cache.folder is not None
        assert cache.folder.parent == tmp_path / "a" / "b"
        assert cache.get(b"a") is not None


def test_a_folder_that_cannot_be_made_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with FeatureCache(0, folder=tmp_path / "file" / "features") as cache:
        cache.put(b"a", window(1.0))
        assert len(cache) == 0


def test_a_file_that_was_cleaned_away_or_cut_is_computed_again(tmp_path: Path) -> None:
    with FeatureCache(0, GIB, tmp_path) as cache:
        for name in (b"gone", b"cut"):
            cache.put(name, window(0.0))
        assert cache.folder is not None
        gone, cut = sorted(cache.folder.iterdir())
        gone.unlink()
        os.truncate(cut, 100)
        assert cache.get(b"gone") is None
        assert cache.get(b"cut") is None
        assert len(cache) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_disk_without_room_costs_no_result(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FeatureCache(0, GIB, tmp_path) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            cache.put(b"a", window(0.0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert cache.get(b"a") is None
        assert cache.folder is not None
        assert os.listdir(cache.folder) == []
        cache.put(b"b", window(0.0))
        assert cache.get(b"b") is not None
