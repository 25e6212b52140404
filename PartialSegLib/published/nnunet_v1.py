"""Results folders of nnU-Net v1: which networks lie there, and what their plans say.

``<trainer>__<plans>/plans.pkl`` and ``<trainer>__<plans>/fold_X/model_final_checkpoint.model`` with
``.model.pkl`` beside it. Plans are pickles, read by :mod:`PartialSegLib.published.restricted`. What
plans ask for and this library does not do is refused, never ignored. Called by
:mod:`PartialSegLib.published.multitalent`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from PartialSegLib.errors import BundleError
from PartialSegLib.published.containers import Container, Folder, Zip
from PartialSegLib.published.restricted import load_pickle

CHECKPOINT = "model_final_checkpoint.model"
PLANS = "plans.pkl"

_Triple = tuple[int, int, int]


@dataclass(frozen=True)
class TrainedNetwork:
    """One fold of one trainer.

    Parameters
    ----------
    configuration : str
        ``<trainer>__<plans>``.
    fold : str
        ``0``, ``1`` ... or ``all``.
    checkpoint : PurePosixPath
        Weights.
    plans : tuple of PurePosixPath
        Where its plans are, the most trusted first: nnU-Net predicts with those beside the weights.
    """

    configuration: str
    fold: str
    checkpoint: PurePosixPath
    plans: tuple[PurePosixPath, ...]


@dataclass(frozen=True)
class Plans:
    """What a network needs to know of its plans.

    Parameters
    ----------
    spacing : tuple of float
        Of the network's grid, (z, y, x) millimetres.
    patch : tuple of int
        Window, (D, H, W) voxels.
    lower, upper : float
        Percentiles 0.5 and 99.5 of the foreground, between which intensities are clipped (HU).
    mean, deviation : float
        Of the foreground (HU).
    """

    spacing: tuple[float, float, float]
    patch: _Triple
    lower: float
    upper: float
    mean: float
    deviation: float


def container(path: Path) -> Container:
    """Return the container of a results folder, a zip of one, or one checkpoint file in its folder."""
    if path.is_dir():
        return Folder(path)
    if path.name.endswith(".model"):
        return Folder(path.resolve().parent.parent)
    return Zip(path)


def trained_networks(path: Path) -> list[TrainedNetwork]:
    """Return every network that was trained to the end, sorted by configuration and fold.

    Parameters
    ----------
    path : Path
        A zip, a folder at any height (all results, one task, one trainer, one fold), or one file
        ``model_final_checkpoint.model``.

    Raises
    ------
    BundleError
        When it cannot be listed.
    """
    names = container(path).names()
    files = set(names)
    found = []
    for name in names:
        if name.name != CHECKPOINT or (path.is_file() and not _is_in(name, path)):
            continue
        beside = name.with_name(f"{CHECKPOINT}.pkl")
        above = name.parent.parent / PLANS
        # A folder of one fold alone does not list the plans above it, but they may be there.
        known = [plans for plans in (beside, above) if plans in files or (path.is_dir() and Path(plans).is_file())]
        fold = name.parent.name.removeprefix("fold_")
        found.append(TrainedNetwork(name.parent.parent.name, fold, name, tuple(known)))
    return sorted(found, key=lambda network: (network.configuration, network.fold))


def read_plans(box: Container, network: TrainedNetwork) -> Plans:
    """Read the plans of the finest resolution.

    Raises
    ------
    BundleError
        When there are none, they are damaged or refused, or ask for what is not done here.
    """
    if not network.plans:
        raise BundleError(
            f"{network.checkpoint} has no plans: neither {CHECKPOINT}.pkl beside it nor {PLANS} above it.",
            "They say how images are prepared. Unpack the whole folder.",
        )
    name = network.plans[0]
    document = load_pickle(io.BytesIO(box.read(name)), str(name))
    # Beside the weights the plans lie among the arguments of the trainer.
    plans = document.get("plans", document) if isinstance(document, Mapping) else document
    try:
        return _understood(plans)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        problem = f"lack {error}" if isinstance(error, KeyError | IndexError) else f"make no sense ({error})"
        raise BundleError(
            f"The plans {name} {problem}.", "They are not those of a CT network of nnU-Net v1."
        ) from error


def _understood(plans: Mapping[str, Any]) -> Plans:
    """Take what is needed; ``ValueError`` says what is not done here."""
    schemes = dict(plans["normalization_schemes"])
    if list(schemes.values()) != ["CT"]:
        raise ValueError(f"images are normalized by {list(schemes.values())}, and one CT is understood")
    if any(dict(plans["use_mask_for_norm"]).values()):
        raise ValueError("intensities are normalized inside a mask")
    order = [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    if order != [0, 1, 2]:
        raise ValueError(f"axes are transposed to {order}")
    stages = dict(plans["plans_per_stage"])
    stage = stages[max(stages)]
    intensities = dict(plans["dataset_properties"]["intensityproperties"])[0]
    z, y, x = (float(value) for value in np.asarray(stage["current_spacing"]).ravel())
    depth, height, width = (int(value) for value in np.asarray(stage["patch_size"]).ravel())
    result = Plans(
        (z, y, x),
        (depth, height, width),
        float(intensities["percentile_00_5"]),
        float(intensities["percentile_99_5"]),
        float(intensities["mean"]),
        float(intensities["sd"]),
    )
    numbers = (z, y, x, result.lower, result.upper, result.mean, result.deviation)
    if not np.isfinite(numbers).all() or min(z, y, x, depth, height, width) <= 0 or result.deviation <= 0:
        raise ValueError(f"numbers are out of range: {result}")
    return result


def _is_in(name: PurePosixPath, file: Path) -> bool:
    """Whether a listed file is asked for by `file`: all of a zip, or one checkpoint alone."""
    return file.name != CHECKPOINT or Path(name) == file.resolve()
