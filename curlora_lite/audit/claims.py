"""The paper's claims, one a row, judged by the audit's records; and each question's conclusion.

Words follow from the numbers by the rules here; no number is typed. A difference counts where its
95 % interval over seeds leaves zero out.
"""

import statistics
from dataclasses import dataclass

from .. import metrics
from ..findings import SAME
from ..protocol import Protocol
from ..tables import Table
from .measures import at_equal_gain, difference, mean, place, values
from .plan import RANK
from .tables import gains, has_results, majority, movement_sweeps, paired_text, ratio_text, signed

UNKNOWN = "not known: runs are missing"
LEARNED = 0.9  # what the paper's tables have for Sentiment140, at least
MARGIN = 0.02  # of accuracy: an interval within it on both sides counts as no difference


@dataclass(frozen=True)
class Verdict:
    """holds: as published; corrected: under the corrected protocol; evidence; honest: what an
    honest abstract would say."""

    holds: str
    corrected: str
    evidence: str
    honest: str


def claims_table(found, parameters):
    """One row a claim of the abstract and §7. found: `audit.gather`'s; parameters: rank 16 counts
    on Mistral-7B's shapes, {"lora": n, "curlora": n}."""
    rows = []
    for claim, source, judge in CLAIMS:
        verdict = judge(found, parameters)
        rows.append(
            (
                f"{claim} ({source})",
                verdict.holds,
                verdict.corrected,
                verdict.evidence,
                verdict.honest,
            )
        )
    columns = (
        "Claim",
        "Holds as published?",
        "Holds corrected?",
        "Evidence here",
        "What these runs would let an abstract say",
    )
    seeds = sorted(
        {r.spec["seed"] for cells in found.values() for rs in cells.values() for r in rs}
    )
    notes = (
        f"Seeds {', '.join(map(str, seeds))} of small models on small data: what a 7B model does "
        "they cannot decide. Intervals: 95 % over seeds, by Student's t, not adjusted for their "
        "number; of the seeds' part of the uncertainty alone: rows and models stay the same. A "
        "difference counts where its interval leaves zero out; a model with one seed is left out.",
    )
    return Table("The paper's claims, audited", columns, tuple(rows), notes, left=(0, 1, 2, 3, 4))


def _runs(found, question, method, protocol=None, where="small GPT-2"):
    """Records of one cell at the profile's own rate; [] if there is none."""
    for cell, runs in found.get(question, {}).items():
        same = protocol is None or cell.protocol == protocol
        if (
            (cell.method, cell.rank) in ((method, RANK), (method, None))
            and same
            and (place(cell) == where and cell.rate is None)
        ):
            return runs
    return []


def _usual():
    return Protocol.parse("published,lora_init=usual")


def _places(found):
    return list(dict.fromkeys(place(cell) for cell in found.get("head-only", {})))


def _said(pair):
    """`more`, `less` or `not distinguishable` of a `Paired`; `one seed` of None."""
    if pair is None:
        return "one seed"
    if pair.low == pair.high:  # equal in all seeds: no spread to judge by
        return "not distinguishable"
    return "more" if pair.low > 0 else "less" if pair.high < 0 else "not distinguishable"


def _judged(verdicts, wanted, contrary):
    """`yes`, `in part` or `no` by the verdicts of several models; else `undecided`."""
    if set(verdicts) == {wanted}:
        return "yes"
    if wanted in verdicts:
        return "in part"
    return "no" if contrary in verdicts else "undecided"


def _forgetting(found, _):
    evidence, verdicts = [], []
    for where in _places(found):
        pair = difference(
            _runs(found, "head-only", "curlora", where=where),
            _runs(found, "head-only", "lora", Protocol.published(), where),
            "forgetting",
        )
        if pair:
            verdicts.append(_said(pair))
            evidence.append(f"{where}: CURLoRA's forgetting less LoRA's {paired_text(pair)}")
    if not verdicts:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    holds = _judged(verdicts, "less", "more")
    corrected, said = _equal_gain(found, "forgetting")
    return Verdict(
        holds,
        corrected,
        "; ".join([*evidence, *said, "figures/movement"]),
        f"That CURLoRA forgets less than the author's LoRA: {holds}; where both have learned as "
        "much, " + _ahead(corrected, "forgets less", "has lost more"),
    )


