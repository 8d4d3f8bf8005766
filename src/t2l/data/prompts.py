"""From a task's text to tokens: what the base reads, what it learns to write, and where both are truncated.

Level 3. The prompt of a sample is exactly what the base is given when it is used (`t2l.bases.Base.prompt`): one user
message in the chat template, up to where the answer begins. This file knows tokenizers and templates; it does not know
where texts come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from hashlib import blake2b, sha256
from typing import Any

import numpy as np

from t2l.errors import DataError
from t2l.prompting import INPUT, TEMPLATE, Prompting

_ASKED, _SAID = "qzuserqz", "qzanswerqz"  # stand for the two texts; no template changes letters and digits
_ANCHOR = "a"  # before a response that follows plain text, so that no tokenizer takes it for the start of a text
_CHUNK = 1000  # texts tokenised at once
PLAIN_SEPARATOR = "\n"
"""What a response begins with where the base has no chat template."""


class Template(str, Enum):
    """Whether the prompt says what the task is, besides the input.

    ``withheld``: the input alone, so that the adapter has to carry the task. ``included``: the task's definition and
    then the input, as in the paper. ``mixture``: one of the two for each sample.
    """

    withheld = "withheld"
    included = "included"
    mixture = "mixture"


def prompt_text(text: str, definition: str, *, included: bool) -> str:
    """The user's message: the input, after the definition and a request for no explanation where it is ``included``."""
    if not included or not definition:
        return text
    return f"{definition}\nGive the answer only, without an explanation.\n\n{text}"


def is_included(template: Template, fraction: float, *key: str | int) -> bool:
    """Whether a sample's prompt holds the definition; of a mixture this ``fraction`` does, by the hash of ``key``."""
    if template is not Template.mixture:
        return template is Template.included
    digest = blake2b("/".join(str(part) for part in key).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


@dataclass(frozen=True)
class Frame:
    """What stands around the texts of a prompt and a response.

    Args:
        before: the prompt up to the user's text.
        after: the rest of the prompt, up to where the answer begins.
        opening: what the response begins with, before the answer's text.
        closing: what ends the response: the end-of-answer token's text.
        chat: from a chat template; otherwise the documented default for a base without one.
    """

    before: str
    after: str
    opening: str
    closing: str
    chat: bool

    @classmethod
    def of(cls, tokenizer: Any, name: str, system: str = TEMPLATE) -> Frame:
        """The frame of a tokenizer's chat template, or of plain text where it has none.

        Without a chat template the prompt is the text itself, and the response a newline, the answer and the
        end-of-text token.

        Args:
            system: the system message: `t2l.prompting.TEMPLATE`, `NONE` or a text.

        Raises:
            DataError: the template refuses a user's message and an answer, or changes them.
            BaseModelError: the template cannot express the system message.
        """
        prompting = Prompting(tokenizer, name, system)
        end = tokenizer.eos_token or ""
        if not getattr(tokenizer, "chat_template", None):
            return cls("", "", PLAIN_SEPARATOR, end, chat=False)
        asked = [{"role": "user", "content": _ASKED}]
        try:
            prompt = prompting.render(asked)
            whole = prompting.render([*asked, {"role": "assistant", "content": _SAID}], add_generation_prompt=False)
        except Exception as problem:  # templates raise what they like
            raise DataError(
                f"The chat template of '{name}' refuses a user's message and an answer: {problem}"
            ) from problem
        if prompt.count(_ASKED) != 1 or whole.count(_SAID) != 1:
            raise DataError(f"The chat template of '{name}' does not show the user's message and the answer once each.")
        before, _, after = prompt.partition(_ASKED)
        said = whole[: whole.index(_SAID)]
        # a template that puts something else before an answer it has seen (a model's thoughts) is not imitated
        opening = said[len(prompt) :] if said.startswith(prompt) else ""
        closing = whole[whole.index(_SAID) + len(_SAID) :]
        return cls(before, after, opening, _until_special(closing, tokenizer) or end, chat=True)

    @property
    def written(self) -> str:
        """The prompt of an input, with `t2l.prompting.INPUT` in the input's place."""
        return f"{self.before}{INPUT}{self.after}"

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


@dataclass
class SampleCounts:
    """What happened to a task's samples on their way to tokens."""

    samples: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    special_text_replaced: int = 0
    unknown_tokens: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    definitions_included: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, number: int = 1) -> None:
        """Counts samples that are omitted."""
        if number:
            self.dropped[reason] = self.dropped.get(reason, 0) + number


@dataclass(frozen=True, eq=False)
class SampleRows:
    """Tokenised samples of one task: int32 offsets (samples + 1,), tokens, and prompt lengths (samples,)."""

    offsets: np.ndarray
    tokens: np.ndarray
    prompt_lengths: np.ndarray


