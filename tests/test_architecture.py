"""The house stands as drawn: import levels, no cycles, small documented modules, light imports, no unsafe loading."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# A room of t2l (a module or a package directly below it) imports rooms of its own or a lower level; cycles are caught.
LEVELS = {
    **dict.fromkeys(
        [
            *("errors", "hub", "base_structure", "storage", "threads", "gguf_base", "base_names", "prompting"),
            *("records", "charts"),
            *("lora", "features", "heads", "site_attention"),
        ],
        0,
    ),
    **dict.fromkeys(
        [
            *("adapter", "model_cards", "peft_format", "batched", "bases", "encoders", "hypernet"),
        ],
        1,
    ),
    **dict.fromkeys(["model", "reference", "composition", "library"], 2),
    **dict.fromkeys(["compiled", "data", "inspection", "recipes"], 3),
    **dict.fromkeys(["training", "comparison"], 4),
    **dict.fromkeys(["baselines", "evaluation", "guidance", "serving", "export"], 5),
    # "" is t2l/__init__.py, the face: it may show anything, and nothing inside reads it
    **dict.fromkeys(["workbench", "demo", "commands", "cli", "__main__", ""], 6),
}
CORE_LEVEL = 2
NO_TRAINING = {"serving", "evaluation", "export", "guidance", "baselines"}  # a server needs no training code
HEAVY = {
    "transformers",
    "peft",
    "sentence_transformers",
    "huggingface_hub",
    "matplotlib",
    "accelerate",
    "fastapi",
    "uvicorn",
    "gradio",
}
MAX_LINES = 500


def modules(source: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below ``source``."""
    found = {}
    for path in sorted((source / "t2l").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(name: str) -> str:
    """``"t2l.encoders.minilm"`` -> ``"encoders"``; the package itself is the room without a name."""
    return name.split(".")[1] if "." in name else ""


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, module of t2l) for every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "t2l")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "t2l.(relative)"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "t2l":
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield node.lineno, submodule if submodule in known else str(node.module)


def level_problems(source: Path) -> list[str]:
    known, problems = modules(source), []
    for name, path in known.items():
        if room(name) not in LEVELS:
            problems.append(f"{name} has no level: draw it into LEVELS and into the README's tree")
            continue
        for line, imported in imports(path, known):
            where = f"{path.relative_to(source)}:{line} imports {imported}"
            if imported not in known:
                problems.append(f"{where}, which does not exist; imports are absolute")
            elif LEVELS.get(room(imported), 0) > LEVELS[room(name)]:
                problems.append(f"{where}: level {LEVELS[room(name)]} may not know a higher one")
    return problems


def files_imported(source: Path) -> dict[str, set[str]]:
    """Module -> the modules that it imports, inside functions too."""
    known = modules(source)
    return {name: {file for _, file in imports(path, known) if file in known} for name, path in known.items()}


def cycles(source: Path) -> list[str]:
    """Import cycles between rooms, which levels alone would allow on one floor, and between files."""
    files = files_imported(source)
    rooms: dict[str, set[str]] = {}
    for name, imported in files.items():
        rooms.setdefault(room(name), set()).update({room(file) for file in imported} - {room(name)})
    return [" -> ".join(trail) for edges in (rooms, files) for trail in _cycles(edges)]


def _cycles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """The shortest cycle through each node, told at its first node alone."""
    for start in sorted(edges):
        came_from, waiting = dict.fromkeys(edges[start], start), sorted(edges[start])
        while waiting and start not in came_from:
            name = waiting.pop(0)
            for following in sorted(edges.get(name, set()) - set(came_from)):
                came_from[following] = name
                waiting.append(following)
        if start in came_from:
            trail = [start, came_from[start]]
            while trail[-1] != start:
                trail.append(came_from[trail[-1]])
            if start == min(trail):
                yield trail[::-1]


def hidden_training(source: Path) -> list[str]:
    """Rooms that never need training code and yet import it through other files."""
    edges, problems = files_imported(source), []
    for start in edges:
        if room(start) not in NO_TRAINING:
            continue
        trails = [[start]]
        seen = {start}
        while trails:
            trail = trails.pop(0)
            if room(trail[-1]) == "training":
                problems.append(f"{' -> '.join(trail)}: {room(start)} never needs training code")
                break
            for following in sorted(edges.get(trail[-1], set()) - seen):
                seen.add(following)
                trails.append([*trail, following])
    return problems


def type_names(tree: ast.Module) -> Iterator[str]:
    """Names of classes and of type aliases (``Split = Literal[...]``) that a module defines for others."""
    for node in tree.body:
        name = ""
        if isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
            yield name


def doubled_types(source: Path) -> list[str]:
    """Types of one name in two modules: a name means one thing in the whole package."""
    owners: dict[str, list[str]] = {}
    for module, path in modules(source).items():
        for name in type_names(ast.parse(path.read_text(encoding="utf-8"))):
            owners.setdefault(name, []).append(module)
    return [f"{name} is defined in {' and '.join(where)}" for name, where in owners.items() if len(where) > 1]


