"""The engine: shared passes change nobody's tokens, slots are freed, adapters are kept within their budgets."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from helpers import fill, random_weights, tiny_base, tiny_pair, tokens
from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.errors import BaseModelError, DescriptionError, T2LError
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore
from t2l.serving.engine import Engine, Limits
from t2l.serving.errors import (
    BusyError,
    OutOfTimeError,
    PromptTooLongError,
    RequestError,
    StoppedError,
    UnknownModelError,
)
from t2l.serving.maker import AdapterMaker
from t2l.serving.passes import Passes, Piece
from t2l.serving.prompts import chat_tokens
from t2l.serving.sampling import Picker, Sampling
from t2l.serving.scheduler import DecodingJob, Scheduler
from t2l.serving.slot_cache import rows_attention
from t2l.serving.stream import Writer

NAMES = [f"task {number}" for number in range(40)]
SLOTS = 5


def plain_tokens(model: Any, prompt: list[int], count: int, spec: LoraSpec, weights: LoraWeights | None) -> list[int]:
    """Greedy tokens of one request, computed anew for each token without any cache."""
    found: list[int] = []
    for _ in range(count):
        ids = torch.tensor([prompt + found])
        with torch.inference_mode():
            if weights is None:
                logits = model(input_ids=ids, use_cache=False).logits
            else:
                with apply_batched(model, spec, weights):
                    logits = model(input_ids=ids, use_cache=False).logits
        found.append(int(logits[0, -1].argmax()))
    return found


def job(prompt: list[int], count: int, weights: LoraWeights | None = None, **options: Any) -> DecodingJob:
    return DecodingJob(prompt, count, Sampling(**options), weights, deadline=time.monotonic() + 100)


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + token % 26) for token in ids)


def run(scheduler: Scheduler) -> None:
    while not scheduler.idle:
        scheduler.step()


# --- passes and scheduler -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "sliding", "mixed"])
def test_every_request_gets_what_it_would_get_alone(kind: str) -> None:
    """Five adapters and the plain base, prompts of several widths, more requests than slots, some arriving later."""
    if kind == "mixed":
        from transformers import AutoModelForCausalLM, Qwen2Config

        values: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": 40}
        values |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        values |= {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["full_attention"] * 2}
        values["layer_types"] = ["full_attention", "sliding_attention"]
        model: Any = fill(AutoModelForCausalLM.from_config(Qwen2Config(**values))).eval()
    elif kind == "sliding":
        model = tiny_base("phi3", sliding_window=6)
    else:
        model = tiny_base(kind)
    spec = LoraSpec.from_base(model.config)
    passes = Passes(Base(model, None, kind), spec, slots=SLOTS, context=60)  # pyright: ignore[reportArgumentType]
    scheduler = Scheduler(passes, ends={39}, decode=letters)
    bank = random_weights(spec, 5, std=0.3)
    jobs = []
    for number in range(9):
        prompt = tokens(1, 3 + 5 * number, seed=number)[0].tolist()
        weights = None if number % 3 == 0 else bank.select(number % 5)
        jobs.append((job(prompt, 8, weights), prompt, weights))
    for one, _, _ in jobs[:6]:
        scheduler.add(one)
    for _ in range(3):
        scheduler.step()
    for one, _, _ in jobs[6:]:
        scheduler.add(one)
    run(scheduler)
    for one, prompt, weights in jobs:
        expected = plain_tokens(model, prompt, 8, spec, weights)
        if 39 in expected:
            expected = expected[: expected.index(39)]
        assert list(one.stream.result(1).tokens) == expected
    assert scheduler.counts.prefill_passes < 9 and scheduler.counts.finished == 9


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_neighbours_change_no_bit_of_a_plain_request(kind: str) -> None:
    model = tiny_base(kind)
    spec = LoraSpec.from_base(model.config)
    passes = Passes(Base(model, None, kind), spec, slots=SLOTS, context=60)  # pyright: ignore[reportArgumentType]
    bank = random_weights(spec, 4, std=2.0)
    prompt = tokens(1, 40, seed=9)[0].tolist()

    def logits(slot: int, others: list[int]) -> torch.Tensor:
        passes.load(slot, None)
        for other in others:
            passes.load(other, bank.select(other % 4))
        rest = [Piece(other, tokens(1, 33 + other, seed=other)[0].tolist(), 0) for other in others]
        rows = [passes.prefill([Piece(slot, prompt, 0), *rest][: passes.prefill_rows])[0]]
        for step in range(3):
            steps = dict.fromkeys(others, (5 + step, 50 + step))
            rows.append(passes.decode({**steps, slot: (7 + step, len(prompt) + step)})[slot])
        return torch.stack(rows)

    alone = logits(0, [])
    assert passes.exact
    for slot, others in ((4, [0, 1, 2, 3]), (2, [0, 1]), (1, [3]), (3, [])):
        assert torch.equal(logits(slot, others), alone), (slot, others)


def test_attention_treats_all_rows_alike_in_several_threads() -> None:
    """torch's own kernel does not: its second thread has a buffer that is aligned otherwise."""
    generator = torch.Generator().manual_seed(0)
    query_SHTD = torch.randn(1, 4, 1, 8, generator=generator).expand(6, -1, -1, -1)
    key_SGCD, value_SGCD = (torch.randn(1, 2, 64, 8, generator=generator).expand(6, -1, -1, -1) for _ in "kv")
    mask_S11C = torch.zeros(6, 1, 1, 64).index_fill_(3, torch.arange(20, 64), torch.finfo(torch.float32).min)
    module = torch.nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    module.is_causal = True  # type: ignore[assignment]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found, _ = rows_attention(module, query_SHTD, key_SGCD.contiguous(), value_SGCD.contiguous(), mask_S11C)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(row, found[0]) for row in found)
    expected, _ = sdpa_attention_forward(module, query_SHTD, key_SGCD, value_SGCD, mask_S11C)
    torch.testing.assert_close(found, expected)
    wide = query_SHTD.expand(-1, -1, 3, -1)
    both = [f(module, wide, key_SGCD, value_SGCD, mask_S11C)[0] for f in (rows_attention, sdpa_attention_forward)]
    assert torch.equal(*both) and both[0].shape == (6, 3, 4, 8)


