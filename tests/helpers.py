"""Shared by the tests: tiny base models made on the spot, and weights filled from explicit generators."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2l.lora import LoraSpec, LoraWeights

LAB = Path(__file__).resolve().parents[1] / "lab"
if str(LAB.parent) not in sys.path:  # in a process that a test starts
    sys.path.append(str(LAB.parent))
MICRO_BASE = "t2l-embedded-base"
"""A real base of 3 million parameters, found below ``$T2L_BASES`` (see conftest.py)."""
MICRO_CHECKPOINT = LAB / "assets" / "checkpoint"
"""A trained checkpoint for it; the tests' default."""
MICRO_RECIPE = str(LAB / "recipes" / "real-tasks.yaml")
"""A recipe of seconds for it."""


def fill(module: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Fills every parameter from a generator of its own and freezes it; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * std
        parameter.data.copy_(noise + (1.0 if parameter.dim() == 1 else 0.0))
        parameter.requires_grad_(False)
    return module


def tiny_config(kind: str = "llama", **changes: Any) -> Any:
    """The config of a base with 2 layers of width 24: llama (grouped-query attention), gpt2 or phi3 (fused)."""
    from transformers import GPT2Config, LlamaConfig, Phi3Config

    if kind == "gpt2":
        values: dict[str, Any] = {"n_layer": 2, "n_embd": 24, "n_head": 4, "vocab_size": 40, "n_positions": 64}
        values |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 39}
        return GPT2Config(**(values | changes))
    values = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
    values |= {"num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64}
    values |= {"bos_token_id": 1, "eos_token_id": 39, "pad_token_id": 0, "tie_word_embeddings": False}
    return {"llama": LlamaConfig, "phi3": Phi3Config}[kind](**(values | changes))


def tiny_base(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A frozen causal language model of `tiny_config` in eval mode."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes), attn_implementation="eager")
    return fill(model, seed).to(dtype).eval()


def random_weights(spec: LoraSpec, num_samples: int = 1, seed: int = 0, std: float = 0.1) -> LoraWeights:
    """N different adapters, A and B both away from zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    a, b = {}, {}
    for group in spec.groups:
        depth = len(group.layers)
        a[group.key] = draw(num_samples, depth, spec.rank, group.in_features)
        b[group.key] = draw(num_samples, depth, group.out_features, spec.rank)
    return LoraWeights(a, b)


def tokens(batch: int, length: int, vocabulary: int = 40, seed: int = 0) -> Tensor:
    """Token ids (batch, length), none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, vocabulary - 1, (batch, length), generator=generator)


def enable_checkpointing(model: Any, *, reentrant: bool) -> None:
    """Activation checkpointing in training mode, under whichever name this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    model.train()


def tiny_llama(seed: int = 0) -> Any:
    """The embedded base's shape made small, with its vocabulary."""
    from transformers import LlamaForCausalLM

    from lab.world.base import base_config

    config = base_config()
    config.update({"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_key_value_heads": 2})
    return fill(LlamaForCausalLM(config), seed, std=0.4).eval()


def save_tiny_llama(folder: Path, seed: int = 0) -> Path:
    """`tiny_llama` and its tokenizer as a folder."""
    from lab.world.base import build_tokenizer

    tiny_llama(seed).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer(template: str) -> Any:
    """Byte-level BPE that takes digits one by one, with SmolLM2's special tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ab", "Ġab", "ĠĠ"]
    merges = [("a", "b"), ("Ġ", "ab"), ("Ġ", "Ġ")]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[:3])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=words[1],
        eos_token=words[2],
        unk_token=words[0],
        pad_token=words[2],
        chat_template=template,
    )


def save_byte_llama(folder: Path, template: str) -> Path:
    """A tiny Llama with `byte_tokenizer` as a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    fill(LlamaForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def untrained(base: Any, encoder: Any, std: float = 0.0, **metadata: Any) -> Any:
    """A small `TextToLora` of ``encoder``, a list standing for task names; ``std`` fills its weights."""
    from t2l.encoders import OneHotEncoder
    from t2l.hypernet import HyperNetwork
    from t2l.model import TextToLora

    spec = base if isinstance(base, LoraSpec) else LoraSpec.from_base(base, rank=2)
    encoder = OneHotEncoder(encoder) if isinstance(encoder, list) else encoder
    hypernetwork = HyperNetwork(spec, encoder.dim, trunk_dim=8, head_dim=8, head_init="linear")
    if std:
        fill(hypernetwork, std=std)
    return TextToLora(encoder, hypernetwork, metadata or None)


def tiny_pair(names: list[str]) -> tuple[Any, Any]:
    """A tiny `Base` with a real tokenizer, and a `TextToLora` for it that knows the tasks ``names``."""
    from lab.world.base import build_tokenizer
    from t2l.bases import Base

    model = tiny_llama()
    return Base(model, build_tokenizer(), "tiny"), untrained(model.config, names, std=0.4)


class Killed(Exception):
    """Stands for the end of a process in the middle of a run."""


def kill_at(step: int) -> Any:
    """A report of progress that ends the run at a step."""

    def report(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Killed

    return report


def dies_at(number: int) -> Callable[[int], None]:
    """Stands for Ctrl-C at a step."""

    def at(step: int) -> None:
        if step == number:
            raise KeyboardInterrupt

    return at


def silent(done: int, steps: int, loss: float) -> None:
    """Reports nothing."""


@torch.no_grad()  # in inference mode, parts of parameters confuse the counter
def counted(run: Callable[[], Any]) -> float:
    """Operations of a call as torch's `FlopCounterMode` counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into fused layers
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())
