"""The request for a phantom: a synthetic CT to try the module on, made here and never downloaded."""

from __future__ import annotations

from dataclasses import dataclass

from PartialSegLib.progress import Monitor
from PartialSegWorker.errors import InstallationError
from PartialSegWorker.parameters import Parameters
from PartialSegWorker.protocol import Message


@dataclass(frozen=True)
class PhantomParameters(Parameters):
    """Which phantom, and where to.

    Parameters
    ----------
    output : str
        Path of the image to write; its folder exists.
    seed : int
        Decides the patient.
    spacing : list of float
        Voxel spacing (x, y, z) in millimetres.
    """

    output: str
    seed: int
    spacing: list[float]

    def __post_init__(self) -> None:
        self._check("output", str)
        self._check("seed", int)
        self._check_list("spacing", float, int)
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"'spacing' is {self.spacing!r}, not three numbers above zero")


def make_phantom(wanted: PhantomParameters, monitor: Monitor) -> Message:
    """Write the CT of a phantom.

    Returns
    -------
    dict
        ``output``: the file.

    Raises
    ------
    InstallationError
        When the training library, which draws phantoms, is not there.
    """
    try:
        from PartialSegTraining.phantoms import generate_phantom
    except ImportError as error:
        raise InstallationError(
            f"Phantoms are drawn by the training library, which cannot be loaded: {error}.", "Repair the installation."
        ) from error
    from PartialSegLib.images import write_image

    monitor.step("phantom", 0, 1)
    x, y, z = (float(value) for value in wanted.spacing)
    write_image(generate_phantom(wanted.seed, spacing=(x, y, z)).image, wanted.output)
    return {"output": wanted.output}
