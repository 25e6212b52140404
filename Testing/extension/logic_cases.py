"""What tests of the module's logic share: one worker for many tests, a scan in a scene, a small model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_cases import blobs, until

from PartialSegLib.images import Image
from slicer_scene import SlicerScene

#: Two tasks of the small model; their structures overlap.
TASKS = ["liver", "kidney"]


@pytest.fixture(scope="session")
def shared_logic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One logic, and so one worker, for all tests that do not end it: torch is loaded once."""
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    from PartialSegSlicer.logic.headless import HeadlessLogic

    logic = HeadlessLogic(sys.executable, tmp_path_factory.mktemp("kept") / "cases")
    yield logic
    logic.close()


@pytest.fixture
def logic(shared_logic: Any, slicer_scene: SlicerScene) -> Iterator[Any]:
    """The shared logic in an empty scene; whatever a test leaves running is stopped."""
    yield shared_logic
    if shared_logic.busy:
        shared_logic.cancel()
        until(lambda: shared_logic.poll() or not shared_logic.busy)


@pytest.fixture
def own_logic(slicer_scene: SlicerScene, tmp_path: Path) -> Iterator[Any]:
    """A logic with a worker of its own, for tests that end it."""
    from PartialSegSlicer.logic.headless import HeadlessLogic

    logic = HeadlessLogic(sys.executable, tmp_path / "cases")
    yield logic
    logic.close()


@pytest.fixture
def own_packages() -> Iterator[None]:
    """Bring the packages back that a reload forgot: the other tests of this process know the classes of before."""
    names = ("PartialSegLib", "PartialSegSlicer", "PartialSegWorker")
    kept = {name: item for name, item in sys.modules.items() if name.split(".")[0] in names}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def volume(slicer_scene: SlicerScene) -> Any:
    """A small scan of a few windows in the scene."""
    return slicer_scene.add_volume(small_scan())


def small_scan() -> Image:
    """Return a smooth random image in HU that takes a few windows."""
    return blobs((32, 56, 60))


def large_scan() -> Image:
    """Return one that takes long enough to be stopped midway."""
    return blobs((96, 160, 160))


def unexpected(error: Exception) -> None:
    """Raise what a run tells that should not fail."""
    raise error


def spin(logic: Any, job: Any) -> None:
    """Poll as the timer of the panel does, until a job has ended."""
    until(lambda: logic.poll() or job.ended)


def spin_until_underway(logic: Any, job: Any) -> None:
    """Poll until the worker computes windows."""

    def underway() -> bool:
        logic.poll()
        progress = job.progress
        return job.ended or (progress is not None and progress.stage == "segment" and progress.done > 0)

    until(underway)
    assert not job.ended, job.error
