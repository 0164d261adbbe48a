"""The paper's claims, one a row, judged by the audit's records (the rules: `judges`)."""

from ..tables import Table
from . import judges, selection_judges
from .measures import mean, place
from .plan import RANK
from .text import majority
from .verdicts import Verdict


def _counts(_, parameters):
    """The trainable parameters, counted on Mistral-7B's shapes."""
    share = parameters["lora"] / parameters["curlora"]
    shown = f"Mistral-7B, rank {RANK}: {parameters['curlora']:,} against {parameters['lora']:,}"
    return Verdict("yes", "yes", f"{shown}, {share:,.0f} times fewer", "As claimed.")


def _undecided(*_):
    """What these models cannot say."""
    no = "cannot be decided here"
    return Verdict(no, no, "7B parameters and their data need a large GPU", "–")


# a few words of each claim, its source, and the rule that judges it
CLAIMS = (
    (
        "“outperforms standard LoRA in mitigating catastrophic forgetting”",
        "abstract",
        judges.forgetting,
    ),
    ("“maintaining base model's perplexity scores fixed”", "abstract", judges.perplexity),
    ("“very good and stable task accuracy”", "abstract", judges.accuracy),
    (
        "“significantly reducing the number of trainable parameters”",
        "abstract, §4.5",
        _counts,
    ),
    (
        "inverted probabilities as “an implicit regularization”",
        "abstract, §4",
        selection_judges.inversion,
    ),
    ("the norm of W_adapted stays bounded across tasks", "§4", selection_judges.bounded),
    ("LoRA's perplexity collapses", "§7, Tables 1-2", judges.lora_collapses),
    ("CURLoRA learns Sentiment140 to 0.9 and above", "§7, Tables 1-2", judges.sentiment),
    ("all of this for Mistral-7B", "§7, Table 1", _undecided),
)


def claims_table(found, parameters):
    """One row a claim of the abstract and §7. found: `plan.gather`'s; parameters: rank 16 counts
    on Mistral-7B's shapes, {"lora": n, "curlora": n}."""
    rows = []
    for claim, source, judge in CLAIMS:
        verdict = judge(found, parameters)
        judged = (verdict.holds, verdict.corrected, verdict.evidence, verdict.honest)
        rows.append((f"{claim} ({source})", *judged))
    columns = (
        "Claim",
        "Holds as published?",
        "Holds under the corrected protocol?",
        "Evidence here",
        "What these runs would let an abstract say",
    )
    runs = [r for cells in found.values() for records in cells.values() for r in records]
    seeds = sorted({run.spec["seed"] for run in runs})
    below = _below_majority(found.get("head-only", {}))
    notes = (
        f"Seeds {', '.join(map(str, seeds))} of small models on small data: they cannot show what "
        f"a 7B model does. {below}In brackets: 95 % interval by Student's t over seeds, not "
        "adjusted for their number; rows and models stay the same. “Rows too”: seeds and "
        "evaluation rows drawn anew (bootstrap). A difference counts where every interval given "
        "leaves zero out; “within” a margin: where all lie that near to zero. Rules of drawing are "
        "judged after Holm's adjustment, since many were compared. Single-seed values carry no "
        "interval and only describe. LoRA's collapse: perplexity more than doubled. Corrected "
        "perplexity is of the whole text.",
    )
    return Table("The paper's claims, audited", columns, tuple(rows), notes, left=(0, 1, 2, 3, 4))


def _below_majority(found):
    """Of which models no method is above the majority class: what that leaves to be said."""
    best, floor = {}, {}
    for cell, runs in found.items():
        if (acc := mean(runs, "acc")) is not None:
            best[place(cell)] = max(acc, best.get(place(cell), 0.0))
            floor[place(cell)] = majority(runs)
    below = [where for where in best if best[where] <= floor[where]]
    if not below:
        return ""
    return (
        f"As published no method is above the majority class on {', '.join(below)}: there, "
        "accuracy and forgetting say little. "
    )
