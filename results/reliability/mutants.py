"""`make mutants`: plant faults one at a time and see which the tests notice.

Those of `faults.py`, written by hand, and a seeded sample of generated ones: Cosmic Ray's operators
over the modules of `faults.TESTS`, which leave texts alone. Each is planted in a copy of the checkout
aside; the tests that touch its file run there, quick ones first, until one fails. Writes `mutants.csv`,
a line a fault, as they come, and a table of the shares. Called again it goes on: what was
noticed stays, what was not is tried again (`FRESH=1`: all). Some 15 minutes a core for a hundred.
"""

import argparse
import ast
import contextlib
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import faults

HERE, ROOT = Path(__file__).resolve().parent, faults.ROOT
FOUND, TABLE = HERE / "mutants.csv", HERE / "tables" / "mutants.md"
COLUMNS = ("number", "source", "file", "line", "what", "old", "new", "outcome", "noticed_by", "seconds", "why")
NOTICED, SURVIVED, EQUIVALENT, BROKEN = "noticed", "survived", "changes nothing", "broken"
LOOKS = re.compile(r"linewidth|fontsize|markersize|alpha=0|\b(width|height|rotation)=|subs=|figsize|set_[xy]lim")
FLATTERING = re.compile("Bit|Shift|MatMul|Pow|Invert|UAdd|Exception")
LIMIT = 300  # seconds that a test file may take: one that hangs is noticed
# what every test process imports, once for all of them
HEAVY = "torch transformers datasets evaluate pandas matplotlib.pyplot scipy.stats hypothesis peft papermill"
HEAVY += " transformers.models.llama.modeling_llama transformers.models.gpt2.modeling_gpt2 pytest nbformat"
HEAVY += " transformers.models.phi3.modeling_phi3 transformers.models.auto.modeling_auto"


@dataclass(frozen=True)
class Mutant:
    """A fault ready to be planted: the whole text of its file as it is and with the fault."""

    source: str
    what: str
    file: str
    before: str
    after: str

    @property
    def line(self):
        pairs = zip(self.before.splitlines(), self.after.splitlines(), strict=False)
        return next((i for i, (a, b) in enumerate(pairs, 1) if a != b), 0)

    def shown(self):
        """The first line that differs, before and after."""
        lines = [[*text.splitlines(), ""] for text in (self.before, self.after)]
        return [each[min(self.line, len(each)) - 1].strip() for each in lines]

    @property
    def number(self):
        """A name that stays while the lines around stay, wherever they stand."""
        near = "\n".join(self.before.splitlines()[max(0, self.line - 3) : self.line + 2])
        return hashlib.sha256(repr((self.file, near, *self.shown())).encode()).hexdigest()[:8]


def by_hand():
    """The Mutants of `faults.FAULTS`. ValueError for one whose text is not in its file once."""
    found = []
    for fault in faults.FAULTS:
        before = (ROOT / fault.file).read_text("utf-8")
        old, new = written(fault, fault.old), written(fault, fault.new)
        if before.count(old) != 1 or old == new:
            raise ValueError(f"{fault.file}: {before.count(old)} times {fault.old!r}, expected once")
        found.append(Mutant("by hand", fault.what, fault.file, before, before.replace(old, new)))
    return found


