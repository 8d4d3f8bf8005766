"""What a description can and cannot do: puts descriptions.yaml to a checkpoint, and renders the page of it.

    python tools/results.py record descriptions -- python tools/descriptions.py [--checkpoint FOLDER]

prints as JSON every answer that an adapter gave, with whether it is right or keeps to the rule; `results.py write`
renders docs/descriptions.md from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.comparison import answer_told
from t2l.demo.tasks import DemoExample, DemoTask, normalised
from t2l.evaluation.statistics import pooled
from t2l.lora import LoraWeights
from t2l.model import TextToLora, reading_lora

CASES = Path(__file__).with_suffix(".yaml")
TOKENS = 24  # of an answer
AT_ONCE = 40  # descriptions whose inputs share batches
KINDS = {
    "own": "the task's own description",
    "wording": "nine other ways to say it",
    "short": "two or three words",
    "long": "more than sixty words",
    "language": "German, French, Spanish",
    "negated": "the description forbids the task",
    "other": "two other tasks' descriptions",
    "random": "random strings",
    "vague": "vague texts",
}
"""What an adapter may be made from, and how the page says it."""

TOLD = {
    "base_told_the_task": "no adapter: the base with the description in its prompt",
    "base_told_mentions": "... a right answer inside a longer one counted",
    "one_lora_told_the_task": "one LoRA for all tasks, the description in its prompt",
}
"""What is told the task in its prompt."""
WAYS = {
    "adapter": "with the adapter",
    "description-in-prompt": "base told the task",
    "multi-task-prompt": "one LoRA told the task",
}
"""Who is asked to behave, and how the page says it."""

Table = Callable[[list[list[str]]], str]


def texts() -> dict[str, Any]:
    """The cases, as they are written."""
    return yaml.safe_load(CASES.read_text(encoding="utf-8"))


def measure(checkpoint: str | None) -> dict[str, Any]:
    """Every answer to every case."""
    t2l = TextToLora.from_pretrained(checkpoint)
    base = load_base(t2l.spec.base_name(None)).with_system(t2l.system)
    cases, folder = texts(), reading_lora(t2l.folder)
    reader = None if folder is None else Adapter.load(folder)
    asked = [
        {"task": task["name"], "kind": kind, "description": text, **example}
        for task, kind, text in _described(cases)
        for example in task["examples"]
    ]
    answered = _answers(t2l, base, [(one["description"], one["input"]) for one in asked])
    rules = {task["name"]: _task(task) for task in cases["tasks"]}
    for one, answer in zip(asked, answered, strict=True):
        one["answer"] = answer
        one["right"] = rules[one["task"]].is_right(answer, _example(one))
    pairs = [(rules[task["name"]], _example(one)) for task in cases["tasks"] for one in task["examples"]]
    asking = [(rule.description, one.text) for rule, one in pairs]
    plain, read = (answer_told(base, asking, lora=lora, max_new_tokens=TOKENS) for lora in (None, reader))
    judged = [(rule, answer, one) for (rule, one), answer in zip(pairs, plain, strict=True)]
    readings = [rule.is_right(answer, one) for (rule, one), answer in zip(pairs, read, strict=True)]
    return {
        "checkpoint": t2l.digest,
        "base": base.name,
        "weights": base.weights,
        "tasks": [task["name"] for task in cases["tasks"]],
        "answers": asked,
        "base_told_the_task": [rule.is_right(answer, one) for rule, answer, one in judged],
        "base_told_mentions": [rule.mentions(answer, one) for rule, answer, one in judged],
        "one_lora_told_the_task": readings if reader is not None else [],
        "behaviours": list(_behaviours(t2l, base, reader, cases["behaviours"])),
    }


def _described(cases: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each task with a kind and a text, of which adapters are made for its inputs."""
    tasks = cases["tasks"]
    for place, task in enumerate(tasks):
        yield task, "own", task["description"]
        for text in task["wordings"]:
            yield task, "wording", text
        yield task, "short", task["short"]
        yield task, "long", task["long"]
        for text in task["languages"].values():
            yield task, "language", text
        yield task, "negated", task["negated"]
        for step in (1, 2):
            yield task, "other", tasks[(place + step) % len(tasks)]["description"]
        for text in cases["random strings"]:
            yield task, "random", text
        for text in cases["vague"]:
            yield task, "vague", text


