"""Counting attempts with bad input: what each ended in, and that it changed no file."""

import collections
import hashlib
import os

from hypothesis import HealthCheck, settings

ENDED = collections.Counter()  # (what was tried, what it ended in) -> how often

checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
common = {"deadline": None, "database": None, "suppress_health_check": checks}
# in the tests the same cases each time; `make reliability` draws new ones, and more
settings.register_profile("fixed", derandomize=True, **common)
settings.register_profile("search", **common)
MORE = int(os.environ.get("CURLORA_CASES", 1))
settings.load_profile("search" if MORE > 1 else "fixed")


def cases(number):
    """So many generated cases, or `CURLORA_CASES` times as many."""
    return settings(max_examples=number * MORE)


def attempt(what, call, errors=(ValueError,), folder=None):
    """What `call` returns, or None if it raises one of the documented `errors`.

    Another error is raised on. An error's message is one that says something; `folder`: its files
    must be as they were.
    """
    before = contents(folder)
    result, ended = None, "success"
    try:
        result = call()
    except errors as error:
        ended = type(error).__name__
        assert len(str(error)) > 10 or error.args == (2,), repr(error)  # argparse's exit
    assert contents(folder) == before
    ENDED[what, ended] += 1
    return result


def contents(folder):
    """path -> sha256 of every file below a folder."""
    if folder is None:
        return {}
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
