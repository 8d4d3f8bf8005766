"""``t2l demo``: one screen on which a newcomer sees descriptions become adapters, and adapters become answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from t2l.adapter import Adapter
from t2l.bases import EMBEDDED_BASE, Base, load_base
from t2l.errors import T2LError
from t2l.model import MICRO_WORLD, TextToLora
from t2l.world.tasks import MicroTask, tasks_of
from t2l.world.wording import descriptions

INPUTS_SHOWN = 5
LINE = 70
"""Characters that a row of the table may take, so that it fits a narrow terminal."""
NEXT = (
    (
        't2l generate "give the last word in capital letters" --out my-adapter',
        "an adapter folder for PEFT, vLLM, SGLang",
    ),
    ('t2l run "add three to the number" --input 14 --input 39', "base and adapter side by side"),
    ("t2l inspect my-adapter", "what is inside, layer by layer"),
    ("t2l import SakanaAI/text-to-lora OUT", "published checkpoints for Mistral, Llama and Gemma"),
)
MAX_NEW_TOKENS = 40


def demo(console: Console, interactive: bool, seed: int) -> None:
    """Shows held-out tasks, then asks for descriptions of the user's own where there is a terminal.

    Args:
        seed: which held-out tasks and inputs are shown.
    """
    console.print(
        Panel.fit(
            "You describe a task; one forward pass writes a LoRA adapter; a frozen model can do the task.\n"
            "[dim]Below: a tiny model that ships with t2l, and tasks that the hypernetwork never met in training.[/]",
            title="[bold]Text-to-LoRA[/]",
            border_style="cyan",
        )
    )
    with console.status("Loading the embedded world ..."):
        t2l = TextToLora.from_pretrained(MICRO_WORLD)
        base = load_base(EMBEDDED_BASE)
        t2l.generate(["warm up"])
    tasks = _choose(seed)
    texts = [descriptions(task, 1, part="train", seed=seed + 1)[0] for task in tasks]
    right, shown = [0, 0], 0
    for task, text in zip(tasks, texts, strict=True):
        adapter, milliseconds = _generate(t2l, text)
        pairs = _short(task.examples(20 * INPUTS_SHOWN, seed=seed))
        plain, adapted = _answers(base, adapter, [question for question, _ in pairs])
        expected = [answer for _, answer in pairs]
        shown += len(pairs)
        right[0] += sum(a == b for a, b in zip(plain, expected, strict=True))
        right[1] += sum(a == b for a, b in zip(adapted, expected, strict=True))
        _show(console, text, milliseconds, [question for question, _ in pairs], plain, adapted, expected)
    console.print(
        f"\nRight on these {shown} inputs: the base alone {right[0]}, with the adapters [bold]{right[1]}[/].\n"
        "All held-out tasks, against wrong, vague and junk descriptions: [cyan]t2l world evaluate --quick[/]"
    )
    if interactive:
        _ask(console, t2l, base)
    console.print("\n[bold]Next[/]")
    for command, purpose in NEXT:
        console.print(Text(f"  {purpose}", "dim"))
        console.print(Text(f"    {command}", "cyan"), soft_wrap=True)


def _choose(seed: int) -> list[MicroTask]:
    """Two unseen combinations and two unseen operations."""
    rng = Random(f"demo/{seed}")
    return [*rng.sample(tasks_of("unseen-combination"), 2), *rng.sample(tasks_of("unseen-operation"), 2)]


def _short(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first few different examples that fit a line; the shortest ones where none does."""
    pairs = list(dict.fromkeys(pairs))
    fitting = [pair for pair in pairs if len(pair[0]) + 3 * len(pair[1]) <= LINE - 12]
    return (fitting or sorted(pairs, key=lambda pair: len(pair[0]) + 3 * len(pair[1])))[:INPUTS_SHOWN]


def _generate(t2l: TextToLora, text: str) -> tuple[Adapter, float]:
    start = time.perf_counter()
    (adapter,) = t2l.generate([text])
    return adapter, 1000 * (time.perf_counter() - start)


def _answers(base: Base, adapter: Adapter, inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Plain and adapted answers, from one shared batch."""
    rows = [-1] * len(inputs) + [0] * len(inputs)
    answers = base.answer(
        [*inputs, *inputs], spec=adapter.spec, weights=adapter.weights, index=rows, max_new_tokens=MAX_NEW_TOKENS
    )
    return answers[: len(inputs)], answers[len(inputs) :]


def _show(
    console: Console,
    text: str,
    milliseconds: float,
    inputs: Sequence[str],
    plain: Sequence[str],
    adapted: Sequence[str],
    expected: Sequence[str],
) -> None:
    console.print()
    console.print(Text(f"“{text}”", "bold") + Text(f"   adapter in {milliseconds:.0f} ms", "dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 1), header_style="dim")
    for name in ("input", "base alone", "with the adapter"):
        table.add_column(name)
    for question, before, after, wanted in zip(inputs, plain, adapted, expected, strict=True):
        verdict = Text(f"✓ {after}", "green")
        if after != wanted:
            verdict = Text.assemble((f"✗ {after}", "red"), (f" (should be {wanted})", "dim"))
        table.add_row(Text(question), Text(before, "dim"), verdict)
    console.print(table)


def _ask(console: Console, t2l: TextToLora, base: Base) -> None:
    console.print("\n[bold]Your turn.[/] Describe a task of this small kind (words, lists, numbers, dates).")
    console.print("[dim]An empty line stops.[/]")
    try:
        while text := console.input("[cyan]task> [/]").strip():
            try:
                adapter, milliseconds = _generate(t2l, text)
            except T2LError as problem:
                console.print(Text(str(problem), "red"))
                continue
            console.print(f"[dim]adapter in {milliseconds:.0f} ms; give it inputs, empty for another task[/]")
            while question := console.input("[cyan]input> [/]").strip():
                try:
                    plain, adapted = _answers(base, adapter, [question])
                except T2LError as problem:
                    console.print(Text(str(problem), "red"))
                    continue
                console.print(Text(f"  base alone: {plain[0]}", "dim"))
                console.print(Text(f"  adapted:    {adapted[0]}", "green"))
    except (EOFError, KeyboardInterrupt):
        console.print()
