"""Variant T: training begins at the base, padding and other rows change nothing, and words reach the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import counted, random_weights, tiny_base
from t2l.adapter import Adapter
from t2l.encoders import TokenStatesEncoder, encoder_from_config, prepare
from t2l.errors import CheckpointError, DescriptionError, EncoderError, RecipeError, T2LError
from t2l.evaluation.flops import hypernetwork_flops
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.recipes.reader import load_recipe
from t2l.site_attention import SiteAttention, site_layers, writes_to_residual
from t2l.training.source import build_source, build_spec
from test_encoders import TEXTS, save_base
from test_hypernet import group, uneven_spec

WIDTH, WINDOW = 6, 9  # W, longest text


def build(spec: LoraSpec | None = None, **settings: object) -> HyperNetwork:
    return HyperNetwork(
        spec or uneven_spec(),
        WIDTH * WINDOW,
        "T",
        trunk_dim=64,
        head_dim=5,
        task_encoder="tokens",
        token_dim=WIDTH,
        **settings,  # type: ignore[arg-type]
    ).eval()


def moved(hypernetwork: HyperNetwork) -> HyperNetwork:
    """With every parameter away from where it began, so that B is not zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in hypernetwork.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return hypernetwork


def texts(lengths: list[int], seed: int = 0) -> torch.Tensor:
    """Token states (N, T * W), zero after each text's end."""
    state_NTW = torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        state_NTW[row, length:] = 0
    return state_NTW.flatten(1)


STATES = pytest.mark.parametrize("state_dim", [None, 1], ids=["shared", "own layers"])


