"""Collections of partially labelled datasets, in the layouts in which they are distributed.

A manifest (:mod:`~PartialSegTraining.datasets.manifest`) lists datasets, maps their labels to
structures, says what each of them annotates, and holds the splits. Whoever trains calls
:func:`~PartialSegTraining.datasets.collection.training_cases`; the command ``partialseg collection``
checks a collection before (:mod:`~PartialSegTraining.datasets.checking`).
"""
