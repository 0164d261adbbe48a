"""The paper's tables from made-up records, each cell worked out by hand, in every format."""

import dataclasses
import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from made_records import record

from curlora_lite.replication import paper, profiles, records, runs, tables

COLUMNS = ["n", "Majority", "Head only", "LoRA-8", "CURLoRA-8"]
PUBLISHED = "↳ published"
# of `two_seeds`: LoRA's second run diverged, head only gave one answer to 96 rows in its first
LINES = Path(__file__).with_name("made_table1.txt").read_text("utf-8").splitlines()
TABLE1 = [tuple(cell.strip() for cell in line.split("|")) for line in LINES]
SUMMARY = [
    ("Head only", "0.60 ± 0.00", "0.60 ± 0.00", "0.00 ± 0.00", "1.00 ± 0.00"),
    # (0.4 + 0.8 + 0.6) / 3; (0.7 + 0.9 + 0.6) / 3; (0.3 + 0.1) / 2; 60 / 20
    ("LoRA-8", "0.60", "0.73", "0.20", "3.00"),
    # forgetting -0.025 and 0; ratios 1.05 and 1.45, geometric mean 1.2339
    ("CURLoRA-8", "0.63 ± 0.00", "0.62 ± 0.01", "-0.01 ± 0.02", "1.23 ± 0.28"),
    ("Majority class", "0.56", "0.56", "", ""),  # (0.68 + 0.51 + 0.5) / 3
]


def rows_of(table):
    return [(label, *row) for label, row in zip(table.index, table.to_numpy(), strict=True)]


def test_every_cell_of_table_1(frame):
    table = tables.results(frame, "table1")
    assert list(table.columns) == COLUMNS
    assert rows_of(table) == TABLE1


def test_table_2_of_one_seed_on_other_data():
    specs = profiles.grid("embedded", "table2", ranks=[8, 16], methods=["curlora"])
    made = [record(s, [[0.7], [0.8, 0.9], [0.6, 0.5, 0.4]], (30.0, 45.0), answered=95)
            for s in reversed(specs)]  # fmt: skip
    table = tables.results(runs.of_grid(made), "table2")
    found = {row[0]: row[1:] for row in rows_of(table) if row[0] != PUBLISHED}
    assert len(found) == 9 and found["Perplexity after"] == ("8,191", "", "45.00", "45.00")
    assert found["MRPC* after SST-2*"] == ("100", "0.68", "0.80†", "0.80†")
    assert found["Sentiment140* after Sentiment140*"] == ("100", "1.00", "0.40†", "0.40†")
    last = [row[3:] for row in rows_of(table) if row[0] == PUBLISHED]
    assert last[0] == ("28.25", "28.25") and last[-1] == ("28.25", "28.08")


def test_ranks_that_were_not_published_have_no_such_rows():
    spec = profiles.grid("smollm2", "table1", ranks=[4], methods=["lora"])[0]
    made = runs.of_grid([record(spec, [[0.3]], (9.0,), status="diverged")])
    table = tables.results(made, "table1")
    assert rows_of(table)[0] == ("Perplexity before", "", "", "–")
    assert rows_of(table)[-1] == ("Runs finished", "", "", "0 of 1")
    assert len(table) == len(paper.ROWS) + 2
    summary = tables.summary(runs.of_grid([record(spec, [], (), status="diverged")]), "table1")
    assert rows_of(summary) == [("LoRA-4", "–", "–", "–", "–")]


def test_methods_of_fewer_seeds_say_so(frame):
    more = frame[(frame.status == "finished") & ((frame.label != "CURLoRA-8") | (frame.seed == 1))]
    assert rows_of(tables.results(more, "table1"))[-1][3:] == ("2 of 2", "1 of 1", "1 of 1")


def test_every_cell_of_the_summary(frame):
    table = tables.summary(frame, "table1")
    assert list(table.columns) == ["ACC", "Just learned", "Forgetting", "Perplexity after/before"]
    assert rows_of(table) == SUMMARY


OTHER = [{"protocol": "published,lora_init=usual"}, {"precision": "bf16"}, {"learning_rate": 1.0}]
OTHER += [{"profile": "another"}, {"source": "embedded"}]


