"""What the page shows besides its fields: answers, what is known of an adapter, heat maps, tables, and code to copy.

Level 6. Text to HTML or to code, nothing else; every text from outside goes through `escaped` exactly once, here.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2l.errors import T2LError
from t2l.inspection import NormTable
from t2l.serving.maker import Made
from t2l.serving.stream import Completion
from t2l.training.refinement import Refined
from t2l.workbench.table import EXPECTED

UNCALIBRATED = "This checkpoint is not calibrated, so there are no confidence and no known tasks (t2l calibrate)."
_MOST_LAYERS = 96  # rows of a heat map
_MOST_NEAR = 4
_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?")


@dataclass(frozen=True)
class AnswerCard:
    """One answer as it stands.

    Args:
        title: whose it is.
        text: so far.
        completion: at its end.
        error: instead of an answer.
        accent: of the adapted one.
    """

    title: str
    text: str = ""
    completion: Completion | None = None
    error: T2LError | None = None
    accent: bool = False


def escaped(text: object) -> str:
    """Text that stands for itself inside HTML, in attributes as well."""
    return html.escape(str(text), quote=True)


def problem(error: T2LError) -> str:
    """What is wrong and what to do about it."""
    fix = f'<div class="wb-fix">{escaped(error.fix)}</div>' if error.fix else ""
    return f'<div class="wb-note wb-bad" role="alert">{escaped(error.message)}{fix}</div>'


def hint(text: str) -> str:
    """A quiet line where there is nothing to show yet."""
    return f'<div class="wb-hint">{escaped(text)}</div>'


def header(base: str, facts: Sequence[str]) -> str:
    """The top of the page."""
    mark = (
        '<svg class="wb-mark" viewBox="0 0 44 28" aria-hidden="true">'
        '<rect x="0" y="0" width="9" height="28" rx="2.5"/><rect x="16" y="0" width="28" height="9" rx="2.5"/>'
        '<rect class="wb-faint" x="16" y="12" width="28" height="16" rx="2.5"/></svg>'
    )
    chips = "".join(f'<span class="wb-chip">{escaped(fact)}</span>' for fact in [base, *facts])
    return (
        f'<header class="wb-top">{mark}<div><h1>Text-to-LoRA workbench</h1>'
        "<p>Describe a task in plain words. One forward pass writes the LoRA adapter for it.</p></div>"
        f'<div class="wb-chips">{chips}</div></header>'
    )


def answers(those: Sequence[AnswerCard]) -> str:
    """Answers side by side; below each other on a narrow screen."""
    return f'<div class="wb-answers">{"".join(_answer(one) for one in those)}</div>'


def _answer(one: AnswerCard) -> str:
    if one.error is not None:
        body, foot = problem(one.error), ""
    else:
        caret = "" if one.completion else '<span class="wb-caret" aria-hidden="true"></span>'
        empty = '<span class="wb-hint">(an empty answer)</span>' if one.completion and not one.text else ""
        body = f'<div class="wb-said">{escaped(one.text)}{empty}{caret}</div>'
        foot = f'<div class="wb-foot">{_cost(one.completion)}</div>'
    kind = "wb-answer wb-accent" if one.accent else "wb-answer"
    title = escaped(one.title)
    return f'<section class="{kind}" aria-label="{title}"><h3>{title}</h3>{body}{foot}</section>'


def _cost(completion: Completion | None) -> str:
    if completion is None:
        return "&nbsp;"
    cut = " · cut at the token limit" if completion.finish_reason == "length" else ""
    count = completion.completion_tokens
    read = f"{completion.prompt_tokens} tokens read, {count} written"
    return f"{read} · {_milliseconds(1000 * completion.total_s)}{cut}"


def note(text: str) -> str:
    """Something that should be seen."""
    return f'<div class="wb-note wb-warn">{escaped(text)}</div>'


def made(one: Made, tips: Sequence[str], rewrite: tuple[str, float] | None) -> str:
    """What there is to know of an adapter as soon as it is made.

    Args:
        tips: what would make the description better.
        rewrite: a description that says nearly the same and is trusted more, and its confidence.
    """
    big, _, unit = _milliseconds(one.milliseconds).partition(" ")
    how = "to find the adapter: it was made before" if one.cached else "to read the description and write the adapter"
    parts = [
        f'<div class="wb-made"><div class="wb-big">{escaped(big)}<small>{unit}</small></div>'
        f'<div><div class="wb-how">{how}</div><code class="wb-id">{escaped(one.kept.id)}</code></div></div>'
    ]
    parts += [note(text) for text in one.warnings]
    if (told := one.confidence) is None:
        parts.append(hint(UNCALIBRATED))
    else:
        share = min(max(told.value, 0.0), 1.0)
        words = told.in_words()
        words = f"<span>{escaped(words[:1].upper() + words[1:])}</span>"
        parts.append(f'<div class="wb-row">{words}{_bar(share)}<span class="wb-num">{share:.0%}</span></div>')
        parts.append("<h4>Known: the nearest of this checkpoint's training tasks</h4>")
        for near in told.nearest[:_MOST_NEAR]:
            number = f'<span class="wb-num">{near.similarity:.2f}</span>'
            words = f'<span class="wb-text">{escaped(near.description)}</span>'
            bar = _bar(max(near.similarity, 0.0))
            parts.append(f'<div class="wb-row wb-near" title="{escaped(near.task)}">{words}{bar}{number}</div>')
    if tips:
        listed = "".join(f"<li>{escaped(tip)}</li>" for tip in tips)
        parts.append(f'<h4>To make it clearer</h4><ul class="wb-tips">{listed}</ul>')
    if rewrite is not None:
        text, confidence = rewrite
        parts.append(f'<h4>Try</h4><div class="wb-how">{escaped(text)} (confidence {confidence:.0%})</div>')
    return f'<div class="wb-card" role="status">{"".join(parts)}</div>'


def learned(one: Refined) -> str:
    """What examples led to, in numbers."""
    where = f"{len(one.held)} held-out examples" if one.held else "the examples themselves"
    numbers = [(f"{one.before:.3f}", "loss as described"), (f"{one.loss:.3f}", f"after step {one.step}")]
    return figures(numbers) + hint(f"Measured on {where}.")


def _bar(share: float) -> str:
    return f'<span class="wb-bar" aria-hidden="true"><i style="width:{100 * min(share, 1.0):.1f}%"></i></span>'


def _milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    if value < 0.1:
        return "<0.1 ms"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def heat_map(norms: NormTable, *, top: float | None = None, title: str = "") -> str:
    """Layers by modules; the stronger the colour, the larger the weight change.

    Args:
        top: what the strongest colour stands for; the largest norm by default.
    """
    values = [norm for row in norms.norm_LM for norm in row if norm is not None]
    top = top or max(values, default=0.0) or 1.0
    heads = "".join(f'<th scope="col">{escaped(module)}</th>' for module in norms.modules)
    rows = []
    for layer, row in list(zip(norms.layers, norms.norm_LM, strict=True))[:_MOST_LAYERS]:
        cells = "".join(_cell(norm, top) for norm in row)
        rows.append(f'<tr><th scope="row">{layer}</th>{cells}</tr>')
    head = f"<h4>{escaped(title)}</h4>" if title else ""
    caption = (
        f"Norm of the weight change in each layer and module, {norms.total:.3g} altogether. "
        f'<span class="wb-legend">0<i></i>{top:.3g}</span>'
    )
    table = (
        f'<table class="wb-heat"><thead><tr><th scope="col">layer</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f'<div class="wb-map">{head}{_scrolled(table)}<p class="wb-hint">{caption}</p></div>'


def _scrolled(table: str) -> str:
    return f'<div class="wb-scroll" tabindex="0">{table}</div>'


def _cell(norm: float | None, top: float) -> str:
    if norm is None:
        return '<td class="wb-none" title="not adapted">–</td>'
    share = min(max(norm / top, 0.0), 1.0)
    strong = " wb-strong" if share > 0.75 else ""
    return f'<td class="wb-cell{strong}" style="--heat:{100 * share:.1f}%">{norm:.2f}</td>'


def side_by_side(parts: Sequence[str]) -> str:
    """Several cards in one row, where there is room."""
    return f'<div class="wb-side">{"".join(parts)}</div>'


def figures(those: Sequence[tuple[str, str]]) -> str:
    """Numbers with what they are of, in a row."""
    cells = "".join(f"<div><b>{escaped(value)}</b><span>{escaped(label)}</span></div>" for value, label in those)
    return f'<div class="wb-figures" role="status">{cells}</div>'


def links(those: Sequence[tuple[str, str, str]]) -> str:
    """Buttons that fetch something: text, address, name of the file."""
    shown = "".join(
        f'<a class="wb-get" href="{escaped(address)}" download="{escaped(name)}">{escaped(text)}</a>'
        for text, address, name in those
    )
    return f'<div class="wb-gets">{shown}</div>'


def file_button(text: str, into: str) -> str:
    """A button that reads a file of text, in the browser, into the field whose element is called ``into``."""
    return (
        f'<label class="wb-file">{escaped(text)}<input type="file" data-into="{escaped(into)}" '
        'accept=".csv,.tsv,.txt,text/csv,text/plain"></label><div class="wb-file-said" role="alert"></div>'
    )


def batch_table(rows: Sequence[Mapping[str, str | None]], columns: Sequence[str], checked: Sequence[str]) -> str:
    """Rows of a batch as they are answered.

    Args:
        columns: in order; a value of None is still to come.
        checked: those that should equal the column ``expected``.
    """
    heads = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    shown = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for column in columns:
            value, kind = row.get(column), ""
            if value is None:
                cells.append('<td class="wb-wait">…</td>')
                continue
            if column in checked and (wanted := row.get(EXPECTED)):
                kind = "wb-right" if value.strip() == wanted.strip() else "wb-wrong"
            tick = {"wb-right": " ✓", "wb-wrong": " ✗", "": ""}[kind]
            cells.append(f'<td class="{kind}">{escaped(value)}<span class="wb-tick">{tick}</span></td>')
        shown.append(f'<tr><th scope="row">{number}</th>{"".join(cells)}</tr>')
    head = f'<thead><tr><th scope="col">#</th>{heads}</tr></thead>'
    return _scrolled(f'<table class="wb-batch">{head}<tbody>{"".join(shown)}</tbody></table>')


# --- the code that does what the page just did; descriptions are quoted by each language's own rules -----------------


def address_of(scheme: str, host: str) -> str:
    """The server's address as the browser names it.

    Raises:
        T2LError: the browser names nothing that could be a host.
    """
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise T2LError(f"'{host[:80]}' is no address of a server.")
    return f"{scheme}://{host}"


def python(address: str, base: str, description: str, text: str, strength: float) -> str:
    """With OpenAI's client."""
    extra = _extra(description, strength)
    return f"""\
from openai import OpenAI

client = OpenAI(base_url={address + "/v1"!r}, api_key="none")
answer = client.chat.completions.create(
    model={base!r},
    messages=[{{"role": "user", "content": {text!r}}}],
    temperature=0,
    extra_body={extra!r},
)
print(answer.choices[0].message.content)
"""


def curl(address: str, description: str, text: str, strength: float) -> str:
    """Against the same server."""
    body = {"temperature": 0, **_extra(description, strength), "messages": [{"role": "user", "content": text}]}
    return (
        f"curl -s {address}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}\n"
    )


def shell(description: str, text: str, strength: float) -> str:
    """Without a server: the answer, and the adapter's folder for PEFT, vLLM and others."""
    more = "" if strength == 1 else f" --strength {strength:g}"
    quoted = ("-- " if description.startswith("-") else "") + shlex.quote(description)
    return (
        f"t2l run --input={shlex.quote(text)}{more} {quoted}\n"
        f"t2l generate --out my-adapter{more} {quoted}\n"
        "t2l export my-adapter --to gguf --out adapter.gguf\n"
    )


def _extra(description: str, strength: float) -> dict[str, object]:
    return {"task_description": description, **({} if strength == 1 else {"strength": strength})}
