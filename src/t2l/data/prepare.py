"""From sources of tasks to a finished store: what is omitted and why, which split, which prompt, how many tokens.

Level 3. Task by task, in the order of names; a task that cannot be used is named in the manifest and the others go on.
This file does not know where tasks come from (`t2l.data.sources`, `t2l.data.hub`) nor how a store is written
(`t2l.data.writer`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any

from t2l.base_names import canonical_name
from t2l.data.descriptions import DescriptionFile
from t2l.data.prompts import Frame, SampleCounts, SampleTokenizer, Template, is_included, prompt_text, tokenizer_digest
from t2l.data.sources import ProgressReport, Task, TaskSource, no_progress, unique
from t2l.data.splits import SplitRule, near_benchmark, removed_by_paper
from t2l.data.store import DataStore
from t2l.data.writer import StoreWriter, forget_from, open_writer
from t2l.errors import DataError, did_you_mean
from t2l.prompting import TEMPLATE

REMOVALS = ("paper", "strict", "none")
_DECIDING = ("max_prompt", "max_response", "drop_long", "max_samples", "min_samples")
WITHOUT_DESCRIPTIONS = ("definition", "drop", "keep")


@dataclass(frozen=True)
class PrepareConfig:
    """What decides the samples of a store, and its splits.

    Args:
        template: whether prompts hold the task's definition.
        system: the system message of prompts: ``template`` (what the chat template adds), ``none`` or a text.
        included_fraction: of a mixture, the fraction of samples whose prompt does.
        max_prompt, max_response: tokens; what is longer is cut (see `t2l.data.prompts.SampleTokenizer`).
        drop_long: omit samples that are too long instead of cutting them.
        max_samples: of a task; more are drawn at random.
        min_samples: a task with fewer usable samples is omitted.
        language: tasks that say they are in another are omitted; None takes all.
        remove: ``paper``: the ten tasks the paper removed; ``strict``: also those known to be near a benchmark;
            ``none``.
        exclude: names or patterns (``*winogrande*``) of tasks to omit.
        without_descriptions: a task without descriptions is described by its definition, omitted, or kept without.
        split: how tasks are split.
        seed: of all draws.
    """

    template: Template = Template.withheld
    system: str = TEMPLATE
    included_fraction: float = 0.5
    max_prompt: int = 512
    max_response: int = 512
    drop_long: bool = False
    max_samples: int = 10_000
    min_samples: int = 1
    language: str | None = "English"
    remove: str = "paper"
    exclude: tuple[str, ...] = ()
    without_descriptions: str = "definition"
    split: SplitRule = field(default_factory=SplitRule)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--remove", self.remove, REMOVALS),
            ("--without-descriptions", self.without_descriptions, WITHOUT_DESCRIPTIONS),
        ):
            if value not in known:
                raise DataError(f"{name} cannot be '{value}'.", did_you_mean(value, known))
        if not 0 <= self.included_fraction <= 1:
            raise DataError(f"--included-fraction is {self.included_fraction}; it must be between 0 and 1.")
        for name in ("max_prompt", "max_response", "max_samples", "min_samples"):
            if getattr(self, name) < 1:
                raise DataError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")


def prepare(
    sources: Sequence[TaskSource],
    target: str | Path,
    tokenizer: Any,
    *,
    base: str,
    descriptions: DescriptionFile | None = None,
    config: PrepareConfig | None = None,
    force: bool = False,
    restart: bool = False,
    update: bool = False,
    report: ProgressReport = no_progress,
) -> DataStore:
    """Makes a store of all tasks that can be used.

    A run that was stopped, by whatever means, resumes where it stopped when it is called again with the same settings.

    Args:
        base: the name of the base model whose tokenizer this is.
        force: replace a finished store.
        restart: begin again instead of resuming an unfinished one.
        update: take over the tasks of the finished store that are as they were, and add the others.
        report: is told of the sources' sizes, done and in all, and of the task at hand.

    Raises:
        DataError: no task can be used, or an unfinished store was begun with other settings.
        OutputError: the store cannot be written; what is done stays for the next run.
    """
    config = config or PrepareConfig()
    descriptions = descriptions or DescriptionFile([])
    target = Path(target).expanduser().absolute()
    sources = unique(sources)
    known = {source.name for source in sources}
    if strange := sorted(set(config.split.named or {}) - known):
        raise DataError(
            f"The splits name '{strange[0]}', which is not among the {len(known)} tasks.",
            did_you_mean(strange[0], known),
        )
    frame = Frame.of(tokenizer, base, config.system)
    rows = SampleTokenizer(
        tokenizer, frame, max_prompt=config.max_prompt, max_response=config.max_response, drop_long=config.drop_long
    )
    dropped: dict[str, str] = {}
    wanted = []
    for source in sources:
        reason = _removed(source.name, config)
        if reason is None and config.without_descriptions == "drop" and not _texts(descriptions, source.name):
            reason = "it has no description"
        if reason is None:
            wanted.append(source)
        else:
            dropped[source.name] = reason
    header = {
        "tokenizer": tokenizer_digest(tokenizer),
        "template": config.template.value,
        "included_fraction": config.included_fraction if config.template is Template.mixture else None,
        **{name: getattr(config, name) for name in _DECIDING},
        "language": config.language,
        "seed": config.seed,
        **({} if config.system == TEMPLATE else {"system": config.system}),  # stores from before it have none
    }
    begun = time.monotonic()
    with open_writer(target, header, force=force, restart=restart, update=update) as writer:
        _forget_changed(writer, wanted)
        all_size, size = sum(source.size for source in wanted), 0
        for number, source in enumerate(wanted):
            report(size, all_size, f"{number}/{len(wanted)} tasks  {source.name}")
            size += source.size
            if source.name in writer.done:
                continue
            try:
                task = source.read()
                record = {"source": source.place, "source_digest": source.digest(), "revision": task.revision}
                _write(writer, task, rows, config, record)
            except DataError as problem:
                dropped[source.name] = problem.message
        report(all_size, all_size, "")
        records, lines = _described([writer.done[name] for name in sorted(writer.done)], descriptions, config)
        if not records:
            raise DataError(f"No task of {len(sources)} can be used.", _shown(dropped))
        splits = config.split.assign({record["name"]: record["datasets"] for record in records})
        tasks = [{**record, "split": splits[record["name"]]} for record in records]
        licences = Counter(licence for task in tasks for licence in task["licences"] or ["not stated"])
        manifest = {
            "base": canonical_name(base),
            "chat_template": frame.chat,
            "system": config.system,
            "prompt": frame.written,
            "frame": frame.record,
            "settings": {**header, **_settings(config)},
            "totals": _totals(tasks),
            "dropped_tasks": dict(sorted(dropped.items())),
            # licence -> tasks whose instances are under it, the most frequent first
            "licences": dict(sorted(licences.items(), key=lambda item: (-item[1], item[0]))),
            "seconds": round(time.monotonic() - begun, 1),
            "tasks": tasks,
        }
        writer.finish(target, manifest, [{**line, "split": splits[line["name"]]} for line in lines])
    return DataStore.open(target)


def _removed(name: str, config: PrepareConfig) -> str | None:
    """Why a task is omitted for its name alone."""
    for pattern in config.exclude:
        if name == pattern or fnmatchcase(name, pattern):
            return f"excluded by --exclude {pattern}"
    if config.remove == "none":
        return None
    near = near_benchmark(name) if config.remove == "strict" else None
    return removed_by_paper(name) or (f"near a benchmark: {near}" if near else None)


def _forget_changed(writer: StoreWriter, sources: Sequence[TaskSource]) -> None:
    """Takes back what an earlier run made of sources that have changed since, or are no longer given."""
    current = {source.name: source for source in sources}
    for name, record in sorted(writer.done.items(), key=lambda item: item[1]["batch"]):
        source = current.get(name)
        try:
            same = source is not None and source.digest() == record["source_digest"]
        except DataError:
            same = False
        if not same:
            forget_from(writer, name)
            return


def _write(
    writer: StoreWriter, task: Task, rows: SampleTokenizer, config: PrepareConfig, record: dict[str, Any]
) -> None:
    """Tokenises and writes one task.

    Raises:
        DataError: it is in another language, or too few of its samples can be used.
    """
    if config.language is not None:
        others = [language for language in task.languages if language.casefold() != config.language.casefold()]
        if others:
            raise DataError(f"it is in {', '.join(others)}, not in {config.language} alone")
    counts = SampleCounts()
    for reason, number in task.dropped.items():
        counts.drop(reason, number)
    texts = []
    seen: set[bytes] = set()
    for place, instance in enumerate(task.instances):
        included = is_included(config.template, config.included_fraction, config.seed, task.name, place)
        answer = instance.outputs[0]
        key = blake2b(f"{instance.input}\0{answer}".encode("utf-8", "replace"), digest_size=16).digest()
        if key in seen:
            counts.drop("repeated")
            continue
        seen.add(key)
        texts.append((place, key, included, instance.input, answer))
    if len(texts) > config.max_samples:  # the draw goes by the content, the order stays
        counts.drop("over --max-samples", len(texts) - config.max_samples)
        salt = str(config.seed).encode()
        texts = sorted(texts, key=lambda text: blake2b(text[1] + salt).digest())[: config.max_samples]
        texts.sort()
    counts.definitions_included = sum(included for _, _, included, _, _ in texts) if task.definition else 0
    pairs = [(prompt_text(asked, task.definition, included=included), said) for _, _, included, asked, said in texts]
    tokenised = rows.rows(pairs, counts)
    if counts.samples < config.min_samples:
        raise DataError(
            f"{counts.samples} of its {len(task.instances)} samples can be used, fewer than {config.min_samples}"
        )
    writer.append(
        task.name,
        tokenised,
        {
            **record,
            "definition": task.definition,
            "datasets": list(task.datasets),
            "categories": list(task.categories),
            "licences": list(task.licences),
            "counts": asdict(counts),
        },
    )


def _texts(descriptions: DescriptionFile, name: str) -> tuple[str, ...]:
    found = descriptions.of(name)
    return found.descriptions if found else ()


def _described(
    records: Sequence[dict[str, Any]], descriptions: DescriptionFile, config: PrepareConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records that say how each task is described, and the lines of its descriptions."""
    told, lines = [], []
    for record in records:
        found, texts = descriptions.of(record["name"]), _texts(descriptions, record["name"])
        origin = "file" if texts else "none"
        if not texts and config.without_descriptions == "definition" and record["definition"]:
            texts, origin = (record["definition"],), "definition"
        told.append({**record, "descriptions": len(texts), "described_by": origin})
        line: dict[str, Any] = {"name": record["name"], "descriptions": list(texts)}
        if found and found.evaluation:
            line["evaluation_descriptions"] = list(found.evaluation)
        lines.append(line)
    return told, lines


