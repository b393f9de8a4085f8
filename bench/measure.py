"""How things are measured: medians of repeated runs, peak memory of a fresh process, the copy bandwidth."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Median wall time of a call, after one call that is not counted if there is more than one."""
    if repeats > 1:
        function()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def bandwidth(megabytes: int = 512) -> float:
    """Bytes a second that one thread reads while it sums a large array: what a pass over memory costs at least."""
    array = np.ones(megabytes * 2**20 // 4, dtype=np.float32)
    return array.nbytes / seconds(lambda: array.max(), repeats=5)


def peak_of_process(code: str, *arguments: str) -> tuple[float, float]:
    """Run Python code in a fresh process; give its wall time and the peak resident bytes, which it prints last."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, float(done.stdout.split()[-1])
