"""The commands on machines that are not ours, imitated by an environment and folders."""

import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import size

from curlora_lite import __version__
from curlora_lite.replication import __main__, environment, fetch, pages, records

A_COMMAND = """
from curlora_lite.replication import environment, notebooks
environment.settle()
import matplotlib, small_runs
from curlora_lite.replication import grids
matplotlib.get_cachedir(), small_runs.stand_in(setattr)
grids.run_grid(small_runs.small_grid(methods=["head-only"]), workers=1)
notebooks.check()
"""


def test_nothing_needs_a_home(tmp_path):
    """As after `docker run --user`: a run, matplotlib and a kernel, from another folder."""
    given = {name: value for name, value in os.environ.items() if name not in environment.FOLDERS}
    given["PYTHONPATH"] = os.pathsep.join(map(str, (records.ROOT, Path(__file__).parent)))
    given |= {"CURLORA_CACHE": "a cache", "CURLORA_RESULTS": "out", "HOME": "/proc/nobody"}
    command = [sys.executable, "-c", A_COMMAND]
    done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and b"temporary" not in done.stderr, done.stderr.decode()
    assert sorted(os.listdir(tmp_path)) == ["a cache", "out"]
    assert list(tmp_path.glob("out/embedded/runs/*.json"))


def test_a_place_that_the_user_names_is_kept_where_it_can_be_written(monkeypatch, tmp_path):
    for name in environment.FOLDERS:
        monkeypatch.setenv(name, "/proc/nobody")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "mine"))
    environment.settle()
    assert os.environ["HF_HOME"] == str(tmp_path / "mine")
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "cache" / "home" / "matplotlib")


@pytest.mark.parametrize("name", ["CURLORA_CACHE", "CURLORA_RESULTS"])
def test_what_cannot_be_written_is_said_before_anything_is_fetched(monkeypatch, capsys, name):
    monkeypatch.setattr(__main__, "fetch", None)
    for variable in environment.FOLDERS:
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, "/proc/nobody")
    assert __main__.main(["reproduce"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch("error: /proc/nobody/.* cannot be written .*CURLORA_CACHE=DIR.*\n", said)


def test_checkouts_that_share_a_cache_know_their_own_records(monkeypatch, tmp_path):
    names = []
    for root in ("a", "b", "a"):
        monkeypatch.setattr(records, "ROOT", tmp_path / root)
        names.append(records.workspace())
    assert names[0] == names[2] != names[1]


def git(folder, *words):
    command = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=b", *words]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


@pytest.fixture
def unpacked(monkeypatch, tmp_path):
    """A package of two files within somebody else's repository."""
    for name, text in (("replication/sources.toml", "é"), ("cur.py", "x")):
        fetch.write(tmp_path / "ours" / "curlora_lite" / name, text)
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(records, "ROOT", tmp_path / "ours")
    return tmp_path / "ours"


@pytest.mark.parametrize("changes", [{}, {"PATH": "/nowhere"}, {"GIT_DIR": "../.git"}])
def test_without_a_repository_a_record_is_of_a_release_and_its_code(unpacked, monkeypatch, changes):
    """Git finds another's, is not there, or is told of another's by a hook."""
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    said = f"release {__version__}, code {hashlib.sha256('xé'.encode()).hexdigest()[:10]}"
    assert records.commit.__wrapped__() == {"commit": said, "dirty": False}


def test_the_commit_of_a_checkout_that_another_user_owns(unpacked):
    for words in ("init", "add .", "commit -m ours"):
        git(unpacked, *words.split())
    head = git(unpacked, "rev-parse", "HEAD")
    if os.getuid() == 0:
        for path in (unpacked, unpacked / ".git"):
            os.chown(path, 65534, 65534)
    assert records.commit.__wrapped__() == {"commit": head, "dirty": False}


def test_a_page_whose_table_is_gone_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    page, text = tmp_path / "README.md", "é\n<!-- audit/sizes -->\nold\n<!-- /audit/sizes -->\n"
    fetch.write(page, text)
    with pytest.raises(ValueError, match=r"README.md shows .*audit/tables/sizes.md, which is not"):
        pages.fill(page)
    assert page.read_text("utf-8") == text
    fetch.write(tmp_path / "results" / "audit" / "tables" / "sizes.md", "×\n")
    pages.fill(page)
    assert page.read_text("utf-8") == text.replace("old", "×")


def test_every_text_is_utf_8_whatever_the_locale():
    """Package, notebooks and scripts say so in the line that reads, writes or asks a command."""
    patterns = "curlora_lite/**/*.py", ".ci/*.py", "notebooks/*.ipynb", "results/*/*.py"
    found = [path for pattern in patterns for path in size.ROOT.glob(pattern)]
    lines = [(path.name, line) for path in found for line in path.read_text("utf-8").splitlines()]
    text = r"(?<!tarfile\.)\bopen\(|\b(read|write)_text\(|\btext=True"
    asked = [(name, line) for name, line in lines if re.search(text, line)]
    assert len(asked) > 30 and [a for a in asked if not re.search(r'utf-8|"[rw]b"', a[1])] == []


def test_a_terminal_that_lacks_a_letter_gets_another(monkeypatch):
    screen = io.TextIOWrapper(written := io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(SystemExit):
        __main__.main(["--help"])
    assert b"reproduce|audit|?" in written.getvalue()


def test_make_takes_paths_with_spaces(tmp_path):
    """In a checkout with one in its own path; what it would run is read as a shell reads it."""
    place = tmp_path / "a checkout"
    place.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(records.ROOT / name, place)
    words = ["-ns", "-C", place, "reproduce", "MIRROR=../a mirror", "RESULTS=/its results"]
    done = subprocess.run(["make", *words], capture_output=True, check=True, encoding="utf-8")
    given = {f"CURLORA_MIRROR={place}/../a mirror", "CURLORA_RESULTS=/its results", "embedded"}
    assert given < set(shlex.split(done.stdout.splitlines()[-1]))