def written(fault, text):
    """A text as its file has it: a notebook is JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1] if fault.file.endswith(".ipynb") else text


def generated(number, seed):
    """A seeded sample of Cosmic Ray's: so many places in the modules, at each one of its changes."""
    sys.path.append(str(ROOT / "cache" / "mutants"))  # where `make mutants` puts it
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    places, made = {}, []
    for file in (name for name in faults.TESTS if name.endswith(".py")):
        lines = (ROOT / file).read_text("utf-8").splitlines()
        for (line, column), change in changes("\n".join(lines) + "\n"):
            # drawn by what stands there: a change elsewhere leaves the rest of the sample as it is
            near = "\n".join(lines[max(0, line - 3) : line + 2])
            drawn = hashlib.sha256(repr((seed, file, near, column)).encode()).hexdigest()
            places.setdefault((drawn, file), []).append(change)
    for drawn, file in sorted(places):
        name, occurrence = random.Random(drawn).choice(places[drawn, file])
        before = (ROOT / file).read_text("utf-8")
        after = mutate_code(before, get_operator(name)(), occurrence)
        if after not in (None, before):
            made.append(Mutant("generated", name.removeprefix("core/"), file, before, after))
        if len(made) == number:
            return made
    raise ValueError(f"sample: got {number}, expected at most {len(made)}")


