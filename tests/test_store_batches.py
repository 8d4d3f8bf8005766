"""What a step draws: fractions of named groups of tasks, conditions in half precision, batches made ahead; averages."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from t2l.data.sampler import TaskSampler, grouped
from t2l.data.store import TaskEntry
from t2l.encoders import MiniLmEncoder, OneHotEncoder
from t2l.errors import RecipeError
from t2l.recipes.reader import Recipe, load_recipe
from t2l.training.batches import Ahead, StoreBatches
from t2l.training.conditions import (
    ConditionTable,
    NoConditions,
    Standardization,
    StepConditions,
    encode_table,
    table_of,
)
from t2l.training.source import WeightAverage, hidden_matrices, modules_of, rate_factor

NAMES = [f"real-{i}" for i in range(6)] + [f"everyday-{i}" for i in range(3)] + ["everyday-odd-0"]
STORE: Any = SimpleNamespace(
    tasks=tuple(TaskEntry(name, "train", 5, ("Do it.", "Do this.")) for name in NAMES),
    length=lambda task, sample: 10 + task + sample,
)
ALL = tuple(range(len(NAMES)))


SAMPLED: Any = SimpleNamespace(
    **vars(STORE),
    split=lambda name: ALL,
    sample=lambda task, sample: SimpleNamespace(input_ids=np.arange(10 + task + sample), prompt_length=6),
)


def small_recipe(*, first: float, examples: float) -> Recipe:
    """The recipe that reads tokens, without its mixture, 4 tasks x 2 samples a step."""
    recipe = load_recipe("smollm2-135m-gpu", ["loop.tasks=4", "loop.samples=2"])
    condition = replace(recipe.condition, first=first, examples=examples)
    return replace(recipe, data=replace(recipe.data, mixture={}), condition=condition)


def mixture(fractions: dict[str, float], tasks: int = 8) -> TaskSampler:
    return TaskSampler(STORE, ALL, tasks, 2, 0, mixture=fractions)


def test_each_named_group_gets_its_fraction_of_every_batch() -> None:
    sampler = mixture({"real-": 0.55, "everyday-": 0.25, "everyday-odd": 0.2})
    counts = {"real-": 0, "everyday-": 0, "everyday-odd": 0}
    for step in range(100):
        groups = sampler.groups(step)
        assert len(groups) == 8
        assert all(len({task for task, _, _ in group}) == 1 and len(group) == 2 for group in groups)
        for group in groups:
            name = NAMES[group[0][0]]
            counts[next(key for key in ("everyday-odd", "everyday-", "real-") if name.startswith(key))] += 1
        assert abs(counts["everyday-"] - 0.25 * 8 * (step + 1)) <= 1
        assert abs(counts["everyday-odd"] - 0.2 * 8 * (step + 1)) <= 1
    assert counts["real-"] == pytest.approx(0.55 * 800, abs=2)


def test_the_groups_of_a_step_depend_on_nothing_else_and_go_through_all_tasks() -> None:
    fractions = {"real-": 0.5, "*": 0.5}
    one, two = mixture(fractions), mixture(fractions)
    whole = [one.groups(step) for step in range(6)]
    assert [two.groups(step) for step in (5, 0, 3)] == [whole[5], whole[0], whole[3]]
    real = [group[0][0] for groups in whole for group in groups if group[0][0] < 6]
    assert sorted(real[:6]) == list(range(6)), "each once before any comes twice"
    assert grouped(STORE, ALL, {}) == {"*": ALL}


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ({"real-": 0.5, "everyday-": 0.4}, "sum to 1"),
        ({"real-": 1.5, "everyday-": -0.5}, "above 0"),
        ({"real-": 1.0}, "fits the task 'everyday-0'"),
        ({"reel-": 0.5, "*": 0.5}, "fits no training task"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(fractions: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        mixture(fractions)


def test_more_groups_than_a_small_batch_can_keep_to_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"loop.tasks=3(.|\n)*more tasks"):
        mixture({"real-": 0.4, "everyday-": 0.3, "everyday-odd": 0.3}, tasks=3)


def test_a_pattern_goes_before_a_beginning() -> None:
    members = grouped(STORE, ALL, {"*-odd-*": 0.1, "everyday-": 0.4, "*": 0.5})
    assert members == {"*-odd-*": (9,), "everyday-": (6, 7, 8), "*": (0, 1, 2, 3, 4, 5)}


def test_a_table_gives_standardised_conditions_with_noise_that_the_seed_decides() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    table = ConditionTable.of({7: rows[:4], 9: rows[4:]})
    assert table.state_KW.dtype == torch.float16
    assert (table.count(7), table.count(9)) == (4, 2)
    torch.testing.assert_close(table.gather([(9, 1), (7, 0)]), rows[[5, 0]], rtol=1e-3, atol=1e-3)
    table.standardize = Standardization.of(table.rows_KE([7, 9]))
    plain = table.gather([(7, i) for i in range(4)] + [(9, 0), (9, 1)])
    torch.testing.assert_close(plain.mean(dim=0), torch.zeros(4), atol=1e-3, rtol=0)
    table.noise = 0.5
    draws = [table.gather([(7, 0)] * 500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert float((draws[0] - plain[0]).std()) == pytest.approx(0.5, rel=0.1)
    assert torch.equal(table.gather([(7, 0)]), plain[:1]), "none in validation"


def test_token_states_are_kept_without_padding_and_come_back_with_it(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    encoder = MiniLmEncoder("tokens")
    texts = {0: ("Sort the words.", "Put the words of the list in the order of the alphabet."), 3: ("Sort the words.",)}
    tensors = encode_table(encoder, texts, print)
    assert tensors["state_KW"].shape[0] < 80, "only real tokens"
    assert tensors["state_KW"].dtype == torch.float16
    table = table_of(tensors, texts, encoder.dim)
    assert not table.pooled
    expected = encoder.encode([texts[0][1], texts[3][0]])
    torch.testing.assert_close(table.gather([(0, 1), (3, 0)]), expected, rtol=1e-2, atol=2e-3)


def test_pooled_embeddings_of_equal_texts_are_equal(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    encoder = OneHotEncoder(["one", "three words here", "two words"])
    texts = {4: ("two words", "one"), 2: ("three words here", "one")}
    table = table_of(encode_table(encoder, texts, print), texts, encoder.dim)
    assert torch.equal(table.gather([(4, 0), (4, 1), (2, 0), (2, 1)]), torch.eye(3)[[2, 0, 1, 0]])


def test_encoding_says_in_lines_how_far_it_is(monkeypatch: Any) -> None:
    """Lines, not a bar: a run whose output goes to a log file tells them too."""
    from t2l.encoders import encoder
    from t2l.training import conditions

    monkeypatch.setattr(encoder, "_SAID_EVERY", -1.0)
    monkeypatch.setattr(conditions, "_ENCODED_AT_ONCE", 2)
    names, lines = ["a", "bb", "ccc"], []
    encode_table(OneHotEncoder(names), {0: names, 1: ["a"]}, lines.append)
    told = [line.partition(",")[0] for line in lines]
    assert told == [f"{number} of 3 descriptions encoded" for number in (2, 3)]
    assert lines[-1].endswith("about 0 s left")


class Lengths:
    """An encoder that reads each step's texts, and tells their lengths."""

    full_stop = True

    def step_tokens(self, texts: list[str]) -> list[list[int]]:
        return [[len(text)] for text in texts]

    def step_conditions(self, tokens: list[list[int]]) -> torch.Tensor:
        return torch.tensor(tokens, dtype=torch.float32)


