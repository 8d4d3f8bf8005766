"""Measured results: `record` runs a command that prints JSON and stores it; `write` renders docs/results.md from them.

python tools/results.py record world -- t2l world evaluate --json
python tools/results.py record generate -- python benchmarks/generate.py --json
python tools/results.py record batched_lora -- python benchmarks/batched_lora.py --json
python tools/results.py write [--check]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "docs" / "runs"
PAGE = ROOT / "docs" / "results.md"
PACKAGES = ("torch", "transformers", "peft", "numpy")


def record(name: str, command: list[str]) -> None:
    """Runs ``command`` with this interpreter's folder first on the path and stores what it printed."""
    if name not in SECTIONS:
        raise SystemExit(f"No section of the page is called '{name}'; there are {', '.join(SECTIONS)}.")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, env={**os.environ, "PATH": path})
    run = {
        "command": shlex.join(command),
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "result": json.loads(done.stdout),
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n")


def page() -> str:
    """The whole page, from the stored runs."""
    parts = [
        "# Results",
        "Written by `python tools/results.py write` from the files in `docs/runs`; do not edit. "
        "Each section names the command that measured it. What did not work is in the [log](log.md).",
    ]
    for name, section in SECTIONS.items():
        stored = RUNS / f"{name}.json"
        if stored.is_file():
            run = json.loads(stored.read_text())
            versions = ", ".join(f"{package} {number}" for package, number in run["versions"].items())
            parts += [section(run["result"]), f"`{run['command']}`, {run['date']}, {run['machine']}, {versions}."]
    return "\n\n".join(parts) + "\n"


def world(result: dict[str, Any]) -> str:
    """Exact match by split and condition."""
    splits = list(result["percent"])
    rows = [["exact match, %", *splits]]
    for condition, name in result["conditions"].items():
        cells = [result["percent"][split][condition] for split in splits]
        rows.append([name, *(f"{cell['mean']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})" for cell in cells)])
    effort = result["effort"]
    return "\n\n".join(
        [
            "## The embedded world",
            "Greedy answers of the tiny base on held-out inputs, with 95% bootstrap intervals over tasks "
            f"(1,000 resamples, evaluation seed {result['seed']}, one trained hypernetwork). "
            f"{effort['examples']} inputs a task, {effort['wordings']} descriptions a task and condition, "
            f"each with its own adapter. See [the embedded world](world.md) for what each split has seen.",
            _table(rows),
        ]
    )


def generate(result: dict[str, Any]) -> str:
    """Cold start and throughput at Mistral-7B shapes."""
    rows = [["variant", "dtype", "batch", "adapters/s", "against one at a time, float32", "share of matmul rate"]]
    cold = [["variant", "parameters", "cold `t2l generate`", "peak memory"]]
    for variant in ("L", "M", "S"):
        figures = result[variant]
        start = figures["cold_start"]
        cold.append([variant, f"{figures['parameters']:,}", f"{start['seconds']:.1f} s", f"{start['peak_gb']:.2f} GB"])
        for row in figures["throughput"]:
            rows.append(
                [
                    variant,
                    row["dtype"],
                    str(row["batch"]),
                    f"{row['adapters_per_second']:.1f}",
                    f"{row['times_baseline']:.1f}x",
                    f"{row['share_of_matmul_rate']:.0%}",
                ]
            )
    return "\n\n".join(
        [
            "## Making adapters, Mistral-7B shapes",
            "Random weights; Python's start, the encoder and writing the folder included in the cold start. "
            "Targets: 8 s and 1.5 GB; 5x at batch 64.",
            _table(cold),
            _table(rows),
        ]
    )


def batched_lora(result: dict[str, Any]) -> str:
    """The batched product against repeating A and B per token."""
    rows = [["way", "forward and backward", "kept for backward", "peak extra memory"]]
    for name, figures in result["ways"].items():
        sizes = (f"{figures[kind] / 2**20:.1f} MiB" for kind in ("kept_bytes", "peak_bytes"))
        rows.append([name, f"{1000 * figures['seconds']:.0f} ms", *sizes])
    rows.append(
        ["ratio", f"{result['times_faster']:.1f}x", f"{result['kept_ratio']:.4f}", f"{result['peak_ratio']:.3f}"]
    )
    return "\n\n".join(
        [
            "## Per-sample LoRA",
            "One adapted module, against repeating A and B for every token as the reference implementation does: "
            f"{result['samples']} samples of {result['tokens']} tokens, d = {result['features']}, "
            f"R = {result['rank']}, {result['dtype']}, medians of {result['repeats']} interleaved runs. "
            "Targets: 5x faster, a tenth of the extra memory.",
            _table(rows),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "world": world,
    "generate": generate,
    "batched_lora": batched_lora,
}


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="run a command that prints JSON, and store it")
    recording.add_argument("name", choices=SECTIONS)
    recording.add_argument("command", nargs="+")
    writing = verbs.add_parser("write", help="render docs/results.md")
    writing.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    if options.verb == "record":
        record(options.name, options.command)
    elif options.check:
        if not PAGE.is_file() or PAGE.read_text() != page():
            raise SystemExit("docs/results.md is not what the stored runs give; run: python tools/results.py write")
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
