"""From a published checkpoint to an installed model: find the format, read it, write the bundle.

Called by ``partialseg import``; the same two functions serve a script. Models go to the folder of
installed ones, under the name on their card, and an older one is replaced only when that was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from PartialSegLib import catalog
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import BundleError
from PartialSegLib.published import FORMATS, ImportOptions, PublishedFormat
from PartialSegLib.published.restricted import load_checkpoint


def find_format(path: Path) -> PublishedFormat:
    """Return the format of a file or folder.

    Raises
    ------
    BundleError
        When it is missing, refused or damaged, or of no known format.
    """
    if not path.exists():
        raise BundleError(f"There is no file or folder '{path}'.", "Check its name.")
    for published in FORMATS:
        if published.detect(path):
            return published
    if path.is_file():
        load_checkpoint(path)  # says why it is refused, or that it is damaged
    known = "; ".join(published.title for published in FORMATS)
    raise BundleError(f"'{path}' is no published checkpoint that is known here.", f"Known: {known}.")


def import_models(
    path: Path, options: ImportOptions, *, overwrite: bool = False, folder: Path | None = None
) -> list[ModelBundle]:
    """Turn every chosen model of a published checkpoint into a bundle.

    Parameters
    ----------
    path : Path
        File or folder of any format of :data:`PartialSegLib.published.FORMATS`.
    options : ImportOptions
        What the user chose.
    overwrite : bool
        Replace installed models of the same name.
    folder : Path, optional
        Where models go; the folder of installed models by default. It is made when it is missing.

    Returns
    -------
    list of ModelBundle
        At least one.

    Raises
    ------
    BundleError
        When the file is of no known format, refused, damaged or of another network; when an option
        means nothing for it; when a model of that name is there already, or it cannot be written.
    """
    published = find_format(path)
    _refuse_unused(published, options)
    choices = published.choices(path, options)
    if options.name is not None and len(choices) > 1:
        raise BundleError(
            f"'{path}' holds {len(choices)} models, which cannot all be named '{options.name}'.",
            "Choose one with --network, --fold or --task, or leave out --as.",
        )
    folder = catalog.model_folder() if folder is None else folder
    return [_install(published, path, choice, folder, overwrite=overwrite) for choice in choices]


def _install(
    published: PublishedFormat, path: Path, options: ImportOptions, folder: Path, *, overwrite: bool
) -> ModelBundle:
    """Read one model and write its bundle."""
    if options.name is not None:  # before minutes are spent on reading
        _refuse_taken(options.name, folder, overwrite=overwrite)
    card, weights = published.read(path, options)
    _refuse_taken(card.name, folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            f"The model folder {folder} cannot be made: {error.strerror}.",
            f"Mend its permissions, or set {catalog.FOLDER_VARIABLE} to another folder.",
        ) from error
    return ModelBundle.create(folder / card.name, card, weights)


def _refuse_taken(name: str, folder: Path, *, overwrite: bool) -> None:
    """Refuse a name that another model answers to."""
    if overwrite:
        return
    taken = [folder / name] if (folder / name).exists() else []
    if folder == catalog.model_folder():
        taken += [entry.folder for entry in catalog.models() if entry.name == name]
    if taken:
        raise BundleError(
            f"There is a model '{name}' already: {taken[0]}.",
            "Name the new one with --as, or replace it with --overwrite.",
        )


def _refuse_unused(published: PublishedFormat, options: ImportOptions) -> None:
    """Refuse options that mean nothing for a format, instead of ignoring them."""
    given: Sequence[str] = [item.name for item in fields(options) if getattr(options, item.name) is not None]
    unused = [name for name in given if name not in published.uses | {"name"}]
    if unused:
        allowed = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(published.uses)) or "no such option"
        raise BundleError(
            f"--{unused[0].replace('_', '-')} means nothing for a {published.title}.", f"It takes {allowed}."
        )
