"""Making adapters on a CPU: a cold ``t2l generate``, and adapters per second for the shapes of several bases.

    python benchmarks/generate.py [--bases Mistral-7B ...] [--variants L M S] [--batches 1 8 64 256] [--json]

The named baseline, in the same run: the same hypernetwork making one adapter at a time in float32. Hypernetworks of
variant L have random weights and the paper's sizes (speed and memory do not depend on their values), and nothing of
their bases is needed but the config; M and S are made for Mistral-7B alone, up to a batch of 64. Bases whose adapters
have the same shapes are measured once. The checkpoint that ships (variant T) is the real one, with a real
description's token states, in batches as training and evaluation make them (`t2l generate` makes one at a time).
A batch that needs more memory than is free is left out, and the report says so.

Huge pages are tried in processes of their own, with and without torch's ``THP_MEM_ALLOC_ENABLE=1``, in turns: the
weights of a batch are gigabytes of fresh memory, which the system otherwise hands out in pieces of 4 KiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from machine import Machine, square_product, timed
from sft_step import Tally

from t2l.base_structure import base_config
from t2l.encoders import MiniLmEncoder
from t2l.evaluation.flops import hypernetwork_flops
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.training.frozen_base import bfloat16_is_fast

TARGETS = {"share_of_matmul_rate_at_64": 0.8, "times_baseline_at_64": 5.0, "cold_seconds": 8.0, "cold_peak_gb": 1.5}
DESCRIPTION = "Decide whether the review is positive or negative and answer with one word."
MISTRAL, SHIPPED = "Mistral-7B", "SmolLM2-135M (shipped)"
HUGE_BATCH = 64
MOST_SECONDS = 5.0
"""After so long a batch is run no more, once it has run three times."""
ROOM = 0.8
"""Share of the free memory that a batch may take."""


@dataclass(frozen=True)
class Maker:
    """A hypernetwork to measure.

    Args:
        bases: whose adapters it makes, or would make.
        condition_1E: what it reads for one adapter.
        tokens: of the description, where it reads those.
    """

    bases: tuple[str, ...]
    net: HyperNetwork
    condition_1E: torch.Tensor
    tokens: int = 0

    @property
    def name(self) -> dict[str, Any]:
        return {"base": ", ".join(self.bases), "variant": self.net.variant}


def configs() -> dict[str, Any]:
    """The bases whose shapes are measured."""
    from transformers import LlamaConfig, MistralConfig, Qwen3Config

    llama = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_key_value_heads=8
    )
    qwen = Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_key_value_heads=8, head_dim=128
    )
    return {
        "SmolLM2-135M": base_config("smollm2-135m"),
        MISTRAL: MistralConfig(),
        "Llama-3-8B": llama,
        "Qwen3-4B": qwen,
    }


def makers(bases: list[str], variants: list[str]) -> list[Callable[[], Maker]]:
    """What is measured; each is built only when it is its turn."""
    shapes: dict[tuple[Any, ...], list[str]] = {}
    specs = {name: LoraSpec.from_base(config) for name, config in configs().items() if name in bases}
    for name, spec in specs.items():
        sizes = tuple((group.in_features, group.out_features, len(group.layers)) for group in spec.groups)
        shapes.setdefault(sizes, []).append(name)

    def of(names: list[str], variant: Any) -> Callable[[], Maker]:
        width = MiniLmEncoder().dim
        condition_1E = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
        spec = specs[names[0]]
        return lambda: Maker(tuple(names), hypernetwork(spec, width, variant), condition_1E)

    found = [
        of(names, variant)
        for names in shapes.values()
        for variant in (variants if MISTRAL in names else ["L"] if "L" in variants else [])
    ]
    return [*found, shipped] if SHIPPED in bases else found


def hypernetwork(spec: LoraSpec, width: int, variant: Any) -> HyperNetwork:
    """The paper's sizes, with head weights that are not zero."""
    return HyperNetwork(spec, width, variant, head_init="linear").eval().requires_grad_(False)


