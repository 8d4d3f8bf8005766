"""The page: which fields there are, and which of `Workbench`'s steps each of them sets off.

Level 6. Layout, wiring and looks alone; needs the extra ``workbench``. Gradio gives every visitor fields of their own,
and nothing else is kept, so nobody sees what another one types.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils import colors, sizes

from t2l.demo.gallery import offered
from t2l.demo.measure import kept
from t2l.demo.tasks import demo_tasks
from t2l.errors import T2LError
from t2l.serving.engine import Engine
from t2l.workbench import cards
from t2l.workbench.learn import MOST_STEPS
from t2l.workbench.work import NO_INPUT, NOTHING_YET, Asked, Workbench

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -10 48 48" fill="#0f766e">'
    '<rect width="11" height="28" rx="2.5"/><rect x="16" width="28" height="11" rx="2.5"/>'
    '<rect x="16" y="14" width="28" height="14" rx="2.5" opacity=".3"/></svg>'
)
"""Two thin matrices and the square they make: the page's icon."""

_MARGINS = (
    ".gradio-container{padding:20px 20px 48px!important}"
    "@media(max-width:640px){.gradio-container{padding:0!important}"
    ".gradio-container>.main{padding:12px 14px 28px!important}}"
)
_MOST_CHARS = 8192
_MOST_EXAMPLES = 12
_LEARN_DESCRIPTION = "Say which team the ticket is for: billing, login or delivery."
_LEARN_EXAMPLES = """input,expected
I was charged twice this month.,billing
My password link has expired.,login
The parcel should have been here on Monday.,delivery
Please send me the invoice again.,billing
It says my account is locked.,login
The box came without the charger.,delivery
Why is my bill higher than last month?,billing
I cannot sign in on my new phone.,login
Where is my order?,delivery
I want my money back for March.,billing
The code for signing in never arrives.,login
The driver left it at the wrong door.,delivery
"""
_BATCH_DESCRIPTION = "Say whether the review is positive or negative."
_BATCH_INPUTS = """input,expected
The soup was cold and the waiter was rude.,negative
We will be back!,positive
Broke after two days.,negative
"Friendly people, fair prices.",positive
"""
_BARE: dict[str, Any] = {"padding": False, "apply_default_css": False}  # cards bring their own style
_LIVE: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_limit": None,
    "api_visibility": "private",
}


@dataclass(frozen=True)
class PageExample:
    """A description, an input for it, and the few words that name it."""

    title: str
    description: str
    text: str


def examples_for(engine: Engine) -> list[PageExample]:
    """People's tasks to begin with, then the gallery's; with scores, where they were measured on this checkpoint."""
    measured = kept(engine.t2l, engine.base)
    if measured is None:
        tasks = demo_tasks()[:_MOST_EXAMPLES]
        return [PageExample(_title(task.name), task.description, task.examples[0].text) for task in tasks]
    return [PageExample(title, task["description"], task["examples"][0]["input"]) for task, title in offered(measured)]


