"""The embedded world's comparators: what each has learned from, which adapter answers which input, what is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Killed, fill, kill_at, silent
from t2l.encoders import DescriptionEncoder
from t2l.errors import T2LError
from t2l.library import Library
from t2l.lora import LoraWeights
from t2l.world import comparator_training as training_module
from t2l.world import comparators as comparators_module
from t2l.world.base import VOCABULARY
from t2l.world.comparator_training import HyperdecoderConfig, LibraryConfig, MultiTaskConfig, _states
from t2l.world.comparators import (
    COMPARATORS,
    ComparatorConfig,
    score_comparators,
    train_hyperdecoder,
    train_library,
    train_multi_task,
)
from t2l.world.evaluate import Effort, Score, evaluate
from t2l.world.exact_match import Query, exact_match
from t2l.world.tasks import MicroTask, Split, find_task, part_of
from t2l.world.tasks import tasks_of as all_tasks_of
from t2l.world.wording import descriptions

_SHORT = LibraryConfig(steps=6, samples=2, validation=4, check_every=2, chunk=4, learning_rate=0.01)
CONFIG = ComparatorConfig(
    _SHORT,
    _SHORT,
    MultiTaskConfig(steps=5, tasks=3),
    HyperdecoderConfig(steps=5, tasks=3, trunk_dim=16, head_dim=16),
    descriptions=3,
    top_k=2,
)
EFFORT = Effort(examples=3, wordings=2, train_tasks=2)


class WordEncoder(DescriptionEncoder):
    """Counts words: enough for cosine similarity to find the description with the same ones."""

    identity = "words"
    dim = 256

    def embed(self, texts: Sequence[str]) -> Tensor:
        embedding_NE = torch.zeros(len(texts), self.dim)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                embedding_NE[row, Random(word).randrange(self.dim)] += 1
        return embedding_NE

    def to_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> WordEncoder:
        return cls()


@pytest.fixture(scope="module")
def base() -> Any:
    """The world's shape made small, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(VOCABULARY), max_position_embeddings=512, **sizes)
    return fill(LlamaForCausalLM(config), seed=3).eval()


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(*splits: Split) -> list[MicroTask]:
        return [task for split in splits for task in all_tasks_of(split)[::60][:5]]

    monkeypatch.setattr(comparators_module, "tasks_of", few)
    monkeypatch.setattr(training_module, "tasks_of", few)
    monkeypatch.setattr(training_module, "_STATES_FOR_SCALE", 40)
    monkeypatch.setattr(training_module, "bfloat16_is_fast", lambda: False)
    loop = training_module._loop
    monkeypatch.setattr(training_module, "_loop", lambda *given, **more: replace(loop(*given, **more), save_every=3))


def tasks_of(*splits: Split) -> list[MicroTask]:
    return comparators_module.tasks_of(*splits)


def equal(one: LoraWeights, other: LoraWeights) -> bool:
    return all(torch.equal(one.a[k], other.a[k]) and torch.equal(one.b[k], other.b[k]) for k in one.a)


def question_of(ids: Sequence[int]) -> str:
    return "".join(VOCABULARY[i] for i in ids if i > 3).partition(">")[0]


# Training


@pytest.mark.parametrize("name", ["give-last-word", "english-to-italian", "previous-month"])
def test_oracles_learn_validate_and_sit_the_exam_on_different_inputs(name: str) -> None:
    task = find_task(name)
    oracle = training_module._oracle_task(task, LibraryConfig(validation=16))
    held = [question_of(ids) for ids, _ in oracle.validation]
    learned = {question_of(ids) for step in range(60) for ids, _ in oracle.draw(step)}
    assert 1 <= len(held) == len(set(held)) <= 16 and learned and not learned & set(held)
    assert {part_of(task.operation.name, question) for question in [*held, *learned]} == {"train"}
    assert oracle.draw(7) == oracle.draw(7) != oracle.draw(8)
    ids, labels = oracle.draw(0)[0]
    text = "".join(VOCABULARY[i] for i in ids[1:])
    assert "".join(VOCABULARY[i] for i in labels if i >= 0) == text.partition(">")[2]


def test_a_library_is_made_once_with_one_setting_of_one_base(base: Any, tmp_path: Path) -> None:
    tasks = tasks_of("train")
    library = train_library(base, tmp_path, tasks[:2], CONFIG.library, report=silent)
    before = library.weights(library.names)
    library = train_library(base, tmp_path, tasks, CONFIG.library, report=silent)
    assert library.names == [task.name for task in tasks] and equal(library.weights(library.names[:2]), before)
    assert any(library.record(name)["best_step"] > 0 for name in library.names)
    train_library(base, tmp_path, tasks, replace(CONFIG.library, chunk=1), report=kill_at(0))
    with pytest.raises(T2LError, match="was made with"):
        train_library(base, tmp_path, tasks, replace(CONFIG.library, samples=3), report=silent)
    with pytest.raises(T2LError, match="was made with"):
        train_library(fill(base.__class__(base.config), seed=4).eval(), tmp_path, tasks, CONFIG.library, report=silent)
    with pytest.raises(T2LError, match="steps is 0"):
        LibraryConfig(steps=0)


