"""``t2l refine``: a warm start: a generated adapter, fine-tuned on a few examples.

Level 6.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.generate import check_place
from t2l.commands.options import AsJson, Device, Dtype, Force, Form, checked_device
from t2l.commands.terminal import messages, print_json, results, say
from t2l.errors import BaseModelError, T2LError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from t2l.lora import LoraWeights
    from t2l.training.oracles import Sample

_HELD_OUT = 5  # one example in so many tells when to stop, where there are at least twice as many
_LOOKS = 20  # at the held-out examples, in a run


def refine(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The adapter's folder.")],
    examples: Annotated[
        Path,
        typer.Option("--examples", metavar="FILE", help="Inputs with outputs, as JSON Lines or CSV."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The refined adapter's folder.")],
    base: Annotated[
        str | None,
        typer.Option("--base", "-b", metavar="FOLDER|HUB_ID", help="The base model; by default the adapter's own."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 60,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak, of AdamW.")] = 2e-3,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = 8,
    seed: Annotated[int, typer.Option(help="Of which examples make a step.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="How the adapter's tensors are stored.")] = Dtype.float32,
    form: Annotated[Form, typer.Option(help="portable or rslora; see t2l generate.")] = Form.portable,
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an adapter on a few examples, from where the description has brought it."""
    from t2l.adapter import Adapter
    from t2l.bases import load_base
    from t2l.commands.examples import read_examples
    from t2l.guidance.choosing import answer_samples
    from t2l.training.refinement import RefineConfig, fit_losses, tune_adapters

    check_place(out, force)
    config = RefineConfig(steps, learning_rate, batch, seed=seed)
    given = read_examples(examples)
    pairs = given.pairs()
    start = Adapter.load(adapter)
    name = base or start.spec.base_model
    if name is None:
        raise BaseModelError("The adapter does not say which base it is for.", "Name it: --base FOLDER|HUB_ID")
    warm = start.rank_stabilised()  # with the scaling inside B, steps would be of another size
    loaded = load_base(name, device=checked_device(device))
    warm.spec.check_base(loaded.model)
    samples = answer_samples(loaded, pairs)
    own, held = _split(samples)
    best: dict[str, Any] = {"loss": None, "step": 0, "weights": warm.weights}
    every = max(1, steps // _LOOKS)

    def watch(step: int, weights: LoraWeights) -> None:
        if step % every and step != steps:
            return
        loss = float(fit_losses(loaded.model, warm.spec, weights, held)[0])
        first = best["loss"] is None
        if first or loss < best["loss"]:
            best.update(loss=loss, step=step, weights=weights.to("cpu").map(lambda tensor: tensor.clone()))
        if first:
            best["before"] = loss

    begun = time.perf_counter()
    console = messages()
    with console.status(f"Refining on {len(own)} examples"):
        tune_adapters(loaded.model, warm.spec, warm.weights, [own], config, watch=watch)
    record = {
        "from": {"digest": start.digest, "provenance": start.provenance},
        "examples": given.digest,
        "number_of_examples": len(pairs),
        "held_out": 0 if held is own else len(held),
        "steps": steps,
        "best_step": best["step"],
        "learning_rate": learning_rate,
        "batch": batch,
        "seed": seed,
        "loss_before": round(best["before"], 6),
        "loss_after": round(best["loss"], 6),
    }
    kept = {key: start.provenance[key] for key in ("description",) if key in start.provenance}
    refined = Adapter(warm.spec, best["weights"], {**kept, "base_model": warm.spec.base_model, "refined": record})
    refined.save(out, form=form.value, dtype=dtype.value, force=force)
    seconds = round(time.perf_counter() - begun, 3)
    if as_json:
        shown = {key: value for key, value in record.items() if key != "from"}
        print_json({"folder": str(out), "digest": refined.digest, **shown, "seconds": seconds})
        return
    say(str(out), "bold green", console=results())
    what = "held-out examples" if held is not own else "examples themselves"
    say(
        f"Loss on the {what}: {best['before']:.3f} before, {best['loss']:.3f} after step {best['step']} of {steps} "
        f"({seconds:.1f} s).",
        console=results(),
    )


def _split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from and to look at; too few are used for both."""
    if len(samples) < 2 * _HELD_OUT:
        own = list(samples)
        return own, own
    held = list(samples[::_HELD_OUT])
    return [sample for place, sample in enumerate(samples) if place % _HELD_OUT], held


def check_steps(steps: int) -> int:
    """``steps``, if it is a number of steps that makes sense for an embedding."""
    if not 0 <= steps <= 10_000:
        raise T2LError(f"The steps are {steps}; they must be between 0 and 10000.")
    return steps
