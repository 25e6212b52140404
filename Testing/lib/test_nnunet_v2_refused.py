"""Trained folders of nnU-Net v2 that cannot be imported: refused with the entry that is not understood."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nnunet_v2_files as files
import pytest
from nnunet_v2_files import architecture, full_resolution, plans

from PartialSegLib.errors import BundleError, MissingExtraError
from PartialSegLib.networks import NnUNetLabels, NnUNetParameters, build_network
from PartialSegLib.published import ImportOptions, NnUNetV2Format
from PartialSegLib.structures import LabelSpace


def card_of(path: Path) -> Any:
    return NnUNetV2Format().read(path, ImportOptions())[0]


def changed(**entries: Any) -> dict[str, Any]:
    return plans(full_resolution({"architecture": architecture("plain")}, **entries))


def with_kwargs(**entries: Any) -> dict[str, Any]:
    return plans(full_resolution({"architecture": architecture("plain", **entries)}))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed(normalization_schemes=["RescaleTo01Normalization"]), "normalized by 'RescaleTo01Normalization'"),
        (changed(normalization_schemes=["CTNormalization"] * 2), "have 2 channels"),
        (changed(use_mask_for_norm=[True]), "use_mask_for_norm"),
        (changed(previous_stage="3d_lowres"), "second stage of a cascade"),
        (changed(patch_size=[32, 32]), "no network for volumes"),
        (changed(preprocessor_name="MyPreprocessor"), "prepared by 'MyPreprocessor'"),
        (changed(resampling_fn_data="resample_torch_simple"), "resampled by 'resample_torch_simple'"),
        (changed(spacing=[0.0, 1.0, 1.0]), "not three positive numbers"),
        (changed(patch_size=[8, 30, 16]), "no multiples of (2, 4, 4)"),
        (with_kwargs(nonlin="os.system"), "'nonlin' is 'os.system'"),
        (with_kwargs(norm_op="torch.nn.BatchNorm3d"), "'norm_op' is 'torch.nn.BatchNorm3d'"),
        (with_kwargs(dropout_op="torch.nn.Dropout3d"), "has dropout"),
        (with_kwargs(stem_channels=3), "'stem_channels', which is not known here"),
        (with_kwargs(strides=[[1, 1, 1], [1, 2, 2]]), "3 features_per_stage do not fit 3 kernel_sizes, 2 strides"),
        (plans({}), "lack 'patch_size'"),
        (plans({}, configurations={"2d": {}}), "there is no configuration '3d_fullres'"),
        (plans({}, configurations={"3d_fullres": {"inherits_from": "3d_fullres"}}), "inherit in a circle"),
    ],
)
def test_plans_that_ask_for_what_is_not_done_here_are_refused(
    document: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        card_of(files.write(tmp_path, document=document))
    assert message in str(caught.value)


def test_a_class_of_another_package_is_refused_by_its_name(tmp_path: Path) -> None:
    topology = architecture("plain") | {"network_class_name": "subprocess.PlainConvUNet"}
    with pytest.raises(BundleError, match=r"'network_class_name' is 'subprocess\.PlainConvUNet'"):
        card_of(files.write(tmp_path, document=plans(full_resolution({"architecture": topology}))))


def test_several_channels_are_refused(tmp_path: Path) -> None:
    description = files.dataset(files.LABELS, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(BundleError, match="has 2 'channel_names'"):
        card_of(files.write(tmp_path, description=description))


def test_damaged_plans_are_refused(tmp_path: Path) -> None:
    folder = files.write(tmp_path)
    (folder / "plans.json").write_text("{")
    with pytest.raises(BundleError, match=r"plans\.json is no JSON"):
        card_of(folder)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    parameters = NnUNetParameters("PlainConvUNet", files.FEATURES, files.KERNELS, files.STRIDES, (1, 1, 1), (1, 1))
    with pytest.raises(MissingExtraError, match=r"partialseg\[nnunet\]"):
        NnUNetLabels(parameters, LabelSpace.named("btcv"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architecture": "VNet"}, "architecture 'VNet' is none of PlainConvUNet, ResidualEncoderUNet"),
        ({"nonlin": "Tanh"}, "nonlin 'Tanh' is none of"),
        ({"kernel_sizes": [[2, 3, 3]] * 3}, "not all odd"),
        ({"strides": [[2, 2, 2]] * 3}, r"first stage has stride \(2, 2, 2\)"),
        ({"encoder": [1, 0, 1]}, "not all positive"),
        ({"decoder": [1]}, "1 of the decoder"),
    ],
)
def test_stages_that_do_not_fit_are_refused(entries: dict[str, Any], message: str) -> None:
    small = {
        "architecture": "PlainConvUNet",
        "features_per_stage": list(files.FEATURES),
        "kernel_sizes": [list(sizes) for sizes in files.KERNELS],
        "strides": [list(sizes) for sizes in files.STRIDES],
        "encoder": [1, 1, 1],
        "decoder": [1, 1],
    }
    with pytest.raises(BundleError, match=message):
        build_network("NnUNetLabels", small | entries, LabelSpace.named("btcv"))