def _ahead(corrected, yes, no):
    return {"yes": f"it {yes}.", "no": f"it {no}."}.get(corrected, "these runs do not decide it.")


def _equal_gain(found, measure):
    """(verdict, evidence): CURLoRA against LoRA with the usual init where both learned as much.

    At the lowest of the three levels; `not reached` where fewer than two seeds of both get there.
    """
    sweeps = movement_sweeps(found.get("movement", {}))
    ours, theirs = sweeps.get("CURLoRA-16"), sweeps.get("LoRA-16, usual init")
    if not ours or not theirs or not has_results("movement", found["movement"]):
        return UNKNOWN, []
    level = gains(found["movement"])[0]
    a, b = (at_equal_gain(sweep, level, measure) for sweep in (ours, theirs))
    seeds = sorted(a.keys() & b.keys())
    everywhere = {run.spec["seed"] for runs in ours.values() for run in runs}
    if len(seeds) < 2:
        return (
            "not reached",
            [
                f"{level:.3f} is learned by CURLoRA in {len(a)} of {len(everywhere)} seeds, by "
                f"LoRA in {len(b)}"
            ],
        )
    pair = metrics.paired([a[s] for s in seeds], [b[s] for s in seeds])
    said = f"where both learned {level:.3f} ({len(seeds)} seeds), {measure} {paired_text(pair)}"
    verdict = {"less": "yes", "more": "no"}.get(_said(pair), "undecided")
    return verdict, [said]


def _perplexity(found, _):
    evidence, kept = [], []
    for where in _places(found):
        runs = _runs(found, "head-only", "curlora", where=where)
        ratios = list(values(runs, "ratio").values())
        if ratios:
            kept.append(_unchanged(ratios))
            evidence.append(f"{where}: {ratio_text(ratios)} ({len(ratios)} runs)")
    if not kept:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    fixed = _runs(found, "factors", "curlora", Protocol.corrected())
    ratios = list(values(fixed, "ratio").values())
    if ratios:
        evidence.append(f"corrected: {ratio_text(ratios)}")
    corrected = UNKNOWN if not ratios else _yes(_unchanged(ratios))
    sweep = movement_sweeps(found.get("movement", {})).get("CURLoRA-16", {})
    largest = [m for m in (mean(runs, "ratio") for runs in sweep.values()) if m is not None]
    if largest:
        evidence.append(f"at the largest learning rates up to ×{max(largest):,.1f}")
    at = "in every model here" if all(kept) else "in some models only" if any(kept) else "nowhere"
    honest = f"At the profiles' own learning rates CURLoRA-16 keeps perplexity within 1 % {at}; "
    honest += "the rank and the rate decide."
    return Verdict(_yes(all(kept)), corrected, "; ".join(evidence), honest)


def _unchanged(ratios):
    return all(abs(ratio - 1) <= SAME for ratio in ratios)


def _yes(holds):
    return "yes" if holds else "no"


