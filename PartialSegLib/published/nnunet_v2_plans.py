"""What the plans of nnU-Net v2 say: the network, how images are prepared, the window.

``plans.json`` has several configurations (``2d``, ``3d_fullres`` ...), of which the checkpoint names
one. Plans name classes to be imported; nothing is imported here by a name of the file: known names are
mapped, all others refused. What plans ask for and this library does not do is refused too, never
ignored. Called by :mod:`PartialSegLib.published.nnunet_v2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PartialSegLib.card import Preprocessing
from PartialSegLib.errors import BundleError
from PartialSegLib.networks.nnunet import ARCHITECTURES, NONLINEARITIES, NnUNetParameters
from PartialSegLib.preparation import NNUNET_V2, Resampling

#: Where a class of a network must come from; only the last part of its name is looked at otherwise.
_PACKAGE = "dynamic_network_architectures."
_RESAMPLING = "resample_data_or_seg_to_shape"
#: Defaults of nnU-Net's function of that name.
_RESAMPLING_DEFAULTS: Mapping[str, Any] = {
    "order": 3,
    "order_z": 0,
    "force_separate_z": False,
    "separate_z_anisotropy_threshold": 3.0,
}
#: Readers of images, and what their x, y and z are: those of the file, or directions.
_READERS = {"SimpleITKIO": "xyz", "NibabelIO": "xyz", "SimpleITKIOWithReorient": "RAS", "NibabelIOWithReorient": "RAS"}
#: Intensities are not clipped where nnU-Net normalizes by the image itself; a card needs two numbers.
_UNCLIPPED = (-1e9, 1e9)


@dataclass(frozen=True)
class Configuration:
    """One configuration of plans, understood.

    Parameters
    ----------
    network : NnUNetParameters
        Its topology.
    preprocessing : Preprocessing
        How images are prepared.
    window : tuple of int
        (D, H, W) voxels.
    """

    network: NnUNetParameters
    preprocessing: Preprocessing
    window: tuple[int, int, int]


def configuration_of(plans: Any, name: str, source: str) -> Configuration:
    """Read one configuration.

    Parameters
    ----------
    plans : mapping
        Parsed ``plans.json``, of either layout: ``architecture``, or ``UNet_class_name`` before it.
    name : str
        Of the configuration.
    source : str
        Their file, for messages.

    Raises
    ------
    BundleError
        When they are damaged, or ask for what is not done here.
    """
    try:
        entry = _inherited(plans["configurations"], name)
        if entry.get("previous_stage"):
            raise ValueError(f"'{name}' is the second stage of a cascade, which needs the result of another network")
        if len(entry["patch_size"]) != 3:
            raise ValueError(f"'{name}' is no network for volumes, but for images of {len(entry['patch_size'])} axes")
        depth, height, width = (int(size) for size in entry["patch_size"])
        return Configuration(network_parameters(entry), _preprocessing(plans, entry), (depth, height, width))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        problem = f"lack {error}" if isinstance(error, KeyError | IndexError) else f"are not understood: {error}"
        raise BundleError(
            f"The plans {source} {problem}.",
            "PlainConvUNet and ResidualEncoderUNet for volumes of one channel are imported, with nnU-Net's own "
            "preprocessing.",
        ) from error


def network_parameters(entry: Mapping[str, Any]) -> NnUNetParameters:
    """Return the topology of a configuration.

    Raises
    ------
    ValueError, KeyError, TypeError
        When something is missing or not understood.
    """
    if "architecture" not in entry:
        return _older_parameters(entry)
    kind = _last_part(entry["architecture"]["network_class_name"], "network_class_name", _PACKAGE, ARCHITECTURES)
    given = dict(entry["architecture"]["arch_kwargs"])
    stages = int(given.pop("n_stages"))
    _last_part(given.pop("conv_op"), "conv_op", "torch.nn.", ("Conv3d",))
    _last_part(given.pop("norm_op"), "norm_op", "torch.nn.", ("InstanceNorm3d",))
    nonlinearity = _last_part(given.pop("nonlin"), "nonlin", "torch.nn.", NONLINEARITIES)
    norm = _only(given.pop("norm_op_kwargs", None), ("eps", "affine"), "norm_op_kwargs")
    activation = _only(given.pop("nonlin_kwargs", None), ("inplace", "negative_slope"), "nonlin_kwargs")
    if given.pop("dropout_op", None) is not None or given.pop("nonlin_first", False):
        raise ValueError("the network has dropout or another order of layers ('dropout_op', 'nonlin_first')")
    given.pop("dropout_op_kwargs", None)  # of no dropout
    given.pop("deep_supervision", None)  # the choice of whoever builds the network
    result = NnUNetParameters(
        architecture=kind,
        features_per_stage=_per_stage(given.pop("features_per_stage"), stages),
        kernel_sizes=tuple(_per_stage(sizes, 3) for sizes in _per_stage(given.pop("kernel_sizes"), stages)),
        strides=tuple(_per_stage(sizes, 3) for sizes in _per_stage(given.pop("strides"), stages)),
        encoder=_per_stage(given.pop(ARCHITECTURES[kind]), stages),
        decoder=_per_stage(given.pop("n_conv_per_stage_decoder"), stages - 1),
        conv_bias=bool(given.pop("conv_bias", False)),
        norm_eps=float(norm.get("eps", 1e-5)),
        norm_affine=bool(norm.get("affine", False)),
        nonlin=nonlinearity,
        negative_slope=float(activation.get("negative_slope", 0.01)),
    )
    if given:
        raise ValueError(f"'arch_kwargs' has '{next(iter(given))}', which is not known here")
    return result


def _older_parameters(entry: Mapping[str, Any]) -> NnUNetParameters:
    """Return the topology of plans before nnU-Net 2.5, as nnU-Net itself converts them."""
    kind = entry["UNet_class_name"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"'UNet_class_name' is '{kind}', none of {', '.join(ARCHITECTURES)}")
    base, most = int(entry["UNet_base_num_features"]), int(entry["unet_max_num_features"])
    return NnUNetParameters(
        architecture=kind,
        features_per_stage=tuple(min(base * 2**stage, most) for stage in range(len(entry["n_conv_per_stage_encoder"]))),
        kernel_sizes=tuple(tuple(sizes) for sizes in entry["conv_kernel_sizes"]),
        strides=tuple(tuple(sizes) for sizes in entry["pool_op_kernel_sizes"]),
        encoder=tuple(entry["n_conv_per_stage_encoder"]),
        decoder=tuple(entry["n_conv_per_stage_decoder"]),
    )


def _preprocessing(plans: Mapping[str, Any], entry: Mapping[str, Any]) -> Preprocessing:
    """Return nnU-Net's preparation: transpose, crop to nonzero, normalize, resample, pad with 0 on both sides."""
    if entry["preprocessor_name"] != "DefaultPreprocessor":
        raise ValueError(f"images are prepared by '{entry['preprocessor_name']}'")
    reader = plans["image_reader_writer"]
    if reader not in _READERS:
        raise ValueError(f"images are read by '{reader}', none of {', '.join(_READERS)}")
    order = [int(axis) for axis in plans["transpose_forward"]]
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"axes are transposed to {order}")
    # Array axes are (z, y, x) and letters are for x, y and z.
    letters = "".join(_READERS[reader][2 - axis] for axis in reversed(order))
    z, y, x = (float(step) for step in entry["spacing"])
    return Preprocessing(
        spacing=(x, y, z),
        orientation=letters,
        body_threshold=None,
        crop_to_nonzero=True,
        padding_value=0.0,
        padding_place="both",
        resampling=_resampling(entry),
        **_normalization(plans, entry),
    )


