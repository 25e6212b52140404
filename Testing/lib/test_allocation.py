"""Freed memory stays in the process while a network runs on the CPU, and not a moment longer."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, torch
from PartialSegLib.inference.allocation import kept_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def use():
    torch.ones(64 << 20, dtype=torch.uint8)

use()
found = {"before": resident()}
with kept_memory(torch.device("%s")):
    use()
    with kept_memory(torch.device("%s")):
        use()
    found["inside"] = resident()
found["after"] = resident()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives every large block back at once")
@pytest.mark.parametrize(("device", "kept"), [("cpu", True), ("cuda", False)])
def test_freed_memory_is_kept_inside_and_given_back_after(device: str, kept: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT % (device, device)], capture_output=True, text=True, timeout=600, check=True
    )
    megabytes = json.loads(ended.stdout)
    assert (megabytes["inside"] > megabytes["before"] + 48) is kept
    assert megabytes["after"] < megabytes["before"] + 16
