"""The workbench without a browser: what is shown is right, escaped and its visitor's own; the server stays home."""

from __future__ import annotations

import ast
import asyncio
import base64
import csv
import http.server
import io
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from live_server import live
from t2l import cli
from t2l.composition import combine, scale
from t2l.data.prompts import prompt_text
from t2l.errors import T2LError
from t2l.guidance.guide import Confidence, Neighbour
from t2l.guidance.wording import findings
from t2l.inspection import NormTable, cosine
from t2l.serving.engine import Engine, Limits
from t2l.serving.http import HttpOptions
from t2l.serving.sampling import Sampling
from t2l.serving.scheduler import Scheduler
from t2l.workbench import cards, table
from t2l.workbench.learn import learn
from t2l.workbench.work import NOTHING_YET, Asked, Workbench

NASTY = "<img src=x onerror=alert(1)>\"'${alert(2)}{{ 7*7 }}</textarea><script>alert(3)</script>"
NAMES = [*(f"task {number}" for number in range(8)), NASTY]
SHORT = Asked(max_tokens=8)
SECRET = "a secret of this machine, 4711"
SESSIONS = itertools.count()


@pytest.fixture(scope="module")
def engine(world: Any) -> Iterator[Engine]:
    with Engine(*world, Limits(slots=4, context=400, max_tokens=200, timeout_s=60)) as made:
        yield made


@pytest.fixture(scope="module")
def embedded() -> Iterator[Engine]:
    with Engine.from_pretrained(limits=Limits(slots=2, context=128, max_tokens=8)) as made:
        yield made


@pytest.fixture
def work(engine: Engine) -> Workbench:
    return Workbench(engine)


async def last(steps: AsyncIterator[Any]) -> Any:
    *_, end = [step async for step in steps]
    return end


def alone(engine: Engine, text: str, adapter: Any = None) -> str:
    """The answer that a request gets which nobody else disturbs."""
    return engine.chat(text, Sampling(max_tokens=8), adapter=adapter).text


def told(engine: Engine, description: str, text: str) -> str:
    """The base's answer where its prompt holds the task."""
    return alone(engine, prompt_text(text, description, included=True))


def said(html: str) -> list[str]:
    """The texts of the answers, read as a browser reads them."""
    import html as entities

    return [entities.unescape(text) for text in re.findall(r'<div class="wb-said">(.*?)(?:<span|</div>)', html)]


# --- what the buttons do ------------------------------------------------------------------------------------------


def test_base_prompted_base_and_adapter_answer_side_by_side(work: Workbench, engine: Engine) -> None:
    (made,) = engine.make([NAMES[0]]).result(30)
    base, prompted, adapted = alone(engine, "red"), told(engine, NAMES[0], "red"), alone(engine, "red", made.adapter)
    weak = alone(engine, "red", scale(made.adapter, 0.5))
    assert len({base, prompted, adapted}) == 3
    assert said(asyncio.run(last(work.answer(NAMES[0], "red", 1.0, SHORT)))) == [base, prompted, adapted]
    assert said(asyncio.run(last(work.answer(NAMES[0], "red", 0.0, SHORT)))) == [base, prompted, base]
    shown = asyncio.run(last(work.answer(NAMES[0], "red", 0.5, SHORT)))
    assert said(shown) == [base, prompted, weak] and "With the adapter, strength 0.5" in shown
    assert all(f"<h3>{title}</h3>" in shown for title in ("Base alone", "Base told the task"))
    assert said(asyncio.run(last(work.answer(" ", "red", 1.0, SHORT)))) == [base]
    wrong = asyncio.run(last(work.answer("no such task", "red", 1.0, SHORT)))
    assert said(wrong) == [base, told(engine, "no such task", "red")]
    assert 'role="alert"' in wrong and "no such task" in wrong
    assert "room for 400" in asyncio.run(last(work.answer(NAMES[0], "word " * 200, 1.0, SHORT)))