def _accuracy(found, _):
    evidence, verdicts = [], []
    for where in _places(found):
        runs = _runs(found, "head-only", "curlora", where=where)
        head = _runs(found, "head-only", "head-only", where=where)
        pair = difference(runs, head, "acc")
        if pair and runs:
            verdicts.append(_said(pair))
            evidence.append(
                f"{where}: CURLoRA's ACC {mean(runs, 'acc'):.3f}, head only "
                f"{mean(head, 'acc'):.3f}, majority {majority(runs):.3f}, over head only "
                f"{paired_text(pair)}"
            )
    if not verdicts:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    lost = [
        list(values(_runs(found, "head-only", "curlora", where=where), "forgetting").values())
        for where in _places(found)
    ]
    bounds = [metrics.t_interval(one)[2] for one in lost if len(one) > 1]
    kept = bool(bounds) and max(bounds) <= MARGIN
    stable = f"stable: {'yes' if kept else 'not shown'}; above a head on the frozen model: "
    above = _judged(verdicts, "more", "less")
    fixed = difference(
        _runs(found, "factors", "curlora", Protocol.corrected()),
        _runs(found, "movement", "head-only", Protocol.corrected()),
        "acc",
    )
    corrected = UNKNOWN if fixed is None else _said(fixed).replace("more", "yes, above head only")
    if fixed:
        evidence.append(f"corrected: over head only {paired_text(fixed)}")
    return Verdict(
        stable + above,
        corrected.replace("less", "no"),
        "; ".join([*evidence, "figures/head_only"]),
        ("CURLoRA's task accuracy is stable" if kept else "Stability is not shown by these seeds")
        + "; above a head trained on the frozen model: "
        + f"{above}.",
    )


def _counts(_, parameters):
    share = parameters["lora"] / parameters["curlora"]
    said = f"Mistral-7B, rank 16: {parameters['curlora']:,} against {parameters['lora']:,}"
    return Verdict("yes", "yes", f"{said}, {share:,.0f} times fewer", "As claimed.")


def _inversion(found, _):
    cells = found.get("selection", {})
    if len(cells) < 2:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    first, *others = cells.values()
    pairs = [p for runs in others if (p := difference(runs, first, "acc")) is not None]
    if not pairs:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    adjusted = metrics.holm([pair.p for pair in pairs])
    differ = sum(p < 0.05 for p in adjusted)
    moved = {
        (c.protocol.weighting, c.protocol.replacement): mean(runs, "update")
        for c, runs in cells.items()
    }
    inverted, importance = moved.get(("inverted", False)), moved.get(("importance", False))
    evidence = [
        f"{differ} of {len(pairs)} other rules differ from Eq. 4 in ACC (Holm, 5 %)",
        f"largest difference {max((pair.mean for pair in pairs), key=abs):+.3f}",
    ]
    smaller = inverted is not None and importance is not None and inverted < importance
    if smaller:
        evidence.append(
            f"‖CUR‖/‖W‖ {100 * inverted:.2g} % against {100 * importance:.2g} % by importance"
        )
    return Verdict(
        f"smaller update: {_yes(smaller)}; in accuracy: {'yes' if differ else 'not seen'}",
        "not asked",
        "; ".join([*evidence, "figures/selection"]),
        ("Drawing small rows and columns makes the update smaller. " if smaller else "")
        + ("The rule of drawing changes accuracy." if differ else "No effect on accuracy was seen.")
        + " Smaller C and R act as a smaller learning rate does; the two are not told apart here.",
    )


def _bounded(found, _):
    runs = [r for runs in found.get("selection", {}).values() for r in runs] or _runs(
        found, "head-only", "curlora"
    )
    within, growth, tightness = [], [], []
    for run in (r for r in runs if r.status == "finished"):
        for stage in run.stages:
            for g in stage.get("geometry", {}).values():
                within.append(g["update"] <= g["bound"] * (1 + 1e-6))
                tightness.append(g["update"] / g["bound"] if g["bound"] else 0.0)
        growth.append(_mean_update(run, -1) / max(_mean_update(run, 0), 1e-12))
    if not within:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    return Verdict(
        "the bound: yes; a standstill: " + _yes(statistics.fmean(growth) < 1.1),
        "not asked",
        f"Eq. 14 holds in {sum(within)} of {len(within)} measurements (it must); the norm is "
        f"{100 * statistics.fmean(tightness):.0f} % of the bound; from the first to the last task "
        f"it grows {statistics.fmean(growth):.1f} times",
        "The update's norm stays below a bound that itself grows with U"
        + ("." if statistics.fmean(growth) < 1.1 else "; from task to task it grows."),
    )


