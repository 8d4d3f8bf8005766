"""What a figure was measured on, and whether the machine was the benchmark's own while it ran."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

MOST_OTHERS = 0.05
"""Share of all cores' time that other programs may take; with more, a figure is marked as not quiet."""


class Machine:
    """Counts what other programs compute, from when it is made.

    The counters are the operating system's: what all cores have done, less this process and its children that have
    ended (a child that still runs counts as another program).
    """

    def __init__(self) -> None:
        self._begun, self._all, self._own = time.monotonic(), _all_seconds(), _own_seconds()

    def report(self) -> dict[str, Any]:
        """For the benchmark's JSON; says so on stderr where others computed too."""
        cores, wall = os.cpu_count() or 1, time.monotonic() - self._begun
        others = max(0.0, (_all_seconds() - self._all) - (_own_seconds() - self._own)) / (cores * wall)
        if others > MOST_OTHERS:
            sys.stderr.write(
                f"Other programs took {others:.0%} of the cores' time: these figures are not of a quiet machine.\n"
            )
        return {
            "processor": _processor(),
            "cores": cores,
            "threads": torch.get_num_threads(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "torch": torch.__version__,
            "others": round(others, 3),
            "quiet": others <= MOST_OTHERS,
        }


_CHILD = """
import resource, subprocess, sys, time
begun = time.perf_counter()
child = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE)
first = None
for line in child.stdout:
    if sys.argv[1] and sys.argv[1].encode() in line:
        first = time.perf_counter() - begun
        child.terminate()
        break
child.stdout.close()
status = child.wait()
assert status == 0 or first, status
print(first or time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # from a small process: a child's peak counts the memory of the process that forked it


def timed(command: list[str], environment: dict[str, str], until: str = "") -> dict[str, float]:
    """Seconds of a fresh process to the first line that holds ``until``, or to its end, and its peak memory in GB."""
    child = [sys.executable, "-c", _CHILD, until, *command]
    done = subprocess.run(child, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = map(float, done.stdout.split())
    return {"seconds": seconds, "gb": peak / 1e6}


def square_product(dtype: torch.dtype, device: str = "cpu") -> tuple[Callable[[], object], float]:
    """What stands for the machine's own rate, and its FLOPs: a square product, of 2,048 on a CPU and 8,192 on a GPU."""
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    return lambda: a @ a, 2 * side**3


def matmul_rate(dtype: torch.dtype, device: str = "cpu", repeats: int = 5) -> float:
    """The machine's own rate in FLOP/s: the median of some square products."""
    product, flops = square_product(dtype, device)
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        product()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return flops / statistics.median(times[1:])


def _all_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
