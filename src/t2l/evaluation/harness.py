"""lm-evaluation-harness drives a base under many adapters, and what came out is items and one JSON document.

Level 5. `AdaptedLM` is an ``LM`` of the harness (`lm_eval` 0.4.13): it turns the harness's requests into tokens, and
the `t2l.evaluation.decoding.Decoder` answers those of all tasks together; each of the harness's tasks may have an
adapter of its own. This file does not know where adapters come from, nor what is right.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from typing import Any

from lm_eval.api.model import LM

from t2l.errors import T2LError
from t2l.evaluation.adapters import Name
from t2l.evaluation.benchmarks import EvaluationTask
from t2l.evaluation.decoding import Answer, Decoder, Prompted
from t2l.evaluation.likelihoods import Scored, scores
from t2l.evaluation.rows import PromptVariant, row_of
from t2l.evaluation.runs import BENCHMARKS, FORMAT, Answers, head, key_of
from t2l.evaluation.statistics import gate_of

MAX_NEW_TOKENS = 512
"""The longest answer, where a task asks for none or for a longer one: no generation is endless."""
_SHOWN = 1500  # characters of a prompt or an answer that a run keeps


class AdaptedLM(LM):
    """A live model under adapters, for ``lm_eval.simple_evaluate`` and ``lm_eval.evaluate``.

    Args:
        decoder: the base and its adapters.
        adapter_of: name of a harness task -> name of its adapter.
        default: the adapter of tasks that are not named; None for none.
        max_new_tokens: bounds every generation.
        answers: known answers, to which new ones are added.
        identity: of the base and what is inside it: answers are kept by it as well.
        report: called with (requests done, requests in all).

    Example:
        >>> lm = AdaptedLM(Decoder(base, shelf), default=("text", "Say it in French."))  # doctest: +SKIP
        >>> lm_eval.simple_evaluate(lm, tasks=["arc_easy"])  # doctest: +SKIP
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter_of: Mapping[str, Name | None] | None = None,
        *,
        default: Name | None = None,
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
        return self._scored(made)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """The log-probability of each whole text after the begin token, in windows of which each token is in one."""
        window = self.decoder.base.window or 1 << 30
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
        total = [0.0] * len(requests)
        for row, (score, _) in zip(owner, self._scored(pieces), strict=True):
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
        found = self._answered(keys, lambda rows, done: self.decoder.answers([made[row] for row in rows], done))
        for request, (_, cut) in zip(requests, found, strict=True):
            if cut:
                self.cut.add((request.task_name, request.doc_id))
        return [text for text, _ in found]

    def _scored(self, made: Sequence[Scored]) -> list[tuple[float, bool]]:
        keys = [key_of("scores", one.context, one.continuation, self._name(one.adapter)) for one in made]
        found = self._answered(keys, lambda rows, done: scores(self.decoder, [made[row] for row in rows], done))
        return [(float(score), bool(greedy)) for score, greedy in found]

    def _answered(
        self, keys: Sequence[str], run: Callable[[list[int], Callable[[Mapping[int, Any]], None]], Any]
    ) -> list[Any]:
        """The value of each key: what is kept, and otherwise what the decoder gives; equal requests run once."""
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        rows = [row for key, row in sorted(first.items(), key=lambda item: item[1]) if self.kept.get(key) is None]
        finished = len(first) - len(rows)

        def done(results: Mapping[int, Any]) -> None:
            nonlocal finished
            fresh = {}
            for number, result in results.items():
                value = [result.text, not result.ended] if isinstance(result, Answer) else list(result)
                fresh[keys[rows[number]]] = value
            self.kept.put(fresh)
            finished += len(fresh)
            self.report(finished, len(first))

        if rows:
            run(rows, done)
        self.report(finished, len(first))
        return [self.kept.get(key) for key in keys]

    def _adapter(self, request: Any) -> Name | None:
        return self.adapter_of.get(request.task_name, self.default)

    def _name(self, adapter: Name | None) -> str:
        return f"{self.identity}/{'plain' if adapter is None else self.decoder.shelf.identity(adapter)}"

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


