"""Evaluating a real model: many adapters in shared batches against one adapter after the other.

    python benchmarks/evaluate.py [--adapters 16] [--items 8] [--repeats 2] [--alone] [--json]

SmolLM2-135M with the checkpoint that ships, in float32; adapters from the descriptions of the demo's tasks. Requests of
lm-evaluation-harness are of two kinds: greedy answers to the demo's inputs in the base's chat template, and questions
with four choices by log-likelihood, of the length that such benchmarks have. The named baseline is the harness's own
model class: PEFT puts one adapter on the base, ``HFLM`` answers its requests in batches, PEFT takes it off, and goes on
with the next. With ``--alone`` our own decoder is asked in the same order too, so that what sharing gives stands apart
from what the decoder gives. Ways take turns; figures are medians over rounds of a ratio within one round. Other batches
add up in another order, so answers may differ where two tokens are equally likely: the share of equal ones is reported.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from machine import Machine

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.demo.tasks import demo_tasks
from t2l.evaluation.adapters import Shelf
from t2l.evaluation.decoding import Decoder
from t2l.evaluation.harness import AdaptedLM
from t2l.model import TextToLora

BASE = "smollm2-135m"
TARGETS = {"answers": 4.0, "scores": 2.0}
"""How many times as fast as the harness's own model class shared batches should be, at 16 adapters on two cores."""
KINDS = {"answers": "generate_until", "scores": "loglikelihood"}
BASELINES = {"hflm": "lm-evaluation-harness's HFLM with PEFT", "alone": "our decoder, one adapter after another"}
QUESTIONS = (
    (
        "A pond freezes over in winter. Which property of ice lets fish live on below it?",
        ("Ice is lighter than water.", "Ice is harder than water.", "Ice is colder than air.", "Ice has no colour."),
    ),
    (
        "A student pushes a box along a rough floor and lets go. Why does the box come to rest?",
        ("friction", "its weight alone", "the pull of the moon", "the air that it holds"),
    ),
    (
        "Which of these would best show that a plant needs light in order to grow well?",
        (
            "growing one plant in a window and one in a cupboard",
            "giving two plants different amounts of water",
            "measuring the height of a tree",
            "planting seeds of two kinds side by side",
        ),
    ),
    (
        "The moon looks different from week to week. What is the reason for its phases?",
        (
            "We see more or less of its sunlit half.",
            "Clouds cover part of it.",
            "It grows and shrinks.",
            "The sun turns around it.",
        ),
    ),
    (
        "A metal spoon that stands in hot soup becomes hot at its other end. How does the heat get there?",
        ("by conduction", "by convection", "by radiation alone", "by evaporation"),
    ),
    (
        "Where does most of the energy in a simple food chain come from?",
        ("the sun", "the soil", "the largest animal", "rain"),
    ),
    (
        "A river slows down as it meets the sea. What happens to the sand that it carries?",
        ("It sinks to the bottom.", "It dissolves in the water.", "It rises into the air.", "It turns into salt."),
    ),
    (
        "Which change turns a liquid into a gas below its boiling point?",
        ("evaporation", "condensation", "freezing", "melting"),
    ),
)


