"""Records -> Table -> Markdown, CSV and LaTeX, all from the one object."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from . import fetch, metrics, paper
from .adapters import CURLoRAConfig, LoRAConfig, add_adapters, count_trainable
from .models import meta_model
from .profiles import method_label
from .protocol import Protocol
from .records import by_cell

MODEL_LABELS = {
    "smollm2-135m": "SmolLM2-135M",
    "small-gpt2": "small GPT-2",
    "gpt2-large": "GPT-2 Large",
    "mistral-7b": "Mistral-7B-v0.3",
}
# Scores that stand beside the published rows (see `continual._examples`).
BESIDE = {
    "sentiment140, balanced": "↳ on as many positive as negative rows",
    "sentiment140, three classes": "↳ on held-out rows of three classes",
}


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
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.caption)}}}"]
        align = "".join("l" if i in self.left else "r" for i in range(len(self.columns)))
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [_tex_row(self.columns), r"\midrule", *map(_tex_row, self.rows), r"\bottomrule"]
        lines += [r"\end{tabular}", *(rf"\par\footnotesize {_tex(n)}" for n in self.notes)]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def save(self, stem):
        """Write `<stem>.md`, `.csv` and `.tex`; returns the three paths."""
        texts = {".md": self.markdown(), ".csv": self.csv(), ".tex": self.latex()}
        paths = [Path(f"{stem}{suffix}") for suffix in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            with fetch.aside(path) as part:
                part.write_text(text)
        return paths

    def _repr_markdown_(self):
        return self.markdown()


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "§": r"\S{}", "↳": ""}
_TEX |= {"∞": r"$\infty$", "×": r"$\times$", "≥": r"$\geq$"}


def _tex(text):
    return "".join(_TEX.get(c, c) for c in text).strip()


def _tex_row(cells):
    return " & ".join(map(_tex, cells)) + r" \\"


def results_table(records):
    """One of the paper's two tables from the records of one grid, the published numbers below ours.

    Rows are the paper's (`paper.ROWS`); columns: the number of examples or tokens, the majority
    class, head only, then LoRA and CURLoRA by rank. Means over seeds with the sample standard
    deviation where there are several. ValueError if records of different profiles, tables,
    protocols or precisions are mixed.
    """
    specs = [record.spec for record in records]
    shared = shared_spec(specs)
    cells = by_cell(records)
    table, ours = shared["table"], MODEL_LABELS[shared["model"]["name"]]
    rows = []
    for place, (_, label, task, stage) in enumerate(paper.ROWS):
        values = [_cell(cells[cell], task, stage) for cell in cells]
        n, majority = _n_and_majority(records, task, stage)
        rows.append((label, n, majority, *values))
        published = [paper.PUBLISHED[table].get(cell) for cell in cells]
        share = _number(paper.MAJORITY[task]) if task else ""
        rest = ["" if p is None else _number(p[place]) for p in published]
        rows.append((f"↳ published, {paper.MODELS[table]}", "", share, *rest))
        for name, what in BESIDE.items():
            if task == "sentiment140" and any(score_of(run, name) for run in records):
                values = [_cell(cells[cell], name, stage) for cell in cells]
                rows.append((what, *_n_and_majority(records, name, stage), *values))
    number = table[-1]
    caption = f"Table {number}, {shared['profile']} profile: {_stands_for(shared)}"
    columns = ("", "n", "Majority", *(method_label(*cell) for cell in cells))
    return Table(caption, columns, tuple(rows), _notes(records, shared, table, ours))


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


def score_of(record, task):
    """The last score of `task` in a record, or None."""
    return record.score(task, len(record.stages))


def _cell(records, task, stage):
    if task:
        return _mean([record.accuracy(task, stage) for record in records])
    if stage == 0:
        return _mean([record.perplexity["initial"]["perplexity"] for record in records])
    return _mean([record.final_perplexity() for record in records])


def _mean(values):
    if any(math.isnan(v) for v in values):
        return f"none ({sum(map(math.isnan, values))} of {len(values)} failed)"
    mean, spread, _ = metrics.mean_and_spread(values)
    return _number(mean) if spread is None else f"{_number(mean)} ± {_number(spread)}"


def _number(value):
    if math.isinf(value):
        return "∞"
    return f"{value:.3g}" if value >= 1e5 else f"{value:,.1f}" if value >= 1000 else f"{value:.2f}"


def _n_and_majority(records, task, stage):
    whole = next((r for r in records if r.status == "finished"), records[0])
    if not task:
        return f"{whole.perplexity['initial']['tokens']:,} tokens", ""
    score = whole.score(task, stage)
    return (str(score["n"]), _number(score["majority"])) if score else ("", "")


def _notes(records, shared, table, ours):
    seeds = sorted({record.spec["seed"] for record in records})
    commits = sorted({str(record.provenance["commit"])[:10] for record in records})
    where = sorted({record.provenance["device"] for record in records})
    spread = "mean ± sample standard deviation over" if len(seeds) > 1 else "one run each,"
    sizes = {t["name"]: (t["train_rows"], t["epochs"]) for t in shared["tasks"]}
    trained = ", ".join(f"{name} {rows} × {epochs}" for name, (rows, epochs) in sizes.items())
    protocol = Protocol(**shared["protocol"]).name()
    said = "on the paper's own data" if shared["source"] == "embedded" else "on the same data"
    other = "" if ours == paper.MODELS[table] else "another model"
    other += " on other data" if shared["source"] == "embedded" else ""
    warning = f": {other}, to compare patterns with, not values" if other else ""
    lost = [f"{r.spec['method']} {r.status}: {r.message}" for r in records if r.message]
    return (
        f"Ours: {ours} ({shared['precision']} frozen weights), {spread} "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}; "
        f"protocol {protocol}; training rows × epochs: {trained}; "
        f"nominal learning rate {shared['learning_rate']:g}.",
        f"The rows marked “published” are {paper.MODELS[table]}'s {said} (arXiv 2408.14572), one "
        f"run each{warning}. Majority is the accuracy of always answering the most frequent class.",
        _sampling_note(records),
        f"Computed at commit {', '.join(commits)} on {', '.join(where)}.",
        *lost,
    )


def _sampling_note(records):
    """What the sample size alone allows for: Wilson's interval in the middle of the table."""
    sizes = {s["n"] for r in records for stage in r.stages for s in stage["scores"].values()}
    parts = []
    for n in sorted(sizes):
        low, high = metrics.wilson_interval(0.7, n)
        parts.append(f"{low:.2f} to {high:.2f} for n = {n}")
    return f"95 % interval (Wilson) of an accuracy of 0.70: {', '.join(parts)}."


