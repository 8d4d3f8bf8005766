"""Import of the reference implementation's checkpoints: exact for every combination of its flags, safe for any bytes.

`restated` below is a second, plain statement of what METHOD says about such a checkpoint: one layer, one module, one
description at a time, with the file's own tensor names. It shares no code with the package.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from helpers import fill
from t2l.adapter import Form
from t2l.errors import CheckpointError
from t2l.model import TextToLora
from t2l.reference import import_checkpoint

SHAPES = {"v_proj": (10, 6), "down_proj": (14, 10), "q_proj": (10, 10)}  # module -> (I, O), in the heads' order
LAYERS, RANK, WIDTH, LATENT, HEAD = 3, 4, 8, 16, 12
FIXTURES = ("L-sft-s1", "M-recon-s5-zscore-factorized", "S-sft-s3")

Args = dict[str, Any]
State = dict[str, Tensor]


# --- synthetic checkpoints ---


def make_args(**flags: Any) -> Args:
    return {
        "shared_AB_head": False,
        "autoreg_gen": False,
        "learnable_pos_emb": False,
        "hypernet_latent_size": LATENT,
        "head_in_size": HEAD,
        "training_task": "sft",
        "pred_z_score": False,
        "factorized": False,
        "delta_w_scaling": 10000,
        "emb_model": "Alibaba-NLP/gte-large-en-v1.5",
        "model_dir": "some/base",
        "use_one_hot_task_emb": False,
        "encoder_type": "linear",
        "mt_lora_path": None,
        "train_ds_names": [f"task{index}" for index in range(WIDTH)],
        "n_train_ds": WIDTH,
        **flags,
    }


def make_adapter_config(**changes: Any) -> dict[str, Any]:
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.05, "use_rslora": True}
    return {**config, "base_model_name_or_path": "some/base", "target_modules": sorted(SHAPES), **changes}


def make_state(args: Args, shapes: dict[str, tuple[int, int]] = SHAPES, offset: bool = False, seed: int = 0) -> State:
    """Random tensors with the names and shapes of the reference implementation, for the flags in ``args``."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def draw(name: str, *shape: int, scale: float = 0.4) -> None:
        state[name] = torch.randn(*shape, generator=generator) * scale

    def linear(name: str, in_features: int, out_features: int, bias: bool = True) -> None:
        draw(f"{name}.weight", out_features, in_features, scale=1 / math.sqrt(in_features))
        if bias:
            draw(f"{name}.bias", out_features)

    def norm(name: str, width: int) -> None:
        draw(f"{name}.weight", width)
        state[f"{name}.weight"] += 1
        draw(f"{name}.bias", width)

    z_scores = args["training_task"] == "recon" and args["pred_z_score"]
    for kind, filled in (("AB_offset", offset), ("mean_recon_target", z_scores), ("std_recon_target", z_scores)):
        for module, (i, o) in shapes.items():
            draw(f"{kind}.A.{module}", LAYERS, RANK, i, scale=0.2 * filled)
            draw(f"{kind}.B.{module}", LAYERS, o, RANK, scale=0.2 * filled)
            if kind.startswith("std"):
                state[f"{kind}.A.{module}"].abs_()
                state[f"{kind}.B.{module}"].abs_()

    half, quarter = LATENT // 2, LATENT // 4
    encoder = args["encoder_type"]
    if encoder == "linear":
        linear("task_encoder.mlp.0", WIDTH, half)
        norm("task_encoder.mlp.1", half)
    else:
        hidden, last = {"discrete": (256, 64), "vq": (4 * half, half), "softmax": (4 * half, 32)}[encoder]
        linear("task_encoder.mlp.0", WIDTH, hidden)
        linear("task_encoder.mlp.3", hidden, last)
        if encoder != "discrete":
            norm("task_encoder.ln", half)
            draw("task_encoder.embed", *((32, half) if encoder == "softmax" else (half, 32)), scale=1.0)
        if encoder == "vq":
            draw("task_encoder.cluster_size", 32)
            draw("task_encoder.embed_avg", half, 32)
    width = half + 2 * quarter
    if encoder == "discrete":
        width = 64 + LAYERS + len(shapes)
    else:
        for name, rows in (("layer_depth_encoder", LAYERS), ("layer_type_encoder", len(shapes))):
            draw(f"{name}.0.weight", rows, quarter, scale=1.0)
            norm(f"{name}.1", quarter)
    linear("mixer.1", width, 4 * width)
    linear("mixer.4", 4 * width, width)
    for block in ("mlp1.mlp", "mlp2.mlp", "mlp3"):
        norm(f"{block}.0", width)
        linear(f"{block}.1", width, 4 * width)
        linear(f"{block}.4", 4 * width, HEAD if block == "mlp3" else width)
    if args["learnable_pos_emb"]:
        draw("pos_emb.0.weight", RANK, width, scale=1.0)
        norm("pos_emb.1", width)
    if args["shared_AB_head"]:
        for module in shapes:
            draw(f"out_emb.{module}.A", width, scale=1.0)
            draw(f"out_emb.{module}.B", width, scale=1.0)
        norm("out_emb_norm", width)
    bias = not (args["mt_lora_path"] or z_scores)
    for module, (i, o) in shapes.items():
        size = max(i, o) if args["shared_AB_head"] else i + o
        linear(f"heads.{module}", HEAD, size if args["autoreg_gen"] else RANK * size, bias)
    return state


