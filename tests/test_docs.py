"""The docs say what is so: generated pages, Python blocks, command lines, links and the micro world's numbers."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = ROOT / "tools" / "generate_docs.py"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "lab" / "README.md"])
HAND_WRITTEN = [
    page for page in PAGES if page.name not in ("commands.md", "results.md", "descriptions.md", "CHANGELOG.md")
]


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind the fence, its text, and the line it begins at."""

    language: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    fence, begun, lines = None, 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"(`{3,})(.*)", line)
        if fence is None and mark:
            fence, language, begun, lines = mark[1], mark[2].strip(), number + 1, []
        elif fence is not None and line.strip() == fence:
            yield Block(language, "\n".join(lines), begun)
            fence = None
        elif fence is not None:
            lines.append(line)


def without_blocks(text: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)


# --- generated pages ----------------------------------------------------------------------------------------------


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_docs", GENERATOR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_docs_are_what_the_code_gives() -> None:
    assert generator().stale() == [], "run: python tools/generate_docs.py"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository without its tensors, its generated docs up to date."""
    leave = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for folder in ("src", "docs", "tests", "tools", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    shutil.copy(ROOT / "README.md", tmp_path)
    for name, text in generator().pages(tmp_path).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_stale_page_is_seen(copy: Path) -> None:
    stale = generator().stale
    assert stale(copy) == []
    (copy / "src/t2l/surprise.py").write_text('"""A new file."""\n')
    assert stale(copy) == ["README.md"]
    (copy / "src/t2l/surprise.py").unlink()
    module = copy / "src/t2l/lora.py"
    module.write_text(module.read_text().replace('"""', '"""New words. ', 1))
    assert stale(copy) == ["README.md"]
    commands = copy / "docs/commands.md"
    commands.write_text(commands.read_text().replace("--checkpoint", "--chekpoint"))
    assert stale(copy) == ["docs/commands.md", "README.md"]
    commands.unlink()
    assert stale(copy) == ["docs/commands.md", "README.md"]


def test_check_says_what_to_run_and_writes_nothing(copy: Path) -> None:
    page = copy / "docs" / "commands.md"

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(copy / "tools" / "generate_docs.py"), "--check"]
        environment = {"PYTHONPATH": str(copy / "src")}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    assert check().returncode == 0
    page.write_text("old")
    done = check()
    assert done.returncode == 1
    assert done.stderr == "docs/commands.md: not what the code gives. Run: python tools/generate_docs.py\n"
    assert page.read_text() == "old"


# --- Python blocks ------------------------------------------------------------------------------------------------


def python_blocks(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(page.read_text(encoding="utf-8")) if block.language == language]


@pytest.fixture
def as_shipped(smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader has: the checkpoint that ships, and its base converted."""
    monkeypatch.setenv("T2L_CACHE", str(smollm2_cache))
    monkeypatch.delenv("T2L_CHECKPOINT")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("page", [page for page in HAND_WRITTEN if python_blocks(page, "python")], ids=relative)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page, "python"):
        code = "\n" * (block.line - 1) + block.text  # so that a traceback has the page's line numbers
        exec(compile(code, str(page), "exec"), names)


def test_the_pages_that_must_have_python_blocks_have_them() -> None:
    for name in ("README.md", "docs/quickstart.md"):
        assert python_blocks(ROOT / name, "python"), name


@pytest.mark.parametrize(
    "page", [page for page in HAND_WRITTEN if python_blocks(page, "python download")], ids=relative
)
def test_python_blocks_that_need_a_download_import_what_exists(page: Path) -> None:
    """They cannot run here; their imports and the keywords of our own calls can be checked."""
    for block in python_blocks(page, "python download"):
        imported: dict[str, Any] = {}
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
                known = imported[node.func.id].__init__.__code__.co_varnames
                assert {word.arg for word in node.keywords if word.arg} <= set(known), ast.unparse(node)


# --- command lines ------------------------------------------------------------------------------------------------


def command_lines(page: Path) -> list[str]:
    """Every ``t2l ...`` line of a page's shell blocks, without what stands before and behind it."""
    found = []
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("|") if "|" in words else len(words)
                part, words = words[:end], words[end + 1 :]
                while part and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", part[0]):
                    part = part[1:]
                if part[:1] == ["t2l"]:
                    found.append(shlex.join(part[1:]))
    return found


