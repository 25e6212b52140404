"""Start of a worker: ``python -m PartialSegWorker --folder PRIVATE_FOLDER``, with the protocol on its pipes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from PartialSegWorker.channel import Channel


def main(words: list[str]) -> None:
    """Run a worker to its end."""
    parser = argparse.ArgumentParser(prog="PartialSegWorker", description="Worker of PartialSeg; its client starts it.")
    parser.add_argument("--folder", type=Path, required=True, help="private folder of the client")
    folder = parser.parse_args(words).folder
    channel = Channel.take()
    # Imported after the pipes are safe: what it prints goes to the log.
    from PartialSegWorker.server import Server

    Server(channel, folder).run()
    sys.stderr.flush()
    # Threads of libraries must not keep a worker alive, nor crash it while Python takes itself apart.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
