"""Question 7: what each switch from the published to the corrected protocol changes, alone."""

from .. import profiles
from ..tables import Table
from . import plan
from .measures import at, difference, values
from .text import (
    BALANCED,
    INTERVAL,
    finished,
    over_seeds,
    p_texts,
    paired_text,
    scored,
    switch_label,
    whole,
)

FACTORS = {"acc": "ACC", "forgetting": "Forgetting", "nats": "Perplexity, nats"}
MODELS = {"factors": "small GPT-2", "factors_smollm2": "SmolLM2"}  # tables and figures, one a model


def effects(found):
    """[(Condition, its records, {measure: Paired or None})]: less published, of the same method.

    found: the cells of one model.

    None for published itself, and for switches of the scores alone.
    """
    base, out = {}, []
    for cell, runs in found.items():
        first = base.setdefault(cell.method, runs)  # published comes first
        none = runs is first or scored(cell.protocol)
        pairs = {m: None if none else difference(runs, first, m) for m in FACTORS}
        out.append((cell, runs, pairs))
    return out


def factors(found, where):
    """Question 7: one switch at a time, from published to corrected; of one model."""
    lines, seen, cells = [], {}, effects(at(found, where))
    texts = whole([pairs for *_, pairs in cells], p_texts)
    for i, (cell, runs, pairs) in enumerate(cells):
        first = seen.setdefault(cell.method, runs)
        shown = []
        for m, pair in pairs.items():
            own = over_seeds(values(runs, m).values()) if runs is first else None
            changed = difference(runs, first, m) if scored(cell.protocol) else pair
            shown += [own or paired_text(changed), texts[i][m]]
        label = f"{profiles.method_label(cell.method, cell.rank)}: {switch_label(cell.protocol)}"
        lines.append((label, finished(runs), *shown))
    columns = ["", "Seeds"]
    for title in FACTORS.values():
        columns += [title, "p"]
    notes = (
        "First row of each method: its values under the published protocol; below, "
        "what each switch alone changes, pair by pair; head only: the two ends alone. "
        f"{_left_out(cells)}p by the paired t test, Holm's over the table. "
        f"{BALANCED} {INTERVAL}",
    )
    title = f"Question 7: one factor at a time, {where}"
    return Table(title, tuple(columns), tuple(lines), notes)


def _left_out(cells):
    """What is said of switches that are not trained with."""
    model = next((cell.specs([0])[0].model.name for cell, *_ in cells), None)
    if model not in plan.UNTOUCHED:
        return (
            "Scores only: the switch changes what is scored, not what is trained; so balanced rows "
            "change nothing here, since these count in every row. "
        )
    mute, scores = (", ".join(sorted(names)) for names in (plan.UNTOUCHED[model], plan.SCORED))
    return (
        f"Left out: {mute}, which mean nothing to this model, and {scores}, which change only what "
        "is scored. Corrected perplexity is of the whole text, published of its first tokens. "
    )
