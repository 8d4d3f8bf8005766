"""What t2l costs, for the results page: from a shell to an answer, ten thousand adapters, one table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Table = Callable[[list[list[str]]], str]


def yes(reached: bool) -> str:
    """Whether a target was reached."""
    return "yes" if reached else "**no**"


def times(ratio: Mapping[str, float], kind: str = "", digits: int = 1) -> str:
    """A ratio with its extremes, where there are several of one clock each: of the clock ``kind``."""
    keys = (kind, f"{kind}_low", f"{kind}_high") if kind else ("ratio", "low", "high")
    middle, low, high = (f"{ratio[key]:.{digits}f}" for key in keys)
    return f"{middle}x ({low} to {high})"


def quiet(result: Mapping[str, Any]) -> str:
    """Whether the machine was the benchmark's own."""
    machine = result["machine"]
    if machine["quiet"]:
        return f"Nothing else ran ({machine['others']:.1%} of the cores' time)."
    return f"**Other programs took {machine['others']:.0%} of the cores' time.**"


def start(result: dict[str, Any], table: Table) -> str:
    """From a shell to an answer."""
    ways, targets, ratio = result["ways"], result["targets"], result["run_times_plain"]
    names = {
        "import": ("`import t2l`", targets["import_s"], None),
        "help": ("`t2l --help`", targets["help_s"], None),
        "demo": ("`t2l demo`, to its first answer with an adapter", targets["demo_first_answer_s"], None),
        "run": (f"`t2l run`, three answers of at most {result['tokens']} tokens", targets["run_s"], targets["run_gb"]),
        "plain": (f"the same answers by {result['baseline']}", None, None),
    }
    rows = [["a fresh process", "seconds", "target", "reached", "peak memory", "target", "reached"]]
    for name, (title, *wanted) in names.items():
        row = [title]
        for figure, target, unit in zip((ways[name]["seconds"], ways[name]["gb"]), wanted, ("s", "GB"), strict=True):
            goal = ["", ""] if target is None else [f"{target:g} {unit}", yes(figure <= target)]
            row += [f"{figure:.2f} {unit}", *goal]
        rows.append(row)
    parts = [
        "## From a shell to an answer",
        f"Medians of {result['repeats']} runs that take turns, caches warm. `t2l run` takes "
        f"{1 / ratio['ratio']:.2f} of the baseline's time ({1 / ratio['high']:.2f} to {1 / ratio['low']:.2f}), making "
        f"the adapter included. {quiet(result)}",
        table(rows),
    ]
    if (busy := result.get("beside_busy_processes")) is not None:
        parts.append(
            f"Beside {busy['processes']} processes that compute without end, `t2l run` takes "
            f"{busy['seconds']['ours']:.1f} s, and {busy['seconds']['libgomp']:.1f} s where threads wait as libgomp "
            f"has them wait: {busy['ratio']:.1f} times as long ({busy['low']:.1f} to {busy['high']:.1f})."
        )
    return "\n\n".join(parts)