def run_variants(
    decoder: Decoder,
    tasks: Sequence[EvaluationTask],
    variants: Sequence[PromptVariant],
    *,
    answers: Answers | None = None,
    limit: int | None = None,
    chat: bool = False,
    run_code: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    identity: str = "",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Every item of every variant: task, row, number, document, prompt, target, answer, ``right`` (0 to 1).

    Args:
        answers: of an earlier, interrupted run; new ones are added.
        limit: items a task.
        chat: put prompts in the base's chat template.
        run_code: whether programs that the model wrote may run.
        identity: of the base and what is inside it.
        report: called with (requests done, requests in all) of each kind.

    Raises:
        T2LError: a chat template is asked for and the base has none; a limit below 1.
    """
    from lm_eval.evaluator import evaluate

    if limit is not None and limit < 1:
        raise T2LError(f"The limit is {limit} items a task; it must be at least 1.")
    if chat and not decoder.base.has_chat_template:
        raise T2LError(f"'{decoder.base.name}' has no chat template.", "Add --no-chat.")
    lm = AdaptedLM(
        decoder,
        {variant.alias: variant.adapter for variant in variants},
        max_new_tokens=max_new_tokens,
        answers=answers,
        identity=identity,
        report=report,
    )
    known = {task.name: task for task in tasks}
    prepared = {
        variant.alias: known[variant.task].variant(variant.alias, shots=variant.shots, prefix=variant.told, seed=seed)
        for variant in variants
    }
    stderr = io.StringIO()
    with redirect_stderr(stderr):  # the harness's progress bars, one for each variant
        found: Any = evaluate(
            lm=lm,
            task_dict={"tasks": prepared, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=run_code,
        )
    items = []
    for variant in variants:
        metric, which = known[variant.task].metric
        for sample in found["samples"][variant.alias]:
            if sample["filter"] == which:
                items.append(_item(variant, sample, metric, (variant.alias, sample["doc_id"]) in lm.cut))
    return items


def _item(variant: PromptVariant, sample: Mapping[str, Any], metric: str, cut: bool) -> dict[str, Any]:
    others = {
        name: float(sample[name])
        for name in sample["metrics"]
        if name != metric and isinstance(sample[name], int | float) and math.isfinite(sample[name])
    }
    answer = sample["filtered_resps"][0]
    if not isinstance(answer, str):  # log-likelihoods: the choice that won
        scores = [one[0] for one in sample["filtered_resps"]]
        answer = _choice(sample, scores.index(max(scores)))
    else:
        answer = str(sample["resps"][0][0])
    target = sample["target"]
    chosen = not isinstance(sample["filtered_resps"][0], str)
    if chosen and str(target).isdigit() and int(target) < len(sample["arguments"]):  # HellaSwag has it as text
        target = _choice(sample, int(target))
    return {
        "task": variant.task,
        "row": variant.row,
        "number": variant.number,
        "document": int(sample["doc_id"]),
        "prompt": str(sample["arguments"][0][0])[-_SHOWN:],
        "target": str(target)[:_SHOWN],
        "answer": answer[:_SHOWN],
        "right": float(sample[metric]),
        **({"other_metrics": others} if others else {}),
        **({"cut": True} if cut else {}),
    }


def _choice(sample: Mapping[str, Any], place: int) -> str:
    """What tells a choice apart: its continuation, or (WinoGrande) its context where all continuations are one."""
    contexts, continuations = zip(*((str(one[0]), str(one[1])) for one in sample["arguments"]), strict=True)
    return (contexts if len(set(continuations)) == 1 else continuations)[place].strip()


def document(
    settings: Mapping[str, Any],
    tasks: Sequence[EvaluationTask],
    variants: Sequence[PromptVariant],
    items: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
    *,
    judged: bool,
) -> dict[str, Any]:
    """The run as plain JSON values: command, versions, seeds, tasks, rows, what was asked of each, and every item.

    Args:
        judged: the gate's verdict as well.
    """
    return {
        "kind": BENCHMARKS,
        "format": FORMAT,
        **head(),
        "settings": dict(settings),
        "rows": {variant.row: row_of(variant.row).title for variant in variants},
        "tasks": {
            task.name: {
                "family": task.family,
                "metric": task.metric[0],
                "filter": task.metric[1],
                "runs_code": task.runs_code,
            }
            for task in tasks
        },
        "variants": [
            {"task": v.task, "row": v.row, "number": v.number, "shots": v.shots, "description": v.text}
            for v in variants
        ],
        "gate": judged,
        "findings": asdict(gate_of(items, settings["seed"], judged=judged)),
        **more,
        "items": [dict(item) for item in items],
    }
