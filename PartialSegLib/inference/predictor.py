"""The door of inference: a bundle, a device, and ``segment(image, tasks)``.

Per run: crop to the body, resample, encode every window once, blend all chosen structures in a slab
ring, export finished slabs as packed masks, and mend the masks by the rules of the label space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import ImageError, MemoryForecastError
from PartialSegLib.images import Image
from PartialSegLib.inference.allocation import give_back
from PartialSegLib.inference.boxes import clip_masks, hull
from PartialSegLib.inference.division import Division
from PartialSegLib.inference.extractors import Extractor, make_extractor
from PartialSegLib.inference.featurecache import CachingExtractor, FeatureCache
from PartialSegLib.inference.passes import Job, Outcome, Passes, pad_to_windows
from PartialSegLib.inference.planner import (
    Forecast,
    NetworkCosts,
    Plan,
    device_named,
    fits,
    forecast,
    free_memory,
    is_out_of_memory,
    ladder,
    memory_for_run,
    network_costs,
)
from PartialSegLib.inference.presets import Preset, preset_named
from PartialSegLib.inference.result import Result, computed, seconds
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.postprocessing import apply_rules
from PartialSegLib.preprocessing import (
    NetworkGrid,
    Prepared,
    Region,
    find_crop,
    intersect,
    make_grid,
    padding_value,
    prepare,
    region_crop,
    widen,
)
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Box, PackedMask, Segmentation
from PartialSegLib.structures import Task

#: Millimetres of context around the region that the coarse pass found, or that the user gave.
REGION_MARGIN = 30.0


class Predictor:
    """Runs one model on any number of images; the network is loaded once.

    Parameters
    ----------
    bundle : ModelBundle
        The model.
    device : str
        ``auto`` (a CUDA GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` ...

    Raises
    ------
    PartialSegError
        When the device does not exist.
    BundleError
        When the weights are damaged.
    """

    def __init__(self, bundle: ModelBundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.label_space = bundle.card.label_space
        self.device = device_named(device)
        self._window: tuple[int, int, int] = bundle.card.window
        self._network = bundle.load_network()
        self._costs: NetworkCosts | None = None
        self._extractors: dict[tuple[torch.device, bool], Extractor] = {}
        self._pace: dict[torch.device, float] = {}

    def forecast(
        self,
        image: Image,
        tasks: Sequence[str] | None = None,
        preset: str = "standard",
        *,
        region: Region | None = None,
    ) -> Forecast:
        """Predict memory and time of a run, and how it will be run.

        Parameters
        ----------
        image : Image
            The image; it is only looked at.
        tasks : sequence of str, optional
            Tasks or structures; all by default.
        preset : str
            ``fast``, ``standard`` or ``paper``.
        region : tuple of float, optional
            Only this part, as for :meth:`segment`.

        Raises
        ------
        LabelSpaceError
            When a task is unknown.
        ImageError
            When a task needs images of several channels, or the region is empty or outside.
        MemoryForecastError
            When it fits in no way, with the numbers.
        """
        structures = self._select(tasks)
        recipe, chosen = self.bundle.card.preprocessing, preset_named(preset)
        if region is None:
            crop = find_crop(image, recipe)
        else:
            crop = widen(region_crop(image.geometry, recipe, region), image.geometry, recipe, REGION_MARGIN)
        grid = make_grid(image.geometry, recipe, recipe.spacing, crop)
        windows = self._windows(grid, chosen)
        return self._plan(grid, windows, chosen, structures)[0]

    @torch.inference_mode()
    def segment(
        self,
        image: Image,
        tasks: Sequence[str] | None = None,
        preset: str = "standard",
        *,
        region: Region | None = None,
        uncertainty: bool = False,
        monitor: Monitor | None = None,
        cache: FeatureCache | None = None,
        slab: Callable[[Segmentation], object] | None = None,
        finished: Callable[[Task, Segmentation], object] | None = None,
    ) -> Result:
        """Segment the chosen tasks of an image.

        Parameters
        ----------
        image : Image
            CT in Hounsfield units, any orientation, spacing and size.
        tasks : sequence of str, optional
            Task or structure keys; all by default.
        preset : str
            ``fast``, ``standard`` or ``paper``.
        region : tuple of float, optional
            Only this part, in LPS millimetres: (x from, x to, y from, y to, z from, z to).
        uncertainty : bool
            Also return the map of mean binary entropy.
        monitor : Monitor, optional
            Progress and cancellation: between planes (``prepare``), windows and tasks (``finish``).
        cache : FeatureCache, optional
            Keeps and gives the features of windows, where they do not depend on the task.
        slab : callable, optional
            Called with the voxels of each slab as soon as no window can touch it, before they are mended.
            A run that begins again because memory ran out tells them again.
        finished : callable, optional
            Called with each task and its structures as soon as they are mended and change no more.

        Raises
        ------
        LabelSpaceError
            When a task is unknown.
        ImageError
            When a task needs images of several channels, or the region is empty or outside.
        MemoryForecastError
            When the run fits in no way.
        CancelledError
            When the user stopped it.
        """
        started = time.perf_counter()
        monitor = monitor or Monitor()
        structures, chosen = self._select(tasks), preset_named(preset)
        body = find_crop(image, self.bundle.card.preprocessing)
        asked = region_crop(image.geometry, self.bundle.card.preprocessing, region) if region else None
        crop, steps = self._crop(image, structures, chosen, body, asked, monitor, cache)
        prepared = prepare(image, self.bundle.card.preprocessing, crop=crop, monitor=monitor)
        give_back()
        prepared_at = time.perf_counter()
        grid = prepared.grid
        described = tuple(self.label_space.structure(key) for key in structures)

        def segmented(masks: dict[str, PackedMask]) -> Segmentation:
            clipped = masks if asked is None else clip_masks(masks, grid, asked)
            return Segmentation(image.geometry, described, clipped, algorithm=self.algorithm)

        outcome, expected, taken = self._run(
            prepared,
            structures,
            chosen,
            monitor,
            "segment",
            uncertainty=uncertainty,
            cache=cache,
            slab=None if slab is None else lambda masks: slab(segmented(masks)),
        )
        segmented_at = time.perf_counter()
        del prepared  # the resampled image, before components ask for memory
        segmentation = apply_rules(segmented(outcome.masks), self.label_space, finished=finished, monitor=monitor)
        give_back()
        ended_at = time.perf_counter()
        report = {
            "model": self.bundle.card.name,
            "preset": preset,
            **computed(outcome, expected, self._extractor(expected.plan).name),
            "steps": steps + taken,
            "memory_ran_out": bool(taken),
            "corrections": list(image.corrections),
            "seconds": seconds(started, prepared_at, segmented_at, ended_at),
            "volumes_ml": {key: round(segmentation.volume_ml(key), 3) for key in structures},
        }
        if not uncertainty or outcome.entropy is None:
            return Result(segmentation, report)
        report["uncertainty"] = {key: round(outcome.structure_entropy[key], 4) for key in structures}
        entropy = grid.restore_array(outcome.entropy.astype(np.float32), 0.0)
        return Result(segmentation, report, Image(entropy, image.geometry))

    @property
    def algorithm(self) -> str:
        """Name of the model for DICOM (``DICOM.SegmentAlgorithmName``)."""
        return f"PartialSeg {self.bundle.card.name}"

    def _select(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        """Return the chosen structures, all of tasks that an image of a single channel can answer."""
        structures = self.label_space.select(tasks)
        known = self.label_space.tasks
        channels = {task.key: self._network.input_channels(index) for index, task in enumerate(known)}
        for task in (self.label_space.task_of(key).key for key in structures):
            if channels[task] != 1:
                others = [key for key, count in channels.items() if count == 1]
                raise ImageError(
                    f"Task '{task}' of {self.bundle.card.name} needs an image of {channels[task]} channels, "
                    "but an image here has one.",
                    f"Choose from: {', '.join(others)}." if others else "No task of this model can be run.",
                )
        return structures

    def _crop(
        self,
        image: Image,
        structures: Sequence[str],
        preset: Preset,
        body: Box,
        asked: Box | None,
        monitor: Monitor,
        cache: FeatureCache | None,
    ) -> tuple[Box, list[str]]:
        """Return the part of the image to segment, and what was done to find it."""
        recipe = self.bundle.card.preprocessing
        if asked is not None:
            return widen(asked, image.geometry, recipe, REGION_MARGIN), ["only the region of interest"]
        if not preset.coarse or recipe.coarse_spacing is None:
            return body, []
        prepared = prepare(image, recipe, spacing=recipe.coarse_spacing, crop=body, monitor=monitor)
        outcome, _, taken = self._run(prepared, structures, preset, monitor, "find region", cache=cache)
        boxes = []
        for task in self.label_space.tasks:
            wanted = [key for key in task.structures if key in structures]
            found = [outcome.masks[key] for key in wanted if outcome.masks[key].count]
            if wanted and not found:
                # A small finding can be missed at the coarse spacing: then nothing is cut away.
                return body, [*taken, f"coarse pass found no {task.name.lower()}: the whole body is segmented"]
            boxes += [prepared.grid.oriented_box(mask.box) for mask in found]
        region = widen(hull(boxes), image.geometry, recipe, REGION_MARGIN)
        return intersect(region, body), [*taken, "coarse pass bounded the region"]

    def _run(
        self,
        prepared: Prepared,
        structures: Sequence[str],
        preset: Preset,
        monitor: Monitor,
        stage: str,
        *,
        uncertainty: bool = False,
        cache: FeatureCache | None = None,
        slab: Callable[[dict[str, PackedMask]], object] | None = None,
    ) -> tuple[Outcome, Forecast, list[str]]:
        """Segment a prepared image, climbing down the ladder of plans when memory runs out."""
        windows = self._windows(prepared.grid, preset)
        volume = pad_to_windows(prepared.volume, windows, padding_value(self.bundle.card.preprocessing))
        job = Job(
            volume, prepared.grid, windows, tuple(structures), self._mirror_axes(preset), uncertainty, stage, slab
        )
        cache = None if self._network.features_depend_on_task else cache
        spare = 0 if cache is None else cache.memory_used
        expected, rest = self._plan(prepared.grid, windows, preset, structures, spare)
        if cache is not None:
            cache.begin_run(memory_for_run(spare) - expected.host_bytes)
        taken: list[str] = []
        while True:
            try:
                return self._execute(job, expected, monitor, cache), expected, taken
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not rest:
                    raise MemoryForecastError(
                        f"Memory ran out on {expected.plan.describe()}, the last way to run.",
                        "Choose fewer tasks, a region of interest, or a computer with more memory.",
                    ) from error
            # Outside of the handler, so that the failed run's tensors are gone.
            self._release()
            if cache is not None:
                cache.limit_memory(0)
            expected = replace(expected, plan=rest.pop(0))
            taken.append(f"memory ran out: continued with {expected.plan.describe()}")

    def _plan(
        self, grid: NetworkGrid, windows: WindowGrid, preset: Preset, structures: Sequence[str], spare: int = 0
    ) -> tuple[Forecast, list[Plan]]:
        """Return the first plan that fits, and the more frugal ones after it.

        `spare` is main memory in bytes that can be freed for the run.
        """
        if self._costs is None:
            self._costs = network_costs(self._network, self._window)
        division = Division.of(self._network, structures)
        plans = list(ladder(self.device, len(division.units)))
        if not self._network.features_half:
            plans = [replace(plan, half=False) for plan in plans]
        for index, plan in enumerate(plans):
            expected = forecast(
                plan,
                self._costs,
                windows,
                grid,
                division,
                copies=2 ** len(self._mirror_axes(preset)),
                seconds_per_window=self._pace.get(plan.device),
                warm=(plan.device, plan.half) in self._extractors,
            )
            if fits(expected, spare):
                return expected, plans[index + 1 :]
        available = free_memory(torch.device("cpu"))
        raise MemoryForecastError(
            f"The run needs about {expected.host_bytes / 2**30:.1f} GiB, but {available / 2**30:.1f} GiB are free.",
            "Choose fewer tasks or a region of interest, or close other programs.",
        )

    def _windows(self, grid: NetworkGrid, preset: Preset) -> WindowGrid:
        card = self.bundle.card
        return WindowGrid.over(
            grid.shape,
            self._window,
            preset.overlap,
            steps=card.window_steps if preset.as_evaluated else "even",
            centered=card.preprocessing.padding_place == "both",
        )

    def _mirror_axes(self, preset: Preset) -> tuple[int, ...]:
        return self.bundle.card.mirror_axes if preset.flips else ()

    def _execute(self, job: Job, expected: Forecast, monitor: Monitor, cache: FeatureCache | None) -> Outcome:
        """Run a plan, and remember its pace for the next forecast."""
        plan, extractor = expected.plan, self._extractor(expected.plan)
        owner = f"{self.bundle.card.weights['sha256']} {extractor.name} {plan.device}"
        caching = CachingExtractor(extractor, cache, owner) if cache is not None else None
        started = time.perf_counter()
        outcome = Passes(self._network, caching or extractor, plan, monitor).run(job)
        if caching is not None and caching.found:
            outcome.windows_from_cache = caching.found
        else:
            self._pace[plan.device] = (time.perf_counter() - started) / max(1, expected.windows)
        return outcome

    def _extractor(self, plan: Plan) -> Extractor:
        key = (plan.device, plan.half)
        if key not in self._extractors:
            self._extractors[key] = make_extractor(self._network, self._window, plan.device, half=plan.half)
        return self._extractors[key]

    def _release(self) -> None:
        """Give back what a failed run held on the GPU."""
        self._extractors.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
