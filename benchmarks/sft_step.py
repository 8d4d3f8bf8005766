"""One optimiser step of SFT training: ours against the reference implementation's way, on one base and one batch.

    python benchmarks/sft_step.py [--json] [--device cuda] [--dtype bfloat16] [--checkpointing]
    python benchmarks/sft_step.py --store work/data [--device cuda] [--rounds 3] [KEY=VALUE ...]

The baseline is a faithful reading of the reference implementation: an adapter is generated for each sample, A and B are
repeated for every token, applied by forward hooks that are gone before backward, and logits are computed for every
position. Ours is the step of `t2l train sft`. Both have the same base (random weights), the same hypernetwork and the
same batch; their losses and gradients are compared. Times are medians of steps that take turns. Peak memory is that of
all tensors made during forward and backward, counted as they come and go; the base, the hypernetwork and its optimiser
are there before and do not count.

With ``--store``, on real samples and a real base (the store says which), three ways on the same samples, in turns:

- ours: the steps of `t2l train sft` with the recipe smollm2-135m-cpu (or -gpu), where every sample has its own adapter;
- peft, the named baseline: PEFT and transformers' Trainer train ONE LoRA of the same rank and modules on the same
  samples, as many a step, in micro-batches of 8 (the Trainer's default) grouped by length, in the same dtype;
- reference: as above, in micro-batches of 8; left out where there is no memory for it.

Updates are part of every way's time. Memory is that of the base, the trained parameters, AdamW's two moments for them,
and the most that a step's tensors took, counted alike. The share of the machine's matrix rate is what torch's
`FlopCounterMode` counts in our steps (padding included), against square products in the base's dtype.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from machine import Machine, matmul_rate
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from t2l.bases import load_base
from t2l.data.store import DataStore
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.recipes.reader import load_recipe
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch, StoreBatches, Tokens, collate, train_tasks
from t2l.training.conditions import ConditionTable
from t2l.training.frozen_base import enable_activation_checkpointing, load_frozen_base, without_dropout
from t2l.training.sft import learn_step, vocabulary
from t2l.training.source import build_spec

TARGET_SPEED, TARGET_MEMORY = 3.0, 0.25
SMOOTHING, PENALTY, CLIP = 0.1, 1e-3, 1.0
PEFT_MICRO = REFERENCE_MICRO = 8
"""Samples of a micro-batch."""


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


def on_store(args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second and memory of three ways on the same samples of a store; see the module's docstring."""
    machine, begun, device = Machine(), time.monotonic(), torch.device(args.device)
    ours = OurSteps(args, device)
    steps = [ours.batches.step(number) for number in range(args.rounds)]
    samples = [[ours.batches.sample(task, one) for task, one, _ in ours.batches.picks(n)] for n in range(args.rounds)]
    rates: list[float] = []
    watches = {name: Watch(device) for name in ("ours", "peft", "reference")}
    step_bytes = dict.fromkeys(watches, 0.0)

    flops = 0.0
    for number in range(args.rounds):  # the steps that are timed later; this is their warm-up too
        tally, counter = Tally(), FlopCounterMode(display=False)
        with tally, counter:
            ours.train(number)
        flops += counter.get_total_flops()
        step_bytes["ours"] = max(step_bytes["ours"], float(tally.peak))

    micros = [step[i : i + REFERENCE_MICRO] for step in samples for i in range(0, len(step), REFERENCE_MICRO)]
    largest = max(micros, key=lambda micro: len(micro) * max(len(ids) for ids, _ in micro))
    needed = reference_bytes(ours, largest)
    if device.type == "cpu" and needed > psutil.virtual_memory().available:
        del watches["reference"], step_bytes["reference"]
    else:
        with Tally() as tally:
            ours.reference([largest])
        step_bytes["reference"] = float(tally.peak)

    def turn(number: int) -> None:
        rates.append(matmul_rate(ours.dtype, device.type))
        with watches["ours"]:
            ours.train(number)
        if "reference" in watches:
            step = samples[number]
            with watches["reference"]:
                ours.reference([step[i : i + REFERENCE_MICRO] for i in range(0, len(step), REFERENCE_MICRO)])

    tally, lora_bytes = peft_steps(ours, samples, turn, watches["peft"])
    step_bytes["peft"] = float(tally.peak)
    trained = {name: 3 * (lora_bytes if name == "peft" else ours.parameter_bytes) for name in watches}
    peak = {name: ours.base_bytes + trained[name] + step_bytes[name] for name in watches}
    count = sum(len(step) for step in samples)
    speed = {clock: {k: count / getattr(w, clock) for k, w in watches.items()} for clock in ("wall", "processor")}
    tokens, rate = sum(step.tokens for step in steps), statistics.median(rates)
    others = [name for name in watches if name != "ours"]
    return {
        "machine": machine.report(),
        "took_seconds": time.monotonic() - begun,
        "base": ours.recipe.base.model,
        "dtype": str(ours.dtype).removeprefix("torch."),
        "device": args.device,
        "rank": ours.source.spec.rank,
        "modules": [group.key for group in ours.source.spec.groups],
        "steps": args.rounds,
        "samples_a_step": count / args.rounds,
        "adapters_a_step": sum(len(step.gathered) for step in steps) / args.rounds,
        "tokens_a_sample": tokens / count,
        "padding": 1 - tokens / sum(step.computed for step in steps),
        "samples_per_second": speed,
        "speed_ratio": {clock: {k: each["ours"] / each[k] for k in others} for clock, each in speed.items()},
        "matmul_gflops": rate / 1e9,
        "share_of_matmul_rate": flops / watches["ours"].wall / rate,
        "peak_gib": {name: value / 2**30 for name, value in peak.items()},
        "step_gib": {name: value / 2**30 for name, value in step_bytes.items()},
        "memory_ratio": {name: peak["ours"] / peak[name] for name in others},
        "left_out": None if "reference" in watches else f"the reference's way needs about {needed / 2**30:.0f} GiB",
        "targets": {"speed_ratio": 0.85, "share_of_matmul_rate": 0.5, "memory_ratio": 1.2},
    }


