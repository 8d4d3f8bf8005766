"""The adapter folder: PEFT, transformers and other runtimes read it as it is; what is damaged is refused by name."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from helpers import fill, random_weights, tiny_base, tiny_config, tokens
from t2l import storage
from t2l.adapter import PROVENANCE_FILE, Adapter, Form, adapters_from_weights
from t2l.batched import apply_batched
from t2l.errors import AdapterError, BaseModelError, OutputError, T2LError
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.peft_format import CONFIG_FILE, TENSOR_FILE

pytestmark = [  # what PEFT says about transformers, and about a GPT-2 adapter that PEFT itself made
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out"),
]

FORMS: list[Form] = ["portable", "rslora"]
PROVENANCE = {"description": "Sort the words.", "checkpoint": "abc", "encoder": "minilm", "seed": 3}


def make(kind: str = "llama", seed: int = 0, provenance: dict[str, Any] | None = None, **options: Any) -> Adapter:
    spec = LoraSpec.from_base(tiny_config(kind), **{"rank": 3, "alpha": 16.0, **options})
    spec = replace(spec, base_model="tiny/base")
    return Adapter(spec, random_weights(spec, seed=seed, std=0.3), PROVENANCE if provenance is None else provenance)


def peft_from(folder: Path, kind: str = "llama", **changes: Any) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(tiny_base(kind, **changes), str(folder))


def adapted_modules(model: Any) -> set[str]:
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    return {name.removeprefix("base_model.model.") for name in wrapped}


def base_weight(model: nn.Module, path: str) -> torch.Tensor:
    module = model.get_submodule(path)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.mT if type(module).__name__ == "Conv1D" else weight


# ------------------------------------------------------------------------------------------ what others load


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"target_modules": "all-linear"}),
        ("llama", {"use_rslora": False}),
        ("llama", {"layers": [1]}),
        ("gpt2", {}),
        ("gpt2", {"target_modules": "all-linear"}),
        ("gpt2", {"target_modules": ["attn.c_proj"]}),
        ("phi3", {}),
        ("phi3", {"target_modules": ["o_proj", "gate_up_proj"], "layers": [0]}),
    ],
)
def test_peft_adapts_exactly_our_modules_to_exactly_our_matrices(
    kind: str, options: dict[str, Any], form: Form, tmp_path: Path
) -> None:
    adapter = make(kind, **options)
    model = peft_from(adapter.save(tmp_path / "a", form=form), kind)
    assert adapted_modules(model) == set(adapter.spec.module_paths())
    merged, base = model.merge_and_unload(), tiny_base(kind)
    for path in adapter.spec.module_paths():
        change = base_weight(merged, path) - base_weight(base, path)
        torch.testing.assert_close(change, adapter.delta(path), rtol=1e-6, atol=2e-6)
        assert change.abs().max() > 0.1


def test_both_forms_merge_to_the_same_matrices(tmp_path: Path) -> None:
    adapter = make()
    merged = [peft_from(adapter.save(tmp_path / form, form=form)).merge_and_unload() for form in FORMS]
    for path in adapter.spec.module_paths():
        torch.testing.assert_close(base_weight(merged[0], path), base_weight(merged[1], path), rtol=1e-6, atol=1e-6)


def test_the_portable_form_needs_no_scaling_from_the_runtime(tmp_path: Path) -> None:
    adapter = make()
    folder = adapter.save(tmp_path / "a")
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["lora_alpha"] == config["r"] == 3
    assert config["use_rslora"] is False
    tensors = load_file(folder / TENSOR_FILE)
    for path in adapter.spec.module_paths():
        prefix = f"base_model.model.{path}"
        product = tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(product, adapter.delta(path), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_config_is_what_peft_would_write(form: Form) -> None:
    from peft import LoraConfig

    adapter = make()
    ours = adapter.peft_config(form)
    theirs = LoraConfig(**ours).to_dict()
    theirs["target_modules"] = sorted(theirs["target_modules"])
    assert {key: theirs[key] for key in ours} == ours
    defaults = LoraConfig().to_dict()
    left_out = set(theirs) - set(ours) - {"peft_version"}
    assert {key: theirs[key] for key in left_out} == {key: defaults[key] for key in left_out}
    assert (ours["r"], type(ours["lora_alpha"])) == (3, int)
    assert ours["target_modules"] == ["q_proj", "v_proj"]
    assert (ours["use_rslora"], ours["lora_alpha"]) == ((False, 3) if form == "portable" else (True, 16))


def test_config_has_what_servers_ask_for() -> None:
    """vLLM's PEFTHelper and SGLang's LoRAConfig: types of the fields they read, nothing they refuse."""
    config = make().peft_config()
    assert {type(config[name]) for name in ("r", "lora_alpha")} == {int}
    assert isinstance(config["target_modules"], list)
    assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert config["base_model_name_or_path"] == "tiny/base"
    fractional = make(alpha=2.5).peft_config("rslora")
    assert fractional["lora_alpha"] == 2.5


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    adapter = make()
    model = tiny_base()
    model.load_adapter(str(adapter.save(tmp_path / "a")))
    expected = peft_from(tmp_path / "a")
    ids = tokens(2, 6)
    torch.testing.assert_close(model(ids).logits, expected(input_ids=ids).logits)
    assert (model(ids).logits - tiny_base()(ids).logits).abs().max() > 1e-2


def test_transformers_takes_adapters_from_memory_and_swaps_them_in_place() -> None:
    model, ids = tiny_base(), tokens(2, 6)
    spec = LoraSpec.from_base(model.config, rank=3)
    weights = random_weights(spec, 3, std=0.3)
    model.enable_peft_hotswap(target_rank=spec.rank)
    for row, adapter in enumerate(adapters_from_weights(spec, weights)):
        model.load_adapter(
            adapter_name="task",
            peft_config=LoraConfig(**adapter.peft_config("rslora")),
            adapter_state_dict=adapter.state_dict(),
            hotswap="auto",
        )
        with torch.no_grad(), apply_batched(plain := tiny_base(), spec, weights, [row, row]):
            expected = plain(input_ids=ids).logits
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert list(model.peft_config) == ["task"]


def test_targets_are_the_simplest_exact_ones() -> None:
    four = {"num_hidden_layers": 4}

    def fields(*, kind: str = "llama", changes: dict[str, Any] = {}, **options: Any) -> tuple[Any, ...]:  # noqa: B006
        spec = LoraSpec.from_base(tiny_config(kind, **changes), rank=2, **options)
        config = Adapter(spec, random_weights(spec)).peft_config()
        return config["target_modules"], config["layers_to_transform"], config["layers_pattern"]

    assert fields() == (["q_proj", "v_proj"], None, None)
    assert fields(changes=four, layers=[1, 3]) == (["q_proj", "v_proj"], [1, 3], "layers")
    assert fields(kind="gpt2", layers=[1]) == (["c_attn"], [1], "h")
    assert fields(kind="gpt2", target_modules=["mlp.c_proj"]) == (["mlp.c_proj"], None, None)


def test_modules_in_different_layers_are_named_by_full_paths(tmp_path: Path) -> None:
    q = ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1, 2), 24, 24)
    v = ModuleGroup("v_proj", "model.layers.{layer}.self_attn.v_proj", (1,), 24, 12)
    spec = LoraSpec((q, v), num_layers=3, rank=2)
    adapter = Adapter(spec, random_weights(spec))
    assert adapter.peft_config()["target_modules"] == spec.module_paths()
    model = peft_from(adapter.save(tmp_path / "a"), num_hidden_layers=3)
    assert adapted_modules(model) == set(spec.module_paths())


def test_layers_of_different_shapes_of_one_type(tmp_path: Path) -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(4, 4 + i % 2)}) for i in range(3))

    path = "layers.{layer}.up"
    spec = LoraSpec(
        (ModuleGroup("up@4x4", path, (0, 2), 4, 4), ModuleGroup("up@4x5", path, (1,), 4, 5)), num_layers=3, rank=2
    )
    adapter = Adapter(spec, random_weights(spec))
    assert adapter.peft_config()["target_modules"] == ["up"]
    assert Adapter.load(adapter.save(tmp_path / "a")).spec.groups == spec.groups
    model = adapter.apply(fill(Layers()))
    assert adapted_modules(model) == set(spec.module_paths())


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16])
def test_load_gives_back_what_was_saved(form: Form, dtype: Any, tmp_path: Path) -> None:
    adapter = make()
    folder = adapter.save(tmp_path / "new" / "a", form=form, dtype=dtype)
    assert sorted(os.listdir(folder)) == ["README.md", CONFIG_FILE, TENSOR_FILE, PROVENANCE_FILE]
    loaded = Adapter.load(folder)
    assert {key: loaded.provenance[key] for key in PROVENANCE} == PROVENANCE
    assert set(loaded.provenance["versions"]) == {"t2l", "torch"}
    assert loaded.spec.groups == adapter.spec.groups
    assert loaded.spec.scaling == (1.0 if form == "portable" else adapter.spec.scaling)
    tolerance = {"float32": 1e-6, "bfloat16": 2e-2}.get(str(dtype), 2e-3)
    for path in adapter.spec.module_paths():
        torch.testing.assert_close(loaded.delta(path), adapter.delta(path), rtol=tolerance, atol=tolerance)
    stored = {tensor.dtype for tensor in load_file(folder / TENSOR_FILE).values()}
    assert stored == {getattr(torch, str(dtype).removeprefix("torch."))}
    if dtype == "float32":
        assert loaded.digest == adapter.digest
    again = loaded.save(tmp_path / "again", form=form, dtype=dtype)
    assert (again / TENSOR_FILE).read_bytes() == (folder / TENSOR_FILE).read_bytes()
    assert (again / PROVENANCE_FILE).read_bytes() == (folder / PROVENANCE_FILE).read_bytes()


def test_digest_is_the_same_in_both_forms_and_differs_for_other_adapters(tmp_path: Path) -> None:
    adapter = make()
    digests = {Adapter.load(adapter.save(tmp_path / form, form=form)).digest for form in FORMS}
    assert digests == {adapter.digest}
    other_scaling = Adapter(replace(adapter.spec, alpha=8.0), adapter.weights)
    assert len({adapter.digest, make(seed=1).digest, other_scaling.digest}) == 3


def test_record_beside_the_adapter(tmp_path: Path) -> None:
    adapter = make()
    record = json.loads((adapter.save(tmp_path / "a") / PROVENANCE_FILE).read_text())
    assert (record["form"], record["dtype"], record["digest"]) == ("portable", "float32", adapter.digest)
    assert LoraSpec.from_dict(record["spec"]).groups == adapter.spec.groups
    assert record["provenance"]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("kind", "settings_", "groups", "targets"),
    [
        ("llama", {"target_modules": ["v_proj", "q_proj"]}, ["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [0]}, ["q_proj"], ["q_proj"]),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 1}, ["q_proj"], ["q_proj"]),
        ("gpt2", {"target_modules": ["attn.c_proj"]}, ["attn/c_proj"], ["attn.c_proj"]),
        ("gpt2", {"target_modules": ["c_proj"]}, ["attn/c_proj", "mlp/c_proj"], ["attn.c_proj", "mlp.c_proj"]),
        ("llama", {"target_modules": r".*layers\.0.*q_proj"}, ["self_attn/q_proj"], ["self_attn.q_proj"]),
        ("llama", {"target_modules": ["model.layers.1.mlp.up_proj"]}, ["mlp/up_proj"], ["mlp.up_proj"]),
        ("llama", {"target_modules": "all-linear"}, None, None),
    ],
)
def test_folders_that_peft_wrote(
    kind: str, settings_: dict[str, Any], groups: list[str] | None, targets: list[str] | None, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(tiny_base(kind), LoraConfig(r=2, lora_alpha=5, task_type="CAUSAL_LM", **settings_))
    fill(theirs, seed=4)
    modules = adapted_modules(theirs)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    adapter = Adapter.load(tmp_path / "theirs")
    assert adapter.provenance == {}
    assert set(adapter.spec.module_paths()) == modules
    assert (adapter.spec.rank, adapter.spec.scaling) == (2, 2.5)
    if groups is not None:
        assert [group.key for group in adapter.spec.groups] == groups
        assert adapter.peft_config()["target_modules"] == targets
    ours = peft_from(adapter.save(tmp_path / "ours"), kind)
    assert adapted_modules(ours) == modules
    reread = peft_from(tmp_path / "theirs", kind).merge_and_unload()
    merged = ours.merge_and_unload()
    for path in adapter.spec.module_paths():
        torch.testing.assert_close(base_weight(merged, path), base_weight(reread, path), rtol=1e-5, atol=1e-5)


def test_a_folder_without_record_has_the_same_spec(tmp_path: Path) -> None:
    adapter = make()
    folder = adapter.save(tmp_path / "a", form="rslora")
    (folder / PROVENANCE_FILE).unlink()
    loaded = Adapter.load(folder)
    assert loaded.spec == adapter.spec
    assert loaded.digest == adapter.digest


def test_adapters_from_weights() -> None:
    spec = LoraSpec.from_base(tiny_config(), rank=2)
    weights = random_weights(spec, 3)
    adapters = adapters_from_weights(spec, weights, [{"description": str(i)} for i in range(3)])
    assert [adapter.provenance["description"] for adapter in adapters] == ["0", "1", "2"]
    for i, adapter in enumerate(adapters):
        assert torch.equal(adapter.weights.a["q_proj"][0], weights.a["q_proj"][i])
    assert adapters_from_weights(spec, weights)[0].provenance == {}
    with pytest.raises(T2LError, match="2 provenances for 3"):
        adapters_from_weights(spec, weights, [{}, {}])


def test_an_adapter_is_one_set_of_weights_with_plain_provenance() -> None:
    spec = LoraSpec.from_base(tiny_config(), rank=2)
    with pytest.raises(T2LError, match="these are 2"):
        Adapter(spec, random_weights(spec, 2))
    for bad in ({"x": object()}, {"x": float("nan")}, {"x": "\ud800"}):
        with pytest.raises(T2LError, match="JSON"):
            Adapter(spec, random_weights(spec), bad)
    grown = random_weights(spec).map(lambda tensor: tensor.requires_grad_())
    assert not Adapter(spec, grown).weights.a["q_proj"].requires_grad


# ------------------------------------------------------------------------------------------------------ apply


@pytest.mark.parametrize(("kind", "options"), [("llama", {}), ("gpt2", {"target_modules": ["attn.c_proj"]})])
def test_apply_equals_the_saved_folder(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    adapter = make(kind, **options)
    applied = adapter.apply(tiny_base(kind))
    assert not any(module.training for module in applied.modules())
    assert not any(parameter.requires_grad for parameter in applied.parameters())
    ids = tokens(2, 6)
    expected = peft_from(adapter.save(tmp_path / "a"), kind)(input_ids=ids).logits
    torch.testing.assert_close(applied(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_apply_is_exact_where_names_are_ambiguous_in_this_base() -> None:
    whole = make("gpt2", target_modules=["attn.c_proj"])
    group = replace(whole.spec.groups[0], key="c_proj")  # as if nobody had known of mlp.c_proj
    spec = replace(whole.spec, groups=(group,))
    adapter = Adapter(
        spec, LoraWeights({"c_proj": whole.weights.a["attn/c_proj"]}, {"c_proj": whole.weights.b["attn/c_proj"]})
    )
    assert adapter.peft_config()["target_modules"] == ["c_proj"]
    assert adapted_modules(adapter.apply(tiny_base("gpt2"))) == set(spec.module_paths())


def test_several_adapters_on_one_base() -> None:
    first, second = make(seed=0), make(seed=1)
    model = first.apply(tiny_base(), "first")
    alone = model(input_ids=tokens(1, 5)).logits
    assert second.apply(model, "second") is model
    both = model(input_ids=tokens(1, 5)).logits
    torch.testing.assert_close(both, second.apply(tiny_base())(input_ids=tokens(1, 5)).logits)
    model.set_adapter("first")
    torch.testing.assert_close(model(input_ids=tokens(1, 5)).logits, alone)
    for name in ("first", "", "a.b"):
        with pytest.raises(T2LError, match=r"already|cannot name"):
            first.apply(model, name)


def test_apply_checks_the_base_first() -> None:
    adapter = make()
    wide = tiny_base(hidden_size=32)
    with pytest.raises(BaseModelError, match=r"q_proj is 32x32, the adapter is for 24x24"):
        adapter.apply(wide)
    assert not adapted_modules(wide)
    with pytest.raises(BaseModelError, match="tiny/base"):
        adapter.apply(tiny_base("gpt2"))


def test_delta_of_an_unknown_module_offers_names() -> None:
    with pytest.raises(T2LError, match=r"layers\.0\.self_attn\.q_proj"):
        make().delta("model.layers.0.self_attn.q_prj")


# ------------------------------------------------------------------------------------------------- model card


@pytest.mark.parametrize(
    "text",
    [
        "Sort the words.",
        "```\n# heading\n```` x `````",
        "---\nlicense: evil\n---",
        "<script>alert(1)</script> | & \\ \" ' : # {{x}}",
        "多语言 🙂 \u2028 \x00 \x1b[31m \r\n tab\t.",
        "`" * 40,
    ],
)
def test_model_card_keeps_foreign_text_as_text(text: str, tmp_path: Path) -> None:
    adapter = make(provenance={"description": text, text: text})
    base = "org/" + text.replace("/", "").replace("\0", "")  # only what may be a hub id is in front
    adapter = Adapter(replace(adapter.spec, base_model=base), adapter.weights, adapter.provenance)
    folder = adapter.save(tmp_path / "a")
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "peft", "tags": ["t2l", "lora"], "base_model": base}
    fence, outside = "", []
    for line in body.split("\n"):
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line[: len(line) - len(line.lstrip("`"))]
        else:
            outside.append(line)
    assert not fence
    assert not any(word in "\n".join(outside) for word in ("# heading", "license:", "<script", "多语言"))
    assert Adapter.load(folder).provenance["description"] == text


def test_model_card_is_valid_for_the_hub(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = make().save(tmp_path / "a")
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {"base_model": "tiny/base", "library_name": "peft", "tags": ["t2l", "lora"]}
    assert "Sort the words." in card.text


# ------------------------------------------------------------------------------------------------ bad writing


def test_an_existing_folder_is_replaced_only_by_force(tmp_path: Path) -> None:
    first, second = make(seed=0), make(seed=1)
    folder = first.save(tmp_path / "a")
    with pytest.raises(OutputError, match="already exists"):
        second.save(folder)
    assert Adapter.load(folder).digest == first.digest
    second.save(folder, force=True)
    assert Adapter.load(folder).digest == second.digest
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(OutputError, match="something else"):
        first.save(other, force=True)
    assert (other / "chapter.tex").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["a", "thesis"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["save_file", "os.replace", "json"])
def test_nothing_half_written_is_left(
    place: str, problem: BaseException, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(seed=0)
    if force:
        old.save(tmp_path / "a")
    before = sorted(os.listdir(tmp_path))

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise problem

    target = {"save_file": (storage, "save_file"), "os.replace": (os, "replace"), "json": (json, "dumps")}[place]
    adapter = make(seed=1)
    with monkeypatch.context() as patch:
        if place == "json":  # the tensors are there already; the record fails
            patch.setattr("t2l.adapter.write_json", fail)
        else:
            patch.setattr(*target, fail)
        with pytest.raises(KeyboardInterrupt if isinstance(problem, KeyboardInterrupt) else OutputError):
            adapter.save(tmp_path / "a", force=force)
    assert sorted(os.listdir(tmp_path)) == before
    if force:
        assert Adapter.load(tmp_path / "a").digest == old.digest


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="Cannot write"):
        make().save(tmp_path / "file" / "a")
    with pytest.raises(OutputError):
        make().save(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_bad_options_and_values_of_save(tmp_path: Path) -> None:
    adapter = make()
    options: list[tuple[dict[str, Any], str]] = [
        ({"form": "rslore"}, "'rslora'"),
        ({"dtype": "float64"}, "'float32'"),
        ({"dtype": torch.int8}, "int8"),
    ]
    for option, message in options:
        with pytest.raises(AdapterError, match=message):
            adapter.save(tmp_path / "a", **option)
    huge = Adapter(adapter.spec, adapter.weights.map(lambda tensor: tensor * 1e6))
    with pytest.raises(AdapterError, match="beyond the range of float16"):
        huge.save(tmp_path / "a", dtype="float16")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ bad reading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make().save(tmp_path / "a", form="rslora")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], record: bool) -> None:
    tensors = load_file(folder / TENSOR_FILE)
    change(tensors)
    save_file(tensors, folder / TENSOR_FILE)
    if not record:
        (folder / PROVENANCE_FILE).unlink()


WITH_PEFT = "Use it with PEFT, or merge it into its base there"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

BAD_TENSORS: list[tuple[str, Callable[[dict[str, torch.Tensor]], object]]] = [
    (f"missing {Q0}", lambda tensors: tensors.pop(Q0)),
    ("unexpected extra", lambda tensors: tensors.update(extra=torch.zeros(2))),
    (r"q_proj\.lora_A\.weight has shape \(3, 25\)", lambda tensors: tensors.update({Q0: torch.zeros(3, 25)})),
    (r"shape \(4, 24\), expected \(3, 24\)", lambda tensors: tensors.update({Q0: torch.zeros(4, 24)})),
    ("expected a matrix", lambda tensors: tensors.update({Q0: torch.zeros(3)})),
    ("int64", lambda tensors: tensors.update({Q0: torch.zeros(3, 24, dtype=torch.int64)})),
    ("float64", lambda tensors: tensors.update({Q0: tensors[Q0].double()})),
    ("float8", lambda tensors: tensors.update({Q0: tensors[Q0].to(torch.float8_e4m3fn)})),
    ("one dtype", lambda tensors: tensors.update({Q0: tensors[Q0].half()})),
    (f"{Q0} holds NaN", lambda tensors: tensors[Q0].view(-1)[5].fill_(float("nan"))),
    ("infinite", lambda tensors: tensors[Q0].view(-1)[5].fill_(float("inf"))),
    ("it is empty", lambda tensors: tensors.clear()),
    ("unexpected lm_head.lora_magnitude_vector", lambda t: t.update({"lm_head.lora_magnitude_vector": torch.ones(2)})),
]


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize(("message", "change"), BAD_TENSORS)
def test_bad_tensors_are_named(
    message: str, change: Callable[[dict[str, torch.Tensor]], object], record: bool, folder: Path
) -> None:
    edit_tensors(folder, change, record)
    if not record and "25" in message:
        message = r"25|shape"  # without a record, layer 0 is simply of another shape
        with pytest.raises(BaseModelError, match="25"):
            Adapter.load(folder).apply(tiny_base())
        return
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, f"(?s)only LORA.*{WITH_PEFT}"),
        ({"bias": "all"}, f"(?s)'all'.*{WITH_PEFT}"),
        ({"use_dora": True}, f"(?s)DoRA.*{WITH_PEFT}"),
        ({"rank_pattern": {"q_proj": 4}}, "ranks that differ"),
        ({"alpha_pattern": {"q_proj": 4}}, "scalings that differ"),
        ({"modules_to_save": ["lm_head"]}, f"(?s)whole modules.*{WITH_PEFT}"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": []}, "init_lora_weights"),
        ({"r": 4}, r"expected \(4, 24\)"),
        ({"r": True}, "whole number"),
        ({"r": None}, "whole number"),
        ({"lora_alpha": float("nan")}, "positive number"),
        ({"lora_alpha": -1}, "positive number"),
        ({"lora_alpha": 10**400}, "positive number"),
        ({"lora_alpha": "16"}, "positive number"),
        ({"lora_dropout": 1}, "below 1"),
        ({"use_rslora": "yes"}, "true or false"),
        ({"target_modules": None}, "list of names"),
        ({"target_modules": [1]}, "list of names"),
        ({"base_model_name_or_path": 3}, "text or null"),
        ({"base_model_name_or_path": "\ud800"}, "text or null"),
        ({"layers_to_transform": "all"}, "whole numbers"),
        ({"lora_alpha": 17}, "digests differ"),
    ],
)
def test_bad_configs_name_the_field(changes: dict[str, Any], message: str, folder: Path) -> None:
    edit_config(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"target_modules": ["q_proj"]}, "v_proj', which"), ({"layers_to_transform": [0]}, "layers.1.*does not target")],
)
def test_tensors_that_the_config_does_not_target(changes: dict[str, Any], message: str, folder: Path) -> None:
    (folder / PROVENANCE_FILE).unlink()
    edit_config(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format=2), "Update t2l"),
        (lambda record: record.pop("spec"), "no spec"),
        (lambda record: record.update(provenance=[]), "no provenance"),
        (lambda record: record.update(digest="0"), "digests differ"),
        (lambda record: record["spec"].update(groups=[]), "No module is adapted"),
        (lambda record: record["spec"]["groups"][0].pop("path"), "path"),
        (lambda record: record["spec"]["groups"][0].update(path="x"), "twice"),
        (lambda record: record["spec"]["groups"][0].update(in_features=7), "expected"),
    ],
)
def test_bad_records(change: Callable[[dict[str, Any]], object], message: str, folder: Path) -> None:
    record = json.loads((folder / PROVENANCE_FILE).read_text())
    change(record)
    (folder / PROVENANCE_FILE).write_text(json.dumps(record))
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("q_proj", "no numbered layer"),
        ("lm_head", r"(?s)'lm_head'.*tied to the input embeddings.*Use it with PEFT"),
    ],
)
def test_adapters_outside_numbered_layers_are_refused(module: str, message: str, folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.clear()
        for factor, shape in (("A", (3, 4)), ("B", (4, 3))):
            tensors[f"base_model.model.{module}.lora_{factor}.weight"] = torch.zeros(shape)

    edit_tensors(folder, change, record=False)
    with pytest.raises(AdapterError, match=message):
        Adapter.load(folder)


def test_patterns_that_repeat_one_rank_and_scaling_are_read(folder: Path) -> None:
    before = Adapter.load(folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    edit_config(folder, rank_pattern={"q_proj": config["r"]}, alpha_pattern={"q_proj": config["lora_alpha"]})
    assert Adapter.load(folder).digest == before.digest
    edit_config(folder, rank_pattern={"q_proj": config["r"], "v_proj": config["r"] + 1})
    with pytest.raises(AdapterError, match="ranks that differ"):
        Adapter.load(folder)


def test_a_pickle_is_refused_and_not_read(folder: Path) -> None:
    (folder / TENSOR_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"pickle[\s\S]*save_pretrained"):
        Adapter.load(folder)


def test_missing_and_truncated_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="not a folder"):
        Adapter.load(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="not a folder"):
        Adapter.load(folder / CONFIG_FILE)
    whole = (folder / TENSOR_FILE).read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        (folder / TENSOR_FILE).write_bytes(whole[:length])
        with pytest.raises(AdapterError, match=TENSOR_FILE):
            Adapter.load(folder)
    (folder / TENSOR_FILE).unlink()
    with pytest.raises(AdapterError, match="does not exist"):
        Adapter.load(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterError, match=CONFIG_FILE):
        Adapter.load(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["q_proj", "LORA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a whole adapter folder."""
    folder = make().save(tmp_path_factory.mktemp("pristine") / "a")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@contextmanager
