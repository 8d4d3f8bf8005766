"""Per-sample LoRA: one batched product per sample against repeating A and B for every token, forward and backward.

    python benchmarks/batched_lora.py [--json] [--device cuda] [--dtype bfloat16]

Both ways compute ``y + s * B (A x)`` for one module; times are medians of runs that take turns, so the ratio holds on a
busy machine. Extra memory is measured in a process of its own for each way: what autograd keeps for backward, and the
peak above the inputs and the outputs' gradient.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from t2l.batched import add_low_rank

SCALING = 16 / 8**0.5
TARGET_SPEED, TARGET_MEMORY = 5.0, 0.1

Product = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def repeated_per_token(y_STO: Tensor, x_STI: Tensor, a_SRI: Tensor, b_SOR: Tensor, scaling: float) -> Tensor:
    """The reference implementation's way, restated: every token gets a copy of its sample's A and B."""
    samples, tokens, features = x_STI.shape
    a = a_SRI.repeat_interleave(tokens, dim=0)  # (S * T, R, I)
    b = b_SOR.repeat_interleave(tokens, dim=0)  # (S * T, O, R)
    x = x_STI.reshape(samples * tokens, 1, features)
    delta = torch.bmm(torch.bmm(x, a.mT), b.mT)
    return y_STO + scaling * delta.view(y_STO.shape)


WAYS: dict[str, Product] = {"per sample": add_low_rank, "per token": repeated_per_token}


def make_inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, x, A, B and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(args.device, getattr(torch, args.dtype))

    x_STI = draw(args.samples, args.tokens, args.features).requires_grad_()
    y_STO = draw(args.samples, args.tokens, args.features)
    a_SRI = (draw(args.samples, args.rank, args.features) / args.features**0.5).detach().requires_grad_()
    b_SOR = draw(args.samples, args.features, args.rank).requires_grad_()
    return y_STO, x_STI, a_SRI, b_SOR, draw(args.samples, args.tokens, args.features)


def step(product: Product, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One forward and backward: the output and the gradients of x, A and B."""
    y_STO, x_STI, a_SRI, b_SOR, gradient = inputs
    out = product(y_STO, x_STI, a_SRI, b_SOR, SCALING)
    return out.detach(), *torch.autograd.grad(out, (x_STI, a_SRI, b_SOR), gradient)


def seconds(product: Product, inputs: tuple[Tensor, ...]) -> float:
    """The time of one `step`."""
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(product, inputs)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def kept_for_backward(product: Product, inputs: tuple[Tensor, ...]) -> int:
    """Bytes of the tensors that autograd keeps, those that exist anyway left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in known:
            kept[pointer] = tensor
        return tensor

    y_STO, x_STI, a_SRI, b_SOR, _ = inputs
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        product(y_STO, x_STI, a_SRI, b_SOR, SCALING)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_bytes(product: Product, args: argparse.Namespace) -> int:
    """The most memory one step needs above its inputs. Call it in a fresh process: a peak never falls."""
    small = argparse.Namespace(**{**vars(args), "samples": 1, "tokens": 8, "features": 64})
    step(product, make_inputs(small))  # loads the kernels
    inputs = make_inputs(args)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(product, inputs)
        return torch.cuda.max_memory_allocated() - before
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(product, inputs)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def measured_apart(name: str) -> dict[str, int]:
    """The memory figures of one way, from a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; the memory first, as a process passes the peak it has had on to those it starts."""
    memory = {name: measured_apart(name) for name in WAYS}
    inputs = make_inputs(args)
    for ours, theirs in zip(*(step(product, inputs) for product in WAYS.values()), strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < (1e-5 if args.dtype == "float32" else 2e-2), f"the two ways differ by {error:.1e}"
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.repeats):
        for name, product in WAYS.items():
            times[name].append(seconds(product, inputs))
    ways = {name: {"seconds": statistics.median(times[name]), **memory[name]} for name in WAYS}
    ours, theirs = ways["per sample"], ways["per token"]
    return {
        "samples": args.samples,
        "tokens": args.tokens,
        "features": args.features,
        "rank": args.rank,
        "dtype": args.dtype,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "ways": ways,
        "times_faster": theirs["seconds"] / ours["seconds"],
        "kept_ratio": ours["kept_bytes"] / theirs["kept_bytes"],
        "peak_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        "target": {"times_faster": TARGET_SPEED, "memory_ratio": TARGET_MEMORY},
    }


def show(result: dict[str, Any]) -> None:
    """The figures as a small table."""
    shape = "{samples} x {tokens} tokens, {features} features, rank {rank}, {dtype} on {device}".format(**result)
    print(f"Forward and backward of one adapted module: {shape}, {result['threads']} threads\n")
    print(f"{'A and B meet x':<16}{'time':>12}{'kept':>14}{'peak extra':>14}")
    for name, way in result["ways"].items():
        kept, peak = way["kept_bytes"] / 2**20, way["peak_bytes"] / 2**20
        print(f"{name:<16}{1000 * way['seconds']:>9.1f} ms{kept:>10.1f} MiB{peak:>10.1f} MiB")
    print(
        f"\n{result['times_faster']:.1f} times faster (target {TARGET_SPEED:.0f}); memory kept for backward "
        f"{result['kept_ratio']:.4f}, peak extra {result['peak_ratio']:.3f} of it (target {TARGET_MEMORY})"
    )


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in (("samples", 8), ("tokens", 512), ("features", 2048), ("rank", 8), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        product = WAYS[args.measure]
        peak = peak_bytes(product, args)
        print(json.dumps({"kept_bytes": kept_for_backward(product, make_inputs(args)), "peak_bytes": peak}))
        return
    result = compare(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
