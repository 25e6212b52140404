"""A model on disk: a folder with a card that a person can read and weights that cannot execute code.

``card.json`` says what the model is; ``weights.safetensors`` holds its numbers. Reading a card
imports no torch; :meth:`ModelBundle.load_network` does.
"""

from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; stored on the card.

    Parameters
    ----------
    spacing : tuple of float
        Voxel spacing of the network's grid along (x, y, z), in millimetres.
    intensity_range : tuple of float
        Lowest and highest intensity that the network sees (HU for CT); the rest is clipped.
    intensity_shift, intensity_scale : float
        The network's input is ``(clipped - shift) / scale``.
    orientation : str
        Directions in which x, y and z grow, as three letters (``LPS``). The nearest axes of the
        image are permuted and flipped; an oblique image stays oblique.
    body_threshold : float or None
        The image is cropped to the largest connected region above this intensity; ``None`` for no crop.
    coarse_spacing : tuple of float or None
        A coarser spacing that the network was trained for too; the ``fast`` preset searches the
        region of the chosen structures with it. ``None`` when there is none.
    """

    spacing: Vector
    intensity_range: tuple[float, float]
    intensity_shift: float = 0.0
    intensity_scale: float = 1.0
    orientation: str = "LPS"
    body_threshold: float | None = -300.0
    coarse_spacing: Vector | None = None
