"""Phantoms are repeatable, anatomically consistent, and written so that training can read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cc3d
import numpy as np
import pydicom
import pytest

from PartialSegLib.errors import CancelledError, CollectionError
from PartialSegLib.images import Geometry, Image, read_image
from PartialSegLib.progress import Monitor, Progress
from PartialSegLib.structures import LabelSpace, catalogue
from PartialSegTraining.cases import read_collection, read_mask_folders
from PartialSegTraining.phantoms import (
    GENERATOR_VERSION,
    Phantom,
    generate_phantom,
    write_collection,
    write_dicom_series,
)
from PartialSegTraining.phantoms.acquisition import Scan
from PartialSegTraining.phantoms.contrast import PHASES, Contrast
from PartialSegTraining.phantoms.fields import SmoothField
from PartialSegTraining.phantoms.frame import Frame

COARSE = (4.0, 4.0, 5.0)
#: Coarser than any scan: for what only concerns files.
TOY = (9.0, 9.0, 9.0)
ORGANS = (
    "liver", "spleen", "right_kidney", "left_kidney", "pancreas", "gallbladder", "stomach", "esophagus", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "right_adrenal_gland", "left_adrenal_gland", "colon_tumor",
    "lung_tumor",
)  # fmt: skip
MOTS = LabelSpace.named("mots")


@pytest.fixture(scope="module", params=[11, 22])
def phantom(request: pytest.FixtureRequest) -> Phantom:
    return generate_phantom(request.param, spacing=COARSE)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "collection"
    write_collection(folder, cases_per_task=1, test_cases=1, seed=4, spacing=TOY)
    return folder


def milliliters(phantom: Phantom, key: str) -> float:
    return float(phantom.masks[key].sum() * phantom.image.geometry.voxel_volume / 1000.0)


def center_x(phantom: Phantom, key: str) -> float:
    """Mean LPS x of a structure: negative on the patient's right."""
    return float(
        phantom.image.geometry.origin[0] + phantom.image.geometry.spacing[0] * np.nonzero(phantom.masks[key])[2].mean()
    )


def hu(phantom: Phantom, key: str) -> float:
    return float(phantom.image.voxels[phantom.masks[key]].mean())


def test_the_same_seed_gives_the_same_voxels() -> None:
    first, second = (generate_phantom(5, spacing=TOY) for _ in range(2))
    assert first.image.geometry == second.image.geometry
    np.testing.assert_array_equal(first.image.voxels, second.image.voxels)
    for key, mask in first.masks.items():
        np.testing.assert_array_equal(mask, second.masks[key])


def test_the_generator_is_the_one_of_its_version() -> None:
    """Fails when the same seed gives another patient: then raise GENERATOR_VERSION and renew the file."""
    expected = json.loads((Path(__file__).parents[1] / "data" / "phantom.json").read_text())
    phantom = generate_phantom(expected["seed"], spacing=COARSE)
    assert expected["version"] == GENERATOR_VERSION
    assert list(phantom.image.voxels.shape) == expected["shape"]
    assert phantom.phase == expected["phase"]
    assert phantom.image.voxels.mean() == pytest.approx(expected["mean_hu"], abs=0.05)
    volumes = {key: milliliters(phantom, key) for key in phantom.masks}
    # Another processor may round single voxels differently.
    assert volumes == pytest.approx(expected["volumes_ml"], rel=0.01, abs=0.3)


def test_another_seed_gives_another_patient() -> None:
    shapes = {generate_phantom(seed, spacing=TOY, shape=(40, 40, 40)).image.voxels.tobytes() for seed in range(3)}
    assert len(shapes) == 3


def test_image_is_ct_in_hounsfield_units(phantom: Phantom) -> None:
    voxels = phantom.image.voxels
    assert voxels.dtype == np.int16
    assert voxels.min() >= -1024
    assert voxels[:, :3, :3].mean() == pytest.approx(-1000, abs=20)
    assert np.percentile(voxels, 99.9) > 250, "There is bone."
    assert 40 < hu(phantom, "liver") < 150
    assert hu(phantom, "gallbladder") < hu(phantom, "liver") - 15
    assert hu(phantom, "kidneys") > hu(phantom, "kidney_tumor") + 15
    assert hu(phantom, "hepatic_vessels") > hu(phantom, "liver") + 10


