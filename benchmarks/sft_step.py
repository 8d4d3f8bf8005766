"""One optimiser step of SFT training: ours against the reference implementation's way, on one base and one batch.

    python benchmarks/sft_step.py [--json] [--device cuda] [--dtype bfloat16] [--checkpointing]

The baseline is a faithful reading of the reference implementation: an adapter is generated for each sample, A and B are
repeated for every token, applied by forward hooks that are gone before backward, and logits are computed for every
position. Ours is the step of `t2l train sft`. Both have the same base (random weights), the same hypernetwork and the
same batch; their losses and gradients are compared. Times are medians of steps that take turns. Peak memory is that of all tensors
made during forward and backward, counted as they come and go; the base, the hypernetwork and its optimiser are there
before and do not count.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.training.frozen_base import enable_activation_checkpointing, without_dropout
from t2l.training.sft import IGNORED, Batch, SftConfig
from t2l.training.sft_step import MicroBatch, Terms, backward_through

TARGET_SPEED, TARGET_MEMORY = 3.0, 0.25
SMOOTHING, PENALTY, CLIP = 0.1, 1e-3, 1.0


class Tally(TorchDispatchMode):
    """Bytes of the storages that operations make, as they come and go, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before | self._known:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def reference_step(base: Any, hypernetwork: HyperNetwork, micro: MicroBatch) -> float:
    """The reference implementation's way, restated."""
    ids_ST, labels_ST = micro.batch.ids_ST, micro.batch.labels_ST
    samples, tokens = ids_ST.shape
    weights = hypernetwork(micro.condition_CE[micro.batch.index_S])
    with token_repeated(base, hypernetwork.spec, weights, tokens):
        logits_STV = base(input_ids=ids_ST, use_cache=False).logits
    logits_STV, targets_ST = logits_STV[:, :-1].float(), labels_ST[:, 1:]
    loss_ST = F.cross_entropy(
        logits_STV.reshape(-1, logits_STV.shape[-1]),
        targets_ST.reshape(-1),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=SMOOTHING,
    ).view(samples, tokens - 1)
    loss = (loss_ST.sum(dim=1) / (targets_ST != IGNORED).sum(dim=1)).mean()
    for key in weights.a:
        loss = loss + PENALTY * (weights.a[key].square().mean() + weights.b[key].square().mean())
    loss.backward()
    return float(loss.detach())


