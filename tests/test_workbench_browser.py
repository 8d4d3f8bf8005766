"""The workbench in a real Chromium: what people do there works, nothing leaves the machine, and nobody is shut out."""

from __future__ import annotations

import csv
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live_server import live
from t2l.adapter import Adapter
from t2l.data.prompts import prompt_text
from t2l.errors import T2LError
from t2l.serving.engine import Engine, Limits
from t2l.serving.sampling import Sampling
from t2l.workbench.page import examples_for
from t2l.workbench.work import Workbench

pytestmark = pytest.mark.slow
WAIT_MS = 180_000
NASTY = '<img src=x onerror="window.broken=1">\'${window.broken=2}{{7*7}}<script>window.broken=3</script>'


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        return Engine.from_pretrained(limits=Limits(slots=8, context=400, max_tokens=200))
    except T2LError as problem:
        pytest.skip(f"needs the assets of the micro world: {problem.message}")


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    from t2l.workbench.app import PATH, add_workbench

    with live(engine, extend=lambda app: add_workbench(app, Workbench(engine))) as host:
        yield f"{host}{PATH}/"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra 'dev'")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs a Chromium on the PATH (Debian: apt-get install chromium)")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def nobody_stays(chromium: Any) -> Iterator[None]:
    """A visit that went wrong does not hold up the next one."""
    yield
    for context in chromium.contexts:
        context.close()