def _normalization(plans: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`Preprocessing` that say how intensities are scaled."""
    schemes, masks = list(entry["normalization_schemes"]), list(entry["use_mask_for_norm"])
    if len(schemes) != 1:
        raise ValueError(f"images have {len(schemes)} channels, normalized by {', '.join(schemes)}; one is understood")
    if any(masks):
        raise ValueError("intensities are normalized inside a mask ('use_mask_for_norm')")
    if schemes == ["ZScoreNormalization"]:
        return {"intensity_range": _UNCLIPPED, "normalization": "image"}
    if schemes == ["NoNormalization"]:
        return {"intensity_range": _UNCLIPPED}
    if schemes != ["CTNormalization"]:
        raise ValueError(f"images are normalized by '{schemes[0]}'")
    older = "foreground_intensity_properties_by_modality"
    measured = plans.get("foreground_intensity_properties_per_channel") or plans[older]
    names = ("percentile_00_5", "percentile_99_5", "mean", "std")
    low, high, mean, deviation = (float(measured["0"][name]) for name in names)
    if not all(map(math.isfinite, (low, high, mean, deviation))):
        raise ValueError(f"the intensities {measured['0']} are not all numbers")
    return {"intensity_range": (low, high), "intensity_shift": mean, "intensity_scale": max(deviation, 1e-8)}


def _resampling(entry: Mapping[str, Any]) -> Resampling:
    """Return how images are resampled; probabilities must come back in the same way, linearly."""
    thresholds = set()
    for use, order in (("data", 3), ("probabilities", 1)):
        name = entry[f"resampling_fn_{use}"]
        options = {**_RESAMPLING_DEFAULTS, **entry[f"resampling_fn_{use}_kwargs"]}
        known = name == _RESAMPLING and (options["order"], options["order_z"]) == (order, 0)
        if not known or options["force_separate_z"] not in (None, False):
            raise ValueError(f"{use} are resampled by '{name}' with {options}")
        above = float(options["separate_z_anisotropy_threshold"])
        thresholds.add(None if options["force_separate_z"] is False else above)
    if len(thresholds) != 1:
        raise ValueError("thick slices are not treated alike in images and probabilities")
    return replace(NNUNET_V2, separate_axis_above=thresholds.pop())


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits (``inherits_from``)."""
    chain: list[Mapping[str, Any]] = []
    seen: list[str] = []
    following: str | None = name
    while following is not None:
        if following in seen:
            raise ValueError(f"configurations inherit in a circle: {', '.join([*seen, following])}")
        if following not in configurations:
            raise ValueError(f"there is no configuration '{following}' among {', '.join(configurations)}")
        seen.append(following)
        chain.append(configurations[following])
        following = configurations[following].get("inherits_from")
    return {key: value for entry in reversed(chain) for key, value in entry.items()}


def _last_part(value: Any, field: str, package: str, known: Any) -> str:
    """Return the last part of a dotted name of a package, when it is known."""
    last = str(value).rpartition(".")[2]
    if not isinstance(value, str) or not value.startswith(package) or last not in known:
        raise ValueError(f"'{field}' is '{value}', and of '{package}' only {', '.join(known)} can be used")
    return last


def _only(value: Any, known: tuple[str, ...], field: str) -> dict[str, Any]:
    """Return the options of an operation, when all are known."""
    options = dict(value or {})
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"'{field}' has '{unknown[0]}', which is not known here")
    return options


def _per_stage(value: Any, count: int) -> tuple[Any, ...]:
    """Return one value for each stage or axis; a single number stands for all."""
    return (value,) * count if isinstance(value, int) else tuple(value)