def test_all_ways_are_answered_side_by_side(
    work: Workbench, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a LoRA that reads, four; with one, which may have another scale than the checkpoint's adapters, five."""
    made, other = engine.make([NAMES[0], NAMES[1]]).result(30)
    three = said(asyncio.run(last(work.answer(NAMES[0], "red", 1.0, SHORT))))
    prompt = prompt_text("red", NAMES[0], included=True)
    both, reads = (alone(engine, prompt, one.adapter) for one in (made, other))
    shown = asyncio.run(last(work.answer(NAMES[0], "red", 1.0, SHORT, all_ways=True)))
    assert said(shown) == [*three, both] and "With the adapter, told the task" in shown
    spec = replace(other.adapter.spec, alpha=other.adapter.spec.alpha * 2)
    weights = other.adapter.weights.map(lambda tensor: tensor / 2**0.5)
    replace(other.adapter, spec=spec, weights=weights).save(tmp_path / "checkpoint-reading")
    monkeypatch.setattr("t2l.model._ASSETS", tmp_path)
    monkeypatch.setattr(engine.t2l, "folder", tmp_path / "checkpoint")
    shown = asyncio.run(last(Workbench(engine).answer(NAMES[0], "red", 1.0, SHORT, all_ways=True)))
    assert said(shown) == [*three, both, reads] and "One LoRA for all tasks" in shown
    assert re.search(r"\d+ tokens read, \d+ written · \d", shown)
    wrong = asyncio.run(last(Workbench(engine).answer("no such task", "red", 1.0, SHORT, all_ways=True)))
    assert 'role="alert"' in wrong and "One LoRA for all tasks" in wrong
    alone_ = asyncio.run(last(Workbench(engine).answer(" ", "red", 1.0, SHORT, all_ways=True)))
    assert said(alone_) == [three[0]]


def test_answers_come_piece_by_piece_and_who_leaves_frees_the_slots(
    work: Workbench, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.02), step(self)))

    async def watch() -> list[str]:
        return [shown async for shown in work.answer(NAMES[1], "red", 1.0, Asked(max_tokens=30))]

    pieces = asyncio.run(watch())
    assert len(pieces) >= 3
    before, after = said(pieces[0]), said(pieces[-1])
    assert all(end.startswith(start) for start, end in zip(before, after, strict=True)) and before != after
    assert "wb-caret" in pieces[0] and "wb-caret" not in pieces[-1]

    async def leave() -> None:
        steps = work.answer(NAMES[1], "red", 1.0, Asked(max_tokens=200, temperature=1.0))
        await anext(steps)
        await steps.aclose()

    cancelled = engine.stats()["cancelled"]
    asyncio.run(leave())
    for _ in range(200):
        if engine.stats()["active"] == 0:
            break
        time.sleep(0.02)
    assert engine.stats()["active"] == 0 and engine.stats()["cancelled"] == cancelled + 3


def test_many_visitors_get_their_own(work: Workbench, engine: Engine) -> None:
    async def all_at_once() -> list[str]:
        visits = [last(work.answer(NAMES[n % 8], f"item {n}", 1.0, SHORT)) for n in range(24)]
        return await asyncio.gather(*visits)

    made = [one.adapter for one in engine.make(NAMES[:8]).result(30)]
    for number, shown in enumerate(asyncio.run(all_at_once())):
        text, which = f"item {number}", number % 8
        assert said(shown) == [alone(engine, text), told(engine, NAMES[which], text), alone(engine, text, made[which])]


def test_what_is_shown_of_an_adapter(work: Workbench, engine: Engine) -> None:
    shown = asyncio.run(work.show(NAMES[2], "red", 0.5, "http://127.0.0.1:1"))
    (made,) = engine.make([NAMES[2]]).result(30)
    assert made.kept.id in shown.about and f"/v1/adapters/{made.kept.id}/download?strength=0.5" in shown.links
    norms = NormTable.of(scale(made.adapter, 0.5))
    numbers = re.findall(r"wb-cell[^>]*>([\d.]+)<", shown.norms)
    assert numbers == [f"{norm:.2f}" for row in norms.norm_LM for norm in row]
    assert NOTHING_YET in asyncio.run(work.show("  ", "red", 1.0, "http://x")).about
    assert 'role="alert"' in asyncio.run(work.show("\x00", "red", 1.0, "http://x")).about


