"""Task files of Super-Natural-Instructions and lines of descriptions, written as `t2l.data` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from t2l.data.descriptions import DescriptionSet
from t2l.data.sources import Task


def write_task(folder: Path, task: Task, source: str | None = None, way: str | None = None) -> None:
    """Writes ``folder/NAME.json``, with the task that it was made from and how, if any."""
    native: dict[str, Any] = {
        "Definition": [task.definition],
        "Positive Examples": [{"input": item.input, "output": item.outputs[0]} for item in task.examples],
        "Negative Examples": [],
        "Instances": [
            {"id": f"{task.name}-{number}", "input": instance.input, "output": list(instance.outputs)}
            for number, instance in enumerate(task.instances)
        ],
        "Categories": list(task.categories),
        "Domains": [],
        "Source": list(task.datasets),
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Instance License": list(task.licences),
        **({"Variant_of": source, "Variant": way} if source else {}),
    }
    (folder / f"{task.name}.json").write_text(json.dumps(native, ensure_ascii=False), encoding="utf-8")


def write_descriptions(file: Path, sets: Iterable[DescriptionSet]) -> None:
    """Writes a line for every task."""
    lines = []
    for given in sets:
        line: dict[str, Any] = {"name": given.name, "descriptions": list(given.descriptions)}
        if given.evaluation:
            line["evaluation_descriptions"] = list(given.evaluation)
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
