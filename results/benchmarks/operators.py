"""What a training step with CURLoRA spends beyond the frozen model's, by operator of torch.

SmolLM2-135M whole, bf16, rank 16, one thread; `torch.profiler` around sixteen steps of each,
four at a time in turn, the first four not counted. Needs a machine on which nothing else runs:

    python results/benchmarks/operators.py

writes `operators.csv` here, of one step: an operator's calls on tensors of some shapes that the
frozen model does not make, and the milliseconds of their own that these take.
"""

from pathlib import Path

import pandas as pd
from torch.profiler import ProfilerActivity, profile

from curlora_lite.replication import benchmark, contenders, records

NAMES, TURNS, STEPS = ("frozen", "CURLoRA-16"), 3, 4


def operators(step):
    """The DataFrame of `calls` and `ms` of one step, by operator and shapes."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        for _ in range(STEPS):
            step()
    events = profiled.key_averages(group_by_input_shape=True)
    found = {(e.key, str(e.input_shapes)): (e.count, e.self_cpu_time_total / 1e3) for e in events}
    found = pd.DataFrame.from_dict(found, orient="index", columns=["calls", "ms"]) / STEPS
    return found.set_index(pd.MultiIndex.from_tuples(found.index, names=["operator", "shapes"]))


def main():
    benchmark.prepare()
    steps, _ = contenders.SUBJECTS[0].steps("bf16", "cpu", (16,))
    turns = {(turn, n): operators(steps[n]) for turn in range(1 + TURNS) for n in NAMES}
    frozen, ours = (
        sum(turns[1 + turn, n].div(TURNS).reindex(turns[0, n].index) for turn in range(TURNS))
        for n in NAMES
    )
    more = ours.assign(calls=ours.calls.sub(frozen.calls, fill_value=0)[ours.index])
    more["ms"] *= more.calls / ours.calls  # of these calls alone: the large products vary by more
    more = more[more.calls > 0].sort_values("ms", ascending=False)
    print(more.groupby("operator").sum().sort_values("ms", ascending=False).head(12), more.ms.sum())
    print({name: turns_of.ms.sum() for name, turns_of in (("frozen", frozen), ("ours", ours))})
    made = records.provenance("cpu", rows=None)
    more = more.assign(commit=made["commit"], processor=made["device"], date=made["date"])
    more.to_csv(Path(__file__).with_suffix(".csv"), float_format="%.4g")


if __name__ == "__main__":
    main()