def test_two_descriptions_and_what_lies_between(work: Workbench, engine: Engine, world: Any) -> None:
    one, two = (made.adapter for made in engine.make(NAMES[3:5]).result(30))
    options = Sampling(max_tokens=8)
    answers, below = asyncio.run(last(work.compare(NAMES[3], NAMES[4], 0.25, "features", "red", SHORT)))
    between = world[1].blend(NAMES[3:5], [0.75, 0.25])
    assert said(answers) == [engine.chat("red", options, adapter=which).text for which in (None, one, between, two)]
    assert "75% A, 25% B" in answers and f"<b>{cosine(one, two):.2f}</b>" in below
    answers, below = asyncio.run(last(work.compare(NAMES[3], NAMES[4], 1.0, "svd", "red", SHORT)))
    assert said(answers)[2] == said(answers)[3]
    assert 'role="alert"' in asyncio.run(last(work.compare("nope", NAMES[4], 0.5, "svd", "red", SHORT)))[0]
    assert "Describe two" in asyncio.run(last(work.compare("", NAMES[4], 0.5, "svd", "red", SHORT)))[0]
    assert "wb-heat" in asyncio.run(last(work.compare(NAMES[3], NAMES[4], 0.5, "svd", " ", SHORT)))[1]


def test_a_table_goes_in_and_comes_out_with_answers(work: Workbench, engine: Engine) -> None:
    (made,) = engine.make([NAMES[5]]).result(30)
    (other,) = engine.make([NAMES[6]]).result(30)
    options = Sampling(max_tokens=8)
    right = engine.chat("a,b", options, adapter=made.adapter).text
    given = io.StringIO()
    writer = csv.writer(given)
    writer.writerows(
        [["id", "input", "expected", "description"], ["1", "a,b", right, ""], ["2", 'x "y"', "?", NAMES[6]]]
    )
    writer.writerows([["3", f"row {number}", "", ""] for number in range(20)])
    shown, link = asyncio.run(last(work.batch(NAMES[5], 1.0, given.getvalue(), SHORT)))
    assert "<b>66 of 66</b>" in shown and "<b>1 of 2</b><span>right, adapted" in shown
    data = base64.b64decode(re.findall(r"base64,([\w+/=]+)", link)[0])
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    assert list(rows[0]) == ["id", "input", "expected", "description", *table.ANSWERS] and len(rows) == 22
    assert rows[0]["adapted"].strip() == right.strip() and rows[0]["input"] == "a,b"
    assert rows[1]["adapted"] == engine.chat('x "y"', options, adapter=other.adapter).text
    assert rows[9]["base"] == engine.chat("row 7", options).text
    assert rows[9]["prompted"].lstrip("'") == told(engine, NAMES[5], "row 7")  # may look like a formula
    long = "input,description\n" + "".join(f"x,{'y' * 4000} {number}\n" for number in range(12))
    many = "input,description\n" + "".join(f"x,task number {number}\n" for number in range(65))
    assert "may be sent in one request" in asyncio.run(last(work.batch("", 1.0, long, SHORT)))[0]
    assert "65 descriptions" in asyncio.run(last(work.batch("", 1.0, many, SHORT)))[0]
    for text, part in (("", "no input"), ("input\n", "no input"), ("x\n" * 501, "501 rows")):
        assert part in asyncio.run(last(work.batch(NAMES[5], 1.0, text, SHORT)))[0]
    assert NOTHING_YET in asyncio.run(last(work.batch("", 1.0, "x", SHORT)))[0]
    failed = asyncio.run(last(work.batch(NAMES[5], 1.0, "fine\n" + "word " * 200, SHORT)))[0]
    assert "3 without an answer" in failed and "<b>6 of 6</b>" in failed


WORDS = ["garden", "window", "silver", "bottle", "market", "planet", "copper", "ribbon", "basket", "candle"]
EXAMPLES = "input,expected\n" + "".join(f"{word},{word[2:]}\n" for word in WORDS)


def test_examples_give_an_adapter_that_fits_them_better(embedded: Engine) -> None:
    work, engine, text = Workbench(embedded), embedded, "Cut the two letters at the front off."
    pairs = [(word, word[2:]) for word in WORDS]
    steps: list[int] = []
    _, learned = learn(engine, text, pairs, 6, steps.append)
    assert learned.held == (0, 5) and learned.loss < learned.before and steps == list(range(7))
    (made,) = engine.make([text]).result(30)
    assert "refined" not in made.adapter.provenance  # what was learned is not taken for the description's own
    shown, link = asyncio.run(last(work.learn(text, EXAMPLES, 2, SHORT)))
    assert "held out" in shown and "of 2" in shown and "right, refined" in shown
    name = re.search(r"/v1/adapters/(t2l-[0-9a-f]+)/download", link)
    assert name is not None
    record = engine.adapters.get(name[1]).provenance["refined"]
    assert record["from"]["digest"] == made.adapter.digest and record["number_of_examples"] == 10
    (again,) = engine.make([text]).result(30)
    assert again.kept.id == made.kept.id


