"""Comparisons that anybody can repeat: ``partialseg benchmark``.

``systems`` says what is compared, ``runs`` trains and measures one system with one seed, ``results``
puts the runs together, ``documents`` writes them down, ``command`` is the command line.
"""

from __future__ import annotations
