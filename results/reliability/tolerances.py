"""`python results/reliability/tolerances.py [FOLDER]`: measure how far numbers move on other machines.

The runs at rank 8 of both tables, each under conditions that stand for other machines, one process
after the other; the records stay in FOLDER, and what is there is not computed again. Writes
`results/reliability/tolerances.json`, which `make verify` reads, and a table of what was measured.
Half an hour on one idle core.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from curlora_lite.replication import fetch, machine, profiles, records, sequence, specs, verify

FACTOR = 2  # of k conditions alike one more is the farthest with probability 1 / (k + 1)
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
RUNS = {"table1": "embedded-quick", "table2": "embedded"}  # of which profile
BASE = "one thread"
# name -> (kind, threads, environment, tables); dropout is in Table 2 alone, packed rows in Table 1
CONDITIONS = {
    BASE: (None, 1, {}, ("table1", "table2")),
    "dropout drawn otherwise": ("machine", 1, {}, ("table2",)),
    "rows padded": ("rounding", 1, {}, ("table1",)),
    "two threads": ("rounding", 2, {}, ("table1", "table2")),
    "AVX2, no bf16 instructions": ("rounding", 1, AVX2, ("table1", "table2")),
}


def grid(condition, precision):
    """The specs of a condition: LoRA-8 and CURLoRA-8 of each of its tables."""
    chosen = {"ranks": [8], "methods": ["lora", "curlora"], "precision": precision}
    tables = CONDITIONS[condition][3]
    return [s for table in tables for s in profiles.grid(RUNS[table], table, **chosen)]


def compute(condition, precision, folder):
    """A condition's records, each saved as it comes."""
    torch.set_num_threads(CONDITIONS[condition][1])
    if condition == "rows padded":
        sequence.packs = lambda spec, device: False
    for spec in grid(condition, precision):
        path, begun = folder / condition / f"{spec.key}.json", []

        def progress(what, examples=0, begun=begun):
            if what == "perplexity" and not begun and condition == "dropout drawn otherwise":
                begun.append(torch.rand(1000))  # moves the generator that draws dropout

        if not path.exists():
            records.save(sequence.run(spec, progress), path)


def measured(folder):
    """What `tolerances.json` holds, from the records in a folder."""
    found, rows = {}, []
    for base in map(records.load, sorted((folder / BASE).glob("*.json"))):
        key, here = specs.RunSpec.from_dict(base.spec).key, base.provenance
        for name, (kind, *_) in CONDITIONS.items():
            if kind and (path := folder / name / f"{key}.json").exists():
                off = verify.deviations(verify.plain(base), verify.plain(records.load(path)))
                assert off.pop("exact") == 0, path
                model = f"{base.spec['model']['name']} {base.spec['precision']}"
                rows.append({"model": model, "condition": name, "kind": kind, **off})
                one = found.setdefault(model, {"runs": [], "device": here["device"]})
                one |= {"date": here["date"], "commit": here["commit"]}
                one["runs"] += [key] * (key not in one["runs"])
    each = pd.DataFrame(rows).groupby(["model", "condition", "kind"], sort=False).max()
    for model, one in found.items():
        own = each.loc[model].reset_index()
        for kind, kinds in (("rounding", ["rounding"]), ("machine", ["rounding", "machine"])):
            largest = own[own.kind.isin(kinds)].drop(columns=["condition", "kind"]).max()
            one[kind] = (FACTOR * largest).to_dict()
            for share in ("accuracy", "answers"):
                one[kind][share] = min(1.0, one[kind][share])  # of all rows
    return found, each.reset_index()


def main():
    """Compute what is missing, then write."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else fetch.cache_dir() / "tolerances")
    if len(sys.argv) == 4:
        return compute(*sys.argv[2:], folder)
    for precision in ("bf16", "fp32"):
        for condition, (_, _, environment, _) in CONDITIONS.items():
            command = [sys.executable, __file__, folder, condition, precision]
            subprocess.run(command, check=True, env={**os.environ, **environment})
            print(f"computed: {condition}, {precision}", flush=True)
    found, each = measured(folder)
    with fetch.aside(verify.TOLERANCES) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    with fetch.aside(verify.TOLERANCES.parent / "tables" / "tolerances.md") as part:
        part.write_text(each.to_markdown(index=False, floatfmt=".2g") + "\n", "utf-8")


if __name__ == "__main__":
    main()