def test_a_killed_multi_task_lora_resumes_and_is_kept(base: Any, tmp_path: Path) -> None:
    config = CONFIG.multi_task
    whole = train_multi_task(base, tmp_path / "whole", config, report=silent)
    with pytest.raises(Killed):
        train_multi_task(base, tmp_path / "killed", config, report=kill_at(4))
    resumed = train_multi_task(base, tmp_path / "killed", config, report=silent)
    assert equal(whole.weights(), resumed.weights())
    assert bool(whole.weights().b["q_proj"].any())
    kept = train_multi_task(base, tmp_path / "whole", config, report=kill_at(1))
    assert equal(whole.weights(), kept.weights())
    with pytest.raises(T2LError, match="was made with"):
        train_multi_task(base, tmp_path / "whole", replace(config, steps=4), report=silent)


def test_a_hyperdecoder_resumes_is_kept_and_reads_plain_states(base: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_hyperdecoder(base, tmp_path / "k", CONFIG.hyperdecoder, report=kill_at(4))
    resumed = train_hyperdecoder(base, tmp_path / "k", CONFIG.hyperdecoder, report=silent)
    made = train_hyperdecoder(base, tmp_path / "h", CONFIG.hyperdecoder, report=silent)
    kept = train_hyperdecoder(base, tmp_path / "h", CONFIG.hyperdecoder, report=kill_at(1))
    state_SW = _states(base, [("abc", "c"), ("one two", "two")])
    assert equal(made(state_SW), kept(state_SW)) and not kept.training
    assert equal(made(state_SW), resumed(state_SW))
    assert not torch.equal(made(state_SW).b["v_proj"][0], made(state_SW).b["v_proj"][1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h", "k"]
    with pytest.raises(T2LError, match="was made with"):
        train_hyperdecoder(base, tmp_path / "h", replace(CONFIG.hyperdecoder, seed=1), report=silent)


def test_comparators_learn_from_training_tasks_alone(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    original = training_module.example_batches

    def spying(rng: Random, tasks: Sequence[MicroTask], samples: int) -> Any:
        seen.update(task.split for task in tasks)
        return original(rng, tasks, samples)

    monkeypatch.setattr(training_module, "example_batches", spying)
    everything = ("average", "multi-task", "nearest", "hyperdecoder", "oracle")
    score_comparators(
        base, tmp_path, WordEncoder(), effort=EFFORT, splits=["far"], conditions=everything, config=CONFIG
    )
    assert seen == {"train"}
    assert Library.open(tmp_path / "library").names == [task.name for task in tasks_of("train")]
    assert Library.open(tmp_path / "oracle").names == [task.name for task in tasks_of("far")]


# Scoring


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[Query], Any]]:
    """What every call of exact_match got; every second answer counts as right."""
    calls: list[tuple[Any, list[Query], Any]] = []

    def recording(model: Any, queries: Sequence[Query], spec: Any = None, weights: Any = None, **_: Any) -> list[bool]:
        calls.append((model, list(queries), weights))
        return [index % 2 == 0 for index in range(len(queries))]

    monkeypatch.setattr(comparators_module, "exact_match", recording)
    return calls


def run(base: Any, folder: Path, condition: str, splits: Sequence[Split] = ("far",)) -> list[Score]:
    return score_comparators(
        base, folder, WordEncoder(), effort=EFFORT, splits=splits, conditions=[condition], seed=4, config=CONFIG
    )


def exam(task: MicroTask) -> list[tuple[str, str]]:
    return task.examples(EFFORT.examples, seed=4)


def test_all_sit_the_exam_that_evaluate_sets(base: Any, tmp_path: Path, asked: Any) -> None:
    splits: list[Split] = ["train", "far"]
    tasks = [*tasks_of("train")[::2], *tasks_of("far")]
    for condition in ("average", "multi-task", "oracle", "hyperdecoder"):
        asked.clear()
        scores = run(base, tmp_path, condition, splits)
        assert [query.example for _, queries, _ in asked for query in queries] == [e for t in tasks for e in exam(t)]
        assert [(s.task, s.split, s.condition) for s in scores] == [(t.name, t.split, condition) for t in tasks]
        right = [sum((3 * row + i) % 2 == 0 for i in range(3)) for half in (3, 1) for row in range(half)]
        assert [(s.right, s.total) for s in scores] == [(count, 3) for count in right]


def test_average_and_multi_task_answer_with_one_adapter(base: Any, tmp_path: Path, asked: Any) -> None:
    run(base, tmp_path, "average")
    run(base, tmp_path, "multi-task")
    assert {query.adapter for _, queries, _ in asked for query in queries} == {0}
    (_, _, average), (_, _, multi_task) = asked
    library = Library.open(tmp_path / "library")
    for key, tensor in library.weights(library.names).a.items():
        torch.testing.assert_close(average.a[key][0], tensor.mean(dim=0))
    assert equal(multi_task, Library.open(tmp_path / "multi-task").weights(["multi-task"]))


def test_an_oracle_answers_its_own_task(base: Any, tmp_path: Path, asked: Any) -> None:
    run(base, tmp_path, "oracle", ["far", "train"])
    folders = ["oracle", "library"]
    for (_, queries, weights), folder, tasks in zip(
        asked, folders, [tasks_of("far"), tasks_of("train")[::2]], strict=True
    ):
        library = Library.open(tmp_path / folder)
        for place, query in enumerate(queries):
            name = tasks[place // EFFORT.examples].name
            assert equal(weights.select(query.adapter), library.weights([name]))


def test_the_nearest_task_answers(base: Any, tmp_path: Path, asked: Any) -> None:
    """Training tasks are measured under new descriptions; the reference is a search written out."""
    scores = run(base, tmp_path, "nearest", ["train"])
    ((_, queries, weights),) = asked
    library = Library.open(tmp_path / "library")
    known = [(task.name, text) for task in tasks_of("train") for text in descriptions(task, 3, part="train")]
    embed = WordEncoder()
    place = 0
    for task in tasks_of("train")[::2]:
        for text in descriptions(task, EFFORT.wordings, part="train", seed=5):
            near = torch.cosine_similarity(embed.encode([text]), embed.encode([t for _, t in known]))
            name = known[int(near.argmax())][0]
            for example in exam(task):
                assert queries[place].example == example
                assert equal(weights.select(queries[place].adapter), library.weights([name]))
                place += 1
    assert place == len(queries) and {score.total for score in scores} == {6}


def test_a_hyperdecoder_answers_each_input_with_its_own_adapter(base: Any, tmp_path: Path, asked: Any) -> None:
    run(base, tmp_path, "hyperdecoder")
    ((_, queries, weights),) = asked
    source = train_hyperdecoder(base, tmp_path / "hyperdecoder", CONFIG.hyperdecoder)
    for query in queries:
        question, _ = query.example
        alone = source(_states(base, [(question, "any answer")]))
        given = weights.select(query.adapter)
        torch.testing.assert_close(given.b["q_proj"], alone.b["q_proj"], rtol=1e-4, atol=1e-6)


def test_the_description_stands_before_the_input(base: Any, tmp_path: Path, asked: Any) -> None:
    run(base, tmp_path, "description-in-prompt")
    ((model, queries, weights),) = asked
    expected = [
        (f"{text}: {question}", answer)
        for task in tasks_of("far")
        for text in descriptions(task, EFFORT.wordings, part="train", seed=5)
        for question, answer in exam(task)
    ]
    assert [query.example for query in queries] == expected and weights is None and model is base


def test_arrow_answers_without_a_description(base: Any, tmp_path: Path) -> None:
    """End to end with real answers: the routed model is another than the base, and the base is unharmed."""
    queries = [Query(example) for example in exam(tasks_of("far")[0])]
    before = exact_match(base, queries)
    scores = run(base, tmp_path, "arrow", ["far", "unseen-operation"])
    assert {score.condition for score in scores} == {"arrow"} and {score.total for score in scores} == {3}
    assert exact_match(base, queries) == before
    assert not any("lora" in name for name, _ in base.named_modules())


def test_the_exam_is_the_same_as_for_generated_adapters(base: Any, tmp_path: Path) -> None:
    """Under oracles that have hardly begun, the base scores as evaluate says of the base without an adapter."""
    plain = evaluate(base, WordEncoder(), None, effort=EFFORT, splits=["far"], conditions=["base"])  # type: ignore[arg-type]
    oracle = score_comparators(
        base,
        tmp_path / "work",
        WordEncoder(),
        effort=EFFORT,
        splits=["far"],
        conditions=["oracle"],
        config=replace(CONFIG, oracle=replace(CONFIG.oracle, steps=1, learning_rate=1e-12)),
    )
    by_task = {score.task: score for score in plain}
    assert [(s.right, s.total) for s in oracle] == [(by_task[s.task].right, by_task[s.task].total) for s in oracle]


def test_token_states_are_pooled_without_their_padding() -> None:
    class Tokens(WordEncoder):
        dim = 12
        token_dim = 4

        def embed(self, texts: Sequence[str]) -> Tensor:
            embedding_NE = torch.zeros(len(texts), 12)
            embedding_NE[:, :8] = torch.arange(1.0, 9.0)
            return embedding_NE

    torch.testing.assert_close(comparators_module._pooled(Tokens(), ["a b"]), torch.tensor([[3.0, 4.0, 5.0, 6.0]]))


def test_an_unknown_comparator_gets_near_names(base: Any, tmp_path: Path) -> None:
    with pytest.raises(T2LError, match="Did you mean 'oracle'"):
        run(base, tmp_path, "orcale")
    assert set(COMPARATORS) >= {"average", "nearest", "multi-task", "arrow", "hyperdecoder", "oracle"}