def _settings(config: PrepareConfig) -> dict[str, Any]:
    rule = config.split
    return {
        "remove": config.remove,
        "exclude": list(config.exclude),
        "without_descriptions": config.without_descriptions,
        "split": {
            "named": dict(rule.named or {}),
            **{name: getattr(rule, name) for name in ("paper", "validation", "test", "by_dataset", "seed")},
        },
    }


def _totals(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the tasks: samples, tokens, cuts, and samples omitted by reason."""
    samples, omitted, sums = Counter[str](), Counter[str](), Counter[str]()
    for task in tasks:
        samples[task["split"]] += task["samples"]
        omitted.update(task["counts"]["dropped"])
        sums.update({name: number for name, number in task["counts"].items() if name != "dropped"})
    return {
        "tasks": len(tasks),
        "tasks_by_split": dict(Counter(task["split"] for task in tasks)),
        "samples_by_split": dict(samples),
        **sums,
        "tasks_described_by": dict(Counter(task["described_by"] for task in tasks)),
        "dropped_samples": dict(omitted),
    }


def _shown(dropped: Mapping[str, str], limit: int = 5) -> str | None:
    lines = [f"  - {name}: {reason}" for name, reason in list(dropped.items())[:limit]]
    more = [f"  - and {len(dropped) - limit} more"] if len(dropped) > limit else []
    return "\n".join([*lines, *more]) or None