class Visit:
    """A visitor's page, and what went wrong on it or left for another host."""

    def __init__(self, browser: Any, address: str, query: str = "", **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        home = re.compile(re.escape(address.split("/workbench")[0]) + "/|(data|blob|about):")
        self.page.on("request", lambda r: None if home.match(r.url) else self.elsewhere.append(r.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(address + query)
        self.page.locator("#answers .wb-foot").first.wait_for()

    def answers(self) -> list[str]:
        return self.page.locator("#answers .wb-said").all_inner_texts()

    def until(self, wanted: list[str]) -> None:
        """Waits until these are the answers."""
        script = "w => { const a = [...document.querySelectorAll('#answers .wb-said')].map(e => e.innerText);"
        script += " return a.length == w.length && a.every((t, i) => t == w[i]) }"
        self.page.wait_for_function(script, arg=wanted)

    def field(self, label: str) -> Any:
        return self.page.get_by_label(label, exact=True).locator("visible=true").first

    def leave(self) -> None:
        self.context.close()
        assert self.elsewhere == [] and self.errors == []


def expected(engine: Engine, description: str, text: str) -> list[str]:
    (made,) = engine.make([description]).result(60)
    options, told = Sampling(max_tokens=64), prompt_text(text, description, included=True)
    alone = [engine.chat(words, options).text for words in (text, told)]
    return [*alone, engine.chat(text, options, adapter=made.adapter).text]


def test_a_description_is_read_while_it_is_typed_and_all_stays_here(
    chromium: Any, address: str, engine: Engine
) -> None:
    visit = Visit(chromium, address)
    first = examples_for(engine)[0]
    visit.until(expected(engine, first.description, first.text))
    visit.page.locator(".wb-near").first.wait_for()
    assert re.search(r"ms", visit.page.locator(".wb-big").inner_text())
    before = visit.page.locator("#norms .wb-cell").all_inner_texts()
    visit.field("Task description").fill("")
    visit.field("Task description").press_sequentially("Translate the English word into Spanish.")
    visit.field("Input").fill("house")
    visit.field("Input").press("Enter")
    visit.until(expected(engine, "Translate the English word into Spanish.", "house"))
    assert visit.page.locator("#norms .wb-cell").all_inner_texts() != before
    second = examples_for(engine)[1]
    visit.page.get_by_role("button", name=second.title, exact=True).click()
    visit.until(expected(engine, second.description, second.text))
    visit.leave()


def test_a_strength_of_zero_is_the_base_and_the_download_is_the_adapter(
    chromium: Any, address: str, engine: Engine, tmp_path: Path
) -> None:
    visit = Visit(chromium, address)
    first = examples_for(engine)[0]
    base, told, adapted = expected(engine, first.description, first.text)
    visit.until([base, told, adapted])
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download the adapter").locator("visible=true").click()
    zipfile.ZipFile(download.value.path()).extractall(tmp_path)
    (made,) = engine.make([first.description]).result(60)
    assert Adapter.load(tmp_path / made.kept.id).digest == made.adapter.digest
    slider = visit.page.get_by_role("slider").locator("visible=true").first
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    slider.blur()
    visit.page.get_by_role("button", name="Answer", exact=True).click()
    visit.until([base, told, base])
    visit.page.get_by_text("Use it from code").click()
    assert "task_description" in visit.page.locator(".cm-content").first.inner_text()
    visit.leave()


def test_several_people_do_not_meet(chromium: Any, address: str, engine: Engine) -> None:
    asked = [(example.description, example.text) for example in examples_for(engine)[:4]]
    visits = [Visit(chromium, address) for _ in asked]
    for visit, (description, text) in zip(visits, asked, strict=True):
        visit.field("Task description").fill(description)
        visit.field("Input").fill(text)
    for visit in visits:
        visit.field("Input").press("Enter")
    for visit, (description, text) in zip(visits, asked, strict=True):
        visit.until(expected(engine, description, text))
        assert visit.field("Task description").input_value() == description
    for visit in visits:
        visit.leave()


def test_what_is_written_stays_text(chromium: Any, address: str) -> None:
    """Through the address, every field, a table, and the name and the text of a file."""
    from urllib.parse import urlencode

    visit = Visit(chromium, address, "?" + urlencode({"description": NASTY, "input": NASTY}))
    assert visit.field("Task description").input_value() == NASTY
    visit.page.get_by_role("tab", name="Compare").click()
    for place in ("compare-a", "compare-b", "compare-input"):
        visit.page.locator(f"#{place} textarea, #{place} input").first.fill(NASTY)
    visit.page.locator("#compare-run").click()
    visit.page.get_by_text("cosine of the two weight changes").wait_for()
    visit.page.get_by_role("tab", name="Batch").click()
    table = f'input,expected,"{NASTY.replace(chr(34), chr(34) * 2)}"\n{NASTY},{NASTY},{NASTY}\n'
    visit.page.locator("input[type=file]").first.set_input_files(
        {"name": NASTY.replace("/", "_") + ".csv", "mimeType": "text/csv", "buffer": table.encode()}
    )
    visit.page.wait_for_function("() => document.querySelector('#batch-inputs textarea').value.includes('onerror')")
    visit.page.get_by_role("button", name="Answer all").click()
    visit.page.get_by_role("link", name="Download as CSV").wait_for()
    assert visit.page.locator("table.wb-batch td").first.inner_text() == NASTY
    assert NASTY in visit.page.locator("table.wb-batch th").all_inner_texts()
    visit.page.locator("input[type=file]").first.set_input_files(
        {"name": NASTY.replace("/", "_"), "mimeType": "text/csv", "buffer": b"\xff" + NASTY.encode()}
    )
    visit.page.get_by_text("not UTF-8").wait_for()
    visit.page.get_by_role("tab", name="Examples").click()
    visit.page.locator("#learn-examples textarea").fill(f"input,expected\n{NASTY},\n")
    visit.page.locator("#learn-run").click()
    visit.page.locator("#learned [role=alert]").wait_for()
    assert visit.page.evaluate("window.broken") is None
    assert visit.page.locator("img[src='x']").count() == 0
    visit.leave()


def test_two_descriptions_are_compared(chromium: Any, address: str) -> None:
    visit = Visit(chromium, address)
    visit.page.get_by_role("tab", name="Compare").click()
    visit.page.locator("#compare-run").click()
    cards = visit.page.locator(".wb-answer").locator("visible=true")
    visit.page.get_by_text("cosine of the two weight changes").wait_for()
    assert cards.locator("h3").all_inner_texts() == ["Base", "A", "50% A, 50% B", "B"]
    assert visit.page.locator(".wb-heat").locator("visible=true").count() == 2
    visit.leave()


def test_a_table_goes_in_and_out(chromium: Any, address: str, engine: Engine) -> None:
    visit = Visit(chromium, address)
    visit.page.get_by_role("tab", name="Batch").click()
    visit.field("Task description").fill("Add 3 to the number.")
    rows = "input;expected;note\r\n14;17;a\r\n39;42;b\r\n"
    visit.page.locator("input[type=file]").first.set_input_files(
        {"name": "mine.csv", "mimeType": "text/csv", "buffer": rows.encode("utf-8-sig")}
    )
    visit.page.wait_for_function("() => document.querySelector('#batch-inputs textarea').value.includes('note')")
    visit.page.get_by_role("button", name="Answer all").click()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download as CSV").click()
    read = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"))))
    assert [row["note"] for row in read] == ["a", "b"]
    for row in read:
        assert [row["base"], row["prompted"], row["adapted"]] == expected(engine, "Add 3 to the number.", row["input"])
    assert visit.page.locator("td.wb-right, td.wb-wrong").count() == 6
    visit.leave()


def test_it_works_by_keyboard_alone(chromium: Any, address: str, engine: Engine) -> None:
    visit = Visit(chromium, address)
    reached = []
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        told = visit.page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, e.getAttribute('role') || '', (e.innerText || e.ariaLabel || '').trim(),"
            " e.closest('[id]') ? e.closest('[id]').id : '', s.outlineStyle != 'none' || s.boxShadow != 'none'] }"
        )
        reached.append(told)
    names = [text for _, _, text, _, _ in reached]
    places = [place for _, _, _, place, _ in reached]
    titles = {example.title for example in examples_for(engine)}
    assert {"Answer", *titles} <= set(names)
    assert any("live-description" in place for place in places) and any("live-input" in place for place in places)
    assert all(seen for tag, _, text, _, seen in reached if tag == "BUTTON" and text in ("Answer", *titles))
    visit.leave()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone_by_day_and_by_night(chromium: Any, address: str, scheme: str) -> None:
    visit = Visit(chromium, address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for tab in ("Try", "Compare", "Batch"):
        visit.page.get_by_role("tab", name=tab, exact=True).click()
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    visit.page.get_by_role("tab", name="Try", exact=True).click()
    ratios = visit.page.evaluate(CONTRASTS)
    assert len(ratios) > 10 and all(ratio >= 4.5 for _, ratio in ratios), [r for r in ratios if r[1] < 4.5]
    back = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", back)[:3])
    assert (brightness > 600) == (scheme == "light"), back
    visit.leave()


CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data] };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c } return rgb('white') };
  return [...document.querySelectorAll('.wb-answer h3, .wb-said, .wb-foot, .wb-how, .wb-id, .wb-text, .wb-num,'
    + '.wb-cell, .wb-hint, .wb-chip, .wb-get, .wb-top p')].filter(e => e.offsetParent && e.innerText.trim()).map(e => {
    const a = light(rgb(getComputedStyle(e).color)) + 0.05, b = light(ground(e)) + 0.05;
    return [e.className + ': ' + e.innerText.slice(0, 20), Math.max(a, b) / Math.min(a, b)] })
}"""
