"""The sections of the module's panel: one file each, over the widgets of ``Resources/UI/PartialSeg.ui``.

These are the only files of the bridge that use Qt, and only the module's widget class imports them. A
section shows what the logic knows and passes on what the user wants; it decides nothing about
segmentation. What sections share is in :mod:`~PartialSegSlicer.panels.context`.

=============================================  =================================================
:mod:`~PartialSegSlicer.panels.setup`          what is missing, consent, Repair, another Python
:mod:`~PartialSegSlicer.panels.models`         choosing, importing, downloading, deleting models
:mod:`~PartialSegSlicer.panels.tasks`          what to segment: the searchable tree
:mod:`~PartialSegSlicer.panels.forecasts`      time and memory of the run that is set up
:mod:`~PartialSegSlicer.panels.runs`           Apply and Cancel, progress
:mod:`~PartialSegSlicer.panels.problems`       the last error: its hint first
:mod:`~PartialSegSlicer.panels.results`        the table of structures, review, undo
:mod:`~PartialSegSlicer.panels.trainingcases`  corrected segmentations that are kept
:mod:`~PartialSegSlicer.panels.finetuning`     learning from them: loss, Dice, keep or discard
:mod:`~PartialSegSlicer.panels.verdict`        what the new model is worth
:mod:`~PartialSegSlicer.panels.journal`        the log
=============================================  =================================================
"""
