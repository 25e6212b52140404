"""Hard negatives: where the model that a training begins with finds what is not there.

A case that was annotated for a task says of every voxel whether a structure of that task is there. So
what a model finds outside of the masks is known to be wrong, in whatever part of the body it lies: a
colon tumor found in a lung. Such places are rare among windows that lie anywhere, and a network is
hardly ever told. Here they are looked for once, before the training, and kept beside the prepared
cases; the sampler centers a share of the windows of a task on them (``[sampling] hard``). Structures
that a case does not annotate are unknown and give no hard negative. The idea is that of bootstrapping
(Sung and Poggio, PAMI 1998; online: Shrivastava et al., CVPR 2016). Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from PartialSegLib.atomic import atomic_write
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import CollectionError
from PartialSegLib.progress import Monitor
from PartialSegTraining.casesegmenter import CaseSegmenter
from PartialSegTraining.levels import CachedCase
from PartialSegTraining.recipe import Recipe

#: At most so many voxels of each structure and case are kept, drawn evenly.
KEPT = 2000


def with_hard_negatives(
    cases: Sequence[CachedCase],
    recipe: Recipe,
    model: ModelBundle,
    device: torch.device,
    folder: Path,
    monitor: Monitor | None = None,
) -> list[CachedCase]:
    """Return the cases with the voxels where a model is known to find too much.

    Parameters
    ----------
    cases : sequence of CachedCase
        To train on.
    recipe : Recipe
        Its ``[sampling] hard`` names the tasks; cases of other tasks come back as they are.
    model : ModelBundle
        That the training begins with; its label space has the structures.
    device : torch.device
        Where to compute.
    folder : path
        Where the findings of each case are kept; those of the same model are not looked for again.
    monitor : Monitor, optional
        Told about every case, as stage ``mine``; may cancel between windows.

    Returns
    -------
    list of CachedCase
        :attr:`CachedCase.hard` is filled for structures of the named tasks.

    Raises
    ------
    CancelledError
        When the monitor was cancelled; cases that were looked at stay.
    CollectionError
        When what was kept of a case is damaged.
    """
    monitor, space = monitor or Monitor(), model.card.label_space
    tasks = [space.tasks[space.task_index(key)] for key, share in recipe.sampling.hard.items() if share > 0]
    wanted = {key for task in tasks for key in task.structures}
    segmenter: CaseSegmenter | None = None
    result = []
    for done, case in enumerate(cases):
        monitor.step("mine", done, len(cases))
        keys = tuple(key for key in case.structures if key in wanted)
        path = folder / _name(case, keys, model)
        if keys and not path.is_file():
            if segmenter is None:
                segmenter = CaseSegmenter(model.load_network(str(device)), recipe, device, monitor, "mine")
            _save(path, _false_findings(case, keys, segmenter, device))
        result.append(replace(case, hard=_load(path)) if keys else case)
    monitor.step("mine", len(cases), len(cases))
    return result


def _false_findings(
    case: CachedCase, keys: tuple[str, ...], segmenter: CaseSegmenter, device: torch.device
) -> dict[str, np.ndarray]:
    """Return int32 (n, 3) voxels (z, y, x) that are found outside of the mask of each structure."""
    level = case.levels[0].to(device)
    masks = segmenter.masks(level, keys)
    found = {}
    for key in keys:
        mask = masks[key]
        bits = level.bits[mask.box]
        right = (bits >> case.structures.index(key) & 1).bool()
        unknown = case.unknown(bits)
        if unknown is not None:
            right |= unknown
        voxels = np.argwhere(mask.unpack() & ~right.cpu().numpy()) + np.array(mask.start)
        found[key] = voxels[:: max(1, -(-len(voxels) // KEPT))].astype(np.int32)
    return found


def _name(case: CachedCase, keys: tuple[str, ...], model: ModelBundle) -> str:
    """Return the name of a file: another model, grid or choice of structures has another one."""
    said = (case.name, case.dataset, case.levels[0].shape, keys, model.card.weights["sha256"])
    return f"{blake2b(repr(said).encode(), digest_size=12).hexdigest()}.hard.npz"


def _save(path: Path, found: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        np.savez(stream, **found)  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise CollectionError(f"The hard negatives {path} are damaged: {error}.", "Delete the file.") from error
