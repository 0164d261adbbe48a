"""What a training step with CURLoRA spends beyond the frozen model's, by operator of torch.

SmolLM2-135M whole, bf16, rank 16, one thread; `torch.profiler` around twelve steps of each, four at
a time in turn. Needs a machine on which nothing else runs:

    python results/benchmarks/operators.py

writes `operators.csv` here: milliseconds of an operator's own and its calls, of one step.
"""

from pathlib import Path

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from curlora_lite.replication import contenders, records

TURNS, STEPS = 3, 4


def operators(step):
    """The DataFrame of `ms` and `calls` by operator, of one step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    found = {e.key: (e.self_cpu_time_total / 1e3, e.count) for e in profiled.key_averages()}
    return pd.DataFrame.from_dict(found, orient="index", columns=["ms", "calls"]) / STEPS


def main():
    torch.set_num_threads(1)
    subject, turns = contenders.SUBJECTS[0], []
    steps, _ = subject.steps("bf16", "cpu", (16,))
    for name in ("frozen", "CURLoRA-16") * (1 + TURNS):  # the first turn warms up
        turns.append(operators(steps[name]).add_prefix(f"{name} "))
    found = pd.concat(turns[2:], axis="columns").fillna(0).T.groupby(level=0, sort=False).mean().T
    found["more ms"] = found["CURLoRA-16 ms"] - found["frozen ms"]
    found = found.sort_values("more ms", ascending=False).rename_axis("operator")
    print(found.sum(), found.head(12), sep="\n")
    made = records.provenance("cpu", rows=None)
    found = found.assign(commit=made["commit"], processor=made["device"], date=made["date"])
    found.to_csv(Path(__file__).with_suffix(".csv"), float_format="%.4g")


if __name__ == "__main__":
    main()
