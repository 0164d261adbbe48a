"""Records -> matplotlib figures, legible in print and to the colour-blind."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from .. import metrics
from . import fetch, paper, provenance
from .records import by_cell
from .specs import method_label
from .tables import MODEL_LABELS, TASKS, shared_spec, task_label

# Okabe and Ito's colours; the marker tells methods apart without them.
STYLES = {
    "head-only": {"color": "#777777", "marker": "s"},
    "lora": {"color": "#D55E00", "marker": "^"},
    "curlora": {"color": "#0072B2", "marker": "o"},
}
LINES = ("-", "--", ":", "-.")
FILLS = ("none", "left", "full", "top")  # of the marker, by rank
STAGES = tuple(TASKS.values())


def save(figure, stem, source):
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`; returns the two paths.

    source: the `provenance.Source`, said in both files' metadata too.
    """
    paths, said = [], source.text()
    png = {"dpi": 200, "metadata": {"Description": said}}
    pdf = {"metadata": {"CreationDate": None, "Subject": said}}
    for suffix, options in ((".png", png), (".pdf", pdf)):
        path = stem.with_name(stem.name + suffix)
        with fetch.aside(path) as part:
            figure.savefig(part, format=suffix[1:], bbox_inches="tight", **options)
        paths.append(path)
    provenance.keep(paths, source)
    return paths


def _cells(records, adapters=False):
    """The finished records by method and rank; adapters: those that have one only.

    ValueError if records of different profiles, tables, protocols or precisions are mixed.
    """
    shared_spec([record.spec for record in records])
    cells = by_cell([record for record in records if record.status == "finished"])
    return {cell: runs for cell, runs in cells.items() if not adapters or cell[1] is not None}


def _empty(what):
    """A figure that says why there is nothing to draw."""
    figure, (ax,) = new(1, width=4.6, height=1.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, what, ha="center", va="center", fontsize=9)
    return figure


def _style(method, rank, ranks):
    place = None if rank is None else sorted(set(ranks)).index(rank)
    line = "-" if place is None else LINES[place % len(LINES)]
    fill = "full" if place is None else FILLS[place % len(FILLS)]
    label = method_label(method, rank)
    return {**STYLES[method], "linestyle": line, "fillstyle": fill, "label": label}


def _title(figure, records):
    """Whose figure it is, so that it can stand alone."""
    spec = records[0].spec
    seeds = sorted({record.spec["seed"] for record in records})
    said = f"{MODEL_LABELS[spec['model']['name']]}, {spec['profile']} profile, "
    said += f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    figure.suptitle(said, fontsize=9)


def plain(axis, subs=(1, 2, 5)):
    """Ticks of a log axis at 1, 2 and 5 (or other `subs`), as plain numbers."""
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _plot(ax, x, values, style, shift=0.0, intervals=None):
    """A line of means over seeds, with a bar of one standard deviation where there are several.

    shift: moves the line sideways, so that equal values do not hide each other. intervals: (low,
    high) of each point, drawn where there is one seed only.
    """
    points = [metrics.mean_and_spread(v) for v in values]
    spread = [p[1] or 0 for p in points]
    if intervals and not any(spread):
        below = [max(0.0, p[0] - low) for p, (low, _) in zip(points, intervals, strict=True)]
        above = [max(0.0, high - p[0]) for p, (_, high) in zip(points, intervals, strict=True)]
        spread = [below, above]
    bars = {"yerr": spread, "capsize": 2, "elinewidth": 0.7} if np.any(spread) else {}
    shifted = [place + shift for place in x]
    ax.errorbar(shifted, [p[0] for p in points], markersize=5, linewidth=1.3, **bars, **style)


def _ranks(cells):
    return [rank for _, rank in cells if rank is not None]


def new(columns=1, width=None, height=2.8) -> tuple[Figure, list]:
    figure, axes = plt.subplots(
        1,
        columns,
        figsize=(width or 3.0 * columns + 1.6, height),
        squeeze=False,
        layout="constrained",
    )
    plt.close(figure)  # shown where it is returned, not twice
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", linewidth=0.4, alpha=0.6)
    return figure, list(axes[0])


def _stage_axis(ax, first, source):
    names = [task_label(task, source).replace("Sentiment140", "Sent.140") for task in TASKS]
    ax.set_xticks(range(first, len(STAGES)), names[first:])
    ax.set_xlim(first - 0.35, len(STAGES) - 0.65)
    ax.set_xlabel("after training on")


def accuracy(records):
    """Accuracy of every task over the stages, one panel a task, a line a method and rank.

    Bars: one standard deviation over seeds or, of a single run, Wilson's 95 % interval.
    """
    cells, source = _cells(records), records[0].spec["source"]
    if not cells:
        return _empty("no run finished")
    figure, axes = new(len(STAGES), width=9.4, height=3.3)
    for j, (ax, task) in enumerate(zip(axes, TASKS, strict=True)):
        stages = range(j, len(STAGES))
        width = 0.5 * (len(STAGES) - j) / len(STAGES)  # of the whole bundle of lines
        n, majority = _size_and_majority(cells, task)
        for k, ((method, rank), runs) in enumerate(cells.items()):
            values = [[run.accuracy(task, i + 1) for run in runs] for i in stages]
            intervals = [metrics.wilson_interval(v[0], n) for v in values]
            shift = width * (k / max(1, len(cells) - 1) - 0.5)
            _plot(ax, list(stages), values, _style(method, rank, _ranks(cells)), shift, intervals)
        dotted = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}
        ax.axhline(majority, label="majority class", **dotted)
        ax.set_title(f"{task_label(task, source)} (n = {n:,})", fontsize=10)
        ax.set_ylim(0, 1.02)
        _stage_axis(ax, j, source)
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    _title(figure, records)
    return figure