class SampleTokenizer:
    """Tokenises (prompt, response) texts of a task and cuts what is too long.

    A prompt over ``max_prompt`` tokens loses the end of the user's text; what the template puts around it stays whole.
    A response over ``max_response`` tokens loses its end, and with it the end-of-answer token, so that nobody learns to
    stop there. Text that the tokenizer would take for one of its special tokens becomes a space.

    Args:
        tokenizer: a Hugging Face tokenizer.
        frame: of its chat template.
        max_prompt: tokens of a prompt, the template's included.
        max_response: tokens of a response, the end-of-answer token included.
        drop_long: omit samples that would be cut.

    Raises:
        DataError: no room for text beside the template's own tokens.
    """

    def __init__(
        self, tokenizer: Any, frame: Frame, *, max_prompt: int = 512, max_response: int = 512, drop_long: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._max_prompt, self._max_response = max_prompt, max_response
        self._drop_long = drop_long
        special = sorted({token for token in tokenizer.all_special_tokens if token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._unknown = tokenizer.unk_token_id
        self._tail = frame.after or _ANCHOR
        self._tail_ids = self._ids([self._tail], special=False)[0]
        own = len(self._ids([frame.before + frame.after], special=not frame.chat)[0])
        if own >= max_prompt or max_response < 1:
            raise DataError(
                f"A prompt of {max_prompt} tokens and a response of {max_response} leave no room for text: the "
                f"template alone takes {own}.",
                "Allow longer prompts and responses.",
            )

    def rows(self, texts: Sequence[tuple[str, str]], counts: SampleCounts) -> SampleRows:
        """All samples of a task; those that cannot be used are omitted and counted."""
        offsets, prompt_lengths, pieces = [0], [], []
        for start in range(0, len(texts), _CHUNK):
            for prompt, response in self._pairs(texts[start : start + _CHUNK], counts):
                prompt_lengths.append(len(prompt))
                offsets.append(offsets[-1] + len(prompt) + len(response))
                pieces += [np.asarray(prompt, dtype=np.int32), np.asarray(response, dtype=np.int32)]
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
        if self._unknown is not None:
            counts.unknown_tokens += int((tokens == self._unknown).sum())
        counts.samples += len(prompt_lengths)
        counts.prompt_tokens += sum(prompt_lengths)
        counts.response_tokens += len(tokens) - sum(prompt_lengths)
        return SampleRows(np.asarray(offsets, dtype=np.int32), tokens, np.asarray(prompt_lengths, dtype=np.int32))

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts alone, those of each cut like a sample's."""
        cleaned = [self._clean(text, SampleCounts()) for text in texts]
        framed = [f"{self._frame.before}{text}{self._frame.after}" for text in cleaned]
        found = self._ids(framed, special=not self._frame.chat)
        return [
            ids if len(ids) <= self._max_prompt else self._cut(text, ids)
            for text, ids in zip(cleaned, found, strict=True)
        ]

    def _pairs(
        self, texts: Sequence[tuple[str, str]], counts: SampleCounts
    ) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        usable = []
        for prompt, response in texts:
            prompt, response = self._clean(prompt, counts), self._clean(response, counts)
            if not prompt:
                counts.drop("empty input")
            elif not response:
                counts.drop("empty output")
            else:
                usable.append((prompt, response))
        if not usable:
            return
        frame = self._frame
        prompts = self._ids([f"{frame.before}{prompt}{frame.after}" for prompt, _ in usable], special=not frame.chat)
        answers = [f"{frame.opening}{response}{frame.closing}" for _, response in usable]
        responses = self._ids([self._tail + answer for answer in answers], special=False)
        for (text, _), answer, prompt, response in zip(usable, answers, prompts, responses, strict=True):
            if response[: len(self._tail_ids)] == self._tail_ids:
                response = response[len(self._tail_ids) :]
            else:  # the tokenizer joined the border
                response = self._ids([answer], special=False)[0]
            if len(prompt) > self._max_prompt or len(response) > self._max_response:
                if self._drop_long:
                    counts.drop("over the limit")
                    continue
                if len(prompt) > self._max_prompt:
                    counts.prompts_cut += 1
                    prompt = self._cut(text, prompt)
                if len(response) > self._max_response:
                    counts.responses_cut += 1
                    response = response[: self._max_response]
            yield prompt, response

    def _cut(self, text: str, prompt: list[int]) -> list[int]:
        """The prompt's tokens without the last of the user's text, as many as are too many."""
        after = self._frame.after
        if not after:
            return prompt[: self._max_prompt]
        end = self._tail_ids
        if prompt[-len(end) :] != end:  # the border is joined: begin again with a shorter text
            return self._cut_text(text)
        return prompt[: self._max_prompt - len(end)] + end

    def _cut_text(self, text: str) -> list[int]:
        low, high = 0, len(text)  # the longest text that fits, in characters
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._framed(text[:middle])) <= self._max_prompt:
                low = middle
            else:
                high = middle - 1
        return self._framed(text[:low])[: self._max_prompt]

    def _framed(self, text: str) -> list[int]:
        whole = f"{self._frame.before}{text}{self._frame.after}"
        return self._ids([whole], special=not self._frame.chat)[0]

    def _clean(self, text: str, counts: SampleCounts) -> str:
        """Without what the tokenizer would read as a special token, without lone surrogates, stripped."""
        text = text.encode("utf-8", "replace").decode()
        text = text.strip()
        if self._special is not None and self._special.search(text):
            counts.special_text_replaced += 1
            text = self._special.sub(" ", text).strip()
        return text

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what decides a tokenizer's output: its vocabulary and rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    special: Mapping[str, Any] = tokenizer.special_tokens_map
    return sha256(f"{rules}\0{sorted(special.items())!r}\0{tokenizer.chat_template!r}".encode()).hexdigest()


def _until_special(text: str, tokenizer: Any) -> str:
    """``text`` up to and with the first special token in it; nothing where it holds none."""
    ends = [text.index(token) + len(token) for token in tokenizer.all_special_tokens if token and token in text]
    return text[: min(ends)] if ends else ""
