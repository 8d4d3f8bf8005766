"""Libraries of adapters: what comes back from disk, and oracle adapters that train side by side as they would alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import Killed, kill_at, random_weights, silent, tiny_base, tiny_config
from t2l.adapter import Adapter
from t2l.errors import AdapterError, OutputError, T2LError
from t2l.library import INDEX_FILE, Library
from t2l.lora import AdapterTable, LoraSpec, LoraWeights
from t2l.recipes.reader import Recipe, recipe_from
from t2l.training import rows as rows_module
from t2l.training.batches import Tokens
from t2l.training.rows import STATE_FILE, RowTask, collate_rows, row_losses, row_settings, rows_backward, train_rows
from t2l.training.sft import learn_step

LIBRARY = {"steps": 12, "warmup": 2 / 12, "decay": 0.5, "learning_rate": 0.02, "check_every": 2, "patience": 3}
LOSS = {"weight_penalty": 1e-3, "label_smoothing": 0.1}


def recipe_of(loss: dict[str, Any] = LOSS, **changes: Any) -> Recipe:
    """Short training of adapters."""
    library = {**LIBRARY, **changes}
    return recipe_from({"library": library, "loss": loss, "lora": {"dropout": 0.0}, "loop": {"save_every": 3}})


CONFIG = recipe_of()


def train(base: Any, spec: LoraSpec, folder: Path, tasks: Sequence[RowTask], recipe: Recipe, *, report: Any) -> Library:
    library = Library.create(folder, spec, row_settings(recipe))
    return train_rows(base, spec, library, tasks, recipe, report=report)


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_base()


@pytest.fixture(scope="module")
def spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_config(), rank=2)


def same(one: LoraWeights, other: LoraWeights, **tolerance: float) -> bool:
    pairs = [(one.a[key], other.a[key]) for key in one.a] + [(one.b[key], other.b[key]) for key in one.b]
    return all(torch.allclose(x, y, **({"rtol": 0, "atol": 0} | tolerance)) for x, y in pairs)


def sample(generator: torch.Generator, shift: int) -> Tokens:
    """A prompt of differing length; the answer is its first token, shifted."""
    length = int(torch.randint(2, 6, (), generator=generator))
    prompt = torch.randint(2, 30, (length,), generator=generator).tolist()
    answer = [2 + (prompt[0] + shift) % 30, 39]
    return np.array([1, *prompt, *answer]), length + 1


def task(number: int) -> RowTask:
    def draw(step: int) -> list[Tokens]:
        generator = torch.Generator().manual_seed(1000 * number + step)
        return [sample(generator, number) for _ in range(3)]

    held = torch.Generator().manual_seed(77 + number)
    return RowTask(f"shift-{number}", draw, [sample(held, number) for _ in range(4)])


# On disk


def test_what_is_added_comes_back(spec: LoraSpec, tmp_path: Path) -> None:
    weights = random_weights(spec, 3)
    library = Library.create(tmp_path / "library", spec, {"steps": 5})
    names = ["a", "give+last", "Ünïcode / with: everything?"]
    library.add({name: (weights.select(i), {"validation_loss": i / 2}) for i, name in enumerate(names)})
    again = Library.open(tmp_path / "library")
    assert again.names == names and len(again) == 3 and names[2] in again and "b" not in again
    assert again.spec == spec and again.settings == {"steps": 5}
    assert same(again.weights([names[2], "a"]), weights.select(torch.tensor([2, 0])))
    assert same(LoraWeights.cat(list(again.stream())), weights)
    assert again.record("give+last") == {"validation_loss": 0.5}
    assert same(again.adapter("a").weights, weights.select(0))
    Library.create(tmp_path / "library", spec, {"steps": 5}).add({"a": (weights.select(1), {})})
    assert same(Library.open(tmp_path / "library").weights(["a"]), weights.select(1))
    assert {path.suffix for path in (tmp_path / "library").iterdir()} == {".json", ".safetensors"}


def test_only_what_is_asked_for_is_read(spec: LoraSpec, tmp_path: Path) -> None:
    library = Library.create(tmp_path, spec)
    weights = random_weights(spec, 2)
    library.add({"good": (weights.select(0), {}), "bad": (weights.select(1), {})})
    (tmp_path / "bad.safetensors").write_bytes(b"torn")
    assert same(Library.open(tmp_path).weights(["good"]), weights.select(0))
    with pytest.raises(AdapterError, match=r"bad\.safetensors' is not a whole safetensors file"):
        Library.open(tmp_path).weights(["good", "bad"])


def test_peft_folders_are_a_library(spec: LoraSpec, tmp_path: Path) -> None:
    weights = random_weights(spec, 2)
    Adapter(spec, weights.select(0)).save(tmp_path / "one", form="portable")
    Adapter(spec, weights.select(1)).save(tmp_path / "two", form="rslora")
    library = Library.open(tmp_path, spec=spec)  # whatever form they were saved in
    assert library.names == ["one", "two"]
    assert same(library.weights(["one", "two"]), weights, rtol=1e-6)
    portable = Library.open(tmp_path)
    assert portable.spec.scaling == 1
    path = spec.module_paths()[1]
    for name in library.names:
        torch.testing.assert_close(portable.adapter(name).delta(path), library.adapter(name).delta(path))
    with pytest.raises(OutputError, match="only read"):
        library.add({"three": (weights.select(0), {})})
    with pytest.raises(AdapterError, match=r"(?s)2 of 2 adapters do not fit.*one: its rank is 2, above 1"):
        Library.open(tmp_path, spec=replace(spec, rank=1))


def test_a_lower_rank_and_another_scaling_change_no_delta(spec: LoraSpec, tmp_path: Path) -> None:
    other = replace(spec, rank=1, alpha=3.0, use_rslora=False)
    Adapter(other, random_weights(other)).save(tmp_path / "thin", form="rslora")
    Adapter(spec, random_weights(spec, seed=1)).save(tmp_path / "wide", form="rslora", dtype="bfloat16")
    library = Library.open(tmp_path)
    assert library.spec.rank == 2 and library.spec.scaling == spec.scaling and library.spec.num_layers == 2
    for name in library.names:
        own = Adapter.load(tmp_path / name)
        for path in spec.module_paths():
            torch.testing.assert_close(library.adapter(name).delta(path), own.delta(path), rtol=1e-5, atol=1e-6)
    assert library.weights(["thin", "wide"]).num_samples == 2


def test_adapters_that_do_not_fit_are_named(spec: LoraSpec, tmp_path: Path) -> None:
    spec = replace(spec, base_model="org/tiny-base")
    for number in range(3):
        Adapter(spec, random_weights(spec, seed=number)).save(tmp_path / f"good-{number}")
    local = replace(spec, base_model="/models/tiny-base")  # a copy of the same base
    Adapter(local, random_weights(local)).save(tmp_path / "local")
    foreign = replace(spec, base_model="org/other-base")
    Adapter(foreign, random_weights(foreign)).save(tmp_path / "foreign")
    narrow = LoraSpec.from_base(tiny_config(), rank=2, target_modules=["q_proj"])
    Adapter(narrow, random_weights(narrow)).save(tmp_path / "narrow")
    larger = LoraSpec.from_base(tiny_config(hidden_size=48), rank=2)
    Adapter(larger, random_weights(larger)).save(tmp_path / "larger")
    Adapter(spec, random_weights(spec)).save(tmp_path / "torn")
    (tmp_path / "torn" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="4 of 8 adapters do not fit the others") as caught:
        Library.open(tmp_path)
    for words in ("foreign: it is for the base 'org/other-base', not 'org/tiny-base'", "narrow: it lacks", "skip_odd"):
        assert words in str(caught.value)
    assert "larger: model.layers.0.self_attn.q_proj is 48x48, not 24x24" in str(caught.value)
    library = Library.open(tmp_path, skip_odd=True)
    assert library.names == ["good-0", "good-1", "good-2", "local"]
    assert list(library.odd) == ["foreign", "larger", "narrow", "torn"] and "truncated" not in library.odd["foreign"]


def test_a_library_of_peft_folders_comes_back_exactly(spec: LoraSpec, tmp_path: Path) -> None:
    weights = random_weights(spec, 2)
    library = Library.create(tmp_path, spec, {"steps": 5}, peft=True)
    library.add({"a": (weights.select(0), {"steps": 3}), "b/c": (weights.select(1), {})})
    again = Library.open(tmp_path)
    assert again.names == ["a", "b/c"] and again.record("a") == {"steps": 3} and again.settings == {"steps": 5}
    assert same(again.weights(["a", "b/c"]), weights)
    adapter = Adapter.load(tmp_path / "a")  # a whole artifact, its digest checked
    assert adapter.provenance["task"] == "a" and adapter.provenance["record"] == {"steps": 3}
    assert adapter.provenance["library"] == {"steps": 5} and adapter.spec.scaling == spec.scaling
    before = again.fingerprint()
    assert before == Library.open(tmp_path).fingerprint() != again.fingerprint(["a"])
    again.add({"a": (weights.select(1), {})})
    assert again.fingerprint() != before


def test_what_is_no_library_is_refused(spec: LoraSpec, tmp_path: Path) -> None:
    with pytest.raises(T2LError, match="is no library"):
        Library.open(tmp_path)
    library = Library.create(tmp_path / "library", spec, {"steps": 5})
    library.add({"add-7": (random_weights(spec), {})})
    with pytest.raises(T2LError, match="Did you mean 'add-7'"):
        library.weights(["add-8"])
    with pytest.raises(T2LError, match="No adapter"):
        library.weights([])
    with pytest.raises(T2LError, match="give one for each name"):
        library.add({"two": (random_weights(spec, 2), {})})
    with pytest.raises(T2LError, match=r"'steps': 5}, not {'steps': 6}"):
        Library.create(tmp_path / "library", spec, {"steps": 6})
    with pytest.raises(T2LError, match="other modules, ranks or scaling"):
        Library.create(tmp_path / "library", replace(spec, alpha=3.0))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="something else"):
        Library.create(tmp_path / "else", spec)
    index = json.loads((tmp_path / "library" / INDEX_FILE).read_text())
    index["adapters"]["add-7"]["file"] = "../../secret.safetensors"
    (tmp_path / "library" / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(T2LError, match="not in the library's own folder"):
        Library.open(tmp_path / "library")
    (tmp_path / "library" / INDEX_FILE).write_text(json.dumps({**index, "format": 9}))
    with pytest.raises(T2LError, match="format 9"):
        Library.open(tmp_path / "library")


# The table


def test_rows_are_named_by_number_or_one_hot(spec: LoraSpec) -> None:
    table = AdapterTable(spec, seeds=[1, 2, 3])
    a_NLRI = table.table().a["q_proj"]
    assert torch.equal(table.rows(torch.tensor([2, 0, 2])).a["q_proj"], a_NLRI[[2, 0, 2]])
    assert torch.equal(table(torch.eye(3)[[1, 1]]).a["q_proj"], a_NLRI[[1, 1]])


def test_a_row_starts_as_lora_does_from_its_own_seed_alone(spec: LoraSpec) -> None:
    together, alone = AdapterTable(spec, seeds=[1, 2]).table(), AdapterTable(spec, seeds=[2]).table()
    assert same(together.select(1), alone) and not same(together.select(0), alone)
    for group in spec.groups:
        assert not together.b[group.key].any()
        bound = group.in_features**-0.5
        assert 0.8 * bound < float(together.a[group.key].detach().abs().max()) <= bound


def test_row_losses_add_up_to_the_sft_loss_and_so_do_their_gradients(base: Any, spec: LoraSpec) -> None:
    tasks = [task(number) for number in range(3)]
    samples = [(row, drawn) for row, each in enumerate(tasks) for drawn in each.draw(0)]
    table = AdapterTable(spec, seeds=[0, 1, 2])
    for tensor in table.b.values():
        torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(0))
    weights, loss = table.table(), recipe_of({"weight_penalty": 0.0, "label_smoothing": 0.1}).loss
    whole = learn_step(base, table, torch.eye(3), collate_rows(samples), loss)
    expected = [parameter.grad.clone() for parameter in table.parameters() if parameter.grad is not None]
    table.zero_grad()
    total = rows_backward(base, spec, weights, collate_rows(samples, 20), loss)
    assert total / 3 == pytest.approx(float(whole), rel=1e-5)
    for parameter, goal in zip(table.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad / 3, goal, rtol=1e-4, atol=1e-6)
    loss_N = row_losses(base, spec, weights, collate_rows(samples, 20))
    plain = learn_step(base, table, torch.eye(3), collate_rows(samples), replace(loss, label_smoothing=0.0))
    torch.testing.assert_close(loss_N.mean(), plain)
    alone = row_losses(base, spec, weights.select(1), collate_rows([(0, s) for row, s in samples if row == 1]))
    torch.testing.assert_close(loss_N[1:2], alone)


# Training


def test_an_adapter_trained_among_eight_is_the_one_trained_alone(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    tasks = [task(number) for number in range(8)]
    together = train(base, spec, tmp_path / "together", tasks, CONFIG, report=silent)
    small = recipe_of(together=1, pass_tokens=20)
    alone = train(base, spec, tmp_path / "alone", [tasks[5], tasks[2]], small, report=silent)
    for name in ("shift-2", "shift-5"):
        assert same(together.weights([name]), alone.weights([name]), atol=2e-5)
        one, other = together.record(name), alone.record(name)
        assert one.pop("validation_loss") == pytest.approx(other.pop("validation_loss"), abs=1e-4)
        assert one == other and one["best_step"] > 0
    assert not same(together.weights(["shift-2"]), together.weights(["shift-5"]), atol=1e-2)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers
def test_one_row_is_trained_as_plain_adamw_would(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    """Against a loop written out: PEFT's own LoRA layers, torch's clipping and AdamW."""
    config = recipe_of({"weight_penalty": 0.0, "label_smoothing": 0.0}, steps=4, warmup=0.5, decay=0.0, check_every=4)
    oracle = task(3)
    library = train(base, spec, tmp_path, [oracle], config, report=silent)
    assert library.record("shift-3")["best_step"] == 4
    start = AdapterTable(spec, [config.loop.seed]).table().detach()
    model = Adapter(spec, start).apply(tiny_base())
    parameters = [p.requires_grad_() for name, p in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(parameters, lr=config.library.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(4):
        optimizer.param_groups[0]["lr"] = config.library.learning_rate * min(1.0, (step + 1) / 2)
        losses = []
        for ids, prompt in oracle.draw(step):
            logits = model(input_ids=torch.tensor(ids[None])).logits[0, prompt - 1 : -1]
            losses.append(F.cross_entropy(logits, torch.tensor(ids[prompt:])))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.loop.clip)
        optimizer.step()
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    for name, tensor in library.adapter("shift-3").state_dict().items():
        torch.testing.assert_close(tensor, trained[name].detach(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("moment", [1, 7, 19])
def test_a_killed_run_resumes_to_the_same_weights(moment: int, base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    tasks = [task(number) for number in range(4)]
    config = recipe_of(together=2)
    whole = train(base, spec, tmp_path / "whole", tasks, config, report=silent)
    with pytest.raises(Killed):
        train(base, spec, tmp_path / "killed", tasks, config, report=kill_at(moment))
    assert (tmp_path / "killed" / STATE_FILE).exists() == (moment != 1)
    resumed = train(base, spec, tmp_path / "killed", tasks, config, report=silent)
    assert resumed.names == whole.names
    assert all(resumed.record(name) == whole.record(name) for name in whole.names)
    assert same(resumed.weights(resumed.names), whole.weights(whole.names))
    assert not (tmp_path / "killed" / STATE_FILE).exists()


def test_what_is_in_the_library_is_not_trained_again(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    tasks = [task(number) for number in range(3)]
    train(base, spec, tmp_path, tasks[:2], CONFIG, report=silent)
    seen: list[tuple[int, int]] = []
    library = train(base, spec, tmp_path, tasks, CONFIG, report=lambda d, s, _: seen.append((d, s)))
    assert library.names == ["shift-0", "shift-1", "shift-2"] and {steps for _, steps in seen} == {12}
    assert seen[-1] == (12, 12)
    before = len(seen)
    train(base, spec, tmp_path, tasks, CONFIG, report=lambda d, s, _: seen.append((d, s)))
    assert len(seen) == before


def test_a_row_stops_by_its_own_validation_and_keeps_its_best(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    learns = task(1)
    hopeless = RowTask("hopeless", task(2).draw, [(np.array([1, 5, 3]), 2)])  # training makes 3 unlikely
    config = recipe_of(check_every=1, patience=2, steps=30, warmup=0.0, decay=0.0)
    library = train(base, spec, tmp_path, [learns, hopeless], config, report=silent)
    record = library.record("hopeless")
    assert record["stopped"] == "patience" and record["steps"] == record["best_step"] + 2 < 30
    assert library.record("shift-1")["steps"] > record["steps"]
    for each in (learns, hopeless):
        batches = collate_rows([(0, s) for s in each.validation])
        now = row_losses(base, spec, library.weights([each.name]), batches).item()
        assert now == pytest.approx(library.record(each.name)["validation_loss"], abs=1e-5)


def test_a_row_that_diverges_leaves_the_others_alone(
    base: Any, spec: LoraSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(0), task(1)]
    clean = train(base, spec, tmp_path / "clean", tasks[:1], CONFIG, report=silent)
    original = rows_module._Rows._backward

    def poisoned(self: Any) -> float:
        loss = original(self)
        if self.steps == 5 and 1 in self.active:
            self.table.a["q_proj"].grad[1, 0, 0, 0] = torch.inf
        return loss

    monkeypatch.setattr(rows_module._Rows, "_backward", poisoned)
    library = train(base, spec, tmp_path / "poisoned", tasks, CONFIG, report=silent)
    assert library.record("shift-1")["stopped"] == "diverged" and library.record("shift-1")["steps"] == 5
    assert same(library.weights(["shift-0"]), clean.weights(["shift-0"]), atol=2e-5)
    assert bool(torch.isfinite(library.weights(["shift-1"]).a["q_proj"]).all())


def test_what_cannot_be_trained_is_said_before(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    def attempt(tasks: Sequence[RowTask], recipe: Recipe = CONFIG) -> None:
        train(base, spec, tmp_path, tasks, recipe, report=silent)

    with pytest.raises(T2LError, match="Two tasks are called 'shift-1'"):
        attempt([task(1), task(1)])
    with pytest.raises(T2LError, match="'mute' has no validation samples"):
        attempt([RowTask("mute", task(1).draw, [])])
    with pytest.raises(Killed):
        train(base, spec, tmp_path, [task(1)], CONFIG, report=kill_at(7))
    with pytest.raises(T2LError, match="other tasks or settings"):
        attempt([task(2)])
    with pytest.raises(T2LError, match="was made with"):
        attempt([task(1)], recipe_of(learning_rate=0.5))
    (tmp_path / STATE_FILE).write_bytes(b"torn")
    with pytest.raises(T2LError, match=r"(?s)cannot be read.*Delete"):
        attempt([task(1)])
    with pytest.raises(T2LError, match="patience is 0"):
        recipe_of(patience=0)
