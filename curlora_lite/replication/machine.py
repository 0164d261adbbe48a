"""What this machine has, and how it computes fastest: device, cores, memory, precision."""

import functools
import json
import os
import platform
import statistics
import timeit
from pathlib import Path

import torch

from . import fetch

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
CGROUP = Path("/sys/fs/cgroup")
ROUNDS = 5  # of a measurement; its median counts


def default_device():
    """`cuda` if there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_precision():
    """`bf16` where products in it are at least 1.5 times as fast as in fp32, else `fp32`."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return _measured()["precision"]


@functools.cache
def _measured():
    """What is faster here: measured once a machine (some seconds), then kept in the cache."""
    kept = fetch.cache_dir() / "machine.json"
    here = [torch.backends.cpu.get_cpu_capability(), cpu_name(), torch.__version__]
    with fetch.alone(kept):
        if kept.exists() and (known := json.loads(kept.read_text()))["machine"] == here:
            return known
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as runs side by side have it
        try:
            seconds = {name: _median(_product(dtype)) for name, dtype in DTYPES.items()}
        finally:
            torch.set_num_threads(threads)
        precision = "bf16" if seconds["fp32"] > 1.5 * seconds["bf16"] else "fp32"
        found = {"machine": here, "precision": precision, "seconds": seconds}
        fetch.write(kept, json.dumps(found, indent=1) + "\n")
    return found


def _median(call):
    call()
    return statistics.median(timeit.repeat(call, number=1, repeat=ROUNDS))


def _product(dtype):
    x, w = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    return lambda: torch.nn.functional.linear(x, w)


def has_amx():
    """Whether the processor has matrix units (AMX) for bf16."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def cores():
    """Cores that this process may use; in a container, no more than its quota pays for."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, *period = _container("cpu.max")
    return there if quota == "max" else max(1, min(there, int(quota) // int(period[0])))


def installed_memory():
    """Bytes of main memory; in a container, of what it may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (most,) = _container("memory.max")
    return there if most == "max" else min(there, int(most))


def _container(name):
    """What the cgroup (version 2) that a container sees as its own root says; `max`: no limit."""
    try:
        return (CGROUP / name).read_text().split()
    except OSError:
        return ["max"]


def cpu_name():
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
