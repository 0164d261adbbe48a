"""Tables between the marks of READMEs, so that no number there is typed."""

import re
from pathlib import Path

from . import records


def fill(page):
    """Put tables between the marks of a page, if there is one."""
    if page.exists():
        page.write_text(filled(page.read_text(), table_text))


def table_text(profile, name):
    """The Markdown of one table of a profile."""
    return (records.ROOT / table_path(profile, name)).read_text()


def table_path(profile, name):
    """Where a table is, from the root: in `results/<profile>/tables`; the audit's claims above."""
    folder = Path("results") / profile
    return (folder if name == "claims" else folder / "tables") / f"{name}.md"


def filled(text, content):
    """`text` with each `<!-- profile/name --> … <!-- /profile/name -->` holding that table.

    content: (profile, name) -> Markdown.
    """
    return re.sub(
        r"<!-- ([\w-]+)/(\w+) -->.*?<!-- /\1/\2 -->",
        lambda m: f"<!-- {m[1]}/{m[2]} -->\n{content(m[1], m[2])}<!-- /{m[1]}/{m[2]} -->",
        text,
        flags=re.DOTALL,
    )
