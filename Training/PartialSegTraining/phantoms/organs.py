"""Paints the great vessels and the solid organs with their vessels and lesions.

The order is the order of precedence: whoever is painted first keeps its ground. Called by the
phantom after the torso and before the gut.
"""

from __future__ import annotations

import numpy as np

from PartialSegTraining.phantoms.anatomy import Kidney
from PartialSegTraining.phantoms.canvas import Canvas, Region, crop, intersect
from PartialSegTraining.phantoms.fields import stream
from PartialSegTraining.phantoms.frame import wall_distance
from PartialSegTraining.phantoms.lesions import Lesion
from PartialSegTraining.phantoms.patient import Patient
from PartialSegTraining.phantoms.shapes import Tube, smooth_min
from PartialSegTraining.phantoms.tissues import Tissue
from PartialSegTraining.phantoms.torso import HEART, lung_distance
from PartialSegTraining.phantoms.vessels import grow_tree, scatter

#: Great vessels in order of precedence: tube, contrast, tissue.
_VESSELS = (
    ("aorta", "aorta", Tissue.AORTA),
    ("vena_cava", "vena_cava", Tissue.INFERIOR_VENA_CAVA),
    ("right_iliac_artery", "aorta", Tissue.OTHER),
    ("left_iliac_artery", "aorta", Tissue.OTHER),
    ("right_iliac_vein", "vena_cava", Tissue.OTHER),
    ("left_iliac_vein", "vena_cava", Tissue.OTHER),
    ("upper_cava", "heart_blood", Tissue.OTHER),
    ("mesenteric_artery", "aorta", Tissue.OTHER),
    ("celiac_trunk", "aorta", Tissue.OTHER),
    ("portal_vein", "portal_vein", Tissue.PORTAL_VEIN),
    ("splenic_vein", "portal_vein", Tissue.PORTAL_VEIN),
    ("mesenteric_vein", "portal_vein", Tissue.OTHER),
    ("hepatic_artery", "aorta", Tissue.OTHER),
    ("right_renal_vein", "vena_cava", Tissue.OTHER),
    ("left_renal_vein", "vena_cava", Tissue.OTHER),
    ("right_renal_artery", "aorta", Tissue.OTHER),
    ("left_renal_artery", "aorta", Tissue.OTHER),
)


def paint_organs(canvas: Canvas, patient: Patient) -> None:
    """Paint vessels and solid organs."""
    _paint_muscles(canvas, patient)
    _paint_great_vessels(canvas, patient)
    for kidney in patient.anatomy.kidneys:
        _paint_kidney(canvas, patient, kidney)
    _paint_adrenals(canvas, patient)
    _paint_gallbladder(canvas, patient)
    _paint_pancreas(canvas, patient)
    _paint_liver(canvas, patient)
    _paint_spleen(canvas, patient)
    _paint_heart(canvas, patient)
    _paint_lung_vessels(canvas, patient)


def paint_lesion(
    canvas: Canvas,
    lesion: Lesion,
    hu: float,
    core: float,
    tissue: Tissue,
    within: tuple[Region, np.ndarray] | None = None,
) -> None:
    """Paint a lump over what is there, darker toward its core, and give it its tissue.

    Parameters
    ----------
    canvas : Canvas
        Where to paint.
    lesion : Lesion
        Its form.
    hu, core : float
        Hounsfield units near its surface and how much darker its middle is.
    tissue : Tissue
        Whose voxels they become.
    within : tuple, optional
        Region and signed distance of the body that the lesion stays in.
    """
    region = lesion.region(canvas)
    if within is not None:
        region = intersect(region, within[0])
    if any(part.start >= part.stop for part in region):
        return
    distance = lesion.distance(canvas, region)
    depth = np.clip(-distance * (1.0 / (0.6 * min(lesion.body.radii))), 0.0, 1.0)
    if within is not None:
        distance = np.maximum(distance, within[1][crop(within[0], region)])
    canvas.blend(region, distance, hu - core * depth * depth + 6.0 * canvas.noise("lobes", region))
    canvas.tissue[region][distance < 0] = tissue


def _paint_muscles(canvas: Canvas, patient: Patient) -> None:
    for name in ("right_psoas", "left_psoas"):
        region, distance, _ = canvas.trace(canvas.frame.place(patient.anatomy.tube(name, step=15.0)))
        canvas.place(region, distance, patient.contrast["muscle"])


def _paint_great_vessels(canvas: Canvas, patient: Patient) -> None:
    for name, enhancement, tissue in _VESSELS:
        tube = canvas.frame.place(patient.anatomy.tube(name, step=8.0))
        region, distance, _ = canvas.trace(tube)
        # Vessels join: each only yields to bone and muscle, which lie farther than its own wall.
        canvas.blend(region, distance, patient.contrast[enhancement])
        free = canvas.tissue[region] == Tissue.OTHER
        canvas.claim(region, np.where(free, distance, np.float32(1.0)), tissue)


