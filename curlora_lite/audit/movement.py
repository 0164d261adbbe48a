"""Question 6: what each method learns beyond a head alone, and what it pays for it."""

from dataclasses import dataclass

from ..tables import Table
from . import plan
from .measures import best_rate, difference, least_paid, mean, pair, values
from .text import BALANCED, INTERVAL, majority, over_seeds, p_texts, paired_text, signed, whole

# of `learned` accuracy above the best that a head alone does; one that no method reaches in any
# seed is left out
LEVELS = (0.02, 0.04, 0.08)
PRICES = ("nats", "forgetting")  # measures; see `Price`
OURS = f"CURLoRA-{plan.RANK}"


def sweeps(found):
    """method as named in tables -> {learning rate -> records}; head only left out."""
    out = {}
    for cell, runs in found.items():
        if cell.method != "head-only":
            out.setdefault(cell.name, {})[cell.rate] = runs
    return {name: dict(sorted(sweep.items())) for name, sweep in out.items()}


def heads(found):
    """{learning rate -> records} of head only, the profile's own rate among them."""
    cells = {c: runs for c, runs in found.items() if c.method == "head-only" and runs}
    by_rate = {runs[0].spec["learning_rate"]: runs for runs in cells.values()}
    return dict(sorted(by_rate.items()))


def head_alone(found):
    """(rate, records): head only at its best rate, which `learned` is measured from."""
    swept = heads(found)
    rate = best_rate(swept)
    return rate, swept[rate]


def gains(found, runs, name="learned"):
    """`Paired` of a measure over head only at its best rate, the same seed."""
    return difference(runs, head_alone(found)[1], name)


def best(found):
    """[(method, its best rate, records there)], head only first; methods without a result out."""
    rows = [("Head only", *head_alone(found))]
    for name, sweep in sweeps(found).items():
        if mean([run for runs in sweep.values() for run in runs], "learned") is not None:
            rate = best_rate(sweep)
            rows.append((name, rate, sweep[rate]))
    return rows


@dataclass(frozen=True)
class Price:
    """What a method pays for learning `level` more than a head alone: seed -> least of a measure.

    seeds: how many have been run. `paid` lacks those that learn as much at no rate.
    """

    nats: dict
    forgetting: dict
    seeds: int


def price(found, sweep, level):
    """The `Price` of one sweep ({rate: records}); a seed's floor is its own head's accuracy."""
    head = values(head_alone(found)[1], "learned")
    floor = {seed: learned + level for seed, learned in head.items()}
    run = {r.spec["seed"] for runs in sweep.values() for r in runs} & floor.keys()
    return Price(**{m: least_paid(sweep, floor, m) for m in PRICES}, seeds=len(run))


def prices(found):
    """level -> {method -> Price}, head only at its other rates among them; see `LEVELS`."""
    swept = {"Head only": heads(found), **sweeps(found)}
    every = {level: {n: price(found, s, level) for n, s in swept.items()} for level in LEVELS}
    reached = [level for level, by in every.items() if any(one.nats for one in by.values())]
    return {level: every[level] for level in reached or LEVELS[:1]}


def against(found, ours=OURS):
    """[(level, other method, common seeds, {measure: Paired or None})]: ours less the other's."""
    out = []
    for level, by_method in prices(found).items():
        if ours not in by_method:
            continue
        own = by_method[ours]
        for name, other in by_method.items():
            if name not in (ours, "Head only"):
                common = len(own.nats.keys() & other.nats.keys())
                pairs = {m: pair(getattr(own, m), getattr(other, m)) for m in PRICES}
                out.append((level, name, common, pairs))
    return out


def trained(runs):
    """How many numbers the adapter trains, by the records; None where they do not say."""
    counts = {run.trainable.get("adapter") for run in runs}
    return counts.pop() if len(counts) == 1 else None


