"""The audit as pages: every question's tables, figure and conclusion, saved and ready to show."""

from IPython.display import Markdown

from .. import provenance
from ..figures import save
from ..source_tables import counted
from . import figures, tables, words
from .claims import claims_table


def page(question, found, folder):
    """A question's tables, figure and conclusion; saved below `folder`, returned to be displayed.

    found: {Condition: records} of this question. A question without the runs that it needs gives a
    line that says so.
    """
    if not tables.has_results(question, found):
        return [Markdown("The runs that this question needs are not there.")]
    shown, source = [], _source([found])
    for name, make in tables.ALL[question].items():
        table = make(found)
        table.save(folder / "tables" / name, source)
        shown.append(table)
    figure = figures.ALL[question](found)
    save(figure, folder / "figures" / question.replace("-", "_"), source)
    return [*shown, figure, Markdown(f"**What follows.** {words.ALL[question](found)}")]


def last_page(found, folder):
    """The claims table and what the audit took; saved, returned to be displayed."""
    claims = claims_table(found, counted("Mistral-7B-v0.3", 16))
    source = _source(found.values())
    claims.save(folder / "claims", source)
    took = tables.compute(found)
    took.save(folder / "tables" / "compute", source)
    return [claims, took]


def _source(questions):
    runs = [run for cells in questions for found in cells.values() for run in found]
    quick = any(run.spec["profile"] == "audit-quick" for run in runs)
    return provenance.of_runs(
        runs, provenance.command("audit", "audit-quick" if quick else "audit")
    )
