"""The tidy frame -> matplotlib figures, legible in print and to the colour-blind."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from .. import metrics
from . import fetch, runs
from .tables import MODELS, TASKS, by_method, number, one_grid, task_label

# Okabe and Ito's colours; the marker tells methods apart without them.
STYLES = {
    "head-only": {"color": "#777777", "marker": "s"},
    "lora": {"color": "#D55E00", "marker": "^"},
    "curlora": {"color": "#0072B2", "marker": "o"},
    "lora-xs": {"color": "#009E73", "marker": "D"},
}
LINES = ("-", "--", ":", "-.")
FILLS = ("none", "left", "full", "top")  # of the marker, by rank
DOTTED = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}


def save(figure, stem):
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`; returns the figure."""
    for suffix, options in ((".png", {"dpi": 200}), (".pdf", {"metadata": {"CreationDate": None}})):
        with fetch.aside(Path(f"{stem}{suffix}")) as part:
            figure.savefig(part, bbox_inches="tight", **options)
    return figure


def new(columns=1, width=None, height=2.8) -> tuple[Figure, list]:
    """A figure and its panels, side by side; inches. It is shown where it is returned."""
    size = (width or 3.0 * columns + 1.6, height)
    figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False, layout="constrained")
    plt.close(figure)  # not twice
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", linewidth=0.4, alpha=0.6)
    return figure, list(axes[0])


def plain(axis, subs=(1, 2, 5)):
    """Ticks of a log axis at 1, 2 and 5 (or other `subs`), as plain numbers."""
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def accuracy(frame, table):
    """Accuracy of every task over the stages, one panel a task, a line a method and rank.

    Bars: one standard deviation over seeds or, of a single run, Wilson's 95 % interval.
    """
    rows, cells = _finished(frame, table)
    figure, axes = new(len(TASKS), width=9.4, height=3.3)
    for j, (ax, task) in enumerate(zip(axes, TASKS, strict=True), 1):
        half = 0.25 * (len(TASKS) - j + 1) / len(TASKS)  # of the width of the bundle of lines
        shifts = np.linspace(-half, half, len(cells))
        for shift, (style, cell) in zip(shifts, cells, strict=True):
            scored = cell[(cell.measure == "accuracy") & (cell.task == task)]
            _draw(ax, scored, style, shift, wilson=True)
        first = scored.iloc[0]
        ax.axhline(first.majority, label="majority class", **DOTTED)
        ax.set_title(f"{task_label(task, first.source)} (n = {first.n:,})", fontsize=10)
        ax.set_ylim(0, 1.02)
        _stages(ax, j, first.source)
    axes[0].set_ylabel("accuracy")
    return _finish(figure, rows, axes[0])


def perplexity(frame, table):
    """Perplexity after the three tasks over perplexity before, a point a method and rank."""
    rows, cells = _finished(frame, table)
    figure, (ax,) = new(width=4.6)
    for k, (style, cell) in enumerate(cells):
        found = runs.summary(cell).ratio
        _draw(ax, pd.DataFrame({"stage": k, "value": found, "n": 0}), style)
        ax.annotate(number(found.mean()), (k, found.mean()), (0, 6), ha="center",
                    textcoords="offset points", fontsize=7)  # fmt: skip
    ax.axhline(1, **DOTTED)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(0.8, low), max(2.0, 1.4 * high))
    plain(ax.yaxis)
    labels = [style["label"] for style, _ in cells]
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel("perplexity, after / before (log)", fontsize=9)
    return _finish(figure, rows)


def growth(frame, table):
    """||update||_F / ||W||_F in percent after each stage, mean over projections. Source: §4."""
    rows, cells = _finished(frame, table)
    figure, (ax,) = new(width=5.2, height=3.2)
    for style, cell in cells:
        norms = cell[cell.measure == "norm"]
        if len(norms):
            _draw(ax, norms.assign(value=100 * norms.value), style)
    _stages(ax, 1, rows.source.iloc[0])
    ax.set_yscale("log")
    plain(ax.yaxis)
    ax.set_ylabel("norm of the update / norm of W, %", fontsize=9)
    return _finish(figure, rows, ax)


def _finished(frame, table):
    """The finished runs of one table, and (style, rows) of each method and rank."""
    rows = one_grid(frame, table)
    rows = rows[rows.status == "finished"]
    if rows.empty:
        raise ValueError(f"frame: no run of {table} finished, expected at least one to draw")
    ranks, cells = sorted(rows["rank"].dropna().unique()), []
    for label, cell in by_method(rows):
        method, rank = cell.method.iloc[0], cell["rank"].iloc[0]
        place = ranks.index(rank) % 4 if method != "head-only" else None
        look = {} if place is None else {"linestyle": LINES[place], "fillstyle": FILLS[place]}
        cells.append((STYLES[method] | look | {"label": label}, cell))
    return rows, cells


def _draw(ax, rows, style, shift=0.0, wilson=False):
    """A line of means over seeds by stage, with bars of one standard deviation where several.

    shift: moves the line sideways, so that equal values do not hide each other. wilson: a single
    run has the bars of an accuracy.
    """
    stages = rows.groupby("stage")
    middle, sd = stages.value.mean(), stages.value.std()
    spread = [sd.fillna(0)] * 2
    if wilson and sd.isna().all():
        found = [metrics.wilson_interval(*p) for p in zip(middle, stages.n.first(), strict=True)]
        spread = [[i.mean - i.low for i in found], [i.high - i.mean for i in found]]
    bars = {"yerr": spread, "capsize": 2, "elinewidth": 0.7} if np.any(spread) else {}
    ax.errorbar(middle.index + shift, middle, markersize=5, linewidth=1.3, **bars, **style)


def _stages(ax, first, source):
    names = [task_label(task, source).replace("Sentiment140", "Sent.140") for task in TASKS]
    ax.set_xticks(range(first, len(names) + 1), names[first - 1 :])
    ax.set_xlim(first - 0.35, len(names) + 0.35)
    ax.set_xlabel("after training on")


def _finish(figure, rows, legend=None):
    """Whose figure it is, so that it can stand alone; a legend of what a panel holds."""
    first, seeds = rows.iloc[0], sorted(rows.seed.unique())
    said = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    figure.suptitle(f"{MODELS[first.model]}, {first.profile} profile, {said}", fontsize=9)
    if legend:
        figure.legend(*legend.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
