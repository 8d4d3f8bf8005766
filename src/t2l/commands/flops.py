"""``t2l flops``: what an adapter from a description costs beside few-shot prompts and fine-tuning, by formula.

Level 6. `t2l.evaluation.flops` computes; this file prints. No weights of the base are read.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from t2l.commands.options import AsJson, Checkpoint
from t2l.commands.terminal import print_json, print_table, tell


def flops(
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "-b",
            metavar="FOLDER|HUB_ID",
            help="Any causal language model's config; by default the base of the checkpoint.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    variant: Annotated[
        Literal["L", "M", "S"],
        typer.Option(help="With --base alone: the paper's hypernetwork of this variant, and gte-large."),
    ] = "L",
    description: Annotated[int, typer.Option(min=1, help="Tokens of the description.")] = 48,
    question: Annotated[int, typer.Option(min=1, help="Tokens of a question.")] = 64,
    examples: Annotated[int, typer.Option(min=0, help="Tokens of all examples in a few-shot prompt.")] = 256,
    answer: Annotated[int, typer.Option(min=1, help="Tokens written.")] = 1,
    questions: Annotated[int, typer.Option(min=1, help="Questions that one adapter or cached prefix serves.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Of fine-tuning a LoRA, 8 samples of 512 tokens each.")] = 1000,
    tflops: Annotated[
        float, typer.Option(help="Peak of the device, for latencies; an H100's bf16 by default.")
    ] = 989.0,
    bandwidth: Annotated[float, typer.Option(help="Of the device's memory, GB/s.")] = 3350.0,
    as_json: AsJson = False,
) -> None:
    """Operations, bytes and seconds: an adapter from a description, few-shot prompts, and fine-tuning."""
    import torch

    from t2l.base_structure import base_config
    from t2l.evaluation.flops import ENCODERS, Setting, TransformerShape, compare, paper_setting
    from t2l.hypernet import HyperNetwork
    from t2l.lora import LoraSpec
    from t2l.model import TextToLora

    setting = Setting(description, question, examples, answer, questions, steps, tflops=tflops, bandwidth=bandwidth)
    if base is not None and checkpoint is None:
        config, encoder_name = base_config(base), "gte-large-en-v1.5"
        with torch.device("meta"):
            hypernetwork = HyperNetwork(LoraSpec.from_base(config), 1024, variant)
        shape, what = TransformerShape.of_config(config), f"{base}, variant {variant} as in the paper"
    else:
        t2l = TextToLora.from_pretrained(checkpoint)
        name = t2l.spec.base_name(base)
        hypernetwork, shape = t2l.hypernetwork, TransformerShape.of_config(base_config(name))
        encoder_name = "minilm" if t2l.encoder.to_config().get("kind") == "minilm" else "gte-large-en-v1.5"
        what = f"{name}, {checkpoint or 'the checkpoint that ships'}"
    costs = compare(shape, hypernetwork, ENCODERS[encoder_name], setting)
    report: dict[str, Any] = {
        "what": what,
        "setting": asdict(setting),
        "base": asdict(shape),
        "encoder": encoder_name,
        "costs": [{**asdict(cost), "total": cost.total(questions)} for cost in costs],
        "paper": paper_setting(),
    }
    (print_json if as_json else _show)(report)


def _show(report: dict[str, Any]) -> None:
    setting = report["setting"]
    columns = ["", "TFLOPs before", "TFLOPs a question", f"TFLOPs for {setting['questions']}", "MB kept", "ms before"]
    lines = [[*columns, "ms a question"]]
    for cost in report["costs"]:
        numbers = [cost["first"] / 1e12, cost["each"] / 1e12, cost["total"] / 1e12, cost["memory"] / 1e6]
        lines.append([cost["name"], *(f"{n:.4g}" for n in (*numbers, 1000 * cost["first_s"], 1000 * cost["each_s"]))])
    print_table(f"{report['what']}; encoder {report['encoder']}", lines)
    ratio = report["costs"][1]["total"] / report["costs"][0]["total"]
    cached = report["costs"][2]["total"] / report["costs"][0]["total"]
    tell(
        f"A description of {setting['description']} tokens, questions of {setting['question']}, examples of "
        f"{setting['examples']}, answers of {setting['answer']}: the few-shot prompt takes {ratio:.2f} times the "
        f"operations of Text-to-LoRA, with its prefix cached {cached:.2f} times."
    )
    tell(
        f"Seconds are a roofline ({setting['tflops']:g} TFLOP/s, {setting['bandwidth']:g} GB/s): no run is faster, "
        "most are slower."
    )
    paper = report["paper"]
    tell(
        f"The paper's setting by the paper's formula: {paper['t2l'] / 1e12:.3f} against "
        f"{paper['in_context'] / 1e12:.3f} TFLOPs ("
        "Mistral-7B without grouped queries, an MLP of 4 H, reading alone, one question, nothing cached)."
    )
