"""Measured results: `record` runs a command that prints JSON and stores it; `write` renders the pages from them.

Those are docs/results.md, and docs/descriptions.md.

python tools/results.py record start -- python benchmarks/start.py --json
python tools/results.py record store -- python benchmarks/store.py --json
python tools/results.py record generate -- python benchmarks/generate.py --json
python tools/results.py record batched_lora -- python benchmarks/batched_lora.py --json
python tools/results.py record sft_step -- python benchmarks/sft_step.py --rounds 3 --json
python tools/results.py record sft_store -- python benchmarks/sft_step.py --store STORE --json
PYTHONPATH=build/llama python tools/results.py record serve -- python benchmarks/serve.py --json
python tools/results.py record soak -- python tools/soak.py
python tools/results.py record recon_step -- python benchmarks/recon_step.py --json
python tools/results.py record evaluate -- python benchmarks/evaluate.py --json
python tools/results.py record gate -- t2l evaluate --gate --data FOLDER ... --json
python tools/results.py record sni -- t2l evaluate --suite sni official-test --out sni-run --score-only --json
python tools/results.py record descriptions -- python tools/descriptions.py
python tools/results.py write [--check]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import descriptions
import results_costs
import results_sni

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "docs" / "runs"
PACKAGES = ("torch", "transformers", "peft", "numpy")


def record(name: str, command: list[str]) -> None:
    """Runs ``command`` with this interpreter's folder first on the path and stores what it printed."""
    if name not in SECTIONS:
        raise SystemExit(f"No section of the page is called '{name}'; there are {', '.join(SECTIONS)}.")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, env={**os.environ, "PATH": path})
    run = {
        "command": results_sni.public(command),
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "result": SMALLER.get(name, lambda result: result)(json.loads(done.stdout)),
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n")


def pages() -> dict[Path, str]:
    """What each page is, from the stored runs."""
    found = {ROOT / "docs" / "results.md": page()}
    stored = RUNS / "descriptions.json"
    if stored.is_file():
        found[ROOT / "docs" / "descriptions.md"] = descriptions.page(json.loads(stored.read_text()), _table)
    return found


def page() -> str:
    """docs/results.md."""
    parts = [
        "# Results",
        "Written by `python tools/results.py write` from the files in `docs/runs`; do not edit. "
        "Each section names the command that measured it. What did not work is in the [log](log.md).",
    ]
    stored = {name: RUNS / f"{name}.json" for name in SECTIONS}
    runs = {name: json.loads(path.read_text()) for name, path in stored.items() if path.is_file()}
    for name, section in SECTIONS.items():
        if name == "start" and (costs := results_costs.costs(runs, _table)):
            parts.append(costs)
        if name in runs:
            run = runs[name]
            versions = ", ".join(f"{package} {number}" for package, number in run["versions"].items())
            parts += [section(run["result"]), f"`{run['command']}`, {run['date']}, {run['machine']}, {versions}."]
    return "\n\n".join(parts) + "\n"


def _interval(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.1f} ({figure['low']:.1f} to {figure['high']:.1f})"


def generate(result: dict[str, Any]) -> str:
    """Cold starts, adapters a second by base and batch, and what huge pages give."""
    cold = [["hypernetwork for", "variant", "parameters", "cold `t2l generate`", "peak memory", "the very first"]]
    for start in result["cold_start"]:
        first = f"{start['first_seconds']:.1f} s, {start['first_peak_gb']:.2f} GB" if "first_seconds" in start else ""
        each = [f"{start['parameters']:,}", f"{start['seconds']:.1f} s", f"{start['peak_gb']:.2f} GB", first]
        cold.append([start["base"], start["variant"], *each])
    rows = [
        ["hypernetwork for", "variant", "dtype", "batch", "adapters/s", "times the baseline", "share of matmul rate"]
    ]
    for row in result["throughput"]:
        name = [row["base"], row["variant"], row["dtype"], str(row["batch"])]
        figures = [f"{row['adapters_per_second']:.1f}", f"{row['times_baseline']:.1f}x"]
        rows.append([*name, *figures, f"{row['share_of_matmul_rate']:.0%}"])
    huge = [
        ["hypernetwork for", "dtype", "batch", "adapters/s without", "with", "times faster", "share of matmul rate"]
    ]
    for row in result["huge_pages"]:
        speed, share = row["adapters_per_second"], row["share_of_matmul_rate"]
        shares = f"{share['off']:.0%} to {share['on']:.0%}"
        name = [f"{row['base']}, {row['variant']}", row["dtype"], str(row["batch"])]
        huge.append([*name, f"{speed['off']:.1f}", f"{speed['on']:.1f}", f"{row['times_faster']:.2f}x", shares])
    rates = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in result["matmul_gflops"].items())
    parts = [
        "## Making adapters",
        "Random weights in the paper's sizes, but for the checkpoint that ships. The baseline is the same hypernetwork "
        f"making one adapter at a time in float32; the machine's own rate is that of a square product ({rates}). A "
        "cold start has Python's start, the encoder and writing the folder in it, and a new description; in the very "
        "first, with an empty cache, a base that is a GGUF file is converted. Targets: 8 s and 1.5 GB; at batch 64 "
        "5 times the baseline and 80% of the rate.",
        _table(cold),
        _table(rows),
    ]
    if result["left_out"]:
        none = (
            f"{r['base']} {r['variant']} {r['dtype']} {r['batch']} ({r['needs_gb']:.0f} GB)" for r in result["left_out"]
        )
        parts.append(f"Left out, since they need more memory than was free: {'; '.join(none)}.")
    if result["huge_pages"]:
        parts.append(
            "Huge pages: the same in processes of their own, with torch's `THP_MEM_ALLOC_ENABLE=1` and without, in "
            "turns. The variable is read before torch's first tensor, so it is set where the process is started; Linux "
            "must allow it (`madvise` or `always` in `/sys/kernel/mm/transparent_hugepage/enabled`)."
        )
        parts.append(_table(huge))
    return "\n\n".join(parts)


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


