"""Texts in the language of the user: Slicer's own translation, and English where there is no application.

Everything that this package says goes through :func:`tr`, imported as ``_``; the texts have named
placeholders, which are filled in after the translation. Slicer's function finds the context of a text
by the file that calls it, so it is imported as it is and not wrapped. The client of the worker, which
knows no Slicer, marks its texts for :func:`translate`. Slicer's core without the application (scripts,
tests) has no translation.

The messages of :mod:`PartialSegLib`, of the training library and of the worker process are those of a
terminal too, and stay English, but for those whose kind says all (:mod:`PartialSegWorker.errors`); what
a card says of a model is its author's.
"""

from __future__ import annotations

try:
    from slicer.i18n import tr, translate  # type: ignore[import-untyped]
except ImportError:

    def tr(text: str) -> str:
        """Return a text as it is."""
        return text

    def translate(context: str, text: str) -> str:
        """Return a text as it is."""
        return text


__all__ = ["tr", "translate"]
