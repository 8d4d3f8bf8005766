"""Memory of reconstruction training against the size of the library: streamed from disk, and held in memory.

    python benchmarks/recon_step.py [--json] [--sizes 64 479 5000]

Writes PEFT adapters of random weights to a temporary folder (about 1 GB for 5,000) and takes them away again. Each
figure is from a process of its own: it opens the library, computes its statistics, trains some steps, and reports the
peak of its resident memory above what it had with the hypernetwork built and one step done. The baseline, "held", is
the reference implementation's way restated: every adapter is loaded before the first step and stays. Times are
those of processes that ran one after the other, so on a busy machine they do not compare.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.peft_format import CONFIG_FILE, TENSOR_FILE, lora_config, peft_tensors
from t2l.recipes.sections import ReconSection
from t2l.storage import write_json, write_tensors
from t2l.training.conditions import ConditionTable
from t2l.training.reconstruction import ReconJob, set_affine

LAYERS, WIDTH, VALUE_WIDTH = 8, 512, 128
CONDITION = 64
WAYS = ("streamed", "held")
SIZES = (64, 479, 5000)
TARGET_GROWTH = 1.1  # of the streamed peak, from the smallest library to the largest


def make_spec() -> LoraSpec:
    """q_proj and v_proj of a base with grouped-query attention."""
    path = "model.layers.{layer}.self_attn."
    layers = tuple(range(LAYERS))
    groups = (
        ModuleGroup("q_proj", f"{path}q_proj", layers, WIDTH, WIDTH),
        ModuleGroup("v_proj", f"{path}v_proj", layers, WIDTH, VALUE_WIDTH),
    )
    return LoraSpec(groups, LAYERS)


def write_library(folder: Path, count: int) -> None:
    """PEFT folders of random weights in bfloat16, as many adapters are published."""
    spec, generator = make_spec(), torch.Generator().manual_seed(0)
    config = lora_config(spec)
    for number in range(count):
        a = {g.key: torch.randn(1, LAYERS, spec.rank, g.in_features, generator=generator) for g in spec.groups}
        b = {g.key: torch.randn(1, LAYERS, g.out_features, spec.rank, generator=generator) for g in spec.groups}
        inside = folder / f"task{number:05}"
        inside.mkdir(parents=True)
        tensors = peft_tensors(spec, LoraWeights(a, b))
        write_tensors(inside / TENSOR_FILE, {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()})
        write_json(inside / CONFIG_FILE, config)


class Held:
    """Every adapter of a library in memory from the start, and read like the library."""

    def __init__(self, library: Library) -> None:
        self.spec, self.names = library.spec, library.names
        self._adapters = {name: library.weights([name]) for name in library.names}

    def weights(self, names: Sequence[str]) -> LoraWeights:
        """As `Library.weights`."""
        return LoraWeights.cat([self._adapters[name] for name in names])

    def stream(self, names: Sequence[str]) -> Iterator[LoraWeights]:
        """As `Library.stream`."""
        return (self._adapters[name] for name in names)


def condition_of(name: str) -> Tensor:
    """A condition that is always the same for a task."""
    return torch.randn(CONDITION, generator=torch.Generator().manual_seed(int(name.removeprefix("task"))))


def resident(field: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" at most since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This benchmark reads /proc/self/status; run it on Linux.")


def forget_peak() -> None:
    """Lets VmHWM begin anew from now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, folder: Path, steps: int) -> dict[str, float]:
    """Peak above the start in bytes, and seconds; call it in a fresh process."""
    hypernetwork = HyperNetwork(
        make_spec(), CONDITION, head_init="linear", output_gain=True, output_shift=True, dropout=0.0
    )
    with tempfile.TemporaryDirectory() as warm:  # loads the kernels; the optimiser's buffers come and go once
        write_library(Path(warm), 4)
        run(hypernetwork, "streamed", Path(warm), 1)
    gc.collect()
    forget_peak()
    before, begun = resident("VmRSS"), time.perf_counter()
    seconds = run(hypernetwork, way, folder, steps)
    return {
        "peak_bytes": resident("VmHWM") - before,
        "seconds": time.perf_counter() - begun,
        "seconds_per_step": seconds,
    }


def run(hypernetwork: HyperNetwork, way: str, folder: Path, steps: int) -> float:
    """Opens the library, takes its statistics and trains; gives the median time of a step."""
    library: Any = Library.open(folder)
    if way == "held":
        library = Held(library)
    ticks: list[float] = []
    recon, places = ReconSection(), {name: place for place, name in enumerate(library.names)}
    conditions = ConditionTable.of({place: condition_of(name)[None] for name, place in places.items()})
    set_affine(hypernetwork, library, library.names, recon)
    job = ReconJob(hypernetwork.train(), library, conditions, places, library.names, recon)
    (optimizer,) = job.optimizers()
    for step in range(steps):
        job.learn(step, 0, 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ticks.append(time.perf_counter())
    gaps = sorted(after - before for before, after in pairwise(ticks))
    return gaps[len(gaps) // 2] if gaps else 0.0


def measured_apart(way: str, folder: Path, steps: int) -> dict[str, float]:
    """The figures of one way and library, from a fresh process."""
    command = [sys.executable, __file__, "--measure", way, "--folder", str(folder), "--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    sizes = sorted(args.sizes)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        whole = Path(scratch) / "whole"
        write_library(whole, sizes[-1])
        disk = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        figures: dict[str, dict[str, dict[str, float]]] = {}
        for size in sizes:
            part = Path(scratch) / f"first-{size}"
            part.mkdir()
            for path in sorted(whole.iterdir())[:size]:
                (part / path.name).symlink_to(path)
            figures[str(size)] = {way: measured_apart(way, part, args.steps) for way in WAYS}
    first, last = figures[str(sizes[0])], figures[str(sizes[-1])]
    growth = {way: last[way]["peak_bytes"] / first[way]["peak_bytes"] for way in WAYS}
    return {
        "parameters": make_spec().num_parameters,
        "steps": args.steps,
        "threads": torch.get_num_threads(),
        "disk_bytes": disk,
        "sizes": figures,
        "growth": growth,
        "peak_ratio": last["streamed"]["peak_bytes"] / last["held"]["peak_bytes"],
        "target": {"growth": TARGET_GROWTH},
    }


def show(result: dict[str, Any]) -> None:
    """The figures as a small table."""
    print(f"Adapters of {result['parameters']:,} parameters, statistics and {result['steps']} steps of 4 tasks\n")
    print(f"{'adapters':>10}{'streamed: peak':>18}{'held: peak':>14}{'streamed: step':>18}{'held: step':>14}")
    for size, ways in result["sizes"].items():
        peaks = [f"{ways[way]['peak_bytes'] / 2**20:,.0f} MiB" for way in WAYS]
        steps = [f"{1000 * ways[way]['seconds_per_step']:,.0f} ms" for way in WAYS]
        print(f"{size:>10}{peaks[0]:>18}{peaks[1]:>14}{steps[0]:>18}{steps[1]:>14}")
    growth = result["growth"]
    print(
        f"\nFrom the smallest library to the largest the peak grows {growth['streamed']:.2f} times streamed (target: "
        f"at most {TARGET_GROWTH}), {growth['held']:.1f} times held. In the largest library the streamed peak is "
        f"{result['peak_ratio']:.3f} of the held one."
    )


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="adapters of the libraries")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--scratch", help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder, args.steps)))
        return
    result = compare(args)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
