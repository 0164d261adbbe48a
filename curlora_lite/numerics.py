"""The version of the numerical code: one hash over what the numbers of a record depend on.

A record names it (`provenance["code"]`), and is reused by `make reproduce` under the same one only.
Comments, docstrings and layout do not count: the hash is of the syntax tree.
"""

import ast
import functools
import hashlib
import json
from pathlib import Path

# Whole modules, or single definitions of one. A test checks that every module, and every package,
# is here or below.
NUMERICAL = (
    "adapters",
    "checkpoints",
    "continual",
    "cur",
    "geometry",
    "layers",
    "models.DTYPES",
    "models.load",
    "profiles.RunSpec",
    "rivals",
    "scoring",
    "training",
)
_READ = "what it gives is checked by its sha256 whenever a record is reused"
_SPEC = "all that it says is in the spec"
_SHOWS = "works on finished records, or shows something"
_APART = "has results of its own, which are no run's record"
_MOVES = "says where and when runs are computed and kept, not what they compute"
EXEMPT = {
    "corpus": _READ,
    "data": _READ,
    "fetch": _READ,
    "hub": _READ,
    "small_gpt2": _READ,
    "paper": _SPEC,
    "protocol": _SPEC,
    "audit": "plans runs by their specs, and shows them",
    "checklist": _SHOWS,
    "doctor": _SHOWS,
    "figures": _SHOWS,
    "findings": _SHOWS,
    "metrics": _SHOWS,
    "notebooks": _SHOWS,
    "readmes": _SHOWS,
    "source_tables": _SHOWS,
    "tables": _SHOWS,
    "answers": _APART,
    "benchmark": _APART,
    "finetune": _APART,
    "__init__": _MOVES,
    "__main__": _MOVES,
    "adapter_files": _MOVES,
    "checks": _MOVES,
    "cli": _MOVES,
    "cluster": _MOVES,
    "grids": _MOVES,
    "memory": _MOVES,
    "numerics": _MOVES,
    "options": _MOVES,
    "provenance": _MOVES,
    "records": _MOVES,
    "run_queue": _MOVES,
    "scaling": "measures and estimates times; its runs are kept nowhere",
    "spread": _MOVES,
    "verify": _MOVES,
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def version():
    """Hex sha256 of the numerical code as it is in this package's folder, the first 16 digits.

    Once a process: the code that runs is the one that was there at first.
    """
    whole = [[name, _definition(*name.split("."))] for name in NUMERICAL]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def _definition(module, name=None):
    source = (Path(__file__).parent / f"{module}.py").read_text()
    return tree(source, name)


def tree(source, name=None):
    """The syntax tree of a Python source as plain lists, without comments and docstrings.

    name: only the definition called so at the top. ValueError if there is none. Empty fields are
    left out, so that versions of Python that add some give the same.
    """
    module = ast.parse(source)
    if name is None:
        return _plain(module)
    found = [node for node in module.body if name in _names(node)]
    if not found:
        raise ValueError(f"name: there is no {name!r} at the top of this source")
    return [_plain(node) for node in found]


def _names(node):
    targets = getattr(node, "targets", [])
    return [getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)]


def _plain(node):
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]
    fields = [[k, _plain(v)] for k, v in ast.iter_fields(node) if v is not None and v != []]
    return [type(node).__name__, *fields]
