"""Attempts with bad input: each ends well or in a documented error, and changes no file."""

import hashlib

from hypothesis import HealthCheck, settings

checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
# the same cases each time
settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=checks
)
settings.load_profile("fixed")


def cases(number):
    """So many generated cases."""
    return settings(max_examples=number)


def attempt(what, call, errors=(ValueError,), folder=None):
    """What `call` returns, or None if it raises one of the documented `errors`.

    Another error is raised on. An error's message is one that says something; `folder`: its files
    must be as they were.
    """
    before = contents(folder)
    result = None
    try:
        result = call()
    except errors as error:
        assert len(str(error)) > 10 or error.args == (2,), repr(error)  # argparse's exit
    assert contents(folder) == before
    return result


def contents(folder):
    """path -> sha256 of every file below a folder."""
    if folder is None:
        return {}
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
