"""The label space of MultiTalent is the published one: 13 datasets, 47 structures, in the order of its outputs."""

from __future__ import annotations

from typing import Any

import pytest

import vectors
from PartialSegLib.networks import MultiTalentUNet, UNetParameters
from PartialSegLib.structures import LabelSpace

SPACE = LabelSpace.named("multitalent")

#: Published region -> our structure.
REGIONS = {
    "03_liver": "liver_msd03",
    "03_cancer": "liver_tumor_msd03",
    "06_lungnodule": "lung_tumor_msd06",
    "07_pancreas": "pancreas_msd07",
    "07_pancreas_cancer": "pancreas_tumor_msd07",
    "08_vessel": "hepatic_vessels_msd08",
    "08_tumor": "liver_tumor_msd08",
    "09_spleen": "spleen_msd09",
    "10_colon_cancer": "colon_tumor_msd10",
    "17_spleen": "spleen_btcv",
    "17_right_kidney": "right_kidney_btcv",
    "17_left_kidney": "left_kidney_btcv",
    "17_gallbladder": "gallbladder_btcv",
    "17_esophagus": "esophagus_btcv",
    "17_liver": "liver_btcv",
    "17_stomach": "stomach_btcv",
    "17_aorta": "aorta_btcv",
    "17_inf_vena_cava": "inferior_vena_cava_btcv",
    "17_port_and_splen_vein": "portal_and_splenic_vein_btcv",
    "17_pancreas": "pancreas_btcv",
    "17_right_adrenal_gland": "right_adrenal_gland_btcv",
    "17_left_adrenal_gland": "left_adrenal_gland_btcv",
    "46_spleen": "spleen_btcv2",
    "46_left_kidney": "left_kidney_btcv2",
    "46_gallbladder": "gallbladder_btcv2",
    "46_esophagus": "esophagus_btcv2",
    "46_liver": "liver_btcv2",
    "46_stomach": "stomach_btcv2",
    "46_pancreas": "pancreas_btcv2",
    "46_duodenum": "duodenum_btcv2",
    "51_left_lung": "left_lung_structseg",
    "51_right_lung": "right_lung_structseg",
    "51_heart": "heart_structseg",
    "51_esophagus": "esophagus_structseg",
    "51_bronchies": "trachea_and_bronchi_structseg",
    "51_spinal_cord_nerve_thingy": "spinal_cord_structseg",
    "55_esophagus": "esophagus_segthor",
    "55_heart": "heart_segthor",
    "55_trachea": "trachea_segthor",
    "55_aorta": "aorta_segthor",
    "62_pancreas": "pancreas_nih",
    "64_both_kidneys": "kidneys_kits19",
    "64_kidney_tumor": "kidney_tumor_kits19",
    "18_bladder": "bladder_pelvis",
    "18_uterus": "uterus_pelvis",
    "18_rectum": "rectum_pelvis",
    "18_small_bowel": "small_bowel_pelvis",
}


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return vectors.facts("multitalent_label_tables")


def test_the_structures_are_the_published_outputs_in_their_order(table: dict[str, Any]) -> None:
    indices: dict[str, int] = table["output_index"]
    assert {REGIONS[region]: index for region, index in indices.items()} == {
        key: index for index, key in enumerate(SPACE.select())
    }
    assert len(indices) == 47


def test_the_tasks_are_the_published_datasets_with_the_published_regions(table: dict[str, Any]) -> None:
    regions: dict[str, list[str]] = table["valid_regions"]
    assert [task.channels for task in SPACE.tasks] == [
        tuple(REGIONS[region] for region in dataset) for dataset in regions.values()
    ]
    assert len(SPACE.tasks) == 13


def test_every_task_channel_is_answered_by_its_published_output(table: dict[str, Any]) -> None:
    rows = MultiTalentUNet(UNetParameters(features=(1,) * 6), SPACE).rows
    for index, dataset in enumerate(table["valid_regions"].values()):
        published = [table["output_index"][region] for region in dataset]
        assert rows[index, : len(published)].tolist() == published


def test_the_three_published_unions_contain_their_tumor(table: dict[str, Any]) -> None:
    labels: dict[str, list[int]] = table["regions"]
    unions = {region: values for region, values in labels.items() if len(values) > 1}
    inner = {
        region: next(other for other, values in labels.items() if values == union[1:])
        for region, union in unions.items()
    }
    assert inner == {
        "03_liver": "03_cancer",
        "07_pancreas": "07_pancreas_cancer",
        "64_both_kidneys": "64_kidney_tumor",
    }
    for organ, tumor in inner.items():
        assert SPACE.structure(REGIONS[tumor]).contained_in == REGIONS[organ]


def test_key_and_name_of_a_structure_tell_its_dataset() -> None:
    for task in SPACE.tasks:
        dataset = task.name[task.name.index("(") :]
        for key in task.structures:
            assert key.endswith(f"_{task.key}")
            assert SPACE.structure(key).name.endswith(dataset)
