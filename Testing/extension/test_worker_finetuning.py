"""Fine-tuning in a real worker: the loss on the way, keep or discard, and nothing half-made left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finetuning_cases import write_case
from worker_cases import PATIENCE, Conversation, failed, polled, segment

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import BundleError, CollectionError
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker import WorkerClient, undecided
from PartialSegWorker.errors import InstallationError, ProtocolError
from PartialSegWorker.finetunework import (
    DiscardParameters,
    FineTuneParameters,
    KeepParameters,
    discard_model,
    fine_tune,
    keep_model,
)

STEPS = 4


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return random_bundle(tmp_path_factory.mktemp("models") / "parent", window=(16, 32, 32))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two cases with a liver and its tumor, as Slicer's side exports them; the second has a gallbladder too."""
    folder = tmp_path_factory.mktemp("cases")
    return [
        str(write_case(folder / "one", ["liver", "liver_tumor"], 1, listed=True)),
        str(write_case(folder / "two", ["liver", "liver_tumor", "gallbladder"], 2, listed=True)),
    ]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installed")


@pytest.fixture(autouse=True)
def same_models(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks at the worker's models, and never at those of whoever runs the tests."""
    monkeypatch.setenv("PARTIALSEG_MODELS", str(installed))


@pytest.fixture(scope="module")
def trainer(quick: tuple[Path, ...], installed: Path) -> Iterator[WorkerClient]:
    with WorkerClient(
        sys.executable, folders=quick, environment=os.environ | {"PARTIALSEG_MODELS": str(installed)}
    ) as it:
        yield it


def wanted(parent: ModelBundle, cases: list[str], **more: Any) -> FineTuneParameters:
    names = {"structures": ["liver", "liver_tumor"], "device": "cpu", "options": {"head_steps": STEPS}} | more
    return FineTuneParameters(cases, str(parent.folder), **names)


def left(private: Path) -> list[str]:
    """Return what is left of new models, in the private folder and where they wait."""
    return [
        name for folder in (private / "finetuned", undecided.home()) if folder.is_dir() for name in os.listdir(folder)
    ]


def names(client: WorkerClient) -> list[str]:
    told = client.wait(client.request("models"), PATIENCE)
    return [model["name"] for model in told["models"]]


def test_a_model_learns_shows_its_loss_and_is_there_once_it_is_kept(
    trainer: WorkerClient, installed: Path, parent: ModelBundle, cases: list[str]
) -> None:
    events: list[dict[str, Any]] = []
    stages: list[str] = []
    request = trainer.request(
        "finetune",
        wanted(parent, cases[:1], held_out=cases[1:], name="corrected"),
        listener=events.append,
        progress=lambda step: stages.append(step.stage),
    )
    told = trainer.wait(request, PATIENCE)
    assert [event["event"] for event in events] == ["loss"] * STEPS
    assert [event["step"] for event in events] == list(range(1, STEPS + 1))
    assert all(event["loss"] > 0 and event["phase"] == "head" for event in events)
    assert "head" in stages
    assert told["name"] == "corrected"
    assert set(told["before"]) == set(told["after"]) == {"liver", "liver_tumor"}
    assert told["judged_by"] == "held-out"
    assert told["better"] in (True, False)
    assert told["verdict"]
    assert Path(told["bundle"]).is_relative_to(installed / ".undecided")
    assert "corrected" not in names(trainer)

    kept = trainer.wait(trainer.request("keep", KeepParameters(told["bundle"])), PATIENCE)
    assert kept == {"model": "corrected"}
    assert "corrected" in names(trainer)
    assert os.listdir(installed) == ["corrected"]
    assert left(trainer.folder) == []
    # The next run uses it.
    parameters = segment(trainer, Path(cases[1]) / "image.nii.gz", "corrected")
    result = trainer.wait(trainer.request("segment", parameters), PATIENCE)
    assert result["report"]["model"] == "corrected"
    assert read_segmentation(result["output"]).keys == ("liver", "liver_tumor")
    assert failed(trainer, trainer.request("discard", DiscardParameters(told["bundle"]))).code == "bundle"


def test_held_out_cases_judge_what_is_not_learned_too(
    parent: ModelBundle, cases: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path / "models"))
    spleen = str(write_case(tmp_path / "three", ["spleen"], 3, listed=True))
    learned = wanted(parent, cases[:1], structures=["liver"], held_out=[cases[1], spleen])
    told = fine_tune(learned, tmp_path / "private", Monitor(), lambda event, fields: None)
    assert told["trained"] == ["liver"]
    # The tumor has the head of the liver; the spleen has its own, which answers as before.
    assert set(told["before"]) == set(told["after"]) == {"liver", "liver_tumor"}
    assert told["judged_by"] == "held-out"


def test_a_structure_that_the_parent_does_not_know_becomes_a_task_and_can_be_discarded(
    trainer: WorkerClient, installed: Path, parent: ModelBundle, cases: list[str]
) -> None:
    before = os.listdir(installed)
    request = trainer.request("finetune", wanted(parent, cases[1:], structures=["gallbladder"], name="grown"))
    told = trainer.wait(request, PATIENCE)
    child = ModelBundle.open(told["bundle"])
    assert "gallbladder" in child.card.label_space.select()
    assert set(parent.card.label_space.select()) < set(child.card.label_space.select())
    assert trainer.wait(trainer.request("discard", DiscardParameters(told["bundle"])), PATIENCE) == {}
    assert left(trainer.folder) == []
    assert os.listdir(installed) == before