def test_liver_tumors_are_dark_once_the_liver_has_enhanced() -> None:
    phantom = generate_phantom(14, spacing=COARSE, show=["liver"])
    assert phantom.phase == "portal"
    assert hu(phantom, "liver_tumor") < hu(phantom, "liver") - 15


def test_every_structure_of_the_catalogue_is_there(phantom: Phantom) -> None:
    assert set(phantom.masks) == set(catalogue())
    empty = {key for key, mask in phantom.masks.items() if not mask.any()}
    assert empty <= {"kidney_cyst"}, "A cyst is the only thing that a patient may lack."


@pytest.mark.parametrize(
    ("key", "smallest", "largest"),
    [
        ("liver", 800, 3000), ("spleen", 50, 450), ("kidneys", 150, 550), ("pancreas", 40, 200),
        ("hepatic_vessels", 15, 100), ("gallbladder", 10, 80), ("stomach", 150, 1000), ("aorta", 50, 400),
        ("liver_tumor", 1, 150), ("kidney_tumor", 2, 70), ("pancreas_tumor", 1.5, 40), ("colon_tumor", 1.5, 60),
        ("lung_tumor", 2, 60), ("right_adrenal_gland", 0.3, 5),
    ],
)  # fmt: skip
def test_volumes_are_those_of_adults(phantom: Phantom, key: str, smallest: float, largest: float) -> None:
    assert smallest < milliliters(phantom, key) < largest


def test_tumors_and_vessels_lie_in_their_organ(phantom: Phantom) -> None:
    masks = phantom.masks
    pairs = [(key, item.contained_in) for key, item in catalogue().items() if item.contained_in]
    for inner, outer in [*pairs, ("hepatic_vessels", "liver")]:
        assert not (masks[inner] & ~masks[str(outer)]).any(), f"{inner} leaves {outer}"
    np.testing.assert_array_equal(masks["kidneys"], masks["right_kidney"] | masks["left_kidney"])
    np.testing.assert_array_equal(masks["liver_tumor"], masks["hepatic_vessel_tumor"])


def test_organs_do_not_overlap(phantom: Phantom) -> None:
    owners = np.sum([phantom.masks[key] for key in ORGANS], axis=0)
    assert owners.max() == 1


def test_organs_lie_on_their_side(phantom: Phantom) -> None:
    assert center_x(phantom, "liver") < center_x(phantom, "pancreas") < center_x(phantom, "spleen")
    assert center_x(phantom, "right_kidney") < center_x(phantom, "aorta") < center_x(phantom, "left_kidney")
    assert center_x(phantom, "inferior_vena_cava") < center_x(phantom, "aorta")


def test_there_is_one_tumor_except_in_the_liver(phantom: Phantom) -> None:
    for key in ("kidney_tumor", "pancreas_tumor", "lung_tumor", "colon_tumor"):
        _, sizes = components(phantom.masks[key])
        assert sizes[0] > 0.9 * sizes.sum(), f"{key} is in pieces: {sizes}"
    count, _ = components(phantom.masks["liver_tumor"])
    assert 1 <= count <= 4


