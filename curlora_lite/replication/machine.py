"""What this machine has, and how it computes fastest: device, cores, memory, precision."""

import os
import platform
import re
from pathlib import Path

import torch

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
CGROUP = Path("/sys/fs/cgroup")
# what `ONEDNN_MAX_CPU_ISA` may name that has no products in bf16
WITHOUT_BF16 = r"SSE41|AVX|AVX2(_VNNI(_2)?)?|AVX512_CORE(_VNNI)?"


def default_device():
    """`cuda` if there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_precision():
    """`bf16` on what has instructions for products in it, which are then faster; else `fp32`.

    A processor that may not use its own, by oneDNN's variable, has none: bf16 then takes up to a
    thousand times as long.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if re.fullmatch(WITHOUT_BF16, os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()):
        return "fp32"
    has = processor()
    return "bf16" if any(has.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) else "fp32"


def processor():
    """What torch knows of the processor, by name; nothing in older versions of torch."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def cores():
    """Cores that this process may use; in a container, no more than its quota pays for."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, *period = _container("cpu.max")
    return there if quota == "max" else max(1, min(there, int(quota) // int(period[0])))


def busy():
    """What to say where more is computed at once than the machine has cores, else nothing.

    Both are the whole machine's, in a container too.
    """
    load, there = os.getloadavg()[0], os.cpu_count()
    return f", the machine is busy (load {load:.0f}, {there} cores)" if load > there + 1 else ""


def installed_memory():
    """Bytes of main memory; in a container, of what it may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (most,) = _container("memory.max")
    return there if most == "max" else min(there, int(most))


def _container(name):
    """What the cgroup (version 2) that a container sees as its own root says; `max`: no limit."""
    try:
        return (CGROUP / name).read_text("utf-8").split()
    except OSError:
        return ["max"]


def cpu_name():
    """The processor's name."""
    return processor().get("cpu_name") or platform.processor() or platform.machine()