def changes(code):
    """(place, (operator, its number there)) of each change that Cosmic Ray knows to make to code.

    Left out: messages of errors; how figures look; operators that our code has for sets,
    dictionaries and matrices alone, whose exchange anything notices, and would flatter.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree, lines = get_ast(code), code.splitlines()
    raised = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Raise)]
    spared = {line for node in raised for line in range(node.lineno, node.end_lineno + 1)}
    spared |= {i for i, line in enumerate(lines, 1) if LOOKS.search(line)}
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments() or FLATTERING.search(name):
            continue
        found = (at for node in ast_nodes(tree) for at in operator().mutation_positions(node))
        for occurrence, (start, *_) in enumerate(found):
            if start[0] not in spared:
                yield start, (name, occurrence)


def copied(folder):
    """The checkout as it is in the working tree, under `folder`, with its history."""
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, folder], check=True)
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, encoding="utf-8").stdout.split("\0")
    for name in filter(None, names):
        target = Path(folder, name)
        if not (ROOT / name).exists():
            target.unlink(missing_ok=True)
        elif (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())


def tried(mutant, folder, good):
    """Plant it, run its tests, take it away again: (outcome, the test that noticed, seconds).

    good: test files that are known to pass without a fault; each is tried once before it counts.
    """
    path, spent = folder / mutant.file, 0.0
    for tests in faults.TESTS[mutant.file]:
        if tests not in good and (broken := failed(folder, tests, LIMIT)):
            return BROKEN, broken, spent
        good.add(tests)
        path.write_text(mutant.after, "utf-8")
        begun = time.monotonic()
        try:
            said = failed(folder, tests, LIMIT)
        finally:
            path.write_text(mutant.before, "utf-8")
        spent += time.monotonic() - begun
        if said:
            return NOTICED, said, spent
    return SURVIVED, "", spent


def failed(folder, tests, seconds):
    """The first test of a file that fails in a process of its own, or None."""
    log = folder / "log"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(folder)
        with open(log, "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.path[:0] = [str(folder), str(folder / "tests")]
        os.environ["PYTHONPATH"] = str(folder)
        import pytest

        options = ["-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:randomly"]
        status = 9
        with contextlib.suppress(BaseException):
            status = int(pytest.main([*options, f"tests/{tests}.py"]))
        sys.stdout.flush()
        os._exit(status)
    end, status = time.monotonic() + seconds, None
    while status is None:
        done, how = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(how)
        elif time.monotonic() > end:
            status = "too long"
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it left
    if status == 0:
        return None
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line[:6] in ("FAILED", "ERROR ")]
    return lines[0].split(" - ")[0].split(" ", 1)[1].removeprefix("tests/") if lines else f"{tests}: {status}"


def work(mutants, folder, said):
    """One worker: its own copy, one fault after the other; results as lines of JSON to a pipe."""
    copied(folder)
    good = set()
    for mutant in mutants:
        result = dict(zip(("outcome", "noticed_by", "seconds"), tried(mutant, folder, good), strict=True))
        os.write(said, (json.dumps({"number": mutant.number} | result) + "\n").encode())
    os._exit(0)


def compute(mutants, workers):
    """(mutant, its result) as they come, from so many processes."""
    for name in HEAVY.split():
        __import__(name)
    import torch

    torch.set_num_threads(1)
    read, write = os.pipe()
    by_number = {mutant.number: mutant for mutant in mutants}
    with tempfile.TemporaryDirectory() as place:
        pids = []
        for i in range(workers):
            pid = os.fork()
            if pid == 0:
                work(mutants[i::workers], Path(place, str(i)), write)
            pids.append(pid)
        os.close(write)
        try:
            with open(read, encoding="utf-8") as lines:
                for line in lines:
                    result = json.loads(line)
                    if result["outcome"] == BROKEN:
                        raise RuntimeError(f"fails without a fault: {result['noticed_by']}")
                    yield by_number[result.pop("number")], result
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def known():
    """number -> line of `mutants.csv`."""
    if not FOUND.exists():
        return {}
    with open(FOUND, newline="", encoding="utf-8") as file:
        return {row["number"]: row for row in csv.DictReader(file)}


def kept(rows):
    """Write `mutants.csv` and the table; returns the table."""
    with open(FOUND, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["source"], row["file"], int(row["line"]))))
    lines = ["| faults | planted | change nothing | noticed | share |", "|:--|--:|--:|--:|--:|"]
    for source in ("by hand", "generated"):
        outcomes = [row["outcome"] for row in rows if row["source"] == source]
        same, noticed = outcomes.count(EQUIVALENT), outcomes.count(NOTICED)
        share = f"{100 * noticed / (len(outcomes) - same):.1f} %" if len(outcomes) > same else "–"
        lines.append(f"| {source} | {len(outcomes)} | {same} | {noticed} | {share} |")
    TABLE.write_text("\n".join(lines) + "\n", "utf-8")
    left = [row for row in rows if row["outcome"] == SURVIVED]
    return "\n".join([*lines, "", *("{number} {file}:{line} {old} → {new}".format(**row) for row in left)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=300, help="generated faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="faults of files with this in their names")
    parser.add_argument("--fresh", action="store_true", help="nothing noticed before counts")
    chosen = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", HF_HUB_OFFLINE="1")
    before, rows, wanted = {} if chosen.fresh else known(), {}, []
    hand = {mutant.number: mutant for mutant in by_hand()}
    made = {mutant.number: mutant for mutant in generated(chosen.sample, chosen.seed)}
    planted = hand | {number: mutant for number, mutant in made.items() if number not in hand}
    for mutant in planted.values():
        was, now = mutant.shown()
        row = {"number": mutant.number, "source": mutant.source, "file": mutant.file, "line": mutant.line}
        row |= {"what": mutant.what, "old": was, "new": now, "outcome": EQUIVALENT, "noticed_by": "", "seconds": 0}
        row["why"] = faults.EQUIVALENT.get(mutant.number, "")
        old = before.get(mutant.number)
        if mutant.number in faults.EQUIVALENT:
            rows[mutant.number] = row
        elif old and old["outcome"] == NOTICED:
            rows[mutant.number] = row | {name: old[name] for name in ("outcome", "noticed_by", "seconds")}
        elif chosen.only in mutant.file:
            rows[mutant.number] = row | {"outcome": "not tried"}
            wanted.append(mutant)
        elif old:
            rows[mutant.number] = old
    for i, (mutant, result) in enumerate(compute(wanted, chosen.workers) if wanted else (), 1):
        result["seconds"] = f"{result['seconds']:.0f}"
        rows[mutant.number] |= result
        print(
            f"{i} of {len(wanted)}: {mutant.file}, {mutant.what}: {result['outcome']} {result['noticed_by']}",
            flush=True,
        )
        kept([row for row in rows.values() if row["outcome"] != "not tried"])
    print(kept(list(rows.values())))
    from curlora_lite.replication import pages  # not before: each fault has a package of its own

    pages.fill(HERE / "README.md")


if __name__ == "__main__":
    main()