@STATES
def test_training_begins_at_the_base_and_gradients_reach_every_parameter_that_b_hangs_on(state_dim: int | None) -> None:
    hypernetwork = build(state_dim=state_dim)
    weights = hypernetwork(texts([4, 7]))
    assert all(not b_NLOR.any() for b_NLOR in weights.b.values())
    assert all(bool((a_NLRI[0] != a_NLRI[1]).any()) for a_NLRI in weights.a.values())
    sum((b_NLOR * torch.randn_like(b_NLOR)).sum() for b_NLOR in weights.b.values()).backward()  # type: ignore[union-attr]
    written = [n for n, p in hypernetwork.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert any("static_b" in name for name in written) and any("own_LZF" in name for name in written)


def test_shapes_follow_the_spec_and_the_bottleneck() -> None:
    spec = uneven_spec()
    hypernetwork = build(spec)
    hypernetwork(texts([3])).check(spec)
    assert len(site_layers(spec)) == spec.rank * 6
    assert hypernetwork.encode(texts([3, 5])).shape == (2, len(site_layers(spec)) * 64)


@STATES
def test_neither_padding_nor_other_rows_change_an_adapter(state_dim: int | None) -> None:
    hypernetwork = moved(build(state_dim=state_dim))
    together = hypernetwork(texts([3, 9]))
    condition_NE = texts([3, 9])[:1, : 3 * WIDTH]
    alone = hypernetwork(condition_NE)
    for key in alone.b:
        torch.testing.assert_close(together.b[key][:1], alone.b[key], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.a[key][:1], alone.a[key], atol=1e-5, rtol=1e-4)


def test_one_word_changes_the_adapter() -> None:
    hypernetwork = moved(build())
    condition_NE = texts([6])
    other_NE = condition_NE.clone()
    other_NE[0, 2 * WIDTH : 3 * WIDTH] *= -1
    weights, changed = hypernetwork(condition_NE), hypernetwork(other_NE)
    assert all(bool((weights.b[key] - changed.b[key]).abs().max() > 1e-4) for key in weights.b)


def test_huge_first_token_states_are_bounded() -> None:
    hypernetwork = moved(build())
    condition_NE = texts([6])
    condition_NE[0, :WIDTH] = 1e6
    bounded_NE = condition_NE.clone()
    bounded_NE[0, :WIDTH] = 8.0
    weights, bounded = hypernetwork(condition_NE), hypernetwork(bounded_NE)
    assert all(torch.equal(weights.b[key], bounded.b[key]) for key in weights.b)


def test_structure_is_read_back() -> None:
    hypernetwork = moved(build())
    config = json.loads(json.dumps(hypernetwork.to_config()))
    again = HyperNetwork.from_tensors(config, hypernetwork.state_dict(), source="memory").eval()
    weights, expected = again(texts([5])), hypernetwork(texts([5]))
    assert all(torch.equal(weights.b[key], expected.b[key]) for key in weights.b)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(T2LError, match="multiple of 64"):
        HyperNetwork(uneven_spec(), 54, "T", trunk_dim=100, head_dim=4, task_encoder="tokens", token_dim=6)
    with pytest.raises(T2LError, match="one vector a text"):
        HyperNetwork(uneven_spec(), 54, "T", trunk_dim=64, head_dim=4)
    with pytest.raises(DescriptionError, match=r"\(1, 7\)"):
        build()(torch.ones(1, 7))
    with pytest.raises(DescriptionError, match="fewer tokens"):
        build()(torch.ones(1, WIDTH * (WINDOW + 1)))


def test_which_side_of_a_module_is_the_residual_stream() -> None:
    spec = LoraSpec.from_base(tiny_base("llama").config, target_modules="all-linear")
    assert {group.key for group in spec.groups if writes_to_residual(group)} == {"o_proj", "down_proj"}


# ------------------------------------------------------------------------------------------ pointers at words

POINTED = LoraSpec((group("q_proj", (0, 1), 4, 6), group("o_proj", (0, 2), 5, 4)), num_layers=3, rank=2)


def test_pointers_begin_at_the_same_adapters_and_padding_changes_nothing() -> None:
    plain, pointing = moved(build(POINTED)), build(POINTED, point_dim=4)
    missing = pointing.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert len(missing) == 6 and all("point" in name for name in missing)
    weights, expected = pointing(texts([5, 9])), plain(texts([5, 9]))
    assert all(torch.equal(weights.b[key], expected.b[key]) for key in weights.b)
    assert all(torch.equal(weights.a[key], expected.a[key]) for key in weights.a)
    sum(part.sum() for part in weights.b.values()).backward()  # type: ignore[union-attr]
    gate = pointing.head.maps["o_proj"].point_LR  # type: ignore[index,union-attr]
    assert gate.grad is not None and bool(gate.grad.any())  # type: ignore[union-attr]
    together, alone = moved(pointing)(texts([3, 9])), pointing(texts([3, 9])[:1, : 3 * WIDTH])
    for key in alone.b:
        torch.testing.assert_close(together.b[key][:1], alone.b[key], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.a[key][:1], alone.a[key], atol=1e-5, rtol=1e-4)


def test_a_word_that_is_pointed_at_stands_in_the_weights_as_it_is() -> None:
    hypernetwork = build(POINTED, point_dim=4)
    before = hypernetwork(texts([4]))
    pointers = hypernetwork.task_encoder.pointers
    with torch.no_grad():
        pointers.nothing_S.fill_(-1e4)  # type: ignore[union-attr,operator]
        pointers.query_SD.zero_()  # type: ignore[union-attr,operator]
        hypernetwork.head.maps["o_proj"].point_LR[1, 0] = 1 / 32  # type: ignore[index,union-attr]
    after = hypernetwork(texts([4]))
    words_TV = texts([4]).unflatten(1, (-1, WIDTH))[0, :, :4]
    expected_V = 2.0 * torch.nn.functional.normalize(words_TV, dim=-1).mean(dim=0)  # every word alike
    torch.testing.assert_close(after.b["o_proj"][0, 1, :, 0] - before.b["o_proj"][0, 1, :, 0], expected_V)
    with torch.no_grad():
        pointers.nothing_S.fill_(1e4)  # type: ignore[union-attr,operator]
    nothing = hypernetwork(texts([4]))
    assert all(torch.equal(nothing.b[key], before.b[key]) for key in before.b)


def test_pointers_are_kept_with_the_structure_and_need_the_base_s_width() -> None:
    hypernetwork = moved(build(POINTED, point_dim=4))
    config = json.loads(json.dumps(hypernetwork.to_config()))
    again = HyperNetwork.from_tensors(config, hypernetwork.state_dict(), source="memory").eval()
    assert all(torch.equal(again(texts([5])).b[key], hypernetwork(texts([5])).b[key]) for key in ("q_proj", "o_proj"))
    with pytest.raises(T2LError, match="5 numbers, the base's residual stream 4"):
        build(POINTED, point_dim=5)
    with pytest.raises(T2LError, match="point_dim is 7; a token's state has 6"):
        build(POINTED, point_dim=7)
    attention = 4 * 64 * WINDOW * (2 * WINDOW + len(site_layers(POINTED)))
    expected = counted(lambda: hypernetwork(texts([WINDOW]))) + attention
    assert hypernetwork_flops(hypernetwork, WINDOW) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------ the encoder of tokens


def test_states_are_those_of_the_model_and_of_no_other_text(tmp_path: Path) -> None:
    base = save_base(tmp_path, "llama", "left")
    depth = base.config.num_hidden_layers
    encoder = TokenStatesEncoder(str(tmp_path), [0, depth], dtype="float32")
    embedding_NE = encoder.encode(TEXTS)
    width = base.config.hidden_size
    assert encoder.token_dim == 2 * width
    for row, text in enumerate(prepare(TEXTS)):
        ids = torch.tensor([encoder.reader.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = base(ids, output_hidden_states=True).hidden_states
        expected_TW = torch.cat([states[0][0], states[depth][0]], dim=-1)
        state_TW = embedding_NE[row].unflatten(0, (-1, 2 * width))
        torch.testing.assert_close(state_TW[: len(expected_TW)], expected_TW, atol=1e-5, rtol=1e-4)
        assert not state_TW[len(expected_TW) :].any()
        assert torch.equal(encoder.encode([text])[0], embedding_NE[row, : expected_TW.numel()])
    torch.testing.assert_close(
        encoder.step_conditions(encoder.step_tokens(prepare(TEXTS))), embedding_NE, atol=1e-5, rtol=1e-4
    )
    again = encoder_from_config(json.loads(json.dumps(encoder.to_config())))
    assert torch.equal(again.encode(TEXTS), embedding_NE)


def test_a_checkpoint_of_tokens_makes_adapters_and_comes_back(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", "left")
    encoder = TokenStatesEncoder(str(tmp_path / "base"), [0, 1], window=32)
    spec = LoraSpec.from_base(base.config, target_modules=["q_proj", "down_proj"], rank=2)
    hypernetwork = HyperNetwork(
        spec, encoder.dim, "T", trunk_dim=64, head_dim=4, task_encoder="tokens", token_dim=encoder.token_dim
    )
    t2l = TextToLora(encoder, moved(hypernetwork))
    adapters = t2l.generate(TEXTS)
    t2l.save_pretrained(tmp_path / "checkpoint")
    again = TextToLora.from_pretrained(tmp_path / "checkpoint").generate(TEXTS[:1])
    for name, tensor in again[0].weights.a.items():
        torch.testing.assert_close(tensor, adapters[0].weights.a[name], atol=1e-5, rtol=1e-4)
    blended = t2l.blend(TEXTS[:2])
    blended.weights.check(spec)


def test_layers_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    save_base(tmp_path, "llama", "left")
    with pytest.raises(EncoderError, match="layers names 99"):
        TokenStatesEncoder(str(tmp_path), [99]).encode(["Sort."])
    with pytest.raises(EncoderError, match="from 0"):
        TokenStatesEncoder(str(tmp_path), [])


def test_training_with_pointers_begins_from_a_checkpoint_without(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", "left")
    changes = [
        f"base.model={tmp_path / 'base'}", f"encoder.model={tmp_path / 'base'}", "encoder.layers=[0, 1]",
        f"encoder.token_dim={2 * base.config.hidden_size}", "hypernetwork.trunk_dim=64", "lora.rank=2",
    ]  # fmt: skip
    encoder = TokenStatesEncoder(str(tmp_path / "base"), [0, 1], window=32)
    recipe = load_recipe("smollm2-135m-gpu", changes)
    plain = build_source(recipe, build_spec(recipe), encoder)
    TextToLora(encoder, moved(plain)).save_pretrained(tmp_path / "checkpoint")
    changes += [f"hypernetwork.start={tmp_path / 'checkpoint'}", "hypernetwork.pointers=true"]
    recipe = load_recipe("smollm2-135m-gpu", changes)
    pointing = build_source(recipe, build_spec(recipe), encoder).eval()
    assert pointing.point_dim == base.config.hidden_size
    condition_NE, start = encoder.encode(TEXTS), TextToLora.from_pretrained(tmp_path / "checkpoint").hypernetwork
    weights, expected = pointing(condition_NE), start(condition_NE)
    assert all(torch.equal(weights.b[key], expected.b[key]) for key in expected.b)
    recipe = load_recipe("smollm2-135m-gpu", [*changes, "encoder.layers=[1]", "hypernetwork.start=null"])
    with pytest.raises(RecipeError, match="do not begin with them"):
        build_source(recipe, build_spec(recipe), encoder)


@STATES
def test_flops_are_those_that_torch_counts(state_dim: int | None) -> None:
    spec = uneven_spec()
    hypernetwork = build(spec, state_dim=state_dim)
    condition_NE = texts([WINDOW])
    read = len(site_layers(spec)) * (1 if state_dim is None else 2)
    attention = 4 * 64 * WINDOW * (2 * WINDOW + read)  # torch does not count its fused attention on the CPU
    expected = counted(lambda: hypernetwork(condition_NE)) + attention
    assert hypernetwork_flops(hypernetwork, WINDOW) == pytest.approx(expected, rel=1e-6)


def test_a_batch_copies_no_map_for_each_description() -> None:
    class Products(TorchDispatchMode):
        batches: ClassVar[list[int]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.bmm.default:
                self.batches.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    hypernetwork = moved(build())
    condition_NE = texts([WINDOW] * 3)
    with torch.no_grad(), Products() as products:  # with gradients torch chooses otherwise
        hypernetwork(condition_NE)
    assert max(products.batches) <= max(len(one.layers) for one in hypernetwork.spec.groups)


def test_a_site_reads_its_own_layers_states_and_those_that_all_read() -> None:
    spec = uneven_spec()
    hypernetwork = moved(build(spec, state_dim=1))
    encoder = hypernetwork.task_encoder
    assert isinstance(encoder, SiteAttention) and encoder.shared_states == [0, 2, 3, 5]
    state_NE = texts([4])
    changed_NTW = state_NE.unflatten(1, (-1, WIDTH)).clone()
    changed_NTW[..., 4] += 1.0
    before, after = encoder(state_NE), encoder(changed_NTW.flatten(1))
    moved_S = (before != after).unflatten(1, (-1, 64)).any(dim=-1)[0].tolist()
    assert moved_S == [layer == 4 for layer in site_layers(spec)]
    with pytest.raises(T2LError, match="encoder.layers name all layers"):
        build(spec, state_dim=2)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_encoder_reads_in_a_frame_and_under_a_lora_and_a_checkpoint_takes_it_along(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", "left")
    spec = LoraSpec.from_base(base.config, target_modules=["q_proj", "down_proj"], rank=2)
    Adapter(spec, random_weights(spec)).save(tmp_path / "lora")
    around = [TEXTS[0].split()[0] + " ", " " + TEXTS[1].split()[0]]
    encoder = TokenStatesEncoder(
        str(tmp_path / "base"), [0, 2], window=24, dtype="float32", around=around, adapter=tmp_path / "lora"
    )
    plain = TokenStatesEncoder(str(tmp_path / "base"), [0, 2], window=24, dtype="float32")
    (text,) = prepare([TEXTS[2]])
    model = PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()
    ids = torch.tensor([plain.reader.tokenizer(around[0] + text + around[1])["input_ids"]])
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    expected = torch.cat([hidden[0], hidden[2]], dim=-1).flatten(1)
    torch.testing.assert_close(encoder.embed([text]), expected, atol=1e-5, rtol=1e-4)
    assert encoder.identity != plain.identity
    long = " ".join([text] * 9)
    (cut,) = encoder.step_tokens([long])
    assert len(cut) == 24 and cut[-1] == ids[0, -1]

    hypernetwork = HyperNetwork(
        spec, encoder.dim, "T", trunk_dim=64, head_dim=4, task_encoder="tokens", token_dim=encoder.token_dim
    )
    t2l = TextToLora(encoder, moved(hypernetwork))
    t2l.save_pretrained(tmp_path / "checkpoint")
    shutil.rmtree(tmp_path / "lora")
    again = TextToLora.from_pretrained(tmp_path / "checkpoint")
    assert again.encoder.identity == encoder.identity
    torch.testing.assert_close(again.encoder.encode([text]), encoder.encode([text]))
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    config["encoder"]["adapter"] = "../lora"
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="outside its folder"):
        TextToLora.from_pretrained(tmp_path / "checkpoint")