def test_others_are_answered_while_somebody_learns(engine: Engine) -> None:
    pairs = [("red", "blue"), ("one", "two")]
    answered: list[int] = []

    def report(step: int) -> None:
        if step == 3:
            stream = engine.submit([5, 6, 7], Sampling(max_tokens=2))
            answered.append(step)
            streams.append(stream)

    streams: list[Any] = []
    alone = engine.submit([5, 6, 7], Sampling(max_tokens=2)).result().tokens
    done = ThreadPoolExecutor(1).submit(learn, engine, NAMES[1], pairs, 40, report)
    while not streams:
        time.sleep(0.005)
    assert streams[0].result().tokens == alone and not done.done()
    _, refined = done.result(120)
    assert refined.loss < refined.before


@pytest.mark.parametrize(("text", "part"), [("input,expected\nred,\n", "1 to 200"), ("red\nblue", "have an output")])
def test_examples_that_cannot_be_learned_from_are_refused(work: Workbench, text: str, part: str) -> None:
    shown, link = asyncio.run(last(work.learn(NAMES[0], text, 2, SHORT)))
    assert 'role="alert"' in shown and part in shown and link == ""


def test_nothing_a_visitor_writes_becomes_markup(work: Workbench) -> None:
    shown = asyncio.run(work.show(NASTY, NASTY, 1.0, "http://127.0.0.1:1"))
    pieces = [shown.about, shown.norms, shown.links]
    pieces.append(asyncio.run(last(work.answer("bad " + NASTY, NASTY, 1.0, SHORT))))
    pieces += asyncio.run(last(work.compare(NASTY, "bad " + NASTY, 0.5, "svd", NASTY, SHORT)))
    pieces += asyncio.run(last(work.batch(NASTY, 1.0, f"input,{NASTY.replace(',', '')}\n{NASTY},{NASTY}", SHORT)))
    (made,) = work.engine.make([NASTY]).result(30)
    told = Confidence(0.7, 0.1, {}, (Neighbour(NASTY, NASTY, 0.5),))
    pieces.append(cards.made(replace(made, confidence=told, warnings=(NASTY,)), [NASTY], (NASTY, 0.8)))
    pieces.append(cards.answers([cards.AnswerCard(NASTY, NASTY), cards.AnswerCard("x", error=T2LError(NASTY, NASTY))]))
    pieces.append(cards.header(NASTY, [NASTY]))
    for piece in pieces:
        assert "<img" not in piece and "<script" not in piece and 'onerror=alert(1)>"' not in piece
    assert "&lt;img" in pieces[-1] and "70%" in pieces[-3]


# --- code, tables, neighbours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [NASTY, "it's", 'a "b" \\ $HOME `id`', "-rf", "two\nlines", "häh 日本"])
def test_the_code_holds_exactly_the_texts(text: str) -> None:
    python = ast.parse(cards.python("http://127.0.0.1:8008", "base", text, text, 0.5))
    words = [node.value for node in ast.walk(python) if isinstance(node, ast.Constant)]
    assert words.count(text) == 2 and 0.5 in words and "http://127.0.0.1:8008/v1" in words
    curl = shlex.split(cards.curl("http://127.0.0.1:8008", text, text, 1.0).replace("\\\n", " "))
    body = json.loads(curl[curl.index("-d") + 1])
    assert body["task_description"] == text and body["messages"][0]["content"] == text and "strength" not in body
    run, generate = (shlex.split(line) for line in _commands(cards.shell(text, text, 2.0))[:2])
    assert run[-1] == generate[-1] == text and f"--input={text}" in run and run[run.index("--strength") + 1] == "2"
    assert ("--" in run) == text.startswith("-")


def _commands(text: str) -> list[str]:
    """Split where a command ends: at line ends outside of quotes."""
    found, now = [], ""
    for line in text.splitlines():
        now = f"{now}\n{line}" if now else line
        try:
            shlex.split(now)
        except ValueError:
            continue
        found.append(now)
        now = ""
    return found


