"""How a model wants its images prepared: the data that its card stores and its training recipe names.

Read and checked here, for cards by :mod:`PartialSegLib.card`; carried out by
:mod:`PartialSegLib.preprocessing`. The defaults are our own way. Every published system prepared its
images in a way of its own, and its weights only fit images that are prepared likewise: the fields
say how (:data:`NNUNET_V1`, :data:`NNUNET_V2`, :data:`DODNET`). Imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from PartialSegLib.cardchecks import flag, mapping, numbers, only, present, text, word

Vector = tuple[float, float, float]

_AXES = ("LR", "AP", "IS")
#: Fields of :class:`Preprocessing` that came after the first cards.
_LATER = frozenset(("crop_to_nonzero", "padding_value", "padding_place", "normalization", "resampling"))


@dataclass(frozen=True)
class Resampling:
    """How an image comes to the network's grid, and probabilities come back.

    The grids cover the same extent, as in nnU-Net and scikit-image.

    Parameters
    ----------
    interpolation : str
        ``linear``: linear where the grid becomes finer, averaging where it becomes coarser.
        ``cubic``: cubic B-spline, as ``skimage.transform.resize`` of order 3; results are clipped to
        the intensities of the image. Masks are then resampled linearly without averaging.
    border : str
        What stands beyond the border of a ``cubic`` image: ``edge`` (its outermost voxel), ``mirror``
        (its reflection, scikit-image's default) or ``zero`` (scikit-image's ``constant``).
    anti_aliasing : bool
        Smooth a ``cubic`` image with a Gaussian of sigma (shrink factor - 1) / 2 voxels along axes
        that become coarser, as scikit-image does by default.
    separate_axis_above : float or None
        nnU-Net's rule for thick slices: where the largest spacing of the image, or else of the
        network's grid, is more than so many times its smallest, and is that of one axis alone, this
        axis takes the nearest slice, and interpolation is two-dimensional. It holds for
        probabilities and masks too. ``None``: no axis is special.
    integers : bool
        Round resampled intensities to integers, as where a system kept its images as integers.
    size : str
        Voxels of the grid: extent / spacing rounded to the ``nearest`` integer or ``down``.
    clip : str
        Whether intensities are clipped ``before`` resampling or ``after`` it.

    Raises
    ------
    ValueError
        When a word is unknown, or an option of cubic interpolation is set for another one.
    """

    interpolation: str = "linear"
    border: str = "edge"
    anti_aliasing: bool = False
    separate_axis_above: float | None = None
    integers: bool = False
    size: str = "nearest"
    clip: str = "before"

    def __post_init__(self) -> None:
        for name, known in (
            ("interpolation", ("linear", "cubic")),
            ("border", ("edge", "mirror", "zero")),
            ("size", ("nearest", "down")),
            ("clip", ("before", "after")),
        ):
            word(getattr(self, name), known, name)
        if self.separate_axis_above is not None and self.separate_axis_above < 1:
            raise ValueError(f"'separate_axis_above' is {self.separate_axis_above}, but no spacing is below itself")
        if self.interpolation == "cubic":
            return
        for name in ("border", "anti_aliasing", "separate_axis_above"):
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ValueError(f"'{name}' is {getattr(self, name)!r}, which only cubic interpolation knows")

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Resampling:
        """Read the entry of a card; ``ValueError`` says which field is wrong."""
        where = "preprocessing.resampling"
        only(entry, cls.__dataclass_fields__, where)
        values: dict[str, Any] = {}
        for name, value in entry.items():
            if name in ("anti_aliasing", "integers"):
                values[name] = flag(value, f"{where}.{name}")
            elif name == "separate_axis_above":
                values[name] = None if value is None else numbers([value], 1, f"{where}.{name}")[0]
            else:
                values[name] = text(value, f"{where}.{name}")
        return cls(**values)


#: Our own way.
OURS = Resampling()
#: nnU-Net v1 for CT, and so MultiTalent: clipped after resampling.
NNUNET_V1 = Resampling("cubic", separate_axis_above=3.0, clip="after")
#: nnU-Net v2: normalized before resampling.
NNUNET_V2 = Resampling("cubic", separate_axis_above=3.0, clip="before")
#: DoDNet's ``re_spacing.py`` for the tasks of the Medical Segmentation Decathlon.
DODNET = Resampling("cubic", border="zero", anti_aliasing=True, integers=True, size="down", clip="after")


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
        Directions in which the network's x, y and z grow, as three letters (``LPS``): the nearest
        axes of the image are permuted and flipped, and an oblique image stays oblique. Or a
        permutation of ``xyz``: the image's own axes as its file stores them, without a look at their
        directions, as nnU-Net takes them (``yxz`` exchanges rows and columns).

        Published systems take files as stored; their networks know the direction that the files of
        their training had, and mirroring in training lets them accept its opposite. Whoever gives
        them an image straight from a scanner, stored in another order, is served by the letters of
        the usual storage of the training data, not by ``xyz``. Files of the Medical Segmentation
        Decathlon are stored ``RAS``; DoDNet's network has NIfTI x as H and NIfTI y as W: ``ARS``.
    body_threshold : float or None
        The image is cropped to the largest connected region above this intensity; ``None`` for no crop.
    coarse_spacing : tuple of float or None
        A coarser spacing that the network was trained for too; the ``fast`` preset searches the
        region of the chosen structures with it. ``None`` when there is none.
    crop_to_nonzero : bool
        The image is cropped to the voxels that are not 0, as in nnU-Net; in place of `body_threshold`.
    padding_value : float or None
        The network's input beyond the border of an image that is smaller than a window, after
        scaling; ``None`` for the lowest intensity, scaled.
    padding_place : str
        Where an image that is smaller than a window is padded: at its ``end`` (DoDNet) or at
        ``both`` sides, with the odd voxel at the end (nnU-Net).
    normalization : str
        ``fixed``: clip, shift and scale by the fields above. ``image``: clip, then mean 0 and
        standard deviation 1 over all voxels of the (cropped) image, measured where it is clipped
        (:attr:`Resampling.clip`). ``foreground``: clip, resample, then
        :func:`PartialSegLib.normalization.normalize_foreground` of 3D U2-Net. The latter two take no
        shift and scale, and need a `padding_value`.
    resampling : Resampling
        How the image comes to the network's grid.

    Raises
    ------
    ValueError
        When a spacing, the range, the scale or the orientation makes no sense, or fields
        contradict each other.
    """

    spacing: Vector
    intensity_range: tuple[float, float]
    intensity_shift: float = 0.0
    intensity_scale: float = 1.0
    orientation: str = "LPS"
    body_threshold: float | None = -300.0
    coarse_spacing: Vector | None = None
    crop_to_nonzero: bool = False
    padding_value: float | None = None
    padding_place: str = "end"
    normalization: str = "fixed"
    resampling: Resampling = OURS

    def __post_init__(self) -> None:
        low, high = self.intensity_range
        if not low < high or self.intensity_scale == 0:
            raise ValueError(f"the intensity range {low} to {high}, scaled by {self.intensity_scale}, is empty")
        for spacing in (self.spacing, self.coarse_spacing or self.spacing):
            if len(spacing) != 3 or min(spacing) <= 0:
                raise ValueError(f"the spacing {spacing} is not three positive numbers")
        axes = [next((pair for pair in _AXES if letter in pair), letter) for letter in self.orientation]
        if sorted(axes) not in (sorted(_AXES), ["x", "y", "z"]):
            raise ValueError(
                f"the orientation {self.orientation!r} is not one of L/R, one of P/A and one of S/I, and not x, y and z"
            )
        if self.crop_to_nonzero and self.body_threshold is not None:
            raise ValueError("'crop_to_nonzero' and 'body_threshold' are both set, but an image has one crop")
        word(self.padding_place, ("end", "both"), "padding_place")
        word(self.normalization, ("fixed", "image", "foreground"), "normalization")
        if self.normalization == "fixed":
            return
        if (self.intensity_shift, self.intensity_scale) != (0.0, 1.0):
            raise ValueError(f"'normalization' is '{self.normalization}', which takes no shift and scale")
        if self.padding_value is None:
            raise ValueError(f"'normalization' is '{self.normalization}', which needs a 'padding_value'")

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Preprocessing:
        """Read the entry of a card.

        Raises
        ------
        ValueError
            When a field is missing, unknown or wrong.
        """
        only(entry, cls.__dataclass_fields__, "preprocessing")
        present(entry, ("spacing", "intensity_range"), "preprocessing")
        return cls(**{name: _value(name, value) for name, value in entry.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the entry that :meth:`from_json` reads.

        Later fields are left out where they have their default: fingerprints of cached cases and
        training checkpoints that were made before these fields stay valid.
        """
        entry: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in _LATER or value != item.default:
                entry[item.name] = list(value) if isinstance(value, tuple) else value
        if "resampling" in entry:
            entry["resampling"] = asdict(self.resampling)
        return entry


def _value(name: str, value: Any) -> Any:
    """Return the checked value of a field of :class:`Preprocessing`."""
    where = f"preprocessing.{name}"
    if value is None and name in ("body_threshold", "coarse_spacing", "padding_value"):
        return None
    if name in ("orientation", "padding_place", "normalization"):
        return text(value, where)
    if name == "crop_to_nonzero":
        return flag(value, where)
    if name == "resampling":
        return Resampling.from_json(mapping(value, where))
    if name in ("spacing", "intensity_range", "coarse_spacing"):
        return numbers(value, 2 if name == "intensity_range" else 3, where)
    return numbers([value], 1, where)[0]
