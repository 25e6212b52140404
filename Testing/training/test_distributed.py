"""Several processes train the model that one would: real processes, started by torchrun, that talk over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_work import HALVES, TRAININGS, work_alone
from loss_examples import VARIANTS
from partial_cases import write_collection
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegTraining import cli
from PartialSegTraining.distributed import ALONE, Processes, choose_device, together
from PartialSegTraining.recipefiles import load_recipe
from PartialSegTraining.state import new_state
from PartialSegTraining.trainer import train

HERE = Path(__file__).parent
Found = dict[str, dict[str, Tensor]]

#: The Lovász extension sorts voxels, and the released MultiTalent pools by place in the batch: no sums.
NOT_SUMS = {"lovasz-focal", "multitalent as released"}


def recipe_file(folder: Path) -> Path:
    """The tiny recipe with an optimizer that does not make much of rounding errors, as Adam's first steps do."""
    text = (Path(cli.__file__).parent / "recipes" / "phantom-tiny.toml").read_text()
    changes = {
        "[32, 32, 32]": "[16, 16, 16]",
        '"adamw"': '"sgd"',
        "learning_rate = 1e-3": "learning_rate = 1e-2",
        "validation_windows = 1": "validation_cases = 1",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have worked: first on the comparisons, then on two steps of ``partialseg train``."""
    folder = tmp_path_factory.mktemp("two")
    collection = write_collection(folder / "collection", cases=3)
    words = ["train", recipe_file(folder), "--collection", collection, "--output", folder / "run", "--device", "cpu"]
    (folder / "words.json").write_text(json.dumps([*map(str, words), "--steps", "2"]))
    places = os.pathsep.join([str(HERE), str(HERE.parent)])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    answer = subprocess.run(
        [*command, str(HERE / "distributed_work.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    (folder / "stdout.txt").write_text(answer.stdout)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[Found]:
    """What each of the two processes found."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> Found:
    """What one process finds with whole batches."""
    return work_alone()


@pytest.mark.parametrize("second", HALVES)
@pytest.mark.parametrize("name", sorted(set(VARIANTS) - NOT_SUMS))
def test_two_processes_have_the_gradient_of_one_with_twice_the_batch(
    name: str, second: str, both: list[Found], alone: Found
) -> None:
    """Also where all that one process has was not annotated."""
    expected = alone[f"{name}, {second}"]
    assert torch.count_nonzero(expected["gradient"]) > 0
    for found in both:
        for term, value in expected.items():
            torch.testing.assert_close(found[f"{name}, {second}"][term], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NOT_SUMS))
def test_processes_agree_on_losses_that_are_no_sums(name: str, both: list[Found]) -> None:
    first, second = (found[f"{name}, something"] for found in both)
    assert torch.isfinite(first["gradient"]).all()
    for term, value in first.items():
        torch.testing.assert_close(second[term], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(TRAININGS))
def test_two_processes_train_the_network_of_one(name: str, both: list[Found], alone: Found) -> None:
    """On uneven datasets, with decoders that only one of them uses in a step, and outputs that do not count."""
    for found in both:
        for key, value in alone[name].items():
            torch.testing.assert_close(found[name][key], value, rtol=1e-5, atol=1e-5, msg=key)


def test_a_wish_of_one_process_is_known_to_all(both: list[Found]) -> None:
    for found in both:
        assert found["flags"]["raised"].tolist() == [True, False]
        assert found["flags"]["disagreement"].item()


def test_only_one_process_writes_and_another_number_of_them_may_go_on(folder: Path, tmp_path: Path) -> None:
    """Two steps in two processes and one more in one process are three steps in one process."""
    recipe, run = load_recipe(folder / "recipe.toml"), folder / "run"
    assert (folder / "stdout.txt").read_text().count("2 of 2 steps, finished") == 1
    for steps in (2, 3):
        train(recipe.with_steps(steps), folder / "collection", tmp_path, device="cpu")
    resumed = train(recipe.with_steps(3), folder / "collection", run, device="cpu")

    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (run, tmp_path)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]] == [1, 2, 2, 3, 3]
    for mine, other in zip(*logs, strict=True):
        assert mine.keys() == other.keys()
        if "validation" in mine:
            assert mine["validation"] == pytest.approx(other["validation"], abs=0.01)
        else:
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert resumed.steps == 3
    # Rounding differs with the windows that are computed together, and three steps make more of it.
    first = parameters_to_vector(new_state(recipe, torch.device("cpu")).network.parameters())
    mine, other = (
        parameters_to_vector(ModelBundle.open(path / recipe.name).load_network().parameters())
        for path in (run, tmp_path)
    )
    assert (mine - other).norm() < 0.01 * (other - first).norm()


def test_a_process_that_was_started_by_itself_is_alone() -> None:
    with together() as processes:
        assert processes is ALONE
    assert processes.any([True, False]) == [True, False]
    assert processes.share([1, 2, 3]) == [1, 2, 3]


def test_windows_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(CollectionError, match=r"3 windows cannot be divided among 2 processes.*'batch'"):
        Processes(0, 2).share(range(3))
    assert [list(Processes(rank, 2).share(range(4))) for rank in range(2)] == [[0, 2], [1, 3]]


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a computer without a GPU")
    with pytest.raises(CollectionError, match=r"no device 'cuda:3' here.*at most 0 processes"):
        choose_device("cuda", Processes(3, 4, 3))


def test_processes_that_cannot_be_reached_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(CollectionError, match="do not find each other"), together():
        pass
