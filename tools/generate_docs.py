"""Writes what the code says about itself into the docs: docs/commands.md, docs/gallery.md, the README's table and tree.

    python tools/generate_docs.py           writes all of them
    python tools/generate_docs.py --check   writes nothing; exit code 1 where one of them is not what the code gives

The commands come from the typer application, the tree from the first lines of module docstrings, the gallery and its
table from what was measured on the checkpoint that ships. This file knows nothing of the hand-written pages.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
COMMANDS, README, GALLERY = "docs/commands.md", "README.md", "docs/gallery.md"
PLACE = "<!-- {0}: written by tools/generate_docs.py -->", "<!-- end of {0} -->"

FOLDERS = {
    "src/t2l": "",
    "src/t2l/assets": "The checkpoint that ships",
    "tests": "test_<module>.py for each module, and test_architecture.py, which reads the imports",
    "lab": "",
    "lab/assets": "The micro world's base and a checkpoint for it, which the tests use",
    "lab/recipes": "Recipes of the laboratory",
    "lab/world": "The micro world: operations, answer styles, wordings, and how its base is pretrained",
    "benchmarks": "",
    "tools": "",
    "docs": "Quickstart, concepts, checkpoints, runtimes, commands, results, and a dated log",
}
"""The folders of the tree. Those without a line of their own list their modules."""
TYPES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


def pages(root: Path = ROOT) -> dict[str, str]:
    """Path below ``root`` -> what should stand there."""
    from t2l.demo import gallery

    measured = gallery.shipped_record()
    readme = _put((root / README).read_text(encoding="utf-8"), "tree", f"```\n{tree(root)}```\n")
    pages = {COMMANDS: commands_page()}
    if measured is not None:
        readme = _put(readme, "gallery", gallery.summary(measured))
        pages[GALLERY] = gallery.page(measured)
    return pages | {README: readme}


def _put(readme: str, name: str, text: str) -> str:
    """The README with a text in its place between two marks."""
    begin, end = (mark.format(name) for mark in PLACE)
    head, found, rest = readme.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{README} has no place for the {name}: {begin} ... {end}")
    return f"{head}{begin}\n\n{text}\n{end}{tail}"


def stale(root: Path = ROOT) -> list[str]:
    """The generated pages that are not what the code gives."""
    wanted = pages(root)
    return [name for name in wanted if not (root / name).is_file() or (root / name).read_text("utf-8") != wanted[name]]


# --- the commands -------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every verb with its arguments and options."""
    import typer

    from t2l.cli import app

    root = typer.main.get_command(app)
    parts = [
        "# Commands",
        "Written by `python tools/generate_docs.py` from the command line itself; do not edit. On a terminal, "
        "`t2l VERB --help` says the same.",
        *_section("t2l", root),
    ]
    for name, command in _verbs("t2l", root):
        parts += [f"## {name}", *_section(name, command)]
    return "\n\n".join(parts) + "\n"


def _verbs(above: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{above} {name}", command
            if hasattr(command, "commands"):
                yield from _verbs(f"{above} {name}", command)


def _section(name: str, command: Any) -> list[str]:
    hints = get_type_hints(command.callback) if command.callback else {}
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    is_group = hasattr(command, "commands")
    words = [name, *(["[OPTIONS]"] if options else []), *(_argument_word(argument) for argument in arguments)]
    parts = [(command.help or "").strip(), f"```\n{' '.join(words)}{' VERB ...' if is_group else ''}\n```"]
    if is_group:
        rows = [[f"`{verb}`", _text((inner.help or "").splitlines()[0])] for verb, inner in command.commands.items()]
        parts.append(_table(["verb", ""], rows))
    if arguments:
        rows = [[f"`{_argument_word(argument)}`", _text(argument.help)] for argument in arguments]
        parts.append(_table(["argument", ""], rows))
    if options:
        rows = [[_option_words(option, hints), _text(option.help), _default(option)] for option in options]
        parts.append(_table(["option", "", "default"], rows))
    return parts


def _argument_word(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required or word.startswith("[") else f"[{word}]"


def _option_words(option: Any, hints: dict[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} `{option.metavar or _value_word(hints.get(option.name))}`"


def _value_word(hint: Any) -> str:
    """What stands for an option's value: the choices of an Enum, else the type."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    kind = kinds[0] if kinds else str
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(member.value) for member in kind)
    return TYPES.get(kind, "TEXT")


def _default(option: Any) -> str:
    value = option.default
    if option.is_flag:
        return f"`{option.opts[0]}`" if value is True else ""
    if callable(value) or value in (None, ()):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _text(help_text: str | None) -> str:
    return " ".join((help_text or "").split())


# --- the tree -----------------------------------------------------------------------------------------------------


def tree(root: Path = ROOT) -> str:
    """The folders of the repository, a line a module: its name and the first line of its docstring."""
    lines: list[tuple[str, str]] = []
    for folder in ("src/t2l", *(name for name in FOLDERS if "/" not in name)):
        if (root / folder).is_dir():
            lines += _folder(root, folder, depth=0)
    width = max(len(name) for name, _ in lines) + 2
    return "".join(f"{name.ljust(width)}{text}".rstrip() + "\n" for name, text in lines)


def _folder(root: Path, folder: str, depth: int) -> Iterator[tuple[str, str]]:
    path, indent = root / folder, "  " * depth
    name = folder if depth == 0 else path.name
    own = FOLDERS.get(folder, "") or (first_line(path / "__init__.py") if (path / "__init__.py").is_file() else "")
    yield f"{indent}{name}/", own
    if FOLDERS.get(folder):
        return
    for module in sorted(path.glob("*.py")):
        if module.name != "__init__.py":
            yield f"{indent}  {module.name}", first_line(module)
    for inner in sorted(path.iterdir()):
        below = f"{folder}/{inner.name}"
        if inner.is_dir() and ((inner / "__init__.py").is_file() or below in FOLDERS):
            yield from _folder(root, below, depth + 1)


def first_line(module: Path) -> str:
    """The first line of a module's docstring, without reST marks and the final full stop."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return (text.splitlines() or [""])[0].replace("``", "").replace("`", "").removesuffix(".")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    if parser.parse_args().check:
        if names := stale():
            sys.exit(f"{' and '.join(names)}: not what the code gives. Run: python tools/generate_docs.py")
        return
    for name, text in pages().items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