def _mean_update(run, stage):
    return statistics.fmean(run.stages[stage]["norms"].values())


def _lora_collapses(found, _):
    evidence, worse, raised = [], [], {}
    for where in _places(found):
        ours = _runs(found, "head-only", "lora", Protocol.published(), where)
        raised[where] = values(ours, "ratio").values()
        usual = _runs(found, "head-only", "lora", _usual(), where)
        pair = difference(ours, usual, "nats")
        if pair:
            worse.append(_said(pair))
            evidence.append(
                f"{where}: {ratio_text(values(ours, 'ratio').values())} with the authors' "
                f"initialisation, {ratio_text(values(usual, 'ratio').values())} with the usual one "
                f"({signed(pair.mean, 2)} nats)"
            )
    if not worse:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    runs = _runs(found, "factors", "lora", Protocol.corrected())
    ratios = list(values(runs, "ratio").values())
    if ratios:
        evidence.append(f"corrected: {ratio_text(ratios)}")
    return Verdict(
        "with the authors' initialisation: "
        + ", ".join(
            f"{ratio_text(ratios)} ({where})" for where, ratios in raised.items() if ratios
        ),
        UNKNOWN if not ratios else f"{ratio_text(ratios)} at the same learning rate",
        "; ".join([*evidence, "figures/collapse"]),
        "The author's initialisation of LoRA does more damage to perplexity than the usual one."
        if set(worse) == {"more"}
        else "How much its initialisation adds to LoRA's damage is undecided here.",
    )


def _all_negative(found, _):
    evidence, seen = [], []
    for cell, runs in found.get("sentiment", {}).items():
        last = [r.stages[-1]["scores"] for r in runs if r.status == "finished"]
        last = [s for s in last if metrics.BALANCED in s]
        if last and cell.method in ("lora", "curlora"):
            first = statistics.fmean(s["sentiment140"]["accuracy"] for s in last)
            half = statistics.fmean(s[metrics.BALANCED]["accuracy"] for s in last)
            seen.append((first, half))
            evidence.append(f"{place(cell)}, {cell.name}: {first:.2f}, balanced {half:.2f}")
    if not seen:
        return Verdict(UNKNOWN, UNKNOWN, "", "")
    high = sum(first >= LEARNED for first, _ in seen)
    return Verdict(
        f"in {high} of {len(seen)} cells; always answering “negative” has 1.00",
        f"the same runs on balanced rows: in {sum(half >= LEARNED for _, half in seen)} of "
        f"{len(seen)} cells",
        "; ".join([*evidence, "figures/sentiment"]),
        "Accuracy on rows of one class is that class's recall: answering it always scores 1.00.",
    )


def _undecided(*_):
    no = "cannot be decided here"
    return Verdict(no, no, "7B parameters and their data need a large GPU", "–")


# a few words of each claim, its source, and the rule that judges it
CLAIMS = (
    ("“outperforms standard LoRA in mitigating catastrophic forgetting”", "abstract", _forgetting),
    ("“maintaining base model's perplexity scores fixed”", "abstract", _perplexity),
    ("“very good and stable task accuracy”", "abstract", _accuracy),
    ("“significantly reducing the number of trainable parameters”", "abstract, §4.5", _counts),
    ("inverted probabilities as “an implicit regularization”", "abstract, §4", _inversion),
    ("the norm of W_adapted stays bounded across tasks", "§4", _bounded),
    ("LoRA's perplexity collapses", "§7, Tables 1-2", _lora_collapses),
    ("Sentiment140 is learned to 0.9 and above", "§7, Tables 1-2", _all_negative),
    ("all of this for Mistral-7B", "§7, Table 1", _undecided),
)