def sft_step(result: dict[str, Any]) -> str:
    """A whole training step against the reference implementation's way."""
    shape = result["shape"]
    rows = [["way", "seconds a step", "tokens/s", "peak activation memory"]]
    for name in ("ours", "reference"):
        size = f"{result['peak_bytes'][name] / 2**20:,.0f} MiB"
        rows.append([name, f"{result['seconds'][name]:.2f}", f"{result['tokens_per_second'][name]:,.0f}", size])
    speed, memory = result["speed_ratio"], result["memory_ratio"]
    low, high = result["speed_ratio_range"]
    targets = [
        ["figure", "measured", "target", "reached"],
        ["times faster", f"{speed:.1f}x ({low:.1f} to {high:.1f})", "3x", results_costs.yes(speed >= 3)],
        ["share of the peak activation memory", f"{memory:.3f}", "at most 0.25", results_costs.yes(memory <= 0.25)],
    ]
    recomputed = "recomputed in ours" if result["activations_recomputed"] else "kept in both"
    return "\n\n".join(
        [
            "## A step of SFT training",
            "Forward, backward and update of a hypernetwork through a frozen Mistral with random weights, against the "
            "reference implementation's way (an adapter for each sample, A and B repeated for every token, logits of "
            f"every position): {shape['samples']} samples of {shape['tokens']} tokens, {shape['response']} of them "
            f"response, {shape['layers']} layers, width {shape['width']}, {shape['vocabulary']:,} tokens in the "
            f"vocabulary, {shape['dtype']}, {shape['device']}, activations {recomputed}. The gradients differ by "
            f"{result['relative_gradient_difference']:.0e} of their norm. The ratio is the median of "
            f"{result['rounds']} interleaved rounds, in parentheses the extremes.",
            _table(rows),
            _table(targets),
        ]
    )


