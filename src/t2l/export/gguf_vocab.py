"""A Hugging Face tokenizer as the llama.cpp tokenizer that splits text alike, or a refusal where there is none.

Level 5. llama.cpp builds tokenizers from a kind (``tokenizer.ggml.model``) and tables. Three kinds come through:

- byte-level BPE (Llama 3, SmolLM, GPT-2) as ``gpt2``: the merges are copied; how text is cut beforehand is a name out
  of llama.cpp's list, so a tokenizer that cuts in a way not on it is refused.
- SentencePiece-like BPE with byte fallback (Llama 2, Mistral) as ``llama``: it merges by the score of the outcome,
  so each token gets the place of its first merge as a (negative) score.
- one token a character (the micro base of the laboratory) as ``t5``: a unigram model of single characters alone finds
  them one by one. It differs in one thing: a run of several unknown characters becomes one ``<unk>``, where the
  original gives one for each. As ``llama`` an unknown character would stop the process, as ``gpt2`` it would vanish.

This file knows tokenizers; it writes no files and reads none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2l.errors import BaseModelError
from t2l.export.gguf_names import require_gguf

SPACE = "\u2581"  # how SentencePiece, and llama.cpp after it, writes a space
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUTS = {  # (pattern, whether merges are ignored for whole words) -> llama.cpp's name
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_CONTRACTIONS + r"\p{N}" + _REST, False): "qwen2",
}
_FIX = "Export --to merged and use llama.cpp's convert_hf_to_gguf.py, which may know it."


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp is told about a tokenizer.

    Args:
        model: ``tokenizer.ggml.model``.
        pre: how text is cut beforehand.
        tokens: the texts by id, filled up to the rows of the embedding.
        types: ``gguf.TokenType`` of each.
        scores: of each, where the kind has them.
        merges: of byte-level BPE.
        special: ``bos``, ``eos``, ``unk``, ``pad`` -> id.
        add_bos: a text begins with the bos token.
        add_eos: a text ends with the eos token.
        space_first: a space is put before the text.
        chat_template: Jinja source.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...] | None
    special: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    space_first: bool
    chat_template: str | None

    def write(self, writer: Any) -> None:
        """Adds the keys to a ``gguf.GGUFWriter``."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        if self.merges is not None:
            writer.add_token_merges(list(self.merges))
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.space_first)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """llama.cpp's form of a fast tokenizer.

    Args:
        size: rows of the embedding; ids without a token are filled with unused ones.

    Raises:
        BaseModelError: llama.cpp has no tokenizer that splits text alike, or none that is known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BaseModelError("The base's tokenizer has no tokenizer.json, so it cannot be written as GGUF.", _FIX)
    described = json.loads(backend.to_str())
    model = described["model"]
    cut = _parts(described.get("pre_tokenizer"), "pretokenizers")
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if max(vocabulary.values()) >= size:
        raise BaseModelError(f"The tokenizer has token {max(vocabulary.values())}, the model {size} rows.")
    if model["type"] == "WordLevel" and _by_character(vocabulary, described["added_tokens"], cut):
        return _characters(tokenizer, described, size)
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return _sentencepiece(tokenizer, described, size)
    if model["type"] == "BPE" and any(part["type"] == "ByteLevel" for part in cut):
        return _byte_level(tokenizer, described, cut, size)
    raise BaseModelError(f"llama.cpp has no tokenizer like this base's ({model['type']}) that t2l could write.", _FIX)


def _byte_level(tokenizer: Any, described: dict[str, Any], cut: list[dict[str, Any]], size: int) -> Vocabulary:
    pre = _name_of_cut(cut, bool(described["model"].get("ignore_merges")))
    tokens, types = _tables(tokenizer, described, size)
    return _finished(
        tokenizer, "gpt2", pre, tokens, types, merges=tuple(_merges(described)), space_first=_space_first(described)
    )


def _sentencepiece(tokenizer: Any, described: dict[str, Any], size: int) -> Vocabulary:
    gguf = require_gguf()
    tokens, types = _tables(tokenizer, described, size)
    first: dict[str, int] = {}
    for place, (left, right) in enumerate(_pairs(described)):
        first.setdefault(left + right, place)
    worst = float(len(first) + 1)
    scores = tuple(-float(first[token]) if token in first else -worst for token in tokens)
    for index, token in enumerate(tokens):
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            types[index] = int(gguf.TokenType.BYTE)
    return _finished(tokenizer, "llama", "default", tokens, types, scores=scores, space_first=_space_first(described))


def _characters(tokenizer: Any, described: dict[str, Any], size: int) -> Vocabulary:
    gguf = require_gguf()
    tokens, types = _tables(tokenizer, described, size)
    for index, token in enumerate(tokens):
        if token == " ":
            tokens[index] = SPACE
        elif len(token) == 1 and types[index] == gguf.TokenType.CONTROL:  # a character that is special, such as "\n"
            types[index] = int(gguf.TokenType.USER_DEFINED)  # is found in any text, as the original finds it
    return _finished(tokenizer, "t5", "default", tokens, types, scores=(0.0,) * size, space_first=False)


def _finished(
    tokenizer: Any,
    model: str,
    pre: str,
    tokens: Sequence[str],
    types: Sequence[int],
    *,
    scores: tuple[float, ...] | None = None,
    merges: tuple[str, ...] | None = None,
    space_first: bool,
) -> Vocabulary:
    special = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "pad")}
    with_special = list(tokenizer("a")["input_ids"])
    template = getattr(tokenizer, "chat_template", None)
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tuple(tokens),
        types=tuple(types),
        scores=scores,
        merges=merges,
        special={name: int(token) for name, token in special.items() if token is not None},
        add_bos=special["bos"] is not None and with_special[0] == special["bos"],
        add_eos=special["eos"] is not None and with_special[-1] == special["eos"],
        space_first=space_first,
        chat_template=template if isinstance(template, str) else None,
    )


def _tables(tokenizer: Any, described: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Token texts and types by id: special ones are control tokens, other added ones user-defined."""
    kinds = require_gguf().TokenType
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [int(kinds.UNUSED)] * size
    for token, index in tokenizer.get_vocab().items():
        tokens[index], types[index] = token, int(kinds.NORMAL)
    for added in described["added_tokens"]:
        kind = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    unknown = tokenizer.unk_token_id
    if unknown is not None:
        types[unknown] = int(kinds.UNKNOWN)
    return tokens, types


