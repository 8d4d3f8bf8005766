"""Making adapters for Mistral-7B shapes on a CPU: a cold ``t2l generate`` from a shell, and adapters per second.

Baseline in the same run: the same hypernetwork making one adapter at a time in float32. Random weights: speed and
memory do not depend on their values. Nothing of Mistral-7B but its config is needed.

    python benchmarks/generate.py [--variants L M S] [--batches 1 8 64] [--repeats 5] [--json]
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
from pathlib import Path
from typing import Any

import torch

from t2l.encoders import MiniLmEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.training.frozen_base import bfloat16_is_fast

TARGETS = "targets: cold start under 8 s and 1.5 GB; 5x adapters per second at batch 64"
DESCRIPTION = "Decide whether the review is positive or negative and answer with one word."

MEASURE = """
import resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # from a small process: a child's peak counts the memory of the process that forked it


def hypernetwork(variant: Any) -> HyperNetwork:
    """The paper's sizes, with head weights that are not zero."""
    from transformers import MistralConfig

    net = HyperNetwork(LoraSpec.from_base(MistralConfig()), MiniLmEncoder().dim, variant, head_init="linear")
    return net.eval().requires_grad_(False)


def cold_start(net: HyperNetwork, repeats: int) -> dict[str, float]:
    """Wall seconds (median) and peak resident memory (largest) of ``t2l generate`` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        TextToLora(MiniLmEncoder(), net).save_pretrained(checkpoint)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "T2L_CACHE": f"{folder}/cache"}
        seconds, peaks = [], []
        for run in range(repeats):
            words = ["generate", f"{DESCRIPTION} Run {run}.", "--checkpoint", str(checkpoint)]
            command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "t2l", *words, "--out", f"{folder}/{run}"]
            done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            spent, peak = done.stdout.split()
            seconds.append(float(spent))
            peaks.append(float(peak))
    return {"seconds": statistics.median(seconds), "peak_gb": max(peaks) / 1e6}


def seconds_each(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a drift of the machine's speed meets all alike."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def matmul_rate(dtype: torch.dtype) -> float:
    """The machine's own rate in FLOP/s: a square product of 2048 in ``dtype``."""
    a = torch.randn(2048, 2048).to(dtype)
    return 2 * 2048**3 / seconds_each({"product": lambda: a @ a}, 5)["product"]


def flops_per_adapter(net: HyperNetwork) -> float:
    """Counted by torch over one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.ones(1, net.embedding_dim))
    return counter.get_total_flops()


def throughput(net: HyperNetwork, batches: list[int], repeats: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Adapters per second by dtype and batch, against one at a time in float32."""
    flops = flops_per_adapter(net)
    dtypes = [torch.float32] + ([torch.bfloat16] if bfloat16_is_fast() else [])
    nets = {str(dtype).removeprefix("torch."): net if dtype == torch.float32 else _copy(net, dtype) for dtype in dtypes}
    generator = torch.Generator().manual_seed(0)
    conditions = {n: torch.randn(n, net.embedding_dim, generator=generator) for n in {1, *batches}}

    def run(name: str, n: int) -> Callable[[], object]:
        def forward() -> object:
            with torch.inference_mode():
                return nets[name](conditions[n])

        return forward

    keys = list(dict.fromkeys([("float32", 1), *((name, n) for name in nets for n in batches)]))
    seconds = seconds_each({f"{name}/{n}": run(name, n) for name, n in keys}, repeats)
    baseline = 1 / seconds["float32/1"]
    rows = []
    for name, n in keys:
        rate = n / seconds[f"{name}/{n}"]
        rows.append(
            {
                "dtype": name,
                "batch": n,
                "adapters_per_second": rate,
                "times_baseline": rate / baseline,
                "share_of_matmul_rate": rate * flops / rates[name],
            }
        )
    return rows


def _copy(net: HyperNetwork, dtype: torch.dtype) -> HyperNetwork:
    return HyperNetwork.from_tensors(
        net.to_config(), {name: tensor.to(dtype) for name, tensor in net.state_dict().items()}, source="copy"
    ).eval()


def main() -> None:
    """Prints a table for each variant, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["L", "M", "S"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates = {name: matmul_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}
    report: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "matmul_gflops": {k: v / 1e9 for k, v in rates.items()},
    }
    for variant in options.variants:
        net = hypernetwork(variant)
        report[variant] = {
            "parameters": net.num_parameters,
            "cold_start": cold_start(net, max(2, options.repeats // 2)),
            "throughput": throughput(net, options.batches, options.repeats, rates),
        }
        if not options.json:
            _print(variant, report[variant])
    print(json.dumps(report, indent=2) if options.json else f"{report['matmul_gflops']} GFLOP/s measured; {TARGETS}")


def _print(variant: str, figures: dict[str, Any]) -> None:
    cold = figures["cold_start"]
    print(
        f"{variant}: {figures['parameters']:,} parameters; "
        f"cold `t2l generate` {cold['seconds']:.1f} s, {cold['peak_gb']:.2f} GB"
    )
    for row in figures["throughput"]:
        print(
            f"  {row['dtype']:9} batch {row['batch']:3}: {row['adapters_per_second']:6.1f} adapters/s, "
            f"{row['times_baseline']:4.1f}x one at a time in float32, "
            f"{row['share_of_matmul_rate']:4.0%} of the matmul rate"
        )


if __name__ == "__main__":
    main()