def store(result: dict[str, Any], table: Table) -> str:
    """Ten thousand adapters, and what a thousand requests a second would need."""
    count, size = result["adapters"], result["bytes_an_adapter"]
    making, waits = 1 / result["made_per_second"], result["resolved_while_making_ms"]
    rows = [
        ["piece", "measured"],
        ["finding an adapter by its description, store of `t2l serve`", f"{result['found_per_second']:,.0f} a second"],
        ["... by its id, weights in memory", f"{result['from_memory_per_second']:,.0f} a second"],
        ["... by its id, weights on the disk", f"{result['from_disk_per_second']:,.0f} a second"],
        ["resolving a name in the vLLM plugin's folder", f"{result['resolved_per_second']:,.0f} a second"],
        [
            "... while other adapters are being made",
            f"{waits['median']:.2f} ms, of a hundred the slowest {waits['p99']:.1f} ms",
        ],
        ["making an adapter from a new description", f"{result['made_per_second']:.1f} a second"],
        ["keeping a new one in the folder", f"{result['added_per_second']:,.0f} a second"],
        [
            f"opening the store with {count:,} in its folder",
            f"{result['opened_s']:.1f} s, {result['opened_mib']:,.0f} MiB",
        ],
        ["files of one adapter (float32)", f"{size / 1e6:.1f} MB; of {count:,}: {count * size / 1e9:.0f} GB"],
    ]
    share = result["made_per_second"] / 1000
    return "\n\n".join(
        [
            f"## {count:,} adapters, 1,000 requests a second",
            "What stands between a request and its adapter, in one process on this machine, one call after the other. "
            f"{quiet(result)}",
            table(rows),
            f"A thousand requests a second need {1000 / result['resolved_per_second']:.1%} of one process's time for "
            f"lookups. Making takes {making:.2f} s, so at that rate one such machine keeps up while at most "
            f"{share:.1%} of the requests bring a description that nobody has sent before; beyond that, adapters are "
            "made by more workers: the folder may be shared, an adapter's name depends on the checkpoint and the "
            "description alone, and what two workers make at once is one adapter (tested with two processes on one "
            "folder). Training outgrows a machine by `accelerate` with FSDP (tested with two processes).",
        ]
    )


def _start(result: dict[str, Any]) -> list[list[str]]:
    ratio = result["run_times_plain"]
    rows = [["`t2l run`, from the shell to the last answer", result["baseline"], times(ratio, digits=2)]]
    if (busy := result.get("beside_busy_processes")) is not None:
        rows.append(["... beside busy processes", "threads that wait as libgomp has them wait", times(busy, digits=2)])
    return rows


def _store(result: dict[str, Any]) -> list[list[str]]:
    what = f"finding one of {result['adapters']:,} adapters by its description"
    return [[what, "making it again", f"{result['lookups_times_making']:,.0f}x"]]


def _sft(result: dict[str, Any]) -> list[list[str]]:
    names = {"peft": "PEFT and transformers' Trainer, one LoRA", "reference": "the reference's way"}
    speed = result["speed_ratio"]["wall"]
    return [
        ["SFT on real tasks, an adapter for every sample", names[one], f"{speed[one]:.2f}x"]
        for one in names
        if one in speed
    ]


def _serve(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"serving {clients} client{'s' if clients != '1' else ''}, each with its own adapter",
            title,
            times(ways[name]["times"], "wall", digits=2),
        ]
        for clients, ways in result["clients"].items()
        for name, title in result["ways"].items()
        if name in ways and "times" in ways[name]
    ]


def _evaluate(result: dict[str, Any]) -> list[list[str]]:
    kinds = {"answers": "greedy answers", "scores": "log-likelihoods"}
    return [
        [f"evaluating {result['adapters']} adapters, {kind}", result["baselines"]["hflm"], times(row["wall"], digits=2)]
        for name, kind in kinds.items()
        for row in [result[f"{name}_hflm"]]
    ]


_COSTS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "start": _start,
    "sft_store": _sft,
    "serve": _serve,
    "evaluate": _evaluate,
    "store": _store,
}


def costs(runs: Mapping[str, dict[str, Any]], table: Table) -> str:
    """One table of what is fast and what is not, each row with what one would use instead.

    Args:
        runs: section -> what `record` stored, of those that there are.
    """
    rows = [["what", "instead of", "times as fast", "other programs", "command"]]
    for name, rows_of in _COSTS.items():
        if name in runs:
            others = f"{runs[name]['result']['machine']['others']:.0%}"
            rows += [[*row, others, f"`{runs[name]['command']}`"] for row in rows_of(runs[name]["result"])]
    if len(rows) == 1:
        return ""
    machine = next(runs[name]["result"]["machine"] for name in _COSTS if name in runs)
    return "\n\n".join(
        [
            "## What it costs",
            f"On {machine['cores']} cores ({machine['processor']}, {machine['memory_gb']} GB), wall time, medians of "
            "rounds in which the ways take turns, in parentheses their extremes; the sections below have the rest. "
            "Above 1, ours is faster. Other programs: their share of the cores' time meanwhile.",
            table(rows),
        ]
    )
