"""Every description that pages and messages show as an example, and what the checkpoint that ships answers under it.

    python tools/examples.py           answers all inputs in tests/golden/examples.json again, and writes it
    python tools/examples.py --check   only says which example has no input there; exit code 1 where one has none

An example for another checkpoint (``--checkpoint``, mistral-t2l) may be omitted; those of the gallery have a record of
their own (``t2l demo --all --keep``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2l.bases import Base, load_base
from t2l.lora import LoraWeights
from t2l.model import TextToLora

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "examples.json"
PAGES = ("*.md", "docs/*.md", "src/t2l/**/*.py")
WRITTEN = ("CHANGELOG.md", "log.md", "gallery.md", "results.md", "descriptions.md", "commands.md")
TOKENS = 32  # of an answer
_TEXT = r'"(?:[^"\\\n]|\\.)*"'
_LIST = rf"{_TEXT}(?:,?\s*{_TEXT})*"
_BEFORE = (  # what stands before a description, or before several
    rf"t2l (?:run|explain|chat --task) ({_TEXT})",
    rf"t2l (?:generate|combine) ({_LIST})",
    rf"echo ({_TEXT}) \| t2l generate",
    rf"compile\(({_TEXT})\)",
    rf"\.(?:generate|stream|blend|make)\(\s*\[({_LIST})",
    rf'"(?:descriptions|parts)": \[({_LIST})',
    rf'"(?:task_)?description": ({_TEXT})',
    rf"_DESCRIPTION = ({_TEXT})",
)
_IN_CODE = r"t2l [rg]|t2l\.compile|>>>|_DESCRIPTION"
_BESIDE = re.compile(rf" (?:--input )?({_TEXT})")


def shown(root: Path = ROOT) -> Iterator[tuple[str, str, str | None]]:
    """Page, description, and the input that stands beside it."""
    for page in sorted(path for pattern in PAGES for path in root.glob(pattern) if path.name not in WRITTEN):
        code = page.suffix == ".py"
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        text = re.sub(r"^```\w+ download$.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for found in (match for before in _BEFORE for match in re.finditer(before, text)):
            line = text[text.rfind("\n", 0, found.start()) + 1 :].splitlines()[0]
            if re.search("--checkpoint|mistral", line) or not re.search(_IN_CODE if code else "", line):
                continue
            beside = _BESIDE.match(text, found.end()) if found[0].startswith("t2l run") else None
            for description in re.findall(_TEXT, found[1]):
                bare = description[1:-1]
                if bare.strip() and not re.search(r"[{\\]|DESCRIPTION|^adapter", bare):
                    yield page.relative_to(root).as_posix(), bare, beside[1][1:-1] if beside else None


def lacking(golden: dict[str, dict[str, str]], root: Path = ROOT) -> list[str]:
    """The examples that the golden file does not answer."""
    return sorted(
        {
            f"{page}: {description}" + (f" {text}" if text else "")
            for page, description, text in shown(root)
            if not golden.get(description) or (text and text not in golden[description])
        }
    )


def answered(golden: dict[str, dict[str, str]], t2l: TextToLora, base: Base) -> dict[str, dict[str, str]]:
    """The same inputs with the answers of the adapters."""
    pairs = [(row, text) for row, texts in enumerate(golden.values()) for text in texts]
    answers: Any = base.answer(
        [text for _, text in pairs],
        spec=t2l.spec,
        weights=LoraWeights.cat([adapter.weights for adapter in t2l.generate(list(golden))]),
        index=[row for row, _ in pairs],
        max_new_tokens=TOKENS,
    )
    left = iter(answers)
    return {description: {text: next(left).strip() for text in texts} for description, texts in golden.items()}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which example has no input")
    check = parser.parse_args().check
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if problems := lacking(golden):
        sys.exit("\n".join([*problems, f"Give each an input in {GOLDEN.relative_to(ROOT)}."]))
    if not check:
        t2l = TextToLora.from_pretrained("smollm2-135m")
        found = answered(golden, t2l, load_base(t2l.spec.base_name(None)).with_system(t2l.system))
        GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