def test_only_what_can_be_an_address_is_one() -> None:
    assert cards.address_of("http", "127.0.0.1:8008") == "http://127.0.0.1:8008"
    assert cards.address_of("https", "[::1]:8") == "https://[::1]:8"
    for scheme, host in (
        ("http", "a b"),
        ("http", "x';id'"),
        ("ftp", "x"),
        ("http", ""),
        ("http", "x/y"),
        ("http", "a\nb"),
    ):
        with pytest.raises(T2LError):
            cards.address_of(scheme, host)


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("a, b\n\n c ", ["input"], [{"input": "a, b"}, {"input": " c "}]),
        ("\ufeffinput;note\r\nx;1\r\n", ["input", "note"], [{"input": "x", "note": "1"}]),
        ('input,Expected,My note\n"two\nlines",b,\n', ["input", "expected", "My note"], [
            {"input": "two\nlines", "expected": "b", "My note": ""}]),
        ("note\tinput\n1\tx", ["note", "input"], [{"note": "1", "input": "x"}]),
    ],
)  # fmt: skip
def test_tables_are_read(text: str, columns: list[str], rows: list[Any]) -> None:
    read = table.read_table(text)
    assert read.columns == columns and read.rows == rows
    if len(columns) > 1:
        assert table.read_table(table.write_table(read.columns, read.rows)) == read


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("input,input\nx,y", "own name"),
        ("input,base\nx,y", "'base'"),
        ("input,a\nx,y,z", "Row 2 of table.csv has 3 columns; the first has 2"),
        ("input,expected\nlonely", "Row 2 of table.csv has 1 columns; the first has 2"),
        ('input,a\n"x,y', "is not CSV"),
        ("inputs,expected\nx,y", "no column 'input'"),
    ],
)
def test_tables_that_are_refused(text: str, part: str) -> None:
    with pytest.raises(T2LError, match=re.escape(part)):
        table.read_table(text)


def test_no_cell_of_the_answers_is_a_formula() -> None:
    hostile = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1+1"]
    harmless = ["-3", "+4.5", "-1,000.25", "-2e-7", "5%", "a=b", "", "'quoted"]
    written = table.write_table(["=HYPERLINK(1)", "n"], [{"=HYPERLINK(1)": cell} for cell in [*hostile, *harmless]])
    (head, _), *rows = csv.reader(io.StringIO(written, newline=""))
    cells = [row[0] for row in rows]
    assert head == "'=HYPERLINK(1)"
    assert cells == [f"'{cell}" for cell in hostile] + harmless


def test_what_guidance_says_is_shown(work: Workbench) -> None:
    (made,) = work.engine.make([NAMES[0]]).result(30)
    assert made.confidence is None and cards.UNCALIBRATED in cards.made(made, [], None)
    near = tuple(Neighbour(f"t{number}", f"says {number}", 0.9 - number / 10) for number in range(6))
    sure = replace(made, confidence=Confidence(0.875, 0.5, {}, near), warnings=("Mind this.",))
    tips = [finding.advice for finding in findings("Do the task.")]
    shown = cards.made(sure, tips, ("Do it so.", 0.95))
    assert re.findall(r'wb-near" title="(\w+)"', shown) == ["t0", "t1", "t2", "t3"]
    assert (
        "88%" in shown
        and Confidence(0.875, 0.5, {}, near).in_words()[1:] in shown
        and "0.90" in shown
        and "Mind this." in shown
    )
    assert tips and all(cards.escaped(tip) in shown for tip in tips) and cards.UNCALIBRATED not in shown
    assert "Do it so. (confidence 95%)" in shown
    unsure = cards.made(replace(sure, confidence=Confidence(0.1, -0.1, {}, near)), [], None)
    assert "low, the adapter may be no help" in unsure


def test_the_cosine_of_two_adapters_is_that_of_their_changes(engine: Engine) -> None:
    one, two = (made.adapter for made in engine.make(NAMES[:2]).result(30))
    flat = [torch.cat([a.delta(path).double().flatten() for path in a.spec.module_paths()]) for a in (one, two)]
    assert cosine(one, two) == pytest.approx(float(torch.cosine_similarity(flat[0], flat[1], dim=0)), abs=1e-6)
    assert cosine(one, scale(one, -2)) == pytest.approx(-1) and cosine(one, scale(two, 0.0)) == 0
    with pytest.raises(T2LError, match="other modules"):
        cosine(one, _other_modules(combine([two])))


def _other_modules(adapter: Any) -> Any:
    from t2l.adapter import Adapter
    from t2l.lora import LoraWeights

    (first, *_) = adapter.spec.groups
    weights = LoraWeights({first.key: adapter.weights.a[first.key]}, {first.key: adapter.weights.b[first.key]})
    return Adapter(replace(adapter.spec, groups=(first,)), weights)


