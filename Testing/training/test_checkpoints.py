"""Checkpoints hold all of a training, appear whole or not at all, and are refused where they do not belong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from partial_cases import cached_cases, same_weights, short_recipe
from torch.amp.grad_scaler import GradScaler

from PartialSegLib.errors import CollectionError
from PartialSegLib.progress import Monitor, Progress
from PartialSegTraining.state import load_checkpoint, new_state, save_checkpoint
from PartialSegTraining.trainer import Trainer, run

CPU = torch.device("cpu")


def test_a_checkpoint_is_written_when_the_last_one_is_old(tmp_path: Path) -> None:
    """A crash costs no more than `checkpoint_minutes`, however long `checkpoint_every` steps take."""
    recipe = short_recipe()
    recipe = replace(recipe, monitoring=replace(recipe.monitoring, checkpoint_every=1000, checkpoint_minutes=1e-9))

    def crash(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == 3:
            raise OSError("the disk of the monitor is full")

    with pytest.raises(OSError, match="full"):
        run(Trainer(recipe, cached_cases(), CPU), tmp_path, monitor=Monitor(crash))
    restored = new_state(recipe, CPU)
    load_checkpoint(restored, recipe, tmp_path / "checkpoint.pt")
    assert restored.step == 3


def test_what_killed_processes_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.0a1b2c3d.part").write_bytes(b"half a checkpoint")
    (tmp_path / ".phantom-tiny-best.0a1b2c3d.part").mkdir()
    (tmp_path / ".phantom-tiny-best.0a1b2c3d.part" / "card.json").write_text("{")
    run(Trainer(short_recipe(1), cached_cases(), CPU), tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_scale_of_half_precision_gradients_is_restored(tmp_path: Path) -> None:
    """float16 is for GPUs, but the scaler is the same on a CPU: it grows, and skips steps that overflow."""
    recipe, cases = short_recipe(), cached_cases()

    def scaled() -> Trainer:
        trainer = Trainer(recipe, cases, CPU)
        trainer.state.scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return trainer

    first = scaled()
    for _ in range(3):
        first.step()
    assert first.state.scaler.get_scale() == 16.0
    save_checkpoint(first.state, recipe, tmp_path / "checkpoint.pt")
    second = scaled()
    load_checkpoint(second.state, recipe, tmp_path / "checkpoint.pt")
    for trainer in (first, second):
        trainer.step()
    assert first.state.scaler.get_scale() == second.state.scaler.get_scale() == 32.0
    assert same_weights(first.state.network, second.state.network)

    before = first.state.network.get_parameter("controller.weight").detach().clone()
    first.state.scaler.update(1e38)
    first.step()
    assert torch.equal(first.state.network.get_parameter("controller.weight").detach(), before)
    assert first.state.scaler.get_scale() == pytest.approx(0.5e38)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up in the middle of the file: its writer gets the real error of a real full device."""
    recipe, path = short_recipe(), tmp_path / "checkpoint.pt"
    save_checkpoint(new_state(recipe, CPU), recipe, path)
    before, write = path.read_bytes(), torch.save

    def fill(document: object, file: BinaryIO) -> None:
        file.write(b"the first half")
        with open("/dev/full", "wb") as full:
            write(document, full)

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(CollectionError, match=r"checkpoint\.pt cannot be written: .*Make room"):
        save_checkpoint(new_state(recipe, CPU), recipe, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = short_recipe()
    save_checkpoint(new_state(recipe, CPU), recipe, tmp_path / "checkpoint.pt")
    other = short_recipe(learning_rate=0.5)
    with pytest.raises(CollectionError, match="another recipe"):
        load_checkpoint(new_state(other, CPU), other, tmp_path / "checkpoint.pt")


def test_a_checkpoint_from_before_validations_were_kept_goes_on(tmp_path: Path) -> None:
    recipe, path = short_recipe(), tmp_path / "checkpoint.pt"
    state = new_state(recipe, CPU)
    state.step = 4
    save_checkpoint(state, recipe, path)
    document = torch.load(path, weights_only=True)
    del document["validation"]
    torch.save(document, path)
    restored = new_state(recipe, CPU)
    load_checkpoint(restored, recipe, path)
    assert (restored.step, restored.validated, restored.best_step) == (4, 4, 4)
    assert restored.note_validation(0.0)


def test_a_training_may_be_made_longer(tmp_path: Path) -> None:
    recipe = short_recipe(3)
    save_checkpoint(new_state(recipe, CPU), recipe, tmp_path / "checkpoint.pt")
    longer = recipe.with_steps(9)
    load_checkpoint(new_state(longer, CPU), longer, tmp_path / "checkpoint.pt")


def test_a_training_that_began_without_scaled_gradients_goes_on_with_them(tmp_path: Path) -> None:
    recipe = short_recipe()
    save_checkpoint(new_state(recipe, CPU), recipe, tmp_path / "checkpoint.pt")
    state = new_state(recipe, CPU)
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    load_checkpoint(state, recipe, tmp_path / "checkpoint.pt")
    assert state.scaler.is_enabled()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    recipe, path = short_recipe(), tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CollectionError, match=r"checkpoint\.pt is no readable checkpoint"):
        load_checkpoint(new_state(recipe, CPU), recipe, path)


def test_a_training_that_diverges_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    recipe = short_recipe()
    good = new_state(recipe, CPU)
    save_checkpoint(good, recipe, tmp_path / "checkpoint.pt")
    trainer = Trainer(recipe, cached_cases(), CPU)
    with torch.no_grad():
        trainer.state.network.get_parameter("conv1.weight").fill_(math.nan)
    with pytest.raises(CollectionError, match="diverged"):
        run(trainer, tmp_path)
    restored = new_state(recipe, CPU)
    load_checkpoint(restored, recipe, tmp_path / "checkpoint.pt")
    assert same_weights(restored.network, good.network)
