"""Recipes: what ships is whole, every key and type is checked, errors name what is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from t2l.cli import app
from t2l.errors import RecipeError
from t2l.recipes.reader import Recipe, load_recipe, recipe_differences, recipe_from, recipe_names, recipe_text

OTHERS = {"mistral-7b-paper"} | {f"smollm2-135m-{what}" for what in ("cpu", "gpu", "multi-task")}
MODELS = ("mistral-7b", "llama-3.1-8b", "gemma-2-2b", "qwen3-4b")


def test_every_model_has_a_recipe_for_each_machine() -> None:
    wanted = {f"{model}-{machine}" for model in MODELS for machine in ("24gb", "80gb", "8gpu")}
    assert set(recipe_names()) == wanted | OTHERS


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_whole_and_comes_back_from_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.about
    assert name in recipe_text(name).splitlines()[0], "the header holds the command"
    assert recipe_text(name).splitlines()[1].startswith("# Hardware: ")
    file = tmp_path / "whole.yaml"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file) == recipe
    devices = recipe.hardware.devices
    assert recipe.loop.parts % devices == 0, "its processes have equally much to do"


def test_the_papers_setting() -> None:
    recipe = load_recipe("mistral-7b-paper")
    assert (recipe.loop.tasks, recipe.loop.samples, recipe.loop.steps) == (8, 1, 20_000 * 479 // 8)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay, recipe.loop.warmup) == (2.5e-5, 1e-2, 0.2)
    assert (recipe.loss.label_smoothing, recipe.loss.neftune, recipe.loss.weight_penalty) == (0.1, 5, 1e-3)
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.data.descriptions_per_task) == (
        8, 16, 0.05, 128,
    )  # fmt: skip


def test_a_recipe_begins_from_another_and_a_file_from_one_that_ships(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("like: qwen3-4b-24gb\nloop: {steps: 7}\n")
    recipe = load_recipe(file)
    assert recipe.base.model.startswith("Qwen/")
    assert recipe.loop.steps == 7
    assert recipe.loop.tasks == load_recipe("mistral-7b-24gb").loop.tasks
    (tmp_path / "theirs.yaml").write_text("like: mine\nloop: {tasks: 32}\n")
    assert load_recipe(tmp_path / "theirs.yaml").loop.steps == 7
    file.write_text("like: theirs\n")
    with pytest.raises(RecipeError, match="begins from itself"):
        load_recipe(tmp_path / "theirs.yaml")


def test_overrides_are_read_by_type() -> None:
    changes = ["loop.steps=1e3", "optimizer.learning_rate=1e-3", "loop.trackers=wandb", "base.compile=true"]
    changes += ["data.tasks=[a, b]", "data.descriptions_per_task=null", "encoder.kind=one-hot", "encoder.size=4"]
    recipe = load_recipe("mistral-7b-paper", changes)
    assert recipe.loop.steps == 1000
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.loop.trackers == ("wandb",)
    assert recipe.base.compile is True
    assert recipe.data.tasks == ("a", "b")
    assert recipe.data.descriptions_per_task is None
    assert recipe.encoder == {"kind": "one-hot", "size": 4}, "another kind reads nothing of the old one's"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("loop.stepps=3", "Did you mean 'loop.steps'"),
        ("steps=3", "Did you mean 'loop.steps'"),
        ("learning_rate=3", "optimizer.learning_rate"),
        ("loop=3", "is a section"),
        ("loop.steps", "not key=value"),
        ("loop.steps=many", "whole number"),
        ("loop.steps=2.5", "whole number"),
        ("loop.steps=true", "whole number"),
        ("loop.steps=0", "at least 1"),
        ("optimizer.learning_rate=fast", "is a number"),
        ("optimizer.learning_rate=.nan", "is a number"),
        ("base.compile=3", "true or false"),
        ("base.quantization=4bits", "Did you mean '4bit'"),
        ("hypernetwork.variant=Q", "Known: 'L', 'M', 'S'"),
        ("loop.micro_batch=3", "loop.micro_tokens"),
        ("loop.batch=3", "loop.tasks"),
        ("loss.views=4", "shared out"),
        ("loop.tasks=0", "at least 1"),
        ("loop.ema=1", "below 1"),
        ("loop.schedule=stairs", "Known: 'linear', 'cosine'"),
        ("data.mixture={a: much}", "is a number"),
        ("loss.contrast=0.1", "views=2"),
        ("loop.warmup=1.5", "fraction"),
        ("data.tasks={a: 1}", "is a list"),
        ("loop.steps=[", "cannot be read"),
    ],
)
def test_a_wrong_override_says_what_is_right(change: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("mistral-7b-80gb", [change])
    assert said in str(caught.value)


def test_a_wrong_file_says_what_is_right(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, said in [
        ("loop: {stepps: 3}", "loop.steps"),
        ("lop: {steps: 3}", "Did you mean"),
        ("- 1", "not sections"),
        ("a: [", "as YAML"),
        ("loop: 3", "not a section"),
        ("like: nothing-like-it", "no recipe"),
    ]:
        file.write_text(text)
        with pytest.raises(RecipeError) as caught:
            load_recipe(file)
        assert said in str(caught.value), text
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="Did you mean 'qwen3-4b-24gb'"):
        load_recipe("qwen3-4b-24g")


def test_differences_are_shown_by_key() -> None:
    old = Recipe()
    new = recipe_from({"loop": {"steps": 3}, "encoder": {"kind": "one-hot", "size": 2}})
    assert recipe_differences(old, old) == []
    assert recipe_differences(old, new) == [
        "encoder.kind: 'minilm' -> 'one-hot'",
        "loop.steps: 10000 -> 3",
        "encoder.size: None -> 2",
    ]


def test_the_commands_list_show_and_copy(tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["recipes", "ls"])
    assert all(name in listed.stdout for name in recipe_names())
    assert run.invoke(app, ["recipes", "show", "mistral-7b-24gb"]).stdout.strip() == (
        recipe_text("mistral-7b-24gb").strip()
    )
    assert "steps: 5\n" in run.invoke(app, ["recipes", "show", "mistral-7b-24gb", "loop.steps=5"]).stdout
    file = tmp_path / "mine.yaml"
    assert run.invoke(app, ["recipes", "copy", "mistral-7b-24gb", str(file)]).exit_code == 0
    assert load_recipe(file) == load_recipe("mistral-7b-24gb")
    again = run.invoke(app, ["recipes", "copy", "mistral-7b-24gb", str(file)])
    assert again.exit_code == 2
    assert "already exists" in again.stderr
