"""One suite for every engine: a broken scan or a dead worker costs no other scan, and nothing is done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch_work import begins, make_job, make_scans, work

from PartialSegLib.batch import ENGINES, BatchError, BatchJob, Engine, Shard, make_engine, run_batch
from PartialSegLib.batch.contract import WorkerLostError
from PartialSegLib.batch.engines import daskengine
from PartialSegLib.errors import CancelledError, MissingExtraError
from PartialSegLib.progress import Monitor

Maker = Callable[[BatchJob], Engine]


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Workers that are started find the work of these tests."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def ray_cluster(importable: None) -> Iterator[None]:
    """A Ray of two processes, which every engine of the session joins."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What else runs on this computer is not the business of these tests.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 - Ray spells it so
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def dask_cluster(importable: None) -> Iterator[str]:
    """The address of a Dask of two processes."""
    distributed = pytest.importorskip("distributed")
    with daskengine._local_cluster(distributed, 2) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=ENGINES)
def start(request: pytest.FixtureRequest) -> Maker:
    """Starts the engine of a name with two workers."""
    name: str = request.param
    if name == "local":
        request.getfixturevalue("importable")
    cluster = request.getfixturevalue(f"{name}_cluster") if name != "local" else None
    return lambda job: make_engine(name, job, workers=2, address=cluster, work=work)


def test_every_scan_is_segmented_once(start: Maker, tmp_path: Path) -> None:
    scans, job = make_scans(tmp_path / "scans", **{f"s{number}": "fine" for number in range(5)}), make_job(tmp_path)
    with start(job) as engine:
        assert engine.workers == 2
        report = run_batch(job, scans, engine)
        again = run_batch(job, scans, engine)
    assert begins(tmp_path) == [scan.name for scan in scans]
    assert [outcome.done for outcome in report.outcomes] == [True] * 5
    assert not any(outcome.earlier for outcome in report.outcomes)
    assert all(outcome.earlier for outcome in again.outcomes)
    assert {path.name for path in (tmp_path / "results").glob("*.seg.nrrd")} == {f"s{n}.seg.nrrd" for n in range(5)}


def test_a_broken_scan_and_a_dead_worker_cost_no_other_scan(start: Maker, tmp_path: Path) -> None:
    fates = {"a": "fine", "b": "broken", "c": "kills once", "d": "fine", "e": "kills", "f": "fine"}
    scans, job = make_scans(tmp_path / "scans", **fates), make_job(tmp_path)
    with start(job) as engine:
        report = run_batch(job, scans, engine)
    done = {outcome.scan: outcome.done for outcome in report.outcomes}
    assert done == {"a": True, "b": False, "c": True, "d": True, "e": False, "f": True}
    failed = {outcome.scan: outcome.code for outcome in report.failed}
    assert failed == {"b": "image", "e": "worker-lost"}
    # The scan of a worker that died was begun again; no other one was.
    counts = {name: begins(tmp_path).count(name) for name in fates}
    # Only a failure leaves no marker: Dask makes it again where the process that told it is gone.
    assert counts.pop("b") in (1, 2)
    assert counts == {"a": 1, "c": 2, "d": 1, "e": 2, "f": 1}
    message = report.failed[1].message
    assert "'e' died" in message
    assert "2 times" in message


def test_a_scan_that_waits_at_a_process_of_dask_that_dies_was_not_what_killed_it(
    importable: None, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    scans, job = make_scans(tmp_path / "scans", a="kills", b="fine"), make_job(tmp_path)
    (tmp_path / "results" / ".partialseg").mkdir(parents=True)
    with daskengine._local_cluster(distributed, 1) as cluster:
        address = cluster.scheduler_address
        with make_engine("dask", job, workers=1, address=address, work=work) as engine:
            # Both at once, which a batch does only where it sees two processes.
            killing, waiting = [engine.submit(scan) for scan in scans]
            with pytest.raises(WorkerLostError, match="'a' died"):
                killing.result(120)
            assert waiting.result(120).done
    assert begins(tmp_path) == ["a", "b"]
    assert [path.name for path in (tmp_path / "results" / ".partialseg").iterdir()] == ["b.json"]


def test_shards_divide_the_work_and_their_reports(start: Maker, tmp_path: Path) -> None:
    scans, job = make_scans(tmp_path / "scans", **{f"s{number}": "fine" for number in range(5)}), make_job(tmp_path)
    with start(job) as engine:
        parts = [run_batch(job, scans, engine, shard=Shard(number, 2)) for number in (1, 2)]
    assert [[outcome.scan for outcome in part.outcomes] for part in parts] == [["s0", "s2", "s4"], ["s1", "s3"]]
    assert begins(tmp_path) == [scan.name for scan in scans]
    assert {path.name for path in (tmp_path / "results").glob("report*")} == {
        f"report-{number}-of-2.{kind}" for number in (1, 2) for kind in ("csv", "json")
    }


def test_a_stopped_batch_goes_on_where_it_was(start: Maker, tmp_path: Path) -> None:
    scans, job = make_scans(tmp_path / "scans", **{f"s{number}": "fine" for number in range(6)}), make_job(tmp_path)
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 2 else None)
    with start(job) as engine, pytest.raises(CancelledError, match="scans"):
        run_batch(job, scans, engine, monitor=monitor)
    assert not (tmp_path / "results" / "report.csv").exists()
    # What a worker was writing when it was ended has a name that nobody looks at.
    done = {path.stem for path in (tmp_path / "results" / ".partialseg").glob("s*.json")}
    assert 2 <= len(done) < 6
    before = begins(tmp_path)
    with start(job) as engine:
        report = run_batch(job, scans, engine)
    assert not report.failed
    # What was done is not begun again; what a worker was ended at may have been begun twice.
    counts = {scan.name: begins(tmp_path).count(scan.name) for scan in scans}
    assert all(counts[name] == before.count(name) == 1 for name in done)


def test_an_engine_that_is_not_known_or_has_no_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="no engine 'slurm'"):
        make_engine("slurm", make_job(tmp_path))
    with pytest.raises(BatchError, match="'local' has no address"):
        make_engine("local", make_job(tmp_path), address="tcp://host:1")


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"partialseg\[{name}\]"):
        make_engine(name, make_job(tmp_path))