def shipped() -> Maker:
    """The checkpoint that ships, with a description as its own encoder reads it."""
    t2l = TextToLora.from_pretrained()
    condition_1E, net = t2l.encoder.encode([DESCRIPTION]), t2l.hypernetwork.eval().requires_grad_(False)
    return Maker((SHIPPED,), net, condition_1E, condition_1E.shape[1] // (t2l.encoder.token_dim or 1))


def cold_start(options: list[str], repeats: int) -> dict[str, float]:
    """Wall seconds (median) and peak resident memory (largest) of ``t2l generate`` in a fresh process.

    Every description is a new one. The first run, with an empty cache, stands apart: a base that is read from a GGUF
    file is converted there, once.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "T2L_CACHE": f"{folder}/cache"}
        runs = []
        for run in range(1 + repeats):
            words = ["generate", f"{DESCRIPTION} Run {run}.", *options, "--out", f"{folder}/{run}"]
            runs.append(timed([sys.executable, "-m", "t2l", *words], environment))
    first, later = runs[0], runs[1:]
    return {
        "seconds": statistics.median(run["seconds"] for run in later),
        "peak_gb": max(run["gb"] for run in later),
        "first_seconds": first["seconds"],
        "first_peak_gb": first["gb"],
    }


def cold_starts(repeats: int) -> list[dict[str, Any]]:
    """Of the checkpoint that ships, and of the largest variant for Mistral-7B."""
    spec = LoraSpec.from_base(configs()[MISTRAL])
    net = hypernetwork(spec, MiniLmEncoder().dim, "L")
    with tempfile.TemporaryDirectory() as folder:
        TextToLora(MiniLmEncoder(), net).save_pretrained(f"{folder}/checkpoint")
        mistral = cold_start(["--checkpoint", f"{folder}/checkpoint"], repeats)
    own = TextToLora.from_pretrained().hypernetwork
    return [
        {"base": SHIPPED, "variant": own.variant, "parameters": own.num_parameters, **cold_start([], repeats)},
        {"base": MISTRAL, "variant": "L", "parameters": net.num_parameters, **mistral},
    ]


def seconds_each(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a drift of the machine's speed meets all alike.

    The first round warms up and does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            if len(times[name]) < 3 or sum(times[name]) < MOST_SECONDS:
                begun = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values[1:] or values) for name, values in times.items()}


def throughput(
    maker: Maker, batches: list[int], repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Adapters per second by dtype and batch, against one at a time in float32; what there is no memory for; and the
    machine's own rate by dtype in FLOP/s, taken in the same turns."""
    net, flops = maker.net, hypernetwork_flops(maker.net, maker.tokens)
    dtypes = [torch.float32] + ([torch.bfloat16] if bfloat16_is_fast() else [])
    nets = {str(dtype).removeprefix("torch."): net if dtype == torch.float32 else _copy(net, dtype) for dtype in dtypes}

    def run(name: str, n: int) -> Callable[[], object]:
        condition_NE = maker.condition_1E.repeat(n, 1)

        def forward() -> object:
            with torch.inference_mode():
                return nets[name](condition_NE)

        return forward

    tally, free = Tally(), psutil.virtual_memory().available
    with tally, torch.no_grad():
        net(maker.condition_1E)
    left_out, keys = [], [("float32", 1)]
    for name in nets:
        for n in batches:
            needed = tally.peak * n * nets[name].dtype.itemsize / 4
            if needed <= ROOM * free:
                keys.append((name, n))
            else:
                left_out.append({**maker.name, "dtype": name, "batch": n, "needs_gb": needed / 1e9})
    keys = list(dict.fromkeys(keys))
    squares = {name: square_product(net.dtype) for name, net in nets.items()}
    products = {f"product/{name}": product for name, (product, _) in squares.items()}
    seconds = seconds_each({f"{name}/{n}": run(name, n) for name, n in keys} | products, repeats)
    rates = {name: count / seconds[f"product/{name}"] for name, (_, count) in squares.items()}
    baseline = 1 / seconds["float32/1"]
    rows = []
    for name, n in keys:
        rate = n / seconds[f"{name}/{n}"]
        rows.append(
            {
                **maker.name,
                "parameters": net.num_parameters,
                "adapter_parameters": net.spec.num_parameters,
                "dtype": name,
                "batch": n,
                "adapters_per_second": rate,
                "times_baseline": rate / baseline,
                "share_of_matmul_rate": rate * flops / rates[name],
            }
        )
    return rows, left_out, rates


def _copy(net: HyperNetwork, dtype: torch.dtype) -> HyperNetwork:
    copied = HyperNetwork.from_tensors(
        net.to_config(), {name: tensor.to(dtype) for name, tensor in net.state_dict().items()}, source="copy"
    )
    return copied.eval().requires_grad_(False)


def huge_pages(options: argparse.Namespace, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Batches of 64 in fresh processes with and without huge pages, which take turns; medians over the rounds.

    Args:
        measured: rows of this process, which say how many operations an adapter takes.
    """
    base = MISTRAL if MISTRAL in options.bases else options.bases[0]
    rows = []
    found: dict[str, list[list[dict[str, Any]]]] = {"off": [], "on": []}
    for _ in range(options.huge_rounds):
        for name, runs in found.items():
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1" if name == "on" else "0"}
            own = ["--bases", base, "--variants", "L", "--batches", str(HUGE_BATCH), "--repeats", str(options.repeats)]
            command = [sys.executable, __file__, *own, "--throughput-only", "--json"]
            done = subprocess.run(
                command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            runs.append([row for row in json.loads(done.stdout)["throughput"] if row["batch"] == HUGE_BATCH])
    for place, row in enumerate(found["off"][0] if found["off"] else []):
        speed = {k: statistics.median(run[place]["adapters_per_second"] for run in v) for k, v in found.items()}
        same = next(
            one
            for one in measured
            if base in one["base"].split(", ") and (one["variant"], one["dtype"]) == (row["variant"], row["dtype"])
        )
        each = same["share_of_matmul_rate"] / same["adapters_per_second"]
        rows.append(
            {
                **{key: row[key] for key in ("base", "variant", "dtype", "batch")},
                "adapters_per_second": speed,
                "times_faster": speed["on"] / speed["off"],
                "share_of_matmul_rate": {name: rate * each for name, rate in speed.items()},
            }
        )
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one JSON document."""
    machine, begun = Machine(), time.monotonic()
    rates: dict[str, list[float]] = {}
    report: dict[str, Any] = {
        "throughput": [],
        "left_out": [],
        "targets": TARGETS,
    }
    for build in makers(options.bases, options.variants):
        maker = build()
        batches = [n for n in options.batches if n <= HUGE_BATCH or maker.net.variant not in ("M", "S")]
        rows, left_out, own_rates = throughput(maker, batches, options.repeats)
        report["throughput"] += rows
        report["left_out"] += left_out
        for name, rate in own_rates.items():
            rates.setdefault(name, []).append(rate / 1e9)
    report["matmul_gflops"] = {name: statistics.median(found) for name, found in rates.items()}
    if not options.throughput_only:
        report["cold_start"] = cold_starts(max(2, options.repeats - 1))
        report["huge_pages"] = huge_pages(options, report["throughput"])
    return {"machine": machine.report(), "took_seconds": time.monotonic() - begun, **report}


def main() -> None:
    """Prints tables, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*configs(), SHIPPED]
    parser.add_argument("--bases", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--variants", nargs="+", default=["L", "M", "S"], help="of Mistral-7B; the others are made in L"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--huge-rounds", type=int, default=2, help="processes with and without huge pages")
    parser.add_argument("--throughput-only", action="store_true", help="no cold starts, no huge pages")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options)
    print(json.dumps(report, indent=2)) if options.json else _print(report)


def _print(report: dict[str, Any]) -> None:
    for row in report["throughput"]:
        print(
            f"{row['base']} {row['variant']} {row['dtype']:9} batch {row['batch']:3}: "
            f"{row['adapters_per_second']:7.1f} adapters/s, {row['times_baseline']:4.1f}x one at a time in float32, "
            f"{row['share_of_matmul_rate']:4.0%} of the matmul rate"
        )
    for row in report["left_out"]:
        print(f"{row['base']} {row['variant']} {row['dtype']} batch {row['batch']}: needs {row['needs_gb']:.0f} GB")
    for row in report.get("cold_start", []):
        print(f"cold `t2l generate`, {row['base']} {row['variant']}: {row['seconds']:.1f} s, {row['peak_gb']:.2f} GB")
    for row in report.get("huge_pages", []):
        share = row["share_of_matmul_rate"]
        print(
            f"huge pages, {row['dtype']}, batch {row['batch']}: {row['times_faster']:.2f}x, "
            f"{share['off']:.0%} to {share['on']:.0%} of the matmul rate"
        )
    print(f"{report['matmul_gflops']} GFLOP/s measured; targets {report['targets']}; {report['took_seconds']:.0f} s")


if __name__ == "__main__":
    main()
