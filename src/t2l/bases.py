"""A base model in memory, ready to answer: loaded with transformers' logging silenced, prompted by its chat template.

Axis letters: S texts in a batch, T tokens.

Level 1. Answers may be given under per-sample adapters. This file does not know where adapters come from, what a task
is, or whether an answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from t2l.base_names import canonical_name, locate, not_loaded
from t2l.base_structure import auto_class, mend_buffers
from t2l.batched import apply_batched
from t2l.errors import BaseModelError, T2LError, did_you_mean
from t2l.gguf_base import quiet, weights_note
from t2l.hub import may_run_code
from t2l.lora import LoraSpec, LoraWeights
from t2l.prompting import TEMPLATE, Prompting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 32  # texts
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL = 1_000_000_000  # parameters; a half-precision base below this computes in float32 on the CPU


@dataclass(frozen=True, eq=False)
class Base:
    """A causal language model with its tokenizer, in evaluation mode.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its tokenizer.
        name: what it was loaded as; a short name is a hub id here.
        weights: what a GGUF file's weights were before they were loaded (``"dequantised Q4_1"``).
        system: the system message of its prompts: `TEMPLATE`, `NONE` or a text (see `t2l.prompting`).

    Example:
        >>> base = load_base("smollm2-135m")  # doctest: +SKIP
        >>> base.answer(["oslo, rome"], max_new_tokens=8)  # doctest: +SKIP
    """

    model: Any  # PreTrainedModel; its own annotations lead nowhere
    tokenizer: PreTrainedTokenizerBase
    name: str
    weights: str | None = None
    system: str = TEMPLATE

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer says how a user's message is put to the model."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def window(self) -> int | None:
        """The most tokens that the model reads, where its config says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def note(self) -> str | None:
        """What a user should know about how this base is prompted; None where it is as expected."""
        if self.has_chat_template:
            return None
        return f"'{self.name}' has no chat template, so it continues the plain text of each input."

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt; special tokens come with the chat template, where there is one."""
        special = not self.has_chat_template
        return list(self.tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"])

    def prompt(self, text: str) -> str:
        """What the model reads for ``text``: one user message in the chat template, or the text itself."""
        return self.prompting.prompt(text)

    @cached_property
    def prompting(self) -> Prompting:
        """Renders messages with this base's `system`."""
        return Prompting(self.tokenizer, self.name, self.system)

    def with_system(self, system: str) -> Base:
        """The same base, prompted as a checkpoint or an adapter was trained: with its `system`.

        Raises:
            BaseModelError: the tokenizer's chat template cannot express it.
        """
        if system == self.system:
            return self
        framed = replace(self, system=system)
        assert framed.prompting  # what cannot be expressed is refused now
        return framed

    @torch.inference_mode()
    def answer(
        self,
        texts: Sequence[str],
        *,
        spec: LoraSpec | None = None,
        weights: LoraWeights | None = None,
        index: Sequence[int] | Tensor | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """The greedy answer to each text, up to the end-of-answer token or ``max_new_tokens``.

        Args:
            spec: of the adapters, where there are any.
            weights: N adapters.
            index: for each text the adapter to use, -1 for the plain base. By default text i uses adapter i, or
                every text the only one.

        Raises:
            T2LError: a text that is empty or too long for the base, an index that does not fit.
            BaseModelError: the base lacks modules of ``spec``, or their shapes differ.
        """
        if isinstance(texts, str):
            raise T2LError("answer takes a list of texts.", f"Write [{texts[:40]!r}].")
        if max_new_tokens < 1:
            raise T2LError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
        if (spec is None) != (weights is None):
            raise T2LError("Adapters need both their spec and their weights.")
        rows = None if weights is None else _rows(index, weights.num_samples, len(texts))
        prompts = self._encode(texts, max_new_tokens)
        answers: list[str] = []
        for start in range(0, len(texts), _BATCH):
            adapted = nullcontext()
            if spec is not None and weights is not None and rows is not None:
                adapted = apply_batched(self.model, spec, weights, rows[start : start + _BATCH])
            with adapted, quiet():
                answers += self._generate(prompts[start : start + _BATCH], max_new_tokens)
        return answers

    def _encode(self, texts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
        prompts = [self.prompt(text) for text in texts]
        window = self.window
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        tokens = []
        for text, prompt in zip(texts, prompts, strict=True):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise T2LError(f"The input {text[:40]!r} is not valid UTF-8.")
            ids = self.tokens(prompt)
            if not ids:
                raise T2LError(f"The input {text[:40]!r} is empty for '{self.name}'.", "Give it some text.")
            if max(ids) >= vocabulary:
                raise BaseModelError(
                    f"The tokenizer of '{self.name}' gives token {max(ids)}, its model knows {vocabulary}: "
                    "they do not belong together."
                )
            if window is not None and len(ids) + max_new_tokens > window:
                raise T2LError(
                    f"The input {text[:40]!r} has {len(ids)} tokens and {max_new_tokens} may follow; "
                    f"'{self.name}' has room for {window}.",
                    "Shorten the input, or ask for fewer new tokens.",
                )
            tokens.append(ids)
        return tokens

    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        ids_ST, mask_ST = self.padded(prompts)
        out_ST = self.greedy(ids_ST, mask_ST, max_new_tokens)
        ends = self.ends()
        return [self._text(row, ends) for row in out_ST[:, ids_ST.shape[1] :].tolist()]

    @property
    def padding(self) -> int:
        """The token that stands where a row is shorter than the longest: the tokenizer's, or an end."""
        stated = self.tokenizer.pad_token_id
        return int(stated if isinstance(stated, int) else min(self.ends(), default=0))

    def padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of rows that end together, padded on the left, on the model's device."""
        width, padding = max(len(row) for row in rows), self.padding
        ids = [[padding] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.model.device), torch.tensor(mask, device=self.model.device)

    def greedy(self, ids_ST: Tensor, mask_ST: Tensor, max_new_tokens: int, **more: Any) -> Tensor:
        """Prompts of `padded`, followed by their greedy continuations up to any token of `ends`.

        Args:
            more: for transformers' ``generate``, such as ``stopping_criteria``.
        """
        from transformers import GenerationConfig

        config = GenerationConfig(  # the base's own sampling and penalties are overruled, one by one
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_new_tokens=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.ends()) or None,
            pad_token_id=self.padding,
        )
        own, self.model.generation_config = self.model.generation_config, config  # transformers 4 mixes in the base's
        try:
            return self.model.generate(ids_ST, attention_mask=mask_ST, generation_config=config, **more)
        finally:
            self.model.generation_config = own

    def ends(self) -> set[int]:
        """Every token that ends an answer: the tokenizer's, and those of the model (Llama 3 has three)."""
        stated = getattr(self.model.generation_config, "eos_token_id", None)
        ends = {stated} if isinstance(stated, int) else set(stated or ())
        own = self.tokenizer.eos_token_id
        return ends | ({own} if isinstance(own, int) else set())

    def _text(self, ids: list[int], ends: set[int]) -> str:
        stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True))


