"""OpenAI's API: the schemas of requests, answers, pieces of a stream, and errors.

Level 5. This file knows shapes and words of JSON; it knows no server and no engine.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

from t2l.errors import DescriptionError, T2LError, did_you_mean
from t2l.serving.errors import (
    BusyError,
    OutOfTimeError,
    PromptTooLongError,
    RequestError,
    StoppedError,
    UnknownModelError,
)
from t2l.serving.maker import Combination
from t2l.serving.sampling import Sampling
from t2l.serving.stream import Completion

_STATUS: dict[type[Exception], tuple[int, str, str | None]] = {
    UnknownModelError: (404, "invalid_request_error", "model_not_found"),
    PromptTooLongError: (400, "invalid_request_error", "context_length_exceeded"),
    RequestError: (400, "invalid_request_error", None),
    DescriptionError: (400, "invalid_request_error", "invalid_description"),
    BusyError: (429, "rate_limit_error", "busy"),
    OutOfTimeError: (504, "timeout_error", "timeout"),
    StoppedError: (503, "server_error", "shutting_down"),
    T2LError: (400, "invalid_request_error", None),
}
_IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
    "verbosity": (None,),
    "prediction": (None,),
    "audio": (None,),
    "web_search_options": (None,),
}


_Item = TypeVar("_Item")


class _First(FailFast):
    """Of a list, one wrong element is told, not each of a million. Can be hashed, as a part of a union must."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


_List = Annotated[list[_Item], _First()]


class StreamOptions(BaseModel):
    """What a stream holds besides text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class _SamplingRequest(BaseModel):
    """The fields that both kinds of completion share."""

    model_config = ConfigDict(extra="allow", strict=True)  # "4" and true are no numbers, as the schema says

    model: str = Field("", max_length=256, description="The base or an adapter's id; the base where it is left out.")
    task_description: str | None = Field(
        None, description="Not in OpenAI's API: answer under the adapter for this task."
    )
    strength: float = Field(
        1.0, description="Not in OpenAI's API: multiplies what the adapter changes; 0 is the base, 1 the adapter."
    )
    max_tokens: int | None = None
    temperature: float | None = Field(None, description="1 where it is left out, as in OpenAI's API; 0 is greedy.")
    top_p: float | None = None
    seed: int | None = None
    stop: str | _List[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def sampling(self, max_tokens: int | None) -> Sampling:
        """What is asked for, checked; fields that this server does not know are refused, unless they ask for nothing.

        Raises:
            RequestError: a value out of range, or a field that cannot be honoured.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL:
                if not any(_same(value, neutral) for neutral in _NEUTRAL[name]):
                    raise RequestError(f"'{name}' is not supported.", f"Omit {name}.", field=name)
            elif name not in _IGNORED:
                known = [*type(self).model_fields, *_NEUTRAL]
                raise RequestError(f"There is no field '{name[:80]}'.", did_you_mean(name, known), field=name[:80])
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stops),
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: str = Field(max_length=64)
    content: str | _List[TextPart]

    def plain(self) -> dict[str, str]:
        """Role and text."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(_SamplingRequest):
    """POST /v1/chat/completions."""

    messages: _List[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = None

    @property
    def longest(self) -> int | None:
        """The longest answer that is asked for; ``max_completion_tokens`` is the newer name and counts first."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(_SamplingRequest):
    """POST /v1/completions: one prompt or several, as text or as tokens."""

    prompt: str | _List[int] | _List[str] | _List[_List[int]]

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts one by one.

        Raises:
            RequestError: there is none.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise RequestError("There is no prompt.", field="prompt")
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]


class AdapterRequest(BaseModel):
    """POST /v1/adapters: one description or several."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str | None = None
    descriptions: _List[str] | None = None


class ErrorDetail(BaseModel):
    """What is wrong, and with which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error JSON, for the OpenAPI document; `error_body` makes it."""

    error: ErrorDetail


class CombineRequest(BaseModel):
    """POST /v1/adapters/combine: the words of ``t2l combine``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parts: _List[str] = Field(description="Ids of adapters that are kept, or descriptions.")
    weights: _List[float] | None = Field(
        None, description="One for each part, negative ones subtract; 1 each by default, with 'features' 1/n each."
    )
    method: str = Field(
        "svd",
        max_length=40,
        description="svd: the nearest to the sum that this server can run. cat: the exact sum, its rank the sum of the "
        "ranks, for download. factors: A and B apart. features: descriptions mixed before there are weights.",
    )
    rank: int | None = Field(None, description="Of the result, with svd; the server's by default.")

    def wanted(self) -> Combination:
        """What is asked for, checked.

        Raises:
            RequestError: a value that makes no sense.
        """
        return Combination(self.parts, self.weights, self.method, self.rank)  # pyright: ignore[reportArgumentType]


class Reply:
    """The JSON of one answer, whole or in pieces.

    Args:
        chat: of a conversation; else of plain completions.
        extra: goes into the whole answer, or into the first piece, below ``t2l``.
    """

    def __init__(self, model: str, *, chat: bool, extra: Mapping[str, Any] | None = None) -> None:
        self._chat = chat
        self._extra = {"t2l": dict(extra)} if extra else {}
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, completions: list[Completion]) -> dict[str, Any]:
        """All choices and the usage."""
        choices = []
        for index, completion in enumerate(completions):
            said: dict[str, Any] = {"text": completion.text}
            if self._chat:
                said = {"message": {"role": "assistant", "content": completion.text, "refusal": None}}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": completion.finish_reason})
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": usage(completions), **self._extra}

    def first(self) -> dict[str, Any] | None:
        """The piece before any text."""
        if not self._chat and not self._extra:
            return None
        return {**self.piece(0, "", role="assistant"), **self._extra}

    def piece(self, index: int, text: str, finish_reason: str | None = None, role: str | None = None) -> dict[str, Any]:
        """More text of one choice."""
        said: dict[str, Any] = {"text": text}
        if self._chat:
            delta = {} if finish_reason else {"content": text}
            said = {"delta": {"role": role, **delta} if role else delta}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish_reason}
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice]}

    def last(self, completions: list[Completion]) -> dict[str, Any]:
        """The piece with the usage."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [], "usage": usage(completions)}


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and no boolean where a number stands: in Python ``True == 1``."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def usage(completions: list[Completion]) -> dict[str, int]:
    """Tokens read and computed."""
    prompt = sum(completion.prompt_tokens for completion in completions)
    answer = sum(completion.completion_tokens for completion in completions)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def event(value: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n".encode()


def error_body(
    message: str, kind: str = "invalid_request_error", code: str | None = None, field: str | None = None
) -> dict[str, Any]:
    """OpenAI's error JSON."""
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def error_of(problem: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers for an error; what is not for people is not shown to them."""
    for kind in type(problem).__mro__:
        if kind in _STATUS:
            status, name, code = _STATUS[kind]
            body = error_body(str(problem), name, code, getattr(problem, "field", None))
            headers = {}
            if isinstance(problem, BusyError):
                headers["Retry-After"] = str(max(1, round(problem.retry_after_s)))
            return status, body, headers
    return 500, error_body("Something went wrong inside the server; its log says what.", "server_error"), {}