def test_a_cancelled_fine_tuning_leaves_nothing_and_the_worker_goes_on(
    trainer: WorkerClient, installed: Path, parent: ModelBundle, cases: list[str]
) -> None:
    before = os.listdir(installed)
    events: list[dict[str, Any]] = []
    endless = wanted(parent, cases[:1], options={"head_steps": 10**6})
    request = trainer.request("finetune", endless, listener=events.append)
    polled(trainer, lambda: events or request.finished)
    assert trainer.hello is not None
    pid = trainer.hello["pid"]
    trainer.cancel(request)
    assert failed(trainer, request).cancelled
    assert left(trainer.folder) == []
    assert os.listdir(installed) == before
    names(trainer)
    assert trainer.hello["pid"] == pid


def test_an_installed_model_is_not_replaced_unless_that_is_wanted(
    parent: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path / "installed"))
    private = tmp_path / "private"
    folders = [home / token / "parent" for home in (undecided.home(), private / "finetuned") for token in ["token"]]
    for folder in folders:
        folder.mkdir(parents=True)
        for file in parent.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert keep_model(KeepParameters(str(folders[0])), private, Monitor()) == {"model": "parent"}
    with pytest.raises(BundleError, match="already"):
        keep_model(KeepParameters(str(folders[1])), private, Monitor())
    assert folders[1].is_dir()
    assert keep_model(KeepParameters(str(folders[1]), overwrite=True), private, Monitor()) == {"model": "parent"}
    assert left(private) == []


def test_a_new_model_outlives_the_worker_and_waits_for_a_decision(
    parent: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path / "models"))
    with WorkerClient(
        sys.executable, environment=os.environ | {"PARTIALSEG_MODELS": str(undecided.home().parent)}
    ) as it:
        first = {"name": "first", "better": None, "after": {"liver": 0.25}}
        bundle = undecided.put(parent.folder, first)
        second = undecided.put(parent.folder, {"name": "second"})
        os.utime(bundle.parent / "outcome.json", (1, 1))
        assert undecided.waiting() == [first | {"bundle": str(bundle)}, {"name": "second", "bundle": str(second)}]
        # What is half-written, damaged or has lost its model is nothing to decide on.
        for name, text in ((".x.part", '{"bundle": "parent"}'), ("y", "{"), ("z", '{"bundle": "gone"}'), ("v", "[]")):
            (undecided.home() / name).mkdir()
            (undecided.home() / name / "outcome.json").write_text(text, encoding="utf-8")
        assert len(undecided.waiting()) == 2
        assert it.wait(it.request("keep", KeepParameters(str(second))), PATIENCE) == {"model": "parent"}
        assert [told["name"] for told in undecided.waiting()] == ["first"]


def test_a_new_model_is_not_lost_when_it_cannot_wait_beside_the_others(
    parent: ModelBundle, cases: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTIALSEG_MODELS", str(tmp_path / "models"))
    undecided.home().parent.mkdir(parents=True)
    undecided.home().write_text("in the way", encoding="utf-8")
    told = fine_tune(wanted(parent, cases[:1]), tmp_path, Monitor(), lambda event, fields: None)
    assert Path(told["bundle"]).is_relative_to(tmp_path / "finetuned")
    undecided.home().unlink()
    assert keep_model(KeepParameters(told["bundle"]), tmp_path, Monitor()) == {"model": told["name"]}
    assert left(tmp_path) == []


@pytest.mark.parametrize("bundle", ["{parent}", "{private}", "{private}/finetuned", "{private}/finetuned/x/../../y/z"])
def test_what_waits_for_no_decision_is_never_deleted(parent: ModelBundle, tmp_path: Path, bundle: str) -> None:
    (tmp_path / "finetuned" / "x").mkdir(parents=True)
    (tmp_path / "y" / "z").mkdir(parents=True)
    path = bundle.format(parent=parent.folder, private=tmp_path)
    with pytest.raises(BundleError, match="decision"):
        discard_model(DiscardParameters(path), tmp_path)
    assert parent.folder.is_dir()
    assert (tmp_path / "y" / "z").is_dir()
    assert (tmp_path / "finetuned" / "x").is_dir()


@pytest.mark.parametrize(
    ("more", "error", "named"),
    [
        ({"options": {"stepz": 3}}, ProtocolError, "stepz"),
        ({"structures": ["pancreas"]}, CollectionError, "pancreas"),
        ({"mode": "magic"}, CollectionError, "magic"),
    ],
)
def test_what_is_wrong_with_a_fine_tuning_is_named_and_leaves_nothing(
    parent: ModelBundle, cases: list[str], tmp_path: Path, more: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        fine_tune(wanted(parent, cases[:1], **more), tmp_path, Monitor(), lambda event, fields: None)
    assert left(tmp_path) == []


def test_a_worker_without_the_training_library_says_what_is_missing(tmp_path: Path) -> None:
    blocked, private = tmp_path / "blocked", tmp_path / "private"
    for folder in (blocked, private):
        folder.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['PartialSegTraining'] = None\n")
    worker = Conversation(private, blocked)
    known = worker.greet()["result"]["capabilities"]
    assert "finetune" not in known
    assert "keep" in known
    told = worker.ask({"id": 2, "request": "finetune", "parameters": {"cases": ["somewhere"]}})
    assert (told["event"], told["code"]) == ("error", InstallationError.code)
    assert "partialseg[train]" in told["hint"]
    worker.end()