class Watch:
    """Adds up wall and processor seconds of what runs inside it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.wall, self.processor = device, 0.0, 0.0
        self._begun = (0.0, 0.0)

    def __enter__(self) -> None:
        _wait(self.device.type)
        self._begun = (time.perf_counter(), time.process_time())

    def __exit__(self, *_: object) -> None:
        _wait(self.device.type)
        self.wall += time.perf_counter() - self._begun[0]
        self.processor += time.process_time() - self._begun[1]


class OurSteps:
    """Steps as `t2l train sft` makes them, update included, with conditions that are random numbers."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        store = DataStore.open(args.store)
        changes = [f"data.store={args.store}", f"base.model={args.base or store.manifest['base']}", *args.changes]
        recipe = load_recipe("smollm2-135m-cpu" if device.type == "cpu" else "smollm2-135m-gpu", changes)
        self.recipe, self.device = recipe, device
        self.base = load_frozen_base(recipe.base, device).model
        self.dtype = next(self.base.parameters()).dtype
        self.base_bytes = sum(one.nbytes for one in self.base.parameters())
        wanted, width = recipe.hypernetwork, 1536
        source = HyperNetwork(
            build_spec(recipe), width, "L", trunk_dim=wanted.trunk_dim, head_dim=wanted.head_dim, dropout=0.0
        )
        self.source = source.to(device).train()
        self.parameter_bytes = sum(one.nbytes for one in self.source.parameters())
        self.optimizer = torch.optim.AdamW(self.source.parameters(), lr=1e-4)
        generator = torch.Generator().manual_seed(0)
        tasks = train_tasks(store, recipe.data)
        self.table = ConditionTable.of({task: torch.randn(1, width, generator=generator) for task in tasks})
        self.batches = StoreBatches(
            store, self.table, recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base
        )

    def train(self, number: int) -> None:
        """A step with its update."""
        batch, terms = self.batches.step(number), LossSection(label_smoothing=0.0, weight_penalty=0.0)
        condition_CE = self.table.on_device(batch.gathered, self.device)
        autocast = self.dtype == torch.bfloat16
        learn_step(self.base, self.source, condition_CE, batch.micros, terms, autocast=autocast)
        self._update()

    def reference(self, micros: list[list[Tokens]]) -> None:
        """A step the reference implementation's way, an adapter for each sample, with its update."""
        for samples in micros:
            micro = collate(samples, list(range(len(samples)))).to(self.device)
            condition_CE = torch.randn(len(samples), self.source.embedding_dim, device=self.device)
            reference_step(self.base, self.source, condition_CE, micro)
        self._update()

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.source.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def reference_bytes(ours: OurSteps, samples: list[Tokens]) -> float:
    """About what the reference implementation's way takes for a micro-batch: repeated A and B, and all logits."""
    width = max(len(ids) for ids, _ in samples)
    repeated = 2 * ours.source.spec.num_parameters * ours.dtype.itemsize  # and their gradients
    logits = vocabulary(ours.base) * (ours.dtype.itemsize + 3 * 4)  # in float32: themselves, their softmax, gradients
    return len(samples) * width * (repeated + logits)


