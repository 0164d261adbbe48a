"""The audit's cells, as `cells.txt` lists them, and the runs that they ask for."""

import functools
import itertools
import re
from pathlib import Path

from ..checks import known
from . import machine, profiles, records, runs, sequence
from .protocol import Protocol

LINES = Path(__file__).with_name("cells.txt").read_text("utf-8").splitlines()
NAMES = ("part", "table", "method", "rank", "seeds", "rates", "heads", "protocol")
CELLS = [dict(zip(NAMES, line.split(), strict=True)) for line in LINES if line and line[0] != "#"]
HALVES = {"text_tokens": 65_536, "text_window": 2048}
FACTORS = {"": 1, "/4": 1 / 4}  # exact, as in rates typed


def chosen(profile, names=None):
    """The cells of a profile's audit. names: of parts, or of methods in them, as in `tune/lora`.

    ValueError for a profile without an audit, or a name that none of its cells has.
    """
    known("profile", profile, ("audit", "audit-quick", "smollm2"))
    stand_in = profiles.profile_named(profile).source == "embedded"
    mine = [cell for cell in CELLS if (cell["part"] == "stand-in") == stand_in]
    called = [{cell["part"], f"{cell['part']}/{cell['method']}"} for cell in mine]
    names = profiles.listed("CELLS", names or None, ())
    for name in names:
        known("CELLS", name, sorted(set().union(*called)))
    return [cell for cell, own in zip(mine, called, strict=True) if not names or own & set(names)]


def grid(profile, cells, *, seeds=None, fast="fp32", results=None):
    """The RunSpecs of some cells of a profile, each once: all of the lowest seed first.

    seeds: of a cell's own those that are among them; a cell that has none takes all. fast: the
    precision on stand-in data; on the paper's it is bf16. Runs that choose rates are scored on rows
    kept for it, and have a folder of their own, `results/<profile>-tune`.
    ValueError where a best rate is asked for and not known (see `best_rate`).
    """
    whole, specs = profiles.profile_named(profile), []
    best = functools.cache(lambda method: best_rate(profile, method, results))
    seeds = profiles.listed("seeds", seeds, ())
    precision = "bf16" if whole.source == "paper" else fast
    for cell in cells:
        # the whole text would take quick runs as long as all the rest
        typed = cell["protocol"] + ",perplexity=first-tokens" * (profile == "audit-quick")
        table, protocol = f"table{cell['table']}", Protocol.parse(typed)
        how = {"precision": precision, **(HALVES if protocol.perplexity == "halves" else {})}
        if cell["part"] in ("together", "tune"):
            how |= {"tune": True, "profile": f"{profile}-tune"}
        plan = whole.tables.get(table, profiles.AUDIT_TABLE2)
        rates, own = [plan.learning_rate], seeds or plan.seeds
        if cell["rates"] != "-":
            rates = [_rate(rate, best) for rate in cell["rates"].split(",")]
        if cell["seeds"] != "-":
            own = [s for s in map(int, cell["seeds"].split(",")) if s in (seeds or [s])]
        if cell["heads"] != "-":
            how["head_rate"] = _rate(cell["heads"], best)
        what = (cell["method"], None if cell["rank"] == "-" else int(cell["rank"]), protocol)
        for seed, rate in itertools.product(own, rates):
            how |= {"seed": seed, "learning_rate": rate}
            specs.append(profiles.run_spec(whole, table, plan, *what, **how))
    return sorted(dict.fromkeys(specs), key=lambda spec: spec.seed)


def stage(cell):
    """When it is computed: what chooses heads' rates (0), then adapters' (1), then all else (2)."""
    return int(cell["heads"] != "-") if cell["part"] in ("together", "tune") else 2


def _rate(rate, best):
    """A rate as it is typed: a number, or a method's best (`best` of its name) times a factor."""
    method, factor = re.fullmatch(r"([a-z][a-z-]+)?(.*)", rate).groups()
    return best(method) * FACTORS[factor] if method else float(rate)


def best_rate(profile, method, results=None):
    """The rate at which a method's `tune` runs end most accurate, the lower one of equals.

    ValueError if a run is missing, or if the best is the lowest or highest rate that was looked at.
    """
    (cell,) = chosen(profile, [f"tune/{method}"])
    asked = {spec.key: spec.learning_rate for spec in grid(profile, [cell], results=results)}
    rates, found = sorted(asked.values()), runs.frame(f"{profile}-tune", results)
    found = found[found.run.isin(list(asked)) & (found.status != "out of memory")]
    if absent := set(rates) - set(found.learning_rate):
        raise ValueError(f"rates: no run of tune/{method} at {sorted(absent)}; CELLS=tune first")
    best = runs.summary(found).set_index("learning_rate").acc.reindex(rates).idxmax()
    if best in (rates[0], rates[-1]):
        end = f"tune/{method} is best at {best:g}, the end of its rates"
        raise ValueError(f"rates: {end}; give it one more beyond, in cells.txt")
    return float(best)


def check_machine(specs, results=None):
    """ValueError unless missing runs on the paper's data may be computed on this machine.

    It needs bf16; and runs of one seed, which are compared in pairs, come from one processor.
    """
    if machine.fast_precision() != "bf16":
        raise ValueError("precision: these runs are in bf16, which this machine has no path for")
    here = records.provenance(machine.default_device(), None)["device"]
    found = runs.frame(specs[0].profile, results)
    found = found[found.seed.isin([spec.seed for spec in specs]) & (found.device != here)]
    for run in found[found.version == sequence.VERSION].itertuples():
        beside = f"{run.run} was computed on {run.device}, and this is {here}"
        raise ValueError(f"SEEDS: {beside}: a seed's runs belong on one kind of processor")
