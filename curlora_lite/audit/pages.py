"""The audit as pages: every question's tables, figures and conclusion, saved and ready to show."""

import dataclasses
import re

from IPython.display import Markdown

from .. import provenance
from ..figures import save
from ..source_tables import counted
from . import figures, plan, summary, tables, words
from .claims import claims_table


def page(question, found, folder, again):
    """A question's tables, figures and conclusion; saved below `folder`, returned to be displayed.

    found: {Condition: records} of this question. again: the command that makes the page.
    A question without the runs that it needs gives a line that says so; a table or figure of which
    there is nothing yet is left out.
    """
    if not tables.has_results(question, found):
        return [Markdown("The runs that this question needs are not there.")]
    source = _source([found], again)
    made = {name: make(found) for name, make in tables.ALL[question].items()}
    shown = {name: table for name, table in made.items() if table.rows}
    for name, table in shown.items():
        table.save(folder / "tables" / name, source)
    empty = made.keys() - shown.keys()
    drawn = {name: draw(found) for name, draw in figures.ALL[question].items() if name not in empty}
    for name, figure in drawn.items():
        save(figure, folder / "figures" / name, source)
    what = Markdown(f"**What follows.** {words.ALL[question](found)}")
    return [*shown.values(), *drawn.values(), what]


def last_page(found, folder, again):
    """The claims, the questions' answers, sizes and what the audit took; saved, returned to be
    displayed.

    Links in the Markdown lead from `folder`; CSV and LaTeX name what they lead to.
    """
    claims = claims_table(found, counted("Mistral-7B-v0.3", plan.RANK))
    source = _source(found.values(), again)
    claims.save(folder / "claims", source, (".md",))
    relinked(claims, r"\1").save(folder / "claims", source, (".csv", ".tex"))
    beside = {
        "answers": summary.answers(found),
        "sizes": summary.sizes(found),
        "compute": summary.compute(found),
    }
    for name, table in beside.items():
        table.save(folder / "tables" / name, source)
    # the notebook is a folder deeper, and has the answers already
    return [relinked(claims, r"[\1](../\2)"), beside["sizes"], beside["compute"]]


def relinked(table, pattern):
    """A Table whose Markdown links are written by another pattern: \1 the text, \2 the target."""
    rows = (tuple(re.sub(r"\[([^]]*)\]\(([^)]*)\)", pattern, c) for c in row) for row in table.rows)
    return dataclasses.replace(table, rows=tuple(rows))


def _source(questions, again):
    runs = [run for cells in questions for found in cells.values() for run in found]
    real = any(run.spec["profile"] == plan.REAL for run in runs)
    return provenance.of_runs(runs, f"{again} REAL=1" if real else again)
