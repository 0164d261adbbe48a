"""A training step over a 4-bit base: CURLoRA beside PEFT's LoRA (QLoRA), and what both keep.

One block of Mistral-7B in its true shape, its projections in bitsandbytes' NF4 with bf16 around
them, random weights. bitsandbytes stands beside the environment: `make cache/extras`, then

    PYTHONPATH=cache/extras python results/benchmarks/quantised.py [seconds a comparison]

writes `quantised.csv` here, a row a round, and prints the ratios.
"""

import sys
from pathlib import Path

import bitsandbytes
import torch
from torch import nn

from curlora_lite import weights
from curlora_lite.replication import benchmark, contenders

NAME = "Mistral block, NF4"
OURS, LORA = "CURLoRA-16", "PEFT LoRA-16"


def build(precision, device):
    """The block, quantised."""
    model = contenders.block("Mistral-7B-v0.3", precision, "cpu")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            sizes = module.in_features, module.out_features
            packed = bitsandbytes.nn.Linear4bit(*sizes, False, torch.bfloat16, quant_type="nf4")
            packed.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.requires_grad_(False))
    model = model.to(device).eval()
    weights.prepare(model)
    return model


def main(seconds):
    benchmark.prepare()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = contenders.Subject(
        NAME, build, contenders.last_hidden_state, contenders.QKV, 4096,
        {"cpu": (2, 32), "cuda": (8, 256)},
    )  # fmt: skip
    model, steps, kept = build("bf16", device), {}, {}
    for name in ("frozen", OURS, LORA):
        contender, _, rank = name.partition("-")
        made = contenders.build(contender, model, subject.targets, int(rank or 0))
        steps[name], kept[name] = subject.step(made, "bf16", device)
    benchmark.TARGETS[NAME] = [(OURS, LORA, 1.0), (OURS, "frozen", 1.0)]
    times = benchmark.timed(NAME, "bf16", steps, device, seconds)
    times["kept_bytes"] = times.ours.map(kept) - kept["frozen"]
    times["other_kept_bytes"] = times.other.map(kept) - kept["frozen"]
    times["bitsandbytes"] = bitsandbytes.__version__
    times.to_csv(Path(__file__).with_suffix(".csv"))
    print(times.groupby("other")[["kept_bytes", "other_kept_bytes"]].first())
    print(benchmark.verdicts(times).drop(columns=["subject", "bound", "verdict"]))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 120)
