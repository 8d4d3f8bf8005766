"""Evaluation: many adapters in shared batches against one adapter after the other, on the embedded base.

    python benchmarks/evaluate.py [--adapters 16] [--items 8] [--repeats 5] [--json]

Both ways give the same greedy answers and the same log-likelihoods and take turns; figures are medians over rounds of a
ratio within one round, so they hold on a busy machine. CPU seconds count besides wall seconds, because there the wall
clock says more about the others. The named baseline puts one PEFT adapter on the base, asks its questions one batch
after the other, takes it off, and goes on with the next, as a loop over checkpoints of the harness does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from t2l.adapter import Adapter
from t2l.bases import EMBEDDED_BASE, Base, load_base
from t2l.evaluation.decoding import Decoder, Prompted, Scored
from t2l.model import TextToLora

TARGET = "target: 16 adapters at least 4x faster in shared batches than one after the other, 2 cores"
TEXTS = (
    "red green blue>",
    "stone paper>",
    "one two three four>",
    "night day>",
    "a bird sang>",
    "7 8 9>",
    "x y>",
    "old>",
)


def one_after_another(base: Base, adapters: list[Adapter], ask: Callable[[Decoder, int], list[Any]]) -> list[Any]:
    """Each adapter on the base by PEFT, its own questions, and off again."""
    found = []
    for adapter in adapters:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = adapter.apply(base.model)
            found += ask(Decoder(Base(model.base_model.model, base.tokenizer, base.name)), -1)
            model.unload()
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    base, t2l = load_base(EMBEDDED_BASE), TextToLora.from_pretrained()
    adapters = t2l.generate([f"Give word number {n} of the text in capital letters." for n in range(options.adapters)])
    prompts = [tuple(base.tokenizer(TEXTS[n % len(TEXTS)])["input_ids"]) for n in range(options.items)]
    ends = tuple(base.tokenizer("Red", add_special_tokens=False)["input_ids"])

    def answers(decoder: Decoder, adapter: int) -> list[Any]:
        return [one.text for one in decoder.answers([Prompted(p, ("\n",), 16, adapter) for p in prompts])]

    def scores(decoder: Decoder, adapter: int) -> list[Any]:
        return [score for score, _ in decoder.scores([Scored(p, ends, adapter) for p in prompts])]

    def shared_answers() -> list[Any]:
        asked = [Prompted(p, ("\n",), 16, n) for n in range(len(adapters)) for p in prompts]
        return [one.text for one in Decoder(base, adapters, batch=options.batch).answers(asked)]

    def shared_scores() -> list[Any]:
        asked = [Scored(p, ends, n) for n in range(len(adapters)) for p in prompts]
        return [score for score, _ in Decoder(base, adapters, batch=options.batch).scores(asked)]

    result: dict[str, Any] = {
        "adapters": options.adapters,
        "items": options.items,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "target": TARGET,
    }
    for name, shared, ask in (("answers", shared_answers, answers), ("scores", shared_scores, scores)):
        taken: dict[str, list[tuple[float, float]]] = {"shared": [], "alone": []}
        for round_ in range(options.repeats + 1):  # the first warms up
            for way, run in (("shared", shared), ("alone", lambda ask=ask: one_after_another(base, adapters, ask))):
                wall, cpu = time.perf_counter(), time.process_time()
                found = run()
                if round_:
                    taken[way].append((time.perf_counter() - wall, time.process_time() - cpu))
                result[f"_{name}_{way}"] = found
        one, other = result.pop(f"_{name}_shared"), result.pop(f"_{name}_alone")
        same = one == other if name == "answers" else all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))
        assert same, f"{name} of the two ways differ"
        for place, clock in ((0, "wall"), (1, "cpu")):
            ratios = [a[place] / s[place] for s, a in zip(taken["shared"], taken["alone"], strict=True)]
            result[f"{name}_{clock}"] = {
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "shared_s": statistics.median(pair[place] for pair in taken["shared"]),
                "alone_s": statistics.median(pair[place] for pair in taken["alone"]),
            }
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--items", type=int, default=8, help="questions an adapter")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name in ("answers", "scores"):
        for clock in ("wall", "cpu"):
            row = result[f"{name}_{clock}"]
            print(f"{name}, {clock}: {row['ratio']:.1f}x ({row['low']:.1f} to {row['high']:.1f})")
    print(TARGET)


if __name__ == "__main__":
    main()
