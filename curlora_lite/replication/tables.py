"""The tidy frame -> the paper's tables as text, written as Markdown, CSV and LaTeX."""

import math
from pathlib import Path

import pandas as pd

from .. import metrics
from ..adapters import add_adapters, count_trainable, remove_adapters
from ..configs import CURLoRAConfig, LoRAConfig
from . import fetch, models, paper, records, runs
from .specs import BASELINES, METHODS, method_label

MODELS = {"gpt2-large": "GPT-2 Large", "mistral-7b": "Mistral-7B-v0.3"}
MODELS |= {"smollm2-135m": "SmolLM2-135M-Instruct"}
MODELS |= {"smollm2-135m-fused": "SmolLM2-135M-Instruct with fused projections"}
TASKS = {"mrpc": "MRPC", "sst2": "SST-2", "sentiment140": "Sentiment140"}
# Scores that stand beside the published rows (see `inputs.examples`).
BESIDE = {runs.BALANCED: "↳ as many positive as negative rows"}
BESIDE |= {"sentiment140, three classes": "↳ held-out rows of three classes"}
PUBLISHED = "↳ published"
CONSTANT = 0.95  # from this share of one answer on, a score is marked as a constant answer's
SCORES = ("accuracy", "perplexity")
SHARED = ("profile", "model", "protocol", "learning_rate", "precision", "source")
RATIO = "Perplexity after/before"
MEASURES = {"ACC": "acc", "Just learned": "just_learned", "Forgetting": "forgetting"}
SUMMARY_NOTE = (
    "ACC: accuracy at the end. Just learned: right after its own stage. Forgetting: best earlier "
    "less last. Means over tasks, Sentiment140 by balanced rows if scored; perplexity's geometric."
)
MARKS = {"†": f"† of a run, at least {100 * CONSTANT:g} % of the answers are one class."}
MARKS |= {"‡": "‡ to two decimals the accuracy of one constant answer."}


def one_grid(frame, table):
    """The rows of a frame that belong to `table`, of runs that may stand side by side.

    ValueError if there are none, or if they differ in more than method, rank and seed.
    """
    rows = frame[frame.table == table]
    if rows.empty:
        raise ValueError(f"table: got {table!r}, expected one of {sorted(frame.table.unique())}")
    for column in SHARED:
        found = rows[column].unique().tolist()
        if len(found) > 1:
            said = f"frame: {column} is {found[0]!r} in one run and {found[1]!r} in another"
            raise ValueError(f"{said}; choose one: frame[frame.{column} == {found[0]!r}]")
    each = rows.drop_duplicates("run")
    twice = each[each.duplicated(["label", "seed"])]
    counts = rows[rows.measure.isin(SCORES)].groupby(["task", "stage"]).n.nunique()
    if len(twice) or (counts > 1).any():
        run = (each if twice.empty else twice).run.iloc[-1]
        said = f"frame: runs of several sizes, such as {run}; expected one a method, rank and seed"
        raise ValueError(f"{said}: take a grid's own with runs.of_grid")
    return rows


def by_method(rows):
    """(label, its rows) of a frame: head only first, then by rank, LoRA before CURLoRA."""
    order = [rows["rank"].fillna(0), rows.method.map([*METHODS, *BASELINES].index)]
    return [(cell.label.iloc[0], cell) for _, cell in rows.groupby(order)]


def results(frame, table):
    """One of the paper's two tables: its rows, what was published under each of ours.

    Columns: the number of rows or tokens, the majority class, head only, then LoRA and CURLoRA by
    rank. Means over seeds, ± the sample standard deviation where there are several; runs that did
    not finish are left out. A last row counts runs, where some did not or methods have different
    numbers of them. Seconds are means. ValueError: see `one_grid`.
    """
    rows = one_grid(frame, table)
    source, done, lines = rows.source.iloc[0], rows[rows.status == "finished"], []
    for place, (task, stage) in enumerate(paper.ROWS):
        label = "Perplexity after" if stage else "Perplexity before"
        if task:
            after = tuple(TASKS)[stage - 1]
            label = f"{task_label(task, source)} after {task_label(after, source)}"
        lines.append(_line(label, rows, done, task or "text", stage))
        lines += _published(rows, table, place)
        if task == "sentiment140":
            there = (beside for beside in BESIDE if (done.task == beside).any())
            lines += [_line(BESIDE[beside], rows, done, beside, stage) for beside in there]
    took = done.drop_duplicates("run").groupby("label").seconds.mean()
    lines.append({"": "Seconds of a run", **took.map("{:,.0f}".format)})
    each = ((name, cell.drop_duplicates("run").status) for name, cell in by_method(rows))
    finished = {name: f"{(status == 'finished').sum()} of {len(status)}" for name, status in each}
    if len(done) < len(rows) or len(set(finished.values())) > 1:
        lines.append({"": "Runs finished", **finished})
    return pd.DataFrame(lines).set_index("").rename_axis(None).fillna("")