@pytest.mark.parametrize(("differs", "rows"), [("nothing", (2, 4)), ("reading", (4, 4)), ("decoding", (2, 16))])
def test_where_the_number_of_rows_changes_a_bit_passes_have_one_shape(
    monkeypatch: pytest.MonkeyPatch, differs: str, rows: tuple[int, int]
) -> None:
    model = tiny_base()
    spec = LoraSpec.from_base(model.config)
    seen: list[int] = []
    original = model.forward

    def differing(**given: Any) -> Any:
        output = original(**given)
        count, width = given["input_ids"].shape
        seen.append(count)
        if differs == ("decoding" if width == 1 else "reading"):
            output.logits = output.logits * (1 + 1e-6 * count)
        return output

    base = Base(model, None, "x")  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(model, "forward", differing)
    passes = Passes(base, spec, slots=9, context=60)
    seen.clear()
    passes.load(0, None)
    passes.prefill([Piece(0, [5, 6, 7], 0)])
    passes.decode({0: (5, 3)})
    assert passes.exact and tuple(seen) == rows


def test_few_rows_read_prompts_only_in_widths_where_they_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix library may treat two wide rows otherwise than four: each width is tried when it first comes."""
    model = tiny_base()
    original, seen = model.forward, []

    def differing(**given: Any) -> Any:
        output = original(**given)
        count, width = given["input_ids"].shape
        seen.append((count, width))
        output.logits = output.logits * (1 + 1e-6 * count * (width > 16))
        return output

    monkeypatch.setattr(model, "forward", differing)
    base = Base(model, None, "x")  # pyright: ignore[reportArgumentType]
    passes = Passes(base, LoraSpec.from_base(model.config), slots=4, context=60)
    passes.load(0, None)
    read = [passes.prefill([Piece(0, [5] * length, 0)]) for length in (3, 20, 20)]
    assert torch.equal(read[1], read[2]) and torch.equal(
        read[1], passes.prefill([Piece(slot, [5] * 20, 0) for slot in range(3)])[:1]
    )
    assert seen[-5:] == [(2, 16), (2, 32), (4, 32), (4, 32), (4, 32)]


def test_a_slot_forgets_its_last_request_even_where_it_held_nan() -> None:
    model = tiny_base()
    spec = LoraSpec.from_base(model.config)
    scheduler = Scheduler(
        Passes(Base(model, None, "x"), spec, slots=1, context=60),  # pyright: ignore[reportArgumentType]
        ends=(),
        decode=letters,
    )
    broken = random_weights(spec).map(lambda tensor: torch.full_like(tensor, 1e30))
    prompt = tokens(1, 9)[0].tolist()
    first, second = job(prompt, 4, broken), job(prompt, 4)
    scheduler.add(first)
    scheduler.add(second)
    run(scheduler)
    with pytest.raises(RequestError, match="finite"):
        first.stream.result(1)
    assert list(second.stream.result(1).tokens) == plain_tokens(model, prompt, 4, spec, None)


def test_a_base_that_cannot_share_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_base()
    spec = LoraSpec.from_base(model.config)
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(BaseModelError, match="linear_attention"):
        Passes(Base(model, None, "x"), spec, slots=2, context=60)  # pyright: ignore[reportArgumentType]
    model.config.layer_types = None
    original = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: original(**{**given, "position_ids": None}))
    with pytest.raises(BaseModelError, match="cannot be served"):
        Passes(Base(model, None, "x"), spec, slots=2, context=60)  # pyright: ignore[reportArgumentType]


def test_who_left_and_who_is_late_frees_the_slot() -> None:
    model = tiny_base()
    spec = LoraSpec.from_base(model.config)
    now = [1000.0]
    scheduler = Scheduler(
        Passes(Base(model, None, "x"), spec, slots=1, context=60),  # pyright: ignore[reportArgumentType]
        ends=(),
        decode=letters,
        clock=lambda: now[0],
    )
    prompt = tokens(1, 5)[0].tolist()
    left, late, last = (DecodingJob(prompt, 50, Sampling(), None, 1000.0 + 10 * n, begun=1000.0) for n in (9, 1, 9))
    for one in (left, late, last):
        scheduler.add(one)
    scheduler.step()
    left.stream.cancel()
    scheduler.step()
    assert scheduler.active == 1 and scheduler.waiting == 1 and scheduler.counts.cancelled == 1
    now[0] = 1011.0
    scheduler.step()
    with pytest.raises(OutOfTimeError, match="10 s"):
        late.stream.result(0)
    assert scheduler.active == 1 and scheduler.waiting == 0
    run(scheduler)
    assert last.stream.result(0).finish_reason == "length"


def test_those_who_decode_are_not_held_up_by_long_prompts() -> None:
    model = tiny_base(max_position_embeddings=2048)
    spec = LoraSpec.from_base(model.config)
    scheduler = Scheduler(
        Passes(Base(model, None, "x"), spec, slots=2, context=1500),  # pyright: ignore[reportArgumentType]
        ends=(),
        decode=letters,
    )
    short, long = job([5, 6, 7], 4), job(tokens(1, 1200)[0].tolist(), 1)
    scheduler.add(short)
    scheduler.step()
    scheduler.add(long)
    run(scheduler)
    assert scheduler.counts.prefill_passes == 6 and scheduler.counts.decode_passes == 3
    assert short.stream.result(0).total_s < long.stream.result(0).total_s
    assert list(long.stream.result(0).tokens) == plain_tokens(model, long.prompt, 1, spec, None)


# --- sampling and text --------------------------------------------------------------------------------------------


def test_sampling_follows_its_distribution_and_its_seed() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -5.0])

    def draws(**options: Any) -> list[int]:
        picker = Picker(Sampling(**options))
        return [picker.pick(logits) for _ in range(1000)]

    assert set(draws()) == {0}
    drawn = draws(temperature=0.7, seed=1)
    chances = (logits / 0.7).softmax(-1)
    for token in range(3):
        assert drawn.count(token) / 1000 == pytest.approx(float(chances[token]), abs=0.05)
    assert drawn == draws(temperature=0.7, seed=1) != draws(temperature=0.7, seed=2)
    assert set(draws(temperature=1.0, top_p=0.6, seed=1)) == {0}  # the first has 0.66
    assert set(draws(temperature=1.0, top_p=0.7, seed=1)) == {0, 1}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 2.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"seed": 2**64},
        {"stop": ("",)},
        {"stop": ("x",) * 17},
    ],
)
def test_sampling_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**options)
    assert caught.value.field in options


def decode_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


@settings(max_examples=80, deadline=None, database=None)
@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_streamed_text_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    """Tokens are bytes, so that characters come in parts."""
    writer, written = Writer(decode_bytes, stops), ""
    for token in text.encode():
        piece = writer.add(token)
        assert "\N{REPLACEMENT CHARACTER}" not in piece or "\N{REPLACEMENT CHARACTER}" in text
        written += piece
        if writer.stopped:
            break
    written += writer.end()
    first = next((place for place in range(len(text)) if any(text.startswith(stop, place) for stop in stops)), None)
    if first is None:
        assert written == text and not writer.stopped
    else:  # of stops that end together with another, either may win: no text behind the earliest end is given
        assert writer.stopped and text.startswith(written) and len(written) >= first
        assert any(text.startswith(stop, len(written)) for stop in stops)


# --- the adapter store --------------------------------------------------------------------------------------------


def adapter(spec: LoraSpec, number: int) -> Adapter:
    return Adapter(spec, random_weights(spec, seed=number), {"description": f"task {number}"})


@pytest.fixture(scope="module")
def spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_base().config, rank=2)


def test_the_least_recently_used_adapter_goes_first(spec: LoraSpec) -> None:
    store = AdapterStore(memory=3 * 4 * spec.num_parameters)
    names = [store.add(adapter(spec, number)).id for number in range(3)]
    assert store.add(adapter(spec, 1)).id == names[1] and len(store.entries()) == 3
    store.get(names[0])
    store.add(adapter(spec, 3))
    assert store.memory_bytes == 3 * 4 * spec.num_parameters and store.evictions == 1
    with pytest.raises(UnknownModelError, match="POST /v1/adapters"):
        store.get(names[2])
    assert store.find("task 2") is None and store.find(" task 0") == store.entry(names[0])
    assert (store.hits, store.misses) == (1, 1)
    store.remove(names[0])
    assert store.find("task 0") is None


def test_a_stored_adapter_survives_a_restart_bit_by_bit(spec: LoraSpec, tmp_path: Path) -> None:
    folder, size = tmp_path / "store", 4 * spec.num_parameters
    store = AdapterStore(memory=size, folder=folder)
    made = [adapter(spec, number) for number in range(3)]
    names = [store.add(one).id for one in made]
    assert store.memory_bytes == size and store.get(names[0]).digest == made[0].digest  # read back from the folder
    os.utime(folder / names[1], (9, 9))  # when it was used says nothing of when it was made
    again = AdapterStore(memory=size, folder=folder)
    assert {kept.id for kept in again.entries()} == set(names)
    assert again.entry(names[1]).created == pytest.approx(store.entry(names[1]).created, abs=60)
    kept = again.find("task 1")
    assert kept is not None and again.get(kept.id).digest == made[1].digest
    assert again.get(kept.id).spec == spec
    again.remove(names[1])
    assert not (folder / names[1]).exists() and (folder / names[2]).exists()


def test_the_folder_has_a_budget_and_damage_is_survived(spec: LoraSpec, tmp_path: Path) -> None:
    size = 4 * spec.num_parameters
    one = AdapterStore(folder=tmp_path / "one").add(adapter(spec, 0)).disk
    tmp_path = tmp_path / "store"
    store = AdapterStore(memory=size, folder=tmp_path, disk=2 * one)
    names = [store.add(adapter(spec, number)).id for number in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    weights = tmp_path / names[2] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UnknownModelError, match="damaged"):
        store.get(names[2])
    assert not (tmp_path / names[2]).exists() and store.store_errors == 1
    (tmp_path / names[3] / "t2l.json").write_text("{")
    (tmp_path / "notes").mkdir()
    assert AdapterStore(folder=tmp_path).entries() == [] and (tmp_path / "notes").exists()


def files_of(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_the_budget_counts_files_and_not_weights(spec: LoraSpec, tmp_path: Path) -> None:
    budget = 5 * AdapterStore(folder=tmp_path / "one").add(adapter(spec, 0)).disk + 100
    store = AdapterStore(folder=tmp_path / "store", disk=budget)
    for number in range(12):
        kept = store.add(adapter(spec, number))
        assert kept.disk > kept.size and files_of(tmp_path / "store") <= budget
    assert len(store.entries()) == 5 and files_of(tmp_path / "store") > budget // 2
    again = AdapterStore(folder=tmp_path / "store", disk=budget // 2)
    assert len(again.entries()) == 2 and files_of(tmp_path / "store") <= budget // 2


def test_two_stores_on_one_folder_keep_one_budget(
    spec: LoraSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2l.serving.adapter_store._LOOK_S", 0.0)
    budget = 4 * AdapterStore(folder=tmp_path / "one").add(adapter(spec, 0)).disk + 100
    folder = tmp_path / "store"
    stores = [AdapterStore(folder=folder, disk=budget) for _ in range(2)]
    for number in range(10):
        stores[number % 2].add(adapter(spec, number))
        assert files_of(folder) <= budget
    there = {path.name for path in folder.iterdir()}
    assert len(there) == 4
    for store in stores:
        store._look()
        assert {kept.id for kept in store.entries()} == there
        for name in there:
            assert store.get(name)


def test_what_is_told_of_adapters_is_bounded_in_memory(spec: LoraSpec, tmp_path: Path) -> None:
    long = "x" * 8000
    store = AdapterStore(folder=tmp_path, told=100_000)
    for number in range(40):
        made = adapter(spec, number)
        store.add(
            Adapter(made.spec, made.weights, {"description": f"{number} {long}", "composition": {"parts": [long]}})
        )
    told = sum(len(kept.description) + len(str(kept.composition)) for kept in store.entries())
    assert told <= 100_000 and 4 <= len(store.entries()) < 10
    reopened = AdapterStore(folder=tmp_path, told=40_000)
    assert 1 <= len(reopened.entries()) <= 2


@pytest.mark.parametrize(
    "damage",
    [
        "empty folder",
        "file",
        "dangling link",
        "link to elsewhere",
        "record cut",
        "record of another form",
        "no weights",
        "record is a pipe",
        "record is a folder",
    ],
)
def test_damage_in_a_store_never_blocks_its_own_id_or_the_start(spec: LoraSpec, tmp_path: Path, damage: str) -> None:
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    kept = AdapterStore(folder=folder).add(adapter(spec, 0))
    place = folder / kept.id
    record = place / "t2l.json"
    if damage in ("empty folder", "file", "dangling link", "link to elsewhere"):
        shutil.rmtree(place)
    if damage == "empty folder":
        place.mkdir()
    elif damage == "file":
        place.write_text("no folder")
    elif damage == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif damage == "link to elsewhere":
        place.symlink_to(elsewhere)
    elif damage == "record cut":
        record.write_text(record.read_text()[:50])
    elif damage == "record of another form":
        record.write_text('{"provenance": [], "spec": 7}')
    elif damage == "no weights":
        (place / "adapter_model.safetensors").unlink()
    else:
        record.unlink()
        os.mkfifo(record) if "pipe" in damage else record.mkdir()
    running = AdapterStore(folder=folder)
    assert running.store_errors == 1 and running.entries() == []
    assert (elsewhere / "precious").read_text() == "mine"
    again = running.add(adapter(spec, 0))
    assert again.id == kept.id and again.stored
    assert AdapterStore(folder=folder).get(kept.id).digest == adapter(spec, 0).digest


def test_damage_that_comes_later_does_not_block_its_id_either(spec: LoraSpec, tmp_path: Path) -> None:
    store = AdapterStore(folder=tmp_path)
    for number, spoil in enumerate((shutil.rmtree, lambda place: (shutil.rmtree(place), place.symlink_to("/nowhere")))):
        kept = store.add(adapter(spec, number))
        store._adapters.clear()
        spoil(tmp_path / kept.id)
        with pytest.raises(UnknownModelError, match="damaged"):
            store.get(kept.id)
        assert store.add(adapter(spec, number)).stored and store.get(kept.id)


def test_a_full_disk_only_means_memory(spec: LoraSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    store = AdapterStore(folder=tmp_path)
    monkeypatch.setattr("t2l.adapter.write_tensors", full)
    kept = store.add(adapter(spec, 0))
    assert not kept.stored and store.store_errors == 1 and not list(tmp_path.iterdir())
    assert store.get(kept.id).provenance["description"] == "task 0"


# --- the engine ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_world() -> tuple[Any, TextToLora]:
    return tiny_pair(NAMES)


@pytest.fixture
def engine(tiny_world: Any) -> Iterator[Engine]:
    base, t2l = tiny_world
    with Engine(base, t2l, Limits(slots=4, context=120, max_waiting=3)) as running:
        yield running


def test_many_threads_get_their_own_answers(engine: Engine) -> None:
    made = engine.make(NAMES[:6]).result()
    texts = ["red", "a b c", "oslo, rome", "7"]
    wanted = {}
    for text in texts:
        for one in [None, *made]:
            given = {} if one is None else {"spec": engine.t2l.spec, "weights": one.adapter.weights}
            wanted[text, one and one.kept.id] = engine.base.answer([text], max_new_tokens=6, **given)[0]
    assert len(set(wanted.values())) > 8
    wrong: list[Any] = []

    def ask(text: str, one: Any) -> None:
        for _ in range(2):
            while True:
                try:
                    got = engine.chat(text, Sampling(max_tokens=6), adapter=one and one.adapter)
                    break
                except BusyError as busy:
                    assert busy.retry_after_s >= 1
                    time.sleep(0.01)
            if got.text != wanted[text, one and one.kept.id]:
                wrong.append((text, one, got))

    threads = [threading.Thread(target=ask, args=(text, one)) for text in texts for one in [None, *made[:3]]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and engine.stats()["active"] == 0 and engine.stats()["finished"] == 32


def test_descriptions_that_wait_together_are_made_together(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, free = [], threading.Event()
    generate = engine.t2l.generate

    def slow(descriptions: Any) -> Any:
        sizes.append(len(descriptions))
        assert free.wait(30)
        return generate(descriptions)

    monkeypatch.setattr(engine.t2l, "generate", slow)
    first = engine.make([NAMES[0]])
    while not sizes:
        time.sleep(0.001)
    rest = [engine.make([NAMES[number], NAMES[0]]) for number in (1, 2, 2)]
    unknown = engine.make(["no such task"])
    free.set()
    assert not first.result(30)[0].cached
    found = [future.result(30) for future in rest]
    with pytest.raises(T2LError, match="no such task"):
        unknown.result(30)
    assert sizes[0] == 1 and sizes[1] == 3  # two new names and the unknown one; then, that having failed, each alone
    assert all(second.cached and second.kept.id == first.result()[0].kept.id for _, second in found)
    assert found[1][0].kept.id == found[2][0].kept.id != found[0][0].kept.id
    with pytest.raises(DescriptionError):
        engine.make(["  "])
    with pytest.raises(DescriptionError):
        engine.make([])


def test_more_than_may_wait_are_turned_away(tiny_world: Any) -> None:
    base, t2l = tiny_world
    with Engine(base, t2l, Limits(slots=2, context=120, max_waiting=1, timeout_s=60)) as engine:
        prompt = chat_tokens(base, [{"role": "user", "content": "red"}])
        gate = threading.Event()
        step = engine._scheduler.step
        engine._scheduler.step = lambda: (gate.wait(30), step())  # type: ignore[method-assign]
        streams = [engine.submit(prompt, Sampling(max_tokens=3)) for _ in range(3)]
        with pytest.raises(BusyError, match="at most 1"):
            engine.submit(prompt, Sampling(max_tokens=3))
        streams[0].cancel()
        gate.set()
        assert all(stream.result(30).completion_tokens <= 3 for stream in streams[1:])
        with pytest.raises(StoppedError):
            streams[0].result(30)
        again = engine.submit(prompt, Sampling(max_tokens=3))
        assert "".join(again.pieces()) == again.result(0).text == streams[1].result(0).text


def test_what_submit_refuses(engine: Engine) -> None:
    with pytest.raises(PromptTooLongError, match="room for 120"):
        engine.submit([5] * 100, Sampling(max_tokens=21))
    with pytest.raises(PromptTooLongError, match="room for 120"):
        engine.submit([5] * 120)
    with pytest.raises(RequestError, match="allows 1024"):
        engine.submit([5], Sampling(max_tokens=2000))
    with pytest.raises(RequestError, match="no token 5000"):
        engine.submit([5000])
    with pytest.raises(RequestError, match="empty"):
        engine.submit([])
    spec = LoraSpec.from_base(tiny_base().config)
    with pytest.raises(RequestError, match="another shape"):
        engine.submit([5], adapter=Adapter(spec, random_weights(spec)))
    assert engine.submit([5] * 119).result(30).finish_reason in ("length", "stop")


def test_a_failed_pass_is_told_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefill = engine._passes.prefill

    def broken(_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(engine._passes, "prefill", broken)
    with pytest.raises(MemoryError):
        engine.chat("red")
    monkeypatch.setattr(engine._passes, "prefill", prefill)
    assert engine.chat("red", Sampling(max_tokens=2)).completion_tokens
    assert "no room" in capsys.readouterr().err


def test_a_closed_engine_ends_everything(tiny_world: Any) -> None:
    base, t2l = tiny_world
    engine = Engine(base, t2l, Limits(slots=2, context=120))
    stream = engine.submit([5, 6], Sampling(max_tokens=5))
    engine.close(drain_s=30)
    assert stream.result(0).completion_tokens  # it was under way
    assert not engine.running
    with pytest.raises(StoppedError):
        engine.submit([5])
    with pytest.raises(StoppedError):
        engine.make([NAMES[0]])
    assert not engine._thread.is_alive() and not engine._maker._thread.is_alive()


def test_the_store_of_another_engine_is_found(tiny_world: Any, tmp_path: Path) -> None:
    base, t2l = tiny_world
    limits = Limits(slots=2, context=120)
    with Engine(base, t2l, limits, store=tmp_path) as engine:
        (made,) = engine.make([NAMES[3]]).result(30)
        text = engine.chat("red", Sampling(max_tokens=6), adapter=made.adapter).text
    with Engine(base, t2l, limits, store=tmp_path) as engine:
        (again,) = engine.make([f" {NAMES[3]} "]).result(30)
        assert again.cached and again.kept.id == made.kept.id
        assert engine.chat("red", Sampling(max_tokens=6), adapter=engine.adapters.get(made.kept.id)).text == text


def test_a_busy_maker_says_so(tiny_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, t2l = tiny_world
    free = threading.Event()
    generate = t2l.generate
    monkeypatch.setattr(t2l, "generate", lambda descriptions: free.wait(30) and generate(descriptions))
    maker = AdapterMaker(t2l, AdapterStore(), max_waiting=2)
    future = maker.order(NAMES[:2])
    with pytest.raises(BusyError, match="at most 2"):
        maker.order(NAMES[:1])
    free.set()
    assert len(future.result(30)) == 2
    maker.stop()
    with pytest.raises(StoppedError):
        maker.order(NAMES[:1])


def test_a_trained_checkpoint_answers_as_the_base_does() -> None:
    with Engine.from_pretrained(limits=Limits(slots=4)) as engine:
        descriptions = ["Give the last word in capital letters.", "Add 3 to the number."]
        made = engine.make(descriptions).result(60)
        texts = ["red green blue", "14"]
        asked = [(text, one) for text in texts for one in [None, *made]]
        prompts = [chat_tokens(engine.base, [{"role": "user", "content": text}]) for text, _ in asked]
        streams = [
            engine.submit(prompt, Sampling(max_tokens=16), adapter=one and one.adapter)
            for prompt, (_, one) in zip(prompts, asked, strict=True)
        ]
        for stream, (text, one) in zip(streams, asked, strict=True):
            given = {} if one is None else {"spec": engine.t2l.spec, "weights": one.adapter.weights}
            assert stream.result(60).text == engine.base.answer([text], max_new_tokens=16, **given)[0]
        assert engine.context == 512 and engine.name == "t2l-embedded-base"
