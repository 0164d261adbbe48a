"""What this machine has, and which profiles it can run."""

import functools
import shutil
import timeit
import urllib.error
import urllib.request

import huggingface_hub
import torch

from . import cells, fetch, hub, machine, memory, profiles

# Seconds for one unit of `RunSpec.cost`, some 9 MFLOP: two CPU cores with bf16, one GPU of the
# H100's kind at 130 TFLOP/s in bf16. Rough: they tell minutes from hours, no more; the GPU's was
# not measured. In fp32 proper such a GPU has a fifteenth of the peak: four times as long, at least.
SECONDS = {"cpu": 1.1e-5, "cuda": 7e-8}
FP32_ON_GPU = 4
PRODUCT = 1.2e-3  # seconds of the product in `slower` on those two cores


def report():
    """The whole answer as text: one line a fact, one line a profile, then what to mend.

    In the order in which one would: what stops the smallest profile, and so all, comes first.
    """
    device, fast = machine.default_device(), machine.fast_precision()
    lines = [f"{name:<10} {answer}" for name, answer in _facts(device, fast).items()]
    lines += ["", f"{'profile':<16}{'memory':>9}{'time':>12}   can it run here?"]
    stopped = {}  # reason -> the profiles that it stops
    for name, profile in profiles.PROFILES.items():
        specs = [s for t in profile.tables for s in profiles.grid(name, t, fast=fast)]
        if name.startswith("audit"):
            specs = cells.grid(name, cells.chosen(name), fast=fast)
        needs, took = takes(specs, device)
        reasons = obstacles(profile, specs, device)
        for reason in reasons:
            stopped.setdefault(reason, []).append(name)
        can = "no, see below" if reasons else "yes"
        lines.append(f"{name:<16}{needs:>6.0f} GB{duration(took):>12}   {can}")
    lines += [f"\n{', '.join(names)}: {reason}" for reason, names in stopped.items()]
    return "\n".join(lines)


def seconds(spec, device):
    """Roughly how long a run takes, on two CPU cores with bf16 or one large GPU."""
    times = FP32_ON_GPU if device == "cuda" and spec.precision == "fp32" else 1
    return spec.cost() * SECONDS[device] * times


@functools.cache
def slower(precision, device):
    """How many times as long as `seconds` says it takes here, by a product of SmolLM2's sizes."""
    if device == "cuda":
        return 1
    x, w = (torch.ones(size, dtype=machine.DTYPES[precision]) for size in ((512, 576), (576, 1536)))
    return min(timeit.repeat(lambda: x @ w, number=1, repeat=20)) / PRODUCT


def takes(specs, device):
    """(GB of the largest of some runs, seconds of all of them one after the other) on a device."""
    took = sum(seconds(spec, device) for spec in specs) * slower(specs[0].precision, device)
    return max(map(memory.estimate, specs)) / 1e9, took


def obstacles(profile, specs, device):
    """What keeps a profile from running here: reasons in the order in which to mend them."""
    reasons = []
    try:
        memory.check(max(specs, key=memory.estimate), device)
    except memory.MemoryTooSmallError as error:
        reasons.append(str(error).removeprefix("memory: "))
    if profile.source == "paper":
        wanted = [hub.MODELS[s.model.name] for s in specs[:1] if s.model.name in hub.MODELS]
        groups = [[r for r in kind if hub.missing(r)] for kind in (hub.DATASETS, wanted)]
        if sum(r.gigabytes for absent in groups for r in absent) > _free():
            reasons.append(f"the files to fetch do not fit on the disk ({_free():.0f} GB free)")
        for absent in filter(None, groups):
            names = ", ".join(r.name for r in absent)
            if hub.mirror():
                reasons.append(f"the mirror does not have {names}, and is asked alone")
            elif hub_status() != "reachable":
                absence = f"neither the mirror nor the cache has {names}"
                reasons.append(f"{absence}, and the hub is {hub_status()}")
            elif any(r.gated for r in absent) and not huggingface_hub.get_token():
                reasons.append("the model is gated and there is no token (`hf auth login`)")
    return reasons


@functools.cache
def hub_status():
    """`reachable`, `switched off` (HF_HUB_OFFLINE) or `not reachable`, within three seconds."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "switched off"
    address = huggingface_hub.constants.ENDPOINT or "https://huggingface.co"
    try:
        urllib.request.urlopen(address, timeout=3).close()
    except OSError as error:
        if not isinstance(error, urllib.error.HTTPError):  # which is an answer
            return "not reachable"
    return "reachable"


def _facts(device, fast):
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        name = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
    else:
        name = f"CPU, {machine.cores()} cores, fast precision {fast}"
    mirror = hub.mirror()
    repositories = (*hub.DATASETS, *hub.MODELS.values())
    lacks = ", ".join(r.name for r in repositories if hub.missing(r)) or "nothing"
    return {
        "device": name,
        "memory": f"{machine.installed_memory() / 1e9:.0f} GB",
        "disk": f"{_free():.0f} GB free",
        "slurm": "sbatch is here: EXECUTOR=slurm" if shutil.which("sbatch") else "no sbatch here",
        "hub": hub_status(),
        "token": "there is one" if huggingface_hub.get_token() else "none",
        "mirror": f"{mirror}, lacks {lacks}" if mirror else f"none given; the cache lacks {lacks}",
    }


def _free():
    """GB free on the disk that holds the cache, or will."""
    cache = fetch.cache_dir()
    return shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free / 1e9


def duration(seconds):
    """Seconds in words, rounded to what an estimate is worth."""
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
