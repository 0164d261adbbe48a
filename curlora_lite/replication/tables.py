"""Records -> the paper's two tables, as Markdown, CSV and LaTeX from the one object."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from .. import metrics
from . import fetch, paper, provenance
from .protocol import Protocol
from .records import by_cell
from .specs import method_label

MODEL_LABELS = {
    "smollm2-135m": "SmolLM2-135M-Instruct",
    "small-gpt2": "small GPT-2",
    "gpt2-large": "GPT-2 Large",
    "mistral-7b": "Mistral-7B-v0.3",
}
WEIGHTS = {"smollm2-135m": "4-bit weights dequantised and held", "small-gpt2": "trained and held"}
TASKS = {"mrpc": "MRPC", "sst2": "SST-2", "sentiment140": "Sentiment140"}
# Scores that stand beside the published rows (see `sequence._examples`).
BESIDE = {
    "sentiment140, balanced": "as many positive as negative rows",
    "sentiment140, three classes": "held-out rows of three classes",
}
CONSTANT = 0.95  # from this share of one answer on, a score is marked as a constant answer's
CLOSE = 0.005  # published scores have two decimals


@dataclass(frozen=True)
class Table:
    """Columns and rows of text, with a caption above and notes below.

    left: places of the columns that hold text; the others hold numbers and go to the right.
    """

    caption: str
    columns: tuple
    rows: tuple
    notes: tuple = ()
    left: tuple = (0,)

    def markdown(self):
        """GitHub Markdown: numbers on the right."""
        align = ["---" if i in self.left else "---:" for i in range(len(self.columns))]
        lines = [f"**{self.caption}**", ""]
        lines += ["| " + " | ".join(row) + " |" for row in (self.columns, align, *self.rows)]
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"

    def csv(self):
        """One header line and one line a row; caption and notes are left out."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows((self.columns, *self.rows))
        return out.getvalue()

    def latex(self):
        """A `table` environment with booktabs rules, ready to be put into a report."""
        lines = ["% needs booktabs and graphicx", r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{_tex(self.caption)}}}", r"\resizebox{\textwidth}{!}{%"]
        align = "".join("l" if i in self.left else "r" for i in range(len(self.columns)))
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [_tex_row(self.columns), r"\midrule", *map(_tex_row, self.rows), r"\bottomrule"]
        lines += [r"\end{tabular}}", *(rf"\par\footnotesize {_tex(n)}" for n in self.notes)]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def save(self, stem, source, suffixes=(".md", ".csv", ".tex")):
        """Write `<stem>.md`, `.csv` and `.tex`, or some of them; returns the paths.

        source: the `provenance.Source`; the LaTeX says it in a comment, `provenance.json` whole.
        """
        texts = {".md": self.markdown, ".csv": self.csv}
        texts[".tex"] = lambda: f"% {source.text()}\n{self.latex()}"
        paths = [Path(f"{stem}{suffix}") for suffix in suffixes]
        for path, text in zip(paths, (texts[suffix]() for suffix in suffixes), strict=True):
            with fetch.aside(path) as part:
                part.write_text(text)
        provenance.keep(paths, source)
        return paths

    def _repr_markdown_(self):
        return self.markdown()


_TEX = {
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "±": r"$\pm$",
    "§": r"\S{}",
}
_TEX |= {c: rf"\{c}" for c in "{}$"} | {"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}"}
_TEX |= {
    "↳": r"$\hookrightarrow$ ",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "‖": r"$\|$",
}


def _tex(text):
    return "".join(_TEX.get(c, c) for c in text)


def _tex_row(cells):
    return " & ".join(map(_tex, cells)) + r" \\"


def results_table(records):
    """One of the paper's two tables from the records of one grid, the published numbers below ours.

    Rows are the paper's (`paper.ROWS`); columns: the number of examples or tokens, the majority
    class, head only, then LoRA and CURLoRA by rank. Means over seeds with the sample standard
    deviation where there are several. ValueError if records of different profiles, tables,
    protocols or precisions are mixed.
    """
    shared = shared_spec([record.spec for record in records])
    cells = by_cell(records)
    table, source = shared["table"], shared["source"]
    rows = []
    for place, (task, stage) in enumerate(paper.ROWS):
        label = _row_label(task, stage, source)
        values = [_cell(cells[cell], task, stage) for cell in cells]
        rows.append((label, *_n_and_majority(records, task, stage), *values))
        rows.append(_published_row(table, task, place, cells))
        for name, what in BESIDE.items():
            if task == "sentiment140" and any(run.score(name, stage) for run in records):
                values = [_cell(cells[cell], name, stage) for cell in cells]
                rows.append((f"↳ {what}", *_n_and_majority(records, name, stage), *values))
    caption = f"Table {table[-1]}, {shared['profile']} profile: {_stands_for(shared)}"
    columns = ("", "n", "Majority", *(method_label(*cell) for cell in cells))
    return Table(caption, columns, tuple(rows), _notes(records, shared, rows))


def task_label(task, source):
    """`MRPC`, or `MRPC*` where other data stands in for it."""
    return TASKS[task] + ("" if source == "paper" else "*")


def _row_label(task, stage, source):
    if task is None:
        return "Perplexity before" if stage == 0 else "Perplexity after"
    return f"{task_label(task, source)} after {task_label(tuple(TASKS)[stage - 1], source)}"


def _published_row(table, task, place, cells):
    """What the paper published for its model; n and the majority class are ours (see the notes)."""
    published = [paper.PUBLISHED[table].get(cell) for cell in cells]
    shown = ["" if p is None else _number(p[place]) for p in published]
    if task is None:
        return (
            f"↳ published, {paper.MODELS[table]}",
            f"{paper.SETTINGS[table]['text_tokens']:,} tokens",
            "",
            *shown,
        )
    share = paper.MAJORITY[task]
    for i, values in enumerate(published):
        if values and min(abs(values[place] - c) for c in (share, 1 - share)) <= CLOSE:
            shown[i] += "‡"
    n = f"{paper.EVAL_ROWS[task]:,}"
    return (f"↳ published, {paper.MODELS[table]}", n, _number(share), *shown)


def shared_spec(specs):
    """What all specs agree on; ValueError where they differ in more than method, rank and seed."""
    if not specs:
        raise ValueError("records: got none, expected those of at least one run")
    free = {"method", "rank", "seed"}
    shared = {k: v for k, v in specs[0].items() if k not in free}
    for spec in specs:
        for key, value in shared.items():
            if spec[key] != value:
                raise ValueError(
                    f"records: {key} is {value!r} in one and {spec[key]!r} in another; expected "
                    "runs that differ in method, rank and seed only"
                )
    return shared


def _stands_for(shared):
    """What was run in place of what, in words."""
    theirs, ours = paper.MODELS[shared["table"]], MODEL_LABELS[shared["model"]["name"]]
    model = ours if ours == theirs else f"{ours} in place of {theirs}"
    data = "the paper's data" if shared["source"] == "paper" else "other data than the paper's"
    return f"{model}, on {data}"


def _cell(records, task, stage):
    if task:
        scores = [record.score(task, stage) for record in records]
        constant = any(s and max(s["predicted"]) >= CONSTANT * s["n"] for s in scores)
        return _mean([r.accuracy(task, stage) for r in records]) + ("†" if constant else "")
    if stage == 0:
        return _mean([record.initial_perplexity() for record in records])
    return _mean([record.final_perplexity() for record in records])


def _mean(values):
    if any(math.isnan(v) for v in values):
        return f"none ({sum(map(math.isnan, values))} of {len(values)} failed)"
    mean, spread, _ = metrics.mean_and_spread(values)
    return _number(mean) if spread is None else f"{_number(mean)} ± {_number(spread)}"


def _number(value):
    if math.isinf(value):
        return "∞"
    value = round(value, 9) + 0.0  # no minus zero
    if abs(value) < 0.005:
        return "0.00"
    return f"{value:.3g}" if value >= 1e5 else f"{value:,.1f}" if value >= 1000 else f"{value:.2f}"


def _n_and_majority(records, task, stage):
    whole = next((r for r in records if r.status == "finished"), records[0])
    if not task:
        tokens = whole.perplexity.get("initial", {}).get("tokens")
        return f"{tokens:,} tokens" if tokens else "", ""
    score = whole.score(task, stage)
    return (f"{score['n']:,}", _number(score["majority"])) if score else ("", "")


def _notes(records, shared, rows):
    table, own = shared["table"], shared["source"] == "paper"
    ours, theirs = MODEL_LABELS[shared["model"]["name"]], paper.MODELS[table]
    marked = "".join(cell for row in rows for cell in row)
    lost = [f"{r.spec['method']} {r.status}: {r.message}" for r in records if r.message]
    notes = [
        f"Ours: {ours}, {_weights(shared)}, {_seeds(records)}; protocol "
        f"{Protocol(**shared['protocol']).name()}. {_departures(shared)}",
        f"Rows marked ↳ published: {theirs} on the paper's data (arXiv 2408.14572), one run each"
        + (": compare patterns, not values. " if ours != theirs or not own else ". ")
        + "Their n and majority class are counted by us; the paper gives neither.",
        _sampling_note(records),
    ]
    if not own:
        notes.insert(
            1, "A name with * stands for other data in its place; perplexity is of editorials."
        )
    if "†" in marked:
        notes.append(f"† at least {100 * CONSTANT:.0f} % of the answers are one class.")
    if "‡" in marked:
        notes.append("‡ to two decimals the accuracy of always giving one answer.")
    return (*notes, _origin_note(records), *mixed_code(records), *lost)


def _weights(shared):
    held = WEIGHTS.get(shared["model"]["name"], "weights held")
    return f"{held} in {shared['precision']}"


def _seeds(records):
    seeds = sorted({record.spec["seed"] for record in records})
    listed = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        return f"one run each, seed {listed}"
    return f"mean ± sample standard deviation over seeds {listed}"


def _departures(shared):
    """Where sizes and rates differ from the paper's, in words; the paper's own in brackets."""
    theirs = paper.SETTINGS[shared["table"]]
    rows = paper.TRAIN_ROWS[shared["table"]]
    trained = [
        f"{t['name']} {t['train_rows']:,} × {t['epochs']}"
        + ("" if t["train_rows"] == rows[t["name"]] else f" ({rows[t['name']]:,} × {t['epochs']})")
        for t in shared["tasks"]
    ]
    names = {"learning_rate": "nominal learning rate", "batch": "batch", "max_length": "length"}
    values = [
        f"{name} {shared[key]:g}" + ("" if shared[key] == theirs[key] else f" ({theirs[key]:g})")
        for key, name in names.items()
    ]
    if shared["protocol"]["perplexity"] == "first-tokens":
        text = f"perplexity over {shared['text_tokens']:,} tokens"
        if shared["text_tokens"] != shared["text_window"]:
            text += f" in windows of {shared['text_window']:,}"
        if shared["text_tokens"] != theirs["text_tokens"]:
            text += f" ({theirs['text_tokens']:,} in one)"
        values.append(text)
    said = "; the paper's own in brackets where they differ"
    return f"Training rows × epochs {', '.join(trained)}; {', '.join(values)}{said}."


def _origin_note(records):
    commits = sorted({str(record.provenance["commit"])[:10] for record in records})
    where = sorted({record.provenance["device"] for record in records})
    return f"Computed by the code at commit {', '.join(commits)} on {', '.join(where)}."


def mixed_code(records):
    """A note, in a tuple, that the records come from several versions of the code; else ()."""
    found = sorted({str(r.provenance.get("code", "one not recorded")) for r in records})
    if len(found) == 1:
        return ()
    said = f"Computed by {len(found)} versions of the numerical code: {', '.join(found)}"
    return (f"{said}. `make reproduce` computes all by the present one.",)


def _sampling_note(records):
    """What the sample size alone allows for: Wilson's interval in the middle of the table."""
    sizes = {s["n"] for r in records for stage in r.stages for s in stage["scores"].values()}
    parts = []
    for n in sorted(sizes):
        low, high = metrics.wilson_interval(0.7, n)
        parts.append(f"{low:.2f} to {high:.2f} for n = {n:,}")
    said = "95 % interval (Wilson) of an accuracy of 0.70, for the choice of rows alone"
    return f"{said}: {', '.join(parts)}."


def summary_table(records):
    """ACC, forgetting and perplexity growth of each method and rank (see `metrics`).

    Runs that diverged are counted and left out of the means.
    """
    shared = shared_spec([record.spec for record in records])
    rows = []
    for (method, rank), runs in by_cell(records).items():
        done = [run for run in runs if run.status == "finished"]
        R = [metrics.score_matrix(run) for run in done]
        ratios = [run.final_perplexity() / run.initial_perplexity() for run in done]
        measures = (
            [metrics.plasticity(r) for r in R],
            [metrics.average_accuracy(r) for r in R],
            [metrics.forgetting(r) for r in R],
            ratios,
        )
        cells = [_mean(values) if values else "none" for values in measures]
        seconds = metrics.mean_and_spread([run.seconds for run in runs])[0]
        counts = f"{len(done)} of {len(runs)}"
        rows.append((method_label(method, rank), *cells, counts, f"{seconds:.0f}"))
    whole = next((r for r in records if r.status == "finished"), None)
    if whole:
        tasks = [stage["task"] for stage in whole.stages]
        majority = [whole.stages[-1]["scores"][task]["majority"] for task in tasks]
        constant = _number(sum(majority) / len(majority))
        rows.append(("Majority class", constant, constant, "", "", "", ""))
    return Table(
        f"Table {shared['table'][-1]}'s runs in summary, {shared['profile']} profile",
        ("", "Just learned", "ACC", "Forgetting", "Perplexity ratio", "Finished", "Seconds"),
        tuple(rows),
        (
            "Just learned: accuracy of each task right after its own stage. ACC: of all tasks at "
            "the end. Forgetting: best earlier less last, over the earlier tasks. Perplexity "
            "ratio: after over before. Means over the tasks, whatever their number of classes, "
            "then over seeds. Seconds: of one run, others beside it where cores allow.",
            *mixed_code(records),
        ),
    )