def task_label(task, source):
    """`MRPC`, or `MRPC*` where other data stands in for it."""
    return TASKS[task] + ("" if source == "paper" else "*")


def _line(label, rows, done, task, stage):
    """One row of `results`: column -> text, of one task (or `text`) after one stage."""
    scores = done[(done.task == task) & (done.stage == stage) & done.measure.isin(SCORES)]
    line = {"": label, "n": "", "Majority": ""}
    if len(scores):
        line["n"] = f"{scores.n.iloc[0]:,}"
        line["Majority"] = "" if task == "text" else number(scores.majority.iloc[0])
    for column, _ in by_method(rows):
        mine = scores[scores.label == column]
        line[column] = mean(mine.value) + ("†" if (mine.answered >= CONSTANT).any() else "")
    return line


def _published(rows, table, place):
    """The same of what the paper published; n and the majority class are counted by us."""
    task, line = paper.ROWS[place][0], {}
    share = paper.MAJORITY.get(task, math.inf)
    for label, cell in by_method(rows):
        if values := paper.PUBLISHED[table].get((cell.method.iloc[0], cell["rank"].iloc[0])):
            # published scores have two decimals
            constant = min(abs(values[place] - c) for c in (share, 1 - share)) <= 0.005
            line[label] = number(values[place]) + ("‡" if constant else "")
    n = paper.EVAL_ROWS[task] if task else paper.SETTINGS[table]["text_tokens"]
    majority = number(share) if task else ""
    return [{"": PUBLISHED, "n": f"{n:,}", "Majority": majority, **line}] if line else []


def mean(values, middle=None):
    """`0.70`, or `0.70 ± 0.02` (sample standard deviation) of several values; – of none.

    middle: another mean than the arithmetic one.
    """
    spread = f" ± {number(values.std())}" if len(values) > 1 else ""
    return number(values.mean() if middle is None else middle) + spread if len(values) else "–"


def number(value):
    """Two decimals, fewer of large values."""
    text = f"{value:.3g}" if value >= 1e6 else f"{value:,.{0 if value >= 1000 else 2}f}"
    return text.replace("-0.00", "0.00").replace("inf", "∞")


def summary(frame, table):
    """What the runs of one table come to (see `runs.summary`): a row a method and rank."""
    rows = one_grid(frame, table)
    done, lines = runs.summary(rows), {}
    for label, _ in by_method(rows):
        mine = done[done.label == label]
        lines[label] = {name: mean(mine[column]) for name, column in MEASURES.items()}
        lines[label][RATIO] = mean(mine.ratio, math.exp(mine.nats.mean()))
    if len(done):
        share = runs.majority(rows[rows.run == done.run.iloc[0]])
        lines["Majority class"] = dict.fromkeys(("ACC", "Just learned"), number(share))
    return pd.DataFrame(lines).T.fillna("")


def parameters(table):
    """§4.5: trainable parameters on the shapes of the paper's model, beside the published counts.

    Counted on the meta device: adapters added, the parameters that receive gradients summed; heads
    not included. Source: §4.5 and the author's stored outputs.
    """
    name, lines = paper.MODELS[table], {}
    model, targets = models.meta_model(name)
    counts = {("full", None): count_trainable(model)}
    for rank in paper.RANKS:
        for method, config in (("lora", LoRAConfig), ("curlora", CURLoRAConfig)):
            add_adapters(model, config(rank=rank, target_modules=targets))
            counts[method, rank] = count_trainable(model)
            remove_adapters(model)
    for (method, rank), count in counts.items():
        label = "All weights" if method == "full" else method_label(method, rank)
        published, source = paper.PARAMETERS.get((name, method, rank), ("", ""))
        share = f"{count / counts['full', None]:.2g}"
        lines[label] = [f"{count:,}", share, f"{published:,}" if published else "", source]
    return pd.DataFrame(lines, index=["Counted", "Share of all", "Published", "Source"]).T


