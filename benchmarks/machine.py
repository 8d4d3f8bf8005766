"""What a figure was measured on, and whether the machine was the benchmark's own while it ran."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
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


def matmul_rate(dtype: torch.dtype, device: str = "cpu", repeats: int = 5) -> float:
    """The machine's own rate in FLOP/s: the median of square products, of 2,048 on a CPU and of 8,192 on a GPU."""
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        _ = a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(times[1:])


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
