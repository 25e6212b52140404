"""A folder of scans in the module's worker: every scan to its end, whatever becomes of the others.

What the library's batch promises (scans, markers, reports) is tested with it, in ``Testing/lib``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from logic_cases import TASKS, spin

from PartialSegLib.batch import BatchError, BatchJob, find_scans, make_engine, run_batch
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker.errors import WorkerError


@pytest.fixture
def scans(scan: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("Müller, Größe.nrrd", "b.nrrd", "c.nrrd"):
        shutil.copy(scan, folder / name)
    return folder


def test_every_scan_gets_its_segments_and_a_line_in_the_report(
    logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    told: list[Any] = []
    report = logic.segmentFolder(
        scans, tmp_path / "out", tasks=TASKS, model=str(random_model), device="cpu", onCase=told.append
    )
    assert [item.scan for item in told] == [item.scan for item in report.outcomes]
    assert {item.scan for item in told} == {"Müller, Größe", "b", "c"}
    assert not report.failed
    for item in report.outcomes:
        found = read_segmentation(item.output)
        assert dict(item.volumes_ml) == {key: pytest.approx(found.volume_ml(key), abs=1e-3) for key in found.keys}
    table, document = report.paths
    assert len(table.read_text(encoding="utf-8").splitlines()) == 4
    assert document.is_file()


def test_a_second_call_skips_what_is_done_and_tries_again_what_failed(
    logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    settings = {"tasks": ["liver"], "model": str(random_model), "device": "cpu"}
    good = (scans / "b.nrrd").read_bytes()
    (scans / "b.nrrd").write_bytes(good[:2000])
    first = logic.segmentFolder(scans, tmp_path / "out", **settings)
    assert [item.scan for item in first.failed] == ["b"]
    (scans / "b.nrrd").write_bytes(good)
    second = logic.segmentFolder(scans, tmp_path / "out", **settings)
    assert {item.scan: item.earlier for item in second.outcomes} == {"Müller, Größe": True, "b": False, "c": True}
    assert not second.failed


def test_the_command_line_goes_on_where_the_module_stopped(
    logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    logic.segmentFolder(scans, tmp_path / "out", tasks=["liver"], model=str(random_model), device="cpu")
    bundle = ModelBundle.open(random_model)
    job = BatchJob.of(bundle, tmp_path / "out", bundle.card.label_space.select(["liver"]))
    with make_engine("local", job, workers=1) as engine:
        report = run_batch(job, find_scans(scans), engine)
    assert all(item.earlier for item in report.outcomes)


def test_results_of_other_settings_are_not_replaced_unless_the_user_wants_it(
    logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    settings = {"model": str(random_model), "device": "cpu"}
    for name in ("b.nrrd", "c.nrrd"):
        (scans / name).unlink()
    first = logic.segmentFolder(scans, tmp_path / "out", tasks=["liver"], **settings)
    before = Path(first.outcomes[0].output).read_bytes()
    with pytest.raises(BatchError, match="other settings"):
        logic.segmentFolder(scans, tmp_path / "out", tasks=["spleen"], **settings)
    assert Path(first.outcomes[0].output).read_bytes() == before
    report = logic.segmentFolder(scans, tmp_path / "out", tasks=["spleen"], overwrite=True, **settings)
    assert list(report.outcomes[0].volumes_ml) == ["spleen"]


def test_a_cancelled_folder_keeps_what_is_done_and_goes_on_later(
    logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    settings = {"tasks": ["liver"], "model": str(random_model), "device": "cpu"}
    errors: list[Any] = []
    job = logic.segmentFolder(
        scans, tmp_path / "out", **settings, onCase=lambda item: logic.cancel(), onError=errors.append
    )
    spin(logic, job)
    assert job.state == "cancelled"
    assert [error.code for error in errors] == ["cancelled"]
    report = logic.segmentFolder(scans, tmp_path / "out", **settings)
    assert sorted(item.earlier for item in report.outcomes) == [False, False, True]


def test_a_worker_that_cannot_start_ends_the_folder_at_its_first_scan(
    own_logic: Any, scans: Path, tmp_path: Path, random_model: Path
) -> None:
    own_logic.session.client._python = str(tmp_path / "missing-python")
    with pytest.raises(WorkerError) as raised:
        own_logic.segmentFolder(scans, tmp_path / "out", model=str(random_model))
    assert raised.value.code == "worker-start"
