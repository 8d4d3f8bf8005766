"""Serving: clients with an adapter each, in shared batches against switching one PEFT adapter at a time.

    python benchmarks/serve.py [--clients 1 4 16 64] [--tokens 32] [--repeats 7] [--device cuda] [--threads 1] [--json]

The engine runs in this process, without HTTP. All ways give the same greedy tokens on the laboratory's micro base and
take turns, and each figure is the median over rounds of a ratio within one round, so it holds on a busy machine; CPU
seconds count besides wall seconds, because there the wall clock says more about the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from t2l.bases import load_base
from t2l.model import TextToLora
from t2l.serving.engine import Engine, Limits
from t2l.serving.maker import Made
from t2l.serving.prompts import chat_tokens
from t2l.serving.sampling import Sampling
from t2l.serving.stream import Completion

ASSETS = Path(__file__).resolve().parents[1] / "lab" / "assets"
TARGETS = "targets at 16 clients: 6x tokens per second, an adapter per request costs under 15%"
TEXT = "red green blue"


class Clock:
    """Wall and CPU seconds of several ways of doing the same, taken in turns."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def take(self, name: str, way: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = way()
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return result

    def ratio(self, one: str, other: str) -> dict[str, float]:
        """How many times as long ``one`` takes as ``other`` in the same round: the median, and the extremes of it."""
        found = {}
        for kind, taken in (("wall", self.wall), ("cpu", self.cpu)):
            ratios = [a / b for a, b in zip(taken[one], taken[other], strict=True)]
            found |= {kind: statistics.median(ratios), f"{kind}_low": min(ratios), f"{kind}_high": max(ratios)}
        return found


def together(engine: Engine, prompt: list[int], tokens: int, made: list[Made | None]) -> list[Completion]:
    """All requests at once."""
    sampling = Sampling(max_tokens=tokens)
    streams = [engine.submit(prompt, sampling, adapter=one and one.adapter) for one in made]
    return [stream.result() for stream in streams]


def peft_model(engine: Engine, made: list[Made]) -> Any:
    """A copy of the base with every adapter, switched by name, as PEFT's users do."""
    import copy

    model = copy.deepcopy(engine.base.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, one in enumerate(made):
            model = one.adapter.apply(model, adapter_name=f"a{number}")
    return model


def switching(model: Any, prompt: list[int], tokens: int, clients: int) -> list[list[int]]:
    """One request after the other, its adapter switched on before."""
    ids = torch.tensor([prompt], device=model.device)
    found = []
    for number in range(clients):
        model.set_adapter(f"a{number}")
        with torch.inference_mode():
            given = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
            found.append(model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given)[0, len(prompt) :])
    return [row.tolist() for row in found]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    most = max(options.clients)
    limits = Limits(slots=options.slots, max_waiting=most)
    base, t2l = (
        load_base(ASSETS / "t2l-embedded-base", device=options.device),
        TextToLora.from_pretrained(ASSETS / "checkpoint", device=options.device),
    )
    base.tokenizer.eos_token = base.model.generation_config.eos_token_id = None  # every answer has its full length
    with Engine(base, t2l, limits) as engine:
        prompt = chat_tokens(engine.base, [{"role": "user", "content": TEXT}])
        clock, first = Clock(), {n: [] for n in options.clients}
        new = [[f"Write the text and then the number {n}."] for n in range(options.repeats)]
        descriptions = [f"Give word number {n} of the text in capital letters." for n in range(most)]
        made = engine.make(descriptions).result()
        for again in new:
            clock.take("generated", engine.make(again).result)
            clock.take("kept", engine.make(again).result)
        model = peft_model(engine, made)
        for round_ in range(options.repeats + 1):  # the first warms up
            if round_ == 1:
                clock.wall = {k: v for k, v in clock.wall.items() if k in ("generated", "kept")}
                clock.cpu = {k: v for k, v in clock.cpu.items() if k in ("generated", "kept")}
            for n in options.clients:
                own, plain = made[:n], [None] * n
                answers = clock.take(f"shared/{n}", lambda own=own: together(engine, prompt, options.tokens, own))
                first[n].append([answer.first_token_s for answer in answers])
                clock.take(f"plain/{n}", lambda plain=plain: together(engine, prompt, options.tokens, plain))
                if n <= options.switch_up_to:
                    found = clock.take(f"peft/{n}", lambda n=n: switching(model, prompt, options.tokens, n))
                    assert found == [list(answer.tokens) for answer in answers], "another way, other tokens"
        rows = {}
        for n in options.clients:
            rows[n] = {
                "tokens_per_second": n * options.tokens / statistics.median(clock.wall[f"shared/{n}"]),
                "tokens_per_cpu_second": n * options.tokens / statistics.median(clock.cpu[f"shared/{n}"]),
                "first_token_ms": 1000 * statistics.median(statistics.median(some) for some in first[n][1:]),
                "last_first_token_ms": 1000 * statistics.median(max(some) for some in first[n][1:]),
                "adapters_cost": {kind: times - 1 for kind, times in clock.ratio(f"shared/{n}", f"plain/{n}").items()},
            }
            if f"peft/{n}" in clock.wall:
                rows[n]["times_peft_switching"] = clock.ratio(f"peft/{n}", f"shared/{n}")
        return {
            "device": options.device,
            "slots": options.slots,
            "tokens": options.tokens,
            "prompt_tokens": len(prompt),
            "repeats": options.repeats,
            "threads": torch.get_num_threads(),
            "exact": engine.exact,
            "clients": rows,
            "kept_adapter_times_faster": clock.ratio("generated", "kept"),
        }


def main() -> None:
    """Prints a table or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--switch-up-to", type=int, default=16, help="clients up to which PEFT is measured")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch, for all ways alike; its own choice by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for n, row in report["clients"].items():
        peft = row.get("times_peft_switching")
        against = f", {peft['wall']:.1f}x switching PEFT adapters (CPU {peft['cpu']:.1f}x)" if peft else ""
        cost = row["adapters_cost"]
        print(
            f"{n:3} clients: {row['tokens_per_second']:7.0f} tokens/s{against}; "
            f"first token {row['first_token_ms']:.0f} ms; adapters cost {cost['wall']:+.0%} (CPU {cost['cpu']:+.0%})"
        )
    kept = report["kept_adapter_times_faster"]
    print(f"an adapter that is kept: {kept['wall']:.0f}x as fast as making it (CPU {kept['cpu']:.0f}x); {TARGETS}")


if __name__ == "__main__":
    main()
