"""Round trip through real llama.cpp: the exported base and adapter give the tokens that transformers and PEFT give.

llama.cpp comes from either of two packages, and each is skipped where it is not: llama-cpp-python (``pip install
llama-cpp-python`` compiles it), or node-llama-cpp, whose npm package brings it compiled (``npm install
node-llama-cpp`` in a folder, and ``T2L_NODE_LLAMA`` naming that folder).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import MICRO_BASE
from t2l.bases import load_base
from t2l.errors import T2LError
from t2l.export import export_adapter
from t2l.model import TextToLora

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
INPUTS = [
    "oslo, rome, paris", "one two three", "lima", "cairo delhi tokyo", "quito, sofia", "red blue green", "12 7 45",
    "a b c d", "minsk oslo", "Hello, World!", "  two  spaces", "x > y", "tokyo, tokyo", "42", "naïve ~ path",
    "rome-paris", "UPPER lower", "(a) [b] {c}", "lima cairo red 7", "end.",
]  # fmt: skip
COUNT = 24
Run = Callable[..., dict[str, Any]]


def with_python(model: Path, adapter: Path | None, texts: list[str], ids: list[list[int]], eos: int) -> dict[str, Any]:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = None if adapter is None else str(adapter)
    llama = llama_cpp.Llama(str(model), lora_path=path, n_ctx=512, n_threads=1, verbose=False)
    continuations = []
    for prompt in ids:
        found: list[int] = []
        for token in llama.generate(prompt, temp=0.0, top_k=1, reset=True):
            if token == eos or len(found) == COUNT:
                break
            found.append(token)
        continuations.append(found)
    tokens = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    llama.close()
    return {"tokens": tokens, "continuations": continuations}


def with_node(model: Path, adapter: Path | None, texts: list[str], ids: list[list[int]], eos: int) -> dict[str, Any]:
    if not os.environ.get("T2L_NODE_LLAMA") or shutil.which("node") is None:
        pytest.skip("needs node, and T2L_NODE_LLAMA naming a folder with node-llama-cpp in it")
    job = {"model": str(model), "adapter": adapter and str(adapter), "texts": texts, "ids": ids, "eos": eos}
    program = Path(__file__).with_name("run_llama.mjs")
    ended = subprocess.run(
        ["node", str(program)], input=json.dumps({**job, "count": COUNT}), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


def greedy(model: Any, prompt: list[int], eos: int) -> list[int]:
    """Token by token, without a cache: the plainest way there is."""
    found: list[int] = []
    with torch.inference_mode():
        while len(found) < COUNT:
            token = int(model(torch.tensor([prompt + found])).logits[0, -1].argmax())
            if token == eos:
                break
            found.append(token)
    return found


@pytest.mark.parametrize("run", [with_python, with_node])
def test_llama_cpp_gives_the_tokens_of_transformers(run: Run, tmp_path: Path) -> None:
    try:
        base = load_base(MICRO_BASE)
        (adapter,) = TextToLora.from_pretrained().generate(["Write the words in reverse order."])
    except T2LError as problem:
        pytest.skip(f"needs the assets of the embedded world: {problem.message}")
    plain = export_adapter(adapter, tmp_path / "base.gguf", "gguf-base")
    lora = export_adapter(adapter, tmp_path / "adapter.gguf", "gguf")
    merged = export_adapter(adapter, tmp_path / "merged.gguf", "gguf-merged")
    texts = [base.prompt(text) for text in INPUTS]
    ids = [list(base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    eos = int(base.tokenizer.eos_token_id)  # type: ignore[arg-type]
    found = run(plain, None, texts, ids, eos)
    assert found["tokens"] == ids
    expected = [greedy(base.model, prompt, eos) for prompt in ids]
    assert found["continuations"] == expected
    model = adapter.apply(base.model)
    adapted = [greedy(model, prompt, eos) for prompt in ids]
    assert sum(one != other for one, other in zip(expected, adapted, strict=True)) > 10
    assert run(plain, lora, texts, ids, eos)["continuations"] == adapted
    assert run(merged, None, texts, ids, eos)["continuations"] == adapted
