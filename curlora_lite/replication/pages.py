"""Tables between the marks of READMEs, so that no number there is typed."""

import re

from . import fetch, records


def fill(page):
    """Put tables between the marks of a page, if there is one.

    Between `<!-- profile/name -->` and `<!-- /profile/name -->` stands the Markdown of
    `results/profile/tables/name.md`. ValueError, with the page as it was, where that is gone.
    """

    def filled(mark):
        table = records.results_folder() / mark[1] / "tables" / f"{mark[2]}.md"
        if not table.exists():
            how = "the command under the table makes it again, `git checkout` brings ours back"
            raise ValueError(f"{page} shows {table}, which is not there: {how}")
        text = table.read_text("utf-8")
        return f"<!-- {mark[1]}/{mark[2]} -->\n{text}<!-- /{mark[1]}/{mark[2]} -->"

    if page.exists():
        marked = r"<!-- ([\w-]+)/(\w+) -->.*?<!-- /\1/\2 -->"
        fetch.write(page, re.sub(marked, filled, page.read_text("utf-8"), flags=re.DOTALL))