def test_an_encoder_of_steps_reads_the_texts_of_each_step() -> None:
    conditions = StepConditions(Lengths(), {0: ("ab", "abc"), 1: ("a",)})
    gathered = conditions.gather([(0, 1), (1, 0)], torch.Generator())
    assert conditions.on_device(gathered, torch.device("cpu")).tolist() == [[4.0], [2.0]], "a full stop is added"
    assert not conditions.shared
    assert NoConditions().shared


def test_a_step_takes_definitions_and_shows_examples_as_often_as_the_recipe_says() -> None:
    recipe = small_recipe(first=0.5, examples=0.5)
    texts = {place: task.descriptions for place, task in enumerate(SAMPLED.tasks)}
    conditions = StepConditions(Lengths(), texts, lambda task, sample: (f"in {sample}", f"out {sample}"))
    batches = StoreBatches(SAMPLED, conditions, recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base)
    made = [text for step in range(60) for text in batches.step(step).gathered]
    shown = [text for text in made if "\nOutput: out" in text]
    assert 0.35 < len(shown) / len(made) < 0.65
    firsts = {own[0] for own in conditions.texts.values()}
    assert 0.5 < sum(text.split("\n\n")[0] in firsts for text in made) / len(made) < 0.9
    assert batches.step(7).gathered == batches.step(7).gathered
    for step in range(20):
        batch, picks = batches.step(step), batches.picks(step)
        for row, text in enumerate(batch.gathered):
            learned = {f"Output: out {sample}" for _, sample, _ in picks[row * 2 : row * 2 + 2]}
            assert not any(line in learned for line in text.splitlines()), "a sample of the step is shown as an example"