def room_problems(source: Path) -> list[str]:
    problems = []
    for name, path in modules(source).items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if not ast.get_docstring(tree):
            problems.append(f"{name}: no docstring that says what the module does")
        if path.stem in {"utils", "util", "helpers", "misc", "common"}:
            problems.append(f"{name}: a helper lives with its one user or gets a name")
        if (lines := text.count("\n")) > MAX_LINES:
            problems.append(f"{name}: {lines} lines, over {MAX_LINES}; two rooms would be clearer")
        if not (path.parent / "__init__.py").is_file():
            problems.append(f"{name}: its folder has no __init__.py, so an installed t2l would lack it")
    return problems


def safety_problems(source: Path) -> list[str]:
    """Pickles, ``torch.load`` without ``weights_only=True``, remote code switched on, state in module globals."""
    problems = []
    for name, path in modules(source).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Global):
                problems.append(f"{where}: a global statement")
            if isinstance(node, ast.Import) and {alias.name for alias in node.names} & {"pickle", "dill", "joblib"}:
                problems.append(f"{where}: imports a pickler")
            if not isinstance(node, ast.Call):
                continue
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True":
                problems.append(f"{where}: torch.load without weights_only=True")
            if given.get("trust_remote_code") == "True":
                problems.append(f"{where}: runs remote code unasked")
        for node in tree.body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Dict | ast.List) and not ast.unparse(value).strip("{}[]"):
                problems.append(f"{name}:{node.lineno}: an empty container as module global is state")
    return problems


CHECKS = [level_problems, cycles, hidden_training, doubled_types, room_problems, safety_problems]


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_stands(check) -> None:
    problems = check(SOURCE)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("check", "file", "text", "problem"),
    [
        (level_problems, "lora.py", "from t2l.model import TextToLora", "may not know a higher one"),
        (level_problems, "lora.py", "def f():\n    import t2l.model", "may not know a higher one"),
        (level_problems, "lora.py", "from t2l import model", "may not know a higher one"),
        (hidden_training, "serving/engine.py", "import t2l.training", "engine -> t2l.training: serving never"),
        (hidden_training, "serving/engine.py", "def f():\n    import t2l.loan", "loan -> t2l.training: serving never"),
        (level_problems, "surprise.py", "", "has no level"),
        (level_problems, "lora.py", "from . import errors", "imports are absolute"),
        (cycles, "reference.py", "import t2l.model", "model -> reference -> model"),
        (cycles, "serving/b.py", "def f():\n    import t2l.serving.a", "serving.a -> t2l.serving.b -> t2l.serving.a"),
        (doubled_types, "lora.py", "class Loan: ...", "Loan is defined in t2l.loan and t2l.lora"),
        (doubled_types, "lora.py", "Loan = dict[str, int]", "Loan is defined in t2l.loan and t2l.lora"),
        (room_problems, "lora.py", "x = 1", "no docstring"),
        (room_problems, "utils.py", '"""Things."""', "gets a name"),
        (room_problems, "lora.py", '"""Long."""' + "\n" * 501, "501 lines"),
        (room_problems, "demo/deep/a.py", '"""A."""', "no __init__.py"),
        (safety_problems, "lora.py", "import torch\ntorch.load('x')", "weights_only"),
        (safety_problems, "lora.py", "f(trust_remote_code=True)", "remote code"),
        (safety_problems, "lora.py", "import pickle", "pickler"),
        (safety_problems, "lora.py", "cache: dict = {}", "state"),
        (safety_problems, "lora.py", "def f():\n    global x", "global"),
    ],
)
def test_a_breach_is_seen(check, file: str, text: str, problem: str, tmp_path: Path) -> None:
    files = {
        **dict.fromkeys(("__init__.py", "reference.py", "training/__init__.py", "serving/b.py"), ""),
        "model.py": "import t2l.reference",
        "serving/a.py": "import t2l.serving.b",
        "loan.py": "import t2l.training\n\nclass Loan: ...",
    }
    for name, content in (files | {file: text}).items():
        path = tmp_path / "t2l" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = check(tmp_path)
    assert any(problem in line for line in found), found


def test_the_core_imports_no_heavy_library() -> None:
    core = [name for name in modules(SOURCE) if LEVELS.get(room(name), 99) <= CORE_LEVEL]
    assert len(core) > 5
    program = f"""
import importlib, sys
for name in {core!r}:
    importlib.import_module(name)
    heavy = {HEAVY!r} & set(sys.modules)
    if heavy:
        sys.exit(f"import {{name}} brings in {{sorted(heavy)}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_no_function_of_a_command_has_more_than_80_lines() -> None:
    found = [
        f"{path.name}: {node.name}"
        for path in sorted((SOURCE / "t2l" / "commands").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 80
    ]
    assert not found
