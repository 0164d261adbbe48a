"""The audit as pages: every question's tables, figure and conclusion, saved and ready to show."""

from IPython.display import Markdown

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
    shown = []
    for name, make in tables.ALL[question].items():
        table = make(found)
        table.save(folder / "tables" / name)
        shown.append(table)
    figure = figures.ALL[question](found)
    save(figure, folder / "figures" / question.replace("-", "_"))
    return [*shown, figure, Markdown(f"**What follows.** {words.ALL[question](found)}")]


def last_page(found, folder):
    """The claims table and what the audit took; saved, returned to be displayed."""
    claims = claims_table(found, counted("Mistral-7B-v0.3", 16))
    claims.save(folder / "claims")
    took = tables.compute(found)
    took.save(folder / "tables" / "compute")
    return [claims, took]