def _paint_kidney(canvas: Canvas, patient: Patient, kidney: Kidney) -> None:
    right = kidney.side == "right"
    reach = np.full(3, 75.0)
    region = canvas.around(kidney.body.center - reach, kidney.body.center + reach)
    if not canvas.hu[region].size:
        return
    contrast = patient.contrast
    x, y, z = canvas.standard(region)
    parenchyma = kidney.distance(x, y, z) + 0.7 * canvas.noise("swell", region)
    lumps = [lesion for side, lesion in patient.lesions.cysts if side == kidney.side]
    tumor = patient.lesions.kidney if patient.lesions.kidney_side == kidney.side else None
    whole = parenchyma
    for lesion in (*lumps, *([tumor] if tumor else [])):
        whole = smooth_min(whole, lesion.distance(canvas, region), 3.0)
    lobes = canvas.noise("lobes", region)
    pyramids = np.clip((-parenchyma - 6.0 - 2.5 * lobes) * 0.35, 0.0, 1.0)
    hu = contrast["kidney_cortex"] + pyramids * (contrast["kidney_medulla"] - contrast["kidney_cortex"])
    whole = canvas.place(region, whole, hu, Tissue.RIGHT_KIDNEY if right else Tissue.LEFT_KIDNEY)
    sinus = np.maximum(kidney.sinus.distance(x, y, z) + 1.0, kidney.body.distance(x, y, z) + 1.0)
    pelvis = np.maximum(sinus + 4.5, 0.5 - whole)
    canvas.blend(region, pelvis, contrast["renal_pelvis"])
    canvas.claim(region, np.maximum(sinus, -whole))
    for cyst in lumps:
        tissue = Tissue.RIGHT_KIDNEY_CYST if right else Tissue.LEFT_KIDNEY_CYST
        paint_lesion(canvas, cyst, 8.0, 0.0, tissue, (region, whole))
    if tumor:
        tissue = Tissue.RIGHT_KIDNEY_TUMOR if right else Tissue.LEFT_KIDNEY_TUMOR
        paint_lesion(canvas, tumor, contrast["kidney_tumor"], 28.0, tissue, (region, whole))


def _paint_adrenals(canvas: Canvas, patient: Patient) -> None:
    for side, tissue in (("right", Tissue.RIGHT_ADRENAL), ("left", Tissue.LEFT_ADRENAL)):
        tubes = [canvas.frame.place(patient.anatomy.tube(f"{side}_adrenal_{part}")) for part in ("body", "limb")]
        region, distance, _ = canvas.trace(join(*tubes))
        canvas.place(region, distance, patient.contrast["adrenal"], tissue)


def _paint_gallbladder(canvas: Canvas, patient: Patient) -> None:
    region, distance, _ = canvas.trace(canvas.frame.place(patient.anatomy.tube("gallbladder")))
    distance = canvas.place(region, distance, patient.contrast["bowel_wall"] - 25.0, Tissue.GALLBLADDER)
    canvas.blend(region, distance + 1.6, 9.0)


def _paint_pancreas(canvas: Canvas, patient: Patient) -> None:
    contrast, tumor = patient.contrast, patient.lesions.pancreas
    region, distance, _ = canvas.trace(canvas.frame.place(patient.anatomy.tube("pancreas")), margin=26.0)
    if not distance.size:
        return
    lobes = canvas.noise("lobes", region)
    distance = distance + 0.9 * lobes + 0.8 * canvas.noise("swell", region)
    whole = smooth_min(distance, tumor.distance(canvas, region), 5.0)
    whole = canvas.place(region, whole, contrast["pancreas"] + 8.0 * lobes, Tissue.PANCREAS)
    paint_lesion(canvas, tumor, contrast["pancreas_tumor"], 14.0, Tissue.PANCREAS_TUMOR, (region, whole))


def _paint_liver(canvas: Canvas, patient: Patient) -> None:
    region = canvas.around((-135.0, -100.0, -100.0), (95.0, 95.0, 118.0))
    if not canvas.hu[region].size:
        return
    contrast, rng = patient.contrast, stream(patient.seed, "liver painting")
    x, y, z = canvas.standard(region)
    liver = patient.anatomy.liver.distance(x, y, z) + 1.8 * canvas.noise("swell", region)
    texture = 2.0 * canvas.noise("lobes", region)
    liver = canvas.place(region, liver, contrast["liver"] + texture, Tissue.LIVER)
    portal, hepatic = _hepatic_trees(canvas, patient)
    for tree, enhancement in ((hepatic, "hepatic_vein"), (portal, "portal_vein")):
        box, distance, _ = canvas.trace(tree, margin=3.0)
        inner = intersect(box, region)
        distance = np.maximum(distance[crop(box, inner)], liver[crop(region, inner)])
        canvas.blend(inner, distance, contrast[enhancement])
        canvas.tissue[inner][distance < 0] = Tissue.HEPATIC_VESSEL
    for lesion in patient.lesions.liver:
        _paint_liver_tumor(canvas, patient, lesion, bool(rng.random() < 0.3), (region, liver))