def sft_store(result: dict[str, Any]) -> str:
    """SFT on a store of real tasks, against one LoRA by PEFT and transformers' Trainer, and the reference's way."""
    names = {
        "ours": "ours, an adapter for every sample",
        "peft": "PEFT and transformers' Trainer, one LoRA for all",
        "reference": "the reference's way, an adapter for every sample",
    }
    speed, peak, step = result["samples_per_second"], result["peak_gib"], result["step_gib"]
    rows = [["way", "samples/s", "samples a CPU second", "memory", "of it a step's tensors"]]
    for name, title in names.items():
        if name in peak:
            figures = [f"{speed[clock][name]:.2f}" for clock in ("wall", "processor")]
            rows.append([title, *figures, f"{peak[name]:.2f} GiB", f"{step[name]:.2f} GiB"])
    targets = result["targets"]
    compared = [["ours, beside", "times as fast, wall", "CPU time", "memory"]]
    for name, title in names.items():
        if name in result["memory_ratio"]:
            ratios = [f"{result['speed_ratio'][clock][name]:.2f}x" for clock in ("wall", "processor")]
            compared.append([title, *ratios, f"{result['memory_ratio'][name]:.2f}x"])
    fast, size = result["speed_ratio"]["wall"]["peft"], result["memory_ratio"]["peft"]
    share = result["share_of_matmul_rate"]
    reached = [
        ["figure", "measured", "target", "reached"],
        [
            "samples/s, times one LoRA by the Trainer",
            f"{fast:.2f}x",
            f"at least {targets['speed_ratio']:.2f}x",
            results_costs.yes(fast >= targets["speed_ratio"]),
        ],
        [
            "memory, times that",
            f"{size:.2f}x",
            f"at most {targets['memory_ratio']:.1f}x",
            results_costs.yes(size <= targets["memory_ratio"]),
        ],
        [
            "share of the machine's own matrix rate",
            f"{share:.0%}",
            f"at least {targets['share_of_matmul_rate']:.0%}",
            results_costs.yes(share >= targets["share_of_matmul_rate"]),
        ],
    ]
    left_out = f" Left out: {result['left_out']}." if result["left_out"] else ""
    return "\n\n".join(
        [
            "## SFT on real tasks",
            f"{result['steps']} steps of {result['samples_a_step']:.0f} samples of a store, on {result['base']} in "
            f"{result['dtype']}, {result['device']}; {result['tokens_a_sample']:.0f} tokens a sample, rank "
            f"{result['rank']}, modules {', '.join(result['modules'])}, updates included. Every way learns from the "
            "same samples, in turns; the Trainer groups them by length in micro-batches of 8. Memory is that of the "
            "base, the trained parameters, AdamW's moments of them, and the most that a step's tensors took. The "
            f"machine's own rate is that of a square product ({result['matmul_gflops']:,.0f} GFLOP/s); ours counts "
            f"padding ({result['padding']:.0%} of its tokens).{left_out}",
            _table(rows),
            _table(compared),
            _table(reached),
        ]
    )


def serve(result: dict[str, Any]) -> str:
    """A real model with an adapter for each client, against what one would use instead."""
    head = ["clients", "way", "tokens/s", "first token, median", "... the last", "shared batches with adapters"]
    rows = [[*head, "... in CPU time", "same answers"]]
    for clients, ways in result["clients"].items():
        for name, row in ways.items():
            first = [f"{row[part]:,.0f} ms" for part in ("first_token_ms", "last_first_token_ms")]
            times = [
                results_costs.times(row["times"], kind, digits=2) if "times" in row else "" for kind in ("wall", "cpu")
            ]
            same = f"{row['same_answers']:.0%}" if "same_answers" in row else ""
            title = result["ways"][name]
            rows.append([clients, title, f"{row['tokens_per_second']:,.1f}", *first, *times, same])
    lengths = [
        f"{low} to {high} tokens (median {middle:.0f})" for low, middle, high in result["prompt_tokens"].values()
    ]
    parts = [
        "## Serving",
        f"{result['base']}, {result['dtype']}, with the checkpoint that ships; every client has a task of the demo as "
        f"its own, all ask at once, without HTTP. Prompts of {lengths[0]}, with the description in them {lengths[1]}; "
        f"answers of {result['tokens']} tokens, whatever ends they have; {result['slots']} slots, {_machine(result)}. "
        "The last columns say how many times as fast shared batches with adapters are: medians over "
        f"{result['repeats']} interleaved rounds, in parentheses their extremes. An adapter for a new description is "
        f"made in {result['making']['made_ms']:,.0f} ms, and found again in {result['making']['kept_ms']:.2f} ms.",
        _table(rows),
    ]
    targets = [["against", "clients", "measured", "target", "reached"]]
    for name, target in result["targets"].items():
        way = name.split(",")[0]
        row = result["clients"].get(str(target["clients"]), {}).get(way)
        if row:
            times, wanted = row["times"]["wall"], target["times"]
            of = [result["ways"][way], str(target["clients"])]
            targets.append([*of, f"{times:.2f}x", f"{wanted:.2f}x", results_costs.yes(times >= wanted)])
    parts.append(_table(targets))
    parts += [f"Left out: {name} ({why})." for name, why in result["left_out"].items()]
    return "\n\n".join(parts)


