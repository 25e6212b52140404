"""How soon the command line answers, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

from harness import Row, interleaved

LIMIT = 0.5


def child(*words: str) -> None:
    """Run Python in a fresh process."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def run() -> list[Row]:
    """Time ``partialseg info --json``, against its limit and against a process that imports torch."""
    answer, torch = interleaved(
        lambda: child("-m", "PartialSegLib", "info", "--json"), lambda: child("-c", "import torch"), 5
    )
    ours = f"{answer:.2f} s"
    return [
        Row.at_most("partialseg info --json, its limit", ours, f"{LIMIT:.2f} s", answer / LIMIT, 1.0),
        Row.at_most("partialseg info --json, importing torch", ours, f"{torch:.2f} s", answer / torch, 0.5),
    ]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