@pytest.mark.parametrize("changes", OTHER)
def test_runs_that_differ_in_more_than_method_rank_and_seed_are_refused(frame, changes):
    """LoRA from two initialisations is not one cell."""
    (column,) = changes
    plain = {k: v for k, v in changes.items() if k in ("protocol", "precision")}
    spec = profiles.grid("smollm2", "table1", ranks=[16], **{"precision": "fp32", **plain})[1]
    spec = dataclasses.replace(spec, **{k: v for k, v in changes.items() if k not in plain})
    other = runs.of_grid([record(spec, [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5]], (1.0, 1.0))])
    for made in (tables.results, tables.summary):
        with pytest.raises(ValueError, match=f"frame: {column} is .* in one run and"):
            made(pd.concat([frame, other]), "table1")


def test_runs_of_other_sizes_are_refused(frame):
    """As when a profile's sizes were changed and old records are still in its folder."""
    again = frame.assign(run=frame.run + "-old")
    with pytest.raises(ValueError, match="runs of several sizes, such as table1-.*-old"):
        tables.results(pd.concat([frame, again]), "table1")
    other = frame[frame.label == "CURLoRA-8"].assign(label="CURLoRA-16", rank=16, n=50)
    with pytest.raises(ValueError, match="runs of several sizes"):
        tables.results(pd.concat([frame, other]), "table1")


def test_notes_say_where_the_numbers_come_from(frame):
    what, where = tables.notes(frame, "table1", "make again")
    assert what == (
        "SmolLM2-135M-Instruct in place of Mistral-7B-v0.3, on the paper's data; fp32, protocol "
        "published; mean ± sample standard deviation over runs of seeds 0, 1."
    )
    assert where == "Computed on a machine at commit 0123456789. Again: `make again`"
    _, where = tables.notes(frame.assign(commit="release 0.2.0, code 5"), "table1", "x")
    assert where == "Computed on a machine at release 0.2.0, code 5. Again: `x`"
    own = profiles.grid("mistral-7b", "table1", methods=["head-only"])
    what, _ = tables.notes(runs.of_grid([record(own[0], [], ())]), "table1", "")
    assert what == "Mistral-7B-v0.3, on the paper's data; fp32, protocol published; seed 0."


def test_the_command_that_makes_it_again():
    nothing = {"ranks": None, "protocol": None, "checkpointing": False}
    assert tables.command("reproduce", "embedded", **nothing) == "make reproduce"
    chosen = {"ranks": [8, 16], "protocol": "published,shuffle=true", "checkpointing": True}
    assert tables.command("reproduce", "embedded-quick", **chosen) == (
        "make reproduce QUICK=1 RANKS=8,16 PROTOCOL=published,shuffle=true CHECKPOINTING=1"
    )
    assert tables.command("audit", "smollm2", seeds=0) == "make audit PROFILE=smollm2 SEEDS=0"
    # nor does seed 0 alone, as `papermill -p seeds 0` has it, write over the tables of all
    assert records.outputs("audit", seeds=0) == records.outputs("audit", seeds=[0])


NOTES = ["100 % & a_b", "`make x`"]


def test_all_formats_read_back(frame, tmp_path):
    table = tables.results(frame, "table1")
    said = tables.save(table, tmp_path / "made" / "table1", "Caption", NOTES)
    texts = {p.suffix: p.read_text() for p in (tmp_path / "made").iterdir()}
    assert set(texts) == {".md", ".csv", ".tex"} and texts[".md"] == said

    lines = [line.strip("|").split("|") for line in said.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in line) for line in lines]
    assert cells[0] == ("", *COLUMNS) and cells[2:] == TABLE1
    assert [mark.endswith(":") for mark in cells[1]] == [False, *[True] * len(COLUMNS)]
    assert said.startswith("**Caption**\n") and "100 % & a_b  \n" in said

    read = pd.read_csv(io.StringIO(texts[".csv"]), index_col=0, dtype=str, keep_default_na=False)
    assert list(read.columns) == COLUMNS and rows_of(read) == TABLE1

    body = texts[".tex"].split("\\midrule\n")[1].split("\\bottomrule")[0]
    plain = {r"$^\dagger$": "†", r"$^\ddagger$": "‡", r"$\pm$": "±", r"$\hookrightarrow$": "↳"}
    for tex, character in plain.items():
        body = body.replace(tex, character)
    cells = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()]
    assert [tuple(cell.strip() for cell in line) for line in cells] == TABLE1