def soak(result: dict[str, Any]) -> str:
    """What many connections at once got from a real server, and what it kept of them."""
    memory, stopped, bad = result["memory_mb"], result["stopped"], result.get("bad_neighbours")
    counts = ["answers", "wrong", "lost", "turned_away", "left_in_the_middle"]
    head = [*(name.replace("_", " ") for name in counts), "memory in the second third", "... in the last"]
    sizes = [f"{memory[name]:.0f} MB" for name in ("second_third", "last_third")]
    parts = [
        "### Soak",
        f"A real `t2l serve` and {result['connections']} connections for {result['seconds']:.0f} s over loopback: the "
        "base, adapters by id and task descriptions, whole and as streams. Every answer is compared with the one given "
        "alone. Memory is resident memory; the first third of the run is warm-up.",
        _table([head, [*(f"{result[name]:,}" for name in counts), *sizes]]),
        *([] if bad is None else [_neighbours(bad)]),
        f"Afterwards it was {'idle' if result['idle_afterwards'] else 'not idle'}; "
        f"SIGTERM ended it within {stopped['seconds']:.1f} s.",
    ]
    return "\n\n".join(parts)


def _neighbours(bad: dict[str, int]) -> str:
    return (
        f"Beside them, {bad['held']} connections held heads open ({bad['heads_held']:,} begun, {bad['heads_shut']:,} "
        f"shut by the server), and one client sent what is refused: {bad['refused']:,} refusals, {bad['not_refused']} "
        "other answers."
    )


def evaluate(result: dict[str, Any]) -> str:
    """Evaluation of many adapters in shared batches against one after the other."""
    rows = [
        ["what", "in shared batches", "one after another", "faster", "... in CPU time", "same", "target", "reached"]
    ]
    for way, title in result["baselines"].items():
        for name, what in (("answers", "greedy answers"), ("scores", "four choices by log-likelihood")):
            row, target = result[f"{name}_{way}"], result["targets"][name]
            cost = [f"{row['wall'][part]:.1f} s" for part in ("shared_s", "baseline_s")]
            times = [results_costs.times(row[clock]) for clock in ("wall", "cpu")]
            goal = [f"{target:.0f}x", results_costs.yes(row["wall"]["ratio"] >= target)] if way == "hflm" else ["", ""]
            rows.append([f"{what}, against {title}", *cost, *times, f"{row['same']:.0%}", *goal])
    apart = max(result[f"scores_{way}"]["largest_difference"] for way in result["baselines"])
    return "\n\n".join(
        [
            "## Evaluating many adapters",
            f"{result['base']}, {result['dtype']}, {result['adapters']} adapters, {result['items']} questions each; "
            f"answers of at most {result['tokens']} tokens, {_machine(result)}. One after another: PEFT puts an "
            "adapter on, its questions are asked in batches, PEFT takes it off. Same: the share of equal answers, or "
            f"of questions with the same best choice (log-likelihoods differ by {apart:.0e} at most). Medians over "
            f"{result['repeats']} interleaved rounds of the ratio within a round, in parentheses the extremes.",
            _table(rows),
        ]
    )


