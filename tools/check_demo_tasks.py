"""Checks that no description and no input of the demo, or of the page about descriptions, stands in training data.

    python tools/check_demo_tasks.py FOLDER

FOLDER holds `tasks/*.json` (Super-Natural-Instructions files) and `descriptions.jsonl`, as `t2l data prepare` reads
them. Texts are compared without case, punctuation and spaces. Prints what stands in both; exits 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import descriptions as page_of_descriptions

from t2l.demo.tasks import demo_tasks


def bare(text: str) -> str:
    """Its letters and digits alone."""
    return re.sub(r"[\W_]+", "", text.casefold())


def training_texts(folder: Path) -> tuple[set[str], set[str]]:
    """Descriptions and inputs, bare."""
    descriptions, inputs = set(), set()
    for line in (folder / "descriptions.jsonl").read_text(encoding="utf-8").splitlines():
        for texts in json.loads(line).values():
            descriptions.update(bare(text) for text in (texts if isinstance(texts, list) else ()))
    for path in sorted((folder / "tasks").glob("*.json")):
        task = json.loads(path.read_text(encoding="utf-8"))
        definition = task["Definition"]
        descriptions.update(bare(text) for text in ([definition] if isinstance(definition, str) else definition))
        inputs.update(bare(example["input"]) for example in task["Instances"])
    return descriptions, inputs


def found(folder: Path) -> Iterator[str]:
    """What stands in both."""
    descriptions, inputs = training_texts(folder)
    print(f"{len(descriptions):,} descriptions and {len(inputs):,} inputs of training read", file=sys.stderr)
    for name, text, asked in ours():
        if bare(text) in descriptions:
            yield f"{name}: the description {text!r}"
        for example in asked:
            if bare(example) in inputs:
                yield f"{name}: the input {example!r}"


def ours() -> Iterator[tuple[str, str, list[str]]]:
    """What was written by hand: names, descriptions, and the inputs under them."""
    for task in demo_tasks():
        yield task.name, task.description, [example.text for example in task.examples]
    written = page_of_descriptions.texts()
    for task in written["tasks"]:
        inputs = [example["input"] for example in task["examples"]]
        for text in (task["description"], task["long"], *task["wordings"], *task["languages"].values()):
            yield task["name"], text, inputs
    for group in written["behaviours"]:
        for case in group["cases"]:
            yield group["question"], case["description"], case["inputs"]


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds tasks/*.json and descriptions.jsonl")
    problems = list(found(parser.parse_args().folder))
    for problem in problems:
        print(f"stands in the training data: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
