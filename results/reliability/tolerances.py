"""How far the same runs differ between kinds of processor.

`elsewhere/KIND/*.json` are records of one kind each. On a machine of another kind

    python results/reliability/tolerances.py 'Its name' [table1-curlora…]

computes those that are there of others (or whose names begin so) and not yet of it, each in the
precision that is fast there. Without a name it compares them and writes `tolerances.json`, which
`make verify` reads, and a table of what it found.
"""

import dataclasses
import json
import sys
from pathlib import Path

import pandas as pd
import torch

from curlora_lite.replication import fetch, machine, records, sequence, specs, verify

HERE = Path(__file__).parent
ELSEWHERE, BASE = HERE / "elsewhere", "AMD EPYC"
# a kind imitated here: torch draws dropout by another routine on Intel's processors
DROPOUT = "AMD EPYC, dropout drawn otherwise"
FACTOR = 2  # of k kinds alike one more is the farthest with probability 1 / (k + 1)
# measured beside committed records of the embedded profile, without a record that was kept
SEEN = [
    {
        **{"model": "smollm2-135m", "method": "curlora", "run": "CURLoRA-24"},
        **{"kind": "Intel's AMX cores, bf16 (no record)", "accuracy": 0.016, "perplexity": 0.013},
    },
    {
        **{"model": "smollm2-135m-fused", "method": "lora", "run": "LoRA-8"},
        **{"kind": "AMD EPYC, two threads, bf16 (no record)", "accuracy": 0.025},
        "perplexity": 0.11,
    },
]


def compute(kind, begins=""):
    """The runs that are there of other kinds, each saved as it comes."""
    fast = machine.fast_precision()
    for path in sorted(ELSEWHERE.glob(f"*/{begins}*.json")):
        spec = specs.RunSpec.from_dict(records.load(path).spec)
        spec, begun = dataclasses.replace(spec, precision=fast), []

        def progress(what, examples=0, begun=begun):
            if what == "perplexity" and not begun and kind == DROPOUT:
                begun.append(torch.rand(1000))  # moves the generator that draws dropout

        target = ELSEWHERE / kind / f"{spec.key}.json"
        if not target.exists():
            records.save(sequence.run(spec, progress), target)
            print(f"computed: {target}", flush=True)


def found(folder=ELSEWHERE):
    """The largest deviations of each run of each kind from the same run of `BASE`: a DataFrame."""
    base, rows = {}, [*SEEN]
    for path in sorted(folder.glob("*/*.json"), key=lambda path: path.parent.name != BASE):
        record = records.load(path)
        spec = specs.RunSpec.from_dict(record.spec)
        run = dataclasses.replace(spec, precision="fp32")
        if path.parent.name == BASE:
            base[run] = record
        elif run in base:
            assert verify.same(record, base[run]), path
            what = {"model": spec.model.name, "method": spec.method, "run": spec.label}
            what |= {"kind": f"{path.parent.name}, {spec.precision}"}
            rows.append(what | verify.deviations(base[run], record))
    return pd.DataFrame(rows)


def tolerances(rows):
    """What `tolerances.json` holds: `model method` -> measure -> twice the largest deviation."""
    largest = rows.groupby(["model", "method"])[list(verify.STATED)].max()
    return {" ".join(name): (FACTOR * one).to_dict() for name, one in largest.iterrows()}


def main():
    """Compute where a kind is named; else compare and write."""
    if sys.argv[1:]:
        return compute(*sys.argv[1:])
    rows = found()
    with fetch.aside(verify.TOLERANCES) as part:
        part.write_text(json.dumps(tolerances(rows), indent=1) + "\n", "utf-8")
    shown = rows.drop(columns="method").groupby(["model", "run", "kind"]).max()
    shown = shown.map("{:.2g}".format).replace("nan", "–").reset_index()
    with fetch.aside(HERE / "tables" / "tolerances.md") as part:
        part.write_text(shown.to_markdown(index=False, disable_numparse=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