def _answers(t2l: TextToLora, base: Base, asked: Sequence[tuple[str, str]]) -> list[str]:
    """The answer to each input with the adapter of its description."""
    groups = list(dict.fromkeys(text for text, _ in asked))
    answers: dict[tuple[str, str], str] = {}
    for start in range(0, len(groups), AT_ONCE):
        some = groups[start : start + AT_ONCE]
        wanted = [one for one in dict.fromkeys(asked) if one[0] in set(some)]
        weights = LoraWeights.cat([adapter.weights for adapter in t2l.generate(some)])
        rows = [some.index(text) for text, _ in wanted]
        given = base.answer(
            [text for _, text in wanted], spec=t2l.spec, weights=weights, index=rows, max_new_tokens=TOKENS
        )
        answers |= dict(zip(wanted, given, strict=True))
        print(f"{min(start + AT_ONCE, len(groups))} of {len(groups)} descriptions", file=sys.stderr)
    return [answers[one] for one in asked]


def _behaviours(
    t2l: TextToLora, base: Base, reader: Adapter | None, groups: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    cases = [case for group in groups for case in group["cases"]]
    asked = [(case["description"], text) for case in cases for text in case["inputs"]]
    loras = {"description-in-prompt": None} | ({} if reader is None else {"multi-task-prompt": reader})
    rows = {"adapter": iter(_answers(t2l, base, asked))}
    rows |= {way: iter(answer_told(base, asked, lora=lora, max_new_tokens=TOKENS)) for way, lora in loras.items()}
    for group in groups:
        made = []
        for case in group["cases"]:
            answers = []
            for place, text in enumerate(case["inputs"]):
                row: dict[str, Any] = {"input": text}
                for name, given in rows.items():
                    row[name] = next(given)
                    row[f"{name} keeps"] = keeps(row[name], case.get("rule", {}), _answer_of(case, place))
                answers.append(row)
            made.append({"description": case["description"], "rule": case.get("rule", {}), "rows": answers})
        yield {"question": group["question"], "cases": made}


def _answer_of(case: dict[str, Any], place: int) -> str | None:
    return None if "answers" not in case or "rule" in case else str(case["answers"][place])


def keeps(answer: str, rule: dict[str, Any], wanted: str | None = None) -> bool:
    """Whether an answer keeps to every part of a rule, and is the wanted one where one is given."""
    words = re.findall(r"[\w']+", answer.lower())
    checks: dict[str, Callable[[Any], bool]] = {
        "same": lambda value: normalised(answer) == normalised(value),
        "upper": lambda _: answer == answer.upper() and answer != answer.lower(),
        "words": lambda value: len(answer.split()) == value,
        "holds any": lambda value: any(word in words for word in value),
        "lacks": lambda value: value not in words,
        "begins": lambda value: answer.strip().startswith(value),
        "ends": lambda value: answer.strip().endswith(value),
        "json key": lambda value: _json_has(answer, value),
        "one of": lambda value: normalised(answer) in {normalised(str(one)) for one in value},
    }
    fits = all(checks[name](value) for name, value in rule.items())
    return fits and (wanted is None or answer.strip() == wanted)


def _json_has(answer: str, key: str) -> bool:
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return isinstance(value, dict) and key in value


def _task(record: dict[str, Any]) -> DemoTask:
    return DemoTask(record["name"], "", record["description"], "same", tuple(map(_example, record["examples"])))


def _example(record: dict[str, Any]) -> DemoExample:
    return DemoExample(record["input"], tuple(record["answers"]))


# ------------------------------------------------------------------------------------------------------- the page


def kept(result: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a run: of the small tasks which answers are right, by kind and task, without the texts."""
    right: dict[str, dict[str, list[int]]] = {}
    for one in result["answers"]:
        right.setdefault(one["kind"], {}).setdefault(one["task"], []).append(int(one["right"]))
    return {**{name: value for name, value in result.items() if name != "answers"}, "right": right}


def by_kind(result: dict[str, Any]) -> list[list[str]]:
    """Right answers by what the adapter was made from, over tasks."""
    rows = [["adapter made from", "right", "answers"]]
    for kind, title in KINDS.items():
        tasks = list(result["right"][kind].values())
        rows.append([title, _figure(tasks), str(sum(map(len, tasks)))])
    size = len(result["base_told_the_task"]) // len(result["tasks"])
    for key, title in TOLD.items():
        right = [float(one) for one in result[key]]
        if right:
            rows.append([title, _figure([right[at : at + size] for at in range(0, len(right), size)]), str(len(right))])
    return rows


def _figure(tasks: Sequence[Sequence[float]]) -> str:
    found = pooled(tasks)
    return f"{found.mean:.0f}% ({found.low:.0f} to {found.high:.0f})"


def by_task(result: dict[str, Any]) -> list[list[str]]:
    """The same for single tasks."""
    rows = [["task", *(KINDS[kind] for kind in ("own", "wording", "language", "negated", "other", "random"))]]
    for task in result["tasks"]:
        cells = []
        for kind in ("own", "wording", "language", "negated", "other", "random"):
            right = result["right"][kind][task]
            cells.append(f"{sum(right)} of {len(right)}")
        rows.append([task, *cells])
    return rows


def section(result: dict[str, Any], table: Table) -> str:
    """What the results page says, with a link to the page itself."""
    return "\n\n".join(
        [
            "## What a description can and cannot do",
            f"Six small tasks with six inputs each, written by hand, on {result['base']}; intervals resample tasks and "
            "inputs. Every kind of text, behaviours, labels and forms with their answers: "
            "[descriptions](descriptions.md).",
            table(by_kind(result)),
        ]
    )


def page(run: dict[str, Any], table: Table) -> str:
    """docs/descriptions.md."""
    result = run["result"]
    weights = f", {result['weights']}" if result["weights"] else ""
    parts = [
        "# What a description can and cannot do",
        "Written by `python tools/results.py write` from what `tools/descriptions.py` measured; do not edit.",
        f"The checkpoint that ships (digest {result['checkpoint'][:8]}) on {result['base']}{weights}. The texts were "
        "written by hand for this page and stand in no training data. An answer is right if it equals the stated one, "
        "but for case, quotation marks and a full stop.",
        "## Does the text matter? Would a random string do?",
        table(by_kind(result)),
        "By task:",
        table(by_task(result)),
    ]
    for group in result["behaviours"]:
        parts.append(f"## {group['question']}")
        rows = [["description", *WAYS.values(), "answers with the adapter, as they came"]]
        for case in group["cases"]:
            counts = [f"{sum(row[f'{name} keeps'] for row in case['rows'])} of {len(case['rows'])}" for name in WAYS]
            shown = " · ".join(f"`{_cell(row['adapter'])}`" for row in case["rows"][:3])
            rows.append([_cell(case["description"], 120), *counts, shown])
        parts.append(table(rows))
    versions = ", ".join(f"{package} {number}" for package, number in run["versions"].items())
    parts.append(f"`{run['command']}`, {run['date']}, {run['machine']}, {versions}.")
    return "\n\n".join(parts) + "\n"


def _cell(text: str, most: int = 48) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return (plain if len(plain) <= most else plain[: most - 1] + "…") or "(nothing)"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a folder or name; by default the one that ships")
    print(json.dumps(measure(parser.parse_args().checkpoint), ensure_ascii=False))


if __name__ == "__main__":
    main()
