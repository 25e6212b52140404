"""A training that is killed loses at most the step in progress; one that is asked to end saves and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from partial_cases import write_collection

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CancelledError
from PartialSegLib.progress import Monitor
from PartialSegTraining import cli
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.stopping import PreemptedError, saved_at_termination
from PartialSegTraining.trainer import train

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}


def weights(bundle: Path) -> str:
    """Fingerprint of the weights of a bundle."""
    return str(ModelBundle.open(bundle).card.weights["sha256"])


def steps_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["step"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of two cases, and a recipe of five tiny steps with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("interruption")
    write_collection(folder / "collection", cases=2)
    text = (Path(cli.__file__).parent / "recipes" / "phantom-tiny.toml").read_text()
    for old, new in {
        "[32, 32, 32]": "[16, 16, 16]",
        "total_steps = 12": "total_steps = 5",
        "checkpoint_every = 5": "checkpoint_every = 1",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> str:
    """Fingerprint of what the training comes to when nothing happens."""
    return weights(train(load_recipe(folder / "recipe.toml"), folder / "collection", folder / "whole").bundle)


@pytest.mark.parametrize(("place", "saved"), [("preparation", 0), ("step", 3), ("checkpoint", 2)])
def test_a_killed_training_loses_the_current_step_and_nothing_is_damaged(
    place: str, saved: int, folder: Path, uninterrupted: str
) -> None:
    """``kill -9`` in the middle of a file of the cache, of the fourth step, and of the third checkpoint."""
    recipe, collection, output = folder / "recipe.toml", folder / "collection", folder / place
    killed = subprocess.run(
        [sys.executable, str(HERE / "killed_training.py"), place, str(recipe), str(collection), str(output)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpoint = output / "checkpoint.pt"
    assert (steps_of(checkpoint) if checkpoint.exists() else 0) == saved
    if place == "preparation":
        # The first case was finished and is not made again; of the second there is no entry.
        assert len([entry for entry in (output / "cache").iterdir() if not entry.name.startswith(".")]) == 1

    resumed = train(load_recipe(recipe), collection, output)
    assert resumed.finished
    assert weights(resumed.bundle) == uninterrupted
    logged = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3, 4, 5]
    assert list(output.glob(".*")) == []


def test_a_training_that_is_asked_to_end_saves_and_leaves_with_a_status_of_its_own(
    folder: Path, tmp_path: Path
) -> None:
    """What a cluster does before it takes a machine away: SIGTERM to every process, and some time to save."""
    recipe = tmp_path / "long.toml"
    text = (folder / "recipe.toml").read_text()
    text = text.replace("total_steps = 5", "total_steps = 100000").replace("checkpoint_every = 1", "")
    recipe.write_text(f'{text}\n[loading]\nkeep = "disk"\nworkers = 1\n')
    words = ["train", str(recipe), "--collection", str(folder / "collection"), "--output", str(tmp_path / "run")]
    training = subprocess.Popen(
        [sys.executable, "-m", "PartialSegLib", *words, "--device", "cpu"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    while training.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGTERM)
    _, message = training.communicate()
    assert training.returncode == PreemptedError.exit_code == 75, message
    assert "Stopped by SIGTERM" in message
    assert "to go on" in message
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert steps_of(tmp_path / "run" / "checkpoint.pt") == last >= 2


def test_a_signal_that_cancels_is_told_from_a_user_who_does() -> None:
    monitor = Monitor()

    def preempted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        monitor.step("train", 3, 5)

    with (
        pytest.raises(PreemptedError, match=r"Stopped by SIGTERM during 'train'") as caught,
        saved_at_termination(monitor),
    ):
        preempted()
    assert caught.value.exit_code == 75
    with pytest.raises(CancelledError, match="by the user") as caught, saved_at_termination(Monitor()):
        raise CancelledError("Stopped by the user.")
    assert caught.value.exit_code == 130


def test_what_a_signal_did_before_it_does_again_after_the_training() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with saved_at_termination(Monitor()):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
