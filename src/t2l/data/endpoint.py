"""Asks a language model over the protocol of OpenAI's chat completions, with patience and a count of tokens.

Level 3. Any server that speaks the protocol will do. A key is read from the environment, sent, and written nowhere.
This file does not know what is asked.
"""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from t2l.errors import DataError, T2LError

_LONGEST_WAIT = 120.0  # seconds


class EndpointError(DataError):
    """A server that will not answer however often it is asked: a wrong key, an unknown model, a wrong address."""


@dataclass(frozen=True)
class Reply:
    """What a model wrote, and the tokens of the question and the answer (0 where nobody counted)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Author(Protocol):
    """Something that answers a question in plain words."""

    name: str

    def ask(self, question: str, seed: int) -> Reply:
        """The answer.

        Raises:
            EndpointError: asking again is useless.
            T2LError: this question was not answered.
        """
        ...


class ChatEndpoint:
    """A server that speaks the protocol of chat completions.

    Args:
        url: up to and with its version: ``http://localhost:8000/v1``.
        model: the model's name on that server.
        key_variable: the environment variable that holds the key; none is sent where it is empty.
        attempts: of each question, where a failure may pass: a busy server, a lost connection, a broken reply.
        first_wait: seconds after the first failure, doubled each time; the server's ``Retry-After`` comes first.
        timeout: seconds for one answer.
        max_tokens: of one answer.
        sleep: waits.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        attempts: int = 6,
        first_wait: float = 1.0,
        timeout: float = 120.0,
        max_tokens: int = 4096,
        temperature: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import httpx
        except ImportError as problem:
            raise EndpointError("Endpoints need the package httpx.", "Install it: pip install 't2l[data]'") from problem
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"'{url}' is no address.", "Write one such as http://localhost:8000/v1.")
        self.name = model
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        key = os.environ.get(key_variable, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._httpx: Any = httpx
        self._key_variable = key_variable
        self._attempts, self._first_wait, self._sleep = attempts, first_wait, sleep
        self._settings = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    def ask(self, question: str, seed: int) -> Reply:
        """The model's answer; what may pass is tried again.

        Raises:
            EndpointError: the server refuses the key, the model or the address.
            DataError: no usable answer in all attempts.
        """
        body = {**self._settings, "messages": [{"role": "user", "content": question}], "seed": seed}
        reason = ""
        for attempt in range(self._attempts):
            wait = None
            try:
                response = self._client.post(self._url, json=body)
            except self._httpx.HTTPError as problem:
                reason = f"{type(problem).__name__} {problem}".strip()
            else:
                if response.status_code == 200:
                    reply = _reply(response)
                    if isinstance(reply, Reply):
                        return reply
                    reason = reply
                elif response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
                    reason, wait = f"status {response.status_code}", retry_after(response.headers.get("Retry-After"))
                elif response.status_code == 400 and "seed" in body:
                    # servers that know no seed refuse it; ask once more without
                    del body["seed"]
                    reason, wait = _message(response), 0.0
                else:
                    raise self._refusal(response)
            if attempt + 1 < self._attempts:
                pause = self._first_wait * 2**attempt * random.uniform(0.8, 1.2) if wait is None else wait
                self._sleep(min(pause, _LONGEST_WAIT))
        raise DataError(f"'{self._url}' gave no usable answer in {self._attempts} attempts: {reason}.")

    def _refusal(self, response: Any) -> EndpointError:
        status, told = response.status_code, _message(response)
        if status in (401, 403):
            fix = f"Put the key into the environment variable {self._key_variable}."
        elif status == 404:
            fix = f"Is the model '{self.name}' there, and does the address end as the server's does (often /v1)?"
        else:
            fix = None
        return EndpointError(f"'{self._url}' refuses (status {status}): {told}", fix)


class LocalAuthor:
    """A base model in this process; it answers greedily, so that variety comes from the questions.

    Args:
        base: as for `t2l.bases.load_base`.
        device: where it computes.
    """

    def __init__(self, base: str, *, device: str = "cpu", max_tokens: int = 1024) -> None:
        from t2l.bases import load_base

        self.name = base
        self._base = load_base(base, device=device)
        self._max_tokens = max_tokens

    def ask(self, question: str, seed: int) -> Reply:
        """The model's answer."""
        text = self._base.answer([question], max_new_tokens=self._max_tokens)[0]
        counted = self._base.tokenizer
        return Reply(text, len(counted(question)["input_ids"]), len(counted(text)["input_ids"]))


def _reply(response: Any) -> Reply | str:
    """The answer in a response, or what is wrong with it."""
    try:
        value = response.json()
        text = value["choices"][0]["message"]["content"]
        if not isinstance(text, str) or not text.strip():
            return "an empty answer"
        usage = value.get("usage") or {}
        return Reply(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        return f"a broken reply ({type(problem).__name__}: {problem})"


def _message(response: Any) -> str:
    """What a server says of its refusal."""
    try:
        error = response.json()["error"]
        return str(error.get("message") if isinstance(error, dict) else error)[:300]
    except (ValueError, KeyError, TypeError):
        return response.text.strip()[:300] or "no reason given"


def retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def useless_to_go_on(problem: T2LError) -> bool:
    """Whether every other question would fail in the same way."""
    return isinstance(problem, EndpointError)