# --- the page's server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(world: Any) -> Iterator[httpx.Client]:
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    from t2l.workbench.app import add_workbench

    engine = Engine(*world, Limits(slots=2, context=100))
    options = HttpOptions(drain_s=0, api_keys=["secret"])
    client = httpx.Client(auth=("me", "secret"), timeout=60, follow_redirects=True)
    with client, live(engine, options, extend=lambda app: add_workbench(app, Workbench(engine))) as address:
        client.base_url = address
        yield client


def test_the_page_names_no_other_host_and_its_browser_asks_for_the_key(page: httpx.Client) -> None:
    html = page.get("/")
    assert html.status_code == 200 and str(html.url).endswith("/workbench/")
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="([^"]+)"', html.text)
    assert loaded and not [link for link in loaded if re.match(r"(https?:)?//", link)]
    assert "default-src 'self'" in html.headers["content-security-policy"]
    assert "font-face" not in page.get("/workbench/theme.css").text and "fonts.g" not in html.text
    assert 'analytics_enabled":false' in html.text.replace(" ", "")
    assert page.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    for headers in ({}, {"Authorization": "Basic bm90OnJpZ2h0"}, {"Authorization": "Basic ?"}):
        refused = httpx.get(f"{page.base_url}/workbench/", headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    assert httpx.get(f"{page.base_url}/v1/models").headers["www-authenticate"] == "Bearer"


def steps_of(page: httpx.Client) -> list[Any]:
    """The steps of the page and the components of its fields, as any browser is told."""
    config = page.get("/workbench/config").json()
    components = {component["id"]: component for component in config["components"]}
    return [
        (step["id"], [components[number] for number in step["inputs"]])
        for step in config["dependencies"]
        if step["backend_fn"]
    ]


def what_comes_of(page: httpx.Client, number: int, data: list[Any]) -> tuple[int, str]:
    """The status of a step that is asked, and everything that comes back: its messages and the files they name."""
    session = f"s{next(SESSIONS)}"
    body = {"fn_index": number, "session_hash": session, "data": data, "event_data": None, "trigger_id": None}
    asked = page.post("/workbench/gradio_api/queue/join", json=body)
    said = asked.text
    if asked.status_code == 200:
        with page.stream("GET", f"/workbench/gradio_api/queue/data?session_hash={session}") as events:
            for line in events.iter_lines():
                said += line
                if "process_completed" in line or "close_stream" in line:
                    break
    for address in re.findall(r"/gradio_api/file=[^\"\\\\ ]+", said):
        said += page.get(f"/workbench{address}").text
    return asked.status_code, said


def a_fitting_value(component: Any) -> Any:
    props = component["props"]
    text = "input,expected\nred,blue\nblue,red\n" if props.get("lines") == 8 else NAMES[0]
    known = {"textbox": text, "slider": props.get("value"), "radio": props.get("value"), "checkbox": False}
    return known.get(component["type"])


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of another server on this machine, and what was asked of it."""
    asked: list[str] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/secret.csv", asked
        server.shutdown()
        thread.join()


def test_no_step_of_the_page_gives_a_file_away_or_fetches_an_address(
    page: httpx.Client, tmp_path: Path, elsewhere: tuple[str, list[str]]
) -> None:
    (tmp_path / "secret.csv").write_text(SECRET)
    address, fetched = elsewhere
    meta = {"meta": {"_type": "gradio.FileData"}}
    hostile: list[Any] = [{"path": path, **meta} for path in ("/etc/hostname", str(tmp_path / "secret.csv"))]
    hostile += [{"path": address, "url": address, **meta}, [hostile[1]], {"a": hostile[1]}]
    steps = steps_of(page)
    assert len(steps) >= 15
    for number, fields in steps:
        fitting = [a_fitting_value(field) for field in fields]
        for place in range(len(fields) or 1):
            for value in hostile if place == 0 else hostile[:1]:
                status, said = what_comes_of(page, number, [*fitting[:place], value, *fitting[place + 1 :]])
                assert SECRET not in said and Path("/etc/hostname").read_text() not in said
                assert status == 400, f"step {number} took {value}"
    assert fetched == []


def test_nothing_can_be_uploaded(page: httpx.Client) -> None:
    files = {"files": ("x.csv", b"input\nx\n")}
    assert page.post("/workbench/gradio_api/upload", files=files).status_code == 404
    assert page.post("/workbench/gradio_api/upload/", files=files).status_code == 404
    assert "uploadbutton" not in {component["type"] for component in page.get("/workbench/config").json()["components"]}


def test_gradio_behind_the_gate_opens_no_path_either(world: Any, tmp_path: Path) -> None:
    """The second lock, tried without the first."""
    gr = pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    from t2l.workbench.app import PATH, add_workbench

    (tmp_path / "secret.csv").write_text(SECRET)
    engine = Engine(*world, Limits(slots=2, context=100))

    def without_gate(app: Any) -> None:
        add_workbench(app, Workbench(engine))
        (mounted,) = [route for route in app.routes if getattr(route, "path", None) == PATH]
        mounted.app = mounted.app.behind
        assert isinstance(mounted.app, gr.routes.App)

    options = HttpOptions(drain_s=0)
    with live(engine, options, extend=without_gate) as address, httpx.Client(base_url=address, timeout=60) as page:
        show = next(number for number, fields in steps_of(page) if len(fields) == 3)
        file = {"path": str(tmp_path / "secret.csv"), "meta": {"_type": "gradio.FileData"}}
        _, said = what_comes_of(page, show, [file, "", 1])
        assert '"success":false' in said.replace(" ", "") and SECRET not in said


def test_every_step_of_the_page_can_be_asked_what_its_fields_hold(page: httpx.Client) -> None:
    for number, fields in steps_of(page):
        status, said = what_comes_of(page, number, [a_fitting_value(field) for field in fields])
        assert status == 200 and '"success":true' in said.replace(" ", ""), (number, said[-400:])


@pytest.mark.parametrize("visitors", [24, pytest.param(512, marks=pytest.mark.slow)])
def test_hundreds_wait_and_each_gets_its_answers(world: Any, visitors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is answered until all have asked; the rest of the server is not kept from answering."""
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    from t2l.workbench.app import add_workbench

    engine, free = Engine(*world, Limits(slots=8, context=100, max_waiting=20, timeout_s=600)), threading.Event()
    (made,) = engine.make([NAMES[0]]).result(30)
    wanted = [alone(engine, "red"), told(engine, NAMES[0], "red"), alone(engine, "red", made.adapter)]
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (free.wait(300), step(self)))
    limits = httpx.Limits(max_connections=100)

    async def visits(address: str) -> list[str]:
        async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

            async def ask(number: int) -> int:
                body = {"fn_index": answer, "session_hash": f"v{number}", "data": [NAMES[0], "red", 1, 8, 0, False]}
                return (await client.post("/workbench/gradio_api/queue/join", json=body)).status_code

            async def read(number: int) -> str:
                said, path = "", f"/workbench/gradio_api/queue/data?session_hash=v{number}"
                async with client.stream("GET", path) as events:
                    async for line in events.aiter_lines():
                        said = line if "process_completed" in line else said
                        if "process_completed" in line or "close_stream" in line:
                            break
                return said

            assert set(await asyncio.gather(*(ask(number) for number in range(visitors)))) == {200}
            begun = time.monotonic()
            assert (await client.get("/healthz")).status_code == 200 and time.monotonic() - begun < 10
            free.set()
            return await asyncio.gather(*(read(number) for number in range(visitors)))

    with live(engine, HttpOptions(drain_s=0), extend=lambda app: add_workbench(app, Workbench(engine))) as address:
        with httpx.Client(base_url=address, timeout=60) as client:
            answer = next(number for number, fields in steps_of(client) if len(fields) == 6)
        found = asyncio.run(visits(address))
        assert engine.stats()["active"] == engine.stats()["waiting"] == 0
    answered = [json.loads(line.removeprefix("data: "))["output"]["data"][0] for line in found]
    assert [said(shown) for shown in answered] == [wanted] * visitors  # all of them, after those before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"fn_index": 10**6}, "fn_index"),
        ({"fn_index": -1}, "fn_index"),
        ({"fn_index": True}, "fn_index"),
        ({"fn_index": None, "api_name": "show"}, "fn_index"),
        ({"session_hash": None}, "session_hash"),
        ({"session_hash": "../x"}, "session_hash"),
        ({"data": []}, "3 values"),
        ({"data": ["a"] * 100}, "3 values"),
        ({"data": None}, "3 values"),
        ({"data": ["x" * 8193, "", 1]}, "8193 characters"),
        ({"data": ["x", 7, 1]}, "text"),
        ({"data": ["x", "", 10**400]}, "between"),
        ({"data": ["x", "", True]}, "between"),
        ({"data": ["x", "y", 0.5, "no such way", "", 8, 0]}, "choice"),
        ({"data": ["x", "y", 0.5, 1, "", 8, 0]}, "choice"),
    ],
)
def test_what_no_field_can_hold_is_refused_in_a_sentence(
    page: httpx.Client, change: dict[str, Any], part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = 7 if "choice" in part else 3  # fields of the comparison, and of what is shown of a description
    number = next(number for number, fields in steps_of(page) if len(fields) == wanted)
    body = {"fn_index": number, "session_hash": "abc", "data": ["x", "", 1], **change}
    refused = page.post("/workbench/gradio_api/queue/join", json=body)
    assert refused.status_code == 400 and part in refused.text and len(refused.text) < 200
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"[" * 100_000, b'{"data": [NaN]}', b"\xff"])
def test_a_body_that_is_no_step_is_refused(page: httpx.Client, body: bytes) -> None:
    as_json = {"content-type": "application/json"}
    assert page.post("/workbench/gradio_api/queue/join", content=body, headers=as_json).status_code == 400