def movement_best(found):
    """Question 6: each method at the learning rate at which it learns most."""
    rows, swept, head = [], heads(found), head_alone(found)[1]
    cells = best(found)
    pairs = [None, *(gains(found, runs) for _, _, runs in cells[1:])]
    for (name, rate, runs), over, p in zip(cells, pairs, p_texts(pairs), strict=True):
        own = runs is head
        count, norm = trained(runs), mean(runs, "update")
        rows.append(
            (
                name,
                "heads alone" if own else "–" if count is None else f"{count:,}",
                f"{rate:g}",
                str(len(values(runs, "learned"))),
                over_seeds(values(runs, "learned").values()),
                "" if own else paired_text(over),
                p,
                "" if own else paired_text(difference(runs, swept.get(rate, []), "learned")),
                over_seeds(values(runs, "forgetting").values()),
                over_seeds(values(runs, "nats").values()),
                "" if norm is None else f"{100 * norm:.3g} %",
            )
        )
    columns = (
        "", "Trains", "Best rate", "Seeds", "Just learned", "Over head only's best", "p",
        "Over head only at this rate", "Forgetting", "Nats", "‖update‖/‖W‖",
    )  # fmt: skip
    notes = [
        "Corrected protocol, small GPT-2; each method at the rate whose mean just-learned accuracy "
        f"(of each task right after its stage, mean over the three) is highest, of "
        f"{len(plan.RATES)} over three decades, head only of {len(swept)}. Chosen on the rows that "
        "are scored, which flatters every method alike, and head only more, since it has more "
        f"rates. Majority class: {majority(head):.3f}. Trains: numbers in the adapter; heads come "
        "on top. Nats: perplexity gained, per token. p by the paired t test, Holm's. "
        f"{BALANCED} {INTERVAL}"
    ]
    counts = {name: trained(runs) for name, _, runs in cells}
    vera, ours = counts.get("VeRA (PEFT)"), counts.get(OURS)
    if vera and ours and vera > ours:
        notes.append(
            f"VeRA stands at its smallest rank, 1, and still trains more than {OURS} here."
        )
    return Table("Question 6: beyond a head alone", columns, tuple(rows), tuple(notes))


def movement_rates(found):
    """Question 6: head only's own curve, and what each method adds to it at the same rate."""
    swept, head = sweeps(found), heads(found)
    rates = sorted({*head, *(rate for sweep in swept.values() for rate in sweep)})
    rows = []
    for rate in rates:
        cells = []
        for sweep in swept.values():
            over = difference(sweep.get(rate, []), head.get(rate, []), "learned")
            mark = "*" if over and over.low * over.high > 0 else ""
            cells.append("" if over is None else signed(over.mean) + mark)
        alone = over_seeds(values(head.get(rate, []), "learned").values())
        rows.append((f"{rate:g}", alone, *cells))
    notes = (
        "Just-learned accuracy, corrected protocol, small GPT-2: head only's own, then what each "
        "method adds to it at the same learning rate of the head, mean over pairs of the same "
        "seed. *: the 95 % interval leaves zero out (not adjusted for the number of cells). "
        f"{BALANCED} {INTERVAL}",
    )
    columns = ("Learning rate", "Head only", *swept)
    return Table("Question 6: by learning rate", columns, tuple(rows), notes)


def movement(found):
    """Question 6: what each method pays for learning so much more than a head alone."""
    by_level, rows = prices(found), []
    for name in next(iter(by_level.values())):
        cells = []
        for by_method in by_level.values():
            one = by_method[name]
            for m in PRICES:
                paid = getattr(one, m)
                cells.append(f"{over_seeds(paid.values())} [{len(paid)} of {one.seeds}]")
        label = "Head only, at its other rates" if name == "Head only" else name
        rows.append((label, *cells))
    columns = [""]
    for level in by_level:
        columns += [f"+{level:g}: {m}" for m in PRICES]
    rate, _ = head_alone(found)
    none = [f"+{level:g}" for level in LEVELS if level not in by_level]
    left = f" Set beforehand too, and reached by no method: {', '.join(none)}." if none else ""
    notes = (
        "Corrected protocol, small GPT-2. +0.02: just-learned accuracy at least 0.02 above the "
        f"same seed's head only at its best rate, {rate:g}. Nats per token gained, and forgetting: "
        "each the least paid among the method's rates that learn at least that much. [k of n]: in "
        "so many seeds one of its rates does; means are over these, so methods with different "
        "seeds are compared in the next table alone. The rate is chosen on the rows that are "
        f"scored, which flatters all methods alike ({len(plan.RATES)} rates each). Head only's row "
        f"says what choosing among rates gives by chance.{left}",
        f"{BALANCED} {INTERVAL}",
    )
    return Table("Question 6: the price of learning", tuple(columns), tuple(rows), notes)


def movement_pairs(found):
    """Question 6: CURLoRA's price less each other method's, on common seeds."""
    cells = against(found)
    texts = whole([pairs for *_, pairs in cells], p_texts)
    rows = []
    for i, (level, name, common, pairs) in enumerate(cells):
        shown = [text for m in PRICES for text in (paired_text(pairs[m]), texts[i][m])]
        rows.append((f"{name}, +{level:g}", str(common), *shown))
    notes = (
        f"{OURS}'s price less the other's, both as in the table before, over the seeds in which "
        "both learn as much; a dash: fewer than two. Below zero: CURLoRA pays less. p by the "
        "paired t test, Holm's over the table; a dash: no spread to judge by. "
        f"{INTERVAL}",
    )
    columns = (f"{OURS} less", "Common seeds", "Nats", "p", "Forgetting", "p")
    caption = f"Question 6: {OURS} against the others at equal gain"
    return Table(caption, columns, tuple(rows), notes)
