"""lm-evaluation-harness drives a base under many adapters: each of the harness's tasks may have an adapter of its own.

Level 5. `AdaptedLM` is an ``LM`` of the harness (`lm_eval` 0.4.13): it turns the harness's requests into tokens, and
the `t2l.evaluation.decoding.Decoder` answers those of all tasks together. This file does not know what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM

from t2l.errors import T2LError
from t2l.evaluation.answers import Answers, key_of
from t2l.evaluation.decoding import PLAIN, Answer, Decoder, Prompted, Scored

MAX_NEW_TOKENS = 512
"""The longest answer, where a task asks for none or for a longer one: no generation is endless."""


class AdaptedLM(LM):
    """A live model under adapters, for ``lm_eval.simple_evaluate`` and ``lm_eval.evaluate``.

    Args:
        decoder: the base and its adapters.
        adapter_of: name of a harness task -> number of its adapter; `PLAIN` for tasks that are not named.
        default: the adapter of tasks that are not named.
        max_new_tokens: bounds every generation.
        answers: known answers, to which new ones are added.
        identity: of the base and what is inside it: answers are kept by it as well.
        report: called with (requests done, requests in all).

    Example:
        >>> lm = AdaptedLM(Decoder(base, [adapter]), default=0)  # doctest: +SKIP
        >>> lm_eval.simple_evaluate(lm, tasks=["arc_easy"])  # doctest: +SKIP
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter_of: Mapping[str, int] | None = None,
        *,
        default: int = PLAIN,
        max_new_tokens: int = MAX_NEW_TOKENS,
        answers: Answers | None = None,
        identity: str = "",
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.adapter_of = dict(adapter_of or {})
        self.default = default
        self.max_new_tokens = max_new_tokens
        self.kept = Answers() if answers is None else answers
        self.identity = identity
        self.report = report
        self.cut: set[tuple[str, int]] = set()
        """(task, document) of every answer that reached its bound."""
        self._digests = [adapter.digest for adapter in decoder.adapters]

    @property
    def tokenizer_name(self) -> str:
        """Of the base: the harness names its caches by it."""
        return self.decoder.base.name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The history in the base's chat template; a last message of the assistant's is left open to go on with.

        What the harness puts into a system message stands in the user's first one: some templates know no system role.
        """
        return str(
            self.decoder.base.prompting.render(
                _without_system(chat_history),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-probability, whether it is the greedy answer) of each request's continuation."""
        made = []
        for request in requests:
            context, continuation = request.args
            made.append(Scored(*self._pair(context, continuation), self._adapter(request)))
        keys = [key_of("scores", one.context, one.continuation, self._name(one.adapter)) for one in made]
        found = self._answered(
            keys, lambda rows, done: self.decoder.scores([made[row] for row in rows], done), self.decoder.batch
        )
        return [(float(score), bool(greedy)) for score, greedy in found]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """The log-probability of each whole text after the begin token, in windows of which each token is in one."""
        window = self.decoder.window or 1 << 30
        pieces: list[Scored] = []
        owner: list[int] = []
        for row, request in enumerate(requests):
            (text,) = request.args
            tokens = self._encode(text, begin=False)
            begin = [self._begin()]
            for start in range(0, len(tokens), window - 1):
                part = tokens[start : start + window - 1]
                context = begin if start == 0 else [tokens[start - 1]]
                pieces.append(Scored(tuple(context), tuple(part), self._adapter(request)))
                owner.append(row)
        keys = [key_of("scores", one.context, one.continuation, self._name(one.adapter)) for one in pieces]
        found = self._answered(
            keys, lambda rows, done: self.decoder.scores([pieces[row] for row in rows], done), self.decoder.batch
        )
        total = [0.0] * len(requests)
        for row, (score, _) in zip(owner, found, strict=True):
            total[row] += score
        return total

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The greedy answer to each request; sampling is refused."""
        made = []
        for request in requests:
            context, given = request.args
            if given.get("do_sample") and given.get("temperature", 0) not in (0, 0.0):
                raise T2LError(
                    f"The task '{request.task_name}' samples (temperature {given.get('temperature')}).",
                    "t2l evaluates greedy answers; choose a task that does.",
                )
            until = given.get("until") or ()
            until = (until,) if isinstance(until, str) else tuple(until)
            most = int(given.get("max_gen_toks") or given.get("max_new_tokens") or self.max_new_tokens)
            prompt = tuple(self._encode(context, begin=True))
            made.append(Prompted(prompt, until, min(most, self.max_new_tokens), self._adapter(request)))
        keys = [key_of("answer", one.prompt, one.until, one.max_new_tokens, self._name(one.adapter)) for one in made]
        found = self._answered(
            keys, lambda rows, done: self.decoder.answers([made[row] for row in rows], done), self.decoder.batch
        )
        for request, (_, cut) in zip(requests, found, strict=True):
            if cut:
                self.cut.add((request.task_name, request.doc_id))
        return [text for text, _ in found]

    def _answered(
        self, keys: Sequence[str], run: Callable[[list[int], Callable[[int, Any], None]], Any], every: int
    ) -> list[Any]:
        """The value of each key: what is kept, and otherwise what the decoder gives; equal requests run once."""
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        rows = [row for key, row in sorted(first.items(), key=lambda item: item[1]) if self.kept.get(key) is None]
        fresh: dict[str, Any] = {}
        finished = len(first) - len(rows)

        def done(number: int, result: Any) -> None:
            nonlocal finished, fresh
            value = [result.text, result.cut] if isinstance(result, Answer) else list(result)
            fresh[keys[rows[number]]] = value
            finished += 1
            if len(fresh) >= every:
                self.kept.put(fresh)
                fresh = {}
                self.report(finished, len(first))

        try:
            if rows:
                run(rows, done)
        finally:
            self.kept.put(fresh)  # also when the run is stopped: what is done is done
        self.report(finished, len(first))
        return [self.kept.get(key) for key in keys]

    def _adapter(self, request: Any) -> int:
        return self.adapter_of.get(request.task_name, self.default)

    def _name(self, adapter: int) -> str:
        return f"{self.identity}/{'plain' if adapter == PLAIN else self._digests[adapter]}"

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of context and continuation as they stand together; spaces at the seam go to the continuation."""
        seam = len(context) - len(context.rstrip())
        if seam:
            context, continuation = context[:-seam], context[-seam:] + continuation
        whole = self._encode(context + continuation, begin=True)
        before = self._encode(context, begin=True) if context else []
        if not before:
            begin = self._begin()
            return (begin,), tuple(whole[1:] if whole[:1] == [begin] else whole)
        if len(before) >= len(whole):  # the tokenizer joins across the seam
            before = whole[:-1]
        return tuple(before), tuple(whole[len(before) :])

    def _begin(self) -> int:
        tokenizer = self.decoder.base.tokenizer
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if not isinstance(begin, int):
            raise T2LError(f"The tokenizer of '{self.decoder.base.name}' has neither a begin nor an end token.")
        return begin

    def _encode(self, text: str, *, begin: bool) -> list[int]:
        """Tokens of a text; a chat template that begins with the begin token gets no second one."""
        tokenizer = self.decoder.base.tokenizer
        own = tokenizer.bos_token
        special = begin and not (isinstance(own, str) and own and text.startswith(own))
        return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _without_system(history: list[dict[str, str]]) -> list[dict[str, str]]:
    if len(history) < 2 or history[0]["role"] != "system":
        return history
    system, first, *rest = history
    return [{**first, "content": f"{system['content'].strip()}\n\n{first['content']}"}, *rest]
