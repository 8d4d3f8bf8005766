"""An adapter is its description's alone: bit for bit the same made alone, among others, by a server, in any threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from helpers import fill, save_tiny_llama, tiny_llama, tiny_pair, untrained
from live_server import live
from t2l import cli
from t2l.adapter import Adapter
from t2l.encoders import CachedEncoder, EmbeddingCache, MiniLmEncoder
from t2l.encoders.encoder import embed_alone
from t2l.encoders.token_states import TokenStatesEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.serving.engine import Engine, Limits
from t2l.threads import threads

WORDS = "Give the last word in capital letters then add three to it and answer with yes or no in French"
OURS = "Give the last word in capital letters."
OTHERS = [WORDS[: 12 + 5 * (n % 17)].strip() + f" {n}" for n in range(63)]


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    """As outside of tests; what is exact in one thread alone would not be noticed."""
    with threads(2):
        yield


@pytest.fixture(scope="module", params=["L", "M", "S", "T"])
def t2l(request: Any, tmp_path_factory: pytest.TempPathFactory) -> TextToLora:
    spec = LoraSpec.from_base(tiny_llama().config, rank=2)
    sizes: dict[str, Any] = {"trunk_dim": 32, "head_dim": 48, "head_init": "linear"}
    encoder: Any = MiniLmEncoder()
    if request.param == "T":  # reads the states of words, as many as the longest text of a call has
        folder = save_tiny_llama(tmp_path_factory.mktemp("base"))
        encoder = TokenStatesEncoder(str(folder), [0, 2], window=256, dtype="float32")
        assert encoder.ragged and not encoder.exact
        sizes = {"trunk_dim": 64, "head_dim": 8, "task_encoder": "tokens", "token_dim": encoder.token_dim}
    network: Any = HyperNetwork(spec, encoder.dim, request.param, **sizes)
    return TextToLora(encoder, fill(network.eval(), std=0.1) if request.param == "T" else network)


def test_alone_and_among_others_it_is_the_same(t2l: TextToLora) -> None:
    (alone,) = t2l.generate([OURS])
    for company in (2, 8, 64):
        for place in (0, company // 2, company - 1):
            texts = OTHERS[: company - 1]
            texts.insert(place, OURS)
            if company == 64 and place:
                continue
            assert t2l.generate(texts)[place].digest == alone.digest, (company, place)
    with threads(1):
        assert t2l.generate([OURS])[0].digest == alone.digest


def test_the_server_and_the_command_make_the_same(t2l: TextToLora, tmp_path: Path) -> None:
    (alone,) = t2l.generate([OURS])
    t2l.save_pretrained(tmp_path / "checkpoint")
    runner = CliRunner()
    words = ["generate", OURS, "--checkpoint", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "a")]
    assert runner.invoke(cli.app, words).exit_code == 0
    (tmp_path / "many.txt").write_text("\n".join([*OTHERS[:7], OURS]))
    words = ["generate", "--file", str(tmp_path / "many.txt"), "--checkpoint", str(tmp_path / "checkpoint")]
    result = runner.invoke(cli.app, [*words, "--out", str(tmp_path / "many")])
    assert result.exit_code == 0, result.output
    engine = Engine(tiny_pair([OURS])[0], t2l, Limits(slots=2, context=64))
    with live(engine) as address, httpx.Client(base_url=address, timeout=60) as client:
        body = {"descriptions": [*OTHERS[:30], OURS, *OTHERS[30:]]}
        served = client.post("/v1/adapters", json=body).json()["data"][30]
        assert client.delete(f"/v1/adapters/{served['id']}").status_code == 200
        again = client.post("/v1/adapters", json={"description": OURS}).json()["data"][0]
    assert served["id"] == again["id"] == f"t2l-{alone.digest[:24]}"
    assert Adapter.load(tmp_path / "a").digest == alone.digest
    assert alone.digest in {Adapter.load(folder).digest for folder in (tmp_path / "many").iterdir()}


def test_a_cached_embedding_is_the_one_that_is_made_alone(tmp_path: Path) -> None:
    for pooling in ("mean", "layers"):
        encoder = MiniLmEncoder(pooling)
        cached = CachedEncoder(encoder, EmbeddingCache(tmp_path))
        together = cached.encode([*OTHERS[:9], OURS])
        assert torch.equal(together[-1:], encoder.encode([OURS])) and torch.equal(together[-1:], cached.encode([OURS]))


def test_the_encoder_gives_the_same_row_in_any_threads_and_company() -> None:
    encoder = MiniLmEncoder("layers")
    assert encoder.exact
    rows = torch.stack(embed_alone(encoder, OTHERS[:17]))
    for number in (1, 2, 3):
        with threads(number):
            assert torch.equal(encoder.embed(OTHERS[:17]), rows)
            assert torch.equal(encoder.embed(OTHERS[16:17]), rows[16:])


def test_an_encoder_that_is_not_exact_is_asked_one_by_one() -> None:
    class Company(MiniLmEncoder):
        """Its rows depend on how many they are."""

        exact = False

        def embed(self, texts: Any) -> torch.Tensor:
            return super().embed(texts) * (1 + len(texts) / 1000)

    t2l = untrained(tiny_llama().config, Company())
    (alone,) = t2l.generate([OURS])
    assert t2l.generate([*OTHERS[:5], OURS, OURS])[-1].digest == alone.digest
    t2l.encoder = CachedEncoder(Company())
    assert t2l.generate([*OTHERS[:5], OURS])[-1].digest == alone.digest


def test_another_process_with_other_threads_makes_the_same(tmp_path: Path) -> None:
    program = (
        "from t2l import TextToLora; import sys; print(TextToLora.from_pretrained().generate(sys.argv[1:])[0].digest)"
    )
    found = set()
    for number in ("1", "2"):
        given = {**os.environ, "OMP_NUM_THREADS": number, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        words = [sys.executable, "-c", program, OURS, *OTHERS[: int(number) * 3]]
        found.add(subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1
