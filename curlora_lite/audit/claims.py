"""The paper's claims, one a row, judged by the audit's records (the rules: `judges`)."""

from ..tables import Table
from . import judges
from .plan import RANK
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
    ("inverted probabilities as “an implicit regularization”", "abstract, §4", judges.inversion),
    ("the norm of W_adapted stays bounded across tasks", "§4", judges.bounded),
    ("LoRA's perplexity collapses", "§7, Tables 1-2", judges.lora_collapses),
    ("Sentiment140 is learned to 0.9 and above", "§7, Tables 1-2", judges.all_negative),
    ("all of this for Mistral-7B", "§7, Table 1", _undecided),
)


def claims_table(found, parameters):
    """One row a claim of the abstract and §7. found: `audit.gather`'s; parameters: rank 16 counts
    on Mistral-7B's shapes, {"lora": n, "curlora": n}."""
    rows = []
    for claim, source, judge in CLAIMS:
        verdict = judge(found, parameters)
        judged = (verdict.holds, verdict.corrected, verdict.evidence, verdict.honest)
        rows.append((f"{claim} ({source})", *judged))
    columns = (
        "Claim",
        "Holds as published?",
        "Holds corrected?",
        "Evidence here",
        "What these runs would let an abstract say",
    )
    runs = [r for cells in found.values() for records in cells.values() for r in records]
    seeds = sorted({run.spec["seed"] for run in runs})
    notes = (
        f"Seeds {', '.join(map(str, seeds))} of small models on small data: what a 7B model does "
        "they cannot decide. In brackets: 95 % interval by Student's t over seeds, not adjusted "
        "for their number; rows and models stay the same. “Rows too”: seeds and evaluation rows "
        "drawn anew (bootstrap). A difference counts where every interval given leaves zero out; "
        "“within” a margin: where all lie that near to zero. "
        "One seed has no interval: its value is a description.",
    )
    return Table("The paper's claims, audited", columns, tuple(rows), notes, left=(0, 1, 2, 3, 4))
