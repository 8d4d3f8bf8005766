"""Evaluation: shared batches are exact, ten benchmarks run offline in two ways, runs resume, bad input is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark_data import ROWS as DATA
from benchmark_data import write_benchmarks, write_task
from helpers import fill, random_weights, tiny_base, tiny_llama, tiny_pair
from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.encoders import DescriptionEncoder
from t2l.errors import BaseModelError, DescriptionError, OutputError, T2LError
from t2l.evaluation.adapters import Name, Shelf
from t2l.evaluation.decoding import Decoder, Prompted
from t2l.evaluation.likelihoods import Scored, by_length, cheapest_cuts, scores
from t2l.evaluation.paper_protocol import configs, first_choice, last_number, run_program
from t2l.evaluation.runs import Answers, key_of, open_run
from t2l.evaluation.wording import Wording, read_wordings, texts_for
from t2l.lora import LoraSpec

pytest.importorskip("lm_eval")
from t2l.evaluation import benchmarks
from t2l.evaluation.benchmarks import CODE, PAPER10, load_tasks
from t2l.evaluation.harness import AdaptedLM, run_variants
from t2l.evaluation.rows import GATE, Bench, PromptVariant
from t2l.evaluation.statistics import gate_of


@pytest.fixture(scope="module")
def base() -> Base:
    from lab.world.base import build_tokenizer

    return Base(tiny_llama(), build_tokenizer(), "tiny")


def adapters_of(base: Base, count: int, rank: int = 2, seed: int = 0) -> list[Adapter]:
    spec = LoraSpec.from_base(base.model.config, rank=rank)
    weights = random_weights(spec, count, seed=seed, std=0.3)
    return [Adapter(spec, weights.select(row)) for row in range(count)]


def named(number: int | None) -> Name | None:
    """The name of an adapter of `decoder_of`; None for the base alone."""
    return None if number is None else ("given", str(number))


def decoder_of(base: Base, adapters: Sequence[Adapter] = (), **given: Any) -> Decoder:
    shelf = Shelf()
    for number, adapter in enumerate(adapters):
        shelf.add(("given", str(number)), adapter)
    return Decoder(base, shelf, **given)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


# --- shared batches -----------------------------------------------------------------------------------------------


def test_scores_in_shared_batches_are_those_of_each_request_alone(base: Base) -> None:
    adapters = [*adapters_of(base, 2), *adapters_of(base, 1, rank=4, seed=5)]
    requests = [
        Scored(tuple(range(5, 6 + n)), tuple(range(20, 21 + n % 3)), named(adapter))
        for n, adapter in enumerate([0, None, 1, 2, 0, 2, None])
    ]
    shared = scores(decoder_of(base, adapters, batch_tokens=30), requests)
    for request, (score, greedy) in zip(requests, shared, strict=True):
        expected, best = alone(base, adapters, request)
        assert score == pytest.approx(expected, abs=1e-4) and greedy == best


def test_answers_in_shared_batches_are_those_of_each_request_alone(base: Base) -> None:
    adapters = adapters_of(base, 3)
    texts = ["red", "green blue", "one two three", "a", "bb"]
    index = [2, None, 0, 1, 2]
    prompts = [tuple(base.tokenizer(base.prompt(text), add_special_tokens=False)["input_ids"]) for text in texts]
    requests = [Prompted(p, ("\n",), 6, named(adapter)) for p, adapter in zip(prompts, index, strict=True)]
    shared = decoder_of(base, adapters, batch_tokens=60).answers(requests)
    for text, adapter, answer in zip(texts, index, shared, strict=True):
        given: dict[str, Any] = {} if adapter is None else vars(adapters[adapter])
        (alone,) = base.answer([text], max_new_tokens=6, spec=given.get("spec"), weights=given.get("weights"))
        assert answer.text == alone.split("\n")[0]
    assert len({answer.text for answer in shared}) > 1


def alone(base: Base, adapters: list[Adapter], request: Scored) -> tuple[float, bool]:
    """The score of one request in a plain forward pass."""
    ids = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad(), ExitStack() as stack:
        if request.adapter is not None:
            own = adapters[int(request.adapter[1])]
            stack.enter_context(apply_batched(base.model, own.spec, own.weights))
        logits = base.model(ids).logits
    own_TV = logits[0, len(request.context) - 1 : -1].log_softmax(-1)
    target = torch.tensor(request.continuation)
    return float(own_TV.gather(1, target[:, None]).sum()), bool((own_TV.argmax(-1) == target).all())


CHOICES = [
    Scored(tuple(range(5, 8 + n)), choice, named(adapter))
    for n, adapter in enumerate([0, None, 1, 1])
    for choice in [(20,), (21, 22, 23), (24, 25), (20,)]
]


@pytest.mark.parametrize("batch_tokens", [1, 40, 120, 5000])
def test_choices_after_one_context_score_as_each_alone(base: Base, batch_tokens: int) -> None:
    adapters = adapters_of(base, 2)
    found = scores(decoder_of(base, adapters, batch_tokens=batch_tokens), CHOICES)
    for request, (score, greedy) in zip(CHOICES, found, strict=True):
        expected, best = alone(base, adapters, request)
        assert score == pytest.approx(expected, abs=1e-4) and greedy == best


def test_choices_of_unlike_length_have_passes_of_their_own(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_length([3, 0, 12, 3, 11], 48) == [[0, 2, 3, 4]]
    assert by_length([3, 0, 12, 3, 11], 10) == [[2, 4], [0, 3]] and by_length([0, 0], 10) == []
    monkeypatch.setattr("t2l.evaluation.likelihoods._PASS_TOKENS", {"cpu": 0, "cuda": 0})
    test_choices_after_one_context_score_as_each_alone(base, 5000)


def test_the_context_of_choices_is_read_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    read, forward = [], base.model.forward
    monkeypatch.setattr(
        base.model, "forward", lambda *args, **kw: read.append(kw["input_ids"].shape) or forward(*args, **kw)
    )
    for module in ("decoding", "likelihoods"):
        monkeypatch.setattr(f"t2l.evaluation.{module}.keeps_logits", lambda model: False)
    scores(Decoder(base), [Scored(tuple(range(5, 45)), (20, n)) for n in range(21, 26)])
    assert read == [(1, 40), (5, 1)]


def test_a_cache_of_which_no_rows_can_be_chosen_serves_all_the_same(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = adapters_of(base, 2)
    prompts = [Prompted(tuple(range(5, 9 + n)), ("e",), 8, named(n % 2)) for n in range(5)]
    expected = scores(decoder_of(base, adapters), CHOICES), decoder_of(base, adapters).answers(prompts)
    monkeypatch.setattr("t2l.evaluation.decoding._is_plain", lambda cache: False)
    found, answers = scores(decoder_of(base, adapters), CHOICES), decoder_of(base, adapters).answers(prompts)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected[0]], abs=1e-4)
    assert answers == expected[1]


def test_rows_leave_a_batch_when_they_have_ended(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = adapters_of(base, 8)
    prompts = [tuple(range(5 + n, 9 + 2 * n)) for n in range(8)]
    free = decoder_of(base, adapters).answers([Prompted(p, (), 12, named(n)) for n, p in enumerate(prompts)])
    early = Counter(letter for answer in free for letter in set(answer.text[:6]))
    ((letter, count),) = early.most_common(1)
    asked = [Prompted(p, (letter,), 12, named(n)) for n, p in enumerate(prompts)]
    rows, forward = [], base.model.forward
    monkeypatch.setattr(
        base.model, "forward", lambda *args, **kw: rows.append(len(kw["input_ids"])) or forward(*args, **kw)
    )
    monkeypatch.setattr("t2l.evaluation.decoding.keeps_logits", lambda model: False)
    found = decoder_of(base, adapters).answers(asked)
    for one, whole, request in zip(found, free, asked, strict=True):
        assert one.text == whole.text.split(request.until[0])[0]
    assert count >= 3 and rows[0] == 8 and rows == sorted(rows, reverse=True) and rows[-1] <= 8 - count


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 100), st.integers(1, 5), st.integers(1, 200)
)
def test_batches_are_cut_where_it_costs_least(lengths: list[int], cost: int, most: int, tokens: int) -> None:
    lengths = sorted(lengths, reverse=True)

    def price(sizes: Sequence[int]) -> float:
        total, start = 0.0, 0
        for size in sizes:
            if size > most or (size > 1 and size * lengths[start] > tokens):
                return float("inf")
            total, start = total + cost + size * lengths[start], start + size
        return total

    def every(left: int) -> Iterator[list[int]]:
        if left == 0:
            yield []
        for size in range(1, left + 1):
            yield from ([size, *rest] for rest in every(left - size))

    sizes = cheapest_cuts(lengths, cost, most, tokens)
    assert sum(sizes) == len(lengths)
    assert price(sizes) == min(map(price, every(len(lengths))))


def test_an_endless_answer_is_bounded_and_said_to_be_cut(base: Base) -> None:
    tokens = tuple(base.tokenizer("x>")["input_ids"])
    (answer,) = Decoder(base).answers([Prompted(tokens, ("never said",), 5)])
    (ended,) = Decoder(base).answers([Prompted(tokens, (answer.text[1:3],), 5)])
    assert not answer.ended and len(answer.text) <= 5
    assert ended.ended and ended.text == answer.text.split(answer.text[1:3])[0]


def test_an_adapter_of_another_base_is_refused_with_both_shapes(base: Base) -> None:
    spec = LoraSpec.from_base(tiny_base().config, rank=2)
    foreign = Adapter(spec, random_weights(spec))
    with pytest.raises(BaseModelError, match="is 32x256, the adapter is for 24x24"):
        decoder_of(base, [foreign]).answers([Prompted((5, 6), (), 2, named(0))])


# --- the paper's ten ----------------------------------------------------------------------------------------------


def test_what_a_benchmark_wants_is_right_by_the_papers_protocol() -> None:
    for name, config in configs().items():
        for doc in DATA[name]:
            wanted = doc["prompt"] + doc["canonical_solution"] if name == "humaneval" else config["doc_to_target"](doc)
            assert config["process_results"](doc, [wanted]) == {"acc": 1.0}, (name, wanted)
            assert config["process_results"](doc, ["?"]) == {"acc": 0.0}, name


def test_the_first_choice_and_the_last_number_count() -> None:
    assert first_choice("It is B, not A.") == "B" and first_choice("Because") == ""
    assert last_number("5 + 1,000 = $1,005.") == "1005" and last_number("none") == ""


@pytest.mark.parametrize("protocol", ["paper", "loglikelihood"])
def test_the_ten_benchmarks_run_offline(protocol: Any, base: Base, data: Path, tmp_path: Path) -> None:
    tasks = load_tasks(["paper10"], protocol=protocol, data=data, run_code=True)
    assert [task.name for task in tasks] == list(PAPER10)
    adapters_of(base, 1)[0].save(tmp_path / "multi-task")
    showing = [task.name for task in tasks if task.can_show]
    folders = {"--multi-task": tmp_path / "multi-task"}
    bench = Bench([task.wording for task in tasks], base, folders=folders, showing=showing)
    variants = [variant for row in ("base", "2-shot", "multi-task") for variant in bench.variants(row)]
    items = run_variants(Decoder(base, bench.shelf), tasks, variants, limit=1, run_code=True, max_new_tokens=3)
    assert {(item["task"], item["row"]) for item in items} == {(v.task, v.row) for v in variants}
    shown = {item["task"]: item["prompt"] for item in items if item["row"] == "2-shot"}
    assert set(shown) == set(PAPER10) - {"humaneval"}  # which has nothing to show
    assert shown["gsm8k"].count("####") >= 2, "the examples with their answers stand in the prompt"
    plain = {item["task"]: item["prompt"] for item in items if item["row"] == "base"}
    for task, prompt in shown.items():
        assert len(prompt) > len(plain[task]) * 1.5, task


def test_the_harness_itself_can_drive_one_adapter(base: Base, data: Path) -> None:
    import lm_eval.tasks

    none = lm_eval.tasks.TaskManager(include_defaults=False)  # the index of all tasks takes many seconds to read
    (task,) = load_tasks(["piqa"], protocol="loglikelihood", data=data)
    lm = AdaptedLM(decoder_of(base, adapters_of(base, 1)), default=named(0))
    found: Any = lm_eval.simple_evaluate(lm, tasks=[task.harness], bootstrap_iters=0, task_manager=none)
    assert 0 <= found["results"]["piqa"]["acc,none"] <= 1
    instance = SimpleNamespace(args=("red green",), task_name="x")
    whole = tuple(base.tokenizer("red green", add_special_tokens=False)["input_ids"])
    (alone,) = scores(lm.decoder, [Scored((base.tokenizer.bos_token_id,), whole, named(0))])
    assert lm.loglikelihood_rolling([instance]) == [pytest.approx(alone[0], abs=1e-4)]


def test_a_folder_is_a_task_of_its_own(base: Base, tmp_path: Path) -> None:
    write_task(tmp_path, "echo", [("a", "b"), ("c", "d")], family="letters", separator=">", paraphrases=["Say it."])
    (task,) = load_tasks(["all"], data=tmp_path)
    assert (task.name, task.family) == ("echo", "letters")
    (item, _) = run_variants(Decoder(base), [task], [PromptVariant("1-shot", "echo", shots=1)], max_new_tokens=4)
    assert item["prompt"] in ("a>b\na>", "c>d\na>")


# --- generated code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "passed", "reason"),
    [
        ("x = 1", True, ""),
        ("assert 1 == 2", False, "AssertionError"),
        ("raise SystemExit(0)", False, "ended with 0"),
        ("import os; os._exit(0)", False, "ended with 0"),
        ("while True: pass", False, "no end after"),
        ("x = bytearray(1 << 34)", False, "MemoryError"),
    ],
)
def test_generated_code_runs_apart_and_bounded(program: str, passed: bool, reason: str) -> None:
    found = run_program(program, timeout_s=30.0 if "while" not in program else 0.5)
    assert (not found) is passed and reason in found


@pytest.mark.parametrize("name", CODE)
def test_generated_code_does_not_run_without_leave(name: str, data: Path) -> None:
    for protocol in ("paper", "loglikelihood"):
        with pytest.raises(T2LError, match="--run-generated-code"):
            load_tasks([name], protocol=protocol, data=data)


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input_is_named_with_what_to_do(
    base: Base, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the index of all the harness's tasks is read in test_cli_evaluate.py; it takes many seconds
    monkeypatch.setattr(benchmarks, "_every", benchmarks._few)
    with pytest.raises(T2LError, match="No task is called 'arc_chalenge'.\nDid you mean 'arc_challenge'"):
        load_tasks(["arc_chalenge"], data=data)
    with pytest.raises(T2LError, match="hf download openai/gsm8k --repo-type dataset --include 'main/\\*' --local-dir"):
        load_tasks(["gsm8k"], data=tmp_path)
    with pytest.raises(T2LError, match="hf download allenai/ai2_arc"):  # the hub is not asked in tests
        load_tasks(["arc_easy"])
    with pytest.raises(T2LError, match="There is no folder"):
        load_tasks(["arc_easy"], data=tmp_path / "nowhere")
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_text('{"goals": "x"}\n')
    with pytest.raises(T2LError, match="piqa"):
        load_tasks(["piqa"], data=tmp_path)
    (tmp_path / "d.yaml").write_text("just text")
    with pytest.raises(T2LError, match="cannot be read as descriptions"):
        read_wordings(tmp_path / "d.yaml")
    (task,) = load_tasks(["piqa"], data=data)
    from lab.world.base import build_tokenizer

    plain = build_tokenizer()
    plain.chat_template = None
    with pytest.raises(T2LError, match="no chat template"):
        run_variants(Decoder(Base(base.model, plain, "plain")), [task], [PromptVariant("base", "piqa")], chat=True)


# --- resume -------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_was(base: Base, data: Path, tmp_path: Path) -> None:
    tasks = load_tasks(["piqa", "winogrande"], data=data)
    variants = [PromptVariant("base", task.name) for task in tasks]
    one_by_one = Decoder(base, batch_tokens=1)
    whole = run_variants(one_by_one, tasks, variants, max_new_tokens=3)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    kept, _ = open_run(tmp_path / "run", {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        run_variants(one_by_one, tasks, variants, max_new_tokens=3, answers=kept, report=stop)
    file = tmp_path / "run" / "answers.jsonl"
    file.write_bytes(file.read_bytes() + b'["half a li')  # killed while writing
    again, _ = open_run(tmp_path / "run", {"seed": 0})
    assert len(again) == 2
    asked: list[int] = []
    found = run_variants(
        one_by_one, tasks, variants, max_new_tokens=3, answers=again, report=lambda n, _: asked.append(n)
    )
    assert found == whole
    assert len(asked) == 8 + 1, "eight answers were lacking, and the end is reported"
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    open_run(tmp_path / "run", {"seed": 0, "limit": 3})[0].put({key_of(1): "x"})
    with pytest.raises(OutputError, match="a run with another limit"):
        open_run(tmp_path / "run", {"seed": 0, "limit": 4})
    assert len(open_run(tmp_path / "run", {"seed": 0, "limit": 3})[0]) == 1
    assert len(open_run(tmp_path / "run", {"seed": 0, "limit": 4}, restart=True)[0]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="something else"):
        open_run(tmp_path / "mine", {})
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(T2LError, match="not a file of answers"):
        Answers(tmp_path / "bad.jsonl")


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_name_the_adapters_that_they_promise(tmp_path: Path) -> None:
    base, t2l = tiny_pair(["Do up.", "Do down.", "Say up.", "Say down."])
    for name in ("up", "down"):
        write_task(tmp_path, name, [("a", "b"), ("c", "d")], paraphrases=[f"Say {name}."])
    tasks, notes = load_tasks(["up", "down"], data=tmp_path), []
    bench = Bench([task.wording for task in tasks], base, t2l, note=notes.append)
    variants = [variant for row in GATE for variant in bench.variants(row)]
    assert [note.split(":")[1].strip() for note in notes] == ["vague", "junk", "empty"]  # it knows four texts
    found = {(v.row, v.task): v for v in variants}
    assert found["other-task", "up"].adapter == found["t2l", "down"].adapter
    assert found["paraphrase", "up"].adapter != found["t2l", "up"].adapter
    for key, b_NLOR in t2l.blend(["Do up.", "Do down."]).weights.b.items():
        assert torch.allclose(bench.shelf.weights([("static", "")]).b[key], b_NLOR, atol=1e-5)
    items = run_variants(Decoder(base, bench.shelf), tasks, variants, max_new_tokens=3)
    assert len(items) == 2 * len(variants)


def test_another_task_is_never_the_task_nor_its_kin() -> None:
    tasks = [
        Wording("up", ("Write it large.", "Upper case."), ("In capitals.",)),
        Wording("twin", ("upper  case!", "Shout.")),  # a text of up's
        Wording("echo", ("In capitals.",)),  # a paraphrase of up's
        Wording("down", ("Write it small.",), tags=frozenset({"case"})),
        Wording("title", ("Write it as a title.",), tags=frozenset({"case", "words"})),
        Wording("sort", ("Sort the words.",), tags=frozenset({"words"})),
    ]
    for seed in range(30):
        for name, kin in (("up", {"up", "twin", "echo"}), ("down", {"down", "title"}), ("title", {"down", "sort"})):
            task = next(one for one in tasks if one.task == name)
            texts = {text for one in tasks if one.task in {name, *kin} for text in one.matched}
            drawn = texts_for("other-task", task, tasks, 3, seed)
            assert len(drawn) == 3 and not texts & set(drawn), name
    drawn = {text for seed in range(60) for text in texts_for("other-task", tasks[0], tasks, 1, seed)}
    assert drawn == {"Write it small.", "Write it as a title.", "Sort the words."}, "a draw, not always one"
    with pytest.raises(DescriptionError, match="another one than 'down'"):
        texts_for("other-task", tasks[3], tasks[3:5], 1)


def test_families_of_local_tasks_and_benchmarks_of_one_kind_are_kin(data: Path, tmp_path: Path) -> None:
    for name, family in (("a", "letters"), ("b", "letters"), ("c", "numbers")):
        write_task(tmp_path, name, [("x", "y")], family=family)
    tasks = [task.wording for task in load_tasks(["all"], data=tmp_path)]
    assert {texts_for("other-task", tasks[0], tasks, 1, seed)[0] for seed in range(9)} == {"Do c."}
    arcs = [task.wording for task in load_tasks(["arc_easy", "arc_challenge"], data=data)]
    with pytest.raises(DescriptionError):
        texts_for("other-task", arcs[0], arcs, 1)


class Drawn(DescriptionEncoder):
    """Stands for an encoder that is not here: a vector drawn from the text."""

    def __init__(self, width: int) -> None:
        self.width = width

    @property
    def identity(self) -> str:
        return "drawn"

    @property
    def dim(self) -> int:
        return self.width

    def embed(self, texts: Any) -> torch.Tensor:
        rows = []
        for text in texts:
            seed = int.from_bytes(text.encode()[:6].ljust(6), "big")
            rows.append(torch.randn(self.width, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(rows)

    def to_config(self) -> dict[str, Any]:
        return {"kind": "drawn"}

    @classmethod
    def from_config(cls, config: Any, *, device: str, trust_remote_code: bool) -> Drawn:
        return cls(8)


@pytest.mark.parametrize("name", ["L-sft-s1", "M-recon-s5-zscore-factorized", "S-sft-s3"])
def test_the_gate_runs_on_imported_checkpoints_of_the_reference(name: str, shared_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from lab.world.base import build_tokenizer
    from t2l.reference import import_checkpoint

    place = shared_dir / "fixtures" / "sakana-checkpoints" / name
    t2l = import_checkpoint(place)
    t2l.encoder = Drawn(t2l.hypernetwork.embedding_dim)
    config = AutoConfig.from_pretrained(place / "base", vocab_size=99)
    model: Any = fill(AutoModelForCausalLM.from_config(config))
    for task in ("up", "down"):
        write_task(tmp_path, task, [(f"{n}", f"{n}") for n in range(15)], paraphrases=[f"Say {task}."])
    tasks, notes = load_tasks(["all"], data=tmp_path), []
    base = Base(model.eval(), build_tokenizer(), "theirs")
    bench = Bench([task.wording for task in tasks], base, t2l, wordings=2, note=notes.append)
    variants = [variant for row in GATE for variant in bench.variants(row)]
    assert not notes
    gate = gate_of(run_variants(Decoder(base, bench.shelf), tasks, variants, max_new_tokens=2), judged=True)
    assert set(gate.accuracy) == set(GATE)
    assert gate.verdict and gate.passed is False, "random weights describe nothing"
