"""Conclusions in notebooks: a sentence that a person wrote, and the assertion that holds it."""

import contextlib
import traceback

from IPython.display import Markdown, display

CONTRADICTED = "Not so in these runs"  # what a test looks for in notebooks of committed records


def say(sentence, **numbers):
    """Show a sentence with its numbers put in by name: `say("{gain:+.2f} above it", gain=0.1)`."""
    display(Markdown("**" + sentence.format(**numbers) + "**"))


@contextlib.contextmanager
def holds():
    """Within the block stand the assertions that hold the sentence above.

    Where one fails, as it may with other seeds, data or processors, that is shown, with what was
    asserted, and the notebook goes on. For the committed records a test sees to it that none does.
    """
    try:
        yield
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line or ""
        display(Markdown(f"*{CONTRADICTED}:* `{line.removeprefix('assert ')}` {error}"))
