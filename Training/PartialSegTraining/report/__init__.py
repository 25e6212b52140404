"""What a training did, on one page that needs no network: ``partialseg report``.

``page`` writes the page, ``training`` gathers what is on it, ``charts`` draws lines, points and bars,
``command`` is the command line.
"""

from __future__ import annotations