def load_base(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    loading: Mapping[str, Any] | None = None,
) -> Base:
    """Loads a base model and its tokenizer, frozen, with transformers' logging silenced.

    Args:
        name: ``smollm2-135m``, a GGUF file, a folder, or a hub id.
        device: where it computes.
        dtype: float32, bfloat16 or float16; by default as it is stored, and float32 on the CPU where it is small.
        revision: branch, tag or commit on the hub.
        trust_remote_code: let code from the hub run in this process, for bases that need it. The environment variable
            ``T2L_TRUST_REMOTE_CODE=1`` says the same.
        loading: more that ``from_pretrained`` is given, such as ``attn_implementation``. With a ``device_map`` the
            weights stay where it puts them.

    Raises:
        BaseModelError: it cannot be found (near names are offered) or loaded, or its file lacks weights.
    """
    place = locate(name, revision)
    trust = may_run_code(trust_remote_code)
    wanted = _dtype(dtype)
    try:
        with quiet():
            import transformers

            key = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust)
            config = transformers.AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=trust)
            loaded: Any = auto_class(config).from_pretrained(
                place,
                revision=revision,
                trust_remote_code=trust,
                output_loading_info=True,
                ignore_mismatched_sizes=False,
                **{key: wanted or "auto"},
                **(loading or {}),
            )
    except Exception as problem:  # the hub, the disk, transformers and remote code each raise their own kinds
        raise not_loaded(str(name), problem) from problem
    model, outcome = loaded
    missing = sorted(str(key) for key in outcome.get("missing_keys", ()))
    if missing:
        raise BaseModelError(
            f"The file of the base model '{name}' lacks {len(missing)} weights, '{missing[0]}' among them.",
            "It may be of another model than its config.json, or truncated; copy or download it again.",
        )
    mend_buffers(model, str(name), BaseModelError)
    if wanted is None and torch.device(device).type == "cpu" and model.num_parameters() < _SMALL:
        model = model.float()
    if "device_map" not in (loading or {}):
        model = model.to(device)
    if place != str(Path(name).expanduser()):
        model.config.name_or_path = model.name_or_path = canonical_name(name)  # what PEFT writes into adapters
    return Base(model.eval().requires_grad_(False), tokenizer, canonical_name(name), weights_note(place))


def base_weights(name: str | Path, *, revision: str | None = None) -> str | None:
    """What the weights of a base were before they were loaded (`Base.weights`), without loading them."""
    return weights_note(locate(name, revision))


def _rows(index: Sequence[int] | Tensor | None, adapters: int, texts: int) -> list[int]:
    if index is None:
        rows = [0] * texts if adapters == 1 else list(range(adapters))
    else:
        rows = torch.as_tensor(index).tolist()
    if not isinstance(rows, list) or len(rows) != texts:
        raise T2LError(f"The index is for {len(rows) if isinstance(rows, list) else 1} texts; there are {texts}.")
    return rows


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise BaseModelError(f"A base model cannot be loaded as '{name}'.", did_you_mean(name, _DTYPES))
    return _DTYPES[name]
