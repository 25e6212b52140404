"""Writes a partially labelled collection of phantoms, and a fully annotated test set.

One dataset per task in the layout of the Medical Segmentation Decathlon, each annotated for that
task alone, as in MOTS; ``collection.json`` says what every label value means. Called by
``partialseg phantom`` and by ``partialseg train`` for recipes that train on phantoms.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import CollectionError
from PartialSegLib.images import Image, Vector, write_image
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegLib.structures import LabelSpace, Task
from PartialSegTraining.phantoms.phantom import GENERATOR_VERSION, Phantom, generate_phantom

#: Name of the file that describes a collection.
DESCRIPTION = "collection.json"
# Test cases take stream 0, those of a dataset its number, its cases of the whole trunk this much more.
_TRUNK_STREAMS = 100
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Dataset:
    """What one dataset of the collection annotates.

    Parameters
    ----------
    folder : str
        Its folder (``Task01_Liver``).
    task : str
        Key of its task in the label space.
    labels : dict of int to tuple of str
        Structures that a label value stands for, the one drawn by it first.
    """

    folder: str
    task: str
    labels: dict[int, tuple[str, ...]]

    @classmethod
    def of(cls, number: int, task: Task, space: LabelSpace) -> Dataset:
        """Number the structures of a task from 1; a tumor's value belongs to its organ too."""
        labels: dict[int, tuple[str, ...]] = {}
        for value, key in enumerate(task.structures, start=1):
            organ = space.structure(key).contained_in
            labels[value] = (key, organ) if organ in task.structures and organ is not None else (key,)
        title = "".join(word.capitalize() for word in task.key.split("_"))
        return cls(f"Task{number:02d}_{title}", task.key, labels)

    @property
    def annotated(self) -> tuple[str, ...]:
        """Keys of the structures that its cases annotate."""
        return tuple(keys[0] for keys in self.labels.values())


@dataclass(frozen=True)
class CaseJob:
    """One case to be written; everything a worker process needs.

    Parameters
    ----------
    root : Path
        Folder of the collection.
    name : str
        Name of the case.
    seed : int
        Seed of its phantom.
    dataset : Dataset or None
        Where a training case belongs; ``None`` for a test case.
    spacing : tuple of float or None
        Voxel spacing (x, y, z) in millimetres; drawn per case when ``None``.
    trunk : bool
        Whether its scan shows every structure, as those of test cases do.
    """

    root: Path
    name: str
    seed: int
    dataset: Dataset | None
    spacing: Vector | None
    trunk: bool

    @property
    def files(self) -> tuple[Path, Path]:
        """The image, and the file that is written last: with both, the case is complete."""
        if self.dataset is None:
            folder = self.root / "test" / self.name
            return folder / "image.nii.gz", folder / "segmentations" / "segmentation.json"
        folder, file = self.root / self.dataset.folder, f"{self.name}.nii.gz"
        return folder / "imagesTr" / file, folder / "labelsTr" / file


