"""The tiny Llama of the embedded world: its character tokenizer, its shape, and how it is pretrained.

It is trained from scratch on runs of examples of one task at a time (``input>output`` lines), never on a description:
it learns every skill and learns in context, but without examples it cannot know which task is meant. This file knows
micro-tasks as sources of examples; it does not know descriptions, hypernetworks or adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.storage import read_json, write_json
from t2l.training.batches import IGNORED

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

SEPARATOR = ">"
PAD, BOS, UNKNOWN, EOS = "<pad>", "<s>", "<unk>", "\n"
CHARACTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = [PAD, BOS, UNKNOWN, EOS, *CHARACTERS]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ message['content'] }}" + SEPARATOR + "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
_ID_OF_BYTE = np.full(256, VOCABULARY.index(UNKNOWN), dtype=np.int64)
for _index, _character in enumerate(VOCABULARY):
    if len(_character) == 1:
        _ID_OF_BYTE[ord(_character)] = _index
_BOS_ID = VOCABULARY.index(BOS)
RUN_LENGTHS = (40, 80, 120, 160, 200)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A Hugging Face tokenizer with one token a printable ASCII character; the newline ends an answer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # pyright: ignore
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"{BOS} $A", special_tokens=[(BOS, _BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(folder: Path) -> None:
    """Writes the tokenizer's files, under the class name that transformers 4 and 5 both know."""
    build_tokenizer().save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    write_json(config, {**read_json(config, T2LError), "tokenizer_class": "PreTrainedTokenizerFast"})


def base_config() -> LlamaConfig:
    """The shape: Llama, 4 layers, width 256, 4 heads, about 3.2 million parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=_BOS_ID,
        eos_token_id=VOCABULARY.index(EOS),
        pad_token_id=VOCABULARY.index(PAD),
    )


def encode_runs(runs: Sequence[Sequence[tuple[str, str]]]) -> tuple[Tensor, Tensor]:
    """Token ids and labels of runs of examples, one run a row, right-padded.

    Returns:
        ids_NT and labels_NT; labels are the ids on answers and their ends, -100 elsewhere (inputs are not predicted).
    """
    rows = []
    for run in runs:
        ids, labels = [_BOS_ID], [IGNORED]
        for question, answer in run:
            asked = _ids(question + SEPARATOR)
            said = _ids(answer + EOS)
            ids += asked + said
            labels += [IGNORED] * len(asked) + said
        rows.append((ids, labels))
    width = max(len(ids) for ids, _ in rows)
    ids_NT = torch.full((len(rows), width), VOCABULARY.index(PAD))
    labels_NT = torch.full((len(rows), width), IGNORED)
    for index, (ids, labels) in enumerate(rows):
        ids_NT[index, : len(ids)] = torch.tensor(ids)
        labels_NT[index, : len(labels)] = torch.tensor(labels)
    return ids_NT, labels_NT


def decode_run(ids_T: Tensor) -> tuple[str, str]:
    """The (input, answer) of a row that `encode_runs` made of one example."""
    text = "".join(VOCABULARY[index] for index in ids_T.tolist() if index not in (_BOS_ID, VOCABULARY.index(PAD)))
    question, _, answer = text.removesuffix(EOS).partition(SEPARATOR)
    return question, answer


def few_shot_batch(
    rng: Random, new_run: Callable[[Random], Iterator[tuple[str, str]]], tokens: int
) -> tuple[Tensor, Tensor]:
    """A pretraining batch of about ``tokens`` tokens: each row a run of examples of one task, up to a common length.

    Args:
        new_run: starts an endless stream of examples of some task.
    """
    budget = rng.choice(RUN_LENGTHS)
    runs = []
    for _ in range(max(1, tokens // budget)):
        run, length = [], 1
        for question, answer in new_run(rng):
            length += len(question) + len(answer) + 2
            if run and length > budget:
                break
            run.append((question, answer))
        runs.append(run)
    return encode_runs(runs)


def _ids(text: str) -> list[int]:
    return _ID_OF_BYTE[np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)].tolist()
