"""``make bench``: run every benchmark in a process of its own and write ``RESULTS.md``.

    python Testing/benchmarks/run.py [NAME ...]     # bench_NAME.py; all of them without a name

With names, only those rows of the table are measured again; the others stay as they were.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
TABLE, ROWS = HERE / "RESULTS.md", HERE / "results.json"


def main(names: list[str]) -> int:
    """Run the benchmarks and return 1 if one of them failed to run."""
    chosen = names or sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    results = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    failed = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    for name in chosen:
        print(f"-- {name}", flush=True)
        command = [sys.executable, str(HERE / f"bench_{name}.py")]
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        print(answer.stdout, end="", flush=True)
        if answer.returncode:
            failed.append(name)
            continue
        rows = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
        results[name] = {"machine": machine(), "rows": rows}
        ROWS.write_text(json.dumps(results, indent=1) + "\n")
        TABLE.write_text(table(results))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def machine() -> str:
    """Return processor, cores and versions in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "openvino", "monai") if has(name))
    return f"{cpu}, {os.cpu_count()} cores, {versions}, {datetime.date.today().isoformat()}"


def has(distribution: str) -> bool:
    """Whether a distribution is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def table(results: dict[str, dict]) -> str:
    """Return the table as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`. Every line compares two things that were measured in one run.",
        "",
        "| benchmark | what | ours | other | ratio | bar | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items()):
        for row in result["rows"]:
            cells = [name, row["name"], row["ours"], row["other"], f"{row['ratio']:.3g}", row["bar"]]
            lines.append(f"| {' | '.join(cells)} | {'yes' if row['met'] else '**no**'} |")
    machines = sorted({result["machine"] for result in results.values()})
    return "\n".join([*lines, "", *(f"Measured on: {text}." for text in machines), ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