def save(folder: Path, args: Args, state: object, adapter_config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config or make_adapter_config()))
    torch.save(state, folder / "hypermod.pt")
    return folder


# --- the second statement of the method ---


def restated(
    state: State, args: Args, shapes: dict[str, tuple[int, int]], module: str, layer: int, embedding_E: Tensor
) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) of one module in one layer for one description embedding, in the dtype of ``state``."""

    def linear(name: str, x: Tensor) -> Tensor:
        y = state[f"{name}.weight"] @ x
        return y + state[f"{name}.bias"] if f"{name}.bias" in state else y

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def one_hot(index: int, size: int) -> Tensor:
        return torch.eye(size, dtype=torch.float64)[index]

    def last(block: str, x: Tensor) -> Tensor:
        return F.silu(linear(f"{block}.4", F.silu(linear(f"{block}.1", norm(f"{block}.0", x)))))

    def block2(x: Tensor) -> Tensor:
        return x + last("mlp2.mlp", x)

    def rotated(x: Tensor, position: int) -> Tensor:
        half = len(x) // 2
        turned = torch.empty_like(x)
        for d in range(half):
            angle = position * 10000.0 ** (-2 * d / len(x))
            turned[d] = x[d] * math.cos(angle) - x[d + half] * math.sin(angle)
            turned[d + half] = x[d + half] * math.cos(angle) + x[d] * math.sin(angle)
        return turned

    def position(rank_index: int) -> Tensor:
        return norm("pos_emb.1", state["pos_emb.0.weight"][rank_index])

    in_features, out_features = shapes[module]
    row = list(shapes).index(module)
    hidden = linear("task_encoder.mlp.0", embedding_E)
    if args["encoder_type"] == "linear":
        task = norm("task_encoder.mlp.1", hidden)
    else:
        output = linear("task_encoder.mlp.3", F.silu(hidden))
        if args["encoder_type"] == "discrete":
            task = one_hot(int(output.argmax()), 64)
        elif args["encoder_type"] == "vq":
            codes = state["task_encoder.embed"].T
            task = norm("task_encoder.ln", codes[(codes - output).square().sum(1).argmin()])
        else:
            task = norm("task_encoder.ln", output.softmax(0) @ state["task_encoder.embed"])
    if args["encoder_type"] == "discrete":
        place = [one_hot(layer, LAYERS), one_hot(row, len(shapes))]
    else:
        place = [
            norm("layer_depth_encoder.1", state["layer_depth_encoder.0.weight"][layer]),
            norm("layer_type_encoder.1", state["layer_type_encoder.0.weight"][row]),
        ]
    x = F.silu(linear("mixer.4", F.silu(linear("mixer.1", torch.cat([task, *place])))))
    x = x + last("mlp1.mlp", x)

    head = f"heads.{module}"
    if not args["shared_AB_head"] and not args["autoreg_gen"]:
        out = linear(head, last("mlp3", block2(x)))
        a = out[: RANK * in_features].reshape(RANK, in_features)
        b = out[RANK * in_features :].reshape(RANK, out_features).T
    elif not args["shared_AB_head"]:
        rows = [x + position(r) if args["learnable_pos_emb"] else rotated(x, r) for r in range(RANK)]
        out = torch.stack([linear(head, last("mlp3", block2(row_r))) for row_r in rows])
        a, b = out[:, :in_features], out[:, in_features:].T
    else:
        factors = []
        for factor, features in (("A", in_features), ("B", out_features)):
            y = block2(x + norm("out_emb_norm", state[f"out_emb.{module}.{factor}"]))
            if not args["autoreg_gen"]:
                out = linear(head, last("mlp3", y)).reshape(RANK, -1)
            else:
                learned = args["learnable_pos_emb"]
                rows = [y + block2(position(r)) if learned else block2(rotated(y, r)) for r in range(RANK)]
                out = torch.stack([linear(head, last("mlp3", row_r)) for row_r in rows])
            factors.append(out[:, :features])
        a, b = factors[0], factors[1].T

    finished = []
    for factor, out in (("A", a), ("B", b)):
        if args["training_task"] == "recon" and not args["factorized"]:
            finished.append(out / math.sqrt(args["delta_w_scaling"]))
            continue
        if args["training_task"] == "recon" and args["pred_z_score"]:
            spread = state[f"std_recon_target.{factor}.{module}"][layer] + 1e-10
            out = out * spread + state[f"mean_recon_target.{factor}.{module}"][layer]
        finished.append(out + state[f"AB_offset.{factor}.{module}"][layer])
    return finished[0], finished[1]


def embeddings(rows: int = 2) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(7))


def check_against_restatement(
    folder: Path,
    state: State,
    args: Args,
    shapes: dict[str, tuple[int, int]] = SHAPES,
    layers: tuple[int, ...] = (0, 1, 2),
) -> None:
    model = import_checkpoint(folder)
    embedding_NE = embeddings()
    with torch.no_grad():
        weights = model.hypernetwork(embedding_NE)
    exact = {name: tensor.double() for name, tensor in state.items()}
    assert [group.key for group in model.hypernetwork.spec.groups] == list(shapes)
    for group in model.hypernetwork.spec.groups:
        assert group.layers == layers
        for n, (place, layer) in itertools.product(range(2), enumerate(layers)):
            a, b = restated(exact, args, shapes, group.key, layer, embedding_NE[n].double())
            torch.testing.assert_close(weights.a[group.key][n, place].double(), a, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(weights.b[group.key][n, place].double(), b, rtol=1e-6, atol=1e-6)


VARIANTS = {
    "L": {},
    "M": {"shared_AB_head": True},
    "S": {"shared_AB_head": True, "autoreg_gen": True},
    "S-learned": {"shared_AB_head": True, "autoreg_gen": True, "learnable_pos_emb": True},
    "R": {"autoreg_gen": True},
    "R-learned": {"autoreg_gen": True, "learnable_pos_emb": True},
}
TRAININGS = {
    "sft": {},
    "sft-on-multi-task-lora": {"mt_lora_path": "some/lora", "learnable_AB_offset": True},
    "recon-zscore": {"training_task": "recon", "factorized": True, "pred_z_score": True},
    "recon-factorized": {"training_task": "recon", "factorized": True},
    "recon-product": {"training_task": "recon", "delta_w_scaling": 400.0},
    "recon-product-zscore": {"training_task": "recon", "pred_z_score": True},
}


@pytest.mark.parametrize("encoder", ["linear", "discrete", "vq", "softmax"])
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_combination_of_flags_agrees(variant: str, training: str, encoder: str, tmp_path: Path) -> None:
    args = make_args(**VARIANTS[variant], **TRAININGS[training], encoder_type=encoder)
    state = make_state(args, offset=training == "sft-on-multi-task-lora")
    check_against_restatement(save(tmp_path, args, state), state, args)


@pytest.mark.parametrize("order", list(itertools.permutations(SHAPES)))
def test_the_module_order_is_that_of_the_heads(order: tuple[str, ...], tmp_path: Path) -> None:
    args, shapes = make_args(), {module: SHAPES[module] for module in order}
    state = make_state(args, shapes)
    check_against_restatement(save(tmp_path, args, state), state, args, shapes)


def test_an_offset_without_a_flag_is_added_all_the_same(tmp_path: Path) -> None:
    args = make_args(shared_AB_head=True)
    state = make_state(args, offset=True)
    check_against_restatement(save(tmp_path, args, state), state, args)


def test_a_subset_of_layers(tmp_path: Path) -> None:
    args = make_args(mt_lora_path="some/lora")
    state = make_state(args, offset=True)
    folder = save(tmp_path, args, state, make_adapter_config(layers_to_transform=[2, 0]))
    check_against_restatement(folder, state, args, layers=(0, 2))


def test_missing_settings_have_the_defaults_of_the_reference(tmp_path: Path) -> None:
    args = make_args()
    state = make_state(args)
    check_against_restatement(save(tmp_path / "sft", {"emb_model": args["emb_model"]}, state), state, args)
    args = make_args(training_task="recon", factorized=True, pred_z_score=True)
    state = make_state(args)
    few = {"emb_model": args["emb_model"], "training_task": "recon", "factorized": True}
    check_against_restatement(save(tmp_path / "recon", few, state), state, args)


def test_the_scaling_and_the_paths_of_the_adapter(tmp_path: Path) -> None:
    args = make_args()
    config = make_adapter_config(lora_alpha=6, use_rslora=False, lora_dropout=0.2)
    spec = import_checkpoint(save(tmp_path, args, make_state(args), config)).hypernetwork.spec
    assert (spec.rank, spec.scaling, spec.dropout, spec.base_model) == (RANK, 6 / RANK, 0.2, "some/base")
    assert [group.path for group in spec.groups] == [
        "model.layers.{layer}.self_attn.v_proj",
        "model.layers.{layer}.mlp.down_proj",
        "model.layers.{layer}.self_attn.q_proj",
    ]


def test_parameters_and_half_precision_are_read(tmp_path: Path) -> None:
    """A state dict may hold `nn.Parameter`s, and float16; what comes out is float32 without a gradient history."""
    args = make_args()
    state = {name: torch.nn.Parameter(tensor.half()) for name, tensor in make_state(args).items()}
    model = import_checkpoint(save(tmp_path, args, state))
    assert {tensor.dtype for tensor in model.hypernetwork.state_dict().values()} == {torch.float32}
    rounded = {name: tensor.detach().float() for name, tensor in state.items()}
    check_against_restatement(tmp_path, rounded, args)


# --- shapes that the file does not hold ---


def base_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(hidden_size=10, intermediate_size=14, num_hidden_layers=3, num_attention_heads=5, vocab_size=20)


def test_without_offsets_the_shapes_come_from_the_base_at_hand(tmp_path: Path) -> None:
    args, shapes = make_args(), {"q_proj": (10, 10), "gate_proj": (10, 14)}
    state = {name: t for name, t in make_state(args, shapes).items() if not name.startswith(("AB_", "mean_", "std_"))}
    folder = save(tmp_path / "t2l", args, state, make_adapter_config(target_modules=list(shapes)))
    with pytest.raises(CheckpointError, match="which shape"):
        import_checkpoint(folder)
    base_config().save_pretrained(folder / "base")
    spec = import_checkpoint(folder).hypernetwork.spec
    assert {group.key: (group.in_features, group.out_features) for group in spec.groups} == shapes


def test_an_unusual_module_is_found_in_the_base_at_hand(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig

    args, shapes = make_args(), {"query_key_value": (10, 30), "dense": (10, 10)}
    state = make_state(args, shapes)
    folder = save(tmp_path / "t2l", args, state, make_adapter_config(target_modules=list(shapes)))
    with pytest.raises(CheckpointError, match="query_key_value"):
        import_checkpoint(folder)
    GPTNeoXConfig(hidden_size=10, intermediate_size=14, num_hidden_layers=3, num_attention_heads=5).save_pretrained(
        folder / "base"
    )
    check_against_restatement(folder, state, args, shapes)


# --- encoders ---


def test_what_it_was_trained_for_travels_with_it(tmp_path: Path) -> None:
    args = make_args(training_task="recon", factorized=True)
    metadata = import_checkpoint(save(tmp_path, args, make_state(args))).metadata
    assert metadata["imported_from"] == str(tmp_path)
    assert metadata["settings"]["training_task"] == "recon"
    assert json.loads(json.dumps(metadata)) == metadata


def test_an_imported_checkpoint_is_saved_and_read_as_ours(tmp_path: Path) -> None:
    args = make_args(**TRAININGS["recon-zscore"], shared_AB_head=True, autoreg_gen=True)
    imported = import_checkpoint(save(tmp_path / "theirs", args, make_state(args)))
    restored = TextToLora.from_pretrained(imported.save_pretrained(tmp_path / "ours"))
    assert restored.digest == imported.digest
    assert restored.encoder.identity == imported.encoder.identity
    before, after = imported.hypernetwork(embeddings()), restored.hypernetwork(embeddings())
    assert all(torch.equal(before.a[key], after.a[key]) and torch.equal(before.b[key], after.b[key]) for key in SHAPES)


def test_the_encoder_is_described_but_not_loaded(tmp_path: Path) -> None:
    gte = make_args()
    model = import_checkpoint(save(tmp_path / "gte", gte, make_state(gte)))
    assert "gte-large-en-v1.5" in json.dumps(model.encoder.to_config())
    base = make_args(emb_model="")
    model = import_checkpoint(save(tmp_path / "base", base, make_state(base)))
    assert model.encoder.to_config()["kind"] == "base-model"
    assert "some/base" in json.dumps(model.encoder.to_config())


def test_one_hot_task_embeddings(tmp_path: Path) -> None:
    args = make_args(use_one_hot_task_emb=True)
    model = import_checkpoint(save(tmp_path, args, make_state(args)))
    assert torch.equal(model.encoder.encode(["task3"]), torch.eye(WIDTH)[3:4])
    args["train_ds_names"] = ["a", "b"]
    with pytest.raises(CheckpointError, match="train_ds_names"):
        import_checkpoint(save(tmp_path, args, make_state(args)))


# --- the fixtures: made with the reference implementation ---


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures_of_the_reference_implementation(name: str, shared_dir: Path) -> None:
    folder = shared_dir / "fixtures" / "sakana-checkpoints" / name
    expected = load_file(folder / "expected.safetensors")
    adapters = import_checkpoint(folder).generate_from_embeddings(expected.pop("task_emb"))
    got = {
        f"{row}:{key}": tensor for row, adapter in enumerate(adapters) for key, tensor in adapter.state_dict().items()
    }
    assert set(got) == set(expected)
    for key, tensor in expected.items():
        # Values reach 10, where the reference's own float32 is 3e-6 away from exact arithmetic: 1e-6 of the largest.
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=1e-6 * max(1.0, float(tensor.abs().max())))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an attribute by its old name
@pytest.mark.parametrize("form", ["portable", "rslora"])
@pytest.mark.parametrize("name", FIXTURES)
def test_an_imported_adapter_merges_in_peft_to_the_same_matrices(
    name: str, form: Form, shared_dir: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import MistralConfig, MistralForCausalLM

    folder = shared_dir / "fixtures" / "sakana-checkpoints" / name
    expected = load_file(folder / "expected.safetensors")
    adapter = import_checkpoint(folder).generate_from_embeddings(expected["task_emb"][1:2])[0]
    adapter.save(tmp_path / "adapter", form=form)
    base = fill(MistralForCausalLM(MistralConfig.from_pretrained(folder / "base")))
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload().state_dict()
    changed = set()
    for path in adapter.spec.module_paths():
        a = expected[f"1:base_model.model.{path}.lora_A.weight"]
        b = expected[f"1:base_model.model.{path}.lora_B.weight"]
        wanted = before[f"{path}.weight"] + 16 / math.sqrt(8) * b @ a
        torch.testing.assert_close(merged[f"{path}.weight"], wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
        changed.add(f"{path}.weight")
    assert all(torch.equal(merged[key], before[key]) for key in before if key not in changed)


# --- places ---


def test_the_state_dict_itself_and_the_checkpoints_of_a_running_training(tmp_path: Path) -> None:
    args = make_args()
    folder = save(tmp_path / "run", args, make_state(args))
    assert import_checkpoint(folder / "hypermod.pt").hypernetwork.variant == "L"
    step = folder / "checkpoints" / "it_1000"
    step.mkdir(parents=True)
    (folder / "hypermod.pt").rename(step / "hypermod.pt")
    assert import_checkpoint(step / "hypermod.pt").hypernetwork.variant == "L"
    assert import_checkpoint(folder).hypernetwork.variant == "L"


def test_a_folder_of_several_checkpoints(tmp_path: Path) -> None:
    for name, flags in (("mistral_t2l", {}), ("gemma_t2l", {"shared_AB_head": True})):
        args = make_args(**flags)
        save(tmp_path / "trained_t2l" / name, args, make_state(args))
    with pytest.raises(CheckpointError, match=r"trained_t2l/gemma_t2l\n.*trained_t2l/mistral_t2l") as caught:
        import_checkpoint(tmp_path)
    assert "--checkpoint trained_t2l/gemma_t2l" in str(caught.value)
    assert import_checkpoint(tmp_path, checkpoint="gemma_t2l").hypernetwork.variant == "M"
    assert import_checkpoint(tmp_path, checkpoint="trained_t2l/mistral_t2l").hypernetwork.variant == "L"
    with pytest.raises(CheckpointError, match="no checkpoint called 'llama_t2l'"):
        import_checkpoint(tmp_path, checkpoint="llama_t2l")


class FakeHub:
    """Stands for the hub: a folder whose files it lists and hands out by pattern."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, cache: Path) -> None:
        import huggingface_hub

        self.root, self.cache, self.downloads, self.offline = root, cache, [], False
        monkeypatch.setattr(huggingface_hub, "list_repo_files", self.list_repo_files)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def list_repo_files(self, repository: str, *, revision: str | None = None) -> list[str]:
        if self.offline or repository != "SakanaAI/text-to-lora" or revision == "unknown":
            raise RuntimeError(f"404: {repository} is not there")
        return [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]

    def snapshot_download(
        self,
        repository: str,
        *,
        revision: str | None,
        allow_patterns: tuple[str, ...] = (),
        local_files_only: bool = False,
    ) -> str:
        if local_files_only and (revision or not self.cache.exists()):
            raise RuntimeError("nothing is cached")
        for name in [] if local_files_only or self.offline else self.list_repo_files(repository):
            if name in allow_patterns:
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / name, self.cache / name)
                self.downloads.append(name)
        return str(self.cache)