def requests_of(kind: str, base: Base, task: int, options: argparse.Namespace) -> list[Instance]:
    """One task's requests as the harness makes them: one a question, or one a choice."""
    asked: list[tuple[str, Sequence[Any]]] = []
    if kind == KINDS["answers"]:
        given = {"until": ["\n"], "max_gen_toks": options.tokens, "do_sample": False}
        texts = [example.text for one in demo_tasks() for example in one.examples]
        for number in range(options.items):  # the task's own inputs, then those of the tasks after it
            asked.append((base.prompt(texts[(3 * task + number) % len(texts)]), (given,)))
    else:
        for question, choices in QUESTIONS[: options.items]:
            asked.append((f"Question: {question}\nAnswer:", [f" {choice}" for choice in choices]))
    return [
        Instance(kind, {}, (text, one), place, metadata=(f"task{task}", number, 1))  # pyright: ignore
        for number, (text, wanted) in enumerate(asked)
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


def by_harness(base: Base, adapters: list[Adapter], kind: str, options: argparse.Namespace) -> list[Any]:
    """HFLM's answers, one adapter after another, each adapter's in one batch."""
    found = []
    for number, adapter in enumerate(adapters):
        with adapted(base, adapter) as model:
            asked = requests_of(kind, base, number, options)
            given = {"tokenizer": base.tokenizer, "batch_size": len(asked), "max_length": 512}
            lm = HFLM(pretrained=model, **given)  # pyright: ignore
            found += getattr(lm, kind)(asked, disable_tqdm=True)
    return found


def alone(base: Base, adapters: list[Adapter], kind: str, options: argparse.Namespace) -> list[Any]:
    """Our decoder's answers, one adapter after another."""
    found = []
    for number, adapter in enumerate(adapters):
        with adapted(base, adapter) as model:
            lm = AdaptedLM(Decoder(Base(model.base_model.model, base.tokenizer, base.name)))
            found += getattr(lm, kind)(requests_of(kind, base, number, options))
    return found


def shared(base: Base, adapters: list[Adapter], kind: str, options: argparse.Namespace) -> list[Any]:
    """Our decoder's answers, all adapters together."""
    shelf = Shelf()
    names = {f"task{number}": ("given", str(number)) for number in range(len(adapters))}
    for name, adapter in zip(names.values(), adapters, strict=True):
        shelf.add(name, adapter)
    lm = AdaptedLM(Decoder(base, shelf), names)
    asked = [one for number in range(len(adapters)) for one in requests_of(kind, base, number, options)]
    return getattr(lm, kind)(asked)


def agreement(name: str, ours: list[Any], theirs: list[Any]) -> dict[str, float]:
    """The share of equal answers; or of questions with the same best choice, and how far scores lie apart."""
    if name == "answers":
        return {"same": statistics.mean(one == other for one, other in zip(ours, theirs, strict=True))}
    scores = [[float(score) for score, _ in some] for some in (ours, theirs)]
    count = len(QUESTIONS[0][1])
    best = [
        [max(range(start, start + count), key=lambda place, s=some: s[place]) for start in range(0, len(some), count)]
        for some in scores
    ]
    apart = max(abs(one - other) for one, other in zip(*scores, strict=True))
    return {"same": statistics.mean(a == b for a, b in zip(*best, strict=True)), "largest_difference": apart}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    logging.disable(logging.WARNING)
    machine, t2l = Machine(), TextToLora.from_pretrained()
    base = load_base(BASE).with_system(t2l.system)
    adapters = t2l.generate([task.description for task in demo_tasks()[: options.adapters]])
    ways: dict[str, Callable[..., list[Any]]] = {"shared": shared, "hflm": by_harness}
    if options.alone:
        ways["alone"] = alone
    result: dict[str, Any] = {
        "base": base.name,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "adapters": options.adapters,
        "items": options.items,
        "tokens": options.tokens,
        "repeats": options.repeats,
        "baselines": {name: title for name, title in BASELINES.items() if name in ways},
        "targets": TARGETS,
    }
    for name, kind in KINDS.items():
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        found: dict[str, list[Any]] = {}
        for way in ways.values():
            way(base, adapters[:1], kind, options)  # warms up
        for _ in range(options.repeats):
            for way, run in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                found[way] = run(base, adapters, kind, options)
                taken[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        for way in result["baselines"]:
            result[f"{name}_{way}"] = agreement(name, found["shared"], found[way])
            for place, clock in ((0, "wall"), (1, "cpu")):
                ratios = [a[place] / s[place] for s, a in zip(taken["shared"], taken[way], strict=True)]
                result[f"{name}_{way}"][clock] = {
                    "ratio": statistics.median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                    "shared_s": statistics.median(pair[place] for pair in taken["shared"]),
                    "baseline_s": statistics.median(pair[place] for pair in taken[way]),
                }
    return {**result, "machine": machine.report()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--items", type=int, default=8, choices=range(1, 1 + len(QUESTIONS)), help="an adapter's")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="our decoder, one adapter after another, as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for way, title in result["baselines"].items():
        for name, target in TARGETS.items():
            row = result[f"{name}_{way}"]
            for clock in ("wall", "cpu"):
                times = row[clock]
                print(
                    f"{name} against {title}, {clock}: {times['ratio']:.1f}x "
                    f"({times['low']:.1f} to {times['high']:.1f}; target {target:.0f}x), same: {row['same']:.0%}"
                )


if __name__ == "__main__":
    main()