@contextmanager
def token_repeated(base: Any, spec: LoraSpec, weights: Any, tokens: int) -> Iterator[None]:
    """Forward hooks that repeat A and B for every token before the product."""

    def hook_of(a_SRI: Tensor, b_SOR: Tensor) -> Callable[..., Tensor]:
        def hook(module: Any, inputs: tuple[Tensor, ...], y_STO: Tensor) -> Tensor:
            (x_STI,) = inputs
            a = a_SRI.to(y_STO.dtype).repeat_interleave(tokens, dim=0)  # (S * T, R, I)
            b = b_SOR.to(y_STO.dtype).repeat_interleave(tokens, dim=0)  # (S * T, O, R)
            x = x_STI.reshape(-1, 1, x_STI.shape[-1])
            return y_STO + spec.scaling * torch.bmm(torch.bmm(x, a.mT), b.mT).view(y_STO.shape)

        return hook

    handles = [
        base.get_submodule(path).register_forward_hook(hook_of(weights.a[group.key][:, i], weights.b[group.key][:, i]))
        for group in spec.groups
        for i, path in enumerate(group.module_paths())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def our_step(base: Any, hypernetwork: HyperNetwork, micro: MicroBatch) -> float:
    """A micro-batch as `t2l train sft` learns from it."""
    return backward_through(base, hypernetwork, micro, Terms(SftConfig(SMOOTHING, PENALTY)))


WAYS: dict[str, Callable[[Any, HyperNetwork, MicroBatch], float]] = {"ours": our_step, "reference": reference_step}


def build(args: argparse.Namespace) -> tuple[Any, HyperNetwork, MicroBatch]:
    """A Mistral of the asked-for size with random weights, a hypernetwork, and a batch."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.width * 7 // 2,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=max(1, args.heads // 4),
    )
    config._attn_implementation = "sdpa"
    with torch.device(args.device):
        base = MistralForCausalLM(config).to(getattr(torch, args.dtype)).requires_grad_(False)
    without_dropout(base)
    base.train()
    hypernetwork = HyperNetwork(LoraSpec.from_base(config), 64, "L", dropout=0.0, head_dim=64).to(args.device)
    with torch.no_grad():  # away from the start, where B is zero
        for parameter in hypernetwork.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    ids_ST = torch.randint(0, args.vocabulary, (args.samples, args.tokens), device=args.device)
    labels_ST = ids_ST.clone()
    labels_ST[:, : args.tokens - args.response] = IGNORED
    index = torch.arange(args.samples).div(args.per_task, rounding_mode="floor")
    micro = MicroBatch(Batch(ids_ST, labels_ST, index), torch.randn(int(index.max()) + 1, 64, device=args.device))
    return base, hypernetwork, micro


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Losses, gradients, times and memory of both ways."""
    base, hypernetwork, micro = build(args)
    ready: dict[str, tuple[Any, HyperNetwork, torch.optim.Optimizer]] = {}
    agree: dict[str, tuple[float, Tensor]] = {}
    memory: dict[str, int] = {}
    for name, way in WAYS.items():
        own = copy.deepcopy(hypernetwork)
        model = base
        if name == "ours" and args.checkpointing:
            model = copy.deepcopy(base)
            enable_activation_checkpointing(model)
        ready[name] = (model, own, torch.optim.AdamW(own.parameters(), lr=1e-4))
        tally = Tally()
        with tally:
            loss = way(model, own, micro)
        memory[name] = tally.peak
        agree[name] = (loss, torch.cat([p.grad.flatten().float() for p in own.parameters() if p.grad is not None]))
    gap = (agree["ours"][1] - agree["reference"][1]).norm() / agree["reference"][1].norm()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            model, own, optimizer = ready[name]
            _wait(args.device)
            start = time.perf_counter()
            way(model, own, micro)
            torch.nn.utils.clip_grad_norm_(own.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _wait(args.device)
            times[name].append(time.perf_counter() - start)
    ratios = [slow / fast for slow, fast in zip(times["reference"], times["ours"], strict=True)]
    tokens = args.samples * args.tokens
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "shape": {
            name: getattr(args, name)
            for name in (
                "samples",
                "tokens",
                "response",
                "per_task",
                "width",
                "layers",
                "vocabulary",
                "dtype",
                "device",
            )
        },
        "activations_recomputed": args.checkpointing,
        "loss": {name: loss for name, (loss, _) in agree.items()},
        "relative_gradient_difference": float(gap),
        "seconds": seconds,
        "tokens_per_second": {name: tokens / value for name, value in seconds.items()},
        "peak_bytes": memory,
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_range": [min(ratios), max(ratios)],
        "memory_ratio": memory["ours"] / memory["reference"],
        "rounds": args.rounds,
        "targets": {"speed_ratio": TARGET_SPEED, "memory_ratio": TARGET_MEMORY},
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Compares the two ways and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("samples", 8), ("tokens", 512), ("response", 32), ("per-task", 1), ("width", 256), ("layers", 4),
        ("heads", 4), ("vocabulary", 32_000), ("rounds", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--checkpointing", action="store_true", help="ours recomputes activations (the reference cannot)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = compare(args)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"loss: ours {result['loss']['ours']:.6f}, reference {result['loss']['reference']:.6f}")
    print(f"gradients differ by {result['relative_gradient_difference']:.1e} of their norm")
    print(f"speed: {result['speed_ratio']:.2f}x (target {TARGET_SPEED:g}x)")
    print(f"peak activation memory: {result['memory_ratio']:.3f} of the reference's (target {TARGET_MEMORY:g})")


if __name__ == "__main__":
    main()
