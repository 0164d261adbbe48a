"""Tables between the marks of READMEs, so that no number there is typed."""

import re

from . import records


def fill(page):
    """Put tables between the marks of a page, if there is one.

    Between `<!-- profile/name -->` and `<!-- /profile/name -->` stands the Markdown of
    `results/profile/tables/name.md`.
    """

    def filled(mark):
        table = records.ROOT / "results" / mark[1] / "tables" / f"{mark[2]}.md"
        return f"<!-- {mark[1]}/{mark[2]} -->\n{table.read_text()}<!-- /{mark[1]}/{mark[2]} -->"

    if page.exists():
        marked = r"<!-- ([\w-]+)/(\w+) -->.*?<!-- /\1/\2 -->"
        page.write_text(re.sub(marked, filled, page.read_text(), flags=re.DOTALL))
