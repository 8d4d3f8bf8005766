"""Ten thousand adapters in a store: what finding, reading and making one takes, piece by piece.

    python benchmarks/store.py [--adapters 10000] [--seconds 1] [--json]

The pieces are those that stand between a request and its adapter: the folder that the vLLM plugin resolves names in,
and the store of `t2l serve` (opening it, by description, by id in memory, by id from the disk). Adapters that are only
looked up are of a tiny shape, because a lookup does not read weights; what is read, made and counted in bytes is the
shipped checkpoint's. The baseline of a lookup is making the adapter again.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import Machine
from transformers import LlamaConfig

from t2l.adapter import Adapter
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore
from t2l.serving.vllm_plugin import AdapterFolder


def rate(work: Callable[[int], Any], seconds: float) -> float:
    """Calls a second, each with its number."""
    work(0)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        count += 1
        work(count)
    return count / (time.perf_counter() - begun)


def peak_mib() -> float:
    """Of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tiny_adapters(count: int) -> list[Adapter]:
    """All different, and of a shape whose files are small."""
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    spec = LoraSpec.from_base(config, rank=1)
    plain = LoraWeights.zeros(spec)
    return [
        Adapter(spec, plain.map(lambda tensor, n=number: tensor + n), {"description": f"Add {number} to the number."})
        for number in range(count)
    ]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    machine = Machine()
    t2l = TextToLora.from_pretrained()
    base = t2l.spec.base_model or ""
    result: dict[str, Any] = {"adapters": options.adapters}
    fresh = iter(range(10**9))

    def make(_: int) -> Any:
        return t2l.generate([f"Give word number {next(fresh)} of the text in capital letters."])

    made = make(0)[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made.save(folder / "one")
        result["bytes_an_adapter"] = sum(path.stat().st_size for path in (folder / "one").iterdir())
        result["made_per_second"] = rate(make, 4 * options.seconds)

        store = AdapterStore(folder=folder / "store", disk=1 << 40, told=1 << 30)
        adapters = tiny_adapters(options.adapters)
        begun = time.perf_counter()
        kept = [store.add(adapter).id for adapter in adapters]
        result["added_per_second"] = len(kept) / (time.perf_counter() - begun)
        before, begun = peak_mib(), time.perf_counter()
        again = AdapterStore(folder=folder / "store", disk=1 << 40, told=1 << 30)
        result["opened_s"] = time.perf_counter() - begun
        result["opened_mib"] = peak_mib() - before
        assert len(again.entries()) == options.adapters
        result["found_per_second"] = rate(
            lambda n: again.find(f"Add {7919 * n % options.adapters} to the number."), options.seconds
        )
        result["from_memory_per_second"] = rate(lambda n: store.get(kept[-1 - n % 100]), options.seconds)

        real = AdapterStore(folder=folder / "real", memory=1)
        names = [real.add(adapter).id for adapter in t2l.generate([f"Say it {n} times." for n in range(8)])]
        result["from_disk_per_second"] = rate(lambda n: real.get(names[n % len(names)]), options.seconds)

        plugin = AdapterFolder(folder / "vllm", lambda: t2l, limit=options.adapters + 10**6)
        plugin.resolve(base, "t2l/Add 0 to the number.")
        for number in range(options.adapters):  # as if each had been made
            adapter = folder / "vllm" / plugin.identify(f"Add {number} to the number.", t2l.digest)
            adapter.mkdir(exist_ok=True)
            (adapter / "adapter_config.json").write_text("{}")

        def resolve(number: int) -> Any:
            return plugin.resolve(base, f"t2l/Add {7919 * number % options.adapters} to the number.")

        result["resolved_per_second"] = rate(resolve, options.seconds)
        done = threading.Event()

        def makes() -> None:
            while not done.is_set():
                plugin.resolve(base, f"t2l/Write it {next(fresh)} times.")

        maker = threading.Thread(target=makes)
        maker.start()
        waits: list[float] = []
        until = time.perf_counter() + 4 * options.seconds
        while time.perf_counter() < until:
            begun = time.perf_counter()
            resolve(len(waits))
            waits.append(1000 * (time.perf_counter() - begun))
            time.sleep(0.001)
        done.set()
        maker.join()
        result["resolved_while_making_ms"] = {
            "median": statistics.median(waits),
            "p99": statistics.quantiles(waits, n=100)[98],
        }
    result["lookups_times_making"] = result["resolved_per_second"] / result["made_per_second"]
    return result | {"machine": machine.report()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each figure; four times as long where one is made"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        print(f"{name:26} {value:,.1f}" if isinstance(value, float) else f"{name:26} {value}")


if __name__ == "__main__":
    main()