def write_collection(
    folder: str | Path,
    *,
    cases_per_task: int,
    test_cases: int,
    seed: int,
    trunk_cases_per_task: int = 0,
    spacing: Vector | None = None,
    workers: int = 1,
    monitor: Monitor | None = None,
) -> Path:
    """Write a partially labelled collection of phantoms, or go on with an interrupted one.

    Every training case shows the structures of its task and whatever else lies in its scan, or
    the whole trunk, but only its task is annotated. Test cases show and annotate everything.

    Parameters
    ----------
    folder : path
        Made when missing. Complete cases of the same seed are kept, so that a collection can also
        be enlarged.
    cases_per_task, test_cases : int
        How many cases each of the seven datasets and the test set have.
    seed : int
        Decides every case.
    trunk_cases_per_task : int
        How many more cases each dataset has whose scans show the whole trunk. Without them a
        network asked for colon tumors hardly ever sees a chest, and finds them in lungs too.
    spacing : tuple of float, optional
        Voxel spacing (x, y, z) in millimetres of all cases; drawn per case when not given.
    workers : int
        Processes that make cases; each needs up to 1.5 GB.
    monitor : Monitor, optional
        Told after every case; may cancel between cases.

    Returns
    -------
    Path
        ``collection.json``.

    Raises
    ------
    CollectionError
        When a number is impossible, or the folder holds a collection of another seed, spacing or
        generator.
    CancelledError
        When the monitor cancels; complete cases stay.
    """
    _check(cases_per_task, trunk_cases_per_task, test_cases, seed, workers)
    root, monitor = Path(folder), monitor or Monitor()
    space = LabelSpace.named("mots")
    datasets = [Dataset.of(number, task, space) for number, task in enumerate(space.tasks, start=1)]
    head = {
        "name": "PartialSeg phantoms",
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "spacing": None if spacing is None else list(spacing),
    }
    _require_same_collection(root / DESCRIPTION, head)
    jobs = _plan(root, datasets, cases_per_task, trunk_cases_per_task, test_cases, seed, spacing)
    _make_folders(root, datasets, head)
    _run([job for job in jobs if not all(file.is_file() for file in job.files)], len(jobs), workers, monitor)
    for dataset in datasets:
        _write_json(root / dataset.folder / "dataset.json", _dataset_document(dataset, jobs))
    _write_json(root / DESCRIPTION, head | _collection_document(datasets, jobs))
    return root / DESCRIPTION


def _check(cases_per_task: int, trunk_cases_per_task: int, test_cases: int, seed: int, workers: int) -> None:
    if cases_per_task < 1 or min(trunk_cases_per_task, test_cases, seed) < 0 or workers < 1:
        raise CollectionError(
            f"A collection of {cases_per_task} cases per task, {trunk_cases_per_task} more of the whole trunk and "
            f"{test_cases} test cases (seed {seed}, {workers} workers) is impossible.",
            "Use at least 1 case per task and 1 worker, and no negative number.",
        )


def _plan(
    root: Path,
    datasets: list[Dataset],
    cases_per_task: int,
    trunk_cases_per_task: int,
    test_cases: int,
    seed: int,
    spacing: Vector | None,
) -> list[CaseJob]:
    """Name and seed every case; the seeds depend on the case alone, not on how many there are."""
    jobs = []
    for place, dataset in enumerate(datasets, start=1):
        for kind, amount, stream, trunk in (
            ("", cases_per_task, place, False),
            ("trunk_", trunk_cases_per_task, _TRUNK_STREAMS + place, True),
        ):
            for number in range(1, amount + 1):
                name = f"{dataset.task}_{kind}{number:03d}"
                jobs.append(CaseJob(root, name, _case_seed(seed, stream, number), dataset, spacing, trunk))
    for number in range(1, test_cases + 1):
        jobs.append(CaseJob(root, f"test_{number:03d}", _case_seed(seed, 0, number), None, spacing, trunk=True))
    return jobs


def _case_seed(seed: int, place: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, place, number]).generate_state(1)[0])


def _run(jobs: list[CaseJob], total: int, workers: int, monitor: Monitor) -> None:
    """Make the missing cases, in this process or in several."""
    done = count(total - len(jobs))

    def report() -> None:
        monitor.step("phantoms", next(done), total)

    report()
    if workers > 1 and len(jobs) > 1:
        _run_in_processes(jobs, min(workers, len(jobs)), report)
        return
    for job in jobs:
        make_case(job)
        report()