def peft_steps(
    ours: OurSteps, samples: list[list[Tokens]], turn: Callable[[int], None], watch: Watch
) -> tuple[Tally, int]:
    """One LoRA of the same rank, modules and samples a step, by PEFT and transformers' Trainer, as one would write it.

    An epoch of one step, whose tensors are counted, warms up; then one epoch of all steps is timed.

    Args:
        turn: called before each timed step, with its number.
        watch: of the timed steps, reading the samples included.

    Returns:
        What the first step's tensors took, and bytes of the LoRA's parameters.
    """
    import peft
    import transformers

    spec, tally, size = ours.source.spec, Tally(), len(samples[0])
    micro = math.gcd(size, PEFT_MICRO)

    class Turns(transformers.TrainerCallback):
        number = 0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                tally.__enter__()
            else:
                self.next()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                tally.__exit__(None, None, None)
                control.should_epoch_stop = True
                return
            watch.__exit__()
            if self.number < len(samples):
                self.next()

        def next(self) -> None:
            turn(self.number)
            self.number += 1
            watch.__enter__()

    base = load_base(ours.recipe.base.model, device=ours.device, dtype=ours.dtype).model
    settings = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]
        use_rslora=spec.use_rslora,
        lora_dropout=0.0,
        target_modules=[group.path.format(layer=layer) for group in spec.groups for layer in group.layers],
        task_type="CAUSAL_LM",
    )
    model: Any = peft.get_peft_model(base, settings)
    rows: Any = [
        {"input_ids": ids.tolist(), "labels": [IGNORED] * prompt + ids[prompt:].tolist()}
        for step in samples
        for ids, prompt in step
    ]

    def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        fill = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
        full = [{**row, "attention_mask": [1] * len(row["labels"])} for row in rows]
        return {
            name: pad_sequence([torch.tensor(row[name]) for row in full], batch_first=True, padding_value=value)
            for name, value in fill.items()
        }

    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=size // micro,
            num_train_epochs=2,
            train_sampling_strategy="group_by_length",
            bf16=ours.dtype == torch.bfloat16,
            use_cpu=ours.device.type == "cpu",
            max_grad_norm=CLIP,
            learning_rate=1e-4,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model,
            options,
            train_dataset=rows,
            data_collator=padded,
            callbacks=[Turns()],  # pyright: ignore
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return tally, sum(one.nbytes for one in model.parameters() if one.requires_grad)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Compares the two ways and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("samples", 8), ("tokens", 512), ("response", 32), ("per-task", 1), ("width", 256), ("layers", 4),
        ("heads", 4), ("vocabulary", 32_000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--checkpointing", action="store_true", help="ours recomputes activations (the reference cannot)"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, help="timed steps of each way: 5 by default, with --store 3")
    parser.add_argument("--store", help="compare on real samples of this store instead")
    parser.add_argument("--base", help="with --store: the base, where it is not the one that the store names")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="with --store: changes to the recipe")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.store else 5)
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
