"""A model folder packed as one zip file, and how it is installed from it.

Called by :mod:`PartialSegLib.downloads`. Only the two files of a bundle are unpacked, each up to the
size that it may have and under its own name, so that nothing else in the zip matters. Imports neither
torch nor numpy.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from PartialSegLib.atomic import replacing_folder
from PartialSegLib.bundle import CARD, WEIGHTS, ModelBundle
from PartialSegLib.card import Card
from PartialSegLib.errors import BundleError

#: Cards are some kilobytes; a larger one is none.
MAX_CARD_BYTES = 16 << 20

_AGAIN = "Get the file again."


def install_archive(archive: Path, folder: Path) -> ModelBundle:
    """Unpack a model; it appears complete and checked, or not at all, and replaces an older model.

    Parameters
    ----------
    archive : Path
        Zip with ``card.json`` and ``weights.safetensors``, side by side, at its top or in a folder.
    folder : Path
        Of the model. Its parent must exist, and its name must be that on the card.

    Raises
    ------
    BundleError
        When the zip is damaged, holds no model or another one, or the folder cannot be written or
        holds something else than a model.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            card_name = _card_name(archive, packed)
            card = Card.from_json(json.loads(_read(packed, card_name, MAX_CARD_BYTES)), f"{archive}: {card_name}")
            if card.name != folder.name:
                raise BundleError(f"{archive} holds the model '{card.name}', not '{folder.name}'.", _AGAIN)
            weights_name = str(PurePosixPath(card_name).parent / WEIGHTS)
            _refuse_other_folder(folder)
            with replacing_folder(folder) as unfinished:
                (unfinished / CARD).write_bytes(_read(packed, card_name, MAX_CARD_BYTES))
                _unpack_weights(packed, weights_name, unfinished / WEIGHTS, card, archive)
    except OSError as error:
        raise BundleError(
            f"{archive} could not be unpacked to {folder}: {error.strerror or error}.",
            "Check that the folder above it may be written and has space.",
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{archive} is no readable zip of a model: {error}.", _AGAIN) from error
    return ModelBundle.open(folder)


def archived_name(archive: Path) -> str | None:
    """Return the name of the model in a zip; ``None`` when the file is no zip, or none of one model.

    Raises
    ------
    BundleError
        When the card in it is damaged.
    """
    if not zipfile.is_zipfile(archive):
        return None
    with zipfile.ZipFile(archive) as packed:
        cards = [name for name in packed.namelist() if PurePosixPath(name).name == CARD]
        if len(cards) != 1:
            return None
        try:
            document = json.loads(_read(packed, cards[0], MAX_CARD_BYTES))
        except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
            raise BundleError(f"{archive}: {cards[0]} cannot be read: {error}.", _AGAIN) from error
    return Card.from_json(document, f"{archive}: {cards[0]}").name


def _card_name(archive: Path, packed: zipfile.ZipFile) -> str:
    cards = [name for name in packed.namelist() if PurePosixPath(name).name == CARD]
    if len(cards) != 1:
        raise BundleError(f"{archive} is no zip of one model: it holds {len(cards)} files {CARD}.", _AGAIN)
    return cards[0]


def _read(packed: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return a small file of the zip; what it says of its size is not believed."""
    with packed.open(name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit} bytes")
    return data


def _unpack_weights(packed: zipfile.ZipFile, name: str, target: Path, card: Card, archive: Path) -> None:
    """Write the weights, as many bytes and of the checksum that the card says."""
    left, digest = int(card.weights["bytes"]), hashlib.sha256()
    with packed.open(name) as source, target.open("xb") as stream:
        while left >= 0 and (block := source.read(1 << 20)):
            left -= len(block)
            digest.update(block)
            stream.write(block)
    if left != 0 or digest.hexdigest() != card.weights["sha256"]:
        raise BundleError(f"{archive}: {name} is not the file that the card describes.", _AGAIN)


def _refuse_other_folder(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).is_file()):
        raise BundleError(f"{folder} is there already, and is no model that could be replaced.", "Move it away.")