def test_a_step_is_json_so_that_no_form_of_another_page_can_be_one(page: httpx.Client) -> None:
    start = json.dumps({"fn_index": steps_of(page)[0][0], "session_hash": "form", "data": []})
    where = "/workbench/gradio_api/queue/join"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        refused = page.post(where, content=start.encode(), headers={"content-type": kind} if kind else {})
        assert refused.status_code == 400 and "Content-Type" in refused.text
    assert page.post(where, content=start.encode(), headers={"content-type": "application/json"}).status_code in (
        200,
        400,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/proxy=http://127.0.0.1:1/x",
        "/file=/etc/passwd",
        "/file/etc/passwd",
        "/monitoring",
        "/gradio_api/openapi.json",
        "/gradio_api/call/x",
        "/gradio_api/run/predict",
        "/gradio_api/mcp/sse",
        "/login",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2froutes.py",
        "/gradio_api/component_server",
    ],
)
def test_the_routes_that_no_page_needs_are_shut(page: httpx.Client, path: str) -> None:
    assert page.get(f"/workbench{path}").status_code in (403, 404)
    assert page.post(f"/workbench{path}", json={}).status_code in (403, 404, 405)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_starts_says_where_stops_and_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, stop: signal.Signals
) -> None:
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    program = """
import socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        sys.stderr.write(f"LEAVES HOME: {address}\\n")
    return connect(self, address)
socket.socket.connect = guarded
find = socket.getaddrinfo
def asked(host, *rest, **more):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        sys.stderr.write(f"LEAVES HOME: {host}\\n")
    return find(host, *rest, **more)
socket.getaddrinfo = asked
sys.path.insert(0, TESTS)
from helpers import tiny_pair
from t2l import cli
from t2l.serving.engine import Engine
def small(checkpoint, base, *, device, limits, store):
    return Engine(*tiny_pair(["task"]), limits, store=store)
Engine.from_pretrained = small
cli.app(["workbench", "--port", "0"])
"""
    program = program.replace("TESTS", repr(str(Path(__file__).parent)))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/workbench", line):
                break
        else:
            raise AssertionError(said)
        assert "Ctrl-C stops" in line
        for _ in range(400):
            try:
                answer = httpx.get(f"{found[0]}/", timeout=30)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        assert answer.status_code == 200
        large = {"files": ("x.csv", b"input\n" + b"x" * 900_000)}
        for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/upload?upload_id=1"):
            assert httpx.post(f"{found[0]}{path}", files=large, timeout=30).status_code in (400, 404)
        assert [path for path in temporary.rglob("*") if path.is_file()] == []
        process.send_signal(stop)
        said += process.stderr.read()
        process.wait(30)
    finally:
        process.kill()
        process.communicate()
    assert "LEAVES HOME" not in said and "Traceback" not in said, said
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def test_without_gradio_the_command_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, ["workbench"])
    assert result.exit_code == 2 and "needs gradio" in result.stderr
    assert "pip install 't2l[workbench]'" in result.stderr


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["workbench", "--port", str(taken.getsockname()[1])]
        result = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, words)
    assert result.exit_code == 2 and "--port" in result.stderr
