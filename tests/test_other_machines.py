"""The commands on machines that are not ours, imitated by an environment and folders."""

import ast
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import size
from made_records import two_seeds

from curlora_lite import __version__
from curlora_lite.replication import __main__, environment, fetch, hub, models, notebooks, pages
from curlora_lite.replication import records, runs, tables

A_COMMAND = """
from curlora_lite.replication import environment, figures, grids, notebooks, records
environment.settle()
import small_runs
small_runs.stand_in(setattr)
grids.run_grid(small_runs.small_grid(methods=["head-only"]), workers=1)
figures.save(figures.new()[0], records.results_folder() / "figure")
notebooks.check()
"""


def test_nothing_needs_a_home(tmp_path):
    """As after `docker run --user`: a run, a figure and a kernel, from folders named by half."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.touch()
    here.mkdir()
    given = {name: value for name, value in os.environ.items() if name not in environment.FOLDERS}
    given |= {"CURLORA_CACHE": "a cache", "CURLORA_RESULTS": "results", "HOME": str(home)}
    given["PYTHONPATH"] = os.pathsep.join(map(str, (records.ROOT, Path(__file__).parent)))
    options = {"env": given, "cwd": here, "capture_output": True, "encoding": "utf-8"}
    done = subprocess.run([sys.executable, "-c", A_COMMAND], **options)
    assert done.returncode == 0 and "temporary" not in done.stderr, done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["a cache", "results"]
    assert (here / "results" / "figure.pdf").exists()


def test_a_place_that_the_user_names_is_kept_where_it_can_be_written(monkeypatch, tmp_path):
    for name in environment.FOLDERS:
        monkeypatch.setenv(name, "/proc/nobody")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("CURLORA_MIRROR", "a mirror")
    environment.settle()
    assert os.environ["HF_HOME"] == str(tmp_path / "mine")
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "cache" / "home" / "matplotlib")
    assert os.environ["CURLORA_MIRROR"] == str(Path.cwd() / "a mirror")


@pytest.mark.parametrize("name", ["CURLORA_CACHE", "CURLORA_RESULTS"])
def test_what_cannot_be_written_is_said_before_anything_is_fetched(monkeypatch, capsys, name):
    for owner, work in ((fetch, "fetch"), (hub, "folder"), (models, "prepare")):
        monkeypatch.setattr(owner, work, None)
    for variable in environment.FOLDERS:
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, "/proc/nobody")
    assert __main__.main(["reproduce"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch("error: /proc/nobody/.* cannot be written .*CURLORA_CACHE=DIR.*\n", said)


def test_results_elsewhere(committed, monkeypatch, tmp_path, capsys):
    shutil.copytree(committed / "smollm2" / "runs", tmp_path / "smollm2" / "runs")
    monkeypatch.setenv("CURLORA_RESULTS", str(tmp_path))
    monkeypatch.setattr(notebooks, "execute", lambda *given, anew: given[2])
    command = "reproduce --tables --profile smollm2 --precision bf16"
    assert __main__.main(command.split()) == 0
    folder = tmp_path / "smollm2" / "selections" / "precision-bf16" / "notebooks"
    said = f"table1_mistral executed: {folder}/table1_mistral.ipynb\n"
    assert said in capsys.readouterr().out


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
    theirs, ours = tmp_path / "theirs", tmp_path / "theirs" / "ours"
    for name, text in (("replication/sources.toml", "é"), ("cur.py", "x")):
        fetch.write(ours / "curlora_lite" / name, text)
    git(theirs, "init")
    git(theirs, "commit", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(records, "ROOT", ours)
    records.commit.cache_clear()
    yield ours
    records.commit.cache_clear()


@pytest.mark.parametrize("git_is", ["of a folder around it", "absent", "of a hook"])
def test_without_a_repository_a_record_is_of_a_release_and_its_code(unpacked, monkeypatch, git_is):
    if git_is != "of a folder around it":
        name, value = ("PATH", "/nowhere") if git_is == "absent" else ("GIT_DIR", unpacked / "../.git")
        monkeypatch.setenv(name, str(value))
    said = f"release {__version__}, code {hashlib.sha256('xé'.encode()).hexdigest()[:10]}"
    assert records.commit() == {"commit": said, "dirty": False}
    frame = runs.of_grid(two_seeds()).assign(commit=said)
    assert f"Computed on a machine at {said}. Again" in tables.notes(frame, "table1", "x")[1]


def test_the_commit_of_a_checkout_that_another_user_owns(unpacked):
    for words in ("init", "add .", "commit -m ours"):
        git(unpacked, *words.split())
    head = git(unpacked, "rev-parse", "HEAD")
    if os.getuid() == 0:
        for path in (unpacked, unpacked / ".git"):
            os.chown(path, 65534, 65534)
    assert records.commit() == {"commit": head, "dirty": False}


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


def code_of(path):
    if path.suffix == ".py":
        return path.read_text("utf-8")
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "\n".join(cells))


def in_the_locales_encoding(call):
    """Whether a call reads or writes text and does not say how it is encoded."""
    name, named = ast.unparse(call.func), {word.arg: word.value for word in call.keywords}
    given = {part.value for part in (*call.args, *named.values()) if isinstance(part, ast.Constant)}
    text = name == "open" or name.endswith((".open", ".read_text", ".write_text"))
    text &= name != "tarfile.open"
    return (text or "text" in named and True in given) and not given & {"utf-8", "rb", "wb"}


def test_every_text_is_utf_8_whatever_the_locale():
    """With commands' outputs, in the package, notebooks and scripts."""
    patterns = "curlora_lite/**/*.py", ".ci/*.py", "notebooks/*.ipynb", "results/*/*.py"
    found = [path for pattern in patterns for path in size.ROOT.glob(pattern)]
    calls = [(path.name, node) for path in found for node in ast.walk(ast.parse(code_of(path)))]
    calls = [(name, node) for name, node in calls if isinstance(node, ast.Call)]
    assert len(found) > 60
    assert [(n, ast.unparse(call)) for n, call in calls if in_the_locales_encoding(call)] == []


def test_a_terminal_that_lacks_a_letter_gets_another(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit):
        __main__.main(["--help"])
    sys.stdout.flush()
    assert b"reproduce|audit|?" in written.getvalue()


PYTHON = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv, dict(os.environ)]))\n"


def test_make_takes_paths_with_spaces(tmp_path):
    """In a checkout with one in its own path; Python is acted, and says what it is given."""
    place = tmp_path / "a checkout"
    fetch.write(place / ".venv" / "bin" / "python", PYTHON)
    (place / ".venv" / "bin" / "python").chmod(0o755)
    shutil.copy(records.ROOT / "Makefile", place)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.curlora_lite"):
        (place / name).touch()
    words = ["reproduce", "MIRROR=../a mirror", "RESULTS=/its results"]
    done = subprocess.run(["make", "-s", "-C", place, *words], capture_output=True, check=True)
    arguments, given = json.loads(done.stdout)
    assert arguments[-3:] == ["reproduce", "--profile", "embedded"]
    assert given["CURLORA_MIRROR"] == f"{place}/../a mirror"
    assert given["CURLORA_RESULTS"] == "/its results"