def _size_and_majority(cells, task):
    score = next(iter(cells.values()))[0].score(task, len(STAGES))
    return score["n"], score["majority"]


def perplexity(records):
    """Perplexity after the three tasks over perplexity before, a point a method and rank."""
    cells = _cells(records)
    if not cells:
        return _empty("no run finished")
    figure, (ax,) = new(1, width=4.6)
    labels = []
    for k, ((method, rank), runs) in enumerate(cells.items()):
        ratios = [r.final_perplexity() / r.initial_perplexity() for r in runs]
        _plot(ax, [k], [ratios], _style(method, rank, _ranks(cells)))
        mean = metrics.mean_and_spread(ratios)[0]
        ax.annotate(f"{mean:,.2f}" if mean < 100 else f"{mean:,.0f}", (k, mean), (0, 6),
                    textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
        labels.append(method_label(method, rank))
    ax.axhline(1, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(0.8, low), max(2.0, 1.4 * high))
    plain(ax.yaxis)
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel("perplexity, after / before (log)", fontsize=9)
    _title(figure, records)
    return figure


def parameters(records):
    """Trainable parameters of each adapter by rank, log axis; of the models that were run."""
    cells = _cells(records, adapters=True)
    if not cells:
        return _empty("no run with an adapter finished")
    figure, (ax,) = new(1, width=4.6)
    ranks = sorted(set(_ranks(cells)))
    for shift, method in ((-0.1, "lora"), (0.1, "curlora")):
        counts = {
            r: cells[method, r][0].trainable["adapter"] for r in ranks if (method, r) in cells
        }
        places = [ranks.index(r) + shift for r in counts]
        style = {**STYLES[method], "linestyle": "none", "label": method_label(method, None)}
        ax.plot(places, list(counts.values()), **style)
        for place, count in zip(places, counts.values(), strict=True):
            ax.annotate(f"{count:,}", (place, count), (0, 6), textcoords="offset points",
                        ha="center", fontsize=7)  # fmt: skip
    ax.set_yscale("log")
    ax.set_xticks(range(len(ranks)), [str(r) for r in ranks])
    ax.set_xlabel("rank")
    ax.set_ylabel("trainable parameters (log scale)")
    ax.margins(x=0.2, y=0.2)
    figure.legend(loc="outside right center", fontsize=8)
    _title(figure, records)
    return figure


def growth(records):
    """||W_adapted||_F / ||W||_F in percent after each stage, mean over projections. Source: §4."""
    cells = _cells(records, adapters=True)
    if not cells:
        return _empty("no run with an adapter finished")
    figure, (ax,) = new(1, width=5.2, height=3.2)
    for (method, rank), runs in cells.items():
        values = [[100 * _mean_norm(run, i) for run in runs] for i in range(len(STAGES))]
        _plot(ax, list(range(len(STAGES))), values, _style(method, rank, _ranks(cells)))
    _stage_axis(ax, 0, records[0].spec["source"])
    ax.set_yscale("log")
    plain(ax.yaxis)
    ax.set_ylabel("norm of the update / norm of W, %", fontsize=9)
    ax.set_title("CUR or AB, mean over the wrapped projections", fontsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    _title(figure, records)
    return figure


def _mean_norm(record, stage):
    norms = record.stages[stage]["norms"].values()
    return sum(norms) / len(norms)


def selection(probabilities):
    """How likely each column is drawn, columns by their norm: name -> (n,) tensor; Eq. 3 first."""
    figure, (ax,) = new(1, width=5.2)
    colours = ("#0072B2", "#D55E00", "#009E73", "#777777")
    order = next(iter(probabilities.values())).argsort()
    for (name, p), colour, line in zip(probabilities.items(), colours, LINES, strict=False):
        ax.plot(p[order] * len(p), color=colour, linestyle=line, label=name)
    ax.set_yscale("log")
    plain(ax.yaxis)
    ax.set_xlabel("column, from the smallest norm to the largest")
    ax.set_ylabel("probability × number of columns")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def training_loss(losses, held_out, title):
    """The loss of each step and, before and after, that of rows held out; in nats.

    losses: of every step, in order. held_out: (before, after).
    """
    figure, (ax,) = new(1, width=5.2)
    steps = range(1, len(losses) + 1)
    style = {"color": STYLES["curlora"]["color"], "linewidth": 1.3}
    ax.plot(steps, losses, label="training, each step", **style)
    held_style = {"color": STYLES["lora"]["color"], "marker": "D", "linestyle": "none"}
    ax.plot([0, len(losses)], held_out, label="held out, before and after", **held_style)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("cross-entropy, nats", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


ALL = {"accuracy": accuracy, "perplexity": perplexity, "parameters": parameters, "growth": growth}


def save_all(records, folder, source):
    """Every figure of one table into `folder` as `<table>_<figure>`; returns name -> Figure."""
    table = records[0].spec["table"]
    if table not in paper.MODELS:
        raise ValueError(f"table: got {table!r}, expected one of {', '.join(paper.MODELS)}")
    drawn = {name: draw(records) for name, draw in ALL.items()}
    for name, figure in drawn.items():
        save(figure, folder / f"{table}_{name}", source)
    return drawn