def _by_character(vocabulary: Mapping[str, int], added: Sequence[dict[str, Any]], cut: list[dict[str, Any]]) -> bool:
    """Whether every token is one character, or special, and text is cut between all characters."""
    special = {token["content"] for token in added}
    alone = len(cut) == 1 and cut[0]["type"] == "Split" and cut[0]["behavior"] == "Isolated" and not cut[0]["invert"]
    everywhere = alone and cut[0]["pattern"] == {"Regex": r"[\s\S]"}
    return everywhere and SPACE not in vocabulary and all(len(t) == 1 or t in special for t in vocabulary)


def _name_of_cut(cut: list[dict[str, Any]], ignore_merges: bool) -> str:
    """llama.cpp's name for the way in which text is cut before byte-level BPE."""
    kinds = [part["type"] for part in cut]
    level = cut[-1]
    if kinds == ["ByteLevel"] and level.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and cut[0]["individual_digits"] and level.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not level.get("use_regex", True):
        split = cut[0]
        plain = split["behavior"] == "Isolated" and not split["invert"]
        name = _CUTS.get((split["pattern"].get("Regex", ""), ignore_merges)) if plain else None
        if name is not None:
            return name
    raise BaseModelError("The base's tokenizer cuts text in a way that t2l does not find in llama.cpp's list.", _FIX)


def _parts(described: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, a sequence taken apart."""
    if described is None:
        return []
    return list(described[inside]) if described["type"] == "Sequence" else [described]


def _space_first(described: dict[str, Any]) -> bool:
    """Whether a text is tokenized as if a space stood before it."""
    steps = _parts(described.get("normalizer"), "normalizers") + _parts(described.get("pre_tokenizer"), "pretokenizers")
    return any(
        step["type"] == "Prepend"
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        or (step["type"] == "ByteLevel" and step.get("add_prefix_space", False))
        for step in steps
    )


def _pairs(described: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges as pairs; older files have them as one text with a space between."""
    pairs = []
    for merge in described["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        pairs.append((left, right))
    return pairs


def _merges(described: dict[str, Any]) -> list[str]:
    return [f"{left} {right}" for left, right in _pairs(described)]