def sizes(spec):
    """Rows, rate, batch and lengths of a RunSpec beside the paper's."""
    theirs = paper.TRAIN_ROWS[spec.table] | paper.SETTINGS[spec.table]
    ours = {task.name: task.train_rows for task in spec.tasks}
    ours |= {name: getattr(spec, name) for name in paper.SETTINGS[spec.table]}
    rows = pd.DataFrame({spec.profile: ours, "paper": theirs}).map("{:,g}".format)
    return rows.rename(index={task.name: f"{task.name}, rows trained" for task in spec.tasks})


def notes(frame, table, again):
    """What stands in for what, seeds, commit and device; again: the command that makes it anew."""
    rows = one_grid(frame, table)
    first, theirs = rows.iloc[0], paper.MODELS[table]
    what = MODELS[first.model]
    what += "" if what == theirs else f" in place of {theirs}"
    data = "the paper's data" if first.source == "paper" else "other data (names with *)"
    seeds = rows.seed.sort_values().astype(str).unique()
    many = "mean ± sample standard deviation over runs of seeds" if len(seeds) > 1 else "seed"
    how = f"{first.precision}, protocol {first.protocol}; {many} {', '.join(seeds)}"
    devices, commits = rows.device.astype(str).unique(), rows.commit.map(records.short).unique()
    where = f"{', '.join(devices)} at commit {', '.join(commits)}"
    where = where.replace("commit release", "release")
    return [f"{what}, on {data}; {how}.", f"Computed on {where}. Again: `{again}`"]


def marks(frame, table):
    """What the marks in `results` mean, and what the choice of rows alone allows for."""
    rows, cells = one_grid(frame, table), results(frame, table).to_string()
    fewest = rows[rows.measure == "accuracy"].n.min()
    low, high = metrics.wilson_interval(0.7, fewest)[1:3]
    return [
        f"{PUBLISHED}: {paper.MODELS[table]} on the paper's data, one run each; its n and majority "
        "class are counted by us.",
        *(said for mark, said in MARKS.items() if mark in cells),
        f"95 % interval of an accuracy of 0.70 on {fewest:,} rows: {low:.2f} to {high:.2f}. "
        "Seconds: of one run, others beside it where cores allow.",
    ]


def command(target, profile, **chosen):
    """`make reproduce PROFILE=… RANKS=8,16`: what a user types for these choices."""
    own = {} if profile.removesuffix("-quick") == "embedded" else {"profile": profile}
    words = ["make", target]
    for name, value in (own | {"quick": profile.endswith("-quick")} | chosen).items():
        if value or type(value) is int:  # seed 0
            values = value if isinstance(value, (list, tuple)) else [1 if value is True else value]
            words.append(f"{name.upper()}={','.join(map(str, values))}")
    return " ".join(words)


def save(table, stem, caption, notes=()):
    """Write a DataFrame of text as `<stem>.md`, `.csv` and `.tex`; returns the Markdown."""
    said, csv = markdown(table, caption, notes), table.to_csv(lineterminator="\n")
    texts = {".md": said, ".csv": csv, ".tex": latex(table, caption, notes)}
    for suffix, text in texts.items():
        fetch.write(Path(f"{stem}{suffix}"), text)
    return said


def markdown(table, caption, notes=()):
    """GitHub Markdown: numbers on the right, the caption above, notes below."""
    align = ["left", *["right"] * table.shape[1]]
    body = table.to_markdown(disable_numparse=True, colalign=align)
    return "\n".join([f"**{caption}**", "", body, "", *(f"{note}  " for note in notes)]) + "\n"


_TEX = {c: f"\\{c}" for c in "&%_#{}$"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
_TEX |= {"†": r"$^\dagger$", "‡": r"$^\ddagger$", "±": r"$\pm$", "×": r"$\times$", "–": "--"}
_TEX |= {"↳": r"$\hookrightarrow$", "∞": r"$\infty$", "§": r"\S{}", "‖": r"$\|$", "≥": r"$\geq$"}
_TEX = str.maketrans(_TEX | {"`": ""})


def latex(table, caption, notes=()):
    """A `table` environment with booktabs rules, as wide as the page."""
    body = table.rename(index=_tex, columns=_tex).map(_tex)
    lines = ["% needs booktabs and graphicx", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{_tex(caption)}}}", r"\resizebox{\textwidth}{!}{%"]
    lines += [body.to_latex(column_format="l" + "r" * table.shape[1]).rstrip() + "}"]
    lines += [rf"\par\footnotesize {_tex(note)}" for note in notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _tex(text):
    return text.translate(_TEX)
