"""Tiny files in the ten benchmarks' own schemas, written for the tests: no question is taken from a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_challenge": [
        {
            "id": f"T{n}",
            "question": f"Which of these is warmest in case {n}?",
            "choices": {"text": ["ice", "steam", "snow"], "label": ["A", "B", "C"] if n else ["1", "2", "3"]},
            "answerKey": "B" if n else "2",
        }
        for n in range(5)
    ],
    "boolq": [
        {"passage": f"Box {n} is red.", "question": f"is box {n} red", "label": n % 2, "idx": n} for n in range(5)
    ],
    "gsm8k": [
        {"question": f"Tom has {n} nuts and gets 2. How many?", "answer": f"{n} + 2 = {n + 2}\n#### {n + 2}"}
        for n in range(5)
    ],
    "hellaswag": [
        {
            "ind": n,
            "activity_label": "Washing",
            "ctx_a": "A man takes a cup.",
            "ctx_b": "he",
            "ctx": "A man takes a cup. he",
            "endings": ["washes it.", "flies off.", "sings it.", "reads it."],
            "label": str(n % 4),
            "source_id": "x",
            "split": "val",
            "split_type": "indomain",
        }
        for n in range(5)
    ],
    "openbookqa": [
        {
            "id": f"o{n}",
            "question_stem": "A plant needs",
            "choices": {"text": ["light", "salt", "wind", "noise"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        }
        for n in range(5)
    ],
    "piqa": [
        {"goal": f"Dry {n} cups.", "sol1": "Use a towel.", "sol2": "Use a pond.", "label": n % 2} for n in range(5)
    ],
    "winogrande": [
        {"sentence": f"Ann gave Bea _ {n} old hats.", "option1": "her", "option2": "tea", "answer": str(1 + n % 2)}
        for n in range(5)
    ],
    "humaneval": [
        {
            "task_id": f"Test/{n}",
            "prompt": f'def plus{n}(x):\n    """Gives x + {n}."""\n',
            "canonical_solution": f"    return x + {n}\n",
            "test": f"def check(f):\n    assert f(1) == {n + 1}\n",
            "entry_point": f"plus{n}",
        }
        for n in range(5)
    ],
    "mbpp": [
        {
            "task_id": n,
            "text": f"Write a function that adds {n}.",
            "code": f"def add(x):\r\n    return x + {n}",
            "test_list": [f"assert add({k}) == {n + k}" for k in range(3)],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for n in range(5)
    ],
}
ROWS["arc_easy"] = ROWS["arc_challenge"]
ASKED = {
    "arc_challenge": "test",
    "arc_easy": "test",
    "boolq": "validation",
    "gsm8k": "test",
    "hellaswag": "validation",
    "openbookqa": "test",
    "piqa": "validation",
    "winogrande": "validation",
    "humaneval": "test",
    "mbpp": "test",
}
SHOWN = {"mbpp": "prompt"} | dict.fromkeys(set(ASKED) - {"mbpp", "humaneval"}, "train")


def write_benchmarks(folder: Path, count: int = 5) -> Path:
    """All ten below ``folder``: the split that is asked, and the one that examples are shown from."""
    for name, rows in ROWS.items():
        for split in filter(None, (ASKED[name], SHOWN.get(name))):
            file = folder / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
    return folder


def write_task(folder: Path, name: str, pairs: list[tuple[str, str]], **about: Any) -> Path:
    """A task of its own: a folder with descriptions, examples and questions."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "task.json").write_text(json.dumps({"descriptions": [f"Do {name}."], **about}))
    for split in ("train", "test"):
        lines = [json.dumps({"input": question, "output": answer}) for question, answer in pairs]
        (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return place