def test_latex_escapes_everything_that_it_would_read(tmp_path):
    table = pd.DataFrame({"a_b & c": ["50 %", "#1 {x} $y$"]}, index=["‖x‖ ≥ 1 × 2", "~^\\ §"])
    text = tables.latex(table, "C_1 & 5 %", NOTES)
    assert r"\caption{C\_1 \& 5 \%}" in text
    assert r" & a\_b \& c \\" in text
    assert r"$\|$x$\|$ $\geq$ 1 $\times$ 2 & 50 \% \\" in text
    assert r"\~{}\^{}\textbackslash{} \S{} & \#1 \{x\} \$y\$ \\" in text
    assert r"\par\footnotesize 100 \% \& a\_b" in text and "`" not in text
    body = text.split("\n", 1)[1].replace("{!}{%\n", "")  # the comment, and a line end not read
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert text.isascii()


def test_sizes_beside_the_papers_and_what_the_marks_mean(frame):
    spec = profiles.grid("smollm2", "table1")[0]
    found = tables.sizes(spec).T.to_dict("list")
    for rows in ("mrpc, rows trained", "sst2, rows trained"):
        assert found.pop(rows) == ["1,000", "1,000"]
    assert found == {
        "sentiment140, rows trained": ["498", "498"], "learning_rate": ["0.00025", "0.00025"],
        "batch": ["8", "8"], "max_length": ["512", "512"], "text_tokens": ["8,192", "10,000"],
    }  # fmt: skip
    own = tables.sizes(profiles.grid("gpt2-large", "table2")[0])
    assert (own["gpt2-large"] == own["paper"]).all()
    marks = tables.marks(frame, "table1")
    assert [text[0] for text in marks] == [*"↳†‡9"] and "on 100 rows: 0.60 to 0.78. " in marks[-1]
    assert "†" not in str(tables.marks(frame[frame.method != "head-only"], "table1"))


NUMBERS = [(0.125, "0.12"), (-0.004, "0.00"), (-0.026, "-0.03")]
NUMBERS += [(999.994, "999.99"), (53896.68, "53,897"), (2_345_678.0, "2.35e+06"), (math.inf, "∞")]


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_numbers(value, text):
    assert tables.number(value) == text


def test_parameter_counts_by_the_formula():
    """LoRA r (in + out) and CURLoRA r^2 a projection; the paper's where it gives any."""
    shapes = {"table1": 32 * [(4096, 4096), (4096, 1024), (4096, 1024)]}
    shapes |= {"table2": 36 * [(1280, 3840)]}
    published = {("table1", "All weights"): "7,248,023,552", ("table1", "LoRA-16"): "9,437,184"}
    published |= {("table1", "CURLoRA-16"): "24,576", ("table2", "LoRA-8"): "1,474,560"}
    published |= {("table2", "CURLoRA-8"): "2,304", ("table2", "CURLoRA-24"): "20,736"}
    for name, projections in shapes.items():
        table = tables.parameters(name)
        for r in (8, 16, 24):
            lora = sum(r * (a + b) for a, b in projections)
            assert table.Counted[f"LoRA-{r}"] == f"{lora:,}"
            assert table.Counted[f"CURLoRA-{r}"] == f"{r * r * len(projections):,}"
        for label, row in table.iterrows():
            assert row.Published == published.get((name, label), "")
            assert row.Published in ("", row.Counted)


def test_several_seeds_are_their_mean_and_sample_deviation():
    assert tables.mean(pd.Series([0.6, 0.6, 0.9])) == "0.70 ± 0.17"  # sqrt(0.06 / 2); median 0.60
    assert tables.mean(pd.Series([0.6])) == "0.60" and tables.mean(pd.Series([])) == "–"
