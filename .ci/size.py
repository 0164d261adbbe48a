"""Lines of code of library, replication and tests: docstrings, comments and blanks left out.

`make size` prints them; `test_structure.py` holds them.
"""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "curlora_lite"
PARTS = {  # name -> (its files, fewer lines of code than)
    "library": (LIBRARY.glob("*.py"), 1_700),
    "replication": ((LIBRARY / "replication").rglob("*.py"), 3_000),
    "tests": ((ROOT / "tests").rglob("*.py"), 5_000),
}
PARTS = {name: (sorted(files), most) for name, (files, most) in PARTS.items()}
LONGEST = 300  # lines of a module of the package, all counted

_OUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
_OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of_code(text):
    """How many lines of a Python source hold code."""
    docstrings, lines = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _OWNERS) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*_OUT, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def count(files):
    """Lines of code of all these files."""
    return sum(lines_of_code(path.read_text("utf-8")) for path in files)


if __name__ == "__main__":
    for name, (files, most) in PARTS.items():
        print(f"{name:<12}{count(files):>6,} lines of code, fewer than {most:,} wanted")
    longest = max((p for n in ("library", "replication") for p in PARTS[n][0]),
                  key=lambda p: p.read_text("utf-8").count("\n"))  # fmt: skip
    lines = longest.read_text("utf-8").count("\n")
    print(f"longest module: {longest.relative_to(ROOT)}, {lines} lines, at most {LONGEST} wanted")
