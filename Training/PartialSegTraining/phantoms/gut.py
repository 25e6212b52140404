"""Paints the hollow organs: esophagus, stomach, duodenum, colon with its tumor, small bowel, bladder.

Each is a wall around changing content: gas that rises to the front of a lying patient, fluid,
oral contrast, food and stool. They yield to everything that was painted before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PartialSegTraining.phantoms.canvas import Canvas, Region
from PartialSegTraining.phantoms.fields import stream
from PartialSegTraining.phantoms.frame import diaphragm_height, wall_distance
from PartialSegTraining.phantoms.patient import Patient
from PartialSegTraining.phantoms.shapes import Tube
from PartialSegTraining.phantoms.tissues import Tissue

_GAS = -960.0


@dataclass(frozen=True)
class Content:
    """What fills a hollow organ along its course, one value a capsule of its tube.

    Parameters
    ----------
    hu : numpy.ndarray
        (n,) Hounsfield units of the fluid or stool.
    level : numpy.ndarray
        (n,) patient y in front of which there is gas, in millimetres.
    mottle : numpy.ndarray
        (n,) Hounsfield units by which stool is uneven.
    """

    hu: np.ndarray
    level: np.ndarray
    mottle: np.ndarray


def paint_gut(canvas: Canvas, patient: Patient) -> None:
    """Paint all hollow organs."""
    rng = stream(patient.seed, "gut")
    oral_contrast = float(rng.uniform(120.0, 260.0)) if rng.random() < 0.3 else 0.0
    esophagus = canvas.frame.place(patient.anatomy.tube("esophagus", step=10.0))
    content = _fluid(esophagus, rng, 20.0, gas=0.0)
    _paint_hollow(canvas, esophagus, content, 4.5, patient.contrast["esophagus"], Tissue.ESOPHAGUS)
    stomach = canvas.frame.place(patient.anatomy.tube("stomach"))
    content = _fluid(stomach, rng, 15.0 + oral_contrast, gas=float(rng.uniform(-0.6, 0.5)), together=True)
    _paint_hollow(canvas, stomach, content, 4.5, patient.contrast["stomach_wall"], Tissue.STOMACH)
    duodenum = canvas.frame.place(patient.anatomy.tube("duodenum"))
    content = _fluid(duodenum, rng, 18.0 + 0.7 * oral_contrast, gas=0.0)
    _paint_hollow(canvas, duodenum, content, 3.0, patient.contrast["bowel_wall"])
    _paint_colon(canvas, patient, rng)
    bladder = canvas.frame.place(patient.anatomy.tube("bladder"))
    _paint_hollow(canvas, bladder, _fluid(bladder, rng, 6.0, gas=-2.0), 3.5, patient.contrast["muscle"])
    loops = canvas.frame.place(patient.anatomy.tube("small_bowel", step=9.0))
    content = _fluid(loops, rng, 20.0 + 0.8 * oral_contrast, gas=-0.8)
    _paint_hollow(canvas, loops, content, 2.8, patient.contrast["bowel_wall"])


def _paint_hollow(
    canvas: Canvas, tube: Tube, content: Content, wall: float, wall_hu: float, tissue: Tissue = Tissue.OTHER
) -> None:
    """Paint the wall, `wall` mm thick, and the content of a tube."""
    region, distance, index = canvas.trace(tube)
    if not distance.size:
        return
    distance = np.maximum(distance + 0.8 * canvas.noise("bumps", region), _belly_distance(canvas, region, tissue))
    distance = canvas.place(region, distance, wall_hu, tissue)
    lobes = canvas.noise("lobes", region)
    filling = content.hu[index] + content.mottle[index] * lobes
    _, y, _ = canvas.patient(region)
    filling = np.where((y < content.level[index]) | (content.mottle[index] * lobes > 90.0), np.float32(_GAS), filling)
    canvas.blend(region, distance + wall, filling.astype(np.float32))


def _belly_distance(canvas: Canvas, region: Region, tissue: Tissue) -> np.ndarray:
    """Return the distance of the space that a hollow organ may fill: under the diaphragm, but for the esophagus."""
    x, y, z = canvas.standard(region)
    inside = wall_distance(x, y, z) + 1.5
    if tissue == Tissue.ESOPHAGUS:
        return inside
    return np.maximum(inside, 0.8 * (z - diaphragm_height(x, y) + 4.0))


def _fluid(tube: Tube, rng: np.random.Generator, hu: float, gas: float, together: bool = False) -> Content:
    """Fill a tube with fluid and some gas in front.

    Parameters
    ----------
    tube : Tube
        In patient space.
    rng : numpy.random.Generator
        Source of chance.
    hu : float
        Mean Hounsfield units of the fluid.
    gas : float
        Mean gas level: -1 none, 0 the front half, 1 all.
    together : bool
        Whether all of it is one pool with one level (the stomach).
    """
    count = len(tube)
    values = _wandering(rng, count, 6) * 9.0 + hu
    share = np.clip(gas + 0.7 * _wandering(rng, count, 9), -1.2, 0.9)
    if together:
        front = float((tube.start[:, 1] - tube.start_radius).min())
        back = float((tube.start[:, 1] + tube.start_radius).max())
        level = np.full(count, front + (0.3 + 0.35 * gas) * (back - front))
    else:
        level = tube.start[:, 1] + share * tube.start_radius
    return Content(values, level, np.zeros(count))


def _paint_colon(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    """Paint the colon with its haustra and the mass that grows from its wall."""
    course = canvas.frame.place(patient.anatomy.tube("colon", step=5.0))
    count = len(course)
    folds = 1.0 - 0.17 * np.square(np.sin(np.arange(count + 1) * (np.pi / 6.5) + rng.uniform(0.0, 3.0)))
    narrow = 1.0 + 0.16 * _wandering(rng, count + 1, 12)
    width = folds * np.clip(narrow, 0.65, 1.3)
    tube = Tube(course.start, course.end, course.start_radius * width[:-1], course.end_radius * width[1:])
    stool = np.clip(_wandering(rng, count, 14), -1.0, 1.0)
    share = np.clip(-0.1 + 0.9 * _wandering(rng, count, 11), -1.3, 1.2)
    content = Content(
        hu=35.0 + 25.0 * stool,
        level=tube.start[:, 1] + share * tube.start_radius,
        mottle=np.where(stool > 0.1, 55.0, 8.0),
    )
    lesion = patient.lesions.colon
    box = lesion.region(canvas)
    room = canvas.carve(box, np.full(canvas.hu[box].shape, -np.inf, np.float32))
    _paint_hollow(canvas, tube, content, 3.0, patient.contrast["bowel_wall"])
    if room.size:
        _paint_colon_tumor(canvas, patient, tube, box, room)


def _paint_colon_tumor(canvas: Canvas, patient: Patient, colon: Tube, box: Region, room: np.ndarray) -> None:
    """Paint the mass: a thick wall that leaves a narrow lumen and bulges a little outward.

    Parameters
    ----------
    canvas, patient
        Where, and who.
    colon : Tube
        The colon in patient space.
    box : Region
        Box of the mass.
    room : numpy.ndarray
        Distance, over the box, of the space that no organ had taken before the colon.
    """
    lesion = patient.lesions.colon
    near = np.linalg.norm(colon.start - lesion.body.center, axis=1) < lesion.body.reach + 45.0
    wide = Tube(colon.start[near], colon.end[near], colon.start_radius[near] + 4.0, colon.end_radius[near] + 4.0)
    thin = np.full(len(wide), 2.5)
    mass = np.maximum(lesion.distance(canvas, box), np.maximum(room, _belly_distance(canvas, box, Tissue.OTHER)))
    mass = np.maximum(mass, canvas.trace_in(box, wide))
    lumen = canvas.trace_in(box, Tube(wide.start, wide.end, thin, thin))
    canvas.blend(box, mass, patient.contrast["colon_tumor"] + 6.0 * canvas.noise("lobes", box))
    canvas.blend(box, np.maximum(mass, lumen), -400.0)
    canvas.claim(box, np.maximum(mass, -lumen), Tissue.COLON_TUMOR)


def _wandering(rng: np.random.Generator, count: int, pace: int) -> np.ndarray:
    """Return (count,) smooth random values of unit size that change over about `pace` entries."""
    knots = rng.standard_normal(count // pace + 3)
    return np.interp(np.arange(count) / pace, np.arange(len(knots)), knots)