def inline_commands(page: Path) -> list[str]:
    """Every `t2l ...` in running text."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    return [match[1].strip() for match in re.finditer(r"`t2l ([^`]+)`", text)]


def resolve(words: list[str]) -> tuple[str, Any, list[str]]:
    """The verb that the words name, and the words behind it; `LookupError` where there is no such verb."""
    import typer

    from t2l.cli import app

    name, command = "t2l", typer.main.get_command(app)
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    while hasattr(command, "commands"):
        if not words:
            return name, command, words
        if words[0].startswith("-"):
            if words[0] not in options:
                raise LookupError(f"{name} has no option {words[0]}")
            words = words[1:]
            continue
        if words[0] == "VERB":
            return name, command, []
        if words[0] not in command.commands:
            raise LookupError(f"{name} has no verb {words[0]}")
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    return name, command, words


def parse(line: str) -> None:
    """Parses a whole command line as the command would, without running it."""
    name, command, words = resolve(shlex.split(line))
    if not hasattr(command, "commands"):
        command.make_context(name, words)


@pytest.mark.parametrize(("page", "line"), [(relative(page), line) for page in PAGES for line in command_lines(page)])
def test_command_lines_parse(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(("page", "line"), [(relative(page), line) for page in PAGES for line in inline_commands(page)])
def test_commands_in_running_text_exist(page: str, line: str) -> None:
    _, command, words = resolve(shlex.split(line))
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
    assert not unknown


def test_there_are_command_lines_to_check() -> None:
    assert len(command_lines(ROOT / "README.md")) >= 4
    assert "generate --file - --json" in command_lines(ROOT / "docs" / "quickstart.md")  # behind a pipe
    assert any(line.startswith("generate 'Say whether") for line in command_lines(ROOT / "README.md"))


@pytest.mark.parametrize("line", ["generat x", "generate x --outt y", "data shwo", "import SOURCE", "demo --seed many"])
def test_a_wrong_command_line_is_seen(line: str) -> None:
    with pytest.raises(Exception) as caught:
        parse(line)
    assert isinstance(caught.value, LookupError) or "UsageError" in {
        kind.__name__ for kind in type(caught.value).__mro__
    }


def test_the_commands_that_the_demo_recommends_parse() -> None:
    from t2l.demo.show import NEXT

    for command, _ in NEXT:
        words = shlex.split(command)
        assert words[0] == "t2l"
        parse(shlex.join(words[1:]))


def test_the_walks_through_the_house_name_what_there_is() -> None:
    """Each row's names are defined in its files, or in one that the row names."""
    rows = re.findall(
        r"^\| (`[\w/]+\.py`.*?) \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert len(rows) > 20
    for files, step in rows:
        places = re.findall(r"`([\w/]+\.py)`", files + step)
        missing = [name for name in places if not (ROOT / "src/t2l" / name).is_file()]
        assert not missing, f"{missing} are gone: CONTRIBUTING's walks go another way now"
        text = "".join((ROOT / "src/t2l" / name).read_text(encoding="utf-8") for name in places)
        for name in re.findall(r"`([A-Za-z]\w+(?:\.\w+)?)`", step):
            kind, _, method = name.partition(".")
            if not name.endswith(".py") and name not in ("embedding_NE", "LoraWeights", "t2l.json", "Guide.assess"):
                assert re.search(rf"^(?:class|def) {kind}\b", text, flags=re.MULTILINE), (files, name)
                assert not method or re.search(rf"^    def {method}\b", text, flags=re.MULTILINE), (files, name)


# --- links and numbers --------------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "x", without_blocks(page.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_internal_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{relative(page)}: {broken}"


def test_the_readme_shows_its_picture_and_the_pages() -> None:
    assert {"docs/images/demo.svg", "docs/results.md", "docs/log.md"} <= set(links(ROOT / "README.md"))


def test_the_numbers_of_the_worlds_page() -> None:
    from lab.world.styles import STYLES
    from lab.world.tasks import OPERATIONS, all_tasks

    text = (ROOT / "lab" / "README.md").read_text(encoding="utf-8")
    for split, count in Counter(task.split for task in all_tasks()).items():
        assert f"| {split} | {count} |" in text, (split, count)
    for family, count in Counter(operation.family for operation in OPERATIONS.values()).items():
        assert f"| {family} | {count} |" in text, (family, count)
    assert f"{len(OPERATIONS)} operations" in text
    assert len(STYLES) == 9 and "nine styles" in text


def test_no_page_names_a_place_on_the_machine_it_was_written_on() -> None:
    for page in [*PAGES, *(ROOT / "docs" / "images").glob("*.svg")]:
        found = re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users)/[\w./-]*", page.read_text(encoding="utf-8"))
        assert not found, (relative(page), found)


def test_no_page_reads_data_from_beside_the_repository() -> None:
    """A reader has the repository or the package, and nothing beside it."""
    assert not [relative(page) for page in PAGES if re.search(r"\.\./shared|shared/data", page.read_text("utf-8"))]