def parameters_table():
    """§4.5: the paper's parameter counts beside counts taken from the real shapes.

    Ours are counted on the meta device: models of the real configurations, adapters added, the
    parameters that receive gradients summed. Source: §4.5 and the author's stored outputs.
    """
    rows = []
    for name in ("Mistral-7B-v0.3", "GPT-2 Large"):
        model, targets = meta_model(name)
        counts = {("full", None): count_trainable(model)}
        for rank in paper.RANKS:
            for method, config in (("lora", LoRAConfig), ("curlora", CURLoRAConfig)):
                model, _ = meta_model(name)
                add_adapters(model, config(rank=rank, target_modules=targets))
                counts[method, rank] = count_trainable(model)
        for (method, rank), count in counts.items():
            said, source = paper.PARAMETERS.get((name, method, rank), (None, ""))
            label = "all weights" if method == "full" else method_label(method, rank)
            share = "1" if method == "full" else f"{count / counts['full', None]:.1e}"
            published = "" if said is None else f"{said:,}"
            rows.append((f"{name}, {label}", f"{count:,}", share, published, source))
    return Table(
        "Trainable parameters: counted on the real shapes, and as published",
        ("", "Counted", "Share of all", "Published", "Source"),
        tuple(rows),
        (
            "Counted on the meta device: no weights are needed. Heads are not included.",
            "An empty cell under Published: the paper gives no figure.",
        ),
        left=(0, 4),
    )


