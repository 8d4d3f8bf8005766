"""What the page's buttons do: values of fields in, HTML out, step by step where answers stream.

Level 6. This file knows the engine and no Gradio. It keeps nothing of a visitor between calls: an adapter that somebody
looked at is found again by its description, or made again where it had to make room.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from t2l import composition, inspection
from t2l.adapter import Adapter
from t2l.comparison import ROWS
from t2l.composition import conform
from t2l.data.prompts import prompt_text
from t2l.errors import T2LError
from t2l.guidance.wording import findings
from t2l.model import reading_lora
from t2l.serving.engine import Engine
from t2l.serving.errors import BusyError, RequestError
from t2l.serving.maker import Combination, CombineMethod, Made, check_request
from t2l.serving.prompts import chat_tokens
from t2l.serving.sampling import Sampling
from t2l.serving.stream import Stream
from t2l.workbench import cards, table
from t2l.workbench.cards import AnswerCard
from t2l.workbench.learn import learn

_SHOWN_EVERY_S = 0.06
_TABLE_EVERY_S = 0.3
NOTHING_YET = "Describe a task first."
NO_INPUT = "Write an input to see the base, the base told the task, and the adapter answer it side by side."
_ALONE, _TOLD, _ADAPTED = (f"{label[:1].upper()}{label[1:]}" for label in ROWS.values())
_BOTH, _READS = "With the adapter, told the task", "One LoRA for all tasks, told the task"

_Asked = tuple[str, Adapter | None, float]
"""A text, whose adapter answers it, and how strong that is."""


@dataclass(frozen=True)
class Asked:
    """How an answer is drawn; the page's fields below the input.

    Args:
        max_tokens: at most; the engine's own limit bounds it.
        temperature: 0 is greedy.
    """

    max_tokens: int = 64
    temperature: float = 0.0

    def sampling(self) -> Sampling:
        """The same for the engine; one seed, so that two columns draw alike."""
        return Sampling(max_tokens=int(self.max_tokens), temperature=float(self.temperature), seed=0)


@dataclass(frozen=True)
class Shown:
    """What is seen of an adapter as soon as its description is there."""

    about: str
    norms: str
    links: str
    python: str = ""
    curl: str = ""
    shell: str = ""


class Workbench:
    """The page's work on one engine; any number of visitors share it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def show(self, description: str, text: str, strength: float, address: str) -> Shown:
        """An adapter's figures, warnings, neighbours, heat map, and the code to use it."""
        if not description.strip():
            return Shown(cards.hint(NOTHING_YET), cards.hint("No adapter yet."), "")
        try:
            made = await self._made(description)
            rewrite = await self._rewrite(description, made)
            adapter = _scaled(made.adapter, strength)
            norms = await asyncio.to_thread(inspection.NormTable.of, adapter)
        except T2LError as error:
            return Shown(cards.problem(error), cards.hint("No adapter."), "")
        where = f"/v1/adapters/{made.kept.id}/download" + ("" if strength == 1 else f"?strength={strength:g}")
        spec = self.engine.t2l.spec
        size = f"rank {spec.rank}, {spec.num_parameters:,} parameters"
        example = text.strip() or "your input"
        return Shown(
            cards.made(made, [finding.advice for finding in findings(description)], rewrite),
            cards.heat_map(norms),
            cards.links([(f"Download the adapter ({size})", where, f"{made.kept.id}.zip")]),
            cards.python(address, self.engine.name, description, example, strength),
            cards.curl(address, description, example, strength),
            cards.shell(description, example, strength),
        )

    @cached_property
    def reading(self) -> Adapter | None:
        """The LoRA that reads descriptions, where one ships with the checkpoint."""
        folder = reading_lora(self.engine.t2l.folder)
        return None if folder is None else conform(Adapter.load(folder), self.engine.t2l.spec)

    async def answer(
        self, description: str, text: str, strength: float, asked: Asked, all_ways: bool = False
    ) -> AsyncIterator[str]:
        """The base, the base that reads the task in its prompt, and the adapted model, as they write.

        Args:
            all_ways: also the adapted model with the task in its prompt, and one LoRA that reads it, where it ships.
        """
        if not text.strip():
            yield cards.hint(NO_INPUT)
            return
        columns = [AnswerCard(_ALONE)]
        wanted: dict[int, _Asked] = {0: (text, None, 1.0)}
        if description.strip():
            columns += [AnswerCard(_TOLD), AnswerCard(_title(_ADAPTED, strength), accent=True)]
            told = prompt_text(text, description.strip(), included=True)
            wanted[1] = (told, None, 1.0)
            try:
                adapter = (await self._made(description)).adapter
                wanted[2] = (text, adapter, strength)
                if all_ways:
                    wanted[3] = (told, adapter, strength)
                    columns.append(AnswerCard(_title(_BOTH, strength)))
            except T2LError as error:
                columns[2] = replace(columns[2], error=error)
            if all_ways and (lora := await asyncio.to_thread(lambda: self.reading)) is not None:
                wanted[len(columns)] = (told, lora, 1.0)
                columns.append(AnswerCard(_READS))
        async for shown in self._streamed(columns, wanted, asked):
            yield shown

    async def compare(
        self, first: str, second: str, share: float, method: CombineMethod, text: str, asked: Asked
    ) -> AsyncIterator[tuple[str, str]]:
        """Two descriptions and what lies between them: answers, then how alike the adapters are."""
        if not (first.strip() and second.strip()):
            yield cards.hint("Describe two tasks to compare."), ""
            return
        try:
            one, two = await asyncio.wrap_future(await asyncio.to_thread(self.engine.make, [first, second]))
            blend = Combination([first, second], [1 - share, share], method)
            between = await asyncio.wrap_future(await asyncio.to_thread(self.engine.combine, blend))
            below = await asyncio.to_thread(self._likeness, one, two, between)
        except T2LError as error:
            yield cards.problem(error), ""
            return
        if not text.strip():
            yield cards.hint(NO_INPUT), below
            return
        names = ["Base", "A", f"{1 - share:.0%} A, {share:.0%} B", "B"]
        columns = [AnswerCard(name, accent=place == 2) for place, name in enumerate(names)]
        adapters = [None, one.adapter, between.adapter, two.adapter]
        wanted = {place: (text, adapter, 1.0) for place, adapter in enumerate(adapters)}
        async for shown in self._streamed(columns, wanted, asked):
            yield shown, below

    async def batch(self, description: str, strength: float, text: str, asked: Asked) -> AsyncIterator[tuple[str, str]]:
        """Every row of a table, answered in the three ways of `answer`: figures and table as they fill, then CSV."""
        try:
            given = await asyncio.to_thread(table.read_table, text)
            described = [row.get(table.DESCRIPTION, "").strip() or description.strip() for row in given.rows]
            if not all(described):
                raise T2LError(NOTHING_YET, "Or give each row its own in a column called 'description'.")
            check_request(list(dict.fromkeys(described)))
            made = await asyncio.wrap_future(await asyncio.to_thread(self.engine.make, described))
        except T2LError as error:
            yield cards.problem(error), ""
            return
        columns = [*given.columns, *table.ANSWERS]
        rows: list[dict[str, str | None]] = [{**row, **dict.fromkeys(table.ANSWERS)} for row in given.rows]
        checked = table.ANSWERS if given.checked else ()
        jobs: list[tuple[dict[str, str | None], str, _Asked]] = []
        for row, task, one in zip(rows, described, made, strict=True):
            text = str(row[table.INPUT])
            told = prompt_text(text, task, included=True)
            ways = ((text, None, 1.0), (told, None, 1.0), (text, one.adapter, strength))
            jobs += [(row, column, way) for column, way in zip(table.ANSWERS, ways, strict=True)]
        failed: list[T2LError] = []
        filled = ""
        async for answered in self._answered(jobs, asked, failed):
            numbers = [(f"{answered} of {len(jobs)}", "answers")]
            numbers += [_right(rows, column, f"right, {column}") for column in checked]
            filled = cards.figures(numbers) + _unanswered(failed) + cards.batch_table(rows, columns, checked)
            yield filled, ""
        data = base64.b64encode(b"\xef\xbb\xbf" + table.write_table(columns, rows).encode()).decode()
        link = cards.links([("Download as CSV", f"data:text/csv;charset=utf-8;base64,{data}", "answers.csv")])
        yield filled, link

    async def learn(self, description: str, text: str, steps: int, asked: Asked) -> AsyncIterator[tuple[str, str]]:
        """A better adapter from a table of inputs and outputs, then every row's answers under base and adapters."""
        reached = 0

        def report(step: int) -> None:
            nonlocal reached
            reached = step

        try:
            if not description.strip():
                raise T2LError(NOTHING_YET)
            given = await asyncio.to_thread(table.read_table, text)
            pairs = [(row[table.INPUT], row.get(table.EXPECTED, "")) for row in given.rows]
            made = await self._made(description)
            task = asyncio.create_task(asyncio.to_thread(learn, self.engine, description, pairs, steps, report))
            while not (await asyncio.wait([task], timeout=_TABLE_EVERY_S))[0]:
                yield cards.hint(f"Step {reached} of {steps}; others are answered meanwhile."), ""
            adapter, learned = task.result()
        except T2LError as error:
            yield cards.problem(error), ""
            return
        kept = self.engine.adapters.add(adapter)
        rows: list[dict[str, str | None]] = [
            {table.INPUT: question, table.EXPECTED: answer, "used": "held out" if number in learned.held else "learned"}
            for number, (question, answer) in enumerate(pairs)
        ]
        counted = [row for row in rows if row["used"] == "held out"] or rows
        where = ", held out" if len(counted) < len(rows) else ""
        ways = {"base": None, "described": made.adapter, "refined": adapter}
        for row in rows:
            row.update(dict.fromkeys(ways))
        jobs = [(row, way, (str(row[table.INPUT]), adapter, 1.0)) for row in rows for way, adapter in ways.items()]
        about, filled, failed = cards.learned(learned), "", []
        async for _ in self._answered(jobs, asked, failed):
            numbers = [_right(counted, way, f"right, {way}{where}") for way in ways]
            filled = cards.figures(numbers) + _unanswered(failed)
            filled += cards.batch_table(rows, [table.INPUT, table.EXPECTED, "used", *ways], [*ways])
            yield about + filled, ""
        size = f"rank {adapter.spec.rank}, {adapter.spec.num_parameters:,} parameters"
        link = cards.links([(f"Download the adapter ({size})", f"/v1/adapters/{kept.id}/download", f"{kept.id}.zip")])
        yield about + filled, link + cards.hint(f"On this server it answers to the name {kept.id}.")

    async def _answered(
        self, jobs: Sequence[tuple[dict[str, str | None], str, _Asked]], asked: Asked, failed: list[T2LError]
    ) -> AsyncIterator[int]:
        """Fills (row, column, ...) by (row, column); gives the number of answers now and then, and at the end."""
        waiting, answered = iter(jobs), 0

        async def worker() -> None:
            nonlocal answered
            for row, column, wanted in waiting:
                try:
                    row[column] = (await (await self._submit(wanted, asked)).aresult()).text
                except T2LError as error:
                    row[column] = ""
                    failed.append(error)
                answered += 1

        tasks = [asyncio.create_task(worker()) for _ in range(2 * self.engine.limits.slots)]
        try:
            pending = set(tasks)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_TABLE_EVERY_S)
                if pending:
                    yield answered
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
        yield answered

    async def _rewrite(self, description: str, made: Made) -> tuple[str, float] | None:
        """A nearly equal description that is trusted more, where there is one."""
        guide, told = self.engine.guide, made.confidence
        if guide is None or told is None:
            return None
        return await asyncio.wrap_future(self.engine.with_maker(lambda: guide.rewrite(description, told)))

    async def _made(self, description: str) -> Made:
        (made,) = await asyncio.wrap_future(await asyncio.to_thread(self.engine.make, [description]))
        return made

    async def _submit(self, wanted: _Asked, asked: Asked) -> Stream:
        """The answer's stream; where too many are waiting it waits in front of them, as long as a request may take."""
        text, adapter, strength = wanted
        messages, most = [{"role": "user", "content": text}], self.engine.most_characters
        prompt = await asyncio.to_thread(chat_tokens, self.engine.base_for(adapter), messages, most)
        until = time.monotonic() + self.engine.limits.timeout_s
        while True:
            try:
                return self.engine.submit(prompt, asked.sampling(), adapter=adapter, strength=strength)
            except BusyError as busy:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(min(busy.retry_after_s, 2.0))

    async def _streamed(
        self, columns: Sequence[AnswerCard], wanted: Mapping[int, _Asked], asked: Asked
    ) -> AsyncIterator[str]:
        """The columns as they fill; leaving early frees their slots."""
        now, changed = list(columns), asyncio.Event()
        streams: list[Stream] = []

        async def follow(place: int, way: _Asked) -> None:
            try:
                streams.append(stream := await self._submit(way, asked))
                async for piece in stream.apieces():
                    now[place] = replace(now[place], text=now[place].text + piece)
                    changed.set()
                now[place] = replace(now[place], completion=await stream.aresult())
            except T2LError as error:
                now[place] = replace(now[place], error=error)

        tasks = [asyncio.create_task(follow(place, way)) for place, way in wanted.items()]
        try:
            pending = set(tasks)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_SHOWN_EVERY_S)
                if pending and changed.is_set():
                    changed.clear()
                    yield cards.answers(now)
            for task in tasks:
                task.result()
            yield cards.answers(now)
        finally:
            for task in tasks:
                task.cancel()
            for stream in streams:
                if not stream.done:
                    stream.cancel()

    def _likeness(self, one: Made, two: Made, between: Made) -> str:
        tables = [inspection.NormTable.of(made.adapter) for made in (one, two)]
        top = max((norm for norms in tables for row in norms.norm_LM for norm in row if norm is not None), default=0.0)
        alike = inspection.cosine(one.adapter, two.adapter)
        numbers = [(f"{alike:.2f}", "cosine of the two weight changes")]
        numbers += [(f"{norms.total:.3g}", f"norm of {name}") for name, norms in zip("AB", tables, strict=True)]
        numbers.append((f"{between.milliseconds:.0f} ms", "to make the one between"))
        notes = "".join(cards.note(text) for text in between.warnings)
        maps = [cards.heat_map(norms, top=top or None, title=name) for name, norms in zip("AB", tables, strict=True)]
        where = f"/v1/adapters/{between.kept.id}/download"
        link = cards.links([("Download the adapter between", where, f"{between.kept.id}.zip")])
        return cards.figures(numbers) + notes + cards.side_by_side(maps) + link


def _scaled(adapter: Adapter, strength: float) -> Adapter:
    return adapter if strength == 1 else composition.scale(adapter, strength)


def _title(name: str, strength: float) -> str:
    return name if strength == 1 else f"{name}, strength {strength:g}"


def _right(rows: Sequence[Mapping[str, str | None]], column: str, label: str) -> tuple[str, str]:
    """How many of the answers that are there are the expected ones."""
    told = [row for row in rows if row.get(table.EXPECTED) and row[column] is not None]
    right = sum(str(row[column]).strip() == str(row[table.EXPECTED]).strip() for row in told)
    return f"{right} of {len(told)}", label


def _unanswered(failed: Sequence[T2LError]) -> str:
    return cards.problem(RequestError(f"{len(failed)} without an answer: {failed[0].message}")) if failed else ""
