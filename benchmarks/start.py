"""From a shell to an answer: what a user waits for, beside plain transformers and PEFT doing the same.

    python benchmarks/start.py [--repeats 3] [--busy 2] [--json]

Every figure is a fresh process: `import t2l`, `t2l --help`, `t2l demo` until its first answer with an adapter, and
`t2l run` with one description and one input. The baseline is the script that one would write instead: transformers
loads the same base, PEFT an adapter that lies there already, and `generate` gives the same three answers one after the
other. Ways take turns. With ``--busy``, `t2l run` once more beside so many processes that compute without end, with our
waiting of threads and with libgomp's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from machine import Machine, timed

from t2l.base_names import locate
from t2l.model import TextToLora

TARGETS = {"run_s": 4.0, "run_gb": 1.0, "demo_first_answer_s": 6.0, "import_s": 0.3, "help_s": 0.3}
BASELINE = "transformers and PEFT with an adapter that is there already"
DESCRIPTION = "Decide whether the review is positive or negative and answer with one word."
TEXT = "I loved every minute of this film."

PLAIN = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, description, text, tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
def answer(model, text):
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": ""}, {"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        found = model.generate(**ids, max_new_tokens=int(tokens), do_sample=False)[0, ids["input_ids"].shape[1] :]
    print(tokenizer.decode(found, skip_special_tokens=True), flush=True)
answer(model, text)
answer(model, f"{description}\\n\\n{text}")
answer(PeftModel.from_pretrained(model, adapter), text)
"""

BUSY = "while True: sum(n * n for n in range(10_000))"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside that compute without end, each in a session of its own as another user's would be."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by name."""
    machine = Machine()
    t2l = [sys.executable, "-m", "t2l"]
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = [*t2l, "run", DESCRIPTION, TEXT, "--max-new-tokens", str(options.tokens)]
    with tempfile.TemporaryDirectory() as folder:
        (adapter,) = TextToLora.from_pretrained().generate([DESCRIPTION])
        adapter.save(f"{folder}/adapter")
        base = str(locate("smollm2-135m"))
        plain = [sys.executable, "-c", PLAIN, base, f"{folder}/adapter", DESCRIPTION, TEXT, str(options.tokens)]
        ways = {
            "import": ([sys.executable, "-c", "import t2l"], ""),
            "help": ([*t2l, "--help"], ""),
            "demo": ([*t2l, "demo"], "with the adapter"),
            "run": (run, ""),
            "plain": (plain, ""),
        }
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for round_ in range(options.repeats + 1):  # the first fills caches
            for name, (command, until) in ways.items():
                found = timed(command, environment, until)
                if round_:
                    taken[name].append(found)
    ratios = [plain["seconds"] / own["seconds"] for own, plain in zip(taken["run"], taken["plain"], strict=True)]
    result: dict[str, Any] = {
        "tokens": options.tokens,
        "repeats": options.repeats,
        "ways": {
            name: {kind: statistics.median(one[kind] for one in found) for kind in found[0]}
            for name, found in taken.items()
        },
        "baseline": BASELINE,
        "run_times_plain": {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "machine": machine.report(),
        "targets": TARGETS,
    }
    if options.busy:
        waits = {"ours": environment, "libgomp": environment | {"GOMP_SPINCOUNT": "300000"}}
        beside: dict[str, list[float]] = {name: [] for name in waits}
        for _ in range(options.repeats):
            for name, given in waits.items():
                with busy(options.busy):
                    beside[name].append(timed(run, given)["seconds"])
        ratios = [slow / fast for slow, fast in zip(beside["libgomp"], beside["ours"], strict=True)]
        result["beside_busy_processes"] = {
            "processes": options.busy,
            "seconds": {name: statistics.median(found) for name, found in beside.items()},
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16, help="the longest answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="processes beside, for the last figure; 0 for none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    begun = time.monotonic()
    result = measure(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, found in result["ways"].items():
        print(f"{name:7} {found['seconds']:5.2f} s, {found['gb']:.2f} GB")
    ratio = result["run_times_plain"]
    print(f"`t2l run` is {ratio['ratio']:.2f} times as fast as {BASELINE} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    if "beside_busy_processes" in result:
        row = result["beside_busy_processes"]
        print(
            f"beside {row['processes']} busy processes {row['ratio']:.1f} times as fast as with libgomp's own waiting"
        )
    print(f"{time.monotonic() - begun:.0f} s; targets: {TARGETS}")


if __name__ == "__main__":
    main()