def components(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of connected components and their sizes, largest first."""
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    return count, np.sort(np.bincount(labels.ravel())[1:])[::-1]


def test_kidneys_are_two_and_other_organs_one(phantom: Phantom) -> None:
    for key, wanted in (("liver", 1), ("spleen", 1), ("kidneys", 2), ("pancreas", 1), ("aorta", 1)):
        _, sizes = components(phantom.masks[key])
        assert sizes[:wanted].sum() > 0.97 * sizes.sum(), f"{key} is in pieces: {sizes}"


def test_segmentation_holds_the_masks(phantom: Phantom) -> None:
    segmentation = phantom.segmentation()
    assert segmentation.geometry == phantom.image.geometry
    for key, mask in phantom.masks.items():
        np.testing.assert_array_equal(segmentation.array(key), mask)


def test_slice_thickness_changes_the_sampling_but_not_the_patient() -> None:
    thin, thick = (generate_phantom(8, spacing=(4.0, 4.0, thickness), show=["liver"]) for thickness in (2.5, 5.0))
    for key in ("liver", "kidneys", "spleen", "pancreas"):
        assert milliliters(thick, key) == pytest.approx(milliliters(thin, key), rel=0.05)


def test_thick_slices_average_thin_planes() -> None:
    """At the top of the liver, a thick slice shows values between liver and lung."""
    thick = generate_phantom(8, spacing=(4.0, 4.0, 5.0), show=["liver"])
    inside = np.flatnonzero(thick.masks["liver"].any(axis=(1, 2)))
    dome = thick.image.voxels[inside[-1] : inside[-1] + 3]
    assert ((dome > -700) & (dome < -200)).sum() > 20


def test_size_and_spacing_are_kept_when_asked_for() -> None:
    phantom = generate_phantom(2, spacing=(6.0, 5.0, 7.0), shape=(30, 50, 48))
    assert phantom.image.voxels.shape == (30, 50, 48)
    assert phantom.image.geometry.spacing == (6.0, 5.0, 7.0)
    assert generate_phantom(2, shape=(30, 40, 40)).image.voxels.shape == (30, 40, 40)


def test_field_of_view_thickness_and_coverage_vary() -> None:
    scans = [Scan.random(seed, (-92.0, 118.0), (1.0, 1.0, 1.0), 15.0).geometry for seed in range(60)]
    view = [scan.shape[2] * scan.spacing[0] for scan in scans]
    assert min(view) > 320
    assert max(view) < 440
    assert max(view) - min(view) > 30
    assert {1.0, 5.0} <= {scan.spacing[2] for scan in scans}
    coverage = [scan.shape[0] * scan.spacing[2] for scan in scans]
    assert min(coverage) > 200
    assert max(coverage) - min(coverage) > 150


@pytest.mark.parametrize("key", ["lung_tumor", "colon_tumor", "spleen", "pancreas_tumor"])
def test_what_has_to_be_shown_lies_wholly_in_the_scan(key: str) -> None:
    mask = generate_phantom(31, show=[key], spacing=(5.0, 5.0, 5.0)).masks[key]
    assert mask.any()
    assert not mask[0].any()
    assert not mask[-1].any()


def test_all_contrast_phases_occur_and_differ() -> None:
    cases = [Contrast.random(seed) for seed in range(40)]
    assert {case.phase for case in cases} == set(PHASES)
    ratio = {case.phase: case["aorta"] / case["vena_cava"] for case in cases}
    assert ratio["arterial"] > 1.5 > ratio["portal"] > 1.0


def test_a_field_is_the_same_on_grids_and_at_points() -> None:
    field = SmoothField.random(np.random.default_rng(0), pitch=20.0, deviation=3.0)
    z, y, x = np.linspace(-300, 250, 7), np.linspace(-200, 200, 5), np.linspace(-150, 170, 6)
    grid = field.sample(z, y, x)
    points = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
    np.testing.assert_allclose(grid.ravel(), field.at(points), atol=1e-4)
    many = field.sample(*(np.linspace(-200, 200, 50) for _ in range(3)))
    assert many.std() == pytest.approx(3.0, rel=0.15)


def test_a_frame_maps_points_there_and_back() -> None:
    frame = Frame.random(3)
    points = np.random.default_rng(1).uniform(-150, 150, (50, 3))
    np.testing.assert_allclose(frame.to_standard(frame.to_patient(points)), points, atol=0.02)


def test_impossible_phantoms_are_refused() -> None:
    with pytest.raises(CollectionError, match="-1"):
        generate_phantom(-1)
    with pytest.raises(CollectionError, match="appendix"):
        generate_phantom(1, show=["appendix"])


def test_phantoms_need_no_torch() -> None:
    code = "import sys, PartialSegTraining.phantoms; assert not {'torch', 'pydicom'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_dataset_annotates_its_task_alone(collection: Path) -> None:
    cases = read_collection(collection, MOTS)
    assert [case.tasks(MOTS) for case in cases] == [(task.key,) for task in MOTS.tasks]
    for case, task in zip(cases, MOTS.tasks, strict=True):
        image, masks = case.load()
        assert image.geometry.spacing == pytest.approx(TOY)
        assert set(masks) == set(task.structures)
        assert all(mask.any() for mask in masks.values())


def test_datasets_have_the_decathlon_layout(collection: Path) -> None:
    folder = collection / "Task01_Liver"
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == {"0": "background", "1": "liver", "2": "liver_tumor"}
    assert dataset["modality"] == {"0": "CT"}
    assert dataset["numTraining"] == len(dataset["training"]) == 1
    labels = read_image(folder / dataset["training"][0]["label"]).voxels
    assert set(np.unique(labels)) == {0, 1, 2}
    named = {
        entry["task"]: entry["labels"] for entry in json.loads((collection / "collection.json").read_text())["datasets"]
    }
    assert named["kidney"] == {"1": ["kidneys"], "2": ["kidney_tumor", "kidneys"]}
    assert named["hepatic_vessel"] == {"1": ["hepatic_vessels"], "2": ["hepatic_vessel_tumor"]}
    assert named["colon"] == {"1": ["colon_tumor"]}
    assert named["spleen"] == {"1": ["spleen"]}


def test_written_masks_are_those_of_the_phantom(collection: Path) -> None:
    seeds = json.loads((collection / "collection.json").read_text())["test"]["seeds"]
    (case,) = read_mask_folders(collection / "test", MOTS)
    phantom = generate_phantom(seeds[case.name], spacing=TOY)
    image, masks = case.load()
    np.testing.assert_array_equal(image.voxels, phantom.image.voxels)
    assert set(masks) == {structure.key for structure in MOTS.structures}
    for key, mask in masks.items():
        np.testing.assert_array_equal(mask, phantom.masks[key])
    files = {file.name for file in (collection / "test" / case.name / "segmentations").glob("*.nii.gz")}
    assert files == {f"{key}.nii.gz" for key in catalogue()}


def test_an_interrupted_collection_is_completed_and_nothing_made_twice(tmp_path: Path) -> None:
    def cancel_after_three(progress: Progress) -> None:
        if progress.done == 3:
            monitor.cancel()

    monitor = Monitor(cancel_after_three)
    with pytest.raises(CancelledError):
        write_collection(tmp_path, cases_per_task=1, test_cases=0, seed=6, spacing=TOY, monitor=monitor)
    made = {file: file.stat().st_mtime_ns for file in tmp_path.glob("Task*/*/*.nii.gz")}
    assert 6 <= len(made) <= 8
    assert not json.loads((tmp_path / "collection.json").read_text())["complete"]
    done: list[int] = []
    report = Monitor(lambda progress: done.append(progress.done))
    write_collection(tmp_path, cases_per_task=1, test_cases=0, seed=6, spacing=TOY, monitor=report)
    assert done[-1] == 7
    assert all(file.stat().st_mtime_ns == time for file, time in made.items())
    assert len(list(tmp_path.glob("Task*/*/*.nii.gz"))) == 14
    assert not list(tmp_path.rglob(".*")), "No temporary file is left."
    assert len(read_collection(tmp_path, MOTS)) == 7


def test_several_processes_write_the_same_files(collection: Path, tmp_path: Path) -> None:
    write_collection(tmp_path, cases_per_task=1, test_cases=1, seed=4, spacing=TOY, workers=2)
    files = sorted(path.relative_to(collection) for path in collection.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        if file.name.endswith(".nii.gz"):
            first, second = (read_image(root / file) for root in (collection, tmp_path))
            np.testing.assert_array_equal(first.voxels, second.voxels)


def test_cases_of_the_whole_trunk_show_what_their_dataset_does_not_annotate(tmp_path: Path) -> None:
    write_collection(tmp_path, cases_per_task=1, trunk_cases_per_task=1, test_cases=0, seed=4, spacing=TOY)
    cases = {case.name: case for case in read_collection(tmp_path, MOTS)}
    assert len(cases) == 14
    trunk = cases["colon_trunk_001"]
    assert trunk.annotated == cases["colon_001"].annotated == frozenset({"colon_tumor"})
    seeds = json.loads((tmp_path / "collection.json").read_text())["datasets"][4]["seeds"]
    phantom = generate_phantom(seeds["colon_trunk_001"], spacing=TOY)
    np.testing.assert_array_equal(trunk.load()[0].voxels, phantom.image.voxels)
    assert phantom.masks["lung_tumor"].any(), "All structures lie in the scan."


def test_another_collection_is_not_overwritten(collection: Path) -> None:
    with pytest.raises(CollectionError, match="seed"):
        write_collection(collection, cases_per_task=1, test_cases=1, seed=5, spacing=TOY)
    with pytest.raises(CollectionError, match="spacing"):
        write_collection(collection, cases_per_task=1, test_cases=1, seed=4)
    with pytest.raises(CollectionError, match="impossible"):
        write_collection(collection, cases_per_task=0, test_cases=1, seed=4, spacing=TOY)


def test_cancelling_several_processes_keeps_what_they_finished(tmp_path: Path) -> None:
    monitor = Monitor(lambda progress: monitor.cancel() if progress.done == 1 else None)
    with pytest.raises(CancelledError):
        write_collection(tmp_path, cases_per_task=2, test_cases=0, seed=7, spacing=TOY, workers=2, monitor=monitor)
    files = list(tmp_path.rglob("*.nii.gz"))
    assert 4 <= len(files) <= 8
    assert all(read_image(file).voxels.any() for file in files)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CollectionError, match="file"):
        write_collection(tmp_path / "file" / "collection", cases_per_task=1, test_cases=0, seed=1)


@pytest.fixture(scope="module")
def small() -> Phantom:
    return generate_phantom(9, spacing=(10.0, 10.0, 20.0))


def test_a_dicom_series_is_read_back_exactly(small: Phantom, tmp_path: Path) -> None:
    files = write_dicom_series(small.image, tmp_path / "series", seed=9)
    assert len(files) == small.image.geometry.shape[0]
    image = read_image(tmp_path / "series")
    np.testing.assert_array_equal(image.voxels, small.image.voxels)
    assert image.geometry.matches(small.image.geometry)


def test_a_dicom_series_says_that_it_is_synthetic(small: Phantom, tmp_path: Path) -> None:
    header = pydicom.dcmread(write_dicom_series(small.image, tmp_path / "series", seed=9)[0])
    assert header.PatientName == "Phantom^Synthetic"
    assert header.PatientID == "PHANTOM-9"
    assert list(header.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert header.SeriesDescription == "PartialSeg phantom"
    assert header.BurnedInAnnotation == "NO"
    assert header.SOPClassUID.name == "CT Image Storage"
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID


def test_dicom_identifiers_follow_from_seed_and_content(small: Phantom, tmp_path: Path) -> None:
    brighter = Image(small.image.voxels + np.int16(1), small.image.geometry)
    series = {"a": (small.image, 9), "again": (small.image, 9), "seed": (small.image, 8), "content": (brighter, 9)}
    files = {name: write_dicom_series(image, tmp_path / name, seed=seed) for name, (image, seed) in series.items()}
    assert [file.read_bytes() for file in files["a"]] == [file.read_bytes() for file in files["again"]]
    everything = [pydicom.dcmread(file) for name in ("a", "seed", "content") for file in files[name]]
    assert len({header.SeriesInstanceUID for header in everything}) == 3
    assert len({header.SOPInstanceUID for header in everything}) == len(everything)
    assert all(header.SOPInstanceUID.is_valid for header in everything)


def test_an_oblique_image_keeps_its_direction_in_dicom(small: Phantom, tmp_path: Path) -> None:
    a, b = np.radians(20), np.radians(-35)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    old = small.image.geometry
    geometry = Geometry(old.shape, (10.0, 9.0, 20.0), (12.5, -80.25, 3.0), tuple(float(v) for v in turn.ravel()))
    write_dicom_series(Image(small.image.voxels, geometry), tmp_path / "series", seed=1)
    assert read_image(tmp_path / "series").geometry.matches(geometry)


def test_impossible_dicom_series_are_refused(small: Phantom, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(CollectionError, match="full"):
        write_dicom_series(small.image, tmp_path / "full", seed=1)
    skewed = Geometry(small.image.geometry.shape, direction=(1.0, 0.1, 0.0, 0.0, 0.995, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(CollectionError, match="perpendicular"):
        write_dicom_series(Image(small.image.voxels, skewed), tmp_path / "skewed", seed=1)
    with pytest.raises(CollectionError, match="-5000"):
        write_dicom_series(
            Image(small.image.voxels * 0 - np.int16(5000), small.image.geometry), tmp_path / "low", seed=1
        )
    assert not (tmp_path / "skewed").exists()
    assert not (tmp_path / "low").exists()
