"""`make reliability`: kills survived and bad input tried, counted into `results/reliability/`."""

import collections
import os
import sys

os.environ["CURLORA_CASES"] = "5"  # times as many as in the tests, and new ones each time

import attempts
import endurance
import pandas as pd
import pytest

from curlora_lite.replication import fetch, records

FOLDER = records.ROOT / "results" / "reliability" / "tables"
TESTS = str(records.ROOT / "tests" / "test_bad_input.py")


def survival_table(counts):
    """What came of the kills and of grids at once (see `endurance.counts`), as a DataFrame."""
    kills, shared = counts["kills"], counts["shared"]
    rows = {
        "kills (`kill -9`) at random moments": kills["kills"],
        "of these while a record was being written, or just before its move": kills["stopped"],
        "finished records lost": kills["lost"],
        "records found half-written": kills["half-written"],
        "grids that were killed until they were complete": kills["grids"],
        "of these with all numbers of an undisturbed one": kills["equal"],
        "grids at once, by fours on one folder": shared["grids"],
        "runs in them": shared["runs"],
        "of these begun twice": shared["begun twice"],
        "of these missing at the end": shared["missing"],
    }
    return pd.Series(rows, name="Count").rename_axis("").reset_index()


def cases_table(ended):
    """How many generated inputs were tried, and what they ended in, as a DataFrame.

    ended: (what was tried, `success` or the error's name) -> how often.
    """
    tried = collections.defaultdict(lambda: {"Worked": 0, "Refused": 0, "By": set()})
    for (what, end), count in ended.items():
        tried[what]["Worked" if end == "success" else "Refused"] += count
        tried[what]["By"] |= {end} - {"success"}
    found = pd.DataFrame(tried).T.sort_index().rename_axis("Input").reset_index()
    found["By"] = [", ".join(sorted(errors)) or "none" for errors in found["By"]]
    total = found[["Worked", "Refused"]].sum()
    return pd.concat([found, pd.DataFrame([{"Input": "all", **total, "By": ""}])])


def save(found, name):
    """Write a DataFrame as Markdown and CSV."""
    for suffix, text in (
        ("md", found.to_markdown(index=False) + "\n"),
        ("csv", found.to_csv(index=False)),
    ):
        with fetch.aside(FOLDER / f"{name}.{suffix}") as part:
            part.write_text(text)


def main():
    """Count and write; the exit status is pytest's."""
    save(survival_table(endurance.counts()), "survival")
    status = pytest.main(["-q", "-p", "no:cacheprovider", TESTS])
    if status == 0:
        save(cases_table(attempts.ENDED), "cases")
    print(f"written: {FOLDER.relative_to(records.ROOT)}/")
    return status


if __name__ == "__main__":
    sys.exit(main())