def written(files: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)


def load_or_refuse(folder: Path) -> None:
    try:
        Adapter.load(folder)
    except AdapterError as error:
        str(error).encode()  # sayable in a terminal


@FUZZ
@given(name=st.sampled_from([CONFIG_FILE, TENSOR_FILE, PROVENANCE_FILE]), garbage=st.binary(max_size=200))
def test_garbage_files_are_adapter_errors(name: str, garbage: bytes, pristine: dict[str, bytes]) -> None:
    with written({**pristine, name: garbage}) as folder, pytest.raises(AdapterError):
        Adapter.load(folder)


@FUZZ
@given(data=st.data())
def test_changed_json_loads_or_is_an_adapter_error(data: st.DataObject, pristine: dict[str, bytes]) -> None:
    name = data.draw(st.sampled_from([CONFIG_FILE, PROVENANCE_FILE]))
    value = json.loads(pristine[name])
    holder: Any = value
    while True:  # walk to some place in it and put something else there
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(JSON)
    files = {**pristine, name: json.dumps(value).encode()}
    if name == CONFIG_FILE and data.draw(st.booleans()):
        del files[PROVENANCE_FILE]
    with written(files) as folder:
        load_or_refuse(folder)


@FUZZ
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), record=st.booleans())
def test_changed_tensor_bytes_load_or_are_an_adapter_error(
    position: float, byte: int, record: bool, pristine: dict[str, bytes]
) -> None:
    raw = bytearray(pristine[TENSOR_FILE])
    place = int(position * (len(raw) if byte % 2 else 900))  # half of them in the header
    changed = raw[place] != byte
    raw[place] = byte
    files = {**pristine, TENSOR_FILE: bytes(raw)}
    if not record:
        del files[PROVENANCE_FILE]
    with written(files) as folder:
        if record and changed:
            with pytest.raises(AdapterError):  # the digest sees every change
                Adapter.load(folder)
        else:
            load_or_refuse(folder)