def _paint_liver_tumor(
    canvas: Canvas, patient: Patient, lesion: Lesion, rimmed: bool, within: tuple[Region, np.ndarray]
) -> None:
    """Paint a dark lump; some have a bright rim, which belongs to the tumor."""
    contrast = patient.contrast
    if rimmed:
        paint_lesion(canvas, lesion, contrast["liver_tumor_rim"], 45.0, Tissue.LIVER_TUMOR, within)
    else:
        paint_lesion(canvas, lesion, contrast["liver_tumor"], 12.0, Tissue.LIVER_TUMOR, within)


def _hepatic_trees(canvas: Canvas, patient: Patient) -> tuple[Tube, Tube]:
    """Grow the portal tree from the hilum and the hepatic veins from the vena cava."""
    frame, liver, rng = canvas.frame, patient.anatomy.liver, stream(patient.seed, "hepatic trees")

    def inside(points: np.ndarray) -> np.ndarray:
        return liver.distance(*frame.to_standard(points).T)

    scale = np.asarray(frame.scale)
    low, high = np.array([-135.0, -95.0, -90.0]) * scale, np.array([85.0, 85.0, 115.0]) * scale
    hilum = frame.to_patient(patient.anatomy.tubes["portal_vein"][-1, :3])[0]
    confluence = frame.to_patient(np.array([-21.0, 8.0, 78.0]))[0]
    portal = grow_tree(hilum, scatter(inside, low, high, 17, 13.0, rng), twig=3.2, trunk=7.4)
    hepatic = grow_tree(confluence, scatter(inside, low, high, 11, 15.0, rng), twig=3.2, trunk=6.8, detour=0.6)
    return portal, hepatic


def _paint_spleen(canvas: Canvas, patient: Patient) -> None:
    region = canvas.around((40.0, -45.0, -45.0), (135.0, 100.0, 125.0))
    if not canvas.hu[region].size:
        return
    x, y, z = canvas.standard(region)
    spleen = patient.anatomy.spleen.distance(x, y, z) + 1.2 * canvas.noise("swell", region)
    hu = patient.contrast["spleen"] + 2.0 * canvas.noise("lobes", region)
    if patient.contrast.phase == "arterial":
        # Early on, red and white pulp fill at different times.
        hu = hu + 9.0 * canvas.noise("bumps", region)
    canvas.place(region, spleen, hu, Tissue.SPLEEN)


def _paint_heart(canvas: Canvas, patient: Patient) -> None:
    center, reach = np.asarray(HEART.center), HEART.reach + 5.0
    region = canvas.around(center - reach, center + reach)
    if not canvas.hu[region].size:
        return
    x, y, z = canvas.standard(region)
    wall = np.maximum(HEART.distance(x, y, z), wall_distance(x, y, z) + 6.0)
    wall = canvas.place(region, wall, patient.contrast["myocardium"])
    chambers = wall + 9.0 + 3.0 * canvas.noise("swell", region)
    septum = 4.5 - np.abs(0.7 * (x - 14.0) + 0.7 * (y + 34.0) - 0.006 * np.square(x - y - 48.0) + 5.0)
    canvas.blend(region, np.maximum(chambers, septum), patient.contrast["heart_blood"])


def _paint_lung_vessels(canvas: Canvas, patient: Patient) -> None:
    """Grow a tree of vessels in each lung, then set the tumor into its lung."""
    frame, rng = canvas.frame, stream(patient.seed, "lung vessels")

    def inside(points: np.ndarray) -> np.ndarray:
        x, y, z = frame.to_standard(points).T
        return lung_distance(x, y, z, wall_distance(x, y, z))

    for side in (-1.0, 1.0):
        corners = np.sort(np.array([[side * 10.0, -90.0, -20.0], [side * 130.0, 90.0, 280.0]]), axis=0)
        root = frame.to_patient(np.array([side * 34.0 + 4.0, 4.0, 158.0]))[0]
        low, high = corners * frame.scale
        targets = scatter(inside, low, high, 70, 5.0, rng)
        region, distance, _ = canvas.trace(grow_tree(root, targets, twig=0.9, trunk=6.0, step=14.0, detour=0.5), 2.0)
        canvas.blend(region, distance, 0.8 * patient.contrast["heart_blood"])
    paint_lesion(canvas, patient.lesions.lung, patient.contrast["lung_tumor"], 10.0, Tissue.LUNG_TUMOR)


def join(*tubes: Tube) -> Tube:
    """Return several tubes as one."""
    return Tube(
        np.concatenate([tube.start for tube in tubes]),
        np.concatenate([tube.end for tube in tubes]),
        np.concatenate([tube.start_radius for tube in tubes]),
        np.concatenate([tube.end_radius for tube in tubes]),
    )
