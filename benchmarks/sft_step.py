"""One optimiser step of SFT training: ours against the reference implementation's way, on one base and one batch.

    python benchmarks/sft_step.py [--json] [--device cuda] [--dtype bfloat16] [--checkpointing]
    python benchmarks/sft_step.py --store work/data [--json] [--device cuda] [--rounds 3]

The baseline is a faithful reading of the reference implementation: an adapter is generated for each sample, A and B are
repeated for every token, applied by forward hooks that are gone before backward, and logits are computed for every
position. Ours is the step of `t2l train sft`. Both have the same base (random weights), the same hypernetwork and the
same batch; their losses and gradients are compared. Times are medians of steps that take turns. Peak memory is that of
all tensors made during forward and backward, counted as they come and go; the base, the hypernetwork and its optimiser
are there before and do not count.

With ``--store``, on real samples: the step of `t2l train sft` (micro-batches of similar length cut by a token budget,
adapters generated once) against the same samples in padded micro-batches of 32 whose adapters are generated for each
micro-batch, which is how the step was made before. The store says which base it was tokenised for. On a CPU, seconds
are CPU time of all threads, which other programs on the machine change little.
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
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch
from t2l.training.frozen_base import enable_activation_checkpointing, without_dropout
from t2l.training.sft import learn_step

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


def reference_step(base: Any, hypernetwork: HyperNetwork, condition_CE: Tensor, micro: Batch) -> float:
    """The reference implementation's way, restated."""
    ids_ST, labels_ST = micro.ids_ST, micro.labels_ST
    samples, tokens = ids_ST.shape
    weights = hypernetwork(condition_CE[micro.index_S])
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


def our_step(base: Any, hypernetwork: HyperNetwork, condition_CE: Tensor, micro: Batch) -> float:
    """A step of one micro-batch as `t2l train sft` learns from it."""
    loss = LossSection(label_smoothing=SMOOTHING, weight_penalty=PENALTY)
    return float(learn_step(base, hypernetwork, condition_CE, [micro], loss))


Way = Callable[[Any, HyperNetwork, Tensor, Batch], float]
WAYS: dict[str, Way] = {"ours": our_step, "reference": reference_step}


def build(args: argparse.Namespace) -> tuple[Any, HyperNetwork, Tensor, Batch]:
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
    condition_CE = torch.randn(int(index.max()) + 1, 64, device=args.device)
    return base, hypernetwork, condition_CE, Batch(ids_ST, labels_ST, index)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Losses, gradients, times and memory of both ways."""
    base, hypernetwork, condition_CE, micro = build(args)
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
            loss = way(model, own, condition_CE, micro)
        memory[name] = tally.peak
        agree[name] = (loss, torch.cat([p.grad.flatten().float() for p in own.parameters() if p.grad is not None]))
    gap = (agree["ours"][1] - agree["reference"][1]).norm() / agree["reference"][1].norm()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            model, own, optimizer = ready[name]
            _wait(args.device)
            start = time.perf_counter()
            way(model, own, condition_CE, micro)
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


PADDED = 32
"""Samples of a micro-batch before."""


def on_store(args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second and peak memory of both steps on the same samples of a store."""
    from t2l.data.store import DataStore
    from t2l.recipes.reader import load_recipe
    from t2l.training.batches import StoreBatches, collate, cut, train_tasks
    from t2l.training.conditions import ConditionTable, Wanted
    from t2l.training.frozen_base import load_frozen_base
    from t2l.training.source import build_spec

    store, device = DataStore.open(args.store), torch.device(args.device)
    model = args.base or store.manifest["base"]
    changes = [f"data.store={args.store}", f"base.model={model}", "loss.views=1", *args.changes]
    recipe = load_recipe("smollm2-135m-cpu" if device.type == "cpu" else "smollm2-135m-gpu", changes)
    base = load_frozen_base(recipe.base, device).model
    wanted, width = recipe.hypernetwork, 1536
    source = HyperNetwork(
        build_spec(recipe), width, "L", trunk_dim=wanted.trunk_dim, head_dim=wanted.head_dim, dropout=0.0
    )
    source.to(device).train()
    generator = torch.Generator().manual_seed(0)
    tasks = train_tasks(store, recipe.data)
    table = ConditionTable.of({task: torch.randn(1, width, generator=generator) for task in tasks})
    batches = StoreBatches(store, table, recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base)
    terms, autocast = (
        LossSection(label_smoothing=0.0, weight_penalty=0.0),
        next(base.parameters()).dtype == torch.bfloat16,
    )

    def ours(step: int) -> tuple[float, int]:
        batch = batches.step(step)
        condition_CE = table.on_device(batch.gathered, device)
        loss = learn_step(base, source, condition_CE, batch.micros, terms, autocast=autocast)
        return float(loss), batch.computed

    def padded(step: int) -> tuple[float, int]:
        picks, each = batches.picks(step), recipe.loop.samples
        groups = [picks[start : start + each] for start in range(0, len(picks), each)]
        count, total, computed = max(1, len(picks) // PADDED), 0.0, 0
        for number in range(count):
            chosen = groups[number::count]
            condition_CE = table.on_device(table.gather([Wanted(group[0][0], 0) for group in chosen]), device)
            found = [store.sample(task, sample) for group in chosen for task, sample, _ in group]
            samples = [cut(one.input_ids, one.prompt_length, recipe.data.max_length) for one in found]
            index = [place for place, group in enumerate(chosen) for _ in group]
            micro = collate(samples, index)
            total += float(learn_step(base, source, condition_CE, [micro], terms, autocast=autocast)) / count
            computed += micro.ids_ST.numel()
        return total, computed

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    ways = {"ours": ours, "padded": padded}
    memory: dict[str, float] = {}
    for name, way in ways.items():
        source.zero_grad(set_to_none=True)
        tally = Tally()
        with tally:
            way(0)
        memory[name] = tally.peak / 2**30
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    computed, tokens = dict.fromkeys(ways, 0), 0
    for step in range(1, args.rounds + 1):
        tokens += batches.step(step).tokens
        for name, way in ways.items():
            source.zero_grad(set_to_none=True)
            _wait(args.device)
            start = clock()
            computed[name] += way(step)[1]
            _wait(args.device)
            seconds[name].append(clock() - start)
    size = recipe.loop.tasks * recipe.loop.samples
    return {
        "base": model,
        "samples_a_step": size,
        "clock": "CPU time" if device.type == "cpu" else "wall",
        "samples_per_second": {name: size * len(values) / sum(values) for name, values in seconds.items()},
        "padding": {name: 1 - tokens / count for name, count in computed.items()},
        "peak_gib": memory,
        "speed_ratio": sum(seconds["padded"]) / sum(seconds["ours"]),
        "memory_ratio": memory["ours"] / memory["padded"],
        "rounds": args.rounds,
        "targets": {"speed_ratio": 2.0, "memory_ratio": 0.5},
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
    parser.add_argument("--store", help="compare on real samples of this store instead")
    parser.add_argument("--base", help="with --store: the base, where it is not the one that the store names")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="with --store: changes to the recipe")
    args = parser.parse_args()
    if args.store:
        print(json.dumps(on_store(args), indent=2))
        return
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