def test_the_hub_gives_only_the_chosen_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, flags in (("mistral_7b_t2l", {}), ("gemma_2b_t2l", {"shared_AB_head": True})):
        args = make_args(**flags)
        save(tmp_path / "hub" / "trained_t2l" / name, args, make_state(args))
    hub = FakeHub(monkeypatch, tmp_path / "hub", tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints:\n.*trained_t2l/gemma_2b_t2l"):
        import_checkpoint("SakanaAI/text-to-lora")
    assert hub.downloads == []
    assert import_checkpoint("SakanaAI/text-to-lora/gemma_2b_t2l").hypernetwork.variant == "M"
    assert {name.rpartition("/")[0] for name in hub.downloads} == {"trained_t2l/gemma_2b_t2l"}
    chosen = import_checkpoint("SakanaAI/text-to-lora", checkpoint="trained_t2l/mistral_7b_t2l")
    assert chosen.hypernetwork.variant == "L"
    with pytest.raises(CheckpointError, match="404"):
        import_checkpoint("SakanaAI/text-to-lora", revision="unknown")
    hub.offline = True
    assert import_checkpoint("SakanaAI/text-to-lora/mistral_7b_t2l").hypernetwork.variant == "L"


# --- damage ---


@pytest.mark.parametrize("source", ["nowhere", "./not/here", "/not/here", "a//b", "", "x" * 5000, "a\0b"])
def test_a_source_that_is_not_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        import_checkpoint(source)


@pytest.mark.parametrize("missing", ["args.yaml", "adapter_config.json", "hypermod.pt"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    args = make_args()
    save(tmp_path, args, make_state(args))
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        import_checkpoint(tmp_path)


class Payload:
    """Runs a command when a pickle that holds it is opened without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    args = make_args()
    trace = tmp_path / "trace"
    folder = save(tmp_path / "t2l", args, {**make_state(args), "payload": Payload(f"touch {trace}")})
    with pytest.raises(CheckpointError, match=r"run code.*refused.*system") as caught:
        import_checkpoint(folder)
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    args = make_args()
    state_file = save(tmp_path, args, make_state(args)) / "hypermod.pt"
    data = state_file.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        state_file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"hypermod\.pt"):
            import_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), {"model": {}}, None])
def test_a_file_that_is_no_state_dict(content: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="state dict"):
        import_checkpoint(save(tmp_path, make_args(), content))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("heads.q_proj.weight", "drop", "missing heads.q_proj.weight"),
        ("mlp1.mlp.0.weight", "drop", "missing mlp1.mlp.0.weight"),
        ("AB_offset.A.q_proj", "drop", "missing AB_offset.A.q_proj"),
        ("other.weight", "add", "unexpected other.weight"),
        ("out_emb.q_proj.A", "add", "unexpected out_emb.q_proj.A"),
        ("mixer.1.weight", "transpose", "mixer.1.weight has shape"),
        ("heads.q_proj.bias", "scalar", "heads.q_proj.bias has shape"),
        ("mean_recon_target.B.q_proj", "transpose", "mean_recon_target.B.q_proj has shape"),
        ("mixer.4.bias", "nan", "mixer.4.bias holds NaN"),
        ("AB_offset.B.v_proj", "nan", "AB_offset.B.v_proj holds NaN"),
        ("mlp3.1.bias", "infinite", "mlp3.1.bias holds NaN or inf"),
        ("mlp3.1.bias", "integer", "mlp3.1.bias has dtype torch.int64"),
        ("mlp3.4.weight", "drop", "mlp3.4.weight"),
        ("task_encoder.mlp.0.weight", "scalar", "task_encoder.mlp.0.weight"),
        ("layer_depth_encoder.0.weight", "scalar", "layer_depth_encoder.0.weight has shape"),
        ("layer_depth_encoder.1.weight", "scalar", "layer_depth_encoder.1.weight has shape"),
        ("mixer.1.weight", "sparse", "not a plain tensor"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name: str, change: str, words: str, tmp_path: Path) -> None:
    args = make_args()
    state = make_state(args)
    if change == "drop":
        del state[name]
    else:
        tensor = state.get(name, torch.zeros(3))
        state[name] = {
            "add": lambda: tensor,
            "transpose": lambda: tensor.mT.contiguous(),
            "scalar": lambda: torch.tensor(1.0),
            "nan": lambda: torch.full_like(tensor, math.nan),
            "infinite": lambda: torch.full_like(tensor, math.inf),
            "integer": tensor.long,
            "sparse": tensor.to_sparse,
        }[change]()
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(save(tmp_path, args, state))


def test_z_scores_without_their_mean_are_refused(tmp_path: Path) -> None:
    args = make_args(training_task="recon", factorized=True, pred_z_score=True)
    state = {name: tensor for name, tensor in make_state(args).items() if not name.startswith("mean_")}
    with pytest.raises(CheckpointError, match="missing mean_recon_target"):
        import_checkpoint(save(tmp_path, args, state))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"training_task": "dpo"}, "training_task: 'dpo'"),
        ({"encoder_type": "vqq"}, "Did you mean 'vq'"),
        ({"shared_AB_head": "yes"}, "shared_AB_head: 'yes'"),
        ({"delta_w_scaling": 0}, "positive"),
        ({"delta_w_scaling": math.nan}, "positive"),
        ({"delta_w_scaling": 10**400}, "positive"),
        ({"learnable_pos_emb": True}, "without autoreg_gen"),
        ({"train_ds_names": 3}, "train_ds_names: 3"),
        ({"shared_AB_head": True}, "missing out_emb"),
    ],
)
def test_settings_that_cannot_be(flags: Args, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(save(tmp_path, make_args(**flags), make_state(make_args())))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "VERA"}, "'VERA'"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"r": 5}, "has shape"),
        ({"r": "many"}, "rank is 'many'"),
        ({"lora_alpha": None}, "do not fit"),
        ({"lora_alpha": 10**400}, "do not fit"),
        ({"target_modules": ["q_proj"]}, "lists modules"),
        ({"layers_to_transform": [9]}, "layers_to_transform"),
        ({"layers_to_transform": "all"}, "layers_to_transform"),
    ],
)
def test_adapter_configs_that_cannot_be(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    args = make_args()
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(save(tmp_path, args, make_state(args), make_adapter_config(**changes)))


_GARBAGE = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))


many_examples = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    args = make_args()
    return save(tmp_path_factory.mktemp("intact"), args, make_state(args))


def refused_or_read(file: Path, content: bytes) -> None:
    """A checkpoint with other bytes in one file, for once; whatever else is raised fails the test."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        with suppress(CheckpointError):
            import_checkpoint(file.parent)
    finally:
        file.write_bytes(before)


@many_examples
@given(name=st.sampled_from(["args.yaml", "adapter_config.json", "hypermod.pt"]), garbage=_GARBAGE)
def test_garbage_is_refused(intact: Path, name: str, garbage: bytes) -> None:
    refused_or_read(intact / name, garbage)


@many_examples
@given(data=st.data(), name=st.sampled_from(["args.yaml", "adapter_config.json", "hypermod.pt"]))
def test_damaged_bytes_are_refused_or_harmless(intact: Path, data: st.DataObject, name: str) -> None:
    damaged = bytearray((intact / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    refused_or_read(intact / name, bytes(damaged))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@many_examples
@given(name=st.sampled_from(["args.yaml", "adapter_config.json"]), value=_VALUES, data=st.data())
def test_settings_of_any_kind_are_refused_or_read(intact: Path, name: str, value: Any, data: st.DataObject) -> None:
    fields = yaml.safe_load((intact / name).read_bytes())
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    refused_or_read(intact / name, json.dumps(fields).encode())