def _run_in_processes(jobs: list[CaseJob], workers: int, report: Callable[[], None]) -> None:
    """Make cases in several processes and report each; when reporting fails, finish what has begun."""
    # Spawned, not forked: a fork of a process with threads (torch, ITK) may hang.
    context = multiprocessing.get_context("spawn")
    waiting = iter(jobs)
    with _single_threaded(), ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts) as pool:
        # No more is submitted than runs: a cancelled collection waits for one round of cases only.
        running = {pool.submit(make_case, job) for job in islice(waiting, workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                _require_success(future)
                report()
                running |= {pool.submit(make_case, job) for job in islice(waiting, 1)}


def _require_success(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise CollectionError(
            "A process that made phantoms ended unexpectedly; the complete cases are kept.",
            "If memory ran out, use fewer workers. A script that uses several needs the usual "
            "'if __name__ == \"__main__\"' guard.",
        ) from error


def _ignore_interrupts() -> None:
    """Leave Ctrl+C to the parent, which stops after the cases that have begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let processes that start meanwhile compute on one thread each: there is one of them per core."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_case(job: CaseJob) -> None:
    """Generate one phantom and write it; called in the worker processes."""
    image_path, last_path = job.files
    show = None if job.trunk or job.dataset is None else job.dataset.annotated
    phantom = generate_phantom(job.seed, show=show, spacing=job.spacing)
    if job.dataset is None:
        last_path.parent.mkdir(parents=True, exist_ok=True)
        write_image(phantom.image, image_path)
        write_segmentation(phantom.segmentation(), last_path.parent)
    else:
        write_image(phantom.image, image_path)
        write_image(Image(_label_map(phantom, job.dataset), phantom.image.geometry), last_path)


def _label_map(phantom: Phantom, dataset: Dataset) -> np.ndarray:
    """Return (z, y, x) uint8 label values; a tumor overwrites its organ, as in the Decathlon."""
    labels = np.zeros(phantom.image.geometry.shape, np.uint8)
    for value, keys in sorted(dataset.labels.items()):
        labels[phantom.masks[keys[0]]] = value
    return labels


def _make_folders(root: Path, datasets: list[Dataset], head: dict[str, Any]) -> None:
    """Make the folders; the description marks an unfinished collection until every case is there."""
    try:
        for dataset in datasets:
            for part in ("imagesTr", "labelsTr"):
                (root / dataset.folder / part).mkdir(parents=True, exist_ok=True)
        (root / "test").mkdir(exist_ok=True)
    except OSError as error:
        raise CollectionError(f"{root} cannot be made: {error.strerror}.", "Choose another folder.") from error
    if not (root / DESCRIPTION).exists():
        _write_json(root / DESCRIPTION, head | {"complete": False, "datasets": []})


def _require_same_collection(path: Path, head: dict[str, Any]) -> None:
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name, value in head.items() if found.get(name) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise CollectionError(f"{path} is not readable: {error}.", "Choose another folder.") from error
    if differing:
        raise CollectionError(
            f"{path.parent} holds a collection with another {differing[0]}: "
            f"{found.get(differing[0])!r} instead of {head[differing[0]]!r}.",
            "Choose another folder, or remove it.",
        )


def _dataset_document(dataset: Dataset, jobs: list[CaseJob]) -> dict[str, Any]:
    """Return ``dataset.json`` as the Medical Segmentation Decathlon has it."""
    names = [job.name for job in jobs if job.dataset == dataset]
    return {
        "name": dataset.folder,
        "description": "Synthetic CT, annotated for one task only.",
        "reference": "PartialSeg phantoms",
        "licence": "Apache-2.0",
        "release": str(GENERATOR_VERSION),
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(value): keys[0] for value, keys in dataset.labels.items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
        ],
        "test": [],
    }  # fmt: skip


def _collection_document(datasets: list[Dataset], jobs: list[CaseJob]) -> dict[str, Any]:
    """Return what ``collection.json`` says about the datasets and the test set."""

    def seeds(dataset: Dataset | None) -> dict[str, int]:
        return {job.name: job.seed for job in jobs if job.dataset == dataset}

    return {
        "complete": True,
        "label_space": "mots",
        "datasets": [
            {
                "folder": dataset.folder,
                "task": dataset.task,
                "labels": {str(value): sorted(keys) for value, keys in dataset.labels.items()},
                "annotated": list(dataset.annotated),
                "seeds": seeds(dataset),
            }
            for dataset in datasets
        ],
        "test": {"folder": "test", "seeds": seeds(None)},
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with atomic_write(path) as stream:
        stream.write((json.dumps(document, indent=1) + "\n").encode("utf-8"))
