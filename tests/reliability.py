"""`make reliability`: kills survived and bad input tried, counted into `results/reliability/`."""

import collections
import os
import sys

os.environ["CURLORA_CASES"] = "5"  # times as many as in the tests, and new ones each time

import attempts
import endurance
import pytest

from curlora_lite.replication import provenance, records
from curlora_lite.replication.tables import Table

FOLDER = records.ROOT / "results" / "reliability" / "tables"
TESTS = str(records.ROOT / "tests" / "test_bad_input.py")


def survival_table(counts):
    """What came of the kills and of grids at once (see `endurance.counts`)."""
    kills, shared = counts["kills"], counts["shared"]
    rows = (
        ("kills (`kill -9`) at random moments", kills["kills"]),
        ("of these while a record was being written, or just before its move", kills["stopped"]),
        ("finished records lost", kills["lost"]),
        ("records found half-written", kills["half-written"]),
        ("grids that were killed until they were complete", kills["grids"]),
        ("of these with all numbers of an undisturbed one", kills["equal"]),
        ("grids at once, by fours on one folder", shared["grids"]),
        ("runs in them", shared["runs"]),
        ("of these begun twice", shared["begun twice"]),
        ("of these missing at the end", shared["missing"]),
    )
    return Table(
        "What grids survive",
        ("", "Count"),
        tuple((name, f"{count:,}") for name, count in rows),
        (
            "Real processes and made-up runs of some milliseconds, so that kills fall into the "
            "writing of records too; 24 runs a grid, seeded moments. The numbers and the way of "
            "records, claims and writing are those of real grids.",
        ),
    )


def cases_table(ended):
    """How many generated inputs were tried, and what they ended in."""
    tried = collections.defaultdict(collections.Counter)
    for (what, end), count in ended.items():
        tried[what]["success" if end == "success" else "refused"] += count
        if end != "success":
            tried[what][end] += count
    rows = []
    for what, counts in sorted(tried.items()):
        errors = sorted(set(counts) - {"success", "refused"})
        rows.append(
            (what, f"{counts['success']:,}", f"{counts['refused']:,}", ", ".join(errors) or "none")
        )
    succeeded, refused = (sum(c[k] for c in tried.values()) for k in ("success", "refused"))
    rows.append(("all", f"{succeeded:,}", f"{refused:,}", ""))
    return Table(
        "Bad input: generated cases and what they ended in",
        ("Input", "Worked", "Refused", "By"),
        tuple(rows),
        (
            "Each ended in success or in a documented error, and left every file as it was; any "
            "other end would have failed. SystemExit is argparse's own refusal. Worked, of the "
            "command line: accepted, and stopped before anything was fetched.",
        ),
        left=(0, 3),
    )


def main():
    """Count and write; the exit status is pytest's."""
    source = provenance.of_code("make reliability")
    survival_table(endurance.counts()).save(FOLDER / "survival", source)
    status = pytest.main(["-q", "-p", "no:cacheprovider", TESTS])
    if status == 0:
        cases_table(attempts.ENDED).save(FOLDER / "cases", source)
    print(f"written: {FOLDER.relative_to(records.ROOT)}/")
    return status


if __name__ == "__main__":
    sys.exit(main())