def stand_in_table(report):
    """How good a language model Table 2's stand-in is: `models.stand_in_report()` as a Table."""
    rows = (
        ("small GPT-2", f"{report['perplexity']:,.1f}", f"{report['parameters']:,}"),
        ("unigram frequencies", f"{report['unigram_perplexity']:,.1f}", ""),
    )
    return Table(
        "Table 2's stand-in on held-out editorials",
        ("", "Perplexity per token", "Parameters"),
        rows,
        (
            f"{report['held_out_tokens']:,} held-out tokens of its own BPE; trained on "
            f"{report['training_tokens']:,} other tokens for {report['epochs']:.1f} epochs.",
            "The unigram model answers each token's frequency in the training text.",
        ),
    )


def summary_table(records):
    """ACC, forgetting and perplexity growth of each method and rank (see `metrics`).

    Runs that diverged are counted and left out of the means.
    """
    shared = shared_spec([record.spec for record in records])
    rows = []
    for (method, rank), runs in by_cell(records).items():
        done = [run for run in runs if run.status == "finished"]
        R = [metrics.score_matrix(run) for run in done]
        ratios = [run.final_perplexity() / run.perplexity["initial"]["perplexity"] for run in done]
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
        rows.append(("Majority class", constant, constant, "0.00", "1.00", "", ""))
    return Table(
        f"Table {shared['table'][-1]}'s runs in summary, {shared['profile']} profile",
        ("", "Just learned", "ACC", "Forgetting", "Perplexity ratio", "Finished", "Seconds"),
        tuple(rows),
        (
            "Just learned: accuracy of each task right after its own stage. ACC: of all tasks at "
            "the end. Forgetting: best earlier less last, over the earlier tasks. Perplexity "
            "ratio: after over before. Means over tasks, then over seeds.",
        ),
    )


def provenance_table(records):
    """Which code, machine, data and model the records come from: one row per kind of value."""
    first = records[0]
    gathered = {
        "runs": {f"{len(records)}, {sum(r.seconds for r in records) / 3600:.2f} hours in all"},
        "commit": {str(r.provenance["commit"]) for r in records},
        "code changed since that commit": {str(r.provenance["dirty"]) for r in records},
        "machine": {
            f"{r.provenance['device']}, {r.provenance['threads']} threads" for r in records
        },
        "platform": {r.provenance["platform"] for r in records},
        "python": {r.provenance["python"] for r in records},
        **{k: {r.provenance["packages"][k] for r in records} for k in first.provenance["packages"]},
        "precision": {f"{r.spec['model']['name']}: {r.spec['precision']}" for r in records},
        "model": {f"{r.spec['model']['name']}: {_origin(r.sources['model'])}" for r in records},
        "data": {_origin(o) for r in records for o in r.sources["data"]},
        "model sha256": {f"{r.spec['model']['name']}: {r.model_sha256[:16]}" for r in records},
        "data sha256": {
            f"{r.spec['table']} {task} {part}: {digest[:16]}"
            for r in records
            for task, parts in r.data.items()
            for part, digest in parts.items()
        },
    }
    rows = tuple((key, "; ".join(sorted(values))) for key, values in gathered.items())
    return Table("Provenance of the records", ("", "Value"), rows, left=(0, 1))


def _origin(origin):
    """Where something came from, in words."""
    if origin["source"] == "embedded":
        return "embedded"
    revision = origin["revision"] or "not said"
    return f"{origin['repository']}, {origin['source']}, revision {revision}"