def gate(result: dict[str, Any]) -> str:
    """The description gate and every row that was given, as `t2l evaluate` measures them."""
    settings, found = result["settings"], result["findings"]
    against = {one["against"]: one for one in found["comparisons"]}
    own = next(row for row in ("t2l", "matched") if row in result["rows"])  # the second in earlier gates
    rows = [["row", "exact match, %", f"{own} minus it, points"], [f"**{own}**: {result['rows'][own]}"]]
    rows[-1] += [_interval(found["accuracy"][own][""]), ""]
    for row, name in result["rows"].items():
        if row != own:
            gap = against[row]["difference"]
            shown = f"{gap['mean']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})"
            rows.append([f"**{row}**: {name}", _interval(found["accuracy"][row][""]), shown])
    items = against["static"]["items"]
    parts = [
        "## The gate, by `t2l evaluate`",
        f"The micro world: a checkpoint trained on {result['training_tasks']} tasks, on {len(result['tasks'])} near "
        f"held-out ones as local data: {items} questions, {settings['wordings']} descriptions a task and "
        f"condition, answers of at most {settings['max_new_tokens']} tokens, seed {settings['seed']}. Differences are "
        "paired question by question; 95% intervals resample tasks and questions within them, 2,000 times. The "
        f"library holds adapters of {result['library']} training tasks; the multi-task LoRA is the one that ships in "
        "the calibration, in half precision.",
        f"**{found['verdict'][-1]}**",
        _table(rows),
        *result["notes"],
        "Data, library and multi-task LoRA were made at commit 4f5f90a, with commands that have gone since.",
    ]
    return "\n\n".join(parts)


def _gate_figures(result: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a run, without the map, the single tasks' differences and the digests of adapters."""
    kept = {name: result[name] for name in ("rows", "tasks", "training_tasks", "library", "notes")}
    settings = {name: value for name, value in result["settings"].items() if name not in ("adapters", "tasks")}
    found = result["findings"]
    overall = [one for one in found["comparisons"] if one["task"] is None]
    return {**kept, "settings": settings, "findings": {**found, "comparisons": overall}}


def _machine(result: dict[str, Any]) -> str:
    """What a run was measured on, and whether it was alone there."""
    machine = result["machine"]
    busy = "" if machine["quiet"] else f", **while other programs took {machine['others']:.0%} of the cores' time**"
    return f"{machine['processor']}, {machine['threads']} thread(s){busy}"


def recon_step(result: dict[str, Any]) -> str:
    """Memory of reconstruction training against the size of the library."""
    rows = [["adapters", "streamed: peak", "held: peak"]]
    for size, ways in result["sizes"].items():
        peaks = [f"{ways[way]['peak_bytes'] / 2**20:,.0f} MiB" for way in ("streamed", "held")]
        rows.append([f"{int(size):,}", *peaks])
    growth, target = result["growth"], result["target"]["growth"]
    return "\n\n".join(
        [
            "## Reconstruction: memory against the library",
            f"Adapters of {result['parameters']:,} parameters, read from PEFT folders on disk as they are needed "
            "(streamed), against all of them in memory, the reference implementation's way (held). Peak resident "
            f"memory above that of the process with the hypernetwork built, over the statistics and {result['steps']} "
            f"steps of 4 tasks, each figure from a process of its own; {result['threads']} thread(s).",
            _table(rows),
            _table(
                [
                    ["from the smallest library to the largest", "measured", "target", "reached"],
                    [
                        "growth of the peak, streamed (held)",
                        f"{growth['streamed']:.2f}x ({growth['held']:.1f}x)",
                        f"flat: at most {target}x",
                        results_costs.yes(growth["streamed"] <= target),
                    ],
                ]
            ),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "sni": lambda result: results_sni.section(result, _table),
    "descriptions": lambda result: descriptions.section(result, _table),
    "gate": gate,
    "start": lambda result: results_costs.start(result, _table),
    "generate": generate,
    "batched_lora": batched_lora,
    "sft_step": sft_step,
    "sft_store": sft_store,
    "serve": serve,
    "soak": soak,
    "store": lambda result: results_costs.store(result, _table),
    "recon_step": recon_step,
    "evaluate": evaluate,
}
SMALLER: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "descriptions": descriptions.kept,
    "gate": _gate_figures,
    "sni": results_sni.kept,
}
"""Sections that keep only part of what their command prints."""


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
    writing = verbs.add_parser("write", help="render the pages")
    writing.add_argument("--check", action="store_true", help="only say whether they are up to date")
    options = parser.parse_args()
    if options.verb == "record":
        record(options.name, options.command)
    elif options.check:
        for path, text in pages().items():
            if not path.is_file() or path.read_text() != text:
                raise SystemExit(
                    f"docs/{path.name} is not what the stored runs give; run: python tools/results.py write"
                )
    else:
        for path, text in pages().items():
            path.write_text(text)


if __name__ == "__main__":
    main()