def _title(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"


def build(work: Workbench) -> gr.Blocks:
    """The page as Gradio's blocks; nothing runs yet."""
    engine = work.engine
    spec = engine.t2l.spec
    examples = examples_for(engine)
    modules = ", ".join(dict.fromkeys(group.key for group in spec.groups))
    facts = [f"rank {spec.rank}", modules]
    with gr.Blocks(title="t2l workbench", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(cards.header(engine.name, facts), **_BARE)
        with gr.Tabs():
            with gr.Tab("Try"):
                _try(page, work, examples)
            with gr.Tab("Compare"):
                _compare(work, examples)
            with gr.Tab("Examples"):
                _learn(work)
            with gr.Tab("Batch"):
                _batch(work)
    page.queue(default_concurrency_limit=None, max_size=512, api_open=False)
    return page


def _try(page: gr.Blocks, work: Workbench, examples: Sequence[PageExample]) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            description = _description("Task description", "live-description")
            with gr.Row(elem_classes="wb-gallery"):
                chips = [gr.Button(example.title, size="sm") for example in examples]
            about = gr.HTML(cards.hint(NOTHING_YET), **_BARE)
        with gr.Column(scale=7, min_width=320):
            text = gr.Textbox(label="Input", lines=1, max_lines=8, max_length=_MOST_CHARS, elem_id="live-input")
            with gr.Row(equal_height=True):
                strength = gr.Slider(
                    -1, 3, value=1, step=0.05, label="Strength", info="0 is the base, 1 the adapter", scale=3
                )
                ask = gr.Button("Answer", variant="primary", scale=1, min_width=110, elem_id="read-input")
            all_ways = gr.Checkbox(
                label="All ways",
                info="Also with the task in the prompt: beside the adapter, and of one LoRA for all tasks",
                elem_id="all-ways",
            )
            answers = gr.HTML(cards.hint(NO_INPUT), **_BARE, elem_id="answers")
            with gr.Accordion("Sampling", open=False):
                asked = _sampling(work)
            norms = gr.HTML(cards.hint("No adapter yet."), **_BARE, elem_id="norms")
            links = gr.HTML("", **_BARE)
    with gr.Accordion("Use it from code", open=False), gr.Tabs():
        with gr.Tab("Python"):
            python = gr.Code(language="python", interactive=False, show_label=False)
        with gr.Tab("curl"):
            curl = gr.Code(language="shell", interactive=False, show_label=False)
        with gr.Tab("Command line"):
            shell = gr.Code(language="shell", interactive=False, show_label=False)
    read = gr.Button("Read the description", elem_id="read-description", elem_classes="wb-unseen")

    async def show(description: str, text: str, strength: float, request: gr.Request) -> tuple[str, ...]:
        shown = await work.show(description, text, float(strength), _address(request))
        return shown.about, shown.norms, shown.links, shown.python, shown.curl, shown.shell

    async def answer(
        description: str, text: str, strength: float, max_tokens: float, temperature: float, all_ways: bool
    ) -> AsyncIterator[str]:
        how = Asked(int(max_tokens), temperature)
        async for shown in work.answer(description, text, float(strength), how, all_ways):
            yield shown

    given = [description, text, strength]
    shown = {"fn": show, "inputs": given, "outputs": [about, norms, links, python, curl, shell]}
    answered = {"fn": answer, "inputs": [*given, *asked, all_ways], "outputs": answers}
    triggers = [read.click, description.submit, text.submit, ask.click, strength.release, all_ways.change]
    gr.on(triggers, **shown, **_LIVE).then(**answered, **_LIVE)

    def opened(request: gr.Request) -> tuple[str, str]:
        """What the address asks for, or the first example."""
        asked_for = dict(request.query_params)
        first = examples[0]
        if "description" not in asked_for:
            return first.description, first.text
        return asked_for["description"][:_MOST_CHARS], asked_for.get("input", "")[:_MOST_CHARS]

    starts = [page.load(opened, None, [description, text], **_LIVE)]
    for chip, example in zip(chips, examples, strict=True):
        starts.append(chip.click(lambda e=example: (e.description, e.text), None, [description, text], **_LIVE))
    for start in starts:
        start.then(**shown, **_LIVE).then(**answered, **_LIVE)


def _compare(work: Workbench, examples: Sequence[PageExample]) -> None:
    first, second = examples[1], examples[2]
    with gr.Row():
        one = _description("Description A", "compare-a", first.description)
        two = _description("Description B", "compare-b", second.description)
    text = gr.Textbox(label="Input", value=first.text, max_length=_MOST_CHARS, elem_id="compare-input")
    with gr.Row(equal_height=True):
        share = gr.Slider(0, 1, value=0.5, step=0.05, label="Between", info="0 is A, 1 is B", scale=3)
        method = gr.Radio(
            [("descriptions", "features"), ("weights", "svd")],
            value="features",
            label="Blend",
            info="before or after there are weights",
            scale=2,
        )
        run = gr.Button("Compare", variant="primary", scale=1, min_width=120, elem_id="compare-run")
    with gr.Accordion("Sampling", open=False):
        asked = _sampling(work)
    answers = gr.HTML(cards.hint("Two descriptions, one input, and an adapter between them."), **_BARE)
    below = gr.HTML("", **_BARE)

    async def compare(
        one: str, two: str, share: float, method: Any, text: str, max_tokens: float, temperature: float
    ) -> AsyncIterator[tuple[str, str]]:
        async for shown in work.compare(one, two, float(share), method, text, Asked(int(max_tokens), temperature)):
            yield shown

    triggers = [run.click, one.submit, two.submit, text.submit, share.release, method.input]
    gr.on(triggers, compare, [one, two, share, method, text, *asked], [answers, below], **_LIVE)


def _learn(work: Workbench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            description = _description("Task description", "learn-description", _LEARN_DESCRIPTION)
            text = gr.Textbox(
                label="Examples",
                info="CSV with the columns 'input' and 'expected'. From ten on, every fifth is held out.",
                value=_LEARN_EXAMPLES,
                lines=8,
                max_lines=16,
                elem_id="learn-examples",
            )
            steps = gr.Slider(1, MOST_STEPS, value=20, step=1, label="Steps")
            with gr.Row():
                stop = gr.Button("Stop", min_width=90)
                run = gr.Button("Learn", variant="primary", min_width=110, elem_id="learn-run")
            with gr.Accordion("Sampling", open=False):
                asked = _sampling(work)
        with gr.Column(scale=7, min_width=320):
            shown = gr.HTML(cards.hint("A few examples do more than any wording."), **_BARE, elem_id="learned")
            link = gr.HTML("", **_BARE)

    async def learn(
        description: str, text: str, steps: float, max_tokens: float, temperature: float
    ) -> AsyncIterator[tuple[str, str]]:
        async for both in work.learn(description, text, int(steps), Asked(int(max_tokens), temperature)):
            yield both

    started = run.click(learn, [description, text, steps, *asked], [shown, link], **_LIVE)
    stop.click(None, cancels=[started], api_visibility="private")


def _batch(work: Workbench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            description = _description("Task description", "batch-description", _BATCH_DESCRIPTION)
            text = gr.Textbox(
                label="Inputs",
                info="One a line, or CSV with a column 'input'. 'expected' is checked; 'description' is for its row.",
                value=_BATCH_INPUTS,
                lines=8,
                max_lines=16,
                elem_id="batch-inputs",
            )
            strength = gr.Slider(-1, 3, value=1, step=0.05, label="Strength")
            with gr.Row():
                gr.HTML(cards.file_button("Load CSV", into="batch-inputs"), **_BARE)
                stop = gr.Button("Stop", min_width=90)
                run = gr.Button("Answer all", variant="primary", min_width=110)
            with gr.Accordion("Sampling", open=False):
                asked = _sampling(work)
        with gr.Column(scale=7, min_width=320):
            filled = gr.HTML(
                cards.hint("Three answers a row, as on the first page."),
                **_BARE,
            )
            link = gr.HTML("", **_BARE)

    async def batch(
        description: str, text: str, strength: float, max_tokens: float, temperature: float
    ) -> AsyncIterator[tuple[str, str]]:
        async for shown in work.batch(description, float(strength), text, Asked(int(max_tokens), temperature)):
            yield shown

    started = run.click(batch, [description, text, strength, *asked], [filled, link], **_LIVE)
    stop.click(None, cancels=[started], api_visibility="private")


def _description(label: str, elem_id: str, value: str = "") -> gr.Textbox:
    return gr.Textbox(
        label=label,
        value=value,
        placeholder="Say what the model should do with its input.",
        lines=2,
        max_lines=10,
        max_length=_MOST_CHARS,
        elem_id=elem_id,
    )


def _sampling(work: Workbench) -> list[gr.Slider]:
    most = min(work.engine.limits.max_tokens, max(16, work.engine.context - 32))
    with gr.Row():
        return [
            gr.Slider(1, most, value=min(64, most), step=1, label="Longest answer", info="tokens"),
            gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 is greedy"),
        ]


def _address(request: gr.Request) -> str:
    """As the browser names the server; loopback where it names nothing usable."""
    try:
        return cards.address_of(request.url.scheme, request.headers.get("host", ""))
    except T2LError:
        return "http://127.0.0.1:8008"


# --- how it looks: Gradio's variables in our colours, fonts that the visitor's system has ---------------------------


def theme() -> Base:
    """Gradio's theme object."""
    return Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=["sans-serif"],
        font_mono=["monospace"],
    ).set(
        block_radius="12px",
        container_radius="12px",
        input_radius="8px",
        button_large_radius="8px",
        button_medium_radius="8px",
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0b1120",
        block_background_fill="white",
        block_background_fill_dark="#111a2e",
        block_border_color="*neutral_200",
        block_border_color_dark="#22304a",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_shadow="0 1px 2px rgb(15 23 42 / 5%)",
        block_shadow_dark="none",
        input_background_fill="white",
        input_background_fill_dark="#0d1526",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="#16213a",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="#22304a",
        color_accent="#0f766e",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
    )


def css() -> str:
    """The style sheet of the cards."""
    return (resources.files("t2l.workbench") / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """The page's own script, inline, and its margins: Gradio rewrites the selectors of a style sheet, but not these."""
    script = (resources.files("t2l.workbench") / "page.js").read_text(encoding="utf-8")
    return f"<style>{_MARGINS}</style><script>{script}</script>"
