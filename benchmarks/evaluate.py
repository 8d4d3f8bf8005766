"""Evaluation: many adapters in shared batches against one adapter after the other, on the laboratory's micro base.

    python benchmarks/evaluate.py [--adapters 16] [--items 8] [--repeats 5] [--json]

All ways answer the same requests of lm-evaluation-harness, give the same answers and take turns; figures are medians
over rounds of a ratio within one round, so they hold on a busy machine. CPU seconds count besides wall seconds, because
there the wall clock says more about the others. Requests are of two kinds: greedy answers to short prompts, and
questions with four choices by log-likelihood, of the length that such benchmarks have. The named baseline is the
harness's own model class: PEFT puts one adapter on the base, ``HFLM`` answers its requests in batches, PEFT takes it
off, and goes on with the next. A second baseline asks our own decoder in the same order, so that what sharing gives
stands apart from what the decoder gives: in log-likelihoods of a tiny base, arithmetic is nearly all of the time, and a
choice's context, which is read once, saves more than sharing does.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.evaluation.adapters import Shelf
from t2l.evaluation.decoding import Decoder
from t2l.evaluation.harness import AdaptedLM
from t2l.model import TextToLora

ASSETS = Path(__file__).resolve().parents[1] / "lab" / "assets"
TARGET = "target: 16 adapters at least 4x faster in shared batches than one after the other, 2 cores"
BASELINES = {"hflm": "lm-evaluation-harness's HFLM with PEFT", "alone": "our decoder, one adapter after another"}
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
QUESTIONS = (
    "A pond freezes over in winter. Which property of ice lets fish live on below it?\nAnswer:",
    "A student pushes a box along a rough floor and lets go. Why does the box come to rest?\nAnswer:",
    "Which of these would best show that a plant needs light in order to grow well?\nAnswer:",
    "The moon looks different from week to week. What is the reason for its phases?\nAnswer:",
    "A metal spoon that stands in hot soup becomes hot at its other end. How does the heat get there?\nAnswer:",
    "Where does most of the energy in a simple food chain come from?\nAnswer:",
    "A river slows down as it meets the sea. What happens to the sand that it carries?\nAnswer:",
    "Which change turns a liquid into a gas below its boiling point?\nAnswer:",
)
CHOICES = (" the sun", " it is lighter than water", " by conduction", " friction")
NEW_TOKENS = 16


def requests_of(kind: str, task: str, items: int) -> list[Instance]:
    """One task's requests as the harness makes them: one a question, or one a choice."""
    given = {"until": ["\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    wanted: tuple[Any, ...] = (given,) if kind == "generate_until" else CHOICES
    texts = TEXTS if kind == "generate_until" else QUESTIONS
    return [
        Instance(kind, {}, (texts[number % len(texts)], one), place, metadata=(task, number, 1))  # pyright: ignore
        for number in range(items)
        for place, one in enumerate(wanted)
    ]


@contextmanager
def adapted(base: Base, adapter: Adapter) -> Iterator[Any]:
    """The base with one adapter, put on and taken off by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adapter.apply(base.model)
        try:
            yield model
        finally:
            model.unload()


def by_harness(base: Base, adapters: list[Adapter], kind: str, items: int) -> list[Any]:
    """HFLM's answers, one adapter after another, each in one batch."""
    found = []
    for number, adapter in enumerate(adapters):
        with adapted(base, adapter) as model:
            lm = HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=items, max_length=512)  # pyright: ignore
            found += getattr(lm, kind)(requests_of(kind, f"task{number}", items), disable_tqdm=True)
    return found


def alone(base: Base, adapters: list[Adapter], kind: str, items: int) -> list[Any]:
    """Our decoder's answers, one adapter after another."""
    found = []
    for number, adapter in enumerate(adapters):
        with adapted(base, adapter) as model:
            lm = AdaptedLM(Decoder(Base(model.base_model.model, base.tokenizer, base.name)))
            found += getattr(lm, kind)(requests_of(kind, f"task{number}", items))
    return found


def shared(base: Base, adapters: list[Adapter], kind: str, items: int) -> list[Any]:
    """Our decoder's answers, all adapters together."""
    shelf = Shelf()
    names = {f"task{number}": ("given", str(number)) for number in range(len(adapters))}
    for name, adapter in zip(names.values(), adapters, strict=True):
        shelf.add(name, adapter)
    lm = AdaptedLM(Decoder(base, shelf), names)
    return getattr(lm, kind)([one for task in names for one in requests_of(kind, task, items)])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    logging.disable(logging.WARNING)
    base, t2l = load_base(ASSETS / "t2l-embedded-base"), TextToLora.from_pretrained(ASSETS / "checkpoint")
    adapters = t2l.generate([f"Give word number {n} of the text in capital letters." for n in range(options.adapters)])
    result: dict[str, Any] = {
        "adapters": options.adapters,
        "items": options.items,
        "threads": torch.get_num_threads(),
        "baselines": BASELINES,
        "target": TARGET,
    }
    ways: dict[str, Callable[..., list[Any]]] = {"shared": shared, "hflm": by_harness, "alone": alone}
    for name, kind in (("answers", "generate_until"), ("scores", "loglikelihood")):
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        found: dict[str, list[Any]] = {}
        for round_ in range(options.repeats + 1):  # the first warms up
            for way, run in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                found[way] = run(base, adapters, kind, options.items)
                if round_:
                    taken[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        for way in BASELINES:
            same = all(
                one == other if name == "answers" else abs(one[0] - other[0]) < 1e-3
                for one, other in zip(found["shared"], found[way], strict=True)
            )
            assert same, f"{name} of '{way}' differ from those of shared batches"
            for place, clock in ((0, "wall"), (1, "cpu")):
                ratios = [a[place] / s[place] for s, a in zip(taken["shared"], taken[way], strict=True)]
                result[f"{name}_{way}_{clock}"] = {
                    "ratio": statistics.median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                    "shared_s": statistics.median(pair[place] for pair in taken["shared"]),
                    "baseline_s": statistics.median(pair[place] for pair in taken[way]),
                }
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--items", type=int, default=8, help="questions an adapter")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for way, title in BASELINES.items():
        for name in ("answers", "scores"):
            for clock in ("wall", "cpu"):
                row = result[f"{name}_{way}_{clock}"]
                print(f"{name} against {title}, {clock}: {row['ratio']:.1f}x ({row['low']:.1f} to {row['high']:.1f})")
    print(TARGET)


if __name__ == "__main__":
    main()