def test_examples_need_an_encoder_that_reads_each_step() -> None:
    table = ConditionTable(torch.zeros(20, 4), {place: [2 * place, 2 * place + 1, 2 * place + 2] for place in ALL}, 4)
    recipe = small_recipe(first=0.0, examples=0.2)
    with pytest.raises(RecipeError, match="token states"):
        StoreBatches(SAMPLED, table, recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base)


def test_batches_are_made_ahead_in_any_order_of_steps() -> None:
    made: list[int] = []

    def make(step: int) -> Any:
        made.append(step)
        return step

    ahead = Ahead(make, 5)
    assert [ahead(step) for step in (0, 1, 2, 4, 3, 4)] == [0, 1, 2, 4, 3, 4]
    ahead.close()
    assert set(made) == {0, 1, 2, 3, 4}, "none beyond the last step"


def test_a_failure_while_a_batch_is_made_ahead_reaches_the_step() -> None:
    def make(step: int) -> Any:
        if step == 1:
            raise RecipeError("no")
        return step

    ahead = Ahead(make, 3)
    ahead(0)
    with pytest.raises(RecipeError):
        ahead(1)
    ahead.close()


def test_the_average_follows_swaps_and_comes_back() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = WeightAverage(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average.update(0)  # decay 0.1 in the first step
    assert average.values["weight"].item() == pytest.approx(0.9)
    kept = {name: value.clone() for name, value in average.tensors().items()}
    average.swap()
    assert (module.weight.item(), average.values["weight"].item()) == (pytest.approx(0.9), 1.0)
    average.load(kept)
    assert average.values["weight"].item() == pytest.approx(0.9)


def test_the_cosine_falls_to_zero_from_the_peak() -> None:
    assert rate_factor(0, 100, 0.1, 1.0, cosine=True) == pytest.approx(0.1)
    assert rate_factor(50, 100, 0.1, 1.0, cosine=True) == pytest.approx(0.5)
    assert rate_factor(99, 100, 0.1, 1.0, cosine=True) < 0.001
    assert rate_factor(50, 100, 0.0, 0.5, cosine=True) == 1.0
    assert rate_factor(75, 100, 0.0, 0.5, cosine=True) == pytest.approx(0.5)


def test_muon_gets_the_matrices_that_the_source_names() -> None:
    named: Any = SimpleNamespace(muon_parameters=lambda: ["head.mix"])
    chosen = hidden_matrices(named)
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    assert chosen("head.mix", parameter)
    assert not chosen("trunk.0.weight", parameter)
    assert hidden_matrices(SimpleNamespace())("trunk.0.weight", parameter)  # pyright: ignore[reportArgumentType]


def test_gradients_are_clipped_by_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
    assert [len(part) for part in modules_of(module)] == [2, 1]
